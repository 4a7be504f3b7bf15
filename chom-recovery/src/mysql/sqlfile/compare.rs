//! Proof that a server holds what a dump promised.

use std::collections::{BTreeMap, BTreeSet};

use super::{Contents, contents::is_system, load::is_same_series};
use crate::{
    error::Result,
    mysql::{
        Comparison, Difference, Objects, Server, TableData,
        baseline::definition_hash,
        dump::objects::collect,
        session::Role,
        tables::{TableName, count_rows},
    },
};

/// Compares a server with the contents of a dump that was loaded into it: schemas, tables, the number of rows of each,
/// every view, trigger, routine, event and sequence, and, where both servers are of one series, the definitions of
/// tables. Reads only.
///
/// A dump holds no checksums: that each row arrived unchanged is known from the load, which counts and allows no
/// changed value.
///
/// # Errors
/// Only when it could not compare; differences are a result.
pub async fn compare(server: &Server, contents: &Contents, default_schema: Option<&str>) -> Result<Comparison> {
    let begun = tokio::time::Instant::now();
    let found = collect(server).await?;
    let mut sides = Sides {
        folds: server.info().lower_case_table_names != 0,
        default: default_schema.unwrap_or_default(),
        differences: Vec::new(),
        definitions: 0,
    };
    sides.names("schema", contents.target_schemas(default_schema), found.schemas.iter().map(|s| s.name.clone()));
    for (kind, here) in here(&found) {
        let promised =
            contents.objects.iter().filter(|(object, schema, _)| object.kind() == kind && !is_system(schema));
        let promised = promised.map(|(_, schema, name)| sides.full(schema, name)).collect();
        sides.names(kind, promised, here.into_iter());
    }
    let promised: BTreeSet<_> = contents.user_tables().map(|(schema, name, _)| sides.full(schema, name)).collect();
    let here: BTreeMap<_, _> =
        found.tables.iter().map(|t| (sides.fold(format!("{}.{}", t.schema, t.name)), t)).collect();
    sides.names("table", promised, here.keys().cloned());

    let compares_definitions = is_same_series(&contents.header, server);
    let mut session = server.session(Role::Read).await?;
    let (mut tables, mut rows) = (0, 0);
    for (schema, name, promised) in contents.user_tables() {
        let full = sides.full(schema, name);
        let Some(table) = here.get(&full) else { continue };
        if compares_definitions
            && promised.definition.as_ref().is_some_and(|d| *d != definition_hash(table.create.bytes()))
        {
            sides.differences.push(Difference::Definition { kind: "table".into(), name: full.clone() });
        }
        // Some engines show rows of others, or none.
        if table.data == TableData::None {
            continue;
        }
        let count =
            count_rows(&mut session, &TableName::new(table.schema.as_str(), table.name.as_str()), table.history)
                .await?;
        tables += 1;
        rows += count;
        if count != promised.rows && !(promised.is_lenient && count <= promised.rows) {
            sides.differences.push(Difference::Rows { table: full, want: promised.rows, found: count });
        }
    }
    session.close().await;
    Ok(Comparison {
        differences: sides.differences,
        tables,
        rows,
        definitions: sides.definitions,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

/// Everything but schemas and tables that a server holds, by kind.
fn here(found: &Objects) -> [(&'static str, Vec<String>); 5] {
    let full = |schema: &str, name: &str| format!("{schema}.{name}");
    [
        ("sequence", found.sequences.iter().map(|s| full(&s.schema, &s.name)).collect()),
        ("view", found.views.iter().map(|v| full(&v.schema, &v.name)).collect()),
        ("routine", found.routines.iter().map(|r| full(&r.schema, &r.name)).collect()),
        ("trigger", found.triggers.iter().map(|t| full(&t.schema, &t.name)).collect()),
        ("event", found.events.iter().map(|e| full(&e.schema, &e.name)).collect()),
    ]
}

struct Sides<'a> {
    /// Whether the server writes names in lower case.
    folds: bool,
    default: &'a str,
    differences: Vec<Difference>,
    definitions: usize,
}

impl Sides<'_> {
    fn fold(&self, name: String) -> String {
        if self.folds { name.to_lowercase() } else { name }
    }

    fn full(&self, schema: &str, name: &str) -> String {
        let schema = if schema.is_empty() { self.default } else { schema };
        self.fold(format!("{schema}.{name}"))
    }

    fn names(&mut self, kind: &str, promised: BTreeSet<String>, here: impl Iterator<Item = String>) {
        let here: BTreeSet<_> = here.map(|name| self.fold(name)).collect();
        let promised: BTreeSet<_> = promised.into_iter().map(|name| self.fold(name)).collect();
        self.definitions += promised.union(&here).count();
        let kind = || kind.to_owned();
        let missing = promised.difference(&here).map(|n| Difference::Missing { kind: kind(), name: n.clone() });
        let extra = here.difference(&promised).map(|n| Difference::Extra { kind: kind(), name: n.clone() });
        self.differences.extend(missing.chain(extra));
    }
}
