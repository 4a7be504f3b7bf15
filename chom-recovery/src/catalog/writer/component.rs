//! Writes the parts of a component.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use super::{Shared, put_same};
use crate::{
    catalog::{
        codec::{self, Measure},
        compress::Compression,
        crypt::Opener,
        id::{BackupId, Name},
        index::{self, PartMeta, PartRecord, PartSource, StoredRecord, Sums},
        layout::{MAX_PART, Place},
        manifest::{ComponentFacts, ComponentKind, ComponentRecord},
        reader::{self, BackupReader, StoredComponent},
        repo::{Cipher, Repository},
    },
    error::{Error, ErrorKind, Result},
    store::{Key, pipe},
    stream::ByteStream,
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

/// A component being written. Clones write to the same component, also at the same time.
#[derive(Debug, Clone)]
pub struct ComponentWriter {
    shared: Arc<Shared>,
    spec: Arc<ComponentSpec>,
    parts: Arc<Mutex<Parts>>,
    /// Earlier backups that parts were taken from.
    earlier: Arc<tokio::sync::Mutex<BTreeMap<BackupId, StoredComponent>>>,
}

#[derive(Debug, Default)]
struct Parts {
    taken: BTreeSet<u32>,
    recorded: BTreeMap<u32, PartRecord>,
    facts: ComponentFacts,
}

/// A part that lies in the store and waits to be recorded with [`ComponentWriter::record`].
///
/// Kept in a journal, it lets a later attempt take the part up without reading the data again, see
/// [`ComponentWriter::take_up`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    pub(super) fn new(shared: Arc<Shared>, spec: ComponentSpec) -> Self {
        Self { shared, spec: Arc::new(spec), parts: Arc::default(), earlier: Arc::default() }
    }

    /// Returns the name.
    pub fn name(&self) -> &Name {
        &self.spec.name
    }

    fn cipher(&self) -> Cipher {
        if self.shared.recipients.is_some() { Cipher::Age } else { Cipher::None }
    }

    /// Returns the repository, and where the backup will lie.
    pub(in crate::catalog) fn origin(&self) -> (&Repository, &Place) {
        (&self.shared.repository, &self.shared.place)
    }

    /// Returns what is on the list so far, in order of index.
    pub(in crate::catalog) fn recorded(&self) -> Vec<PartRecord> {
        self.parts().recorded.values().cloned().collect()
    }

    /// Says what was counted of the component; the last word counts.
    pub fn describe(&self, facts: ComponentFacts) {
        self.parts().facts = facts;
    }

    /// Compresses, encrypts and stores a part, in constant memory. Parts may be stored in any order and at the same time.
    ///
    /// # Errors
    /// `InvalidInput`: the index is taken or above [`MAX_PART`], or the part is longer than
    /// [`PART_LIMIT`](crate::catalog::PART_LIMIT) once compressed. `Conflict`: an earlier attempt stored something else there. Errors of
    /// `plain` come back as they are. After an error the index is free again.
    pub async fn put_part(&self, index: u32, plain: ByteStream) -> Result<StoredPart> {
        self.store(index, plain, false).await
    }

    /// Encrypts and stores a part that is compressed already, as one frame in the component's compression.
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
        self.list(PartRecord::new(part.index, &part.measure, None, meta))
    }

    fn list(&self, part: PartRecord) -> Result<()> {
        let index = part.index;
        match self.parts().recorded.insert(index, part) {
            None => Ok(()),
            Some(_) => Err(Error::new(ErrorKind::InvalidInput, format!("part {index} is recorded twice"))),
        }
    }

    /// Takes up a part that an earlier attempt at this backup stored, by what it kept of it: the bytes in the store are
    /// read and must have the same hash. No identity is needed.
    ///
    /// # Errors
    /// `Corrupt`: the bytes differ, or are gone. `InvalidInput`: the index is taken.
    pub async fn take_up(&self, part: StoredPart) -> Result<StoredPart> {
        let StoredPart { index, measure } = part;
        let what = format!("part {index} of `{}`", self.spec.name);
        self.take(index)?;
        let key = self.shared.place.part(&self.spec.name, index);
        let checked = async {
            let stored = self.shared.repository.store().get(&key, None).await.map_err(|e| match e.kind() {
                ErrorKind::NotFound => Error::new(ErrorKind::Corrupt, "it is gone").with("key", &key),
                _ => e,
            })?;
            pipe::consume(stored, move |input| codec::check(input, None, measure.stored_len, measure.sha256)).await
        };
        let checked: Result<()> = checked.await;
        if checked.is_err() {
            self.parts().taken.remove(&index);
        }
        checked.map(|()| part).map_err(|e| e.during(what))
    }

    /// Lists a part of an earlier backup of the same host and system instead of storing it again: its content has not
    /// changed. Nothing that expires backups removes it while this one exists.
    ///
    /// `part` is what the earlier backup, `from`, lists in the component of the same name; a part that lies in a still
    /// earlier one is taken from there.
    ///
    /// # Errors
    /// `Conflict`: it cannot be shared, because it is compressed or encrypted in another way or for others, or because
    /// the earlier backup is to be deleted: store it anew. `Corrupt`: it is not in the store as it was written.
    /// `NotFound`: there is no such backup. `InvalidInput`: the index is taken, or the backup is not earlier.
    pub async fn reuse_part(&self, index: u32, from: BackupId, part: &PartRecord) -> Result<()> {
        self.take(index)?;
        let result = self.share(index, from, part).await;
        if result.is_err() {
            self.parts().taken.remove(&index);
        }
        result.map_err(|e| e.during(format!("part {index} of `{}`, taken from backup {from}", self.spec.name)))
    }

    async fn share(&self, index: u32, from: BackupId, part: &PartRecord) -> Result<()> {
        let Shared { repository, place, .. } = &*self.shared;
        let earlier = self.earlier(from).await?;
        if !earlier.parts().contains(&part.stored()) {
            return Err(Error::new(ErrorKind::InvalidInput, "that backup lists no such part"));
        }
        let source = part.source.clone().unwrap_or_else(|| PartSource {
            backup: from,
            component: self.spec.name.clone(),
            index: part.index,
        });
        let record = PartRecord { index, source: Some(source), ..part.clone() };
        verify_lengths(repository, place, &self.spec.name, vec![record.stored()]).await?;
        self.list(record)
    }

    async fn earlier(&self, from: BackupId) -> Result<StoredComponent> {
        let Shared { repository, place, recipients } = &*self.shared;
        let mut earlier = self.earlier.lock().await;
        if let Some(found) = earlier.get(&from) {
            return Ok(found.clone());
        }
        if from >= place.id {
            return Err(Error::new(ErrorKind::InvalidInput, "that backup is not earlier than this one"));
        }
        check_source(repository, place, from).await?;
        let reader = BackupReader::open(repository, place.sibling(from)).await?;
        let found = reader.stored_component(self.spec.name.as_str()).await?;
        let conflict =
            |what: &str| Error::new(ErrorKind::Conflict, format!("{what} there")).hint("store the part anew");
        if found.record().compression != self.spec.compression {
            return Err(conflict("it is compressed in another way"));
        }
        let is_for_the_same = match recipients {
            None => found.record().encryption == Cipher::None,
            Some(own) => found.record().encryption == Cipher::Age && own.are(&reader.manifest().recipients),
        };
        if !is_for_the_same {
            return Err(conflict("it is encrypted for others, or not encrypted,"));
        }
        earlier.insert(from, found.clone());
        Ok(found)
    }

    fn take(&self, index: u32) -> Result<()> {
        let bad =
            |why: &str| Error::new(ErrorKind::InvalidInput, format!("part {index} of `{}` {why}", self.spec.name));
        if index > MAX_PART {
            return Err(bad("has an index beyond what format 1 allows"));
        }
        if self.parts().taken.insert(index) { Ok(()) } else { Err(bad("was written before")) }
    }

    fn parts(&self) -> std::sync::MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn store(&self, index: u32, body: ByteStream, is_encoded: bool) -> Result<StoredPart> {
        self.take(index)?;
        let result = self.store_at(index, body, is_encoded).await;
        if result.is_err() {
            self.parts().taken.remove(&index);
        }
        let measure = result.map_err(|e| e.during(format!("part {index} of `{}`", self.spec.name)))?;
        Ok(StoredPart { index, measure })
    }

    async fn store_at(&self, index: u32, body: ByteStream, is_encoded: bool) -> Result<Measure> {
        let Shared { repository, place, recipients } = &*self.shared;
        let (store, key) = (repository.store(), place.part(&self.spec.name, index));
        let compression = self.spec.compression;
        if store.stat(&key).await?.is_some() {
            return self.reuse(&key, body, is_encoded).await;
        }
        let level = (!is_encoded).then(|| self.spec.level.unwrap_or_else(|| compression.default_level()));
        let recipients = recipients.clone();
        let (stored, measure) =
            pipe::transform(body, move |input, out| codec::encode(input, out, compression, level, recipients.as_ref()));
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

    /// Keeps a part that an interrupted attempt stored, if it holds the same. Of an encrypted one only an identity can
    /// tell.
    async fn reuse(&self, key: &Key, body: ByteStream, is_encoded: bool) -> Result<Measure> {
        let compression = self.spec.compression;
        let conflict = || {
            Error::new(ErrorKind::Conflict, "an earlier attempt stored something else under this index")
                .with("key", key)
                .hint("begin a new backup; what is left of this one goes away by itself")
        };
        let Shared { repository, recipients, .. } = &*self.shared;
        let opener = match recipients {
            None => None,
            Some(recipients) => {
                let identities = repository.identities();
                identities.check("an earlier attempt", recipients.as_slice()).map_err(|e| conflict().caused_by(e))?;
                Some(Opener::Identities(identities.clone()))
            }
        };
        let present = repository.store().get(key, None).await?;
        let present = pipe::consume(present, move |input| codec::measure(input, compression, opener.as_ref())).await;
        let present = present.map_err(|e| if e.kind() == ErrorKind::Corrupt { conflict().caused_by(e) } else { e })?;
        let new = pipe::consume(body, move |input| {
            if is_encoded {
                codec::measure(input, compression, None).map(|m| (m.plain_len, m.blake3))
            } else {
                codec::hash_plain(input)
            }
        });
        if new.await? == (present.plain_len, present.blake3) { Ok(present) } else { Err(conflict()) }
    }

    /// Checks that every part is in the store and writes the index.
    pub(super) async fn close(&self, order: u32) -> Result<ComponentRecord> {
        let Shared { repository, place, recipients } = &*self.shared;
        let name = &self.spec.name;
        let (parts, facts): (Vec<PartRecord>, _) = {
            let parts = self.parts();
            if let Some(index) = parts.taken.iter().find(|i| !parts.recorded.contains_key(i)) {
                return Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("part {index} of `{name}` is unfinished, or was never recorded"),
                ));
            }
            (parts.recorded.values().cloned().collect(), parts.facts.clone())
        };
        let stored: Vec<_> = parts.iter().map(PartRecord::stored).collect();
        let Sums { stored_len, own_len, sources } = Sums::of(stored.iter());
        verify_lengths(repository, place, name, stored).await?;
        let text = index::encode(&parts, recipients.as_ref())?;
        let key = place.index(name);
        if recipients.is_some() && repository.store().stat(&key).await?.is_some() {
            // Of an attempt that ended before its manifest: sealed twice, the same text has other bytes, and what
            // another sealing holds nobody here can tell.
            repository.store().delete(&key).await?;
        }
        put_same(repository, &key, text.clone()).await?;
        Ok(ComponentRecord {
            name: name.clone(),
            kind: self.spec.kind,
            order,
            compression: self.spec.compression,
            encryption: self.cipher(),
            parts: parts.len() as u64,
            stored_len,
            own_len,
            plain_len: parts.iter().map(|p| p.plain_len).sum(),
            sources,
            index_sha256: codec::sha256(&text),
            index_len: text.len() as u64,
            facts,
        })
    }
}

/// Checks that parts can be taken from an earlier backup: it is complete, and nobody is about to delete it.
pub(super) async fn check_source(repository: &Repository, place: &Place, source: BackupId) -> Result<()> {
    let source = place.sibling(source);
    if repository.store().stat(&source.manifest()).await?.is_none() {
        return Err(Error::new(ErrorKind::NotFound, format!("there is no backup {}", source.id)));
    }
    // Whoever signed it: a tombstone in doubt costs no more than storing the part again.
    if repository.store().stat(&source.tombstone()).await?.is_some() {
        return Err(Error::new(ErrorKind::Conflict, format!("backup {} is to be deleted", source.id))
            .hint("store the part anew"));
    }
    Ok(())
}

pub(super) async fn verify_lengths(
    repository: &Repository,
    place: &Place,
    name: &Name,
    parts: Vec<StoredRecord>,
) -> Result<()> {
    futures::stream::iter(parts)
        .map(|part| async move {
            let key = reader::key(place, name, &part);
            let found = repository.store().stat(&key).await?.map(|o| o.length);
            if found == Some(part.stored_len) {
                return Ok(());
            }
            let error = Error::new(ErrorKind::Corrupt, "a part is not in the store as it was written");
            let found = found.map_or_else(|| "nothing".to_owned(), |l| l.to_string());
            Err(error.with("key", &key).with("wrote", part.stored_len).with("found", found).hint("take a new backup"))
        })
        .buffer_unordered(LOOKS)
        .try_collect()
        .await
}
