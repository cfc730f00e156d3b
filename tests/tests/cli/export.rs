//! `agentfs export`: what it copies, what it refuses, and what it leaves alone.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use agentfs_tests::{Run, World};

use super::{change, check, create, demo};

/// A project with a session in which there is a file.
fn with_a_file() -> World {
    let world = demo();
    change(&world, "demo", |view| {
        create(view, b"made", b"in the session");
    });
    world
}

/// That SQLite and agentfs find a copy sound, and what a file in it holds.
fn cat_of(world: &World, copy: &Path, path: &str) -> String {
    let sqlite = Run::new("/usr/bin/sqlite3")
        .arg(copy)
        .arg("PRAGMA integrity_check")
        .finish()
        .ok();
    assert_eq!(sqlite.out(), "ok\n");
    let copy = copy.to_str().unwrap();
    let _ = world.agentfs_out(["check", copy]);
    world.agentfs_out(["fs", "cat", copy, path]).out()
}

/// A copy elsewhere does not say which directory it is of: nothing is held against none.
#[test]
fn a_copy_elsewhere_is_looked_at_by_itself() {
    let world = with_a_file();
    let done = world.in_session("demo", "rm file").finish();
    let _ = done.ok();
    check(&world, &["export", "demo", "../copy.db"], 0, "", "");
    let copy = world.dir.join("copy.db").to_str().unwrap().to_owned();
    let unknown = "agentfs: the database says nothing of a base directory: ";
    let sound = format!("{unknown}the database was checked by itself\nagentfs: {copy} is sound\n");
    check(&world, &["check", &copy], 0, "", &sound);
    let alone = format!("{unknown}only what the session itself holds is shown\n");
    check(&world, &["fs", "ls", &copy], 0, "f made\n", &alone);
}

#[test]
#[cfg_attr(missing_sqlite3, ignore = "skipped: sqlite3 is not installed")]
fn a_copy_is_the_session_in_one_file() {
    let world = with_a_file();
    let before = fs::read(world.database("demo")).unwrap();
    let copy = world.dir.join("copies/one.db");
    fs::create_dir(world.dir.join("copies")).unwrap();
    check(&world, &["export", "demo", "../copies/one.db"], 0, "", "");
    assert_eq!(cat_of(&world, &copy, "/made"), "in the session");
    let beside = fs::read_dir(world.dir.join("copies")).unwrap().count();
    assert_eq!(beside, 1, "nothing else is left there");
    assert_eq!(fs::read(world.database("demo")).unwrap(), before);
    // At the place of a session it is one.
    let place = world.database("second");
    check(
        &world,
        &["export", "demo", place.to_str().unwrap()],
        0,
        "",
        "",
    );
    let done = world
        .in_session("second", "cat made; echo more >made")
        .finish();
    assert_eq!(done.ok().out(), "in the session");
    assert_eq!(cat_of(&world, &copy, "/made"), "in the session");
}

#[test]
fn what_is_there_is_replaced_only_when_asked() {
    let world = with_a_file();
    let there = world.project.join("there.db");
    fs::write(&there, "precious").unwrap();
    let refused = |args: &[&str], why: &str| {
        let err = format!("agentfs: {why}\n");
        check(&world, args, 1, "", &err);
    };
    refused(
        &["export", "demo", "there.db"],
        "PROJECT/there.db exists: choose another file, or replace it with --force",
    );
    assert_eq!(fs::read(&there).unwrap(), b"precious");
    let _ = Run::new("mkfifo")
        .arg(world.project.join("pipe"))
        .finish()
        .ok();
    fs::write(world.project.join("there.db-wal"), "of another database").unwrap();
    check(
        &world,
        &["export", "--force", "demo", "there.db"],
        0,
        "",
        "",
    );
    let cat = world.agentfs_out(["fs", "cat", "there.db", "/made"]);
    assert_eq!(cat.out(), "in the session");
    assert!(!world.project.join("there.db-wal").exists());
    fs::write(world.project.join("left.db-wal"), "of another database").unwrap();
    refused(
        &["export", "demo", "left.db"],
        "PROJECT/left.db-wal is left of another database and would be taken for the copy's: \
         remove it, or use --force",
    );
    for force in [&["--force"][..], &[]] {
        let args = |file| [&["export"], force, &["demo", file]].concat();
        refused(
            &args(".agentfs/demo.db"),
            "PROJECT/.agentfs/demo.db is the session itself: choose another file",
        );
        refused(
            &args("dir"),
            "PROJECT/dir is a directory: name a file in it",
        );
        refused(
            &args("pipe"),
            "PROJECT/pipe is a device, a pipe or a socket: name a file",
        );
    }
    let nowhere = world
        .agentfs(["export", "demo", "no/such/place.db"])
        .finish();
    assert_eq!(nowhere.code(), 1, "{nowhere}");
    assert!(
        nowhere.err().contains("no/such/place.db cannot be written"),
        "{nowhere}"
    );
    let left: Vec<_> = fs::read_dir(&world.project)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("export"))
        .collect();
    assert_eq!(left, [] as [String; 0], "nothing half-made is left");
}

#[test]
fn a_live_session_is_not_replaced() {
    let world = with_a_file();
    let _ = world.agentfs_out(["init", "other"]);
    let mut running = world.in_session("other", "echo up; exec sleep 600").start();
    crate::session::eventually("it is up", || running.printed().0 == b"up\n");
    let inode = fs::metadata(world.database("other")).unwrap().ino();
    check(
        &world,
        &["export", "--force", "demo", ".agentfs/other.db"],
        1,
        "",
        "agentfs: PROJECT/.agentfs/other.db is the database of a session that is running or mounted: end that first\n",
    );
    assert_eq!(fs::metadata(world.database("other")).unwrap().ino(), inode);
    running.kill();
}

/// Files are made one after the other; each copy has the first so many of them, at
/// least those that were there when it was asked for.
#[test]
#[cfg_attr(missing_sqlite3, ignore = "skipped: sqlite3 is not installed")]
fn copies_of_a_session_at_work_are_each_one_moment() {
    let world = demo();
    let script = "i=0; while :; do i=$((i+1)); echo $i >n$i; echo $i; done";
    let mut running = world.in_session("demo", script).start();
    let mut done = || {
        let out = String::from_utf8(running.printed().0).unwrap();
        let whole = out.rfind('\n').map_or("", |end| &out[..end]);
        whole
            .lines()
            .last()
            .map_or(0, |line| line.parse::<usize>().unwrap())
    };
    crate::session::eventually("it is at work", || done() > 50);
    for number in 0..4 {
        let copy = world.dir.join(format!("copy{number}.db"));
        let before = done();
        let _ = world.agentfs_out(["export", "demo", copy.to_str().unwrap()]);
        let after = done();
        let list = world
            .agentfs_out(["fs", "ls", copy.to_str().unwrap()])
            .out();
        let mut numbers: Vec<usize> = list
            .lines()
            .filter_map(|line| line.rsplit_once(" n")?.1.parse().ok())
            .collect();
        numbers.sort_unstable();
        let count = numbers.len();
        assert_eq!(numbers, (1..=count).collect::<Vec<_>>(), "without gaps");
        // One more may have been made and not told yet.
        assert!(
            (before..=after + 1).contains(&count),
            "{before} {count} {after}"
        );
        assert_eq!(
            cat_of(&world, &copy, &format!("/n{before}")),
            format!("{before}\n")
        );
    }
    running.kill();
}
