//! Verification of a backup's bytes, and the signed record of it.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::{
    catalog::{
        FORMAT, READER,
        id::{BackupId, Hash, HostId, Name, RepositoryId},
        json,
        layout::Place,
        reader::BackupReader,
        repo::Repository,
        sign::{Signer, VERIFICATION},
        statement::{self, Statement},
    },
    error::{Error, ErrorKind, ErrorRecord, Result},
    store::Key,
    system::SystemId,
};

/// Findings that are kept one by one; the rest is counted.
const FINDINGS_LIMIT: usize = 100;

/// How deep a verification went; each level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Level {
    /// Every stored byte has the recorded hash.
    L1,
    /// Everything decrypts and decompresses to the recorded content.
    L2,
    /// It was loaded into a server and compared with the manifest.
    L3,
    /// A whole recovery was done with it on another host, up to users that are served.
    L4,
}

/// How far a verification got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Stored bytes checked.
    pub done: u64,
    /// Stored bytes in all.
    pub total: u64,
}

/// Something wrong with a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// Component, or `manifest`.
    pub component: Name,
    /// Part; `None`: the component's index.
    pub part: Option<u32>,
    /// What is wrong.
    pub error: ErrorRecord,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyReport {
    /// Backup.
    pub backup: BackupId,
    /// SHA-256 of its manifest object.
    pub manifest_sha256: Hash,
    /// How deep it went.
    pub level: Level,
    /// Begin.
    pub begun: DateTime<Utc>,
    /// End.
    pub ended: DateTime<Utc>,
    /// Parts checked.
    pub parts: u64,
    /// Stored bytes checked.
    pub stored_len: u64,
    /// Everything that is wrong, up to a hundred findings.
    pub findings: Vec<Finding>,
    /// Number of findings in all.
    pub findings_total: u64,
    /// The one who verifies has written the backup as well, and decrypted and decompressed each part in memory before it
    /// was stored. With [`Level::L1`] this says that the bytes in the store are those that gave back the content; what
    /// it does not say is that somebody has the key.
    #[serde(default)]
    pub decoded_when_written: bool,
}

impl VerifyReport {
    /// Tells whether nothing was wrong.
    pub fn passed(&self) -> bool {
        self.findings_total == 0
    }

    /// Returns the first finding as an error.
    ///
    /// # Errors
    /// `Corrupt`: something was wrong.
    pub fn into_result(self) -> Result<Self> {
        match self.findings.first() {
            None if self.findings_total == 0 => Ok(self),
            first => Err(Error::new(ErrorKind::Corrupt, format!("backup {} is damaged", self.backup))
                .with("findings", self.findings_total)
                .with("first", first.map_or_else(String::new, |f| f.error.message.clone()))
                .hint("restore another backup: `chom-recovery backup list` shows them")),
        }
    }
}

/// A report, and whose word it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerificationRecord {
    /// Version of the format.
    pub format: u32,
    /// Oldest reader that understands the record.
    pub min_reader: u32,
    /// Id of the record; equals the one in its key.
    pub id: BackupId,
    /// Repository of the backup.
    pub repository: RepositoryId,
    /// Host of the backup.
    pub host: HostId,
    /// System of the backup.
    pub system: SystemId,
    /// Run that verified, where there was one.
    pub run: Option<String>,
    /// Name and version of the verifier.
    pub tool: String,
    /// What was found.
    pub report: VerifyReport,
    /// Anything else, by name, such as what a drill measured; a reader ignores names that it does not know.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "json::map")]
    pub notes: BTreeMap<String, String>,
}

impl Statement for VerificationRecord {
    const KIND: &'static str = VERIFICATION;
    const WHAT: &'static str = "verification record";

    fn repository(&self) -> &RepositoryId {
        &self.repository
    }

    fn key(&self) -> Key {
        Place { host: self.host.clone(), system: self.system.clone(), id: self.report.backup }.evidence(self.id)
    }
}

/// Reads every part of a backup: at [`Level::L1`] the bytes as stored, for which no key is needed, at [`Level::L2`] also
/// what they decrypt and decompress to. Damage is a finding in the report, not an error.
///
/// `progress` is called after each part, in order of completion.
///
/// # Errors
/// `Unsupported`: a level that takes a drill. Those of [`BackupReader::check_identity`], for L2. Errors of the store that
/// say nothing about the backup, such as `Unreachable`.
pub async fn verify(
    reader: &BackupReader,
    level: Level,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<VerifyReport> {
    match level {
        Level::L1 => {}
        Level::L2 => reader.check_identity()?,
        Level::L3 | Level::L4 => {
            return Err(Error::new(ErrorKind::Unsupported, format!("reading bytes cannot verify to level {level:?}"))
                .hint("`chom-recovery drill` reaches L3; a recovery on another host reaches L4"));
        }
    }
    let ids = reader.repository().ids();
    let begun = ids.now();
    let manifest = reader.manifest();
    let mut found = Found::default();
    let mut done = Progress { done: 0, total: manifest.stored_len() };
    for record in &manifest.components {
        let mut checks = match checks(reader, record.name.as_str(), level).await {
            Ok(checks) => checks,
            Err(e) => {
                found.add(&record.name, None, e)?;
                continue;
            }
        };
        while let Some((part, length, result)) = checks.next().await {
            found.parts += 1;
            if let Err(e) = result {
                found.add(&record.name, Some(part), e)?;
            }
            done.done += length;
            progress(done);
        }
    }
    if level >= Level::L2
        && let Err(e) = reader.private().await
    {
        found.add_manifest(e)?;
    }
    Ok(VerifyReport {
        backup: manifest.id,
        manifest_sha256: reader.manifest_sha256(),
        level,
        begun,
        ended: ids.now(),
        parts: found.parts,
        stored_len: done.done,
        findings: found.findings,
        findings_total: found.total,
        decoded_when_written: false,
    })
}

/// Verifies a backup that this process has just written, as deep as it can: to [`Level::L2`], or where it holds no
/// identity, to [`Level::L1`]; the report says that the parts were decoded when they were written.
///
/// # Errors
/// As [`verify`].
pub async fn verify_written(
    reader: &BackupReader,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<VerifyReport> {
    let level = if reader.check_identity().is_ok() { Level::L2 } else { Level::L1 };
    Ok(VerifyReport { decoded_when_written: true, ..verify(reader, level, progress).await? })
}

type Checks = futures::stream::BoxStream<'static, (u32, u64, Result<()>)>;

/// Begins to check the parts of a component.
async fn checks(reader: &BackupReader, component: &str, level: Level) -> Result<Checks> {
    let lanes = std::thread::available_parallelism().map_or(2, usize::from).min(8);
    if level == Level::L1 {
        let component = Arc::new(reader.stored_component(component).await?);
        let parts = futures::stream::iter(0..component.parts().len());
        return Ok(parts
            .map(move |i| {
                let component = component.clone();
                async move {
                    let part = &component.parts()[i];
                    (part.index, part.stored_len, component.check_part(part).await)
                }
            })
            .buffer_unordered(lanes)
            .boxed());
    }
    let component = reader.component(component).await?;
    let parts = futures::stream::iter(0..component.parts().len());
    Ok(parts
        .map(move |i| {
            let component = component.clone();
            async move {
                let part = &component.parts()[i];
                (part.index, part.stored_len, component.check_part(part).await)
            }
        })
        .buffer_unordered(lanes)
        .boxed())
}

#[derive(Default)]
struct Found {
    parts: u64,
    findings: Vec<Finding>,
    total: u64,
}

impl Found {
    /// The sealed facts belong to no component.
    fn add_manifest(&mut self, error: Error) -> Result<()> {
        let name = "manifest".parse().expect("a name");
        self.add(&name, None, error)
    }

    /// Keeps what speaks about the backup; passes on what speaks about the way to it.
    fn add(&mut self, component: &Name, part: Option<u32>, error: Error) -> Result<()> {
        if !matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) {
            return Err(error);
        }
        self.total += 1;
        if self.findings.len() < FINDINGS_LIMIT {
            self.findings.push(Finding { component: component.clone(), part, error: error.to_record() });
        }
        Ok(())
    }
}

/// Signs a report and stores it next to the backup. Drills record levels 3 and 4 this way too.
pub async fn record(
    repository: &Repository,
    signer: &Signer,
    place: &Place,
    report: VerifyReport,
    run: Option<String>,
) -> Result<VerificationRecord> {
    let record = VerificationRecord {
        format: FORMAT,
        min_reader: READER,
        id: repository.ids().next(None),
        repository: repository.id().clone(),
        host: place.host.clone(),
        system: place.system.clone(),
        run,
        tool: super::TOOL.to_owned(),
        report,
        notes: BTreeMap::new(),
    };
    statement::publish(repository, signer, &record).await?;
    Ok(record)
}

/// Reads the verification records of a backup, oldest first. What is damaged, or signed by a stranger, vouches for
/// nothing and is left out.
pub async fn records(repository: &Repository, place: &Place) -> Result<Vec<VerificationRecord>> {
    let listed: Vec<_> = repository.store().list(&place.evidence_prefix()).await?.try_collect().await?;
    let mut records = Vec::new();
    for object in listed {
        if let Some((record, _)) = statement::read_valid::<VerificationRecord>(repository, &object.key).await? {
            records.push(record);
        }
    }
    Ok(records)
}
