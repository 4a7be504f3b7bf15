//! `maintenance`: keeps users out, and lets them in.

use chom_recovery::Result;

use crate::{args::Maintenance, exit::Exit, session::Session};

pub(crate) async fn run(session: &Session, command: Maintenance) -> Result<Exit> {
    let recovery = session.open().await?;
    session.output.terminal.begin("switching maintenance mode");
    let switched = match command {
        Maintenance::On => recovery.maintenance_on().await,
        Maintenance::Off => recovery.maintenance_off().await,
    };
    session.output.terminal.end();
    let switched = switched?;
    session.output.show("maintenance", &switched, |output| {
        let before = if switched.before == switched.state { ", as before" } else { "" };
        output.line(format!("maintenance mode is {}{before}", switched.state));
        let warn = |text: String| output.say(format!("{} {text}", output.talk_palette().yellow("warning:")));
        let seen_by = switched.record.as_ref().map_or(&switched.served, |record| &record.seen_by);
        match (seen_by.as_slice(), switched.unserved.as_slice()) {
            ([], []) => output.say("no HTTP check saw it: nothing is proven from outside"),
            ([], _) => {}
            (seen, _) if switched.record.is_some() => output.line(format!("seen from outside by {}", seen.join(", "))),
            (seen, _) => output.line(format!("users are served again, seen from outside by {}", seen.join(", "))),
        }
        for check in switched.record.iter().flat_map(|record| &record.still_served) {
            warn(format!("{check} still answers with success"));
        }
        for check in &switched.unserved {
            warn(format!("{check} is not answered with success: `chom-recovery diagnose` looks for the cause"));
        }
    });
    Ok(if switched.unserved.is_empty() { Exit::Ok } else { Exit::Unhealthy })
}
