//! Backups written, damaged, moved and read again.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::TryStreamExt;

use super::*;
use crate::{
    error::{Error, ErrorKind, Result},
    store::{BackupStore, Key, ObjectInfo, Version, memory::MemoryStore},
    stream::{self, ByteStream},
    system::SystemId,
};

mod copying;
mod damage;
mod dying;
mod encryption;
#[cfg(feature = "testing")]
mod faulty;
mod golden;
mod holds;
mod listing;
mod mutation;
mod probe;
mod pruning;
mod sharing;
mod standard;
mod tree;
mod volume;
mod writing;

/// Identities of nobody: they protect nothing but the data of tests.
const OPERATOR: &str = include_str!("tests/golden/operator.identity");
const ESCROW: &str = include_str!("tests/golden/escrow.identity");
const SUCCESSOR: &str = include_str!("tests/golden/successor.identity");

fn identities(file: &str) -> Identities {
    Identities::parse(&crate::secret::Secret::new(file)).unwrap()
}

fn recipients(files: &[&str]) -> Recipients {
    Recipients::new(files.iter().flat_map(|file| identities(file).recipients())).unwrap()
}

/// A repository in memory with a clock that the test moves.
struct World {
    store: Arc<dyn BackupStore>,
    clock: Arc<Mutex<DateTime<Utc>>>,
    repository: Repository,
    signer: Signer,
    host: HostId,
    system: SystemId,
    _state: tempfile::TempDir,
}

fn system(name: &str) -> SystemId {
    name.to_owned().try_into().unwrap()
}

impl World {
    async fn new() -> Self {
        Self::with(Encryption::None).await
    }

    /// A repository that a host writes which holds no identity, read by an operator.
    async fn encrypted() -> Self {
        let recipients = recipients(&[OPERATOR, ESCROW]);
        let encryption = Encryption::Age { recipients: recipients.clone(), escrow: identities(ESCROW) };
        let world = Self::with(encryption).await;
        let repository = world.repository.clone().with_recipients(recipients).with_identities(identities(OPERATOR));
        Self { repository, ..world }
    }

    /// The same repository, as a process sees it that has other identities, or none.
    fn reading_with(&self, identities: Identities) -> Repository {
        self.repository.clone().with_identities(identities)
    }

    async fn with(encryption: Encryption) -> Self {
        let clock = Arc::new(Mutex::new("2026-03-01T03:00:00Z".parse().unwrap()));
        let read = |clock: &Arc<Mutex<DateTime<Utc>>>| {
            let clock = clock.clone();
            move || *clock.lock().unwrap()
        };
        let store: Arc<dyn BackupStore> = Arc::new(MemoryStore::with_clock(read(&clock)));
        let state = tempfile::tempdir().unwrap();
        let system = system("chom");
        let made = Repository::init(&store, &system, state.path(), encryption).await.unwrap();
        let signer = Signer::load(state.path(), &system).unwrap();
        let ids = Ids::new(read(&clock), rand::random);
        let repository = Repository::open(store.clone(), made.signer.into()).await.unwrap().with_ids(ids);
        Self { store, clock, repository, signer, host: HostId::derive("a test"), system, _state: state }
    }

    /// The repository as a process that starts now finds it.
    async fn reopened(&self) -> Repository {
        self.opened_on(self.store.clone()).await
    }

    /// The repository in another store, with the same keys.
    async fn opened_on(&self, store: Arc<dyn BackupStore>) -> Repository {
        let opened = Repository::open(store, self.signer.id().into()).await.unwrap();
        let opened = opened.with_identities(self.repository.identities().clone());
        match self.repository.recipients().await.unwrap() {
            Some(recipients) => opened.with_recipients(recipients),
            None => opened,
        }
    }

    fn pass(&self, minutes: i64) {
        *self.clock.lock().unwrap() += Duration::minutes(minutes);
    }

    fn now(&self) -> DateTime<Utc> {
        *self.clock.lock().unwrap()
    }

    fn facts(&self) -> Facts {
        let now = self.now();
        Facts::new(Capture { begin: now, point: now, end: now })
    }

    fn catalog(&self) -> Catalog {
        Catalog::new(&self.repository, &self.system)
    }

    async fn begin(&self) -> BackupWriter {
        BackupWriter::begin(&self.repository, &self.signer, &self.host, &self.system).await.unwrap()
    }

    /// Makes a backup of these parts, all of one component.
    async fn backup(&self, parts: &[&str]) -> BackupInfo {
        self.tagged(parts, &[]).await
    }

    async fn tagged(&self, parts: &[&str], tags: &[&str]) -> BackupInfo {
        let mut writer = self.begin().await;
        let component = writer.component(database()).unwrap();
        for (index, part) in (0..).zip(parts) {
            component.put(index, rows(1), stream::once((*part).to_owned())).await.unwrap();
        }
        let mut facts = self.facts();
        facts.tags = tags.iter().map(|t| t.parse().unwrap()).collect();
        writer.finish(facts).await.unwrap()
    }

    async fn object(&self, key: &Key) -> Bytes {
        stream::collect(self.store.get(key, None).await.unwrap(), 1 << 30).await.unwrap()
    }

    async fn replace(&self, key: &Key, body: impl Into<Bytes>) {
        self.store.delete(key).await.unwrap();
        self.store.put_new(key, stream::once(body)).await.unwrap();
    }

    async fn keys(&self, prefix: &str) -> Vec<Key> {
        let listed: Vec<_> = self.store.list(prefix).await.unwrap().try_collect().await.unwrap();
        listed.into_iter().map(|o| o.key).collect()
    }
}

fn database() -> ComponentSpec {
    ComponentSpec::new("database", ComponentKind::Logical).unwrap()
}

fn rows(rows: u64) -> PartMeta {
    PartMeta {
        what: "rows".into(),
        schema: Some("chom".into()),
        table: Some("users".into()),
        rows: Some(rows),
        ..PartMeta::default()
    }
}

/// Reads the whole component `database`, as a restore does.
async fn content(repository: &Repository, place: &Place) -> Result<Vec<Bytes>> {
    let reader = BackupReader::open(repository, place.clone()).await?;
    let component = reader.component("database").await?;
    let mut all = Vec::new();
    for part in component.parts() {
        all.push(stream::collect(component.read_part(part).await?, 1 << 30).await?);
    }
    Ok(all)
}

fn silent() -> impl Fn(Progress) + Send + Sync {
    |_| {}
}

fn pieces(all: &Bytes, size: usize) -> ByteStream {
    let pieces: Vec<Result<Bytes>> = all.chunks(size).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    Box::pin(futures::stream::iter(pieces))
}

/// Bytes that do not compress, the same every time.
fn noise(length: usize, seed: u64) -> Bytes {
    let mut all = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut all);
    all.into()
}
