//! The tests of `agentfs-sqlite` that see it from outside: one binary.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod absent;
mod contract;
mod crash;
mod differential;
mod folding;
mod full;
mod handover;
mod kit;
mod numbering;
mod opening;
mod read_ahead;
mod rest;
mod sharing;
