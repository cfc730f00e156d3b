//! The power fails at any moment: the database opens and is sound, everything that
//! was synced is there, and the view is what it was after some prefix of the
//! operations, never half of one.
//!
//! The database lies on a disk that records its writes and syncs
//! (`agentfs_tests::disk`). Random operations run on it, with the database closed
//! and opened now and then; from the record, images are built of what a power
//! failure may leave at any point in it (`agentfs_tests::power`), and each is opened
//! as the next session would. `AGENTFS_PROPTEST_CASES` multiplies their number.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentfs_core::lower::MemoryLower;
use agentfs_sqlite::{Database, SqliteStorage, Volume};
use agentfs_testkit::base::BaseTree;
use agentfs_testkit::driver::{Driver, World};
use agentfs_testkit::model::Model;
use agentfs_testkit::op::Op;
use agentfs_tests::Run;
use agentfs_tests::disk::{Disk, Event, MARKS, Mark};
use agentfs_tests::power::{Random, Syncs, image, progress, restore};

use crate::crash::{kept_operations, options, scenario, states};
use crate::model::open_database;

const NAME: &str = "session.db";
const CHILD: &str = "power::child_that_is_recorded";
const PLACE: &str = "AGENTFS_POWER_PLACE";
const SEED: &str = "AGENTFS_POWER_SEED";
const OPERATIONS: usize = 200;
const HISTORIES: u64 = 5;
const IMAGES: usize = 200;

/// A database on the disk; each time it is opened, the one before is closed.
struct Recorded {
    place: PathBuf,
    database: Arc<Mutex<Option<Database>>>,
    lower: MemoryLower,
}

impl World for Recorded {
    type S = SqliteStorage;
    type L = MemoryLower;

    fn storage(&mut self) -> SqliteStorage {
        let mut open = self.database.lock().unwrap();
        if let Some(database) = open.take() {
            database.close().unwrap();
        }
        let database = open_database(&self.place);
        let storage = database.volume(Volume::View);
        *open = Some(database);
        storage
    }

    fn lower(&mut self) -> MemoryLower {
        self.lower.clone()
    }
}

/// Not a test by itself: does the operations on a new database.
#[test]
#[ignore = "the child of the tests of power failures"]
fn child_that_is_recorded() {
    let (Some(place), Ok(seed)) = (std::env::var_os(PLACE), std::env::var(SEED)) else {
        return;
    };
    let place = PathBuf::from(place);
    let (base, ops) = scenario(seed.parse().unwrap(), OPERATIONS, true);
    let mut marks = File::create(place.join(MARKS)).unwrap();
    let mut mark = |mark: Mark| marks.write_all(mark.to_line().as_bytes()).unwrap();
    let database = Arc::default();
    let world = Recorded {
        place: place.join(NAME),
        database: Arc::clone(&database),
        lower: base.in_memory(),
    };
    let mut driver = Driver::new(world, options()).unwrap();
    for (number, op) in (1..).zip(&ops) {
        mark(Mark::Begun(number));
        driver.step(op).unwrap();
        // Both return when all is durable, as `fsync` and the end of a session do.
        if matches!(op, Op::Fsync { .. }) {
            let open = database.lock().unwrap();
            open.as_ref().map(Database::sync).unwrap().unwrap();
        }
        if matches!(op, Op::Fsync { .. } | Op::Reopen) {
            mark(Mark::Promised(number));
        }
        if number % 8 == 0 {
            // So that batches of the committer fall between.
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// What the disk sees of the operations of a seed.
fn history(seed: u64) -> Vec<Event> {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::mount(dir.path(), (0, 0));
    disk.begin_record();
    let child = Run::new(std::env::current_exe().unwrap())
        .args(["--exact", CHILD, "--ignored", "--nocapture"])
        .env(PLACE, dir.path())
        .env(SEED, seed.to_string())
        .finish();
    let child = child.ok();
    assert!(child.out().contains("1 passed"), "{child}");
    disk.end_record()
}

/// What is wrong with an image, if anything: `Ok` is the operations kept.
fn examine(
    events: &[Event],
    syncs: Syncs,
    random: &mut Random,
    (base, states): (&BaseTree, &[Model]),
) -> Result<usize, String> {
    let (promised, begun) = progress(events);
    let dir = tempfile::tempdir().unwrap();
    restore(&image(events, syncs, random), dir.path());
    kept_operations(
        &dir.path().join(NAME),
        base,
        states[..=begun].iter(),
        promised,
    )
}

fn factor() -> usize {
    let factor = std::env::var("AGENTFS_PROPTEST_CASES");
    factor.ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

#[test]
#[cfg_attr(missing_root, ignore = "skipped: mounting the disk needs root")]
fn a_power_failure_leaves_what_was_synced_and_a_prefix_of_the_rest() {
    for seed in 0..HISTORIES {
        let (base, ops) = scenario(seed, OPERATIONS, true);
        let events = history(seed);
        let states: Vec<_> = states(&base, &ops).collect();
        let syncs = events
            .iter()
            .filter(|event| matches!(event, Event::Sync { .. }))
            .count();
        let mut lost = 0;
        for number in 0..IMAGES * factor() {
            let mut random = Random(seed << 32 | number as u64);
            let at = random.below(events.len() + 1);
            let events = &events[..at];
            let kept =
                examine(events, Syncs::Kept, &mut random, (&base, &states)).unwrap_or_else(|why| {
                    let (promised, begun) = progress(events);
                    panic!(
                        "history {seed}, image {number}, event {at}, between operations {promised} \
                         and {begun}: {why}"
                    )
                });
            lost += progress(events).1.saturating_sub(kept);
        }
        // Shown with --nocapture: whether the failures come at useful moments.
        let line = format!(
            "history {seed}: {} events, {syncs} syncs, {lost} operations lost in {} images",
            events.len(),
            IMAGES * factor()
        );
        writeln!(std::io::stderr(), "{line}").unwrap();
        assert!(
            lost > 0,
            "no image lost anything: the failures come too late"
        );
    }
}

/// The test above can fail: on a disk that only says that it synced, something that
/// was promised is lost.
#[test]
#[cfg_attr(missing_root, ignore = "skipped: mounting the disk needs root")]
fn a_disk_that_ignores_syncs_is_found_out() {
    let (base, ops) = scenario(0, OPERATIONS, true);
    let events = history(0);
    let states: Vec<_> = states(&base, &ops).collect();
    let found = (0..40).find_map(|seed| {
        let mut random = Random(seed);
        let at = random.below(events.len() + 1);
        examine(&events[..at], Syncs::Ignored, &mut random, (&base, &states)).err()
    });
    let found = found.expect("loss is found");
    writeln!(std::io::stderr(), "found: {found}").unwrap();
}
