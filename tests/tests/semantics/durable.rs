//! What is on stable storage, and when.

use agentfs_core::overlay::{Overlay, OverlayConfig};
use agentfs_core::types::{FileKind, Ino, ManualClock, Owner};
use agentfs_sqlite::Volume;
use std::sync::Arc;

use super::project;
use super::view::name;
use crate::model::open_database;

#[test]
fn fsync_makes_a_file_and_its_name_durable() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("session.db");
    let database = open_database(&path);
    let config = OverlayConfig {
        clock: Arc::new(ManualClock::default()),
        hidden: Vec::new(),
        root_owner: Owner::default(),
    };
    let overlay = Overlay::open(database.volume(Volume::View), project(), config).unwrap();
    let node = agentfs_core::overlay::NewNode {
        kind: FileKind::Regular,
        perm: 0o644,
        rdev: 0,
    };
    let attr = overlay
        .mknod(Ino::ROOT, &name("kept"), node, Owner::default())
        .unwrap();
    overlay.write(attr.ino, 0, b"bytes", false).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    overlay.sync(Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv().unwrap().unwrap();
    // What a power failure now would leave: the files as they are on the disk.
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap().map(Result::unwrap) {
        if !entry.file_name().as_encoded_bytes().ends_with(b"-shm") {
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
    }
    let database = open_database(&copy.path().join("session.db"));
    let config = OverlayConfig {
        clock: Arc::new(ManualClock::default()),
        hidden: Vec::new(),
        root_owner: Owner::default(),
    };
    let overlay = Overlay::open(database.volume(Volume::View), project(), config).unwrap();
    let found = overlay.lookup(Ino::ROOT, &name("kept")).unwrap();
    assert_eq!(overlay.read(found.ino, 0, 99).unwrap(), b"bytes");
}
