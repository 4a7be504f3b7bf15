//! Measures what a monitoring system wants to know of backups and drills.

use chrono::Utc;

use super::{Recovery, Report};
use crate::{
    catalog::{Catalog, Listing, Name, legacy::LegacyListing},
    error::{Error, ErrorKind, Result},
    procedure::drill,
    report::{self, ComponentMetrics, CopyMetrics, DrillMetrics, LegacyMetrics, Metrics},
    run::summary::{RunStatus, RunSummary},
};

impl Recovery {
    /// Measures backups, drills and runs. A repository that cannot be read is part of the answer, with why. The HTTP checks
    /// are asked too, once, and what they took is remembered as [`Recovery::health`] does.
    ///
    /// # Errors
    /// The state directory cannot be read.
    pub async fn metrics(&self) -> Result<(Metrics, Option<Error>)> {
        let (runs, unreadable) = self.runs()?;
        let objective = self.system.objectives.database;
        let mut metrics = Metrics {
            system: self.system.id.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at: Utc::now(),
            repository_up: false,
            usable: 0,
            damaged: 0,
            newest: Vec::new(),
            rpo_objective_s: objective.rpo.as_secs_f64(),
            rto_objective_s: objective.rto.as_secs_f64(),
            drill: runs.iter().rev().find_map(drill_of),
            open_runs: (runs.iter().filter(|run| !run.is_over).count() + unreadable.len()) as u64,
            legacy: Vec::new(),
            legacy_links_broken: None,
            copy: None,
        };
        if let Ok(Some(listing)) = self.legacy_backups().await {
            metrics.legacy_links_broken = Some(listing.links.iter().filter(|l| l.problem.is_some()).count() as u64);
            metrics.legacy = legacy_of(&listing);
        }
        let (failure, copy, ()) =
            tokio::join!(self.measure_repository(&mut metrics), self.copy_status(), self.measure_latency());
        let failure = failure.err();
        metrics.copy =
            copy.map(|copy| CopyMetrics { up: copy.error.is_none(), usable: copy.usable, point: copy.point });
        Ok((metrics, failure))
    }

    async fn measure_repository(&self, metrics: &mut Metrics) -> Result<()> {
        let catalog = Catalog::new(&self.repository().await?, &self.system.id);
        let listing = catalog.list().await?;
        if let Some(problem) = listing.problems.first() {
            return Err(Error::new(ErrorKind::Incomplete, "the repository could not be listed completely")
                .with("first", &problem.message));
        }
        metrics.newest = newest_of(&catalog, &listing).await?;
        metrics.usable = listing.backups.iter().filter(|b| b.tombstone.is_none()).count() as u64;
        metrics.damaged = listing.damaged.iter().filter(|d| d.tombstone.is_none()).count() as u64;
        metrics.repository_up = true;
        Ok(())
    }
}

/// Describes the newest usable backup of each component.
async fn newest_of(catalog: &Catalog, listing: &Listing) -> Result<Vec<ComponentMetrics>> {
    let usable = || listing.backups.iter().rev().filter(|b| b.is_choosable());
    let mut names: Vec<&Name> = usable().flat_map(|b| &b.components).collect();
    names.sort_unstable();
    names.dedup();
    let mut newest = Vec::new();
    for name in names {
        let Some(info) = usable().find(|b| b.components.contains(name)) else { continue };
        let reader = catalog.open(&info.place).await?;
        let manifest = reader.manifest();
        let capture = &manifest.facts.capture;
        let Some(component) = manifest.components.iter().find(|c| c.name == *name) else { continue };
        newest.push(ComponentMetrics {
            component: name.to_string(),
            point: info.point,
            duration_s: (capture.end - capture.begin).to_std().unwrap_or_default().as_secs_f64(),
            stored_bytes: component.stored_len,
            plain_bytes: component.plain_len,
            level: info.level,
            verified: info.verified,
        });
    }
    Ok(newest)
}

/// Describes a drill that came to an end; `None` for everything else.
fn drill_of(run: &RunSummary) -> Option<DrillMetrics> {
    if run.procedure != drill::PROCEDURE || !run.is_over {
        return None;
    }
    let achieved = run.decisions.get(report::ACHIEVED).and_then(|value| serde_json::from_value(value.clone()).ok());
    let rto_s = match achieved {
        Some(Report::Drill(done)) => Some(done.rto.achieved_s),
        _ => None,
    };
    Some(DrillMetrics { at: run.last, succeeded: run.status == RunStatus::Succeeded, rto_s })
}

fn legacy_of(listing: &LegacyListing) -> Vec<LegacyMetrics> {
    let mut kinds: Vec<_> = listing.backups.iter().map(|b| b.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let newest = kinds.into_iter().filter_map(|kind| listing.newest(kind));
    newest
        .map(|b| LegacyMetrics {
            kind: format!("{:?}", b.kind).to_lowercase(),
            point: b.point,
            stored_bytes: b.stored_len,
        })
        .collect()
}
