//! What differs between two trees, by content and not by times.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    os::{fd::AsFd, unix::ffi::OsStrExt},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::{
    beneath::{Root, failed},
    entry::TreePath,
    exclude::Rules,
    walk::names_in,
};
use crate::error::Result;

/// A path that is not the same in both trees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Below the root of the tree; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// How it differs.
    pub change: Change,
}

/// How a path of a tree differs from the same path of its backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The backup holds it, and it is gone.
    Missing,
    /// The backup does not hold it.
    Added,
    /// It has another content, or leads elsewhere, or is something else.
    Content,
    /// It has another owner, group or mode.
    Permissions,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let how = match self.change {
            Change::Missing => "is missing",
            Change::Added => "is not in the backup",
            Change::Content => "differs",
            Change::Permissions => "has other permissions",
        };
        write!(f, "`{}` {how}", self.path)
    }
}

/// Compares a tree with a restored backup of it, in the order of the paths. What the rules leave out is not looked at, nor
/// what is mounted below, and no link is followed.
///
/// # Errors
/// Something cannot be read.
pub fn differences(tree: &Root, backup: &Root, rules: &Rules) -> Result<Vec<Difference>> {
    let (here, there) = (entries(tree, rules)?, entries(backup, rules)?);
    let mut found = Vec::new();
    for (path, old) in &there {
        let change = match here.get(path) {
            None => Change::Missing,
            Some(new) if new.what != old.what => Change::Content,
            Some(new) if new.permissions != old.permissions => Change::Permissions,
            Some(_) => continue,
        };
        found.push(Difference { path: String::from_utf8_lossy(path).into_owned(), change });
    }
    for path in here.keys().filter(|path| !there.contains_key(*path)) {
        found.push(Difference { path: String::from_utf8_lossy(path).into_owned(), change: Change::Added });
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

#[derive(Debug, PartialEq, Eq)]
struct Seen {
    what: What,
    /// Owner, group and mode; links have no mode of their own. What a restore leaves out on purpose does not count.
    permissions: (u32, u32, u32),
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    Folder,
    File(blake3::Hash),
    Link(Vec<u8>),
    Other(u32),
}

fn entries(root: &Root, rules: &Rules) -> Result<BTreeMap<Vec<u8>, Seen>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![TreePath::root()];
    while let Some(path) = waiting.pop() {
        let fail = |e: Errno| failed("read", &path, e);
        let folder = root.folder(path.as_bytes()).map_err(fail)?;
        let device = rustix::fs::fstat(&folder).map_err(fail)?.st_dev;
        for name in names_in(folder.as_fd()).map_err(fail)? {
            let child = path.join(&name)?;
            let fail = |e: Errno| failed("read", &child, e);
            let name = OsStr::from_bytes(&name);
            let stat = match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(fail(e)),
            };
            let kind = FileType::from_raw_mode(stat.st_mode);
            let is_folder = kind == FileType::Directory;
            if !rules.takes(&child, is_folder) || (is_folder && stat.st_dev != device) {
                continue;
            }
            let what = match kind {
                FileType::Directory => What::Folder,
                FileType::RegularFile => {
                    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                    let file = rustix::fs::openat(&folder, name, flags, Mode::empty()).map_err(fail)?;
                    let mut hasher = blake3::Hasher::new();
                    std::io::copy(&mut std::fs::File::from(file), &mut hasher)?;
                    What::File(hasher.finalize())
                }
                FileType::Symlink => {
                    What::Link(rustix::fs::readlinkat(&folder, name, Vec::new()).map_err(fail)?.into_bytes())
                }
                _ => What::Other(stat.st_mode),
            };
            let mode = if kind == FileType::Symlink { 0 } else { stat.st_mode & 0o1777 };
            // A folder that is walked only for what may lie in it is no part of what was asked for.
            if !is_folder || !rules.is_selective() || rules.asks_for(&child) {
                let seen = Seen { what, permissions: (stat.st_uid, stat.st_gid, mode) };
                found.insert(child.as_bytes().to_vec(), seen);
            }
            if is_folder {
                waiting.push(child);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn trees_differ_by_content_and_permissions_and_not_by_times() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for root in [a.path(), b.path()] {
            std::fs::create_dir(root.join("d")).unwrap();
            for name in ["same", "d/other", "d/mode", "left-out"] {
                std::fs::write(root.join(name), name).unwrap();
            }
            symlink("same", root.join("link")).unwrap();
        }
        // As long as before, and written later.
        std::fs::write(a.path().join("d/other"), "d/OTHER").unwrap();
        std::fs::write(a.path().join("same"), "same").unwrap();
        std::fs::write(a.path().join("left-out"), "what the rules leave out").unwrap();
        std::fs::write(a.path().join("new"), "").unwrap();
        std::fs::write(b.path().join("gone"), "").unwrap();
        std::fs::set_permissions(a.path().join("d/mode"), std::fs::Permissions::from_mode(0o777)).unwrap();
        std::fs::remove_file(a.path().join("link")).unwrap();
        symlink("/etc/passwd", a.path().join("link")).unwrap();
        let rules = Rules::new(&[], &["/left-out"]).unwrap();
        let open = |dir: &tempfile::TempDir| Root::open(dir.path()).unwrap();
        let found = differences(&open(&a), &open(&b), &rules).unwrap();
        let found: Vec<_> = found.iter().map(|d| (d.path.as_str(), d.change)).collect();
        assert_eq!(
            found,
            [
                ("d/mode", Change::Permissions),
                ("d/other", Change::Content),
                ("gone", Change::Missing),
                ("link", Change::Content),
                ("new", Change::Added),
            ]
        );
        assert_eq!(differences(&open(&b), &open(&b), &Rules::none()).unwrap(), []);
    }
}
