//! Single tables, on production's own server.

use std::time::Duration;

use async_trait::async_trait;

use super::{super::source, MySqlOps, Progress, Reached, check_version, legacy, raise};
use crate::{
    catalog::{BackupReader, ComponentKind, ComponentReader, logical},
    error::{Error, ErrorKind, Result},
    mysql::tables::{
        Asked, Checked, DumpFile, DumpTables, Holding, LocalInfile, Look, Orphans, Place, Placed, Restore,
        fill_from_dump,
    },
    procedure::{
        database::{LegacyDump, Source},
        tables::ops::{Loaded, TableOps},
    },
    system::DATABASE,
};

/// Connections that add rows at once: the server goes on serving others.
const CONNECTIONS: usize = 2;

/// Longest time for counting rows without parents.
const COUNTING: Duration = Duration::from_mins(2);

/// Opens the database of a logical backup.
async fn logical_component(backup: &BackupReader) -> Result<ComponentReader> {
    let kind = &backup.manifest().component(DATABASE)?.kind;
    if *kind != ComponentKind::Logical {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("backup {} holds data files, of which no single table can be taken", backup.manifest().id),
        )
        .hint("name a logical one with `--backup`, or restore this one whole"));
    }
    backup.component(DATABASE).await
}

impl MySqlOps {
    async fn look_into_dump(&self, container: &str, dump: &LegacyDump, asked: &Asked, run: &str) -> Result<Look> {
        let Reached { server, _endpoint } = self.production(container).await?;
        let notes = legacy::check_version(&dump.file.contents, &server)?;
        let from = self.dump_file(dump)?;
        let mut tables = DumpTables::new(dump.file.clone(), from.default_schema, &server);
        let wanted = asked.sources(&Holding::Dump(&tables))?;
        tables.read(&from.path, from.limits, &wanted).await?;
        let look = server.look_at_tables(&Holding::Dump(&tables), asked, run).await?;
        Ok(Look { notes, ..look })
    }

    fn dump_file(&self, dump: &LegacyDump) -> Result<DumpFile> {
        let limits = source::limits(self.legacy_settings()?);
        let default_schema = self.default_schema_of(dump)?;
        Ok(DumpFile { path: dump.path.clone(), file: dump.file.clone(), limits, default_schema })
    }

    async fn fill_from(
        &self,
        container: &str,
        dump: &LegacyDump,
        places: &[Placed],
        switch_local_infile_on: bool,
        progress: Progress,
    ) -> Result<Loaded> {
        let Reached { server, _endpoint } = self.production(container).await?;
        let local_infile = if switch_local_infile_on { LocalInfile::WhileLoading } else { LocalInfile::IfOn };
        let from = self.dump_file(dump)?;
        let told = |done, total| progress(done, Some(total));
        let report = fill_from_dump(&server, &from, places, local_infile, CONNECTIONS, told).await?;
        let stored = dump.file.stored.bytes;
        Ok(Loaded { rows: report.rows, bytes: report.bytes, read: stored, of: stored, warnings: report.warnings })
    }
}

#[async_trait]
impl TableOps for MySqlOps {
    async fn look(&self, container: &str, backup: &Source, asked: &Asked, run: &str) -> Result<Look> {
        let backup = match backup {
            Source::Repository(backup) => backup,
            Source::Legacy(dump) => return self.look_into_dump(container, dump, asked, run).await,
        };
        let component = logical_component(backup).await?;
        let Reached { server, _endpoint } = self.production(container).await?;
        if let Some(from) = &backup.manifest().facts.database {
            check_version(ComponentKind::Logical, from, server.info())?;
        }
        let objects = logical::read_objects(&component).await?;
        let baseline = logical::read_baseline(&component).await?;
        let mut look = server.look_at_tables(&Holding::Backup(&objects, &baseline), asked, run).await?;
        for table in &mut look.tables {
            let parts = logical::parts_of(&component, &table.source.schema, &table.source.name);
            table.bytes = parts.map(|part| part.plain_len).sum();
        }
        Ok(look)
    }

    async fn load(
        &self,
        container: &str,
        backup: &Source,
        places: &[Placed],
        switch_local_infile_on: bool,
        progress: Progress,
    ) -> Result<Loaded> {
        let backup = match backup {
            Source::Repository(backup) => backup,
            Source::Legacy(dump) => {
                return self.fill_from(container, dump, places, switch_local_infile_on, progress).await;
            }
        };
        let component = logical_component(backup).await?;
        let objects = logical::read_objects(&component).await?;
        let Reached { server, _endpoint } = self.production(container).await?;
        let parts = || places.iter().flat_map(|p| logical::parts_of(&component, &p.source.schema, &p.source.name));
        let total = parts().map(|part| part.plain_len).sum();
        let local_infile = if switch_local_infile_on { LocalInfile::WhileLoading } else { LocalInfile::AsIs };
        let mut restore = Restore::begin(&server, &objects, places, local_infile).await?;
        let load = async {
            let chunks = parts().map(|part| logical::incoming(&component, part)).collect::<Result<Vec<_>>>()?;
            let sizes = places.iter().map(|p| ((p.source.schema.clone(), p.source.name.clone()), p.bytes)).collect();
            restore.chunks(chunks, &sizes, CONNECTIONS, |done| progress(done, Some(total))).await
        };
        let done = load.await;
        let ended = restore.end().await;
        let (rows, bytes) = done?;
        ended.map(|()| Loaded {
            rows,
            bytes,
            read: logical::stored_definitions(&component) + parts().map(|part| part.stored_len).sum::<u64>(),
            of: component.parts().iter().map(|part| part.stored_len).sum(),
            warnings: Vec::new(),
        })
    }

    async fn verify(&self, container: &str, backup: &Source, places: &[Placed]) -> Result<Checked> {
        let tables = match backup {
            Source::Repository(backup) => logical::read_objects(&logical_component(backup).await?).await?.tables,
            Source::Legacy(_) => Vec::new(),
        };
        self.production(container).await?.server.check_restored(places, &tables).await
    }

    async fn discard(&self, container: &str, places: &[Placed], switch_local_infile_off: bool) -> Result<()> {
        self.production(container).await?.server.discard_restored(places, switch_local_infile_off).await
    }

    async fn place(&self, container: &str, places: &[Placed]) -> Result<Place> {
        self.production(container).await?.server.place_of_tables(places).await
    }

    async fn swap(&self, container: &str, places: &[Placed]) -> Result<()> {
        let Reached { server, _endpoint } = self.production(container).await?;
        server.swap_tables(places).await?;
        // Ids of a table that was gone may have been given out since the backup, and nothing tells which.
        let gone: Vec<_> = places.iter().filter(|p| p.present.is_none() && !p.is_copy()).collect();
        if gone.is_empty() {
            return Ok(());
        }
        for counter in server.counters().await? {
            let name = |p: &&&Placed| p.target.schema == counter.schema && p.target.name == counter.table;
            // Once: from the backup's value on, whatever an interrupted attempt did.
            if let Some(from) = gone.iter().find(name).and_then(|p| p.next_id) {
                let counter = crate::mysql::Counter { next: from.min(counter.next), ..counter };
                let wanted = raise::wanted(&counter, None, self.system.database.id_gap);
                server.raise_auto_increment(&counter.schema, &counter.table, wanted).await?;
            }
        }
        Ok(())
    }

    async fn take_back(&self, container: &str, places: &[Placed]) -> Result<()> {
        self.production(container).await?.server.take_tables_back(places).await
    }

    async fn orphans(&self, container: &str, places: &[Placed]) -> Result<Vec<Orphans>> {
        self.production(container).await?.server.count_orphans(places, COUNTING).await
    }
}
