//! Many terminals of one session at mixed work, twice for half of the time: what
//! the second half adds is a leak, whatever the first half has warmed up.

use std::fs;
use std::time::Duration;

use agentfs_tests::{World, project};
use anyhow::bail;

use super::Anchor;
use super::figures::{Figures, table};

const WORK: &str = include_str!("work.sh");
const KINDS: [&str; 6] = ["git", "build", "editor", "sqlite", "grep", "tree"];
const SESSION: &str = "load";
const FILES: usize = 240;
/// What a terminal may need for its last round, and to look at what it has done.
const LAST_ROUND: Duration = Duration::from_secs(300);
/// What the second half may add to the server's memory.
const SECOND_HALF_KIB: u64 = 24 << 10;

#[allow(clippy::print_stdout)] // a command-line tool speaks on its terminal
pub(super) fn run(world: &World, terminals: u32, seconds: u64) -> anyhow::Result<()> {
    project::generate(&world.project.join("base"), FILES)?;
    fs::write(world.project.join("base/needle"), "a needle\n")?;
    world.own(&world.project);
    let anchor = Anchor::start(world, SESSION)?;
    let start = Figures::after_forgetting(world)?;
    let mut moments = vec![("start", start)];
    let mut rounds = [0_u64; KINDS.len()];
    let half = seconds.div_ceil(2).max(1);
    for (busy, after) in [("first half", "forgotten"), ("second half", "forgotten ")] {
        work(world, terminals, half, &mut rounds)?;
        moments.push((busy, Figures::of(world)?));
        moments.push((after, Figures::after_forgetting(world)?));
    }
    println!("{terminals} terminals, {seconds} s, rounds of each kind of work:");
    for (kind, rounds) in KINDS.iter().zip(rounds) {
        println!("  {kind}: {rounds}");
    }
    print!("{}", table(&moments));
    let (first, second) = (moments[2].1, moments[4].1);
    let mut grown = first.grown_since(&start);
    grown.extend(second.grown_since(&start));
    if second.resident_kib > first.resident_kib + SECOND_HALF_KIB {
        grown.push(format!(
            "resident memory, KiB: {} after the second half, {} after the first",
            second.resident_kib, first.resident_kib
        ));
    }
    if !grown.is_empty() {
        bail!("more than at the start: {grown:?}");
    }
    anchor.leave()
}

/// Lets all terminals work; adds up their rounds.
fn work(
    world: &World,
    terminals: u32,
    seconds: u64,
    rounds: &mut [u64; KINDS.len()],
) -> anyhow::Result<()> {
    let started: Vec<_> = (0..terminals)
        .zip((0..KINDS.len()).cycle())
        .map(|(number, kind)| {
            let run = world
                .agentfs(["run", "--quiet", "--session", SESSION, "--"])
                .args(["sh", "-euc", WORK, "work", KINDS[kind]])
                .args([number.to_string(), seconds.to_string()])
                .limit(Duration::from_secs(seconds) + LAST_ROUND);
            (kind, run.start())
        })
        .collect();
    for (kind, running) in started {
        let done = running.wait();
        let told = done.out();
        let count = told.lines().find_map(|line| line.strip_prefix("rounds "));
        match count.and_then(|count| count.parse::<u64>().ok()) {
            Some(count) if done.code() == 0 && count > 0 => rounds[kind] += count,
            _ => bail!("{}: {done}", KINDS[kind]),
        }
    }
    Ok(())
}
