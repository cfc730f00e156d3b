//! Looking at a database to tell what it is, without changing it.

use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension};

use crate::error::OpenError;
use crate::schema;

/// The longest default value of a column, as SQL.
const DEFAULT_MAX_CHARS: i64 = 64;

/// What a file turned out to be.
#[derive(Debug)]
pub(crate) enum Found {
    /// Nothing yet: a new file, or an SQLite database without tables.
    Empty,
    /// A session database, ours or an SDK's.
    Ours(Facts),
}

/// What is known of a session database after a look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) chunk_size_bytes: u32,
    /// It has every table and column that this version uses.
    pub(crate) is_current: bool,
}

/// Checks the first 100 bytes of the file (the format of which SQLite fixes).
pub(crate) fn header(
    path: &Path,
    header: &[u8],
    file_bytes: u64,
    has_wal: bool,
) -> Result<(), OpenError> {
    let path = || path.to_path_buf();
    if !header.starts_with(b"SQLite format 3\0") {
        return Err(OpenError::NotADatabase(path()));
    }
    let corrupt = |reason: &str| OpenError::Corrupt {
        path: path(),
        reason: reason.to_owned(),
    };
    let Some(header) = header.first_chunk::<100>() else {
        return Err(corrupt("it is shorter than its header"));
    };
    let word = |at: usize| {
        u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let page_size = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65_536,
        size if size >= 512 && size.is_power_of_two() => u64::from(size),
        _ => return Err(corrupt("its header gives an impossible page size")),
    };
    let application = word(68).cast_signed();
    if application != 0 && application != schema::APPLICATION_ID {
        return Err(OpenError::OtherApplication {
            path: path(),
            reason: format!("its application id is {application:#x}"),
        });
    }
    // The page count counts when the two change counters agree; what the -wal
    // holds need not be in the file yet.
    let pages = u64::from(word(28));
    if word(24) == word(92) && !has_wal && pages * page_size > file_bytes {
        return Err(corrupt("it is truncated"));
    }
    Ok(())
}

/// Looks at tables, versions and the root.
pub(crate) fn examine(conn: &Connection, path: &Path) -> Result<Found, OpenError> {
    let sqlite = |e: rusqlite::Error| OpenError::from_sqlite(path, &e);
    let application: i32 = conn
        .pragma_query_value(None, "application_id", |row| row.get(0))
        .map_err(sqlite)?;
    let other = |reason: String| OpenError::OtherApplication {
        path: path.to_path_buf(),
        reason,
    };
    let corrupt = |reason: String| OpenError::Corrupt {
        path: path.to_path_buf(),
        reason,
    };
    if application != 0 && application != schema::APPLICATION_ID {
        return Err(other(format!("its application id is {application:#x}")));
    }
    let objects: i64 = conn
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(sqlite)?;
    if objects == 0 {
        return Ok(Found::Empty);
    }
    for table in ["fs_inode", "fs_dentry", "fs_data"] {
        if columns(conn, table).map_err(sqlite)?.is_empty() {
            // The SDKs make kv_store and tool_calls in their own time.
            if application == 0 && !has_only_our_tables(conn).map_err(sqlite)? {
                return Err(other(format!("it has tables, but no {table}")));
            }
            if application == schema::APPLICATION_ID {
                return Err(corrupt(format!("table {table} is missing")));
            }
        }
    }
    for (table, required) in schema::REQUIRED_COLUMNS {
        let existing = columns(conn, table).map_err(sqlite)?;
        if existing.is_empty() {
            continue;
        }
        if let Some(missing) = required.iter().find(|c| !existing.iter().any(|e| e == *c)) {
            return Err(corrupt(format!("table {table} has no column {missing}")));
        }
    }
    if let Some(reason) = absurd_table(conn).map_err(sqlite)? {
        return Err(corrupt(reason));
    }
    check_versions(conn, path)?;
    check_root(conn, path)?;
    let missing = missing_table(conn).map_err(sqlite)?;
    Ok(Found::Ours(Facts {
        chunk_size_bytes: chunk_size(conn, path)?,
        is_current: missing.is_none() && lacks_no_column(conn).map_err(sqlite)?,
    }))
}

/// The columns of a table; empty when there is no *table* of that name.
pub(crate) fn columns(conn: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = conn.prepare(
        "SELECT c.name FROM sqlite_schema AS t, pragma_table_info(t.name) AS c \
         WHERE t.type = 'table' AND t.name = ?1",
    )?;
    statement.query_map([table], |row| row.get(0))?.collect()
}

/// What the schema of an enemy can hold in the place of our tables: a view or a
/// virtual table, which runs code of its own, or a default value that turns every
/// row of a few bytes into a megabyte in memory.
fn absurd_table(conn: &Connection) -> rusqlite::Result<Option<String>> {
    let mut is_table = conn.prepare(
        "SELECT type = 'table' AND rootpage > 0 FROM sqlite_schema \
         WHERE name = ?1 COLLATE NOCASE AND type IN ('table', 'view')",
    )?;
    let mut default =
        conn.prepare("SELECT name FROM pragma_table_info(?1) WHERE length(dflt_value) > ?2")?;
    for table in schema::all_tables() {
        let is_table: Option<bool> = is_table.query_row([table], |row| row.get(0)).optional()?;
        match is_table {
            None => continue,
            Some(false) => return Ok(Some(format!("{table} is not a table"))),
            Some(true) => {}
        }
        let column: Option<String> = default
            .query_row((table, DEFAULT_MAX_CHARS), |row| row.get(0))
            .optional()?;
        if let Some(column) = column {
            return Ok(Some(format!(
                "column {column} of table {table} has a default value of absurd length"
            )));
        }
    }
    Ok(None)
}

/// A table that this version uses and the database lacks.
pub(crate) fn missing_table(conn: &Connection) -> rusqlite::Result<Option<&'static str>> {
    let ours = ["afs_meta", "afs_origin", "afs_xattr"];
    let all = schema::REQUIRED_COLUMNS
        .iter()
        .map(|(table, _)| *table)
        .chain(ours);
    for table in all {
        if columns(conn, table)?.is_empty() {
            return Ok(Some(table));
        }
    }
    Ok(None)
}

fn lacks_no_column(conn: &Connection) -> rusqlite::Result<bool> {
    let existing = columns(conn, "fs_inode")?;
    Ok(schema::LATER_INODE_COLUMNS
        .iter()
        .all(|(column, _)| existing.iter().any(|e| e == column)))
}

/// Whether every table is one that a session database may have: an SDK was
/// stopped while it made them.
fn has_only_our_tables(conn: &Connection) -> rusqlite::Result<bool> {
    let mut statement = conn.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?;
    for name in names {
        let name = name?;
        let known = schema::REQUIRED_COLUMNS
            .iter()
            .any(|(table, _)| *table == name)
            || name.starts_with("sqlite_")
            || name.starts_with("afs_");
        if !known {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A value of a settings table that may be missing.
fn setting(
    conn: &Connection,
    path: &Path,
    table: &str,
    key: &str,
) -> Result<Option<String>, OpenError> {
    let sqlite = |e: rusqlite::Error| OpenError::from_sqlite(path, &e);
    if columns(conn, table).map_err(sqlite)?.is_empty() {
        return Ok(None);
    }
    conn.query_row(
        &format!("SELECT value FROM {table} WHERE key = ?1"),
        [key],
        |row| {
            Ok(match row.get_ref(0)? {
                ValueRef::Integer(value) => value.to_string(),
                // Repeated in a refusal: not all of it, and nothing that a terminal obeys.
                ValueRef::Text(text) => {
                    let shown: String = String::from_utf8_lossy(text).chars().take(64).collect();
                    shown.replace(char::is_control, "?")
                }
                other => format!("of type {}", other.data_type()),
            })
        },
    )
    .optional()
    .map_err(sqlite)
}

fn check_versions(conn: &Connection, path: &Path) -> Result<(), OpenError> {
    let too_new = |version: String| OpenError::TooNew {
        path: path.to_path_buf(),
        version,
    };
    let corrupt = |reason: String| OpenError::Corrupt {
        path: path.to_path_buf(),
        reason,
    };
    if let Some(version) = setting(conn, path, "fs_config", "schema_version")? {
        let mut parts = version.split('.').map(str::parse::<u32>);
        let parsed = match (parts.next(), parts.next()) {
            (Some(Ok(major)), None) => (major, 0),
            (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
            _ => return Err(corrupt(format!("its schema version is \"{version}\""))),
        };
        if parsed > schema::SPEC_VERSION {
            return Err(too_new(version));
        }
    }
    if let Some(version) = setting(conn, path, "afs_meta", "version")? {
        match version.parse::<i64>() {
            Ok(number) if number > schema::EXTENSION_VERSION => {
                return Err(too_new(format!("extension {number}")));
            }
            Ok(1..) => {}
            _ => return Err(corrupt(format!("its extension version is \"{version}\""))),
        }
    }
    Ok(())
}

fn chunk_size(conn: &Connection, path: &Path) -> Result<u32, OpenError> {
    match setting(conn, path, "fs_config", "chunk_size")? {
        None => Ok(schema::DEFAULT_CHUNK_SIZE_BYTES),
        Some(text) => text
            .parse::<u32>()
            .ok()
            .filter(|size| schema::CHUNK_SIZES_BYTES.contains(size))
            .ok_or_else(|| OpenError::Corrupt {
                path: path.to_path_buf(),
                reason: format!("its chunk size is \"{text}\""),
            }),
    }
}

/// The root may be missing (core makes it), but not be anything but a directory.
fn check_root(conn: &Connection, path: &Path) -> Result<(), OpenError> {
    let sqlite = |e: rusqlite::Error| OpenError::from_sqlite(path, &e);
    if columns(conn, "fs_inode").map_err(sqlite)?.is_empty() {
        return Ok(());
    }
    let mode = conn
        .query_row("SELECT mode FROM fs_inode WHERE ino = 1", [], |row| {
            Ok(row.get_ref(0)?.as_i64().unwrap_or(0))
        })
        .optional()
        .map_err(sqlite)?;
    match mode {
        Some(mode) if mode & 0o170_000 != 0o040_000 => Err(OpenError::Corrupt {
            path: path.to_path_buf(),
            reason: "its root is not a directory".to_owned(),
        }),
        _ => Ok(()),
    }
}
