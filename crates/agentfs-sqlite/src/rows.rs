//! Strict decoding: every row that comes out of a database is checked as if an
//! enemy had written it.
//!
//! What the format forbids becomes [`StorageError::Corrupt`] with the table and
//! the key; never a panic, never a silent default (nanoseconds out of range are
//! clamped: other writers are known to be careless there), never an allocation
//! larger than what the row says and the limits allow.

mod number;
mod reader;

use std::ops::Range;

use agentfs_core::storage::{Chunk, Fingerprint, InodeRow, KvRow, LowerId, Origin, ToolCallRow};
use agentfs_core::types::{FILE_MAX_BYTES, SYMLINK_MAX_BYTES};
use agentfs_core::{FileKind, Ino, LowerPath, Name, StorageError};
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, params};

use crate::error::storage_error;
use crate::sql::{self, VolumeSql};
pub(crate) use number::chunk_row_id;
use reader::{Reader, many, one, page};

type Result<T> = std::result::Result<T, StorageError>;

/// The largest extended attribute (Linux `XATTR_SIZE_MAX`).
const XATTR_VALUE_MAX_BYTES: usize = 65_536;
/// Rows per page where a listing may be cut short.
const PAGE_ROWS: i64 = 256;

/// Bytes that are text wherever they can be: valid UTF-8 is stored as TEXT,
/// anything else as BLOB, so that other programs see text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl ToSql for Bytes<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match std::str::from_utf8(self.0) {
            Ok(_) => ValueRef::Text(self.0),
            Err(_) => ValueRef::Blob(self.0),
        }))
    }
}

/// An unsigned number in SQLite's signed column, bit for bit. Inode numbers
/// proper are below 2^63; `st_dev` and a host's `st_ino` may be above.
pub(crate) fn bits(value: u64) -> i64 {
    value.cast_signed()
}

/// A number that the format bounds to 63 bits; anything larger is capped, which
/// only a caller that breaks core's own limits can bring about.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn ino_key(ino: Ino) -> impl FnOnce() -> String {
    move || format!("inode {ino}")
}

pub(crate) fn inode(conn: &Connection, sql: &VolumeSql, ino: Ino) -> Result<Option<InodeRow>> {
    one(
        conn,
        &sql.inode_get,
        sql.inode_table,
        ino_key(ino),
        [bits(ino.0)],
        |r| {
            let mode: u32 = r.unsigned(0, "mode")?;
            let kind = FileKind::from_mode(mode)
                .filter(|_| mode <= 0o177_777)
                .ok_or_else(|| r.corrupt(format_args!("mode {mode:o} names no kind of file")))?;
            let size: u64 = r.unsigned(5, "size")?;
            Ok(InodeRow {
                kind,
                // Masked to twelve bits.
                #[allow(clippy::cast_possible_truncation)]
                perm: (mode & 0o7777) as u16,
                nlink: r.unsigned(1, "nlink")?,
                uid: r.unsigned(2, "uid")?,
                gid: r.unsigned(3, "gid")?,
                rdev: r.unsigned(4, "rdev")?,
                size,
                atime: r.time(6, "atime")?,
                mtime: r.time(8, "mtime")?,
                ctime: r.time(10, "ctime")?,
                origin: origin(r)?,
            })
        },
    )
}

fn origin(r: &Reader<'_>) -> Result<Option<Origin>> {
    if matches!(r.value(12)?, ValueRef::Null) {
        return Ok(None);
    }
    let path = LowerPath::parse(r.bytes(12, "lower_path")?)
        .map_err(|e| r.corrupt(format_args!("lower_path: {e}")))?;
    Ok(Some(Origin {
        path,
        fingerprint: Fingerprint {
            id: LowerId {
                dev: r.integer(13, "dev")?.cast_unsigned(),
                ino: r.integer(14, "base_ino")?.cast_unsigned(),
            },
            nlink: r.unsigned(15, "origin nlink")?,
            size: r.unsigned(16, "origin size")?,
            mtime: r.time(17, "origin mtime")?,
            ctime: r.time(19, "origin ctime")?,
        },
        data_len_bytes: r.unsigned(21, "data_len")?,
    }))
}

pub(crate) fn inodes_from(conn: &Connection, sql: &VolumeSql, from: Ino) -> Result<Vec<Ino>> {
    if from > Ino::MAX {
        return Ok(Vec::new());
    }
    let key = || format!("inodes from {from}");
    many(
        conn,
        &sql.inodes_from,
        sql.inode_table,
        key,
        [bits(from.0)],
        |r| r.ino(0, "ino"),
    )
}

/// The numbers that were not given by `allocate_ino`: copied-up and older ones.
pub(crate) fn inodes_outside_born(conn: &Connection, sql: &VolumeSql) -> Result<Vec<Ino>> {
    let range = [bits(Ino::FIRST_UPPER.0), bits(Ino::FIRST_MAPPED.0)];
    let key = || "all inodes".to_owned();
    many(
        conn,
        &sql.inodes_outside_born,
        sql.inode_table,
        key,
        range,
        |r| r.ino(0, "ino"),
    )
}

/// The directories among such numbers that have entries.
pub(crate) fn parents_outside_born(conn: &Connection, sql: &VolumeSql) -> Result<Vec<Ino>> {
    let range = [bits(Ino::FIRST_UPPER.0), bits(Ino::FIRST_MAPPED.0)];
    let key = || "all entries".to_owned();
    let query = &sql.parents_outside_born;
    many(conn, query, sql.dentry_table, key, range, |r| {
        r.ino(0, "parent_ino")
    })
}

pub(crate) fn dentry(
    conn: &Connection,
    sql: &VolumeSql,
    parent: Ino,
    name: &Name,
) -> Result<Option<Ino>> {
    let key = || format!("name {name:?} in inode {parent}");
    let params = params![bits(parent.0), Bytes(name.as_bytes())];
    one(conn, &sql.dentry_get, sql.dentry_table, key, params, |r| {
        r.ino(0, "ino")
    })
}

/// At most `limit` entries of a directory.
pub(crate) fn dentries(
    conn: &Connection,
    sql: &VolumeSql,
    parent: Ino,
    limit: usize,
) -> Result<Vec<(Name, Ino)>> {
    let key = || format!("the entries of inode {parent}");
    let params = [bits(parent.0), signed(limit as u64)];
    many(conn, &sql.dentries, sql.dentry_table, key, params, |r| {
        Ok((r.name(0, "name")?, r.ino(1, "ino")?))
    })
}

/// A lower path as whiteouts name it: with a leading slash.
pub(crate) fn whiteout_path(path: &LowerPath) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(path.as_bytes().len() + 1);
    bytes.push(b'/');
    bytes.extend_from_slice(path.as_bytes());
    bytes
}

fn lower_path(r: &Reader<'_>, index: usize, column: &str) -> Result<LowerPath> {
    let bytes = r.bytes(index, column)?;
    let relative = bytes
        .strip_prefix(b"/")
        .ok_or_else(|| r.corrupt(format_args!("{column} does not start with a slash")))?;
    LowerPath::parse(relative).map_err(|e| r.corrupt(format_args!("{column}: {e}")))
}

pub(crate) fn whiteouts(conn: &Connection, sql: &VolumeSql, dir: &LowerPath) -> Result<Vec<Name>> {
    let path = whiteout_path(dir);
    let key = || format!("directory {dir:?}");
    many(
        conn,
        &sql.whiteouts,
        sql.whiteout_table,
        key,
        [Bytes(&path)],
        |r| match lower_path(r, 0, "path")?.split() {
            Some((parent, name)) if parent == *dir => Ok(name),
            _ => Err(r.corrupt("path does not lie in parent_path")),
        },
    )
}

pub(crate) fn whiteout_dirs(conn: &Connection, sql: &VolumeSql) -> Result<Vec<LowerPath>> {
    let key = || "all directories".to_owned();
    many(conn, &sql.whiteout_dirs, sql.whiteout_table, key, [], |r| {
        lower_path(r, 0, "parent_path")
    })
}

pub(crate) fn chunk(
    conn: &Connection,
    sql: &VolumeSql,
    ino: Ino,
    index: u64,
    chunk_size_bytes: u32,
) -> Result<Option<Chunk>> {
    with_chunk(conn, sql, ino, index, chunk_size_bytes, |data| data.into())
}

/// Lends the bytes of a chunk to `f`.
pub(crate) fn with_chunk<T>(
    conn: &Connection,
    sql: &VolumeSql,
    ino: Ino,
    index: u64,
    chunk_size_bytes: u32,
    f: impl FnOnce(&[u8]) -> T,
) -> Result<Option<T>> {
    let Ok(signed_index) = i64::try_from(index) else {
        return Ok(None);
    };
    let key = || format!("chunk {index} of inode {ino}");
    one(
        conn,
        &sql.chunk_get,
        sql.data_table,
        key,
        params![bits(ino.0), signed_index, chunk_row_id(ino, index)],
        |r| match r.value(0)? {
            ValueRef::Blob(data) if data.is_empty() || data.len() > chunk_size_bytes as usize => {
                Err(r.corrupt(format_args!("data is {} bytes", data.len())))
            }
            ValueRef::Blob(data) => Ok(f(data)),
            other => Err(r.corrupt(format_args!("data is {}", other.data_type()))),
        },
    )
}

/// The lengths of stored chunks in a range, by index. A row whose length is not
/// to be believed is left out: reading it will tell.
pub(crate) fn chunk_lens(
    conn: &Connection,
    sql: &VolumeSql,
    ino: Ino,
    indexes: Range<u64>,
) -> Result<Vec<(u64, usize)>> {
    let range = params![bits(ino.0), signed(indexes.start), signed(indexes.end)];
    conn.prepare_cached(&sql.chunk_lens)
        .and_then(|mut statement| {
            let rows = statement.query_map(range, |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<rusqlite::Result<Vec<(i64, i64)>>>()
        })
        .map(|rows| {
            rows.into_iter()
                .filter_map(|(index, len)| {
                    Some((u64::try_from(index).ok()?, usize::try_from(len).ok()?))
                })
                .collect()
        })
        .map_err(|e| storage_error(&e))
}

pub(crate) fn next_chunk(
    conn: &Connection,
    sql: &VolumeSql,
    ino: Ino,
    from: u64,
    chunk_size_bytes: u32,
) -> Result<Option<u64>> {
    let Ok(from) = i64::try_from(from) else {
        return Ok(None);
    };
    let key = ino_key(ino);
    let found = one(
        conn,
        &sql.chunk_next,
        sql.data_table,
        key,
        [bits(ino.0), from],
        |r| match r.optional_integer(0, "chunk_index")? {
            None => Ok(None),
            Some(index) => match u64::try_from(index) {
                Ok(index) if index <= FILE_MAX_BYTES / u64::from(chunk_size_bytes) => {
                    Ok(Some(index))
                }
                _ => Err(r.corrupt(format_args!("chunk_index is {index}"))),
            },
        },
    )?;
    Ok(found.flatten())
}

pub(crate) fn symlink(conn: &Connection, sql: &VolumeSql, ino: Ino) -> Result<Option<Vec<u8>>> {
    one(
        conn,
        &sql.symlink_get,
        sql.symlink_table,
        ino_key(ino),
        [bits(ino.0)],
        |r| {
            let target = r.bytes(0, "target")?;
            if target.is_empty() || target.len() > SYMLINK_MAX_BYTES || target.contains(&0) {
                return Err(r.corrupt("target is empty, too long or holds a NUL"));
            }
            Ok(target.to_vec())
        },
    )
}

fn xattr_value(r: &Reader<'_>, index: usize) -> Result<Vec<u8>> {
    match r.value(index)? {
        ValueRef::Blob(value) if value.len() <= XATTR_VALUE_MAX_BYTES => Ok(value.to_vec()),
        ValueRef::Blob(value) => Err(r.corrupt(format_args!("value is {} bytes", value.len()))),
        other => Err(r.corrupt(format_args!("value is {}", other.data_type()))),
    }
}

pub(crate) fn xattr(
    conn: &Connection,
    sql: &VolumeSql,
    ino: Ino,
    name: &[u8],
) -> Result<Option<Vec<u8>>> {
    let params = params![bits(ino.0), Bytes(name)];
    one(
        conn,
        &sql.xattr_get,
        sql.xattr_table,
        ino_key(ino),
        params,
        |r| xattr_value(r, 0),
    )
}

/// The inodes that have extended attributes.
pub(crate) fn xattr_inodes(conn: &Connection, sql: &VolumeSql) -> Result<Vec<Ino>> {
    let (query, key) = (&sql.xattr_inodes, || "all rows".to_owned());
    many(conn, query, sql.xattr_table, key, [], |r| r.ino(0, "ino"))
}

pub(crate) fn xattrs(
    conn: &Connection,
    sql: &VolumeSql,
    ino: Ino,
) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    many(
        conn,
        &sql.xattrs,
        sql.xattr_table,
        ino_key(ino),
        [bits(ino.0)],
        |r| Ok((r.bytes(0, "name")?.to_vec(), xattr_value(r, 1)?)),
    )
}

fn kv_row(r: &Reader<'_>) -> Result<KvRow> {
    Ok(KvRow {
        key: r.text(0, "key")?,
        value: r.text(1, "value")?,
        // The format lets both be NULL.
        created_at: r.optional_integer(2, "created_at")?.unwrap_or(0),
        updated_at: r.optional_integer(3, "updated_at")?.unwrap_or(0),
    })
}

pub(crate) fn kv(conn: &Connection, key: &str) -> Result<Option<KvRow>> {
    one(
        conn,
        sql::KV_GET,
        "kv_store",
        || format!("key {key:?}"),
        [key],
        kv_row,
    )
}

/// The next page of key-values after `after`, ascending; empty at the end.
pub(crate) fn kvs_after(conn: &Connection, after: Option<&str>) -> Result<Vec<KvRow>> {
    let key = || format!("the keys after {after:?}");
    page(
        conn,
        sql::KVS_AFTER,
        "kv_store",
        key,
        params![after, PAGE_ROWS],
        kv_row,
        |row| row.key.len() + row.value.len(),
    )
}

/// The next page of tool calls with ids below `below`, descending.
pub(crate) fn tool_calls_below(conn: &Connection, below: i64) -> Result<Vec<ToolCallRow>> {
    let key = || format!("the calls below {below}");
    page(
        conn,
        sql::TOOL_CALLS_BELOW,
        "tool_calls",
        key,
        [below, PAGE_ROWS],
        |r| {
            Ok(ToolCallRow {
                id: r.integer(0, "id")?,
                name: r.text(1, "name")?,
                parameters: r.optional_text(2, "parameters")?,
                result: r.optional_text(3, "result")?,
                error: r.optional_text(4, "error")?,
                status: r.text(5, "status")?,
                started_at: r.integer(6, "started_at")?,
                completed_at: r.optional_integer(7, "completed_at")?,
                duration_ms: r.optional_integer(8, "duration_ms")?,
            })
        },
        |call| {
            let texts = [&call.parameters, &call.result, &call.error];
            let long = texts.into_iter().flatten().map(String::len).sum::<usize>();
            long + call.name.len() + call.status.len()
        },
    )
}

/// The largest tool-call id ever given.
pub(crate) fn last_tool_call(conn: &Connection) -> Result<i64> {
    let key = || "the last call".to_owned();
    Ok(one(conn, sql::TOOL_CALL_LAST, "tool_calls", key, [], |r| {
        r.integer(0, "id")
    })?
    .unwrap_or(0))
}

/// A text or number out of a two-column settings table.
pub(crate) fn setting(conn: &Connection, sql: &str, key: &str) -> Result<Option<String>> {
    conn.query_row(sql, [key], |row| {
        Ok(match row.get_ref(0)? {
            ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
            ValueRef::Integer(number) => number.to_string(),
            other => format!("a value of type {}", other.data_type()),
        })
    })
    .optional()
    .map_err(|e| storage_error(&e))
}

/// Begins a transaction: one consistent state for all queries to come.
pub(crate) fn begin(conn: &Connection) -> Result<()> {
    let mut statement = conn
        .prepare_cached("BEGIN")
        .map_err(|e| storage_error(&e))?;
    statement
        .execute([])
        .map(|_| ())
        .map_err(|e| storage_error(&e))
}

/// Inodes without a name.
pub(crate) fn orphans(conn: &Connection, sql: &VolumeSql) -> Result<Vec<Ino>> {
    let key = || "all inodes".to_owned();
    many(conn, &sql.orphans, sql.inode_table, key, [], |r| {
        r.ino(0, "ino")
    })
}
