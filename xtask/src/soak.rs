//! `cargo xtask soak`: what takes long to break.
//!
//! Each soak has a short form in `.ci/run`. Must never leave a process, a mount or
//! a session behind, nor work outside its scratch directory.

mod crash;

use std::path::Path;

use clap::{Args, Subcommand};

pub(crate) use crash::WorkerArgs as CrashWorkerArgs;
pub(crate) use crash::run_worker as run_crash_worker;

/// Arguments of `cargo xtask soak`.
#[derive(Args)]
pub(crate) struct SoakArgs {
    #[command(subcommand)]
    soak: Soak,
}

#[derive(Subcommand)]
enum Soak {
    /// Kill session servers at random moments, and look at what is left.
    Crash(crash::CrashArgs),
}

/// Runs the soak asked for.
///
/// # Errors
/// When it cannot be set up, or anything is not as it should be.
pub(crate) fn run(root: &Path, args: &SoakArgs) -> anyhow::Result<()> {
    match &args.soak {
        Soak::Crash(crash) => crash::run(root, crash),
    }
}
