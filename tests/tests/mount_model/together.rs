//! Eight processes at once on one mounted session. Each does random operations in
//! trees of its own, where everything must be as its model says, and between them
//! works in a directory that all share, where nothing may be lost or mixed
//! (`shared.rs`). Then the session is checked and mounted again: each process finds
//! its trees as it left them, and so is what they shared.
//!
//! The same is done in a plain directory, which shows that what is asked for is no
//! more than a file system gives. The processes are this test binary again, asked
//! for [`child_among_eight`].

mod shared;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agentfs_testkit::base::base_tree;
use agentfs_testkit::model::Model;
use agentfs_testkit::op::{Op, Weights, ops};
use agentfs_tests::child::Running;
use agentfs_tests::{Run, Who, World, skip};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::compare::{self, Times};
use super::side::Side;
use super::{CHUNK_BYTES, Trial, without_hidden};
use shared::{Ledger, Shared};

const PROCESSES: u32 = 8;
const CHILD: &str = "mount_model::together::child_among_eight";
const SESSION: &str = "together";
/// How long they work; the soak says more.
const SECONDS: &str = "AGENTFS_SOAK_SECONDS";
const SECONDS_DEFAULT: u64 = 3;
/// What proptest goes by as well.
const SEED: &str = "PROPTEST_RNG_SEED";
const BASE: &str = "AGENTFS_TOGETHER_BASE";
const VIEW: &str = "AGENTFS_TOGETHER_VIEW";
const NOTES: &str = "AGENTFS_TOGETHER_NOTES";
const NUMBER: &str = "AGENTFS_TOGETHER_NUMBER";
/// The parent makes it when the view is there again.
const AGAIN: &str = "again";
const STEPS_OF_A_TREE: usize = 60;
const PATIENCE: Duration = Duration::from_secs(120);

fn seconds() -> u64 {
    let given = std::env::var(SECONDS).ok();
    given.map_or(SECONDS_DEFAULT, |text| {
        text.parse().expect("a number of seconds")
    })
}

/// More trees than a process gets through in that time.
fn trees_of_each() -> u64 {
    4 + 3 * seconds()
}

fn runner(seed: u64, number: u32, tree: u64) -> TestRunner {
    let mut bytes = [3; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..12].copy_from_slice(&number.to_le_bytes());
    bytes[12..20].copy_from_slice(&tree.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    TestRunner::new_with_rng(Config::default(), rng)
}

fn one<S: Strategy>(strategy: S, runner: &mut TestRunner) -> S::Value {
    let tree = strategy.new_tree(runner).expect("nothing is rejected");
    tree.current()
}

fn tree_of(root: &Path, number: u32, tree: u64) -> PathBuf {
    root.join(format!("own/{number}/{tree}"))
}

/// What all of it starts from.
fn make_base(root: &Path, seed: u64) {
    for number in 0..PROCESSES {
        for tree in 0..trees_of_each() {
            let dir = tree_of(root, number, tree);
            fs::create_dir_all(&dir).unwrap();
            let base = base_tree(CHUNK_BYTES.into());
            without_hidden(one(base, &mut runner(seed, number, tree))).on_host(&dir);
        }
    }
    shared::make_base(&root.join("shared"));
}

/// A tree that a process has done with, as it must be.
struct Left {
    root: PathBuf,
    model: Model,
    times: Times,
}

/// Not a test by itself: one of eight.
#[test]
#[ignore = "the child of eight_processes_lose_and_mix_nothing"]
fn child_among_eight() {
    let Ok(number) = std::env::var(NUMBER) else {
        return;
    };
    let number: u32 = number.parse().unwrap();
    let seed: u64 = std::env::var(SEED).unwrap().parse().unwrap();
    let path = |name: &str| PathBuf::from(std::env::var_os(name).unwrap());
    let (base, view, notes) = (path(BASE), path(VIEW), path(NOTES));
    let until = Instant::now() + Duration::from_secs(seconds());

    let mut shared = Shared::new(view.join("shared"), number, seed);
    let mut left = Vec::new();
    for tree in 0..trees_of_each() {
        if Instant::now() > until {
            break;
        }
        let mut runner = runner(seed, number, tree);
        // As in `make_base`: what comes after it is ours.
        drop(one(base_tree(CHUNK_BYTES.into()), &mut runner));
        let weights = Weights {
            library_only: false,
            lifecycle: true,
            max_io_bytes: 9000,
        };
        let ops = one(ops(weights, STEPS_OF_A_TREE), &mut runner);
        let root = tree_of(&view, number, tree);
        let base = tree_of(&base, number, tree);
        let done = work(&base, root, &ops, &mut shared, until);
        left.push(done.unwrap_or_else(|what| {
            let ops: String = ops.iter().map(|op| format!("  {op:?}\n")).collect();
            panic!("tree {tree}: {what}\noperations:\n{ops}");
        }));
    }
    shared.ledger.save(&notes.join(number.to_string()));

    let started = Instant::now();
    while !notes.join(AGAIN).exists() {
        assert!(started.elapsed() < PATIENCE, "nobody mounts it again");
        std::thread::sleep(Duration::from_millis(10));
    }
    for tree in left {
        let side = Side::new("afterwards", &tree.root);
        compare::tree(&tree.model, &side, &tree.times)
            .unwrap_or_else(|what| panic!("afterwards: {what}"));
    }
}

/// The operations in one tree, with something in the shared directory after each,
/// as far as there is time.
fn work(
    base: &Path,
    root: PathBuf,
    ops: &[Op],
    shared: &mut Shared,
    until: Instant,
) -> Result<Left, String> {
    let mut trial = Trial::new(base, &[("one of eight", &root)]);
    for op in ops.iter().take_while(|_| Instant::now() < until) {
        trial.step(op).map_err(|divergence| divergence.0)?;
        shared.step().map_err(|what| format!("shared: {what}"))?;
    }
    let Trial {
        mut model,
        handles,
        sides,
        times,
        ..
    } = trial;
    // Nothing may keep the view from being unmounted.
    drop(sides);
    for node in handles {
        model.release(node);
    }
    Ok(Left { root, model, times })
}

/// Lets eight processes work in `view`, which starts as `base`; between their work
/// and their last look comes `restart`.
fn together(seed: u64, base: &Path, view: &Path, notes: &Path, restart: impl FnOnce()) {
    fs::create_dir(notes).unwrap();
    let limit = Duration::from_secs(seconds()) + 2 * PATIENCE;
    let mut children: Vec<Running> = (0..PROCESSES)
        .map(|number| {
            Run::new(std::env::current_exe().unwrap())
                .args(["--exact", CHILD, "--ignored", "--nocapture"])
                .arg("--test-threads=1")
                .env(SEED, seed.to_string())
                .env(SECONDS, seconds().to_string())
                .env(BASE, base)
                .env(VIEW, view)
                .env(NOTES, notes)
                .env(NUMBER, number.to_string())
                .limit(limit)
                .start()
        })
        .collect();
    let started = Instant::now();
    let saved = |number| notes.join(u32::to_string(&number)).exists();
    while !(0..PROCESSES).all(saved) && children.iter_mut().all(|child| child.ended().is_none()) {
        assert!(started.elapsed() < limit, "seed {seed}: they do not end");
        std::thread::sleep(Duration::from_millis(10));
    }
    if !(0..PROCESSES).all(saved) {
        // One of them failed: all that it said.
        for child in &mut children {
            if child.ended().is_none() {
                continue;
            }
            let (out, err) = child.printed();
            let said = [out, err].concat();
            panic!("seed {seed}: {}", String::from_utf8_lossy(&said));
        }
    }
    let ledgers: Vec<Ledger> = (0..PROCESSES)
        .map(|number| Ledger::load(&notes.join(number.to_string())))
        .collect();
    let verify = |when: &str| {
        shared::verify(&view.join("shared"), &ledgers)
            .unwrap_or_else(|what| panic!("seed {seed}, {when}: shared: {what}"));
    };
    verify("at the end");
    restart();
    verify("afterwards");
    fs::write(notes.join(AGAIN), "").unwrap();
    for child in children {
        let done = child.wait();
        assert_eq!(done.code(), 0, "seed {seed}: {done}");
    }
}

/// A seed of its own for each run, unless one is asked for.
fn seed() -> u64 {
    match std::env::var(SEED) {
        Ok(given) => given.parse().expect("a number"),
        Err(_) => {
            use std::hash::{BuildHasher, RandomState};
            RandomState::new().hash_one(Instant::now())
        }
    }
}

#[test]
#[cfg_attr(missing_root, ignore = "skipped: owners and devices need root")]
fn eight_processes_in_a_plain_directory_lose_and_mix_nothing() {
    let seed = seed();
    let world = match World::new(Who::Root) {
        Ok(world) => world,
        Err(why) => skip!("{why}"),
    };
    make_base(&world.project, seed);
    let plain = world.dir.join("plain");
    let copied = world.run("cp").arg("-a").arg(&world.project).arg(&plain);
    drop(copied.finish().ok());
    let notes = world.dir.join("notes");
    together(seed, &world.project, &plain, &notes, || {});
}

#[test]
#[cfg_attr(missing_root, ignore = "skipped: owners and devices need root")]
#[cfg_attr(missing_fuse, ignore = "skipped: no /dev/fuse")]
fn eight_processes_lose_and_mix_nothing() {
    let seed = seed();
    let world = match World::new(Who::Root) {
        Ok(world) => world,
        Err(why) => skip!("{why}"),
    };
    make_base(&world.project, seed);
    drop(world.agentfs_out(["init", SESSION]));
    let view = world.dir.join("view");
    fs::create_dir(&view).unwrap();
    let mount = || drop(world.agentfs(["mount", SESSION]).arg(&view).finish().ok());
    let unmount = || {
        // A child that another test is just starting has our descriptors until it
        // calls exec.
        let started = Instant::now();
        loop {
            let done = world.agentfs(["umount"]).arg(&view).finish();
            if done.code() == 0 {
                break;
            }
            assert!(started.elapsed() < Duration::from_secs(5), "{done}");
            std::thread::sleep(Duration::from_millis(20));
        }
        world.wait_for_end(SESSION);
    };
    mount();
    let notes = world.dir.join("notes");
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        together(seed, &world.project, &view, &notes, || {
            unmount();
            drop(world.agentfs_out(["check", SESSION]));
            mount();
        });
    }));
    unmount();
    if let Err(what) = failed {
        std::panic::resume_unwind(what);
    }
    drop(world.agentfs_out(["check", SESSION]));
}
