//! The system call filter of programs inside: the third wall, for what
//! namespaces and Landlock leave open. It denies by name what is known to reach
//! outside; it does not try to list what programs need.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op,
    SeccompCondition as Condition, SeccompFilter, SeccompRule as Rule, TargetArch, apply_filter,
    sock_filter,
};

/// What a filter must know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filter {
    /// Files of the host can be written: refuse to make set-user-ID files.
    pub(crate) real_files: bool,
    /// The session is root's: refuse to make set-group-ID files, too. (Others
    /// may need the bit on directories of a shared git repository.)
    pub(crate) root: bool,
}

type Rules = BTreeMap<i64, Vec<Rule>>;

#[allow(clippy::needless_pass_by_value)] // for map_err
fn backend(error: impl ToString) -> io::Error {
    io::Error::other(error.to_string())
}

/// Argument `index` equals `value` (32 bits).
fn equals(index: u8, value: u64) -> Result<Rule, io::Error> {
    let condition = Condition::new(index, Len::Dword, Op::Eq, value).map_err(backend)?;
    Rule::new(vec![condition]).map_err(backend)
}

/// Argument `index` has all bits of `mask`.
fn has_bits(index: u8, mask: u64) -> Result<Condition, io::Error> {
    Condition::new(index, Len::Dword, Op::MaskedEq(mask), mask).map_err(backend)
}

/// System calls refused with EPERM whatever their arguments: they change the
/// mount tree, the machine, or reach objects by other ways than a path.
const REFUSED: &[i64] = &[
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fsconfig,
    libc::SYS_fspick,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    SYS_OPEN_TREE_ATTR,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_open_by_handle_at,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_vhangup,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];

/// System calls that programs must take for not built into this kernel, so
/// that they fall back to what the filter can see into.
///
/// `clone3` among them because it puts a child into any control group whose
/// directory can be opened: the kernel then asks for the right to write to
/// `cgroup.procs`, and not whether that is on a read-only mount.
const ABSENT: &[i64] = &[
    libc::SYS_clone3,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

const TIOCSTI: u64 = libc::TIOCSTI;
/// `TIOCLINUX` of the console: pastes as TIOCSTI does.
const TIOCLINUX: u64 = 0x541C;
const F_SETLEASE: u64 = libc::F_SETLEASE.unsigned_abs() as u64;

fn refusals(filter: Filter) -> Result<Rules, io::Error> {
    let mut rules: Rules = REFUSED.iter().map(|&call| (call, vec![])).collect();
    // Typing into the terminal that was handed in.
    rules.insert(
        libc::SYS_ioctl,
        vec![equals(1, TIOCSTI)?, equals(1, TIOCLINUX)?],
    );
    // A lease on a file outside holds up whoever opens it there, for 45 s a time.
    rules.insert(libc::SYS_fcntl, vec![equals(1, F_SETLEASE)?]);
    let mut bits = Vec::new();
    if filter.real_files {
        bits.push(u64::from(libc::S_ISUID));
        if filter.root {
            bits.push(u64::from(libc::S_ISGID));
        }
    }
    for bit in bits {
        // System call and the argument that holds the mode.
        let mut modes = vec![
            (libc::SYS_fchmod, 1),
            (libc::SYS_fchmodat, 2),
            (SYS_FCHMODAT2, 2),
            (libc::SYS_mknodat, 2),
        ];
        #[cfg(target_arch = "x86_64")]
        modes.extend([
            (libc::SYS_chmod, 1),
            (libc::SYS_mknod, 1),
            (libc::SYS_creat, 1),
        ]);
        for (call, index) in modes {
            rules
                .entry(call)
                .or_default()
                .push(Rule::new(vec![has_bits(index, bit)?]).map_err(backend)?);
        }
        let mut opens = vec![(libc::SYS_openat, 2_u8)];
        #[cfg(target_arch = "x86_64")]
        opens.push((libc::SYS_open, 1));
        for (call, flags) in opens {
            for creating in [libc::O_CREAT, libc::O_TMPFILE & !libc::O_DIRECTORY] {
                let creating = u64::from(creating.unsigned_abs());
                let rule = Rule::new(vec![has_bits(flags, creating)?, has_bits(flags + 1, bit)?])
                    .map_err(backend)?;
                rules.entry(call).or_default().push(rule);
            }
        }
    }
    Ok(rules)
}

/// Since Linux 6.6; the same number on every architecture.
const SYS_FCHMODAT2: i64 = 452;
/// Since Linux 6.15; the same number on every architecture.
const SYS_OPEN_TREE_ATTR: i64 = 467;

fn absences(filter: Filter) -> Rules {
    let mut rules: Rules = ABSENT.iter().map(|&call| (call, vec![])).collect();
    if filter.real_files {
        // Its mode lies in memory, where no filter can look.
        rules.insert(libc::SYS_openat2, vec![]);
    }
    rules
}

fn compile(rules: Rules, errno: i32) -> Result<BpfProgram, io::Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(backend)?;
    let action = SeccompAction::Errno(errno.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, arch).map_err(backend)?;
    filter.try_into().map_err(backend)
}

/// x32 system calls have the same architecture as 64-bit ones and numbers of
/// their own: none of them.
fn without_x32(mut program: BpfProgram) -> BpfProgram {
    if cfg!(target_arch = "x86_64") {
        const LOAD_WORD_ABSOLUTE: u16 = 0x20;
        const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35;
        const RETURN: u16 = 0x06;
        const X32_BIT: u32 = 0x4000_0000;
        const RET_ERRNO: u32 = 0x0005_0000;
        let enosys = RET_ERRNO | libc::ENOSYS.unsigned_abs();
        let prefix = [
            sock_filter {
                code: LOAD_WORD_ABSOLUTE,
                jt: 0,
                jf: 0,
                k: 0,
            },
            sock_filter {
                code: JUMP_IF_GREATER_OR_EQUAL,
                jt: 0,
                jf: 1,
                k: X32_BIT,
            },
            sock_filter {
                code: RETURN,
                jt: 0,
                jf: 0,
                k: enosys,
            },
        ];
        program.splice(0..0, prefix);
    }
    program
}

/// Installs the filter on this thread and all programs it becomes.
pub(crate) fn install(filter: Filter) -> io::Result<()> {
    let absent = compile(absences(filter), libc::ENOSYS)?;
    let refused = without_x32(compile(refusals(filter)?, libc::EPERM)?);
    apply_filter(&absent).map_err(backend)?;
    apply_filter(&refused).map_err(backend)?;
    Ok(())
}
