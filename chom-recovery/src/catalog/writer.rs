//! Writes a backup: parts, indexes, the manifest's copy, and last the manifest, which makes the backup exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use crate::{
    catalog::{
        FORMAT, READER,
        codec::{self, Compression, Measure},
        entry::BackupInfo,
        id::{BackupId, HostId, Name},
        index::{self, PartMeta, PartRecord},
        layout::{self, Belongs, MAX_PART, Place},
        manifest::{ComponentKind, ComponentRecord, Facts, Manifest},
        reader::BackupReader,
        repo::Repository,
        sign::{MANIFEST, Signer},
    },
    error::{Error, ErrorKind, Result},
    store::{Key, pipe},
    stream::{self, ByteStream},
    system::SystemId,
};

/// Looks at the store that may run at once.
const LOOKS: usize = 16;

/// How a component is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComponentSpec {
    /// Name.
    pub name: Name,
    /// What its bytes are.
    pub kind: ComponentKind,
    /// Compression of each part.
    pub compression: Compression,
    /// Level of compression; `None` is [`Compression::default_level`].
    pub level: Option<i32>,
}

impl ComponentSpec {
    /// Makes a component that is compressed with Zstandard at its default level.
    ///
    /// # Errors
    /// `InvalidInput`: `name` is not a [`Name`].
    pub fn new(name: &str, kind: ComponentKind) -> Result<Self> {
        Ok(Self { name: name.parse()?, kind, compression: Compression::Zstd, level: None })
    }

    /// Chooses another compression.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Chooses another level.
    #[must_use]
    pub fn level(mut self, level: i32) -> Self {
        self.level = Some(level);
        self
    }
}

/// What [`BackupWriter::resume`] found.
#[derive(Debug)]
pub enum Resumed {
    /// The backup is unfinished: write its parts again; those that are there already cost only reading.
    Unfinished(Box<BackupWriter>),
    /// Everything but the last object was there; it is now, and the backup is complete.
    Committed(Box<BackupInfo>),
}

/// A backup being written. Until [`BackupWriter::finish`] returns, nobody sees it; a writer that is dropped leaves
/// parts that [`super::sweep_unfinished`] removes a day later.
#[derive(Debug)]
pub struct BackupWriter {
    shared: Arc<Shared>,
    signer: Signer,
    components: Vec<ComponentWriter>,
}

#[derive(Debug)]
struct Shared {
    repository: Repository,
    place: Place,
}

impl BackupWriter {
    /// Begins a backup under a new id, which is greater than those of all earlier backups of the system.
    ///
    /// # Errors
    /// `Precondition`: the signer is not among those that the configuration trusts: the backup could not be read.
    pub async fn begin(repository: &Repository, signer: &Signer, host: &HostId, system: &SystemId) -> Result<Self> {
        let newest = newest(repository, host, system).await?;
        let place = Place { host: host.clone(), system: system.clone(), id: repository.ids().next(newest) };
        Self::at(repository, signer, place)
    }

    /// Takes up a backup that a crash interrupted. Its maker writes every part again under the same index: a part
    /// that is there with the same content is kept, another one is a `Conflict`.
    ///
    /// # Errors
    /// `AlreadyExists`: the backup is complete.
    pub async fn resume(repository: &Repository, signer: &Signer, place: Place) -> Result<Resumed> {
        let store = repository.store();
        if store.stat(&place.manifest()).await?.is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("backup {} is complete", place.id)));
        }
        let writer = Self::at(repository, signer, place)?;
        let place = &writer.shared.place;
        if store.stat(&place.manifest_copy()).await?.is_none() {
            return Ok(Resumed::Unfinished(Box::new(writer)));
        }
        let reader = BackupReader::open_copy(repository, place.clone()).await?;
        for component in &reader.manifest().components {
            let component = reader.component(component.name.as_str()).await?;
            verify_lengths(repository, place, component.name(), component.parts()).await?;
        }
        put_same(repository, &place.manifest(), reader.signed_bytes()).await?;
        Ok(Resumed::Committed(Box::new(writer.committed(&reader.signed_bytes()).await?)))
    }

    fn at(repository: &Repository, signer: &Signer, place: Place) -> Result<Self> {
        if !repository.trusted().contains(&signer.id()) {
            return Err(Error::new(
                ErrorKind::Precondition,
                "this host's signing key is not trusted by the configuration",
            )
            .with("key", signer.id())
            .hint("add the key to `repository.signers`: without it the backup could not be restored"));
        }
        let shared = Arc::new(Shared { repository: repository.clone(), place });
        Ok(Self { shared, signer: signer.clone(), components: Vec::new() })
    }

    /// Returns where the backup will lie.
    pub fn place(&self) -> &Place {
        &self.shared.place
    }

    /// Returns the id that the backup will have.
    pub fn id(&self) -> BackupId {
        self.shared.place.id
    }

    /// Begins a component. Components are restored in the order in which they were begun.
    ///
    /// # Errors
    /// `InvalidInput`: a component of that name exists.
    pub fn component(&mut self, spec: ComponentSpec) -> Result<ComponentWriter> {
        if self.components.iter().any(|c| c.spec.name == spec.name) {
            return Err(Error::new(ErrorKind::InvalidInput, format!("two components are called `{}`", spec.name)));
        }
        let component = ComponentWriter { shared: self.shared.clone(), spec: Arc::new(spec), parts: Arc::default() };
        self.components.push(component.clone());
        Ok(component)
    }

    /// Completes the backup: looks at every part once more, writes the indexes, the manifest's copy and the manifest,
    /// and reads the manifest back. When this returns `Ok`, the backup exists and is durable.
    ///
    /// # Errors
    /// `InvalidInput`: no component, or a part that was stored and never recorded. `Corrupt`: a part is not in the
    /// store as it was written. After an error the backup does not exist, unless the kind is `OutcomeUnknown`.
    pub async fn finish(self, facts: Facts) -> Result<BackupInfo> {
        let Shared { repository, place } = &*self.shared;
        if self.components.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "a backup has at least one component"));
        }
        let mut components = Vec::new();
        for (order, component) in (0..).zip(&self.components) {
            components.push(component.close(order).await?);
        }
        let manifest = Manifest {
            format: FORMAT,
            min_reader: READER,
            id: place.id,
            repository: repository.id().clone(),
            host: place.host.clone(),
            system: place.system.clone(),
            created: repository.ids().now(),
            tool: concat!("chom-recovery ", env!("CARGO_PKG_VERSION")).to_owned(),
            facts,
            components,
        };
        let object = self.signer.seal(MANIFEST, &manifest.encode()?);
        put_same(repository, &place.manifest_copy(), object.clone()).await?;
        put_same(repository, &place.manifest(), object.clone()).await?;
        self.committed(&object).await
    }

    /// Reads back what was committed.
    async fn committed(&self, object: &Bytes) -> Result<BackupInfo> {
        let Shared { repository, place } = &*self.shared;
        let reader = BackupReader::open(repository, place.clone()).await?;
        if reader.signed_bytes() != *object || reader.damage().is_some() {
            return Err(Error::new(ErrorKind::Corrupt, "the manifest was not read back as it was written")
                .with("backup", place.id)
                .hint("check the store, then take a new backup"));
        }
        BackupInfo::read(&reader).await
    }

    /// Gives the backup up and removes what was written of it.
    pub async fn abandon(self) -> Result<()> {
        let Shared { repository, place } = &*self.shared;
        remove_unfinished(repository, place).await.map(|_| ())
    }
}

/// A component being written. Clones write to the same component, also at the same time.
#[derive(Debug, Clone)]
pub struct ComponentWriter {
    shared: Arc<Shared>,
    spec: Arc<ComponentSpec>,
    parts: Arc<Mutex<Parts>>,
}

#[derive(Debug, Default)]
struct Parts {
    taken: BTreeSet<u32>,
    recorded: BTreeMap<u32, PartRecord>,
}

/// A part that lies in the store and waits to be recorded with [`ComponentWriter::record`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a backup with a part that is stored and not recorded cannot be finished"]
pub struct StoredPart {
    index: u32,
    measure: Measure,
}

impl StoredPart {
    /// Returns lengths and hashes.
    pub fn measure(&self) -> &Measure {
        &self.measure
    }
}

impl ComponentWriter {
    /// Returns the name.
    pub fn name(&self) -> &Name {
        &self.spec.name
    }

    /// Compresses and stores a part, in constant memory. Parts may be stored in any order and at the same time.
    ///
    /// # Errors
    /// `InvalidInput`: the index is taken or above [`MAX_PART`], or the part is longer than
    /// [`PART_LIMIT`](super::PART_LIMIT) once compressed. `Conflict`: an earlier attempt stored something else there. Errors of
    /// `plain` come back as they are. After an error the index is free again.
    pub async fn put_part(&self, index: u32, plain: ByteStream) -> Result<StoredPart> {
        self.store(index, plain, false).await
    }

    /// Stores a part that is compressed already, as one frame in the component's compression.
    ///
    /// # Errors
    /// As [`ComponentWriter::put_part`]; `Corrupt`: it does not decompress.
    pub async fn put_encoded(&self, index: u32, stored: ByteStream) -> Result<StoredPart> {
        self.store(index, stored, true).await
    }

    /// Stores a part of which everything is known beforehand.
    pub async fn put(&self, index: u32, meta: PartMeta, plain: ByteStream) -> Result<()> {
        let part = self.put_part(index, plain).await?;
        self.record(part, meta)
    }

    /// Puts a stored part on the list, with what its maker knows of it by now.
    pub fn record(&self, part: StoredPart, meta: PartMeta) -> Result<()> {
        let record = PartRecord::new(part.index, &part.measure, meta);
        match self.parts().recorded.insert(part.index, record) {
            None => Ok(()),
            Some(_) => Err(Error::new(ErrorKind::InvalidInput, format!("part {} is recorded twice", part.index))),
        }
    }

    fn parts(&self) -> std::sync::MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn store(&self, index: u32, body: ByteStream, is_encoded: bool) -> Result<StoredPart> {
        let bad =
            |why: &str| Error::new(ErrorKind::InvalidInput, format!("part {index} of `{}` {why}", self.spec.name));
        if index > MAX_PART {
            return Err(bad("has an index beyond what format 1 allows"));
        }
        if !self.parts().taken.insert(index) {
            return Err(bad("was written before"));
        }
        let result = self.store_at(index, body, is_encoded).await;
        if result.is_err() {
            self.parts().taken.remove(&index);
        }
        let measure = result.map_err(|e| e.during(format!("part {index} of `{}`", self.spec.name)))?;
        Ok(StoredPart { index, measure })
    }

    async fn store_at(&self, index: u32, body: ByteStream, is_encoded: bool) -> Result<Measure> {
        let Shared { repository, place } = &*self.shared;
        let (store, key) = (repository.store(), place.part(&self.spec.name, index));
        let compression = self.spec.compression;
        if store.stat(&key).await?.is_some() {
            return self.reuse(&key, body, is_encoded).await;
        }
        let level = self.spec.level.unwrap_or_else(|| compression.default_level());
        let (stored, measure) = pipe::transform(body, move |input, out| {
            if is_encoded {
                codec::pass(input, out, compression)
            } else {
                codec::encode(input, out, compression, level)
            }
        });
        let object = store.put_new(&key, stored).await?;
        let measure = measure.await.map_err(|_| {
            Error::new(ErrorKind::Failed, "the store took a part before it was whole").with("key", &key)
        })?;
        if object.length != measure.stored_len {
            return Err(Error::new(ErrorKind::Corrupt, "the store kept another length than it was given")
                .with("key", &key)
                .with("given", measure.stored_len)
                .with("kept", object.length));
        }
        Ok(measure)
    }

    /// Keeps a part that an interrupted attempt stored, if it holds the same.
    async fn reuse(&self, key: &Key, body: ByteStream, is_encoded: bool) -> Result<Measure> {
        let compression = self.spec.compression;
        let conflict = || {
            Error::new(ErrorKind::Conflict, "an earlier attempt stored something else under this index")
                .with("key", key)
                .hint("begin a new backup; what is left of this one goes away by itself")
        };
        let present = self.shared.repository.store().get(key, None).await?;
        let present = pipe::consume(present, move |input| codec::measure(input, compression)).await;
        let present = present.map_err(|e| if e.kind() == ErrorKind::Corrupt { conflict().caused_by(e) } else { e })?;
        let new = pipe::consume(body, move |input| {
            if is_encoded {
                codec::measure(input, compression).map(|m| (m.plain_len, m.blake3))
            } else {
                codec::hash_plain(input)
            }
        });
        if new.await? == (present.plain_len, present.blake3) { Ok(present) } else { Err(conflict()) }
    }

    /// Checks that every part is in the store and writes the index.
    async fn close(&self, order: u32) -> Result<ComponentRecord> {
        let Shared { repository, place } = &*self.shared;
        let name = &self.spec.name;
        let parts: Vec<PartRecord> = {
            let parts = self.parts();
            if let Some(index) = parts.taken.iter().find(|i| !parts.recorded.contains_key(i)) {
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("part {index} of `{name}` is unfinished, or was never recorded"),
                ));
            }
            parts.recorded.values().cloned().collect()
        };
        verify_lengths(repository, place, name, &parts).await?;
        let text = index::encode(parts.iter())?;
        put_same(repository, &place.index(name), text.clone()).await?;
        Ok(ComponentRecord {
            name: name.clone(),
            kind: self.spec.kind,
            order,
            compression: self.spec.compression,
            parts: parts.len() as u64,
            stored_len: parts.iter().map(|p| p.stored_len).sum(),
            plain_len: parts.iter().map(|p| p.plain_len).sum(),
            blake3: index::content_hash(parts.iter()),
            index_sha256: codec::sha256(&text),
            index_len: text.len() as u64,
        })
    }
}

/// Finds the greatest id in use. One that lies in the future, because a clock was wrong, does not count: else every
/// backup after it would have to lie in the future too.
async fn newest(repository: &Repository, host: &HostId, system: &SystemId) -> Result<Option<BackupId>> {
    let horizon = repository.store().now().await? + super::MAX_SKEW;
    let mut newest = None;
    let mut listed = repository.store().list(&layout::backups(host, system)).await?;
    while let Some(object) = listed.try_next().await? {
        if let Belongs::Backup(place, _) = layout::belongs(&object.key)
            && place.id.time() <= horizon
        {
            newest = newest.max(Some(place.id));
        }
    }
    Ok(newest)
}

async fn verify_lengths(repository: &Repository, place: &Place, name: &Name, parts: &[PartRecord]) -> Result<()> {
    futures::stream::iter(parts.iter().map(|p| (place.part(name, p.index), p.stored_len)).collect::<Vec<_>>())
        .map(|(key, length)| async move {
            let found = repository.store().stat(&key).await?.map(|o| o.length);
            if found == Some(length) {
                return Ok(());
            }
            let error = Error::new(ErrorKind::Corrupt, "a part is not in the store as it was written");
            let found = found.map_or_else(|| "nothing".to_owned(), |l| l.to_string());
            Err(error.with("key", &key).with("wrote", length).with("found", found).hint("take a new backup"))
        })
        .buffer_unordered(LOOKS)
        .try_collect()
        .await
}

/// Writes a small object; one that is there already with the same bytes is success, as is a failure after which the
/// bytes are there.
async fn put_same(repository: &Repository, key: &Key, bytes: Bytes) -> Result<()> {
    let store = repository.store();
    let Err(error) = store.put_new(key, stream::once(bytes.clone())).await else { return Ok(()) };
    let present = async { stream::collect(store.get(key, None).await?, bytes.len()).await };
    match present.await {
        Ok(present) if present == bytes => Ok(()),
        _ if error.kind() == ErrorKind::AlreadyExists => {
            Err(Error::new(ErrorKind::Conflict, "an earlier attempt stored something else here")
                .with("key", key)
                .hint("begin a new backup; what is left of this one goes away by itself"))
        }
        _ => Err(error),
    }
}

/// Removes the objects of a backup that has no manifest. Returns how many.
pub(super) async fn remove_unfinished(repository: &Repository, place: &Place) -> Result<u64> {
    let store = repository.store();
    let objects: Vec<_> = store.list(&place.prefix()).await?.try_collect().await?;
    if store.stat(&place.manifest()).await?.is_some() {
        return Err(Error::new(ErrorKind::Denied, format!("backup {} is complete: it is not swept", place.id)));
    }
    // The copy goes first: with it gone, nobody can complete a backup that is losing its parts.
    store.delete(&place.manifest_copy()).await?;
    for object in &objects {
        store.delete(&object.key).await?;
    }
    Ok(objects.len() as u64)
}
