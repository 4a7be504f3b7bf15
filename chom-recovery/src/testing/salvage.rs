//! What can be read of a simulated server that does not start any more: its files, on a copy, without the tables that it calls
//! corrupt.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::database::{CORRUPT, Data, SCHEMA, SimDatabase, rows, server_on, text, version};
use crate::{
    backend::{Backend, OneOff},
    error::{Error, ErrorKind, Result},
    mysql::salvage::{Extent, SalvagedTable},
    procedure::{
        database::{
            Site,
            ops::{BackUp, Progress},
        },
        salvage::ops::{Attempt, Found, Note, SalvageOps, Wanted},
    },
};

#[async_trait]
impl SalvageOps for SimDatabase {
    async fn require_dead(&self, site: &Site) -> Result<()> {
        match self.served(&site.production().container).await {
            Ok(_) => Err(Error::new(ErrorKind::Precondition, "the server answers")),
            Err(_) => Ok(()),
        }
    }

    async fn salvage(&self, site: &Site, wanted: &Wanted, progress: Progress, note: Note) -> Result<Found> {
        self.require_dead(site).await?;
        SalvageOps::discard(self, site).await?;
        let (production, volume, labels) = (site.production(), site.volume_name(), site.labels(site.role()));
        self.backend.create_volume(&volume, &labels).await?;
        let original = self.backend.volume_folder(site.volume());
        Data::read(&original)?.write(&self.backend.volume_folder(&volume))?;
        note("a copy is made".into());
        let server = OneOff { labels, ..server_on(production, &site.container_name(), &volume) };
        self.backend.one_off(&server).await?;
        let mut data = Data::read(&self.served(&server.name).await?)?;
        let corrupt: Vec<String> =
            text(&original.join(CORRUPT))?.iter().flat_map(|t| t.lines().map(str::to_owned)).collect();
        let lost: BTreeMap<_, _> = corrupt.iter().filter_map(|table| data.tables.remove_entry(table)).collect();
        let table = |(table, text): (&String, &String), extent| SalvagedTable {
            schema: SCHEMA.into(),
            table: table.clone(),
            extent,
            rows: if extent == Extent::Whole { rows(text) } else { 0 },
            level: 1,
            unread: Vec::new(),
            why: (extent == Extent::Nothing).then(|| "a page is damaged".to_owned()),
        };
        let mut tables: Vec<_> = data.tables.iter().map(|t| table(t, Extent::Whole)).collect();
        tables.extend(lost.iter().map(|t| table(t, Extent::Nothing)));
        let request = BackUp { tags: wanted.tags.clone(), run: Some(wanted.run.clone()), ..BackUp::default() };
        let backup = self.store(&data, version(&original)?, &request, &corrupt, progress).await?;
        let attempts = vec![Attempt { level: 0, why: "it ended".into() }];
        Ok(Found { backup, level: 1, attempts, tables, lost: Vec::new(), damaged_pages: Vec::new() })
    }

    async fn discard(&self, site: &Site) -> Result<()> {
        site.clear().await
    }
}
