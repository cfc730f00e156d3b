//! Opening: what is accepted, what is refused, and that a refused file is not
//! changed.
//!
//! The file is first examined through a connection that takes no lock and
//! creates nothing; only when it is found to be a session database of a known
//! version is it opened for real and, where it came from an SDK, given our
//! extension tables.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agentfs_core::StorageError;
use parking_lot::Mutex;
use rusqlite::Connection;

use crate::apply;
use crate::connection::{self, Access};
use crate::error::{OpenError, storage_error};
use crate::examine::{self, Found};
use crate::files::DatabaseFiles;
use crate::gate::{Gate, Purpose};
use crate::schema;
use crate::wal;

/// How long opening waits for another program that holds the file.
const OPEN_PATIENCE: Duration = Duration::from_secs(5);
const PAGE_SIZE_BYTES: u32 = 8_192;
const CHUNK_SIZE_BYTES: u32 = 32_768;

/// How a database is to be opened.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    create: bool,
    read_only: bool,
    chunk_size_bytes: u32,
    page_size_bytes: u32,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl OpenOptions {
    /// For reading and writing; a missing database is not created.
    #[must_use]
    pub fn new() -> Self {
        Self {
            create: false,
            read_only: false,
            chunk_size_bytes: CHUNK_SIZE_BYTES,
            page_size_bytes: PAGE_SIZE_BYTES,
        }
    }

    /// Whether a missing database is created.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Whether nothing may be written: neither the database nor a file beside
    /// it is created or changed where none of a live server is there.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Bytes per chunk of a database that is created, 512 to 16 MiB; an existing
    /// one keeps its own.
    #[must_use]
    pub fn chunk_size_bytes(mut self, bytes: u32) -> Self {
        let sizes = schema::CHUNK_SIZES_BYTES;
        self.chunk_size_bytes = bytes.clamp(*sizes.start(), *sizes.end());
        self
    }

    /// Page size of a database that is created: a power of two from 512 to
    /// 65536.
    #[must_use]
    pub fn page_size_bytes(mut self, bytes: u32) -> Self {
        self.page_size_bytes = bytes.clamp(512, 65_536).next_power_of_two();
        self
    }
}

/// A database that has been accepted.
pub(crate) struct Opened {
    pub(crate) gate: Gate,
    pub(crate) access: Access,
    pub(crate) chunk_size_bytes: u32,
    pub(crate) home_exists: bool,
    /// The `-wal` held what the database did not.
    pub(crate) had_wal: bool,
    pub(crate) numbers: Option<(u64, u64)>,
    pub(crate) registration: Registration,
}

pub(crate) fn open(path: &Path, options: &OpenOptions) -> Result<Opened, OpenError> {
    let paths = DatabaseFiles::of(path);
    let registration = find_or_create(&paths, options)?;
    let file = File::options()
        .read(true)
        .write(!options.read_only)
        .open(path)
        .map_err(|e| OpenError::from_io(path, &e))?;
    let found = examine_file(&paths, &file)?;
    if options.read_only {
        return open_read_only(paths, file, registration, &found);
    }
    let gate = Gate::new(paths, file, Access::ReadWrite);
    let lease = enter(&gate, path)?;
    let had_wal = wal::fill(&gate).unfolded_bytes > 0;
    let storage = |error| OpenError::from_storage(path, error);
    lease
        .query(|conn| prepare(conn, options))
        .map_err(storage)?;
    let found = match found {
        Found::Ours(facts) if facts.is_current => facts,
        // Now that the tables are there, look again: this time with the locks.
        _ => match lease
            .query(|conn| Ok(examine::examine(conn, path)))
            .map_err(storage)??
        {
            Found::Ours(facts) => facts,
            Found::Empty => {
                let reason = "its tables could not be made".to_owned();
                return Err(OpenError::Io {
                    path: path.to_path_buf(),
                    reason,
                });
            }
        },
    };
    let numbers = lease
        .query(|conn| wal::transaction(&gate, conn, || apply::reserve(conn)))
        .map_err(storage)?;
    let home_exists = lease.query(apply::home_exists).map_err(storage)?;
    drop(lease);
    Ok(Opened {
        gate,
        access: Access::ReadWrite,
        chunk_size_bytes: found.chunk_size_bytes,
        home_exists,
        had_wal,
        numbers: Some(numbers),
        registration,
    })
}

/// Enters for writing, with patience for an SDK that is about to let go.
fn enter<'g>(gate: &'g Gate, path: &Path) -> Result<crate::gate::Lease<'g>, OpenError> {
    let deadline = Instant::now() + OPEN_PATIENCE;
    loop {
        match gate.enter(Purpose::Write) {
            Ok(lease) => return Ok(lease),
            Err(StorageError::Busy) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(StorageError::Busy) => {
                return Err(OpenError::Busy {
                    path: path.to_path_buf(),
                    pid: gate.holder(),
                });
            }
            Err(error) => return Err(OpenError::from_storage(path, error)),
        }
    }
}

fn open_read_only(
    paths: DatabaseFiles,
    file: File,
    registration: Registration,
    found: &Found,
) -> Result<Opened, OpenError> {
    let Found::Ours(facts) = found else {
        let reason = "it is empty".to_owned();
        return Err(OpenError::Corrupt {
            path: paths.database,
            reason,
        });
    };
    if !facts.is_current {
        return Err(OpenError::NeedsUpgrade(paths.database));
    }
    // Beside a live server, SQLite's own shared memory gives one consistent
    // state. Otherwise, or where that cannot be had, no lock and no file.
    let live = paths.shm.exists() && std::fs::metadata(&paths.wal).is_ok_and(|m| m.len() > 0);
    let mut access = if live {
        Access::ReadOnly
    } else {
        Access::Snapshot
    };
    let chunk_size_bytes = facts.chunk_size_bytes;
    let mut gate = Gate::new(paths, file, access);
    if live && gate.enter(Purpose::Read).is_err() {
        access = Access::Snapshot;
        gate = gate.with_access(access);
    }
    let home_exists = gate
        .enter(Purpose::Read)
        .and_then(|lease| lease.query(apply::home_exists))
        .map_err(|error| OpenError::from_storage(&gate.paths().database, error))?;
    Ok(Opened {
        gate,
        access,
        chunk_size_bytes,
        home_exists,
        had_wal: false,
        numbers: None,
        registration,
    })
}

/// Makes sure that there is a regular file, and that this process opens it once.
fn find_or_create(paths: &DatabaseFiles, options: &OpenOptions) -> Result<Registration, OpenError> {
    let path = &paths.database;
    for _ in 0..2 {
        match std::fs::metadata(path) {
            Ok(metadata) => {
                let kind = metadata.file_type();
                if !kind.is_file() || kind.is_fifo() {
                    return Err(OpenError::NotAFile(path.clone()));
                }
                return Registration::new(path, &metadata);
            }
            Err(e)
                if e.kind() == io::ErrorKind::NotFound && options.create && !options.read_only =>
            {
                create_file(paths)?;
            }
            Err(e) => return Err(OpenError::from_io(path, &e)),
        }
    }
    Err(OpenError::NotFound(path.clone()))
}

/// Keeps others from putting a database at a place in the same directory.
#[derive(Debug)]
pub struct ClearedPlace {
    _directory: File,
}

/// Removes what is left at `path` of a database that is gone: it would be taken for
/// the next one's. Whoever puts a database there does so while the value lives.
/// `None`, with nothing removed, when there is a database.
///
/// For what lies beside a database that another has just put there is in use.
///
/// # Errors
/// The host's.
pub fn clear_place(path: &Path) -> io::Result<Option<ClearedPlace>> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let directory = File::open(directory)?;
    directory.lock()?;
    if path.try_exists()? {
        return Ok(None);
    }
    let paths = DatabaseFiles::of(path);
    for leftover in paths.companions() {
        match std::fs::remove_file(leftover) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(Some(ClearedPlace {
        _directory: directory,
    }))
}

fn create_file(paths: &DatabaseFiles) -> Result<(), OpenError> {
    let cleared =
        clear_place(&paths.database).map_err(|e| OpenError::from_io(&paths.database, &e))?;
    let Some(_cleared) = cleared else {
        return Ok(());
    };
    // It holds what programs wrote into files that nobody else may read. SQLite
    // gives the files beside it the same mode.
    match File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&paths.database)
    {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            Err(OpenError::from_io(&paths.database, &e))
        }
        _ => Ok(()),
    }
}

/// Looks at the file without changing it.
fn examine_file(paths: &DatabaseFiles, file: &File) -> Result<Found, OpenError> {
    let path = &paths.database;
    let io = |e: io::Error| OpenError::from_io(path, &e);
    if is_half_made(paths) {
        return Ok(Found::Empty);
    }
    let mut header = Vec::new();
    file.take(100).read_to_end(&mut header).map_err(io)?;
    if header.is_empty() {
        return Ok(Found::Empty);
    }
    let wal_bytes = std::fs::metadata(&paths.wal).map_or(0, |m| m.len());
    let size = file.metadata().map_err(io)?.len();
    examine::header(path, &header, size, wal_bytes > 0)?;
    // While another program writes, a look may go wrong: look again.
    let mut last = None;
    for _ in 0..20 {
        if wal_bytes > 0 && !wal_fits(paths) {
            last = Some(OpenError::ForeignWal(path.clone()));
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        match connection::open_snapshot(paths) {
            Ok(conn) => match examine::examine(&conn, path) {
                Ok(found) => return Ok(found),
                Err(error @ (OpenError::Corrupt { .. } | OpenError::Io { .. }))
                    if wal_bytes > 0 =>
                {
                    last = Some(error);
                }
                Err(error) => return Err(error),
            },
            Err(error) => last = Some(OpenError::from_storage(path, error)),
        }
        if wal_bytes == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(last.unwrap_or_else(|| OpenError::NotADatabase(path.clone())))
}

/// Whether the power failed while the database was made: beside it lies a rollback
/// journal that says that the file had one page at most before, so no table (SQLite's
/// file format, 3). What is in the file is nobody's, and SQLite undoes it when it opens
/// it for writing.
fn is_half_made(paths: &DatabaseFiles) -> bool {
    const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    let mut header = [0; 20];
    let read = File::open(&paths.journal).and_then(|mut file| file.read_exact(&mut header));
    read.is_ok() && header.starts_with(&MAGIC) && matches!(header[16..], [0, 0, 0, 0 | 1])
}

/// Whether the `-wal` may be laid over the database file.
fn wal_fits(paths: &DatabaseFiles) -> bool {
    let Ok(without) = connection::open_without_wal(paths) else {
        // A new database may have all of it in the -wal.
        return true;
    };
    let without = wal::tie(&without);
    let with = connection::open_snapshot(paths);
    wal::fits(
        without.as_ref(),
        with.ok().as_ref().and_then(wal::tie).as_ref(),
    )
}

/// Makes what is missing of tables and settings.
fn prepare(conn: &Connection, options: &OpenOptions) -> Result<(), StorageError> {
    (|| {
        let tables: i64 =
            conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if tables == 0 {
            // Takes effect before the first page is written, or in a rebuild of
            // the (empty) file, which WAL mode does not allow.
            conn.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(()))?;
            conn.pragma_update(None, "page_size", options.page_size_bytes)?;
            conn.execute_batch("VACUUM")?;
            conn.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        }
        if is_prepared(conn)? {
            return Ok(());
        }
        conn.execute_batch("BEGIN IMMEDIATE")?;
        conn.execute_batch(schema::FORMAT_TABLES)?;
        let columns = examine::columns(conn, "fs_inode")?;
        for (column, definition) in schema::LATER_INODE_COLUMNS {
            if !columns.iter().any(|existing| existing == column) {
                conn.execute_batch(&format!(
                    "ALTER TABLE fs_inode ADD COLUMN {column} {definition}"
                ))?;
            }
        }
        conn.execute_batch(schema::EXTENSION_TABLES)?;
        let (major, minor) = schema::SPEC_VERSION;
        let set = |sql: &str, key: &str, value: String| conn.execute(sql, [key, &value]);
        let chunk_size = match tables {
            0 => options.chunk_size_bytes,
            // The format's default, for a database that does not say.
            _ => schema::DEFAULT_CHUNK_SIZE_BYTES,
        };
        let insert = "INSERT OR IGNORE INTO fs_config (key, value) VALUES (?1, ?2)";
        set(insert, "chunk_size", chunk_size.to_string())?;
        let replace = "INSERT OR REPLACE INTO fs_config (key, value) VALUES (?1, ?2)";
        set(replace, "schema_version", format!("{major}.{minor}"))?;
        conn.execute(
            "INSERT OR IGNORE INTO afs_meta (key, value) VALUES ('version', ?1), \
             ('session_id', randomblob(16))",
            [schema::EXTENSION_VERSION],
        )?;
        conn.pragma_update(None, "application_id", schema::APPLICATION_ID)?;
        conn.execute_batch("COMMIT")
    })()
    .map_err(|e: rusqlite::Error| storage_error(&e))
}

/// Whether nothing is missing, so that opening writes nothing.
fn is_prepared(conn: &Connection) -> rusqlite::Result<bool> {
    let id: i32 = conn.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version: i64 = match conn.query_row(
        "SELECT value FROM afs_meta WHERE key = 'version'",
        [],
        |row| row.get(0),
    ) {
        Ok(version) => version,
        Err(_) => return Ok(false),
    };
    Ok(id == schema::APPLICATION_ID
        && version == schema::EXTENSION_VERSION
        && examine::missing_table(conn)?.is_none())
}

/// That this process has the file open. A second opening would, when it closes
/// its descriptor, drop the first one's locks (POSIX record locks belong to the
/// process).
#[derive(Debug)]
pub(crate) struct Registration {
    file: (u64, u64),
}

static REGISTERED: Mutex<Option<HashSet<(u64, u64)>>> = Mutex::new(None);

impl Registration {
    fn new(path: &Path, metadata: &std::fs::Metadata) -> Result<Self, OpenError> {
        let file = (metadata.dev(), metadata.ino());
        let mut registered = REGISTERED.lock();
        if !registered.get_or_insert_default().insert(file) {
            let pid = i32::try_from(std::process::id()).ok();
            return Err(OpenError::Busy {
                path: PathBuf::from(path),
                pid,
            });
        }
        Ok(Self { file })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(registered) = REGISTERED.lock().as_mut() {
            registered.remove(&self.file);
        }
    }
}
