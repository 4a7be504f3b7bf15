//! Single tables, on production's own server.

use std::time::Duration;

use async_trait::async_trait;

use super::{MySqlOps, Progress, Reached, check_version, raise};
use crate::{
    catalog::{BackupReader, ComponentKind, ComponentReader, logical},
    error::{Error, ErrorKind, Result},
    mysql::tables::{Asked, Checked, LocalInfile, Look, Orphans, Place, Placed, Restore},
    procedure::tables::ops::{Loaded, TableOps},
    system::DATABASE,
};

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

#[async_trait]
impl TableOps for MySqlOps {
    async fn look(&self, container: &str, backup: &BackupReader, asked: &Asked, run: &str) -> Result<Look> {
        let component = logical_component(backup).await?;
        let Reached { server, _endpoint } = self.production(container).await?;
        if let Some(from) = &backup.manifest().facts.database {
            check_version(ComponentKind::Logical, from, server.info())?;
        }
        let objects = logical::read_objects(&component).await?;
        let baseline = logical::read_baseline(&component).await?;
        let mut look = server.look_at_tables(&objects, &baseline, asked, run).await?;
        for table in &mut look.tables {
            let parts = logical::parts_of(&component, &table.source.schema, &table.source.name);
            table.bytes = parts.map(|part| part.plain_len).sum();
        }
        Ok(look)
    }

    async fn load(
        &self,
        container: &str,
        backup: &BackupReader,
        places: &[Placed],
        switch_local_infile_on: bool,
        progress: Progress,
    ) -> Result<Loaded> {
        let component = logical_component(backup).await?;
        let objects = logical::read_objects(&component).await?;
        let Reached { server, _endpoint } = self.production(container).await?;
        let parts = || places.iter().flat_map(|p| logical::parts_of(&component, &p.source.schema, &p.source.name));
        let total = parts().map(|part| part.plain_len).sum();
        let mut loaded = Loaded {
            read: logical::stored_definitions(&component) + parts().map(|part| part.stored_len).sum::<u64>(),
            of: component.parts().iter().map(|part| part.stored_len).sum(),
            ..Loaded::default()
        };
        let local_infile = if switch_local_infile_on { LocalInfile::WhileLoading } else { LocalInfile::AsIs };
        let mut restore = Restore::begin(&server, &objects, places, local_infile).await?;
        let load = async {
            for part in parts() {
                let chunk = logical::incoming(&component, part)?;
                loaded.rows += chunk.rows;
                loaded.bytes += restore.chunk(chunk).await?;
                progress(loaded.bytes, Some(total));
            }
            Ok::<_, Error>(loaded)
        };
        let done = load.await;
        let ended = restore.end().await;
        let loaded = done?;
        ended.map(|()| loaded)
    }

    async fn verify(&self, container: &str, backup: &BackupReader, places: &[Placed]) -> Result<Checked> {
        let objects = logical::read_objects(&logical_component(backup).await?).await?;
        self.production(container).await?.server.check_restored(places, &objects.tables).await
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
