//! What the procedure asks of a database: the port between its phases and a real server.
//!
//! [`MySqlOps`](super::mysql_ops::MySqlOps) speaks to MySQL and MariaDB. The kill matrix uses a simulated one, so
//! that every instant of the procedure can be tried without a server.

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::source::Source;
use crate::{
    backend::{Container, Mount, MountSource, OneOff},
    catalog::{BackupInfo, BackupReader, ComponentKind, Compression},
    error::{Error, ErrorKind, Result},
    mysql::LoginAnswer,
    probe::SharedProbe,
    procedure::{salvage::ops::SalvageOps, tables::ops::TableOps},
    secret::Secret,
    system::DATABASE,
};

/// Called with bytes done so far, and all bytes where known.
pub type Progress = Arc<dyn Fn(u64, Option<u64>) + Send + Sync>;

/// What a recovery needs to know of production's database container; nothing in it changes by the hour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Production {
    /// Container name.
    pub container: String,
    /// Exact image.
    pub image_id: String,
    /// Arguments of the server.
    pub command: Vec<String>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Where its volume is mounted.
    pub data_dir: String,
    /// Variable `TZ` of the container, by which the server takes times in its own time zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
}

impl Production {
    /// Takes what lasts from a container; its time zone is in its environment.
    pub fn of(container: &Container, data_dir: &str) -> Self {
        Self {
            container: container.name.clone(),
            image_id: container.image_id.clone(),
            command: container.command.clone(),
            mounts: container.mounts.clone(),
            data_dir: data_dir.to_owned(),
            time_zone: None,
        }
    }

    /// Returns what holds its data: the full name of a volume, or the path of a folder of the Engine's host.
    pub fn data(&self) -> Option<&str> {
        self.mounts.iter().find(|m| m.target == self.data_dir).and_then(|m| match &m.source {
            MountSource::Volume(data) | MountSource::HostPath(data) => Some(data.as_str()),
            MountSource::Tmpfs => None,
        })
    }
}

/// A database that can be assessed, loaded and compared.
#[async_trait]
pub trait DatabaseOps: fmt::Debug + Send + Sync + 'static {
    /// Looks at the production database from all sides; an unreachable server is an answer, not an error.
    async fn assess(&self, production: &Production, newest: Option<&BackupReader>) -> Result<Assessment>;

    /// Makes the probe that tells a serving database from one that is still being set up.
    fn ready(&self) -> SharedProbe;

    /// Refuses a backup that this server cannot take: other flavour, newer version. Returns what a person should know
    /// before it takes production's place.
    async fn check_compatible(&self, backup: &Source, production: &Production) -> Result<Vec<String>>;

    /// Describes the candidate server: production's image, isolated, on `volume`, open to `password` alone.
    fn candidate(
        &self,
        production: &Production,
        backup: &Source,
        name: &str,
        volume: &str,
        password: &Secret,
    ) -> Result<OneOff>;

    /// Waits until the candidate answers as itself, then loads the backup into it, accounts last.
    async fn load(&self, candidate: &str, password: &Secret, backup: &Source, progress: Progress) -> Result<Loaded>;

    /// Compares a server, with the accounts of the backup, with the backup's manifest and rows, or with what a legacy
    /// dump promises.
    ///
    /// # Errors
    /// `Corrupt`: they differ; the differences are named.
    async fn verify(&self, container: &str, backup: &Source, progress: Progress) -> Result<Verified>;

    /// Counts the client connections of others.
    async fn clients(&self, container: &str) -> Result<Vec<String>>;

    /// Tries a login of the application's over TCP; changes nothing. The default cannot.
    ///
    /// # Errors
    /// The server could not be asked: that says nothing of the account.
    async fn try_login(&self, _user: &str, _password: &Secret, _schema: &str) -> Result<LoginAnswer> {
        Err(Error::new(ErrorKind::Unsupported, "this database cannot be asked whether it takes a login"))
    }

    /// Reads the next AUTO_INCREMENT values; a server that does not answer is an error. The default knows none.
    async fn next_ids(&self, _container: &str) -> Result<NextIds> {
        Ok(NextIds::new())
    }

    /// Reads the newest value of each column that `application.newest_row` names, in UTC as the server writes it.
    async fn newest_rows(&self, container: &str) -> Result<BTreeMap<String, String>>;

    /// Raises every counter in `next` that stands lower. Lowers none.
    async fn raise_counters(&self, container: &str, next: &NextIds) -> Result<Vec<RaisedCounter>>;

    /// Returns what single tables are restored with. The default cannot.
    ///
    /// # Errors
    /// `Unsupported`: this database's tables cannot be restored one by one.
    fn tables(&self) -> Result<Arc<dyn TableOps>> {
        Err(Error::new(ErrorKind::Unsupported, "single tables of this database cannot be restored"))
    }

    /// Returns what a server that does not start any more is read with. The default cannot.
    ///
    /// # Errors
    /// `Unsupported`: this database's files cannot be read without it.
    fn salvage(&self) -> Result<Arc<dyn SalvageOps>> {
        Err(Error::new(ErrorKind::Unsupported, "the files of this database cannot be salvaged"))
    }

    /// Ends and removes copies of its data that a backup, which was killed, had begun to make on production's server. Nothing
    /// else is touched; a server that does not run keeps them for the next time. The default makes no copies.
    async fn discard_copies(&self, _production: &Production) -> Result<()> {
        Ok(())
    }

    /// Takes a backup of a running server and verifies it, as deep as
    /// [`verify_written`](crate::catalog::verify_written) can.
    async fn back_up(&self, production: &Production, request: &BackUp, progress: Progress) -> Result<BackupInfo>;
}

/// What to back up, and what to write on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackUp {
    /// Tags to find it by.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Run that takes it.
    #[serde(default)]
    pub run: Option<String>,
    /// Components, by name; empty: the database and everything that is configured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<String>,
    /// Compression of its parts.
    #[serde(default)]
    pub compression: Compression,
    /// How the database is kept.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kind: DatabaseKind,
}

/// How a backup keeps the database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatabaseKind {
    /// As rows and definitions: goes into newer servers too, table by table where it has to.
    #[default]
    Logical,
    /// As the server's data files: back in the time it takes to copy them, into the same release series alone.
    Physical,
}

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What is wrong with the production database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assessment {
    /// The diagnosis that decides whether a restore is the cure.
    pub finding: Finding,
    /// What was seen, in a line.
    pub summary: String,
    /// Flavour and version, when the server answered.
    pub server: Option<String>,
    /// Tables that the newest backup has and the server lacks, as `schema.table`.
    pub missing_tables: Vec<String>,
    /// Tables that `CHECK TABLE` calls corrupt.
    pub corrupt_tables: Vec<String>,
    /// Next AUTO_INCREMENT values, when they could be read.
    pub next_ids: NextIds,
}

impl Assessment {
    /// Makes an assessment of which only the finding is known.
    pub fn of(finding: Finding, summary: impl Into<String>) -> Self {
        Self {
            finding,
            summary: summary.into(),
            server: None,
            missing_tables: Vec::new(),
            corrupt_tables: Vec::new(),
            next_ids: NextIds::new(),
        }
    }

    /// Leaves out what changes by the minute, for plans.
    pub(super) fn lasting(&self) -> Self {
        Self { next_ids: NextIds::new(), summary: String::new(), ..self.clone() }
    }
}

/// Next AUTO_INCREMENT value by `schema.table`.
pub type NextIds = BTreeMap<String, u64>;

/// What a restore decision hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Answers, nothing is missing or corrupt.
    Healthy,
    /// Does not run, and its log does not say that data is damaged: starting it may be enough.
    Stopped,
    /// Runs and refuses our credentials: no case for a restore.
    CredentialsRefused,
    /// Its disk is full: no case for a restore.
    DiskFull,
    /// Data is damaged, by its log, by `CHECK TABLE` or because it cannot start.
    Damaged,
    /// Tables or schemas of the newest backup are gone.
    DataMissing,
    /// Nothing certain is known.
    Unclear,
}

/// What a load did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// Rows loaded.
    pub rows: u64,
    /// Bytes of rows, uncompressed.
    pub bytes: u64,
    /// Tables loaded.
    pub tables: u64,
    /// Things a person should read.
    pub warnings: Vec<String>,
    /// Of data files: how they came to their place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filled: Option<Filled>,
}

/// How data files came to their place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filled {
    /// The copy that was kept unpacked was moved there, after it was proven to be what the backup holds; else they were
    /// unpacked from the repository.
    pub from_kept_copy: bool,
    /// How long that took, proofs included, in milliseconds.
    pub took_ms: u64,
    /// Why a kept copy that was there was not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_copy_refused: Option<String>,
}

impl Loaded {
    /// What a backup's manifest lets expect.
    pub(super) async fn expected(backup: &BackupReader) -> Result<Self> {
        let manifest = backup.manifest();
        let tables = &backup.private().await?.baselines.tables;
        Ok(Self {
            rows: tables.iter().map(|t| t.rows).sum(),
            bytes: manifest.plain_len(),
            tables: tables.len() as u64,
            warnings: Vec::new(),
            filled: None,
        })
    }
}

/// What a comparison covered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Tables equal, rows and checksums.
    pub tables: u64,
    /// Rows compared.
    pub rows: u64,
    /// Definitions equal: of schemas, tables, views, triggers, routines, events, accounts.
    pub definitions: u64,
    /// The backup is physical: the server read every table to its end and found it sound, and nobody compared its rows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_physical: bool,
}

impl Verified {
    /// What a backup's manifest lets expect.
    pub(super) async fn expected(backup: &BackupReader) -> Result<Self> {
        let baselines = &backup.private().await?.baselines;
        Ok(Self {
            tables: baselines.tables.len() as u64,
            rows: baselines.tables.iter().map(|t| t.rows).sum(),
            definitions: baselines.objects.values().sum(),
            is_physical: is_physical(backup),
        })
    }
}

/// Tells whether a backup keeps the database as data files.
pub(super) fn is_physical(backup: &BackupReader) -> bool {
    backup.manifest().component(DATABASE).is_ok_and(|component| component.kind == ComponentKind::Physical)
}

/// A counter that was raised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaisedCounter {
    /// `schema.table`.
    pub table: String,
    /// Value after the restore.
    pub from: u64,
    /// Value now.
    pub to: u64,
}
