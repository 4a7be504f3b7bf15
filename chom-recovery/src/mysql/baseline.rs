//! What a dump promises: per table rows and their hash, per object the hash of its definition.

use std::{collections::BTreeMap, fmt, ops::AddAssign, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{
    info::{Flavour, Position, Version},
    objects::{Account, Objects, Text},
    quote,
};
use crate::error::{Error, ErrorKind};

/// Hash of a set of rows that does not depend on their order: the sum, modulo 2^128, of the first 16 bytes of the
/// BLAKE3 hash of each encoded row. Written as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RowHash(pub u128);

impl RowHash {
    /// Adds one encoded row.
    pub fn add_row(&mut self, row: &[u8]) {
        let mut first = [0; 16];
        first.copy_from_slice(&blake3::hash(row).as_bytes()[..16]);
        *self += Self(u128::from_le_bytes(first));
    }
}

impl AddAssign for RowHash {
    fn add_assign(&mut self, other: Self) {
        self.0 = self.0.wrapping_add(other.0);
    }
}

impl fmt::Display for RowHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl From<RowHash> for String {
    fn from(hash: RowHash) -> Self {
        hash.to_string()
    }
}

impl FromStr for RowHash {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        match u128::from_str_radix(text, 16) {
            Ok(value) if digits => Ok(Self(value)),
            _ => Err(Error::new(ErrorKind::Corrupt, format!("`{}` is not a row hash", text.escape_debug()))),
        }
    }
}

impl TryFrom<String> for RowHash {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

/// Hashes of definitions: kind of object → name → hash.
pub type Census = BTreeMap<String, BTreeMap<String, String>>;

/// What a restored server must equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// Family of the dumped server.
    pub flavour: Flavour,
    /// Version of the dumped server.
    pub version: Version,
    /// Binary log position of the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// Tables, ordered by schema and name.
    pub tables: Vec<TableBaseline>,
    /// Definitions of everything.
    pub census: Census,
}

/// What one restored table must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableBaseline {
    /// Schema.
    pub schema: String,
    /// Table.
    pub table: String,
    /// Rows.
    pub rows: u64,
    /// Hash of the rows.
    pub row_hash: RowHash,
    /// Next AUTO_INCREMENT value, where there is one; a restored table may be ahead of it, never behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_increment: Option<u64>,
}

impl Baseline {
    /// Returns the sum of rows over all tables.
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|t| t.rows).sum()
    }
}

impl Objects {
    /// Hashes each definition. AUTO_INCREMENT values are left out: they move with the data.
    pub fn census(&self) -> Census {
        let mut census = Census::new();
        let mut add = |kind: &str, name: String, parts: &[&[u8]]| {
            census.entry(kind.to_owned()).or_default().insert(name, hash_of(parts));
        };
        for t in &self.tablespaces {
            add("tablespace", t.name.clone(), &[t.create.bytes()]);
        }
        for s in &self.schemas {
            add("schema", s.name.clone(), &[s.create.bytes()]);
        }
        for t in &self.tables {
            add("table", format!("{}.{}", t.schema, t.name), &[&normal(t.create.bytes())]);
        }
        for s in &self.sequences {
            add("sequence", format!("{}.{}", s.schema, s.name), &[s.create.bytes()]);
        }
        for v in &self.views {
            add("view", format!("{}.{}", v.schema, v.name), &[v.create.bytes(), v.setting.as_bytes().as_slice()]);
        }
        for r in &self.routines {
            let name = format!("{} {}.{}", r.kind.to_lowercase(), r.schema, r.name);
            add("routine", name, &[r.create.bytes(), r.setting.as_bytes().as_slice()]);
        }
        for (order, t) in self.triggers.iter().enumerate() {
            // The order among triggers of one event is part of what they mean.
            let before = self.triggers[..order].iter().filter(|o| o.same_moment(t)).count().to_string();
            let setting = t.setting.as_bytes();
            let parts = [t.create.bytes(), &setting, before.as_bytes()];
            add("trigger", format!("{}.{}", t.schema, t.name), &parts);
        }
        for e in &self.events {
            let (setting, moments) = (e.setting.as_bytes(), format!("{:?}", e.moments));
            add("event", format!("{}.{}", e.schema, e.name), &[e.create.bytes(), &setting, moments.as_bytes()]);
        }
        if !self.accounts.is_empty() {
            census.insert("account".to_owned(), Self::account_census(&self.accounts));
        }
        census
    }

    /// Hashes accounts with their grants, whose order does not matter.
    pub(super) fn account_census(accounts: &[Account]) -> BTreeMap<String, String> {
        accounts
            .iter()
            .map(|a| {
                let mut parts: Vec<&[u8]> = a.grants.iter().map(Text::bytes).collect();
                parts.sort_unstable();
                let roles = a.default_roles.iter().map(|(u, h)| format!("{u}@{h}")).collect::<Vec<_>>().join(",");
                parts.push(a.create.as_ref().map_or(b"", Text::bytes));
                parts.push(roles.as_bytes());
                (a.name(), hash_of(&parts))
            })
            .collect()
    }
}

/// Hashes a `CREATE TABLE` statement as a server writes it, without what moves with the data.
pub(super) fn definition_hash(create: &[u8]) -> String {
    hash_of(&[&normal(create.trim_ascii())])
}

fn normal(create: &[u8]) -> Vec<u8> {
    without_repeated_charset(&without_auto_increment(create))
}

/// Hashes parts so that no two divisions of the same bytes are equal.
fn hash_of(parts: &[&[u8]]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

/// Drops ` AUTO_INCREMENT=<digits>` of the table options, which begin after the last closing bracket of the columns.
pub(super) fn without_auto_increment(create: &[u8]) -> Vec<u8> {
    const WORD: &[u8] = b" AUTO_INCREMENT=";
    let options = create.windows(3).rposition(|w| w == b"\n) ").unwrap_or(0);
    let Some(at) = create[options..].windows(WORD.len()).position(|w| w == WORD).map(|p| p + options) else {
        return create.to_vec();
    };
    let digits = create[at + WORD.len()..].iter().take_while(|b| b.is_ascii_digit()).count();
    [&create[..at], &create[at + WORD.len() + digits..]].concat()
}

/// Drops ` CHARACTER SET x` in front of ` COLLATE`, which implies it. MySQL writes it for a column whose collation was
/// given in the statement, as every statement that MySQL wrote itself does, and leaves it out for one that inherited.
fn without_repeated_charset(create: &[u8]) -> Vec<u8> {
    const SET: &[u8] = b" CHARACTER SET ";
    let (mut out, mut from) = (Vec::with_capacity(create.len()), 0);
    for at in quote::find_all(create, SET) {
        let name = create[at + SET.len()..].iter().take_while(|b| b.is_ascii_alphanumeric()).count();
        let end = at + SET.len() + name;
        if create[end..].starts_with(b" COLLATE ") {
            out.extend_from_slice(&create[from..at]);
            from = end;
        }
    }
    out.extend_from_slice(&create[from..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_rows_does_not_matter_but_their_number_does() {
        let hash = |rows: &[&[u8]]| {
            let mut sum = RowHash::default();
            for row in rows {
                sum.add_row(row);
            }
            sum
        };
        assert_eq!(hash(&[b"1\n", b"2\n"]), hash(&[b"2\n", b"1\n"]));
        assert_ne!(hash(&[b"1\n"]), hash(&[b"1\n", b"1\n"]));
        assert_ne!(hash(&[b"1\n", b"1\n"]), RowHash::default());
    }

    #[test]
    fn a_row_hash_survives_text() {
        let hash = RowHash(0xdead_beef);
        assert_eq!(hash.to_string().parse::<RowHash>().unwrap(), hash);
        assert_eq!("xyz".parse::<RowHash>().unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn only_the_table_option_auto_increment_is_dropped() {
        let create = b"CREATE TABLE `t` (\n  `id` int NOT NULL AUTO_INCREMENT COMMENT ' AUTO_INCREMENT=5',\n  PRIMARY KEY (`id`)\n) ENGINE=InnoDB AUTO_INCREMENT=42 DEFAULT CHARSET=utf8mb4";
        let text = String::from_utf8(without_auto_increment(create)).unwrap();
        assert!(text.ends_with("ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"), "{text}");
        assert!(text.contains("COMMENT ' AUTO_INCREMENT=5'"));
    }

    #[test]
    fn a_charset_goes_only_where_a_collation_implies_it() {
        let create = b"`a` text CHARACTER SET utf8mb4 COLLATE utf8mb4_bin, `b` text CHARACTER SET latin1 COMMENT ' CHARACTER SET x COLLATE y'";
        let text = String::from_utf8(without_repeated_charset(create)).unwrap();
        assert_eq!(
            text,
            "`a` text COLLATE utf8mb4_bin, `b` text CHARACTER SET latin1 COMMENT ' CHARACTER SET x COLLATE y'"
        );
    }
}
