//! Strategies: which operations are tried how often, and with what arguments.

use agentfs_core::overlay::{Fallocate, NewNode, RenameMode, SetAttr, SetTime, XattrMode};
use agentfs_core::types::{FileKind, Owner, Timestamp};
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;

use super::{At, NamePick, Op, Pick, Position};

/// Which kinds of operation are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    /// `O_TMPFILE`, `trusted.*` and what else no kernel passes on unchanged.
    pub library_only: bool,
    /// Handles, listings, restarts.
    pub lifecycle: bool,
    /// The largest number of bytes in one read or write.
    pub max_io_bytes: u16,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            library_only: true,
            lifecycle: true,
            max_io_bytes: 400,
        }
    }
}

/// A sequence of operations.
pub fn ops(weights: Weights, max: usize) -> impl Strategy<Value = Vec<Op>> {
    vec(op(weights), 1..max)
}

fn index() -> impl Strategy<Value = usize> {
    0..24usize
}

fn owner() -> impl Strategy<Value = Owner> {
    (0..3u32, 0..3u32).prop_map(|(uid, gid)| Owner { uid, gid })
}

fn perm() -> impl Strategy<Value = u16> {
    prop_oneof![4 => Just(0o644), 4 => Just(0o755), 1 => Just(0o2775), 1 => Just(0o6755), 1 => 0..0o10000u16]
}

fn dir() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), index()]
}

fn at(existing: u32) -> impl Strategy<Value = At> {
    let name = prop_oneof![
        10 => (0..16usize).prop_map(NamePick::Pool),
        existing => index().prop_map(NamePick::Existing),
    ];
    (dir(), name).prop_map(|(dir, name)| At { dir, name })
}

fn any_object() -> impl Strategy<Value = Pick> {
    prop_oneof![
        3 => index().prop_map(Pick::Any),
        1 => index().prop_map(Pick::Dir),
        2 => index().prop_map(Pick::File),
    ]
}

fn file() -> impl Strategy<Value = Pick> {
    index().prop_map(Pick::File)
}

fn position() -> impl Strategy<Value = Position> {
    let chunks = prop_oneof![4 => Just(0u64), 8 => 0..6u64, 1 => 60..80u64, 1 => Just(1 << 26)];
    let delta = prop_oneof![3 => Just(0i64), 3 => -2..3i64, 2 => 3..60i64];
    (chunks, delta).prop_map(|(chunks, delta)| Position { chunks, delta })
}

fn length() -> impl Strategy<Value = Position> {
    let chunks = prop_oneof![3 => Just(0u64), 8 => 0..4u64];
    let delta = prop_oneof![3 => Just(0i64), 3 => -2..3i64, 3 => 3..60i64];
    (chunks, delta).prop_map(|(chunks, delta)| Position { chunks, delta })
}

fn timestamp() -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        4 => (0..2_000_000_000i64, 0..1_000_000_000u32),
        1 => Just((13_569_465_600, 999_999_999)), // 2400-01-01
        1 => Just((-5, 1)),
    ]
    .prop_map(|(secs, nanos)| Timestamp::new(secs, nanos))
}

fn set_time() -> impl Strategy<Value = SetTime> {
    prop_oneof![1 => Just(SetTime::Now), 2 => timestamp().prop_map(SetTime::At)]
}

fn set_attr() -> impl Strategy<Value = SetAttr> {
    prop_oneof![
        perm().prop_map(|perm| SetAttr {
            perm: Some(perm),
            ..SetAttr::default()
        }),
        (
            weighted(0.7, 0..3u32),
            weighted(0.7, 0..3u32),
            any::<bool>()
        )
            .prop_map(|(uid, gid, kill_suid_sgid)| SetAttr {
                uid,
                gid,
                kill_suid_sgid,
                ..SetAttr::default()
            }),
        (weighted(0.8, set_time()), weighted(0.8, set_time())).prop_map(|(atime, mtime)| SetAttr {
            atime,
            mtime,
            ..SetAttr::default()
        }),
    ]
}

fn rename_mode() -> impl Strategy<Value = RenameMode> {
    prop_oneof![
        5 => Just(RenameMode::Replace),
        1 => Just(RenameMode::NoReplace),
        2 => Just(RenameMode::Exchange),
    ]
}

fn node() -> impl Strategy<Value = NewNode> {
    let kind = prop_oneof![
        8 => Just(FileKind::Regular),
        1 => Just(FileKind::Fifo),
        1 => Just(FileKind::Socket),
        1 => Just(FileKind::CharDevice),
        1 => Just(FileKind::BlockDevice),
    ];
    (kind, perm()).prop_map(|(kind, perm)| {
        let is_device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
        NewNode {
            kind,
            perm,
            rdev: if is_device { 0x0507 } else { 0 },
        }
    })
}

fn fallocate() -> impl Strategy<Value = Fallocate> {
    prop_oneof![
        Just(Fallocate::Allocate),
        Just(Fallocate::KeepSize),
        Just(Fallocate::PunchHole),
        any::<bool>().prop_map(|keep_size| Fallocate::ZeroRange { keep_size }),
    ]
}

fn xattr_mode() -> impl Strategy<Value = XattrMode> {
    prop_oneof![
        3 => Just(XattrMode::Set),
        1 => Just(XattrMode::Create),
        1 => Just(XattrMode::Replace),
    ]
}

/// One operation.
pub fn op(weights: Weights) -> BoxedStrategy<Op> {
    let max_io = weights.max_io_bytes;
    let names = prop_oneof![
        4 => (at(1), node(), owner()).prop_map(|(at, node, owner)| Op::Mknod { at, node, owner }),
        4 => (at(1), perm(), owner()).prop_map(|(at, perm, owner)| Op::Mkdir { at, perm, owner }),
        1 => (at(1), vec(1..=255u8, 1..30), owner())
            .prop_map(|(at, target, owner)| Op::Symlink { at, target, owner }),
        3 => (any_object(), at(1)).prop_map(|(from, at)| Op::Link { from, at }),
        5 => at(30).prop_map(|at| Op::Unlink { at }),
        4 => at(30).prop_map(|at| Op::Rmdir { at }),
        9 => (at(40), at(10), rename_mode())
            .prop_map(|(from, to, mode)| Op::Rename { from, to, mode }),
    ];
    let content = prop_oneof![
        2 => (any_object(), position(), any::<bool>()).prop_map(
            |(target, size, kill_suid_sgid)| Op::Truncate { target, size, kill_suid_sgid }
        ),
        2 => (file(), position(), 0..max_io)
            .prop_map(|(target, offset, len)| Op::Read { target, offset, len }),
        6 => (file(), position(), prop_oneof![1..40u16, 0..max_io], any::<u64>(), any::<bool>())
            .prop_map(|(target, offset, len, seed, kill_suid_sgid)| Op::Write {
                target, offset, len, seed, kill_suid_sgid
            }),
        3 => (file(), fallocate(), position(), length())
            .prop_map(|(target, mode, offset, len)| Op::Fallocate { target, mode, offset, len }),
        2 => (file(), position(), file(), position(), length()).prop_map(
            |(from, from_offset, to, to_offset, len)| Op::CopyRange {
                from, from_offset, to, to_offset, len
            }
        ),
    ];
    let attributes = prop_oneof![
        3 => (any_object(), set_attr()).prop_map(|(target, set)| Op::SetAttr { target, set }),
        2 => (any_object(), index(), vec(any::<u8>(), 0..50), xattr_mode()).prop_map(
            |(target, name, value, mode)| Op::SetXattr { target, name, value, mode }
        ),
        1 => (any_object(), index())
            .prop_map(|(target, name)| Op::RemoveXattr { target, name }),
    ];
    let lifecycle = prop_oneof![
        4 => any_object().prop_map(|target| Op::Hold { target }),
        3 => index().prop_map(|handle| Op::Release { handle }),
        1 => any_object().prop_map(|target| Op::Fsync { target }),
        2 => index().prop_map(|dir| Op::StreamOpen { dir }),
        6 => (index(), 1..4usize).prop_map(|(stream, entries)| Op::StreamStep { stream, entries }),
        1 => Just(Op::ForgetAll),
        1 => index().prop_map(|dir| Op::Invalidate { dir }),
        1 => Just(Op::Reopen),
    ];
    let tmpfile =
        (index(), perm(), owner()).prop_map(|(dir, perm, owner)| Op::Tmpfile { dir, perm, owner });
    let optional = |wanted: bool, weight: u32| if wanted { weight } else { 0 };
    proptest::strategy::Union::new_weighted(
        [
            (30, names.boxed()),
            (16, content.boxed()),
            (7, attributes.boxed()),
            (optional(weights.lifecycle, 14), lifecycle.boxed()),
            (optional(weights.library_only, 1), tmpfile.boxed()),
        ]
        .into_iter()
        .filter(|(weight, _)| *weight > 0)
        .collect::<Vec<_>>(),
    )
    .boxed()
}
