//! Sessions are read and written by others: the published Python SDK and plain
//! `sqlite3`, while the session is live and at rest; and theirs by us.
//!
//! The SDK is driven by small Python programs, which fail by assertion; nothing
//! here looks into a database by our own code.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use agentfs_tests::agentfs::workspace_root;
use agentfs_tests::{Finished, Run, Who, World, skip};
use serde_json::{Value, json};

/// What every program starts with: `agent` is the open database.
const PRELUDE: &str = r#"
import asyncio, hashlib, json, sys, time
from agentfs_sdk import AgentFS, AgentFSOptions

# The SDK's engine locks the whole file while it has it open, and refuses at once
# when somebody else is writing: it has to be asked again.
async def opened(seconds=10):
    end = time.monotonic() + seconds
    while True:
        try:
            return await AgentFS.open(AgentFSOptions(path=sys.argv[1]))
        except Exception as error:
            if "lock" not in str(error).lower() or time.monotonic() > end:
                raise
            await asyncio.sleep(0.01)

async def main():
    agent = await opened()
    try:
        await work(agent)
    finally:
        await agent.close()
"#;

/// Runs a Python program, the body of `async def work(agent)`, on a database.
fn sdk(world: &World, name: &str, body: &str) -> Finished {
    sdk_program(world, name, body).finish().ok()
}

fn sdk_program(world: &World, name: &str, body: &str) -> Run {
    let python = std::env::var_os("AGENTFS_SDK_PYTHON").map_or_else(
        || workspace_root().join("target/python/bin/python3"),
        PathBuf::from,
    );
    let program = format!("{PRELUDE}\nasync def work(agent):\n{body}\nasyncio.run(main())\n");
    world
        .run(python)
        .arg("-")
        .arg(world.database(name))
        .stdin(program)
}

fn sqlite3(world: &World, name: &str, sql: &str) -> String {
    let done = world
        .run("sqlite3")
        .args(["-cmd", ".timeout 10000"])
        .arg(world.database(name));
    done.arg(sql).finish().ok().out()
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn check_is_clean(world: &World, name: &str) {
    world.wait_for_end(name);
    let _ = world.agentfs_out(["check", name]);
    assert_eq!(sqlite3(world, name, "PRAGMA integrity_check").trim(), "ok");
}

macro_rules! world_or_skip {
    () => {
        match World::new(Who::current()) {
            Ok(world) => world,
            Err(why) => skip!("{why}"),
        }
    };
}

#[test]
#[cfg_attr(
    any(missing_fuse, missing_sdk),
    ignore = "skipped: /dev/fuse or the SDK is missing"
)]
fn the_sdk_reads_and_writes_a_session_at_rest() {
    let world = world_or_skip!();
    fs::write(world.project.join("base.txt"), "from the base\n").unwrap();
    fs::create_dir(world.project.join("dir")).unwrap();
    fs::write(world.project.join("dir/below"), "from the base\n").unwrap();
    world.own(&world.project);
    let script = "
        mkdir made
        echo from the session >made/file.txt
        echo bye >made/gone
        echo old >made/renamed
        ln -s file.txt made/link
        seq 100000 >made/big
        echo rewritten >base.txt
        sha256sum <made/big
    ";
    let hash = world.in_session("work", script).finish().ok().out();
    let _ = world.agentfs_out(["kv", "set", "work", "from:us", r#"{"a": [1, null, "ü"]}"#]);
    let recorded = [
        "tool",
        "record",
        "work",
        "search",
        "--params",
        r#"{"q": 1}"#,
        "--result",
        "[2]",
    ];
    let _ = world.agentfs_out(recorded);
    world.wait_for_end("work");

    let body = format!(
        r#"
    fs = agent.fs
    assert await fs.read_file("/made/file.txt") == "from the session\n"
    assert await fs.read_file("/base.txt") == "rewritten\n"
    big = await fs.read_file("/made/big", encoding=None)
    assert hashlib.sha256(big).hexdigest() == "{}"
    assert (await fs.stat("/made/big")).size == len(big)
    assert (await fs.stat("/made")).is_directory()
    assert await fs.readdir("/made") == ["big", "file.txt", "gone", "link", "renamed"]
    assert await agent.kv.get("from:us") == {{"a": [1, None, "ü"]}}
    calls = await agent.tools.get_by_name("search")
    assert [(c.parameters, c.result, c.status) for c in calls] == [({{"q": 1}}, [2], "success")], calls

    await fs.write_file("/made/file.txt", "changed by the SDK\n")
    await fs.write_file("/made/by-sdk", "born in the SDK\n")
    await fs.write_file("/sdk/deep/large", b"0123456789abcdef" * 20000)
    await fs.mkdir("/sdk/empty")
    await fs.write_file("/dir/beside", "merged with the base\n")
    await fs.unlink("/made/gone")
    await fs.rename("/made/renamed", "/sdk/moved")
    await agent.kv.set("from:sdk", {{"b": True}})
    call = await agent.tools.start("fetch", {{"url": "x"}})
    await agent.tools.error(call, "no network")
"#,
        hash.split_whitespace().next().unwrap()
    );
    let _ = sdk(&world, "work", &body);

    let script = "
        cat made/file.txt made/by-sdk made/link sdk/moved base.txt
        ls -m made sdk sdk/empty dir
        wc -c <sdk/deep/large
        cat dir/below dir/beside
        echo and back >>sdk/deep/large
        tail -c 9 sdk/deep/large
    ";
    let inside = world.in_session("work", script).finish().ok().out();
    let owed = "changed by the SDK\nborn in the SDK\nchanged by the SDK\nold\nrewritten\n\
        dir:\nbelow, beside\n\nmade:\nbig, by-sdk, file.txt, link\n\nsdk:\ndeep, empty, moved\n\nsdk/empty:\n\
        320000\nfrom the base\nmerged with the base\nand back\n";
    assert_eq!(inside, owed);
    assert_eq!(
        json_of(&world.agentfs_out(["kv", "get", "work", "from:sdk"]).out()),
        json!({"b": true})
    );
    let timeline = world
        .agentfs_out(["timeline", "work", "--format", "json"])
        .out();
    let names: Vec<Value> = json_of(&timeline)
        .as_array()
        .unwrap()
        .iter()
        .map(|call| call["name"].clone())
        .collect();
    assert_eq!(names, ["fetch", "search"], "newest first: {timeline}");
    check_is_clean(&world, "work");
}

#[test]
#[cfg_attr(
    any(missing_fuse, missing_sdk),
    ignore = "skipped: /dev/fuse or the SDK is missing"
)]
fn the_sdk_reads_and_writes_a_live_session() {
    let world = world_or_skip!();
    fs::write(world.project.join("base.txt"), "from the base\n").unwrap();
    world.own(&world.project);
    // The session writes all the while; a name it has already looked for in vain
    // appears, and a file it has read changes.
    let script = r#"
        echo early >early
        echo shared >shared
        cat shared
        number=0
        while ! test -s stop; do
            number=$((number + 1))
            echo $number >busy.$((number % 50))
        done
        cat stop shared
        test $number -gt 0 && echo busy
    "#;
    let running = world
        .in_session("work", script)
        .limit(Duration::from_secs(60))
        .start();
    let started = Instant::now();
    while !world.database("work").exists() {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "the session does not start"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    // Each look opens the database anew: while the SDK holds it, the session
    // cannot commit.
    let look = "    assert await agent.fs.read_file('/early') == 'early\\n'";
    while sdk_program(&world, "work", look).finish().code() != 0 {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "the SDK does not see what is new"
        );
    }
    let body = r#"
    fs = agent.fs
    for number in range(50):
        await agent.kv.set(f"key:{number}", number)
        assert await agent.kv.get(f"key:{number}") == number
    await agent.tools.record("live", int(time.time()), int(time.time()), {}, "done")
    await fs.write_file("/shared", "by the SDK\n")
    await fs.write_file("/stop", "stopped by the SDK\n")
"#;
    let _ = sdk_program(&world, "work", body)
        .limit(Duration::from_secs(60))
        .finish()
        .ok();
    let inside = running.wait().ok().out();
    assert_eq!(inside, "shared\nstopped by the SDK\nby the SDK\nbusy\n");
    let listed = world.agentfs_out(["kv", "list", "work"]).out();
    assert_eq!(
        listed.lines().filter(|line| line.contains("key:")).count(),
        50,
        "{listed}"
    );
    check_is_clean(&world, "work");
}

#[test]
#[cfg_attr(
    any(missing_fuse, missing_sdk),
    ignore = "skipped: /dev/fuse or the SDK is missing"
)]
fn we_read_and_write_a_database_the_sdk_made() {
    let world = world_or_skip!();
    fs::create_dir(world.project.join(".agentfs")).unwrap();
    fs::write(world.project.join("base.txt"), "from the base\n").unwrap();
    world.own(&world.project);
    let made = r#"
    await agent.fs.write_file("/hello.txt", "made by the SDK\n")
    await agent.fs.write_file("/a/b/large", b"x" * 10000)
    await agent.kv.set("k", [1, 2])
    call = await agent.tools.start("t")
    await agent.tools.success(call, {"r": 1})
"#;
    let _ = sdk(&world, "made", made);
    assert_eq!(
        world.agentfs_out(["fs", "cat", "made", "/hello.txt"]).out(),
        "made by the SDK\n"
    );
    let listed = world.agentfs_out(["fs", "ls", "made", "/a"]).out();
    assert!(listed.contains('b'), "{listed}");
    assert_eq!(
        json_of(&world.agentfs_out(["kv", "get", "made", "k"]).out()),
        json!([1, 2])
    );

    let script =
        "cat hello.txt base.txt; wc -c <a/b/large; echo more >>hello.txt; rm -r a; echo new >new";
    let inside = world.in_session("made", script).finish().ok().out();
    assert_eq!(inside, "made by the SDK\nfrom the base\n10000\n");
    check_is_clean(&world, "made");
    // Last, because the SDK leaves its -wal lying.
    let read_again = r#"
    assert await agent.fs.read_file("/hello.txt") == "made by the SDK\nmore\n"
    assert await agent.fs.read_file("/new") == "new\n"
    assert "a" not in await agent.fs.readdir("/")
    assert await agent.kv.get("k") == [1, 2]
"#;
    let _ = sdk(&world, "made", read_again);
}

#[test]
#[cfg_attr(
    any(missing_fuse, missing_sqlite3),
    ignore = "skipped: /dev/fuse or sqlite3 is missing"
)]
fn plain_sqlite3_reads_and_writes_a_session() {
    let world = world_or_skip!();
    fs::write(world.project.join("base.txt"), "from the base\n").unwrap();
    world.own(&world.project);
    let script = "mkdir -p d/e; printf hello >d/e/file; rm base.txt";
    let _ = world.in_session("work", script).finish().ok();
    world.wait_for_end("work");

    let found = sqlite3(
        &world,
        "work",
        "SELECT group_concat(CAST(data AS TEXT), '') FROM fs_data WHERE ino = (
             SELECT f.ino FROM fs_dentry d
             JOIN fs_dentry e ON e.parent_ino = d.ino AND e.name = 'e'
             JOIN fs_dentry f ON f.parent_ino = e.ino AND f.name = 'file'
             WHERE d.parent_ino = 1 AND d.name = 'd')",
    );
    assert_eq!(found.trim(), "hello");
    assert_eq!(
        sqlite3(&world, "work", "SELECT path, parent_path FROM fs_whiteout").trim(),
        "/base.txt|/"
    );

    let _ = sqlite3(
        &world,
        "work",
        "INSERT INTO kv_store(key, value) VALUES('by', '\"sqlite3\"');
         DELETE FROM fs_whiteout;
         UPDATE fs_dentry SET name = 'renamed' WHERE name = 'file'",
    );
    assert_eq!(
        world.agentfs_out(["kv", "get", "work", "by"]).out().trim(),
        "\"sqlite3\""
    );
    let inside = world
        .in_session("work", "cat base.txt; cat d/e/renamed")
        .finish()
        .ok()
        .out();
    assert_eq!(inside, "from the base\nhello");
    check_is_clean(&world, "work");
}
