//! Evidence of what was wrong, before a recovery changes it.

use std::time::Duration;

use chrono::DateTime;

use super::Parts;
use crate::{
    error::Result,
    probe::evidence::EvidenceManifest,
    run::{Effect, Run, Undo},
};

const MINUTE: Duration = Duration::from_mins(1);

/// Collects what will be gone after the recovery. Never blocks it: the manifest says what is missing.
pub(super) async fn gather(run: &Run, parts: &Parts) -> Result<EvidenceManifest> {
    let (application, system) = (parts.application.clone(), parts.system.clone());
    let directory = run.directory().join("evidence");
    let nothing = EvidenceManifest {
        directory: "evidence".into(),
        system: system.id.to_string(),
        started: DateTime::UNIX_EPOCH,
        took_ms: 0,
        files: Vec::new(),
        missing: Vec::new(),
        notes: Vec::new(),
    };
    run.step("gather-evidence")
        .effect(Effect::Idempotent)
        .undo(Undo::Unnecessary("evidence is kept"))
        .predict(move || nothing)
        .budget(MINUTE)
        .timeout(system.limits.evidence_deadline + MINUTE)
        .run(async move |_| Ok(application.gather_evidence(&directory).await))
        .await
}
