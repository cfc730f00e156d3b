//! `cargo xtask soak`: what takes long to break.
//!
//! Each soak has a short form in `.ci/run`. Must never leave a process, a mount or
//! a session behind, nor work outside its scratch directory.

mod crash;
mod load;
mod model;

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
    /// Random operations against the model, at other seeds again and again, and by
    /// eight processes at once.
    Model(model::ModelArgs),
    /// Many terminals, many sessions, many files: no error and nothing that stays.
    Load(load::LoadArgs),
    /// What `load` runs inside a session.
    #[command(hide = true)]
    FilesWorker(load::FilesArgs),
}

/// Runs the soak asked for.
///
/// # Errors
/// When it cannot be set up, or finds anything.
pub(crate) fn run(root: &Path, args: &SoakArgs) -> anyhow::Result<()> {
    match &args.soak {
        Soak::Crash(args) => crash::run(root, args),
        Soak::Model(args) => model::run(root, args),
        Soak::Load(args) => load::run(root, args),
        Soak::FilesWorker(args) => load::work_on_files(args),
    }
}
