//! How many requests an operation costs. A round trip costs more than most
//! operations do, so that these numbers are the speed of the mount.

use std::fs;
use std::sync::Arc;

use agentfs_core::lower::MemoryLower;
use agentfs_fuse::Operation::{
    Create, Getattr, Lookup, Mknod, Open, Read, Release, Setattr, Write,
};
use agentfs_fuse::{FuseConfig, Unchanging};

use crate::{CACHES, memory_view, skip, writeback};

#[test]
fn what_is_known_is_not_asked() {
    let _caches = CACHES.read();
    let base = MemoryLower::new();
    for i in 0..100 {
        base.file(format!("f{i}"), 0o644, "content").unwrap();
    }
    let Some(view) = memory_view(&base) else {
        return;
    };
    let counters = view.server().counters();
    let read_all = || {
        for i in 0..100 {
            let path = view.at(&format!("f{i}"));
            assert_eq!(fs::metadata(&path).unwrap().len(), 7);
            assert_eq!(fs::read(&path).unwrap(), b"content");
            assert!(!view.at(&format!("none{i}")).exists());
        }
    };
    read_all();
    eprintln!("100 files stat, read, 100 missing, cold: {counters}");
    assert_eq!(counters.get(Lookup), 200);
    assert_eq!(counters.get(Read), 100);
    assert!(counters.get(Open) <= 1);
    for _ in 0..2 {
        counters.reset();
        read_all();
        eprintln!("the same again: {counters}");
        // Reading makes the kernel doubt the access time, once; closing a file
        // under writeback makes it doubt the blocks allocated, every time.
        assert!(counters.total() <= 100 && counters.get(Getattr) == counters.total());
    }
    if !writeback() {
        assert_eq!(counters.total(), 0);
    }
    let stat_all = || (0..100).for_each(|i| drop(fs::metadata(view.at(&format!("f{i}")))));
    stat_all();
    counters.reset();
    stat_all();
    assert_eq!(counters.total(), 0);
}

/// Where a directory is watched, so are the entries that a listing told: also those of
/// directories that nobody had entered by then.
#[test]
fn a_listed_directory_is_not_looked_up() {
    let _caches = CACHES.read();
    let base = MemoryLower::new();
    for i in 0..50 {
        base.dir(format!("d{i}"), 0o755).unwrap();
        base.file(format!("d{i}/f"), 0o644, "content").unwrap();
    }
    let Some(view) = memory_view(&base) else {
        return;
    };
    let walk = || {
        let entries = fs::read_dir(&*view).unwrap();
        let below = entries.map(|entry| fs::read_dir(entry.unwrap().path()).unwrap().count());
        assert_eq!(below.sum::<usize>(), 50);
    };
    walk();
    let counters = view.server().counters();
    counters.reset();
    // Longer than what is told of a directory that nobody watches holds.
    std::thread::sleep(FuseConfig::new(Arc::new(Unchanging)).unwatched_ttl * 2);
    walk();
    eprintln!("50 directories walked again: {counters}");
    assert_eq!(counters.get(Lookup), 0);
}

#[test]
fn a_new_file_takes_few() {
    let _caches = CACHES.read();
    let Some(view) = memory_view(&MemoryLower::new()) else {
        return;
    };
    let counters = view.server().counters();
    fs::write(view.at("first"), "x").unwrap();
    counters.reset();
    for i in 0..100 {
        fs::write(view.at(&format!("f{i}")), "content").unwrap();
    }
    eprintln!("100 files create, write, close: {counters}");
    assert_eq!(counters.get(Lookup), 100);
    assert_eq!(counters.get(Mknod), 100);
    assert_eq!(counters.get(Write), 100);
    // Only where the clock ticks between making and writing.
    assert!(counters.get(Setattr) < if writeback() { 100 } else { 1 });
    assert_eq!(
        counters.get(Create) + counters.get(Open) + counters.get(Release),
        0
    );
    assert!(counters.get(Getattr) <= 100);
    counters.reset();
    for i in 0..100 {
        fs::remove_file(view.at(&format!("f{i}"))).unwrap();
    }
    eprintln!("100 files unlink: {counters}");
}

#[test]
fn git_status_asks_little() {
    let _caches = CACHES.read();
    let git = |dir: &std::path::Path, args: &[&str]| {
        std::process::Command::new("git")
            .args([
                "-c",
                "user.name=a",
                "-c",
                "user.email=a@b",
                "-c",
                "core.fsmonitor=false",
            ])
            .args(args)
            .current_dir(dir)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
    };
    if git("/".as_ref(), &["--version"]).is_err() {
        return skip("git is not installed");
    }
    const FILES: usize = 2000;
    let Some(view) = crate::host_view(|base| {
        for i in 0..FILES {
            let dir = base.join(format!("d{}", i % 40));
            fs::create_dir_all(&dir).unwrap();
            let file = dir.join(format!("f{i}"));
            fs::write(&file, format!("content {i}")).unwrap();
            // As old as the index, git would not trust its size and read it anew.
            let yesterday = std::time::SystemTime::now() - std::time::Duration::from_secs(86_400);
            let times = fs::FileTimes::new().set_modified(yesterday);
            let file = fs::File::options().write(true).open(file).unwrap();
            file.set_times(times).unwrap();
        }
        for args in [
            &["init", "-q"][..],
            &["add", "."],
            &["commit", "-qm", "all"],
        ] {
            assert!(git(base, args).unwrap().status.success());
        }
    }) else {
        return;
    };
    let counters = view.server().counters();
    let status = |what: &str| {
        counters.reset();
        let start = std::time::Instant::now();
        let output = git(&view, &["status", "--porcelain"]).unwrap();
        eprintln!(
            "git status, {FILES} files, {what}, {:?}: {counters}",
            start.elapsed()
        );
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stdout), "");
        counters.total()
    };
    status("first");
    status("second");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    status("after the short lifetimes");
    let hot = status("hot");
    assert!(hot < 60, "{hot} requests");
}
