//! Definitions of everything that is not rows, exactly as the server writes them.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::info::{Flavour, Position, Version};

/// Bytes of a definition: mostly UTF-8, but a routine's body is in the character set of who made it. In JSON a string
/// where possible, else `{"base64": "..."}`.
#[derive(Clone, PartialEq, Eq)]
pub struct Text(Vec<u8>);

impl Text {
    /// Wraps bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// Returns the bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the text with what is not UTF-8 replaced; for people.
    pub fn lossy(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.lossy(), f)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum TextForm {
    Plain(String),
    Encoded { base64: String },
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => TextForm::Plain(text.to_owned()),
            Err(_) => TextForm::Encoded { base64: STANDARD.encode(&self.0) },
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match TextForm::deserialize(deserializer)? {
            TextForm::Plain(text) => text.into_bytes(),
            TextForm::Encoded { base64 } => STANDARD.decode(base64).map_err(serde::de::Error::custom)?,
        }))
    }
}

/// All definitions of a dump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objects {
    /// Version of this record: 1.
    pub format: u32,
    /// Family of the dumped server.
    pub flavour: Flavour,
    /// Version of the dumped server.
    pub version: Version,
    /// `lower_case_table_names` of the dumped server.
    pub lower_case_table_names: u8,
    /// Binary log position of the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// Plugins and components that were installed by a statement.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plugins: Vec<Plugin>,
    /// General tablespaces (MySQL), by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tablespaces: Vec<Tablespace>,
    /// Schemas, by name.
    pub schemas: Vec<Schema>,
    /// Tables, by schema and name.
    pub tables: Vec<Table>,
    /// Sequences (MariaDB).
    pub sequences: Vec<Sequence>,
    /// Views, by schema and name.
    pub views: Vec<View>,
    /// Functions, procedures and packages.
    pub routines: Vec<Routine>,
    /// Triggers, in the order in which they fire.
    pub triggers: Vec<Trigger>,
    /// Events.
    pub events: Vec<Event>,
    /// Accounts and roles with their grants; the server's own are left out.
    pub accounts: Vec<Account>,
    /// What the dump cannot promise.
    pub warnings: Vec<String>,
}

/// A plugin or component that was installed by a statement: the server keeps that in its data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plugin {
    /// Name.
    pub name: String,
    /// `INSTALL` statement.
    pub create: Text,
}

/// A general tablespace: a file that several tables share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    /// Name.
    pub name: String,
    /// `CREATE TABLESPACE` statement; its file is in the data directory.
    pub create: Text,
}

/// A schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    /// Name.
    pub name: String,
    /// `CREATE DATABASE` statement.
    pub create: Text,
}

/// Whether and how the rows of a table are dumped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableData {
    /// Rows are part of the snapshot.
    Snapshot,
    /// Rows are read while others may write them: the engine keeps no versions.
    Unversioned,
    /// No rows of its own: the engine shows those of others, or none.
    None,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// Storage engine.
    pub engine: String,
    /// `CREATE TABLE` statement.
    pub create: Text,
    /// Columns that are dumped, in order.
    pub columns: Vec<Column>,
    /// Next AUTO_INCREMENT value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_increment: Option<u64>,
    /// Whether old row versions are dumped too (MariaDB system versioning).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub history: bool,
    /// Whether and how rows are dumped.
    pub data: TableData,
}

/// A dumped column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Name.
    pub name: String,
    /// Data type in lower case, without length: `int`, `enum`, `json`.
    #[serde(rename = "type")]
    pub data_type: String,
    /// Whether a second cell follows that tells which values of a JSON document have a type that its text does not
    /// tell (MySQL).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub json_types: bool,
}

/// Session settings under which a stored object was made and is made again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// SQL mode; `None` for objects that keep none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql_mode: Option<String>,
    /// Character set of its text.
    pub character_set_client: String,
    /// Collation of its literals.
    pub collation_connection: String,
    /// Collation of the schema when it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_collation: Option<String>,
    /// Time zone (events).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
}

impl Setting {
    pub(super) fn as_bytes(&self) -> Vec<u8> {
        // Fields keep their order, so equal settings give equal bytes.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// A sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// `CREATE SEQUENCE` statement.
    pub create: Text,
    /// Next value that no session holds in its cache.
    pub next: String,
    /// How often it began again.
    pub cycles: u64,
}

/// A view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// `CREATE VIEW` statement, relative to the schema.
    pub create: Text,
    /// Settings.
    pub setting: Setting,
}

/// A function, procedure or package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routine {
    /// `FUNCTION`, `PROCEDURE`, `PACKAGE` or `PACKAGE BODY`.
    pub kind: String,
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// `CREATE` statement.
    pub create: Text,
    /// Settings.
    pub setting: Setting,
}

/// A trigger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trigger {
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// Table.
    pub table: String,
    /// `BEFORE` or `AFTER` and the event, for example `BEFORE INSERT`.
    pub moment: String,
    /// `CREATE TRIGGER` statement.
    pub create: Text,
    /// Settings.
    pub setting: Setting,
}

impl Table {
    /// Returns the number of cells of a dumped row.
    pub(super) fn cells(&self) -> usize {
        self.columns.iter().map(Column::cells).sum()
    }
}

impl Column {
    /// Returns the number of cells that the column fills.
    pub(super) fn cells(&self) -> usize {
        1 + usize::from(self.json_types)
    }
}

impl Trigger {
    pub(super) fn same_moment(&self, other: &Self) -> bool {
        self.schema == other.schema && self.table == other.table && self.moment == other.moment
    }
}

/// An event of the event scheduler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// `CREATE EVENT` statement.
    pub create: Text,
    /// Settings.
    pub setting: Setting,
    /// Unix time at which it was made: a past `AT` is accepted again only by a clock of that time.
    pub created: u64,
    /// Seconds since 1970 in UTC of `AT`, `STARTS` and `ENDS`: the statement tells them in a time zone that may be the
    /// server's own.
    #[serde(default)]
    pub moments: [Option<i64>; 3],
}

/// An account or role.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// User name, or name of the role.
    pub user: String,
    /// Host; empty for a MariaDB role.
    pub host: String,
    /// Whether it is a role in MariaDB's sense; MySQL's roles are accounts.
    pub role: bool,
    /// `CREATE USER` statement without its default roles; absent for a MariaDB role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create: Option<Text>,
    /// `GRANT` statements (MariaDB also lists default roles here).
    pub grants: Vec<Text>,
    /// Default roles of a MySQL account, as `user`, `host`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub default_roles: Vec<(String, String)>,
}

/// Statements of an account hold password hashes.
impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("user", &self.user).field("host", &self.host).finish_non_exhaustive()
    }
}

impl Account {
    /// Returns `user@host`, or the name of the role.
    pub fn name(&self) -> String {
        if self.role { self.user.clone() } else { format!("{}@{}", self.user, self.host) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_that_is_not_utf8_survives_json() {
        for bytes in [b"CREATE VIEW \xe9".to_vec(), "CREATE VIEW é".as_bytes().to_vec()] {
            let json = serde_json::to_string(&Text::new(bytes.clone())).unwrap();
            assert_eq!(serde_json::from_str::<Text>(&json).unwrap().bytes(), bytes);
        }
    }
}
