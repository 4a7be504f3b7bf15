//! What `bench.sh` measures of ours: a repository in a folder, encrypted and signed, with everything on that a backup has.

use std::path::Path;

use chom_recovery::{
    Error, ErrorKind, Result,
    catalog::{Encryption, Identities, Recipients, Repository, Signer},
    secret::Secret,
    store,
    system::{StoreSettings, SystemId},
};

mod database;
mod files;

/// Identities of nobody: they protect nothing but the data of tests.
const OPERATOR: &str = include_str!("../../chom-recovery/src/catalog/tests/golden/operator.identity");
const ESCROW: &str = include_str!("../../chom-recovery/src/catalog/tests/golden/escrow.identity");
const USAGE: &str = "bench init FOLDER | backup FOLDER TREE | restore FOLDER TARGET | fill FOLDER NUMBER | list FOLDER NUMBER | \
                     dump FOLDER HOST | load FOLDER HOST | unpack FOLDER TARGET | old HOST FILE | flags mysql|mariadb";

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["flags", flavour] => return database::flags(flavour),
        ["old", host, file] => return database::old(host, Path::new(file)).await,
        _ => {}
    }
    let [work, folder, rest @ ..] = &words[..] else { return Err(Error::new(ErrorKind::InvalidInput, USAGE)) };
    let folder = Path::new(folder);
    match (*work, rest) {
        ("init", []) => init(folder).await,
        ("backup", [tree]) => files::back_up(folder, Path::new(tree)).await,
        ("restore", [target]) => files::restore(folder, Path::new(target)).await,
        ("fill", [number]) => files::fill(folder, count(number)?).await,
        ("list", [number]) => files::list(folder, count(number)?).await,
        ("dump", [host]) => database::dump(folder, host).await,
        ("load", [host]) => database::load(folder, host).await,
        ("unpack", [target]) => database::unpack(folder, Path::new(target)).await,
        _ => Err(Error::new(ErrorKind::InvalidInput, USAGE)),
    }
}

fn identities(file: &str) -> Result<Identities> {
    Identities::parse(&Secret::new(file))
}

fn recipients() -> Result<Recipients> {
    let (operator, escrow) = (identities(OPERATOR)?, identities(ESCROW)?);
    Recipients::new(operator.recipients().into_iter().chain(escrow.recipients()))
}

fn system() -> Result<SystemId> {
    "bench".to_owned().try_into()
}

fn settings(folder: &Path) -> StoreSettings {
    format!("file:{}/repository", folder.display()).as_str().into()
}

async fn init(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let store = store::create(&settings(folder)).await?;
    let encryption = Encryption::Age { recipients: recipients()?, escrow: identities(ESCROW)? };
    Repository::init(&store, &system()?, &folder.join("state"), encryption).await?;
    Ok(())
}

async fn open(folder: &Path) -> Result<(Repository, Signer)> {
    let signer = Signer::load(&folder.join("state"), &system()?)?;
    let store = store::open(&settings(folder))?;
    let repository = Repository::open(store, signer.id().into()).await?.with_recipients(recipients()?);
    Ok((repository.with_identities(identities(OPERATOR)?), signer))
}

fn count(text: &str) -> Result<usize> {
    text.parse().map_err(|_| Error::new(ErrorKind::InvalidInput, format!("`{text}` is not a number")))
}
