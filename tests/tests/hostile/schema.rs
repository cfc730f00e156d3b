//! Tables that are not what their names say.

use agentfs_sqlite::{Database, OpenOptions};

use super::{check_refused, plant, tried};

#[test]
fn a_view_in_the_place_of_a_table() {
    for table in ["kv_store", "fs_whiteout", "afs_xattr"] {
        check_refused(
            &format!("DROP TABLE {table}; CREATE VIEW {table} AS SELECT 1"),
            "is not a table",
        );
    }
}

#[test]
fn a_virtual_table_in_the_place_of_a_table() {
    for (table, columns) in [
        ("kv_store", "key, value, created_at, updated_at"),
        ("fs_symlink", "ino, target"),
    ] {
        check_refused(
            &format!("DROP TABLE {table}; CREATE VIRTUAL TABLE {table} USING fts5({columns})"),
            "is not a table",
        );
    }
}

#[test]
fn a_generated_column_in_the_place_of_a_stored_one() {
    check_refused(
        "DROP TABLE kv_store; CREATE TABLE kv_store (key TEXT PRIMARY KEY, created_at, \
         updated_at, value AS (printf('%.*c', 60000000, 'x')))",
        "has no column value",
    );
}

#[test]
fn a_default_value_larger_than_the_file() {
    // Added later, it is the value of every row before, and takes no room.
    let large = "x".repeat(1_000_000);
    check_refused(
        &format!(
            "DROP TABLE kv_store; CREATE TABLE kv_store (key TEXT PRIMARY KEY, created_at, \
             updated_at); INSERT INTO kv_store (key) WITH RECURSIVE n(i) AS \
             (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) SELECT i FROM n; \
             ALTER TABLE kv_store ADD COLUMN value TEXT DEFAULT '{large}'"
        ),
        "column value of table kv_store has a default value",
    );
}

#[test]
fn a_trigger_that_undoes_what_is_written() {
    let tried = tried(
        "CREATE TRIGGER t AFTER INSERT ON fs_inode BEGIN DELETE FROM fs_inode; END; \
         CREATE TRIGGER u AFTER UPDATE ON fs_inode BEGIN SELECT raise(ABORT, 'no'); END",
    );
    assert_eq!((tried.refused, tried.refused_to_write), (None, None));
}

#[test]
fn tables_that_refuse_every_row() {
    for sql in [
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, \
         'name TEXT NOT NULL', 'name TEXT NOT NULL CHECK (length(name) > 1000)') \
         WHERE name = 'fs_dentry'",
        "DROP TABLE fs_data; CREATE TABLE fs_data (ino, chunk_index, data)",
        "DROP TABLE fs_dentry; CREATE TABLE fs_dentry (id, name, parent_ino, ino)",
        "DELETE FROM fs_inode WHERE ino > 1; CREATE UNIQUE INDEX one ON fs_inode (mode > 0)",
    ] {
        assert_eq!(tried(sql).refused, None, "{sql}");
    }
}

#[test]
fn regression_a_schema_that_is_no_sql_is_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hostile.db");
    plant(
        &path,
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = 'CREATE TABLE tool_calls ([' \
         || char(10) || char(27) || printf('%.*c', 5000, 'x') WHERE name = 'tool_calls'",
    );
    for read_only in [true, false] {
        let options = OpenOptions::new().read_only(read_only);
        let refusal = Database::open(&path, &options).err().unwrap().to_string();
        assert!(refusal.contains("malformed database schema"), "{refusal}");
        assert!(!refusal.contains(char::is_control), "{refusal:?}");
        assert!(refusal.len() < 500, "{refusal}");
    }
}

#[test]
fn a_sequence_that_is_missing() {
    let tried = tried(
        "DROP TABLE fs_inode; CREATE TABLE fs_inode (ino INTEGER PRIMARY KEY, mode, nlink, uid, \
         gid, size, atime, mtime, ctime, rdev, atime_nsec, mtime_nsec, ctime_nsec)",
    );
    assert_eq!(tried.refused, None);
}
