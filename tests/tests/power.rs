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
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentfs_core::lower::MemoryLower;
use agentfs_core::overlay::NewNode;
use agentfs_core::types::{FileKind, Owner};
use agentfs_sqlite::{Database, SqliteStorage, Volume};
use agentfs_testkit::base::BaseTree;
use agentfs_testkit::driver::{Driver, World};
use agentfs_testkit::model::Model;
use agentfs_testkit::op::{At, NamePick, Op, Pick, Position};
use agentfs_tests::Run;
use agentfs_tests::disk::{Disk, Event, MARKS, Mark};
use agentfs_tests::power::{Random, Syncs, image, progress, restore};

use crate::crash::{CHUNK_SIZE_BYTES, kept_operations, options, scenario, states};
use crate::model::open_database;

const NAME: &str = "session.db";
const CHILD: &str = "power::child_that_is_recorded";
const PLACE: &str = "AGENTFS_POWER_PLACE";
const SEED: &str = "AGENTFS_POWER_SEED";
const OPERATIONS: usize = 200;
const HISTORIES: u64 = 5;
const IMAGES: usize = 200;
/// Seed of the history in which a large `-wal` is folded into the database.
const FOLDING: u64 = u64::MAX;
/// So many writes of [`FOLDING_WRITE_BYTES`], to so many places in turn, are more than
/// the 64 MiB from which a `-wal` is folded at rest.
const FOLDING_WRITES: u64 = 1_200;
const FOLDING_WRITE_BYTES: u16 = 60 << 10;
const FOLDING_PLACES: u64 = 200;
const FOLDING_IMAGES: usize = 8;
/// How long the database rests then: the committer folds after five seconds.
const FOLDING_REST: Duration = Duration::from_secs(8);

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
    let seed = seed.parse().unwrap();
    let (base, ops) = operations(seed);
    let marks = File::create(place.join(MARKS)).unwrap();
    // At its beginning: one that lies across two pages the kernel sends in two.
    let mark = |mark: Mark| marks.write_all_at(mark.to_line().as_bytes(), 0).unwrap();
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
            if seed == FOLDING {
                std::thread::sleep(FOLDING_REST);
            }
        }
        if number % 8 == 0 {
            // So that batches of the committer fall between.
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The same for the same seed, in any process.
fn operations(seed: u64) -> (BaseTree, Vec<Op>) {
    if seed != FOLDING {
        return scenario(seed, OPERATIONS, true);
    }
    let place = Position {
        chunks: 0,
        delta: 0,
    };
    let write = |number: u64, len: u16| Op::Write {
        target: Pick::File(0),
        offset: Position {
            chunks: number % FOLDING_PLACES * u64::from(FOLDING_WRITE_BYTES)
                / u64::from(CHUNK_SIZE_BYTES),
            ..place
        },
        len,
        seed: number,
        kill_suid_sgid: false,
    };
    let make = Op::Mknod {
        at: At {
            dir: 0,
            name: NamePick::Pool(0),
        },
        node: NewNode {
            kind: FileKind::Regular,
            perm: 0o644,
            rdev: 0,
        },
        owner: Owner { uid: 0, gid: 0 },
    };
    let sync = Op::Fsync {
        target: Pick::File(0),
    };
    let mut ops = vec![make];
    ops.extend((0..FOLDING_WRITES).map(|number| write(number, FOLDING_WRITE_BYTES)));
    ops.push(sync.clone());
    ops.extend((0..8).map(|number| write(number * 7, 100)));
    ops.push(sync);
    let base = BaseTree {
        entries: Vec::new(),
    };
    (base, ops)
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

/// The moving of a large `-wal` into the database, in a record.
#[derive(Debug)]
struct Fold {
    wal_bytes: u64,
    /// How many writes to the database it is.
    writes: usize,
    /// The first write to the database, before which all was synced, and the sync of the
    /// database that ends it.
    first: usize,
    last: usize,
}

/// The one that comes after a mark, if it is of any size.
fn fold_after(events: &[Event], mark: Mark) -> Option<Fold> {
    let file = |suffix: &str| {
        let wanted = format!("{NAME}{suffix}");
        events.iter().rev().find_map(|event| match event {
            Event::Create { name, file } if *name == *wanted => Some(*file),
            _ => None,
        })
    };
    let (database, wal) = (file("")?, file("-wal")?);
    let marked = events.iter().position(|e| *e == Event::Mark(mark))?;
    let end = |event: &Event| match event {
        Event::Write { file, offset, data } if *file == wal => Some(offset + data.len() as u64),
        _ => None,
    };
    let wal_bytes = events[..marked].iter().filter_map(end).max()?;
    let sync = Event::Sync { file: database };
    let last = marked + events[marked..].iter().position(|e| *e == sync)?;
    let moves = |e: &&Event| matches!(e, Event::Write { file, .. } if *file == database);
    let first = marked + events[marked..last].iter().position(|e| moves(&e))?;
    let writes = events[first..last].iter().filter(moves).count();
    (wal_bytes > 64 << 20 && writes > 50).then_some(Fold {
        wal_bytes,
        writes,
        first,
        last,
    })
}

/// A `-wal` of more than 64 MiB is moved into the database: whatever of that a power
/// failure leaves, all is there.
#[test]
#[cfg_attr(missing_root, ignore = "skipped: mounting the disk needs root")]
fn a_power_failure_while_a_large_wal_is_folded_loses_nothing() {
    let (base, ops) = operations(FOLDING);
    let synced = usize::try_from(FOLDING_WRITES).unwrap() + 2;
    // On a machine that stops for a while the committer takes that for rest, and folds
    // before all is written.
    let found = (0..3).find_map(|_| {
        let events = history(FOLDING);
        let fold = fold_after(&events, Mark::Begun(synced))?;
        Some((events, fold))
    });
    let (events, fold) = found.expect("it is folded after the sync");
    // Of the states before nothing is asked, and each holds the whole file.
    let states: Vec<_> = states(&base, &ops).skip(synced).collect();
    let mut at_ends = vec![fold.first, fold.last, fold.last + 1, events.len()];
    for number in 0..FOLDING_IMAGES * factor() {
        let mut random = Random(number as u64);
        let between = fold.first + random.below(fold.last - fold.first + 1);
        let at = at_ends.pop().unwrap_or(between);
        let events = &events[..at];
        let (promised, begun) = progress(events);
        let dir = tempfile::tempdir().unwrap();
        restore(&image(events, Syncs::Kept, &mut random), dir.path());
        kept_operations(
            &dir.path().join(NAME),
            &base,
            states[..=begun - synced].iter(),
            promised.saturating_sub(synced),
        )
        .unwrap_or_else(|why| panic!("image {number}, event {at} of {fold:?}: {why}"));
    }
    let line = format!(
        "{} bytes of -wal folded in {} writes, {} images",
        fold.wal_bytes,
        fold.writes,
        FOLDING_IMAGES * factor()
    );
    writeln!(std::io::stderr(), "{line}").unwrap();
}

/// The tests above can fail: on a disk that only says that it synced, something that
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
