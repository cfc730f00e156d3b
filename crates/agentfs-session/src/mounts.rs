//! Mounts as values: detached trees that are cloned, restricted and put in
//! place. Used by the holder alone, inside its own mount namespace.
//!
//! Nothing here knows what the inside of a session looks like.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount, move_mount, open_tree,
};

use crate::sys;

/// Restrictions of a mount.
pub(crate) const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY;
/// As above.
pub(crate) const NO_SETUID: u64 = libc::MOUNT_ATTR_NOSUID;
/// As above.
pub(crate) const NO_DEVICES: u64 = libc::MOUNT_ATTR_NODEV;

/// A mount that is nowhere yet.
#[derive(Debug)]
pub(crate) struct Tree(OwnedFd);

impl Tree {
    /// A copy of what is mounted at `path` and below it.
    pub(crate) fn copy_of(path: &Path) -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
        Ok(Self(open_tree(CWD, path, flags)?))
    }

    /// A copy of what lies at `path` under an open directory.
    pub(crate) fn copy_at(dir: BorrowedFd<'_>, path: &Path) -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
        Ok(Self(open_tree(dir, path, flags)?))
    }

    /// A new file system that needs no source.
    pub(crate) fn new(
        kind: &str,
        options: &[(&str, &str)],
        attributes: MountAttrFlags,
    ) -> io::Result<Self> {
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(context.as_fd(), "source", kind)?;
        for (key, value) in options {
            fsconfig_set_string(context.as_fd(), *key, *value)?;
        }
        fsconfig_create(context.as_fd())?;
        Ok(Self(fsmount(
            context.as_fd(),
            FsMountFlags::FSMOUNT_CLOEXEC,
            attributes,
        )?))
    }

    /// An empty tmpfs.
    pub(crate) fn tmpfs(mode: &str, size: &str) -> io::Result<Self> {
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        Self::new("tmpfs", &[("mode", mode), ("size", size)], attributes)
    }

    /// Adds restrictions to all of it.
    pub(crate) fn restrict(self, attributes: u64) -> io::Result<Self> {
        sys::mount_setattr(self.0.as_fd(), true, attributes, 0)?;
        Ok(self)
    }

    /// Mounts it. The returned descriptor is its root.
    pub(crate) fn attach(self, target: &Path) -> io::Result<OwnedFd> {
        move_mount(
            self.0.as_fd(),
            "",
            CWD,
            target,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )?;
        Ok(self.0)
    }
}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Adds and removes restrictions of everything mounted at `path` and below it.
pub(crate) fn restrict_all(path: &Path, set: u64, clear: u64) -> io::Result<()> {
    let fd = open_path(path)?;
    sys::mount_setattr(fd.as_fd(), true, set, clear)
}

/// A file system by the classic system call.
pub(crate) fn mount_new(
    kind: &str,
    target: &Path,
    flags: MountFlags,
    options: &str,
) -> io::Result<()> {
    let options = std::ffi::CString::new(options)?;
    Ok(mount(
        kind.strip_prefix("fuse.").unwrap_or(kind),
        target,
        kind,
        flags,
        options.as_c_str(),
    )?)
}

/// Makes a read-only copy of a place cover it.
pub(crate) fn cover_read_only(path: &Path) -> io::Result<()> {
    Tree::copy_of(path)?.restrict(READ_ONLY)?.attach(path)?;
    Ok(())
}

/// A descriptor for a path that gives no access to what is there.
pub(crate) fn open_path(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        path,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Makes sure that something can be mounted at `path`, creating what is missing
/// where that is possible (inside the private directories).
pub(crate) fn ensure_mount_point(path: &Path, is_dir: bool) -> io::Result<()> {
    if let Ok(meta) = fs::symlink_metadata(path) {
        return if meta.is_dir() == is_dir && !meta.is_symlink() {
            Ok(())
        } else {
            Err(io::Error::other("something of another kind is there"))
        };
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(parent)?;
    if is_dir {
        fs::DirBuilder::new().mode(0o755).create(path)
    } else {
        fs::File::create_new(path).map(drop)
    }
}
