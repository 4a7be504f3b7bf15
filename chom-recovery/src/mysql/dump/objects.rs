//! Reads all definitions of a server.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{
        info::{Flavour, Version},
        json,
        objects::{
            Account, Column, Event, Objects, Plugin, Routine, Schema, Sequence, Setting, Table, TableData, Tablespace,
            Text, Trigger, View,
        },
        quote,
        server::Server,
        session::{Role, Row, Session, lossy, server_code},
        tables,
    },
};

/// Accounts that a server makes for itself.
const RESERVED: [&str; 4] = ["mysql.sys", "mysql.session", "mysql.infoschema", "mariadb.sys"];

/// Engines without rows of their own.
const NO_ROWS: [&str; 7] =
    ["MRG_MyISAM", "MRG_MYISAM", "BLACKHOLE", "FEDERATED", "CONNECT", "SPIDER", "PERFORMANCE_SCHEMA"];

/// Engines whose snapshot holds.
const VERSIONED: [&str; 4] = ["InnoDB", "TokuDB", "MyRocks", "ROCKSDB"];

/// What is passed over of a damaged server, so that the rest can be read.
#[derive(Debug, Default)]
pub(in crate::mysql) struct Tolerance {
    /// What is not asked for: the server ended when it was.
    pub(in crate::mysql) skipped: BTreeSet<String>,
    /// What could not be read, and why.
    pub(in crate::mysql) lost: Vec<(String, String)>,
    /// What is being read.
    pub(in crate::mysql) at: Option<String>,
}

/// Reads all definitions.
pub(in crate::mysql) async fn collect(server: &Server) -> Result<Objects> {
    collect_with(server, None).await
}

/// Reads the definitions that can be read.
///
/// # Errors
/// `Unreachable`: the server ended; `tolerance` says at what.
pub(in crate::mysql) async fn collect_readable(server: &Server, tolerance: &mut Tolerance) -> Result<Objects> {
    tolerance.lost.clear();
    tolerance.at = None;
    collect_with(server, Some(tolerance)).await
}

async fn collect_with(server: &Server, tolerance: Option<&mut Tolerance>) -> Result<Objects> {
    let mut session = server.session(Role::Read).await?;
    let info = server.info();
    let mut reader = Reader { session: &mut session, flavour: info.flavour, warnings: Vec::new(), tolerance };
    let schemas = reader.schemas().await?;
    let mut columns = reader.columns(info.version).await?;
    let names = reader.names().await?;
    let mut objects = Objects {
        format: 1,
        flavour: info.flavour,
        version: info.version,
        lower_case_table_names: info.lower_case_table_names,
        position: None,
        plugins: Vec::new(),
        tablespaces: Vec::new(),
        schemas,
        tables: Vec::new(),
        sequences: Vec::new(),
        views: Vec::new(),
        routines: Vec::new(),
        triggers: Vec::new(),
        events: Vec::new(),
        accounts: Vec::new(),
        warnings: Vec::new(),
    };
    for name in names {
        let what = format!("{}.{}", name.schema, name.table);
        if reader.skips(&what) {
            continue;
        }
        match name.kind.as_str() {
            "VIEW" | "SYSTEM VIEW" => {
                let view = reader.view(&name).await;
                objects.views.extend(reader.passed(view)?);
            }
            "SEQUENCE" => {
                let sequence = reader.sequence(&name).await;
                objects.sequences.extend(reader.passed(sequence)?);
            }
            "BASE TABLE" | "SYSTEM VERSIONED" => {
                let columns = columns.remove(&(name.schema.clone(), name.table.clone())).unwrap_or_default();
                let table = reader.table(name, columns, info.version).await;
                objects.tables.extend(reader.passed(table)?);
            }
            _ => {}
        }
    }
    if !reader.skips("routines") {
        let read = reader.routines().await;
        objects.routines = reader.passed(read)?.unwrap_or_default();
    }
    if !reader.skips("triggers") {
        let read = reader.triggers().await;
        objects.triggers = reader.passed(read)?.unwrap_or_default();
    }
    if !reader.skips("events") {
        let read = reader.events().await;
        objects.events = reader.passed(read)?.unwrap_or_default();
    }
    if !reader.skips("accounts") {
        let read = reader.accounts().await;
        objects.accounts = reader.passed(read)?.unwrap_or_default();
    }
    if !reader.skips("what belongs to the whole server") {
        let read = reader.of_instance().await;
        (objects.plugins, objects.tablespaces) = reader.passed(read)?.unwrap_or_default();
    }
    objects.warnings = std::mem::take(&mut reader.warnings);
    session.close().await;
    Ok(objects)
}

/// Reads accounts alone.
pub(in crate::mysql) async fn collect_accounts(server: &Server) -> Result<Vec<Account>> {
    let mut session = server.session(Role::Read).await?;
    let flavour = server.info().flavour;
    let mut reader = Reader { session: &mut session, flavour, warnings: Vec::new(), tolerance: None };
    let accounts = reader.accounts().await?;
    session.close().await;
    Ok(accounts)
}

/// Reads triggers alone, in the order in which they fire.
pub(in crate::mysql) async fn collect_triggers(server: &Server) -> Result<Vec<Trigger>> {
    let mut session = server.session(Role::Read).await?;
    let flavour = server.info().flavour;
    let mut reader = Reader { session: &mut session, flavour, warnings: Vec::new(), tolerance: None };
    let triggers = reader.triggers().await?;
    session.close().await;
    Ok(triggers)
}

struct Named {
    schema: String,
    table: String,
    kind: String,
    engine: Option<String>,
    auto_increment: Option<u64>,
    comment: String,
}

#[derive(Default)]
struct Columns {
    dumped: Vec<Column>,
    /// Columns that hold the begin and end of a row version.
    period: Vec<Column>,
}

pub(super) struct Reader<'a> {
    pub(super) session: &'a mut Session,
    pub(super) flavour: Flavour,
    pub(super) warnings: Vec<String>,
    tolerance: Option<&'a mut Tolerance>,
}

impl Reader<'_> {
    /// Tells whether something is passed over, and notes that it is read now where it is not.
    fn skips(&mut self, what: &str) -> bool {
        let Some(tolerance) = &mut self.tolerance else { return false };
        tolerance.at = Some(what.to_owned());
        let is_skipped = tolerance.skipped.contains(what);
        if is_skipped {
            tolerance.lost.push((what.to_owned(), "the server ends when it is read".into()));
        }
        is_skipped
    }

    /// Passes over what cannot be read, where that is wanted. A server that ended has nothing more to tell.
    fn passed<T>(&mut self, read: Result<T>) -> Result<Option<T>> {
        match (read, &mut self.tolerance) {
            (Err(e), Some(tolerance)) if !matches!(e.kind(), ErrorKind::Unreachable | ErrorKind::Timeout) => {
                tolerance.lost.push((tolerance.at.clone().unwrap_or_default(), e.to_string()));
                Ok(None)
            }
            (read, _) => read.map(Some),
        }
    }

    /// Reads plugins and general tablespaces, and warns of what is not kept.
    async fn of_instance(&mut self) -> Result<(Vec<Plugin>, Vec<Tablespace>)> {
        let (plugins, tablespaces) = (self.plugins().await?, self.tablespaces().await?);
        self.left_out().await?;
        Ok((plugins, tablespaces))
    }

    async fn schemas(&mut self) -> Result<Vec<Schema>> {
        let sql = format!(
            "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME NOT IN ({}) ORDER BY SCHEMA_NAME",
            quote::system_schemas()
        );
        let mut schemas = Vec::new();
        for row in self.session.rows(sql).await? {
            let name = row.text(0)?;
            // What a restore of single tables keeps beside is no part of production.
            if tables::is_own(&name) {
                continue;
            }
            let create =
                self.create(&format!("SHOW CREATE DATABASE {}", quote::ident(&name)), "Create Database").await?;
            schemas.push(Schema { name, create: create.1 });
        }
        Ok(schemas)
    }

    async fn names(&mut self) -> Result<Vec<Named>> {
        let sql = format!(
            "SELECT TABLE_SCHEMA, TABLE_NAME, TABLE_TYPE, ENGINE, AUTO_INCREMENT, TABLE_COMMENT \
             FROM information_schema.TABLES WHERE TABLE_SCHEMA NOT IN ({}) ORDER BY TABLE_SCHEMA, TABLE_NAME",
            quote::system_schemas()
        );
        let mut names = Vec::new();
        for row in self.session.rows(sql).await? {
            names.push(Named {
                schema: row.text(0)?,
                table: row.text(1)?,
                kind: row.text(2)?,
                engine: row.optional(3)?,
                auto_increment: row.number(4)?,
                comment: row.bytes(5).map(lossy).unwrap_or_default(),
            });
        }
        names.retain(|name| !tables::is_own(&name.schema));
        // The server orders by its own collation, which differs between versions.
        names.sort_by(|a, b| (&a.schema, &a.table).cmp(&(&b.schema, &b.table)));
        Ok(names)
    }

    /// Columns of all tables. Generated ones are told by their expression: the text in `EXTRA` also says
    /// `DEFAULT_GENERATED` of a column that is an ordinary one.
    async fn columns(&mut self, version: Version) -> Result<BTreeMap<(String, String), Columns>> {
        let sql = format!(
            "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, DATA_TYPE, GENERATION_EXPRESSION \
             FROM information_schema.COLUMNS WHERE TABLE_SCHEMA NOT IN ({}) \
             ORDER BY TABLE_SCHEMA, TABLE_NAME, ORDINAL_POSITION",
            quote::system_schemas()
        );
        let mut tables: BTreeMap<_, Columns> = BTreeMap::new();
        for row in self.session.rows(sql).await? {
            let entry = tables.entry((row.text(0)?, row.text(1)?)).or_default();
            let data_type = row.text(3)?.to_ascii_lowercase();
            let json_types = json::tells_types(self.flavour, version, &data_type);
            let column = Column { name: row.text(2)?, data_type, json_types };
            match row.bytes(4).unwrap_or_default() {
                b"" => entry.dumped.push(column),
                b"ROW START" | b"ROW END" => entry.period.push(column),
                _ => {}
            }
        }
        Ok(tables)
    }

    async fn table(&mut self, name: Named, columns: Columns, version: Version) -> Result<Table> {
        let shown = format!("{}.{}", name.schema, name.table);
        let Some(engine) = name.engine else {
            return Err(Error::new(ErrorKind::Corrupt, format!("table `{shown}` cannot be opened: {}", name.comment))
                .hint("restore it from a backup, or drop it, before the next backup"));
        };
        let sql = format!("SHOW CREATE TABLE {}", quote::qualified(&name.schema, &name.table));
        let create = self.create(&sql, "Create Table").await?.1;
        let create = self.table_options(&shown, create.bytes());
        let data = if NO_ROWS.contains(&engine.as_str()) {
            self.warnings
                .push(format!("table `{shown}` has no rows of its own ({engine}): only its definition is kept"));
            TableData::None
        } else if VERSIONED.contains(&engine.as_str()) {
            TableData::Snapshot
        } else {
            self.warnings.push(format!("table `{shown}` is not part of the snapshot: {engine} keeps no row versions"));
            TableData::Unversioned
        };
        let mut dumped = columns.dumped;
        let mut history = false;
        if name.kind == "SYSTEM VERSIONED" {
            let by_transaction = columns.period.iter().any(|c| c.data_type == "bigint");
            if version >= Version(10, 11, 0) && !by_transaction {
                history = true;
                let hidden = ["row_start", "row_end"].map(|n| Column {
                    name: n.into(),
                    data_type: "timestamp".into(),
                    json_types: false,
                });
                dumped.extend(if columns.period.is_empty() { hidden.to_vec() } else { columns.period });
            } else {
                self.warnings
                    .push(format!("old row versions of table `{shown}` are not kept: this server cannot load them"));
            }
        }
        Ok(Table {
            schema: name.schema,
            name: name.table,
            engine,
            create,
            columns: dumped,
            auto_increment: name.auto_increment,
            history,
            data,
        })
    }

    async fn sequence(&mut self, name: &Named) -> Result<Sequence> {
        let qualified = quote::qualified(&name.schema, &name.table);
        let create = self.create(&format!("SHOW CREATE SEQUENCE {qualified}"), "Create Table").await?.1;
        let state = self.session.row(format!("SELECT next_not_cached_value, cycle_count FROM {qualified}")).await?;
        let state =
            state.ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("sequence {qualified} has no state")))?;
        Ok(Sequence {
            schema: name.schema.clone(),
            name: name.table.clone(),
            create,
            next: state.text(0)?,
            cycles: state.number(1)?.unwrap_or_default(),
        })
    }

    async fn view(&mut self, name: &Named) -> Result<View> {
        // Relative to its schema, so that names inside it stay short and true.
        self.session.run(format!("USE {}", quote::ident(&name.schema))).await?;
        let sql = format!("SHOW CREATE VIEW {}", quote::ident(&name.table));
        let (row, create) = self.create(&sql, "Create View").await?;
        Ok(View { schema: name.schema.clone(), name: name.table.clone(), create, setting: setting(&row)? })
    }

    async fn routines(&mut self) -> Result<Vec<Routine>> {
        let sql = format!(
            "SELECT ROUTINE_TYPE, ROUTINE_SCHEMA, ROUTINE_NAME FROM information_schema.ROUTINES \
             WHERE ROUTINE_SCHEMA NOT IN ({})",
            quote::system_schemas()
        );
        let mut routines = Vec::new();
        for row in self.session.rows(sql).await? {
            let (kind, schema, name) = (row.text(0)?, row.text(1)?, row.text(2)?);
            let sql = format!("SHOW CREATE {kind} {}", quote::qualified(&schema, &name));
            let column = match kind.as_str() {
                "FUNCTION" => "Create Function",
                "PROCEDURE" => "Create Procedure",
                "PACKAGE" => "Create Package",
                _ => "Create Package Body",
            };
            let (row, create) = self.create(&sql, column).await?;
            routines.push(Routine { kind, schema, name, create, setting: setting(&row)? });
        }
        // A package comes before its body.
        routines.sort_by(|a, b| (&a.schema, &a.kind, &a.name).cmp(&(&b.schema, &b.kind, &b.name)));
        Ok(routines)
    }

    async fn triggers(&mut self) -> Result<Vec<Trigger>> {
        let sql = format!(
            "SELECT TRIGGER_SCHEMA, TRIGGER_NAME, EVENT_OBJECT_TABLE, ACTION_TIMING, EVENT_MANIPULATION, ACTION_ORDER \
             FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA NOT IN ({})",
            quote::system_schemas()
        );
        let mut found = Vec::new();
        for row in self.session.rows(sql).await? {
            let (schema, name, table) = (row.text(0)?, row.text(1)?, row.text(2)?);
            let moment = format!("{} {}", row.text(3)?, row.text(4)?);
            let order = row.number(5)?.unwrap_or_default();
            let sql = format!("SHOW CREATE TRIGGER {}", quote::qualified(&schema, &name));
            let (row, create) = self.create(&sql, "SQL Original Statement").await?;
            let setting = setting(&row)?;
            found.push((order, Trigger { schema, name, table, moment, create, setting }));
        }
        found.sort_by(|(a_order, a), (b_order, b)| {
            (&a.schema, &a.table, &a.moment, a_order).cmp(&(&b.schema, &b.table, &b.moment, b_order))
        });
        Ok(found.into_iter().map(|(_, t)| t).collect())
    }

    async fn events(&mut self) -> Result<Vec<Event>> {
        let sql = format!(
            "SELECT EVENT_SCHEMA, EVENT_NAME, UNIX_TIMESTAMP(CREATED), {}, {}, {} FROM information_schema.EVENTS \
             WHERE EVENT_SCHEMA NOT IN ({})",
            in_utc("EXECUTE_AT"),
            in_utc("STARTS"),
            in_utc("ENDS"),
            quote::system_schemas()
        );
        let mut events = Vec::new();
        for row in self.session.rows(sql).await? {
            let (schema, name) = (row.text(0)?, row.text(1)?);
            let created = row.number(2)?.unwrap_or_default();
            let moments = [seconds(&row, 3)?, seconds(&row, 4)?, seconds(&row, 5)?];
            let sql = format!("SHOW CREATE EVENT {}", quote::qualified(&schema, &name));
            let (row, create) = self.create(&sql, "Create Event").await?;
            events.push(Event { schema, name, create, setting: setting(&row)?, created, moments });
        }
        events.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
        Ok(events)
    }

    async fn accounts(&mut self) -> Result<Vec<Account>> {
        let sql = match self.flavour {
            Flavour::Mysql => "SELECT User, Host, 'N' FROM mysql.user",
            Flavour::Mariadb => "SELECT User, Host, JSON_VALUE(Priv, '$.is_role') FROM mysql.global_priv",
        };
        let mut accounts = Vec::new();
        for row in self.session.rows(sql).await? {
            let (user, host) = (row.text(0)?, row.text(1)?);
            let role = matches!(row.text(2)?.as_str(), "1" | "true");
            if RESERVED.contains(&user.as_str()) {
                continue;
            }
            // PUBLIC is there without being made.
            let public = role || (host.is_empty() && user == "PUBLIC");
            accounts.push(self.account(user, host, public).await?);
        }
        accounts.sort_by(|a, b| (&a.user, &a.host).cmp(&(&b.user, &b.host)));
        Ok(accounts)
    }

    async fn account(&mut self, user: String, host: String, role: bool) -> Result<Account> {
        let quoted = if role { quote::ident(&user) } else { quote::account(&user, &host) };
        let shown = if role && user == "PUBLIC" { "PUBLIC".to_owned() } else { quoted.clone() };
        let mut grants = Vec::new();
        for row in self.session.rows(format!("SHOW GRANTS FOR {shown}")).await? {
            grants.push(Text::new(row.bytes(0).unwrap_or_default()));
        }
        let mut create = None;
        let mut default_roles = Vec::new();
        if !role {
            let row = self.session.row(format!("SHOW CREATE USER {quoted}")).await?;
            let statement = row.as_ref().and_then(|r| r.bytes(0)).unwrap_or_default();
            create = Some(Text::new(without_default_role(statement)));
            if self.flavour == Flavour::Mysql {
                let sql = format!(
                    "SELECT DEFAULT_ROLE_USER, DEFAULT_ROLE_HOST FROM mysql.default_roles WHERE USER = {} AND HOST = {} \
                     ORDER BY 1, 2",
                    quote::text(&user),
                    quote::text(&host)
                );
                for row in self.session.rows(sql).await? {
                    default_roles.push((row.text(0)?, row.text(1)?));
                }
            }
        }
        Ok(Account { user, host, role, create, grants, default_roles })
    }

    /// Runs a `SHOW CREATE` and returns its row and the statement in it.
    async fn create(&mut self, sql: &str, column: &str) -> Result<(Row, Text)> {
        let row = self.session.row(sql).await.map_err(|e| match server_code(&e) {
            Some(1449) => e.hint("its definer does not exist: make that account or change the definer"),
            _ => e,
        })?;
        let row = row.ok_or_else(|| Error::new(ErrorKind::Failed, format!("`{sql}` gave no answer")))?;
        let statement = row.column(column).and_then(|i| row.bytes(i)).map(Text::new).ok_or_else(|| {
            Error::new(ErrorKind::Precondition, format!("`{sql}` does not show the statement"))
                .hint("the account lacks a privilege: SHOW_ROUTINE or SELECT on everything, or use root")
        })?;
        Ok((row, statement))
    }
}

/// Writes the expression that gives a time of an event as seconds since 1970 in UTC.
fn in_utc(column: &str) -> String {
    format!("TIMESTAMPDIFF(SECOND, '1970-01-01', CONVERT_TZ({column}, TIME_ZONE, '+00:00'))")
}

fn seconds(row: &Row, index: usize) -> Result<Option<i64>> {
    Ok(row.optional(index)?.and_then(|s| s.parse().ok()))
}

fn setting(row: &Row) -> Result<Setting> {
    let optional = |name: &str| row.column(name).map(|i| row.text(i)).transpose();
    Ok(Setting {
        sql_mode: optional("sql_mode")?,
        character_set_client: row.named("character_set_client")?,
        collation_connection: row.named("collation_connection")?,
        database_collation: optional("Database Collation")?,
        time_zone: optional("time_zone")?,
    })
}

/// Drops the clause ` DEFAULT ROLE <accounts>` of a `CREATE USER`: the roles are granted only later. The clause ends
/// where the next one, ` REQUIRE`, begins; both are looked for outside quotes.
fn without_default_role(statement: &[u8]) -> Vec<u8> {
    let Some(begin) = quote::find(statement, b" DEFAULT ROLE ", 0) else { return statement.to_vec() };
    let end = quote::find(statement, b" REQUIRE ", begin).unwrap_or(statement.len());
    [&statement[..begin], &statement[end..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_role_clause_goes_and_nothing_else() {
        let statement = b"CREATE USER `a`@`%` IDENTIFIED WITH 'x' AS ' DEFAULT ROLE ' DEFAULT ROLE `r REQUIRE `@`%`,`s`@`%` REQUIRE NONE ACCOUNT UNLOCK";
        let text = String::from_utf8(without_default_role(statement)).unwrap();
        assert_eq!(text, "CREATE USER `a`@`%` IDENTIFIED WITH 'x' AS ' DEFAULT ROLE ' REQUIRE NONE ACCOUNT UNLOCK");
        assert_eq!(without_default_role(b"CREATE USER `a`@`%` REQUIRE NONE"), b"CREATE USER `a`@`%` REQUIRE NONE");
    }
}
