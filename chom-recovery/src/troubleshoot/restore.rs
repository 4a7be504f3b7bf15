//! A restore fails: what the catalogue, a check of the stored bytes and the failed run's journal say.

use std::time::Duration;

use super::{Cause, Findings, Issue};
use crate::{
    catalog::{BackupInfo, Level, Listing, verify},
    error::{ErrorKind, ErrorRecord, Result},
    probe::{HealthProbe, disk::DiskProbe},
    procedure::Parts,
    run::summary::{RunStatus, RunSummary},
};

/// Longest time for reading the newest backup.
const READING: Duration = Duration::from_mins(2);

/// Looks for what keeps a restore from its end. `failed` is the newest run that did not get there.
pub(crate) async fn restore(parts: &Parts, opened: Result<()>, failed: Option<&RunSummary>) -> Findings {
    let mut findings = Findings::new(Issue::Restore);
    findings.disk(&DiskProbe::new(&parts.system, parts.backend.clone()).check().await);
    if let Some(run) = failed {
        failed_run(&mut findings, run);
    }
    match opened {
        Err(error) => findings.add(of_error("repository", "the repository cannot be opened", &error.to_record(), 92)),
        Ok(()) => match parts.catalog.list().await {
            Ok(listing) => backups(&mut findings, parts, &listing).await,
            Err(error) => findings.add(of_error("repository", "the repository cannot be read", &error.to_record(), 90)),
        },
    }
    findings.ranked()
}

fn failed_run(findings: &mut Findings, run: &RunSummary) {
    let Some(error) = &run.error else {
        return findings.fine(format!("run {} has no error on record", run.run));
    };
    let step = run.steps.iter().rev().find(|s| s.error.is_some()).map_or("", |s| s.step.as_str());
    let cause = of_error("run", &format!("run {} of `{}` stopped", run.run, run.procedure), error, 80);
    let next = match run.status {
        RunStatus::Failed | RunStatus::Paused | RunStatus::Interrupted => {
            format!("; then: chom-recovery resume {}", run.run)
        }
        _ => String::new(),
    };
    let fix = format!("{}{next}", cause.fix);
    findings.add(Cause { fix, ..if step.is_empty() { cause } else { cause.seen(format!("step `{step}`")) } });
}

async fn backups(findings: &mut Findings, parts: &Parts, listing: &Listing) {
    for problem in &listing.problems {
        findings.unclear(format!("a part of the repository could not be listed: {}", problem.message));
    }
    for damaged in listing.damaged.iter().filter(|d| d.tombstone.is_none()) {
        let what = format!("backup {} cannot be used", damaged.place.id);
        findings.add(of_error("backup", &what, &damaged.error, if listing.backups.is_empty() { 90 } else { 50 }));
    }
    let usable = listing.backups.iter().rfind(|b| b.is_choosable());
    let Some(newest) = usable else {
        return findings.add(
            Cause::new("backup-missing", 90, "there is no usable backup of the database")
                .seen(format!("{} damaged, {} of other systems", listing.damaged.len(), listing.others.len()))
                .mend(
                    "look into the copy, or at backups of other programs: `chom-recovery --copy backup list`",
                    "none",
                ),
        );
    };
    findings.fine(format!("newest usable backup {} of {}", newest.id(), newest.point.format("%F %T UTC")));
    if let Err(error) = read(parts, newest).await {
        let what = format!("backup {} cannot be read to its end", newest.id());
        match error.kind {
            ErrorKind::Timeout => findings.unclear(format!("{what}: {}", error.message)),
            _ => findings.add(of_error("backup", &what, &error, 88)),
        }
    } else {
        findings.fine(format!("every stored byte of backup {} is as it was signed", newest.id()));
    }
}

/// Reads the stored bytes, for which no key is needed, and then asks whether a key is there.
async fn read(parts: &Parts, newest: &BackupInfo) -> std::result::Result<(), ErrorRecord> {
    let work = async {
        let reader = parts.catalog.open(&newest.place).await?;
        verify(&reader, Level::L1, &|_| {}).await?.into_result()?;
        reader.check_identity()
    };
    match tokio::time::timeout(READING, work).await {
        Ok(result) => result.map_err(|e| e.to_record()),
        Err(_) => Err(crate::Error::new(
            ErrorKind::Timeout,
            format!("it was not read within {} s: `chom-recovery backup verify` takes its time", READING.as_secs()),
        )
        .to_record()),
    }
}

/// Translates an error to what it means for a restore.
fn of_error(subject: &str, what: &str, error: &ErrorRecord, confidence: u8) -> Cause {
    let (kind, meaning, fix, risk) = match error.kind {
        ErrorKind::NotFound => {
            ("missing", "it is not there", "check the path or URL; mount its disk; or use the copy: --copy", "none")
        }
        ErrorKind::Corrupt => (
            "damaged",
            "bytes are missing or changed",
            "restore the backup before it, `--previous`, or from the copy; do not cut or repair the files",
            "an older backup loses what was written since",
        ),
        ErrorKind::Denied => (
            "wrong-signer",
            "its signer is not trusted here",
            "find out whose key it is before it is added to `repository.signers`",
            "a backup that somebody else made may hold what they want",
        ),
        ErrorKind::Authentication => (
            "authentication",
            "credentials or keys do not fit",
            "correct the password, key or identity (`--identity FILE`); do not restore for that reason",
            "none",
        ),
        ErrorKind::Precondition => (
            "precondition",
            "something that it needs is not so",
            "do what the hint says: another image, an identity, a signer",
            "none",
        ),
        ErrorKind::NoSpace => ("no-space", "there is no room", "free space, then go on where it stopped", "none"),
        ErrorKind::Unreachable | ErrorKind::Timeout => {
            ("unreachable", "it does not answer", "look at the line and at the other host, then go on", "none")
        }
        ErrorKind::Locked => {
            ("locked", "another run holds the system", "`chom-recovery runs list`: end that one first", "none")
        }
        ErrorKind::OutcomeUnknown => {
            ("unknown", "nobody knows whether a step happened", "`chom-recovery resolve` says what to look at", "none")
        }
        ErrorKind::NeedsConfirmation => {
            ("waits", "it waits for a person", "`chom-recovery approve`, then resume", "none")
        }
        _ => ("failed", "it failed", "read the error; `chom-recovery runs show` has the steps before it", "none"),
    };
    let cause = Cause::new(format!("{subject}-{kind}"), confidence, format!("{what}: {meaning}")).seen(&error.message);
    let cause = match &error.hint {
        Some(hint) => cause.seen(format!("hint: {hint}")),
        None => cause,
    };
    cause.mend(fix, risk)
}

/// Finds the newest run that did not reach its end.
pub(crate) fn newest_failed(runs: &[RunSummary]) -> Option<&RunSummary> {
    let stopped = [RunStatus::Failed, RunStatus::Paused, RunStatus::Interrupted];
    runs.iter()
        .rfind(|run| ["recover-database", "restore-files"].contains(&run.procedure.as_str()))
        .filter(|run| stopped.contains(&run.status))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn each_kind_of_error_has_its_own_cause() {
        let named = |kind| of_error("backup", "backup x", &Error::new(kind, "as told").hint("do this").to_record(), 50);
        for (kind, name) in [
            (ErrorKind::NotFound, "backup-missing"),
            (ErrorKind::Corrupt, "backup-damaged"),
            (ErrorKind::Denied, "backup-wrong-signer"),
            (ErrorKind::Authentication, "backup-authentication"),
            (ErrorKind::NoSpace, "backup-no-space"),
            (ErrorKind::Failed, "backup-failed"),
        ] {
            let cause = named(kind);
            assert_eq!((cause.name.as_str(), cause.is_fixable), (name, false));
            assert_eq!(cause.evidence, ["as told", "hint: do this"]);
        }
    }
}
