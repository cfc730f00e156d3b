//! Files outside the view: nothing changes them, links to them, or leaves
//! programs there that give privilege.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::super::as_everyone;
use super::{Attempt, Everyone, Nobody, Root, Setting, check, launched};

const CHANGES: &[Attempt] = &[
    (
        "write to a file",
        "open(E['FILE'], 'w').write('x')",
        Everyone,
    ),
    (
        "write beside the base",
        "open('../agentfs-escape', 'w')",
        Everyone,
    ),
    (
        "write into the home directory",
        "open(E['HOME'] + '/agentfs-escape', 'w')",
        Everyone,
    ),
    ("write to /etc", "open('/etc/agentfs-escape', 'w')", Nobody),
    (
        "change /etc/passwd",
        "os.chmod('/etc/passwd', 0o666)",
        Nobody,
    ),
    ("make a file", "open(E['OUTSIDE'] + '/new', 'w')", Everyone),
    (
        "make a file with a shell",
        "sh('echo x > \"$OUTSIDE/by-shell\"')",
        Everyone,
    ),
    (
        "make a directory",
        "os.mkdir(E['OUTSIDE'] + '/directory')",
        Everyone,
    ),
    ("make a fifo", "os.mkfifo(E['OUTSIDE'] + '/fifo')", Everyone),
    (
        "make a symbolic link",
        "os.symlink('x', E['OUTSIDE'] + '/link')",
        Everyone,
    ),
    (
        "make a file without a name",
        "os.open(E['OUTSIDE'], os.O_TMPFILE | os.O_WRONLY)",
        Everyone,
    ),
    ("change a mode", "os.chmod(E['FILE'], 0o600)", Everyone),
    (
        "change a mode by descriptor",
        "os.fchmod(os.open(E['FILE'], os.O_RDONLY), 0o644)",
        Everyone,
    ),
    (
        "change an owner",
        "os.chown(E['FILE'], os.getuid(), os.getgid())",
        Everyone,
    ),
    ("change times", "os.utime(E['FILE'], (0, 0))", Everyone),
    (
        "change an attribute",
        "os.setxattr(E['FILE'], 'user.x', b'x')",
        Everyone,
    ),
    (
        "change flags",
        "fcntl.ioctl(os.open(E['FILE'], os.O_RDONLY), 0x40086602, struct.pack('Q', 0x80000))",
        Everyone,
    ),
    (
        "take a lease",
        "fcntl.fcntl(os.open(E['FILE'], os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_RDLCK)",
        Everyone,
    ),
    (
        "write through a link in the view",
        "os.symlink(E['FILE'], 'to-file'); open('to-file', 'w').write('x')",
        Everyone,
    ),
    (
        "write through /proc",
        "open('/proc/self/root' + E['FILE'], 'w').write('x')",
        Everyone,
    ),
    ("truncate", "os.truncate(E['FILE'], 1)", Everyone),
    (
        "link within",
        "os.link(E['FILE'], E['OUTSIDE'] + '/second')",
        Everyone,
    ),
    (
        "link into the base",
        "os.link(E['FILE'], E['BASE'] + '/second')",
        Everyone,
    ),
    (
        "link into an allowed path",
        "os.link(E['FILE'], E['ALLOWED'] + '/second')",
        Everyone,
    ),
    (
        "link out of the base",
        "open(E['BASE'] + '/own', 'w'); os.link(E['BASE'] + '/own', E['OUTSIDE'] + '/own')",
        Everyone,
    ),
    (
        "link out of an allowed path",
        "open(E['ALLOWED'] + '/own', 'w'); os.link(E['ALLOWED'] + '/own', E['OUTSIDE'] + '/two')",
        Everyone,
    ),
    ("open by handle", "by_handle(E['FILE'], os.O_WRONLY)", Root),
    (
        "write from a user namespace",
        "nested(NEW_MOUNTS); open(E['FILE'], 'w').write('x')",
        Everyone,
    ),
    (
        "rename",
        "os.rename(E['FILE'], E['OUTSIDE'] + '/moved')",
        Everyone,
    ),
    (
        "move into an allowed path",
        "os.rename(E['OUTSIDE'] + '/moved', E['ALLOWED'] + '/m')",
        Everyone,
    ),
    ("remove", "os.unlink(E['OUTSIDE'] + '/second')", Everyone),
    (
        "remove a directory",
        "os.rmdir(E['OUTSIDE'] + '/sub')",
        Everyone,
    ),
];

#[test]
#[cfg(target_arch = "x86_64")]
#[cfg_attr(missing_python3, ignore = "skipped: python3 is not installed")]
fn nothing_outside_is_changed() {
    check(CHANGES, Setting::default());
}

/// With descriptors 40 to 43: a directory, a file by `O_PATH`, a process, a
/// connected socket.
const DESCRIPTORS: &[Attempt] = &[
    ("list a directory", "os.listdir(40)", Everyone),
    (
        "change a mode beneath it",
        "os.chmod('file', 0o600, dir_fd=40)",
        Everyone,
    ),
    (
        "make a file beneath it",
        "os.open('new', os.O_CREAT | os.O_WRONLY, dir_fd=40)",
        Everyone,
    ),
    (
        "look above it",
        "os.stat('/proc/self/fd/40/../..')",
        Everyone,
    ),
    (
        "change the mode of a path",
        "os.chmod('/proc/self/fd/41', 0o600)",
        Everyone,
    ),
    (
        "open a path",
        "os.open('/proc/self/fd/41', os.O_WRONLY)",
        Everyone,
    ),
    (
        "signal a process",
        "signal.pidfd_send_signal(42, signal.SIGUSR1)",
        Everyone,
    ),
    ("write to a socket", "os.write(43, b'x')", Everyone),
];

#[test]
#[cfg(target_arch = "x86_64")]
#[cfg_attr(missing_python3, ignore = "skipped: python3 is not installed")]
fn descriptors_of_the_shell_do_not_lead_out() {
    let setting = Setting {
        descriptors: true,
        ..Setting::default()
    };
    check(DESCRIPTORS, setting);
}

/// A directory as standard input, by which everything could be reached.
#[test]
fn a_directory_as_input_does_not_lead_out() {
    as_everyone(|world| {
        let outside = world.dir.join("outside");
        fs::create_dir(&outside).expect("a directory");
        fs::write(outside.join("file"), "precious\n").expect("a file");
        world.own(&outside);
        let mode = || {
            fs::metadata(outside.join("file"))
                .expect("a file")
                .permissions()
                .mode()
                & 0o777
        };
        fs::set_permissions(outside.join("file"), fs::Permissions::from_mode(0o644))
            .expect("a mode");
        let script =
            "chmod 600 /proc/self/fd/0/file; touch /proc/self/fd/0/new; ls /proc/self/fd/0/";
        let with_input = |run: &str| {
            let line = format!("{run} sh -c '{script}' < \"$0\"");
            world.run("sh").args(["-c", &line]).arg(&outside).finish()
        };
        let agentfs = format!("'{}' run --session s --", world.binary().display());
        let done = with_input(&agentfs);
        assert_eq!((done.out().as_str(), mode()), ("", 0o644), "{done}");
        assert!(!outside.join("new").exists());
        let done = with_input("");
        assert_eq!(
            (done.out().as_str(), mode()),
            ("file\nnew\n", 0o600),
            "{done}"
        );
    });
}

/// What a program prints into a file must not become a program with privilege.
#[test]
fn the_output_file_gets_no_set_user_id_bit() {
    as_everyone(|world| {
        let out = world.dir.join("out");
        let mode = || fs::metadata(&out).expect("a file").permissions().mode() & 0o7777;
        let with_output = |run: &str| {
            fs::write(&out, "").expect("a file");
            fs::set_permissions(&out, fs::Permissions::from_mode(0o644)).expect("a mode");
            world.own(&out);
            let line = format!("{run} sh -c 'cat /bin/true; chmod 4755 /proc/self/fd/1' > \"$0\"");
            world.run("sh").args(["-c", &line]).arg(&out).finish()
        };
        let agentfs = format!(
            "'{}' run --no-default-allows --session s --",
            world.binary().display()
        );
        let done = with_output(&agentfs);
        assert_eq!(mode(), 0o644, "{done}");
        let done = with_output("");
        assert_eq!(mode(), 0o4755, "{done}");
    });
}

/// Standard input that was opened for reading stays so (Landlock's doing).
#[test]
#[cfg_attr(missing_python3, ignore = "skipped: python3 is not installed")]
fn an_input_file_is_not_written() {
    as_everyone(|world| {
        let input = world.dir.join("input");
        fs::write(&input, "precious\n").expect("a file");
        world.own(&input);
        let script = "exec 2>/dev/null; echo x > /proc/self/fd/0; cat";
        let line = format!("\"$0\" run --session s -- sh -c '{script}' < \"$1\"");
        let run = |how: &str| {
            let run = launched(world, how).args(["sh", "-c", &line]);
            run.arg(world.binary()).arg(&input).finish()
        };
        let done = run("plain");
        assert_eq!(done.out(), "precious\n", "{done}");
        assert_eq!(fs::read_to_string(&input).expect("the file"), "precious\n");
        // A known gap, which shows that the attempt is one.
        let done = run("no-landlock");
        assert_eq!(
            fs::read_to_string(&input).expect("the file"),
            "x\n",
            "{done}"
        );
    });
}

const SET_ID: &[Attempt] = &[
    (
        "by chmod",
        "open(E['ALLOWED'] + '/a', 'w'); os.chmod(E['ALLOWED'] + '/a', 0o4755)",
        Everyone,
    ),
    (
        "by fchmod",
        "os.fchmod(os.open(E['ALLOWED'] + '/b', os.O_CREAT | os.O_WRONLY), 0o4755)",
        Everyone,
    ),
    (
        "by fchmodat2",
        "open(E['ALLOWED'] + '/c', 'w'); raw(452, -100, (E['ALLOWED'] + '/c').encode(), 0o4755, 0)",
        Everyone,
    ),
    (
        "by open",
        "os.open(E['ALLOWED'] + '/d', os.O_CREAT | os.O_WRONLY, 0o4755)",
        Everyone,
    ),
    (
        "by openat2",
        "raw(437, -100, (E['ALLOWED'] + '/e').encode(), struct.pack('QQQ', 0o101, 0o4755, 0), 24)",
        Everyone,
    ),
    (
        "by creat",
        "raw(85, (E['ALLOWED'] + '/f').encode(), 0o4755)",
        Everyone,
    ),
    (
        "by mknod",
        "os.mknod(E['ALLOWED'] + '/g', stat.S_IFREG | 0o4755)",
        Everyone,
    ),
    (
        "without a name",
        "os.open(E['ALLOWED'], os.O_TMPFILE | os.O_WRONLY, 0o4755)",
        Everyone,
    ),
    (
        "by install(1)",
        "sh('install -m 4755 /bin/true \"$ALLOWED/h\"')",
        Everyone,
    ),
    ("by io_uring", "raw(425, 8, bytes(120))", Root),
    (
        "with a group",
        "open(E['ALLOWED'] + '/i', 'w'); os.getuid() and raw(-1); os.chmod(E['ALLOWED'] + '/i', 0o2755)",
        Root,
    ),
    (
        "as a file capability",
        "open(E['ALLOWED'] + '/j', 'w'); os.setxattr(E['ALLOWED'] + '/j', 'security.capability', struct.pack('5I', 0x2000001, 0xff, 0, 0, 0))",
        Root,
    ),
    (
        "from a user namespace",
        "open(E['ALLOWED'] + '/k', 'w'); nested(); os.chmod(E['ALLOWED'] + '/k', 0o4755)",
        Nobody,
    ),
];

#[test]
#[cfg(target_arch = "x86_64")]
#[cfg_attr(missing_python3, ignore = "skipped: python3 is not installed")]
fn no_set_user_id_program_is_left_outside() {
    check(SET_ID, Setting::default());
}
