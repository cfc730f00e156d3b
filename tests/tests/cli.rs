//! The command line on real databases: what each command prints, refuses and
//! exits with. Live sessions are the subject of other modules.

mod export;
mod records;
mod view;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use agentfs_core::overlay::NewNode;
use agentfs_core::types::{Clock, FileKind};
use agentfs_core::{Ino, Name, Overlay, OverlayConfig, Owner, Timestamp};
use agentfs_hostdir::HostDir;
use agentfs_sqlite::{Database, OpenOptions, SqliteStorage, Volume};
use agentfs_tests::{Finished, Who, World, skip};
use serde_json::Value;

struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        Timestamp::new(1_800_000_000, 0)
    }
}

type View = Overlay<SqliteStorage, HostDir>;

fn world() -> World {
    World::new(Who::current()).expect("the current user")
}

/// A world with a small project and an empty session `demo`.
fn demo() -> World {
    let world = world();
    fs::write(world.project.join("file"), "text\n").unwrap();
    fs::create_dir_all(world.project.join("dir/sub")).unwrap();
    fs::write(world.project.join("dir/a"), "a").unwrap();
    fs::write(world.project.join("dir/sub/b"), "b").unwrap();
    symlink("file", world.project.join("link")).unwrap();
    let _ = world.agentfs_out(["init", "demo"]);
    world
}

/// Changes the view of a session, as its server would.
fn change(world: &World, name: &str, act: impl FnOnce(&View)) {
    let database = Database::open(&world.database(name), &OpenOptions::new()).unwrap();
    let config = OverlayConfig {
        clock: Arc::new(Fixed),
        hidden: vec![Name::new(b".agentfs").unwrap()],
        root_owner: Owner::default(),
    };
    let base = HostDir::open(&world.project).unwrap();
    let view = Overlay::open(database.volume(Volume::View), base, config).unwrap();
    act(&view);
    drop(view);
    database.close().unwrap();
}

fn name(bytes: &[u8]) -> Name {
    Name::new(bytes).unwrap()
}

fn create(view: &View, bytes: &[u8], content: &[u8]) {
    let node = NewNode {
        kind: FileKind::Regular,
        perm: 0o644,
        rdev: 0,
    };
    let owner = Owner { uid: 0, gid: 0 };
    let ino = view
        .mknod(Ino::ROOT, &name(bytes), node, owner)
        .unwrap()
        .ino;
    view.write(ino, 0, content, false).unwrap();
}

/// Runs a command and compares its exit code and both of its outputs; of the
/// latter the project's path is replaced by `PROJECT`.
fn check(world: &World, args: &[&str], code: i32, out: &str, err: &str) {
    let done = world.agentfs(args).finish();
    let project = world.project.to_str().unwrap();
    let plain = |text: String| text.replace(project, "PROJECT");
    assert_eq!(
        (done.code(), plain(done.out()), plain(done.err())),
        (code, out.to_owned(), err.to_owned()),
        "agentfs {args:?}"
    );
}

fn json_of(done: &Finished) -> Value {
    serde_json::from_str(&done.out()).unwrap_or_else(|error| panic!("{error}: {}", done.out()))
}

#[test]
fn init_makes_one_file_in_a_private_directory() {
    let world = world();
    check(
        &world,
        &["init", "demo"],
        0,
        "PROJECT/.agentfs/demo.db\n",
        "",
    );
    let dir = world.project.join(".agentfs");
    assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
    assert_eq!(fs::read_to_string(dir.join(".gitignore")).unwrap(), "*\n");
    let mut names: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, [".gitignore", "demo.db"]);
    check(
        &world,
        &["init", "demo"],
        1,
        "",
        "agentfs: session demo exists (PROJECT/.agentfs/demo.db): choose another name, or replace it with --force\n",
    );
    let _ = world.agentfs_out(["kv", "set", "demo", "k", "1"]);
    check(
        &world,
        &["init", "demo", "--force"],
        0,
        "PROJECT/.agentfs/demo.db\n",
        "",
    );
    check(
        &world,
        &["kv", "get", "demo", "k"],
        1,
        "",
        "agentfs: there is no key k\n",
    );
    check(
        &world,
        &["check", "demo"],
        0,
        "",
        "agentfs: PROJECT/.agentfs/demo.db is sound\n",
    );
    // A fresh name is a readable one, and is printed.
    let out = world.agentfs_out(["init"]).out();
    let fresh = Path::new(out.trim()).file_stem().unwrap().to_str().unwrap();
    assert!(fresh.split('-').count() >= 2 && fresh.len() < 60, "{fresh}");
}

#[test]
fn names_are_refused_with_a_sentence() {
    let world = demo();
    for bad in [
        "",
        ".",
        "..",
        "a/b",
        "../demo",
        "a b",
        "é",
        "a\x1b[31m",
        "a:b",
    ] {
        let done = world.agentfs(["diff", bad]).finish();
        assert_eq!(done.code(), 1, "{bad:?}");
        let err = done.err();
        assert!(
            err.contains("is not a session name: use letters, digits"),
            "{bad:?}: {err}"
        );
        assert!(!err.trim_end().contains(char::is_control), "{err:?}");
        let done = world.agentfs(["run", "--session", bad, "true"]).finish();
        assert_eq!(
            (done.code(), done.out()),
            (125, String::new()),
            "run --session {bad:?}"
        );
    }
    let long = "x".repeat(201);
    assert_eq!(world.agentfs(["init", &long]).finish().code(), 1);
    check(
        &world,
        &["diff", "other"],
        1,
        "",
        "agentfs: there is no session other in .agentfs of PROJECT or of a directory above it; 'agentfs run --session other' starts it\n",
    );
    let done = world.agentfs(["diff", "missing.db"]).finish();
    assert!(
        done.err()
            .starts_with("agentfs: there is no session database /"),
        "{}",
        done.err()
    );
}

#[test]
fn usage_is_exit_code_2() {
    let world = world();
    for args in [
        &["frobnicate"][..],
        &["diff"],
        &["kv", "get", "x"],
        &["timeline", "x", "--status", "done"],
    ] {
        let done = world.agentfs(args).finish();
        assert_eq!((done.code(), done.out()), (2, String::new()), "{args:?}");
    }
    let help = world.agentfs_out(["--help"]).out();
    for word in ["run", "diff", "Exit codes:", "125"] {
        assert!(help.contains(word), "{word} in {help}");
    }
    assert!(!help.contains("__server"), "{help}");
}

#[test]
fn a_session_is_found_from_beneath_by_path_and_after_a_move() {
    let world = demo();
    change(&world, "demo", |view| create(view, b"new", b""));
    let sub = world.project.join("dir/sub");
    let diff = |dir: &Path, session: &str| world.agentfs(["diff", session]).dir(dir).finish();
    assert_eq!(diff(&sub, "demo").ok().out(), "A f /new\n");
    assert_eq!(
        diff(&sub, "../../.agentfs/demo.db").ok().out(),
        "A f /new\n"
    );
    assert_eq!(
        diff(Path::new("/"), world.database("demo").to_str().unwrap())
            .ok()
            .out(),
        "A f /new\n"
    );
    // The nearest one wins.
    let _ = world.agentfs(["init", "demo"]).dir(&sub).finish().ok();
    assert_eq!(diff(&sub, "demo").ok().out(), "");
    fs::remove_dir_all(sub.join(".agentfs")).unwrap();
    let moved = world.dir.join("moved");
    fs::rename(&world.project, &moved).unwrap();
    assert_eq!(diff(&moved.join("dir"), "demo").ok().out(), "A f /new\n");
    // Copied, it is a second session.
    fs::copy(moved.join(".agentfs/demo.db"), moved.join(".agentfs/b.db")).unwrap();
    assert_eq!(diff(&moved, "b").ok().out(), "A f /new\n");
}

#[test]
fn another_base_is_recorded() {
    let world = demo();
    let other = world.dir.join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("there"), "x").unwrap();
    let _ = world.agentfs_out(["init", "far", "--base", "../other"]);
    check(&world, &["fs", "ls", "far"], 0, "f there\n", "");
    fs::rename(&other, world.dir.join("gone")).unwrap();
    let done = world.agentfs(["fs", "ls", "far"]).finish();
    assert_eq!((done.code(), done.out()), (0, String::new()));
    assert!(
        done.err()
            .contains("is not there: only what the session itself holds"),
        "{}",
        done.err()
    );
    let done = world.agentfs(["diff", "far"]).finish();
    assert_eq!((done.code(), done.out()), (1, String::new()));
    assert!(done.err().contains("cannot be opened"), "{}", done.err());
    let done = world.agentfs(["init", "x", "--base", "nowhere"]).finish();
    assert!(
        done.code() == 1 && done.err().contains("nowhere cannot be used"),
        "{}",
        done.err()
    );
}

#[test]
#[cfg_attr(
    missing_root,
    ignore = "skipped: only root can give a directory to a stranger"
)]
fn a_strangers_directory_above_is_passed_over() {
    let world = match World::new(Who::Ordinary) {
        Ok(world) => world,
        Err(why) => skip!("{why}"),
    };
    // As in a shared directory: someone else made .agentfs in it.
    let shared = world.dir.join("shared");
    let mine = shared.join("mine");
    fs::create_dir_all(shared.join(".agentfs")).unwrap();
    fs::create_dir(&mine).unwrap();
    world.own(&mine);
    fs::set_permissions(shared.join(".agentfs"), fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::chown(shared.join(".agentfs"), Some(4711), Some(4711)).unwrap();
    fs::write(shared.join(".agentfs/trap.db"), "").unwrap();
    let done = world.agentfs(["diff", "trap"]).dir(&mine).finish();
    assert!(
        done.err().contains("there is no session trap"),
        "{}",
        done.err()
    );
}

#[test]
fn nobody_is_in() {
    let world = world();
    let done = world.agentfs_out(["ps", "--json"]);
    assert!(json_of(&done).is_array());
    let _ = demo();
    let world = demo();
    let done = world.agentfs(["stop", "demo"]).finish();
    assert!(
        done.code() == 1 && done.err().contains("no session is live"),
        "{}",
        done.err()
    );
}
