//! Walking below a directory descriptor without following anything.
//!
//! Must never open a component through a symbolic link, a magic link or `..`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

/// The longest piece of a path given to one system call, in bytes; below
/// `PATH_MAX`, so that trees of any depth can be walked in several steps.
const PIECE_MAX_BYTES: usize = 4000;
/// How often the kernel may ask to try again because somebody renamed a
/// directory above us while it walked.
const RETRIES_MAX: usize = 16;

/// How a directory is opened.
const DIRECTORY: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// What may not be on the way.
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// Set once the kernel has turned out to lack `openat2` (before 5.6, or a
/// seccomp filter that hides it).
static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

/// Opens the directory at `path` (names joined by `/`, not empty) below `root`
/// as `O_PATH`.
///
/// # Errors
/// ENOENT, ENOTDIR, ELOOP (a symbolic link on the way), or what the host says.
pub(crate) fn open_dir(root: impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    in_pieces(root.as_fd(), path, |dir, piece| {
        open_beneath(dir, piece, DIRECTORY)
    })
}

/// As [`open_dir`], and never onto another mount.
///
/// # Errors
/// EXDEV for that, ENOSYS where the kernel lacks `openat2`, and those of
/// [`open_dir`].
pub(crate) fn open_dir_on_same_mount(root: impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let resolve = RESOLVE | ResolveFlags::NO_XDEV;
    in_pieces(root.as_fd(), path, |dir, piece| {
        openat2(dir, piece, DIRECTORY, Mode::empty(), resolve)
    })
}

fn in_pieces(
    root: BorrowedFd<'_>,
    path: &[u8],
    open: impl Fn(BorrowedFd<'_>, &[u8]) -> Result<OwnedFd, Errno>,
) -> Result<OwnedFd, Errno> {
    let (first, mut rest) = cut(path);
    let mut dir = open(root, first)?;
    while !rest.is_empty() {
        let (piece, remaining) = cut(rest);
        dir = open(dir.as_fd(), piece)?;
        rest = remaining;
    }
    Ok(dir)
}

/// Splits off as many components as fit into one piece.
fn cut(path: &[u8]) -> (&[u8], &[u8]) {
    if path.len() <= PIECE_MAX_BYTES {
        return (path, &[]);
    }
    match path[..PIECE_MAX_BYTES].iter().rposition(|&b| b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        // No name is that long; let the host refuse it.
        None => (path, &[]),
    }
}

fn open_beneath(dir: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    if NO_OPENAT2.load(Ordering::Relaxed) {
        return open_each(dir, path, flags);
    }
    for _ in 0..RETRIES_MAX {
        match openat2(dir, path, flags, Mode::empty(), RESOLVE) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::NOSYS) => {
                NO_OPENAT2.store(true, Ordering::Relaxed);
                return open_each(dir, path, flags);
            }
            done => return done,
        }
    }
    open_each(dir, path, flags)
}

/// One component at a time: `O_NOFOLLOW | O_DIRECTORY` refuses symbolic links,
/// and a [`agentfs_core::LowerPath`] holds no `..`.
fn open_each(dir: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut names = path.split(|&b| b == b'/');
    let first = names.next().ok_or(Errno::INVAL)?;
    let mut at = openat(dir, first, flags, Mode::empty())?;
    for name in names {
        at = openat(&at, name, flags, Mode::empty())?;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_walk_agree() {
        let base = tempfile::tempdir().unwrap();
        let deep: Vec<_> = (0..40).map(|i| format!("{i:0>200}")).collect();
        let deep = deep.join("/");
        let root = OwnedFd::from(std::fs::File::open(base.path()).unwrap());
        let mut at = openat(&root, ".", OFlags::PATH, Mode::empty()).unwrap();
        for name in deep.split('/') {
            rustix::fs::mkdirat(&at, name, Mode::RWXU).unwrap();
            at = openat(&at, name, OFlags::PATH, Mode::empty()).unwrap();
        }
        std::os::unix::fs::symlink("/", base.path().join("out")).unwrap();
        std::fs::write(base.path().join("file"), "").unwrap();

        let ino = |fd: OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        assert!(deep.len() > 2 * PIECE_MAX_BYTES - 1);
        assert_eq!(open_dir(&root, deep.as_bytes()).map(ino), Ok(ino(at)));
        for (path, refused) in [
            ("out", [Errno::LOOP, Errno::NOTDIR]),
            ("out/etc", [Errno::LOOP, Errno::NOTDIR]),
            ("file", [Errno::NOTDIR, Errno::NOTDIR]),
            ("file/x", [Errno::NOTDIR, Errno::NOTDIR]),
            ("none/x", [Errno::NOENT, Errno::NOENT]),
        ] {
            for result in [
                open_dir(&root, path.as_bytes()),
                open_each(root.as_fd(), path.as_bytes(), flags),
            ] {
                let errno = result.expect_err(path);
                assert!(refused.contains(&errno), "{path}: {errno}");
            }
        }
    }
}
