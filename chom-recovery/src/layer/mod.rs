//! Wrappers of a store: each is a store itself, and adds one thing.
//!
//! A wrapper forwards every method of the trait; the lint keeps it so when the trait grows.
#![deny(clippy::missing_trait_methods)]

#[cfg(feature = "testing")]
pub mod fault;
pub mod retry;
