//! What a backup has of tables: ours with hashes of every row, a dump of another program with what its text tells.

use super::{DumpTables, TableName};
use crate::{
    error::{Error, ErrorKind, Result},
    mysql::{
        baseline::{Baseline, RowHash, definition_hash},
        objects::{Objects, Trigger},
        server::Server,
    },
};

/// Where tables are taken from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Holding<'a> {
    /// A logical backup.
    Backup(&'a Objects, &'a Baseline),
    /// A dump of another program.
    Dump(&'a DumpTables),
}

/// One table.
#[derive(Debug)]
pub(super) struct Offer<'a> {
    pub(super) create: &'a [u8],
    pub(super) rows: u64,
    /// Bytes of its rows, where the definitions tell them.
    pub(super) bytes: u64,
    pub(super) row_hash: Option<RowHash>,
    pub(super) next_id: Option<u64>,
    /// Whether this server writes definitions as the backup has them.
    pub(super) compares_definition: bool,
}

impl<'a> Holding<'a> {
    /// Lists the tables of a schema.
    pub(super) fn tables_of(&self, schema: &str) -> Vec<TableName> {
        match self {
            Self::Backup(objects, _) => {
                let of_schema = objects.tables.iter().filter(|t| t.schema == schema);
                of_schema.map(|t| TableName::new(schema, t.name.as_str())).collect()
            }
            Self::Dump(dump) => dump.tables_of(schema),
        }
    }

    /// Lists the schemas.
    pub(super) fn schemas(&self) -> Vec<String> {
        match self {
            Self::Backup(objects, _) => objects.schemas.iter().map(|s| s.name.clone()).collect(),
            Self::Dump(dump) => dump.schemas(),
        }
    }

    /// Triggers of the tables, as far as they are known.
    pub(super) fn triggers(&self) -> &'a [Trigger] {
        match self {
            Self::Backup(objects, _) => &objects.triggers,
            Self::Dump(dump) => dump.triggers(),
        }
    }

    /// Refuses a server that cannot take the tables.
    pub(super) fn check_server(&self, server: &Server) -> Result<()> {
        let info = server.info();
        if let Self::Backup(objects, _) = self {
            let refuse = |what: String| Err(Error::new(ErrorKind::Unsupported, what));
            if objects.format != 1 {
                return refuse(format!("definitions have format {}, and this version reads format 1", objects.format));
            }
            if info.flavour != objects.flavour {
                return refuse(format!(
                    "the backup is of {} {}, the server is {}",
                    objects.flavour, objects.version, info.flavour
                ));
            }
            if info.lower_case_table_names != objects.lower_case_table_names {
                return refuse(format!(
                    "lower_case_table_names is {}, and was {} at the source",
                    info.lower_case_table_names, objects.lower_case_table_names
                ));
            }
        }
        if info.read_only {
            return Err(Error::new(ErrorKind::Precondition, "the server is read-only: is it a replica?")
                .hint("restore on the server that production writes to; replicas get the rows from it"));
        }
        Ok(())
    }

    /// Finds a table.
    ///
    /// # Errors
    /// `NotFound`: there is none; those of the schema are named. `Corrupt`: the backup contradicts itself.
    /// `Unsupported`: its rows cannot be taken alone.
    pub(super) fn offer(&self, name: &TableName) -> Result<Offer<'a>> {
        match self {
            Self::Backup(objects, baseline) => offer_of_backup(objects, baseline, name)?,
            Self::Dump(dump) => dump.offer(name)?,
        }
        .ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &TableName) -> Error {
        let kind = match self {
            Self::Backup(objects, _) => {
                let same = |schema: &str, other: &str| schema == name.schema && other == name.name;
                if objects.views.iter().any(|v| same(&v.schema, &v.name)) {
                    ": that is a view, which has no rows of its own"
                } else if objects.sequences.iter().any(|s| same(&s.schema, &s.name)) {
                    ": that is a sequence"
                } else {
                    ""
                }
            }
            Self::Dump(dump) => dump.other_kind(name),
        };
        let names: Vec<_> = self.tables_of(&name.schema).into_iter().map(|t| t.name).collect();
        let list = match names.len() {
            0 => format!("none; its schemas: {}", self.schemas().join(", ")),
            1..=20 => names.join(", "),
            more => format!("{}, … ({more})", names[..20].join(", ")),
        };
        Error::new(ErrorKind::NotFound, format!("the backup has no table `{name}`{kind}"))
            .hint(format!("tables of that schema in the backup: {list}"))
    }
}

fn offer_of_backup<'a>(objects: &'a Objects, baseline: &Baseline, name: &TableName) -> Result<Option<Offer<'a>>> {
    let corrupt = |what: String| Error::new(ErrorKind::Corrupt, what);
    let Some(table) = objects.tables.iter().find(|t| t.schema == name.schema && t.name == name.name) else {
        return Ok(None);
    };
    let promised = baseline.tables.iter().find(|t| t.schema == name.schema && t.table == name.name);
    let promised = promised.ok_or_else(|| corrupt(format!("the backup promises nothing of `{name}`")))?;
    let census = baseline.census.get("table").and_then(|names| names.get(&name.to_string()));
    if census != Some(&definition_hash(table.create.bytes())) {
        return Err(corrupt(format!("the backup's definition of `{name}` is not the one that it promises")));
    }
    Ok(Some(Offer {
        create: table.create.bytes(),
        rows: promised.rows,
        bytes: 0,
        row_hash: Some(promised.row_hash),
        next_id: promised.auto_increment,
        compares_definition: true,
    }))
}
