//! `cargo xtask soak load`: many terminals at mixed work in one session, many
//! sessions at once, many files in one session. Nothing may fail, and when it is
//! over nothing may have stayed: descriptors, memory, inodes, threads, mounts,
//! temporary directories.
//!
//! As an ordinary user, from root, who alone can make the kernel forget. Must never
//! call a part good whose work was not looked at, or leave a session behind.

mod figures;
mod files;
mod sessions;
mod terminals;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agentfs_tests::child::Running;
use agentfs_tests::{Who, World};
use anyhow::{Context, bail};
use clap::Args;

use crate::bench;

pub(super) use files::{FilesArgs, work as work_on_files};

#[derive(Args)]
pub(super) struct LoadArgs {
    /// Terminals of one session; 0: leaves this part out.
    #[arg(long, value_name = "N", default_value_t = 32)]
    terminals: u32,
    /// How long they work.
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    minutes: f64,
    /// Sessions at the same time; 0: leaves this part out.
    #[arg(long, value_name = "N", default_value_t = 200)]
    sessions: u32,
    /// Files of one session; 0: leaves this part out.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    files: usize,
    /// The agentfs binary; default: builds the release profile and takes that.
    #[arg(long, value_name = "BINARY")]
    agentfs: Option<PathBuf>,
}

pub(super) fn run(root: &Path, args: &LoadArgs) -> anyhow::Result<()> {
    let binary = match &args.agentfs {
        Some(binary) => binary.clone(),
        None => bench::build_agentfs(root)?,
    };
    let seconds = (args.minutes * 60.0).ceil();
    let limit = Duration::try_from_secs_f64(seconds).context("--minutes")?;
    if args.terminals > 0 {
        in_world(&binary, |world| {
            terminals::run(world, args.terminals, limit.as_secs())
        })?;
    }
    if args.sessions > 0 {
        in_world(&binary, |world| sessions::run(world, args.sessions))?;
    }
    if args.files > 0 {
        in_world(&binary, |world| files::run(world, args.files))?;
    }
    Ok(())
}

/// A project of an ordinary user, which is kept when something fails; what is left
/// on the machine afterwards must be what was there before.
fn in_world(binary: &Path, part: impl FnOnce(&World) -> anyhow::Result<()>) -> anyhow::Result<()> {
    if Who::Root.account().is_err() {
        bail!("run me as root: only root can make the kernel forget");
    }
    let mut world = World::with_binary(Who::Ordinary, || binary).map_err(anyhow::Error::msg)?;
    let before = figures::Leftovers::of(&world)?;
    let outcome = part(&world).and_then(|()| before.same_after(&world));
    if outcome.is_err() {
        world.keep();
    }
    outcome.with_context(|| format!("see {}", world.dir.display()))
}

/// Somebody who stays in a session, so that its server does.
struct Anchor<'a> {
    world: &'a World,
    session: &'static str,
    stays: Option<Running>,
}

/// How long a session may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// No soak takes longer.
const STAY: Duration = Duration::from_secs(24 * 3600);
/// The file of the base that an [`Anchor`] waits for.
const END: &str = "the-end";

impl<'a> Anchor<'a> {
    fn start(world: &'a World, session: &'static str) -> anyhow::Result<Self> {
        let script = format!("while ! [ -e {END} ]; do sleep 0.5; done");
        let stays = world.in_session(session, &script).limit(STAY).start();
        let mut anchor = Self {
            world,
            session,
            stays: Some(stays),
        };
        let begin = Instant::now();
        while figures::servers(world)?.is_empty() {
            let ended = anchor.stays.as_mut().and_then(Running::ended);
            if ended.is_some() || begin.elapsed() > PATIENCE {
                bail!("the session does not start: {ended:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(anchor)
    }

    /// Leaves, and waits until everything is in the database. That a file of the
    /// base ends it shows that the view still follows the base.
    fn leave(mut self) -> anyhow::Result<()> {
        let end = self.world.project.join(END);
        std::fs::write(&end, "")?;
        let mut stays = self.stays.take().context("it has left already")?;
        wait_for("the last terminal", || Ok(stays.ended().is_some()))?;
        let done = stays.wait();
        if done.code() != 0 {
            bail!("{done}");
        }
        std::fs::remove_file(end)?;
        wait_for("the end of the server", || {
            Ok(figures::processes(self.world.binary()) == 0)
        })?;
        let check = self.world.agentfs(["check", self.session]);
        let checked = check.limit(Duration::from_secs(600)).finish();
        if checked.code() != 0 {
            bail!("{checked}");
        }
        Ok(())
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let begin = Instant::now();
    while !done()? {
        if begin.elapsed() > PATIENCE {
            bail!("{what}: not within {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
