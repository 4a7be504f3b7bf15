//! No command: where the system stands, and what to type next.

use chom_recovery::{Result, probe::Status, recovery::Overview, report::standing};
use chrono::Utc;

use crate::{exit::Exit, human, output::Output, session::Session};

pub(crate) async fn status(session: &Session) -> Result<Exit> {
    let recovery = session.open_what_answers().await?;
    session.output.terminal.begin("looking");
    let overview = recovery.overview().await;
    session.output.terminal.end();
    let overview = overview?;
    session.output.show("status", &overview, |output| print(output, &overview));
    Ok(if overview.health.overall > Status::Degraded { Exit::Unhealthy } else { Exit::Ok })
}

fn print(output: &Output, overview: &Overview) {
    let palette = output.palette();
    let field = |name: &str, text: String| output.line(format!("{} {text}", palette.bold(format!("{name:<8}"))));
    field("system", format!("{}, project {}", overview.system, overview.project));
    let engine = match (&overview.engine, &overview.engine_error) {
        (Some(engine), _) => format!("{} on {}, Docker {}", overview.engine_address, engine.host, engine.version),
        (None, Some(error)) => format!("{} {}: {}", overview.engine_address, palette.red("NO ANSWER"), error.message),
        (None, None) => overview.engine_address.clone(),
    };
    field("engine", engine);
    field("health", health(output, overview));
    for answer in overview.health.by_severity().iter().filter(|a| a.health.status != Status::Healthy) {
        output.line(format!(
            "         {} {}: {}",
            palette.status(answer.health.status),
            answer.probe,
            answer.health.summary
        ));
    }
    field("backup", backup(output, overview));
    for finding in &overview.backups.findings {
        output.line(format!("         {finding}"));
    }
    if overview.open_runs.is_empty() {
        field("runs", "none open".into());
    }
    for run in &overview.open_runs {
        let age = (Utc::now() - run.began).to_std().unwrap_or_default();
        let text =
            format!("{} of `{}` {}, began {} ago", run.run, run.procedure, standing(run.status), human::duration(age));
        field("runs", palette.yellow(text));
    }
    for one in &overview.unclosed {
        let text = format!("{} of `{}` succeeded {} and is not closed", one.run, one.procedure, human::time(one.ended));
        field("runs", palette.yellow(text));
    }
    for run in &overview.unreadable_runs {
        field("runs", format!("{} {}: {}", run.run, palette.red("UNREADABLE"), run.error.message));
    }
    if overview.next.is_empty() {
        field("next", "nothing to do".into());
    }
    for step in &overview.next {
        match &step.command {
            Some(command) => {
                field("next", palette.bold(command));
                output.line(format!("         {}", palette.dim(&step.because)));
            }
            None => field("next", step.because.clone()),
        }
    }
}

fn health(output: &Output, overview: &Overview) -> String {
    let health = &overview.health;
    format!(
        "{}: {} of {} probes healthy, in {}",
        output.palette().status(health.overall),
        health.count(Status::Healthy),
        health.answers.len(),
        human::millis(health.took_ms)
    )
}

fn backup(output: &Output, overview: &Overview) -> String {
    let backups = &overview.backups;
    let status = output.palette().status(backups.status);
    match (&backups.newest, backups.age_s) {
        (Some(newest), Some(age)) => format!(
            "{status}: newest is {} old (allowed: {}), {}, {}",
            human::duration(std::time::Duration::from_secs(age)),
            human::duration(std::time::Duration::from_secs(backups.allowed_age_s)),
            newest.level.map_or_else(|| "not verified".into(), |level| format!("verified to {level:?}")),
            newest.id(),
        ),
        _ => status,
    }
}
