//! What runs inside a view until the server is killed under it, and tells outside
//! what it does, in order and with the time; and what looks at the view afterwards.
//!
//! It tells on standard output, which is a file outside. Must never tell a step as
//! done before it is, nor as begun after.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use super::steps::{Listing, Tree, listing_of};
use crate::random::Random;

/// What a worker exits with when the view has gone under it.
pub(super) const LOST: i32 = 7;
/// One step of so many is followed by an `fsync`.
const SYNC_EVERY: usize = 12;

/// Arguments of the hidden `cargo xtask crash-worker`.
#[derive(Args)]
pub(crate) struct WorkerArgs {
    /// The directory of the view to work in.
    #[arg(long)]
    dir: PathBuf,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The last step that is there already.
    #[arg(long, default_value_t = 0)]
    from: usize,
    /// The last to do.
    #[arg(long, default_value_t = 0)]
    until: usize,
    /// Do nothing, and print what is there.
    #[arg(long)]
    list: bool,
}

/// What a worker told.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// When each step was begun, from the one after `from` on, in nanoseconds.
    pub(super) begun: Vec<u64>,
    /// When it was done.
    pub(super) done: Vec<u64>,
    /// When an `fsync` that came back was called.
    pub(super) synced: Vec<u64>,
    /// What else there was: complaints.
    pub(super) said: Vec<String>,
}

impl Told {
    /// From a worker's output, of which the last line may be cut.
    pub(super) fn read(text: &str) -> Self {
        let mut told = Self::default();
        let mut asked = None;
        for line in text.lines() {
            let (what, time) = line.split_once(' ').unwrap_or_default();
            match (what, time.parse::<u64>()) {
                ("begin", Ok(time)) => told.begun.push(time),
                ("done", Ok(time)) => told.done.push(time),
                ("sync", Ok(time)) => asked = Some(time),
                ("synced", Ok(_)) => told.synced.extend(asked.take()),
                _ => told.said.push(line.to_owned()),
            }
        }
        told
    }
}

/// Nanoseconds of a clock that all processes see alike and nobody sets.
pub(super) fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Works, or lists.
///
/// # Errors
/// When a step fails for another reason than that the server is gone.
pub(crate) fn run(args: &WorkerArgs) -> anyhow::Result<()> {
    if args.list {
        let listing: Listing = listing_of(&args.dir)?;
        serde_json::to_writer(io::stdout().lock(), &listing)?;
        return Ok(());
    }
    let mut tree = Tree::base();
    for number in 1..=args.from {
        tree.apply(&tree.step(args.seed, number));
    }
    let mut random = Random(args.seed ^ args.from as u64);
    for number in args.from + 1..=args.until {
        let step = tree.step(args.seed, number);
        tell("begin")?;
        if let Err(error) = step.perform(&args.dir) {
            return lost_or(&args.dir, error).with_context(|| format!("{number}: {step:?}"));
        }
        tell("done")?;
        tree.apply(&step);
        if random.below(SYNC_EVERY) == 0 {
            let name = tree.listing().into_keys().next().unwrap_or_default();
            tell("sync")?;
            if let Err(error) = sync(&args.dir, &name) {
                return lost_or(&args.dir, error).context("fsync");
            }
            tell("synced")?;
        }
    }
    Ok(())
}

/// Of the directory, or of something in it: each stands for all that was done.
fn sync(dir: &Path, name: &str) -> io::Result<()> {
    let path = dir.join(name);
    let plain = path.symlink_metadata()?.is_file();
    File::open(if plain { &path } else { dir })?.sync_all()
}

/// Ends the process in silence when the view is gone: that is what is tested. A sync
/// then says EIO where it was the kernel that could not write: it keeps no other errno
/// for what it writes later.
fn lost_or(dir: &Path, error: io::Error) -> anyhow::Result<()> {
    use rustix::io::Errno;
    let is = |error: &io::Error, errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
    let says_gone = |error: &io::Error| is(error, Errno::NOTCONN) || is(error, Errno::CONNABORTED);
    let is_gone = || dir.metadata().is_err_and(|error| says_gone(&error));
    if says_gone(&error) || is(&error, Errno::IO) && is_gone() {
        std::process::exit(LOST);
    }
    Err(error.into())
}

fn tell(what: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{what} {}", now())
}
