//! Writes a dump as a text that `mysql` and `mariadb`, and this library, read.
//!
//! The text makes schemas, tables and rows, then routines, views, triggers and events, each under the settings under which
//! it was made. It removes nothing: on a server that has such a table already it ends at once. Values are written so that
//! the server stores the bytes that were dumped; see [`cells`].

use std::{fmt::Write as _, io::Write as _};

use chrono::{DateTime, Utc};

use super::super::{
    info::Flavour,
    json::{self, HELPERS},
    objects::{Account, Objects, Schema, Setting, Table, TableData, Text},
    quote,
};
use crate::error::{Error, ErrorKind, Result};

mod cells;
mod views;

use cells::{Cells, comment};

/// Bytes of rows after which the next INSERT begins. A client takes 16 MiB, a server 64 MiB by default.
const INSERT: usize = 1 << 20;
/// Mode in which rows are loaded: 0 is an id like any other, and dates that MySQL once took are taken again.
const MODE: &str = "NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES";
/// Ends of statements, of which one stands in no routine.
const DELIMITERS: [&str; 5] = [";;", "$$", "//", "@@@@", "<chom-end>"];

/// Writes one dump. The text gathers in [`Writer::text`], which is to be emptied now and then.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    objects: &'a Objects,
    text: Vec<u8>,
    table: Option<(&'a Table, Cells)>,
    /// Bytes of the INSERT that is open.
    open: Option<usize>,
    has_helpers: bool,
    warnings: Vec<String>,
}

impl<'a> Writer<'a> {
    /// Begins with settings, schemas and sequences.
    pub(crate) fn begin(objects: &'a Objects, source: &str, point: DateTime<Utc>) -> Self {
        let mut writer =
            Self { objects, text: Vec::new(), table: None, open: None, has_helpers: false, warnings: Vec::new() };
        let family = if objects.flavour == Flavour::Mariadb { "-MariaDB" } else { "" };
        let position = objects.position.as_ref().map(|p| format!("\nBinary log position: {p}")).unwrap_or_default();
        comment(
            &format!(
                "chom-recovery dump of {}\n\nData of {}\nLoad it with --binary-mode into a server without these \
                 schemas.{position}\n------------------------------------------------------\nServer version\t{}{family}",
                source,
                point.format("%F %T UTC"),
                objects.version
            ),
            &mut writer.text,
        );
        writer.settings();
        for plugin in &objects.plugins {
            comment(&format!("The source had this plugin: {}", plugin.create.lossy()), &mut writer.text);
        }
        for tablespace in &objects.tablespaces {
            writer.statement(tablespace.create.bytes());
        }
        for schema in &objects.schemas {
            writer.schema(schema);
        }
        for s in &objects.sequences {
            writer.line(&format!("USE {};", quote::ident(&s.schema)));
            writer.statement(s.create.bytes());
            writer.line(&format!("DO SETVAL({}, {}, 0, {});", quote::ident(&s.name), s.next, s.cycles));
        }
        writer
    }

    /// Takes the text so far.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.text)
    }

    /// Returns the length of the text so far.
    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    /// Begins a table; its rows follow.
    pub(crate) fn table(&mut self, table: &'a Table) {
        self.end_insert();
        self.line(&format!("\nUSE {};", quote::ident(&table.schema)));
        self.statement(table.create.bytes());
        self.table = Some((table, Cells::of(table)));
        if table.data == TableData::None {
            self.warnings.push(format!("table `{}.{}` has no rows of its own", table.schema, table.name));
        }
    }

    /// Writes a row of that table, as it is encoded in a dump, without its line feed.
    pub(crate) fn row(&mut self, row: &[u8]) -> Result<()> {
        let Some((table, cells)) = &self.table else { return Ok(()) };
        let mut values = Vec::with_capacity(row.len() + row.len() / 4);
        let needs_function = cells.row(row, &mut values)?;
        let table = *table;
        if needs_function && !self.has_helpers {
            self.end_insert();
            self.helpers();
            self.line(&format!("USE {};", quote::ident(&table.schema)));
        }
        match self.open {
            Some(_) => self.text.extend_from_slice(b",\n"),
            None => {
                let columns = table.columns.iter().map(|c| quote::ident(&c.name)).collect::<Vec<_>>().join(",");
                self.line(&format!("INSERT INTO {} ({columns}) VALUES", quote::ident(&table.name)));
            }
        }
        self.text.extend_from_slice(&values);
        let bytes = self.open.unwrap_or_default() + values.len();
        self.open = Some(bytes);
        if bytes >= INSERT {
            self.end_insert();
        }
        Ok(())
    }

    /// Ends with what could act on rows, and the sign that the text is whole. Returns what could not be written.
    pub(crate) fn finish(&mut self, with_accounts: bool, now: DateTime<Utc>) -> Result<Vec<String>> {
        self.end_insert();
        let objects = self.objects;
        if self.has_helpers {
            self.line(&format!("\nDROP DATABASE IF EXISTS {};", quote::ident(HELPERS)));
        }
        for r in &objects.routines {
            self.stored(&r.schema, &r.create, &r.setting, None)
                .map_err(|e| e.during(format!("{} `{}.{}`", r.kind.to_lowercase(), r.schema, r.name)))?;
        }
        let (ready, invalid) = views::ordered(objects);
        for v in ready {
            self.stored(&v.schema, &v.create, &v.setting, None)?;
        }
        for v in invalid {
            let warning = format!("view `{}.{}` names what the backup does not hold", v.schema, v.name);
            comment(&format!("{warning}:\n{}", v.create.lossy()), &mut self.text);
            self.warnings.push(format!("{warning}: it is written as a comment"));
        }
        for t in &objects.triggers {
            self.stored(&t.schema, &t.create, &t.setting, None)?;
        }
        for e in &objects.events {
            self.stored(&e.schema, &e.create, &e.setting, Some(e.created))?;
        }
        if with_accounts {
            self.accounts(&objects.accounts);
        }
        self.put_back();
        let _ = writeln!(self.text, "\n-- Dump completed on {}", now.format("%F %T"));
        Ok(std::mem::take(&mut self.warnings))
    }

    fn line(&mut self, text: &str) {
        self.text.extend_from_slice(text.as_bytes());
        self.text.push(b'\n');
    }

    fn statement(&mut self, sql: &[u8]) {
        self.text.extend_from_slice(sql);
        self.text.extend_from_slice(b";\n");
    }

    fn end_insert(&mut self) {
        if self.open.take().is_some() {
            self.text.extend_from_slice(b";\n");
        }
    }

    /// Names of settings with the values that a load needs; those of one family alone.
    fn pinned(&self) -> Vec<(&'static str, String)> {
        let mut pinned = vec![
            ("TIME_ZONE", "'+00:00'".to_owned()),
            ("UNIQUE_CHECKS", "0".to_owned()),
            ("FOREIGN_KEY_CHECKS", "0".to_owned()),
            ("SQL_MODE", quote::text(MODE)),
            ("INNODB_STRICT_MODE", "0".to_owned()),
        ];
        if self.objects.flavour == Flavour::Mariadb {
            pinned.push(("CHECK_CONSTRAINT_CHECKS", "0".to_owned()));
            if self.objects.tables.iter().any(|t| t.history) {
                pinned.push(("SYSTEM_VERSIONING_INSERT_HISTORY", "1".to_owned()));
            }
        }
        pinned
    }

    fn settings(&mut self) {
        self.line("\nSET @OLD_CHARACTER_SET_CLIENT=@@CHARACTER_SET_CLIENT, @OLD_CHARACTER_SET_RESULTS=@@CHARACTER_SET_RESULTS, @OLD_COLLATION_CONNECTION=@@COLLATION_CONNECTION;");
        self.line("SET NAMES utf8mb4;");
        for (name, value) in self.pinned() {
            self.line(&format!("SET @OLD_{name}=@@SESSION.{name}, SESSION {name}={value};"));
        }
        if self.objects.flavour == Flavour::Mysql {
            // Newer servers may demand keys, and may make them.
            self.line("/*!80013 SET SESSION sql_require_primary_key=0 */;");
            self.line("/*!80030 SET SESSION sql_generate_invisible_primary_key=0 */;");
            self.line("/*!80400 SET SESSION restrict_fk_on_non_standard_key=0 */;");
        }
    }

    fn put_back(&mut self) {
        self.text.push(b'\n');
        for (name, _) in self.pinned() {
            self.line(&format!("SET SESSION {name}=@OLD_{name};"));
        }
        for name in ["CHARACTER_SET_CLIENT", "CHARACTER_SET_RESULTS", "COLLATION_CONNECTION"] {
            self.line(&format!("SET SESSION {name}=@OLD_{name};"));
        }
    }

    fn schema(&mut self, schema: &Schema) {
        let create = schema.create.bytes();
        let rest = create.strip_prefix(b"CREATE DATABASE ").unwrap_or(create);
        let sql = [b"CREATE DATABASE /*!32312 IF NOT EXISTS*/ ", rest].concat();
        self.statement(&sql);
    }

    /// Makes the function that gives values in documents their types; `finish` takes it away.
    fn helpers(&mut self) {
        self.has_helpers = true;
        self.line("\nDELIMITER ;;");
        for statement in json::helpers() {
            self.line(&format!("{statement} ;;"));
        }
        self.line("DELIMITER ;");
    }

    /// Writes a stored object under its settings, and puts those of the load back.
    fn stored(&mut self, schema: &str, create: &Text, setting: &Setting, clock: Option<u64>) -> Result<()> {
        let create = create.bytes();
        let is_free = |delimiter: &&&str| memchr::memmem::find(create, delimiter.as_bytes()).is_none();
        let delimiter = DELIMITERS.iter().find(is_free).ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "it holds every delimiter that a plain file could use")
                .hint("restore the backup itself")
        })?;
        self.line(&format!("\nUSE {};", quote::ident(schema)));
        let collation = self.collations(schema, setting);
        if let Some((wanted, _)) = &collation {
            self.line(wanted);
        }
        let mut set = format!("SET SESSION sql_mode={}", quote::text(setting.sql_mode.as_deref().unwrap_or_default()));
        if let Some(zone) = &setting.time_zone {
            let _ = write!(set, ", SESSION time_zone={}", quote::text(zone));
        }
        if let Some(seconds) = clock.filter(|s| *s > 0) {
            let _ = write!(set, ", SESSION timestamp={seconds}");
        }
        if !setting.character_set_client.is_empty() {
            let _ = write!(
                set,
                ", SESSION collation_connection={}, SESSION character_set_client={}",
                quote::text(&setting.collation_connection),
                quote::text(&setting.character_set_client)
            );
        }
        self.line(&format!("{set};\nDELIMITER {delimiter}"));
        self.text.extend_from_slice(create);
        self.line(&format!(" {delimiter}\nDELIMITER ;"));
        self.line(&format!(
            "SET NAMES utf8mb4, SESSION sql_mode={}, SESSION time_zone='+00:00', SESSION timestamp=DEFAULT;",
            quote::text(MODE)
        ));
        if let Some((_, usual)) = &collation {
            self.line(usual);
        }
        Ok(())
    }

    /// Statements that give a schema the collation under which an object was made, and its own again.
    fn collations(&self, schema: &str, setting: &Setting) -> Option<(String, String)> {
        let wanted = setting.database_collation.as_deref().filter(|c| !c.is_empty())?;
        let create = self.objects.schemas.iter().find(|s| s.name == schema)?.create.lossy();
        let word = |sign: &str| {
            let rest = &create[create.find(sign)? + sign.len()..];
            Some(rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default().to_owned())
        };
        let (charset, collation) = (word(" CHARACTER SET ")?, word(" COLLATE "));
        if collation.as_deref() == Some(wanted) {
            return None;
        }
        let name = quote::ident(schema);
        let own = collation.map(|c| format!(" COLLATE {}", quote::text(&c))).unwrap_or_default();
        Some((
            format!("ALTER DATABASE {name} COLLATE {};", quote::text(wanted)),
            format!("ALTER DATABASE {name} CHARACTER SET {charset}{own};"),
        ))
    }

    /// Accounts, for a person to read: who loads a file is not asked to let anybody in.
    fn accounts(&mut self, accounts: &[Account]) {
        comment("\nAccounts, as they were:", &mut self.text);
        for account in accounts {
            if let Some(create) = &account.create {
                comment(&format!("{};", create.lossy()), &mut self.text);
            } else if account.role {
                comment(&format!("CREATE ROLE {};", quote::ident(&account.user)), &mut self.text);
            }
            for grant in &account.grants {
                comment(&format!("{};", grant.lossy()), &mut self.text);
            }
        }
    }
}
