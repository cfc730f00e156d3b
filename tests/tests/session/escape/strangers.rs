//! Another user of the machine: does not get into a session, at what it holds or
//! at its processes. The owner does everything of it, outside.

use std::fs;
use std::path::PathBuf;

use agentfs_tests::Finished;
use agentfs_tests::user::Who;
use agentfs_tests::world::World;

use super::super::{eventually, live, server_pid};
use super::{ATTEMPTS, said, said_count};

/// A user and group that nobody has.
const STRANGER: u32 = 64_123;

/// Name, statements, and whether the owner can do it.
const ATTEMPTS_OF_STRANGERS: &[(&str, &str, bool)] = &[
    (
        "list the databases",
        "os.listdir(E['BASE'] + '/.agentfs')",
        true,
    ),
    (
        "read a database",
        "open(E['DATABASE'], 'rb').read(16)[0]",
        true,
    ),
    (
        "read one in an open directory",
        "open(E['OPEN_DATABASE'], 'rb').read(16)[0]",
        true,
    ),
    (
        "lock it",
        "fcntl.flock(os.open(E['OPEN_DATABASE'], os.O_RDONLY), fcntl.LOCK_SH | fcntl.LOCK_NB)",
        false,
    ),
    (
        "list the runtime directory",
        "os.listdir(os.path.dirname(E['LOG']))",
        true,
    ),
    ("read the log", "open(E['LOG']).read()", true),
    (
        "connect to the server",
        "connect(os.path.dirname(E['LOG']) + '/socket')",
        true,
    ),
    (
        "list the temporary directories",
        "os.listdir('/tmp/agentfs-' + E['OWNER'])",
        true,
    ),
    (
        "read a temporary file",
        "open(glob.glob('/tmp/agentfs-' + E['OWNER'] + '/tmp-*/private')[0]).read()",
        true,
    ),
    ("signal the server", "os.kill(int(E['SERVER']), 0)", true),
    ("signal the run", "os.kill(int(E['RUN']), 0)", true),
    (
        "signal a program inside",
        "os.kill(int(E['INSIDE']), 0)",
        true,
    ),
    (
        "look through the view",
        "os.listdir('/proc/' + E['INSIDE'] + '/cwd/')",
        false,
    ),
    (
        "look through its root",
        "os.listdir('/proc/' + E['INSIDE'] + '/root/')",
        true,
    ),
    (
        "look at what it has open",
        "os.listdir('/proc/' + E['INSIDE'] + '/fd')",
        true,
    ),
    (
        "read its memory",
        "open('/proc/' + E['INSIDE'] + '/maps').read()[0]",
        false,
    ),
    (
        "read the server's",
        "open('/proc/' + E['SERVER'] + '/maps').read()[0]",
        true,
    ),
    (
        "trace the server",
        "raw(101, 0x4206, int(E['SERVER']), 0, 0)",
        true,
    ),
    (
        "enter the namespace",
        "raw(308, os.open('/proc/' + E['INSIDE'] + '/ns/user', os.O_RDONLY), 0)",
        true,
    ),
    (
        "see the session",
        "sh('\"$AGENTFS\" ps --json | grep -q server_pid')",
        true,
    ),
    (
        "see what it changed",
        "sh('\"$AGENTFS\" diff \"$DATABASE\" && \"$AGENTFS\" diff \"$OPEN_DATABASE\"')",
        true,
    ),
    (
        "join it",
        "sh('cd \"$BASE\" && \"$AGENTFS\" run --session \"$DATABASE\" -- true </dev/null')",
        true,
    ),
    ("stop it", "sh('\"$AGENTFS\" stop \"$DATABASE\"')", true),
];

#[test]
#[cfg(target_arch = "x86_64")]
#[cfg_attr(missing_root, ignore = "skipped: not root")]
#[cfg_attr(missing_python3, ignore = "skipped: python3 is not installed")]
fn another_user_gets_nothing_of_a_session() {
    super::super::as_everyone(|world| {
        let open = world.dir.join("open");
        fs::create_dir(&open).expect("a directory");
        world.own(&open);
        let open = open.join("open.db");
        let made = world
            .agentfs(["run", "--base", ".", "--session"])
            .arg(&open)
            .args(["--", "sh", "-c", "umask 077; echo private > private"])
            .finish();
        assert_eq!(made.code(), 0, "{made}");
        let script = "umask 077; echo private > private; cp private /tmp; echo up; exec sleep 600";
        let mut running = world.in_session("s", script).start();
        eventually("it is up", || running.printed().0 == b"up\n");
        let session = live(world, "s").expect("a live session");
        let log = PathBuf::from(session["log"].as_str().expect("a log"));
        let run = session["terminals"][0]["pid"].to_string();
        let attempts = |owner: bool| {
            let chosen = ATTEMPTS_OF_STRANGERS.iter().filter(|a| a.2 || !owner);
            chosen.map(|a| [a.0, a.1]).collect::<Vec<_>>()
        };
        let made_by = |(uid, gid): (u32, u32), owner: bool| -> Finished {
            let list = serde_json::to_string(&attempts(owner)).expect("JSON");
            world
                .run("python3")
                .args(["-c", ATTEMPTS])
                .dir("/".as_ref())
                .env("ATTEMPTS", list)
                .env("AGENTFS", world.binary())
                .env("BASE", &world.project)
                .env("DATABASE", world.database("s"))
                .env("OPEN_DATABASE", &open)
                .env("LOG", &log)
                .env("OWNER", world.account.uid.to_string())
                .env("SERVER", server_pid(world, "s").to_string())
                .env("RUN", &run)
                .env("INSIDE", child_of(&run))
                .user(uid, gid)
                .finish()
        };
        let done = made_by((STRANGER, STRANGER), false);
        let refused = said_count(&done.out(), "REFUSED");
        assert_eq!(refused, attempts(false).len(), "{done}");
        assert!(
            live(world, "s").is_some() && running.ended().is_none(),
            "it goes on"
        );
        let done = made_by((world.account.uid, world.account.gid), true);
        let failed = said(&done.out(), &["REFUSED", "MISSING", "STUCK"]);
        assert!(failed.is_empty(), "{failed}\n{done}");
        assert!(live(world, "s").is_none(), "the owner has stopped it");
    });
}

/// The first child of a process.
fn child_of(pid: &str) -> String {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(path).expect("the kernel lists children");
    children.split(' ').next().unwrap_or_default().to_owned()
}

/// A directory of that name in `/tmp` that is another user's is not used: the
/// session says so and does not start.
#[test]
#[cfg_attr(missing_root, ignore = "skipped: not root")]
fn a_strangers_directory_is_not_used() {
    let world = match World::new(Who::Ordinary) {
        Ok(world) => world,
        Err(why) => agentfs_tests::skip!("{why}"),
    };
    // A user whom no other test knows, so that the name is free.
    let uid = STRANGER + 1;
    let planted = PathBuf::from(format!("/tmp/agentfs-{uid}"));
    let _ = fs::remove_dir(&planted);
    fs::create_dir(&planted).expect("a directory");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(&planted, open).expect("a mode");
    let base = world.dir.join("theirs");
    fs::create_dir(&base).expect("a directory");
    std::os::unix::fs::chown(&base, Some(uid), Some(uid)).expect("an owner");
    let done = world
        .agentfs(["run", "--session", "s", "--", "true"])
        .dir(&base)
        .env("HOME", &base)
        .user(uid, uid)
        .finish();
    let left = fs::read_dir(&planted).expect("the directory").count();
    fs::remove_dir(&planted).expect("it is empty");
    assert_eq!((done.code(), left), (125, 0), "{done}");
    assert!(done.err().contains("belongs to another user"), "{done}");
}

/// What root keeps to itself in a directory above is in nobody's way.
#[test]
fn sessions_of_root_above_are_passed_over() {
    let world = match World::new(Who::Ordinary) {
        Ok(world) => world,
        Err(why) => agentfs_tests::skip!("{why}"),
    };
    let above = world.dir.join("above");
    let (holder, base) = (above.join(".agentfs"), above.join("base"));
    for dir in [&above, &holder, &base] {
        fs::create_dir(dir).expect("a directory");
    }
    world.own(&base);
    let mode = |bits| std::os::unix::fs::PermissionsExt::from_mode(bits);
    fs::set_permissions(&above, mode(0o755)).expect("a mode");
    fs::set_permissions(&holder, mode(0o700)).expect("a mode");
    let done = world
        .agentfs(["run", "--session", "s", "--", "true"])
        .dir(&base)
        .finish();
    assert_eq!(done.code(), 0, "{done}");
    assert!(base.join(".agentfs/s.db").exists());
}
