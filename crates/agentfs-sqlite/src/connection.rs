//! How connections are set up. Opens and configures; keeps no state, takes no
//! lock and decides nothing.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentfs_core::StorageError;
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags};

use crate::error::storage_error;
use crate::files::DatabaseFiles;
use crate::vfs;

/// How long a statement waits for another SQLite process.
const BUSY_PATIENCE: Duration = Duration::from_secs(5);
/// The largest value or row that is believed, in bytes: chunks and key-values
/// are far below.
const VALUE_MAX_BYTES: i32 = 64 << 20;
/// SQLite's own page cache, in KiB, of the connection that writes (or is the first).
pub(crate) const PAGE_CACHE_KIB: i32 = 16 << 10;
/// That of each that reads: there can be one for every thread that answers requests.
pub(crate) const READER_PAGE_CACHE_KIB: i32 = 4 << 10;

/// What may be done with the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// All.
    ReadWrite,
    /// Queries, with SQLite's locks, beside a live server.
    ReadOnly,
    /// Queries without any lock and without creating a file: what a database at
    /// rest, or in a place that cannot be written, needs.
    Snapshot,
}

/// Opens a connection that takes part in SQLite's locking, in WAL mode.
pub(crate) fn open(
    path: &Path,
    access: Access,
    page_cache_kib: i32,
) -> Result<Connection, StorageError> {
    let mut flags = OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags |= match access {
        Access::ReadWrite => OpenFlags::SQLITE_OPEN_READ_WRITE,
        Access::ReadOnly | Access::Snapshot => OpenFlags::SQLITE_OPEN_READ_ONLY,
    };
    (|| {
        let conn = match vfs::name() {
            Some(vfs) => Connection::open_with_flags_and_vfs(path, flags, vfs)?,
            None => Connection::open_with_flags(path, flags)?,
        };
        conn.busy_timeout(BUSY_PATIENCE)?;
        // A connection that is closed because others wrote holds a stale view
        // of the -wal: it must not write that to the database file.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        configure(&conn, page_cache_kib)?;
        if access == Access::ReadWrite {
            conn.pragma_update(None, "synchronous", "NORMAL")?;
            // Checkpoints are made on the committer thread when it suits.
            conn.pragma_update(None, "wal_autocheckpoint", 0)?;
            let mode: String = conn.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
            if mode != "wal" {
                conn.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
            }
        }
        // The first read opens the -wal and the -shm.
        conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(conn)
    })()
    .map_err(|e| storage_error(&e))
}

/// Opens a connection that reads the committed state without a lock, without
/// the `-shm` and without creating a file. What it read is only to be believed
/// when the files did not change meanwhile.
pub(crate) fn open_snapshot(paths: &DatabaseFiles) -> Result<Connection, StorageError> {
    // With an empty -wal there is nothing in it to read, and SQLite would
    // create one if it were missing.
    let wal_bytes = std::fs::metadata(&paths.wal).map_or(0, |m| m.len());
    open_unlocked(snapshot_uri(&paths.database, wal_bytes == 0))
}

/// As [`open_snapshot`], but of the database file alone: its `-wal` is ignored.
pub(crate) fn open_without_wal(paths: &DatabaseFiles) -> Result<Connection, StorageError> {
    open_unlocked(snapshot_uri(&paths.database, true))
}

fn open_unlocked(uri: PathBuf) -> Result<Connection, StorageError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    (|| {
        let conn = Connection::open_with_flags(uri, flags)?;
        // Without locks it would take itself for the last one when it is closed, and
        // remove a -wal in which it saw no commit: a server's that has just begun it.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        // Keeps the index of the -wal in memory instead of in the -shm. Has to
        // come before anything that looks at the file.
        conn.pragma_update_and_check(None, "locking_mode", "EXCLUSIVE", |_| Ok(()))?;
        configure(&conn, READER_PAGE_CACHE_KIB)?;
        conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(conn)
    })()
    .map_err(|e| storage_error(&e))
}

fn snapshot_uri(path: &Path, immutable: bool) -> PathBuf {
    let mut uri = b"file:".to_vec();
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => uri.push(byte),
            _ => uri.extend_from_slice(format!("%{byte:02X}").as_bytes()),
        }
    }
    uri.extend_from_slice(b"?mode=ro&vfs=unix-none");
    if immutable {
        uri.extend_from_slice(b"&immutable=1");
    }
    PathBuf::from(OsString::from_vec(uri))
}

/// What holds for every connection: a database is somebody else's file, so its
/// triggers, views and functions in the schema are not run.
fn configure(conn: &Connection, page_cache_kib: i32) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
    // Else a statement whose plan may depend on a value is prepared anew for each: five times
    // the work of finding an inode by its number.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_MAX_BYTES)?;
    conn.pragma_update(None, "cell_size_check", true)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    conn.pragma_update(None, "cache_size", -page_cache_kib)?;
    conn.pragma_update(None, "mmap_size", 0)?;
    conn.set_prepared_statement_cache_capacity(128);
    Ok(())
}

/// A number of this connection that changes when another one has committed.
pub(crate) fn data_version(conn: &Connection) -> Result<i64, StorageError> {
    conn.prepare_cached("PRAGMA data_version")
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
        .map_err(|e| storage_error(&e))
}

/// Moves what the `-wal` holds to the database file, as far as readers allow.
/// When all was moved, which is told, the next transaction begins the `-wal`
/// anew, in the room it has.
pub(crate) fn checkpoint_passive(conn: &Connection) -> Result<bool, StorageError> {
    run_checkpoint(conn, "PASSIVE").map_err(|e| storage_error(&e))
}

/// As [`checkpoint_passive`]; shortens the `-wal` to nothing when all was moved.
pub(crate) fn checkpoint(conn: &Connection) -> Result<(), StorageError> {
    if !checkpoint_passive(conn)? {
        return Ok(());
    }
    (|| {
        // Truncating waits for readers to leave the -wal: not here.
        conn.busy_timeout(Duration::ZERO)?;
        let outcome = run_checkpoint(conn, "TRUNCATE");
        conn.busy_timeout(BUSY_PATIENCE)?;
        outcome.map(|_| ())
    })()
    .map_err(|e: rusqlite::Error| storage_error(&e))
}

/// Whether all was moved.
fn run_checkpoint(conn: &Connection, mode: &str) -> rusqlite::Result<bool> {
    conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
        let (busy, log, moved): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(busy == 0 && log == moved)
    })
}

/// As [`checkpoint`], at the end: waits for readers.
pub(crate) fn checkpoint_truncate(conn: &Connection) -> Result<(), StorageError> {
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .map_err(|e| storage_error(&e))
}

/// Lets the closing of this connection remove the `-wal` and the `-shm`.
pub(crate) fn leave_tidy(conn: &Connection) -> Result<(), StorageError> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)
        .map(|_| ())
        .map_err(|e| storage_error(&e))
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;
    use crate::database::Volume;
    use crate::schema;
    use crate::sql::{KVS_AFTER, VolumeSql};

    /// For each value anew was what SQLite did with these.
    #[test]
    fn a_statement_is_prepared_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        Connection::open(&path).unwrap();
        let conn = open(&path, Access::ReadWrite, PAGE_CACHE_KIB).unwrap();
        for tables in [schema::FORMAT_TABLES, schema::EXTENSION_TABLES] {
            conn.execute_batch(tables).unwrap();
        }
        let sql = VolumeSql::new(Volume::View);
        for text in [&sql.inode_get, &sql.dentries, &sql.chunk_next, KVS_AFTER] {
            for value in 2..5 {
                let mut statement = conn.prepare_cached(text).unwrap();
                for parameter in 1..=statement.parameter_count() {
                    statement.raw_bind_parameter(parameter, value).unwrap();
                }
                let mut rows = statement.raw_query();
                while rows.next().unwrap().is_some() {}
                drop(rows);
                let again = statement.get_status(StatementStatus::RePrepare);
                assert_eq!(again, 0, "{text}");
            }
        }
    }
}
