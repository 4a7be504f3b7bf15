//! Giving a restored tree what its backup leaves out on purpose.

use std::{
    ffi::OsStr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RenameFlags},
    io::Errno,
};

use super::{
    beneath::{Root, failed},
    entry::{Entry, Kind, TreePath},
    exclude::Rules,
    unpack::{Policy, Unpacker},
    walk::{attributes_of, names_in},
};
use crate::error::Result;

/// Gives `to` everything of `from` that the rules leave out: files get a further name there, so that they are the same in
/// both trees, and folders are made anew. What is there already stays. Both lie on one filesystem. A second call finds it
/// done.
///
/// Returns how many entries were left out.
///
/// # Errors
/// `Failed`: the filesystem has no further names.
pub fn carry_over(from: &Root, to: &Root, rules: &Rules) -> Result<u64> {
    let mut carrying = Carrying { from, to, rules, made: Vec::new(), carried: 0 };
    let mut waiting = vec![(TreePath::root(), false)];
    while let Some((path, is_left_out)) = waiting.pop() {
        carrying.folder(&path, is_left_out, &mut waiting)?;
    }
    carrying.finish()
}

/// Name of a folder that has not all of its attributes yet.
const UNNAMED: &str = ".chom-recovery-unnamed";

struct Carrying<'a> {
    from: &'a Root,
    to: &'a Root,
    rules: &'a Rules,
    /// Folders that get their attributes when everything lies in them.
    made: Vec<TreePath>,
    carried: u64,
}

impl Carrying<'_> {
    fn folder(&mut self, path: &TreePath, is_left_out: bool, waiting: &mut Vec<(TreePath, bool)>) -> Result<()> {
        let fail = |e: Errno| failed("read", path, e);
        let folder = self.from.folder(path.as_bytes()).map_err(fail)?;
        let device = rustix::fs::fstat(&folder).map_err(fail)?.st_dev;
        let mut into = None;
        for name in names_in(folder.as_fd()).map_err(fail)? {
            let child = path.join(&name)?;
            let name = OsStr::from_bytes(&name);
            let stat = match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(failed("look at", &child, e)),
            };
            let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let is_left_out = is_left_out || !self.rules.takes(&child, is_folder);
            if is_folder {
                // What is mounted here is no part of the tree.
                if stat.st_dev == device {
                    if is_left_out || (self.rules.is_selective() && !self.rules.asks_for(&child)) {
                        self.make(&child)?;
                    }
                    self.carried += u64::from(is_left_out);
                    waiting.push((child, is_left_out));
                }
            } else if is_left_out {
                if into.is_none() {
                    self.make(path)?;
                    into = Some(self.to.folder(path.as_bytes()).map_err(|e| failed("open", path, e))?);
                }
                let Some(into) = &into else { continue };
                match rustix::fs::linkat(&folder, name, into, name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::EXIST) => self.carried += 1,
                    Err(e) => return Err(failed("give a further name to", &child, e)),
                }
            }
        }
        Ok(())
    }

    /// Makes a folder, and those above it, where they are missing.
    fn make(&mut self, path: &TreePath) -> Result<()> {
        let Some((above, name)) = path.split() else { return Ok(()) };
        let name = OsStr::from_bytes(name);
        let fail = |e: Errno| failed("make folder", path, e);
        let folder = match self.to.folder(above) {
            Err(Errno::NOENT) => {
                self.make(&TreePath::new(above)?)?;
                self.to.folder(above)
            }
            found => found,
        };
        let folder = folder.map_err(fail)?;
        match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => return Ok(()),
            Err(Errno::NOENT) => {}
            Err(e) => return Err(fail(e)),
        }
        // Dressed before it has its name: what has a name is never half done, whenever this is killed.
        match rustix::fs::mkdirat(&folder, UNNAMED, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(fail(e)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let unnamed = rustix::fs::openat(&folder, UNNAMED, flags, Mode::empty()).map_err(fail)?;
        self.dress(path, &unnamed)?;
        rustix::fs::renameat_with(&folder, UNNAMED, &folder, name, RenameFlags::NOREPLACE).map_err(fail)?;
        self.made.push(path.clone());
        Ok(())
    }

    /// Gives a folder the attributes of the one that it stands for.
    fn dress(&self, path: &TreePath, copy: &OwnedFd) -> Result<()> {
        let fail = |e: Errno| failed("finish folder", path, e);
        let folder = self.from.folder(path.as_bytes()).map_err(fail)?;
        let stat = rustix::fs::fstat(&folder).map_err(fail)?;
        let attributes = attributes_of(&stat, folder.as_fd()).map_err(fail)?;
        let entry = Entry { path: path.clone(), kind: Kind::Folder, attributes };
        Unpacker::new(self.to.clone(), Policy::default()).dress(copy, &entry).map_err(fail)
    }

    /// What was put into a folder changed its time: the deepest first.
    fn finish(mut self) -> Result<u64> {
        self.made.sort();
        for path in self.made.iter().rev() {
            let copy = self.to.folder(path.as_bytes()).map_err(|e| failed("finish folder", path, e))?;
            self.dress(path, &copy)?;
        }
        Unpacker::new(self.to.clone(), Policy::default()).sync()?;
        Ok(self.carried)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
        path::Path,
    };

    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn what_is_left_out_is_the_same_in_both_and_nothing_else_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        for (path, text) in [
            ("app/a", "now"),
            ("app/since/new", "taken, and gone with the restore"),
            ("app/since/new.log", "left out"),
            ("framework/cache/deep/x", "cache"),
            ("logs/laravel.log", "log"),
        ] {
            write(&from.join(path), text);
        }
        symlink("/nowhere", from.join("framework/link")).unwrap();
        fs::create_dir(from.join("framework/empty")).unwrap();
        fs::set_permissions(from.join("framework"), fs::Permissions::from_mode(0o2750)).unwrap();
        write(&to.join("app/a"), "backup");
        let rules = Rules::new(&[], &["/framework/", "*.log"]).unwrap();
        let (source, target) = (Root::open(&from).unwrap(), Root::open(&to).unwrap());
        // Folders: framework, cache, deep, empty; others: x, link, two logs.
        for _twice in 0..2 {
            assert_eq!(carry_over(&source, &target, &rules).unwrap(), 8);
        }
        assert_eq!(fs::read_to_string(to.join("app/a")).unwrap(), "backup");
        assert!(!to.join("app/since/new").exists());
        for same in ["app/since/new.log", "framework/cache/deep/x", "logs/laravel.log"] {
            assert_eq!(
                fs::metadata(to.join(same)).unwrap().ino(),
                fs::metadata(from.join(same)).unwrap().ino(),
                "{same}"
            );
        }
        assert_eq!(fs::read_link(to.join("framework/link")).unwrap(), Path::new("/nowhere"));
        assert!(to.join("framework/empty").is_dir());
        let (then, now) = (fs::metadata(from.join("framework")).unwrap(), fs::metadata(to.join("framework")).unwrap());
        assert_eq!((then.mode(), then.mtime_nsec()), (now.mode(), now.mtime_nsec()));
    }

    #[test]
    fn of_what_is_included_nothing_is_carried_and_everything_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        for path in [".env", "docker/nginx/conf", "src/main.php", "src/lib/a.php"] {
            write(&from.join(path), "now");
        }
        fs::create_dir(from.join("empty")).unwrap();
        write(&to.join(".env"), "backup");
        // As a call leaves it that was killed.
        fs::create_dir(to.join(UNNAMED)).unwrap();
        let rules = Rules::new(&["/.env", "/docker/"], &[]).unwrap();
        carry_over(&Root::open(&from).unwrap(), &Root::open(&to).unwrap(), &rules).unwrap();
        assert_eq!(fs::read_to_string(to.join(".env")).unwrap(), "backup");
        assert_eq!(fs::read_to_string(to.join("src/lib/a.php")).unwrap(), "now");
        assert!(!to.join("docker/nginx/conf").exists(), "the backup has none, so it is gone");
        assert!(to.join("empty").is_dir(), "an empty folder that nobody asks for stays as well");
    }

    #[test]
    fn no_link_is_followed_to_the_outside() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to, outside) = (folder.path().join("from"), folder.path().join("to"), folder.path().join("outside"));
        write(&from.join("logs/a.log"), "log");
        fs::create_dir_all(&outside).unwrap();
        fs::create_dir_all(&to).unwrap();
        symlink(&outside, to.join("logs")).unwrap();
        let rules = Rules::new(&[], &["*.log"]).unwrap();
        assert!(carry_over(&Root::open(&from).unwrap(), &Root::open(&to).unwrap(), &rules).is_err());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }
}
