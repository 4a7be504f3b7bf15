//! MySQL and MariaDB: connect, dump, load, compare, check.
//!
//! A [`Server`] is reached over TCP with a [`Login`]. [`dump`] reads a consistent snapshot of every schema that is
//! not the server's own into [`dump::Chunk`]s of encoded rows and one [`Objects`] record; [`load`] puts both into an
//! empty candidate server; [`compare`] proves from the rows themselves that the candidate holds what was dumped.
//!
//! No type of the driver is public, and a session never runs before its settings were pinned and read back.
//!
//! [`preserved`] lists what comes back, what is refused and what is left out.

mod activity;
mod baseline;
mod check;
mod compare;
mod counters;
pub mod dump;
mod info;
mod json;
pub mod load;
mod login;
mod objects;
pub mod physical;
mod quote;
pub mod salvage;
mod scratch;
mod server;
mod session;
pub mod sqlfile;
pub mod tables;
mod wire;

#[doc = include_str!("../docs/database.md")]
pub mod preserved {}

pub use activity::{
    Activity, AuditedRemoval, Busy, DeletingAccount, Deletion, Deletions, Digest, Ended, Fragmented, Lock, LockWait,
    Transaction,
};
pub use baseline::{Baseline, Census, RowHash, TableBaseline};
pub use check::{CheckReport, TableProblem};
pub use compare::{Comparison, Difference, Scope, compare};
pub use counters::Counter;
pub use info::{Flavour, Position, ServerInfo, Version};
pub(crate) use login::try_login;
pub use login::{Login, LoginAnswer};
pub use objects::{
    Account, Column, Event, Objects, Plugin, Routine, Schema, Sequence, Setting, Table, TableData, Tablespace, Text,
    Trigger, View,
};
pub use scratch::ScratchWrite;
pub(crate) use scratch::read_only;
pub use server::{Client, Replica, Server, TableSize};

/// Schemas that belong to the server; they are never dumped as data.
pub const SYSTEM_SCHEMAS: [&str; 5] = ["mysql", "information_schema", "performance_schema", "sys", "ndbinfo"];

/// Recommends flags for a candidate server: isolated, quiet and without a binary log. They are for loading and
/// verifying only; the production server starts with its own configuration.
///
/// # Source
/// MySQL 9 manual, "Server Command Options"; MariaDB server documentation, "mariadbd Options".
pub fn candidate_args(flavour: Flavour) -> Vec<String> {
    let mut args = vec![
        "--skip-log-bin",
        "--event-scheduler=OFF",
        "--local-infile=ON",
        "--max-allowed-packet=1073741824",
        "--innodb-flush-log-at-trx-commit=2",
        // Waiting for a lock on a server that nobody else uses is a fault.
        "--lock-wait-timeout=60",
        "--skip-name-resolve",
    ];
    match flavour {
        Flavour::Mysql => args.extend([
            "--skip-replica-start",
            "--mysqlx=OFF",
            // It measures every row that is loaded, for nobody. MariaDB has it off by default.
            "--performance-schema=OFF",
        ]),
        Flavour::Mariadb => args.extend([
            "--skip-slave-start",
            "--innodb-buffer-pool-load-at-startup=OFF",
            // As on MySQL: several connections load one table, and give its ids themselves.
            "--innodb-autoinc-lock-mode=2",
            // Keys that are built after the rows are sorted in it; by default it has 1 MiB.
            "--innodb-sort-buffer-size=16777216",
        ]),
    }
    args.into_iter().map(str::to_owned).collect()
}
