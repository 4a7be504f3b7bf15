//! Watches a run to its end: shows what happens, stops it when asked to, prints its report.

use std::{process, time::Duration};

use chom_recovery::{
    Error, Recovery, Result,
    recovery::{Going, Report},
    run::EventStream,
};
use futures::{FutureExt, StreamExt, stream};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    commands::runs,
    exit::Exit,
    output::{Output, document, exit_error, write_out},
    progress::{Progress, Style},
    session::Session,
};

/// Between two signs of life where nothing can be redrawn.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// Watches a run until it ends, fails or pauses.
pub(crate) async fn watch(session: &Session, recovery: &Recovery, mut going: Going) -> Result<Exit> {
    let output = &session.output;
    let id = going.id();
    let style = match (output.json, output.terminal.is_live()) {
        (true, _) => Style::Json,
        (false, true) => Style::Live,
        (false, false) => Style::Lines,
    };
    let mut progress = Progress::new(style, output.clone());
    if output.json {
        write_out(&format!("{}\n", document("run_started", &json!({ "run": id }))));
    } else {
        output.say(format!("run {id} on {}", recovery.backend().engine_address()));
    }
    let stopper = Stopper::start(output, &going.cancellation(), id.to_string())?;
    let mut events: EventStream = going.events().unwrap_or_else(|| Box::pin(stream::empty()));
    let mut ended = Box::pin(going.finish());
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    heartbeat.reset();
    let mut is_open = true;
    let result = loop {
        tokio::select! {
            biased;
            event = events.next(), if is_open => match event {
                Some(event) => progress.show(&event),
                None => is_open = false,
            },
            result = &mut ended => break result,
            _ = heartbeat.tick() => progress.beat(),
        }
    };
    while let Some(Some(event)) = events.next().now_or_never() {
        progress.show(&event);
    }
    progress.end();
    drop(stopper);
    // What could not be read is missing from the backup: that is no success.
    let is_incomplete = match &result {
        Ok(Report::BackUp(info)) => !info.incomplete.is_empty(),
        Ok(Report::SalvageDatabase(done)) => !done.is_whole(),
        _ => false,
    };
    let exit = finish(output, recovery, id, result.err())?;
    Ok(if is_incomplete { Exit::Incomplete } else { exit })
}

/// Prints the report of a run that has ended, from its journal.
fn finish(output: &Output, recovery: &Recovery, id: chom_recovery::run::RunId, error: Option<Error>) -> Result<Exit> {
    let report = recovery.run_report(id)?;
    let exit = error.as_ref().map_or(Exit::Ok, |e| e.kind().into());
    if output.json {
        if let Some(error) = &error {
            write_out(&format!("{}\n", exit_error(&error.to_record(), exit)));
        }
        write_out(&format!("{}\n", document("summary", &report)));
        return Ok(exit);
    }
    runs::print_report(output, &report);
    match error {
        Some(error) => Err(error),
        None => Ok(Exit::Ok),
    }
}

/// Turns signals into a cancel. It ends when dropped.
struct Stopper(tokio::task::JoinHandle<()>);

impl Stopper {
    fn start(output: &Output, cancellation: &CancellationToken, run: String) -> Result<Self> {
        let (interrupts, terminates) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let (output, cancellation) = (output.clone(), cancellation.clone());
        Ok(Self(tokio::spawn(stop_on(interrupts, terminates, output, cancellation, run))))
    }
}

impl Drop for Stopper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn stop_on(
    mut interrupts: Signal,
    mut terminates: Signal,
    output: Output,
    cancellation: CancellationToken,
    run: String,
) {
    let mut asked = false;
    loop {
        let is_interrupt = tokio::select! {
            _ = interrupts.recv() => true,
            _ = terminates.recv() => false,
        };
        if asked && is_interrupt {
            output.say(format!("stopped at once; the journal knows how far it was: chom-recovery resume {run}"));
            process::exit(i32::from(Exit::Interrupted as u8));
        }
        if !asked {
            output.say(format!(
                "stopping at the next step boundary (Ctrl-C again: at once); then: chom-recovery resume {run}"
            ));
            cancellation.cancel();
        }
        asked = true;
    }
}
