//! Walks through the folders of a store, in order of keys.

use std::{collections::VecDeque, sync::Arc};

use chrono::{DateTime, Utc};
use futures::{StreamExt, stream::BoxStream};
use openssh_sftp_client_lowlevel::{FileAttrs, FileType};

use super::{Inner, TEMPORARY, error::Failure, info_of, modified, session::Session};
use crate::{
    error::{Error, Result},
    store::{Key, ObjectInfo, Skip},
};

/// A file or a folder that the walk has met and not looked into yet. Paths are relative to the store; those of folders
/// end at a `/`.
struct Entry {
    path: String,
    attributes: FileAttrs,
}

/// A walk: what is left of each folder, the innermost last.
struct Walk {
    inner: Arc<Inner>,
    session: Arc<Session>,
    left: Vec<VecDeque<Entry>>,
    skip: Skip,
}

fn failed(path: &str, failure: Failure) -> Error {
    failure.during(format!("cannot list `{path}` in the store"))
}

/// Reads a folder, in order of keys. Folders sort with a `/` behind their name, which makes the order of the walk the
/// order of keys. An absent one is empty: a deletion may just have removed it.
async fn entries(inner: &Inner, session: &Session, folder: &str) -> Result<VecDeque<Entry>> {
    let handle = match session.open_folder(&inner.path(folder)).await {
        Ok(handle) => handle,
        Err(Failure::Absent) => return Ok(VecDeque::new()),
        Err(failure) => return Err(failed(folder, failure)),
    };
    let mut found = Vec::new();
    let read = loop {
        match session.read_folder(&handle).await {
            Ok(some) if some.is_empty() => break Ok(()),
            Ok(some) => found.extend(some.into_vec().into_iter().filter_map(|entry| {
                // A name that no key can have is nothing of ours.
                let name = entry.filename.to_str().filter(|n| !n.is_empty() && !n.contains('/'))?;
                let slash = if entry.attrs.get_filetype() == Some(FileType::Directory) { "/" } else { "" };
                (name != "." && name != "..")
                    .then(|| Entry { path: format!("{folder}{name}{slash}"), attributes: entry.attrs })
            })),
            Err(failure) => break Err(failed(folder, failure)),
        }
    };
    let closed = session.close(handle).await;
    read?;
    closed.map_err(|f| failed(folder, f))?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found.into())
}

impl Walk {
    /// Goes to the next file, of whatever kind and name.
    async fn next(&mut self) -> Result<Option<Entry>> {
        while let Some(folder) = self.left.last_mut() {
            let Some(entry) = folder.pop_front() else {
                self.left.pop();
                continue;
            };
            match entry.path.strip_suffix('/') {
                None => return Ok(Some(entry)),
                Some(name) if name.parse::<Key>().is_ok() && !(self.skip)(&entry.path) => {
                    let below = entries(&self.inner, &self.session, &entry.path).await?;
                    self.left.push(below);
                }
                Some(_) => {}
            }
        }
        Ok(None)
    }
}

fn is_temporary(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.starts_with(TEMPORARY))
}

/// Streams every object below a prefix but those that are skipped. An entry that is no regular file is an error item; a folder that cannot be
/// read ends the stream with an error.
pub(super) fn objects(
    inner: Arc<Inner>,
    session: Arc<Session>,
    prefix: &str,
    skip: Skip,
) -> BoxStream<'static, Result<ObjectInfo>> {
    let first = Entry { path: prefix.to_owned(), attributes: FileAttrs::new() };
    let begin = async move {
        let left = vec![entries(&inner, &session, &first.path).await?];
        Ok::<_, Error>(Walk { inner, session, left, skip })
    };
    futures::stream::once(begin)
        .flat_map(|walk| match walk {
            Ok(walk) => futures::stream::unfold(Some(walk), step).boxed(),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        })
        .boxed()
}

async fn step(walk: Option<Walk>) -> Option<(Result<ObjectInfo>, Option<Walk>)> {
    let mut walk = walk?;
    loop {
        match walk.next().await {
            Ok(None) => return None,
            Ok(Some(entry)) => {
                if is_temporary(&entry.path) {
                    continue;
                }
                if let Ok(key) = entry.path.parse::<Key>() {
                    return Some((info_of(key, &entry.attributes), Some(walk)));
                }
            }
            Err(error) => return Some((Err(error), None)),
        }
    }
}

/// Removes temporary files that were not written to after a time.
pub(super) async fn sweep(inner: &Arc<Inner>, session: &Arc<Session>, before: DateTime<Utc>) -> Result<u64> {
    let left = vec![entries(inner, session, "").await?];
    let mut walk = Walk { inner: inner.clone(), session: session.clone(), left, skip: |_| false };
    let own_clock = inner.clock.lock().await.clone();
    let mut gone = 0;
    while let Some(entry) = walk.next().await? {
        let path = inner.path(&entry.path);
        if !is_temporary(&entry.path) || modified(&entry.attributes) > before || own_clock.as_ref() == Some(&path) {
            continue;
        }
        match session.remove(&path).await {
            Ok(()) => gone += 1,
            Err(Failure::Absent) => {}
            Err(failure) => return Err(failure.during(format!("cannot remove `{}`", entry.path))),
        }
    }
    Ok(gone)
}
