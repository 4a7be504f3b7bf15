//! Reading a tree into a component.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use super::{BYTES, FOLDERS, HARD_LINKS, KnownParts, OnProgress, REPORT, SYMLINKS, TROUBLES, lanes, meta, number};
use crate::{
    catalog::{BackupId, Capture, ComponentFacts, ComponentReader, ComponentWriter, PartMeta, PartRecord},
    error::{Error, ErrorKind, Result},
    files::{
        Root, Rules, TreePath,
        pack::{self, Packed},
        tar::END,
        walk::{self, Job, Role, Troubles, Walked},
    },
    store::pipe,
    stream,
};

/// Further names of files in one part.
const LINKS: usize = 10_000;

/// How a tree is stored.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// What is left out.
    pub rules: Rules,
    /// Parts that are made at the same time.
    pub lanes: usize,
    /// What an earlier backup holds: files whose size, times, inode and mode are as they were then are not read again.
    pub known: Option<KnownParts>,
}

impl StoreOptions {
    /// Stores everything that `rules` take, on all cores.
    pub fn new(rules: Rules) -> Self {
        Self { rules, lanes: lanes(), known: None }
    }

    /// Takes what did not change from an earlier backup.
    #[must_use]
    pub fn known(mut self, known: Option<KnownParts>) -> Self {
        self.known = known;
        self
    }
}

/// What was stored of a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Entries of all kinds, the root folder among them.
    pub entries: u64,
    /// Bytes of files, holes included.
    pub bytes: u64,
    /// Those of them that were taken from an earlier backup.
    pub reused_bytes: u64,
    /// What was not as it should be.
    pub troubles: Troubles,
}

/// Stores a tree in a component that is empty so far. What cannot be read is left out and told: ask
/// [`Troubles::is_complete`] before calling the result a backup. What is known now can be used by the next backup, once
/// this one exists.
///
/// # Errors
/// Those of the store. `Precondition`: the root cannot be read. After one the component is not a backup.
pub async fn store_tree(
    component: &ComponentWriter,
    root: &Root,
    options: &StoreOptions,
    progress: OnProgress,
) -> Result<(Stored, KnownParts)> {
    let begin = component.origin().0.ids().now();
    let known = options.known.clone().filter(|known| known.fits(component.origin().0.id(), component.name()));
    let mut storing = Storing::new(Target::Component(component.clone()), root, options.lanes, progress);
    storing.from = known.as_ref().map(KnownParts::backup);
    storing.known = known.map(KnownParts::by_fingerprint).unwrap_or_default();
    let stored = storing.read(&options.rules).await?;
    let report = serde_json::to_vec(&stored.troubles)
        .map_err(|e| Error::new(ErrorKind::Failed, "cannot encode the troubles of a tree").caused_by(e))?;
    let meta = PartMeta { what: TROUBLES.into(), ..PartMeta::default() };
    component.put(REPORT, meta, stream::once(report)).await?;
    let (repository, place) = component.origin();
    let end = repository.ids().now();
    component.describe(ComponentFacts {
        capture: Some(Capture { begin, point: begin, end }),
        entries: Some(stored.entries),
        unread: stored.troubles.unreadable,
        changed: stored.troubles.changed,
        ..ComponentFacts::default()
    });
    let known =
        KnownParts::new(repository.id().clone(), component.name().clone(), place.id, component.recorded().into_iter());
    Ok((stored, known))
}

/// Proves that a tree which nobody writes to is what a component holds: every entry, with its owner, mode, times and content,
/// the root folder's among them, and nothing else. It is read as if it were stored again, and each part that would come of it is
/// compared with the hash in the index; no part is read.
///
/// # Errors
/// `Corrupt`: it is not; the first part that differs is named. `Precondition`: the root cannot be read.
pub async fn prove_same(component: &ComponentReader, root: &Root, progress: OnProgress) -> Result<Stored> {
    let parts = component.parts().iter().filter(|part| part.index < REPORT);
    let parts: HashMap<u32, PartRecord> = parts.map(|part| (part.index, part.clone())).collect();
    let number = parts.len();
    let storing = Storing::new(Target::Compare(Arc::new(parts)), root, lanes(), progress);
    let compared = storing.compared.clone();
    let stored = storing.read(&Rules::none()).await?;
    let differs = |why: String| Err(Error::new(ErrorKind::Corrupt, format!("the tree is not what was stored: {why}")));
    if let Some(trouble) = stored.troubles.list.first() {
        return differs(format!("`{}`: {}", trouble.path, trouble.why));
    }
    match compared.load(Ordering::Relaxed) {
        equal if equal == number => Ok(stored),
        equal => differs(format!("it makes {equal} parts, and {number} are stored")),
    }
}

/// Where what is read goes.
#[derive(Clone)]
enum Target {
    /// Into a component.
    Component(ComponentWriter),
    /// Nowhere: it is compared with these parts.
    Compare(Arc<HashMap<u32, PartRecord>>),
}

/// Numbers of the next parts.
#[derive(Debug)]
struct Numbers {
    files: u32,
    hard_links: u32,
    symlinks: u32,
    folders: u32,
}

impl Numbers {
    fn take(&mut self, role: Role) -> Result<u32> {
        let index = self.peek(role)?;
        *self.of(role).0 += 1;
        Ok(index)
    }

    fn peek(&mut self, role: Role) -> Result<u32> {
        let (next, limit) = self.of(role);
        if *next < limit {
            return Ok(*next);
        }
        Err(Error::new(ErrorKind::Unsupported, "the tree has more parts than format 1 allows")
            .hint("back it up as several components"))
    }

    /// Next number of a role, and the first that is not its own.
    fn of(&mut self, role: Role) -> (&mut u32, u32) {
        match role {
            Role::Files | Role::Piece => (&mut self.files, HARD_LINKS),
            Role::HardLinks => (&mut self.hard_links, SYMLINKS),
            Role::Symlinks => (&mut self.symlinks, FOLDERS),
            Role::Folders => (&mut self.folders, REPORT),
        }
    }
}

struct Storing {
    target: Target,
    /// Parts that were found equal.
    compared: Arc<AtomicUsize>,
    root: Root,
    lanes: Arc<Semaphore>,
    /// Aborted when dropped.
    tasks: JoinSet<Result<()>>,
    done: Arc<Mutex<Stored>>,
    /// Files with several names whose first one could not be read.
    missing: Arc<Mutex<Vec<TreePath>>>,
    progress: OnProgress,
    next: Numbers,
    /// Folders that wait for the next ones: only the last of them closes the archive.
    last_folders: Option<(Vec<u8>, u64)>,
    /// Earlier backup, and its parts by the state of the files in them.
    from: Option<BackupId>,
    known: HashMap<String, PartRecord>,
}

impl Storing {
    fn new(target: Target, root: &Root, lanes: usize, progress: OnProgress) -> Self {
        Self {
            target,
            compared: Arc::default(),
            root: root.clone(),
            lanes: Arc::new(Semaphore::new(lanes.max(1))),
            tasks: JoinSet::new(),
            done: Arc::default(),
            missing: Arc::default(),
            progress,
            next: Numbers { files: 0, hard_links: HARD_LINKS, symlinks: SYMLINKS, folders: FOLDERS },
            last_folders: None,
            from: None,
            known: HashMap::new(),
        }
    }

    /// Walks the tree, and hands over what comes of it.
    async fn read(mut self, rules: &Rules) -> Result<Stored> {
        let (sender, mut jobs) = mpsc::channel(2);
        let walking = {
            let (root, rules) = (self.root.clone(), rules.clone());
            tokio::task::spawn_blocking(move || {
                walk::walk(&root, &rules, &mut |job| {
                    sender.blocking_send(job).map_err(|_| Error::new(ErrorKind::Cancelled, "nobody waits for the tree"))
                })
            })
        };
        while let Some(job) = jobs.recv().await {
            self.begin(job).await?;
        }
        let walked = walking
            .await
            .unwrap_or_else(|e| Err(Error::new(ErrorKind::Failed, "the walk of the tree panicked").caused_by(e)))?;
        self.finish(walked).await
    }

    async fn begin(&mut self, job: Job) -> Result<()> {
        match job {
            Job::Files { files, fingerprint, is_settled } => {
                if self.reuse(Role::Files, &fingerprint).await? {
                    return Ok(());
                }
                let (root, fingerprint) = (self.root.clone(), is_settled.then_some(fingerprint));
                self.spawn(Role::Files, fingerprint, move |send| pack::pack_files(&root, &files, send)).await
            }
            Job::Piece { file, range, fingerprint, is_settled } => {
                let role = if range.start == 0 { Role::Files } else { Role::Piece };
                if self.reuse(role, &fingerprint).await? {
                    return Ok(());
                }
                let fingerprint = is_settled.then_some(fingerprint);
                self.spawn(role, fingerprint, move |send| pack::pack_piece(&file, range, send)).await
            }
            Job::Headers { role: Role::Folders, tar, entries } => match self.last_folders.replace((tar, entries)) {
                Some((tar, entries)) => self.headers(Role::Folders, tar, entries).await,
                None => Ok(()),
            },
            Job::Headers { role, tar, entries } => self.headers(role, tar, entries).await,
        }
    }

    /// Takes a part from an earlier backup, if one there holds the same state of the same files.
    async fn reuse(&mut self, role: Role, fingerprint: &str) -> Result<bool> {
        let (Some(from), Some(part)) = (self.from, self.known.get(fingerprint)) else { return Ok(false) };
        let Target::Component(component) = &self.target else { return Ok(false) };
        if part.meta.what != super::role_name(role) {
            return Ok(false);
        }
        let index = self.next.peek(role)?;
        match component.reuse_part(index, from, part).await {
            Ok(()) => {}
            // That backup is gone, to be deleted, damaged, or for other eyes: its parts are of no use any more.
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::Conflict | ErrorKind::NotFound | ErrorKind::Corrupt | ErrorKind::InvalidInput
                ) =>
            {
                tracing::info!(backup = %from, error = %e, "everything is stored anew");
                self.from = None;
                return Ok(false);
            }
            Err(e) => return Err(e),
        }
        self.next.take(role)?;
        let (entries, bytes) = (part.meta.entries.unwrap_or(0), number(&part.meta, BYTES).unwrap_or(0));
        let bytes_done = {
            let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            done.entries += entries;
            done.bytes += bytes;
            done.reused_bytes += bytes;
            done.bytes
        };
        (self.progress)(bytes_done, None);
        Ok(true)
    }

    /// Stores a part as soon as a lane is free.
    async fn spawn(
        &mut self,
        role: Role,
        fingerprint: Option<String>,
        work: impl FnOnce(pack::Send<'_>) -> Result<Packed> + Send + 'static,
    ) -> Result<()> {
        let lane =
            self.lanes.clone().acquire_owned().await.map_err(|e| Error::new(ErrorKind::Cancelled, e.to_string()))?;
        while let Some(finished) = self.tasks.try_join_next() {
            settle(finished)?;
        }
        let index = self.next.take(role)?;
        let (target, compared, done, missing, progress) = (
            self.target.clone(),
            self.compared.clone(),
            self.done.clone(),
            self.missing.clone(),
            self.progress.clone(),
        );
        self.tasks.spawn(async move {
            let _lane = lane;
            let packed = match target {
                Target::Component(component) => store_part(&component, index, role, fingerprint, work).await?,
                Target::Compare(parts) => {
                    let packed = compare_part(parts, index, role, work).await?;
                    compared.fetch_add(1, Ordering::Relaxed);
                    packed
                }
            };
            let bytes = {
                let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                done.entries += packed.entries;
                done.bytes += packed.bytes;
                done.troubles.merge(packed.troubles);
                done.bytes
            };
            missing.lock().unwrap_or_else(PoisonError::into_inner).extend(packed.missing);
            progress(bytes, None);
            Ok(())
        });
        Ok(())
    }

    async fn headers(&mut self, role: Role, tar: Vec<u8>, entries: u64) -> Result<()> {
        self.spawn(role, None, move |send| {
            send(tar.into())?;
            let allocated = if role == Role::Folders { entries * 4096 } else { 0 };
            Ok(Packed { entries, allocated, ..Packed::default() })
        })
        .await
    }

    async fn settle_all(&mut self) -> Result<()> {
        while let Some(finished) = self.tasks.join_next().await {
            settle(finished)?;
        }
        Ok(())
    }

    async fn finish(mut self, walked: Walked) -> Result<Stored> {
        self.settle_all().await?;
        let Walked { links, mut troubles, .. } = walked;
        let missing = std::mem::take(&mut *self.missing.lock().unwrap_or_else(PoisonError::into_inner));
        let mut orphans = Vec::new();
        for links in links.chunks(LINKS) {
            let mut tar = Vec::new();
            let (entries, left) = pack::pack_links(links, &missing, &mut tar);
            orphans.extend(left);
            if entries > 0 {
                self.headers(Role::HardLinks, tar, entries).await?;
            }
        }
        if !orphans.is_empty() {
            let root = self.root.clone();
            let planned = pack::plan_orphans(&root, orphans, &mut troubles);
            self.spawn(Role::Files, None, move |send| pack::pack_files(&root, &planned, send)).await?;
        }
        if let Some((mut tar, entries)) = self.last_folders.take() {
            tar.extend_from_slice(&END);
            self.headers(Role::Folders, tar, entries).await?;
        }
        self.settle_all().await?;
        let mut stored = std::mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner));
        stored.troubles.merge(troubles);
        Ok(stored)
    }
}

async fn store_part(
    component: &ComponentWriter,
    index: u32,
    role: Role,
    fingerprint: Option<String>,
    work: impl FnOnce(pack::Send<'_>) -> Result<Packed> + Send + 'static,
) -> Result<Packed> {
    let (told, packed) = tokio::sync::oneshot::channel();
    let plain = pipe::produce(move |out| {
        let packed = work(&mut |bytes| out.send(bytes))?;
        // A receiver that is gone only means that nobody asks for the result.
        let _ = told.send(packed);
        Ok(())
    });
    let part = component.put_part(index, plain).await?;
    let packed = packed
        .await
        .map_err(|_| Error::new(ErrorKind::Failed, format!("part {index} was stored before it was whole")))?;
    // A state that nobody saw whole must not be taken for known.
    let fingerprint = fingerprint.filter(|_| packed.is_as_walked && packed.troubles.list.is_empty());
    component.record(part, meta(role, &packed, fingerprint))?;
    Ok(packed)
}

async fn compare_part(
    parts: Arc<HashMap<u32, PartRecord>>,
    index: u32,
    role: Role,
    work: impl FnOnce(pack::Send<'_>) -> Result<Packed> + Send + 'static,
) -> Result<Packed> {
    pipe::blocking(move || {
        let (mut hash, mut length) = (blake3::Hasher::new(), 0);
        let packed = work(&mut |bytes| {
            hash.update(&bytes);
            length += bytes.len() as u64;
            Ok(())
        })?;
        let is_equal = |part: &PartRecord| {
            part.plain_len == length
                && part.meta.what == super::role_name(role)
                && part.blake3.0 == *hash.finalize().as_bytes()
        };
        if parts.get(&index).is_some_and(is_equal) {
            return Ok(packed);
        }
        let what = format!("the tree is not what was stored: part {index} ({}) differs", super::role_name(role));
        Err(Error::new(ErrorKind::Corrupt, what))
    })
    .await
}

fn settle(finished: Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    finished.unwrap_or_else(|e| Err(Error::new(ErrorKind::Failed, "storing a part ended early").caused_by(e)))
}
