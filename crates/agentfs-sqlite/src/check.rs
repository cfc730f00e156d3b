//! What can be wrong with a database below the level that core's own check
//! sees. Only reads.

use agentfs_core::StorageError;
use rusqlite::Connection;

use crate::error::storage_error;

/// Problems named at most; a damaged database has thousands of the same.
const PROBLEMS_MAX: usize = 100;

/// Rows that refer to an inode that does not exist, as (what, query for keys).
const DANGLING: &[(&str, &str)] = &[
    (
        "fs_dentry names an inode that does not exist: id",
        "SELECT id FROM fs_dentry WHERE ino NOT IN (SELECT ino FROM fs_inode)",
    ),
    (
        "fs_dentry lies in a directory that does not exist: id",
        "SELECT id FROM fs_dentry WHERE parent_ino NOT IN (SELECT ino FROM fs_inode)",
    ),
    (
        "fs_data belongs to no inode:",
        "SELECT DISTINCT ino FROM fs_data WHERE ino NOT IN (SELECT ino FROM fs_inode)",
    ),
    (
        "fs_symlink belongs to no inode:",
        "SELECT ino FROM fs_symlink WHERE ino NOT IN (SELECT ino FROM fs_inode)",
    ),
    (
        "fs_origin belongs to no inode:",
        "SELECT delta_ino FROM fs_origin WHERE delta_ino NOT IN (SELECT ino FROM fs_inode)",
    ),
    (
        "afs_origin belongs to no inode:",
        "SELECT ino FROM afs_origin WHERE ino NOT IN (SELECT ino FROM fs_inode)",
    ),
    (
        "afs_origin disagrees with fs_origin: inode",
        "SELECT a.ino FROM afs_origin AS a LEFT JOIN fs_origin AS f ON f.delta_ino = a.ino \
         WHERE f.base_ino IS NOT a.base_ino",
    ),
    (
        "afs_xattr belongs to no inode:",
        "SELECT DISTINCT ino FROM afs_xattr WHERE ino NOT IN (SELECT ino FROM fs_inode)",
    ),
    (
        "fs_symlink is missing for symbolic link",
        "SELECT ino FROM fs_inode WHERE mode & 61440 = 40960 \
         AND ino NOT IN (SELECT ino FROM fs_symlink)",
    ),
];

const DANGLING_HOME: &[(&str, &str)] = &[
    (
        "afs_home_dentry names an inode that does not exist: id",
        "SELECT id FROM afs_home_dentry WHERE ino NOT IN (SELECT ino FROM afs_home_inode)",
    ),
    (
        "afs_home_dentry lies in a directory that does not exist: id",
        "SELECT id FROM afs_home_dentry WHERE parent_ino NOT IN (SELECT ino FROM afs_home_inode)",
    ),
    (
        "afs_home_data belongs to no inode:",
        "SELECT DISTINCT ino FROM afs_home_data WHERE ino NOT IN (SELECT ino FROM afs_home_inode)",
    ),
    (
        "afs_home_origin belongs to no inode:",
        "SELECT ino FROM afs_home_origin WHERE ino NOT IN (SELECT ino FROM afs_home_inode)",
    ),
];

/// Every problem found, one sentence each.
pub(crate) fn problems(conn: &Connection, home: bool) -> Result<Vec<String>, StorageError> {
    let mut problems = sqlite_problems(conn)?;
    let home = if home { DANGLING_HOME } else { &[] };
    for (what, query) in DANGLING.iter().chain(home) {
        let mut statement = conn.prepare(query).map_err(|e| storage_error(&e))?;
        let keys = statement
            .query_map([], |row| row.get::<_, i64>(0))
            .map_err(|e| storage_error(&e))?;
        for key in keys.take(PROBLEMS_MAX) {
            match key {
                Ok(key) => problems.push(format!("{what} {key}")),
                Err(error) => problems.push(format!("{what} (unreadable: {error})")),
            }
        }
    }
    problems.truncate(PROBLEMS_MAX);
    Ok(problems)
}

fn sqlite_problems(conn: &Connection) -> Result<Vec<String>, StorageError> {
    let mut statement = conn
        .prepare(&format!("PRAGMA integrity_check({PROBLEMS_MAX})"))
        .map_err(|e| storage_error(&e))?;
    let lines = statement
        .query_map([], |row| row.get::<_, String>(0))
        .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
        .map_err(|e| storage_error(&e))?;
    Ok(lines.into_iter().filter(|line| line != "ok").collect())
}
