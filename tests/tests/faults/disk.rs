//! The disk under the database fails: input and output, space, quota, and a file
//! system that has become read-only (which only happens to one in use when an error
//! made it so: the kernel refuses to remount it).

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use agentfs_tests::World;
use agentfs_tests::disk::Event;
use agentfs_tests::power::{Image, Random, Syncs, image, restore};
use rustix::process::{Pid, Signal, kill_process};

use super::{Told, check_afterwards, on_a_disk};
use crate::session::server_pid;

/// Each way to fail, and what a program is told: by `sync`, and by what grows.
const FAULTS: [(i32, &str); 4] = [
    (libc::EIO, "Input/output error"),
    (libc::ENOSPC, "No space left on device"),
    (libc::EDQUOT, "No space left on device"),
    (libc::EROFS, "Read-only file system"),
];

const SCRIPT: &str = "echo kept > kept; sync kept; echo up
await failing
echo first > first; try sync first
try dd if=/dev/zero of=second bs=1000 count=1 status=none
cat kept; rm kept-not-at-all 2>/dev/null
echo failed
await well
until sync first 2>/dev/null; do sleep 0.05; done
echo third > third; sync third; echo recovered
await end";

#[test]
#[cfg_attr(missing_root, ignore = "skipped: mounting the disk needs root")]
fn a_failing_disk_is_told_and_recovered_from() {
    for (errno, words) in FAULTS {
        on_a_disk(|world, disk| {
            let mut told = Told::start(world, &[], SCRIPT);
            disk.fail(Some(errno));
            told.go_on("failing", "failed");
            let out = told.out();
            assert_eq!(
                out.matches(words).count(),
                2,
                "sync and dd are told \"{words}\": {out}"
            );
            assert!(out.contains("\nkept\n"), "reading goes on: {out}");
            let log = told.log();
            assert!(log.contains("a batch was not written"), "{words}: {log}");
            assert!(log.contains("s.db"), "the file is named: {log}");
            disk.fail(None);
            told.go_on("well", "recovered");
            let done = told.end("end");
            assert_eq!(done.code(), 0, "{done}");
            check_afterwards(world, "cat kept first third", "kept\nfirst\nthird\n");
        });
    }
}

#[test]
#[cfg_attr(missing_root, ignore = "skipped: mounting the disk needs root")]
fn a_disk_that_fails_to_the_end_loses_only_what_was_not_committed() {
    for (errno, _) in FAULTS {
        on_a_disk(|world, disk| {
            let script = "echo kept > kept; sync kept; echo up
await failing
echo lost > lost; echo failed
await end";
            let mut told = Told::start(world, &[], script);
            disk.fail(Some(errno));
            told.go_on("failing", "failed");
            let done = told.end("end");
            assert_eq!(done.code(), 0, "the program's own: {done}");
            assert!(
                done.err().contains("could not be saved"),
                "who waits for the end is told: {done}"
            );
            disk.fail(None);
            check_afterwards(world, "cat kept; ls", "kept\nkept\n");
        });
    }
}

/// A project whose database is what a power failure left.
fn restored(world: &World, number: usize, image: &Image) -> PathBuf {
    let project = world.dir.join(format!("image{number}"));
    let holder = project.join(".agentfs");
    fs::create_dir_all(&holder).unwrap();
    restore(image, &holder);
    world.own(&project);
    project
}

/// Whatever a power failure after these leaves, the three files are in it.
fn all_is_on_the_disk(world: &World, events: &[Event], seed: u64) {
    assert!(events.iter().any(|e| matches!(e, Event::Lost { .. })));
    let mut random = Random(seed);
    for number in 0..8 {
        let project = restored(world, number, &image(events, Syncs::Kept, &mut random));
        let inside = |args: &[&str]| world.agentfs(args).dir(&project).finish().ok().out();
        inside(&["check", "s"]);
        for name in ["kept", "first", "second"] {
            let content = inside(&["fs", "cat", "s", &format!("/{name}")]);
            assert_eq!(content, format!("{name}\n"), "image {number}");
        }
    }
}

/// The kernel tells of what it could not write once; the sync after that succeeds, and
/// says nothing.
#[test]
#[cfg_attr(missing_root, ignore = "skipped: mounting the disk needs root")]
fn regression_a_sync_after_a_failed_one_has_it_all_on_the_disk() {
    const FILES: usize = 20;
    on_a_disk(|world, disk| {
        let script = format!(
            "echo up; await begin
             echo kept > kept; sync kept; echo begun
             await losing
             echo first > first; try sync first; echo failed
             await well
             i=1; while [ $i -le {FILES} ]; do echo $i > n$i; sync n$i; i=$((i+1)); done
             echo second > second; sync second; echo promised
             await end"
        );
        disk.begin_record();
        let mut told = Told::start(world, &[], &script);
        told.go_on("begin", "begun");
        disk.lose_next_sync();
        told.go_on("losing", "failed");
        let out = told.out();
        assert!(out.contains("Input/output error"), "it is told: {out}");
        told.go_on("well", "promised");
        let out = told.out();
        assert_eq!(out.matches("syncing").count(), 1, "only the first: {out}");
        let events = disk.end_record();
        assert_eq!(told.end("end").code(), 0);
        all_is_on_the_disk(world, &events, 61);
    });
}

/// What the kernel told the one, it does not tell the next.
#[test]
#[cfg_attr(missing_root, ignore = "skipped: mounting the disk needs root")]
fn regression_a_killed_server_leaves_its_failed_sync_to_the_next() {
    on_a_disk(|world, disk| {
        disk.begin_record();
        let script = "echo up; await begin
echo kept > kept; sync kept; echo begun
await losing
echo first > first; try sync first; echo failed
await end";
        let mut told = Told::start(world, &[], script);
        told.go_on("begin", "begun");
        disk.lose_next_sync();
        told.go_on("losing", "failed");
        assert!(told.out().contains("Input/output error"), "{}", told.out());
        let server = Pid::from_raw(server_pid(world, "s")).unwrap();
        kill_process(server, Signal::KILL).unwrap();
        let _ = told.end("end");
        let script = "cat first; echo up; await well
echo second > second; sync second; echo promised
await end-again";
        let mut told = Told::start(world, &[], script);
        told.go_on("well", "promised");
        let events = disk.end_record();
        assert_eq!(told.end("end-again").code(), 0);
        all_is_on_the_disk(world, &events, 62);
    });
}

/// Of a whole session, from the making of its database to its end, as `power.rs`
/// shows for a database alone.
#[test]
#[cfg_attr(missing_root, ignore = "skipped: mounting the disk needs root")]
fn a_power_failure_under_a_session_leaves_what_was_synced() {
    on_a_disk(|world, disk| {
        const FILES: usize = 60;
        disk.begin_record();
        let script = format!(
            "i=1; while [ $i -le {FILES} ]; do echo $i >n$i
             [ $((i % 10)) = 0 ] && sync n$i && echo $i; i=$((i+1)); done"
        );
        let mut running = world.in_session("s", &script).start();
        // What was told by the time of so many events.
        let mut promises = Vec::new();
        let mut ended = false;
        while !ended {
            ended = running.ended().is_some();
            let out = String::from_utf8_lossy(&running.printed().0).into_owned();
            let whole = out.rfind('\n').map_or("", |end| &out[..end]);
            let last = whole.lines().last().and_then(|line| line.parse().ok());
            promises.push((disk.recorded(), last.unwrap_or(0)));
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = running.wait().ok();
        let events = disk.end_record();
        let mut random = Random(60);
        for number in 0..15 {
            // The last is what is there when `run` has returned.
            let at = match number {
                0 => events.len(),
                _ => random.below(events.len() + 1),
            };
            let promised = promises.iter().filter(|(count, _)| *count <= at);
            let promised: usize = promised.map(|(_, last)| *last).max().unwrap_or(0);
            let image = image(&events[..at], Syncs::Kept, &mut random);
            let project = restored(world, number, &image);
            if !image.contains_key(OsStr::new("s.db")) {
                assert_eq!(promised, 0, "event {at}: there is no database");
                continue;
            }
            let inside = |args: &[&str]| world.agentfs(args).dir(&project).finish().ok().out();
            inside(&["check", "s"]);
            let list = inside(&["fs", "ls", "s"]);
            let files = list.lines().filter(|line| line.starts_with("f n")).count();
            assert!(
                files >= promised,
                "event {at}: {files} of {promised}: {list}"
            );
            if promised > 0 {
                let content = inside(&["fs", "cat", "s", &format!("/n{promised}")]);
                assert_eq!(content, format!("{promised}\n"));
            }
        }
        assert!(promises.iter().any(|(_, last)| *last == FILES));
    });
}
