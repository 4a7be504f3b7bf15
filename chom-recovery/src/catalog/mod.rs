//! Backups: what they hold, how they are written, read, chosen and verified.
//!
//! A repository is a store with an identity. A backup is a folder of immutable objects in it: parts, an index for
//! each component, and a signed manifest, which is written last and makes the backup exist. [`format`](mod@format)
//! describes every object, and how to read a backup with standard tools alone.
//!
//! # Examples
//! ```
//! # use std::sync::Arc;
//! use chom_recovery::{catalog::*, store::{BackupStore, memory::MemoryStore}, stream, system::SystemId};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> chom_recovery::Result<()> {
//! # let folder = tempfile::tempdir()?;
//! # let (state_dir, system) = (folder.path(), SystemId::try_from("chom".to_owned())?);
//! let store: Arc<dyn BackupStore> = Arc::new(MemoryStore::new());
//! let made = Repository::init(&store, &system, state_dir, Encryption::None).await?;
//! // `made.signer` goes into `repository.signers` of the configuration.
//! let repository = Repository::open(store, made.signer.into()).await?;
//!
//! let signer = Signer::load(state_dir, &system)?;
//! let host = HostId::derive("id of the machine or of its Engine");
//! let begin = repository.ids().now();
//! let mut writer = BackupWriter::begin(&repository, &signer, &host, &system).await?;
//! let database = writer.component(ComponentSpec::new("database", ComponentKind::Logical)?)?;
//! let stored = database.put_part(0, stream::once("1\tann\n")).await?;
//! database.record(stored, PartMeta { what: "rows".into(), rows: Some(1), ..PartMeta::default() })?;
//! let capture = Capture { begin, point: begin, end: repository.ids().now() };
//! let backup = writer.finish(Facts::new(capture)).await?;
//!
//! let catalog = Catalog::new(&repository, &system);
//! assert_eq!(catalog.select(&Selector::Latest).await?.id(), backup.id());
//! let reader = catalog.open(&backup.place).await?;
//! let report = verify(&reader, Level::L2, &|_| {}).await?.into_result()?;
//! record(&repository, &signer, &backup.place, report, None).await?;
//! let database = reader.component("database").await?;
//! assert_eq!(stream::collect(database.read_part(&database.parts()[0]).await?, 100).await?, "1\tann\n");
//! # Ok(())
//! # }
//! ```

use chrono::Duration;

mod codec;
mod compress;
mod copy;
mod crypt;
mod entry;
pub mod export;
mod facts;
#[doc = include_str!("../docs/format.md")]
pub mod format {}
mod hold;
mod id;
mod index;
mod json;
mod layout;
pub mod legacy;
pub mod logical;
mod manifest;
pub mod physical;
mod probe;
mod prune;
mod reader;
mod repo;
mod retention;
mod rows;
mod select;
mod sign;
mod statement;
mod sweep;
mod tombstone;
pub mod tree;
mod verify;
mod writer;

pub use codec::{Measure, PART_LIMIT};
pub use compress::Compression;
pub use copy::{Copied, copy_backup, copy_holds, init_copy};
pub use crypt::{Identities, MAX_RECIPIENTS, MIN_RECIPIENTS, Recipient, Recipients};
pub use entry::BackupInfo;
pub(crate) use facts::image_note;
pub use facts::{
    Baselines, BinlogPosition, Capture, ComposeFacts, DatabaseFacts, Facts, Flavour, PrivateFacts, PublicFacts,
    SALVAGE_NOTE, TableBaseline,
};
pub use hold::{Hold, HoldRecord, hold, holds, release};
pub use id::{BackupId, Hash, HostId, Ids, Name, RepositoryId};
pub use index::{INDEX_LIMIT, PartMeta, PartRecord, PartSource, StoredRecord};
pub use layout::{MAX_PART, Place, prune_lease};
pub use manifest::{ComponentFacts, ComponentKind, ComponentRecord, MANIFEST_LIMIT, Manifest};
pub use probe::BackupProbe;
pub use prune::{Deleting, PrunePlan, PruneReport, plan_prune, prune};
pub use reader::{BackupObject, BackupReader, ComponentReader, StoredComponent};
pub use repo::{Cipher, Encryption, Initialized, RecipientsRecord, Repository, RepositoryFile};
pub use retention::{Expiring, Expiry, Keeping, Reason, expire};
pub use rows::{BackedUpRows, RowsProbe};
pub(crate) use rows::{REMOVAL_UNKNOWN, REMOVED};
pub use select::{Catalog, Damaged, Listing, Selector, compatible, systems};
pub use sign::{Signer, SignerId, TrustedSigners};
pub use sweep::{Swept, sweep_unfinished};
pub use tombstone::{Tombstone, TombstoneRecord, mark_alive, mark_dead, tombstone};
pub use verify::{Finding, Level, Progress, VerificationRecord, VerifyReport, record, records, verify, verify_written};
pub use writer::{BackupWriter, ComponentSpec, ComponentWriter, Resumed, StoredPart};

/// Version of the format that is written.
pub const FORMAT: u32 = 1;
/// Version of this reader: what asks for a higher one is refused.
pub const READER: u32 = 1;
/// Name and version of this writer and reader.
pub(super) const TOOL: &str = concat!("chom-recovery ", env!("CARGO_PKG_VERSION"));
/// How far a clock may be wrong before its word on order does not count.
pub(crate) const MAX_SKEW: Duration = Duration::minutes(5);

#[cfg(test)]
mod tests;
