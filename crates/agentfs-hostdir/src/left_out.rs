//! [`LeftOut`]: the database that is there and neither shown nor opened. Must never
//! close a descriptor of it: see [`crate::HostDir::without_database`].

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use agentfs_core::{LowerPath, Name};
use rustix::fs::Stat;
use rustix::io::Errno;

/// What is there and not shown.
#[derive(Default)]
pub(crate) struct LeftOut {
    paths: Vec<LowerPath>,
    /// Device and inode.
    file: Option<(u64, u64)>,
    /// The `-shm`, on the host. Which file that is changes, see [`Self::is_index`].
    index: PathBuf,
}

/// SQLite's `-shm` is of whole pieces of this size (`WALINDEX_PGSZ`).
const SHM_PIECE_BYTES: i64 = 32 << 10;

impl LeftOut {
    /// As [`crate::HostDir::without_database`].
    pub(crate) fn database(
        directory: &Path,
        database: &Path,
        index: &Path,
        companions: &[&Path],
    ) -> Self {
        let within = |path: &&Path| {
            let path = path.strip_prefix(directory).ok()?;
            LowerPath::parse(path.as_os_str().as_bytes()).ok()
        };
        Self {
            paths: [database]
                .iter()
                .chain(companions)
                .filter_map(within)
                .collect(),
            file: identity(database),
            index: index.into(),
        }
    }

    pub(crate) fn has_path(&self, path: &LowerPath) -> bool {
        self.paths.contains(path)
    }

    pub(crate) fn has_entry(&self, dir: &LowerPath, name: &Name) -> bool {
        !self.paths.is_empty() && self.has_path(&dir.join(name))
    }

    pub(crate) fn is_file(&self, stat: &Stat) -> bool {
        self.file == Some((stat.st_dev, stat.st_ino)) || self.is_index(stat)
    }

    /// Whether it is the `-shm`, the one companion that locks are taken on, by whatever
    /// path: by another mount of its directory, say. It is asked for only where the size
    /// is that of one; what is looked at must not have to be read from the disk.
    fn is_index(&self, stat: &Stat) -> bool {
        let may_be = self.file.is_some_and(|(dev, _)| dev == stat.st_dev)
            && stat.st_size > 0
            && stat.st_size % SHM_PIECE_BYTES == 0;
        may_be && identity(&self.index) == Some((stat.st_dev, stat.st_ino))
    }

    /// Whether a listing's number may be that of the file: it says nothing of the
    /// device.
    pub(crate) fn may_have_number(&self, ino: u64) -> bool {
        self.file.is_some_and(|(_, left_out)| left_out == ino)
    }

    /// Whether an entry of a listing may be left out.
    pub(crate) fn may_be(&self, path: &LowerPath, ino: u64) -> bool {
        self.may_have_number(ino) || self.has_path(path)
    }

    /// ENOENT for a file that took the place of what was looked up and is left
    /// out. It stays open then: it is the closing that does the harm.
    pub(crate) fn refuse(&self, fd: OwnedFd, stat: &Stat) -> Result<OwnedFd, Errno> {
        if self.is_file(stat) {
            std::mem::forget(fd);
            return Err(Errno::NOENT);
        }
        Ok(fd)
    }
}

/// Device and inode of what is at a path of the host.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
