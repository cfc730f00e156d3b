//! Large directories, and directories that change while they are listed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use agentfs_core::lower::MemoryLower;

use crate::{CACHES, host_view, memory_view, names_in};

/// Half of it in the base, half of it made in the view. While it is listed,
/// entries come and go; those that stay are all listed, exactly once.
#[test]
fn a_large_directory_is_listed_while_it_changes() {
    const HALF: usize = 50_000;
    let base = MemoryLower::new();
    base.dir("d", 0o755).unwrap();
    for i in 0..HALF {
        base.file(format!("d/base{i}"), 0o644, "").unwrap();
    }
    let Some(view) = memory_view(&base) else {
        return;
    };
    for i in 0..HALF {
        File::create(view.at(&format!("d/new{i}"))).unwrap();
    }
    let mut listed = BTreeSet::new();
    let (mut other, mut changes) = (0, 0);
    for (position, entry) in fs::read_dir(view.at("d")).unwrap().enumerate() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if position % 100 == 0 {
            let i = position / 100;
            changes = i + 1;
            fs::remove_file(view.at(&format!("d/base{}", i * 7))).unwrap();
            fs::remove_file(view.at(&format!("d/new{}", i * 11))).unwrap();
            File::create(view.at(&format!("d/added{i}"))).unwrap();
        }
        if name.starts_with("added") {
            other += 1;
        } else {
            assert!(listed.insert(name.clone()), "{name} twice");
        }
    }
    let stayed = |i: &usize, step: usize| !i.is_multiple_of(step) || i / step >= changes;
    let base = (0..HALF)
        .filter(|i| stayed(i, 7))
        .map(|i| format!("base{i}"));
    let new = (0..HALF)
        .filter(|i| stayed(i, 11))
        .map(|i| format!("new{i}"));
    for name in base.chain(new) {
        assert!(listed.contains(&name), "{name} not listed");
    }
    assert!(changes > 900 && other <= changes);
    assert_eq!(names_in(&view.at("d")).len(), 2 * HALF - changes);
}

#[test]
fn a_tree_of_both_layers_can_be_removed() {
    let Some(view) = host_view(|base| {
        for i in 0..5000 {
            let dir = base.join(format!("tree/{}", i % 50));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(format!("f{i}")), "x").unwrap();
        }
    }) else {
        return;
    };
    for i in 0..5000 {
        fs::write(view.at(&format!("tree/{}/new{i}", i % 50)), "y").unwrap();
    }
    let status = std::process::Command::new("rm")
        .arg("-rf")
        .arg(view.at("tree"))
        .status();
    assert!(status.unwrap().success());
    assert_eq!(names_in(&view), [""; 0]);
    assert_eq!(
        fs::read_dir(view.base.path().join("tree")).unwrap().count(),
        50
    );
    fs::create_dir(view.at("tree")).unwrap();
    assert_eq!(names_in(&view.at("tree")), [""; 0]);
}

#[test]
fn a_listing_can_be_resumed_and_rewound() {
    let base = MemoryLower::new();
    for i in 0..3000 {
        base.file(format!("f{i}"), 0o644, "").unwrap();
    }
    let Some(view) = memory_view(&base) else {
        return;
    };
    let mut dir = rustix::fs::Dir::new(File::open(&*view).unwrap()).unwrap();
    let read = |dir: &mut rustix::fs::Dir| {
        dir.map(|entry| entry.unwrap().file_name().to_owned())
            .collect::<Vec<_>>()
    };
    let all = read(&mut dir);
    assert_eq!(all.len(), 3002);
    File::create(view.at("one-more")).unwrap();
    dir.rewind();
    let again = read(&mut dir);
    assert_eq!(again.len(), 3003);
    let dots = fs::metadata(&*view).unwrap().ino();
    dir.rewind();
    for entry in &mut dir {
        let entry = entry.unwrap();
        if entry.file_name().to_bytes() == b"." {
            assert_eq!(entry.ino(), dots);
        }
    }
}

/// References must balance: when the kernel has let go, nothing is left.
#[test]
fn what_the_kernel_forgets_is_let_go() {
    let Some(view) = host_view(|base| {
        for i in 0..2000 {
            let dir = base.join(format!("d{}", i % 20));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(format!("f{i}")), "x").unwrap();
        }
    }) else {
        return;
    };
    for _ in 0..3 {
        let listed = std::process::Command::new("ls")
            .arg("-lR")
            .arg(&view.path)
            .output()
            .unwrap();
        assert!(listed.status.success());
        let found = std::process::Command::new("find")
            .arg(&view.path)
            .output()
            .unwrap();
        assert_eq!(found.stdout.split(|&b| b == b'\n').count(), 2022);
    }
    assert!(view.overlay.referenced_inodes() > 2000);
    let alone = CACHES.write();
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    drop(alone);
    let start = std::time::Instant::now();
    while view.overlay.referenced_inodes() > 1 {
        let left = view.overlay.referenced_inodes();
        assert!(
            start.elapsed().as_secs() < 20,
            "{left} inodes are still referenced"
        );
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(names_in(&view).len(), 20);
}
