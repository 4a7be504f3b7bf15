//! File trees: packed as tar, read back without trust, put in place without harm.
//!
//! [`walk`] looks at a tree and cuts it into pieces of work, [`pack`] turns each into bytes of a tar, [`tar`] writes
//! and reads headers, and [`unpack`] puts entries into a new folder. Nothing here follows a symbolic link, and nothing
//! of an archive is believed before it was checked. The catalogue's [`tree`](crate::catalog::tree) joins this with
//! backups.

mod beneath;
mod carry;
mod check;
mod compare;
mod entry;
mod exclude;
mod handle;
mod mounts;
pub mod pack;
mod sparse;
pub mod stage;
pub mod tar;
pub mod unpack;
pub mod walk;

pub use beneath::Root;
pub use carry::carry_over;
pub use compare::{Change, Difference, differences};
pub use entry::{Attributes, Entry, Extent, Kind, Time, TreePath, Xattr};
pub use exclude::Rules;
pub(crate) use handle::{Handle, Handles, Identity, Permissions};
pub use mounts::refuse_mounts_below;

#[cfg(test)]
mod tests;
