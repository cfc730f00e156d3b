//! Writing a delta to SQLite, within one transaction.
//!
//! Rows are written in key order, which keeps the B-trees' pages together. Must
//! never write half a delta: whoever calls this begins and commits.

mod chunks;

use agentfs_core::storage::{InodeRow, Origin, ToolCallRow};
use agentfs_core::{Ino, Name, StorageError};
use rusqlite::{Connection, OptionalExtension, params};

use crate::error::storage_error;
use crate::pending::{Delta, Set, VolumeDelta};
use crate::rows::{Bytes, bits, signed, whiteout_path};
use crate::schema;
use crate::sql::{self, VolumeSql};

type Result<T> = std::result::Result<T, StorageError>;

/// Inode numbers reserved at a time.
pub(crate) const RESERVED_INODES: u64 = 1 << 20;

/// A batch of this much pushes a good part of SQLite's cache out.
const LARGE_BATCH_BYTES: usize = 1 << 20;

/// What a batch needs to know beside its rows.
pub(crate) struct Context<'a> {
    pub(crate) view_sql: &'a VolumeSql,
    pub(crate) home_sql: &'a VolumeSql,
    /// Others wrote since the last batch, so rows that this delta changes may
    /// be gone.
    pub(crate) reconcile: bool,
    /// Reserve more inode numbers.
    pub(crate) reserve: bool,
}

/// What a batch did beside writing its rows.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// A newly reserved range of inode numbers, `[from, to)`.
    pub(crate) reserved: Option<(u64, u64)>,
}

/// Runs a statement that is used again and again.
fn run(conn: &Connection, sql: &str, params: impl rusqlite::Params) -> Result<usize> {
    let mut statement = conn.prepare_cached(sql).map_err(|e| storage_error(&e))?;
    statement.execute(params).map_err(|e| storage_error(&e))
}

/// Before a large batch, looks into the tables that it may not: their pages stay in
/// SQLite's cache, and a small batch that comes next finds them there, not on the disk.
/// Outside a transaction: SQLite writes nothing more in one that has met with damage, and
/// the batch may not need the table that is damaged.
pub(crate) fn touch_tables(conn: &Connection, delta: &Delta, sql: &VolumeSql) {
    if delta.cost_bytes() < LARGE_BATCH_BYTES {
        return;
    }
    let touched = conn
        .prepare_cached(&sql.touch)
        .and_then(|mut statement| statement.query_row([], |_| Ok(())));
    if let Err(error) = touched {
        tracing::debug!(%error, "not all tables could be looked into");
    }
}

/// Writes all of `delta`.
pub(crate) fn apply(conn: &Connection, delta: &Delta, context: &Context<'_>) -> Result<Outcome> {
    let sequence = sequence(conn)?;
    volume(conn, context.view_sql, &delta.view, context.reconcile)?;
    if !delta.home.is_empty() {
        conn.execute_batch(schema::HOME_TABLES)
            .map_err(|e| storage_error(&e))?;
        volume(conn, context.home_sql, &delta.home, context.reconcile)?;
    }
    for (key, row) in &delta.kvs {
        match row {
            Some(row) => run(
                conn,
                sql::KV_PUT,
                params![key, row.value, row.created_at, row.updated_at],
            )?,
            None => run(conn, sql::KV_DELETE, [key])?,
        };
    }
    for call in &delta.tool_calls {
        tool_call(conn, call)?;
    }
    // A copied-up inode with a mapped number pushes the sequence far up, beyond
    // what is exact in a double: put it back.
    if delta
        .view
        .inodes
        .keys()
        .any(|ino| *ino >= Ino::FIRST_MAPPED)
    {
        set_sequence(conn, sequence)?;
    }
    let mut outcome = Outcome::default();
    if context.reserve {
        outcome.reserved = Some(reserve(conn)?);
    }
    Ok(outcome)
}

/// Reserves inode numbers, so that neither a crash nor another writer of the
/// database (which numbers by `AUTOINCREMENT`) gives one of them again.
pub(crate) fn reserve(conn: &Connection) -> Result<(u64, u64)> {
    let last = sequence(conn)?.max(signed(Ino::FIRST_UPPER.0));
    let from = last.cast_unsigned() + 1;
    let to = from + RESERVED_INODES;
    if to > Ino::FIRST_MAPPED.0 {
        return Err(StorageError::Full);
    }
    set_sequence(conn, signed(to - 1))?;
    Ok((from, to))
}

/// Gives back the end of a reserved range, unless someone numbered beyond it.
pub(crate) fn give_back(conn: &Connection, next: u64, end: u64) -> Result<()> {
    if next < end && sequence(conn)? == signed(end - 1) {
        set_sequence(conn, signed(next - 1))?;
    }
    Ok(())
}

/// The last number that `AUTOINCREMENT` counts as given, without the effect of
/// mapped numbers.
fn sequence(conn: &Connection) -> Result<i64> {
    let mut statement = conn
        .prepare_cached(sql::SEQUENCE_GET)
        .map_err(|e| storage_error(&e))?;
    let last = statement
        .query_row([], |row| row.get::<_, i64>(0))
        .optional();
    let last = last.map_err(|e| storage_error(&e))?.unwrap_or(0);
    if last < signed(Ino::FIRST_MAPPED.0) {
        return Ok(last);
    }
    // Another writer numbered after a mapped row. Go back to the largest number
    // that is neither: a scan of an index's end.
    conn.query_row(
        "SELECT ifnull(max(ino), 0) FROM fs_inode WHERE ino < ?1",
        [signed(Ino::FIRST_MAPPED.0)],
        |row| row.get(0),
    )
    .map_err(|e| storage_error(&e))
}

fn set_sequence(conn: &Connection, last: i64) -> Result<()> {
    if run(conn, sql::SEQUENCE_UPDATE, [last])? == 0 {
        run(conn, sql::SEQUENCE_INSERT, [last])?;
    }
    Ok(())
}

fn tool_call(conn: &Connection, call: &ToolCallRow) -> Result<()> {
    let insert = |id: Option<i64>| {
        let mut statement = conn.prepare_cached(sql::TOOL_CALL_PUT)?;
        statement.execute(params![
            id,
            call.name,
            call.parameters,
            call.result,
            call.error,
            call.status,
            call.started_at,
            call.completed_at,
            call.duration_ms,
        ])
    };
    match insert(Some(call.id)) {
        // Another program took the id in the moment between. The log is worth
        // more than the number.
        Err(error)
            if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) =>
        {
            tracing::warn!(
                id = call.id,
                "the id of a tool call was taken by another program"
            );
            insert(None).map_err(|e| storage_error(&e))?;
        }
        outcome => {
            outcome.map_err(|e| storage_error(&e))?;
        }
    }
    Ok(())
}

fn volume(conn: &Connection, sql: &VolumeSql, delta: &VolumeDelta, reconcile: bool) -> Result<()> {
    let vanished = if reconcile {
        vanished(conn, sql, delta)?
    } else {
        Set::default()
    };
    let stays = |ino: &Ino| !vanished.contains(ino) && !delta.discarded.contains(ino);

    let mut discarded: Vec<_> = delta.discarded.iter().copied().collect();
    discarded.retain(|ino| !delta.is_fresh(*ino));
    discarded.sort_unstable();
    for ino in discarded {
        run(conn, &sql.inode_delete, [bits(ino.0)])?;
        delete_content(conn, sql, ino)?;
    }

    let mut inodes: Vec<_> = delta.inodes.iter().filter(|(ino, _)| stays(ino)).collect();
    inodes.sort_unstable_by_key(|(ino, _)| **ino);
    for (ino, row) in inodes {
        match row {
            Some(row) => put_inode(conn, sql, *ino, row, delta.is_fresh(*ino))?,
            None => delete_inode(conn, sql, *ino)?,
        }
    }

    let mut chunks: Vec<_> = delta.chunks.iter().filter(|(ino, _)| stays(ino)).collect();
    chunks.sort_unstable_by_key(|(ino, _)| **ino);
    for (ino, delta) in chunks {
        for &(from, to) in &delta.erased {
            let range = params![bits(ino.0), signed(from), signed(to)];
            run(conn, &sql.chunks_delete, range)?;
        }
        chunks::put(conn, sql, *ino, delta)?;
    }

    for (ino, target) in delta.symlinks.iter().filter(|(ino, _)| stays(ino)) {
        match target {
            Some(target) => run(conn, &sql.symlink_put, params![bits(ino.0), Bytes(target)])?,
            None => run(conn, &sql.symlink_delete, [bits(ino.0)])?,
        };
    }
    for (ino, delta) in delta.xattrs.iter().filter(|(ino, _)| stays(ino)) {
        if delta.wiped {
            run(conn, &sql.xattrs_delete, [bits(ino.0)])?;
        }
        for (name, value) in &delta.puts {
            match value {
                Some(value) => run(
                    conn,
                    &sql.xattr_put,
                    params![bits(ino.0), Bytes(name), value],
                )?,
                None => run(conn, &sql.xattr_delete, params![bits(ino.0), Bytes(name)])?,
            };
        }
    }

    dentries(conn, sql, delta, &vanished)?;
    whiteouts(conn, sql, delta)
}

fn dentries(
    conn: &Connection,
    sql: &VolumeSql,
    delta: &VolumeDelta,
    vanished: &Set<Ino>,
) -> Result<()> {
    let mut dirs: Vec<_> = delta.dentries.iter().collect();
    dirs.sort_unstable_by_key(|(parent, _)| **parent);
    for (parent, names) in dirs {
        let mut names: Vec<(&Name, &Option<Ino>)> = names.iter().collect();
        names.sort_unstable();
        for (name, ino) in names {
            let name = Bytes(name.as_bytes());
            match ino {
                Some(ino) if vanished.contains(ino) || vanished.contains(parent) => 0,
                Some(ino) => run(
                    conn,
                    &sql.dentry_put,
                    params![bits(parent.0), name, bits(ino.0)],
                )?,
                None => run(conn, &sql.dentry_delete, params![bits(parent.0), name])?,
            };
        }
    }
    Ok(())
}

fn whiteouts(conn: &Connection, sql: &VolumeSql, delta: &VolumeDelta) -> Result<()> {
    let mut dirs: Vec<_> = delta.whiteouts.iter().collect();
    dirs.sort_unstable_by_key(|(dir, _)| *dir);
    for (dir, names) in dirs {
        let parent_path = whiteout_path(dir);
        let mut names: Vec<_> = names.iter().collect();
        names.sort_unstable();
        for (name, since) in names {
            let path = whiteout_path(&dir.join(name));
            match since {
                Some(since) => run(
                    conn,
                    &sql.whiteout_put,
                    params![Bytes(&path), Bytes(&parent_path), since.secs],
                )?,
                None => run(conn, &sql.whiteout_delete, [Bytes(&path)])?,
            };
        }
    }
    Ok(())
}

/// Inodes that this delta changes but that another program deleted meanwhile:
/// the deletion stands, or there would be half an inode.
fn vanished(conn: &Connection, sql: &VolumeSql, delta: &VolumeDelta) -> Result<Set<Ino>> {
    let exists = |ino: Ino| {
        let mut statement = conn
            .prepare_cached(&sql.inode_exists)
            .map_err(|e| storage_error(&e))?;
        statement
            .exists([bits(ino.0)])
            .map_err(|e| storage_error(&e))
    };
    let changed = delta
        .inodes
        .iter()
        .filter(|(_, row)| row.is_some())
        .map(|(ino, _)| ino);
    let mut vanished = Set::default();
    for ino in changed
        .chain(delta.dentries.keys())
        .chain(delta.chunks.keys())
    {
        if !delta.fresh.contains(ino) && !exists(*ino)? {
            vanished.insert(*ino);
        }
    }
    Ok(vanished)
}

fn put_inode(
    conn: &Connection,
    sql: &VolumeSql,
    ino: Ino,
    row: &InodeRow,
    fresh: bool,
) -> Result<()> {
    if fresh && !ino.is_born() {
        // A copied-up number may have been here before; a foreign writer may
        // have left rows of it behind.
        delete_content(conn, sql, ino)?;
    }
    let mode = row.kind.mode_bits() | u32::from(row.perm);
    run(
        conn,
        &sql.inode_put,
        params![
            bits(ino.0),
            mode,
            row.nlink,
            row.uid,
            row.gid,
            row.rdev,
            signed(row.size),
            row.atime.secs,
            row.atime.nanos,
            row.mtime.secs,
            row.mtime.nanos,
            row.ctime.secs,
            row.ctime.nanos,
        ],
    )?;
    match &row.origin {
        Some(origin) => put_origin(conn, sql, ino, origin),
        None if fresh => Ok(()),
        None => delete_origin(conn, sql, ino),
    }
}

fn put_origin(conn: &Connection, sql: &VolumeSql, ino: Ino, origin: &Origin) -> Result<()> {
    let fingerprint = &origin.fingerprint;
    run(
        conn,
        &sql.origin_put,
        params![
            bits(ino.0),
            Bytes(origin.path.as_bytes()),
            bits(fingerprint.id.dev),
            bits(fingerprint.id.ino),
            fingerprint.nlink,
            signed(fingerprint.size),
            fingerprint.mtime.secs,
            fingerprint.mtime.nanos,
            fingerprint.ctime.secs,
            fingerprint.ctime.nanos,
            signed(origin.data_len_bytes),
        ],
    )?;
    if let Some(put) = &sql.base_ino_put {
        run(conn, put, [bits(ino.0), bits(fingerprint.id.ino)])?;
    }
    Ok(())
}

fn delete_origin(conn: &Connection, sql: &VolumeSql, ino: Ino) -> Result<()> {
    if run(conn, &sql.origin_delete, [bits(ino.0)])? > 0
        && let Some(delete) = &sql.base_ino_delete
    {
        run(conn, delete, [bits(ino.0)])?;
    }
    Ok(())
}

fn delete_content(conn: &Connection, sql: &VolumeSql, ino: Ino) -> Result<()> {
    run(conn, &sql.chunks_delete, params![bits(ino.0), 0, i64::MAX])?;
    run(conn, &sql.symlink_delete, [bits(ino.0)])?;
    run(conn, &sql.xattrs_delete, [bits(ino.0)])?;
    delete_origin(conn, sql, ino)
}

fn delete_inode(conn: &Connection, sql: &VolumeSql, ino: Ino) -> Result<()> {
    run(conn, &sql.inode_delete, [bits(ino.0)])?;
    // Chunks, target and attributes are deleted by the delta's own words.
    delete_origin(conn, sql, ino)
}

/// Whether the home volume has its tables.
pub(crate) fn home_exists(conn: &Connection) -> Result<bool> {
    conn.query_row(
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'afs_home_inode'",
        [],
        |row| row.get::<_, i64>(0),
    )
    .map(|count| count > 0)
    .map_err(|e| storage_error(&e))
}
