//! `close`: the post-recovery checklist.

use chom_recovery::{
    Result,
    procedure::close::Attestation,
    recovery::RunOptions,
    run::{PlanItem, Waiver, summary::CheckSummary},
};

use super::runs::print_checklist;
use crate::{args::Waivers, consent::login_name, exit::Exit, session::Session, watch::watch};

pub(crate) async fn close(
    session: &Session,
    run: Option<&str>,
    plan: bool,
    attestations: Vec<(String, String)>,
    waivers: &Waivers,
    operator: Option<String>,
) -> Result<Exit> {
    let recovery = session.open().await?;
    let by = operator.unwrap_or_else(login_name);
    let said = |(item, because): (String, String)| Attestation { item, because, by: by.clone() };
    let attestations = attestations.into_iter().map(said).collect();
    let waived =
        |(item, because): &(String, String)| Waiver { item: item.clone(), because: because.clone(), by: by.clone() };
    let options = RunOptions {
        operator: Some(by.clone()),
        waivers: waivers.waivers.iter().map(waived).collect(),
        ..RunOptions::default()
    };
    if !plan {
        let going = recovery.close(run, attestations, &by, options).await?;
        return watch(session, &recovery, going).await;
    }
    session.output.terminal.begin("asking");
    let planned = recovery.plan_close(run, attestations, &by, &options).await;
    session.output.terminal.end();
    let planned = planned?;
    session.output.show("plan", &planned, |output| {
        let checks = planned.items.iter().filter_map(|item| match item {
            PlanItem::Check { item, text, verdict: Some(verdict), evidence } => Some(CheckSummary {
                item: item.clone(),
                text: text.clone(),
                verdict: *verdict,
                evidence: evidence.clone(),
            }),
            _ => None,
        });
        print_checklist(output, &checks.collect::<Vec<_>>());
    });
    Ok(if planned.failed_checks().is_empty() { Exit::Ok } else { Exit::Precondition })
}
