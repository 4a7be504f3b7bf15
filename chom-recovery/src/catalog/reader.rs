//! Reads a backup; every byte is checked on the way.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OnceCell;

use crate::{
    catalog::{
        codec,
        crypt::Opener,
        facts::{Facts, PrivateFacts},
        id::Hash,
        index::{INDEX_LIMIT, Index},
        layout::Place,
        manifest::{ComponentRecord, MANIFEST_LIMIT, Manifest},
        repo::{Cipher, Repository},
        sign::{MANIFEST, SignerId},
    },
    error::{Error, ErrorKind, Result},
    store::{BackupStore, Key, pipe},
    stream,
};

mod component;
mod second;

pub(super) use component::key;
pub use component::{ComponentReader, StoredComponent};
pub(super) use second::Second;

/// An open backup: its manifest's signature was verified.
#[derive(Debug, Clone)]
pub struct BackupReader {
    repository: Repository,
    place: Place,
    opened: Arc<Opened>,
    second: Option<Second>,
}

#[derive(Debug)]
struct Opened {
    manifest: Manifest,
    signer: SignerId,
    object: Bytes,
    damage: Option<Error>,
    private: OnceCell<PrivateFacts>,
}

/// An object that a backup consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupObject {
    /// Key.
    pub key: Key,
    /// Length.
    pub length: u64,
    /// SHA-256.
    pub sha256: Hash,
}

impl BackupReader {
    /// Opens a backup. Where the manifest is damaged, its copy is used, and [`BackupReader::damage`] tells.
    ///
    /// # Errors
    /// `NotFound`: there is no manifest, so there is no backup. `Corrupt`: both manifest and copy are damaged, or
    /// belong to another backup. `Denied`: signed by a key that is not trusted. `Unsupported`: a newer format.
    pub async fn open(repository: &Repository, place: Place) -> Result<Self> {
        Self::open_with(repository, place, None).await
    }

    /// Opens a backup as [`BackupReader::open`] does; what is damaged or gone is read from a copy, where it is good.
    pub(super) async fn open_with(repository: &Repository, place: Place, second: Option<Second>) -> Result<Self> {
        let first = repository.store();
        let damage = match read_manifest(repository, first, &place, &place.manifest()).await {
            Ok(opened) => return Ok(Self::of(repository, place, opened, second)),
            Err(e) if is_damage(&e) || e.kind() == ErrorKind::Denied => e,
            Err(e) => return Err(e),
        };
        let mut others = Vec::new();
        if damage.kind() != ErrorKind::NotFound {
            others.push((first, place.manifest_copy()));
        }
        others.extend(second.iter().map(|second| (second.store(), place.manifest())));
        for (store, key) in others {
            if let Ok(opened) = read_manifest(repository, store, &place, &key).await {
                if let Some(second) = second.as_ref().filter(|second| Arc::ptr_eq(second.store(), store)) {
                    second.remember(&key, true);
                }
                let opened = Opened { damage: Some(damage), ..opened };
                return Ok(Self::of(repository, place, opened, second));
            }
        }
        Err(match damage.kind() {
            ErrorKind::NotFound => Error::new(ErrorKind::NotFound, format!("there is no backup {}", place.id)),
            _ => damage.during(format!("backup {}", place.id)),
        })
    }

    /// Opens a backup that has no manifest yet, by the copy.
    pub(super) async fn open_copy(repository: &Repository, place: Place) -> Result<Self> {
        let opened = read_manifest(repository, repository.store(), &place, &place.manifest_copy()).await?;
        Ok(Self::of(repository, place, opened, None))
    }

    fn of(repository: &Repository, place: Place, opened: Opened, second: Option<Second>) -> Self {
        Self { repository: repository.clone(), place, opened: Arc::new(opened), second }
    }

    /// Counts the objects read or verified so far that are damaged in the repository and good in its copy, where
    /// [`Catalog::with_copy`](super::Catalog::with_copy) named one.
    pub fn objects_from_copy(&self) -> u64 {
        self.second.as_ref().map_or(0, Second::needed)
    }

    /// Returns the manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.opened.manifest
    }

    /// Returns where the backup lies.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Returns the repository.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Returns the key that signed the manifest.
    pub fn signer(&self) -> &SignerId {
        &self.opened.signer
    }

    /// Tells what is wrong with the manifest, when its copy had to be used.
    pub fn damage(&self) -> Option<&Error> {
        self.opened.damage.as_ref()
    }

    /// Returns the SHA-256 of the manifest object: what a verification record vouches for.
    pub fn manifest_sha256(&self) -> Hash {
        codec::sha256(&self.opened.object)
    }

    pub(super) fn signed_bytes(&self) -> Bytes {
        self.opened.object.clone()
    }

    /// Checks that this process can decrypt the backup. One that is not encrypted needs nothing.
    ///
    /// # Errors
    /// `Precondition`: an identity is needed and none is given. `Authentication`: none of those given opens the backup.
    /// Both say which do.
    pub fn check_identity(&self) -> Result<()> {
        if !self.manifest().is_encrypted() {
            return Ok(());
        }
        let what = format!("backup {}", self.place.id);
        self.repository.identities().check(&what, &self.manifest().recipients)
    }

    fn opener(&self) -> Opener {
        Opener::Identities(self.repository.identities().clone())
    }

    /// Returns the facts that are sealed in an encrypted backup.
    ///
    /// # Errors
    /// Those of [`BackupReader::check_identity`]. `Corrupt`: they do not decrypt.
    pub async fn private(&self) -> Result<&PrivateFacts> {
        let open = || async {
            self.check_identity()?;
            let (opened, opener) = (self.opened.clone(), self.opener());
            pipe::blocking(move || opened.manifest.private(&opener)).await
        };
        self.opened.private.get_or_try_init(open).await
    }

    /// Returns everything that the maker of the backup knew of it.
    ///
    /// # Errors
    /// As [`BackupReader::private`].
    pub async fn facts(&self) -> Result<Facts> {
        Ok(Facts::join(self.manifest().facts.clone(), self.private().await?.clone()))
    }

    /// Opens a component: reads and checks its index.
    ///
    /// # Errors
    /// `NotFound`: the backup has no such component. `Corrupt`: the index is damaged or gone. Those of
    /// [`BackupReader::check_identity`].
    pub async fn component(&self, name: &str) -> Result<ComponentReader> {
        let record = self.manifest().component(name)?.clone();
        if record.encryption != Cipher::None {
            self.check_identity()?;
        }
        let (key, opener, for_index) = (self.place.index(&record.name), self.opener(), record.clone());
        let index = self.read_index(&key, &record).await.map_err(|e| e.with("key", &key))?;
        let parts = pipe::blocking(move || index.open(&for_index, &opener)).await.map_err(|e| e.with("key", &key))?;
        Ok(ComponentReader::new(self.clone(), record, parts))
    }

    /// Opens a component as far as that needs no key: enough to verify and to copy what is stored.
    ///
    /// # Errors
    /// `NotFound`: the backup has no such component. `Corrupt`: the index is damaged or gone.
    pub async fn stored_component(&self, name: &str) -> Result<StoredComponent> {
        let record = self.manifest().component(name)?.clone();
        let key = self.place.index(&record.name);
        let index = self.read_index(&key, &record).await.map_err(|e| e.with("key", &key))?;
        Ok(StoredComponent::new(self.clone(), record, index.stored()))
    }

    /// Lists every object that a restore of the backup needs, also those that lie in earlier backups, in the order in
    /// which a copy has to be written: parts, indexes, the manifest's copy, and last the manifest.
    ///
    /// # Errors
    /// As [`BackupReader::stored_component`].
    pub async fn objects(&self) -> Result<Vec<BackupObject>> {
        let (mut parts, mut indexes) = (Vec::new(), Vec::new());
        for record in &self.manifest().components {
            let component = self.stored_component(record.name.as_str()).await?;
            parts.extend(component.parts().iter().map(|part| BackupObject {
                key: component.key(part),
                length: part.stored_len,
                sha256: part.sha256,
            }));
            indexes.push(BackupObject {
                key: self.place.index(&record.name),
                length: record.index_len,
                sha256: record.index_sha256,
            });
        }
        let (length, sha256) = (self.opened.object.len() as u64, self.manifest_sha256());
        let manifests = [self.place.manifest_copy(), self.place.manifest()];
        let manifests = manifests.map(|key| BackupObject { key, length, sha256 });
        Ok(parts.into_iter().chain(indexes).chain(manifests).collect())
    }

    async fn read_index(&self, key: &Key, record: &ComponentRecord) -> Result<Index> {
        let text = match (index_text(self.repository.store(), key, record).await, &self.second) {
            (Err(damage), Some(second)) if is_damage(&damage) => {
                let text = index_text(second.store(), key, record).await.map_err(|_| damage)?;
                second.remember(key, true);
                text
            }
            (text, _) => text?,
        };
        let record = record.clone();
        pipe::blocking(move || Index::decode(&text, &record)).await
    }
}

/// Reads an index and checks its hash.
async fn index_text(store: &Arc<dyn BackupStore>, key: &Key, record: &ComponentRecord) -> Result<Bytes> {
    let bad = |why: &str| Error::new(ErrorKind::Corrupt, format!("the index of `{}` {why}", record.name));
    if record.index_len > INDEX_LIMIT {
        return Err(bad("is longer than format 1 allows"));
    }
    let body = store.get(key, None).await.map_err(|e| match e.kind() {
        ErrorKind::NotFound => bad("is missing"),
        _ => e,
    })?;
    let text = stream::collect(body, usize::try_from(record.index_len).unwrap_or(usize::MAX)).await?;
    if codec::sha256(&text) != record.index_sha256 {
        return Err(bad("has another SHA-256 than the manifest says"));
    }
    Ok(text)
}

/// Tells what speaks about stored bytes from what speaks about the way to them.
fn is_damage(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound)
}

async fn read_manifest(
    repository: &Repository,
    store: &Arc<dyn BackupStore>,
    place: &Place,
    key: &Key,
) -> Result<Opened> {
    let read = async {
        let object = stream::collect(store.get(key, None).await?, MANIFEST_LIMIT + 1024).await?;
        let (signer, payload) = repository.trusted().open(MANIFEST, &object)?;
        let manifest = Manifest::decode(&payload, place)?;
        Ok(Opened { manifest, signer, object, damage: None, private: OnceCell::new() })
    };
    read.await.map_err(|e: Error| e.with("key", key))
}
