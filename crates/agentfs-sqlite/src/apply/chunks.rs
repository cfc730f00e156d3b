//! Writing the chunks of one inode: whole rows, and parts of rows in place.
//!
//! A part is written with incremental blob I/O, which touches the pages it lies
//! on and no others.

use agentfs_core::{Ino, StorageError};
use rusqlite::blob::Blob;
use rusqlite::{Connection, OptionalExtension, params};

use super::run;
use crate::error::storage_error;
use crate::pending::{ChunkDelta, Patch, Put};
use crate::rows::{self, bits, chunk_row_id, signed};
use crate::sql::VolumeSql;

const DATABASE: &str = "main";
const COLUMN: &str = "data";

/// Writes all that `delta` puts. What it erased has been deleted before.
pub(super) fn put(
    conn: &Connection,
    sql: &VolumeSql,
    ino: Ino,
    delta: &ChunkDelta,
) -> Result<(), StorageError> {
    let mut patches = Vec::new();
    for (index, put) in &delta.puts {
        match put {
            Put::Whole(data) => put_row(conn, sql, ino, *index, data)?,
            Put::Patch(patch) => patches.push((*index, patch)),
        }
    }
    // After the whole rows: an open blob stands in the way of statements on its
    // row, and is only worth opening once.
    let mut missing = Vec::new();
    let mut blob = None;
    for (index, patch) in patches {
        if !patch_row(conn, sql, ino, index, patch, &mut blob)? {
            missing.push((index, patch));
        }
    }
    blob.map_or(Ok(()), Blob::close)
        .map_err(|e| storage_error(&e))?;
    for (index, patch) in missing {
        // Another program replaced the row by one of another length: its bytes,
        // with ours over them.
        let before = rows::chunk(conn, sql, ino, index, u32::MAX)?;
        let data = patch.applied_to(before.as_deref().unwrap_or_default());
        put_row(conn, sql, ino, index, &data)?;
    }
    Ok(())
}

/// Writes a whole row, under the number it should have where that is free.
fn put_row(
    conn: &Connection,
    sql: &VolumeSql,
    ino: Ino,
    index: u64,
    data: &[u8],
) -> Result<(), StorageError> {
    let put = |row_id: Option<i64>| {
        let row = params![bits(ino.0), signed(index), data, row_id];
        run(conn, &sql.chunk_put, row)
    };
    if put(chunk_row_id(ino, index))? == 0 {
        put(None)?;
    }
    Ok(())
}

/// Writes parts into a row; `false` where there is none of the right length.
fn patch_row<'c>(
    conn: &'c Connection,
    sql: &VolumeSql,
    ino: Ino,
    index: u64,
    patch: &Patch,
    open: &mut Option<Blob<'c>>,
) -> Result<bool, StorageError> {
    let row: rusqlite::Result<Option<(i64, i64)>> =
        conn.prepare_cached(&sql.chunk_row)
            .and_then(|mut statement| {
                let key = params![bits(ino.0), signed(index), chunk_row_id(ino, index)];
                statement
                    .query_row(key, |row| Ok((row.get(0)?, row.get(1)?)))
                    .optional()
            });
    let Some((row_id, len)) = row.map_err(|e| storage_error(&e))? else {
        return Ok(false);
    };
    if usize::try_from(len) != Ok(patch.len_bytes()) {
        return Ok(false);
    }
    (|| {
        let blob = match open {
            Some(blob) => {
                blob.reopen(row_id)?;
                blob
            }
            None => {
                let blob = conn.blob_open(DATABASE, sql.data_table, COLUMN, row_id, false)?;
                open.insert(blob)
            }
        };
        for (start, part) in patch.parts() {
            blob.write_all_at(part, start)?;
        }
        Ok(true)
    })()
    .map_err(|e: rusqlite::Error| storage_error(&e))
}
