//! What `bench.sh files` measures of ours: a repository in a folder, encrypted and signed, with everything on that a backup has.

use std::{path::PathBuf, sync::Arc};

use chom_recovery::{
    Error, ErrorKind, Result,
    catalog::{
        BackupReader, BackupWriter, Capture, Catalog, ComponentKind, ComponentSpec, Encryption, Facts, HostId,
        Identities, PartMeta, Recipients, Repository, Selector, Signer,
        tree::{self, RestoreOptions, StoreOptions},
    },
    files::{Root, Rules, unpack::Policy},
    secret::Secret,
    store, stream,
    system::{StoreSettings, SystemId},
};
use futures::{StreamExt, TryStreamExt};

/// Identities of nobody: they protect nothing but the data of tests.
const OPERATOR: &str = include_str!("../../chom-recovery/src/catalog/tests/golden/operator.identity");
const ESCROW: &str = include_str!("../../chom-recovery/src/catalog/tests/golden/escrow.identity");

fn identities(file: &str) -> Result<Identities> {
    Identities::parse(&Secret::new(file))
}

fn recipients() -> Result<Recipients> {
    let (operator, escrow) = (identities(OPERATOR)?, identities(ESCROW)?);
    Recipients::new(operator.recipients().into_iter().chain(escrow.recipients()))
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["init", folder] => init(folder.into()).await,
        ["backup", folder, tree] => back_up(folder.into(), tree.into()).await,
        ["restore", folder, target] => restore(folder.into(), target.into()).await,
        ["fill", folder, number] => fill(folder.into(), count(number)?).await,
        ["list", folder, number] => list(folder.into(), count(number)?).await,
        _ => Err(Error::new(ErrorKind::InvalidInput, "bench-files init|backup|restore|fill|list FOLDER [PATH|NUMBER]")),
    }
}

fn system() -> Result<SystemId> {
    "bench".to_owned().try_into()
}

fn settings(folder: &std::path::Path) -> StoreSettings {
    format!("file:{}/repository", folder.display()).as_str().into()
}

async fn init(folder: PathBuf) -> Result<()> {
    std::fs::create_dir_all(&folder)?;
    let store = store::create(&settings(&folder)).await?;
    let encryption = Encryption::Age { recipients: recipients()?, escrow: identities(ESCROW)? };
    Repository::init(&store, &system()?, &folder.join("state"), encryption).await?;
    Ok(())
}

async fn open(folder: &std::path::Path) -> Result<(Repository, Signer)> {
    let signer = Signer::load(&folder.join("state"), &system()?)?;
    let store = store::open(&settings(folder))?;
    let repository = Repository::open(store, signer.id().into()).await?.with_recipients(recipients()?);
    Ok((repository.with_identities(identities(OPERATOR)?), signer))
}

async fn back_up(folder: PathBuf, path: PathBuf) -> Result<()> {
    let (repository, signer) = open(&folder).await?;
    let begin = repository.ids().now();
    let mut writer = BackupWriter::begin(&repository, &signer, &HostId::derive("bench"), &system()?).await?;
    let level = std::env::var("BENCH_LEVEL").ok().and_then(|l| l.parse().ok()).unwrap_or(1);
    let component = writer.component(ComponentSpec::new("app", ComponentKind::Files)?.level(level))?;
    let options = StoreOptions::new(Rules::none());
    let (stored, _) = tree::store_tree(&component, &Root::open(&path)?, &options, Arc::new(|_, _| {})).await?;
    let capture = Capture { begin, point: begin, end: repository.ids().now() };
    writer.finish(Facts::new(capture)).await?;
    println!("{} entries, {} bytes", stored.entries, stored.bytes);
    Ok(())
}

fn count(text: &str) -> Result<usize> {
    text.parse().map_err(|_| Error::new(ErrorKind::InvalidInput, format!("`{text}` is not a number")))
}

/// Takes so many backups of next to nothing, on hosts of a thousand each: a backup begins with a look at all others of its host.
async fn fill(folder: PathBuf, number: usize) -> Result<()> {
    let (repository, signer) = open(&folder).await?;
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

async fn list(folder: PathBuf, number: usize) -> Result<()> {
    let (repository, _) = open(&folder).await?;
    let listing = Catalog::new(&repository, &system()?).list().await?;
    if listing.backups.len() == number {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Failed, format!("{} of {number} backups are listed", listing.backups.len())))
}

async fn restore(folder: PathBuf, target: PathBuf) -> Result<()> {
    let (repository, _) = open(&folder).await?;
    let info = Catalog::new(&repository, &system()?).select(&Selector::Latest).await?;
    let reader = BackupReader::open(&repository, info.place).await?;
    let component = reader.component("app").await?;
    let options = RestoreOptions::new(Policy::default(), 0);
    let (unpacked, _) = tree::restore_tree(&component, &target, &options, Arc::new(|_, _| {})).await?;
    println!("{} entries, {} bytes", unpacked.entries(), unpacked.bytes);
    Ok(())
}
