//! Puts the contents of two volumes in each other's place.
//!
//! The Engine cannot rename volumes, so the folders behind the names are renamed: `<root>/<volume>/_data`. One
//! `renameat2(RENAME_EXCHANGE)` does it where it works. Else three renames do, by way of a third name; every state
//! between them is told by the inodes of the folders, so that asking again goes on from there, or back.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use async_trait::async_trait;

use crate::error::{Error, ErrorKind, Result};

/// Name of a volume's content, given by the Engine's `local` driver.
pub(crate) const CONTENT: &str = "_data";
/// Name of a content that is on its way.
const ASIDE: &str = "_chom-recovery-aside";

/// Where a content can lie during an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    First,
    Second,
    /// Beside the first.
    Aside,
}

pub(crate) const SLOTS: [Slot; 3] = [Slot::First, Slot::Second, Slot::Aside];

/// Device and inode of what lies in each slot.
pub(crate) type Seen = [Option<(u64, u64)>; 3];

/// A way to look at the folders and rename them; what a rename did is always found by looking.
#[async_trait]
pub(crate) trait Folders: Send + Sync {
    async fn look(&self) -> Result<Seen>;
    /// Renames; never onto something that is there.
    async fn rename(&self, from: Slot, to: Slot) -> Result<()>;
    /// Exchanges the first and second at once; `false` where that is not possible here.
    async fn swap(&self) -> Result<bool>;
    /// Makes the renames durable.
    async fn sync(&self) -> Result<()>;
}

/// Exchanges, or completes an exchange that was interrupted.
///
/// `first` and `second` say what lay in each slot before.
pub(crate) async fn exchange(folders: &dyn Folders, first: (u64, u64), second: (u64, u64)) -> Result<()> {
    // Three renames at most, and one look more to see the last.
    for _ in 0..=4 {
        let seen = folders.look().await?;
        match next_move(&seen, first, second)? {
            Move::Done => return folders.sync().await,
            Move::Swap => {
                if !folders.swap().await? {
                    folders.rename(Slot::First, Slot::Aside).await?;
                }
            }
            Move::Rename(from, to) => folders.rename(from, to).await?,
        }
        folders.sync().await?;
    }
    Err(Error::new(ErrorKind::Failed, "the exchange does not come to an end")
        .hint("look at both places on the Engine's host"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    Done,
    Swap,
    Rename(Slot, Slot),
}

/// Decides by what lies where. The wanted end is `second` in the first slot and `first` in the second.
fn next_move(seen: &Seen, first: (u64, u64), second: (u64, u64)) -> Result<Move> {
    let [in_first, in_second, aside] = *seen;
    let at = |content| SLOTS.into_iter().zip(seen).find(|(_, there)| **there == Some(content)).map(|(slot, _)| slot);
    match (in_first, in_second, aside) {
        (Some(a), Some(b), None) if a == second && b == first => Ok(Move::Done),
        (Some(a), Some(b), None) if a == first && b == second => Ok(Move::Swap),
        (None, _, _) => match at(second) {
            Some(from) => Ok(Move::Rename(from, Slot::First)),
            None => Err(strange(seen)),
        },
        (_, None, _) => match at(first) {
            Some(from) => Ok(Move::Rename(from, Slot::Second)),
            None => Err(strange(seen)),
        },
        _ => Err(strange(seen)),
    }
}

fn strange(seen: &Seen) -> Error {
    let show = |there: &Option<(u64, u64)>| there.map_or_else(|| "nothing".into(), |(_, inode)| inode.to_string());
    Error::new(ErrorKind::Conflict, "what lies in the two places is not what was to be exchanged")
        .with("inode of the first", show(&seen[0]))
        .with("inode of the second", show(&seen[1]))
        .with("inode set aside", show(&seen[2]))
        .hint("something else changed them; look at both before going on")
}

/// Where the slots of two volumes lie below the folder of all volumes.
pub(crate) fn volume_slots(first: &str, second: &str) -> [PathBuf; 3] {
    let below = |volume: &str, folder: &str| Path::new(volume).join(folder);
    [below(first, CONTENT), below(second, CONTENT), below(ordered(first, second).0, ASIDE)]
}

/// The slots' places; an exchange asked for in the other order finds what the first one set aside.
fn ordered<'a>(first: &'a str, second: &'a str) -> (&'a str, &'a str) {
    if first <= second { (first, second) } else { (second, first) }
}

/// Names of the slots where the contents are folders beside each other.
pub(crate) fn sibling_slots(first: &str, second: &str) -> [PathBuf; 3] {
    [first.into(), second.into(), format!(".{}{ASIDE}", ordered(first, second).0).into()]
}

/// Folders that this process can rename itself.
pub(crate) struct LocalFolders {
    paths: [PathBuf; 3],
}

impl LocalFolders {
    /// The contents of two volumes of the `local` driver below the folder of all volumes.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn new(root: &Path, first: &str, second: &str) -> Self {
        Self::below(root, &volume_slots(first, second))
    }

    /// Slots by their paths below a folder.
    pub(crate) fn below(root: &Path, slots: &[PathBuf; 3]) -> Self {
        Self { paths: slots.each_ref().map(|slot| root.join(slot)) }
    }

    fn path(&self, slot: Slot) -> &Path {
        &self.paths[slot as usize]
    }
}

#[async_trait]
impl Folders for LocalFolders {
    async fn look(&self) -> Result<Seen> {
        let mut seen = [None; 3];
        for (slot, path) in seen.iter_mut().zip(&self.paths) {
            *slot = match std::fs::symlink_metadata(path) {
                Ok(meta) => Some((meta.dev(), meta.ino())),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
                Err(e) => return Err(Error::from(e).during(format!("cannot look at `{}`", path.display()))),
            };
        }
        Ok(seen)
    }

    async fn rename(&self, from: Slot, to: Slot) -> Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        let (from, to) = (self.path(from), self.path(to));
        let moved = match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // Filesystems without flags: a rename onto a folder that is not empty fails anyway.
            Err(rustix::io::Errno::INVAL) if !to.exists() => rustix::fs::rename(from, to),
            other => other,
        };
        moved.map_err(|e| {
            Error::from(std::io::Error::from(e)).during(format!(
                "cannot rename `{}` to `{}`",
                from.display(),
                to.display()
            ))
        })
    }

    async fn swap(&self) -> Result<bool> {
        use rustix::{
            fs::{CWD, RenameFlags, renameat_with},
            io::Errno,
        };
        let (first, second) = (self.path(Slot::First), self.path(Slot::Second));
        match renameat_with(CWD, first, CWD, second, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(true),
            // The filesystem or the kernel does not know how.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(false),
            Err(e) => Err(Error::from(std::io::Error::from(e)).during(format!(
                "cannot exchange `{}` and `{}`",
                first.display(),
                second.display()
            ))),
        }
    }

    async fn sync(&self) -> Result<()> {
        for path in &self.paths {
            if let Some(parent) = path.parent() {
                std::fs::File::open(parent)
                    .and_then(|folder| folder.sync_all())
                    .map_err(|e| Error::from(e).during(format!("cannot sync `{}`", parent.display())))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Local folders that refuse to swap at once and fail after so many renames.
    struct Failing {
        folders: LocalFolders,
        can_swap: bool,
        renames_left: AtomicUsize,
    }

    #[async_trait]
    impl Folders for Failing {
        async fn look(&self) -> Result<Seen> {
            self.folders.look().await
        }

        async fn rename(&self, from: Slot, to: Slot) -> Result<()> {
            let left = self.renames_left.load(Ordering::Relaxed);
            if left == 0 {
                return Err(Error::new(ErrorKind::Cancelled, "killed here"));
            }
            self.renames_left.store(left - 1, Ordering::Relaxed);
            self.folders.rename(from, to).await
        }

        async fn swap(&self) -> Result<bool> {
            if self.can_swap { self.folders.swap().await } else { Ok(false) }
        }

        async fn sync(&self) -> Result<()> {
            self.folders.sync().await
        }
    }

    struct Fixture {
        root: tempfile::TempDir,
        a: (u64, u64),
        b: (u64, u64),
    }

    impl Fixture {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            for name in ["a", "b"] {
                std::fs::create_dir_all(root.path().join(name).join(CONTENT)).unwrap();
                std::fs::write(root.path().join(name).join(CONTENT).join("who"), name).unwrap();
            }
            let id = |name: &str| {
                let meta = std::fs::metadata(root.path().join(name).join(CONTENT)).unwrap();
                (meta.dev(), meta.ino())
            };
            let (a, b) = (id("a"), id("b"));
            Self { root, a, b }
        }

        fn folders(&self, first: &str, second: &str, can_swap: bool, renames: usize) -> Failing {
            Failing {
                folders: LocalFolders::new(self.root.path(), first, second),
                can_swap,
                renames_left: AtomicUsize::new(renames),
            }
        }

        fn who(&self, name: &str) -> String {
            std::fs::read_to_string(self.root.path().join(name).join(CONTENT).join("who")).unwrap()
        }
    }

    #[tokio::test]
    async fn an_exchange_at_once_and_again_is_one_exchange() {
        let f = Fixture::new();
        let folders = f.folders("a", "b", true, 0);
        exchange(&folders, f.a, f.b).await.unwrap();
        exchange(&folders, f.a, f.b).await.unwrap();
        assert_eq!((f.who("a"), f.who("b")), ("b".into(), "a".into()));
        exchange(&folders, f.b, f.a).await.unwrap();
        assert_eq!((f.who("a"), f.who("b")), ("a".into(), "b".into()));
    }

    #[tokio::test]
    async fn three_renames_killed_anywhere_go_on_when_asked_again() {
        for killed_after in 0..=3 {
            let f = Fixture::new();
            let first = exchange(&f.folders("a", "b", false, killed_after), f.a, f.b).await;
            assert_eq!(first.is_ok(), killed_after == 3);
            exchange(&f.folders("a", "b", false, 3), f.a, f.b).await.unwrap();
            assert_eq!((f.who("a"), f.who("b")), ("b".into(), "a".into()), "killed after {killed_after}");
            assert!(!f.root.path().join("a").join(ASIDE).exists());
        }
    }

    #[tokio::test]
    async fn three_renames_killed_anywhere_go_back_when_the_opposite_is_asked() {
        for killed_after in 0..=3 {
            for swapped_order in [false, true] {
                let f = Fixture::new();
                let _ = exchange(&f.folders("a", "b", false, killed_after), f.a, f.b).await;
                // Undo knows what each volume held after the exchange, in either order of the two.
                let undone = if swapped_order {
                    exchange(&f.folders("b", "a", true, 3), f.a, f.b).await
                } else {
                    exchange(&f.folders("a", "b", true, 3), f.b, f.a).await
                };
                undone.unwrap();
                assert_eq!((f.who("a"), f.who("b")), ("a".into(), "b".into()), "killed after {killed_after}");
            }
        }
    }

    #[tokio::test]
    async fn contents_that_are_neither_as_before_nor_exchanged_are_left_alone() {
        let f = Fixture::new();
        let folders = f.folders("a", "b", true, 3);
        let error = exchange(&folders, f.a, (f.b.0, 1)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_eq!((f.who("a"), f.who("b")), ("a".into(), "b".into()));
    }
}
