//! The tables: those of the Agent Filesystem Specification 0.4 as the published
//! SDKs create them, and our extensions. `docs/FORMAT.md` explains each.
//!
//! The format's tables must stay as they are, column by column; there must
//! never be a trigger (the SDKs cannot open a database that has one), and the
//! format's tables are rowid tables.

/// Marks a database as ours (`PRAGMA application_id`): "afs1" in ASCII.
pub(crate) const APPLICATION_ID: i32 = 0x6166_7331;
/// The newest `fs_config.schema_version` that this crate understands.
pub(crate) const SPEC_VERSION: (u32, u32) = (0, 4);
/// The version of our extension tables (`afs_meta.version`).
pub(crate) const EXTENSION_VERSION: i64 = 1;
/// `chunk_size` of a database that does not say (the format's default).
pub(crate) const DEFAULT_CHUNK_SIZE_BYTES: u32 = 4096;
/// The chunk sizes that are believed when read from a database.
pub(crate) const CHUNK_SIZES_BYTES: std::ops::RangeInclusive<u32> = 512..=16 << 20;

/// The format's tables and indexes, as the SDKs make them.
pub(crate) const FORMAT_TABLES: &str = "
CREATE TABLE IF NOT EXISTS fs_config (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS fs_inode (
    ino INTEGER PRIMARY KEY AUTOINCREMENT,
    mode INTEGER NOT NULL,
    nlink INTEGER NOT NULL DEFAULT 0,
    uid INTEGER NOT NULL DEFAULT 0,
    gid INTEGER NOT NULL DEFAULT 0,
    size INTEGER NOT NULL DEFAULT 0,
    atime INTEGER NOT NULL,
    mtime INTEGER NOT NULL,
    ctime INTEGER NOT NULL,
    rdev INTEGER NOT NULL DEFAULT 0,
    atime_nsec INTEGER NOT NULL DEFAULT 0,
    mtime_nsec INTEGER NOT NULL DEFAULT 0,
    ctime_nsec INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS fs_dentry (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    parent_ino INTEGER NOT NULL,
    ino INTEGER NOT NULL,
    UNIQUE(parent_ino, name)
);
CREATE INDEX IF NOT EXISTS idx_fs_dentry_parent ON fs_dentry(parent_ino, name);
CREATE TABLE IF NOT EXISTS fs_data (
    ino INTEGER NOT NULL,
    chunk_index INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (ino, chunk_index)
);
CREATE TABLE IF NOT EXISTS fs_symlink (
    ino INTEGER PRIMARY KEY,
    target TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS fs_whiteout (
    path TEXT PRIMARY KEY,
    parent_path TEXT NOT NULL,
    created_at INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS idx_fs_whiteout_parent ON fs_whiteout(parent_path);
CREATE TABLE IF NOT EXISTS fs_origin (
    delta_ino INTEGER PRIMARY KEY,
    base_ino INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS fs_overlay_config (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS kv_store (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    created_at INTEGER DEFAULT (unixepoch()),
    updated_at INTEGER DEFAULT (unixepoch())
);
CREATE INDEX IF NOT EXISTS idx_kv_store_created_at ON kv_store(created_at);
CREATE TABLE IF NOT EXISTS tool_calls (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    parameters TEXT,
    result TEXT,
    error TEXT,
    status TEXT NOT NULL DEFAULT 'pending',
    started_at INTEGER NOT NULL,
    completed_at INTEGER,
    duration_ms INTEGER
);
CREATE INDEX IF NOT EXISTS idx_tool_calls_name ON tool_calls(name);
CREATE INDEX IF NOT EXISTS idx_tool_calls_started_at ON tool_calls(started_at);
";

/// Our tables beside the format's: what it has no room for.
pub(crate) const EXTENSION_TABLES: &str = "
CREATE TABLE IF NOT EXISTS afs_meta (
    key TEXT PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS afs_origin (
    ino INTEGER PRIMARY KEY,
    lower_path ANY NOT NULL,
    dev INTEGER NOT NULL,
    base_ino INTEGER NOT NULL,
    nlink INTEGER NOT NULL,
    size INTEGER NOT NULL,
    mtime INTEGER NOT NULL,
    mtime_nsec INTEGER NOT NULL,
    ctime INTEGER NOT NULL,
    ctime_nsec INTEGER NOT NULL,
    data_len INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS afs_xattr (
    ino INTEGER NOT NULL,
    name ANY NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (ino, name)
) STRICT, WITHOUT ROWID;
";

/// The tables of the home volume: as the view's, under names of ours.
pub(crate) const HOME_TABLES: &str = "
CREATE TABLE IF NOT EXISTS afs_home_inode (
    ino INTEGER PRIMARY KEY,
    mode INTEGER NOT NULL,
    nlink INTEGER NOT NULL DEFAULT 0,
    uid INTEGER NOT NULL DEFAULT 0,
    gid INTEGER NOT NULL DEFAULT 0,
    size INTEGER NOT NULL DEFAULT 0,
    atime INTEGER NOT NULL,
    mtime INTEGER NOT NULL,
    ctime INTEGER NOT NULL,
    rdev INTEGER NOT NULL DEFAULT 0,
    atime_nsec INTEGER NOT NULL DEFAULT 0,
    mtime_nsec INTEGER NOT NULL DEFAULT 0,
    ctime_nsec INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS afs_home_dentry (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    parent_ino INTEGER NOT NULL,
    ino INTEGER NOT NULL,
    UNIQUE(parent_ino, name)
);
CREATE TABLE IF NOT EXISTS afs_home_data (
    ino INTEGER NOT NULL,
    chunk_index INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (ino, chunk_index)
);
CREATE TABLE IF NOT EXISTS afs_home_symlink (
    ino INTEGER PRIMARY KEY,
    target TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS afs_home_whiteout (
    path TEXT PRIMARY KEY,
    parent_path TEXT NOT NULL,
    created_at INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS afs_home_whiteout_parent ON afs_home_whiteout(parent_path);
CREATE TABLE IF NOT EXISTS afs_home_origin (
    ino INTEGER PRIMARY KEY,
    lower_path ANY NOT NULL,
    dev INTEGER NOT NULL,
    base_ino INTEGER NOT NULL,
    nlink INTEGER NOT NULL,
    size INTEGER NOT NULL,
    mtime INTEGER NOT NULL,
    mtime_nsec INTEGER NOT NULL,
    ctime INTEGER NOT NULL,
    ctime_nsec INTEGER NOT NULL,
    data_len INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS afs_home_xattr (
    ino INTEGER NOT NULL,
    name ANY NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (ino, name)
) STRICT, WITHOUT ROWID;
";

/// Columns that must exist, by table: what a database has to have for its rows
/// to be ours to read. Tables beyond these are made when missing.
pub(crate) const REQUIRED_COLUMNS: &[(&str, &[&str])] = &[
    ("fs_config", &["key", "value"]),
    (
        "fs_inode",
        &[
            "ino", "mode", "nlink", "uid", "gid", "size", "atime", "mtime", "ctime",
        ],
    ),
    ("fs_dentry", &["id", "name", "parent_ino", "ino"]),
    ("fs_data", &["ino", "chunk_index", "data"]),
    ("fs_symlink", &["ino", "target"]),
    ("fs_whiteout", &["path", "parent_path", "created_at"]),
    ("fs_origin", &["delta_ino", "base_ino"]),
    ("fs_overlay_config", &["key", "value"]),
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
];

/// Columns of `fs_inode` that a database of an older version may lack, with
/// their definitions.
pub(crate) const LATER_INODE_COLUMNS: &[(&str, &str)] = &[
    ("rdev", "INTEGER NOT NULL DEFAULT 0"),
    ("atime_nsec", "INTEGER NOT NULL DEFAULT 0"),
    ("mtime_nsec", "INTEGER NOT NULL DEFAULT 0"),
    ("ctime_nsec", "INTEGER NOT NULL DEFAULT 0"),
];

/// Every table that a statement of this crate may name.
pub(crate) fn all_tables() -> impl Iterator<Item = &'static str> {
    let extensions = [
        "afs_meta",
        "afs_origin",
        "afs_xattr",
        "afs_home_inode",
        "afs_home_dentry",
        "afs_home_data",
        "afs_home_symlink",
        "afs_home_whiteout",
        "afs_home_origin",
        "afs_home_xattr",
    ];
    REQUIRED_COLUMNS
        .iter()
        .map(|(table, _)| *table)
        .chain(extensions)
}
