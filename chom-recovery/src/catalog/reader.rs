//! Reads a backup; every byte is checked on the way.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use crate::{
    catalog::{
        codec::{self, Reading},
        id::{Hash, Name},
        index::{self, INDEX_LIMIT, PartRecord},
        layout::Place,
        manifest::{ComponentRecord, MANIFEST_LIMIT, Manifest},
        repo::Repository,
        sign::{MANIFEST, SignerId},
    },
    error::{Error, ErrorKind, Result},
    store::{Key, pipe},
    stream::{self, ByteStream},
};

/// An open backup: its manifest's signature was verified.
#[derive(Debug, Clone)]
pub struct BackupReader {
    repository: Repository,
    place: Place,
    opened: Arc<Opened>,
}

#[derive(Debug)]
struct Opened {
    manifest: Manifest,
    signer: SignerId,
    object: Bytes,
    damage: Option<Error>,
}

impl BackupReader {
    /// Opens a backup. Where the manifest is damaged, its copy is used, and [`BackupReader::damage`] tells.
    ///
    /// # Errors
    /// `NotFound`: there is no manifest, so there is no backup. `Corrupt`: both manifest and copy are damaged, or
    /// belong to another backup. `Denied`: signed by a key that is not trusted. `Unsupported`: a newer format.
    pub async fn open(repository: &Repository, place: Place) -> Result<Self> {
        let damage = match read_manifest(repository, &place, &place.manifest()).await {
            Ok(opened) => return Ok(Self::of(repository, place, opened)),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Err(Error::new(ErrorKind::NotFound, format!("there is no backup {}", place.id)));
            }
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Denied) => e,
            Err(e) => return Err(e),
        };
        match read_manifest(repository, &place, &place.manifest_copy()).await {
            Ok(opened) => Ok(Self::of(repository, place, Opened { damage: Some(damage), ..opened })),
            Err(_) => Err(damage.during(format!("backup {}", place.id))),
        }
    }

    /// Opens a backup that has no manifest yet, by the copy.
    pub(super) async fn open_copy(repository: &Repository, place: Place) -> Result<Self> {
        let opened = read_manifest(repository, &place, &place.manifest_copy()).await?;
        Ok(Self::of(repository, place, opened))
    }

    fn of(repository: &Repository, place: Place, opened: Opened) -> Self {
        Self { repository: repository.clone(), place, opened: Arc::new(opened) }
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

    /// Opens a component: reads and checks its index.
    ///
    /// # Errors
    /// `NotFound`: the backup has no such component. `Corrupt`: the index is damaged or gone.
    pub async fn component(&self, name: &str) -> Result<ComponentReader> {
        let record = self.manifest().component(name)?.clone();
        let key = self.place.index(&record.name);
        let parts = self.read_index(&key, &record).await.map_err(|e| e.with("key", &key))?;
        Ok(ComponentReader { reader: self.clone(), record: Arc::new(record), parts: parts.into() })
    }

    async fn read_index(&self, key: &Key, record: &ComponentRecord) -> Result<Vec<PartRecord>> {
        let bad = |why: &str| Error::new(ErrorKind::Corrupt, format!("the index of `{}` {why}", record.name));
        if record.index_len > INDEX_LIMIT {
            return Err(bad("is longer than format 1 allows"));
        }
        let body = self.repository.store().get(key, None).await.map_err(|e| match e.kind() {
            ErrorKind::NotFound => bad("is missing"),
            _ => e,
        })?;
        let text = stream::collect(body, usize::try_from(record.index_len).unwrap_or(usize::MAX)).await?;
        if codec::sha256(&text) != record.index_sha256 {
            return Err(bad("has another SHA-256 than the manifest says"));
        }
        index::decode(&text, record)
    }
}

async fn read_manifest(repository: &Repository, place: &Place, key: &Key) -> Result<Opened> {
    let read = async {
        let object = stream::collect(repository.store().get(key, None).await?, MANIFEST_LIMIT + 1024).await?;
        let (signer, payload) = repository.trusted().open(MANIFEST, &object)?;
        let manifest = Manifest::decode(&payload, place)?;
        Ok(Opened { manifest, signer, object, damage: None })
    };
    read.await.map_err(|e: Error| e.with("key", key))
}

/// An open component.
#[derive(Debug, Clone)]
pub struct ComponentReader {
    reader: BackupReader,
    record: Arc<ComponentRecord>,
    parts: Arc<[PartRecord]>,
}

impl ComponentReader {
    /// Returns the name.
    pub fn name(&self) -> &Name {
        &self.record.name
    }

    /// Returns what the manifest says of the component.
    pub fn record(&self) -> &ComponentRecord {
        &self.record
    }

    /// Returns the parts, in order of index.
    pub fn parts(&self) -> &[PartRecord] {
        &self.parts
    }

    /// Reads the plain bytes of a part.
    ///
    /// The stream hands bytes on before all of them are checked, and fails at its end with `Corrupt` when lengths or
    /// hashes differ: what was done with the bytes counts only after the last item. It never gives more than the
    /// index promises.
    ///
    /// # Errors
    /// `Corrupt`: the part is missing. `InvalidInput`: it is not a part of this component.
    pub async fn read_part(&self, part: &PartRecord) -> Result<ByteStream> {
        let stored = self.open(part).await?;
        let (compression, want, what) = (self.record.compression, part.measure(), self.name_of(part));
        Ok(pipe::transform(stored, move |input, out| {
            codec::decode(input, Some(out), compression, &want, Reading::Plain).map_err(|e| blame(e, &what))
        })
        .0)
    }

    /// Reads the plain bytes of all parts in order of index, as one stream that keeps the promise of
    /// [`ComponentReader::read_part`].
    pub fn read_all(&self) -> ByteStream {
        let component = self.clone();
        let parts = futures::stream::iter(0..self.parts.len());
        let streams = parts.then(move |i| {
            let component = component.clone();
            async move { component.read_part(&component.parts[i]).await }
        });
        Box::pin(streams.try_flatten())
    }

    /// Checks a part without handing its bytes on.
    pub(super) async fn check_part(&self, part: &PartRecord, reading: Reading) -> Result<()> {
        let stored = self.open(part).await?;
        let (compression, want, what) = (self.record.compression, part.measure(), self.name_of(part));
        pipe::consume(stored, move |input| {
            codec::decode(input, None, compression, &want, reading).map_err(|e| blame(e, &what))
        })
        .await
    }

    fn name_of(&self, part: &PartRecord) -> String {
        format!("part {} of `{}` in backup {}", part.index, self.record.name, self.reader.place.id)
    }

    async fn open(&self, part: &PartRecord) -> Result<ByteStream> {
        if self.parts.binary_search_by_key(&part.index, |p| p.index).ok().map(|i| &self.parts[i]) != Some(part) {
            return Err(Error::new(ErrorKind::InvalidInput, format!("there is no such {}", self.name_of(part))));
        }
        let key = self.reader.place.part(&self.record.name, part.index);
        self.reader.repository.store().get(&key, None).await.map_err(|e| match e.kind() {
            ErrorKind::NotFound => {
                Error::new(ErrorKind::Corrupt, format!("{} is missing", self.name_of(part))).with("key", &key)
            }
            _ => e,
        })
    }
}

fn blame(error: Error, what: &str) -> Error {
    match error.kind() {
        ErrorKind::Corrupt => error.during(what).hint("restore another backup: `chom-recovery backup list` shows them"),
        _ => error,
    }
}
