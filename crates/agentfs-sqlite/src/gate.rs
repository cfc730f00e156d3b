//! The way in to the database file: who may use it when, and with which
//! connection. No statement is run but through a [`Lease`] from here.
//!
//! # Why a gate
//! SQLite in WAL mode keeps a shared lock on the database file, and one on the
//! `-shm` file, for as long as a connection is open. The AgentFS SDKs use
//! another engine (Turso), which takes an exclusive lock on the whole file when
//! it opens it, refuses to open when it cannot have it, keeps it until it
//! closes, and writes the `-wal` without touching the `-shm`. A session that
//! simply kept its connections open would lock every SDK out.
//!
//! So nothing is held at rest. POSIX record locks belong to the process: the
//! gate gives SQLite's two locks back when the last lease ends and takes them
//! again before the next begins. In between anyone may open, write, checkpoint
//! or delete the `-wal` and `-shm`. On taking the locks again the gate compares
//! the files with what it left ([`Left`]): when they are as left, the open
//! connections, their caches and their mapping of the `-shm` are current; when
//! not, all connections are closed (without a checkpoint: theirs may be stale)
//! and opened anew, which makes SQLite rebuild the `-shm` from the `-wal` unless
//! another SQLite process is there and has done so. A program that only reads does
//! that, too, as it finds no lock: where the `-wal` then holds the frames that were
//! left, nobody has written, and it counts as no change.
//!
//! # While an SDK holds the file
//! Nothing can be written, but everything can be read: a *snapshot* connection
//! (no locks, no `-shm`) reads the file and the committed part of the `-wal`; the
//! stamp is compared after each query, and when it moved the query is run again
//! on a new snapshot.
//!
//! # Rules
//! A descriptor of the database or the `-shm` must not be closed while a lease
//! is out: that would drop the process's locks. That is why the gate opens them
//! once and why one process opens one database once.

mod durable;
mod lease;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agentfs_core::StorageError;
use parking_lot::Mutex;
use rusqlite::Connection;

use crate::connection::{self, Access, PAGE_CACHE_KIB, READER_PAGE_CACHE_KIB};
use crate::error::io_error;
use crate::files::DatabaseFiles;
use crate::stamp::{self, Left, Stamp};
use crate::sys::{self, DATABASE_SHARED, SHM_IN_USE};

/// How long another SQLite process may keep its short exclusive locks (closing,
/// starting the `-shm` anew) before it counts as holding the file.
const SHORT_LOCK_PATIENCE: Duration = Duration::from_millis(500);
/// How often a query is run again because the file moved under a snapshot.
const SNAPSHOT_ATTEMPTS: u32 = 100;
/// Connections for reading kept open between leases.
const READERS_KEPT: usize = 8;

/// The way in to one database file.
#[derive(Debug)]
pub(crate) struct Gate {
    // Connections before the descriptor whose closing would drop their locks.
    inner: Mutex<Inner>,
    /// How often the file was found changed by others.
    changes: AtomicU64,
    /// `PRAGMA data_version` as the connection that writes last saw it; 0: not known.
    version: AtomicI64,
    /// A sync has failed, and what it was to write may not be on the disk.
    doubted: AtomicBool,
    /// The `-wal` was removed while it held what the database did not.
    lost: AtomicBool,
    paths: DatabaseFiles,
    access: Access,
    database: File,
}

#[derive(Debug)]
struct Inner {
    leases: usize,
    /// One of them, since the locks were taken, was not for reading only.
    has_written: bool,
    mode: Mode,
    open: Option<Open>,
    /// They were closed as others may have written, and none has been opened since.
    suspect: bool,
    /// With the state of the files that each has seen.
    snapshots: Vec<(Connection, Stamp)>,
    last_look: Stamp,
    closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// No lease, no lock.
    Rest,
    /// Leases use SQLite's locks.
    Shared,
    /// Another engine holds the file (or it cannot be locked where it lies):
    /// leases read snapshots.
    Snapshot,
}

/// Connections that take part in SQLite's locking, and our own descriptors.
#[derive(Debug)]
struct Open {
    writer: Option<Connection>,
    readers: Vec<Connection>,
    files: Files,
    /// The files as the last lease left them, or when they were opened; none when that
    /// could not be seen, or others wrote meanwhile.
    left: Option<Left>,
    /// How much of a `-wal` that was removed has been taken note of.
    lost_bytes: u64,
}

#[derive(Debug)]
struct Files {
    wal: File,
    shm: File,
}

/// What a lease is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Queries.
    Read,
    /// Folding beside whoever writes: as reading, but the files are not left as they were.
    Fold,
    /// The one writer.
    Write,
}

/// The use of a connection for a while. Dropping it gives the connection, and
/// with the last one the locks, back.
#[derive(Debug)]
pub(crate) struct Lease<'g> {
    gate: &'g Gate,
    conn: RefCell<Option<Connection>>,
    purpose: Purpose,
    snapshot: RefCell<Option<Stamp>>,
    /// A query has failed.
    failed: Cell<bool>,
}

impl Gate {
    pub(crate) fn new(paths: DatabaseFiles, database: File, access: Access) -> Self {
        Self {
            inner: Mutex::new(Inner {
                leases: 0,
                has_written: false,
                mode: Mode::Rest,
                open: None,
                suspect: false,
                snapshots: Vec::new(),
                last_look: Stamp::none(),
                closed: false,
            }),
            changes: AtomicU64::new(0),
            version: AtomicI64::new(0),
            doubted: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            paths,
            access,
            database,
        }
    }

    /// The same file, with other rights. No lease may be out.
    pub(crate) fn with_access(self, access: Access) -> Self {
        Self::new(self.paths, self.database, access)
    }

    pub(crate) fn paths(&self) -> &DatabaseFiles {
        &self.paths
    }

    /// The descriptor that `flock` is taken on.
    pub(crate) fn database(&self) -> &File {
        &self.database
    }

    /// Counts up whenever the files were found changed by others in a way that
    /// the connections could not follow.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Whether another connection has committed, as `version`, which the one that writes
    /// has just been asked for, tells, since it was last asked or opened.
    pub(crate) fn note_version(&self, version: i64) -> bool {
        let before = self.version.swap(version, Ordering::AcqRel);
        before != 0 && before != version
    }

    /// The process that keeps us from the file.
    pub(crate) fn holder(&self) -> Option<i32> {
        sys::holder(&self.database, DATABASE_SHARED)
    }

    /// Enters. Writing fails with [`StorageError::Busy`] while another engine
    /// holds the file.
    pub(crate) fn enter(&self, purpose: Purpose) -> Result<Lease<'_>, StorageError> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(StorageError::Io("it has been closed".into()));
        }
        if inner.leases == 0 {
            self.acquire(&mut inner)?;
        }
        let lease = self.take_connection(&mut inner, purpose);
        match lease {
            Ok(lease) => {
                inner.leases += 1;
                inner.has_written |= purpose != Purpose::Read;
                Ok(lease)
            }
            Err(error) => {
                if inner.leases == 0 {
                    self.release(&mut inner);
                }
                Err(error)
            }
        }
    }

    fn take_connection(
        &self,
        inner: &mut Inner,
        purpose: Purpose,
    ) -> Result<Lease<'_>, StorageError> {
        let connect =
            |page_cache_kib| connection::open(&self.paths.database, self.access, page_cache_kib);
        let (conn, snapshot) = match (inner.mode, purpose, inner.open.as_mut()) {
            (Mode::Shared, Purpose::Write, Some(open)) => match open.writer.take() {
                Some(conn) => (Some(conn), None),
                None => {
                    // What a connection counts is its own.
                    self.version.store(0, Ordering::Release);
                    (Some(connect(PAGE_CACHE_KIB)?), None)
                }
            },
            (Mode::Shared, Purpose::Read | Purpose::Fold, Some(open)) => match open.readers.pop() {
                Some(conn) => (Some(conn), None),
                None => (Some(connect(READER_PAGE_CACHE_KIB)?), None),
            },
            (_, Purpose::Write, _) => return Err(StorageError::Busy),
            // The first query finds out whether a kept snapshot is current.
            (_, Purpose::Read | Purpose::Fold, _) => match inner.snapshots.pop() {
                Some((conn, stamp)) => (Some(conn), Some(stamp)),
                None => (None, Some(Stamp::none())),
            },
        };
        Ok(Lease {
            gate: self,
            conn: RefCell::new(conn),
            purpose,
            snapshot: RefCell::new(snapshot),
            failed: Cell::new(false),
        })
    }

    /// Takes the locks, or finds that they cannot be had.
    fn acquire(&self, inner: &mut Inner) -> Result<(), StorageError> {
        inner.has_written = false;
        if self.access == Access::Snapshot || !self.lock_database()? {
            inner.mode = Mode::Snapshot;
            return Ok(());
        }
        // Closing a snapshot closes a descriptor of the file.
        if !inner.snapshots.is_empty() {
            inner.snapshots.clear();
            if !self.lock_database()? {
                inner.mode = Mode::Snapshot;
                return Ok(());
            }
        }
        let (mut wal_before, mut left_before) = (None, None);
        if let Some(mut open) = inner.open.take() {
            // Compared before its lock is taken: with that, a third program would take a
            // `-shm` for current that somebody has written past. And its index once more
            // after: whoever finds the lock free begins it anew.
            if let Some(left) = self.left_as_is(&open)
                && self.lock_shm(&open.files.shm)?
                && left.has_index_of(&open.files.shm)
            {
                inner.open = Some(open);
                inner.mode = Mode::Shared;
                return Ok(());
            }
            // Others were here. What our connections know may be stale: close them all,
            // which also drops the locks, and begin anew.
            inner.suspect = true;
            self.note_removal(&mut open);
            let Open {
                writer,
                readers,
                files: Files { wal, shm },
                left,
                ..
            } = open;
            drop((writer, readers, shm));
            (wal_before, left_before) = (Some(wal), left);
            if !self.lock_database()? {
                self.changes.fetch_add(1, Ordering::AcqRel);
                inner.mode = Mode::Snapshot;
                return Ok(());
            }
        }
        match self.open_all() {
            Ok(mut open) => {
                open.files.keep_wal(wal_before);
                // Where they hold what was left, others have at most read.
                let is_same = left_before
                    .zip(open.left)
                    .is_some_and(|(before, now)| before.is_same_content(&now));
                if std::mem::take(&mut inner.suspect) && !is_same {
                    self.changes.fetch_add(1, Ordering::AcqRel);
                }
                inner.open = Some(open);
                inner.mode = Mode::Shared;
                Ok(())
            }
            Err(error) => {
                if inner.suspect {
                    self.changes.fetch_add(1, Ordering::AcqRel);
                }
                sys::unlock(&self.database, DATABASE_SHARED);
                Err(error)
            }
        }
    }

    fn open_all(&self) -> Result<Open, StorageError> {
        if !self.is_in_place() {
            return Err(StorageError::Io(
                "the file was removed or replaced while it was in use".into(),
            ));
        }
        let conn = connection::open(&self.paths.database, self.access, PAGE_CACHE_KIB)?;
        let version = connection::data_version(&conn)?;
        self.version.store(version, Ordering::Release);
        let read_write = self.access == Access::ReadWrite;
        let open = |path: &Path| File::options().read(true).write(read_write).open(path);
        let files = (|| {
            Ok::<_, io::Error>(Files {
                wal: open(&self.paths.wal)?,
                shm: open(&self.paths.shm)?,
            })
        })()
        .map_err(|e| io_error(&e))?;
        let left = Left::of(&self.database, &files.wal, &files.shm).ok();
        let (writer, readers) = if read_write {
            (Some(conn), Vec::new())
        } else {
            (None, vec![conn])
        };
        Ok(Open {
            writer,
            readers,
            files,
            left,
            lost_bytes: 0,
        })
    }

    /// How the last lease left the files, when nobody has written since; none also when
    /// that cannot be told.
    fn left_as_is(&self, open: &Open) -> Option<Left> {
        let now = Left::of(&self.database, &open.files.wal, &open.files.shm).ok()?;
        open.left.filter(|left| *left == now)
    }

    /// Whether the path still leads to the file that was opened.
    pub(crate) fn is_in_place(&self) -> bool {
        let there = std::fs::metadata(&self.paths.database);
        stamp::is_same(self.database.metadata(), there)
    }

    /// Tries for the database lock. An SDK holds the whole file and for long;
    /// SQLite's own exclusive locks are short and worth waiting for.
    fn lock_database(&self) -> Result<bool, StorageError> {
        let deadline = Instant::now() + SHORT_LOCK_PATIENCE;
        loop {
            if sys::try_lock_shared(&self.database, DATABASE_SHARED).map_err(|e| io_error(&e))? {
                return Ok(true);
            }
            if sys::is_whole_file_held(&self.database) || Instant::now() > deadline {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Says again that we use the `-shm`; `false` when someone keeps starting
    /// it anew.
    fn lock_shm(&self, shm: &File) -> Result<bool, StorageError> {
        let deadline = Instant::now() + SHORT_LOCK_PATIENCE;
        loop {
            if sys::try_lock_shared(shm, SHM_IN_USE).map_err(|e| io_error(&e))? {
                return Ok(true);
            }
            if Instant::now() > deadline {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn release(&self, inner: &mut Inner) {
        if inner.mode == Mode::Shared
            && let Some(open) = &mut inner.open
        {
            let mut is_deleted = false;
            // Who has only read leaves all as it was: what the next compares with stays the
            // same, so that what others did meanwhile, or do from now on, is a change.
            if inner.has_written {
                let now = Left::of(&self.database, &open.files.wal, &open.files.shm).ok();
                is_deleted = now.is_some_and(|left| left.tells_of_deletion());
                // What others committed while we were in must not be taken for ours.
                open.left = now.filter(|_| self.is_version_as_noted(open));
            }
            sys::unlock(&open.files.shm, SHM_IN_USE);
            sys::unlock(&self.database, DATABASE_SHARED);
            if is_deleted {
                // No program that keeps to SQLite's locks could while we held them: a
                // change of the journal mode of our own, which folds first, or
                // somebody's hand. Our descriptors are of no use.
                self.note_removal(open);
                inner.open = None;
            }
        }
        inner.mode = Mode::Rest;
    }

    /// Whether nobody else has committed, as far as the connection that writes can tell.
    fn is_version_as_noted(&self, open: &Open) -> bool {
        let noted = self.version.load(Ordering::Acquire);
        match &open.writer {
            Some(writer) if noted != 0 => {
                connection::data_version(writer).is_ok_and(|now| now == noted)
            }
            _ => true,
        }
    }

    /// Runs `f` on the `-wal` and the `-shm`; none when they are not open.
    pub(crate) fn with_wal<T>(&self, f: impl FnOnce(&File, &File) -> T) -> Option<T> {
        let inner = self.inner.lock();
        let files = &inner.open.as_ref()?.files;
        Some(f(&files.wal, &files.shm))
    }

    /// As [`Gate::with_wal`], but none while somebody is entering: that may wait for
    /// another program.
    pub(crate) fn with_wal_at_once<T>(&self, f: impl FnOnce(&File, &File) -> T) -> Option<T> {
        let inner = self.inner.try_lock()?;
        let files = &inner.open.as_ref()?.files;
        Some(f(&files.wal, &files.shm))
    }

    /// Whether the files may have changed since the last lease ended. While one is out
    /// that cannot be seen without another.
    pub(crate) fn looks_changed(&self) -> bool {
        let inner = self.inner.lock();
        match (&inner.open, inner.mode) {
            (Some(open), Mode::Rest | Mode::Snapshot) => self.left_as_is(open).is_none(),
            (Some(_), Mode::Shared) => true,
            (None, _) => false,
        }
    }

    /// Whether the files changed since the last call, for whoever looks while
    /// another engine holds them.
    pub(crate) fn moved_since_last_look(&self) -> bool {
        let now =
            Stamp::at_paths(&self.database, &self.paths.wal).unwrap_or_else(|_| Stamp::none());
        std::mem::replace(&mut self.inner.lock().last_look, now) != now
    }

    /// Whether [`Gate::close`] has succeeded.
    pub(crate) fn is_closed(&self) -> bool {
        self.inner.lock().closed
    }

    /// That the `-wal` and the `-shm` are gone; [`StorageError::Busy`] while
    /// another process has the database open.
    pub(crate) fn companions_gone(&self) -> Result<(), StorageError> {
        match self.paths.wal.exists() || self.paths.shm.exists() {
            true => Err(StorageError::Busy),
            false => Ok(()),
        }
    }

    /// Ends all use: folds the `-wal` into the database and removes it and the
    /// `-shm`, unless another process has the database open.
    pub(crate) fn close(&self) -> Result<(), StorageError> {
        self.fold()?;
        self.end()
    }

    /// The first step; others may come in before the second.
    fn fold(&self) -> Result<(), StorageError> {
        self.enter(Purpose::Write)?
            .query(connection::checkpoint_truncate)
    }

    /// The second: gives all up, also where others have written since the first.
    fn end(&self) -> Result<(), StorageError> {
        let mut inner = self.inner.lock();
        if inner.leases > 0 {
            return Err(StorageError::Busy);
        }
        // The last connection to close sees to the companions; it needs its lock
        // for that, and a current view. One with a stale view, of what was there
        // before the locks were given back, would remove what others have begun.
        self.acquire(&mut inner)?;
        if let Some(mut open) = inner.open.take()
            && inner.mode == Mode::Shared
        {
            open.readers.clear();
            open.writer
                .as_ref()
                .map_or(Ok(()), connection::leave_tidy)?;
        }
        inner.snapshots.clear();
        inner.mode = Mode::Rest;
        inner.closed = true;
        Ok(())
    }
}
