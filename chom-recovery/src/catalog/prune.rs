//! Deletes what has expired, in two phases: a tombstone, and after a grace period the bytes.
//!
//! The order of deleting is the writer's turned round: manifest, its copy, parts. A backup that is half deleted has a
//! tombstone and no manifest, and the next prune goes on with it. Safety comes from tombstones and grace; the lease only
//! keeps two pruners from doing the same work.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    catalog::{
        MAX_SKEW,
        entry::BackupInfo,
        id::{BackupId, RepositoryId},
        layout::{self, Belongs, Place},
        reader::BackupReader,
        repo::Repository,
        retention::{Expiring, Expiry, expire},
        select::{Catalog, Listing},
        sign::{Signer, SignerId},
        sweep::{Swept, sweep_unfinished},
        tombstone::mark_dead,
    },
    error::{Error, ErrorKind, Result},
    store::{Key, Version},
    stream,
    system::Retention,
};

/// How long a lease lasts without being renewed: longer than any single deletion takes.
const LEASE: Duration = Duration::from_mins(10);
/// Longest lease object, in bytes.
const LEASE_LIMIT: usize = 4 << 10;

/// A backup whose bytes go now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleting {
    /// Where it lies.
    #[serde(flatten)]
    pub place: Place,
    /// Since when it has a tombstone, by the store's clock.
    pub dead_since: DateTime<Utc>,
}

/// What a prune would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrunePlan {
    /// Repository.
    pub repository: RepositoryId,
    /// What the policy says.
    #[serde(flatten)]
    pub expiry: Expiry,
    /// Backups whose tombstones are older than the grace period.
    pub delete: Vec<Deleting>,
    /// Backups with a tombstone that stay for now: the grace period is not over, or a backup refers to their parts, or
    /// may do so because it is damaged and has no tombstone.
    pub waiting: Vec<Deleting>,
    /// Binds an agreement to this plan.
    pub hash: String,
}

impl PrunePlan {
    /// Tells whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.expiry.expire.is_empty() && self.delete.is_empty()
    }

    fn hashed(mut self) -> Self {
        let ids = |places: &mut dyn Iterator<Item = &Place>| {
            places.map(|p| format!("{}/{}/{}", p.host, p.system, p.id)).collect::<Vec<_>>()
        };
        let marks = ids(&mut self.expiry.expire.iter().map(|e| &e.place));
        let deletions = ids(&mut self.delete.iter().map(|d| &d.place));
        let text = serde_json::json!([self.repository, marks, deletions]).to_string();
        self.hash = hex::encode(Sha256::digest(text));
        self
    }
}

/// What a prune did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneReport {
    /// Got a tombstone.
    pub marked: Vec<BackupId>,
    /// Deleted.
    pub deleted: Vec<BackupId>,
    /// Objects deleted.
    pub objects: u64,
    /// Bytes that these held.
    pub bytes: u64,
    /// Objects that the store keeps locked; a later prune tries again.
    pub locked: Vec<String>,
    /// What interrupted backups had left.
    pub swept: Swept,
}

/// Finds out what a prune would do.
///
/// # Errors
/// `Incomplete`: the store cannot be listed completely, or two listings differ by a backup that went away between
/// them. `Precondition`: this host's clock and the store's differ by more than five minutes.
pub async fn plan_prune(catalog: &Catalog, policy: &Retention) -> Result<PrunePlan> {
    let repository = catalog.repository();
    let skew = (repository.ids().now() - repository.store().now().await?).abs();
    if skew > MAX_SKEW {
        return Err(Error::new(
            ErrorKind::Precondition,
            "the clocks of this host and of the store differ: nothing expires",
        )
        .with("seconds", skew.num_seconds())
        .hint("set the clock of the host first; backups go on meanwhile"));
    }
    // A listing that silently ends early looks like a repository with fewer backups.
    let (first, listing) = (catalog.list().await?, catalog.list().await?);
    let before: BTreeSet<BackupId> = first.backups.iter().map(BackupInfo::id).collect();
    let after: BTreeSet<BackupId> = listing.backups.iter().map(BackupInfo::id).collect();
    if let Some(lost) = before.difference(&after).next() {
        return Err(Error::new(ErrorKind::Incomplete, "two listings of the repository differ: nothing expires")
            .with("not in the second", lost)
            .hint("somebody else may be pruning; else look at the store before anything else"));
    }
    plan(catalog, policy, &listing, &dead(catalog).await?)
}

fn plan(
    catalog: &Catalog,
    policy: &Retention,
    listing: &Listing,
    dead: &BTreeMap<Place, DateTime<Utc>>,
) -> Result<PrunePlan> {
    let expiry = expire(listing, policy)?;
    let referred = listing.known_references();
    // What a backup that nobody can read refers to, nobody knows.
    let is_known = listing.damaged.iter().all(|d| d.tombstone.is_some());
    let held: BTreeSet<&Place> = listing.backups.iter().filter(|b| !b.holds.is_empty()).map(|b| &b.place).collect();
    let grace = chrono::Duration::from_std(policy.grace).unwrap_or(chrono::Duration::MAX);
    let (mut delete, mut waiting) = (Vec::new(), Vec::new());
    for (place, since) in dead {
        let deleting = Deleting { place: place.clone(), dead_since: *since };
        let is_due = listing.now.signed_duration_since(since) >= grace;
        // Whoever refers to it goes first, and is gone for good by the time of a later prune.
        if is_due && is_known && !held.contains(place) && !referred.contains_key(place) {
            delete.push(deleting);
        } else {
            waiting.push(deleting);
        }
    }
    let repository = catalog.repository().id().clone();
    Ok(PrunePlan { repository, expiry, delete, waiting, hash: String::new() }.hashed())
}

/// Tombstones of the system, with their time by the store's clock. What a stranger put there does not count.
async fn dead(catalog: &Catalog) -> Result<BTreeMap<Place, DateTime<Utc>>> {
    let mut dead = BTreeMap::new();
    let mut listed = catalog.repository().store().list_except("", layout::holds_parts).await?;
    while let Some(object) = listed.try_next().await? {
        if let Belongs::Tombstone(place) = layout::belongs(&object.key)
            && place.system == *catalog.system()
            && let Some(tombstone) = super::tombstone::tombstone(catalog.repository(), &place).await?
        {
            dead.insert(place, tombstone.since);
        }
    }
    Ok(dead)
}

/// Does what a plan says, if it would still be the plan now.
///
/// Killed at any moment, the next prune goes on.
///
/// # Errors
/// `Conflict`: the plan would be another now. `Locked`: another prune holds the lease.
pub async fn prune(
    catalog: &Catalog,
    policy: &Retention,
    agreed: &PrunePlan,
    signer: &Signer,
    by: &str,
) -> Result<PruneReport> {
    let mut lease = Lease::take(catalog.repository(), signer.id()).await?;
    let done = prune_leased(catalog, policy, agreed, signer, by, &mut lease).await;
    let released = lease.release().await;
    let report = done?;
    released?;
    Ok(report)
}

async fn prune_leased(
    catalog: &Catalog,
    policy: &Retention,
    agreed: &PrunePlan,
    signer: &Signer,
    by: &str,
    lease: &mut Lease,
) -> Result<PruneReport> {
    let now = plan_prune(catalog, policy).await?;
    if now.hash != agreed.hash {
        return Err(Error::new(
            ErrorKind::Conflict,
            "what expires is no longer what was agreed to: nothing was touched",
        )
        .hint("look at the new plan: `chom-recovery prune --plan`"));
    }
    let mut report = PruneReport::default();
    for Expiring { place, .. } in &agreed.expiry.expire {
        lease.renew().await?;
        let manifest = BackupReader::open(catalog.repository(), place.clone()).await?.manifest_sha256();
        let marked = mark_dead(catalog.repository(), signer, place, Some(manifest), "expired", by, None).await;
        match marked {
            Ok(_) => report.marked.push(place.id),
            // Held since the plan was made: it stays.
            Err(e) if e.kind() == ErrorKind::Denied => tracing::info!(backup = %place.id, error = %e, "kept"),
            Err(e) => return Err(e),
        }
    }
    for Deleting { place, .. } in &agreed.delete {
        delete(catalog.repository(), place, lease, &mut report).await?;
    }
    lease.renew().await?;
    report.swept = sweep_unfinished(catalog.repository(), catalog.system(), policy.grace).await?;
    Ok(report)
}

/// Removes everything of a backup: manifest, its copy, its other objects, records, and its tombstone last.
async fn delete(repository: &Repository, place: &Place, lease: &mut Lease, report: &mut PruneReport) -> Result<()> {
    let store = repository.store();
    let mut keys: Vec<(Key, u64)> = Vec::new();
    for prefix in [place.prefix(), place.evidence_prefix(), place.hold_prefix()] {
        let listed: Vec<_> = store.list(&prefix).await?.try_collect().await?;
        keys.extend(listed.into_iter().map(|o| (o.key, o.length)));
    }
    let first = [place.manifest(), place.manifest_copy()];
    keys.sort_by_key(|(key, _)| first.iter().position(|f| f == key).unwrap_or(first.len()));
    let mut is_whole = true;
    for (key, length) in keys {
        lease.renew().await?;
        match store.delete(&key).await {
            Ok(()) => {
                report.objects += 1;
                report.bytes += length;
            }
            // An object lock is no failure: it ends some day.
            Err(e) if e.kind() == ErrorKind::Retained => {
                report.locked.push(key.to_string());
                is_whole = false;
                if first.contains(&key) {
                    // While the manifest stays, so does the rest: half a backup helps nobody.
                    break;
                }
            }
            Err(e) => return Err(e.during(format!("deleting backup {}", place.id))),
        }
    }
    if is_whole {
        store.delete(&place.tombstone()).await?;
        report.deleted.push(place.id);
    }
    Ok(())
}

/// Who prunes, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LeaseRecord {
    /// Whose tombstones it writes.
    holder: SignerId,
    /// Tells two processes of a host apart.
    token: String,
    /// By the store's clock.
    until: DateTime<Utc>,
}

/// The right to prune a repository, for a time.
#[derive(Debug)]
struct Lease {
    repository: Repository,
    record: LeaseRecord,
    version: Version,
    renew_at: tokio::time::Instant,
}

impl Lease {
    async fn take(repository: &Repository, holder: SignerId) -> Result<Self> {
        let store = repository.store();
        let key = layout::prune_lease();
        let now = store.now().await?;
        let present = store.stat(&key).await?;
        if present.is_some() {
            let text = stream::collect(store.get(&key, None).await?, LEASE_LIMIT).await?;
            // What cannot be read was written by nobody who still works.
            if let Ok(other) = serde_json::from_slice::<LeaseRecord>(&text)
                && other.until > now
            {
                return Err(Error::new(ErrorKind::Locked, "another prune of this repository is going on")
                    .with("holder", other.holder)
                    .with("until", other.until.format("%F %T UTC"))
                    .hint("its lease ends then, should it have died"));
            }
        }
        let record = LeaseRecord { holder, token: hex::encode(rand::random::<[u8; 8]>()), until: now + LEASE };
        let body = encode(&record)?;
        let version = store.compare_and_swap(&key, present.as_ref().map(|o| &o.version), body).await.map_err(|e| {
            match e.kind() {
                ErrorKind::Conflict => Error::new(ErrorKind::Locked, "another prune of this repository began just now"),
                _ => e,
            }
        })?;
        Ok(Self { repository: repository.clone(), record, version, renew_at: tokio::time::Instant::now() + LEASE / 3 })
    }

    /// Lengthens the lease when a third of it is over.
    async fn renew(&mut self) -> Result<()> {
        if tokio::time::Instant::now() < self.renew_at {
            return Ok(());
        }
        let until = self.repository.store().now().await? + LEASE;
        self.swap(until).await?;
        self.renew_at = tokio::time::Instant::now() + LEASE / 3;
        Ok(())
    }

    /// Ends the lease: it is over, as its record says.
    async fn release(mut self) -> Result<()> {
        let now = self.repository.store().now().await?;
        self.swap(now).await
    }

    async fn swap(&mut self, until: DateTime<Utc>) -> Result<()> {
        self.record.until = until;
        let body = encode(&self.record)?;
        self.version =
            self.repository.store().compare_and_swap(&layout::prune_lease(), Some(&self.version), body).await.map_err(
                |e| match e.kind() {
                    ErrorKind::Conflict => Error::new(ErrorKind::Locked, "the lease was lost: another prune took over"),
                    _ => e,
                },
            )?;
        Ok(())
    }
}

fn encode(record: &LeaseRecord) -> Result<Bytes> {
    let text = serde_json::to_vec(record)
        .map_err(|e| Error::new(ErrorKind::Failed, "cannot encode the lease").caused_by(e))?;
    Ok(text.into())
}
