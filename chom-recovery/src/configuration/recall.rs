//! The configuration out of a backup, for a machine that has nothing.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::write_new;
use crate::{
    catalog::{BackupId, Catalog, Identities, Repository, Signer, TrustedSigners, systems},
    error::{Error, ErrorKind, Result},
    procedure::backup::CONFIGURATION,
    secret::SecretSource,
    store::{self, pipe},
    system::{StoreSettings, System, SystemId},
};

/// What a machine that has nothing is told by a person.
#[derive(Debug, Clone)]
pub struct RecallRequest {
    /// The repository, or its copy.
    pub store: StoreSettings,
    /// Keys whose backups are believed: the card of the system names them.
    pub signers: Vec<String>,
    /// What encrypted backups are read with.
    pub identity: Vec<SecretSource>,
    /// Which system, where the repository holds several.
    pub system: Option<SystemId>,
    /// State directory, where it is to be another.
    pub state_dir: Option<PathBuf>,
}

/// A configuration as the newest backup that holds one remembers it, changed for this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recalled {
    /// The file.
    pub text: String,
    /// Backup that it came from.
    pub backup: BackupId,
    /// The moment whose data that holds.
    pub point: DateTime<Utc>,
    /// System.
    pub system: SystemId,
    /// Components of files that the backup holds.
    pub components: Vec<String>,
}

/// Reads the configuration out of the newest backup that holds one, and makes a signing key for this machine, which is
/// trusted beside the keys that were given.
///
/// # Errors
/// `InvalidInput`: no signer is given, or the repository holds several systems. `NotFound`: no backup holds a
/// configuration. `Authentication`, `Precondition`: no identity that was given opens it.
pub async fn recall(request: &RecallRequest) -> Result<Recalled> {
    if request.signers.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "whose backups are believed? No signer is given")
            .hint("`--signer HEX`: the card of the system names it, and so does `repository.signers`"));
    }
    let store = store::open(&request.store)?;
    let repository = Repository::open(store, TrustedSigners::parse(&request.signers)?).await?;
    let repository = repository.with_identities(Identities::resolve(&request.identity).await);
    let id = match &request.system {
        Some(id) => id.clone(),
        None => only(systems(&repository).await?.into_iter().collect())?,
    };
    let catalog = Catalog::new(&repository, &id);
    let listing = catalog.list().await?;
    for info in listing.backups.iter().rev().filter(|b| b.tombstone.is_none() && !b.is_future_dated) {
        let facts = catalog.open(&info.place).await?.facts().await?;
        let Some(text) = facts.private_notes.get(CONFIGURATION) else { continue };
        let system = changed(System::parse(text)?, request).await?;
        let text = toml::to_string(&system)
            .map_err(|e| Error::new(ErrorKind::Failed, "the configuration cannot be written as TOML").caused_by(e))?;
        let text = format!(
            "# From backup {} of {}, changed for this machine: `repository`, `state_dir`.\n{text}",
            info.id(),
            info.point.format("%F %T UTC")
        );
        let components = system.components.iter().map(|c| c.name.clone()).collect();
        return Ok(Recalled { text, backup: info.id(), point: info.point, system: id, components });
    }
    Err(Error::new(ErrorKind::NotFound, format!("no backup of system `{id}` holds a configuration"))
        .with("backups", listing.backups.len())
        .with("damaged", listing.damaged.len())
        .hint("write one by hand, as the README shows: `chom-recovery config init` drafts it from a running project"))
}

fn only(found: Vec<SystemId>) -> Result<SystemId> {
    match &found[..] {
        [one] => Ok(one.clone()),
        [] => Err(Error::new(ErrorKind::NotFound, "the repository holds no backup")),
        several => {
            let names: Vec<_> = several.iter().map(SystemId::as_str).collect();
            Err(Error::new(ErrorKind::InvalidInput, "the repository holds the backups of several systems")
                .with("systems", names.join(", "))
                .hint("say which: `--system ID`"))
        }
    }
}

/// Keeps what is true on every machine.
async fn changed(mut system: System, request: &RecallRequest) -> Result<System> {
    if let Some(state_dir) = &request.state_dir {
        system.state_dir = Some(state_dir.clone());
    }
    let (folder, id) = (system.state_dir(), system.id.clone());
    let own = pipe::blocking(move || Signer::load_or_create(&folder, &id)).await?.id().to_string();
    let repository = &mut system.repository;
    let StoreSettings { url, s3, sftp } = request.store.clone();
    if repository.url != url {
        (repository.s3, repository.sftp) = (Some(s3), Some(sftp));
        repository.url.clone_from(&url);
    }
    if repository.copy.as_ref().is_some_and(|copy| copy.url == url) {
        repository.copy = None;
    }
    for signer in request.signers.iter().chain([&own]) {
        if !repository.signers.contains(signer) {
            repository.signers.push(signer.clone());
        }
    }
    if !request.identity.is_empty() {
        repository.identity.clone_from(&request.identity);
    }
    Ok(system)
}

impl Recalled {
    /// Writes the configuration to a new file that only its owner can read.
    ///
    /// # Errors
    /// `AlreadyExists`: there is a file; it stays as it is.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_new(path, &self.text)
    }
}
