//! Measures a volume's folder where this process can reach it.

use std::{os::unix::fs::MetadataExt, path::Path};

use super::{VolumeContent, VolumeIdentity};
use crate::error::{Error, ErrorKind, Result};

/// Tells which content lies in a volume's folder.
pub(crate) fn identity_of(volume: &str, root: &Path) -> Result<VolumeIdentity> {
    let meta = std::fs::symlink_metadata(root).map_err(|e| half_exchanged(volume, &e))?;
    Ok(VolumeIdentity { volume: volume.into(), device: meta.dev(), inode: meta.ino() })
}

fn half_exchanged(name: &str, error: &std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::NotFound {
        Error::new(ErrorKind::Conflict, format!("volume `{name}` has no content folder: an exchange was interrupted"))
            .hint("ask for the same exchange again; it goes on where it stopped")
    } else {
        Error::new(ErrorKind::Failed, format!("cannot look at volume `{name}`: {error}"))
    }
}

/// Walks a folder; what vanishes meanwhile is not counted, what cannot be read is an error.
pub(crate) fn measure_folder(volume: &str, root: &Path) -> Result<VolumeContent> {
    let top = std::fs::symlink_metadata(root).map_err(|e| half_exchanged(volume, &e))?;
    let failed = |e: std::io::Error| Error::from(e).during(format!("cannot measure volume `{volume}`"));
    // Blocks of 512 bytes, whatever the filesystem's own: POSIX `st_blocks` on Linux.
    let mut bytes = top.blocks() * 512;
    let mut entries = 0;
    let mut linked = std::collections::HashSet::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let listed = match std::fs::read_dir(&folder) {
            Ok(listed) => listed,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && folder != root => continue,
            Err(e) => return Err(failed(e)),
        };
        for entry in listed {
            let entry = entry.map_err(failed)?;
            let meta = match entry.metadata() {
                Ok(meta) => meta,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(failed(e)),
            };
            entries += 1;
            if meta.is_dir() {
                folders.push(entry.path());
            } else if meta.nlink() > 1 && !linked.insert((meta.dev(), meta.ino())) {
                continue;
            }
            bytes += meta.blocks() * 512;
        }
    }
    let space = rustix::fs::statvfs(root).map_err(|e| failed(e.into()))?;
    Ok(VolumeContent {
        identity: VolumeIdentity { volume: volume.into(), device: top.dev(), inode: top.ino() },
        bytes,
        entries,
        uid: top.uid(),
        gid: top.gid(),
        mode: top.mode() & 0o7777,
        free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
        free_inodes: space.f_favail,
    })
}
