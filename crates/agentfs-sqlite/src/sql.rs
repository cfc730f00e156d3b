//! The statements, per volume: the same for the view's tables (the format's)
//! and the home volume's (ours).
//!
//! Only texts. Names of tables are constants of this file; nothing from outside
//! is ever spliced into a statement.

use crate::database::Volume;

/// So many rows from the beginning of a table are looked at, see [`touch_query`]: a tenth of
/// a millisecond for all tables, and some tens of KiB of SQLite's cache for each. A row that
/// goes where a page is full needs the pages beside it, too.
const TOUCHED_ROWS: usize = 512;
/// The same for chunks, of which few lie on a page.
const TOUCHED_CHUNKS: usize = 16;

/// Statements on the tables of one volume.
#[derive(Debug)]
pub(crate) struct VolumeSql {
    /// Names of the tables, for messages.
    pub(crate) inode_table: &'static str,
    pub(crate) dentry_table: &'static str,
    pub(crate) data_table: &'static str,
    pub(crate) symlink_table: &'static str,
    pub(crate) whiteout_table: &'static str,
    pub(crate) xattr_table: &'static str,

    pub(crate) inode_get: String,
    pub(crate) inode_exists: String,
    pub(crate) inodes_from: String,
    pub(crate) inodes_outside_born: String,
    pub(crate) parents_outside_born: String,
    pub(crate) orphans: String,
    pub(crate) dentry_get: String,
    pub(crate) dentries: String,
    pub(crate) whiteouts: String,
    pub(crate) whiteout_dirs: String,
    pub(crate) chunk_get: String,
    pub(crate) chunk_next: String,
    pub(crate) chunk_lens: String,
    pub(crate) chunk_row: String,
    pub(crate) symlink_get: String,
    pub(crate) xattr_get: String,
    pub(crate) xattrs: String,
    pub(crate) xattr_inodes: String,

    pub(crate) inode_put: String,
    pub(crate) inode_delete: String,
    pub(crate) origin_put: String,
    pub(crate) origin_delete: String,
    /// `fs_origin`, which the format has beside our own table; none for home.
    pub(crate) base_ino_put: Option<String>,
    pub(crate) base_ino_delete: Option<String>,
    pub(crate) dentry_put: String,
    pub(crate) dentry_delete: String,
    pub(crate) whiteout_put: String,
    pub(crate) whiteout_delete: String,
    /// Changes nothing where the number wished for is another row's.
    pub(crate) chunk_put: String,
    pub(crate) chunks_delete: String,
    pub(crate) symlink_put: String,
    pub(crate) symlink_delete: String,
    pub(crate) xattr_put: String,
    pub(crate) xattr_delete: String,
    pub(crate) xattrs_delete: String,
    /// Looks into every table and index where a changed inode has rows, see
    /// [`touch_query`]. One row, of no meaning.
    pub(crate) touch: String,
}

impl VolumeSql {
    pub(crate) fn new(volume: Volume) -> Self {
        let [inode, dentry, data, symlink, whiteout, origin, xattr] = match volume {
            Volume::View => [
                "fs_inode",
                "fs_dentry",
                "fs_data",
                "fs_symlink",
                "fs_whiteout",
                "afs_origin",
                "afs_xattr",
            ],
            Volume::Home => [
                "afs_home_inode",
                "afs_home_dentry",
                "afs_home_data",
                "afs_home_symlink",
                "afs_home_whiteout",
                "afs_home_origin",
                "afs_home_xattr",
            ],
        };
        let view = volume == Volume::View;
        Self {
            inode_table: inode,
            dentry_table: dentry,
            data_table: data,
            symlink_table: symlink,
            whiteout_table: whiteout,
            xattr_table: xattr,
            inode_get: format!(
                "SELECT i.mode, i.nlink, i.uid, i.gid, i.rdev, i.size, i.atime, i.atime_nsec, \
                 i.mtime, i.mtime_nsec, i.ctime, i.ctime_nsec, o.lower_path, o.dev, o.base_ino, \
                 o.nlink, o.size, o.mtime, o.mtime_nsec, o.ctime, o.ctime_nsec, o.data_len \
                 FROM {inode} AS i LEFT JOIN {origin} AS o ON o.ino = i.ino WHERE i.ino = ?1"
            ),
            inode_exists: format!("SELECT 1 FROM {inode} WHERE ino = ?1"),
            inodes_from: format!("SELECT ino FROM {inode} WHERE ino >= ?1 ORDER BY ino"),
            inodes_outside_born: format!(
                "SELECT ino FROM {inode} WHERE ino < ?1 UNION ALL \
                 SELECT ino FROM {inode} WHERE ino >= ?2"
            ),
            parents_outside_born: format!(
                "SELECT DISTINCT parent_ino FROM {dentry} WHERE parent_ino < ?1 UNION ALL \
                 SELECT DISTINCT parent_ino FROM {dentry} WHERE parent_ino >= ?2"
            ),
            orphans: format!("SELECT ino FROM {inode} WHERE nlink = 0"),
            dentry_get: format!("SELECT ino FROM {dentry} WHERE parent_ino = ?1 AND name = ?2"),
            dentries: format!("SELECT name, ino FROM {dentry} WHERE parent_ino = ?1 LIMIT ?2"),
            whiteouts: format!("SELECT path FROM {whiteout} WHERE parent_path = ?1"),
            whiteout_dirs: format!("SELECT DISTINCT parent_path FROM {whiteout}"),
            chunk_get: chunk_query("data", data, ""),
            chunk_next: format!(
                "SELECT min(chunk_index) FROM {data} WHERE ino = ?1 AND chunk_index >= ?2"
            ),
            chunk_lens: format!(
                "SELECT chunk_index, length(data) FROM {data} \
                 WHERE ino = ?1 AND chunk_index >= ?2 AND chunk_index < ?3 \
                 AND typeof(data) = 'blob'"
            ),
            chunk_row: chunk_query("rowid, length(data)", data, " AND typeof(data) = 'blob'"),
            symlink_get: format!("SELECT target FROM {symlink} WHERE ino = ?1"),
            xattr_get: format!("SELECT value FROM {xattr} WHERE ino = ?1 AND name = ?2"),
            xattrs: format!("SELECT name, value FROM {xattr} WHERE ino = ?1"),
            xattr_inodes: format!("SELECT DISTINCT ino FROM {xattr}"),
            inode_put: format!(
                "INSERT INTO {inode} (ino, mode, nlink, uid, gid, rdev, size, atime, atime_nsec, \
                 mtime, mtime_nsec, ctime, ctime_nsec) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) \
                 ON CONFLICT (ino) DO UPDATE SET mode = ?2, nlink = ?3, uid = ?4, gid = ?5, \
                 rdev = ?6, size = ?7, atime = ?8, atime_nsec = ?9, mtime = ?10, \
                 mtime_nsec = ?11, ctime = ?12, ctime_nsec = ?13"
            ),
            inode_delete: format!("DELETE FROM {inode} WHERE ino = ?1"),
            origin_put: format!(
                "INSERT OR REPLACE INTO {origin} (ino, lower_path, dev, base_ino, nlink, size, \
                 mtime, mtime_nsec, ctime, ctime_nsec, data_len) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
            ),
            origin_delete: format!("DELETE FROM {origin} WHERE ino = ?1"),
            base_ino_put: view.then(|| {
                "INSERT OR REPLACE INTO fs_origin (delta_ino, base_ino) VALUES (?1, ?2)".to_owned()
            }),
            base_ino_delete: view.then(|| "DELETE FROM fs_origin WHERE delta_ino = ?1".to_owned()),
            dentry_put: format!(
                "INSERT INTO {dentry} (name, parent_ino, ino) VALUES (?2, ?1, ?3) \
                 ON CONFLICT (parent_ino, name) DO UPDATE SET ino = ?3"
            ),
            dentry_delete: format!("DELETE FROM {dentry} WHERE parent_ino = ?1 AND name = ?2"),
            whiteout_put: format!(
                "INSERT OR REPLACE INTO {whiteout} (path, parent_path, created_at) \
                 VALUES (?1, ?2, ?3)"
            ),
            whiteout_delete: format!("DELETE FROM {whiteout} WHERE path = ?1"),
            chunk_put: format!(
                "INSERT INTO {data} (rowid, ino, chunk_index, data) VALUES (?4, ?1, ?2, ?3) \
                 ON CONFLICT (ino, chunk_index) DO UPDATE SET data = ?3 \
                 ON CONFLICT DO NOTHING"
            ),
            chunks_delete: format!(
                "DELETE FROM {data} WHERE ino = ?1 AND chunk_index >= ?2 AND chunk_index < ?3"
            ),
            symlink_put: format!("INSERT OR REPLACE INTO {symlink} (ino, target) VALUES (?1, ?2)"),
            symlink_delete: format!("DELETE FROM {symlink} WHERE ino = ?1"),
            xattr_put: format!(
                "INSERT OR REPLACE INTO {xattr} (ino, name, value) VALUES (?1, ?2, ?3)"
            ),
            xattr_delete: format!("DELETE FROM {xattr} WHERE ino = ?1 AND name = ?2"),
            xattrs_delete: format!("DELETE FROM {xattr} WHERE ino = ?1"),
            touch: touch_query(inode, dentry, data, symlink, origin, xattr, view),
        }
    }
}

/// Looks where a change of any inode is likely to lead, in each table and each index of it:
/// to its end, where what is new goes, and to its beginning, where inodes of the base are, of
/// which mostly few have been changed.
fn touch_query(
    inode: &str,
    dentry: &str,
    data: &str,
    symlink: &str,
    origin: &str,
    xattr: &str,
    view: bool,
) -> String {
    let look = |table: &str, column: &str, rows: usize| {
        let first = format!("SELECT {column} FROM {table} LIMIT {rows}");
        format!("(SELECT count(*) FROM ({first})), (SELECT max({column}) FROM {table})")
    };
    let names = |index: &str| format!("{dentry} INDEXED BY {index}");
    let mut parts = vec![
        look(inode, "ino", TOUCHED_ROWS),
        look(origin, "ino", TOUCHED_ROWS),
        look(data, "ino", TOUCHED_ROWS),
        look(&format!("{data} NOT INDEXED"), "rowid", TOUCHED_CHUNKS),
        look(symlink, "ino", TOUCHED_ROWS),
        look(xattr, "ino", TOUCHED_ROWS),
        look(&format!("{dentry} NOT INDEXED"), "id", 1),
        look(
            &names(&format!("sqlite_autoindex_{dentry}_1")),
            "parent_ino",
            TOUCHED_ROWS,
        ),
    ];
    if view {
        parts.push(look(
            &names("idx_fs_dentry_parent"),
            "parent_ino",
            TOUCHED_ROWS,
        ));
        parts.push(look("fs_origin", "delta_ino", TOUCHED_ROWS));
    }
    format!("SELECT {}", parts.join(", "))
}

/// What is asked of the row of chunk `?2` of inode `?1`: under the number that it
/// should have (`?3`, may be null), and by the index where it has another. The
/// second half does not run when the first has a row.
fn chunk_query(columns: &str, table: &str, condition: &str) -> String {
    let is_it = format!("ino = ?1 AND chunk_index = ?2{condition}");
    format!(
        "SELECT {columns} FROM {table} NOT INDEXED WHERE rowid = ?3 AND {is_it} \
         UNION ALL SELECT {columns} FROM {table} WHERE {is_it} LIMIT 1"
    )
}

pub(crate) const KV_GET: &str =
    "SELECT key, value, created_at, updated_at FROM kv_store WHERE key = ?1";
/// A page of keys after `?1` (all with `NULL`), ascending by byte.
pub(crate) const KVS_AFTER: &str = "SELECT key, value, created_at, updated_at FROM kv_store \
     WHERE ?1 IS NULL OR key > ?1 ORDER BY key LIMIT ?2";
pub(crate) const KV_PUT: &str = "INSERT INTO kv_store (key, value, created_at, updated_at) \
     VALUES (?1, ?2, ?3, ?4) ON CONFLICT (key) DO UPDATE SET value = ?2, \
     created_at = ?3, updated_at = ?4";
pub(crate) const KV_DELETE: &str = "DELETE FROM kv_store WHERE key = ?1";
/// A page of tool calls below id `?1`, newest first.
pub(crate) const TOOL_CALLS_BELOW: &str = "SELECT id, name, parameters, result, error, status, \
     started_at, completed_at, duration_ms FROM tool_calls WHERE id < ?1 ORDER BY id DESC LIMIT ?2";
pub(crate) const TOOL_CALL_PUT: &str = "INSERT INTO tool_calls (id, name, parameters, result, \
     error, status, started_at, completed_at, duration_ms) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
pub(crate) const TOOL_CALL_LAST: &str = "SELECT max(ifnull((SELECT max(id) FROM tool_calls), 0), \
     ifnull((SELECT seq FROM sqlite_sequence WHERE name = 'tool_calls'), 0))";
pub(crate) const SEQUENCE_GET: &str = "SELECT seq FROM sqlite_sequence WHERE name = 'fs_inode'";
pub(crate) const SEQUENCE_UPDATE: &str =
    "UPDATE sqlite_sequence SET seq = ?1 WHERE name = 'fs_inode'";
pub(crate) const SEQUENCE_INSERT: &str =
    "INSERT INTO sqlite_sequence (name, seq) VALUES ('fs_inode', ?1)";

/// Ties a `-wal` to the database file it was begun on: see [`crate::wal`].
pub(crate) const WAL_BEGIN: &str = "INSERT OR REPLACE INTO afs_meta (key, value) VALUES \
     ('wal_base', ifnull((SELECT value FROM afs_meta WHERE key = 'wal_id'), '')), \
     ('wal_id', lower(hex(randomblob(16))))";
pub(crate) const WAL_TIE: &str = "SELECT \
     ifnull((SELECT value FROM afs_meta WHERE key = 'wal_base'), ''), \
     ifnull((SELECT value FROM afs_meta WHERE key = 'wal_id'), '')";
pub(crate) const OVERLAY_CONFIG_GET: &str = "SELECT value FROM fs_overlay_config WHERE key = ?1";
pub(crate) const BASE_PATH_PUT: &str =
    "INSERT OR REPLACE INTO fs_overlay_config (key, value) VALUES ('base_path', ?1)";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use agentfs_core::Ino;
    use agentfs_testkit::reads::without_a_read;
    use rusqlite::Connection;

    use super::*;
    use crate::rows::chunk_row_id;
    use crate::schema;

    /// Else a small batch after a large one reads from the disk what is missing.
    #[test]
    fn every_table_of_a_volume_is_touched_and_every_index() {
        let conn = Connection::open_in_memory().unwrap();
        for tables in [
            schema::FORMAT_TABLES,
            schema::EXTENSION_TABLES,
            schema::HOME_TABLES,
        ] {
            conn.execute_batch(tables).unwrap();
        }
        for volume in [Volume::View, Volume::Home] {
            let sql = VolumeSql::new(volume);
            let mut explained = conn.prepare(&format!("EXPLAIN {}", sql.touch)).unwrap();
            let opened: BTreeSet<i64> = explained
                .query_map([], |row| Ok((row.get::<_, String>(1)?, row.get(3)?)))
                .unwrap()
                .map(Result::unwrap)
                .filter_map(|(opcode, root)| (opcode == "OpenRead").then_some(root))
                .collect();
            // Whiteouts are not an inode's.
            let mut listed = conn
                .prepare(
                    "SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0 AND \
                     tbl_name NOT LIKE '%whiteout' AND CASE WHEN ?1 \
                     THEN tbl_name GLOB 'afs_home_*' \
                     ELSE tbl_name IN ('fs_inode', 'fs_dentry', 'fs_data', 'fs_symlink', \
                     'fs_origin', 'afs_origin', 'afs_xattr') END",
                )
                .unwrap();
            let listed = listed
                .query_map([volume == Volume::Home], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .unwrap();
            for (name, root) in listed.map(Result::<(String, i64), _>::unwrap) {
                assert!(opened.contains(&root), "{name} is not looked into");
            }
        }
    }

    /// A file of the base is written to for the first time, where some hundred have been
    /// and many were made, and SQLite has no page in its cache but those that were touched.
    #[test]
    fn a_change_of_a_base_file_finds_its_pages_once_they_are_touched() {
        const BASE: i64 = 2_000_000;
        const BORN: i64 = 1 << 48;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("PRAGMA page_size = 8192").unwrap();
        for tables in [schema::FORMAT_TABLES, schema::EXTENSION_TABLES] {
            conn.execute_batch(tables).unwrap();
        }
        let sql = VolumeSql::new(Volume::View);
        let run = |conn: &Connection, sql: &str, params: &[&dyn rusqlite::ToSql]| {
            conn.prepare_cached(sql).unwrap().execute(params).unwrap();
        };
        let copy_up = |conn: &Connection, ino: i64, parent: i64| {
            run(conn, &sql.chunks_delete, &[&ino, &0, &i64::MAX]);
            run(conn, &sql.symlink_delete, &[&ino]);
            run(conn, &sql.xattrs_delete, &[&ino]);
            let inode: [&dyn rusqlite::ToSql; 13] =
                [&ino, &1, &1, &1, &1, &1, &1, &1, &1, &1, &1, &1, &1];
            run(conn, &sql.inode_put, &inode);
            let path = format!("some/directory/with/a/name/{ino}");
            let origin: [&dyn rusqlite::ToSql; 11] =
                [&ino, &path, &1, &1, &1, &1, &1, &1, &1, &1, &1];
            run(conn, &sql.origin_put, &origin);
            run(conn, sql.base_ino_put.as_ref().unwrap(), &[&ino, &ino]);
            let name = format!("name-{ino}");
            run(conn, &sql.dentry_put, &[&parent, &name, &ino]);
        };
        let put_chunk = |conn: &Connection, ino: i64| {
            let number = chunk_row_id(Ino(ino.cast_unsigned()), 0);
            run(conn, &sql.chunk_put, &[&ino, &0, &[7_u8; 30_000], &number]);
        };
        conn.execute_batch("BEGIN").unwrap();
        for number in 0..300 {
            copy_up(&conn, BASE + number * 10, BORN);
            copy_up(&conn, BORN + number, BORN + number / 10);
            put_chunk(&conn, BORN + number);
        }
        conn.execute_batch("COMMIT").unwrap();
        drop(conn);

        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("PRAGMA journal_mode = MEMORY; BEGIN IMMEDIATE")
            .unwrap();
        conn.query_row(&sql.touch, [], |_| Ok(())).unwrap();
        // Every batch asks for it first.
        conn.query_row(SEQUENCE_GET, [], |_| Ok(())).unwrap();
        without_a_read(|| {
            copy_up(&conn, BASE + 1_234, 1);
            put_chunk(&conn, BASE + 1_234);
        });
    }
}
