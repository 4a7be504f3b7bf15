//! `evidence`: what was seen before anything is changed.

use std::path::{Path, PathBuf};

use chom_recovery::{
    Recovery, Result,
    recovery::{Evidence as Bundle, EvidenceRequest},
};
use chrono::{DateTime, Utc};

use crate::{args::Evidence, consent::login_name, exit::Exit, human, output::Output, session::Session};

pub(crate) async fn run(session: &Session, command: Evidence) -> Result<Exit> {
    match command {
        Evidence::Collect { output, since, operator: name } => {
            collect(session, output, since, name.unwrap_or_else(login_name)).await
        }
        Evidence::Verify { directory, sha256 } => verify(session, &directory, sha256.as_deref()),
    }
}

async fn collect(
    session: &Session,
    output: Option<PathBuf>,
    since: Option<DateTime<Utc>>,
    operator: String,
) -> Result<Exit> {
    let recovery = session.open_what_answers().await?;
    session.output.terminal.begin("gathering evidence");
    let gathered = recovery.collect_evidence(EvidenceRequest { output, since, operator: Some(operator) }).await;
    session.output.terminal.end();
    let bundle = gathered?;
    session.output.show("evidence", &bundle, |output| print(output, &bundle));
    // What is there is good; that it is not all is for scripts to know.
    Ok(if bundle.manifest.is_complete() { Exit::Ok } else { Exit::Incomplete })
}

fn print(output: &Output, bundle: &Bundle) {
    let manifest = &bundle.manifest;
    let bytes = manifest.files.iter().map(|file| file.bytes).sum();
    let (count, took) = (manifest.files.len(), human::millis(manifest.took_ms));
    output.line(format!("{count} files, {}, in {took}: {}", human::bytes(bytes), manifest.directory.display()));
    for note in &manifest.notes {
        output.line(format!("note     {note}"));
    }
    for missing in &manifest.missing {
        output.line(format!("missing  {}: {}", missing.what, missing.why));
    }
    output.line(format!("manifest sha256 {}", bundle.manifest_sha256));
    output.say(format!(
        "note the hash elsewhere; chom-recovery evidence verify {} --sha256 HASH",
        manifest.directory.display()
    ));
}

fn verify(session: &Session, directory: &Path, noted: Option<&str>) -> Result<Exit> {
    let proof = Recovery::verify_evidence(directory, noted)?;
    session.output.show("evidence_proof", &proof, |output| {
        output.line(format!("{} files of system {} are as they were gathered", proof.proven, proof.manifest.system));
        output.line(format!("manifest sha256 {}", proof.manifest_sha256));
    });
    Ok(Exit::Ok)
}
