//! System calls that no safe crate offers: clone, signals, `mount_setattr`,
//! `close_range`. The only unsafe code of this crate.
//!
//! Nothing here decides anything.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A process number on the host.
pub(crate) type RawPid = i32;

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Ends this process at once, without running anything at exit.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

fn run_child(child: impl FnOnce() -> i32) -> ! {
    // A panic must not unwind into the copy of the parent's stack.
    exit_now(catch_unwind(AssertUnwindSafe(child)).unwrap_or(125))
}

/// Forks; the child runs `child` and exits with what it returns.
///
/// In a process with several threads `child` may only do what is safe after
/// fork (memory allocation is, with glibc and musl; other threads' locks are not).
pub(crate) fn fork(child: impl FnOnce() -> i32) -> io::Result<RawPid> {
    // SAFETY: the child gets a copy of the address space and leaves by _exit.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => run_child(child),
        pid => Ok(pid),
    }
}

/// Clones with `CLONE_*` flags that create namespaces or choose the parent
/// (never ones that share memory). For processes with one thread only.
pub(crate) fn clone(flags: i32, child: impl FnOnce() -> i32) -> io::Result<RawPid> {
    let forbidden = libc::CLONE_VM
        | libc::CLONE_VFORK
        | libc::CLONE_THREAD
        | libc::CLONE_SIGHAND
        | libc::CLONE_FILES;
    if flags & forbidden != 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let flags = libc::c_long::from(flags | libc::SIGCHLD);
    // SAFETY: no memory is shared and no stack is passed, so this is a fork;
    // the child leaves by _exit.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })?;
    match i32::try_from(pid) {
        Ok(0) => run_child(child),
        Ok(pid) => Ok(pid),
        Err(_) => Err(io::Error::from_raw_os_error(libc::EOVERFLOW)),
    }
}

/// What a detached program gets.
pub(crate) struct Detached<'a> {
    pub(crate) program: &'a CStr,
    pub(crate) args: &'a [CString],
    pub(crate) env: &'a [CString],
    /// Becomes descriptor 0 and 1.
    pub(crate) null: BorrowedFd<'a>,
    /// Becomes descriptor 2.
    pub(crate) log: BorrowedFd<'a>,
    /// Becomes descriptor 3.
    pub(crate) control: BorrowedFd<'a>,
}

/// Starts a program away from the terminal and in a process group of its own, as no
/// child of ours, with four descriptors, working directory `/` and no signal blocked.
///
/// It stays in this process session: one of its own, setsid(2), is scheduled as a group of
/// its own (sched(7), "autogroup"), and where the two sides of a request are of two groups,
/// each change between them costs more.
pub(crate) fn spawn_detached(what: &Detached<'_>) -> io::Result<()> {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings
            .iter()
            .map(|s| s.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let args = pointers(what.args);
    let env = pointers(what.env);
    let fds = [
        what.null.as_raw_fd(),
        what.null.as_raw_fd(),
        what.log.as_raw_fd(),
        what.control.as_raw_fd(),
    ];
    let pid = fork(|| {
        // SAFETY: only async-signal-safe calls from here to execve; the
        // pointers stay valid, they are owned above.
        unsafe {
            if libc::setpgid(0, 0) < 0 {
                return 1;
            }
            let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK | libc::O_CLOEXEC;
            let terminal = libc::open(c"/dev/tty".as_ptr(), flags);
            // Without one there is nothing to leave.
            if terminal >= 0 && libc::ioctl(terminal, libc::TIOCNOTTY) < 0 {
                return 1;
            }
            match libc::fork() {
                0 => exec_with_fds(what.program, &args, &env, fds),
                -1 => 1,
                _ => 0,
            }
        }
    })?;
    match wait_exit(pid)? {
        0 => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::EAGAIN)),
    }
}

/// # Safety
/// `args` and `env` must be null-terminated arrays of valid C strings.
unsafe fn exec_with_fds(
    program: &CStr,
    args: &[*const libc::c_char],
    env: &[*const libc::c_char],
    fds: [RawFd; 4],
) -> ! {
    // SAFETY: plain system calls on descriptors of this process; the caller
    // vouches for the arrays.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
        // Lift them out of 0 to 3 first, so that none overwrites another.
        let mut lifted = [-1; 4];
        for (to, &from) in lifted.iter_mut().zip(&fds) {
            *to = libc::fcntl(from, libc::F_DUPFD, 10);
            if *to < 0 {
                libc::_exit(1);
            }
        }
        for (target, &from) in (0..).zip(&lifted) {
            if libc::dup2(from, target) < 0 {
                libc::_exit(1);
            }
        }
        libc::syscall(libc::SYS_close_range, 4, u32::MAX, 0);
        if libc::chdir(c"/".as_ptr()) < 0 {
            libc::_exit(1);
        }
        libc::execve(program.as_ptr(), args.as_ptr(), env.as_ptr());
        libc::_exit(1)
    }
}

fn wait_exit(pid: RawPid) -> io::Result<i32> {
    let mut status = 0;
    loop {
        // SAFETY: status is a valid place for the result.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } >= 0 {
            return Ok(if libc::WIFEXITED(status) {
                libc::WEXITSTATUS(status)
            } else {
                255
            });
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Takes over a descriptor this program was started with.
pub(crate) fn inherited_fd(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only looks.
    check(libc::c_long::from(unsafe {
        libc::fcntl(number, libc::F_GETFD)
    }))?;
    // SAFETY: it is open, and by the protocol of `spawn_detached` nobody else
    // in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Marks every descriptor from `first` up close-on-exec.
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: changes flags only.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}

/// `struct mount_attr` of `linux/mount.h`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// `mount_setattr(2)` on a mount given by descriptor (and all below it).
pub(crate) fn mount_setattr(
    mount: BorrowedFd<'_>,
    recursive: bool,
    set: u64,
    clear: u64,
) -> io::Result<()> {
    let attr = MountAttr {
        set,
        clear,
        propagation: 0,
        userns_fd: 0,
    };
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is a C string, attr is valid for its size.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })?;
    Ok(())
}

/// `kill(2)`, with 0 and negative numbers as there. Signal 0 only asks.
pub(crate) fn kill(pid: RawPid, signal: i32) -> io::Result<()> {
    // SAFETY: no memory involved.
    check(libc::c_long::from(unsafe { libc::kill(pid, signal) }))?;
    Ok(())
}

/// `setpgid(2)`.
pub(crate) fn set_process_group(pid: RawPid, group: RawPid) -> io::Result<()> {
    // SAFETY: no memory involved.
    check(libc::c_long::from(unsafe { libc::setpgid(pid, group) }))?;
    Ok(())
}

/// Sets a signal to its default action, or to be ignored.
pub(crate) fn set_signal_default(signal: i32) {
    // SAFETY: SIG_DFL runs no code of ours.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// A set of signals.
#[derive(Clone, Copy)]
pub(crate) struct SignalSet(libc::sigset_t);

/// A signal that arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signal {
    pub(crate) number: i32,
    /// Sent by the kernel (a terminal's Ctrl-C), not by a process.
    pub(crate) from_kernel: bool,
}

impl SignalSet {
    pub(crate) fn new(signals: &[i32]) -> Self {
        // SAFETY: sigemptyset initialises the set, sigaddset changes it.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for &signal in signals {
                libc::sigaddset(&raw mut set, signal);
            }
            Self(set)
        }
    }

    pub(crate) fn all() -> Self {
        // SAFETY: sigfillset initialises the set.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut set);
            Self(set)
        }
    }

    fn mask(how: i32, set: &Self) -> io::Result<Self> {
        let mut old = Self::new(&[]);
        // SAFETY: both sets are valid.
        match unsafe { libc::pthread_sigmask(how, &raw const set.0, &raw mut old.0) } {
            0 => Ok(old),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Blocks these; returns what was blocked before.
    pub(crate) fn block(&self) -> io::Result<Self> {
        Self::mask(libc::SIG_BLOCK, self)
    }

    /// Lets these through.
    pub(crate) fn unblock(&self) -> io::Result<Self> {
        Self::mask(libc::SIG_UNBLOCK, self)
    }

    /// Makes this the set of blocked signals.
    pub(crate) fn set_mask(&self) -> io::Result<Self> {
        Self::mask(libc::SIG_SETMASK, self)
    }

    /// Waits for one of these (which must be blocked) and takes it.
    pub(crate) fn wait(&self) -> io::Result<Signal> {
        loop {
            // SAFETY: an all-zero siginfo is valid; the call fills it.
            let (number, info) = unsafe {
                let mut info: libc::siginfo_t = std::mem::zeroed();
                (libc::sigwaitinfo(&raw const self.0, &raw mut info), info)
            };
            if number > 0 {
                return Ok(Signal {
                    number,
                    from_kernel: info.si_code == libc::SI_KERNEL,
                });
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// A descriptor that becomes readable when one of these (which must be
    /// blocked) arrives.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        // SAFETY: the set is valid; the result is a new descriptor.
        unsafe {
            let fd = check(libc::c_long::from(libc::signalfd(
                -1,
                &raw const self.0,
                libc::SFD_CLOEXEC | libc::SFD_NONBLOCK,
            )))?;
            let fd = RawFd::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
            Ok(OwnedFd::from_raw_fd(fd))
        }
    }
}

/// Takes one signal from a descriptor of [`SignalSet::descriptor`], if one waits.
pub(crate) fn take_signal(fd: &OwnedFd) -> Option<i32> {
    let mut buffer = [0_u8; size_of::<libc::signalfd_siginfo>()];
    let read = rustix::io::read(fd, &mut buffer).ok()?;
    if read < buffer.len() {
        return None;
    }
    let (number, _) = buffer.split_first_chunk::<4>()?;
    i32::try_from(u32::from_ne_bytes(*number)).ok()
}

/// Closes every descriptor above 2 but one. For a child that will not return.
pub(crate) fn close_all_but(keep: BorrowedFd<'_>) {
    let keep = u32::try_from(keep.as_raw_fd()).unwrap_or(0);
    // SAFETY: the caller's child owns nothing it will use again but `keep`.
    unsafe {
        if keep > 3 {
            libc::syscall(libc::SYS_close_range, 3, keep - 1, 0);
        }
        libc::syscall(
            libc::SYS_close_range,
            keep.saturating_add(1).max(3),
            u32::MAX,
            0,
        );
    }
}

/// Sets the close-on-exec flag of a descriptor known by number only.
pub(crate) fn set_close_on_exec(number: RawFd) {
    // SAFETY: changes a flag only; an error means there is no such descriptor.
    unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
}

/// What a descriptor known by number refers to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Described {
    /// The type bits of its mode.
    pub(crate) kind: u32,
    /// It was opened with `O_PATH`.
    pub(crate) is_path: bool,
    /// It was opened for writing.
    pub(crate) is_written: bool,
    /// It has a name in some directory.
    pub(crate) has_name: bool,
}

impl Described {
    /// A file of the host that gets what programs print; one without a name is
    /// nobody else's.
    pub(crate) fn is_real_output(self) -> bool {
        self.kind == libc::S_IFREG && self.is_written && self.has_name
    }
}

/// Looks what a descriptor known by number refers to. `None`: it is not open.
pub(crate) fn describe_fd(number: RawFd) -> Option<Described> {
    // SAFETY: an all-zero stat is valid, the calls only look.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        if libc::fstat(number, &raw mut stat) < 0 {
            return None;
        }
        let flags = libc::fcntl(number, libc::F_GETFL);
        Some(Described {
            kind: stat.st_mode & libc::S_IFMT,
            is_path: flags & libc::O_PATH != 0,
            is_written: flags & libc::O_ACCMODE != libc::O_RDONLY,
            has_name: stat.st_nlink > 0,
        })
    }
}

/// The version of Landlock this kernel has.
pub(crate) fn landlock_version() -> io::Result<libc::c_long> {
    const CREATE_RULESET_VERSION: libc::c_long = 1;
    // SAFETY: with this flag the call takes no structure and only answers.
    check(unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0,
            CREATE_RULESET_VERSION,
        )
    })
}

/// Closes a descriptor known by number. For a child that will not return to
/// whoever owned it.
pub(crate) fn close(number: RawFd) {
    // SAFETY: as said, nobody in this process uses it again.
    unsafe { libc::close(number) };
}
