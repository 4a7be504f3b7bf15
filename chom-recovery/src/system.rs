//! What is protected: one system, as `chom-recovery.toml` describes it.

mod audit;
mod component;
mod database;
mod environment;
mod fpm;
mod legacy;
mod monitoring;
mod nginx;
mod partial;
mod performance;
mod repository;
mod retention;
mod schedule;
mod store;
mod vantage;

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, ErrorKind, Result},
    objective::Objectives,
    secret::SecretSource,
};

pub use audit::AuditTable;
pub use component::{Component, DATABASE, TreeKind};
pub use database::{Database, Throttle};
pub use environment::EnvironmentFile;
pub use fpm::PhpFpm;
pub use legacy::{Legacy, LegacyAccount};
pub use monitoring::{Bounds, Monitoring, MonitoringServer, Synthetic};
pub use nginx::Nginx;
pub use partial::Partial;
pub use performance::Performance;
pub use repository::Repository;
pub use retention::Retention;
pub use schedule::Schedule;
pub use store::{S3Settings, SftpSettings, StoreSettings};
pub use vantage::Vantage;

/// One protected system.
///
/// # Examples
/// ```
/// let system: chom_recovery::System = chom_recovery::System::parse(r#"
///     id = "chom"
///     [compose]
///     project = "chom"
///     [database]
///     service = "mysql"
///     password = { file = "/etc/chom-recovery/db-root" }
///     [repository]
///     url = "file:/var/backups/chom"
/// "#)?;
/// assert_eq!(system.database.user, "root");
/// # Ok::<(), chom_recovery::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct System {
    /// Identifies the system in backups, journals and locks.
    pub id: SystemId,
    /// Where journals and keys are kept; `None` chooses `/var/lib/chom-recovery`, or the XDG state folder of a
    /// user who cannot write there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<PathBuf>,
    /// The Compose project.
    pub compose: Compose,
    /// The database.
    pub database: Database,
    /// The web application.
    #[serde(default)]
    pub application: Application,
    /// The web server's files.
    #[serde(default)]
    pub nginx: Nginx,
    /// Redis, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<Redis>,
    /// Which worker does what, and what proves a single service.
    #[serde(default)]
    pub partial: Partial,
    /// What counts as bad performance, and how far a recovery from it may go.
    #[serde(default)]
    pub performance: Performance,
    /// What is backed up besides the database.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<Component>,
    /// What is asked over HTTP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub http: Vec<HttpCheck>,
    /// Second places to look from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vantage: Vec<Vantage>,
    /// What watches the system.
    #[serde(default, skip_serializing_if = "Monitoring::is_absent")]
    pub monitoring: Monitoring,
    /// The account that stands for a user after a recovery, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synthetic: Option<Synthetic>,
    /// Where backups lie.
    pub repository: Repository,
    /// How long they are kept.
    #[serde(default)]
    pub retention: Retention,
    /// Backups of other programs that count as well, where there are some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub legacy: Option<Legacy>,
    /// RTO and RPO.
    #[serde(default)]
    pub objectives: Objectives,
    /// When what is done. Only `schedule install` reads it.
    #[serde(default)]
    pub schedule: Schedule,
    /// Limits of the host.
    #[serde(default)]
    pub limits: Limits,
    /// Whom to call, printed on the card: role to text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contacts: Vec<Contact>,
}

/// A person or desk to call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contact {
    /// Role, for example `DevOps Lead`.
    pub role: String,
    /// How to reach them.
    pub reach: String,
    /// When to call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
}

/// Identifies a system: `[a-z0-9][a-z0-9-]{0,31}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SystemId(String);

impl SystemId {
    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SystemId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        let ok = (1..=32).contains(&text.len())
            && !text.starts_with('-')
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if ok {
            Ok(Self(text))
        } else {
            Err(Error::new(ErrorKind::InvalidInput, format!("`{}` is not a system id", text.escape_debug()))
                .hint("use 1 to 32 of a-z, 0-9 and -, not beginning with -"))
        }
    }
}

impl From<SystemId> for String {
    fn from(id: SystemId) -> Self {
        id.0
    }
}

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The Compose project and the Engine it runs on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compose {
    /// Project name.
    pub project: String,
    /// Compose files, in order. Empty: those named by the labels of the running containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<PathBuf>,
    /// Environment files for interpolation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_files: Vec<PathBuf>,
    /// Engine address in the form of `DOCKER_HOST`. `None`: as the Docker CLI would choose
    /// (`DOCKER_HOST`, `DOCKER_CONTEXT`, current context, local socket).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Docker context; excludes `host`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
}

/// The web application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Application {
    /// Compose service that holds the code.
    pub service: String,
    /// Service that answers from outside.
    pub web_service: String,
    /// Services that write to the database, in addition to `service`; they are stopped for a swap.
    pub workers: Vec<String>,
    /// How maintenance mode is switched.
    pub maintenance: Maintenance,
    /// Grace for a worker to end its job.
    #[serde(with = "humantime_serde")]
    pub stop_grace: Duration,
    /// How long the service must stay healthy before the run closes.
    #[serde(with = "humantime_serde")]
    pub soak: Duration,
    /// Time columns that tell how far the data reaches, as `schema.table.column`; the report shows their newest values.
    pub newest_row: Vec<String>,
    /// Log files of the application: container paths in `service`.
    pub logs: Vec<String>,
    /// php-fpm in `service`, asked directly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub php_fpm: Option<PhpFpm>,
    /// The file with its settings and keys, where `recover application` is to mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<EnvironmentFile>,
    /// The application's own notes of who did what, where it keeps some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditTable>,
}

impl Default for Application {
    fn default() -> Self {
        Self {
            service: "app".into(),
            web_service: "nginx".into(),
            workers: vec!["queue".into(), "scheduler".into()],
            maintenance: Maintenance::Laravel { directory: "/var/www/html".into(), user: None, retry_seconds: 60 },
            stop_grace: Duration::from_mins(1),
            soak: Duration::from_mins(1),
            newest_row: Vec::new(),
            logs: Vec::new(),
            php_fpm: None,
            environment: None,
            audit: None,
        }
    }
}

/// How maintenance mode is switched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Maintenance {
    /// `php artisan down` and `up`, Laravel 8 and later.
    Laravel {
        /// Folder of `artisan` in the container.
        directory: String,
        /// User that runs it; the container's own when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
        /// `Retry-After` in seconds.
        #[serde(default = "one_minute_in_seconds")]
        retry_seconds: u32,
    },
    /// There is none: stopping the application is all that can be done.
    None,
}

fn one_minute_in_seconds() -> u32 {
    60
}

/// Redis, as Laravel uses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// Compose service.
    pub service: String,
    /// Port in the container.
    #[serde(default = "redis_port")]
    pub port: u16,
    /// Password, where one is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretSource>,
    /// Address to dial instead of the container's, `host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Logical database that holds queues.
    #[serde(default)]
    pub database: u32,
    /// Laravel's key prefix, for example `laravel_database_`.
    #[serde(default)]
    pub prefix: String,
    /// Queues.
    #[serde(default = "default_queue")]
    pub queues: Vec<String>,
    /// Key that the scheduler refreshes, without prefix; its value is a Unix time in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_key: Option<String>,
    /// How old the heartbeat may be.
    #[serde(default = "two_and_a_half_minutes", with = "humantime_serde")]
    pub heartbeat_age: Duration,
}

fn redis_port() -> u16 {
    6379
}

fn default_queue() -> Vec<String> {
    vec!["default".into()]
}

fn two_and_a_half_minutes() -> Duration {
    Duration::from_secs(150)
}

/// A question over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpCheck {
    /// Name of the probe.
    pub name: String,
    /// URL.
    pub url: String,
    /// Wanted status.
    #[serde(default = "ok")]
    pub status: u16,
    /// Text that the body must hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// Additional trusted CA certificates, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Address to connect to instead of what the name resolves to, `ip:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_to: Option<std::net::SocketAddr>,
    /// Slower than this is degraded.
    #[serde(default = "two_seconds", with = "humantime_serde")]
    pub slow_after: Duration,
}

fn ok() -> u16 {
    200
}

fn two_seconds() -> Duration {
    Duration::from_secs(2)
}

/// Limits of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes to keep free on every filesystem.
    pub keep_free_bytes: u64,
    /// Memory limit of candidate servers, in bytes.
    pub candidate_memory: u64,
    /// Deadline of a whole health suite.
    #[serde(with = "humantime_serde")]
    pub health_deadline: Duration,
    /// Deadline of evidence gathering.
    #[serde(with = "humantime_serde")]
    pub evidence_deadline: Duration,
    /// Cap of `CHECK TABLE` over all tables.
    #[serde(with = "humantime_serde")]
    pub check_table_cap: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            keep_free_bytes: 512 << 20,
            candidate_memory: 2 << 30,
            health_deadline: Duration::from_secs(30),
            evidence_deadline: Duration::from_mins(1),
            check_table_cap: Duration::from_mins(1),
        }
    }
}

impl System {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// `InvalidInput`: not TOML, an unknown or missing key, or a value that cannot be used; the line is shown.
    pub fn parse(text: &str) -> Result<Self> {
        let system: Self = toml::from_str(text)
            .map_err(|e| Error::new(ErrorKind::InvalidInput, format!("configuration: {}", e.to_string().trim_end())))?;
        system.check()?;
        Ok(system)
    }

    /// Reads and checks a configuration that a program made: the same keys, as JSON.
    ///
    /// # Errors
    /// `InvalidInput`: as for [`System::parse`].
    pub fn from_json(text: &str) -> Result<Self> {
        let system: Self = serde_json::from_str(text)
            .map_err(|e| Error::new(ErrorKind::InvalidInput, format!("configuration: {e}")))?;
        system.check()?;
        Ok(system)
    }

    /// Reads a configuration file.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            Error::from(e)
                .during(format!("cannot read configuration `{}`", path.display()))
                .hint("write one with `chom-recovery config init`")
        })?;
        Self::parse(&text).map_err(|e| e.with("file", path.display()))
    }

    fn check(&self) -> Result<()> {
        let bad = |what: String| Err(Error::new(ErrorKind::InvalidInput, format!("configuration: {what}")));
        self.retention.check()?;
        if self.compose.project.is_empty() {
            return bad("`compose.project` is empty".into());
        }
        if self.compose.host.is_some() && self.compose.context.is_some() {
            return bad("`compose.host` and `compose.context` exclude each other".into());
        }
        if !self.database.data_dir.starts_with('/') {
            return bad(format!("`database.data_dir` = `{}` is not an absolute path", self.database.data_dir));
        }
        for row in &self.application.newest_row {
            if row.split('.').count() != 3 {
                return bad(format!("`application.newest_row`: `{row}` is not `schema.table.column`"));
            }
        }
        self.application.audit.iter().try_for_each(AuditTable::check)?;
        if let Some(legacy) = &self.legacy {
            legacy.check()?;
        }
        self.schedule.check()?;
        self.monitoring.check()?;
        self.synthetic.iter().try_for_each(Synthetic::check)?;
        self.partial.check(&self.application.workers)?;
        self.performance.check()?;
        component::check(&self.components)?;
        vantage::check(&self.vantage)?;
        self.check_nginx()?;
        self.check_environment()?;
        let mut names = std::collections::BTreeSet::new();
        for http in &self.http {
            if !names.insert(&http.name) {
                return bad(format!("two `http` checks are called `{}`", http.name));
            }
            if !http.url.starts_with("https://") && !http.url.starts_with("http://") {
                return bad(format!("`http` check `{}`: `{}` is not a URL", http.name, http.url));
            }
        }
        Ok(())
    }

    /// Services that write to the database and are stopped for a swap: workers first, then the application.
    pub fn writers(&self) -> Vec<&str> {
        self.application
            .workers
            .iter()
            .map(String::as_str)
            .chain(std::iter::once(self.application.service.as_str()))
            .collect()
    }

    /// Chooses the state directory. Makes nothing.
    pub fn state_dir(&self) -> PathBuf {
        if let Some(dir) = &self.state_dir {
            return dir.clone();
        }
        let global = PathBuf::from("/var/lib/chom-recovery");
        if rustix::process::geteuid().is_root() {
            return global;
        }
        etcetera::choose_base_strategy()
            .ok()
            .and_then(|s| etcetera::BaseStrategy::state_dir(&s))
            .map_or(global, |d| d.join("chom-recovery"))
    }
}
