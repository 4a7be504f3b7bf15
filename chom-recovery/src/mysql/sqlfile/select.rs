//! Some of what a dump holds.

use std::collections::BTreeSet;

use super::{Contents, Object, contents::is_system};
use crate::error::{Error, ErrorKind, Result};

/// Schemas and tables to take out of a dump; all else is passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    schemas: BTreeSet<String>,
    tables: BTreeSet<(String, String)>,
}

impl Selection {
    /// Adds a schema with everything in it.
    #[must_use]
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schemas.insert(schema.into());
        self
    }

    /// Adds a table with its rows and triggers.
    #[must_use]
    pub fn table(mut self, schema: impl Into<String>, table: impl Into<String>) -> Self {
        self.tables.insert((schema.into(), table.into()));
        self
    }

    /// Tells whether something of a schema is wanted.
    pub fn touches(&self, schema: &str) -> bool {
        self.schemas.contains(schema) || self.tables.iter().any(|(s, _)| s == schema)
    }

    /// Tells whether a table, or a trigger of it, is wanted.
    pub fn has_table(&self, schema: &str, table: &str) -> bool {
        self.schemas.contains(schema) || self.tables.iter().any(|(s, t)| s == schema && t == table)
    }

    /// Tells whether all of a schema is wanted.
    pub fn has_schema(&self, schema: &str) -> bool {
        self.schemas.contains(schema)
    }
}

impl Contents {
    /// Returns what a load of the selection brings; [`compare`](super::compare) takes it. `default` is the schema of
    /// what names none.
    ///
    /// # Errors
    /// `NotFound`: the dump does not hold a table or schema. `InvalidInput`: nothing is selected, or something of the
    /// server's own.
    pub fn only(&self, selection: &Selection, default: Option<&str>) -> Result<Self> {
        let default = default.unwrap_or_default();
        let full = |schema: &str| if schema.is_empty() { default.to_owned() } else { schema.to_owned() };
        if selection.schemas.is_empty() && selection.tables.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "no table and no schema is selected"));
        }
        let mut schemas = selection.schemas.iter().chain(selection.tables.iter().map(|(s, _)| s));
        if let Some(schema) = schemas.find(|s| is_system(s)) {
            return Err(Error::new(ErrorKind::InvalidInput, format!("`{schema}` is the server's own schema"))
                .hint("only tables of an application can be taken out of a dump"));
        }
        for (schema, table) in &selection.tables {
            let has = |s: &str, t: &str| self.tables.get(s).is_some_and(|tables| tables.contains_key(t));
            let is_held = has(schema, table) || (schema == default && has("", table));
            if !is_held {
                let place = self.user_tables().find(|(_, t, _)| t == table).map(|(s, t, _)| format!("{}.{t}", full(s)));
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("the dump does not hold table `{schema}.{table}`"),
                )
                .hint(match place {
                    Some(place) => format!("it holds `{place}`"),
                    None => "`backup contents` lists what it holds".to_owned(),
                }));
            }
        }
        let held = self.target_schemas(Some(default));
        if let Some(schema) = selection.schemas.difference(&held).next() {
            return Err(Error::new(ErrorKind::NotFound, format!("the dump does not hold schema `{schema}`"))
                .with("it holds", held.into_iter().collect::<Vec<_>>().join(", ")));
        }
        let mut only = self.clone();
        for schemas in [&mut only.schemas, &mut only.made_schemas, &mut only.dropped_schemas] {
            schemas.retain(|s| selection.touches(s));
        }
        only.system_schemas.clear();
        only.accounts = 0;
        for (schema, tables) in &mut only.tables {
            tables.retain(|table, _| selection.has_table(&full(schema), table));
        }
        only.tables.retain(|_, tables| !tables.is_empty());
        only.rows = only.tables.values().flat_map(|tables| tables.values()).map(|t| t.rows).sum();
        only.objects.retain(|(object, schema, name)| {
            let table = self.trigger_tables.get(schema).and_then(|tables| tables.get(name));
            let schema = full(schema);
            let is_of_table = *object == Object::Trigger && table.is_some_and(|t| selection.has_table(&schema, t));
            selection.has_schema(&schema) || is_of_table
        });
        Ok(only)
    }
}
