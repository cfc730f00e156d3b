//! Random base trees: a description that can be built in memory and on the host
//! file system, so that both lower layers are tried on the same tree.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use agentfs_core::lower::MemoryLower;
use agentfs_core::types::{FileKind, Timestamp};
use proptest::collection::vec;
use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

use crate::op::name_pool;

/// A tree to start from: entries are added one by one.
#[derive(Clone, Debug)]
pub struct BaseTree {
    /// In order of creation.
    pub entries: Vec<BaseEntry>,
}

/// One entry to add.
#[derive(Clone, Debug)]
pub struct BaseEntry {
    /// Which of the directories so far (wrapping; 0 is the root).
    pub dir: usize,
    /// Which name of the pool (wrapping).
    pub name: usize,
    /// What it is.
    pub what: BaseKind,
    /// `st_mode & 07777`.
    pub perm: u16,
    /// User and group.
    pub owner: (u32, u32),
    /// Last access and change of content, seconds.
    pub times: (i64, i64),
    /// Extended attributes (of files and directories).
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What an entry is.
#[derive(Clone, Debug)]
pub enum BaseKind {
    /// A directory.
    Dir,
    /// A file of this size with these pieces of (offset, length) in it.
    File(u64, Vec<(u64, usize)>),
    /// A symbolic link.
    Symlink(Vec<u8>),
    /// A fifo, socket or device.
    Special(FileKind, u32),
    /// Another name for one of the files so far (wrapping).
    HardLink(usize),
}

/// Bytes that are never zero and differ from place to place.
#[must_use]
pub fn pattern(seed: u64, offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64)
        .map(|at| {
            let mixed = (at ^ seed.rotate_left(17)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            (mixed >> 56) as u8 | 1
        })
        .collect()
}

/// Random trees whose files have sizes around multiples of `chunk`.
pub fn base_tree(chunk: u64) -> impl Strategy<Value = BaseTree> {
    vec(base_entry(chunk), 0..14).prop_map(|entries| BaseTree { entries })
}

fn base_entry(chunk: u64) -> impl Strategy<Value = BaseEntry> {
    let size = (0..4u64, 0..3u64).prop_map(move |(n, d)| (n * chunk + d).saturating_sub(1));
    let small = size.prop_map(|size| BaseKind::File(size, vec![(0, size as usize)]));
    let holes = (0..4u64, 4..12u64).prop_map(move |(at, size)| {
        let size = size * chunk;
        let last = size - chunk / 2;
        BaseKind::File(size, vec![(at * chunk, 7), (last, (chunk / 2) as usize)])
    });
    let big = Just(BaseKind::File(
        (5 << 30) + 3,
        vec![(4 << 30, 100), ((5 << 30) - 2, 5)],
    ));
    let what = prop_oneof![
        6 => Just(BaseKind::Dir),
        6 => small,
        2 => holes,
        1 => big,
        2 => vec(1..=255u8, 1..40).prop_map(BaseKind::Symlink),
        1 => Just(BaseKind::Special(FileKind::Fifo, 0)),
        1 => Just(BaseKind::Special(FileKind::Socket, 0)),
        1 => Just(BaseKind::Special(FileKind::CharDevice, 0x0103)),
        3 => (0..8usize).prop_map(BaseKind::HardLink),
    ];
    let xattr = (
        prop_oneof![Just("user.a"), Just("user.b")],
        vec(any::<u8>(), 0..20),
    )
        .prop_map(|(name, value)| (name.as_bytes().to_vec(), value));
    let perm = prop_oneof![
        Just(0o644),
        Just(0o755),
        Just(0o600),
        Just(0o4755),
        Just(0o2775),
        Just(0o1777)
    ];
    (
        0..6usize,
        0..16usize,
        what,
        perm,
        (0..3u32, 0..3u32),
        (0..2_000_000_000i64, 0..1i64 << 33),
        vec(xattr, 0..3),
    )
        .prop_map(|(dir, name, what, perm, owner, times, xattrs)| BaseEntry {
            dir,
            name,
            what,
            perm,
            owner,
            times,
            xattrs,
        })
}

struct Placed<'a> {
    path: Vec<u8>,
    entry: &'a BaseEntry,
    what: Placement<'a>,
}

enum Placement<'a> {
    Own(&'a BaseKind),
    LinkTo(Vec<u8>),
}

fn name_without_hidden(index: usize) -> Vec<u8> {
    let pool = name_pool();
    pool[index % pool.len()].as_bytes().to_vec()
}

impl BaseTree {
    /// Where each entry goes; those whose name is taken are left out.
    fn place(&self) -> Vec<Placed<'_>> {
        let mut dirs: Vec<Vec<u8>> = vec![Vec::new()];
        let mut files: Vec<Vec<u8>> = Vec::new();
        let mut taken: HashMap<Vec<u8>, ()> = HashMap::new();
        let mut placed = Vec::new();
        for entry in &self.entries {
            let mut path = dirs[entry.dir % dirs.len()].clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend(name_without_hidden(entry.name));
            if taken.insert(path.clone(), ()).is_some() {
                continue;
            }
            let what = match &entry.what {
                BaseKind::HardLink(_) if files.is_empty() => continue,
                BaseKind::HardLink(of) => Placement::LinkTo(files[of % files.len()].clone()),
                own => Placement::Own(own),
            };
            match &entry.what {
                BaseKind::Dir => dirs.push(path.clone()),
                BaseKind::HardLink(_) => {}
                _ => files.push(path.clone()),
            }
            placed.push(Placed { path, entry, what });
        }
        placed
    }

    /// Builds the tree in memory.
    #[must_use]
    pub fn in_memory(&self) -> MemoryLower {
        let lower = MemoryLower::new();
        let placed = self.place();
        for Placed { path, entry, what } in &placed {
            match what {
                Placement::LinkTo(first) => lower.hard_link(first, path).map(drop).unwrap(),
                Placement::Own(BaseKind::Dir) => {
                    lower.dir(path, entry.perm).map(drop).unwrap();
                }
                Placement::Own(BaseKind::File(size, pieces)) => {
                    lower.sparse_file(path, entry.perm, *size).unwrap();
                    for &(offset, len) in pieces {
                        let data = pattern(*size, offset, len);
                        lower.write_at(path, offset, data).unwrap();
                    }
                    lower.truncate(path, *size).unwrap();
                }
                Placement::Own(BaseKind::Symlink(target)) => {
                    lower.symlink(path, target).map(drop).unwrap();
                }
                Placement::Own(BaseKind::Special(kind, rdev)) => {
                    lower
                        .special(path, *kind, entry.perm, *rdev)
                        .map(drop)
                        .unwrap();
                }
                Placement::Own(BaseKind::HardLink(_)) => {}
            }
        }
        for Placed { path, entry, what } in placed.iter().rev() {
            let Placement::Own(kind) = what else { continue };
            lower.set_owner(path, entry.owner.0, entry.owner.1).unwrap();
            if matches!(kind, BaseKind::Dir | BaseKind::File(..)) {
                for (name, value) in &entry.xattrs {
                    lower.set_xattr(path, name, value).unwrap();
                }
            }
            let (atime, mtime) = entry.timestamps();
            lower.set_times(path, atime, mtime).unwrap();
        }
        lower
    }

    /// Builds the tree in an existing, empty directory of the host. Needs root
    /// for owners and devices.
    pub fn on_host(&self, root: &Path) {
        let placed = self.place();
        for Placed { path, entry, what } in &placed {
            let path = root.join(OsStr::from_bytes(path));
            match what {
                Placement::LinkTo(first) => {
                    std::fs::hard_link(root.join(OsStr::from_bytes(first)), &path).unwrap();
                }
                Placement::Own(BaseKind::Dir) => std::fs::create_dir(&path).unwrap(),
                Placement::Own(BaseKind::File(size, pieces)) => {
                    let file = std::fs::File::create_new(&path).unwrap();
                    for &(offset, len) in pieces {
                        let data = pattern(*size, offset, len);
                        std::os::unix::fs::FileExt::write_all_at(&file, &data, offset).unwrap();
                    }
                    file.set_len(*size).unwrap();
                }
                Placement::Own(BaseKind::Symlink(target)) => {
                    std::os::unix::fs::symlink(OsStr::from_bytes(target), &path).unwrap();
                }
                Placement::Own(BaseKind::Special(kind, rdev)) => {
                    let kind = rustix::fs::FileType::from_raw_mode(kind.mode_bits());
                    let (major, minor) = (rdev >> 8 & 0xfff, rdev & 0xff);
                    let device = rustix::fs::makedev(major, minor);
                    let mode = Mode::from_raw_mode(entry.perm.into());
                    rustix::fs::mknodat(CWD, &path, kind, mode, device).unwrap();
                }
                Placement::Own(BaseKind::HardLink(_)) => {}
            }
        }
        for Placed { path, entry, what } in placed.iter().rev() {
            let Placement::Own(kind) = what else { continue };
            let path = root.join(OsStr::from_bytes(path));
            let (uid, gid) = (Uid::from_raw(entry.owner.0), Gid::from_raw(entry.owner.1));
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(CWD, &path, Some(uid), Some(gid), flags).unwrap();
            if !matches!(kind, BaseKind::Symlink(_)) {
                let mode = Mode::from_raw_mode(entry.perm.into());
                rustix::fs::chmodat(CWD, &path, mode, AtFlags::empty()).unwrap();
            }
            if matches!(kind, BaseKind::Dir | BaseKind::File(..)) {
                for (name, value) in &entry.xattrs {
                    let name = OsStr::from_bytes(name);
                    rustix::fs::lsetxattr(&path, name, value, XattrFlags::empty()).unwrap();
                }
            }
            let (atime, mtime) = entry.timestamps();
            let times = Timestamps {
                last_access: spec(atime),
                last_modification: spec(mtime),
            };
            rustix::fs::utimensat(CWD, &path, &times, flags).unwrap();
        }
    }
}

impl BaseEntry {
    fn timestamps(&self) -> (Timestamp, Timestamp) {
        (
            Timestamp::new(self.times.0, 1),
            Timestamp::new(self.times.1, 987_654_321),
        )
    }
}

fn spec(t: Timestamp) -> Timespec {
    Timespec {
        tv_sec: t.secs,
        tv_nsec: t.nanos.into(),
    }
}
