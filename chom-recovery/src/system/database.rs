//! Where the database runs, how to log in, and how backups of it are taken.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::secret::SecretSource;

/// The database and how to log in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// Compose service.
    pub service: String,
    /// Account that may read everything, lock and replicate.
    #[serde(default = "root")]
    pub user: String,
    /// Its password.
    pub password: SecretSource,
    /// Port in the container.
    #[serde(default = "mysql_port")]
    pub port: u16,
    /// Address to dial instead of the container's, `host:port`; needed for TCP engines without a published port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Data directory in the container: the mount point of the volume.
    #[serde(default = "mysql_data_dir")]
    pub data_dir: String,
    /// Longest time for a clean shutdown.
    #[serde(default = "two_minutes", with = "humantime_serde")]
    pub stop_grace: Duration,
    /// How far AUTO_INCREMENT leaps after a restore where the value before the incident could not be read, so that
    /// no lost id is given out twice.
    #[serde(default = "id_gap")]
    pub id_gap: u64,
    /// When a backup pauses because the server has other things to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttle: Option<Throttle>,
    /// The newest physical backup is kept unpacked on the Engine's host as well, in a volume of its own: restoring it is a
    /// rename and a start. It takes the room of the data once more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_warm: bool,
}

/// When a dump pauses. Its snapshot stays, and the server keeps old versions of rows for it meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Throttle {
    /// Pauses while more statements than these run (`Threads_running` without the dump's own).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<u64>,
    /// Pauses while this server, as a replica, is further behind its source.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "humantime_serde::option")]
    pub lag: Option<Duration>,
    /// Longest time that pauses take in all; after it the dump goes on.
    #[serde(default = "ten_minutes", with = "humantime_serde")]
    pub longest: Duration,
}

fn ten_minutes() -> Duration {
    Duration::from_mins(10)
}

impl Default for Throttle {
    fn default() -> Self {
        Self { running: None, lag: None, longest: ten_minutes() }
    }
}

fn id_gap() -> u64 {
    100_000
}

fn root() -> String {
    "root".into()
}

fn mysql_port() -> u16 {
    3306
}

fn mysql_data_dir() -> String {
    "/var/lib/mysql".into()
}

fn two_minutes() -> Duration {
    Duration::from_mins(2)
}
