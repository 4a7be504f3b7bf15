//! Walks through the folders of a store, in order of keys.

use std::{io, os::fd::OwnedFd};

use chrono::{DateTime, Utc};
use futures::{StreamExt, stream::BoxStream};
use rustix::{
    fs::{AtFlags, Dir, FileType, Stat},
    io::Errno,
};
use tokio::{sync::mpsc, task::JoinHandle};

use super::{Inner, TEMPORARY, info_of, open_directory, time_of};
use crate::{
    error::{Error, ErrorKind, Result},
    store::{Key, ObjectInfo},
};

/// What the walk met.
enum Met<'a> {
    File { directory: &'a OwnedFd, path: String, name: String, stat: Stat },
    Unreadable { path: String, error: Errno },
}

/// Ends the walk early.
struct Stop;

/// Sends every object below a prefix; an entry that cannot be read is an error item.
pub(super) fn objects(inner: &Inner, prefix: &str, out: &mpsc::Sender<Result<ObjectInfo>>) {
    let mut visit = |met: Met<'_>| {
        let item = match met {
            Met::File { name, .. } if name.starts_with(TEMPORARY) => return Ok(()),
            Met::File { path, stat, .. } => match path.parse::<Key>() {
                Ok(key) => info_of(key, &stat),
                // A name that no key can have is nothing of ours, for example `lost+found`.
                Err(_) => return Ok(()),
            },
            Met::Unreadable { path, error } => Err(unreadable(&path, error)),
        };
        out.blocking_send(item).map_err(|_| Stop)
    };
    match inner.directory(prefix) {
        Ok(Some(directory)) => {
            let _ = walk(&directory, prefix, &mut visit);
        }
        Ok(None) => {}
        Err(error) => {
            let _ = visit(Met::Unreadable { path: prefix.to_owned(), error });
        }
    }
}

/// Turns a walk into a stream that fails, rather than ends, when the walk itself panicked.
pub(super) fn stream(
    receiver: mpsc::Receiver<Result<ObjectInfo>>,
    walking: JoinHandle<()>,
) -> BoxStream<'static, Result<ObjectInfo>> {
    futures::stream::unfold((receiver, Some(walking)), |(mut receiver, walking)| async move {
        if let Some(item) = receiver.recv().await {
            return Some((item, (receiver, walking)));
        }
        match walking?.await {
            Ok(()) => None,
            Err(e) => {
                Some((Err(Error::new(ErrorKind::Failed, "listing ended by panic").caused_by(e)), (receiver, None)))
            }
        }
    })
    .boxed()
}

/// Removes temporary files that were not written to after a time.
pub(super) fn sweep(inner: &Inner, before: DateTime<Utc>) -> Result<u64> {
    let mut gone = 0;
    let mut first_error = None;
    let root = open_directory(&inner.root, ".").map_err(io::Error::from)?;
    let _ = walk(&root, "", &mut |met| {
        match met {
            Met::File { directory, name, stat, .. } if name.starts_with(TEMPORARY) && time_of(&stat) <= before => {
                match rustix::fs::unlinkat(directory, &name, AtFlags::empty()) {
                    Ok(()) => gone += 1,
                    Err(Errno::NOENT) => {}
                    Err(error) => first_error = first_error.take().or_else(|| Some(unreadable(&name, error))),
                }
            }
            Met::File { .. } => {}
            Met::Unreadable { path, error } => {
                first_error = first_error.take().or_else(|| Some(unreadable(&path, error)));
            }
        }
        Ok(())
    });
    first_error.map_or(Ok(gone), Err)
}

fn unreadable(path: &str, error: Errno) -> Error {
    Error::from(io::Error::from(error)).during(format!("cannot list `{path}` in the store"))
}

fn walk(directory: &OwnedFd, prefix: &str, visit: &mut impl FnMut(Met<'_>) -> Result<(), Stop>) -> Result<(), Stop> {
    let entries = match entries(directory) {
        Ok(entries) => entries,
        Err(error) => return visit(Met::Unreadable { path: prefix.to_owned(), error }),
    };
    for (name, entry) in entries {
        let name = name.trim_end_matches('/').to_owned();
        let path = format!("{prefix}{name}");
        match entry {
            Err(Errno::NOENT) => {}
            Err(error) => visit(Met::Unreadable { path, error })?,
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                if path.parse::<Key>().is_err() {
                    continue;
                }
                match open_directory(directory, &name) {
                    Ok(inner) => walk(&inner, &format!("{path}/"), visit)?,
                    Err(Errno::NOENT) => {}
                    Err(error) => visit(Met::Unreadable { path, error })?,
                }
            }
            Ok(stat) => visit(Met::File { directory, path, name, stat })?,
        }
    }
    Ok(())
}

/// Reads a folder. Folders sort with a `/` behind their name, which makes the order of the walk the order of keys.
fn entries(directory: &OwnedFd) -> rustix::io::Result<Vec<(String, rustix::io::Result<Stat>)>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name == "." || name == ".." {
            continue;
        }
        let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
        let is_directory = stat.as_ref().is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory);
        found.push((if is_directory { format!("{name}/") } else { name.to_owned() }, stat));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}
