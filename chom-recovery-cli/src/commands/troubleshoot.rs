//! `troubleshoot`: causes, and what mends them.

use chom_recovery::{
    Error, ErrorKind, Result,
    procedure::fix::{Fix, Request},
    troubleshoot::{Findings, Issue},
};

use super::health;
use crate::{
    args::Consent,
    exit::Exit,
    output::Output,
    session::{Session, run_options},
    watch::watch,
};

pub(crate) async fn troubleshoot(
    session: &Session,
    issue: Issue,
    fix: Option<String>,
    consent: &Consent,
) -> Result<Exit> {
    let recovery = session.open_what_answers().await?;
    session.output.terminal.begin("looking");
    let findings = recovery.troubleshoot(issue).await;
    session.output.terminal.end();
    let findings = findings?;
    let Some(name) = fix else {
        session.output.show("findings", &findings, |output| print(output, &findings));
        return Ok(health::exit(findings.status()));
    };
    let Some(cause) = findings.cause(&name) else {
        return Err(Error::new(ErrorKind::NotFound, format!("`{name}` was not found to be a cause now"))
            .hint(format!("chom-recovery troubleshoot {issue}")));
    };
    if !cause.is_fixable {
        return Err(
            Error::new(ErrorKind::Unsupported, format!("a person has to mend `{name}`")).hint(cause.fix.clone())
        );
    }
    let consent = session.consent(consent, &recovery)?;
    consent.get(&format!("{}: {}", cause.cause, cause.risk))?;
    let going = recovery.recover(Fix, Request { cause: name }, run_options(&consent)).await?;
    watch(session, &recovery, going).await
}

fn print(output: &Output, findings: &Findings) {
    let palette = output.palette();
    if findings.causes.is_empty() {
        output.line(if findings.unclear.is_empty() {
            "no cause was found, and everything was looked at"
        } else {
            "no cause was found in what could be looked at"
        });
    }
    for (index, cause) in findings.causes.iter().enumerate() {
        output.line(format!("{}. {} ({} %)  {}", index + 1, palette.bold(&cause.cause), cause.confidence, cause.name));
        for line in &cause.evidence {
            output.line(format!("   seen     {}", palette.dim(line)));
        }
        output.line(format!("   fix      {}", cause.fix));
        output.line(format!("   risk     {}", cause.risk));
    }
    for line in &findings.unclear {
        output.line(format!("{} {line}", palette.yellow("not known ")));
    }
    for line in &findings.ruled_out {
        output.line(format!("{} {line}", palette.dim("ruled out ")));
    }
}
