//! File trees as components of a backup.
//!
//! The parts of a component are pieces of one tar: files, further names of files, symbolic links, and folders last,
//! each under numbers of its own. Put together in order of their numbers they are that tar; and each of them can be
//! read by itself, but for those of a file that is cut over several. What was wrong with the tree when it was read
//! follows as JSON. [`format`](mod@crate::catalog::format) says more.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use futures::{StreamExt, TryStreamExt, stream::FuturesUnordered};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use crate::{
    catalog::{ComponentReader, ComponentWriter, PartMeta, PartRecord},
    error::{Error, ErrorKind, Result},
    files::{
        Root, Rules, TreePath,
        pack::{self, Packed},
        stage::{self, Stage},
        tar::{Dialect, END, Limits, TarReader},
        unpack::{Policy, Unpacked, Unpacker},
        walk::{self, Job, Role, Troubles, Walked},
    },
    store::pipe,
    stream::{self, ByteStream},
};

/// First numbers of what is not files.
const HARD_LINKS: u32 = 90_000_000;
const SYMLINKS: u32 = 92_000_000;
const FOLDERS: u32 = 95_000_000;
const REPORT: u32 = 99_000_000;
/// Name of the last part: what was wrong with the tree.
const TROUBLES: &str = "troubles";
/// Further names of files in one part.
const LINKS: usize = 10_000;
/// Longest report that is read.
const REPORT_LIMIT: usize = 4 << 20;

/// Called with bytes done, and all bytes where they are known.
pub type OnProgress = Arc<dyn Fn(u64, Option<u64>) + Send + Sync>;

/// How a tree is stored.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// What is left out.
    pub rules: Rules,
    /// Parts that are made at the same time.
    pub lanes: usize,
}

impl StoreOptions {
    /// Stores everything that `rules` take, on all cores.
    pub fn new(rules: Rules) -> Self {
        Self { rules, lanes: lanes() }
    }
}

/// One more than there are cores: one of them waits for the disk.
fn lanes() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).min(8) + 1
}

/// What was stored of a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Entries of all kinds, the root folder among them.
    pub entries: u64,
    /// Bytes of files, holes included.
    pub bytes: u64,
    /// What was not as it should be.
    pub troubles: Troubles,
}

impl Stored {
    fn add(&mut self, packed: &Packed) {
        self.entries += packed.entries;
        self.bytes += packed.bytes;
        self.troubles.merge(packed.troubles.clone());
    }
}

/// Stores a tree in a component that is empty so far. What cannot be read is left out and told: ask
/// [`Troubles::is_complete`] before calling the result a backup.
///
/// # Errors
/// Those of the store. `Precondition`: the root cannot be read. After one the component is not a backup.
pub async fn store_tree(
    component: &ComponentWriter,
    root: &Root,
    options: &StoreOptions,
    progress: OnProgress,
) -> Result<Stored> {
    let (sender, mut jobs) = mpsc::channel(2);
    let walking = {
        let (root, rules) = (root.clone(), options.rules.clone());
        tokio::task::spawn_blocking(move || {
            walk::walk(&root, &rules, &mut |job| {
                sender.blocking_send(job).map_err(|_| Error::new(ErrorKind::Cancelled, "nobody waits for the tree"))
            })
        })
    };
    let mut storing = Storing {
        component: component.clone(),
        root: root.clone(),
        lanes: Arc::new(Semaphore::new(options.lanes.max(1))),
        tasks: JoinSet::new(),
        done: Arc::default(),
        missing: Arc::default(),
        progress,
        next: Numbers { files: 0, hard_links: HARD_LINKS, symlinks: SYMLINKS, folders: FOLDERS },
        last_folders: None,
    };
    while let Some(job) = jobs.recv().await {
        storing.begin(job).await?;
    }
    let walked = walking
        .await
        .unwrap_or_else(|e| Err(Error::new(ErrorKind::Failed, "the walk of the tree panicked").caused_by(e)))?;
    storing.finish(walked).await
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
        let (next, limit) = match role {
            Role::Files | Role::Piece => (&mut self.files, HARD_LINKS),
            Role::HardLinks => (&mut self.hard_links, SYMLINKS),
            Role::Symlinks => (&mut self.symlinks, FOLDERS),
            Role::Folders => (&mut self.folders, REPORT),
        };
        let index = *next;
        if index >= limit {
            return Err(Error::new(ErrorKind::Unsupported, "the tree has more parts than format 1 allows")
                .hint("back it up as several components"));
        }
        *next += 1;
        Ok(index)
    }
}

struct Storing {
    component: ComponentWriter,
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
}

fn role_name(role: Role) -> String {
    match role {
        Role::Files => "files",
        Role::Piece => "piece",
        Role::HardLinks => "hard_links",
        Role::Symlinks => "symlinks",
        Role::Folders => "folders",
    }
    .into()
}

fn meta(role: Role, packed: &Packed) -> PartMeta {
    let number = |name: &str, value: u64| (name.to_owned(), value.to_string());
    PartMeta {
        what: role_name(role),
        notes: [
            number("entries", packed.entries),
            number("bytes", packed.bytes),
            number("allocated", packed.allocated),
        ]
        .into(),
        ..PartMeta::default()
    }
}

impl Storing {
    async fn begin(&mut self, job: Job) -> Result<()> {
        match job {
            Job::Files { files, .. } => {
                let root = self.root.clone();
                self.spawn(Role::Files, move |send| pack::pack_files(&root, &files, send)).await
            }
            Job::Piece { file, range, .. } => {
                let role = if range.start == 0 { Role::Files } else { Role::Piece };
                self.spawn(role, move |send| pack::pack_piece(&file, range, send)).await
            }
            Job::Headers { role: Role::Folders, tar, entries } => match self.last_folders.replace((tar, entries)) {
                Some((tar, entries)) => self.headers(Role::Folders, tar, entries).await,
                None => Ok(()),
            },
            Job::Headers { role, tar, entries } => self.headers(role, tar, entries).await,
        }
    }

    /// Stores a part as soon as a lane is free.
    async fn spawn(
        &mut self,
        role: Role,
        work: impl FnOnce(pack::Send<'_>) -> Result<Packed> + Send + 'static,
    ) -> Result<()> {
        let lane =
            self.lanes.clone().acquire_owned().await.map_err(|e| Error::new(ErrorKind::Cancelled, e.to_string()))?;
        while let Some(finished) = self.tasks.try_join_next() {
            settle(finished)?;
        }
        let index = self.next.take(role)?;
        let (component, done, missing, progress) =
            (self.component.clone(), self.done.clone(), self.missing.clone(), self.progress.clone());
        self.tasks.spawn(async move {
            let _lane = lane;
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
            component.record(part, meta(role, &packed))?;
            missing.lock().unwrap_or_else(PoisonError::into_inner).extend(packed.missing.iter().cloned());
            let bytes = {
                let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                done.add(&packed);
                done.bytes
            };
            progress(bytes, None);
            Ok(())
        });
        Ok(())
    }

    async fn headers(&mut self, role: Role, tar: Vec<u8>, entries: u64) -> Result<()> {
        self.spawn(role, move |send| {
            send(tar.into())?;
            Ok(Packed {
                entries,
                allocated: if role == Role::Folders { entries * 4096 } else { 0 },
                ..Packed::default()
            })
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
            self.spawn(Role::Files, move |send| pack::pack_files(&root, &planned, send)).await?;
        }
        if let Some((mut tar, entries)) = self.last_folders.take() {
            tar.extend_from_slice(&END);
            self.headers(Role::Folders, tar, entries).await?;
        }
        self.settle_all().await?;
        let mut stored = std::mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner));
        stored.troubles.merge(troubles);
        let report = serde_json::to_vec(&stored.troubles)
            .map_err(|e| Error::new(ErrorKind::Failed, "cannot encode the troubles of a tree").caused_by(e))?;
        let meta = PartMeta { what: TROUBLES.into(), ..PartMeta::default() };
        self.component.put(REPORT, meta, stream::once(report)).await?;
        Ok(stored)
    }
}

fn settle(finished: Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    finished.unwrap_or_else(|e| Err(Error::new(ErrorKind::Failed, "storing a part ended early").caused_by(e)))
}

/// How a tree is restored.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// What is done about attributes that not everybody may set.
    pub policy: Policy,
    /// Parts that are unpacked at the same time.
    pub lanes: usize,
    /// Bytes to keep free on the disk.
    pub keep_free: u64,
}

impl RestoreOptions {
    /// Restores on all cores, and keeps so many bytes free.
    pub fn new(policy: Policy, keep_free: u64) -> Self {
        Self { policy, lanes: lanes(), keep_free }
    }
}

/// Restores a tree into a new folder, which appears under its name when everything in it was written, read back,
/// compared with the backup and made durable.
///
/// # Errors
/// `AlreadyExists`: there is something at `target`. `NoSpace`: the disk has no room; nothing was written. `Corrupt`: the
/// backup is damaged, or breaks a rule. `Precondition`: owners cannot be set by this user. After an error there is
/// nothing at `target`, and what was written is gone.
pub async fn restore_tree(
    component: &ComponentReader,
    target: &Path,
    options: &RestoreOptions,
    progress: OnProgress,
) -> Result<(Unpacked, PathBuf)> {
    let layout = Layout::of(component)?;
    let stage = {
        let (target, expected, keep_free) = (target.to_path_buf(), layout.expected, options.keep_free);
        pipe::blocking(move || {
            let stage = Stage::new(&target)?;
            stage.demand_room(expected.allocated, expected.entries, keep_free)?;
            Ok(Arc::new(stage))
        })
        .await?
    };
    let unpacker = Unpacker::new(stage.root().clone(), options.policy);
    let filling = Filling { component, layout: &layout, unpacker, stage: Some(stage.clone()) };
    let unpacked = filling.fill(options.lanes, progress).await?;
    let stage = Arc::into_inner(stage)
        .ok_or_else(|| Error::new(ErrorKind::Failed, "somebody still writes to what was restored"))?;
    let path = pipe::blocking(move || stage.publish()).await?;
    Ok((unpacked, path))
}

/// Restores a tree into an empty folder that is there already, such as that of a new volume; everything in it is
/// written, read back, compared with the backup and durable when this returns.
///
/// # Errors
/// As [`restore_tree`]. After an error the folder holds a part of the tree.
pub async fn restore_into(
    component: &ComponentReader,
    root: &Root,
    options: &RestoreOptions,
    progress: OnProgress,
) -> Result<Unpacked> {
    let layout = Layout::of(component)?;
    stage::demand_room(root, layout.expected.allocated, layout.expected.entries, options.keep_free)?;
    let unpacker = Unpacker::new(root.clone(), options.policy);
    Filling { component, layout: &layout, unpacker, stage: None }.fill(options.lanes, progress).await
}

/// Reads what was wrong with a tree when it was stored.
///
/// # Errors
/// `Corrupt`: the component does not say.
pub async fn read_troubles(component: &ComponentReader) -> Result<Troubles> {
    let part = component.parts().iter().find(|p| p.meta.what == TROUBLES);
    let part = part.ok_or_else(|| broken(component, "does not say how it was read"))?;
    let text = stream::collect(component.read_part(part).await?, REPORT_LIMIT).await?;
    serde_json::from_slice(&text).map_err(|e| broken(component, "does not say how it was read").caused_by(e))
}

/// Reads a tree as one tar, checked on the way: what `tar x` would be given.
///
/// # Errors
/// `Corrupt`: it is not laid out as a tree.
pub fn read_tar(component: &ComponentReader) -> Result<ByteStream> {
    let layout = Layout::of(component)?;
    let parts = layout
        .groups
        .iter()
        .flat_map(|g| g.parts.clone())
        .chain([layout.hard_links, layout.symlinks, layout.folders].concat());
    Ok(chain(component, parts.collect()))
}

fn broken(component: &ComponentReader, why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("component `{}` {why}", component.name()))
}

/// What the parts of a component promise together.
#[derive(Debug, Clone, Copy, Default)]
struct Expected {
    entries: u64,
    bytes: u64,
    allocated: u64,
}

/// Parts by the order in which they are restored.
#[derive(Debug, Default)]
struct Layout {
    /// Parts that together are an archive of whole files.
    groups: Vec<Group>,
    hard_links: Vec<PartRecord>,
    symlinks: Vec<PartRecord>,
    folders: Vec<PartRecord>,
    expected: Expected,
}

#[derive(Debug, Clone, Default)]
struct Group {
    parts: Vec<PartRecord>,
    expected: Expected,
}

impl Layout {
    fn of(component: &ComponentReader) -> Result<Self> {
        let mut layout = Self::default();
        for part in component.parts() {
            let number = |name: &str| -> Result<u64> {
                let note = part.meta.notes.get(name).and_then(|n| n.parse().ok());
                note.ok_or_else(|| broken(component, &format!("does not say what part {} holds", part.index)))
            };
            if part.meta.what == TROUBLES {
                continue;
            }
            let expected =
                Expected { entries: number("entries")?, bytes: number("bytes")?, allocated: number("allocated")? };
            layout.expected.entries = layout.expected.entries.saturating_add(expected.entries);
            layout.expected.bytes = layout.expected.bytes.saturating_add(expected.bytes);
            layout.expected.allocated = layout.expected.allocated.saturating_add(expected.allocated);
            match part.meta.what.as_str() {
                "files" => layout.groups.push(Group { parts: vec![part.clone()], expected }),
                "piece" => {
                    let group = layout.groups.last_mut();
                    let group = group.ok_or_else(|| broken(component, "begins in the middle of a file"))?;
                    group.parts.push(part.clone());
                }
                "hard_links" => layout.hard_links.push(part.clone()),
                "symlinks" => layout.symlinks.push(part.clone()),
                "folders" => layout.folders.push(part.clone()),
                other => {
                    return Err(Error::new(
                        ErrorKind::Unsupported,
                        format!("part {} of `{}` is of a kind `{other}`", part.index, component.name()),
                    )
                    .hint("a component of files can be restored to a folder; is this one?"));
                }
            }
        }
        if layout.folders.is_empty() {
            return Err(broken(component, "has no root folder: it is not a tree of files"));
        }
        Ok(layout)
    }
}

fn chain(component: &ComponentReader, parts: Vec<PartRecord>) -> ByteStream {
    let component = component.clone();
    let streams = futures::stream::iter(parts).then(move |part| {
        let component = component.clone();
        async move { component.read_part(&part).await }
    });
    Box::pin(streams.try_flatten())
}

/// A folder that is being filled.
struct Filling<'a> {
    component: &'a ComponentReader,
    layout: &'a Layout,
    unpacker: Unpacker,
    /// Held by every thread that writes: what was staged is removed when the last of them has ended.
    stage: Option<Arc<Stage>>,
}

type Archive<'a> = TarReader<&'a mut pipe::Input>;

impl Filling<'_> {
    /// Reads parts on a blocking thread. Only when all of them were read to their end, and so checked, is the result
    /// given.
    async fn with_archive<T: Send + 'static>(
        &self,
        parts: Vec<PartRecord>,
        expected: Expected,
        work: impl FnOnce(&Unpacker, &mut Archive<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (unpacker, stage) = (self.unpacker.clone(), self.stage.clone());
        let limits = Limits { entries: expected.entries, bytes: expected.bytes };
        pipe::consume(chain(self.component, parts), move |input| {
            let _stage = stage;
            let result = work(&unpacker, &mut TarReader::new(&mut *input, Dialect::Ours, limits))?;
            while input.next()?.is_some() {}
            Ok(result)
        })
        .await
    }

    async fn each<T: Send + 'static>(
        &self,
        parts: impl Iterator<Item = &PartRecord>,
        work: fn(&Unpacker, &mut Archive<'_>) -> Result<T>,
        mut done: impl FnMut(T),
    ) -> Result<()> {
        for part in parts {
            done(self.with_archive(vec![part.clone()], self.layout.expected, work).await?);
        }
        Ok(())
    }

    async fn fill(self, lanes: usize, progress: OnProgress) -> Result<Unpacked> {
        let layout = self.layout;
        self.each(layout.folders.iter(), |u, a| u.make_folders(a), drop).await?;
        let mut done = self.put_files(lanes.max(1), progress).await?;
        self.each(layout.hard_links.iter(), |u, a| u.put_hard_links(a), |put| done.merge(put)).await?;
        self.each(layout.symlinks.iter(), |u, a| u.put_symlinks(a), |put| done.merge(put)).await?;
        self.each(layout.folders.iter().rev(), |u, a| u.finish_folders(a), |put| done.merge(put)).await?;
        if (done.entries(), done.bytes) != (layout.expected.entries, layout.expected.bytes) {
            return Err(broken(self.component, "holds other entries than its index says")
                .with("entries", done.entries())
                .with("promised", layout.expected.entries));
        }
        let unpacker = self.unpacker.clone();
        pipe::blocking(move || unpacker.sync()).await?;
        Ok(done)
    }

    /// Writes files from several parts at the same time. After a failure no more are begun, but those that were are
    /// waited for: who removes what was written must be alone with it.
    async fn put_files(&self, lanes: usize, progress: OnProgress) -> Result<Unpacked> {
        let (mut done, mut failure) = (Unpacked::default(), None);
        let mut waiting = self.layout.groups.iter();
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < lanes && failure.is_none() {
                let Some(group) = waiting.next() else { break };
                running.push(self.with_archive(group.parts.clone(), group.expected, |u, a| u.put_files(a)));
            }
            match running.next().await {
                Some(Ok(put)) => {
                    done.merge(put);
                    progress(done.bytes, Some(self.layout.expected.bytes));
                }
                Some(Err(error)) => failure = failure.or(Some(error)),
                None => return failure.map_or(Ok(done), Err),
            }
        }
    }
}
