//! Developer commands of this workspace: `cargo xtask tidy`, `cargo xtask ci`,
//! `cargo xtask bench`, `cargo xtask suite`, `cargo xtask soak`, `cargo xtask fuzz`,
//! `cargo xtask miri`.
//!
//! Must never change a file of the source tree, but for the figures that a full
//! benchmark writes to docs/benchmarks and the seeds that fuzzing is told to keep.

mod bench;
mod fuzz;
mod miri;
mod random;
mod soak;
mod suite;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xshell::{Shell, cmd};

/// Developer commands of the agentfs workspace.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check the rules that neither rustfmt nor clippy knows.
    Tidy,
    /// Do all that continuous integration does (`.ci/run`).
    Ci,
    /// Time file work in a session against the disk and other overlays.
    Bench(Box<bench::BenchArgs>),
    /// Run the public suites that file systems are judged by.
    Suite(Box<suite::SuiteArgs>),
    /// Strain sessions for long, and look for what breaks.
    Soak(Box<soak::SoakArgs>),
    /// What `soak crash` runs inside a view.
    #[command(hide = true)]
    CrashWorker(soak::CrashWorkerArgs),
    /// Give random input to what reads the input of others.
    Fuzz(fuzz::FuzzArgs),
    /// Run the tests of the core under Miri.
    Miri(miri::MiriArgs),
    /// What `bench` runs inside a view.
    #[command(hide = true)]
    BenchWorker(bench::WorkerArgs),
    /// What `bench --floor` puts beside the other columns.
    #[command(hide = true)]
    BenchBare(bench::BareArgs),
}

#[allow(clippy::print_stderr)] // a command-line tool speaks on its terminal
fn main() -> ExitCode {
    let root = workspace_root();
    let outcome = match Args::parse().command {
        Command::Tidy => tidy::run(&root),
        Command::Ci => ci(&root),
        Command::Bench(args) => bench::run(&root, &args),
        Command::Suite(args) => suite::run(&root, &args),
        Command::Soak(args) => soak::run(&root, &args),
        Command::CrashWorker(args) => soak::run_crash_worker(&args),
        Command::Fuzz(args) => fuzz::run(&root, &args),
        Command::Miri(args) => miri::run(&root, &args),
        Command::BenchWorker(args) => bench::run_worker(&args),
        Command::BenchBare(args) => bench::serve_bare(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn ci(root: &Path) -> anyhow::Result<()> {
    let shell = Shell::new()?;
    shell.change_dir(root);
    cmd!(shell, ".ci/run").run()?;
    Ok(())
}

fn workspace_root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_owned()
}
