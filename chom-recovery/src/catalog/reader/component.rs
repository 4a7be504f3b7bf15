//! Reads the parts of a component.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};

use super::{BackupReader, is_damage};
use crate::{
    catalog::{
        codec,
        crypt::Opener,
        id::{Hash, Name},
        index::{self, PartRecord, StoredRecord},
        layout::Place,
        manifest::ComponentRecord,
        repo::{Cipher, Repository},
    },
    error::{Error, ErrorKind, Result},
    store::{BackupStore, Key, pipe},
    stream::ByteStream,
};

/// An open component, as far as no key is needed.
#[derive(Debug, Clone)]
pub struct StoredComponent {
    reader: BackupReader,
    record: Arc<ComponentRecord>,
    parts: Arc<[StoredRecord]>,
}

impl StoredComponent {
    pub(super) fn new(reader: BackupReader, record: ComponentRecord, parts: Vec<StoredRecord>) -> Self {
        Self { reader, record: Arc::new(record), parts: parts.into() }
    }

    /// Returns what the manifest says of the component.
    pub fn record(&self) -> &ComponentRecord {
        &self.record
    }

    /// Returns the parts, in order of index.
    pub fn parts(&self) -> &[StoredRecord] {
        &self.parts
    }

    /// Returns where a part lies.
    pub fn key(&self, part: &StoredRecord) -> Key {
        key(self.reader.place(), &self.record.name, part)
    }

    /// Checks the bytes of a part as they are stored.
    pub(in crate::catalog) async fn check_part(&self, part: &StoredRecord) -> Result<()> {
        let work = || {
            let (what, length, sha256) = (self.name_of(part.index), part.stored_len, part.sha256);
            move |input: &mut pipe::Input| codec::check(input, None, length, sha256).map_err(|e| blame(e, &what))
        };
        self.check(part, work).await
    }

    async fn check_in<W>(&self, store: &Arc<dyn BackupStore>, part: &StoredRecord, work: W) -> Result<()>
    where
        W: FnOnce(&mut pipe::Input) -> Result<()> + Send + 'static,
    {
        pipe::consume(self.get(store, part).await?, work).await
    }

    /// Checks a part in the repository's store and, where it is damaged there, in the copy. What was found is known from
    /// then on.
    async fn check<W>(&self, part: &StoredRecord, work: impl Fn() -> W) -> Result<()>
    where
        W: FnOnce(&mut pipe::Input) -> Result<()> + Send + 'static,
    {
        let found = self.check_in(self.reader.repository().store(), part, work()).await;
        let Some(second) = &self.reader.second else { return found };
        let key = self.key(part);
        match found {
            Ok(()) => second.remember(&key, false),
            Err(damage) if is_damage(&damage) => {
                // What is wrong in the first store is what a person wants to know, should the copy not help either.
                self.check_in(second.store(), part, work()).await.map_err(|why| damage.with("copy", why))?;
                second.remember(&key, true);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn name_of(&self, index: u32) -> String {
        format!("part {index} of `{}` in backup {}", self.record.name, self.reader.place().id)
    }

    /// Opens a part where it is good. With a copy to turn to, one that nobody has checked yet is read twice: bytes that
    /// were handed on cannot be taken back.
    async fn open(&self, part: &StoredRecord) -> Result<ByteStream> {
        let Some(second) = &self.reader.second else { return self.get(self.reader.repository().store(), part).await };
        let key = self.key(part);
        if second.is_needed(&key).is_none() {
            self.check_part(part).await?;
        }
        let is_needed = second.is_needed(&key) == Some(true);
        self.get(if is_needed { second.store() } else { self.reader.repository().store() }, part).await
    }

    async fn get(&self, store: &Arc<dyn BackupStore>, part: &StoredRecord) -> Result<ByteStream> {
        if self.parts.binary_search_by_key(&part.index, |p| p.index).ok().map(|i| &self.parts[i]) != Some(part) {
            return Err(Error::new(ErrorKind::InvalidInput, format!("there is no such {}", self.name_of(part.index))));
        }
        let key = self.key(part);
        store.get(&key, None).await.map_err(|e| match e.kind() {
            ErrorKind::NotFound => {
                Error::new(ErrorKind::Corrupt, format!("{} is missing", self.name_of(part.index))).with("key", &key)
            }
            _ => e,
        })
    }
}

/// Where a part lies: made from checked names and numbers.
pub(in crate::catalog) fn key(place: &Place, component: &Name, part: &StoredRecord) -> Key {
    match &part.source {
        None => place.part(component, part.index),
        Some(source) => place.sibling(source.backup).part(&source.component, source.index),
    }
}

/// An open component.
#[derive(Debug, Clone)]
pub struct ComponentReader {
    stored: StoredComponent,
    parts: Arc<[PartRecord]>,
}

impl ComponentReader {
    pub(super) fn new(reader: BackupReader, record: ComponentRecord, parts: Vec<PartRecord>) -> Self {
        let stored = parts.iter().map(PartRecord::stored).collect();
        Self { stored: StoredComponent::new(reader, record, stored), parts: parts.into() }
    }

    /// Returns the repository, and where the backup lies.
    pub(in crate::catalog) fn origin(&self) -> (&Repository, &Place) {
        (self.stored.reader.repository(), self.stored.reader.place())
    }

    /// Returns the name.
    pub fn name(&self) -> &Name {
        &self.stored.record.name
    }

    /// Returns what the manifest says of the component.
    pub fn record(&self) -> &ComponentRecord {
        &self.stored.record
    }

    /// Returns the parts, in order of index.
    pub fn parts(&self) -> &[PartRecord] {
        &self.parts
    }

    /// Returns a hash of the content of all parts: the same for the same parts, however they are compressed and
    /// encrypted.
    pub fn content_hash(&self) -> Hash {
        index::content_hash(self.parts.iter())
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
        let stored = self.stored.open(&part.stored()).await?;
        let decoding = self.decoding(part);
        Ok(pipe::transform(stored, move |input, out| decoding.run(input, Some(out))).0)
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
    pub(in crate::catalog) async fn check_part(&self, part: &PartRecord) -> Result<()> {
        let work = || {
            let decoding = self.decoding(part);
            move |input: &mut pipe::Input| decoding.run(input, None)
        };
        self.stored.check(&part.stored(), work).await
    }

    fn decoding(&self, part: &PartRecord) -> Decoding {
        let (record, reader) = (&self.stored.record, &self.stored.reader);
        Decoding {
            record: record.clone(),
            opener: (record.encryption == Cipher::Age).then(|| reader.opener()),
            part: part.clone(),
            what: self.stored.name_of(part.index),
        }
    }
}

struct Decoding {
    record: Arc<ComponentRecord>,
    opener: Option<Opener>,
    part: PartRecord,
    what: String,
}

impl Decoding {
    fn run(&self, input: &mut pipe::Input, out: Option<&pipe::Output>) -> Result<()> {
        codec::decode(input, out, self.record.compression, self.opener.as_ref(), &self.part.measure())
            .map_err(|e| blame(e, &self.what))
    }
}

fn blame(error: Error, what: &str) -> Error {
    match error.kind() {
        ErrorKind::Corrupt => error.during(what).hint("restore another backup: `chom-recovery backup list` shows them"),
        _ => error,
    }
}
