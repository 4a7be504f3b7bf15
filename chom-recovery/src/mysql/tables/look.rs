//! What the backup has, what production has under the same names, and what depends on it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{ChildKey, Holding, OWN, Placed, Present, TableName, definition::Definition};
use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{
        dump::objects,
        info::Flavour,
        quote,
        server::Server,
        session::{Role, Session, server_code},
    },
};

/// Tables that are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Single tables.
    pub tables: Vec<TableName>,
    /// Schemas, of which every table of the backup is meant.
    pub schemas: Vec<String>,
    /// Another name for the one table that is asked for.
    pub rename: Option<TableName>,
}

impl Asked {
    /// Finds the tables among those of a backup.
    ///
    /// # Errors
    /// `NotFound`: it has no such schema, or no table in it.
    pub(crate) fn sources(&self, holding: &Holding<'_>) -> Result<BTreeSet<TableName>> {
        let mut names: BTreeSet<TableName> = self.tables.iter().cloned().collect();
        for schema in &self.schemas {
            let before = names.len();
            names.extend(holding.tables_of(schema));
            if names.len() == before && !self.tables.iter().any(|t| t.schema == *schema) {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("the backup has no tables in a schema `{schema}`"),
                )
                .hint(format!("its schemas: {}", holding.schemas().join(", "))));
            }
        }
        Ok(names)
    }

    fn wishes(&self, holding: &Holding<'_>) -> Result<Vec<Wish>> {
        let names = self.sources(holding)?;
        Ok(names
            .into_iter()
            .map(|source| Wish { target: self.rename.clone().unwrap_or_else(|| source.clone()), source })
            .collect())
    }
}

/// A table that is wanted, and the name that it is to have in production.
#[derive(Debug, Clone)]
struct Wish {
    source: TableName,
    target: TableName,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// The tables, in the order of their names in production.
    pub tables: Vec<Placed>,
    /// Whether the server takes `LOAD DATA LOCAL` as it is.
    pub local_infile: bool,
    /// Whether rows are written to a binary log, and so to replicas.
    pub binary_log: bool,
    /// Whether nobody can write between the statements of an exchange.
    pub locks: bool,
    /// What a person should know of the backup.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Server {
    /// Finds out what there is to do for these tables; changes nothing, and reads no rows. `run` names the schemas of the
    /// run's own.
    ///
    /// # Errors
    /// `NotFound`: the backup has no such table; those of the schema are named. `AlreadyExists`: there is a table under the
    /// other name. `Unsupported`: the server or the table does not allow it. `Corrupt`: the backup contradicts itself.
    pub(crate) async fn look_at_tables(&self, holding: &Holding<'_>, asked: &Asked, run: &str) -> Result<Look> {
        holding.check_server(self)?;
        let mut session = self.session(Role::Read).await?;
        let mut wishes = asked.wishes(holding)?;
        wishes.sort_by(|a, b| a.target.cmp(&b.target));
        let places = places(&wishes, run)?;
        let wanted: BTreeSet<_> = wishes.iter().map(|w| w.target.clone()).collect();
        let triggers = objects::collect_triggers(self).await?;
        let mut tables = Vec::new();
        for (wish, [fresh, kept, undone]) in wishes.into_iter().zip(places) {
            let context = |e: Error| e.during(format!("table `{}`", wish.target));
            let offer = holding.offer(&wish.source)?;
            let is_copy = wish.source != wish.target;
            let definition =
                Definition::read(offer.create, &wish.source.schema, unnamed(self, is_copy)).map_err(context)?;
            let present = present(&mut session, &wish.target).await?;
            if is_copy && present.is_some() {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!("there is a table `{}` already", wish.target),
                )
                .hint("nothing is replaced under another name: choose one that is free"));
            }
            let here = |t: &crate::mysql::Trigger, name: &TableName| t.schema == name.schema && t.table == name.name;
            let triggers: Vec<_> = match (&present, is_copy) {
                (_, true) => Vec::new(),
                (Some(_), _) => triggers.iter().filter(|t| here(t, &wish.target)).cloned().collect(),
                (None, _) => holding.triggers().iter().filter(|t| here(t, &wish.source)).cloned().collect(),
            };
            let old_keys = match present {
                Some(_) => keys_of(&mut session, &wish.target).await.map_err(|e| {
                    e.hint(
                        "where its file is gone or cannot be opened: DROP TABLE it, then restore it as a missing one",
                    )
                })?,
                None => Vec::new(),
            };
            let children = if is_copy { Vec::new() } else { children(&mut session, &wish.target, &wanted).await? };
            tables.push(Placed {
                definition: offer.compares_definition.then(|| definition.hash()),
                keys: if is_copy { Vec::new() } else { definition.keys },
                source: wish.source,
                target: wish.target,
                fresh,
                kept,
                undone,
                present,
                rows: offer.rows,
                bytes: offer.bytes,
                row_hash: offer.row_hash,
                next_id: offer.next_id,
                triggers,
                old_keys,
                children,
            });
        }
        check_schemas(&mut session, &tables).await?;
        let local = session.row("SELECT @@global.local_infile").await?.map_or(Ok(None), |r| r.number(0))?;
        session.close().await;
        Ok(Look {
            tables,
            local_infile: local == Some(1),
            binary_log: self.info().log_bin,
            locks: self.info().flavour == Flavour::Mysql,
            notes: Vec::new(),
        })
    }
}

/// Tells whether names of `CHECK` constraints are left out: in MySQL they are names of the schema.
pub(super) fn unnamed(server: &Server, is_copy: bool) -> bool {
    is_copy && server.info().flavour == Flavour::Mysql
}

/// Names the places of each table in the schemas of the run's own. Tables keep their names, since servers name
/// constraints after them; so each schema of production has schemas of its own.
fn places(wishes: &[Wish], run: &str) -> Result<Vec<[TableName; 3]>> {
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let run = run.to_lowercase();
    wishes
        .iter()
        .map(|wish| {
            if !seen.insert(&wish.target) {
                return Err(Error::new(ErrorKind::InvalidInput, format!("table `{}` is named twice", wish.target)));
            }
            let next = numbers.len() + 1;
            let number = *numbers.entry(&wish.target.schema).or_insert(next);
            let suffix = if number == 1 { String::new() } else { format!("_{number}") };
            Ok(OWN.map(|prefix| TableName::new(format!("{prefix}{run}{suffix}"), wish.target.name.as_str())))
        })
        .collect()
}

async fn present(session: &mut Session, table: &TableName) -> Result<Option<Present>> {
    let sql = format!(
        "SELECT TABLE_TYPE, COALESCE(TABLE_ROWS, 0), COALESCE(DATA_LENGTH, 0) + COALESCE(INDEX_LENGTH, 0), UPDATE_TIME \
         FROM information_schema.TABLES WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {}",
        quote::text(&table.schema),
        quote::text(&table.name)
    );
    let Some(row) = session.row(sql).await? else { return Ok(None) };
    let kind = row.text(0)?;
    if !matches!(kind.as_str(), "BASE TABLE" | "SYSTEM VERSIONED") {
        return Err(Error::new(ErrorKind::Conflict, format!("`{table}` is a {} in production", kind.to_lowercase()))
            .hint("give the table another name with `--as`"));
    }
    Ok(Some(Present {
        rows: row.number(1)?.unwrap_or_default(),
        bytes: row.number(2)?.unwrap_or_default(),
        written: row.optional(3)?,
    }))
}

/// Reads the definition of a table; `None`: it is gone.
pub(super) async fn definition_of(session: &mut Session, table: &TableName) -> Result<Option<Definition>> {
    let context = |e: Error| e.during(format!("table `{table}`"));
    let row = match session.row(format!("SHOW CREATE TABLE {}", table.quoted())).await {
        Err(e) if matches!(server_code(&e), Some(1146 | 1049)) => return Ok(None),
        row => row.map_err(context)?,
    };
    let create = row.as_ref().and_then(|r| r.bytes(1)).unwrap_or_default();
    Definition::read(create, &table.schema, false).map(Some).map_err(context)
}

/// Reads the foreign keys of a table; one that is gone has none.
async fn keys_of(session: &mut Session, table: &TableName) -> Result<Vec<super::ForeignKey>> {
    Ok(definition_of(session, table).await?.map(|d| d.keys).unwrap_or_default())
}

/// Reads the foreign keys by which tables that are not `wanted` too refer to a table.
async fn children(session: &mut Session, parent: &TableName, wanted: &BTreeSet<TableName>) -> Result<Vec<ChildKey>> {
    let sql = format!(
        "SELECT DISTINCT TABLE_SCHEMA, TABLE_NAME FROM information_schema.KEY_COLUMN_USAGE \
         WHERE REFERENCED_TABLE_SCHEMA = {} AND REFERENCED_TABLE_NAME = {}",
        quote::text(&parent.schema),
        quote::text(&parent.name)
    );
    let mut found = BTreeSet::new();
    for row in session.rows(sql).await? {
        found.insert(TableName::new(row.text(0)?, row.text(1)?));
    }
    let mut children = Vec::new();
    for table in found.difference(wanted) {
        let keys = keys_of(session, table).await?;
        let to_parent = keys.into_iter().filter(|key| key.parent == *parent);
        children.extend(to_parent.map(|key| ChildKey { table: table.clone(), key }));
    }
    Ok(children)
}

/// Refuses what cannot be made again as it was in the schemas that production has.
async fn check_schemas(session: &mut Session, tables: &[Placed]) -> Result<()> {
    for table in tables {
        let schema = &table.target.schema;
        let sql = format!(
            "SELECT DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = {}",
            quote::text(schema)
        );
        let Some(row) = session.row(sql).await? else {
            return Err(Error::new(ErrorKind::Precondition, format!("production has no schema `{schema}`"))
                .hint(format!("make it (CREATE DATABASE `{schema}`), or restore into another one with `--as`")));
        };
        let collation = row.text(0)?;
        for trigger in &table.triggers {
            if trigger.setting.database_collation.as_ref().is_some_and(|c| *c != collation) {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("trigger `{schema}.{}` was made while the schema had another collation", trigger.name),
                )
                .with("now", &collation)
                .hint("make that trigger again, or restore the table under another name with `--as`"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_schema_of_production_has_its_own_places() {
        let wish = |name: &str| {
            let name = TableName::parse(name).unwrap();
            Wish { source: name.clone(), target: name }
        };
        let run = "01JDQ0000000000000000000AB";
        let places = places(&[wish("a.t"), wish("a.u"), wish("b.t")], run).unwrap();
        let shown: Vec<_> = places.iter().map(|[fresh, ..]| fresh.to_string()).collect();
        let id = run.to_lowercase();
        assert_eq!(shown, [format!("chom_new_{id}.t"), format!("chom_new_{id}.u"), format!("chom_new_{id}_2.t")]);
        assert!(places.iter().flatten().all(|place| super::super::is_own(&place.schema)));
        assert_eq!(super::places(&[wish("a.t"), wish("a.t")], run).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
