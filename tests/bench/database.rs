//! A dump of a database, and what brings one back: rows into an empty server, data files into an empty folder, the dump of
//! another program.

use std::{path::Path, sync::Arc, time::Duration};

use chom_recovery::{
    Result,
    catalog::{BackupReader, BackupWriter, Catalog, ComponentKind, ComponentSpec, HostId, Selector, logical, physical},
    files::Root,
    mysql::{
        Flavour, Login, Server, candidate_args, dump as dumping,
        sqlfile::{self, Limits, LoadOptions},
    },
    secret::Secret,
};

use crate::{open, system};

/// Environment variable with the password of root.
const PASSWORD: &str = "BENCH_PASSWORD";

async fn newest(folder: &Path) -> Result<BackupReader> {
    let (repository, _) = open(folder).await?;
    let info = Catalog::new(&repository, &system()?).select(&Selector::Latest).await?;
    BackupReader::open(&repository, info.place).await
}

async fn connect(host: &str) -> Result<Server> {
    let password = Secret::new(std::env::var(PASSWORD).unwrap_or_default());
    Server::connect(Login::new(host, 3306, "root", password), Duration::from_secs(10)).await
}

/// Prints the arguments of a candidate, one a line.
pub(crate) fn flags(flavour: &str) -> Result<()> {
    let flavour = if flavour == "mysql" { Flavour::Mysql } else { Flavour::Mariadb };
    println!("{}", candidate_args(flavour).join("\n"));
    Ok(())
}

pub(crate) async fn dump(folder: &Path, host: &str) -> Result<()> {
    let (repository, signer) = open(folder).await?;
    let server = connect(host).await?;
    let mut writer = BackupWriter::begin(&repository, &signer, &HostId::derive("bench"), &system()?).await?;
    let component = writer.component(ComponentSpec::new("database", ComponentKind::Logical)?)?;
    let summary = logical::dump_to(&server, &component, &dumping::Options::default(), &mut |_| {}).await?;
    writer.finish(logical::facts(server.info(), &summary)).await?;
    println!("{} rows, {} bytes; {}", summary.rows, summary.bytes, summary.lock);
    Ok(())
}

pub(crate) async fn load(folder: &Path, host: &str) -> Result<()> {
    let server = connect(host).await?;
    let reader = newest(folder).await?;
    let loaded = logical::load_from(&reader.component("database").await?, &server, &mut |_| {}).await?;
    println!("{} rows, {} bytes", loaded.report.rows, loaded.report.bytes);
    Ok(())
}

/// Puts data files into an empty folder, as a candidate's volume is filled.
pub(crate) async fn unpack(folder: &Path, target: &Path) -> Result<()> {
    let reader = newest(folder).await?;
    let unpacked =
        physical::restore(&reader.component("database").await?, &Root::open(target)?, 0, Arc::new(|_, _| {})).await?;
    println!("{} bytes", unpacked.bytes);
    Ok(())
}

/// Proves the dump of another program and loads it.
pub(crate) async fn old(host: &str, path: &Path) -> Result<()> {
    let server = connect(host).await?;
    let begun = std::time::Instant::now();
    let file = sqlfile::read(path, Limits::default(), |_, _| {}).await?;
    let (read, loading) = (begun.elapsed().as_secs_f64(), std::time::Instant::now());
    let report = sqlfile::load(&server, path, &file, &LoadOptions::default(), |_, _| {}).await?;
    let loaded = loading.elapsed().as_secs_f64();
    println!("{} rows; read in {read:.1} s, loaded in {loaded:.1} s", report.rows);
    Ok(())
}
