//! A process that is killed at a random moment: what it had synced is there, the
//! rest is a prefix, and the file is sound.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use agentfs_core::storage::{Chunk, ReadTxn, Storage};
use agentfs_core::{FileKind, Ino, StorageError};
use agentfs_sqlite::Volume;

use crate::kit::{Dir, inode, name};

/// Set in the process that writes until it is killed.
const CHILD: &str = "AGENTFS_CRASH_CHILD";

/// Transaction `number` moves one file from the name before to its own, with a
/// chunk that says so: half of it would show.
fn write_number(storage: &impl Storage, number: u64) {
    storage
        .write(|txn| {
            let ino = txn.allocate_ino()?;
            let mut row = inode(FileKind::Regular, 1);
            row.size = number;
            txn.put_inode(ino, &row)?;
            txn.put_chunk(ino, 0, Chunk::from(number.to_le_bytes()))?;
            txn.put_chunk(ino, 7, Chunk::from(vec![1; 3000]))?;
            if let Some(before) = number.checked_sub(1) {
                let old = name(format!("n{before}"));
                if let Some(ino) = txn.dentry(Ino::ROOT, &old)? {
                    txn.delete_dentry(Ino::ROOT, &old)?;
                    txn.delete_inode(ino)?;
                }
            }
            txn.put_kv("number", &number.to_string(), 0)?;
            txn.put_dentry(Ino::ROOT, &name(format!("n{number}")), ino)?;
            txn.put_dentry(Ino::ROOT, &name(format!("kept{number}")), Ino::ROOT)
        })
        .map_err(|e: StorageError| e)
        .unwrap();
}

/// The number that the rows tell, which must be one.
fn read_number(storage: &impl Storage) -> Option<u64> {
    let read = |txn: &dyn ReadTxn| {
        let mut names = Vec::new();
        txn.dentries(Ino::ROOT, &mut |name, ino| {
            names.push((name.to_string(), ino));
        })?;
        let Some(kv) = txn.kv("number")? else {
            assert!(names.is_empty(), "{names:?}");
            return Ok(None);
        };
        let number: u64 = kv.value.parse().unwrap();
        let kept = names
            .iter()
            .filter(|(name, _)| name.starts_with("kept"))
            .count();
        assert_eq!(kept as u64, number + 1, "a prefix, without gaps");
        let current: Vec<_> = names
            .iter()
            .filter(|(name, _)| name.starts_with('n'))
            .collect();
        assert_eq!(current.len(), 1, "{current:?}");
        assert_eq!(current[0].0, format!("n{number}"));
        let ino = current[0].1;
        assert_eq!(txn.inode(ino)?.unwrap().size, number);
        assert_eq!(*txn.chunk(ino, 0)?.unwrap(), number.to_le_bytes());
        assert_eq!(txn.next_chunk(ino, 1)?, Some(7));
        Ok::<_, StorageError>(Some(number))
    };
    storage.read(read).unwrap()
}

/// Not a test of its own: the writing process of the test below.
#[test]
fn child_that_writes_until_killed() {
    let Some(path) = std::env::var_os(CHILD) else {
        return;
    };
    let options = agentfs_sqlite::OpenOptions::new();
    let database = agentfs_sqlite::Database::open(path.as_ref(), &options).unwrap();
    let storage = database.volume(Volume::View);
    let next = read_number(&storage).map_or(0, |number| number + 1);
    println!("ready");
    for number in next.. {
        write_number(&storage, number);
        if number % 5 == 0 {
            storage.sync().unwrap();
            println!("synced {number}");
        }
        if number % 3 == 0 {
            std::thread::sleep(Duration::from_millis(number % 11));
        }
    }
}

#[test]
fn a_killed_process_leaves_what_it_synced_and_a_prefix_of_the_rest() {
    let dir = Dir::new();
    let database = dir.open();
    let root = inode(FileKind::Directory, 0);
    database
        .volume(Volume::View)
        .write(|txn| txn.put_inode(Ino::ROOT, &root))
        .unwrap();
    database.close().unwrap();
    drop(database);
    let mut last = None;
    for round in 0..12_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "crash::child_that_writes_until_killed",
                "--nocapture",
            ])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(
            lines
                .by_ref()
                .map(|line| line.unwrap())
                .any(|line| line.ends_with("ready"))
        );
        // Somewhere within a batch, between batches, during a sync.
        std::thread::sleep(Duration::from_millis(20 + round * 37 % 170));
        child.kill().unwrap();
        child.wait().unwrap();
        let synced = lines
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix("synced ")?.parse::<u64>().ok())
            .last();

        let database = dir.open();
        assert_eq!(database.integrity_check().unwrap(), Vec::<String>::new());
        let number = read_number(&database.volume(Volume::View));
        assert!(
            number >= synced,
            "round {round}: {number:?} is there, {synced:?} was synced"
        );
        assert!(
            number >= last,
            "round {round}: {number:?} is there, {last:?} was"
        );
        last = number;
        // Half of the rounds leave the -wal to the next one.
        if round % 2 == 0 {
            database.close().unwrap();
        }
    }
    assert!(last > Some(20), "the child hardly wrote: {last:?}");
}
