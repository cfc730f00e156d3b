//! What the tests of every agentfs crate share: a reference model, generated
//! operations and base trees, a driver that compares an overlay with the model
//! step by step, fault injection, contract suites for the two boundaries of
//! core, and a count of what a thread reads.
//!
//! For tests only: it reports by panicking or by [`driver::Divergence`], and
//! must never be a dependency of what is shipped.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::cast_possible_truncation,
    reason = "a test kit reports by panicking, and its numbers are small"
)]

pub mod base;
pub mod contract;
pub mod dice;
pub mod driver;
pub mod faults;
pub mod model;
pub mod op;
pub mod reads;
