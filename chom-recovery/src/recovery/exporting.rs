//! What a backup holds, and a backup as a plain file.

use serde::{Deserialize, Serialize};

use super::Recovery;
use crate::{
    catalog::{
        Catalog, Selector,
        export::{ExportOf, ExportReport, ExportTo, export},
        legacy::LegacyContents,
    },
    error::{Error, ErrorKind, Result},
    system::DATABASE,
};

/// What a backup holds of the database, told without a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupContents {
    /// The backup.
    pub backup: String,
    /// Tables, by schema and name.
    pub tables: Vec<TableInBackup>,
    /// Other objects: how many of each kind.
    pub objects: std::collections::BTreeMap<String, u64>,
    /// What is wrong with it; empty for a sound one. Only a dump is read for this.
    pub problems: Vec<String>,
}

/// One table of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableInBackup {
    /// Schema; empty where a dump names none.
    pub schema: String,
    /// Table.
    pub table: String,
    /// Rows.
    pub rows: u64,
    /// Bytes of its rows, uncompressed.
    pub bytes: u64,
}

impl Recovery {
    /// Lists what a backup holds of the database: of the repository by what was recorded and signed when it was taken,
    /// of a dump by reading it to its end. `progress` gets stored bytes of a dump done and in all.
    ///
    /// # Errors
    /// `NotFound`: there is no such backup, or it holds no database. `Unsupported`: it is an archive. `Precondition`: it is
    /// sealed, and there is no identity to read it with.
    pub async fn backup_contents(
        &self,
        which: &Selector,
        progress: impl Fn(u64, u64) + Send + 'static,
    ) -> Result<BackupContents> {
        if let Selector::Legacy(name) = which {
            return self.dump_contents(name, progress).await;
        }
        let repository = self.repository().await?;
        let catalog = Catalog::new(&repository, &self.system.id).holding(DATABASE);
        let info = catalog.select(which).await?;
        let reader = catalog.open(&info.place).await?;
        let component = reader.component(DATABASE).await?;
        let size = |schema: &str, table: &str| {
            let is_of = |p: &&crate::catalog::PartRecord| {
                p.meta.schema.as_deref() == Some(schema) && p.meta.table.as_deref() == Some(table)
            };
            component.parts().iter().filter(is_of).map(|p| p.plain_len).sum()
        };
        let baselines = &reader.private().await?.baselines;
        let table = |t: &crate::catalog::TableBaseline| TableInBackup {
            schema: t.schema.clone(),
            table: t.table.clone(),
            rows: t.rows,
            bytes: size(&t.schema, &t.table),
        };
        Ok(BackupContents {
            backup: info.id().to_string(),
            tables: baselines.tables.iter().map(table).collect(),
            objects: baselines
                .objects
                .iter()
                .filter(|(kind, _)| *kind != "table")
                .map(|(k, n)| (k.clone(), *n))
                .collect(),
            problems: Vec::new(),
        })
    }

    async fn dump_contents(&self, name: &str, progress: impl Fn(u64, u64) + Send + 'static) -> Result<BackupContents> {
        let report = self.verify_legacy(name, progress).await?;
        let LegacyContents::Dump(contents) = &report.contents else {
            let backup = report.backup.name();
            return Err(match report.findings.first() {
                Some(finding) => Error::new(ErrorKind::Corrupt, format!("`{backup}` cannot be read: {finding}")),
                None => Error::new(ErrorKind::Unsupported, format!("`{backup}` is an archive, and holds no tables"))
                    .hint("`backup verify` says what it holds"),
            });
        };
        let mut objects = std::collections::BTreeMap::new();
        for (object, ..) in &contents.objects {
            *objects.entry(object.kind().to_owned()).or_default() += 1;
        }
        if !contents.schemas.is_empty() {
            objects.insert("schema".to_owned(), contents.schemas.len() as u64);
        }
        let tables = contents.tables.iter().flat_map(|(schema, tables)| {
            tables.iter().map(|(table, t)| TableInBackup {
                schema: schema.clone(),
                table: table.clone(),
                rows: t.rows,
                bytes: t.bytes,
            })
        });
        Ok(BackupContents {
            backup: report.backup.name(),
            tables: tables.collect(),
            objects,
            problems: contents.problems.iter().map(|p| format!("byte {}: {}", p.offset, p.text)).collect(),
        })
    }

    /// Writes a logical backup of the repository as a plain SQL file that `mysql` and `mariadb` read. `progress` gets plain
    /// bytes done and in all.
    ///
    /// # Errors
    /// `NotFound`: there is no such backup. `Unsupported`: it is a file already, or holds no rows that could be written.
    /// Those of [`export`].
    pub async fn export_backup(
        &self,
        which: &Selector,
        to: ExportTo,
        with_accounts: bool,
        progress: impl Fn(u64, u64) + Send,
    ) -> Result<ExportReport> {
        if let Selector::Legacy(name) = which {
            return Err(Error::new(ErrorKind::Unsupported, format!("`{name}` is a plain file already")));
        }
        let repository = self.repository().await?;
        let catalog = Catalog::new(&repository, &self.system.id).holding(DATABASE);
        let info = catalog.select(which).await?;
        let reader = catalog.open(&info.place).await?;
        let component = reader.component(DATABASE).await?;
        let of = ExportOf { name: format!("backup {}", info.id()), point: info.point, with_accounts };
        export(&component, &of, to, progress).await
    }
}
