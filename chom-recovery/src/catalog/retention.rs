//! Which backups expire, and why the others do not. A listing and a policy in, a decision out: nothing is touched.
//!
//! Grandfather-father-son over backups that count. One that was never read back, or whose content shrank as no content
//! shrinks by itself, is kept and stands in for nobody: it must not push out the one that can be restored.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Datelike, FixedOffset, Timelike, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    catalog::{
        entry::BackupInfo,
        id::{BackupId, Name},
        layout::Place,
        select::Listing,
        verify::Level,
    },
    error::{Error, ErrorKind, Result},
    system::Retention,
};

/// Earlier backups whose median size a new one is compared with.
const COMPARED: usize = 5;

/// Why a backup is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "snake_case")]
pub enum Reason {
    /// Among the newest.
    Last,
    /// The newest of its hour.
    Hourly,
    /// The newest of its day.
    Daily,
    /// The newest of its ISO week.
    Weekly,
    /// The newest of its month.
    Monthly,
    /// The newest of its year.
    Yearly,
    /// There are never fewer than `min_keep`.
    Minimum,
    /// The newest that was proven at all, or the newest that was restored in a drill.
    NewestProven,
    /// Somebody holds it.
    Held,
    /// A backup that is kept refers to its parts.
    Referred {
        /// By these.
        by: BTreeSet<BackupId>,
    },
    /// Nobody ever read it back, and it is too young to be given up.
    Unproven,
    /// Its content is much smaller than that of the backups before it.
    Shrank {
        /// Bytes of content.
        plain_len: u64,
        /// Median of the backups before it.
        median: u64,
    },
    /// Its id lies in the future, so that nobody knows how old it is.
    FutureDated,
    /// It cannot be read: a person has to look at it.
    Damaged,
}

/// A backup that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keeping {
    /// Where it lies.
    #[serde(flatten)]
    pub place: Place,
    /// The moment whose data it holds, as far as that is known.
    pub point: Option<DateTime<Utc>>,
    /// All reasons.
    pub reasons: BTreeSet<Reason>,
}

/// A backup that no rule keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expiring {
    /// Where it lies.
    #[serde(flatten)]
    pub place: Place,
    /// The moment whose data it holds.
    pub point: DateTime<Utc>,
    /// Bytes in the store, also of parts that lie in earlier backups.
    pub stored_len: u64,
}

/// What the policy says of every backup that has no tombstone, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expiry {
    /// Kept, and why.
    pub keep: Vec<Keeping>,
    /// Kept by nothing.
    pub expire: Vec<Expiring>,
}

/// Applies a policy to a listing.
///
/// Backups that hold different components do not stand in for one another: rules apply to each set of components by
/// itself.
///
/// # Errors
/// `Incomplete`: a part of the store could not be listed. `InvalidInput`: the policy would keep nothing.
pub fn expire(listing: &Listing, policy: &Retention) -> Result<Expiry> {
    policy.check()?;
    if let Some(problem) = listing.problems.first() {
        return Err(Error::new(
            ErrorKind::Incomplete,
            "the repository could not be listed completely: nothing expires",
        )
        .with("problems", listing.problems.len())
        .with("first", &problem.message));
    }
    let mut kept: BTreeMap<Place, BTreeSet<Reason>> = BTreeMap::new();
    let alive: Vec<&BackupInfo> = listing.backups.iter().filter(|b| b.tombstone.is_none()).collect();
    let mut groups: BTreeMap<(bool, Vec<&Name>), Vec<&BackupInfo>> = BTreeMap::new();
    for backup in &alive {
        if backup.is_future_dated {
            kept.entry(backup.place.clone()).or_default().insert(Reason::FutureDated);
        } else {
            let mut components: Vec<&Name> = backup.components.iter().collect();
            components.sort();
            // What was salvaged stands in for no other backup.
            groups.entry((backup.is_salvaged, components)).or_default().push(backup);
        }
    }
    for group in groups.values() {
        for (place, reason) in Group::of(group, policy).keep(policy) {
            kept.entry(place).or_default().insert(reason);
        }
    }
    for backup in alive.iter().filter(|b| !b.holds.is_empty()) {
        kept.entry(backup.place.clone()).or_default().insert(Reason::Held);
    }
    keep_referred(listing, &alive, &mut kept);

    let mut expiry = Expiry { keep: Vec::new(), expire: Vec::new() };
    for backup in alive {
        match kept.remove(&backup.place) {
            Some(reasons) => {
                expiry.keep.push(Keeping { place: backup.place.clone(), point: Some(backup.point), reasons });
            }
            None => expiry.expire.push(Expiring {
                place: backup.place.clone(),
                point: backup.point,
                stored_len: backup.stored_len,
            }),
        }
    }
    for damaged in listing.damaged.iter().filter(|d| d.tombstone.is_none()) {
        expiry.keep.push(Keeping { place: damaged.place.clone(), point: None, reasons: [Reason::Damaged].into() });
    }
    expiry.keep.sort_by_key(|k| k.place.id);
    Ok(expiry)
}

/// Keeps what the parts of kept backups lie in, also where that refers further back.
fn keep_referred(listing: &Listing, alive: &[&BackupInfo], kept: &mut BTreeMap<Place, BTreeSet<Reason>>) {
    // Newest first: a reference leads to an earlier backup only.
    let mut all: Vec<&BackupInfo> = alive.to_vec();
    all.sort_by_key(|b| std::cmp::Reverse(b.id()));
    let mut by: BTreeMap<Place, BTreeSet<BackupId>> = BTreeMap::new();
    for backup in all {
        if kept.contains_key(&backup.place) || by.contains_key(&backup.place) {
            for source in &backup.sources {
                by.entry(backup.place.sibling(*source)).or_default().insert(backup.id());
            }
        }
    }
    for (place, by) in by {
        if listing.backups.iter().any(|b| b.place == place) {
            kept.entry(place).or_default().insert(Reason::Referred { by });
        }
    }
}

/// Backups of one set of components, newest first, and whether each counts.
struct Group<'a> {
    backups: Vec<(&'a BackupInfo, Standing)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Counts,
    Unproven,
    Shrank { median: u64 },
}

impl<'a> Group<'a> {
    fn of(backups: &[&'a BackupInfo], policy: &Retention) -> Self {
        let mut oldest_first = backups.to_vec();
        oldest_first.sort_by_key(|b| (b.point, b.id()));
        let mut sizes: Vec<u64> = Vec::new();
        let mut judged = Vec::new();
        for backup in oldest_first {
            let standing = if !backup.is_proven() || !backup.missing_sources.is_empty() {
                Standing::Unproven
            } else {
                match median(&sizes) {
                    Some(median) if shrank(backup.plain_len, median, policy.shrink_percent) => {
                        Standing::Shrank { median }
                    }
                    _ => {
                        sizes.push(backup.plain_len);
                        Standing::Counts
                    }
                }
            };
            judged.push((backup, standing));
        }
        judged.reverse();
        Self { backups: judged }
    }

    fn counting(&self) -> impl Iterator<Item = &'a BackupInfo> {
        self.backups.iter().filter(|(_, s)| *s == Standing::Counts).map(|(b, _)| *b)
    }

    fn keep(&self, policy: &Retention) -> Vec<(Place, Reason)> {
        let mut kept: Vec<(Place, Reason)> = Vec::new();
        let mut keep = |backup: &BackupInfo, reason| kept.push((backup.place.clone(), reason));
        self.counting().take(policy.last as usize).for_each(|b| keep(b, Reason::Last));
        for (count, reason, bucket) in rules(policy) {
            let mut seen = BTreeSet::new();
            for backup in self.counting() {
                let bucket = bucket(backup.point.with_timezone(&policy.utc_offset()));
                if seen.len() < count as usize && seen.insert(bucket) {
                    keep(backup, reason.clone());
                }
            }
        }
        self.counting().take(policy.min_keep as usize).for_each(|b| keep(b, Reason::Minimum));
        self.counting().take(1).for_each(|b| keep(b, Reason::NewestProven));
        let drilled = self.backups.iter().map(|(b, _)| *b).find(|b| b.level >= Some(Level::L3));
        if let Some(drilled) = drilled {
            keep(drilled, Reason::NewestProven);
        }

        // As long as there are not enough that count, nothing is given up; after that, what does not count goes when
        // it is older than those.
        let enough: Vec<_> = self.counting().take(policy.last.max(policy.min_keep) as usize).collect();
        let horizon = (enough.len() >= policy.min_keep as usize).then(|| enough.last().map(|b| b.point)).flatten();
        for (backup, standing) in &self.backups {
            if horizon.is_some_and(|horizon| backup.point < horizon) {
                continue;
            }
            match standing {
                Standing::Counts => {}
                Standing::Unproven => keep(backup, Reason::Unproven),
                Standing::Shrank { median } => {
                    keep(backup, Reason::Shrank { plain_len: backup.plain_len, median: *median });
                }
            }
        }
        kept
    }
}

type Bucket = fn(DateTime<FixedOffset>) -> (i32, u32, u32);

fn rules(policy: &Retention) -> [(u32, Reason, Bucket); 5] {
    [
        (policy.hourly, Reason::Hourly, |t| (t.year(), t.ordinal(), t.hour())),
        (policy.daily, Reason::Daily, |t| (t.year(), t.ordinal(), 0)),
        (policy.weekly, Reason::Weekly, |t| (t.iso_week().year(), t.iso_week().week(), 0)),
        (policy.monthly, Reason::Monthly, |t| (t.year(), t.month(), 0)),
        (policy.yearly, Reason::Yearly, |t| (t.year(), 0, 0)),
    ]
}

/// Median of the newest few.
fn median(sizes: &[u64]) -> Option<u64> {
    let mut newest = sizes[sizes.len().saturating_sub(COMPARED)..].to_vec();
    newest.sort_unstable();
    newest.get(newest.len() / 2).copied()
}

fn shrank(size: u64, median: u64, percent: u8) -> bool {
    let least = u128::from(median) * u128::from(100_u8.saturating_sub(percent)) / 100;
    u128::from(size) < least
}
