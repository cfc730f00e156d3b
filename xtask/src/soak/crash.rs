//! `cargo xtask soak crash`: session servers are killed (SIGKILL) at random moments
//! under load, while they start and while they end, as root and as an ordinary user.
//!
//! Afterwards no process and no mount is left, `agentfs check` and SQLite find the
//! database sound, the next `run` just works, and in it the view is a prefix of what
//! was done: for each worker, what it was after some step (`steps.rs`) that is not
//! earlier than the last before an `fsync` that came back, whoever called it; and
//! when one worker's step is there, so is everything that any of them had done
//! before it was begun. Must never open the database with anything but agentfs: what
//! SQLite checks is a copy.

mod place;
mod steps;
mod worker;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Args;

use crate::random::Random;
use crate::suite::host;
use place::Place;
use steps::{Listing, Tree};
use worker::Told;

pub(crate) use worker::WorkerArgs;
pub(crate) use worker::run as run_worker;

const WORKERS: usize = 3;
/// A database lives for so many rounds.
const ROUNDS_OF_DATABASE: u64 = 20;
/// More than a worker gets through before the server is killed.
const STEPS_MANY: usize = 3000;
/// Few, for a server that is killed when all have left.
const STEPS_FEW: usize = 60;
/// The longest that the load goes on.
const LOAD_MAX_MS: usize = 400;

/// Arguments of `cargo xtask soak crash`.
#[derive(Args)]
pub(crate) struct CrashArgs {
    /// How often a server is killed, for each user.
    #[arg(long, value_name = "N", default_value_t = 500)]
    rounds: u64,
    /// The seed; default: another one each time, which is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// The agentfs binary; default: builds the release profile and takes that.
    #[arg(long, value_name = "BINARY")]
    agentfs: Option<PathBuf>,
    /// Where scratch goes: a local disk, not below /tmp (a session has a /tmp of its
    /// own). What a failure leaves is kept there.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/tmp/agentfs-soak-crash"
    )]
    work: PathBuf,
}

/// When the server is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// While it starts, or soon after.
    Start,
    /// While all workers work.
    Load,
    /// When they have left, or are about to.
    End,
}

/// What all rounds of a user had in sum.
#[derive(Default)]
struct Sum {
    steps: usize,
    lost: usize,
    /// Killed at the start, under load, at the end, and not at all: it was quicker.
    kills: [u64; 4],
}

#[allow(clippy::print_stdout)] // a command-line tool speaks on its terminal
pub(crate) fn run(root: &Path, args: &CrashArgs) -> anyhow::Result<()> {
    let seed = args.seed.unwrap_or_else(worker::now);
    println!("crash: --seed {seed}");
    for user in place::users()? {
        let begin = Instant::now();
        let name = user.name;
        let place = Place::prepare(root, &args.work, args.agentfs.as_deref(), user)?;
        let mut random = Random(seed);
        let mut sum = Sum::default();
        let mut workers = Vec::new();
        for round in 0..args.rounds {
            if round % ROUNDS_OF_DATABASE == 0 {
                workers = (0..WORKERS).map(|_| Worker::new(random.next())).collect();
                place.begin_anew(WORKERS)?;
            }
            let moment = match random.below(10) {
                0 | 1 => Moment::Start,
                2 => Moment::End,
                _ => Moment::Load,
            };
            kill_once(&place, &mut workers, moment, &mut random, &mut sum)
                .with_context(|| format!("round {round} as {name}, {moment:?}, --seed {seed}"))?;
        }
        place.remove()?;
        println!(
            "crash as {name}: {} rounds, killed at the start {}, under load {}, at the end {}, \
             ended before {}; {} steps, {} not kept; all sound ({:.0} s)",
            args.rounds,
            sum.kills[0],
            sum.kills[1],
            sum.kills[2],
            sum.kills[3],
            sum.steps,
            sum.lost,
            begin.elapsed().as_secs_f64()
        );
    }
    Ok(())
}

/// A worker, between two rounds.
struct Worker {
    seed: u64,
    /// The step after which its directory is as it is.
    at: usize,
    tree: Tree,
}

impl Worker {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            at: 0,
            tree: Tree::base(),
        }
    }

    /// The steps, of those begun, after which the directory was what is `left`.
    fn states(&self, told: &Told, left: &Listing) -> Vec<(usize, Tree)> {
        let mut tree = self.tree.clone();
        let mut found = Vec::new();
        for number in self.at..=self.at + told.begun.len() {
            if number > self.at {
                tree.apply(&tree.step(self.seed, number));
            }
            if tree.listing() == *left {
                found.push((number, tree.clone()));
            }
        }
        found
    }
}

/// One round: load, a kill, and a look at what is left.
fn kill_once(
    place: &Place,
    workers: &mut [Worker],
    moment: Moment,
    random: &mut Random,
    sum: &mut Sum,
) -> anyhow::Result<()> {
    let steps = if moment == Moment::End {
        STEPS_FEW
    } else {
        STEPS_MANY
    };
    let mut jobs = Vec::new();
    for (number, worker) in workers.iter().enumerate() {
        let range = (worker.at, worker.at + steps);
        jobs.push(place.start(number, worker.seed, range)?);
    }
    let killed_at = match moment {
        Moment::Start => {
            std::thread::sleep(Duration::from_micros(random.below(80_000) as u64));
            place.kill_server(Some(Duration::from_secs(10)))?
        }
        Moment::Load => {
            host::wait_until("all workers work", Duration::from_secs(30), || {
                for job in &mut jobs {
                    if !job.said()?.contains("done ") {
                        // One that has ended will never work.
                        ensure!(job.poll()?.is_none(), "a worker ended: {}", job.said()?);
                        return Ok(false);
                    }
                }
                Ok(true)
            })?;
            std::thread::sleep(Duration::from_millis(random.below(LOAD_MAX_MS) as u64));
            place.kill_server(None)?
        }
        Moment::End => {
            while jobs[0].poll()?.is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_micros(random.below(15_000) as u64));
            place.kill_server(None)?
        }
    };
    let mut told = Vec::new();
    for job in &mut jobs {
        job.wait(|| Ok(()))?;
        told.push(Told::read(&job.said()?));
    }
    match (killed_at, moment) {
        (None, _) => sum.kills[3] += 1,
        (Some(_), Moment::Start) => sum.kills[0] += 1,
        (Some(_), Moment::Load) => sum.kills[1] += 1,
        (Some(_), Moment::End) => sum.kills[2] += 1,
    }
    for told in &told {
        // What `agentfs` says of a killed server is a sentence of its own.
        let other = told.said.iter().find(|line| !line.starts_with("agentfs: "));
        if let Some(line) = other {
            bail!("a worker failed: {line}");
        }
    }
    place.is_clean()?;
    place.is_sound()?;
    let left = place.resume(workers.len())?;
    let kept = is_prefix(workers, &told, &left, killed_at.unwrap_or(u64::MAX))?;
    for ((worker, (at, tree)), told) in workers.iter_mut().zip(kept).zip(&told) {
        sum.steps += told.begun.len();
        sum.lost += worker.at + told.done.len() - at.min(worker.at + told.done.len());
        (worker.at, worker.tree) = (at, tree);
    }
    place.is_base_unchanged(workers.len())
}

/// For each worker a step after which its directory is as left, or what is wrong.
fn is_prefix(
    workers: &[Worker],
    told: &[Told],
    left: &[Listing],
    killed_at: u64,
) -> anyhow::Result<Vec<(usize, Tree)>> {
    let all = || workers.iter().zip(told);
    // Those that came after the kill worked on the next server, which ended in order.
    let is_late = |told: &Told| told.begun.first().is_some_and(|first| *first > killed_at);
    // What was done before a time, for each worker. What was done after the kill may
    // not have reached the server: closing a file does not say.
    let done_by = |time: u64| {
        let time = time.min(killed_at);
        all().map(move |(worker, told)| worker.at + told.done.iter().filter(|t| **t < time).count())
    };
    let synced = told.iter().flat_map(|told| &told.synced);
    let synced = synced.filter(|time| **time < killed_at).max();
    let floor: Vec<_> = done_by(synced.copied().unwrap_or(0))
        .zip(all())
        .map(|(floor, (worker, told))| match is_late(told) {
            true => worker.at + told.done.len(),
            false => floor,
        })
        .collect();
    let mut kept = Vec::new();
    let mut least = Vec::new();
    for (number, (worker, told)) in all().enumerate() {
        let mut states = worker.states(told, &left[number]);
        states.retain(|(at, _)| *at >= floor[number]);
        // There may be several: what a step does, a later one may undo.
        let (Some(first), Some(last)) = (states.first().map(|(at, _)| *at), states.pop()) else {
            bail!(
                "worker {number}: the view is what it was after no step from {} (synced) to {}, \
                 begun at {}: {:#?}",
                floor[number],
                worker.at + told.begun.len(),
                worker.at,
                left[number]
            );
        };
        least.push(first);
        kept.push(last);
    }
    // What one worker did is there only with what all had done before.
    for (number, (worker, told)) in all().enumerate() {
        let Some(last) = least[number].checked_sub(worker.at + 1) else {
            continue;
        };
        if is_late(told) {
            continue;
        }
        for (other, done) in done_by(told.begun[last]).enumerate() {
            ensure!(
                kept[other].0 >= done,
                "step {} of worker {number} is there, but of worker {other} only {} of the {done} \
                 steps done before it",
                least[number],
                kept[other].0
            );
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two workers, each of which has done ten steps, one after the other.
    fn history() -> (Vec<Worker>, Vec<Told>) {
        let workers = vec![Worker::new(1), Worker::new(2)];
        let told = |first: u64| Told {
            begun: (0..10).map(|n| first + 20 * n).collect(),
            done: (0..10).map(|n| first + 20 * n + 5).collect(),
            ..Told::default()
        };
        (workers, vec![told(0), told(10)])
    }

    fn after(worker: &Worker, steps: usize) -> Listing {
        let mut tree = Tree::base();
        for number in 1..=steps {
            tree.apply(&tree.step(worker.seed, number));
        }
        tree.listing()
    }

    fn check(left: [usize; 2], synced: &[u64], expected: Result<(), &str>) {
        let (workers, mut told) = history();
        told[0].synced = synced.to_vec();
        let left: Vec<_> = workers.iter().zip(left).map(|(w, n)| after(w, n)).collect();
        let found = is_prefix(&workers, &told, &left, u64::MAX).map(drop);
        match (found, expected) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, _) => panic!("{left:?}: {found:?}"),
        }
    }

    #[test]
    fn only_prefixes_pass() {
        check([10, 10], &[], Ok(()));
        check([6, 5], &[], Ok(()));
        check([6, 6], &[], Ok(()));
        // The second began its seventh when the first had done seven.
        check([6, 7], &[], Err("steps done before"));
        check([8, 6], &[], Err("steps done before"));
        check([5, 5], &[100], Ok(()));
        check([5, 4], &[120], Err("(synced)"));
        let (workers, told) = history();
        let mut mixed: Vec<_> = workers.iter().map(|w| after(w, 5)).collect();
        mixed[0].insert("stray".into(), String::new());
        assert!(is_prefix(&workers, &told, &mixed, u64::MAX).is_err());
    }

    /// What the next server has synced says nothing of what the killed one had.
    #[test]
    fn who_comes_after_the_kill_loses_nothing_and_covers_nothing() {
        let (workers, mut told) = history();
        let late = &mut told[1];
        for time in late.begun.iter_mut().chain(&mut late.done) {
            *time += 1000;
        }
        late.synced = vec![1100];
        let found = |left: [usize; 2]| {
            let left: Vec<_> = workers.iter().zip(left).map(|(w, n)| after(w, n)).collect();
            is_prefix(&workers, &told, &left, 150).is_ok()
        };
        assert!(found([5, 10]));
        assert!(!found([5, 9]));
    }
}
