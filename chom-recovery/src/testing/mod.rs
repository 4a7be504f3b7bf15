//! Helps to test: conformance suites, simulated implementations, faults.

pub mod backend;
pub mod sim;
pub mod store;

pub mod kill;
pub mod world;
