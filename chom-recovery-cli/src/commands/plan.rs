//! `plan`: what a procedure would do.

use std::path::PathBuf;

use chom_recovery::{
    Error, Result,
    procedure::database::{Extent, Request},
    run::{Effect, Plan, PlanItem, PlannedStep, UndoPlan},
};
use comfy_table::{Cell, Color};
use serde::Serialize;

use crate::{
    args::{PlanProcedure, PlanRecover},
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
    let PlanProcedure::Recover(PlanRecover::Database { which, since }) = procedure;
    let recovery = session.open().await?;
    let request = Request { backup: which.selector()?, extent: Extent::Recover, incident_began: since };
    session.output.terminal.begin("planning");
    let plan = recovery.plan_database(&request).await;
    session.output.terminal.end();
    let plan = plan?;
    let engine_address = recovery.backend().engine_address();
    let shown = Shown { engine_address, fits_rto: plan.fits_rto(), plan: &plan };
    session.output.show("plan", &shown, |output| print(output, &shown));
    if let Some(file) = file {
        let text = serde_json::to_vec_pretty(&plan).map_err(std::io::Error::from)?;
        std::fs::write(&file, text)
            .map_err(|e| Error::from(e).during(format!("cannot write the plan to `{}`", file.display())))?;
        session.output.say(format!("carry out exactly this: chom-recovery recover database --plan {}", file.display()));
    }
    Ok(if plan.failed_checks().is_empty() { Exit::Ok } else { Exit::Precondition })
}

fn print(output: &Output, shown: &Shown<'_>) {
    let (plan, palette) = (shown.plan, output.palette());
    output.line(format!("{} of system {} on {}\n", palette.bold(&plan.procedure), plan.system, shown.engine_address));
    let mut table = output.table(&["", "STEP", "ESTIMATE", "UNDO, OR WHAT WAS FOUND"]);
    for item in &plan.items {
        table.add_row(row(item));
    }
    output.line(table.trim_fmt());
    if let Some(step) = &plan.boundary {
        output.line(format!("\nplanned up to `{step}`: what follows depends on its result"));
    }
    let estimate = human::millis(plan.estimate_ms);
    let fits = match (plan.objective, plan.fits_rto()) {
        (Some(objective), Some(fits)) => {
            let verdict = if fits { palette.green("fits") } else { palette.red("DOES NOT FIT") };
            format!(", which {verdict} the RTO of {}", human::duration(objective.rto))
        }
        _ => String::new(),
    };
    output.line(format!("\nestimated {estimate}{fits}"));
    for item in plan.failed_checks() {
        output.line(format!("{} {item}", palette.red("NOT IN ORDER")));
    }
}

fn row(item: &PlanItem) -> [Cell; 4] {
    match item {
        PlanItem::Step(step) => [
            effect(step),
            Cell::new(&step.step),
            Cell::new(step.estimate_ms.map_or_else(String::new, human::millis)),
            undo(step),
        ],
        PlanItem::Decision { name, value } => {
            [Cell::new("found"), Cell::new(name), Cell::new(""), Cell::new(brief(&value.to_string()))]
        }
        PlanItem::Approval { name, ask } => {
            [Cell::new("ASKS").fg(Color::Yellow), Cell::new(name), Cell::new(""), Cell::new(ask)]
        }
        PlanItem::Check { item, text, verdict, evidence } => {
            let verdict = verdict.map_or("check", |v| match v {
                chom_recovery::run::ItemVerdict::Failed => "CHECK FAILED",
                chom_recovery::run::ItemVerdict::Waived => "check waived",
                _ => "check ok",
            });
            [Cell::new(verdict), Cell::new(item), Cell::new(""), Cell::new(format!("{text}: {evidence}"))]
        }
        PlanItem::Wait { name, probe, timeout_ms } => [
            Cell::new("wait"),
            Cell::new(name),
            Cell::new(""),
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
