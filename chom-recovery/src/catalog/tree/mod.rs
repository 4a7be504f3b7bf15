//! File trees as components of a backup.
//!
//! The parts of a component are pieces of one tar: files, further names of files, symbolic links, and folders last,
//! each under numbers of its own. Put together in order of their numbers they are that tar; and each of them can be
//! read by itself, but for those of a file that is cut over several. What was wrong with the tree when it was read
//! follows as JSON. [`format`](mod@crate::catalog::format) says more.

use std::sync::Arc;

use crate::files::{pack::Packed, walk::Role};

mod known;
mod restore;
mod store;

pub use known::KnownParts;
pub use restore::{RestoreOptions, read_tar, read_troubles, restore_into, restore_tree};
pub use store::{StoreOptions, Stored, prove_same, store_tree};

use super::PartMeta;

/// First numbers of what is not files.
const HARD_LINKS: u32 = 90_000_000;
const SYMLINKS: u32 = 92_000_000;
const FOLDERS: u32 = 95_000_000;
const REPORT: u32 = 99_000_000;
/// First number of what follows a tree and is none of it.
pub(super) const AFTER_TREE: u32 = 99_000_001;
/// Name of the last part: what was wrong with the tree.
const TROUBLES: &str = "troubles";
/// Notes of a part.
const BYTES: &str = "bytes";
const ALLOCATED: &str = "allocated";
const FINGERPRINT: &str = "fingerprint";

/// Called with bytes done, and all bytes where they are known.
pub type OnProgress = Arc<dyn Fn(u64, Option<u64>) + Send + Sync>;

/// One more than there are cores: one of them waits for the disk.
fn lanes() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).min(8) + 1
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Files => "files",
        Role::Piece => "piece",
        Role::HardLinks => "hard_links",
        Role::Symlinks => "symlinks",
        Role::Folders => "folders",
    }
}

/// What the index says of a part.
fn meta(role: Role, packed: &Packed, fingerprint: Option<String>) -> PartMeta {
    let mut notes = std::collections::BTreeMap::from([
        (BYTES.to_owned(), packed.bytes.to_string()),
        (ALLOCATED.to_owned(), packed.allocated.to_string()),
    ]);
    notes.extend(fingerprint.map(|f| (FINGERPRINT.to_owned(), f)));
    PartMeta { what: role_name(role).into(), entries: Some(packed.entries), notes, ..PartMeta::default() }
}

/// Reads a number from the notes of a part.
fn number(meta: &PartMeta, name: &str) -> Option<u64> {
    meta.notes.get(name)?.parse().ok()
}
