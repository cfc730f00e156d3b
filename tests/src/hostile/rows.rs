//! Absurd rows, drawn from bytes: whatever the tables let an enemy store.
//!
//! Written with SQLite itself, so the file is a sound one; what it says is not.

use arbitrary::{Result, Unstructured};
use rusqlite::Connection;
use rusqlite::types::Value;

/// Rows added at most.
const ROWS_MAX: usize = 60;
/// The longest value, in bytes.
const VALUE_MAX_BYTES: usize = 70_000;

/// Tables and their columns, of the view and (by another name) of the home.
const TABLES: &[(&str, &[&str])] = &[
    (
        "fs_inode",
        &[
            "ino",
            "mode",
            "nlink",
            "uid",
            "gid",
            "size",
            "atime",
            "mtime",
            "ctime",
            "rdev",
            "atime_nsec",
            "mtime_nsec",
            "ctime_nsec",
        ],
    ),
    ("fs_dentry", &["name", "parent_ino", "ino"]),
    ("fs_data", &["ino", "chunk_index", "data"]),
    ("fs_symlink", &["ino", "target"]),
    ("fs_whiteout", &["path", "parent_path", "created_at"]),
    (
        "afs_origin",
        &[
            "ino",
            "lower_path",
            "dev",
            "base_ino",
            "nlink",
            "size",
            "mtime",
            "mtime_nsec",
            "ctime",
            "ctime_nsec",
            "data_len",
        ],
    ),
    ("afs_xattr", &["ino", "name", "value"]),
    ("fs_origin", &["delta_ino", "base_ino"]),
    ("fs_config", &["key", "value"]),
    ("fs_overlay_config", &["key", "value"]),
    ("afs_meta", &["key", "value"]),
    ("kv_store", &["key", "value", "created_at", "updated_at"]),
    (
        "tool_calls",
        &[
            "id",
            "name",
            "parameters",
            "result",
            "error",
            "status",
            "started_at",
            "completed_at",
            "duration_ms",
        ],
    ),
    ("sqlite_sequence", &["name", "seq"]),
];

/// Changes to the schema itself.
const SCHEMAS: &[&str] = &[
    "DROP INDEX idx_fs_dentry_parent",
    "DROP TABLE fs_symlink",
    "DROP TABLE afs_xattr",
    "DROP TABLE fs_whiteout; CREATE VIEW fs_whiteout AS SELECT '/a' AS path, '/' AS parent_path, 1 AS created_at",
    "DROP TABLE kv_store; CREATE VIRTUAL TABLE kv_store USING fts5(key, value, created_at, updated_at)",
    "ALTER TABLE fs_inode ADD COLUMN more INTEGER NOT NULL DEFAULT 5",
    "ALTER TABLE fs_symlink ADD COLUMN more AS (zeroblob(1000000))",
    "DROP TABLE afs_origin; CREATE TABLE afs_origin (ino, lower_path, dev, base_ino, nlink, size, mtime, mtime_nsec, ctime, ctime_nsec, data_len)",
    "DROP TABLE fs_dentry; CREATE TABLE fs_dentry (id, name, parent_ino, ino)",
    "DROP TABLE fs_data; CREATE TABLE fs_data (ino, chunk_index, data)",
    "DROP TABLE fs_inode; CREATE TABLE fs_inode (ino, mode, nlink, uid, gid, size, atime, mtime, ctime, rdev, atime_nsec, mtime_nsec, ctime_nsec)",
    "CREATE TRIGGER t AFTER INSERT ON fs_inode BEGIN DELETE FROM fs_data; END",
    "CREATE INDEX slow ON fs_inode (zeroblob(100000))",
    "CREATE UNIQUE INDEX one ON fs_inode (mode)",
    "DELETE FROM sqlite_sequence",
    "DELETE FROM fs_inode WHERE ino = 1",
    "PRAGMA user_version = 77",
    "PRAGMA application_id = 0",
    "PRAGMA encoding = 'UTF-16le'",
    "PRAGMA auto_vacuum = FULL; VACUUM",
    "PRAGMA journal_mode = WAL",
];

/// Adds rows to the database that `conn` has open, as `bytes` say. Rows that the
/// schema refuses are left out.
pub fn spoil(conn: &Connection, bytes: &[u8]) {
    let mut drawn = Unstructured::new(bytes);
    // The end of the bytes ends it, wherever that is.
    let _ = draw_all(conn, &mut drawn);
}

fn draw_all(conn: &Connection, drawn: &mut Unstructured<'_>) -> Result<()> {
    for _ in 0..ROWS_MAX {
        if drawn.is_empty() {
            break;
        }
        if drawn.ratio(1, 24)? {
            let _ = conn.execute_batch(drawn.choose(SCHEMAS)?);
            continue;
        }
        let (table, columns) = *drawn.choose(TABLES)?;
        let home = drawn.ratio(1, 10)?;
        let table = match table.split_once('_') {
            Some((_, what)) if home => format!("afs_home_{what}"),
            _ => table.to_owned(),
        };
        let values = columns
            .iter()
            .map(|column| value(column, drawn))
            .collect::<Result<Vec<_>>>()?;
        let marks = vec!["?"; columns.len()].join(", ");
        let sql = format!(
            "INSERT OR REPLACE INTO {table} ({}) VALUES ({marks})",
            columns.join(", ")
        );
        let _ = conn.execute(&sql, rusqlite::params_from_iter(values));
    }
    Ok(())
}

/// A value that might get past a check of that column, most of the time.
fn value(column: &str, drawn: &mut Unstructured<'_>) -> Result<Value> {
    if drawn.ratio(1, 12)? {
        return anything(drawn);
    }
    Ok(match column {
        "ino" | "parent_ino" | "delta_ino" | "base_ino" => Value::Integer(ino(drawn)?),
        "mode" => Value::Integer(*drawn.choose(&[
            0o100_644,
            0o040_755,
            0o120_777,
            0o010_644,
            0o020_644,
            0o060_644,
            0o140_644,
            0o777,
            0o200_000,
            -1,
            0o107_777,
            i64::MAX,
        ])?),
        "name" | "target" | "lower_path" | "path" | "parent_path" => text(drawn)?,
        "data" | "value" => bytes(drawn)?,
        "key" => Value::Text(
            (*drawn.choose(&[
                "key",
                "",
                "chunk_size",
                "schema_version",
                "version",
                "wal_id",
                "wal_base",
                "base_path",
                "a\0b",
            ])?)
            .to_owned(),
        ),
        _ => Value::Integer(number(drawn)?),
    })
}

fn ino(drawn: &mut Unstructured<'_>) -> Result<i64> {
    Ok(match drawn.int_in_range(0..=9)? {
        0..=5 => drawn.int_in_range(1..=9)?,
        6..=7 => (1_i64 << 48) + drawn.int_in_range(0..=8)?,
        _ => *drawn.choose(&[0, -1, i64::MIN, i64::MAX, 1 << 62, (1 << 62) - 1, 1 << 47])?,
    })
}

fn number(drawn: &mut Unstructured<'_>) -> Result<i64> {
    Ok(match drawn.int_in_range(0..=3)? {
        0 => drawn.int_in_range(0..=6000)?,
        1 => drawn.int_in_range(0..=3)?,
        2 => *drawn.choose(&[
            -1,
            i64::MIN,
            i64::MAX,
            i64::MAX - 1,
            1 << 40,
            1 << 62,
            1 << 32,
            (1 << 32) - 1,
            1_000_000_000,
            65_536,
            64_999,
        ])?,
        _ => drawn.arbitrary()?,
    })
}

fn text(drawn: &mut Unstructured<'_>) -> Result<Value> {
    const SPECIAL: [&[u8]; 22] = [
        b"a",
        b"b",
        b"dir",
        b"sub",
        b"/",
        b"/dir",
        b"/dir/sub",
        b"/dir/a",
        b"dir/sub",
        b"file",
        b"/file",
        b"..",
        ".".as_bytes(),
        b"",
        b"a/b",
        b"a\0b",
        b"\xff\xfe",
        b"../../etc/passwd",
        b"//",
        b"/a/",
        b"new",
        b"sparse",
    ];
    let bytes = match drawn.int_in_range(0..=9)? {
        0..=7 => drawn.choose(&SPECIAL)?.to_vec(),
        8 => vec![b'n'; drawn.int_in_range(250..=5000)?],
        _ => drawn.bytes(drawn.len().min(20))?.to_vec(),
    };
    Ok(match (String::from_utf8(bytes), drawn.ratio(1, 8)?) {
        (Ok(text), false) => Value::Text(text),
        (Ok(text), true) => Value::Blob(text.into_bytes()),
        (Err(error), _) => Value::Blob(error.into_bytes()),
    })
}

fn bytes(drawn: &mut Unstructured<'_>) -> Result<Value> {
    let len = *drawn.choose(&[0, 1, 100, 511, 512, 513, 4096, VALUE_MAX_BYTES])?;
    let byte: u8 = drawn.arbitrary()?;
    if drawn.ratio(1, 4)? {
        return Ok(Value::Text(
            (*drawn.choose(&["{}", "0.4", "9.9", "4096", "x", "\u{1b}[31m", "-1"])?).to_owned(),
        ));
    }
    Ok(Value::Blob(vec![byte; len]))
}

fn anything(drawn: &mut Unstructured<'_>) -> Result<Value> {
    Ok(match drawn.int_in_range(0..=4)? {
        0 => Value::Null,
        1 => Value::Integer(number(drawn)?),
        2 => Value::Real(f64::from_bits(drawn.arbitrary()?)),
        3 => text(drawn)?,
        _ => bytes(drawn)?,
    })
}
