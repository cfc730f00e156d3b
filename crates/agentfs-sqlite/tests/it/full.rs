//! What cannot be written. A full disk: programs are told, what is there stays readable,
//! deleting stays possible, and when room returns everything goes on. A database that
//! somebody else writes: programs go on.

use std::process::Command;
use std::time::{Duration, Instant};

use agentfs_core::storage::{Chunk, Storage};
use agentfs_core::{FileKind, Ino, StorageError};
use agentfs_sqlite::{Database, OpenOptions, SqliteStorage, Volume};

use crate::kit::{Dir, Shell, inode, make_root, name};

/// Set in the process that has a small file system of its own, to its directory.
const CHILD: &str = "AGENTFS_FULL_CHILD";

fn write_file(storage: &SqliteStorage, number: u32) -> Result<(), StorageError> {
    storage.write(|txn| {
        let ino = txn.allocate_ino()?;
        txn.put_inode(ino, &inode(FileKind::Regular, number))?;
        txn.put_chunk(ino, 0, Chunk::from(vec![number.to_le_bytes()[0]; 30_000]))?;
        txn.put_dentry(Ino::ROOT, &name(format!("f{number}")), ino)
    })
}

fn delete_file(storage: &SqliteStorage, number: u32) -> Result<(), StorageError> {
    storage.write(|txn| {
        let name = name(format!("f{number}"));
        if let Some(ino) = txn.dentry(Ino::ROOT, &name)? {
            txn.delete_dentry(Ino::ROOT, &name)?;
            txn.delete_inode(ino)?;
        }
        Ok(())
    })
}

fn count(storage: &SqliteStorage) -> usize {
    let mut count = 0;
    storage
        .read(|txn| txn.dentries(Ino::ROOT, &mut |_, _| count += 1))
        .unwrap();
    count
}

/// Not a test of its own: runs where a file system of 8 MiB is mounted.
#[test]
fn child_on_a_small_file_system() {
    let Some(dir) = std::env::var_os(CHILD) else {
        return;
    };
    let dir = std::path::PathBuf::from(dir);
    let ballast = dir.join("ballast");
    std::fs::write(&ballast, vec![0; 3 << 20]).unwrap();
    let database = Database::open(&dir.join("s.db"), &OpenOptions::new().create(true)).unwrap();
    let storage = database.volume(Volume::View);
    make_root(&storage);
    // Until a sync tells that the disk is full.
    let mut number = 0;
    let failure = loop {
        assert!(number < 1000, "the file system is not small");
        if let Err(error) = write_file(&storage, number).and_then(|()| storage.sync()) {
            break error;
        }
        number += 1;
    };
    assert_eq!(failure, StorageError::Full);
    assert!(number > 10);
    // Writing is refused now, reading goes on, what was synced is there.
    assert_eq!(write_file(&storage, 5000), Err(StorageError::Full));
    assert!(count(&storage) >= number as usize);
    let first = storage.read(|txn| {
        let ino = txn.dentry(Ino::ROOT, &name("f1"))?.unwrap();
        txn.chunk(ino, 0)
    });
    assert_eq!(*first.unwrap().unwrap(), [1; 30_000]);
    // Deleting needs no room here.
    delete_file(&storage, number).unwrap();
    delete_file(&storage, 0).unwrap();
    assert!(count(&storage) < number as usize + 1);
    // Room returns.
    std::fs::remove_file(&ballast).unwrap();
    let start = Instant::now();
    while storage.sync().is_err() {
        assert!(start.elapsed() < Duration::from_secs(20), "did not recover");
    }
    write_file(&storage, 6000).unwrap();
    storage.sync().unwrap();
    assert_eq!(database.integrity_check().unwrap(), Vec::<String>::new());
    let expected = count(&storage);
    database.close().unwrap();
    drop((database, storage));
    let database = Database::open(&dir.join("s.db"), &OpenOptions::new()).unwrap();
    assert_eq!(count(&database.volume(Volume::View)), expected);
}

#[test]
fn a_full_disk_is_told_and_recovered_from() {
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=8m none \"$DIR\" || exit 77; exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "full::child_on_a_small_file_system",
            "--nocapture",
        ])
        .env("DIR", dir.path())
        .env(CHILD, dir.path())
        .output();
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) if output.status.code() != Some(77) && output.status.code() != Some(1) => {
            panic!("{}", String::from_utf8_lossy(&output.stderr))
        }
        other => {
            assert!(
                std::env::var_os("AGENTFS_REQUIRE_ALL").is_none(),
                "{other:?}"
            );
            eprintln!("skipped: no file system can be mounted in a namespace");
        }
    }
}

/// More than what writers wait for otherwise (12 MiB) may be pending while another program
/// holds the database, and is stored when it lets go.
#[test]
fn programs_go_on_while_the_database_is_held() {
    let dir = Dir::new();
    let database = dir.open();
    let storage = database.volume(Volume::View);
    make_root(&storage);
    storage.sync().unwrap();
    let mut holder = Shell::new(&dir.path());
    assert_eq!(holder.ask("BEGIN IMMEDIATE; SELECT 'held';"), "held");
    // 30 MB. Were there no room, a writer would wait for as long as the committer waits
    // for the database, five seconds, or fail after 30.
    let began = Instant::now();
    for number in 0..1000 {
        write_file(&storage, number).unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(4), "they waited");
    assert_eq!(holder.ask("SELECT count(*) FROM fs_data;"), "0");
    assert_eq!(holder.ask("COMMIT; SELECT 'let go';"), "let go");
    storage.sync().unwrap();
    assert_eq!(holder.ask("SELECT count(*) FROM fs_data;"), "1000");
    assert_eq!(count(&storage), 1000);
    drop(holder);
    database.close().unwrap();
}
