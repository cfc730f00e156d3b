//! Many files in one session, made, looked at, found again the next day, removed.
//! They are those of `bench scale`, which times them.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use agentfs_tests::World;
use anyhow::bail;
use clap::Args;

use super::Anchor;
use super::figures::{Figures, table};
use crate::bench;

const SESSION: &str = "files";
/// For one step.
const LIMIT: Duration = Duration::from_secs(3600);

/// Arguments of the hidden `cargo xtask soak files-worker`.
#[derive(Args)]
pub(crate) struct FilesArgs {
    /// The view.
    #[arg(long)]
    dir: PathBuf,
    /// How many.
    #[arg(long)]
    files: usize,
}

/// Makes the files and looks at some.
///
/// # Errors
/// When one is not as it was made.
pub(crate) fn work(args: &FilesArgs) -> anyhow::Result<()> {
    bench::create_files(&args.dir, 0, args.files)?;
    bench::probe_files(&args.dir, args.files, "warm").map(drop)
}

#[allow(clippy::print_stdout)] // a command-line tool speaks on its terminal
pub(super) fn run(world: &World, files: usize) -> anyhow::Result<()> {
    let worker = world.dir.join("worker");
    fs::copy(std::env::current_exe()?, &worker)?;
    let find = format!("test $(find many -type f -size -2 | wc -l) -eq {files}");
    let make = format!(
        "'{}' soak files-worker --dir \"$PWD\" --files {files}",
        worker.display()
    );

    let begin = Instant::now();
    let anchor = Anchor::start(world, SESSION)?;
    let start = Figures::after_forgetting(world)?;
    let mut moments = vec![("start", start)];
    inside(world, &make)?;
    moments.push(("made", Figures::of(world)?));
    let made = Figures::after_forgetting(world)?;
    moments.push(("forgotten", made));
    inside(world, &find)?;
    moments.push(("walked", Figures::of(world)?));
    let walked = Figures::after_forgetting(world)?;
    moments.push(("forgotten ", walked));
    print!("{files} files\n{}", table(&moments));
    anchor.leave()?;

    let anchor = Anchor::start(world, SESSION)?;
    let next_day = Figures::after_forgetting(world)?;
    let mut moments = vec![("the next day", next_day)];
    inside(world, &find)?;
    moments.push(("walked", Figures::of(world)?));
    inside(world, "rm -r many")?;
    let removed = Figures::after_forgetting(world)?;
    moments.push(("removed, forgotten", removed));
    print!("{}", table(&moments));
    println!("({:.0} s)", begin.elapsed().as_secs_f64());
    let mut grown = made.grown_since(&start);
    grown.extend(walked.grown_since(&start));
    grown.extend(removed.grown_since(&next_day));
    if !grown.is_empty() {
        bail!("more than at the start: {grown:?}");
    }
    anchor.leave()
}

/// A script in the session, which must succeed.
fn inside(world: &World, script: &str) -> anyhow::Result<()> {
    let done = world.in_session(SESSION, script).limit(LIMIT).finish();
    if done.code() != 0 {
        bail!("{done}");
    }
    Ok(())
}
