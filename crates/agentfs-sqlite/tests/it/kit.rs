//! What the tests share: a database in a directory that goes away, and a dump of
//! all that a storage says.

use std::fmt::Write;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use agentfs_core::storage::{InodeRow, ReadTxn, Storage};
use agentfs_core::{FileKind, Ino, LowerPath, Name, StorageError, Timestamp};
use agentfs_sqlite::{Database, DatabaseFiles, OpenOptions};

pub(crate) struct Dir {
    dir: tempfile::TempDir,
}

impl Dir {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("test session.db")
    }

    pub(crate) fn open(&self) -> Database {
        Database::open(&self.path(), &OpenOptions::new().create(true)).unwrap()
    }

    /// The names in the directory.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// What `sqlite3` would do: a connection of its own to the file, in another
    /// process, so that locks are between processes.
    pub(crate) fn sqlite3(&self, sql: &str) -> String {
        self.try_sqlite3(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// What it printed, or what it complained of.
    pub(crate) fn try_sqlite3(&self, sql: &str) -> Result<String, String> {
        let output = Command::new("sqlite3")
            .args(["-cmd", ".timeout 5000"])
            .arg(self.path())
            .arg(sql)
            .output()
            .unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }
}

/// The `-wal` beside a database.
pub(crate) fn wal_of(database: &Path) -> PathBuf {
    DatabaseFiles::of(database).wal
}

/// A `sqlite3` that stays, as [`Dir::sqlite3`], and goes when it is dropped.
pub(crate) struct Shell {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Shell {
    pub(crate) fn new(database: &Path) -> Self {
        let mut child = Command::new("sqlite3")
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// The one line that it answers.
    pub(crate) fn ask(&mut self, sql: &str) -> String {
        writeln!(self.input.as_ref().unwrap(), "{sql}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

pub(crate) fn name(bytes: impl AsRef<[u8]>) -> Name {
    Name::new(bytes.as_ref()).unwrap()
}

pub(crate) fn lower(path: &str) -> LowerPath {
    LowerPath::parse(path.as_bytes()).unwrap()
}

/// A row that differs with `tag`.
pub(crate) fn inode(kind: FileKind, tag: u32) -> InodeRow {
    InodeRow {
        kind,
        perm: 0o640,
        nlink: 1,
        uid: tag,
        gid: 7,
        rdev: 0,
        size: u64::from(tag),
        atime: Timestamp::new(-5, 1),
        mtime: Timestamp::new(13_569_465_600, 999_999_999),
        ctime: Timestamp::new(i64::from(tag), tag % 1000),
        origin: None,
    }
}

/// A root, which a database does not have by itself.
pub(crate) fn make_root(storage: &impl Storage) {
    storage
        .write(|txn| txn.put_inode(Ino::ROOT, &inode(FileKind::Directory, 0)))
        .map_err(|e: StorageError| e)
        .unwrap();
}

/// Everything a storage says about inodes up to a few dozen, names, paths.
pub(crate) fn dump(storage: &impl Storage, chunks_to: u64) -> String {
    storage.read(|txn| dump_txn(txn, chunks_to)).unwrap()
}

pub(crate) fn dump_txn(txn: &dyn ReadTxn, chunks_to: u64) -> Result<String, StorageError> {
    let mut out = String::new();
    let mut inos = Vec::new();
    txn.inodes(Ino(0), &mut |ino| inos.push(ino))?;
    let mut orphans = Vec::new();
    txn.orphans(&mut |ino| orphans.push(ino))?;
    orphans.sort();
    writeln!(out, "orphans {orphans:?}").unwrap();
    for ino in inos {
        writeln!(
            out,
            "{ino:?} {:?} -> {:?}",
            txn.inode(ino)?,
            txn.symlink(ino)?
        )
        .unwrap();
        let mut entries = Vec::new();
        txn.dentries(ino, &mut |name, ino| entries.push((name, ino)))?;
        entries.sort();
        for (name, child) in &entries {
            assert_eq!(txn.dentry(ino, name)?, Some(*child), "listed and looked up");
        }
        writeln!(out, "  {entries:?}").unwrap();
        txn.xattrs(ino, &mut |name, value| {
            writeln!(out, "  {name:?}={value:?}").unwrap();
        })?;
        let mut index = 0;
        while let Some(next) = txn.next_chunk(ino, index)? {
            let chunk = txn.chunk(ino, next)?.unwrap();
            write!(out, "  chunk {next}:").unwrap();
            for run in chunk.chunk_by(|a, b| a == b) {
                write!(out, " {} times {}", run.len(), run[0]).unwrap();
            }
            writeln!(out).unwrap();
            index = next + 1;
        }
        for index in 0..chunks_to {
            if txn.chunk(ino, index)?.is_some() {
                assert_eq!(txn.next_chunk(ino, index)?, Some(index));
            }
        }
    }
    let mut dirs = Vec::new();
    txn.whiteout_dirs(&mut |dir| dirs.push(dir))?;
    dirs.sort();
    for dir in dirs {
        let mut names = Vec::new();
        txn.whiteouts(&dir, &mut |name| names.push(name))?;
        names.sort();
        writeln!(out, "whiteouts in {dir:?}: {names:?}").unwrap();
    }
    txn.kvs(&mut |row| writeln!(out, "{row:?}").unwrap())?;
    txn.tool_calls(&mut |call| {
        writeln!(out, "{call:?}").unwrap();
        true
    })?;
    Ok(out)
}
