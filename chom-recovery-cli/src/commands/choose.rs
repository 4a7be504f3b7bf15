//! `recover` without the name of a procedure: diagnoses, and runs what the most probable cause selects.

use chom_recovery::{
    Error, ErrorKind, Result,
    recovery::RunOptions,
    triage::{Choice, Diagnosis, Selected, Selection, select},
};

use super::{diagnose::Found, health};
use crate::{
    args::{Consent, Waivers},
    exit::Exit,
    output::Output,
    session::{Session, run_options},
    terminal::Terminal,
    watch::watch,
};

pub(crate) async fn recover(
    session: &Session,
    chosen: Option<Selected>,
    waivers: &Waivers,
    consent: &Consent,
) -> Result<Exit> {
    let output = &session.output;
    let recovery = session.open_what_answers().await?;
    let consent = session.consent(consent, &recovery)?;
    output.terminal.begin("asking every probe");
    let (health, causes) = recovery.diagnose().await;
    output.terminal.end();
    output.show("diagnosis", &Found { diagnoses: &causes, health: &health }, |output| print_ranked(output, &causes));
    let choice = match (chosen, select(&causes)) {
        (Some(procedure), _) => Choice::made(causes, procedure, &consent.operator)?,
        (None, Selection::None) => {
            let advice = causes.first().map_or("diagnose again", |first| &first.advice);
            output.say(format!("no procedure was begun: {advice}"));
            return Ok(health::exit(health.overall));
        }
        (None, Selection::Several(procedures)) if output.terminal.can_ask() => {
            let procedure = ask(&output.terminal, &causes, &procedures)?;
            Choice::made(causes, procedure, &consent.operator)?
        }
        (None, _) => Choice::of(causes)?,
    };
    let project = &recovery.system().compose.project;
    let engine = recovery.backend().engine_address();
    consent.can_be_given(&format!("recover {} of project `{project}` on {engine}", choice.procedure))?;
    let options = RunOptions { waivers: consent.waivers(waivers), ..run_options(&consent) };
    let going = recovery.recover_chosen(choice, options).await?;
    watch(session, &recovery, going).await
}

/// Prints causes as they are ranked, a line each.
fn print_ranked(output: &Output, causes: &[Diagnosis]) {
    for (index, one) in causes.iter().enumerate() {
        let procedure = one.recovery().map_or("by hand", Selected::code);
        let hypothesis = output.palette().bold(&one.hypothesis);
        output.line(format!("{}. {hypothesis} ({} %): {procedure}", index + 1, one.confidence));
        for evidence in one.evidence.iter().take(3) {
            output.line(format!("   {evidence}"));
        }
    }
    output.line("");
}

/// Asks which procedure is run.
fn ask(terminal: &Terminal, causes: &[Diagnosis], procedures: &[Selected]) -> Result<Selected> {
    let mut question = "Several causes are about as likely. Nothing has been done yet.\n".to_owned();
    for (index, procedure) in procedures.iter().enumerate() {
        let why: Vec<_> =
            causes.iter().filter(|one| one.recovery() == Some(*procedure)).map(|one| &*one.hypothesis).collect();
        question += &format!("  {}  {procedure}: {}\n", index + 1, why.join("; "));
    }
    question += "Which procedure first (number or name, nothing for none)? ";
    let answer = terminal.ask(&question).unwrap_or_default();
    chosen(&answer, procedures).ok_or_else(|| {
        Error::new(
            ErrorKind::Denied,
            format!("no procedure was chosen with `{}`; nothing was begun", answer.escape_debug()),
        )
        .hint("look closer: chom-recovery diagnose")
    })
}

/// Finds the procedure that an answer means.
fn chosen(answer: &str, procedures: &[Selected]) -> Option<Selected> {
    let by_number = answer.parse::<usize>().ok().and_then(|number| procedures.get(number.checked_sub(1)?));
    by_number.or_else(|| procedures.iter().find(|one| one.code() == answer)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_number_or_a_name_of_those_that_were_shown() {
        let shown = [Selected::Queue, Selected::Scheduler];
        assert_eq!(chosen("2", &shown), Some(Selected::Scheduler));
        assert_eq!(chosen("queue", &shown), Some(Selected::Queue));
        for answer in ["", "0", "3", "database", "yes"] {
            assert_eq!(chosen(answer, &shown), None, "{answer}");
        }
    }
}
