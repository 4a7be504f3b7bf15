//! The configuration file: where it is found, how one is drafted from a running project, what it takes to be right.

mod check;
mod draft;
mod find;
mod pin;
mod schedule;

pub use check::{CheckLine, CheckReport, Verdict, check};
pub use draft::{Draft, DraftRequest, draft};
pub use find::{FILE_NAME, Places, find};
pub use pin::{pin_recipients, pin_signer};
pub use schedule::{ScheduleRequest, Unit, Units, schedule};
