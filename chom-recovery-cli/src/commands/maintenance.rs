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
        output.line(format!("maintenance mode is {}", switched.state));
        let Some(record) = &switched.record else { return };
        match record.seen_by.as_slice() {
            [] => output.say("no HTTP check saw it: nothing is proven from outside"),
            seen => output.line(format!("seen from outside by {}", seen.join(", "))),
        }
        for check in &record.still_served {
            output.say(format!("{} {check} still answers with success", output.talk_palette().yellow("warning:")));
        }
    });
    Ok(Exit::Ok)
}
