//! The text of a `CREATE TABLE` as servers write it: a line for each column, key and constraint. Foreign keys are taken out
//! of it, since they tie a table to others; the rest is put together for another place.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{baseline::definition_hash, quote},
};

/// Name of a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    /// Schema.
    pub schema: String,
    /// Table.
    pub name: String,
}

impl TableName {
    /// Makes it of its parts.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }

    /// Reads `schema.table`. A name with a point in it cannot be told this way.
    ///
    /// # Errors
    /// `InvalidInput`: it is not two names with a point between them.
    pub fn parse(text: &str) -> Result<Self> {
        match text.split('.').collect::<Vec<_>>()[..] {
            [schema, name] if !schema.is_empty() && !name.is_empty() => Ok(Self::new(schema, name)),
            _ => Err(Error::new(ErrorKind::InvalidInput, format!("`{}` is not SCHEMA.TABLE", text.escape_debug()))),
        }
    }

    pub(in crate::mysql) fn quoted(&self) -> String {
        quote::qualified(&self.schema, &self.name)
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// A foreign key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ForeignKey {
    /// Name of the constraint.
    pub name: String,
    /// Columns of the table that has it.
    pub columns: Vec<String>,
    /// Table that it refers to.
    pub parent: TableName,
    /// Columns there.
    pub parent_columns: Vec<String>,
    /// `ON DELETE` and `ON UPDATE`, as the server writes them.
    pub actions: String,
    /// Index of just these columns, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
}

impl ForeignKey {
    /// Reads the line of a constraint in a definition of a table of `schema`; `None`: it is none, or another one.
    fn parse(line: &[u8], schema: &str) -> Option<Self> {
        const KEY: &[u8] = b" FOREIGN KEY (";
        const REFERENCES: &[u8] = b") REFERENCES ";
        let key = quote::find(line, KEY, 0)?;
        let references = quote::find(line, REFERENCES, key)?;
        let open = quote::find(line, b" (", references + REFERENCES.len())?;
        let close = quote::find(line, b")", open)?;
        let names = |from: usize, to: usize| Some(quote::names(std::str::from_utf8(line.get(from..to)?).ok()?));
        let parent = match &names(references + REFERENCES.len(), open)?[..] {
            [name] => TableName::new(schema, name.as_str()),
            [schema, name] => TableName::new(schema.as_str(), name.as_str()),
            _ => return None,
        };
        Some(Self {
            name: names(0, key)?.into_iter().next()?,
            columns: names(key, references)?,
            parent,
            parent_columns: names(open, close)?,
            actions: std::str::from_utf8(line.get(close + 1..)?).ok()?.trim().to_owned(),
            index: None,
        })
    }

    /// Writes the clause of an `ALTER TABLE` that makes it.
    pub(in crate::mysql) fn add(&self) -> String {
        format!(
            "ADD CONSTRAINT {} FOREIGN KEY ({}) REFERENCES {} ({}) {}",
            quote::ident(&self.name),
            list(&self.columns),
            self.parent.quoted(),
            list(&self.parent_columns),
            self.actions
        )
    }

    /// Tells whether another one is the same rule, whatever its index is called.
    pub(in crate::mysql) fn is_same(&self, other: &Self) -> bool {
        Self { index: None, ..self.clone() } == Self { index: None, ..other.clone() }
    }
}

fn list(names: &[String]) -> String {
    names.iter().map(|n| quote::ident(n)).collect::<Vec<_>>().join(",")
}

/// A definition without its foreign keys, and these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::mysql) struct Definition {
    /// From behind the table's name on.
    body: Vec<u8>,
    /// Foreign keys, in the order of the text.
    pub(in crate::mysql) keys: Vec<ForeignKey>,
    /// Indexes: name, and columns as the text has them.
    indexes: Vec<(String, String)>,
}

impl Definition {
    /// Takes apart the definition of a table of `schema`. With `unnamed` the names of `CHECK` constraints are left out:
    /// MySQL lets a schema have each of them once, so that a copy of a table cannot have them too.
    ///
    /// # Errors
    /// `Unsupported`: the text does not have the form that servers write.
    pub(in crate::mysql) fn read(create: &[u8], schema: &str, unnamed: bool) -> Result<Self> {
        let strange = || Error::new(ErrorKind::Unsupported, "the table's definition has an unknown form");
        if !create.starts_with(b"CREATE TABLE `") {
            return Err(strange());
        }
        let lines = lines(create);
        let open = quote::find(lines[0], b" (", 0).ok_or_else(strange)?;
        let end = lines.iter().position(|line| line.starts_with(b")")).ok_or_else(strange)?;
        let (mut kept, mut keys, mut indexes) = (Vec::new(), Vec::new(), Vec::new());
        for line in &lines[1..end] {
            let line = line.strip_suffix(b",").unwrap_or(line);
            let is_constraint = line.starts_with(b"  CONSTRAINT `");
            if is_constraint && quote::find(line, b" FOREIGN KEY (", 0).is_some() {
                keys.push(ForeignKey::parse(line, schema).ok_or_else(strange)?);
            } else if let Some(check) = quote::find(line, b" CHECK (", 0).filter(|_| is_constraint && unnamed) {
                kept.push([b" ", &line[check..]].concat());
            } else {
                indexes.extend(index(line));
                kept.push(line.to_vec());
            }
        }
        for key in &mut keys {
            let columns = list(&key.columns);
            key.index = indexes.iter().find(|(_, of)| *of == columns).map(|(name, _)| name.clone());
        }
        let body = [&lines[0][open..], b"\n", &kept.join(&b",\n"[..]), b"\n", &lines[end..].join(&b"\n"[..])].concat();
        Ok(Self { body, keys, indexes })
    }

    /// Writes the statement that makes the table in another place, without its foreign keys.
    pub(in crate::mysql) fn create(&self, place: &TableName) -> Vec<u8> {
        [b"CREATE TABLE ", place.quoted().as_bytes(), &self.body].concat()
    }

    /// Tells whether there is an index of this name.
    pub(in crate::mysql) fn has_index(&self, name: &str) -> bool {
        self.indexes.iter().any(|(one, _)| one == name)
    }

    /// Hashes all but the name, the foreign keys and what moves with the data.
    pub(in crate::mysql) fn hash(&self) -> String {
        definition_hash(&self.body)
    }
}

/// Reads the line of an index.
fn index(line: &[u8]) -> Option<(String, String)> {
    let text = std::str::from_utf8(line).ok()?.trim_start();
    let text = text.strip_prefix("UNIQUE ").unwrap_or(text).strip_prefix("KEY ")?;
    let open = quote::find(text.as_bytes(), b" (", 0)?;
    let close = quote::find(text.as_bytes(), b")", open)?;
    Some((quote::names(&text[..open]).into_iter().next()?, text[open + 2..close].to_owned()))
}

/// Divides a statement at the line feeds that are not in quotes.
fn lines(create: &[u8]) -> Vec<&[u8]> {
    let (mut lines, mut from) = (Vec::new(), 0);
    for at in quote::find_all(create, b"\n") {
        lines.push(&create[from..at]);
        from = at + 1;
    }
    lines.push(&create[from..]);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHILD: &[u8] =
        b"CREATE TABLE `child` (\n  `id` int NOT NULL COMMENT 'a,\n  CONSTRAINT `x` FOREIGN KEY (',\n  \
        `pid` int DEFAULT NULL,\n  PRIMARY KEY (`id`),\n  KEY `by_pid` (`pid`,`id`),\n  \
        CONSTRAINT `f``1` FOREIGN KEY (`pid`, `id`) REFERENCES `parent` (`id`, `v`) ON DELETE CASCADE,\n  \
        CONSTRAINT `positive` CHECK ((`id` > 0)),\n  CONSTRAINT `f2` FOREIGN KEY (`id`) REFERENCES `far`.`p` (`id`)\n\
        ) ENGINE=InnoDB AUTO_INCREMENT=7\n/*!50100 PARTITION BY HASH (`id`) */";

    #[test]
    fn foreign_keys_are_taken_out_and_nothing_else() {
        let definition = Definition::read(CHILD, "app", false).unwrap();
        let text = String::from_utf8(definition.create(&TableName::new("new", "child"))).unwrap();
        assert!(
            text.starts_with("CREATE TABLE `new`.`child` (\n  `id` int NOT NULL COMMENT 'a,\n  CONSTRAINT"),
            "{text}"
        );
        assert!(
            text.contains("KEY `by_pid` (`pid`,`id`),\n  CONSTRAINT `positive` CHECK ((`id` > 0))\n) ENGINE"),
            "{text}"
        );
        assert!(text.ends_with("PARTITION BY HASH (`id`) */"), "{text}");
        let [first, second] = &definition.keys[..] else { panic!("{definition:?}") };
        assert_eq!((first.name.as_str(), first.parent.to_string().as_str()), ("f`1", "app.parent"));
        assert_eq!(
            first.add(),
            "ADD CONSTRAINT `f``1` FOREIGN KEY (`pid`,`id`) REFERENCES `app`.`parent` (`id`,`v`) ON DELETE CASCADE"
        );
        assert_eq!((first.index.as_deref(), definition.has_index("by_pid")), (Some("by_pid"), true));
        assert_eq!((second.parent.to_string().as_str(), second.actions.as_str()), ("far.p", ""));
    }

    #[test]
    fn the_hash_leaves_out_names_keys_and_counters() {
        let hash = |text: &[u8], unnamed| Definition::read(text, "app", unnamed).unwrap().hash();
        let text = String::from_utf8(CHILD.to_vec()).unwrap();
        let moved = text.replace("TABLE `child`", "TABLE `copy`").replace("AUTO_INCREMENT=7", "AUTO_INCREMENT=9");
        assert_eq!(hash(CHILD, false), hash(moved.as_bytes(), false));
        let renamed = text.replace("`positive`", "`copy_chk_1`");
        assert_ne!(hash(CHILD, false), hash(renamed.as_bytes(), false));
        assert_eq!(hash(CHILD, true), hash(renamed.as_bytes(), true));
        assert_ne!(hash(CHILD, false), hash(text.replace("DEFAULT NULL", "NOT NULL").as_bytes(), false));
    }

    #[test]
    fn what_is_no_definition_of_a_table_is_refused() {
        for text in [&b"CREATE VIEW `v` AS SELECT 1"[..], b"CREATE TABLE `t` (\n  `id` int", b""] {
            assert_eq!(Definition::read(text, "app", false).unwrap_err().kind(), ErrorKind::Unsupported);
        }
        assert_eq!(TableName::parse("app.users").unwrap(), TableName::new("app", "users"));
        for text in ["users", "a.b.c", ".b", "a."] {
            assert_eq!(TableName::parse(text).unwrap_err().kind(), ErrorKind::InvalidInput, "{text}");
        }
    }
}
