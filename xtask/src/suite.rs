//! `cargo xtask suite`: the public suites that file systems are judged by, on
//! views and beside them on the host's disk.
//!
//! Must never count a case as passed that was not run, leave a mount behind, or
//! work outside `target/suites` and scratch directories.

mod fsx;
pub(crate) mod host;
mod pjdfstest;
mod projects;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

/// Arguments of `cargo xtask suite`.
#[derive(Args)]
pub(crate) struct SuiteArgs {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Subcommand)]
enum Suite {
    /// What system calls on names and attributes do: 398 cases, as root with two
    /// more users, on the disk, on a mount and in a session.
    Pjdfstest(CommonArgs),
    /// Random reads, writes and mappings of files in sessions, each compared with
    /// what it must give.
    Fsx(fsx::FsxArgs),
    /// Crates, a package of npm and CPython: their own tests, outside and inside.
    Projects(projects::ProjectsArgs),
}

#[derive(Args)]
struct CommonArgs {
    /// The agentfs binary; default: builds the release profile and takes that.
    #[arg(long, value_name = "BINARY")]
    agentfs: Option<PathBuf>,
    /// Where scratch goes: a local disk, not below /tmp (a session has a /tmp of
    /// its own). What a failure leaves is kept there.
    #[arg(long, value_name = "DIR", default_value = "/var/tmp/agentfs-suites")]
    work: PathBuf,
}

/// Runs the suite asked for.
///
/// # Errors
/// When it cannot be installed or set up, or anything fails in it.
pub(crate) fn run(root: &Path, args: &SuiteArgs) -> anyhow::Result<()> {
    match &args.suite {
        Suite::Pjdfstest(common) => {
            pjdfstest::run(&Bench::prepare(root, common, "pjdfstest@0.2.2")?)
        }
        Suite::Fsx(fsx) => fsx::run(&Bench::prepare(root, &fsx.common, "fsx@0.3.2")?, fsx),
        Suite::Projects(args) => projects::run(root, args),
    }
}

/// Where a suite runs, and with what.
struct Bench {
    /// An empty directory that every user can enter.
    dir: PathBuf,
    /// The suite's program.
    suite: PathBuf,
    agentfs: PathBuf,
}

impl Bench {
    /// Installs a crate of that name and version, and makes a scratch directory.
    ///
    /// The programs are copied there: what lies below the user's home or /tmp is
    /// not everybody's to run, nor there in a session.
    fn prepare(root: &Path, args: &CommonArgs, package: &str) -> anyhow::Result<Self> {
        if args.work.starts_with("/tmp") || !args.work.is_absolute() {
            bail!("--work must be an absolute path outside /tmp, which a session replaces");
        }
        let name = package.split('@').next().unwrap_or(package);
        let installed = root.join("target/suites");
        let mut install = Command::new("cargo");
        install.args(["install", "--quiet", "--locked", "--root"]);
        install.arg(&installed).arg(package);
        // Building takes longer than running: only fsx computes anything.
        install.args(["--config", "profile.release.opt-level=0"]);
        install.args(["--config", "profile.release.package.fsx.opt-level=2"]);
        host::run(&mut install)?;
        let agentfs = host::agentfs(root, args.agentfs.as_deref())?;
        let dir = args.work.join(name);
        host::remove(&dir)?;
        fs::create_dir_all(&dir)?;
        host::open_to_all(&args.work)?;
        host::open_to_all(&dir)?;
        let bench = Self {
            suite: dir.join(name),
            agentfs: dir.join("agentfs"),
            dir,
        };
        let compiled = installed.join("bin").join(name);
        for (from, to) in [(&compiled, &bench.suite), (&agentfs, &bench.agentfs)] {
            fs::copy(from, to).with_context(|| format!("no {}", from.display()))?;
        }
        Ok(bench)
    }

    /// An agentfs command, of a project directory's sessions.
    fn agentfs(&self, project: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(&self.agentfs);
        command.args(args).current_dir(project);
        command
    }

    /// A command in a session that nothing outside can be changed from.
    fn session(&self, project: &Path, session: &str) -> Command {
        let args = [
            "run",
            "--quiet",
            "--no-default-allows",
            "--session",
            session,
            "--",
        ];
        self.agentfs(project, &args)
    }
}
