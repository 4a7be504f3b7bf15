//! A world in a directory: every effect is one atomic change of files, so that it outlives a process that is killed,
//! and half an effect does not exist.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::run::failpoint;

/// The world. Clones are the same world.
///
/// A test may kill the process before and after every change.
#[derive(Debug, Clone)]
pub struct World {
    root: PathBuf,
}

impl World {
    /// Opens the world in a directory, which is made where it is missing.
    pub fn open(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        fs::create_dir_all(&root)?;
        Ok(Self { root })
    }

    /// Puts a thing there, in the place of what had that name.
    pub fn put(&self, name: &str, content: &str) -> io::Result<()> {
        // Unfinished things have names that nothing looks at.
        let fresh = self.root.join(format!(".new-{name}-{}", std::process::id()));
        fs::write(&fresh, content)?;
        change("put", || fs::rename(&fresh, self.root.join(name)))
    }

    /// Takes a thing away; one that is not there is fine.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        change("remove", || match fs::remove_file(self.root.join(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        })
    }

    /// Puts two things in each other's place.
    pub fn exchange(&self, first: &str, second: &str) -> io::Result<()> {
        change("exchange", || {
            Ok(renameat_with(CWD, self.root.join(first), CWD, self.root.join(second), RenameFlags::EXCHANGE)?)
        })
    }

    /// Adds one to a counter: an effect that must not be applied twice, and whose repetition shows.
    pub fn count_up(&self, name: &str) -> io::Result<u32> {
        let count = self.count(name)?;
        let next = self.root.join(format!("{name}#{}", count + 1));
        if count == 0 {
            change("count", || fs::write(&next, ""))?;
        } else {
            change("count", || fs::rename(self.root.join(format!("{name}#{count}")), &next))?;
        }
        Ok(count + 1)
    }

    /// Reads a counter.
    pub fn count(&self, name: &str) -> io::Result<u32> {
        let prefix = format!("{name}#");
        let counts = self.all()?.into_keys().filter_map(|key| key.strip_prefix(&prefix)?.parse().ok());
        Ok(counts.max().unwrap_or(0))
    }

    /// Looks at a thing.
    pub fn get(&self, name: &str) -> io::Result<Option<String>> {
        match fs::read_to_string(self.root.join(name)) {
            Ok(content) => Ok(Some(content)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Looks at everything.
    pub fn all(&self) -> io::Result<BTreeMap<String, String>> {
        let mut all = BTreeMap::new();
        for entry in fs::read_dir(&self.root)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.')
                && let Some(content) = self.get(&name)?
            {
                all.insert(name, content);
            }
        }
        Ok(all)
    }

    /// Returns its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

fn change(what: &str, change: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    failpoint::hit(&format!("before {what}"));
    change()?;
    failpoint::hit(&format!("after {what}"));
    Ok(())
}
