//! Reading back what was put in place.

use rustix::{
    fs::{FileType, Mode, OFlags},
    io::Errno,
};

use super::{
    beneath::{Folders, failed},
    entry::{Entry, Extent, Kind},
    unpack::Policy,
    walk::plain_attributes,
};
use crate::error::{Error, ErrorKind, Result};

/// Bytes read at once.
const PIECE: usize = 256 << 10;

/// A file that was put in place, and what its data was.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) entry: Entry,
    pub(super) hash: blake3::Hash,
}

/// Compares a file with what the archive said of it: kind, size, owner, mode, time and every byte.
///
/// # Errors
/// `Corrupt`: it differs, with what does.
pub(super) fn check_file(folders: &mut Folders<'_>, policy: Policy, placed: &Placed) -> Result<()> {
    let Entry { path, kind, attributes } = &placed.entry;
    let fail = |e: Errno| failed("read back", path, e);
    let differs = |what: &str| {
        Err(Error::new(ErrorKind::Corrupt, format!("{path:?} was not read back as it was written: its {what} differs"))
            .hint("check the disk, and that nothing else writes below the target"))
    };
    let Kind::File { size, extents } = kind else { return differs("kind") };
    let (folder, name) = folders.of(path).map_err(fail)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::openat(folder, name, flags, Mode::empty()).map_err(fail)?;
    let stat = rustix::fs::fstat(&file).map_err(fail)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return differs("kind");
    }
    if u64::try_from(stat.st_size).ok() != Some(*size) {
        return differs("size");
    }
    let found = plain_attributes(&stat);
    if !policy.own_everything && (found.uid, found.gid) != (attributes.uid, attributes.gid) {
        return differs("owner");
    }
    if found.mode != policy.mode(kind, attributes.mode) {
        return differs("mode");
    }
    // Not every filesystem keeps fractions.
    if found.modified.seconds != attributes.modified.seconds {
        return differs("time");
    }
    let whole = [Extent { offset: 0, length: *size }];
    let stretches = match extents {
        Some(extents) => &extents[..],
        None => &whole[..],
    };
    let mut hash = blake3::Hasher::new();
    let mut buffer = vec![0; PIECE.min(usize::try_from(*size).unwrap_or(PIECE))];
    for stretch in stretches {
        let mut at = 0;
        while at < stretch.length {
            let wanted = buffer.len().min(usize::try_from(stretch.length - at).unwrap_or(usize::MAX));
            let length =
                rustix::io::retry_on_intr(|| rustix::io::pread(&file, &mut buffer[..wanted], stretch.offset + at))
                    .map_err(fail)?;
            if length == 0 {
                return differs("size");
            }
            hash.update(&buffer[..length]);
            at += length as u64;
        }
    }
    if hash.finalize() == placed.hash { Ok(()) } else { differs("content") }
}
