//! Closing a recovery: the post-recovery checklist of the runbook.
//!
//! Each item is asked by probes where something is configured that can tell. For the others a person vouches, by name and
//! with a reason. What is not in order, or not vouched for, keeps the recovery open unless somebody waives it.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Parts, proof::moment};
use crate::{
    catalog::{BackupId, BackupInfo, Catalog},
    error::{Error, ErrorKind, Result},
    probe::{
        Class, Health, HealthMode, HealthProbe, SharedProbe, all_of,
        monitoring::{ALERTS, EXTERNAL, LOG_INGESTION, METRICS, TARGETS},
        silent,
        synthetic::SYNTHETIC,
    },
    run::{Item, Run, RunId, Waiver},
};

/// Name of the procedure in journals.
pub const PROCEDURE: &str = "close";

/// What is closed, and what a person says about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The recovery.
    pub of: Subject,
    /// What somebody vouches for.
    pub attestations: Vec<Attestation>,
    /// Who closes it.
    pub by: String,
}

/// A recovery that succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Run.
    pub run: RunId,
    /// Its procedure.
    pub procedure: String,
    /// When it ended.
    pub ended: DateTime<Utc>,
    /// Backup that it took at its end.
    pub backup: Option<BackupId>,
}

/// Somebody vouches for an item that nothing can be asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attestation {
    /// Item.
    pub item: String,
    /// How they know.
    pub because: String,
    /// Who.
    pub by: String,
}

/// A recovery that was closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// The recovery.
    pub run: RunId,
    /// When it was closed.
    pub at: DateTime<Utc>,
    /// Who closed it.
    pub by: String,
}

/// An item of the checklist: its name, its text, and which probes answer it.
struct Point {
    name: &'static str,
    text: &'static str,
    asks: fn(&str) -> bool,
}

/// The runbook's fifteen, in its order. A probe belongs to the first that asks it; what no other asks belongs to services.
const POINTS: [Point; 15] = [
    Point { name: SERVICES, text: "all services run and are healthy", asks: |_| false },
    Point {
        name: "https",
        text: "the application is accessible via HTTPS",
        asks: |probe| probe.starts_with("http-") || probe == SYNTHETIC,
    },
    Point { name: "database", text: "the database's integrity is verified", asks: |probe| probe.starts_with("mysql") },
    Point { name: "logs", text: "no errors in the logs for 15 minutes", asks: |probe| probe.starts_with("logs-") },
    Point { name: "queue", text: "the queue is processed", asks: |probe| matches!(probe, "queue" | "failed-jobs") },
    Point { name: "scheduler", text: "the scheduler runs", asks: |probe| probe == "scheduler" },
    Point { name: "metrics", text: "metrics flow to Prometheus", asks: |probe| probe == TARGETS },
    Point { name: "log-ingestion", text: "logs appear in Loki", asks: |probe| probe == LOG_INGESTION },
    Point { name: "certificates", text: "certificates are valid", asks: |probe| probe.starts_with("certificate-") },
    Point { name: "external", text: "users elsewhere reach the system", asks: |probe| probe.starts_with(EXTERNAL) },
    Point { name: "dns", text: "names resolve", asks: |probe| probe.starts_with("dns-") },
    Point { name: "dashboards", text: "dashboards show normal metrics", asks: |probe| probe.starts_with(METRICS) },
    Point { name: "alerts", text: "no alert is active", asks: |probe| probe == ALERTS },
    Point { name: BACKUP, text: "a backup was taken after the recovery, and verified", asks: |_| false },
    Point { name: "documented", text: "the recovery is documented in the incident's log", asks: |_| false },
];

const SERVICES: &str = "services";
const BACKUP: &str = "backup";

/// Goes through the checklist, and closes the recovery when every item is in order, vouched for or waived.
///
/// # Errors
/// `Precondition`: items are open; all of them are named, and the recovery stays open.
pub async fn close(run: &Run, parts: &Parts, request: &Request) -> Result<Closed> {
    run.checklist(&items(parts, request)).await?;
    let at = moment(run, "closed").await?;
    Ok(Closed { run: request.of.run, at, by: request.by.clone() })
}

/// Refuses words on items that do not exist, and vouching where something can be asked.
///
/// # Errors
/// `InvalidInput`: the item, and what to say instead.
pub fn check(parts: &Parts, request: &Request, waivers: &[Waiver]) -> Result<()> {
    let said = request.attestations.iter().map(|a| &a.item).chain(waivers.iter().map(|w| &w.item));
    if let Some(unknown) = said.into_iter().find(|item| !POINTS.iter().any(|p| p.name == **item)) {
        let names: Vec<_> = POINTS.iter().map(|p| p.name).collect();
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!("the checklist has no item `{}`", unknown.escape_debug()),
        )
        .hint(format!("its items are {}", names.join(", "))));
    }
    let groups = grouped(parts, request);
    let asked = |item: &str| groups.iter().any(|(point, probes)| point.name == item && !probes.is_empty());
    match request.attestations.iter().find(|a| asked(&a.item)) {
        Some(one) => Err(Error::new(
            ErrorKind::InvalidInput,
            format!("`{}` is asked by probes: nobody has to vouch for it", one.item),
        )
        .hint(format!("where it is not in order and does not matter: --waive {}=REASON", one.item))),
        None => Ok(()),
    }
}

fn items(parts: &Parts, request: &Request) -> Vec<Item> {
    let vouched = |name: &str| request.attestations.iter().find(|a| a.item == name);
    grouped(parts, request)
        .into_iter()
        .map(|(point, probes)| match (probes.is_empty(), vouched(point.name)) {
            (false, _) => Item::probe(point.text, all_of(point.name, probes)),
            (true, Some(one)) => Item::vouched(point.name, point.text, &one.by, &one.because),
            (true, None) => {
                let why = format!("nothing is configured that could tell: --attest {}=REASON", point.name);
                Item::probe(point.text, silent(point.name, why))
            }
        })
        .collect()
}

/// Gives each probe to its item.
fn grouped(parts: &Parts, request: &Request) -> Vec<(&'static Point, Vec<SharedProbe>)> {
    let mut groups: Vec<(&'static Point, Vec<SharedProbe>)> = POINTS.iter().map(|point| (point, Vec::new())).collect();
    // `None`: logs are read from fifteen minutes ago.
    for probe in parts.application.probes(HealthMode::PostRecovery, None) {
        let place = POINTS.iter().position(|point| (point.asks)(probe.name())).unwrap_or(0);
        groups[place].1.push(probe);
    }
    for (point, probes) in &mut groups {
        if point.name == BACKUP {
            probes.push(Arc::new(BackupSince { catalog: parts.catalog.clone(), of: request.of.clone() }));
        }
    }
    groups
}

/// Whether the newest backup of the database is one of after the recovery, and proven.
#[derive(Debug)]
struct BackupSince {
    catalog: Arc<Catalog>,
    of: Subject,
}

#[async_trait]
impl HealthProbe for BackupSince {
    fn name(&self) -> &str {
        BACKUP
    }

    async fn check(&self) -> Health {
        match self.catalog.list().await {
            Ok(listing) => {
                let usable = listing.backups.iter().filter(|b| b.is_choosable());
                judge(usable.max_by_key(|b| b.point), &self.of)
            }
            Err(error) => Health::inconclusive(format!("the repository could not be read: {error}")),
        }
    }
}

fn judge(newest: Option<&BackupInfo>, of: &Subject) -> Health {
    let Some(newest) = newest else {
        return Health::down("there is no backup: chom-recovery backup create").class(Class::Absent);
    };
    let (id, is_after) = (newest.id(), newest.point >= of.ended || of.backup == Some(newest.id()));
    if !is_after {
        return Health::down(format!("the newest backup {id} is of before the recovery: chom-recovery backup create"))
            .class(Class::Stale);
    }
    if !newest.is_proven() {
        return Health::down(format!("backup {id} is not verified: chom-recovery backup verify --backup {id}"))
            .class(Class::Stale);
    }
    Health::healthy(format!("backup {id} of {}, verified", newest.point.format("%F %T UTC"))).class(Class::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The runbook has fifteen items, and each probe of the suite belongs to exactly one.
    #[test]
    fn each_probe_belongs_to_one_item() {
        let item = |probe: &str| POINTS.iter().filter(|p| (p.asks)(probe)).map(|p| p.name).collect::<Vec<_>>();
        for (probe, name) in [
            ("http-health", "https"),
            ("synthetic-user", "https"),
            ("mysql", "database"),
            ("mysql-tables", "database"),
            ("logs-app", "logs"),
            ("queue", "queue"),
            ("failed-jobs", "queue"),
            ("scheduler", "scheduler"),
            ("targets", "metrics"),
            ("log-ingestion", "log-ingestion"),
            ("certificate-shop.example", "certificates"),
            ("external-blackbox", "external"),
            ("dns-shop.example", "dns"),
            ("metrics-latency", "dashboards"),
            ("alerts", "alerts"),
        ] {
            assert_eq!(item(probe), [name], "{probe}");
        }
        for probe in ["container-app", "disk", "redis", "store", "one-of-the-future"] {
            assert_eq!(item(probe), [""; 0], "{probe} belongs to services, the first");
        }
        assert_eq!(POINTS[0].name, SERVICES);
        let names: std::collections::BTreeSet<_> = POINTS.iter().map(|p| p.name).collect();
        assert_eq!(names.len(), 15);
    }
}
