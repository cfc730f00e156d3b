//! Other programs read and write the database while it is open here: the
//! published Python SDK (another engine, which locks the whole file) and plain
//! `sqlite3`.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agentfs_core::storage::{Chunk, Storage};
use agentfs_core::{FileKind, Ino, StorageError};
use agentfs_sqlite::{Database, OpenOptions, SqliteStorage, Volume};

use crate::kit::{Dir, Shell, inode, make_root, name, wal_of};

/// A Python process with the SDK, told what to do line by line.
struct Sdk {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    path: std::path::PathBuf,
}

const SCRIPT: &str = r#"
import asyncio, gc, sys
from agentfs_sdk import AgentFS, AgentFSOptions
async def main():
    agent = None
    for line in sys.stdin:
        verb, *args = line.rstrip("\n").split("\t")
        try:
            result = "ok"
            if verb == "open": agent = await AgentFS.open(AgentFSOptions(path=args[0]))
            elif verb == "write": await agent.fs.write_file(args[0], args[1])
            elif verb == "read": result = await agent.fs.read_file(args[0])
            elif verb == "remove": await agent.fs.unlink(args[0])
            elif verb == "list": result = ",".join(sorted(await agent.fs.readdir(args[0])))
            elif verb == "set": await agent.kv.set(args[0], args[1])
            elif verb == "get": result = await agent.kv.get(args[0])
            elif verb == "tool": result = str(await agent.tools.record(args[0], 1, 2, result={}))
            elif verb == "close":
                await agent.close()
                agent = None
                # The SDK lets go of the file when its last object goes.
                gc.collect()
        except Exception as error:
            result = "error: " + str(error)
        print(result, flush=True)
asyncio.run(main())
"#;

/// Where `.ci/run` installs the SDK, unless the environment says otherwise.
fn python() -> std::path::PathBuf {
    let installed = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../target/python/bin/python3"
    );
    std::env::var_os("AGENTFS_SDK_PYTHON").map_or_else(|| installed.into(), Into::into)
}

impl Sdk {
    /// `None`, after saying why, where the SDK is not installed.
    fn start(dir: &Dir) -> Option<Self> {
        let python = python();
        let installed = Command::new(&python)
            .args(["-c", "import agentfs_sdk"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !installed {
            assert!(
                std::env::var_os("AGENTFS_REQUIRE_ALL").is_none(),
                "agentfs-sdk is missing"
            );
            eprintln!("skipped: {} has no package agentfs-sdk", python.display());
            return None;
        }
        let mut child = Command::new(&python)
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Some(Self {
            child,
            input,
            output,
            path: dir.path(),
        })
    }

    fn say(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }

    fn open(&mut self) -> String {
        let line = format!("open\t{}", self.path.display());
        self.say(&line)
    }

    fn ok(&mut self, line: &str) {
        assert_eq!(self.say(line), "ok", "{line}");
    }
}

impl Drop for Sdk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write_file(storage: &SqliteStorage, file: &str, content: &[u8]) {
    storage
        .write(|txn| {
            let ino = txn.allocate_ino()?;
            let mut row = inode(FileKind::Regular, 1);
            row.size = content.len() as u64;
            txn.put_inode(ino, &row)?;
            txn.put_chunk(ino, 0, Chunk::from(content))?;
            txn.put_dentry(Ino::ROOT, &name(file), ino)
        })
        .map_err(|e: StorageError| e)
        .unwrap();
}

fn read_file(storage: &SqliteStorage, file: &str) -> Option<Vec<u8>> {
    storage
        .read(|txn| {
            let Some(ino) = txn.dentry(Ino::ROOT, &name(file))? else {
                return Ok(None);
            };
            assert!(txn.inode(ino)?.is_some(), "an entry without an inode");
            Ok::<_, StorageError>(txn.chunk(ino, 0)?.map(|chunk| chunk.to_vec()))
        })
        .unwrap()
}

/// As the session's watcher does: looks until it is there.
fn await_file(database: &Database, file: &str, content: &[u8]) {
    let storage = database.volume(Volume::View);
    let start = Instant::now();
    loop {
        database.check_external_change();
        if read_file(&storage, file).as_deref() == Some(content) {
            return;
        }
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{file} did not show up"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// How often the hook has been called.
fn count_external_changes(database: &Database) -> Arc<AtomicUsize> {
    let told = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&told);
    database.set_external_change_hook(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    told
}

/// What a transaction that failed half-way leaves behind the last frame: seen once, not
/// again whenever the file is looked at.
#[test]
fn frames_that_nobody_committed_are_no_endless_news() {
    let dir = Dir::new();
    let database = dir.open();
    let told = count_external_changes(&database);
    let storage = database.volume(Volume::View);
    make_root(&storage);
    write_file(&storage, "ours", b"from the session");
    storage.sync().unwrap();
    let path = wal_of(&dir.path());
    let wal = std::fs::read(&path).unwrap();
    // The head of the first frame: no checksum that follows from those before.
    let mut file = std::fs::File::options().append(true).open(&path).unwrap();
    file.write_all(&wal[32..56]).unwrap();
    for _ in 0..50 {
        database.check_external_change();
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let told = told.load(Ordering::SeqCst);
    assert!(told <= 2, "{told} times");
    write_file(&storage, "more", b"from the session");
    storage.sync().unwrap();
}

#[test]
fn an_sdk_opens_reads_and_writes_a_live_session() {
    let dir = Dir::new();
    let Some(mut sdk) = Sdk::start(&dir) else {
        return;
    };
    let database = dir.open();
    let told = count_external_changes(&database);
    let storage = database.volume(Volume::View);
    make_root(&storage);
    write_file(&storage, "ours", b"from the session");
    storage.sync().unwrap();

    let held = || {
        let mut held = String::new();
        for path in ["", "-wal", "-shm"] {
            use std::os::unix::fs::MetadataExt;
            let mut name = dir.path().into_os_string();
            name.push(path);
            let ino = std::fs::metadata(name).unwrap().ino();
            let locks = std::fs::read_to_string("/proc/locks").unwrap();
            for line in locks
                .lines()
                .filter(|line| line.contains(&format!(":{ino} ")))
            {
                held += &format!("{path}: {line}\n");
            }
        }
        held
    };
    assert_eq!(held(), "", "locks at rest");
    // The SDK opens the database that is open here, and sees our file.
    assert_eq!(sdk.open(), "ok");
    assert_eq!(sdk.say("read\t/ours"), "from the session");
    // What it writes shows up here while it is still open.
    sdk.ok("write\t/theirs\tfrom the SDK");
    await_file(&database, "theirs", b"from the SDK");
    assert!(told.load(Ordering::SeqCst) > 0, "the hook was not told");
    sdk.ok("set\tcolour\tblue");
    sdk.ok("write\t/dir/deep\tdeeper");
    assert_eq!(sdk.say("tool\tgrep"), "1");
    // Meanwhile the session goes on, on its own pending changes.
    write_file(&storage, "meanwhile", b"not stored yet");
    assert_eq!(read_file(&storage, "meanwhile").unwrap(), b"not stored yet");
    assert_eq!(read_file(&storage, "ours").unwrap(), b"from the session");
    // It lets go, and what was pending is stored.
    sdk.ok("close");
    storage.sync().unwrap();
    let (kv, calls) = storage
        .read(|txn| {
            let mut calls = 0;
            txn.tool_calls(&mut |_| {
                calls += 1;
                true
            })?;
            Ok::<_, StorageError>((txn.kv("colour")?, calls))
        })
        .unwrap();
    assert_eq!((kv.unwrap().value.as_str(), calls), ("\"blue\"", 1));
    // Opened again, the SDK sees all of it, numbers and all.
    assert_eq!(sdk.open(), "ok");
    assert_eq!(sdk.say("list\t/"), "dir,meanwhile,ours,theirs");
    assert_eq!(sdk.say("read\t/meanwhile"), "not stored yet");
    sdk.ok("remove\t/ours");
    sdk.ok("close");
    write_file(&storage, "last", b"z");
    storage.sync().unwrap();
    assert_eq!(read_file(&storage, "ours"), None);
    assert_eq!(dir.sqlite3("PRAGMA integrity_check"), "ok");
    assert_eq!(database.integrity_check().unwrap(), Vec::<String>::new());
    database.close().unwrap();
    assert_eq!(dir.files(), ["test session.db"]);
}

#[test]
fn an_sdk_is_let_in_while_the_session_writes_all_the_time() {
    let dir = Dir::new();
    let Some(mut sdk) = Sdk::start(&dir) else {
        return;
    };
    let database = dir.open();
    let storage = database.volume(Volume::View);
    make_root(&storage);
    storage.sync().unwrap();
    let stop = Arc::new(AtomicUsize::new(0));
    let writer = {
        let (storage, stop) = (storage.clone(), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut number = 0;
            while stop.load(Ordering::SeqCst) == 0 {
                write_file(&storage, &format!("f{number}"), &[7; 3000]);
                number += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            number
        })
    };
    for round in 0..10 {
        let start = Instant::now();
        // It does not wait itself, so it may take a few attempts.
        while sdk.open() != "ok" {
            assert!(start.elapsed() < Duration::from_secs(10), "locked out");
        }
        sdk.ok(&format!("write\t/sdk{round}\tround {round}"));
        sdk.ok("close");
    }
    stop.store(1, Ordering::SeqCst);
    let written = writer.join().unwrap();
    storage.sync().unwrap();
    let check = |storage: &SqliteStorage| {
        for number in 0..written {
            assert_eq!(
                read_file(storage, &format!("f{number}")).unwrap(),
                [7; 3000]
            );
        }
        for round in 0..10 {
            let content = read_file(storage, &format!("sdk{round}")).unwrap();
            assert_eq!(content, format!("round {round}").as_bytes());
        }
    };
    check(&storage);
    assert_eq!(database.integrity_check().unwrap(), Vec::<String>::new());
    database.close().unwrap();
    drop((database, storage));
    let database = dir.open();
    check(&database.volume(Volume::View));
    assert_eq!(database.integrity_check().unwrap(), Vec::<String>::new());
}

#[test]
fn a_database_of_an_sdk_is_opened_and_given_our_tables() {
    let dir = Dir::new();
    let Some(mut sdk) = Sdk::start(&dir) else {
        return;
    };
    assert_eq!(sdk.open(), "ok");
    sdk.ok("write\t/a\tmade by the SDK");
    sdk.ok("set\tk\tv");
    // While the SDK has it open, it can be read...
    sdk.ok("close");
    let database = Database::open(&dir.path(), &OpenOptions::new()).unwrap();
    let storage = database.volume(Volume::View);
    assert_eq!(storage.chunk_size_bytes(), 4096);
    assert_eq!(read_file(&storage, "a").unwrap(), b"made by the SDK");
    write_file(&storage, "b", b"ours");
    database.close().unwrap();
    assert_eq!(dir.files(), ["test session.db"]);
    assert_eq!(sdk.open(), "ok");
    assert_eq!(sdk.say("list\t/"), "a,b");
    assert_eq!(sdk.say("read\t/b"), "ours");
}

#[test]
fn sqlite3_reads_and_writes_a_live_session() {
    let dir = Dir::new();
    let database = dir.open();
    let storage = database.volume(Volume::View);
    make_root(&storage);
    for round in 0..20 {
        write_file(&storage, &format!("f{round}"), b"x");
        if round % 3 == 0 {
            storage.sync().unwrap();
        }
        let sql = format!("INSERT INTO kv_store (key, value) VALUES ('k{round}', '{round}')");
        dir.sqlite3(&sql);
    }
    storage.sync().unwrap();
    assert_eq!(dir.sqlite3("SELECT count(*) FROM fs_dentry"), "20");
    // Last one out of the shell removes the -wal and the -shm beneath us.
    assert_eq!(dir.sqlite3("SELECT count(*) FROM kv_store"), "20");
    let row = storage.read(|txn| txn.kv("k7")).unwrap();
    assert_eq!(row.unwrap().value, "7");
    // A change of a row that is cached here.
    assert_eq!(read_file(&storage, "f3").unwrap(), b"x");
    dir.sqlite3(
        "UPDATE fs_data SET data = x'79' WHERE ino = (SELECT ino FROM fs_dentry WHERE name = 'f3')",
    );
    await_file(&database, "f3", b"y");
    // A journal mode of its own does not stay.
    // SQLite does not wait for a lock to change it.
    let start = Instant::now();
    while let Err(error) = dir.try_sqlite3("PRAGMA journal_mode = DELETE") {
        let locked = error.contains("locked") && start.elapsed() < Duration::from_secs(10);
        assert!(locked, "{error}");
    }
    write_file(&storage, "after", b"z");
    storage.sync().unwrap();
    assert_eq!(
        dir.sqlite3("PRAGMA journal_mode; SELECT count(*) FROM fs_dentry"),
        "wal\n21"
    );
    assert_eq!(database.integrity_check().unwrap(), Vec::<String>::new());
    database.close().unwrap();
    assert_eq!(dir.files(), ["test session.db"]);
}

#[test]
fn closing_while_another_program_reads_loses_nothing_and_says_so() {
    let dir = Dir::new();
    let database = dir.open();
    let storage = database.volume(Volume::View);
    make_root(&storage);
    storage.sync().unwrap();
    let mut shell = Shell::new(&dir.path());
    assert_eq!(shell.ask("BEGIN; SELECT count(*) FROM fs_dentry;"), "0");
    // A reader stops neither a batch nor a sync.
    write_file(&storage, "late", b"written beside a reader");
    storage.sync().unwrap();
    assert_eq!(database.close(), Err(StorageError::Busy));
    assert_eq!(shell.ask("COMMIT; SELECT count(*) FROM fs_dentry;"), "1");
    // The last one out folds the -wal in and removes it.
    drop(shell);
    assert_eq!(database.close(), Ok(()));
    assert_eq!(dir.files(), ["test session.db"]);
    drop((database, storage));
    let storage = dir.open().volume(Volume::View);
    assert_eq!(
        read_file(&storage, "late").unwrap(),
        b"written beside a reader"
    );
}

#[test]
fn what_another_program_deleted_stays_deleted() {
    let dir = Dir::new();
    let database = dir.open();
    let storage = database.volume(Volume::View);
    make_root(&storage);
    write_file(&storage, "contested", b"one");
    write_file(&storage, "kept", b"two");
    storage.sync().unwrap();
    let find = |file: &str| {
        storage
            .read(|txn| txn.dentry(Ino::ROOT, &name(file)))
            .unwrap()
            .unwrap()
    };
    let (contested, kept) = (find("contested"), find("kept"));
    // Nothing is pending while the other program deletes; then both change it
    // before we have seen that.
    dir.sqlite3(&format!(
        "DELETE FROM fs_dentry WHERE ino = {contested}; DELETE FROM fs_data WHERE ino = {contested}; \
         DELETE FROM fs_inode WHERE ino = {contested}; \
         UPDATE fs_inode SET size = 99 WHERE ino = {kept}"
    ));
    storage
        .write(|txn| {
            for ino in [contested, kept] {
                txn.put_chunk(ino, 1, Chunk::from([5; 10]))?;
                txn.put_inode(ino, &inode(FileKind::Regular, 10))?;
            }
            txn.put_dentry(Ino::ROOT, &name("second name"), contested)
        })
        .map_err(|e: StorageError| e)
        .unwrap();
    storage.sync().unwrap();
    assert_eq!(database.integrity_check().unwrap(), Vec::<String>::new());
    storage
        .read(|txn| {
            assert_eq!(txn.inode(contested)?, None);
            assert_eq!(txn.dentry(Ino::ROOT, &name("second name"))?, None);
            assert_eq!(txn.next_chunk(contested, 0)?, None);
            // Ours won where both changed a row.
            assert_eq!(txn.inode(kept)?.unwrap().size, 10);
            Ok::<_, StorageError>(())
        })
        .unwrap();
}

#[test]
fn a_part_of_a_chunk_goes_over_what_another_program_made_of_it() {
    let dir = Dir::new();
    let database = dir.open();
    let storage = database.volume(Volume::View);
    make_root(&storage);
    write_file(&storage, "contested", &[1; 8]);
    storage.sync().unwrap();
    let ino = storage
        .read(|txn| txn.dentry(Ino::ROOT, &name("contested")))
        .unwrap()
        .unwrap();
    let patch = |start, byte| {
        storage
            .write(|txn| txn.patch_chunk(ino, 0, 8, start, &[byte; 2]))
            .unwrap()
    };
    assert!(patch(0, 2));
    storage.sync().unwrap();
    // The length that is known here is out of date when the part is written.
    dir.sqlite3(&format!(
        "UPDATE fs_data SET data = x'0909090909' WHERE ino = {ino}"
    ));
    assert!(patch(4, 3));
    storage.sync().unwrap();
    assert_eq!(
        read_file(&storage, "contested").unwrap(),
        [9, 9, 9, 9, 3, 3, 0, 0]
    );
    // And the row may be gone.
    assert!(patch(6, 5));
    storage.sync().unwrap();
    dir.sqlite3(&format!("DELETE FROM fs_data WHERE ino = {ino}"));
    assert!(patch(1, 4));
    storage.sync().unwrap();
    assert_eq!(
        read_file(&storage, "contested").unwrap(),
        [0, 4, 4, 0, 0, 0, 0, 0]
    );
    assert_eq!(database.integrity_check().unwrap(), Vec::<String>::new());
}
