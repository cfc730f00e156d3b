//! Sessions as a whole: their life, the terminal, exit codes, and what nothing
//! inside may do.
//!
//! Everything here runs the real binary; each test has a world of its own.

mod beside;
mod escape;
mod life;
mod outcome;
mod places;
mod rest;
mod terminal;
mod tty;

use std::path::Path;
use std::time::{Duration, Instant};

use agentfs_testkit::reads::reads_in;
use agentfs_tests::user::Who;
use agentfs_tests::world::World;

/// How long anything that happens in the background may take.
const PATIENCE: Duration = Duration::from_secs(45);

/// Runs a test in a world of root's and in one of an ordinary user's.
pub(crate) fn as_everyone(test: impl Fn(&World)) {
    let mut ran = 0;
    for who in [Who::Root, Who::Ordinary] {
        match World::new(who) {
            Ok(world) => {
                test(&world);
                ran += 1;
            }
            Err(why) => agentfs_tests::skip::skipped(&why),
        }
    }
    assert!(ran > 0, "neither as root nor as an ordinary user");
}

/// Waits until something is so.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(
            started.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The live session on a database of this world, as the session layer tells it.
pub(crate) fn live(world: &World, name: &str) -> Option<serde_json::Value> {
    let listed = world.agentfs(["ps", "--json"]).finish().ok();
    let sessions: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON from ps");
    let db = world.database(name);
    sessions
        .as_array()
        .expect("an array")
        .iter()
        .find(|session| session["database"].as_str().map(Path::new) == Some(db.as_path()))
        .cloned()
}

/// The process of a live session's server.
pub(crate) fn server_pid(world: &World, name: &str) -> i32 {
    let session = live(world, name).expect("a live session");
    i32::try_from(session["server_pid"].as_i64().expect("a pid")).expect("a pid")
}

/// How often the server of a live session has read, requests included.
pub(crate) fn server_reads(world: &World, name: &str) -> u64 {
    reads_in(&io_of_server(world, name))
}

/// The same once it reads no more: programs rest, and the holder has looked at what they
/// used, which the server answers, too.
pub(crate) fn reads_at_rest(world: &World, name: &str) -> u64 {
    let io = io_of_server(world, name);
    let mut reads = reads_in(&io);
    eventually("the session rests", || {
        std::thread::sleep(Duration::from_millis(300));
        let earlier = std::mem::replace(&mut reads, reads_in(&io));
        earlier == reads
    });
    reads
}

fn io_of_server(world: &World, name: &str) -> String {
    format!("/proc/{}/io", server_pid(world, name))
}
