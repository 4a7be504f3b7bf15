//! Gathering evidence by itself, without a recovery.

use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::Recovery;
use crate::{
    error::{Error, ErrorKind, Result},
    probe::evidence::{self, EvidenceManifest, EvidenceOptions, EvidencePlace, EvidenceProof},
};

/// How long before the incident logs are read from.
const BEFORE: TimeDelta = TimeDelta::minutes(30);

/// What evidence is gathered for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EvidenceRequest {
    /// Folder, which does not exist yet or is empty. `None` chooses one below the state directory, or on another disk where
    /// that has no room.
    pub output: Option<PathBuf>,
    /// When the incident began; logs are read from half an hour before. `None`: now.
    pub since: Option<DateTime<Utc>>,
    /// Name of the person, for the record.
    pub operator: Option<String>,
}

/// A bundle of evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// What was gathered and what was not.
    pub manifest: EvidenceManifest,
    /// SHA-256 of the manifest, in hex. Noted elsewhere, it proves later that nothing was changed.
    pub manifest_sha256: String,
}

impl Recovery {
    /// Gathers evidence, in parallel and within the configured deadline: health, logs, errors, the backup catalogue, use of
    /// resources, filesystems, memory. Secrets are taken out. What could not be had is named.
    ///
    /// # Errors
    /// `NoSpace`: the folder's disk has no room, or is the full one of the database. `AlreadyExists`: the folder is not
    /// empty. `Failed`: not even the manifest could be written.
    pub async fn collect_evidence(&self, request: EvidenceRequest) -> Result<Evidence> {
        let now = Utc::now();
        let place = match &request.output {
            Some(directory) => EvidencePlace::asked_for(&self.system, &self.backend, directory).await?,
            None => EvidencePlace::choose(&self.system, &self.backend, now).await?,
        };
        let since = request.since.unwrap_or(now) - BEFORE;
        let custody = serde_json::json!({
            "gathered_by": request.operator,
            "on_host": rustix::system::uname().nodename().to_string_lossy(),
            "with": concat!("chom-recovery ", env!("CARGO_PKG_VERSION")),
            "engine": self.backend.engine_address(),
            "incident_began": request.since,
            "logs_since": since,
        });
        let options = EvidenceOptions {
            since: Some(since),
            extra: vec![("custody.json".to_owned(), custody.to_string().into())],
            notes: place.notes,
            ..EvidenceOptions::new(&self.system)
        };
        let listing = self.clone();
        let catalogue: evidence::Brought = (
            "backups.json".to_owned(),
            Box::pin(async move {
                let status = listing.backup_status().await?;
                let backups = listing.backups().await?.backups;
                let shown = serde_json::json!({ "status": status, "backups": backups });
                Ok(shown.to_string().into())
            }),
        );
        let manifest =
            evidence::collect_with(&self.system, &self.backend, &place.directory, options, vec![catalogue]).await;
        let manifest_sha256 = evidence::verify(&place.directory).map(|proof| proof.manifest_sha256).map_err(|e| {
            let why = manifest.missing.first().map_or_else(|| e.to_string(), |m| format!("{}: {}", m.what, m.why));
            Error::new(ErrorKind::Failed, format!("no evidence is in `{}`: {why}", place.directory.display()))
                .hint("name a folder on another disk: `--output DIR`")
        })?;
        Ok(Evidence { manifest, manifest_sha256 })
    }

    /// Proves that a bundle is as it was gathered. `noted`: the SHA-256 of the manifest that was noted then.
    ///
    /// # Errors
    /// `NotFound`: there is no finished bundle. `Corrupt`: something is not as it was, or the manifest is another one.
    pub fn verify_evidence(directory: &Path, noted: Option<&str>) -> Result<EvidenceProof> {
        let proof = evidence::verify(directory)?;
        if noted.is_some_and(|noted| !noted.eq_ignore_ascii_case(&proof.manifest_sha256)) {
            return Err(Error::new(ErrorKind::Corrupt, "the manifest is not the one that was noted")
                .with("manifest_sha256", &proof.manifest_sha256));
        }
        if let Some(first) = proof.findings.first() {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("{} files are not as they were gathered: {first}", proof.findings.len()),
            )
            .with("findings", proof.findings.join("; ")));
        }
        Ok(proof)
    }
}
