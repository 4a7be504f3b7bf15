//! `approve`: a person's yes to what a paused run waits for.

use chom_recovery::{Result, run::summary::ApprovalSummary};
use serde_json::json;

use crate::{args::Consent, exit::Exit, session::Session};

pub(crate) fn approve(session: &Session, run: Option<&str>, name: Option<&str>, consent: &Consent) -> Result<Exit> {
    let recovery = session.open_without_engine()?;
    let consent = session.consent(consent, &recovery)?;
    let is_waiting = |approval: &ApprovalSummary| matches!(approval, ApprovalSummary::Waiting { .. });
    let run = recovery.find_run(run, |run| !run.is_over && run.approvals.values().any(is_waiting))?;
    let asked = run.approvals.iter().filter_map(|(path, approval)| match approval {
        ApprovalSummary::Waiting { ask } if name.is_none_or(|name| path.ends_with(name)) => Some(ask.as_str()),
        _ => None,
    });
    consent.get(&asked.collect::<Vec<_>>().join("; "))?;
    let approved = recovery.approve(run.run, name, &consent.operator)?;
    let next = format!("chom-recovery resume {}", run.run);
    session.output.show(
        "approved",
        &json!({ "run": run.run, "name": approved, "by": consent.operator, "next": next }),
        |output| {
            output.line(format!("approved `{approved}` of run {} as {}", run.run, consent.operator));
            output.say(format!("next: {next}"));
        },
    );
    Ok(Exit::Ok)
}
