//! Helps to test: conformance suites, simulated implementations, faults.

pub mod sim;
pub mod store;
