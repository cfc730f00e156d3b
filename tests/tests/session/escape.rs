//! What nothing inside may do, tried as root and as an ordinary user.
//!
//! All attempts go through [`check`]. Each says what happened; "not there" of a
//! tool is not a refusal. The same attempts, outside, would succeed for root.

use std::fs;
use std::path::Path;

use agentfs_tests::world::World;

use super::as_everyone;

/// Shell attempts: name and script, which must fail.
const SHELL: &[(&str, &str)] = &[
    ("write to /etc", "echo x > /etc/agentfs-escape"),
    ("write to $HOME", "echo x > ~/agentfs-escape"),
    ("write beside the base", "echo x > ../agentfs-escape"),
    ("change modes outside", "chmod 777 /etc/passwd"),
    ("change times outside", "touch -d @0 /etc/passwd"),
    ("remove outside", "rm -f $OUTSIDE_FILE"),
    ("truncate outside", ": > $OUTSIDE_FILE"),
    (
        "link to outside and write",
        "ln -s $OUTSIDE_FILE l && echo x > l",
    ),
    ("hard link outside", "ln $OUTSIDE_FILE $OUTSIDE_FILE.link"),
    ("rename outside", "mv $OUTSIDE_FILE $OUTSIDE_FILE.moved"),
    ("remount /", "mount -o remount,rw /"),
    ("remount / by bind", "mount -o remount,bind,rw /"),
    ("mount a tmpfs", "mount -t tmpfs x /mnt"),
    ("bind over the host", "mount --bind . /usr"),
    ("unmount the view", "umount $BASE"),
    ("unmount the view lazily", "umount -l $BASE"),
    ("unmount /tmp", "umount -l /tmp"),
    ("unmount /proc/sys", "umount -l /proc/sys"),
    (
        "mount in a user namespace",
        "unshare -Urm mount -t tmpfs x /mnt",
    ),
    (
        "remount in a user namespace",
        "unshare -Urm mount -o remount,bind,rw /",
    ),
    ("unmount in a user namespace", "unshare -Urm umount -l /tmp"),
    (
        "unmount in a kept user namespace",
        "unshare -Um --keep-caps umount -l /tmp",
    ),
    (
        "write outside from a user namespace",
        "unshare -Ur sh -c 'echo x > /etc/agentfs-escape'",
    ),
    (
        "enter the namespaces of process 1",
        "nsenter -t 1 -m -p -U true",
    ),
    ("make a disk in /tmp", "mknod /tmp/disk b $DISK"),
    ("make a disk in the view", "mknod disk b $DISK"),
    ("make a disk in /dev", "mknod /dev/disk b $DISK"),
    ("make a disk in /dev/shm", "mknod /dev/shm/disk b $DISK"),
    ("make a memory device", "mknod mem c 1 1"),
    ("open the memory device", "head -c1 /dev/mem"),
    ("open a disk", "head -c1 /dev/vda /dev/sda"),
    ("open the FUSE device", ": <> /dev/fuse"),
    ("write a sysctl", "echo 4 > /proc/sys/kernel/printk"),
    (
        "set the core handler",
        "echo '|/tmp/x' > /proc/sys/kernel/core_pattern",
    ),
    ("magic SysRq", "echo h > /proc/sysrq-trigger"),
    (
        "write to sysfs",
        "echo x > /sys/kernel/uevent_seqnum || echo 1 > /sys/module/kernel/parameters/panic",
    ),
    (
        "abort a FUSE connection",
        "for f in /sys/fs/fuse/connections/*/abort; do echo 1 > $f && exit 0; done; exit 1",
    ),
    ("make a cgroup", "mkdir /sys/fs/cgroup/agentfs-escape"),
    (
        "set the interrupts' CPUs",
        "for f in /proc/irq/*/smp_affinity; do echo 1 > $f && exit 0; done; exit 1",
    ),
    ("signal a process outside", "kill -0 $OUTSIDE_PID"),
    ("see a process outside", "ls /proc/$OUTSIDE_PID/"),
    ("look through process 1", "ls /proc/1/root/"),
    ("look through process 1's directory", "ls /proc/1/cwd/"),
    ("write to process 1's memory", ": <> /proc/1/mem"),
    (
        "kill process 1",
        "kill -KILL 1; sleep 0.1; kill -0 1 2>/dev/null && exit 1; [ -d /proc/1 ] && exit 1",
    ),
    (
        "make a set-user-ID file for real",
        "cp /bin/true $ALLOWED/suid && chmod 4755 $ALLOWED/suid",
    ),
    (
        "install a set-user-ID file for real",
        "install -m 4755 /bin/true $ALLOWED/suid",
    ),
    ("set the clock", "date -s @1"),
    ("set the host's name", "hostname escaped"),
    ("see the database", "ls $BASE/.agentfs"),
];

/// Attempts in Python: name and statements, which must raise an error.
const PYTHON: &[(&str, &str)] = &[
    (
        "connect to an abstract socket outside",
        "s=socket.socket(socket.AF_UNIX); s.connect('\\0'+E['ABSTRACT'])",
    ),
    (
        "connect to a socket outside",
        "s=socket.socket(socket.AF_UNIX); s.connect(E['OUTSIDE_SOCKET'])",
    ),
    (
        "make a set-user-ID file by open",
        "os.open(E['ALLOWED']+'/o', os.O_CREAT|os.O_WRONLY, 0o4755)",
    ),
    (
        "make a set-user-ID file by mknod",
        "os.mknod(E['ALLOWED']+'/m', stat.S_IFREG|0o4755)",
    ),
    (
        "make a set-user-ID file by openat2",
        "raw(437, -100, (E['ALLOWED']+'/p').encode(), struct.pack('QQQ', os.O_CREAT|os.O_WRONLY, 0o4755, 0), 24)",
    ),
    (
        "make a set-user-ID file by fchmodat2",
        "open(E['ALLOWED']+'/q','w'); raw(452, -100, (E['ALLOWED']+'/q').encode(), 0o4755, 0)",
    ),
    (
        "make an unnamed set-user-ID file",
        "os.open(E['ALLOWED'], os.O_TMPFILE|os.O_WRONLY, 0o4755)",
    ),
    (
        "leave a chroot",
        "os.mkdir('/tmp/jail'); fd=os.open('/',os.O_RDONLY); os.chroot('/tmp/jail'); os.fchdir(fd); [os.chdir('..') for i in range(64)]; os.chroot('.'); open('/etc/agentfs-escape','w')",
    ),
    ("io_uring", "raw(425, 8, bytes(120))"),
    ("keyctl", "raw(250, 0, -3, 0)"),
    ("add_key", "raw(248, b'user', b'x', b'y', 1, -4)"),
    ("bpf", "raw(321, 0, bytes(128), 128)"),
    ("userfaultfd", "raw(323, 1)"),
    ("perf_event_open", "raw(298, bytes(128), 0, -1, -1, 0)"),
    ("fsopen", "raw(430, b'tmpfs', 0)"),
    ("open_tree", "raw(428, -100, b'/', 1)"),
    ("move_mount", "raw(429, -1, b'', -1, b'/mnt', 4)"),
    (
        "mount_setattr",
        "raw(442, -100, b'/', 0x8000, struct.pack('QQQQ', 0, 1, 0, 0), 32)",
    ),
    ("pivot_root", "raw(155, b'.', b'.')"),
    (
        "setns to process 1",
        "raw(308, os.open('/proc/self/ns/mnt', os.O_RDONLY), 0)",
    ),
    (
        "open_by_handle_at",
        "raw(304, os.open('/', os.O_RDONLY), struct.pack('II', 8, 1)+bytes(8), 0)",
    ),
    ("ptrace process 1", "raw(101, 0x4206, 1, 0, 0)"),
    (
        "read the memory of process 1",
        "open('/proc/1/mem','rb').read(1)",
    ),
    ("load a module", "raw(313, 0, b'', 0)"),
    ("an x32 system call", "raw(0x40000000 + 20, 1, 0, 0)"),
];

/// Defines `raw`: a system call that raises on failure.
const PYTHON_HEAD: &str = "import ctypes,os,socket,stat,struct\n\
    E=os.environ\n\
    libc=ctypes.CDLL(None,use_errno=True)\n\
    def raw(*a):\n \
    r=libc.syscall(*[ctypes.c_long(x) if isinstance(x,int) else x for x in a])\n \
    if r<0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))\n\
    def attempt(name, what):\n \
    try: exec(what); print('ALLOWED', name)\n \
    except (OSError, PermissionError) as e: print('REFUSED', name, e)\n";

struct Outside {
    directory: std::path::PathBuf,
    allowed: std::path::PathBuf,
    file: std::path::PathBuf,
    socket: std::path::PathBuf,
    process: std::process::Child,
    abstract_name: String,
    _listeners: Vec<std::os::unix::net::UnixListener>,
}

impl Outside {
    fn new(world: &World) -> Self {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::net::{SocketAddr, UnixListener};
        let directory = world.dir.join("outside");
        let allowed = world.dir.join("allowed");
        fs::create_dir(&directory).expect("a directory");
        fs::create_dir(&allowed).expect("a directory");
        let file = directory.join("file");
        fs::write(&file, "precious\n").expect("a file");
        let socket = directory.join("socket");
        let by_path = UnixListener::bind(&socket).expect("a socket");
        let unique = world.dir.file_name().expect("a name").to_string_lossy();
        let abstract_name = format!("agentfs-escape-{unique}");
        let address = SocketAddr::from_abstract_name(&abstract_name).expect("a name");
        let by_name = UnixListener::bind_addr(&address).expect("a socket");
        world.own(&directory);
        world.own(&allowed);
        let mut sleep = std::process::Command::new("sleep");
        sleep.arg("600");
        if rustix::process::geteuid().as_raw() != world.account.uid {
            use std::os::unix::process::CommandExt;
            sleep.uid(world.account.uid).gid(world.account.gid);
        }
        Self {
            directory,
            allowed,
            file,
            socket,
            process: sleep.spawn().expect("sleep"),
            abstract_name,
            _listeners: vec![by_path, by_name],
        }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs attempts inside and fails with all that were not refused.
fn check(world: &World, program: &str, script: &str, attempts: usize) {
    let outside = Outside::new(world);
    let done = world
        .agentfs(["run", "--session", "s", "--allow"])
        .arg(&outside.allowed)
        .args(["--", program, "-c", script])
        .env("OUTSIDE_FILE", &outside.file)
        .env("OUTSIDE_SOCKET", &outside.socket)
        .env("OUTSIDE_PID", outside.process.id().to_string())
        .env("ABSTRACT", &outside.abstract_name)
        .env("ALLOWED", &outside.allowed)
        .env("BASE", &world.project)
        .env("DISK", "254 0")
        .finish();
    let out = done.out();
    let allowed: Vec<_> = out
        .lines()
        .filter(|line| line.starts_with("ALLOWED"))
        .collect();
    assert!(
        allowed.is_empty(),
        "as {}: {allowed:#?}\n{done}",
        world.account.name
    );
    let refused = out
        .lines()
        .filter(|line| line.starts_with("REFUSED"))
        .count();
    assert_eq!(refused, attempts, "every attempt was made: {done}");

    assert_eq!(
        fs::read_to_string(&outside.file).expect("the file"),
        "precious\n"
    );
    assert_eq!(
        fs::read_dir(&outside.directory)
            .expect("the directory")
            .count(),
        2
    );
    for escaped in [
        "/etc/agentfs-escape".as_ref(),
        &*world.home.join("agentfs-escape"),
    ] {
        assert!(!Path::exists(escaped), "{}", escaped.display());
    }
    for entry in fs::read_dir(&outside.allowed)
        .expect("the directory")
        .flatten()
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = entry.metadata().expect("a file").permissions().mode();
        assert_eq!(
            mode & 0o6000,
            0,
            "{} has mode {mode:o}",
            entry.path().display()
        );
    }
}

#[test]
fn by_shell() {
    as_everyone(|world| {
        let mut script = String::from(
            "attempt() { n=$1; tool=${2%% *}; if e=$(sh -c \"$2\" 2>&1); then echo \"ALLOWED $n: $e\"; \
             else case $e in *'not found'*) echo \"MISSING $n: $e\";; *) echo \"REFUSED $n: $e\" | tr '\\n' ' '; echo;; \
             esac; fi; }\n",
        );
        for (name, attempt) in SHELL {
            script.push_str(&format!(
                "attempt '{}' '{}'\n",
                name.replace('\'', "'\\''"),
                attempt.replace('\'', "'\\''")
            ));
        }
        check(world, "sh", &script, SHELL.len());
    });
}

#[test]
#[cfg(target_arch = "x86_64")]
#[cfg_attr(missing_python3, ignore = "skipped: python3 is not installed")]
fn by_system_calls() {
    as_everyone(|world| {
        let mut script = String::from(PYTHON_HEAD);
        for (name, attempt) in PYTHON {
            script.push_str(&format!("attempt({name:?}, {attempt:?})\n"));
        }
        check(world, "python3", &script, PYTHON.len());
    });
}

/// The other side of the wall: what programs need still works.
#[test]
fn what_is_not_forbidden_works() {
    as_everyone(|world| {
        let script = "set -e; echo x > f; chmod 600 f; chmod g+s .; ln f g; ln -s f s; mkfifo p; mkdir d; \
             (sleep 5 & kill $!; wait) 2>/dev/null || true; \
             echo inside > /proc/self/comm; head -c 10 /dev/urandom >/dev/null; : > /dev/null; \
             cat /proc/self/status /proc/meminfo /sys/kernel/mm/transparent_hugepage/enabled >/dev/null 2>&1 || true; \
             cat /etc/passwd > /dev/null; getent passwd root >/dev/null; ps > /dev/null 2>&1 || true; \
             unshare -U true; echo all";
        let done = world.in_session("s", script).finish();
        assert_eq!(done.out(), "all\n", "{done}");
    });
}

#[test]
#[cfg_attr(missing_root, ignore = "skipped: not root")]
fn root_inside_manages_files_and_users() {
    use agentfs_tests::user::Who;
    let world = match World::new(Who::Root) {
        Ok(world) => world,
        Err(why) => agentfs_tests::skip!("{why}"),
    };
    let script = "set -e; echo x > f; chown 12:34 f; stat -c %u:%g f; chmod 000 f; cat f; \
                  su -s /bin/sh nobody -c 'id -un; cat f 2>/dev/null || echo denied' </dev/null; mkdir j; \
                  chroot / true; echo all";
    let done = world.in_session("s", script).finish();
    assert_eq!(done.out(), "12:34\nx\nnobody\ndenied\nall\n", "{done}");
}
