//! What `bench.sh files` measures of ours: a repository in a folder, with everything on that a backup has.

use std::{path::PathBuf, sync::Arc};

use chom_recovery::{
    Error, ErrorKind, Result,
    catalog::{
        BackupReader, BackupWriter, Capture, Catalog, ComponentKind, ComponentSpec, Encryption, Facts, HostId,
        Repository, Selector, Signer,
        tree::{self, RestoreOptions, StoreOptions},
    },
    files::{Root, Rules, unpack::Policy},
    store,
    system::{StoreSettings, SystemId},
};

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["init", folder] => init(folder.into()).await,
        ["backup", folder, tree] => back_up(folder.into(), tree.into()).await,
        ["restore", folder, target] => restore(folder.into(), target.into()).await,
        _ => Err(Error::new(ErrorKind::InvalidInput, "bench-files init|backup|restore FOLDER [PATH]")),
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
    Repository::init(&store, &system()?, &folder.join("state"), Encryption::None).await?;
    Ok(())
}

async fn open(folder: &std::path::Path) -> Result<(Repository, Signer)> {
    let signer = Signer::load(&folder.join("state"), &system()?)?;
    let store = store::open(&settings(folder))?;
    Ok((Repository::open(store, signer.id().into()).await?, signer))
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
