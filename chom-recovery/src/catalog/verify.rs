//! Verification of a backup's bytes, and the signed record of it.

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::{
    catalog::{
        FORMAT, READER,
        codec::Reading,
        id::{BackupId, Hash, HostId, Name, RepositoryId},
        layout::Place,
        manifest,
        reader::{BackupReader, ComponentReader},
        repo::Repository,
        sign::{Signer, VERIFICATION},
    },
    error::{Error, ErrorKind, ErrorRecord, Result},
    store::Key,
    stream,
    system::SystemId,
};

/// Longest verification record, in bytes.
const RECORD_LIMIT: usize = 1 << 20;
/// Findings that are kept one by one; the rest is counted.
const FINDINGS_LIMIT: usize = 100;

/// How deep a verification went; each level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Level {
    /// Every stored byte has the recorded hash.
    L1,
    /// Everything decompresses to the recorded content.
    L2,
    /// It was loaded into a server and compared with the manifest.
    L3,
    /// A whole recovery was rehearsed with it.
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
    /// Component.
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
    /// What was found.
    pub report: VerifyReport,
}

/// Reads every part of a backup: at [`Level::L1`] the bytes as stored, at [`Level::L2`] also what they decompress to.
/// Damage is a finding in the report, not an error.
///
/// `progress` is called after each part, in order of completion.
///
/// # Errors
/// `Unsupported`: a level that takes a drill. Errors of the store that say nothing about the backup, such as
/// `Unreachable`.
pub async fn verify(
    reader: &BackupReader,
    level: Level,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<VerifyReport> {
    let reading = match level {
        Level::L1 => Reading::Stored,
        Level::L2 => Reading::Plain,
        Level::L3 | Level::L4 => {
            return Err(Error::new(ErrorKind::Unsupported, format!("reading bytes cannot verify to level {level:?}"))
                .hint("run a drill"));
        }
    };
    let ids = reader.repository().ids();
    let begun = ids.now();
    let manifest = reader.manifest();
    let mut found = Found::default();
    let mut done = Progress { done: 0, total: manifest.stored_len() };
    for record in &manifest.components {
        let component = match reader.component(record.name.as_str()).await {
            Ok(component) => component,
            Err(e) => {
                found.add(&record.name, None, e)?;
                continue;
            }
        };
        let mut checks = check_parts(&component, reading);
        while let Some((part, length, result)) = checks.next().await {
            found.parts += 1;
            if let Err(e) = result {
                found.add(&record.name, Some(part), e)?;
            }
            done.done += length;
            progress(done);
        }
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
    })
}

fn check_parts(
    component: &ComponentReader,
    reading: Reading,
) -> futures::stream::BoxStream<'static, (u32, u64, Result<()>)> {
    let lanes = std::thread::available_parallelism().map_or(2, usize::from).min(8);
    let component = component.clone();
    futures::stream::iter(0..component.parts().len())
        .map(move |i| {
            let component = component.clone();
            async move {
                let part = &component.parts()[i];
                (part.index, part.stored_len, component.check_part(part, reading).await)
            }
        })
        .buffer_unordered(lanes)
        .boxed()
}

#[derive(Default)]
struct Found {
    parts: u64,
    findings: Vec<Finding>,
    total: u64,
}

impl Found {
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
        report,
    };
    let mut text = serde_json::to_vec(&record)
        .map_err(|e| Error::new(ErrorKind::Failed, "cannot encode the verification record").caused_by(e))?;
    text.push(b'\n');
    let object = signer.seal(VERIFICATION, &text);
    repository.store().put_new(&place.evidence(record.id), stream::once(object)).await?;
    Ok(record)
}

/// Reads the verification records of a backup, oldest first. What is damaged, or signed by a stranger, vouches for
/// nothing and is left out.
pub async fn records(repository: &Repository, place: &Place) -> Result<Vec<VerificationRecord>> {
    let listed: Vec<_> = repository.store().list(&place.evidence_prefix()).await?.try_collect().await?;
    let mut records = Vec::new();
    for object in listed {
        if let Some(record) = read_record(repository, place, &object.key).await? {
            records.push(record);
        }
    }
    Ok(records)
}

/// Reads a record. `None`: it vouches for nothing.
pub(super) async fn read_record(
    repository: &Repository,
    place: &Place,
    key: &Key,
) -> Result<Option<VerificationRecord>> {
    let read = async {
        let object = stream::collect(repository.store().get(key, None).await?, RECORD_LIMIT).await?;
        let (_, payload) = repository.trusted().open(VERIFICATION, &object)?;
        let record: VerificationRecord = manifest::decode("verification record", &payload)?;
        let own = Place { host: record.host.clone(), system: record.system.clone(), id: record.report.backup };
        let is_here = own == *place && place.evidence(record.id) == *key;
        Ok::<_, Error>((is_here && record.repository == *repository.id()).then_some(record))
    };
    match read.await {
        Ok(record) => Ok(record),
        Err(e)
            if matches!(
                e.kind(),
                ErrorKind::Corrupt | ErrorKind::Denied | ErrorKind::NotFound | ErrorKind::Unsupported
            ) =>
        {
            tracing::warn!(%key, error = %e, "a verification record does not count");
            Ok(None)
        }
        Err(e) => Err(e),
    }
}
