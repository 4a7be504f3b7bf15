//! `plan`: what a procedure would do.

use std::path::PathBuf;

use chom_recovery::{
    Error, ErrorKind, Recovery, Result,
    procedure::{
        Procedure,
        application::{self, RecoverApplication},
        database::{Extent, Request},
        nginx::{self, RecoverNginx},
        partial, performance,
        tables::RestoreTables,
    },
    recovery::RunOptions,
    run::{Basis, Effect, Plan, PlanItem, PlannedStep, UndoPlan},
};
use comfy_table::{Cell, Color};
use serde::Serialize;

use crate::{
    args::{OnlyTables, PlanProcedure, PlanRecover, Which},
    exit::Exit,
    human,
    output::Output,
    session::Session,
};

/// A plan, and where it would be carried out.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    engine_address: String,
    fits_rto: Option<bool>,
    #[serde(flatten)]
    plan: &'a Plan,
}

pub(crate) async fn plan(session: &Session, procedure: PlanProcedure, file: Option<PathBuf>) -> Result<Exit> {
    let recover = match procedure {
        PlanProcedure::Recover(recover) => recover,
        PlanProcedure::Restore { tables, which } => return restore(session, &tables, &which, file).await,
    };
    let recovery = session.open().await?;
    session.output.terminal.begin("planning");
    let (name, planned) = match recover {
        PlanRecover::Database { which, kind, since } => {
            let (backup, kind) = (which.selector()?, kind.into());
            let request = Request { backup, kind, extent: Extent::Recover, incident_began: since };
            ("database", recovery.plan_database(&request).await)
        }
        PlanRecover::Application { which, method } => {
            let request = application::Request { backup: which.selector()?, method: method.map(Into::into) };
            ("application", part(&recovery, RecoverApplication, request).await)
        }
        PlanRecover::Nginx { which } => {
            let request = nginx::Request { backup: which.selector()? };
            ("nginx", part(&recovery, RecoverNginx, request).await)
        }
        PlanRecover::Performance => {
            ("performance", part(&recovery, performance::RecoverPerformance, performance::Request {}).await)
        }
        PlanRecover::Queue => ("queue", part(&recovery, partial::RecoverQueue, partial::Request {}).await),
        PlanRecover::Scheduler => ("scheduler", part(&recovery, partial::RecoverScheduler, partial::Request {}).await),
        PlanRecover::Redis { restart } => {
            ("redis", part(&recovery, partial::RecoverRedis, partial::redis::Request { restart }).await)
        }
    };
    session.output.terminal.end();
    show(session, &recovery, name, &planned?, file)
}

/// Plans a restore of single tables.
async fn restore(session: &Session, tables: &OnlyTables, which: &Which, file: Option<PathBuf>) -> Result<Exit> {
    if file.is_some() {
        return Err(Error::new(ErrorKind::InvalidInput, "a restore of tables is not carried out from a file")
            .hint("leave out `--output`: the restore itself asks before it replaces anything"));
    }
    let request = tables.request(which)?;
    let recovery = session.open().await?;
    session.output.terminal.begin("planning");
    let planned = part(&recovery, RestoreTables, request).await;
    session.output.terminal.end();
    show(session, &recovery, "tables", &planned?, None)
}

/// Plans a recovery of a part of the system.
async fn part<P: Procedure>(recovery: &Recovery, procedure: P, request: P::Request) -> Result<Plan> {
    recovery.plan_recovery(&procedure, &request, &RunOptions::default()).await
}

/// Shows a plan, and writes it to a file where one is named.
fn show(session: &Session, recovery: &Recovery, name: &str, plan: &Plan, file: Option<PathBuf>) -> Result<Exit> {
    let engine_address = recovery.backend().engine_address();
    let shown = Shown { engine_address, fits_rto: plan.fits_rto(), plan };
    session.output.show("plan", &shown, |output| print(output, &shown));
    if let Some(file) = file {
        let text = serde_json::to_vec_pretty(plan).map_err(std::io::Error::from)?;
        std::fs::write(&file, text)
            .map_err(|e| Error::from(e).during(format!("cannot write the plan to `{}`", file.display())))?;
        session.output.say(format!("carry out exactly this: chom-recovery recover {name} --plan {}", file.display()));
    }
    Ok(if plan.failed_checks().is_empty() { Exit::Ok } else { Exit::Precondition })
}

fn print(output: &Output, shown: &Shown<'_>) {
    let (plan, palette) = (shown.plan, output.palette());
    output.line(format!("{} of system {} on {}\n", palette.bold(&plan.procedure), plan.system, shown.engine_address));
    let mut table = output.table(&["", "STEP", "ESTIMATE", "FROM", "UNDO, OR WHAT WAS FOUND"]);
    for item in &plan.items {
        let [kind, name, text] = row(item);
        let (estimate, from) =
            item.estimate().map_or_else(Default::default, |e| (human::millis(e.ms), source(e.basis)));
        table.add_row([kind, name, Cell::new(estimate), Cell::new(from), text]);
    }
    output.line(table.trim_fmt());
    if let Some(step) = &plan.boundary {
        output.line(format!("\nplanned up to `{step}`: what follows depends on its result"));
    }
    output.line(format!("\n{}", total(output, plan)));
    for item in plan.failed_checks() {
        output.line(format!("{} {item}", palette.red("NOT IN ORDER")));
    }
}

/// Says how long it will take, beside the objective.
fn total(output: &Output, plan: &Plan) -> String {
    let palette = output.palette();
    let whole = human::millis(plan.estimate_ms);
    let mut text = match plan.outage_ms {
        Some(outage) => format!("estimated {} until users are served, {whole} in all", human::millis(outage)),
        None => format!("estimated {whole}"),
    };
    if let (Some(objective), Some(fits)) = (plan.objective, plan.fits_rto()) {
        let verdict = if fits { palette.green("fits") } else { palette.red("DOES NOT FIT") };
        text += &format!("; this {verdict} the RTO of {}", human::duration(objective.rto));
    }
    text += "\npeople's answers take their own time";
    if plan.budgeted_ms() > 0 {
        let budgets = human::millis(plan.budgeted_ms());
        text += &format!("; {budgets} are budgets of steps that no earlier run has measured");
    }
    text
}

/// Where an estimate comes from.
fn source(basis: Basis) -> String {
    match basis {
        Basis::Observed => "done just now".into(),
        Basis::Measured { runs: 1 } => "measured, 1 run".into(),
        Basis::Measured { runs } => format!("measured, {runs} runs"),
        Basis::Computed { bytes } => format!("computed, {}", human::bytes(bytes)),
        Basis::Expected => "expected".into(),
        Basis::Budget => "budget".into(),
        _ => "unknown".into(),
    }
}

fn row(item: &PlanItem) -> [Cell; 3] {
    match item {
        PlanItem::Step(step) => [effect(step), Cell::new(&step.step), undo(step)],
        PlanItem::Decision { name, value } => {
            // A choice tells its reason.
            let reason = value.get("why").and_then(serde_json::Value::as_str).map(str::to_owned);
            [Cell::new("found"), Cell::new(name), Cell::new(reason.unwrap_or_else(|| brief(&value.to_string())))]
        }
        PlanItem::Approval { name, ask } => [Cell::new("ASKS").fg(Color::Yellow), Cell::new(name), Cell::new(ask)],
        PlanItem::Check { item, text, verdict, evidence } => {
            let verdict = verdict.map_or("check", |v| match v {
                chom_recovery::run::ItemVerdict::Failed => "CHECK FAILED",
                chom_recovery::run::ItemVerdict::Waived => "check waived",
                _ => "check ok",
            });
            [Cell::new(verdict), Cell::new(item), Cell::new(format!("{text}: {evidence}"))]
        }
        PlanItem::Wait { name, probe, timeout_ms, .. } => [
            Cell::new("wait"),
            Cell::new(name),
            Cell::new(format!("until {probe} is healthy, at most {}", human::millis(*timeout_ms))),
        ],
    }
}

fn effect(step: &PlannedStep) -> Cell {
    match step.effect {
        Effect::Observe => Cell::new("look"),
        Effect::Idempotent | Effect::Once => Cell::new("act"),
        Effect::Destructive => Cell::new("DESTRUCTIVE").fg(Color::Red),
    }
}

fn undo(step: &PlannedStep) -> Cell {
    Cell::new(match (&step.undo, step.effect) {
        (_, Effect::Observe) => String::new(),
        (UndoPlan::With { text }, _) => text.clone(),
        (UndoPlan::Unnecessary { because }, _) => format!("none needed: {because}"),
        (UndoPlan::Pivot, _) => "POINT OF NO RETURN".into(),
        (UndoPlan::Undeclared, _) => "unknown".into(),
    })
}

/// What fits into a line.
fn brief(text: &str) -> String {
    const LONGEST: usize = 100;
    if text.chars().count() <= LONGEST {
        text.to_owned()
    } else {
        text.chars().take(LONGEST).chain("...".chars()).collect()
    }
}
