//! Values out of a row, each checked for its type and range.

use agentfs_core::{Ino, Name, StorageError, Timestamp};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use super::Result;
use crate::error::storage_error;

/// Bytes of large values after which a page of rows ends.
const PAGE_BYTES: usize = 16 << 20;

/// One row, with where it comes from for messages.
pub(super) struct Reader<'a> {
    row: &'a Row<'a>,
    table: &'static str,
    key: String,
}

impl<'a> Reader<'a> {
    pub(super) fn corrupt(&self, what: impl std::fmt::Display) -> StorageError {
        StorageError::Corrupt(format!("{} of {}: {what}", self.table, self.key))
    }

    pub(super) fn value(&self, index: usize) -> Result<ValueRef<'a>> {
        self.row.get_ref(index).map_err(|e| storage_error(&e))
    }

    pub(super) fn integer(&self, index: usize, column: &str) -> Result<i64> {
        match self.value(index)? {
            ValueRef::Integer(value) => Ok(value),
            other => Err(self.corrupt(format_args!("{column} is {}", other.data_type()))),
        }
    }

    pub(super) fn optional_integer(&self, index: usize, column: &str) -> Result<Option<i64>> {
        match self.value(index)? {
            ValueRef::Null => Ok(None),
            _ => self.integer(index, column).map(Some),
        }
    }

    pub(super) fn unsigned<T: TryFrom<i64>>(&self, index: usize, column: &str) -> Result<T> {
        let value = self.integer(index, column)?;
        T::try_from(value).map_err(|_| self.corrupt(format_args!("{column} is {value}")))
    }

    pub(super) fn time(&self, index: usize, column: &str) -> Result<Timestamp> {
        let secs = self.integer(index, column)?;
        let nanos = self.integer(index + 1, column)?.clamp(0, 999_999_999);
        Ok(Timestamp::new(secs, u32::try_from(nanos).unwrap_or(0)))
    }

    /// TEXT that is UTF-8, or BLOB that is not: each of them has one spelling only,
    /// or a key would be found by one and not by the other.
    pub(super) fn bytes(&self, index: usize, column: &str) -> Result<&'a [u8]> {
        match self.value(index)? {
            ValueRef::Blob(bytes) if std::str::from_utf8(bytes).is_ok() => {
                Err(self.corrupt(format_args!("{column} is text stored as a BLOB")))
            }
            ValueRef::Blob(bytes) => Ok(bytes),
            ValueRef::Text(bytes) if std::str::from_utf8(bytes).is_ok() => Ok(bytes),
            ValueRef::Text(_) => {
                Err(self.corrupt(format_args!("{column} is text that is not UTF-8")))
            }
            other => Err(self.corrupt(format_args!("{column} is {}", other.data_type()))),
        }
    }

    pub(super) fn text(&self, index: usize, column: &str) -> Result<String> {
        match self.value(index)? {
            ValueRef::Text(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(text.to_owned()),
                Err(_) => Err(self.corrupt(format_args!("{column} is not UTF-8"))),
            },
            other => Err(self.corrupt(format_args!("{column} is {}", other.data_type()))),
        }
    }

    pub(super) fn optional_text(&self, index: usize, column: &str) -> Result<Option<String>> {
        match self.value(index)? {
            ValueRef::Null => Ok(None),
            _ => self.text(index, column).map(Some),
        }
    }

    pub(super) fn name(&self, index: usize, column: &str) -> Result<Name> {
        Name::new(self.bytes(index, column)?)
            .map_err(|e| self.corrupt(format_args!("{column}: {e}")))
    }

    pub(super) fn ino(&self, index: usize, column: &str) -> Result<Ino> {
        match self.integer(index, column)? {
            value @ 1.. => Ok(Ino(value.cast_unsigned())),
            value => Err(self.corrupt(format_args!("{column} is {value}"))),
        }
    }
}

/// Runs a query that gives at most one row.
pub(super) fn one<T>(
    conn: &Connection,
    sql: &str,
    table: &'static str,
    key: impl FnOnce() -> String,
    params: impl rusqlite::Params,
    decode: impl FnOnce(&Reader<'_>) -> Result<T>,
) -> Result<Option<T>> {
    let mut statement = conn.prepare_cached(sql).map_err(|e| storage_error(&e))?;
    let mut rows = statement.query(params).map_err(|e| storage_error(&e))?;
    match rows.next().map_err(|e| storage_error(&e))? {
        None => Ok(None),
        Some(row) => decode(&Reader {
            row,
            table,
            key: key(),
        })
        .map(Some),
    }
}

/// Runs a query and decodes all of its rows.
pub(super) fn many<T>(
    conn: &Connection,
    sql: &str,
    table: &'static str,
    key: impl FnOnce() -> String,
    params: impl rusqlite::Params,
    decode: impl FnMut(&Reader<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    page(conn, sql, table, key, params, decode, |_| 0)
}

/// As [`many`], but stops after rows that come to [`PAGE_BYTES`] by `size_of`;
/// there is one at least where the query gives any.
pub(super) fn page<T>(
    conn: &Connection,
    sql: &str,
    table: &'static str,
    key: impl FnOnce() -> String,
    params: impl rusqlite::Params,
    mut decode: impl FnMut(&Reader<'_>) -> Result<T>,
    size_of: impl Fn(&T) -> usize,
) -> Result<Vec<T>> {
    let mut statement = conn.prepare_cached(sql).map_err(|e| storage_error(&e))?;
    let mut rows = statement.query(params).map_err(|e| storage_error(&e))?;
    let mut found = Vec::new();
    let mut key = key();
    let mut left = PAGE_BYTES;
    while left > 0
        && let Some(row) = rows.next().map_err(|e| storage_error(&e))?
    {
        let reader = Reader { row, table, key };
        let value = decode(&reader)?;
        left = left.saturating_sub(size_of(&value));
        found.push(value);
        key = reader.key;
    }
    Ok(found)
}
