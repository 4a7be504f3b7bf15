//! Turns a recovery runbook into procedures that run, resume after a crash, prove their result and can be undone.
//!
//! The crate protects one [`System`]: a Docker Compose web application with its database, files and configuration.
//!
//! Layers, each of which knows only those after it:
//!
//! | module | idea |
//! |---|---|
//! | [`recovery`] | the way in: one system and everything that can be done to it |
//! | [`configuration`] | finds, drafts, checks and edits `chom-recovery.toml` |
//! | [`report`] | what a run recorded, ready to be printed |
//! | [`procedure`] | one file per runbook procedure |
//! | [`triage`] | probe results → diagnoses → procedure |
//! | [`troubleshoot`] | why a recovery fails, hangs, or does not end: causes and what to do about each |
//! | [`run`] | runs and steps: journal, plan, approval, undo |
//! | [`catalog`] | backups: manifest, parts, selection, verification |
//! | [`mysql`] | MySQL and MariaDB: dump, load, check |
//! | [`files`] | file trees: archive, safe extraction |
//! | [`probe`] | questions about health |
//! | [`backend`] | what runs and how to act on it |
//! | [`store`] | where backups lie |
//! | [`layer`] | wrappers of a store |
//!
//! [`runbook`](mod@runbook) says what each line of the runbook became, [`causes`](mod@causes) what triage can tell and how
//! that was tried, [`faults`](mod@faults) what may go wrong and which tests tell, [`catalog::format`](mod@catalog::format) what a backup looks like.
#![deny(missing_docs)]

pub mod backend;
pub mod catalog;
pub mod configuration;
mod environment;
pub mod error;
pub mod files;
pub mod layer;
pub mod mysql;
pub mod objective;
pub mod probe;
pub mod procedure;
pub mod recovery;
pub mod report;
pub mod run;
pub mod secret;
mod ssh;
pub mod store;
pub mod stream;
pub mod system;
#[doc = include_str!("docs/triage.md")]
pub mod causes {}
#[doc = include_str!("docs/faults.md")]
pub mod faults {}
#[doc = include_str!("docs/runbook.md")]
pub mod runbook {}
#[cfg(feature = "testing")]
pub mod testing;
mod tls;
pub mod triage;
pub mod troubleshoot;

pub use error::{Error, ErrorKind, ErrorRecord, Result};
pub use recovery::Recovery;
pub use system::System;

/// Keeps the examples of the README compiling.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
