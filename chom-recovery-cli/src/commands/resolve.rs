//! `resolve`: a person's word on a step of which nobody can tell whether it took effect.

use chom_recovery::{
    Error, ErrorKind, Recovery, Result,
    report::Unresolved,
    run::{Effect, OutputSource, Resolution, Verdict, Word},
};
use serde_json::Value;

use crate::{args::VerdictChoice, consent::login_name, exit::Exit, output::Output, session::Session};

/// What the command line says about the step.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) verdict: VerdictChoice,
    pub(crate) output: Option<Value>,
    pub(crate) because: Option<String>,
    pub(crate) operator: Option<String>,
}

impl VerdictChoice {
    fn verdict(self) -> Option<Verdict> {
        match self {
            Self { applied: true, .. } => Some(Verdict::Applied),
            Self { not_applied: true, .. } => Some(Verdict::NotApplied),
            _ => None,
        }
    }
}

pub(crate) async fn resolve(session: &Session, run: Option<&str>, step: Option<&str>, said: Said) -> Result<Exit> {
    let output = &session.output;
    let found = find(&session.open_without_engine()?, run, step)?;
    let asks = run.is_some() && !output.json && output.terminal.can_ask();
    let verdict = match (said.verdict.verdict(), found.as_slice()) {
        (Some(verdict), [_]) => verdict,
        (Some(_), []) => return Err(nothing()),
        (Some(_), several) => return Err(which(several)),
        (None, [one]) if asks => {
            print(output, &found);
            match ask(output, one) {
                Some(verdict) => verdict,
                None => return Ok(Exit::NeedsConfirmation),
            }
        }
        (None, _) => {
            output.show("unresolved", &found, |output| print(output, &found));
            return Ok(Exit::Ok);
        }
    };
    let one = &found[0];
    let because = match said.because {
        Some(because) => because,
        None => ask_how(output, one)?,
    };
    let by = said.operator.unwrap_or_else(login_name);
    let word = Word { verdict, output: said.output, because };
    let recovery = session.open().await?;
    output.terminal.begin("looking");
    let settled = recovery.resolve(one.run, &one.step, word, &by).await;
    output.terminal.end();
    let settled = settled?;
    output.show("resolved", &settled, |output| print_settled(output, &settled, &by));
    output.say(format!("next: {}", one.commands.look_again));
    Ok(Exit::Ok)
}

/// Finds the unresolved steps that are meant.
fn find(recovery: &Recovery, run: Option<&str>, step: Option<&str>) -> Result<Vec<Unresolved>> {
    let mut found = recovery.unresolved()?;
    if let Some(run) = run {
        let run = recovery.find_run(Some(run), |_| true)?.run;
        found.retain(|one| one.run == run);
        if let Some(step) = step {
            let all = std::mem::take(&mut found);
            found =
                all.iter().filter(|one| one.step == step || one.step.ends_with(&format!("/{step}"))).cloned().collect();
            if found.is_empty() {
                return Err(Error::new(ErrorKind::NotFound, format!("run {run} has no unknown step `{step}`"))
                    .with("unknown", names(&all))
                    .hint(format!("`chom-recovery runs show {run}` tells what became of the others")));
            }
        }
    }
    Ok(found)
}

fn names(steps: &[Unresolved]) -> String {
    if steps.is_empty() { "none".into() } else { steps.iter().map(|s| s.step.as_str()).collect::<Vec<_>>().join(", ") }
}

fn nothing() -> Error {
    Error::new(ErrorKind::NotFound, "no step waits for anybody's word").hint("`chom-recovery` says what to do next")
}

fn which(several: &[Unresolved]) -> Error {
    Error::new(ErrorKind::InvalidInput, "the outcome of several steps is unknown; which is meant?")
        .with("unknown", several.iter().map(|s| format!("{} {}", s.run, s.step)).collect::<Vec<_>>().join(", "))
        .hint("`chom-recovery resolve` lists them with the commands to type")
}

/// Asks for the verdict; `None`: that person does not know either.
fn ask(output: &Output, step: &Unresolved) -> Option<Verdict> {
    let question =
        format!("Did `{}` take effect? [yes: wholly / no: nothing of it / Enter: I do not know] ", step.step);
    let verdict = match output.terminal.ask(&question)?.trim().to_ascii_lowercase().as_str() {
        "yes" | "applied" => Some(Verdict::Applied),
        "no" | "not-applied" => Some(Verdict::NotApplied),
        _ => None,
    };
    if verdict.is_none() {
        output.say(format!("nothing was recorded; let it look again: {}", step.commands.look_again));
    }
    verdict
}

fn ask_how(output: &Output, step: &Unresolved) -> Result<String> {
    let because = if output.json || !output.terminal.can_ask() {
        None
    } else {
        output.terminal.ask("How do you know? (for the record) ")
    };
    because.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, format!("nobody says how it is known what became of `{}`", step.step))
            .hint("add --because 'what you looked at, and what you saw'")
    })
}

fn print(output: &Output, found: &[Unresolved]) {
    let palette = output.palette();
    if found.is_empty() {
        output.line("nothing is unresolved");
    }
    for one in found {
        let effect = if one.effect == Effect::Destructive { palette.red(" (DESTRUCTIVE)") } else { String::new() };
        output.line(format!("{}{effect} of run {}, `{}`", palette.bold(&one.step), one.run, one.procedure));
        output.line(format!("  unknown        {}", one.evidence));
        output.line(format!("  look again     {}", palette.bold(&one.commands.look_again)));
        output.line(format!("  if it did      {}", palette.bold(&one.commands.applied)));
        output.line(format!("                 {}", one.answers.applied));
        output.line(format!("  if it did not  {}", palette.bold(&one.commands.not_applied)));
        output.line(format!("                 {}", one.answers.not_applied));
    }
}

fn print_settled(output: &Output, settled: &Resolution, by: &str) {
    let verdict = match settled.verdict {
        Verdict::Applied => "took effect",
        Verdict::NotApplied => "did not take effect",
    };
    output.line(format!("recorded as {by}: `{}` of run {} {verdict}", settled.step, settled.run));
    let source = match settled.source {
        OutputSource::Nothing => return,
        OutputSource::Given => "as given",
        OutputSource::Seen => "as it is seen now",
        OutputSource::Derived => "as the step derives it",
    };
    output.line(format!("its output, {source}: {}", settled.output));
}
