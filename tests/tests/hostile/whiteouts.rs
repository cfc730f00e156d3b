//! Whiteouts by the million: what they may cost in time and memory. Prints the
//! figures that are in docs/TESTING.md.

#![allow(clippy::print_stdout, reason = "shown with --nocapture")]

use std::fs;
use std::time::{Duration, Instant};

use agentfs_tests::{Finished, Who, World};
use rusqlite::Connection;

const WHITEOUTS: u32 = 2_000_000;
/// For one command, on a machine that does other things as well.
const LIMIT: Duration = Duration::from_secs(90);
/// For one command, and for a server.
const MEMORY_MAX_MIB: u64 = 1024;

/// A session with `count` whiteouts; `path` and `parent` as SQL of `n.i`.
fn world(count: u32, path: &str, parent: &str) -> World {
    let world = World::new(Who::current()).expect("the current user");
    fs::write(world.project.join("file"), "text\n").unwrap();
    let _ = world.agentfs_out(["init", "hostile"]);
    let conn = Connection::open(world.database("hostile")).unwrap();
    conn.execute_batch(&format!(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -200000; \
         DROP INDEX idx_fs_whiteout_parent; \
         INSERT INTO fs_whiteout WITH RECURSIVE n(i) AS \
         (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) \
         SELECT {path}, {parent}, 0 FROM n; \
         CREATE INDEX idx_fs_whiteout_parent ON fs_whiteout(parent_path)"
    ))
    .unwrap();
    world
}

/// Runs a command to its good end; it may not take more memory than that.
fn bounded(world: &World, args: &[&str]) -> Finished {
    let started = Instant::now();
    let mut running = world.agentfs(args).start();
    let mut peak = 0;
    while running.ended().is_none() {
        assert!(started.elapsed() < LIMIT, "{args:?}: still running");
        peak = peak.max(peak_mib(running.pid()).unwrap_or(0));
        std::thread::sleep(Duration::from_millis(2));
    }
    let done = running.wait().ok();
    println!("{args:?}: {:?}, {peak} MiB", done.took);
    assert!(peak < MEMORY_MAX_MIB, "{args:?} took {peak} MiB");
    done
}

/// The most memory that a process has had.
fn peak_mib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib >> 10)
}

fn check(world: &World) {
    assert_eq!(bounded(world, &["diff", "hostile"]).out(), "");
    let listed = bounded(world, &["fs", "ls", "hostile"]);
    assert_eq!(listed.out(), "f file\n");
    let found = bounded(world, &["check", "hostile"]);
    assert!(found.err().contains("is sound"), "{found}");
    assert!(
        found.out().contains("more notices than are listed"),
        "{found}"
    );
    for args in [&["kv", "list", "hostile"][..], &["timeline", "hostile"]] {
        let _ = bounded(world, args);
    }
}

#[test]
fn two_million_whiteouts_in_one_directory() {
    let world = world(WHITEOUTS, "'/w' || i", "'/'");
    check(&world);
}

#[test]
fn a_whiteout_in_each_of_two_hundred_thousand_directories() {
    let world = world(WHITEOUTS / 10, "'/d' || i || '/w'", "'/d' || i");
    check(&world);
}

#[test]
#[cfg_attr(missing_fuse, ignore = "skipped: no /dev/fuse")]
fn a_session_with_two_million_whiteouts() {
    let world = world(WHITEOUTS, "'/w' || i", "'/'");
    let script = "ls; echo new >w7; rm file; mkdir d; ls";
    let mut running = world
        .in_session("hostile", &format!("{script}; sleep 600"))
        .start();
    let started = Instant::now();
    while !world.database("hostile").exists()
        || !String::from_utf8_lossy(&running.printed().0).contains("w7")
    {
        assert!(started.elapsed() < LIMIT, "nothing happens");
        std::thread::sleep(Duration::from_millis(50));
    }
    let live = world.agentfs_out(["ps", "--json"]).out();
    let live: serde_json::Value = serde_json::from_str(&live).unwrap();
    let pid = live[0]["server_pid"].as_u64().unwrap();
    let peak = peak_mib(u32::try_from(pid).unwrap()).unwrap();
    println!("a session: {:?}, {peak} MiB", started.elapsed());
    let _ = world.agentfs(["stop", "hostile"]).finish().ok();
    drop(running);
    assert!(peak < MEMORY_MAX_MIB, "the server took {peak} MiB");
}
