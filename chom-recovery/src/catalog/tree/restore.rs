//! Putting the tree of a component in place.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::{StreamExt, TryStreamExt, stream::FuturesUnordered};

use super::{AFTER_TREE, ALLOCATED, BYTES, OnProgress, TROUBLES, lanes, number};
use crate::{
    catalog::{ComponentReader, PartRecord},
    error::{Error, ErrorKind, Result},
    files::{
        Root,
        stage::{self, Stage},
        tar::{Dialect, Limits, TarReader},
        unpack::{Policy, Unpacked, Unpacker},
        walk::Troubles,
    },
    store::pipe,
    stream::{self, ByteStream},
};

/// Longest report that is read.
const REPORT_LIMIT: usize = 4 << 20;

/// How a tree is restored.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// What is done about attributes that not everybody may set.
    pub policy: Policy,
    /// Parts that are unpacked at the same time.
    pub lanes: usize,
    /// Bytes to keep free on the disk.
    pub keep_free: u64,
    /// Name beside the target until everything is there; else one of chance.
    pub staging: Option<OsString>,
}

impl RestoreOptions {
    /// Restores on all cores, and keeps so many bytes free.
    pub fn new(policy: Policy, keep_free: u64) -> Self {
        Self { policy, lanes: lanes(), keep_free, staging: None }
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
        let staging = options.staging.clone();
        pipe::blocking(move || {
            let stage = staging.map_or_else(|| Stage::new(&target), |name| Stage::named(&target, &name))?;
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
            if part.meta.what == TROUBLES || part.index >= AFTER_TREE {
                continue;
            }
            let said = |number: Option<u64>| {
                number.ok_or_else(|| broken(component, &format!("does not say what part {} holds", part.index)))
            };
            let expected = Expected {
                entries: said(part.meta.entries)?,
                bytes: said(number(&part.meta, BYTES))?,
                allocated: said(number(&part.meta, ALLOCATED))?,
            };
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
