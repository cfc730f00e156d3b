//! Hostile databases given to the commands, and to a session in which programs
//! walk, read, write and remove all there is.

use std::fs;
use std::time::Duration;

use agentfs_tests::{Finished, Who, World};
use rusqlite::Connection;

const LIMIT: Duration = Duration::from_secs(40);

/// Everything a program can do to a tree, as far as it lets itself be done to.
/// Ends with 0 whatever fails on the way.
const SCRIPT: &str = "
find . -maxdepth 20 2>/dev/null | head -2000 >/tmp/names
ls -laR . 2>&1 | head -2000 >/dev/null
head -2000 /tmp/names | while IFS= read -r name; do
    head -c 4096 \"$name\"; tail -c 4096 \"$name\"; stat \"$name\"; readlink \"$name\"
    getfattr -d -m - \"$name\"
done >/dev/null 2>&1
head -200 /tmp/names | while IFS= read -r name; do
    [ -f \"$name\" ] && printf x >>\"$name\"
    [ -d \"$name\" ] && mkdir \"$name/made\"
    ln \"$name\" linked; mv \"$name\" moved; mv moved \"$name\"; rm -f linked
done >/dev/null 2>&1
sync . >/dev/null 2>&1
rm -rf ./* >/dev/null 2>&1
echo done
";

/// A command that neither hung nor panicked: it did what it is for, or said in one
/// sentence why not.
fn check_command(done: &Finished, codes: &[i32]) {
    let said = done.err();
    assert!(codes.contains(&done.code()), "{done}");
    assert!(!said.contains("panicked"), "{done}");
    let obeyed = |c: char| c.is_control() && c != '\n' && c != '\t';
    assert!(!(said.clone() + &done.out()).contains(obeyed), "{done}");
    assert!(said.lines().count() <= 3 && said.len() < 2000, "{done}");
}

/// Gives a database on which `sql` was run to every command and to a session.
fn check(sql: &str) {
    let world = World::new(Who::current()).expect("the current user");
    fs::create_dir_all(world.project.join("dir/sub")).unwrap();
    fs::write(world.project.join("file"), "text\n").unwrap();
    fs::write(world.project.join("dir/a"), "a").unwrap();
    let _ = world
        .in_session("hostile", "echo new >new; echo more >>file; rm dir/a")
        .finish()
        .ok();
    world.wait_for_end("hostile");
    Connection::open(world.database("hostile"))
        .and_then(|conn| conn.execute_batch(sql))
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    for args in [
        &["check"][..],
        &["diff"],
        &["diff", "--json"],
        &["fs", "ls", "-R"],
        &["fs", "ls", "-R", "--json"],
        &["kv", "list"],
        &["kv", "list", "--json"],
        &["timeline"],
        &["timeline", "--format=json"],
    ] {
        let (verb, flags): (Vec<_>, Vec<_>) = args.iter().partition(|word| !word.starts_with('-'));
        let args = verb.into_iter().chain([&"hostile"]).chain(flags);
        check_command(&world.agentfs(args).limit(LIMIT).finish(), &[0, 1]);
    }
    let cat = world.agentfs(["fs", "cat", "hostile", "/new"]);
    check_command(&cat.limit(LIMIT).finish(), &[0, 1]);
    let done = world.in_session("hostile", SCRIPT).limit(LIMIT).finish();
    check_command(&done, &[0, 125]);
    // Served to the end, or refused: nothing between.
    assert_eq!(done.code() == 0, done.out() == "done\n", "{done}");
    for args in [
        &["kv", "set", "hostile", "k", "1"][..],
        &["check", "hostile"],
    ] {
        check_command(&world.agentfs(args).limit(LIMIT).finish(), &[0, 1]);
    }
    let base = fs::read_to_string(world.project.join("file")).unwrap();
    assert_eq!(base, "text\n", "the base changed");
}

const A: i64 = (1 << 48) + 5000;

fn inode(ino: i64, mode: i64, size: i64) -> String {
    format!(
        "INSERT INTO fs_inode (ino, mode, nlink, size, atime, mtime, ctime) \
         VALUES ({ino}, {mode}, 1, {size}, 0, 0, 0);"
    )
}

fn entry(parent: i64, name: &str, ino: i64) -> String {
    format!("INSERT INTO fs_dentry (name, parent_ino, ino) VALUES ({name}, {parent}, {ino});")
}

#[test]
#[cfg_attr(missing_fuse, ignore = "skipped: no /dev/fuse")]
fn commands_on_cycles_of_directories() {
    let dir = 0o040_755;
    let made = inode(A, dir, 0) + &inode(A + 1, dir, 0) + &inode(A + 2, dir, 0);
    check(
        &(made
            + &entry(1, "'x'", A)
            + &entry(A, "'y'", A + 1)
            + &entry(A + 1, "'z'", A)
            + &entry(A, "'self'", A)
            + &entry(A, "'root'", 1)
            + &entry(A + 2, "'apart'", A + 2)),
    );
}

#[test]
#[cfg_attr(missing_fuse, ignore = "skipped: no /dev/fuse")]
fn commands_on_entries_that_lead_nowhere_and_names_that_are_none() {
    check(&entry(1, "'lost'", 7_777_777));
    check(&(inode(A, 0o100_644, 0) + &entry(1, "'a/b'", A) + &entry(1, "'ok'", A)));
    check(&(inode(A, 0o100_644, 0) + &entry(1, "x'fffe'", A)));
    check(&(inode(A, 0o040_755, 0) + &entry(1, "'d'", A) + &entry(A, "CAST(x'6100' AS TEXT)", A)));
}

#[test]
#[cfg_attr(missing_fuse, ignore = "skipped: no /dev/fuse")]
fn commands_on_sizes_and_chunks_that_cannot_be() {
    let data = |value: &str| {
        format!("INSERT INTO fs_data (ino, chunk_index, data) VALUES ({A}, 1, {value});")
    };
    let file = |size| inode(A, 0o100_644, size) + &entry(1, "'evil'", A);
    check(&file(-1));
    // A file of 8 EiB can be listed and read in part; nobody reads all of it.
    check(&(file(i64::MAX) + &data("x'01'")));
    check(&(file(100_000) + &data("zeroblob(70000)")));
    check(&(file(100_000) + &data("'text'")));
}

#[test]
#[cfg_attr(missing_fuse, ignore = "skipped: no /dev/fuse")]
fn commands_on_modes_numbers_and_times_that_cannot_be() {
    check(&(inode(A, 0o200_000, 0) + &entry(1, "'x'", A)));
    check(&(inode(-1, 0o100_644, 0) + &entry(1, "'x'", -1)));
    check(&(inode(i64::MAX, 0o100_644, 0) + &entry(1, "'x'", i64::MAX)));
    check(
        "UPDATE fs_inode SET atime = -9223372036854775808, mtime = 9223372036854775807, \
         ctime = -67768040609740800, ctime_nsec = -1; \
         INSERT INTO tool_calls (name, started_at, completed_at, duration_ms) VALUES \
         ('x', 9223372036854775807, -9223372036854775808, -9223372036854775808)",
    );
}

#[test]
#[cfg_attr(missing_fuse, ignore = "skipped: no /dev/fuse")]
fn commands_on_a_base_that_cannot_be() {
    for path in [
        "'relative'",
        "''",
        "'/nowhere'",
        "CAST(x'2f610062' AS TEXT)",
        "zeroblob(10)",
        "'/proc'",
    ] {
        check(&format!(
            "INSERT OR REPLACE INTO fs_overlay_config VALUES ('base_path', {path})"
        ));
    }
}

#[test]
#[cfg_attr(missing_fuse, ignore = "skipped: no /dev/fuse")]
fn commands_on_records_that_no_program_would_write() {
    check("INSERT INTO kv_store (key, value) VALUES ('', '1'), ('n', CAST(x'ff' AS TEXT))");
    check(
        "INSERT INTO kv_store (key, value) VALUES ('', 'no json'), (char(27) || '[31m', '{'), \
         ('esc', char(27) || ']0;x' || char(7)); \
         INSERT INTO tool_calls (name, parameters, status, started_at) VALUES \
         (char(27) || ']0;x', '{', 'unheard of', 0), (printf('%.*c', 100000, 'x'), '1', '', 0)",
    );
}

#[test]
#[cfg_attr(missing_fuse, ignore = "skipped: no /dev/fuse")]
fn commands_on_tables_that_refuse_every_row() {
    check(
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, \
         'name TEXT NOT NULL', 'name TEXT NOT NULL CHECK (length(name) > 1000)') \
         WHERE name = 'fs_dentry'",
    );
    check("UPDATE sqlite_sequence SET seq = 4611686018427387903 WHERE name = 'fs_inode'");
}
