//! The command line of chom-recovery: arguments, progress and tables. No decision is taken here.

use std::io::Write;

use chom_recovery::{Error, ErrorKind};
use clap::Parser;

mod args;
mod commands;
mod consent;
mod exit;
mod human;
mod logging;
mod output;
mod progress;
mod session;
mod terminal;
mod watch;

use crate::{
    args::Cli,
    exit::Exit,
    output::{exit_error, write_out},
    session::Session,
};

fn main() {
    let exit = match Cli::try_parse() {
        Ok(cli) => start(cli),
        Err(error) => refuse(&error),
    };
    // A question that is still open would keep its thread, and with it the process, for ever.
    let _ = std::io::stdout().flush();
    std::process::exit(i32::from(exit as u8));
}

fn start(cli: Cli) -> Exit {
    let session = Session::new(cli.global.clone());
    logging::start(cli.global.verbose, session.output.terminal.clone());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            session.output.error(&Error::from(error).during("cannot start"), Exit::Failed);
            return Exit::Failed;
        }
    };
    let result = runtime.block_on(commands::run(&session, cli.command));
    runtime.shutdown_background();
    result.unwrap_or_else(|error| {
        session.output.terminal.end();
        let exit = error.kind().into();
        session.output.error(&error, exit);
        exit
    })
}

/// Ends with what the parser says: help, version, or what is wrong with the arguments.
fn refuse(error: &clap::Error) -> Exit {
    let _ = error.print();
    if !error.use_stderr() {
        return Exit::Ok;
    }
    if std::env::args_os().any(|argument| argument == "--json") {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let error = Error::new(ErrorKind::InvalidInput, first).hint("chom-recovery --help");
        write_out(&format!("{}\n", exit_error(&error.to_record(), Exit::Usage)));
    }
    Exit::Usage
}
