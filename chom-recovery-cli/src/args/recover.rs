//! Recoveries and their plans: of what, from which backup, and who says yes.

use std::path::PathBuf;

use chom_recovery::procedure::database::WantedKind;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand, ValueEnum};

use super::pair;

/// Where files are restored to, and how.
#[derive(Debug, Args)]
pub(crate) struct IntoFolder {
    /// Restore files into this new folder, and leave production alone; there must be nothing yet
    #[arg(long, value_name = "FOLDER")]
    pub(crate) target: Option<PathBuf>,
    /// Let everything belong to me instead of the recorded owners
    #[arg(long, requires = "target")]
    pub(crate) own: bool,
    /// Set setuid and setgid of files again
    #[arg(long)]
    pub(crate) keep_setid: bool,
}

/// Which tables of the database, where it is not all of it.
#[derive(Debug, Args)]
pub(crate) struct OnlyTables {
    /// Restore this table alone, on the running server; may be given more than once
    #[arg(long = "table", value_name = "SCHEMA.TABLE")]
    pub(crate) tables: Vec<String>,
    /// Restore all tables of this schema, and nothing else of it; may be given more than once
    #[arg(long = "schema", value_name = "SCHEMA")]
    pub(crate) schemas: Vec<String>,
    /// Give the one table another name: then nothing is replaced
    #[arg(long = "as", value_name = "SCHEMA.TABLE", requires = "tables")]
    pub(crate) rename: Option<String>,
    /// Where the server takes no rows from clients (local_infile = OFF), switch that on while they are loaded; a backup of
    /// the repository needs it, the rows of an old dump (`--backup legacy:...`) are only loaded faster
    #[arg(long)]
    pub(crate) allow_local_infile: bool,
}

/// Which backup.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct Which {
    /// The newest (default)
    #[arg(long)]
    pub(crate) latest: bool,
    /// The one before the newest
    #[arg(long)]
    pub(crate) previous: bool,
    /// The newest taken at or before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub(crate) timestamp: Option<DateTime<Utc>>,
    /// By id, or its unique beginning; `legacy:PATH` or `legacy:latest` for a backup of another program
    #[arg(long, value_name = "ID")]
    pub(crate) backup: Option<String>,
    /// The newest with this tag
    #[arg(long = "with-tag", value_name = "TAG")]
    pub(crate) with_tag: Option<String>,
}

/// Which kind of backup of the database, where no single one is named.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OfKind {
    /// auto: the newest of either kind, unless it does not go here or may carry what failed, and says why; logical or
    /// physical: the newest of that kind
    #[arg(long, value_enum, default_value_t = WantedKindChoice::Auto)]
    pub(crate) kind: WantedKindChoice,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WantedKindChoice {
    Auto,
    Logical,
    Physical,
}

impl From<OfKind> for WantedKind {
    fn from(wanted: OfKind) -> Self {
        match wanted.kind {
            WantedKindChoice::Auto => Self::Auto,
            WantedKindChoice::Logical => Self::Logical,
            WantedKindChoice::Physical => Self::Physical,
        }
    }
}

/// Who says yes, and to what.
#[derive(Debug, Args)]
pub(crate) struct Consent {
    /// Say yes to every approval and vouch for every item of checklists, in the operator's name
    #[arg(long)]
    pub(crate) yes: bool,
    /// The same, if this is the name of the Compose project
    #[arg(long, value_name = "PROJECT")]
    pub(crate) confirm: Option<String>,
    /// Name of the person, for the record [default: $SUDO_USER or $USER]
    #[arg(long, value_name = "NAME")]
    pub(crate) operator: Option<String>,
}

/// How a recovery is run.
#[derive(Debug, Args)]
pub(crate) struct How {
    /// Do exactly what this plan says; refused when the plan would be another now
    #[arg(long, value_name = "FILE")]
    pub(crate) plan: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) waivers: Waivers,
    #[command(flatten)]
    pub(crate) consent: Consent,
}

/// What a recovery of the application replaces.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Method {
    /// The code
    Code,
    /// The whole environment file; changes are shown by key
    Config,
    /// Both
    Both,
    /// The images of its services: back to those that the backup recorded, by id
    Image,
}

impl From<Method> for chom_recovery::procedure::application::Method {
    fn from(method: Method) -> Self {
        match method {
            Method::Code => Self::Code,
            Method::Config => Self::Config,
            Method::Both => Self::Both,
            Method::Image => Self::Image,
        }
    }
}

/// Who takes responsibility for what is not in order.
#[derive(Debug, Args)]
pub(crate) struct Waivers {
    /// Waive a checklist item: ITEM=REASON; recorded and shown in the report
    #[arg(long = "waive", value_name = "ITEM=REASON", value_parser = pair)]
    pub(crate) waivers: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PlanProcedure {
    /// Plan a recovery
    #[command(subcommand)]
    Recover(PlanRecover),
    /// Plan a restore of single tables
    Restore {
        #[command(flatten)]
        tables: OnlyTables,
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum PlanRecover {
    /// Database recovery (runbook 3.1)
    Database {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        kind: OfKind,
        /// When the incident began (RFC 3339) [default: now]
        #[arg(long, value_name = "TIME")]
        since: Option<DateTime<Utc>>,
    },
    /// Application recovery (runbook 3.2)
    Application {
        #[command(flatten)]
        which: Which,
        /// Replace this, broken or not; without it, what is broken
        #[arg(long, value_name = "WHAT")]
        method: Option<Method>,
    },
    /// Web server recovery (runbook 3.3)
    Nginx {
        #[command(flatten)]
        which: Which,
    },
    /// Recovery from bad performance (runbook 3.5)
    Performance,
    /// Recovery of the queue alone (runbook 3.6)
    Queue,
    /// Recovery of the scheduler alone (runbook 3.6)
    Scheduler,
    /// Recovery of redis alone (runbook 3.6)
    Redis {
        /// Restart it although it works, after a snapshot
        #[arg(long)]
        restart: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Recover {
    /// Database recovery (runbook 3.1)
    #[command(mut_arg("plan", |plan| plan.conflicts_with_all(["latest", "previous", "timestamp", "backup", "with_tag", "kind"])))]
    Database {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        kind: OfKind,
        /// When the incident began (RFC 3339) [default: now]
        #[arg(long, value_name = "TIME", conflicts_with = "plan")]
        since: Option<DateTime<Utc>>,
        #[command(flatten)]
        how: How,
    },
    /// Application recovery (runbook 3.2): what is stopped is started, code and settings that cannot work are replaced;
    /// images with `--method image` alone
    #[command(mut_arg("plan", |plan| plan.conflicts_with_all(["latest", "previous", "timestamp", "backup", "with_tag", "method"])))]
    Application {
        #[command(flatten)]
        which: Which,
        /// Replace this, broken or not; without it, what is broken
        #[arg(long, value_name = "WHAT")]
        method: Option<Method>,
        #[command(flatten)]
        how: How,
    },
    /// Web server recovery (runbook 3.3): configuration and certificates are tested before anything is replaced
    #[command(mut_arg("plan", |plan| plan.conflicts_with_all(["latest", "previous", "timestamp", "backup", "with_tag"])))]
    Nginx {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        how: How,
    },
    /// Recovery from bad performance: measures, ends what blocks, adds workers within limits (runbook 3.5)
    Performance {
        #[command(flatten)]
        how: How,
    },
    /// Recovery of the queue alone: starts workers, drains those that do not work (runbook 3.6)
    Queue {
        #[command(flatten)]
        how: How,
    },
    /// Recovery of the scheduler alone: starts it, and lists what it missed (runbook 3.6)
    Scheduler {
        #[command(flatten)]
        how: How,
    },
    /// Recovery of redis alone: mends the cause; a restart comes last (runbook 3.6)
    Redis {
        /// Restart it although it works, after a snapshot
        #[arg(long, conflicts_with = "plan")]
        restart: bool,
        #[command(flatten)]
        how: How,
    },
}
