//! The machine: its mounts, devices, settings and control groups stay, and no
//! program inside has more privilege than it was given.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use agentfs_tests::user::Who;
use agentfs_tests::world::World;

use super::super::as_everyone;
use super::super::tty::Tty;
use super::{Attempt, Everyone, LAUNCH, Nobody, Root, Setting, check};

const MOUNTS: &[Attempt] = &[
    ("mount a tmpfs", "sh('mount -t tmpfs x /mnt')", Root),
    ("bind the base", "sh('mount --bind . /mnt')", Root),
    ("remount /", "sh('mount -o remount,bind,rw /')", Root),
    (
        "remount / with its file system",
        "sh('mount -o remount,rw /')",
        Nobody,
    ),
    ("unmount the view", "sh('umount \"$BASE\"')", Nobody),
    (
        "unmount the view lazily",
        "sh('umount -l \"$BASE\"')",
        Nobody,
    ),
    ("unmount /tmp", "sh('umount -l /tmp')", Nobody),
    ("unmount /proc/sys", "sh('umount -l /proc/sys')", Nobody),
    (
        "mount in a user namespace",
        "sh('unshare -Urm mount -t tmpfs x /mnt')",
        Everyone,
    ),
    (
        "the same by system calls",
        "nested(NEW_MOUNTS); raw(165, b'x', b'/mnt', b'tmpfs', 0, b'')",
        Everyone,
    ),
    (
        "remount in a user namespace",
        "nested(NEW_MOUNTS); raw(165, 0, b'/', 0, 0x1020, 0)",
        Nobody,
    ),
    (
        "unmount in a user namespace",
        "nested(NEW_MOUNTS); raw(166, b'/tmp', 2)",
        Nobody,
    ),
    (
        "unmount the view there",
        "nested(NEW_MOUNTS); raw(166, E['BASE'].encode(), 2)",
        Nobody,
    ),
    (
        "unmount in a kept one",
        "sh('unshare -Um --keep-caps umount -l /tmp')",
        Nobody,
    ),
    (
        "a user namespace in another",
        "sh('unshare -Ur unshare -Urm mount -t tmpfs x /mnt')",
        Everyone,
    ),
    (
        "fsopen",
        "nested(NEW_MOUNTS); raw(430, b'tmpfs', 0)",
        Everyone,
    ),
    (
        "fspick",
        "nested(NEW_MOUNTS); raw(433, -100, b'/', 0)",
        Nobody,
    ),
    (
        "open_tree",
        "nested(NEW_MOUNTS); raw(428, -100, b'/', 0x8001)",
        Everyone,
    ),
    (
        "open_tree_attr",
        "nested(NEW_MOUNTS); raw(467, -100, b'/', 0x8000, struct.pack('QQQQ', 0, 1, 0, 0), 32)",
        Nobody,
    ),
    (
        "move_mount",
        "nested(NEW_MOUNTS); raw(429, -1, b'', -1, b'/mnt', 4)",
        Nobody,
    ),
    (
        "mount_setattr",
        "nested(NEW_MOUNTS); raw(442, -100, b'/', 0x8000, struct.pack('QQQQ', 0, 1, 0, 0), 32)",
        Nobody,
    ),
    ("pivot_root", "os.chdir('/'); raw(155, b'.', b'.')", Nobody),
    (
        "pivot_root in a user namespace",
        "nested(NEW_MOUNTS); os.chdir('/'); raw(155, b'.', b'.')",
        Nobody,
    ),
    (
        "setns to itself",
        "raw(308, os.open('/proc/self/ns/user', os.O_RDONLY), 0)",
        Nobody,
    ),
    (
        "setns to process 1",
        "raw(308, os.open('/proc/1/ns/mnt', os.O_RDONLY), 0)",
        Nobody,
    ),
    (
        "enter process 1 by its number",
        "raw(308, os.pidfd_open(1), 0x20000)",
        Nobody,
    ),
    (
        "leave a chroot",
        "jail = E['ALLOWED'] + '/jail'; os.mkdir(jail); fd = os.open('/', os.O_RDONLY); os.chroot(jail); os.fchdir(fd); [os.chdir('..') for i in range(64)]; os.chroot('.'); open(E['FILE'], 'a').write('x')",
        Root,
    ),
    (
        "leave a chroot within a chroot",
        "fd = os.open('/', os.O_RDONLY); os.chroot('/usr'); os.chroot('/bin'); os.fchdir(fd); os.chroot('.'); open(E['FILE'], 'a').write('x')",
        Root,
    ),
    (
        "leave a chroot in a user namespace",
        "nested(NEW_MOUNTS); fd = os.open('/', os.O_RDONLY); os.chroot('/usr'); os.fchdir(fd); os.chroot('.'); open(E['FILE'], 'a').write('x')",
        Everyone,
    ),
];

#[test]
#[cfg(target_arch = "x86_64")]
#[cfg_attr(missing_python3, ignore = "skipped: python3 is not installed")]
fn the_mounts_stay_as_they_are() {
    check(MOUNTS, Setting::default());
}

const DEVICES: &[Attempt] = &[
    (
        "make a device in the base",
        "os.mknod('null', stat.S_IFCHR | 0o666, os.makedev(1, 3))",
        Root,
    ),
    (
        "make one in /tmp",
        "os.mknod('/tmp/' + E['NAME'], stat.S_IFCHR, os.makedev(1, 3))",
        Root,
    ),
    (
        "make one in /dev",
        "os.mknod('/dev/' + E['NAME'], stat.S_IFCHR, os.makedev(1, 3)); os.unlink('/dev/' + E['NAME'])",
        Root,
    ),
    (
        "make one in /dev/shm",
        "n = '/dev/shm/d' + E['NAME']; os.mknod(n, stat.S_IFCHR, os.makedev(1, 3)); os.unlink(n)",
        Root,
    ),
    (
        "make one in /run",
        "n = '/run/' + E['NAME']; os.mknod(n, stat.S_IFCHR, os.makedev(1, 3)); os.unlink(n)",
        Root,
    ),
    (
        "make one in an allowed path",
        "os.mknod(E['ALLOWED'] + '/null', stat.S_IFCHR, os.makedev(1, 3))",
        Root,
    ),
    (
        "make a disk",
        "os.mknod('disk', stat.S_IFBLK | 0o600, os.makedev(254, 0))",
        Root,
    ),
    (
        "make one in a user namespace",
        "nested(NEW_MOUNTS); os.mknod('null2', stat.S_IFCHR | 0o666, os.makedev(1, 3))",
        Nobody,
    ),
    (
        "open any disk",
        "any(os.path.exists('/dev/' + n) and os.open('/dev/' + n, os.O_RDONLY) for n in os.listdir('/sys/block')) or raw(-1)",
        Nobody,
    ),
    (
        "open the memory",
        "os.open('/dev/mem', os.O_RDONLY)",
        Nobody,
    ),
    (
        "open the kernel's memory",
        "os.open('/proc/kcore', os.O_RDONLY); open('/proc/kcore', 'rb').read(1)[0]",
        Nobody,
    ),
    (
        "open the FUSE device",
        "os.open('/dev/fuse', os.O_RDWR)",
        Everyone,
    ),
    ("give itself I/O ports", "raw(172, 3)", Nobody),
];

#[test]
#[cfg(target_arch = "x86_64")]
#[cfg_attr(missing_python3, ignore = "skipped: python3 is not installed")]
fn no_device_is_reached() {
    check(DEVICES, Setting::default());
}

const SETTINGS: &[Attempt] = &[
    (
        "write a sysctl",
        "swap_value('/proc/sys/kernel/printk')",
        Root,
    ),
    (
        "set the core handler",
        "swap_value('/proc/sys/kernel/core_pattern')",
        Root,
    ),
    (
        "write one by way of a process",
        "swap_value('/proc/self/root/proc/sys/kernel/printk')",
        Root,
    ),
    (
        "magic SysRq",
        "os.open('/proc/sysrq-trigger', os.O_WRONLY)",
        Nobody,
    ),
    (
        "set the interrupts' processors",
        "swap_value(sorted(glob.glob('/proc/irq/*/smp_affinity'))[0])",
        Nobody,
    ),
    (
        "write to sysfs",
        "swap_value('/sys/module/kernel/parameters/panic')",
        Root,
    ),
    (
        "change modes in sysfs",
        "os.chmod('/sys/module/kernel/parameters/panic', 0o644)",
        Root,
    ),
    (
        "abort a FUSE connection",
        "open(glob.glob('/sys/fs/fuse/connections/*/abort')[0], 'w').write('1')",
        Nobody,
    ),
    (
        "mount a control group file system",
        "nested(NEW_MOUNTS); raw(165, b'x', b'/mnt', b'cgroup2', 0, 0)",
        Nobody,
    ),
    (
        "make a control group",
        "os.mkdir(E['GROUP'] + '/new'); os.rmdir(E['GROUP'] + '/new')",
        Root,
    ),
    (
        "join one by cgroup.procs",
        "open(E['GROUP'] + '/cgroup.procs', 'w').write('0')",
        Root,
    ),
    ("join one by clone3", "clone_into(E['GROUP'])", Root),
    (
        "limit one",
        "open(E['GROUP'] + '/cgroup.max.depth', 'w').write('7')",
        Root,
    ),
    (
        "set a release agent",
        "open(glob.glob('/sys/fs/cgroup/*/release_agent')[0], 'w').write('/tmp/x')",
        Nobody,
    ),
    (
        "set the clock",
        "raw(227, 0, struct.pack('qq', 1, 0))",
        Nobody,
    ),
    (
        "set the host's name",
        "socket.sethostname('escaped')",
        Nobody,
    ),
    (
        "set the host's name in a namespace of its own",
        "nested(0x04000000); socket.sethostname('escaped')",
        Everyone,
    ),
    ("load a module", "raw(313, 0, b'', 0)", Nobody),
    ("load a kernel", "raw(246, 0, 0, 0, 0)", Nobody),
    ("turn off swap", "raw(168, b'/x')", Nobody),
    (
        "read the kernel's log",
        "raw(103, 3, ctypes.create_string_buffer(64), 64)",
        Root,
    ),
];

#[test]
#[cfg(target_arch = "x86_64")]
#[cfg_attr(missing_python3, ignore = "skipped: python3 is not installed")]
fn the_kernels_settings_stay_as_they_are() {
    check(SETTINGS, Setting::default());
}

const KERNEL: &[Attempt] = &[
    ("io_uring", "raw(425, 8, bytes(120))", Root),
    ("userfaultfd", "raw(323, 1)", Root),
    (
        "userfaultfd by its device",
        "os.open('/dev/userfaultfd', os.O_RDWR)",
        Nobody,
    ),
    (
        "bpf",
        "raw(321, 0, struct.pack('IIIII', 2, 4, 8, 1, 0) + bytes(108), 128)",
        Root,
    ),
    (
        "perf_event_open",
        "raw(298, struct.pack('IIQ', 1, 112, 0) + bytes(96), 0, -1, -1, 0)",
        Root,
    ),
    (
        "an x32 system call",
        "raw(0x40000000 + 20, 1, 0, 0)",
        Nobody,
    ),
    (
        "a 32-bit system call",
        "m = mmap.mmap(-1, 4096, prot=7); m.write(bytes.fromhex('b814000000cd80c3')); ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()",
        Nobody,
    ),
    (
        "become root",
        "os.getuid() or raw(-1); os.setuid(0)",
        Nobody,
    ),
    // Of module, raw I/O, tracing, administration, device nodes, file capabilities.
    (
        "have a capability over the machine",
        "have = [l.split()[1] for l in open('/proc/self/status') if l.startswith('CapEff')]; int(have[0], 16) & 0x882b0000 or raw(-1)",
        Root,
    ),
    (
        "do without no_new_privs",
        "sh('grep -q \"NoNewPrivs:.0\" /proc/self/status')",
        Everyone,
    ),
    (
        "do without a filter",
        "sh('grep -q \"Seccomp:.0\" /proc/self/status')",
        Nobody,
    ),
    (
        "execute what has no file",
        "fd = os.memfd_create('x'); os.write(fd, b'#!/bin/sh\\necho x > \"$FILE\"\\n'); sh(f'/proc/{os.getpid()}/fd/{fd}')",
        Everyone,
    ),
];

#[test]
#[cfg(target_arch = "x86_64")]
#[cfg_attr(missing_python3, ignore = "skipped: python3 is not installed")]
fn no_way_into_the_kernel_is_open() {
    check(KERNEL, Setting::default());
}

/// A set-user-ID program of root's does nothing for an ordinary user inside,
/// wherever it lies.
#[test]
#[cfg_attr(missing_root, ignore = "skipped: not root")]
fn set_user_id_programs_give_nothing() {
    let world = match World::new(Who::Ordinary) {
        Ok(world) => world,
        Err(why) => agentfs_tests::skip!("{why}"),
    };
    let places = [world.project.join("id"), world.dir.join("id")];
    for program in &places {
        fs::copy("/usr/bin/id", program).expect("a program");
        fs::set_permissions(program, fs::Permissions::from_mode(0o4755)).expect("a mode");
    }
    let both = format!("'{}' -u; '{}' -u", places[0].display(), places[1].display());
    let outside = world.run("sh").args(["-c", &both]).finish().ok();
    assert_eq!(outside.out(), "0\n0\n", "outside they are what they are");
    let inside = world.in_session("s", &both).finish().ok();
    let uid = world.account.uid;
    assert_eq!(inside.out(), format!("{uid}\n{uid}\n"));
}

/// What this kernel cannot do is said when a terminal joins, and only then.
#[test]
#[cfg_attr(missing_python3, ignore = "skipped: python3 is not installed")]
fn what_the_kernel_cannot_enforce_is_said() {
    as_everyone(|world| {
        let launch = world.dir.join("launch.py");
        fs::write(&launch, LAUNCH).expect("a file");
        let mut tty = match Tty::new(world) {
            Ok(tty) => tty,
            Err(why) => return agentfs_tests::skip::skipped(&why),
        };
        let run = |how: &str| {
            let launch = launch.display();
            format!(
                "python3 {launch} {how} $A run --session s -- echo in''side 2>&1 | grep -c Landlock"
            )
        };
        // A pipe is nobody who reads: not there.
        tty.line(&run("no-landlock"));
        tty.expect("0\r\n");
        let run = |how: &str| {
            let launch = launch.display();
            format!("python3 {launch} {how} $A run --session s -- echo in''side")
        };
        tty.line(&run("no-landlock"));
        tty.expect("this kernel has no Landlock");
        tty.expect("abstract Unix sockets");
        tty.expect("inside");
    });
}
