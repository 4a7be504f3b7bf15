//! `diagnose`: what is wrong, and which procedure mends it.

use chom_recovery::{
    Result,
    probe::{HealthReport, Status},
    triage::Diagnosis,
};
use serde::Serialize;

use super::health;
use crate::{exit::Exit, output::Output, session::Session};

/// A diagnosis as a document.
#[derive(Debug, Serialize)]
pub(super) struct Found<'a> {
    pub(super) diagnoses: &'a [Diagnosis],
    pub(super) health: &'a HealthReport,
}

pub(crate) async fn diagnose(session: &Session) -> Result<Exit> {
    let recovery = session.open_what_answers().await?;
    session.output.terminal.begin("asking every probe");
    let (report, diagnoses) = recovery.diagnose().await;
    session.output.terminal.end();
    session.output.show("diagnosis", &Found { diagnoses: &diagnoses, health: &report }, |output| {
        output.line(format!("engine {}\n", recovery.backend().engine_address()));
        health::table(output, &report, |status| status != Status::Healthy);
        print(output, &diagnoses);
    });
    Ok(health::exit(report.overall))
}

fn print(output: &Output, diagnoses: &[Diagnosis]) {
    let palette = output.palette();
    for (index, found) in diagnoses.iter().enumerate() {
        output.line(format!("{}. {} ({} %)", index + 1, palette.bold(&found.hypothesis), found.confidence));
        output.line(format!("   cause         {}", found.cause));
        output.line(format!("   procedure     {}", found.procedure));
        for evidence in &found.evidence {
            output.line(format!("   evidence      {evidence}"));
        }
        output.line(format!("   disproved by  {}", found.disproved_by));
        output.line(format!("   do            {}", found.advice));
        if let Some(command) = &found.command {
            output.line(format!("   type          {}", palette.bold(command)));
        }
        output.line("");
    }
}
