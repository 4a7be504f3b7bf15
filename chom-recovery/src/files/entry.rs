//! What a tree consists of, and which names are allowed in it.

use std::{borrow::Cow, fmt};

use crate::error::{Error, ErrorKind, Result};

/// Longest path, in bytes.
const LONGEST_PATH: usize = 4096;
/// Longest name within a path, in bytes: what Linux filesystems hold.
const LONGEST_NAME: usize = 255;
/// Deepest nesting.
const DEEPEST: usize = 128;
/// Longest target of a symbolic link, in bytes.
const LONGEST_TARGET: usize = 4095;

/// Path of an entry below the root of its tree: names joined by `/`, as bytes. The root itself is empty.
///
/// No name is empty, `.` or `..`, none holds NUL, and all of it is short enough for every call of the system.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TreePath(Vec<u8>);

impl TreePath {
    /// Names the root of a tree.
    pub fn root() -> Self {
        Self::default()
    }

    /// Checks a path.
    ///
    /// # Errors
    /// `Corrupt`: it is absolute, leads upwards, or is longer or deeper than allowed.
    pub fn new(path: impl Into<Vec<u8>>) -> Result<Self> {
        let path = path.into();
        let bad = |why: &str| {
            let shown: String = String::from_utf8_lossy(&path).chars().take(200).collect();
            Err(Error::new(ErrorKind::Corrupt, format!("the path `{}` {why}", shown.escape_debug())))
        };
        if path.len() > LONGEST_PATH {
            return bad("is too long");
        }
        if path.contains(&0) {
            return bad("holds a NUL byte");
        }
        let mut depth = 0;
        for name in path.split(|b| *b == b'/') {
            depth += 1;
            match name {
                b"" if path.first() == Some(&b'/') => return bad("is absolute"),
                b"" => return bad("has an empty name"),
                b"." | b".." => return bad("leads elsewhere"),
                _ if name.len() > LONGEST_NAME => return bad("has a name that is too long"),
                _ => {}
            }
        }
        if depth > DEEPEST {
            return bad("is nested too deeply");
        }
        Ok(Self(path))
    }

    /// Appends a name that the kernel gave.
    ///
    /// # Errors
    /// As [`TreePath::new`].
    pub fn join(&self, name: &[u8]) -> Result<Self> {
        if self.is_root() {
            return Self::new(name);
        }
        Self::new([&self.0[..], b"/", name].concat())
    }

    /// Tells whether it names the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Splits into the path of the folder and the name in it; the root has neither.
    pub fn split(&self) -> Option<(&[u8], &[u8])> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|b| *b == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (b"", &self.0),
        })
    }

    /// Returns the path as text; what is not UTF-8 is replaced.
    pub fn display(&self) -> Cow<'_, str> {
        if self.is_root() { ".".into() } else { String::from_utf8_lossy(&self.0) }
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.display().escape_debug())
    }
}

/// A point in time as filesystems keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Time {
    /// Seconds since 1970, UTC.
    pub seconds: i64,
    /// Nanoseconds after that, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// A stretch of bytes in a file that is not a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// An extended attribute.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// Name, with its namespace.
    pub name: String,
    /// Value.
    pub value: Vec<u8>,
}

impl fmt::Debug for Xattr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={} bytes", self.name, self.value.len())
    }
}

impl Xattr {
    /// Tells whether an attribute is kept: those of users and access control lists. What belongs to the system that
    /// the tree lay on (`security.*`, `trusted.*`) says nothing on another one, or grants what nobody asked for.
    pub fn is_kept(name: &str) -> bool {
        name.strip_prefix("user.").is_some_and(|n| !n.is_empty() && n.len() <= 250 && !n.contains(['=', '\0']))
            || matches!(name, "system.posix_acl_access" | "system.posix_acl_default")
    }
}

/// Owner, permissions and the like.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Owner, by number: names mean something else in a container.
    pub uid: u32,
    /// Group, by number.
    pub gid: u32,
    /// Permission bits, with setuid, setgid and sticky: at most 0o7777.
    pub mode: u32,
    /// Last modification.
    pub modified: Time,
    /// Extended attributes that are kept, in order of name.
    pub xattrs: Vec<Xattr>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File {
        /// Bytes, holes included.
        size: u64,
        /// Where it has data, in order, when it has holes.
        extents: Option<Vec<Extent>>,
    },
    /// A folder.
    Folder,
    /// Another name for a file that came before.
    HardLink {
        /// That file.
        target: TreePath,
    },
    /// A symbolic link.
    Symlink {
        /// What it says; nobody follows it.
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
}

impl Kind {
    /// Bytes of data that follow the header, the map of a file with holes not counted.
    pub fn data_len(&self) -> u64 {
        match self {
            Self::File { size, extents: None } => *size,
            Self::File { extents: Some(extents), .. } => extents.iter().map(|e| e.length).sum(),
            _ => 0,
        }
    }
}

/// One thing of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it lies.
    pub path: TreePath,
    /// What it is.
    pub kind: Kind,
    /// Owner, permissions and the like.
    pub attributes: Attributes,
}

/// Checks the target of a symbolic link: any text that a filesystem would hold.
pub(super) fn check_target(path: &TreePath, target: &[u8]) -> Result<()> {
    if target.is_empty() || target.len() > LONGEST_TARGET || target.contains(&0) {
        return Err(Error::new(ErrorKind::Corrupt, format!("the symbolic link {path:?} has an impossible target")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_nowhere_but_down() {
        for bad in ["/etc/passwd", "..", "a/../b", "a//b", "a/", "./a", ".", "a\0b", ""] {
            assert!(TreePath::new(bad).is_err(), "{bad:?}");
        }
        for bad in ["x".repeat(256), vec!["d"; 129].join("/"), vec!["x".repeat(200); 21].join("/")] {
            assert!(TreePath::new(bad).is_err());
        }
        let path = TreePath::new(&b"a/..b/c\xff"[..]).unwrap();
        assert_eq!(path.split().unwrap().1, b"c\xff");
    }
}
