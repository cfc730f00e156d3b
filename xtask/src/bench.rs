//! `cargo xtask bench`: what an agent's day of file work costs in a session,
//! against the plain disk, kernel overlayfs, fuse-overlayfs and other programs.
//!
//! For comparing on one machine; quote no figure without the machine. Must never
//! run in continuous integration (a busy neighbour is not a regression), leave a
//! failed phase out of a table, or write into the source tree except into the
//! directory that `--out` names.

mod bare;
mod chart;
mod host;
mod inputs;
mod memory;
mod phase;
mod report;
mod requests;
mod rounds;
mod scale;
mod startup;
mod stats;
mod target;
mod view;
mod work;
mod worker;

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::{Args, Subcommand};

pub(crate) use bare::{BareArgs, serve as serve_bare};
use memory::HeldMemory;
pub(crate) use report::aligned;
pub(crate) use scale::{create as create_files, probe as probe_files};
pub(crate) use target::build as build_agentfs;
pub(crate) use worker::WorkerArgs;
pub(crate) use worker::run as run_worker;

/// Arguments of `cargo xtask bench`.
#[derive(Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: Option<BenchCommand>,
    #[command(flatten)]
    table: rounds::TableArgs,
}

#[derive(Subcommand)]
enum BenchCommand {
    /// Time starting and joining a session, and bubblewrap.
    Startup(startup::StartupArgs),
    /// Large directories, many files, a large sparse file, eight terminals.
    Scale(scale::ScaleArgs),
}

/// What all three measurements need.
#[derive(Args)]
struct CommonArgs {
    /// The agentfs binary; default: builds the release profile and takes that.
    #[arg(long, value_name = "BINARY")]
    agentfs: Option<PathBuf>,
    /// The ordinary user to run as, when run as root; default: `agentfs-test`,
    /// where it exists; `none`: nobody.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Where inputs and scratch go: a local disk, not below /tmp (a session has
    /// a /tmp of its own).
    #[arg(long, value_name = "DIR", default_value = "/var/tmp/agentfs-bench")]
    work: PathBuf,
    /// Where the results are written; default: docs/benchmarks for a full run,
    /// target/benchmarks with `--quick`.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Small inputs: shows that everything works, not how fast.
    #[arg(long)]
    quick: bool,
    /// Prints JSON in place of the table.
    #[arg(long)]
    json: bool,
    /// In a virtual machine: keeps free memory from going back to the host meanwhile,
    /// and takes back first what did (root only; up to a minute).
    #[arg(long)]
    hold_memory: bool,
}

impl CommonArgs {
    fn out_dir(&self, root: &Path) -> PathBuf {
        self.out.clone().unwrap_or_else(|| {
            root.join(if self.quick {
                "target/benchmarks"
            } else {
                "docs/benchmarks"
            })
        })
    }

    /// What becomes of free memory, if that is worth a word.
    fn memory_note(&self) -> Option<String> {
        if self.hold_memory {
            Some("free memory stayed with the machine (--hold-memory)".to_owned())
        } else if HeldMemory::is_needed() {
            Some(
                "free memory goes back to the host of this virtual machine: whatever takes new \
                 memory may be several times slower (--hold-memory)"
                    .to_owned(),
            )
        } else {
            None
        }
    }

    /// Looks whether it can be done, and holds memory where that is asked: until what is
    /// returned is dropped.
    #[allow(clippy::print_stderr)] // a command-line tool speaks on its terminal
    fn prepare(&self) -> anyhow::Result<Option<HeldMemory>> {
        if self.work.starts_with("/tmp") || !self.work.is_absolute() {
            bail!("--work must be an absolute path outside /tmp, which a session replaces");
        }
        if !self.hold_memory {
            return Ok(None);
        }
        eprintln!("taking memory back from the host");
        HeldMemory::hold()
    }
}

/// Runs the measurement asked for.
///
/// # Errors
/// When the inputs cannot be made or no target can be set up; a phase that
/// fails is a result.
pub(crate) fn run(root: &Path, args: &BenchArgs) -> anyhow::Result<()> {
    match &args.command {
        None => rounds::run(root, &args.table),
        Some(BenchCommand::Startup(startup)) => startup::run(root, startup),
        Some(BenchCommand::Scale(scale)) => scale::run(root, scale),
    }
}
