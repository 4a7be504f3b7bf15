//! A repository: a store with an identity, and the keys whose word counts in it.

use std::{path::Path, sync::Arc};

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::{
    catalog::{
        FORMAT, READER,
        crypt::{self, Identities, Recipient, Recipients},
        id::{BackupId, Ids, RepositoryId},
        layout,
        sign::{self, Signer, SignerId, TrustedSigners},
        statement::{self, Statement},
    },
    error::{Error, ErrorKind, Result},
    store::{BackupStore, Key, absent::AbsentStore},
    stream,
    system::{self, SystemId},
};

/// More than any `chom-repo.json`.
const LIMIT: usize = 64 << 10;

/// How the parts of a new repository are protected; there is no default.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Encryption {
    /// Not at all: whoever can read the store can read the data.
    None,
    /// With age, for these recipients.
    Age {
        /// Who can read: each of them alone.
        recipients: Recipients,
        /// The identity of the recipient that is kept offline, to prove that it opens what is written. It is not kept.
        escrow: Identities,
    },
}

/// How something is encrypted, as it is recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cipher {
    /// Not at all.
    #[default]
    None,
    /// An age file (version 1) for each object.
    Age,
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
    pub encryption: Cipher,
    /// Who can read, at first; empty where nothing is encrypted. Never trusted by itself: writers use those that the
    /// configuration pins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<Recipient>,
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
    /// Recipients to add to `repository.recipients` of the configuration; empty where nothing is encrypted.
    #[serde(default)]
    pub recipients: Vec<Recipient>,
}

/// Who can read from now on: replaces what `chom-repo.json` says. The newest one counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipientsRecord {
    /// Version of the format.
    pub format: u32,
    /// Oldest reader that understands the record.
    pub min_reader: u32,
    /// Id of the record; equals the one in its key.
    pub id: BackupId,
    /// Repository.
    pub repository: RepositoryId,
    /// Who can read.
    pub recipients: Vec<Recipient>,
    /// When, by the clock of the host that wrote it.
    pub created: DateTime<Utc>,
}

impl Statement for RecipientsRecord {
    const KIND: &'static str = sign::RECIPIENTS;
    const WHAT: &'static str = "record of recipients";

    fn repository(&self) -> &RepositoryId {
        &self.repository
    }

    fn key(&self) -> Key {
        layout::recipients(self.id)
    }
}

/// An open repository.
#[derive(Debug, Clone)]
pub struct Repository {
    store: Arc<dyn BackupStore>,
    file: Arc<RepositoryFile>,
    trusted: Arc<TrustedSigners>,
    pinned: Option<Recipients>,
    identities: Identities,
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
    /// `AlreadyExists`: the store is a repository; nothing was changed. `Authentication`: the escrow identity is none of
    /// the recipients'; nothing was made.
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
        let (cipher, recipients) = match encryption {
            Encryption::None => (Cipher::None, Vec::new()),
            Encryption::Age { recipients, escrow } => {
                prove_escrow(&recipients, &escrow)?;
                (Cipher::Age, recipients.as_slice().to_vec())
            }
        };
        let (folder, id) = (state_dir.to_owned(), system.clone());
        let signer = crate::store::pipe::blocking(move || Signer::load_or_create(&folder, &id)).await?;
        let file = RepositoryFile {
            format: FORMAT,
            min_reader: READER,
            id: RepositoryId::random(),
            created: store.now().await?,
            encryption: cipher,
            recipients,
            signers: vec![signer.id()],
        };
        let mut text = serde_json::to_vec_pretty(&file)
            .map_err(|e| Error::new(ErrorKind::Failed, "cannot encode the repository file").caused_by(e))?;
        text.push(b'\n');
        store.put_new(&key(), stream::once(text)).await.map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => exists(),
            _ => e,
        })?;
        Ok(Initialized { repository: file.id, signer: signer.id(), recipients: file.recipients })
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
        Ok(Self {
            store,
            file: Arc::new(file),
            trusted: Arc::new(trusted),
            pinned: None,
            identities: Identities::default(),
            ids: Ids::default(),
        })
    }

    /// Opens the repository in a store with the keys that a system's configuration names.
    ///
    /// An identity that cannot be read is no error yet: taking a backup needs none.
    ///
    /// # Errors
    /// As [`Repository::open`]; `InvalidInput`: a key is none.
    pub async fn open_with(store: Arc<dyn BackupStore>, config: &system::Repository) -> Result<Self> {
        let trusted = TrustedSigners::parse(&config.signers)?;
        let pinned = match &config.recipients[..] {
            [] => None,
            some => Some(Recipients::parse(some)?),
        };
        let opened = Self::open(store, trusted).await?;
        let identities = Identities::resolve(&config.identity).await;
        Ok(Self { pinned, ..opened.with_identities(identities) })
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
            encryption: Cipher::None,
            recipients: Vec::new(),
            signers: Vec::new(),
        };
        Self {
            store: Arc::new(AbsentStore::new(url, &why)),
            file: Arc::new(file),
            trusted: Arc::default(),
            pinned: None,
            identities: Identities::default(),
            ids: Ids::default(),
        }
    }

    /// Opens the repository that a system's configuration names.
    ///
    /// # Errors
    /// As [`Repository::open_with`], and those of opening the store.
    pub async fn open_configured(config: &system::Repository) -> Result<Self> {
        let settings = config.store();
        let store = crate::store::pipe::blocking(move || crate::store::open(&settings)).await?;
        Self::open_with(store, config).await
    }

    /// Pins the recipients: only for these is anything written, whatever the store says.
    #[must_use]
    pub fn with_recipients(mut self, pinned: Recipients) -> Self {
        self.pinned = Some(pinned);
        self
    }

    /// Adds what encrypted backups are read with.
    #[must_use]
    pub fn with_identities(mut self, identities: Identities) -> Self {
        self.identities = identities;
        self
    }

    /// Replaces the clock and the source of randomness.
    #[must_use]
    pub fn with_ids(mut self, ids: Ids) -> Self {
        self.ids = ids;
        self
    }

    /// Makes another store the same repository.
    ///
    /// # Errors
    /// `AlreadyExists`: it is a repository already.
    pub(super) async fn put_file(&self, to: &Arc<dyn BackupStore>) -> Result<()> {
        let text = stream::collect(self.store.get(&key(), None).await?, LIMIT).await?;
        to.put_new(&key(), stream::once(text)).await.map(drop)
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

    /// Returns what encrypted backups are read with.
    pub fn identities(&self) -> &Identities {
        &self.identities
    }

    /// Returns for whom a backup that is made now is sealed; `None`: it is not encrypted.
    ///
    /// # Errors
    /// `Conflict`: the store and the configuration disagree: somebody may have changed the store so that others can
    /// read, or everybody. `Precondition`: the configuration pins nobody.
    pub async fn recipients(&self) -> Result<Option<Recipients>> {
        let named = match self.file.encryption {
            Cipher::None => None,
            Cipher::Age => Some(self.named_recipients().await?),
        };
        let list = |all: &[Recipient]| all.iter().map(Recipient::as_str).collect::<Vec<_>>().join(", ");
        match (&self.pinned, named) {
            (None, None) => Ok(None),
            (Some(pinned), Some(named)) if pinned.are(&named) => Ok(Some(pinned.clone())),
            (Some(pinned), named) => Err(Error::new(
                ErrorKind::Conflict,
                "the repository names other recipients than the configuration: nothing is written",
            )
            .with("configuration", list(pinned.as_slice()))
            .with("repository", named.map_or_else(|| "not encrypted".into(), |named| list(&named)))
            .hint(
                "find out who changed what; `chom-recovery repo recipients` changes them on purpose, and \
                 `repository.recipients` must say the same",
            )),
            (None, Some(named)) => Err(Error::new(
                ErrorKind::Precondition,
                "the repository is encrypted, and `repository.recipients` of the configuration is empty",
            )
            .with("repository", list(&named))
            .hint("compare these with your own keys, then add them: what the store says is not trusted by itself")),
        }
    }

    /// Returns the recipients that the store names: those of the newest record that counts, else the first ones.
    async fn named_recipients(&self) -> Result<Vec<Recipient>> {
        let listed: Vec<_> = self.store.list(layout::RECIPIENTS).await?.try_collect().await?;
        let mut keys: Vec<_> = listed.into_iter().map(|object| object.key).collect();
        keys.sort();
        for key in keys.iter().rev() {
            if let Some((record, _)) = statement::read_valid::<RecipientsRecord>(self, key).await? {
                return Ok(record.recipients);
            }
        }
        Ok(self.file.recipients.clone())
    }

    /// Changes who can read what is written from now on. What was written before stays as it is: its recipients are
    /// recorded with it.
    ///
    /// # Errors
    /// `Authentication`: the escrow identity is none of theirs. `Unsupported`: the repository is not encrypted.
    pub async fn change_recipients(
        &self,
        signer: &Signer,
        recipients: &Recipients,
        escrow: &Identities,
    ) -> Result<RecipientsRecord> {
        if self.file.encryption == Cipher::None {
            return Err(Error::new(ErrorKind::Unsupported, "the repository is not encrypted, and stays so")
                .hint("make a new one: `chom-recovery repo init --encryption age`"));
        }
        prove_escrow(recipients, escrow)?;
        let record = RecipientsRecord {
            format: FORMAT,
            min_reader: READER,
            id: self.ids.next(None),
            repository: self.id().clone(),
            recipients: recipients.as_slice().to_vec(),
            created: self.ids.now(),
        };
        statement::publish(self, signer, &record).await?;
        Ok(record)
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

/// The key that is needed when all others are gone has to work: nobody would notice otherwise before that day.
fn prove_escrow(recipients: &Recipients, escrow: &Identities) -> Result<()> {
    crypt::prove(recipients, escrow).map_err(|e| {
        e.during("the escrow identity").hint("name the identity file of the recipient that is kept offline")
    })
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
    if !matches!(&*versions.encryption, "none" | "age") {
        return Err(Error::new(ErrorKind::Unsupported, "the repository is encrypted in a way unknown to this version")
            .with("encryption", versions.encryption)
            .hint("use a newer version of chom-recovery"));
    }
    let file: RepositoryFile = serde_json::from_slice(text).map_err(bad)?;
    if (file.encryption == Cipher::None) != file.recipients.is_empty() {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("`{}` names recipients and no encryption, or the reverse", layout::REPOSITORY),
        ));
    }
    Ok(file)
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
        assert_eq!(repository.file().encryption, Cipher::None);
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
            (r#"{"min_reader":1,"encryption":"rot13"}"#, ErrorKind::Unsupported),
            (r#"{"min_reader":1,"encryption":"age"}"#, ErrorKind::Corrupt),
            (r#"{"min_reader":1,"encryption":"none"}"#, ErrorKind::Corrupt),
            (r#"{"min_reader":1"#, ErrorKind::Corrupt),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap_err().kind(), kind, "{text}");
        }
    }
}
