//! The whole-system tests, in one binary.
//!
//! Each module is one subject. They start real sessions, real mounts and real
//! programs; see `docs/TESTING.md`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cli;
mod crash;
mod faults;
mod hostile;
mod interop;
mod model;
mod mount_model;
mod power;
mod programs;
mod semantics;
mod session;
