//! `runs`: past runs, their reports, and what they left behind.

use std::time::Duration;

use chom_recovery::{
    Result,
    objective::Achieved,
    procedure::{Recovered, close, database::ops::Verified},
    recovery::{Leftovers, Pruned, Report},
    report::{RunReport, standing},
    run::{
        ItemVerdict,
        summary::{CheckSummary, RunSummary, StepStatus},
    },
    triage::Choice,
};
use comfy_table::{Cell, Color};
use serde::Serialize;

use crate::{args::Runs, exit::Exit, human, output::Output, session::Session};

/// A run in a list.
#[derive(Debug, Serialize)]
struct Listed {
    run: chom_recovery::run::RunId,
    procedure: String,
    status: chom_recovery::run::summary::RunStatus,
    is_over: bool,
    began: chrono::DateTime<chrono::Utc>,
    elapsed_ms: u64,
    operator: String,
    host: String,
}

pub(crate) async fn run(session: &Session, command: Runs) -> Result<Exit> {
    let output = &session.output;
    match command {
        Runs::List => {
            let (runs, unreadable) = session.open_without_engine()?.runs()?;
            let listed: Vec<Listed> = runs.into_iter().map(Listed::from).collect();
            output.show("runs", &listed, |output| print_list(output, &listed));
            for (run, error) in &unreadable {
                output.say(format!("run {run} cannot be read: {error}"));
            }
            Ok(if unreadable.is_empty() { Exit::Ok } else { Exit::Incomplete })
        }
        Runs::Show { run } => {
            let recovery = session.open_without_engine()?;
            let report = recovery.run_report(recovery.find_run(run.as_deref(), |_| true)?.run)?;
            output.show("summary", &report, |output| print_report(output, &report));
            Ok(Exit::Ok)
        }
        Runs::Prune { older_than, dry_run, consent } => {
            let recovery = session.open().await?;
            let consent = session.consent(&consent, &recovery)?;
            let days = Duration::from_hours(24 * u64::from(older_than));
            let leftovers = recovery.leftovers(days).await?;
            if dry_run || leftovers.is_empty() {
                output.show("leftovers", &leftovers, |output| print_leftovers(output, &leftovers));
                return Ok(Exit::Ok);
            }
            if !output.json {
                print_leftovers(output, &leftovers);
            }
            consent.get(&format!(
                "remove {} volumes ({}), {} schemas, {} containers and {} journals for ever; these runs cannot be rolled back \
                 after that",
                leftovers.volumes.len(),
                human::bytes(leftovers.bytes()),
                leftovers.schemas.len(),
                leftovers.containers.len(),
                leftovers.runs.len()
            ))?;
            let pruned = recovery.prune(&leftovers).await?;
            output.show("pruned", &pruned, |output| print_pruned(output, &pruned));
            Ok(if pruned.kept.is_empty() { Exit::Ok } else { Exit::Incomplete })
        }
    }
}

impl From<RunSummary> for Listed {
    fn from(run: RunSummary) -> Self {
        Self {
            run: run.run,
            procedure: run.procedure,
            status: run.status,
            is_over: run.is_over,
            began: run.began,
            elapsed_ms: run.elapsed_ms,
            operator: run.operator,
            host: run.host,
        }
    }
}

fn print_list(output: &Output, runs: &[Listed]) {
    if runs.is_empty() {
        return output.line("no runs yet");
    }
    let mut table = output.table(&["RUN", "PROCEDURE", "STATUS", "BEGAN", "TOOK", "OPERATOR"]);
    for run in runs {
        let color = if run.is_over { Color::Reset } else { Color::Yellow };
        table.add_row([
            Cell::new(run.run),
            Cell::new(&run.procedure),
            Cell::new(standing(run.status)).fg(color),
            Cell::new(human::time(run.began)),
            Cell::new(human::millis(run.elapsed_ms)),
            Cell::new(&run.operator),
        ]);
    }
    output.line(table.trim_fmt());
}

/// Prints a run against its budgets and objectives.
pub(crate) fn print_report(output: &Output, report: &RunReport) {
    let palette = output.palette();
    output.line(format!(
        "run {} of `{}` {}: begun {} by {} on {}, {} long{}\n",
        report.run,
        palette.bold(&report.procedure),
        standing(report.status),
        human::time(report.began),
        report.operator,
        report.host,
        human::millis(report.elapsed_ms),
        if report.resumes > 0 { format!(", resumed {} times", report.resumes) } else { String::new() },
    ));
    if let Some(choice) = &report.choice {
        print_choice(output, choice);
    }
    let mut table = output.table(&["STEP", "STATUS", "AT", "TOOK", "BUDGET", ""]);
    for step in &report.steps {
        let remark = match (&step.error, &step.approved_by) {
            (Some(error), _) => error.clone(),
            (None, Some(by)) => format!("approved by {by}"),
            _ => String::new(),
        };
        let took = Cell::new(step.ms.map_or_else(String::new, human::millis));
        table.add_row([
            Cell::new(&step.step),
            step_cell(step.status),
            Cell::new(format!("+{}", human::millis(step.offset_ms))),
            if step.is_over_budget { took.fg(Color::Yellow) } else { took },
            Cell::new(step.budget_ms.map_or_else(String::new, human::millis)),
            Cell::new(if step.is_over_budget { format!("OVER BUDGET {remark}") } else { remark }),
        ]);
    }
    output.line(table.trim_fmt());
    let (rto, rpo) = match &report.achieved {
        Some(Report::Drill(_)) => ("restored and proven after", "an incident would have cost"),
        _ => ("users served again after", "data lost, at most"),
    };
    achieved(output, "RTO", rto, report.rto);
    achieved(output, "RPO", rpo, report.rpo);
    if let Some(Report::Drill(done)) = &report.achieved {
        output.line(format!("backup {} can be restored (L3): {}", done.backup.id(), compared(&done.verified)));
    }
    if let Some(Report::BackUp(info)) = &report.achieved {
        let level = info.level.map_or_else(|| "not verified".into(), |level| format!("verified to {level:?}"));
        output.line(format!("\nbackup {}, {}, {level}", palette.bold(info.id()), human::bytes(info.stored_len)));
        for warning in &info.warnings {
            output.line(format!("  {} {warning}", palette.yellow("warning:")));
        }
    }
    if let Some(Report::SalvageDatabase(done)) = &report.achieved {
        super::salvage::print(output, done);
    }
    if let Some(Report::RestoreFiles(done)) = &report.achieved {
        output.line(format!(
            "\n`{}` of backup {} is in `{}`: {} files, {}, read back and compared; {} entries that it leaves out stayed",
            done.component,
            done.backup.id(),
            done.path.display(),
            done.unpacked.files,
            human::bytes(done.unpacked.bytes),
            done.carried
        ));
        if !done.restarted.is_empty() {
            let outage = human::seconds(done.outage_s);
            output.line(format!("stopped for it, and proven again after {outage}: {}", done.restarted.join(", ")));
        }
    }
    if let Some(Report::Recovered(done)) = &report.achieved {
        print_recovered(output, done);
    }
    if let Some(Report::RecoverDatabase(done)) = &report.achieved {
        let from = match &done.restored {
            Some(restored) => {
                format!(
                    "restored from backup {}: {} before the swap",
                    restored.backup.name(),
                    compared(&restored.verified)
                )
            }
            None => "no data was replaced: starting the server was enough".into(),
        };
        output.line(from);
        if let Some(restored) = done.restored.as_ref().filter(|r| !r.chosen_because.is_empty()) {
            output.line(format!("chosen because: {}", restored.chosen_because));
        }
        if let Some(filled) = done.restored.as_ref().and_then(|r| r.filled.as_ref()) {
            let how = if filled.from_kept_copy { "moved from the copy kept unpacked" } else { "unpacked" };
            output.line(format!("data files {how} in {}", human::millis(filled.took_ms)));
        }
        if let Some(id) = &done.new_backup {
            output.line(format!("new backup {id}, verified"));
        }
    }
    if matches!(report.procedure.as_str(), close::PROCEDURE) {
        print_checklist(output, &report.checklist);
    }
    if let Some(Report::Close(done)) = &report.achieved {
        output.line(format!("\nrecovery {} is closed, by {}", palette.bold(done.run), done.by));
    }
    if let Some(closure) = &report.closed {
        output.line(format!("closed {} by {}, with run {}", human::time(closure.at), closure.by, closure.run));
        for check in &closure.exceptions {
            let verdict = if check.verdict == ItemVerdict::Waived { "WAIVED" } else { "VOUCHED FOR" };
            output.line(format!("  {verdict} {}: {}", check.item, check.evidence));
        }
    }
    for check in report.exceptions.iter().filter(|_| report.procedure != close::PROCEDURE) {
        let verdict = if check.verdict == ItemVerdict::Failed { "NOT IN ORDER" } else { "WAIVED" };
        output.line(format!("{} {}: {}", palette.yellow(verdict), check.item, check.evidence));
    }
    if !report.to_review.is_empty() {
        output.line(format!("\n{}", palette.bold("left to review")));
        for line in &report.to_review {
            output.line(format!("  - {line}"));
        }
    }
    if !report.next.is_empty() {
        output.line(format!("\n{}", palette.bold("next, one of")));
        for command in &report.next {
            output.line(format!("  {command}"));
        }
    }
}

/// Prints why a procedure was run, and who chose it.
fn print_choice(output: &Output, choice: &Choice) {
    let who = choice.by.as_ref().map_or_else(
        || "selected by the most probable of these causes".to_owned(),
        |by| format!("chosen by {by} for these causes"),
    );
    output.line(format!("{} was {who}:", choice.procedure));
    for (index, one) in choice.causes.iter().enumerate() {
        output.line(format!("  {}. {} ({} %): {}", index + 1, one.hypothesis, one.confidence, one.cause));
    }
    output.line("");
}

/// Prints a checklist as on paper, with what stands behind each tick.
pub(crate) fn print_checklist(output: &Output, checklist: &[CheckSummary]) {
    let mut table = output.table(&["ITEM", "VERDICT", "", "SEEN"]);
    for check in checklist {
        let verdict = match check.verdict {
            ItemVerdict::Passed => Cell::new("in order").fg(Color::Green),
            ItemVerdict::Attested => Cell::new("VOUCHED FOR").fg(Color::Yellow),
            ItemVerdict::Waived => Cell::new("WAIVED").fg(Color::Yellow),
            ItemVerdict::Failed => Cell::new("OPEN").fg(Color::Red),
        };
        table.add_row([Cell::new(&check.item), verdict, Cell::new(&check.text), Cell::new(&check.evidence)]);
    }
    output.line(table.trim_fmt());
}

/// What was proven of a restored database.
fn compared(verified: &Verified) -> String {
    let Verified { tables, rows, definitions, is_physical } = verified;
    if *is_physical {
        format!("{tables} tables read to their end by the server, and {definitions} definitions compared")
    } else {
        format!("{tables} tables, {rows} rows and {definitions} definitions compared")
    }
}

fn print_recovered(output: &Output, done: &Recovered) {
    for line in &done.found {
        output.line(format!("found: {line}"));
    }
    if done.done.is_empty() {
        output.line("nothing had to be changed");
    }
    for line in &done.done {
        output.line(format!("done: {line}"));
    }
    if !done.measured.is_empty() {
        let mut table = output.table(&["MEASURED", "BEFORE", "AFTER", "UNIT"]);
        let cell = |value: Option<f64>| Cell::new(value.map_or_else(|| "unknown".into(), |v| format!("{v:.1}")));
        for one in &done.measured {
            table.add_row([Cell::new(&one.name), cell(one.before), cell(one.after), Cell::new(&one.unit)]);
        }
        output.line(table.trim_fmt());
    }
}

fn achieved(output: &Output, name: &str, what: &str, achieved: Option<Achieved>) {
    let Some(achieved) = achieved else { return };
    let palette = output.palette();
    let verdict = if achieved.is_met { palette.green("met") } else { palette.red("MISSED") };
    output.line(format!(
        "\n{} {verdict}: {what} {}, objective {}",
        palette.bold(name),
        human::seconds(achieved.achieved_s),
        human::seconds(achieved.objective_s)
    ));
}

fn step_cell(status: StepStatus) -> Cell {
    match status {
        StepStatus::Done => Cell::new("done").fg(Color::Green),
        StepStatus::Failed => Cell::new("FAILED").fg(Color::Red),
        StepStatus::Unknown => Cell::new("UNKNOWN").fg(Color::Red),
        StepStatus::Begun => Cell::new("begun").fg(Color::Yellow),
        StepStatus::Unverified => Cell::new("unverified").fg(Color::Yellow),
        StepStatus::NotApplied => Cell::new("not applied"),
        StepStatus::Undoing => Cell::new("undoing").fg(Color::Yellow),
        StepStatus::Undone => Cell::new("undone"),
    }
}

fn print_leftovers(output: &Output, leftovers: &Leftovers) {
    if leftovers.is_empty() {
        output.line("nothing to remove");
    } else {
        let mut table = output.table(&["WHAT", "NAME", "SIZE", "RUN"]);
        for volume in &leftovers.volumes {
            let size = volume.bytes.map_or_else(|| "unknown".into(), human::bytes);
            table.add_row([Cell::new("volume"), Cell::new(&volume.volume), Cell::new(size), Cell::new(volume.run)]);
        }
        for one in &leftovers.folders {
            table.add_row([Cell::new("folder"), Cell::new(one.folder.display()), Cell::new(""), Cell::new(one.run)]);
        }
        for one in &leftovers.schemas {
            let what = format!("schema ({} tables)", one.tables);
            let cells =
                [Cell::new(what), Cell::new(&one.schema), Cell::new(human::bytes(one.bytes)), Cell::new(one.run)];
            table.add_row(cells);
        }
        for container in &leftovers.containers {
            let what = format!("container ({})", container.role);
            table.add_row([Cell::new(what), Cell::new(&container.container), Cell::new(""), Cell::new(container.run)]);
        }
        for run in &leftovers.runs {
            table.add_row([Cell::new("journal"), Cell::new(run), Cell::new(""), Cell::new(run)]);
        }
        output.line(table.trim_fmt());
    }
    for kept in &leftovers.kept {
        output.line(output.palette().dim(format!("kept: {}: {}", kept.what, kept.because)));
    }
}

fn print_pruned(output: &Output, pruned: &Pruned) {
    output.line(format!(
        "removed {} volumes ({}), {} folders, {} schemas, {} containers, {} journals",
        pruned.volumes.len(),
        human::bytes(pruned.bytes),
        pruned.folders.len(),
        pruned.schemas.len(),
        pruned.containers.len(),
        pruned.runs.len()
    ));
    for kept in &pruned.kept {
        output.line(format!("{} {}: {}", output.palette().yellow("kept"), kept.what, kept.because));
    }
}
