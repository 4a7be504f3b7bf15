//! Helps to test: conformance suites, simulated implementations, faults.

pub mod application;
pub mod backend;
pub mod database;
pub mod kill;
pub mod php;
pub mod redis;
mod salvage;
pub mod sim;
pub mod stack;
pub mod store;
pub mod tables;
pub mod tree;
pub mod web;
pub mod world;
