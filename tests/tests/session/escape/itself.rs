//! The session's own parts: database, control socket, locks, log, server. Nothing
//! inside sees or uses them, by whatever name.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use super::super::{as_everyone, eventually, live};
use super::{Attempt, Everyone, Nobody, Setting, check};

const BY_PATH: &[Attempt] = &[
    (
        "list the directory",
        "os.listdir(E['BASE'] + '/.agentfs')",
        Everyone,
    ),
    (
        "look at it by way of a process",
        "os.listdir('/proc/self/root' + E['BASE'] + '/.agentfs')",
        Everyone,
    ),
    (
        "look at it by `..`",
        "os.listdir(E['OUTSIDE'] + '/../project/.agentfs')",
        Everyone,
    ),
    (
        "find a database",
        "[open(f) for f in glob.glob('.agentfs/*.db')][0]",
        Everyone,
    ),
    (
        "make the directory",
        "os.mkdir(E['BASE'] + '/.agentfs')",
        Nobody,
    ),
    (
        "rename something to it",
        "os.mkdir('d'); os.rename('d', '.agentfs')",
        Nobody,
    ),
    (
        "link to it and look",
        "os.symlink('.agentfs', 'to-itself'); os.listdir('to-itself')",
        Everyone,
    ),
    (
        "find a control socket",
        "connect(glob.glob('/run/user/*/agentfs/*/socket') + glob.glob('/tmp/agentfs-*/*/socket') [0])",
        Nobody,
    ),
    (
        "list the runtime directory",
        "os.listdir('/run/user/%d/agentfs' % os.getuid())",
        Nobody,
    ),
    (
        "list the temporary directories",
        "os.listdir('/tmp/agentfs-%d' % os.getuid())",
        Nobody,
    ),
    (
        "find a descriptor of it",
        "[f for f in glob.glob('/proc/[0-9]*/fd/*') if os.path.islink(f) and '.agentfs' in os.readlink(f)][0]",
        Nobody,
    ),
];

#[test]
#[cfg(target_arch = "x86_64")]
#[cfg_attr(missing_python3, ignore = "skipped: python3 is not installed")]
fn the_database_is_not_found() {
    check(BY_PATH, Setting::default());
}

/// Names that were there before the start, and a database that lies in the base
/// beside `.agentfs`: seen, they could be opened by the server itself, and to
/// close one's own database is to lose SQLite's locks on it.
#[test]
fn the_database_is_not_seen_by_another_name() {
    as_everyone(|world| {
        let sub = world.project.join("sub");
        fs::create_dir(&sub).expect("a directory");
        world.own(&sub);
        let in_base = sub.join("beside.db");
        let run = |script: &str| {
            let run = world.agentfs(["run", "--base", ".", "--session", "sub/beside.db"]);
            run.args(["--", "sh", "-c", script]).finish()
        };
        let done = run("echo x > made; sync made; ls sub; cat sub/beside.db | wc -c");
        assert_eq!(done.out(), "0\n", "{done}");

        let _ = world.in_session("s", "echo x > made").finish().ok();
        let database = world.database("s");
        fs::hard_link(&database, world.project.join("linked")).expect("a link");
        symlink(".agentfs/s.db", world.project.join("symbolic")).expect("a link");
        symlink(&database, world.project.join("absolute")).expect("a link");
        let before = fs::metadata(&database).expect("a database").ino();
        let script = "cat linked symbolic absolute 2>/dev/null | wc -c; ls; \
                      echo mine > linked && cat linked";
        let done = world.in_session("s", script).finish();
        assert_eq!(
            done.out(),
            "0\nabsolute\nmade\nsub\nsymbolic\nmine\n",
            "{done}"
        );
        assert_eq!(fs::metadata(&database).expect("a database").ino(), before);
        let names = fs::metadata(&database).expect("a database").nlink();
        assert_eq!(names, 2, "both names are there outside");
        let sound = world.agentfs(["check", "s"]).finish();
        assert_eq!(sound.code(), 0, "{sound}");
        assert!(fs::metadata(in_base).is_ok_and(|meta| meta.len() > 0));
    });
}

/// `agentfs` itself, run inside without the variable by which it knows.
#[test]
fn agentfs_inside_reaches_no_session() {
    as_everyone(|world| {
        let mut other = world.in_session("other", "echo up; exec sleep 600").start();
        eventually("it is up", || other.printed().0 == b"up\n");
        let database = world.database("other");
        let (agentfs, base) = (world.binary().display(), world.project.display());
        let script = format!(
            "unset AGENTFS AGENTFS_SESSION AGENTFS_SANDBOX; cd {base}; \
             for c in 'stop other' 'stop {db}' 'umount {base}' 'run --session other -- echo IN' \
                      'run --session {db} -- echo IN' 'run --session mine -- echo IN' \
                      'mount other /tmp' 'diff {db}'; do \
             {agentfs} $c </dev/null 2>/dev/null && echo \"did $c\"; done; \
             {agentfs} ps --json; mount | grep -c 'on {base} type fuse'",
            db = database.display()
        );
        let done = world.in_session("s", &script).finish();
        assert_eq!(
            done.out().split_whitespace().collect::<String>(),
            "[]1",
            "{done}"
        );
        assert!(live(world, "other").is_some(), "it goes on");
        assert_eq!(other.ended(), None);
        // The same commands, outside.
        let _ = world
            .agentfs(["diff".as_ref(), database.as_os_str()])
            .finish()
            .ok();
        let _ = world
            .agentfs(["stop".as_ref(), database.as_os_str()])
            .finish()
            .ok();
        assert!(live(world, "other").is_none());
    });
}
