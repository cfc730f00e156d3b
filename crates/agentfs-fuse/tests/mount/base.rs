//! Changes that others make to the base, and to the storage.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agentfs_core::lower::MemoryLower;
use agentfs_core::storage::{InodeRow, Storage, WriteTxn};
use agentfs_core::{FileKind, FsError, Ino, LowerPath, Name, Timestamp};
use agentfs_fuse::{DirInterest, EntryChange};
use agentfs_hostdir::HostDir;

use crate::{HostView, View, host_view, memory_view, names_in, within, within_a_second};

fn view() -> Option<HostView> {
    let view = host_view(|base| {
        fs::create_dir_all(base.join("d/sub")).unwrap();
        fs::write(base.join("d/f"), "before").unwrap();
        fs::write(base.join("d/sub/g"), "before").unwrap();
        fs::write(base.join("top"), "before").unwrap();
    })?;
    // Everything cached: entries, negative entries, attributes, pages, listings.
    for _ in 0..2 {
        assert_eq!(fs::read(view.at("d/f")).unwrap(), b"before");
        assert_eq!(fs::read(view.at("d/sub/g")).unwrap(), b"before");
        assert_eq!(names_in(&view.at("d")), ["f", "sub"]);
        assert!(!view.at("d/new").exists() && !view.at("new").exists());
    }
    Some(view)
}

#[test]
fn content_size_and_times_follow() {
    let Some(view) = view() else { return };
    let on_host = view.base.path().join("d/f");
    for text in ["after, and longer", "short", "same!", ""] {
        fs::write(&on_host, text).unwrap();
        within_a_second(text, || {
            let (host, shown) = (
                fs::metadata(&on_host).unwrap(),
                fs::metadata(view.at("d/f")).unwrap(),
            );
            fs::read_to_string(view.at("d/f")).unwrap() == text
                && shown.size() == text.len() as u64
                && (shown.mtime(), shown.mtime_nsec()) == (host.mtime(), host.mtime_nsec())
        });
    }
    fs::set_permissions(&on_host, fs::Permissions::from_mode(0o600)).unwrap();
    within_a_second("mode", || {
        fs::metadata(view.at("d/f")).unwrap().mode() & 0o777 == 0o600
    });
    // As an editor saves: a new file renamed over the old one.
    fs::write(view.base.path().join("d/.f.tmp"), "saved by an editor").unwrap();
    fs::rename(view.base.path().join("d/.f.tmp"), &on_host).unwrap();
    within_a_second("saved", || {
        fs::read(view.at("d/f")).unwrap() == b"saved by an editor"
    });
    assert_eq!(names_in(&view.at("d")), ["f", "sub"]);
}

#[test]
fn names_come_and_go() {
    let Some(view) = view() else { return };
    let base = view.base.path();
    fs::write(base.join("d/new"), "new").unwrap();
    fs::write(base.join("new"), "new").unwrap();
    within_a_second("new name", || {
        fs::read(view.at("d/new")).is_ok_and(|b| b == b"new")
    });
    within_a_second("new name in the root", || view.at("new").exists());
    within_a_second("listed", || names_in(&view.at("d")) == ["f", "new", "sub"]);
    fs::remove_file(base.join("d/f")).unwrap();
    within_a_second("removed", || !view.at("d/f").exists());
    within_a_second("not listed", || names_in(&view.at("d")) == ["new", "sub"]);
    fs::rename(base.join("d/sub"), base.join("d/renamed")).unwrap();
    within_a_second("renamed", || {
        view.at("d/renamed/g").exists() && !view.at("d/sub").exists()
    });
    fs::write(base.join("d/renamed/g"), "changed after the rename").unwrap();
    within_a_second("changed beneath", || {
        fs::read(view.at("d/renamed/g")).is_ok_and(|b| b == b"changed after the rename")
    });
    fs::create_dir(base.join("d/sub")).unwrap();
    fs::write(base.join("d/sub/h"), "in a new directory").unwrap();
    within_a_second("new directory", || names_in(&view.at("d/sub")) == ["h"]);
    fs::remove_dir_all(base.join("d")).unwrap();
    within_a_second("all gone", || names_in(&view) == ["new", "top"]);
}

#[test]
fn directory_times_follow() {
    let Some(view) = view() else { return };
    let mtime = |path: &std::path::Path| {
        let stat = fs::metadata(path).unwrap();
        (stat.mtime(), stat.mtime_nsec())
    };
    File::create(view.base.path().join("d/sub/new")).unwrap();
    // Seen, but never looked into.
    let seen = (view.base.path().join("d/seen"), view.at("d/seen"));
    fs::create_dir(&seen.0).unwrap();
    within_a_second("seen", || seen.1.exists());
    File::create(seen.0.join("new")).unwrap();
    within_a_second("mtime of a directory seen", || {
        mtime(&seen.1) == mtime(&seen.0)
    });
    within_a_second("mtime", || {
        mtime(&view.at("d/sub")) == mtime(&view.base.path().join("d/sub"))
    });
    fs::set_permissions(
        view.base.path().join("d"),
        fs::Permissions::from_mode(0o711),
    )
    .unwrap();
    within_a_second("mode", || {
        fs::metadata(view.at("d")).unwrap().mode() & 0o777 == 0o711
    });
}

#[test]
fn what_the_session_changed_stays_as_it_is() {
    let Some(view) = view() else { return };
    let base = view.base.path();
    fs::write(view.at("d/f"), "ours").unwrap();
    fs::remove_file(view.at("top")).unwrap();
    let mut open = File::create(view.at("d/ours")).unwrap();
    open.write_all(b"not yet written back").unwrap();
    fs::write(base.join("d/f"), "theirs").unwrap();
    fs::write(base.join("top"), "theirs").unwrap();
    fs::write(base.join("d/ours"), "theirs").unwrap();
    fs::write(base.join("d/mark"), "").unwrap();
    within_a_second("the last change", || view.at("d/mark").exists());
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(fs::read(view.at("d/f")).unwrap(), b"ours");
    assert!(!view.at("top").exists());
    assert_eq!(
        fs::read(view.at("d/ours")).unwrap(),
        b"not yet written back"
    );
}

/// A working directory keeps its path while things change around it.
#[test]
fn a_working_directory_is_not_torn_away() {
    let Some(view) = view() else { return };
    let script = "while [ ! -e stop ]; do /bin/pwd || exit 1; done; /bin/pwd";
    let mut child = std::process::Command::new("sh")
        .args(["-c", script])
        .current_dir(view.at("d/sub"))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let base = view.base.path();
    for i in 0..50 {
        fs::write(base.join(format!("d/sub/n{i}")), "").unwrap();
        fs::write(base.join(format!("d/n{i}")), "").unwrap();
        let mode = 0o755 - (i % 2);
        fs::set_permissions(base.join("d/sub"), fs::Permissions::from_mode(mode)).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    fs::write(base.join("d/sub/stop"), "").unwrap();
    let mut said = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    let cwd = view.at("d/sub");
    assert!(
        said.lines().all(|line| line == cwd.to_str().unwrap()),
        "{said}"
    );
}

/// `tail -f` on a log that somebody outside writes.
#[test]
fn growth_shows_in_a_file_that_is_open() {
    let Some(view) = view() else { return };
    let file = File::open(view.at("d/f")).unwrap();
    let mut log = OpenOptions::new()
        .append(true)
        .open(view.base.path().join("d/f"))
        .unwrap();
    let mut expected = b"before".to_vec();
    for line in ["one\n", "two\n", "three\n"] {
        log.write_all(line.as_bytes()).unwrap();
        expected.extend_from_slice(line.as_bytes());
        within_a_second(line, || {
            let mut seen = vec![0; 100];
            let len = file.read_at(&mut seen, 0).unwrap();
            seen[..len] == expected[..]
        });
    }
}

#[test]
fn a_flood_of_changes_shows() {
    let Some(view) = view() else { return };
    let base = view.base.path();
    for i in 0..20_000 {
        fs::write(base.join(format!("d/n{i}")), "").unwrap();
    }
    fs::write(base.join("d/f"), "after the flood").unwrap();
    within_a_second("the flood", || {
        fs::read(view.at("d/f")).unwrap() == b"after the flood"
            && view.at("d/n19999").exists()
            && names_in(&view.at("d")).len() == 20_002
    });
}

/// No watch could be had: what the kernel learns holds for a moment only.
#[test]
fn unwatched_changes_show_a_little_later() {
    let base = tempfile::tempdir().unwrap();
    let on_host = |path: &str| base.path().join(path);
    fs::create_dir(on_host("d")).unwrap();
    fs::write(on_host("d/f"), "before").unwrap();
    let host = Arc::new(HostDir::open(base.path()).unwrap());
    let Some(view) = View::mount(host, Arc::new(NeverTold)) else {
        return;
    };
    let reads = |text: &str| fs::read(view.at("d/f")).is_ok_and(|b| b == text.as_bytes());
    for _ in 0..2 {
        assert!(reads("before") && !view.at("d/new").exists());
        assert_eq!(names_in(&view.at("d")), ["f"]);
    }
    for text in ["after", "longer than before", "short"] {
        fs::write(on_host("d/f"), text).unwrap();
        within(Duration::from_secs(10), text, || reads(text));
    }
    fs::write(on_host("d/new"), "").unwrap();
    within(Duration::from_secs(10), "new", || view.at("d/new").exists());
    within(Duration::from_secs(10), "listed", || {
        names_in(&view.at("d")) == ["f", "new"]
    });
    fs::remove_file(on_host("d/f")).unwrap();
    within(Duration::from_secs(10), "gone", || !view.at("d/f").exists());
}

struct NeverTold;

impl DirInterest for NeverTold {
    fn looked_up(&self, _: Ino, _: &LowerPath) -> bool {
        false
    }

    fn forgotten(&self, _: Ino) {}
}

/// As an SDK does: rows written beside us.
#[test]
fn what_others_write_to_the_storage_shows() {
    let Some(view) = view() else { return };
    fs::write(view.at("made"), "made here").unwrap();
    let ino = Ino(fs::metadata(view.at("made")).unwrap().ino());
    let new = view.overlay.storage().write(|txn: &mut dyn WriteTxn| {
        let row = txn.inode(ino)?.unwrap();
        txn.put_chunk(ino, 0, b"written by others".as_slice().into())?;
        txn.put_inode(ino, &InodeRow { size: 17, ..row })?;
        let new = txn.allocate_ino()?;
        txn.put_inode(new, &upper_file(3))?;
        txn.put_chunk(new, 0, b"new".as_slice().into())?;
        txn.put_dentry(Ino::ROOT, &Name::new(b"new").unwrap(), new)?;
        Ok::<_, FsError>(new)
    });
    view.server().notifier().invalidate_all();
    within_a_second("changed", || {
        fs::read(view.at("made")).unwrap() == b"written by others"
    });
    within_a_second("new", || {
        fs::read(view.at("new")).is_ok_and(|b| b == b"new")
    });
    within_a_second("listed", || names_in(&view).contains(&"new".to_owned()));
    assert_eq!(fs::metadata(view.at("new")).unwrap().ino(), new.unwrap().0);
}

fn upper_file(size: u64) -> InodeRow {
    let now = Timestamp::new(1_700_000_000, 0);
    InodeRow {
        kind: FileKind::Regular,
        perm: 0o644,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size,
        atime: now,
        mtime: now,
        ctime: now,
        origin: None,
    }
}

/// The notifier handed over the last byte of a file whenever the base may have
/// changed, also of one that a program was just writing: an increment got lost.
#[test]
fn regression_a_notification_undoes_no_write() {
    let base = MemoryLower::new();
    base.file("counter", 0o644, "00000000").unwrap();
    let Some(view) = memory_view(&base) else {
        return;
    };
    let file = File::options()
        .read(true)
        .write(true)
        .open(view.at("counter"))
        .unwrap();
    let notifier = view.server().notifier();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let name = Name::new(b"counter").unwrap();
            while !done.load(Ordering::Relaxed) {
                notifier.base_entry_changed(Ino::ROOT, name.clone(), EntryChange::Object);
                std::thread::yield_now();
            }
        });
        let _done = when_done(&done);
        let mut text = [0; 8];
        for count in 0..5_000 {
            file.read_exact_at(&mut text, 0).unwrap();
            assert_eq!(std::str::from_utf8(&text).unwrap(), format!("{count:08}"));
            let next = format!("{:08}", count + 1);
            file.write_all_at(next.as_bytes(), 0).unwrap();
        }
    });
}

/// Says that it is done, also where an assertion fails.
fn when_done(done: &AtomicBool) -> impl Drop + '_ {
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    Done(done)
}
