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
    store::{Key, ObjectInfo, Skip},
};

/// What the walk met.
enum Met<'a> {
    File { directory: &'a OwnedFd, path: String, name: String, stat: Stat },
    Unreadable { path: String, error: Errno },
}

/// Ends the walk early.
struct Stop;

/// Sends every object below a prefix but those that are skipped; an entry that cannot be read is an error item.
pub(super) fn objects(inner: &Inner, prefix: &str, skip: Skip, out: &mpsc::Sender<Result<ObjectInfo>>) {
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
            let _ = walk(&directory, prefix, skip, &mut visit);
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
    let _ = walk(&root, "", |_| false, &mut |met| {
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

fn walk(
    directory: &OwnedFd,
    prefix: &str,
    skip: Skip,
    visit: &mut impl FnMut(Met<'_>) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let entries = match entries(directory) {
        Ok(entries) => entries,
        Err(error) => return visit(Met::Unreadable { path: prefix.to_owned(), error }),
    };
    for entry in entries {
        let path = format!("{prefix}{}", entry.name);
        match entry.is {
            Is::Folder if path.parse::<Key>().is_err() || skip(&format!("{path}/")) => {}
            Is::Folder => match open_directory(directory, &entry.name) {
                Ok(inner) => walk(&inner, &format!("{path}/"), skip, visit)?,
                Err(Errno::NOENT) => {}
                Err(error) => visit(Met::Unreadable { path, error })?,
            },
            Is::File(stat) => visit(Met::File { directory, path, name: entry.name, stat })?,
            Is::Unreadable(error) => visit(Met::Unreadable { path, error })?,
        }
    }
    Ok(())
}

struct Entry {
    name: String,
    is: Is,
}

enum Is {
    Folder,
    /// Whatever is no folder.
    File(Stat),
    Unreadable(Errno),
}

/// Reads a folder, in the order of keys: a folder's keys go on with a `/` behind its name.
fn entries(directory: &OwnedFd) -> rustix::io::Result<Vec<Entry>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name == "." || name == ".." {
            continue;
        }
        let is = match entry.file_type() {
            // A filesystem that says so saves a question for each folder.
            FileType::Directory => Is::Folder,
            _ => match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Is::Folder,
                Ok(stat) => Is::File(stat),
                Err(Errno::NOENT) => continue,
                Err(error) => Is::Unreadable(error),
            },
        };
        found.push(Entry { name: name.to_owned(), is });
    }
    found.sort_by(|a, b| a.in_keys().cmp(b.in_keys()));
    Ok(found)
}

impl Entry {
    /// Its bytes in the keys that it begins.
    fn in_keys(&self) -> impl Iterator<Item = u8> {
        let slash = matches!(self.is, Is::Folder).then_some(b'/');
        self.name.bytes().chain(slash)
    }
}
