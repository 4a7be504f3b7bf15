//! Backups: what they hold, how they are written, read, chosen and verified.
//!
//! A repository is a store with an identity. A backup is a folder of immutable objects in it: parts, an index for
//! each component, and a signed manifest, which is written last and makes the backup exist. [`format`](mod@format)
//! describes every object, and how to read a backup with standard tools alone.

use chrono::Duration;

mod codec;
mod entry;
#[doc = include_str!("../docs/format.md")]
pub mod format {}
mod id;
mod index;
mod layout;
pub mod logical;
mod manifest;
mod reader;
mod repo;
mod select;
mod sign;
mod sweep;
mod verify;
mod writer;

pub use codec::{Compression, Measure, PART_LIMIT};
pub use entry::BackupInfo;
pub use id::{BackupId, Hash, HostId, Ids, Name, RepositoryId};
pub use index::{INDEX_LIMIT, PartMeta, PartRecord};
pub use layout::{MAX_PART, Place};
pub use manifest::{
    Baselines, BinlogPosition, Capture, ComponentKind, ComponentRecord, ComposeFacts, DatabaseFacts, Facts, Flavour,
    MANIFEST_LIMIT, Manifest, TableBaseline,
};
pub use reader::{BackupReader, ComponentReader};
pub use repo::{Encryption, Initialized, Repository, RepositoryFile};
pub use select::{Catalog, Damaged, Listing, Selector, compatible};
pub use sign::{Signer, SignerId, TrustedSigners};
pub use sweep::{Swept, sweep_unfinished};
pub use verify::{Finding, Level, Progress, VerificationRecord, VerifyReport, record, records, verify};
pub use writer::{BackupWriter, ComponentSpec, ComponentWriter, Resumed, StoredPart};

/// Version of the format that is written.
pub const FORMAT: u32 = 1;
/// Version of this reader: what asks for a higher one is refused.
pub const READER: u32 = 1;
/// How far a clock may be wrong before its word on order does not count.
pub(crate) const MAX_SKEW: Duration = Duration::minutes(5);

#[cfg(test)]
mod tests;
