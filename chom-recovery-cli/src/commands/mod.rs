//! One file per group of commands: arguments, one call of the library, print.

use std::time::Duration;

use chom_recovery::Result;

use crate::{args::Command, exit::Exit, session::Session};

mod approve;
mod backup;
mod card;
mod check;
mod choose;
mod close;
mod config;
mod diagnose;
mod drill;
mod evidence;
mod export;
mod health;
mod legacy;
mod maintenance;
mod metrics;
mod plan;
mod prune;
mod recover;
mod repo;
mod resolve;
pub(crate) mod runs;
mod salvage;
mod schedule;
mod status;
mod troubleshoot;
mod which;

/// Does what was asked for.
pub(crate) async fn run(session: &Session, command: Option<Command>) -> Result<Exit> {
    match command {
        None => status::status(session).await,
        Some(Command::Diagnose) => diagnose::diagnose(session).await,
        Some(Command::Evidence(command)) => evidence::run(session, command).await,
        Some(Command::Health { mode }) => health::health(session, mode).await,
        Some(Command::Check { within }) => check::check(session, within.map(Duration::from_secs)).await,
        Some(Command::Backup(command)) => backup::run(session, command).await,
        Some(Command::Prune { plan, consent }) => prune::prune(session, plan, &consent).await,
        Some(Command::Drill { which, kind, operator }) => drill::drill(session, &which, kind.into(), operator).await,
        Some(Command::Salvage(command)) => salvage::run(session, command).await,
        Some(Command::Plan { procedure, output }) => plan::plan(session, procedure, output).await,
        Some(Command::Recover { procedure: Some(procedure), .. }) => recover::recover(session, procedure).await,
        Some(Command::Recover { procedure: None, choose, waivers, consent }) => {
            choose::recover(session, choose, &waivers, &consent).await
        }
        Some(Command::Restore { component, tables, files, which, kind, since, consent }) => {
            if tables.are_named() {
                return recover::restore_tables(session, &component, &tables, &files, &which, &consent).await;
            }
            recover::restore(session, &component, files, &which, kind, since, &consent).await
        }
        Some(Command::Resume { run, waivers, consent }) => {
            recover::resume(session, run.as_deref(), &waivers, &consent).await
        }
        Some(Command::Rollback { run, because, consent }) => {
            recover::rollback(session, run.as_deref(), &because, &consent).await
        }
        Some(Command::Close { run, plan, attestations, waivers, operator }) => {
            close::close(session, run.as_deref(), plan, attestations, &waivers, operator).await
        }
        Some(Command::Troubleshoot { issue, fix, consent }) => {
            troubleshoot::troubleshoot(session, issue, fix, &consent).await
        }
        Some(Command::Runs(command)) => runs::run(session, command).await,
        Some(Command::Repo(command)) => repo::run(session, command).await,
        Some(Command::Approve { run, name, consent }) => {
            approve::approve(session, run.as_deref(), name.as_deref(), &consent)
        }
        Some(Command::Resolve { run, step, verdict, output, because, operator }) => {
            let said = resolve::Said { verdict, output, because, operator };
            resolve::resolve(session, run.as_deref(), step.as_deref(), said).await
        }
        Some(Command::Maintenance(command)) => maintenance::run(session, command).await,
        Some(Command::Config(command)) => config::run(session, command).await,
        Some(Command::Metrics { output, rules }) => metrics::metrics(session, output.as_deref(), rules).await,
        Some(Command::Schedule(command)) => schedule::run(session, command),
        Some(Command::Card) => card::card(session),
    }
}
