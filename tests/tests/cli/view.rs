//! What a session changed and holds, and its view on a mount.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use agentfs_core::Ino;
use agentfs_core::overlay::RenameMode;
use agentfs_sqlite::{Database, OpenOptions};
use agentfs_tests::skip;
use serde_json::json;

use super::{change, check, create, demo, json_of, name};

#[test]
fn diff_prints_lines_and_json() {
    let world = demo();
    change(&world, "demo", |view| {
        create(view, b"new", b"");
        create(view, b"odd\n\xff", b"");
        let (root, replace) = (Ino::ROOT, RenameMode::Replace);
        view.rename(root, &name(b"file"), root, &name(b"moved"), replace)
            .unwrap();
        view.unlink(root, &name(b"link")).unwrap();
        let dir = view.lookup(root, &name(b"dir")).unwrap().ino;
        let file = view.lookup(dir, &name(b"a")).unwrap().ino;
        view.write(file, 0, b"A", false).unwrap();
    });
    check(
        &world,
        &["diff", "demo"],
        0,
        "M f /dir/a\nD l /link\nR f /moved\nA f /new\nA f \"/odd\\n\\377\"\n",
        "",
    );
    assert_eq!(
        json_of(&world.agentfs_out(["diff", "demo", "--json"])),
        json!([
            {"change": "M", "kind": "f", "path": "/dir/a"},
            {"change": "D", "kind": "l", "path": "/link"},
            {"change": "R", "kind": "f", "path": "/moved", "old_path": "/file", "modified": false},
            {"change": "A", "kind": "f", "path": "/new"},
            {"change": "A", "kind": "f", "path": "/odd\n\u{fffd}", "path_hex": "2f6f64640aff"},
        ])
    );
    // The base is as it was, and one file is left.
    assert_eq!(
        fs::read_to_string(world.project.join("dir/a")).unwrap(),
        "a"
    );
    assert!(!world.project.join(".agentfs/demo.db-wal").exists());
}

#[test]
fn fs_shows_the_merged_view_in_either_order() {
    let world = demo();
    change(&world, "demo", |view| {
        create(view, b"new", b"bytes\xff\0");
        view.unlink(Ino::ROOT, &name(b"file")).unwrap();
        create(view, b"file", b"other\n");
    });
    let top = "d dir\nf file\nl link\nf new\n";
    check(&world, &["fs", "ls", "demo"], 0, top, "");
    check(&world, &["fs", "demo", "ls"], 0, top, "");
    check(&world, &["fs", "ls", "demo", "dir/"], 0, "f a\nd sub\n", "");
    check(&world, &["fs", "ls", "demo", "/dir/a"], 0, "f a\n", "");
    check(
        &world,
        &["fs", "ls", "-R", "demo"],
        0,
        "d dir\nf dir/a\nd dir/sub\nf dir/sub/b\nf file\nl link\nf new\n",
        "",
    );
    check(&world, &["fs", "cat", "demo", "/dir/sub/b"], 0, "b", "");
    check(&world, &["fs", "demo", "cat", "dir/../dir/./a"], 0, "a", "");
    check(&world, &["fs", "cat", "demo", "link"], 0, "other\n", "");
    let done = world.agentfs_out(["fs", "cat", "demo", "new"]);
    assert_eq!(done.stdout, b"bytes\xff\0");
    let listed = json_of(&world.agentfs_out(["fs", "ls", "demo", "new", "--json"]));
    assert_eq!(listed[0]["size"], json!(7));
    assert_eq!(listed[0]["mode"], json!("0644"));
    for (path, why) in [
        ("nothing", "nothing: no such file or directory"),
        ("dir", "dir is a directory"),
        ("new/x", "new/x: not a directory"),
        (".agentfs", ".agentfs: no such file or directory"),
        (
            ".agentfs/demo.db",
            ".agentfs/demo.db: no such file or directory",
        ),
    ] {
        check(
            &world,
            &["fs", "cat", "demo", path],
            1,
            "",
            &format!("agentfs: {why}\n"),
        );
    }
    let done = world.agentfs(["fs", "chmod", "demo"]).finish();
    assert!(
        done.err().contains("'agentfs fs ls NAME'"),
        "{}",
        done.err()
    );
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let world = demo();
    change(&world, "demo", |view| {
        for number in 0..3000 {
            create(
                view,
                format!("a-file-with-a-long-name-{number}").as_bytes(),
                b"",
            );
        }
    });
    let done = world
        .run("bash")
        .args(["-c", "set -o pipefail; \"$0\" diff demo | head -n 1"])
        .arg(agentfs_tests::agentfs_binary())
        .finish();
    assert_eq!(done.out(), "A f /a-file-with-a-long-name-0\n");
    assert_eq!((done.code(), done.err()), (141, String::new()));
}

#[test]
#[cfg_attr(missing_fuse, ignore = "skipped: /dev/fuse is missing")]
fn mounts() {
    if !rustix::process::geteuid().is_root() {
        skip!("mounting without the sandbox needs root or fusermount3");
    }
    let world = demo();
    let mnt = world.dir.join("a mount point");
    fs::create_dir(&mnt).unwrap();
    let at = mnt.to_str().unwrap();
    check(&world, &["mount", "demo", at], 0, "", "");
    assert_eq!(fs::read_to_string(mnt.join("file")).unwrap(), "text\n");
    assert!(!mnt.join(".agentfs").exists());
    fs::write(mnt.join("new"), "data").unwrap();
    let done = world.agentfs(["mount", "demo", at]).finish();
    assert!(
        done.code() == 1 && done.err().contains("already"),
        "{}",
        done.err()
    );
    let elsewhere = world.dir.join("b");
    fs::create_dir(&elsewhere).unwrap();
    let done = world
        .agentfs([Path::new("mount"), Path::new("demo"), &elsewhere])
        .finish();
    assert!(
        done.code() == 1 && done.err().contains("is in use"),
        "{}",
        done.err()
    );
    check(&world, &["diff", "demo"], 0, "A f /new\n", "");
    check(&world, &["kv", "set", "demo", "k", "1"], 0, "", "");
    check(&world, &["kv", "get", "demo", "k"], 0, "1\n", "");
    let done = world.agentfs(["init", "demo", "--force"]).finish();
    assert!(
        done.code() == 1 && done.err().contains("is running or mounted"),
        "{}",
        done.err()
    );
    check(&world, &["umount", at], 0, "", "");
    assert!(!mnt.join("new").exists());
    assert!(!world.project.join("new").exists());
    world.wait_for_end("demo");
    check(&world, &["diff", "demo"], 0, "A f /new\n", "");
    let done = world.agentfs(["umount", at]).finish();
    assert!(
        done.code() == 1 && done.err().contains("nothing of agentfs"),
        "{}",
        done.err()
    );
    let project = world.project.to_str().unwrap();
    let done = world.agentfs(["mount", "demo", project]).finish();
    assert!(
        done.code() == 1 && done.err().contains("would cover"),
        "{}",
        done.err()
    );
}

#[test]
#[cfg_attr(missing_sdk, ignore = "skipped: the Python SDK is missing")]
fn databases_made_by_the_sdk() {
    let world = demo();
    let program = r#"
import asyncio, sys
from agentfs_sdk import AgentFS, AgentFSOptions
async def main():
    agent = await AgentFS.open(AgentFSOptions(path=sys.argv[1]))
    await agent.fs.write_file("/made/by/sdk.txt", "hello")
    await agent.fs.write_file("/dir/a", "changed")
    await agent.kv.set("key", {"n": 1})
    await agent.tools.record("grep", 1700000000, 1700000002, {"q": 1}, [1, 2])
    await agent.close()
asyncio.run(main())
"#;
    let python = std::env::var_os("AGENTFS_SDK_PYTHON").unwrap_or_else(|| {
        agentfs_tests::agentfs::workspace_root()
            .join("target/python/bin/python3")
            .into()
    });
    let _ = world
        .run(python)
        .arg("-")
        .arg(world.database("sdk"))
        .stdin(program)
        .finish()
        .ok();
    assert!(
        world
            .database("sdk")
            .as_os_str()
            .as_bytes()
            .ends_with(b".agentfs/sdk.db")
    );
    check(
        &world,
        &["diff", "sdk"],
        0,
        "M f /dir/a\nA d /made\nA d /made/by\nA f /made/by/sdk.txt\n",
        "",
    );
    check(
        &world,
        &["fs", "cat", "sdk", "/made/by/sdk.txt"],
        0,
        "hello",
        "",
    );
    check(&world, &["fs", "ls", "sdk", "/dir"], 0, "f a\nd sub\n", "");
    check(&world, &["kv", "get", "sdk", "key"], 0, "{\"n\": 1}\n", "");
    let rows = json_of(&world.agentfs_out(["timeline", "sdk", "--format", "json"]));
    assert_eq!(rows[0]["duration_ms"], json!(2000));
    assert_eq!(rows[0]["result"], json!([1, 2]));
    let done = world.agentfs(["check", "sdk"]).finish();
    assert_eq!(
        (done.code(), done.out()),
        (0, String::new()),
        "{}",
        done.err()
    );
}

/// Found by simulated power failures: a session whose server died as it started has a
/// database without a root.
#[test]
fn regression_a_session_that_never_got_to_run_shows_its_base() {
    let world = demo();
    let options = OpenOptions::new().create(true);
    let database = Database::open(&world.database("new"), &options).unwrap();
    database.close().unwrap();
    drop(database);
    let listed = "d dir\nf file\nl link\n";
    check(&world, &["fs", "ls", "new"], 0, listed, "");
    check(&world, &["fs", "ls", "demo"], 0, listed, "");
    check(&world, &["diff", "new"], 0, "", "");
}
