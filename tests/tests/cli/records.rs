//! Key-values, tool calls, and what is said of databases that are not sound.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use super::{change, check, create, demo, json_of};

#[test]
fn key_values() {
    let world = demo();
    check(
        &world,
        &[
            "kv",
            "set",
            "demo",
            "user:1",
            "{\"n\": 12345678901234567890}",
        ],
        0,
        "",
        "",
    );
    check(&world, &["kv", "set", "demo", "user:2", "-5"], 0, "", "");
    check(
        &world,
        &["kv", "get", "demo", "user:1"],
        0,
        "{\"n\": 12345678901234567890}\n",
        "",
    );
    let piped = world
        .agentfs(["kv", "set", "demo", "piped", "-"])
        .stdin("[\n1]\n")
        .finish();
    let _ = piped.ok();
    check(
        &world,
        &["kv", "list", "demo"],
        0,
        "piped\t[ 1]\nuser:1\t{\"n\": 12345678901234567890}\nuser:2\t-5\n",
        "",
    );
    check(
        &world,
        &["kv", "list", "demo", "user:2"],
        0,
        "user:2\t-5\n",
        "",
    );
    let rows = json_of(&world.agentfs_out(["kv", "list", "demo", "--json", "user:1"]));
    assert_eq!(rows[0]["value"]["n"], json!(12_345_678_901_234_567_890_u64));
    assert!(
        rows[0]["created_at"].as_i64() > Some(1_700_000_000),
        "{rows}"
    );
    check(&world, &["kv", "delete", "demo", "user:2"], 0, "", "");
    check(
        &world,
        &["kv", "delete", "demo", "user:2"],
        1,
        "",
        "agentfs: there is no key user:2\n",
    );
    let done = world.agentfs(["kv", "set", "demo", "k", "plain"]).finish();
    assert_eq!(done.code(), 1);
    assert!(
        done.err().contains("is not valid JSON") && done.err().contains("quotes"),
        "{}",
        done.err()
    );
    let done = world.agentfs(["kv", "set", "demo", "", "1"]).finish();
    assert!(done.err().contains("must not be empty"), "{}", done.err());
}

#[test]
fn tool_calls() {
    let world = demo();
    let record = |args: &[&str]| {
        let mut all = vec!["tool", "record", "demo"];
        all.extend(args);
        world.agentfs(all).finish()
    };
    let times = [
        "--started",
        "1700000000",
        "--completed",
        "2023-11-14T22:13:21.5Z",
    ];
    let mut first = vec!["grep", "--params", "{\"q\": 1}", "--result", "[]"];
    first.extend(times);
    assert_eq!(record(&first).ok().out(), "1\n");
    assert_eq!(record(&["edit", "--error", "no\nway"]).ok().out(), "2\n");
    assert_eq!(record(&["grep"]).ok().out(), "3\n");
    for (bad, why) in [
        (&["t", "--params", "x"][..], "parameters are not valid JSON"),
        (&["t", "--started", "noon"], "is not a time"),
        (
            &["t", "--started", "20", "--completed", "10"],
            "cannot have completed before",
        ),
        (&["", "--result", "1"], "must not be empty"),
    ] {
        let done = record(bad);
        assert!(
            done.code() == 1 && done.err().contains(why),
            "{bad:?}: {}",
            done.err()
        );
    }
    assert_eq!(record(&["t", "--result", "1", "--error", "x"]).code(), 2);

    let table = world
        .agentfs(["timeline", "demo"])
        .env("TZ", "UTC")
        .finish()
        .ok()
        .out();
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(lines[0], ["ID", "TOOL", "STATUS", "DURATION", "STARTED"]);
    assert_eq!(lines[1][..4], ["3", "grep", "pending", "-"]);
    assert_eq!(lines[2][..4], ["2", "edit", "error", "0ms"]);
    assert_eq!(
        lines[3],
        ["1", "grep", "success", "1.5s", "2023-11-14", "22:13:20"]
    );
    let ids = |args: &[&str]| -> Vec<i64> {
        let mut all = vec!["timeline", "demo", "--format", "json"];
        all.extend(args);
        let rows = json_of(&world.agentfs_out(all));
        rows.as_array()
            .unwrap()
            .iter()
            .map(|row| row["id"].as_i64().unwrap())
            .collect()
    };
    assert_eq!(ids(&[]), [3, 2, 1]);
    assert_eq!(ids(&["--limit", "1"]), [3]);
    assert_eq!(ids(&["--filter", "grep"]), [3, 1]);
    assert_eq!(ids(&["--filter", "grep", "--status", "success"]), [1]);
    let rows = json_of(&world.agentfs_out(["timeline", "demo", "--format", "json"]));
    assert_eq!(
        rows[2],
        json!({
            "id": 1, "name": "grep", "parameters": {"q": 1}, "result": [], "error": null,
            "status": "success", "started_at": 1_700_000_000, "completed_at": 1_700_000_001,
            "duration_ms": 1500,
        })
    );
}

#[test]
#[cfg_attr(missing_sqlite3, ignore = "skipped: sqlite3 is not installed")]
fn check_names_each_violation() {
    let world = demo();
    change(&world, "demo", |view| create(view, b"new", b"content"));
    let sql = "UPDATE fs_inode SET size = 3 WHERE ino >= 1 << 48;
               INSERT INTO fs_dentry (name, parent_ino, ino) VALUES ('lost', 1, 4711)";
    let _ = world
        .run("sqlite3")
        .arg(world.database("demo"))
        .arg(sql)
        .finish()
        .ok();
    let done = world.agentfs(["check", "demo"]).finish();
    assert_eq!(done.code(), 1);
    let out = done.out();
    assert!(
        out.contains("entry \"lost\" of directory 1 leads to inode 4711"),
        "{out}"
    );
    assert!(out.contains("holds 7 bytes instead of 3"), "{out}");
    let report = json_of(&world.agentfs(["check", "demo", "--json"]).finish());
    assert_eq!(report["ok"], json!(false));
    let codes: Vec<_> = report["violations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| &v["code"])
        .collect();
    assert!(codes.contains(&&json!("wrong-chunk-length")), "{report}");
    assert!(codes.contains(&&json!("dangling-entry")), "{report}");
}

#[test]
fn what_is_no_session_database_is_refused_and_not_changed() {
    let world = demo();
    let sqlite = b"SQLite format 3\0";
    let sound = fs::read(world.database("demo")).unwrap();
    let truncated = &sound[..sound.len() / 2];
    for (what, bytes) in [
        ("text", &b"not a database at all, but long enough to have a header of 100 bytes .............................."[..]),
        ("header", sqlite),
        ("truncated", truncated),
    ] {
        let path = world.database(what);
        fs::write(&path, bytes).unwrap();
        for args in [&["diff", what][..], &["kv", "set", what, "k", "1"], &["check", what]] {
            let done = world.agentfs(args).finish();
            assert_eq!((done.code(), done.out()), (1, String::new()), "{args:?} on {what}");
            let err = done.err();
            assert!(err.starts_with("agentfs: ") && err.lines().count() == 1, "{err}");
            assert!(err.contains(path.to_str().unwrap()), "names the file: {err}");
            assert!(!err.contains("Error {") && !err.contains("panicked"), "{err}");
        }
        assert_eq!(fs::read(&path).unwrap(), bytes, "{what} has been changed");
    }
    // A directory and a device are no databases either.
    fs::create_dir(world.database("dir")).unwrap();
    symlink("/dev/zero", world.database("zero")).unwrap();
    for what in ["dir", "zero"] {
        let done = world.agentfs(["diff", what]).finish();
        assert!(
            done.code() == 1 && done.err().lines().count() == 1,
            "{what}: {}",
            done.err()
        );
    }
}
