//! A schema with every kind of table, on a running stack with a repository of its own.

use std::{path::PathBuf, sync::Arc};

use chom_recovery::{
    Error, Recovery, Result, System,
    catalog::{BackupInfo, Encryption, Selector},
    mysql::tables::TableName,
    procedure::{
        Recovered,
        database::ops::BackUp,
        tables::{Request, RestoreTables},
    },
    recovery::{Going, Report, RunOptions},
    run::{AlwaysYes, RunId},
};
use chom_recovery_tests::{Stack, chaos, dumps::Dumps, sql::Sql};

pub(crate) const SCHEMA: &str = "shelf";
/// Whether the server takes rows from clients.
pub(crate) const LOCAL_INFILE: &str = "SELECT IF(@@global.local_infile, '1', '0')";

/// Tables of the schema that every server has, in an order in which they can be made.
const TABLES: &[&str] = &[
    "CREATE TABLE shelf.author (id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, name VARCHAR(80) NOT NULL, \
     born DATE, initial CHAR(1) GENERATED ALWAYS AS (LEFT(name, 1)) STORED, doc JSON, photo BLOB, \
     KEY by_initial (initial), CONSTRAINT named CHECK (name <> ''))",
    "CREATE TABLE shelf.book (id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, author INT UNSIGNED, \
     sequel INT UNSIGNED, title VARCHAR(80), loans INT NOT NULL DEFAULT 0, \
     CONSTRAINT written_by FOREIGN KEY (author) REFERENCES author (id) ON DELETE SET NULL ON UPDATE CASCADE, \
     CONSTRAINT after_it FOREIGN KEY (sequel) REFERENCES book (id))",
    "CREATE TABLE shelf.loan (id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, book INT UNSIGNED NOT NULL, \
     FOREIGN KEY (book) REFERENCES book (id) ON DELETE CASCADE)",
    "CREATE TABLE shelf.seen (book INT UNSIGNED, what VARCHAR(40))",
    "CREATE TABLE shelf.yearly (id INT NOT NULL, at DATE NOT NULL, PRIMARY KEY (id, at)) \
     PARTITION BY RANGE (YEAR(at)) (PARTITION old VALUES LESS THAN (2020), PARTITION rest VALUES LESS THAN MAXVALUE)",
    "CREATE VIEW shelf.titles AS SELECT b.title, a.name FROM shelf.book b LEFT JOIN shelf.author a ON a.id = b.author",
    "CREATE TRIGGER shelf.trim_title BEFORE INSERT ON shelf.book FOR EACH ROW SET NEW.title = TRIM(NEW.title)",
    "CREATE TRIGGER shelf.note_book AFTER INSERT ON shelf.book FOR EACH ROW \
     INSERT INTO shelf.seen VALUES (NEW.id, CONCAT('new ', NEW.title))",
    "CREATE TRIGGER shelf.note_again AFTER INSERT ON shelf.book FOR EACH ROW \
     INSERT INTO shelf.seen VALUES (NEW.id, 'again')",
    "INSERT INTO shelf.author (name, born, doc, photo) VALUES ('Ada', '1815-12-10', '{\"a\": [1, 2.50, \"x\"]}', x'00ff0a09'), \
     ('Grace', NULL, NULL, NULL), ('Émilie', '1706-12-17', '[]', x'5c6e')",
    "INSERT INTO shelf.book (author, title) VALUES (1, ' Notes '), (2, 'Compilers'), (3, 'Fire')",
    "UPDATE shelf.book SET sequel = 1 WHERE id = 2",
    "INSERT INTO shelf.loan (book) VALUES (1), (1), (3)",
    "INSERT INTO shelf.yearly VALUES (1, '2010-01-01'), (2, '2025-05-05')",
];

/// What MariaDB has besides.
const VERSIONED: &[&str] = &[
    "CREATE TABLE shelf.price (id INT NOT NULL PRIMARY KEY AUTO_INCREMENT, cents INT) WITH SYSTEM VERSIONING",
    "INSERT INTO shelf.price (cents) VALUES (100), (200)",
    "UPDATE shelf.price SET cents = 150 WHERE id = 1",
];

/// What happens to the tables after the backup.
pub(crate) const DAMAGE: &[&str] = &[
    "INSERT INTO shelf.author (name) VALUES ('Mary')",
    "UPDATE shelf.author SET name = 'Nobody', doc = NULL WHERE id = 1",
    "INSERT INTO shelf.book (author, title) VALUES (4, 'Frankenstein')",
    "UPDATE shelf.book SET title = 'lost' WHERE id < 3",
    "INSERT INTO shelf.loan (book) VALUES (4)",
    "DELETE FROM shelf.yearly",
];

pub(crate) struct Bench {
    pub(crate) stack: Stack,
    pub(crate) system: System,
    pub(crate) recovery: Recovery,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) dumps: Dumps,
}

impl Bench {
    /// Opens the stack, with the schema made anew.
    pub(crate) async fn open(test: &'static str) -> Option<Self> {
        let stack = Stack::open(test)?;
        chaos::mend(&stack);
        let folder = tempfile::tempdir().unwrap();
        let mut system = stack.system(folder.path());
        let dumps = Dumps::new(folder.path());
        system.legacy = Some(dumps.settings());
        let made = Recovery::create_repository(&system, Encryption::None).await.unwrap();
        system.repository.signers = vec![made.signer.to_string()];
        let recovery = Recovery::open(system.clone()).await.unwrap();
        let bench = Self { stack, system, recovery, folder, dumps };
        bench.clear().await;
        bench.make().await;
        Some(bench)
    }

    /// Makes the schema.
    pub(crate) async fn make(&self) {
        self.run(&["CREATE DATABASE shelf"]).await;
        self.run(TABLES).await;
        if self.is_mariadb() {
            self.run(VERSIONED).await;
        }
    }

    pub(crate) fn is_mariadb(&self) -> bool {
        self.stack.db.starts_with("mariadb")
    }

    /// Drops the schema and what runs kept of it.
    pub(crate) async fn clear(&self) {
        let mut sql = self.sql().await;
        sql.run("SET foreign_key_checks = 0").await;
        for schema in self.own_schemas().await.iter().map(String::as_str).chain([SCHEMA]) {
            sql.run(&format!("DROP DATABASE IF EXISTS `{schema}`")).await;
        }
    }

    /// Schemas that runs made.
    pub(crate) async fn own_schemas(&self) -> Vec<String> {
        let names = self
            .text(
                "SELECT COALESCE(GROUP_CONCAT(SCHEMA_NAME ORDER BY SCHEMA_NAME), '') FROM information_schema.SCHEMATA \
                 WHERE SCHEMA_NAME LIKE 'chom\\_%' AND SCHEMA_NAME <> 'chom'",
            )
            .await;
        names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }

    pub(crate) async fn sql(&self) -> Sql {
        Sql::open(&self.stack, self.recovery.backend()).await
    }

    pub(crate) async fn run(&self, statements: &[&str]) {
        let mut sql = self.sql().await;
        for statement in statements {
            sql.run(statement).await;
        }
    }

    pub(crate) async fn text(&self, query: &str) -> String {
        self.sql().await.text(query).await
    }

    pub(crate) async fn back_up(&self) -> BackupInfo {
        let request = BackUp { components: vec!["database".into()], ..BackUp::default() };
        let going = self.recovery.back_up(request, RunOptions::default()).await.unwrap();
        match going.finish().await.unwrap() {
            Report::BackUp(info) => *info,
            other => panic!("{other:?}"),
        }
    }

    /// Describes everything of the schema: definitions, rows, triggers in their order, foreign keys as the server sees
    /// them.
    pub(crate) async fn state(&self) -> Vec<String> {
        self.state_of(&["author", "book", "loan", "yearly"]).await
    }

    pub(crate) async fn state_of(&self, tables: &[&str]) -> Vec<String> {
        let mut sql = self.sql().await;
        sql.run("SET SESSION group_concat_max_len = 1000000").await;
        let mut seen = Vec::new();
        let versioned = if self.is_mariadb() { &["price"][..] } else { &[] };
        for table in tables.iter().chain(versioned) {
            let there = format!(
                "SELECT CAST(COUNT(*) AS CHAR) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'shelf' AND TABLE_NAME = '{table}'"
            );
            if sql.text(&there).await == "0" {
                seen.push(format!("{table}: gone"));
                continue;
            }
            let create = sql.second(&format!("SHOW CREATE TABLE shelf.{table}")).await;
            seen.push(without_counter(&create));
            let all = if *table == "price" { " FOR SYSTEM_TIME ALL" } else { "" };
            let columns = sql
                .text(&format!(
                    "SELECT GROUP_CONCAT(CONCAT('COALESCE(HEX(`', COLUMN_NAME, '`), ''-'')') ORDER BY ORDINAL_POSITION) \
                     FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = 'shelf' AND TABLE_NAME = '{table}'"
                ))
                .await;
            let rows = format!(
                "SELECT COALESCE(GROUP_CONCAT(line ORDER BY line SEPARATOR ' | '), 'none') FROM \
                 (SELECT CONCAT_WS(',', {columns}) AS line FROM shelf.{table}{all}) r"
            );
            seen.push(format!("{table}: {}", sql.text(&rows).await));
        }
        let triggers = "SELECT COALESCE(GROUP_CONCAT(CONCAT_WS(' ', TRIGGER_NAME, ACTION_TIMING, EVENT_MANIPULATION, \
            EVENT_OBJECT_TABLE, ACTION_ORDER, ACTION_STATEMENT, SQL_MODE, DEFINER) ORDER BY TRIGGER_NAME), 'none') \
            FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = 'shelf'";
        seen.push(sql.text(triggers).await);
        let keys = "SELECT COALESCE(GROUP_CONCAT(CONCAT_WS(' ', TABLE_NAME, CONSTRAINT_NAME, COLUMN_NAME, \
            REFERENCED_TABLE_SCHEMA, REFERENCED_TABLE_NAME) ORDER BY TABLE_NAME, CONSTRAINT_NAME), 'none') \
            FROM information_schema.KEY_COLUMN_USAGE WHERE TABLE_SCHEMA = 'shelf' AND REFERENCED_TABLE_NAME IS NOT NULL";
        seen.push(sql.text(keys).await);
        seen
    }

    /// Starts a restore that everybody says yes to.
    pub(crate) async fn start(&self, request: Request) -> Result<Going> {
        self.recovery.recover(RestoreTables, request, yes()).await
    }

    pub(crate) async fn restore(&self, request: Request) -> Recovered {
        recovered(self.start(request).await.unwrap().finish().await)
    }

    /// A restore that has to fail; nothing of it is left after it was undone.
    pub(crate) async fn refused(&self, request: Request) -> Error {
        let going = match self.start(request).await {
            Ok(going) => going,
            Err(error) => return error,
        };
        let run = going.id();
        let error = going.finish().await.expect_err("the restore is refused");
        println!("refused: {error} | hint: {}", error.hint_text().unwrap_or("none"));
        self.roll_back(run).await;
        assert_eq!(self.own_schemas().await, [""; 0], "nothing is left");
        error
    }

    pub(crate) async fn roll_back(&self, run: RunId) {
        self.recovery.roll_back(run, "the test wants it", RunOptions::default()).await.unwrap();
    }

    pub(crate) async fn roll_back_newest(&self) {
        let runs = self.recovery.runs().unwrap().0;
        let run = runs.iter().rfind(|run| run.procedure == chom_recovery::procedure::tables::PROCEDURE).expect("a run");
        self.roll_back(run.run).await;
    }

    /// Files of the repository that hold the rows of a table.
    pub(crate) async fn parts_of(&self, backup: &BackupInfo, table: &str) -> Vec<PathBuf> {
        let parts = self.recovery.parts().await.unwrap();
        let reader = parts.catalog.open(&backup.place).await.unwrap();
        let (component, stored) =
            (reader.component("database").await.unwrap(), reader.stored_component("database").await.unwrap());
        let of_table = component.parts().iter().filter(|p| p.meta.table.as_deref() == Some(table));
        let stored_of = |index| stored.parts().iter().find(|p| p.index == index).expect("a stored part");
        of_table
            .map(|part| self.folder.path().join("backups").join(stored.key(stored_of(part.index)).to_string()))
            .collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the schema `{SCHEMA}` is left for a look");
        }
    }
}

pub(crate) fn request(tables: &[&str]) -> Request {
    Request {
        backup: Selector::Latest,
        tables: tables.iter().map(|name| TableName::new(SCHEMA, *name)).collect(),
        schemas: Vec::new(),
        rename: None,
        allow_local_infile: true,
    }
}

pub(crate) fn yes() -> RunOptions {
    RunOptions { approver: Arc::new(AlwaysYes { by: "test".into() }), ..RunOptions::default() }
}

pub(crate) fn recovered(report: Result<Report>) -> Recovered {
    match report.unwrap() {
        Report::Recovered(report) => *report,
        other => panic!("{other:?}"),
    }
}

fn without_counter(create: &str) -> String {
    let mut lines: Vec<String> = create
        .lines()
        .map(|line| match line.split_once(" AUTO_INCREMENT=") {
            Some((before, after)) => {
                format!("{before}{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
            }
            None => line.trim_end_matches(',').to_owned(),
        })
        .collect();
    // Servers show foreign keys in the order in which they were made.
    lines.sort();
    lines.join("\n")
}
