//! Helps to test: conformance suites, simulated implementations, faults.

pub mod application;
pub mod backend;
pub mod database;
pub mod sim;
pub mod stack;
pub mod store;

pub mod kill;
pub mod world;
