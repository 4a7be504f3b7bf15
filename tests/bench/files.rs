//! Backups of file trees, and many backups of next to nothing.

use std::{path::Path, sync::Arc};

use chom_recovery::{
    Error, ErrorKind, Result,
    catalog::{
        BackupReader, BackupWriter, Capture, Catalog, ComponentKind, ComponentSpec, Facts, HostId, PartMeta, Selector,
        tree::{self, RestoreOptions, StoreOptions},
    },
    files::{Root, Rules, unpack::Policy},
    stream,
};
use futures::{StreamExt, TryStreamExt};

use crate::{open, system};

pub(crate) async fn back_up(folder: &Path, path: &Path) -> Result<()> {
    let (repository, signer) = open(folder).await?;
    let begin = repository.ids().now();
    let mut writer = BackupWriter::begin(&repository, &signer, &HostId::derive("bench"), &system()?).await?;
    let level = std::env::var("BENCH_LEVEL").ok().and_then(|l| l.parse().ok()).unwrap_or(1);
    let component = writer.component(ComponentSpec::new("app", ComponentKind::Files)?.level(level))?;
    let options = StoreOptions::new(Rules::none());
    let (stored, _) = tree::store_tree(&component, &Root::open(path)?, &options, Arc::new(|_, _| {})).await?;
    let capture = Capture { begin, point: begin, end: repository.ids().now() };
    writer.finish(Facts::new(capture)).await?;
    println!("{} entries, {} bytes", stored.entries, stored.bytes);
    Ok(())
}

/// Takes so many backups of next to nothing, on hosts of a thousand each: a backup begins with a look at all others of its host.
pub(crate) async fn fill(folder: &Path, number: usize) -> Result<()> {
    let (repository, signer) = open(folder).await?;
    let system = system()?;
    let one = async |nth: usize| {
        let host = HostId::derive(&format!("bench-{}", nth / 1000));
        let begin = repository.ids().now();
        let mut writer = BackupWriter::begin(&repository, &signer, &host, &system).await?;
        let component = writer.component(ComponentSpec::new("database", ComponentKind::Logical)?)?;
        component
            .put(0, PartMeta { what: "rows".into(), rows: Some(1), ..PartMeta::default() }, stream::once("1"))
            .await?;
        writer.finish(Facts::new(Capture { begin, point: begin, end: repository.ids().now() })).await
    };
    futures::stream::iter(0..number).map(one).buffer_unordered(16).try_for_each(async |_| Ok(())).await
}

pub(crate) async fn list(folder: &Path, number: usize) -> Result<()> {
    let (repository, _) = open(folder).await?;
    let listing = Catalog::new(&repository, &system()?).list().await?;
    if listing.backups.len() == number {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Failed, format!("{} of {number} backups are listed", listing.backups.len())))
}

pub(crate) async fn restore(folder: &Path, target: &Path) -> Result<()> {
    let (repository, _) = open(folder).await?;
    let info = Catalog::new(&repository, &system()?).select(&Selector::Latest).await?;
    let reader = BackupReader::open(&repository, info.place).await?;
    let component = reader.component("app").await?;
    let options = RestoreOptions::new(Policy::default(), 0);
    let (unpacked, _) = tree::restore_tree(&component, target, &options, Arc::new(|_, _| {})).await?;
    println!("{} entries, {} bytes", unpacked.entries(), unpacked.bytes);
    Ok(())
}
