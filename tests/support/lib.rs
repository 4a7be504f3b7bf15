//! Fixtures that the real-stack tests share.

pub mod chaos;
pub mod cli;
pub mod dumps;
pub mod engine;
pub mod fake_engine;
pub mod loki;
pub mod mysql;
pub mod program;
pub mod proxy;
pub mod remote;
pub mod s3;
pub mod sftp;
pub mod sql;
mod template;
pub mod watch;

use std::path::{Path, PathBuf};

use chom_recovery::{System, system::HttpCheck};
use serde::Deserialize;

/// Variable that switches the real-stack tests on: the site folder of a running project of the reference stack, or
/// `1` for that of project `chom`. `tests/run.sh` sets it.
pub const SWITCH: &str = "CHOM_TEST_STACK";

/// A running project of the reference stack, as its `facts.json` tells.
#[derive(Debug, Clone, Deserialize)]
pub struct Stack {
    /// Compose project.
    pub project: String,
    /// Base URL, without a slash at the end.
    pub url: String,
    /// Name in the certificate.
    pub host: String,
    /// Port on 127.0.0.1.
    pub port: u16,
    /// Certificate of the test CA.
    pub ca: PathBuf,
    /// Site folder.
    pub site: PathBuf,
    /// Compose file.
    pub compose: PathBuf,
    /// Environment file.
    pub env: PathBuf,
    /// Flavour: `mysql`, `mariadb-11.8` or `mariadb-10.11`.
    pub db: String,
    /// Image of the database.
    pub db_image: String,
    /// File with root's password.
    pub db_root_password_file: PathBuf,
    /// File with the application's password.
    pub db_app_password_file: PathBuf,
    /// Laravel's prefix of keys in Redis.
    pub redis_prefix: String,
    /// Port of Prometheus on 127.0.0.1, where the stack was started with monitoring.
    pub prometheus_port: Option<u16>,
    /// Port of Alertmanager.
    pub alertmanager_port: Option<u16>,
}

impl Stack {
    /// Opens the stack that [`SWITCH`] names. Without it, prints that `test` is skipped and returns `None`.
    ///
    /// # Panics
    /// The variable is set, and no stack was started there.
    pub fn open(test: &str) -> Option<Self> {
        let Some(value) = std::env::var_os(SWITCH).filter(|v| !v.is_empty()) else {
            skip(test, &format!("{SWITCH} is not set"));
            return None;
        };
        let site = if value == "1" {
            Path::new(env!("CARGO_MANIFEST_DIR")).join("stack/.state/chom")
        } else {
            PathBuf::from(value)
        };
        let facts = site.join("facts.json");
        let text = std::fs::read_to_string(&facts)
            .unwrap_or_else(|e| panic!("{SWITCH} is set, and {} cannot be read: {e}", facts.display()));
        Some(serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", facts.display())))
    }

    /// Describes the stack, with state and backups below `folder`.
    ///
    /// # Panics
    /// The description is not valid.
    pub fn system(&self, folder: &Path) -> System {
        System::parse(&self.configuration(folder, &[])).expect("the fixture's configuration is valid")
    }

    /// Writes the configuration of [`Stack::system`] as a file would have it, with these trusted signers.
    pub fn configuration(&self, folder: &Path, signers: &[String]) -> String {
        let checks = ["health", "api/status"].map(|path| {
            format!(
                r#"
            [[http]]
            name = "{name}"
            url = "{url}/{path}"
            contains = '"status":"ok"'
            ca_file = "{ca}"
            connect_to = "127.0.0.1:{port}"
            slow_after = "10s"
            "#,
                name = path.trim_start_matches("api/"),
                url = self.url,
                ca = self.ca.display(),
                port = self.port,
            )
        });
        format!(
            r#"
            id = "chom"
            state_dir = "{folder}/state"
            [compose]
            project = "{project}"
            files = ["{compose}"]
            env_files = ["{env}"]
            [database]
            service = "mysql"
            password = {{ file = "{password}" }}
            [application]
            newest_row = ["chom.audit_log.created_at"]
            logs = ["/srv/app/storage/logs/laravel.log"]
            soak = "5s"
            [application.maintenance]
            kind = "laravel"
            directory = "/srv/app"
            user = "www-data"
            [redis]
            service = "redis"
            prefix = "{prefix}"
            heartbeat_key = "scheduler:heartbeat"
            [repository]
            url = "file:{folder}/backups"
            signers = {signers:?}
            {checks}"#,
            folder = folder.display(),
            project = self.project,
            compose = self.compose.display(),
            env = self.env.display(),
            password = self.db_root_password_file.display(),
            prefix = self.redis_prefix,
            checks = checks.concat(),
        )
    }

    /// Reads the secrets that the project was made with.
    ///
    /// # Panics
    /// A file of them cannot be read.
    pub fn secrets(&self) -> Vec<String> {
        let read = |path: &Path| std::fs::read_to_string(path).expect("a readable file");
        let mut secrets: Vec<String> = ["db_root_password", "db_app_password", "synthetic_password"]
            .map(|name| read(&self.site.join("secrets").join(name)).trim_end().to_owned())
            .into();
        let env = read(&self.env);
        let key = env.lines().find_map(|line| line.strip_prefix("APP_KEY=base64:")).expect("an APP_KEY");
        secrets.push(key.to_owned());
        secrets
    }

    /// Makes a check of a path that wants status 200 and `ok` over verified TLS.
    pub fn check(&self, name: &str, path: &str) -> HttpCheck {
        HttpCheck {
            name: name.into(),
            url: format!("{}{path}", self.url),
            status: 200,
            contains: Some("\"status\":\"ok\"".into()),
            ca_file: Some(self.ca.clone()),
            connect_to: Some(([127, 0, 0, 1], self.port).into()),
            slow_after: std::time::Duration::from_secs(10),
        }
    }
}

/// Says on standard error that a test did not run. Nothing is skipped in silence.
pub fn skip(test: &str, why: &str) {
    use std::io::Write;
    // Straight to the stream: the harness keeps what `eprintln!` of a passing test writes.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}
