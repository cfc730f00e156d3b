//! `cargo xtask soak`: what finds the faults that show only after long, or under
//! load. Must never call a run good in which nothing was done.

mod load;
mod model;

use std::path::Path;

use clap::{Args, Subcommand};

/// Arguments of `cargo xtask soak`.
#[derive(Args)]
pub(crate) struct SoakArgs {
    #[command(subcommand)]
    soak: Soak,
}

#[derive(Subcommand)]
enum Soak {
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
        Soak::Model(args) => model::run(root, args),
        Soak::Load(args) => load::run(root, args),
        Soak::FilesWorker(args) => load::work_on_files(args),
    }
}
