//! Rows that contradict each other, or themselves.

use agentfs_core::overlay::{Fallocate, Times};
use agentfs_core::storage::MemoryStorage;
use agentfs_core::{FsError, Ino, Name, Overlay};
use agentfs_tests::hostile::{base, config};

use super::{check, check_refused, tried};

/// Numbers that the template does not use.
const A: i64 = (1 << 48) + 1000;
const B: i64 = A + 1;

const DIR: i64 = 0o040_755;
const FILE: i64 = 0o100_644;

fn inode(ino: i64, mode: i64, size: i64) -> String {
    format!(
        "INSERT INTO fs_inode (ino, mode, nlink, size, atime, mtime, ctime) \
         VALUES ({ino}, {mode}, 1, {size}, 0, 0, 0);"
    )
}

/// `name` as SQL.
fn entry(parent: i64, name: &str, ino: i64) -> String {
    format!("INSERT INTO fs_dentry (name, parent_ino, ino) VALUES ({name}, {parent}, {ino});")
}

/// A file of this size at `/evil`.
fn file(size: i64) -> String {
    inode(A, FILE, size) + &entry(1, "'evil'", A)
}

fn data(index: i64, value: &str) -> String {
    format!("INSERT INTO fs_data (ino, chunk_index, data) VALUES ({A}, {index}, {value});")
}

fn origin(ino: i64, path: &str, size: i64, data_len: i64) -> String {
    format!(
        "INSERT INTO afs_origin VALUES ({ino}, {path}, 1, 1, 1, {size}, 0, 0, 0, 0, {data_len});"
    )
}

#[test]
fn a_cycle_of_directories() {
    let made = inode(A, DIR, 0) + &inode(B, DIR, 0);
    check(
        &(made + &entry(1, "'x'", A) + &entry(A, "'y'", B) + &entry(B, "'z'", A)),
        "has another place",
    );
}

#[test]
fn a_cycle_that_the_root_does_not_reach() {
    let made = inode(A, DIR, 0) + &inode(B, DIR, 0);
    check(
        &(made + &entry(A, "'y'", B) + &entry(B, "'z'", A)),
        "cannot be reached from the root",
    );
}

#[test]
fn a_directory_in_itself() {
    check(
        &(inode(A, DIR, 0) + &entry(1, "'x'", A) + &entry(A, "'x'", A)),
        "has another place",
    );
}

#[test]
fn the_root_in_a_directory() {
    check(
        &(inode(A, DIR, 0) + &entry(1, "'x'", A) + &entry(A, "'up'", 1)),
        "leads to directory 1, which has another place",
    );
}

#[test]
fn a_directory_of_two_names() {
    check(
        &(inode(A, DIR, 0) + &entry(1, "'x'", A) + &entry(1, "'y'", A)),
        "has another place",
    );
}

#[test]
fn directories_deeper_than_any_path() {
    let mut sql = "BEGIN;".to_owned();
    for depth in 0..10_000 {
        let parent = if depth == 0 { 1 } else { A + depth - 1 };
        sql += &(inode(A + depth, DIR, 0) + &entry(parent, "'d'", A + depth));
    }
    let tried = tried(&(sql + "COMMIT"));
    assert_eq!((tried.refused, tried.diff), (None, None));
}

#[test]
fn an_entry_that_leads_nowhere() {
    check(
        &entry(1, "'lost'", 77),
        "leads to inode 77, which is missing",
    );
}

#[test]
fn an_entry_in_a_file() {
    check(
        &(file(0) + &inode(B, FILE, 0) + &entry(A, "'in'", B)),
        "is not a directory",
    );
}

#[test]
fn names_that_are_none() {
    for name in ["'a/b'", "''", "'.'", "'..'", "'/'"] {
        check(&(inode(A, FILE, 0) + &entry(1, name, A)), "name: ");
    }
}

#[test]
fn a_name_with_nul() {
    check(
        &(inode(A, FILE, 0) + &entry(1, "CAST(x'610062' AS TEXT)", A)),
        "invalid name",
    );
}

#[test]
fn a_name_that_is_not_utf_8() {
    // As a BLOB it is a name like any other; as TEXT it is none.
    let dir = inode(A, FILE, 0);
    let tried = tried(&(dir.clone() + &entry(1, "x'fffe'", A)));
    assert_eq!((tried.check.as_str(), tried.diff), ("", None));
    check(
        &(dir + &entry(1, "CAST(x'fffe' AS TEXT)", A)),
        "text that is not UTF-8",
    );
}

#[test]
fn a_huge_name() {
    for (bytes, sentence) in [(256, "too long"), (1_000_000, "too long")] {
        let name = format!("printf('%.*c', {bytes}, 'n')");
        check(&(inode(A, FILE, 0) + &entry(1, &name, A)), sentence);
    }
}

#[test]
fn a_name_that_is_a_number() {
    // In a column of type TEXT it becomes one: a name like any other.
    let tried = tried(&(inode(A, FILE, 0) + &entry(1, "77", A)));
    assert_eq!(tried.check, "");
    let loose = "DROP TABLE fs_dentry; CREATE TABLE fs_dentry \
                 (id INTEGER PRIMARY KEY, name, parent_ino, ino, UNIQUE (parent_ino, name));";
    check(
        &(loose.to_owned() + &inode(A, FILE, 0) + &entry(1, "7.5", A)),
        "name is Real",
    );
}

#[test]
fn two_entries_of_one_name() {
    // TEXT and BLOB of the same bytes are two keys to SQLite.
    check(
        &(file(0) + &inode(B, FILE, 0) + &entry(1, "CAST('evil' AS BLOB)", B)),
        "name is text stored as a BLOB",
    );
}

#[test]
fn a_negative_size() {
    for size in [-1, i64::MIN] {
        check(&file(size), "size is -");
    }
}

#[test]
fn the_largest_size() {
    check(&(file(i64::MAX) + &data(0, "x'00'")), "holds 1 bytes");
}

#[test]
fn chunks_of_the_wrong_length() {
    check(&(file(2000) + &data(1, "x'01'")), "holds 1 bytes");
    check(&(file(2000) + &data(1, "x''")), "data is 0 bytes");
    check(
        &(file(2000) + &data(1, "zeroblob(513)")),
        "data is 513 bytes",
    );
    check(
        &(file(2000) + &data(1, "zeroblob(50000000)")),
        "data is 50000000 bytes",
    );
}

#[test]
fn chunks_that_are_no_bytes() {
    check(&(file(2000) + &data(1, "5")), "data is Integer");
    check(&(file(2000) + &data(1, "'text'")), "data is Text");
}

#[test]
fn chunks_past_the_end_and_before_the_start() {
    check(&(file(10) + &data(9, "x'01'")), "lies past its size");
    check(&(file(10) + &data(i64::MAX, "x'01'")), "chunk_index is");
    let tried = tried(&(file(10) + &data(-1, "x'01'")));
    assert_eq!(tried.refused, None);
}

#[test]
fn chunks_of_a_directory() {
    check(
        &(inode(A, DIR, 0) + &entry(1, "'x'", A) + &data(0, "x'01'")),
        "has content",
    );
}

#[test]
fn a_mode_of_no_kind() {
    for mode in [0o644, 0, 0o200_000, 0o170_000, -1, i64::MAX] {
        let sql = inode(A, mode, 0) + &entry(1, "'x'", A);
        let tried = tried(&sql);
        assert!(tried.check.contains("mode"), "{mode:o}: {}", tried.check);
    }
}

#[test]
fn a_mode_that_is_text() {
    let sql = inode(A, FILE, 0) + &entry(1, "'x'", A);
    check(
        &(sql + &format!("UPDATE fs_inode SET mode = 'rwx' WHERE ino = {A}")),
        "mode is Text",
    );
}

#[test]
fn inode_numbers_that_are_none() {
    for ino in [0, -1, i64::MIN] {
        check(&(inode(ino, FILE, 0) + &entry(1, "'x'", ino)), "ino is");
    }
    let largest = i64::MAX;
    let tried = tried(&(inode(largest, FILE, 0) + &entry(1, "'x'", largest)));
    assert_eq!(tried.refused, None);
}

#[test]
fn two_rows_of_one_inode() {
    let loose = "CREATE TABLE more AS SELECT * FROM fs_inode; DROP TABLE fs_inode; \
                 ALTER TABLE more RENAME TO fs_inode;";
    let tried = tried(&(loose.to_owned() + &file(1) + &inode(A, DIR, 0)));
    assert!(
        tried.refused_to_write.is_some() || tried.refused.is_none(),
        "{tried:?}"
    );
}

#[test]
fn link_counts_out_of_range() {
    for (nlink, sentence) in [
        ("-1", "nlink is -1"),
        ("4294967296", "nlink is"),
        ("4294967295", "link count"),
    ] {
        check(
            &(file(0) + &format!("UPDATE fs_inode SET nlink = {nlink} WHERE ino = {A}")),
            sentence,
        );
    }
}

#[test]
fn times_out_of_range() {
    let sql = format!(
        "UPDATE fs_inode SET atime = -9223372036854775808, mtime = 9223372036854775807, \
         mtime_nsec = -5, ctime_nsec = 4000000000 WHERE ino = {A}"
    );
    let tried = tried(&(file(0) + &sql));
    assert_eq!((tried.refused, tried.check.as_str()), (None, ""));
}

#[test]
fn a_symbolic_link_without_a_sound_target() {
    let link = inode(A, 0o120_777, 4) + &entry(1, "'l'", A);
    check(&link, "has no target");
    for target in [
        "''",
        "CAST(x'610062' AS TEXT)",
        "printf('%.*c', 5000, 'n')",
        "5.5",
    ] {
        let sql = format!("INSERT INTO fs_symlink VALUES ({A}, {target})");
        let tried = tried(&(link.clone() + &sql));
        assert!(tried.check.contains("target"), "{target}: {}", tried.check);
    }
}

#[test]
fn an_origin_out_of_the_base() {
    for path in [
        "'../../etc/passwd'",
        "'/etc/passwd'",
        "'a//b'",
        "'.'",
        "CAST(x'00' AS TEXT)",
    ] {
        check(
            &(file(100) + &origin(A, path, 100, 100)),
            "lower_path: invalid name",
        );
    }
}

#[test]
fn an_origin_that_is_a_directory_above() {
    let made = inode(A, DIR, 0) + &inode(B, DIR, 0);
    check(
        &(made
            + &entry(1, "'x'", A)
            + &entry(A, "'y'", B)
            + &origin(A, "''", 0, 0)
            + &origin(B, "''", 0, 0)),
        "shows at two places",
    );
}

#[test]
fn more_bytes_of_the_base_than_there_are() {
    check(
        &(file(i64::MAX) + &origin(A, "'file'", 4, i64::MAX)),
        "more than there are",
    );
    check(
        &(file(i64::MAX) + &origin(A, "'file'", i64::MAX, i64::MAX)),
        "has changed",
    );
}

#[test]
fn whiteouts_that_are_none() {
    let whiteout =
        |path: &str, parent: &str| format!("INSERT INTO fs_whiteout VALUES ({path}, {parent}, 0);");
    check(
        &whiteout("'/a/b'", "'/'"),
        "path does not lie in parent_path",
    );
    check(&whiteout("'a'", "'/'"), "path does not start with a slash");
    check(&whiteout("'/x'", "''"), "does not start with a slash");
    check(&whiteout("'/../x'", "'/..'"), "invalid name");
    check(&whiteout("'/a//b'", "'/a/'"), "invalid name");
}

#[test]
fn an_extended_attribute_that_is_too_large() {
    let sql = format!("INSERT INTO afs_xattr VALUES ({A}, 'user.x', zeroblob(65537))");
    let tried = tried(&(file(0) + &sql));
    assert_eq!(tried.refused, None);
}

#[test]
fn the_sequence_at_its_end() {
    for last in [
        "9223372036854775807",
        "-9223372036854775808",
        "4611686018427387903",
    ] {
        let sql = format!("UPDATE sqlite_sequence SET seq = {last} WHERE name = 'fs_inode'");
        assert_eq!(tried(&sql).refused, None);
    }
    let sql = inode((1 << 62) - 1, FILE, 0);
    assert!(tried(&sql).refused.is_none());
}

#[test]
fn the_last_tool_call() {
    let sql = "INSERT INTO tool_calls (id, name, started_at, completed_at, duration_ms) \
               VALUES (9223372036854775807, 'x', -9223372036854775808, 9223372036854775807, -1)";
    assert_eq!(tried(sql).refused, None);
}

#[test]
fn a_chunk_size_out_of_range() {
    for size in [
        "0",
        "-1",
        "511",
        "16777217",
        "1e9",
        "",
        "999999999999999999999",
    ] {
        let sql = format!("UPDATE fs_config SET value = '{size}' WHERE key = 'chunk_size'");
        check_refused(&sql, "its chunk size is");
    }
    check_refused(
        "UPDATE fs_config SET value = zeroblob(1000) WHERE key = 'chunk_size'",
        "its chunk size is \"of type Blob\"",
    );
}

#[test]
fn another_chunk_size_than_the_rows_have() {
    check(
        "UPDATE fs_config SET value = '16777216' WHERE key = 'chunk_size'",
        "holds 512 bytes",
    );
}

#[test]
fn a_version_to_come() {
    check_refused(
        "UPDATE fs_config SET value = '9.9' WHERE key = 'schema_version'",
        "was written by a newer version",
    );
    check_refused(
        "UPDATE afs_meta SET value = 99 WHERE key = 'version'",
        "was written by a newer version",
    );
    check_refused(
        "UPDATE fs_config SET value = printf('%.*c', 100000, '9') WHERE key = 'schema_version'",
        "schema version",
    );
}

#[test]
fn regression_a_setting_that_a_terminal_obeys_is_not_repeated() {
    // `exercise` looks at the sentence.
    check_refused(
        "UPDATE afs_meta SET value = char(27) || '[31m' WHERE key = 'version'",
        "its extension version is \"?[31m\"",
    );
    check_refused(
        "UPDATE fs_config SET value = char(10) WHERE key = 'chunk_size'",
        "its chunk size is \"?\"",
    );
}

#[test]
fn hiding_much_of_a_huge_base_file_is_refused() {
    let view = Overlay::open(MemoryStorage::new(65_536), base(), config()).unwrap();
    let name = Name::new(b"sparse").unwrap();
    let file = view.lookup(Ino::ROOT, &name).unwrap();
    let punch = |at, len| view.fallocate(file.ino, Fallocate::PunchHole, at, len, Times::Now);
    assert_eq!(punch(0, file.size / 2), Err(FsError::NotSupported));
    assert_eq!(view.getattr(file.ino).unwrap().mtime, file.mtime);
    // What reaches the end stores nothing, a little is stored.
    punch(1 << 39, 1 << 39).unwrap();
    punch(1 << 30, 1 << 20).unwrap();
    assert_eq!(view.read(file.ino, 1 << 30, 3).unwrap(), [0, 0, 0]);
}
