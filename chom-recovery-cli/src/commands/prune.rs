//! `prune`: lets backups expire, and deletes them a grace period later.

use chom_recovery::{
    Result,
    catalog::{Place, PrunePlan, PruneReport, Reason},
};
use comfy_table::{Cell, Color};

use crate::{args, exit::Exit, human, output::Output, session::Session};

pub(crate) async fn prune(session: &Session, only_plan: bool, consent: &args::Consent) -> Result<Exit> {
    let output = &session.output;
    let recovery = session.open_without_engine()?;
    let plan = recovery.plan_prune().await?;
    if only_plan {
        output.show("prune_plan", &plan, |output| print_plan(output, &plan));
        return Ok(Exit::Ok);
    }
    if !output.json {
        print_plan(output, &plan);
    }
    let consent = session.consent(consent, &recovery)?;
    if !plan.is_empty() {
        consent.get(&format!(
            "mark {} backups as expired, which can be taken back, and delete {} for ever",
            plan.expiry.expire.len(),
            plan.delete.len()
        ))?;
    }
    let report = recovery.prune_backups(&plan, &consent.operator).await?;
    output.show("prune", &report, |output| print_report(output, &report));
    Ok(if report.locked.is_empty() { Exit::Ok } else { Exit::Incomplete })
}

fn print_plan(output: &Output, plan: &PrunePlan) {
    let mut table = output.table(&["BACKUP", "DATA OF", "SIZE", "WHAT", "WHY"]);
    let mut row = |place: &Place, point: String, size: String, what: Cell, why: String| {
        table.add_row([Cell::new(place.id), Cell::new(point), Cell::new(size), what, Cell::new(why)]);
    };
    for one in &plan.delete {
        let why = format!("expired {}", human::time(one.dead_since));
        row(&one.place, String::new(), String::new(), Cell::new("DELETE").fg(Color::Red), why);
    }
    for one in &plan.waiting {
        let why = format!("expired {}", human::time(one.dead_since));
        row(&one.place, String::new(), String::new(), Cell::new("waits"), why);
    }
    for one in &plan.expiry.expire {
        let what = Cell::new("expires").fg(Color::Yellow);
        row(&one.place, human::time(one.point), human::bytes(one.stored_len), what, "no rule keeps it".into());
    }
    for one in &plan.expiry.keep {
        let why = one.reasons.iter().map(in_words).collect::<Vec<_>>().join(", ");
        let point = one.point.map(human::time).unwrap_or_default();
        row(&one.place, point, String::new(), Cell::new("kept").fg(Color::Green), why);
    }
    output.line(table.trim_fmt());
}

fn in_words(reason: &Reason) -> String {
    match reason {
        Reason::Last => "among the newest".into(),
        Reason::Hourly => "hourly".into(),
        Reason::Daily => "daily".into(),
        Reason::Weekly => "weekly".into(),
        Reason::Monthly => "monthly".into(),
        Reason::Yearly => "yearly".into(),
        Reason::Minimum => "minimum".into(),
        Reason::NewestProven => "newest proven".into(),
        Reason::Held => "HELD".into(),
        Reason::Referred { by } => format!("{} backups refer to its parts", by.len()),
        Reason::Unproven => "never verified".into(),
        Reason::Shrank { plain_len, median } => {
            format!("SHRANK to {} from {}", human::bytes(*plain_len), human::bytes(*median))
        }
        Reason::FutureDated => "dated in the future".into(),
        Reason::Damaged => "DAMAGED: look at it".into(),
    }
}

fn print_report(output: &Output, report: &PruneReport) {
    output.line(format!(
        "{} backups expired, {} deleted ({} objects, {}), leftovers of {} interrupted ones removed",
        report.marked.len(),
        report.deleted.len(),
        report.objects,
        human::bytes(report.bytes),
        report.swept.backups
    ));
    for key in &report.locked {
        output.say(format!("locked by the store, a later prune tries again: {key}"));
    }
}
