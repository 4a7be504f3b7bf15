//! To be written.

pub mod maintenance;
