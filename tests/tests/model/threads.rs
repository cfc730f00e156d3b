//! Many threads on one overlay: no deadlock, no panic, and rows that make sense
//! afterwards. What each operation does is for the other tests.

use std::ops::ControlFlow;
use std::sync::Arc;

use agentfs_core::check::check;
use agentfs_core::lower::MemoryLower;
use agentfs_core::overlay::{NewNode, Overlay, OverlayConfig, RenameMode, SetAttr};
use agentfs_core::storage::{MemoryStorage, Storage};
use agentfs_core::types::{FileKind, Ino, ManualClock, Name, Owner, Timestamp};

const THREADS: u64 = 4;
const ROUNDS: u64 = 4_000;

type View = Overlay<Arc<MemoryStorage>, MemoryLower>;

fn open(storage: &Arc<MemoryStorage>, base: &MemoryLower) -> View {
    let config = OverlayConfig {
        clock: Arc::new(ManualClock::new(Timestamp::new(1, 0))),
        hidden: Vec::new(),
        root_owner: Owner::default(),
    };
    Overlay::open(Arc::clone(storage), base.clone(), config).unwrap()
}

/// One random operation; refusals are as good as successes.
fn step(view: &View, dice: u64) {
    let name = |n: u64| Name::new(format!("n{}", n % 6).as_bytes()).unwrap();
    let root = Ino::ROOT;
    let Ok(dir) = view.lookup(root, &name(dice >> 8)) else {
        if let Ok(made) = view.mkdir(root, &name(dice >> 8), 0o755, Owner::default()) {
            view.forget(made.ino, 1);
        }
        return;
    };
    let (at, to) = (name(dice >> 16), name(dice >> 24));
    let node = NewNode {
        kind: FileKind::Regular,
        perm: 0o644,
        rdev: 0,
    };
    match dice % 12 {
        0 | 1 => {
            if let Ok(made) = view.mknod(dir.ino, &at, node, Owner::default()) {
                let _ = view.write(made.ino, dice % 300, &[1; 40], false);
                view.forget(made.ino, 1);
            }
        }
        2 => drop(view.unlink(dir.ino, &at)),
        3 => drop(view.rename(dir.ino, &at, root, &to, RenameMode::Replace)),
        4 => drop(view.rename(root, &at, dir.ino, &to, RenameMode::Exchange)),
        5 => drop(view.rmdir(dir.ino, &at)),
        6 => {
            if let Ok(made) = view.mkdir(dir.ino, &at, 0o755, Owner::default()) {
                view.forget(made.ino, 1);
            }
        }
        7 => drop(view.read_dir(dir.ino, 0, &mut |_| ControlFlow::Continue(()))),
        8 => {
            let mut taken = Vec::new();
            let _ = view.read_dir_plus(dir.ino, 0, &mut |_, attr| {
                taken.push(attr.ino);
                ControlFlow::Continue(())
            });
            taken.into_iter().for_each(|ino| view.forget(ino, 1));
        }
        9 => drop(view.rename(root, &at, root, &to, RenameMode::Replace)),
        _ => {
            if let Ok(found) = view.lookup(dir.ino, &at) {
                let _ = view.read(found.ino, 0, 1000);
                let _ = view.write(found.ino, dice % 500, &[2; 90], false);
                let set = SetAttr {
                    size: Some(dice % 700),
                    ..SetAttr::default()
                };
                let _ = view.setattr(found.ino, &set);
                if let Ok(linked) = view.link(found.ino, dir.ino, &to) {
                    view.forget(linked.ino, 1);
                }
                view.forget(found.ino, 1);
            }
        }
    }
    view.forget(dir.ino, 1);
}

#[test]
fn many_threads_leave_a_sound_view() {
    let base = MemoryLower::new();
    for dir in 0..4 {
        base.dir(format!("n{dir}"), 0o755).unwrap();
        base.dir(format!("n{dir}/n5"), 0o755).unwrap();
        for file in 0..4 {
            base.file(format!("n{dir}/n{file}"), 0o644, vec![7; 500])
                .unwrap();
        }
    }
    let storage = Arc::new(MemoryStorage::new(64));
    let view = open(&storage, &base);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let view = &view;
            scope.spawn(move || {
                let mut dice = thread + 1;
                for _ in 0..ROUNDS {
                    dice ^= dice << 13;
                    dice ^= dice >> 7;
                    dice ^= dice << 17;
                    step(view, dice >> 5);
                }
            });
        }
    });
    let found = storage.read(|txn| check(txn, &base, 64)).unwrap();
    assert!(found.is_empty(), "{found:?}");
    assert_eq!(
        view.referenced_inodes(),
        1,
        "every reference was given back"
    );
    let list = |view: &View| {
        let mut all = Vec::new();
        let mut dirs = vec![Ino::ROOT];
        while let Some(dir) = dirs.pop() {
            view.read_dir_plus(dir, 0, &mut |entry, attr| {
                all.push((dir, entry.clone(), attr.clone()));
                if attr.kind.is_dir() {
                    dirs.push(attr.ino);
                }
                ControlFlow::Continue(())
            })
            .unwrap();
        }
        all
    };
    let before = list(&view);
    drop(view);
    assert_eq!(list(&open(&storage, &base)), before);
}
