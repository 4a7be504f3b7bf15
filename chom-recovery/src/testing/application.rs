//! An application in the simulated world: maintenance mode and queues are files, and its probes look at the world.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{
    database::{change, put, text},
    php,
    sim::SimBackend,
    web,
};
use crate::{
    backend::BackendExt,
    error::{Error, ErrorKind, Result},
    probe::{Class, Health, HealthMode, HealthProbe, SharedProbe, evidence::EvidenceManifest, redis::RedisProbe},
    procedure::{
        application_ops::ApplicationOps,
        database::jobs::{HeldJobs, HeldKey},
        maintenance::{MaintenanceRecord, Method},
    },
    system::{Maintenance, System},
};

const DOWN: &str = "down";
const QUEUE: &str = "queue-default";

/// The application of a simulated system.
#[derive(Debug, Clone)]
pub struct SimApplication {
    system: Arc<System>,
    backend: Arc<SimBackend>,
    database: SharedProbe,
    files: PathBuf,
}

impl SimApplication {
    /// Makes it. `database` tells whether the application can work; `files` is where its flag and queues lie.
    pub fn new(system: Arc<System>, backend: Arc<SimBackend>, database: SharedProbe, files: PathBuf) -> Self {
        Self { system, backend, database, files }
    }

    /// Adds jobs to the queue.
    ///
    /// # Errors
    /// Those of writing files.
    pub fn queue(files: &Path, jobs: &[&str]) -> io::Result<()> {
        let mut all = text(&files.join(QUEUE))?.unwrap_or_default();
        for job in jobs {
            all.push_str(job);
            all.push('\n');
        }
        put(files, QUEUE, &all)
    }

    fn is_down(&self) -> bool {
        self.files.join(DOWN).exists()
    }

    async fn is_running(&self, service: &str) -> Result<bool> {
        Ok(self.backend.service_containers(service).await?.iter().all(crate::backend::Container::is_ready))
    }

    fn held(&self, run_id: &str) -> PathBuf {
        self.files.join(format!("{QUEUE}-held-{run_id}"))
    }

    async fn answer(&self, asks: &Asks) -> Result<Health> {
        Ok(match asks {
            Asks::Container(service) if self.is_running(service).await? => Health::healthy("runs"),
            Asks::Container(service) => Health::down(format!("`{service}` does not run")),
            Asks::Database => self.database.check().await,
            Asks::Disk => Health::healthy("there is space"),
            Asks::Outside => self.seen_outside().await?,
        })
    }

    /// What users get.
    async fn seen_outside(&self) -> Result<Health> {
        let application = &self.system.application;
        if !self.is_running(&application.web_service).await? {
            return Ok(Health::down("nobody answers").class(Class::Unreachable));
        }
        let web = self.backend.service_containers(&application.web_service).await?.swap_remove(0);
        if let Some(refusal) = web::refusal(&self.backend.path_in(&web, "/"))? {
            return Ok(refusal);
        }
        if !self.is_running(&application.service).await? {
            return Ok(Health::down("502").class(Class::Upstream));
        }
        if self.is_down() {
            return Ok(Health::down("503").class(Class::Maintenance));
        }
        if let Maintenance::Laravel { directory, .. } = &application.maintenance {
            let app = self.backend.service_containers(&application.service).await?.swap_remove(0);
            if let Some(fault) = php::fault(&self.backend.path_in(&app, directory))? {
                return Ok(Health::down(format!("500: {fault}")).class(Class::Application));
            }
        }
        Ok(self.database.check().await)
    }
}

#[derive(Debug)]
enum Asks {
    Container(String),
    Database,
    Disk,
    Outside,
}

#[derive(Debug)]
struct SimProbe {
    name: String,
    asks: Asks,
    application: SimApplication,
}

#[async_trait]
impl HealthProbe for SimProbe {
    fn name(&self) -> &str {
        &self.name
    }

    async fn check(&self) -> Health {
        self.application.answer(&self.asks).await.unwrap_or_else(|e| Health::inconclusive(e.to_string()))
    }
}

#[async_trait]
impl ApplicationOps for SimApplication {
    fn probes(&self, _mode: HealthMode, _since: Option<DateTime<Utc>>) -> Vec<SharedProbe> {
        let application = &self.system.application;
        let redis = self.system.redis.as_ref();
        let services = [&application.service, &application.web_service]
            .into_iter()
            .chain(&application.workers)
            .chain(redis.map(|redis| &redis.service));
        let containers = services.map(|s| (format!("container-{s}"), Asks::Container(s.clone())));
        let others = [("mysql", Asks::Database), ("disk", Asks::Disk), ("http-health", Asks::Outside)];
        containers
            .chain(others.map(|(name, asks)| (name.to_owned(), asks)))
            .map(|(name, asks)| Arc::new(SimProbe { name, asks, application: self.clone() }) as SharedProbe)
            .chain(redis.map(|redis| Arc::new(RedisProbe::new(redis.clone(), self.backend.clone())) as SharedProbe))
            .collect()
    }

    async fn is_in_maintenance(&self) -> Result<bool> {
        Ok(self.is_down())
    }

    async fn maintenance_on(&self) -> Result<MaintenanceRecord> {
        let was_down_before = self.is_down();
        let runs = self.is_running(&self.system.application.service).await?;
        if runs && !was_down_before {
            put(&self.files, DOWN, "")?;
        }
        let method = if runs { Method::Application } else { Method::NotRunning };
        Ok(MaintenanceRecord { was_down_before, method, seen_by: Vec::new(), still_served: Vec::new() })
    }

    async fn maintenance_off(&self, record: &MaintenanceRecord) -> Result<()> {
        if record.was_down_before {
            return Ok(());
        }
        if !self.is_running(&self.system.application.service).await? {
            return Err(Error::new(ErrorKind::Precondition, "the application does not run"));
        }
        Ok(change("maintenance off", || match fs::remove_file(self.files.join(DOWN)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        })?)
    }

    async fn hold_jobs(&self, run_id: &str) -> Result<HeldJobs> {
        let (queue, held) = (self.files.join(QUEUE), self.held(run_id));
        if queue.exists() {
            change("hold jobs", || Ok(renameat_with(CWD, &queue, CWD, &held, RenameFlags::NOREPLACE)?))?;
        }
        let jobs = text(&held)?.unwrap_or_default().lines().count() as u64;
        let key = HeldKey { key: QUEUE.into(), held_as: held.display().to_string(), jobs };
        Ok(HeldJobs { keys: if jobs > 0 { vec![key] } else { Vec::new() } })
    }

    async fn release_jobs(&self, run_id: &str) -> Result<u64> {
        let held = self.held(run_id);
        let Some(jobs) = text(&held)? else { return Ok(0) };
        let waiting = text(&self.files.join(QUEUE))?.unwrap_or_default();
        // Those that an earlier attempt put back are there already.
        let back: Vec<_> = jobs.lines().filter(|job| !waiting.lines().any(|other| other == *job)).collect();
        let mut all = back.iter().copied().chain(waiting.lines()).collect::<Vec<_>>().join("\n");
        all.push('\n');
        put(&self.files, QUEUE, &all)?;
        change("forget held jobs", || fs::remove_file(&held))?;
        Ok(back.len() as u64)
    }

    async fn gather_evidence(&self, into: &Path) -> EvidenceManifest {
        EvidenceManifest {
            directory: into.to_owned(),
            system: self.system.id.to_string(),
            started: Utc::now(),
            took_ms: 0,
            files: Vec::new(),
            missing: Vec::new(),
            notes: Vec::new(),
        }
    }
}
