//! [`BaseWatcher`] tells what others do in watched directories, soon and once.

#![allow(clippy::unwrap_used)] // A failing helper fails the test.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use agentfs_core::{Ino, LowerPath, Name};
use agentfs_hostdir::{BaseChange, BaseWatcher, EntryChange, HostDir, WatchState};

struct Watched {
    place: tempfile::TempDir,
    watcher: BaseWatcher,
    told: Receiver<BaseChange>,
}

const DIR: Ino = Ino(77);

fn watched() -> Watched {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("d")).unwrap();
    fs::write(place.path().join("d/old"), "").unwrap();
    let host = Arc::new(HostDir::open(place.path()).unwrap());
    let (sender, told) = channel();
    let watcher = BaseWatcher::start(host, move |change| sender.send(change).unwrap()).unwrap();
    assert_eq!(
        watcher.watch(&LowerPath::parse(b"d").unwrap(), DIR),
        WatchState::Watched
    );
    Watched {
        place,
        watcher,
        told,
    }
}

impl Watched {
    fn at(&self, name: &str) -> PathBuf {
        self.place.path().join("d").join(name)
    }

    fn next(&self) -> BaseChange {
        self.told.recv_timeout(Duration::from_secs(10)).unwrap()
    }

    fn assert_quiet(&self) {
        let told = self.told.recv_timeout(Duration::from_millis(100));
        assert!(told.is_err(), "{told:?}");
    }
}

fn entry(name: &str, change: EntryChange) -> BaseChange {
    BaseChange::Entry {
        dir: DIR,
        name: Name::new(name.as_bytes()).unwrap(),
        change,
    }
}

#[test]
fn each_kind_of_change_is_told() {
    let w = watched();
    fs::OpenOptions::new()
        .append(true)
        .open(w.at("old"))
        .unwrap()
        .write_all(b"x")
        .unwrap();
    assert_eq!(w.next(), entry("old", EntryChange::Object));
    let mut permissions = fs::metadata(w.at("old")).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(w.at("old"), permissions).unwrap();
    assert_eq!(w.next(), entry("old", EntryChange::Object));
    fs::write(w.at("new"), "x").unwrap();
    assert_eq!(w.next(), entry("new", EntryChange::Name));
    fs::rename(w.at("new"), w.at("newer")).unwrap();
    assert_eq!(w.next(), entry("new", EntryChange::Name));
    assert_eq!(w.next(), entry("newer", EntryChange::Name));
    fs::remove_file(w.at("newer")).unwrap();
    assert_eq!(w.next(), entry("newer", EntryChange::Name));
    // Its parent tells that it is gone; then nothing keeps it open, and it tells
    // of its own end.
    let top = Ino(76);
    assert_eq!(
        w.watcher.watch(&LowerPath::root(), top),
        WatchState::Watched
    );
    fs::remove_dir_all(w.place.path().join("d")).unwrap();
    let mut rest = Vec::new();
    while let Ok(told) = w.told.recv_timeout(Duration::from_millis(300)) {
        rest.push(told);
    }
    let name = Name::new(b"d").unwrap();
    let gone = BaseChange::Entry {
        dir: top,
        name,
        change: EntryChange::Name,
    };
    for told in [
        entry("old", EntryChange::Name),
        gone,
        BaseChange::Directory { dir: DIR },
    ] {
        assert!(rest.contains(&told), "{told:?} not in {rest:?}");
    }
    assert_eq!(w.watcher.watched_count(), 1);
}

#[test]
fn reading_is_no_change_and_a_burst_is_told_once() {
    let w = watched();
    fs::read(w.at("old")).unwrap();
    fs::read_dir(w.at("")).unwrap().for_each(drop);
    w.assert_quiet();
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(w.at("old"))
        .unwrap();
    for _ in 0..100 {
        file.write_all(b"x").unwrap();
    }
    drop(file);
    let first = w.next();
    assert_eq!(first, entry("old", EntryChange::Object));
    let more = std::iter::from_fn(|| w.told.recv_timeout(Duration::from_millis(100)).ok());
    assert!(more.count() <= 2);
}

#[test]
fn what_is_no_longer_watched_is_not_told() {
    let w = watched();
    w.watcher.unwatch(DIR);
    w.watcher.unwatch(Ino(78));
    fs::write(w.at("new"), "x").unwrap();
    w.assert_quiet();
    let missing = LowerPath::parse(b"none").unwrap();
    assert_eq!(w.watcher.watch(&missing, Ino(5)), WatchState::Unwatched);
    let file = LowerPath::parse(b"d/old").unwrap();
    assert_eq!(w.watcher.watch(&file, Ino(5)), WatchState::Unwatched);
    assert_eq!(w.watcher.watched_count(), 0);
}

#[test]
fn what_is_no_longer_watched_is_not_kept_open() {
    let w = watched();
    let dir = w.place.path().join("d").canonicalize().unwrap();
    let open = || {
        let descriptors = fs::read_dir("/proc/self/fd").unwrap().flatten();
        descriptors
            .filter(|fd| fs::read_link(fd.path()).is_ok_and(|path| path == dir))
            .count()
    };
    assert_eq!(open(), 1);
    w.watcher.unwatch(DIR);
    assert_eq!(open(), 0);
}

#[test]
fn a_flood_is_told_as_loss() {
    let w = watched();
    for i in 0..20_000 {
        fs::write(w.at(&format!("f{i}")), "").unwrap();
    }
    let mut told = Vec::new();
    while let Ok(change) = w.told.recv_timeout(Duration::from_millis(300)) {
        told.push(change);
    }
    let lost = told.contains(&BaseChange::Lost);
    assert!(
        lost || told.len() >= 20_000,
        "{} told, loss not told",
        told.len()
    );
}

#[test]
fn the_limit_is_kept() {
    let place = tempfile::tempdir().unwrap();
    let host = Arc::new(HostDir::open(place.path()).unwrap());
    let watcher = BaseWatcher::start_with_limit(host, 2, |_| {}).unwrap();
    let watch = |number: u64| {
        let name = format!("d{number}");
        fs::create_dir_all(place.path().join(&name)).unwrap();
        watcher.watch(&LowerPath::parse(name.as_bytes()).unwrap(), Ino(number))
    };
    let states = [1, 2, 3, 2].map(|number| watch(number) == WatchState::Watched);
    assert_eq!(states, [true, true, false, true]);
    watcher.unwatch(Ino(1));
    assert_eq!(watch(3), WatchState::Watched);
    assert_eq!(watcher.watched_count(), 2);
}
