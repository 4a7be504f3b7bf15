//! The command line: names and options, nothing else.

use std::path::PathBuf;

use chom_recovery::triage::Selected;
use chrono::{DateTime, Utc};
use clap::{Args, Parser, Subcommand, ValueEnum};

mod backup;
mod recover;
mod setup;

pub(crate) use backup::{Backup, CompressionChoice, Depth, KindChoice};
pub(crate) use recover::{
    Consent, How, IntoFolder, OfKind, OnlyTables, PlanProcedure, PlanRecover, Recover, Waivers, WantedKindChoice, Which,
};
pub(crate) use setup::{Config, ConfigInit, ConfigRecover, EncryptionChoice, Maintenance, ReaderKeys, Repo, Schedule};

/// Recovers a Docker Compose web application: every step is journalled, resumable, verified and can be undone.
#[derive(Debug, Parser)]
#[command(
    name = "chom-recovery",
    version,
    after_help = "Examples:\n  \
        chom-recovery                              what is wrong, and what to do next\n  \
        chom-recovery backup create --tag nightly  take a backup\n  \
        chom-recovery plan recover database        what a recovery would do, step by step\n  \
        chom-recovery recover database --latest    do it\n  \
        chom-recovery resume                       go on after a crash\n  \
        chom-recovery rollback                     put back what was there before\n\n\
        Exit codes: 0 ok, 1 failed, 2 usage, 3 incomplete, 4 unhealthy, 5 needs confirmation, 6 precondition,\n\
        7 corrupt backup, 10 not found, 11 locked, 12 authentication, 13 unreachable, 14 timeout,\n\
        15 outcome unknown, 130 interrupted."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Configuration file [default: ./chom-recovery.toml upwards, then the user's, then /etc/chom-recovery]
    #[arg(long, global = true, env = "CHOM_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Engine to speak to, as in DOCKER_HOST
    #[arg(long, global = true, value_name = "ADDRESS", conflicts_with = "context")]
    pub(crate) host: Option<String>,
    /// Docker context
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// Identity file that encrypted backups are read with, instead of the configuration's; may be given more than once
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) identity: Vec<PathBuf>,
    /// Use the copy of the repository in place of the repository, as `repository.copy` of the configuration names it
    #[arg(long = "copy", id = "use-copy", global = true)]
    pub(crate) use_copy: bool,
    /// Print JSON: one document for a query, one line an event for a run
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// When to use colour
    #[arg(long, global = true, value_enum, default_value_t = ColorChoice::Auto, value_name = "WHEN")]
    pub(crate) color: ColorChoice,
    /// More of the log on standard error (-v, -vv)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ColorChoice {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say what is wrong and which procedure mends it
    Diagnose,
    /// Keep what was seen before anything is changed
    #[command(subcommand)]
    Evidence(Evidence),
    /// Ask every probe of a mode
    Health {
        /// full, pre-recovery, post-recovery or monitoring
        #[arg(long, default_value = "full")]
        mode: chom_recovery::probe::HealthMode,
    },
    /// Check every table of the running database (CHECK TABLE), several at once, for a limited time
    ///
    /// Changes nothing. Tables that were not reached in time are named, and are not healthy for that: exit code 3.
    Check {
        /// Longest time [default: `limits.check_table_cap` of the configuration]
        #[arg(long, value_name = "SECONDS")]
        within: Option<u64>,
    },
    /// Take, find and verify backups
    #[command(subcommand)]
    Backup(Backup),
    /// Restore without triage and maintenance mode: same candidate, verification, approval and swap
    ///
    /// Files take production's place by a rename, when everything was compared with the backup beside it; what was there
    /// is kept. With `--target` they go into a new folder instead. With `--table` or `--schema` only these tables are restored,
    /// on the running server; what production had of them is kept beside.
    #[command(mut_arg("kind", |kind| kind.conflicts_with_all(["tables", "schemas"])))]
    Restore {
        /// Component: the database, or one of files by its name
        #[arg(long, value_name = "NAME", default_value = chom_recovery::system::DATABASE)]
        component: String,
        #[command(flatten)]
        tables: OnlyTables,
        #[command(flatten)]
        files: IntoFolder,
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        kind: OfKind,
        /// When the incident began (RFC 3339) [default: now]
        #[arg(long, value_name = "TIME", conflicts_with_all = ["tables", "schemas"])]
        since: Option<DateTime<Utc>>,
        #[command(flatten)]
        consent: Consent,
    },
    /// Let backups expire by the policy, and delete those that did a day ago or earlier
    Prune {
        /// Only show what would expire and be deleted, and why the others stay
        #[arg(long)]
        plan: bool,
        #[command(flatten)]
        consent: Consent,
    },
    /// Rehearse a recovery beside production, against the clock; the result is kept with the backup
    Drill {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        kind: OfKind,
        /// Name of the person, for the record [default: $SUDO_USER or $USER]
        #[arg(long, value_name = "NAME")]
        operator: Option<String>,
    },
    /// Read what can be read of a server that does not start any more
    #[command(subcommand)]
    Salvage(Salvage),
    /// Show what a procedure would do, without doing it
    Plan {
        #[command(subcommand)]
        procedure: PlanProcedure,
        /// Write the plan here; `recover --plan FILE` then does exactly that
        #[arg(short, long, value_name = "FILE", global = true)]
        output: Option<PathBuf>,
    },
    /// Run a procedure of the runbook; without its name, the one that a diagnosis selects
    ///
    /// Without a name it diagnoses first. Where causes that are about as likely select different procedures, you are asked, or
    /// choose with `--choose`. The choice, whose it was, and the ranked causes are kept with the run.
    #[command(args_conflicts_with_subcommands = true)]
    Recover {
        #[command(subcommand)]
        procedure: Option<Recover>,
        /// Choose among the procedures that the diagnosis selects
        #[arg(long, value_name = "PROCEDURE")]
        choose: Option<Selected>,
        #[command(flatten)]
        waivers: Waivers,
        #[command(flatten)]
        consent: Consent,
    },
    /// Go on with a run that was killed, failed or waits
    Resume {
        /// Run; the newest open one by default
        run: Option<String>,
        #[command(flatten)]
        waivers: Waivers,
        #[command(flatten)]
        consent: Consent,
    },
    /// Undo a run, in reverse order
    Rollback {
        /// Run; the newest recovery by default
        run: Option<String>,
        /// Why, for the record
        #[arg(long, value_name = "TEXT", default_value = "asked for on the command line")]
        because: String,
        #[command(flatten)]
        consent: Consent,
    },
    /// Go through the post-recovery checklist of a recovery, and close it when every item is in order
    Close {
        /// Recovery; the newest that is not closed by default
        run: Option<String>,
        /// Only show how the items stand
        #[arg(long)]
        plan: bool,
        /// Vouch for an item that nothing can be asked about: ITEM=REASON; recorded and shown in the report
        #[arg(long = "attest", value_name = "ITEM=REASON", value_parser = pair)]
        attestations: Vec<(String, String)>,
        #[command(flatten)]
        waivers: Waivers,
        /// Name of the person, for the record [default: $SUDO_USER or $USER]
        #[arg(long, value_name = "NAME")]
        operator: Option<String>,
    },
    /// Find out why a restore fails or hangs, containers do not start, files or the application give errors
    ///
    /// Looking changes nothing. `--fix` mends one cause that is marked so, and can be undone by `rollback`.
    Troubleshoot {
        /// restore, hang, start, permissions or application
        issue: chom_recovery::troubleshoot::Issue,
        /// Mend this cause
        #[arg(long, value_name = "CAUSE")]
        fix: Option<String>,
        #[command(flatten)]
        consent: Consent,
    },
    /// Look at past runs and tidy up after them
    #[command(subcommand)]
    Runs(Runs),
    /// Make a backup repository, or change who can read it
    #[command(subcommand)]
    Repo(Repo),
    /// Approve what a waiting run asks for, then `resume` it
    Approve {
        /// Run; the newest that waits by default
        run: Option<String>,
        /// What to approve; needed when the run waits for several things
        name: Option<String>,
        #[command(flatten)]
        consent: Consent,
    },
    /// Say whether a step whose outcome is unknown took effect; without arguments, show what is unknown
    Resolve {
        /// Run; needed when several runs wait
        run: Option<String>,
        /// Step, as the list names it; needed when several steps of the run are unknown
        step: Option<String>,
        #[command(flatten)]
        verdict: VerdictChoice,
        /// What the step would have returned, as JSON; only where it cannot find that out itself
        #[arg(long, value_name = "JSON", requires = "applied", value_parser = json)]
        output: Option<serde_json::Value>,
        /// How you know, for the record
        #[arg(long, value_name = "TEXT", requires = "verdict")]
        because: Option<String>,
        /// Name of the person, for the record [default: $SUDO_USER or $USER]
        #[arg(long, value_name = "NAME")]
        operator: Option<String>,
    },
    /// Switch maintenance mode
    #[command(subcommand)]
    Maintenance(Maintenance),
    /// Write, check and show the configuration
    #[command(subcommand)]
    Config(Config),
    /// Print the quick-reference card of this system
    Card,
    /// Measure backups and drills for Prometheus
    Metrics {
        /// Write them to this file at once, for the textfile collector; its name ends in .prom
        #[arg(short, long, value_name = "FILE", conflicts_with = "rules")]
        output: Option<PathBuf>,
        /// Print alerting rules for the objectives of this system instead
        #[arg(long)]
        rules: bool,
    },
    /// Run backups, verification, drills and metrics on time
    #[command(subcommand)]
    Schedule(Schedule),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Evidence {
    /// Gather health, logs, errors, backups, use of resources, disks and memory, without secrets, within a minute
    Collect {
        /// New or empty folder [default: below the state directory, or on another disk where that has no room]
        #[arg(long, value_name = "DIR")]
        output: Option<PathBuf>,
        /// When the incident began (RFC 3339); logs are read from half an hour before [default: now]
        #[arg(long, value_name = "TIME")]
        since: Option<DateTime<Utc>>,
        /// Name of the person, for the record [default: $SUDO_USER or $USER]
        #[arg(long, value_name = "NAME")]
        operator: Option<String>,
    },
    /// Prove that a bundle is as it was gathered
    Verify {
        /// Folder of the bundle
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// SHA-256 of the manifest, as `evidence collect` printed it
        #[arg(long, value_name = "HASH")]
        sha256: Option<String>,
    },
}

/// What became of a step.
#[derive(Debug, Clone, Copy, Args)]
#[group(id = "verdict", multiple = false)]
pub(crate) struct VerdictChoice {
    /// It took effect, wholly
    #[arg(long)]
    pub(crate) applied: bool,
    /// Nothing of it took effect
    #[arg(long)]
    pub(crate) not_applied: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Salvage {
    /// Read the database on a copy of its files, and keep what can be read as a backup that is chosen by its id alone
    ///
    /// The server has to be stopped; production is not touched. The copy is started at the lowest level of InnoDB's forced
    /// recovery at which it comes up, 3 at most. Tables of which something is missing are named, with the keys around it: exit
    /// code 3.
    Database {
        /// Highest level that may be tried, 0 to 6; from 4 on rows may be wrong
        #[arg(long, value_name = "LEVEL", default_value_t = chom_recovery::procedure::salvage::SAFE_LEVEL,
            value_parser = clap::value_parser!(u8).range(0..=6))]
        up_to_level: u8,
        /// Tag to find the backup by; may be given more than once
        #[arg(long = "tag", value_name = "TAG")]
        tags: Vec<String>,
        /// Name of the person, for the record [default: $SUDO_USER or $USER]
        #[arg(long, value_name = "NAME")]
        operator: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Runs {
    /// List runs, newest last
    List,
    /// Show one run: steps against their budgets, RTO and RPO
    Show {
        /// Run; the newest by default
        run: Option<String>,
    },
    /// Remove what finished runs left: old volumes, candidates, folders, schemas with replaced tables, journals
    Prune {
        /// Only what is older than so many days
        #[arg(long, default_value_t = 7, value_name = "DAYS")]
        older_than: u32,
        /// Only list it
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        consent: Consent,
    },
}

/// Left to itself, the parser takes any text for a JSON string.
fn json(text: &str) -> Result<serde_json::Value, String> {
    serde_json::from_str(text).map_err(|e| format!("it is not JSON: {e}"))
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((item, rest)) if !item.trim().is_empty() && !rest.trim().is_empty() => {
            Ok((item.trim().to_owned(), rest.trim().to_owned()))
        }
        _ => Err(format!("`{text}` is not ITEM=TEXT")),
    }
}
