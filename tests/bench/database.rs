//! A dump of a database, and a load into an empty server.

use std::{path::Path, time::Duration};

use chom_recovery::{
    Result,
    catalog::{BackupReader, BackupWriter, Catalog, ComponentKind, ComponentSpec, HostId, Selector, logical},
    mysql::{Flavour, Login, Server, candidate_args, dump as dumping},
    secret::Secret,
};

use crate::{open, system};

/// Environment variable with the password of root.
const PASSWORD: &str = "BENCH_PASSWORD";

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
    let (repository, _) = open(folder).await?;
    let server = connect(host).await?;
    let info = Catalog::new(&repository, &system()?).select(&Selector::Latest).await?;
    let reader = BackupReader::open(&repository, info.place).await?;
    let loaded = logical::load_from(&reader.component("database").await?, &server, &mut |_| {}).await?;
    println!("{} rows, {} bytes", loaded.report.rows, loaded.report.bytes);
    Ok(())
}
