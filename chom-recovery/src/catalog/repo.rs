//! A repository: a store with an identity, and the keys whose word counts in it.

use std::{path::Path, sync::Arc};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    catalog::{
        FORMAT, READER,
        id::{Ids, RepositoryId},
        layout,
        sign::{Signer, SignerId, TrustedSigners},
    },
    error::{Error, ErrorKind, Result},
    store::{BackupStore, Key, absent::AbsentStore},
    stream,
    system::{self, SystemId},
};

/// More than any `chom-repo.json`.
const LIMIT: usize = 64 << 10;

/// How the bytes of a repository's parts are protected; there is no default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Encryption {
    /// Not at all: whoever can read the store can read the data.
    None,
}

/// What `chom-repo.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositoryFile {
    /// Version of the format.
    pub format: u32,
    /// Oldest reader that understands the repository.
    pub min_reader: u32,
    /// Identity, also in every manifest.
    pub id: RepositoryId,
    /// When it was made, by the store's clock.
    pub created: DateTime<Utc>,
    /// How parts are protected.
    pub encryption: Encryption,
    /// Public key of the host that made it: for people to compare, never trusted by itself.
    pub signers: Vec<SignerId>,
}

/// What `repo init` made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Initialized {
    /// Identity of the repository.
    pub repository: RepositoryId,
    /// Public key to add to `repository.signers` of the configuration, in hex.
    pub signer: SignerId,
}

/// An open repository.
#[derive(Debug, Clone)]
pub struct Repository {
    store: Arc<dyn BackupStore>,
    file: Arc<RepositoryFile>,
    trusted: Arc<TrustedSigners>,
    ids: Ids,
}

fn key() -> Key {
    layout::REPOSITORY.parse().expect("a constant key")
}

impl Repository {
    /// Makes a repository out of a store, and the system's signing key below `state_dir`.
    ///
    /// After a crash half-way it can be called again: a key that exists is used.
    ///
    /// # Errors
    /// `AlreadyExists`: the store is a repository; nothing was changed.
    pub async fn init(
        store: &Arc<dyn BackupStore>,
        system: &SystemId,
        state_dir: &Path,
        encryption: Encryption,
    ) -> Result<Initialized> {
        let exists = || {
            Error::new(ErrorKind::AlreadyExists, format!("`{}` is a repository already", store.url()))
                .hint("use it as it is, or choose another folder; an existing repository is never overwritten")
        };
        if store.stat(&key()).await?.is_some() {
            return Err(exists());
        }
        let (folder, id) = (state_dir.to_owned(), system.clone());
        let signer = crate::store::pipe::blocking(move || Signer::load_or_create(&folder, &id)).await?;
        let file = RepositoryFile {
            format: FORMAT,
            min_reader: READER,
            id: RepositoryId::random(),
            created: store.now().await?,
            encryption,
            signers: vec![signer.id()],
        };
        let mut text = serde_json::to_vec_pretty(&file)
            .map_err(|e| Error::new(ErrorKind::Failed, "cannot encode the repository file").caused_by(e))?;
        text.push(b'\n');
        store.put_new(&key(), stream::once(text)).await.map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => exists(),
            _ => e,
        })?;
        Ok(Initialized { repository: file.id, signer: signer.id() })
    }

    /// Opens the repository in a store. Without a trusted signer nothing in it can be read.
    ///
    /// # Errors
    /// `NotFound`: the store is no repository. `Unsupported`: a newer format, or encryption that this version does
    /// not have. `Corrupt`: its file is damaged. `Precondition`: no signer is trusted.
    pub async fn open(store: Arc<dyn BackupStore>, trusted: TrustedSigners) -> Result<Self> {
        let body = store.get(&key(), None).await.map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::new(ErrorKind::NotFound, format!("`{}` is not a repository", store.url()))
                .hint("check that its disk is mounted; `chom-recovery repo init` makes a new one")
                .caused_by(e),
            _ => e,
        })?;
        let text = stream::collect(body, LIMIT).await?;
        let file = parse(&text).map_err(|e| e.with("store", store.url()))?;
        if trusted.is_empty() {
            return Err(Error::new(ErrorKind::Precondition, "no signer is trusted: `repository.signers` is empty")
                .with("store", store.url())
                .hint("add the public key that `chom-recovery repo init` printed on the host that makes the backups"));
        }
        Ok(Self { store, file: Arc::new(file), trusted: Arc::new(trusted), ids: Ids::default() })
    }

    /// Stands in for a repository that could not be opened, or was not asked: everything in it fails because of `why`.
    /// A run that was begun before needs its backup in a few steps only, and its rollback in none.
    pub(crate) fn absent(url: &str, why: Error) -> Self {
        // `NotFound` speaks of backups from here on, and nobody knows whether there are any.
        let why = if why.kind() == ErrorKind::NotFound { why.of_kind(ErrorKind::Unreachable) } else { why };
        let file = RepositoryFile {
            format: FORMAT,
            min_reader: READER,
            // Nobody gets to see it: whatever reads or writes asks the store first.
            id: RepositoryId::random(),
            created: DateTime::UNIX_EPOCH,
            encryption: Encryption::None,
            signers: Vec::new(),
        };
        Self {
            store: Arc::new(AbsentStore::new(url, &why)),
            file: Arc::new(file),
            trusted: Arc::default(),
            ids: Ids::default(),
        }
    }

    /// Opens the repository that a system's configuration names.
    pub async fn open_configured(config: &system::Repository) -> Result<Self> {
        let url = config.url.clone();
        let store = crate::store::pipe::blocking(move || crate::store::open(&url)).await?;
        Self::open(store, TrustedSigners::parse(&config.signers)?).await
    }

    /// Replaces the clock and the source of randomness.
    #[must_use]
    pub fn with_ids(mut self, ids: Ids) -> Self {
        self.ids = ids;
        self
    }

    /// Returns the store below.
    pub fn store(&self) -> &Arc<dyn BackupStore> {
        &self.store
    }

    /// Returns what `chom-repo.json` says.
    pub fn file(&self) -> &RepositoryFile {
        &self.file
    }

    /// Returns the identity.
    pub fn id(&self) -> &RepositoryId {
        &self.file.id
    }

    /// Returns the keys whose signatures count.
    pub fn trusted(&self) -> &TrustedSigners {
        &self.trusted
    }

    /// Returns the clock and source of ids.
    pub fn ids(&self) -> &Ids {
        &self.ids
    }
}

fn parse(text: &[u8]) -> Result<RepositoryFile> {
    #[derive(Deserialize)]
    struct Versions {
        min_reader: u32,
        encryption: String,
    }
    let bad = |e: serde_json::Error| {
        Error::new(ErrorKind::Corrupt, format!("`{}` of the repository is damaged", layout::REPOSITORY)).caused_by(e)
    };
    let versions: Versions = serde_json::from_slice(text).map_err(bad)?;
    if versions.min_reader > READER {
        return Err(Error::new(ErrorKind::Unsupported, "the repository has a newer format")
            .with("needs reader", versions.min_reader)
            .with("this is reader", READER)
            .hint("use a newer version of chom-recovery"));
    }
    if versions.encryption != "none" {
        return Err(Error::new(ErrorKind::Unsupported, "the repository is encrypted in a way unknown to this version")
            .with("encryption", versions.encryption)
            .hint("use a newer version of chom-recovery"));
    }
    serde_json::from_slice(text).map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    fn system() -> SystemId {
        "chom".to_owned().try_into().unwrap()
    }

    async fn made() -> (Arc<dyn BackupStore>, Initialized, tempfile::TempDir) {
        let store: Arc<dyn BackupStore> = Arc::new(MemoryStore::new());
        let state = tempfile::tempdir().unwrap();
        let made = Repository::init(&store, &system(), state.path(), Encryption::None).await.unwrap();
        (store, made, state)
    }

    #[tokio::test]
    async fn what_init_made_can_be_opened_with_the_key_it_names() {
        let (store, made, state) = made().await;
        let trusted = TrustedSigners::parse(&[made.signer.to_string()]).unwrap();
        let repository = Repository::open(store, trusted).await.unwrap();
        assert_eq!(repository.id(), &made.repository);
        assert_eq!(repository.file().encryption, Encryption::None);
        assert_eq!(Signer::load(state.path(), &system()).unwrap().id(), made.signer);
    }

    #[tokio::test]
    async fn a_repository_is_never_made_twice() {
        let (store, made, _state) = made().await;
        let other = tempfile::tempdir().unwrap();
        let error = Repository::init(&store, &system(), other.path(), Encryption::None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert!(!Signer::path(other.path(), &system()).exists(), "no key for nothing");
        let repository = Repository::open(store, made.signer.into()).await.unwrap();
        assert_eq!(repository.id(), &made.repository);
    }

    #[tokio::test]
    async fn opening_says_what_is_missing() {
        let empty: Arc<dyn BackupStore> = Arc::new(MemoryStore::new());
        let error = Repository::open(empty, Signer::from_seed(&[1; 32]).id().into()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.hint_text().unwrap().contains("repo init"));
        let (store, ..) = made().await;
        let error = Repository::open(store, TrustedSigners::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition);
    }

    #[test]
    fn newer_formats_and_unknown_encryption_are_unsupported_not_damaged() {
        for (text, kind) in [
            (r#"{"min_reader":2,"encryption":"none","x":1}"#, ErrorKind::Unsupported),
            (r#"{"min_reader":1,"encryption":"age"}"#, ErrorKind::Unsupported),
            (r#"{"min_reader":1,"encryption":"none"}"#, ErrorKind::Corrupt),
            (r#"{"min_reader":1"#, ErrorKind::Corrupt),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap_err().kind(), kind, "{text}");
        }
    }
}
