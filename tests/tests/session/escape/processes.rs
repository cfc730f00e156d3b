//! Processes outside, and what they share with ours: signals, tracing, limits,
//! memory, keys, sockets.

use super::super::{as_everyone, eventually};
use super::{Attempt, Everyone, Nobody, Root, Setting, check};

const SIGNALS: &[Attempt] = &[
    (
        "signal it",
        "os.kill(int(E['WITNESS']), signal.SIGUSR1)",
        Everyone,
    ),
    ("ask for it", "os.kill(int(E['WITNESS']), 0)", Everyone),
    (
        "signal a thread",
        "raw(234, int(E['WITNESS']), int(E['WITNESS']), 10)",
        Everyone,
    ),
    (
        "queue a signal",
        "raw(129, int(E['WITNESS']), 10, struct.pack('iii', 10, 0, -1) + bytes(116))",
        Everyone,
    ),
    (
        "signal its group",
        "os.killpg(int(E['WITNESS']), signal.SIGUSR1)",
        Everyone,
    ),
    (
        "signal everybody",
        "os.kill(-1, signal.SIGUSR2); raise SEE_ONLY",
        Nobody,
    ),
    (
        "signal the own group",
        "os.kill(0, signal.SIGUSR2); raise SEE_ONLY",
        Nobody,
    ),
    (
        "signal it by descriptor",
        "signal.pidfd_send_signal(os.pidfd_open(int(E['WITNESS'])), 10)",
        Everyone,
    ),
    (
        "have it signalled by a file",
        "a, b = os.pipe(); fcntl.fcntl(a, fcntl.F_SETOWN, int(E['WITNESS'])); fcntl.fcntl(a, fcntl.F_SETFL, os.O_ASYNC); os.write(b, b'x')",
        Everyone,
    ),
    ("find it", "os.stat('/proc/' + E['WITNESS'])", Everyone),
    (
        "change its priority",
        "os.setpriority(os.PRIO_PROCESS, int(E['WITNESS']), 19)",
        Everyone,
    ),
    (
        "change that of the user",
        "os.setpriority(os.PRIO_USER, os.getuid(), 19); raise SEE_ONLY",
        Nobody,
    ),
    (
        "change its disk priority",
        "raw(251, 1, int(E['WITNESS']), 0x4007)",
        Everyone,
    ),
    (
        "change that of the user's",
        "raw(251, 3, os.getuid(), 0x4007); raise SEE_ONLY",
        Nobody,
    ),
    (
        "move it to a processor",
        "os.sched_setaffinity(int(E['WITNESS']), {0})",
        Everyone,
    ),
    (
        "limit it",
        "resource.prlimit(int(E['WITNESS']), resource.RLIMIT_NOFILE, (64, 64))",
        Everyone,
    ),
    (
        "have it killed first",
        "open('/proc/' + E['WITNESS'] + '/oom_score_adj', 'w').write('900')",
        Everyone,
    ),
    (
        "kill process 1",
        "os.kill(1, signal.SIGKILL); time.sleep(.1); os.kill(1, 0); raise SEE_ONLY",
        Nobody,
    ),
];

#[test]
#[cfg(target_arch = "x86_64")]
#[cfg_attr(missing_python3, ignore = "skipped: python3 is not installed")]
fn no_process_outside_is_signalled_or_limited() {
    check(SIGNALS, Setting::default());
}

const TRACING: &[Attempt] = &[
    (
        "attach to it",
        "w = int(E['WITNESS']); raw(101, 16, w, 0, 0); os.waitpid(w, 0x40000000); raw(101, 17, w, 0, 0)",
        Root,
    ),
    (
        "seize it",
        "raw(101, 0x4206, int(E['WITNESS']), 0, 0)",
        Root,
    ),
    ("read its memory", "remote(int(E['ADDRESS']), 310)", Root),
    ("write its memory", "remote(int(E['ADDRESS']), 311)", Root),
    (
        "write its memory by /proc",
        "f = open('/proc/' + E['WITNESS'] + '/mem', 'r+b', 0); f.seek(int(E['ADDRESS'])); f.write(b'escaped!')",
        Root,
    ),
    (
        "look at its descriptors",
        "os.listdir('/proc/' + E['WITNESS'] + '/fd')",
        Root,
    ),
    (
        "take one of them",
        "raw(438, os.pidfd_open(int(E['WITNESS'])), 1, 0)",
        Root,
    ),
    (
        "look through its root",
        "os.listdir('/proc/' + E['WITNESS'] + '/root/')",
        Root,
    ),
    (
        "look through its directory",
        "os.listdir('/proc/' + E['WITNESS'] + '/cwd/')",
        Root,
    ),
    (
        "read its environment",
        "open('/proc/' + E['WITNESS'] + '/environ').read()",
        Root,
    ),
    (
        "enter its namespaces",
        "raw(308, os.open('/proc/' + E['WITNESS'] + '/ns/mnt', os.O_RDONLY), 0)",
        Root,
    ),
    ("attach to process 1", "raw(101, 16, 1, 0, 0)", Nobody),
    ("seize process 1", "raw(101, 0x4206, 1, 0, 0)", Nobody),
    (
        "look through process 1",
        "os.listdir('/proc/1/root/')",
        Nobody,
    ),
    (
        "look through its directory, too",
        "os.listdir('/proc/1/cwd/')",
        Nobody,
    ),
    (
        "look at its descriptors, too",
        "[os.readlink(f) for f in glob.glob('/proc/1/fd/*')] or raw(-1)",
        Nobody,
    ),
    (
        "open one of them",
        "[os.open(f, os.O_RDONLY) for f in glob.glob('/proc/1/fd/*')] or raw(-1)",
        Nobody,
    ),
    (
        "read its memory, too",
        "open('/proc/1/mem', 'rb').read(1)",
        Nobody,
    ),
    (
        "write its memory, too",
        "os.open('/proc/1/mem', os.O_RDWR)",
        Nobody,
    ),
    ("move its pages", "raw(279, 1, 0, 0, 0, 0, 0)", Nobody),
    (
        "find the server",
        "any(b'__server' in open(c, 'rb').read() for c in glob.glob('/proc/*/cmdline') if c != '/proc/1/cmdline') or raw(-1)",
        Nobody,
    ),
];

#[test]
#[cfg(target_arch = "x86_64")]
#[cfg_attr(missing_python3, ignore = "skipped: python3 is not installed")]
fn no_process_outside_is_traced_or_looked_into() {
    check(TRACING, Setting::default());
}

const SHARED: &[Attempt] = &[
    (
        "shared memory (System V)",
        "raw(29, int(E['SHARED']), 0, 0)",
        Everyone,
    ),
    (
        "shared memory (POSIX)",
        "os.open('/dev/shm/' + E['NAME'], os.O_RDWR)",
        Everyone,
    ),
    (
        "a message queue",
        "raw(240, E['NAME'].encode(), os.O_RDWR, 0, 0)",
        Everyone,
    ),
    (
        "a key of the user's",
        "raw(250, 10, -4, b'user', E['NAME'].encode(), 0)",
        Everyone,
    ),
    (
        "read the user's keyring",
        "raw(250, 11, -4, ctypes.create_string_buffer(64), 64)",
        Nobody,
    ),
    (
        "add a key",
        "raw(248, b'user', b'agentfs-escape', b'x', 1, -2)",
        Everyone,
    ),
    (
        "ask for a key",
        "raw(249, b'user', E['NAME'].encode(), 0, 0)",
        Nobody,
    ),
    (
        "list keys",
        "open('/proc/keys').read().index(E['NAME'])",
        Nobody,
    ),
];

#[test]
#[cfg(target_arch = "x86_64")]
#[cfg_attr(missing_python3, ignore = "skipped: python3 is not installed")]
fn no_memory_or_key_is_shared_with_outside() {
    check(SHARED, Setting::default());
}

const SOCKETS: &[Attempt] = &[
    ("by path", "connect(E['SOCKET'])", Everyone),
    (
        "by path, if bound by another",
        "connect(E['OUTSIDE'] + '/relative')",
        Everyone,
    ),
    (
        "by a link in the view",
        "os.symlink(E['SOCKET'], 'to-socket'); connect('to-socket')",
        Everyone,
    ),
    (
        "by way of a process",
        "connect('/proc/self/root' + E['SOCKET'])",
        Everyone,
    ),
    (
        "beneath a directory",
        "os.chdir(E['OUTSIDE']); connect('socket')",
        Everyone,
    ),
    (
        "from a user namespace",
        "nested(NEW_MOUNTS); connect(E['SOCKET'])",
        Everyone,
    ),
    (
        "by abstract name",
        "connect('\\0' + E['ABSTRACT'])",
        Everyone,
    ),
    (
        "by abstract name from a user namespace",
        "nested(); connect('\\0' + E['ABSTRACT'])",
        Everyone,
    ),
    ("the bus", "connect('/run/dbus/system_bus_socket')", Nobody),
    ("a container engine", "connect('/run/docker.sock')", Nobody),
];

#[test]
#[cfg(target_arch = "x86_64")]
#[cfg_attr(missing_python3, ignore = "skipped: python3 is not installed")]
fn no_service_outside_is_reached() {
    let landlock_only = &["by abstract name", "by abstract name from a user namespace"];
    let setting = Setting {
        landlock_only,
        ..Setting::default()
    };
    check(SOCKETS, setting);
}

/// The socket of an agent that the person allows is there, and its variable.
#[test]
#[cfg_attr(missing_python3, ignore = "skipped: python3 is not installed")]
fn an_allowed_socket_is_reached() {
    use std::os::unix::net::UnixListener;
    as_everyone(|world| {
        let agent = world.dir.join("agent");
        std::fs::create_dir(&agent).expect("a directory");
        let socket = agent.join("socket");
        let _listener = UnixListener::bind(&socket).expect("a socket");
        world.own(&agent);
        let script = "import os,socket; s=socket.socket(socket.AF_UNIX); s.connect(os.environ['SSH_AUTH_SOCK']); print('reached')";
        let run = |args: &[&str]| {
            let run = world
                .agentfs(["run"])
                .args(args)
                .args(["--", "python3", "-c", script]);
            run.env("SSH_AUTH_SOCK", &socket).finish().out()
        };
        let agent = agent.display().to_string();
        assert_eq!(run(&["--session", "with", "--allow", &agent]), "reached\n");
        assert_eq!(run(&["--session", "without"]), "");
    });
}

/// OpenSSH makes one in `~/.ssh/agent` whenever somebody logs in with an agent.
#[test]
#[cfg_attr(missing_python3, ignore = "skipped: python3 is not installed")]
fn an_agent_that_comes_later_is_not_reached() {
    use std::os::unix::net::UnixListener;
    as_everyone(|world| {
        let agent = world.home.join(".ssh/agent");
        std::fs::create_dir_all(&agent).expect("a directory");
        world.own(&world.home.join(".ssh"));
        world.own(&agent);
        let inside = |session: &str, allow: &[&str]| {
            let hold = "echo up; exec sleep 600";
            let run = world.agentfs(["run", "--session", session]);
            let mut first = run.args(allow).args(["--", "sh", "-c", hold]).start();
            eventually("it is up", || first.printed().0 == b"up\n");
            let socket = agent.join(session);
            let _listener = UnixListener::bind(&socket).expect("a socket");
            world.own(&socket);
            let script = "import os,socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print('reached')";
            let python = ["python3", "-c", script, &socket.display().to_string()];
            assert_eq!(
                world.run(python[0]).args(&python[1..]).finish().out(),
                "reached\n"
            );
            let second = world.agentfs(["run", "--session", session, "--"]);
            let out = second.args(python).finish().out();
            let _ = world.agentfs_out(["stop", session]).ok();
            out
        };
        assert_eq!(inside("without", &[]), "");
        let allow = agent.display().to_string();
        assert_eq!(inside("with", &["--allow", &allow]), "reached\n");
    });
}
