//! `approve` and `resolve`: what a person says about a paused run.

use chom_recovery::{
    Result,
    run::{Verdict, summary::ApprovalSummary},
};
use serde_json::{Value, json};

use crate::{args::Consent, consent::login_name, exit::Exit, session::Session};

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

pub(crate) fn resolve(
    session: &Session,
    run: &str,
    step: &str,
    is_applied: bool,
    result: Value,
    because: &str,
    operator: Option<String>,
) -> Result<Exit> {
    let recovery = session.open_without_engine()?;
    let run = recovery.find_run(Some(run), |_| true)?;
    let verdict = if is_applied { Verdict::Applied } else { Verdict::NotApplied };
    let by = operator.unwrap_or_else(login_name);
    recovery.resolve(run.run, step, verdict, result, because, &by)?;
    let next = format!("chom-recovery resume {}", run.run);
    session.output.show(
        "resolved",
        &json!({ "run": run.run, "step": step, "verdict": verdict, "by": by, "next": next }),
        |output| {
            let verdict = if is_applied { "took effect" } else { "did not take effect" };
            output.line(format!("recorded as {by}: `{step}` {verdict}"));
            output.say(format!("next: {next}"));
        },
    );
    Ok(Exit::Ok)
}
