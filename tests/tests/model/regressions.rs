//! What random operations found once, kept as it was after shrinking.

use agentfs_core::overlay::{NewNode, RenameMode, SetAttr};
use agentfs_core::types::{FileKind, Owner};
use agentfs_testkit::base::{BaseEntry, BaseKind, BaseTree};
use agentfs_testkit::driver::Options;
use agentfs_testkit::op::{At, NamePick, Op, Pick, Position};
use agentfs_tests::worlds::MemoryWorld;

use super::CHUNK_BYTES;

/// An entry of the root, with the name of that index in the pool.
fn entry(name: usize, perm: u16, what: BaseKind) -> BaseEntry {
    BaseEntry {
        dir: 0,
        name,
        what,
        perm,
        owner: (0, 0),
        times: (0, 0),
        xattrs: Vec::new(),
    }
}

fn root_at(name: usize) -> At {
    At {
        dir: 0,
        name: NamePick::Pool(name),
    }
}

const HIDDEN: usize = 7;

fn bytes(n: i64) -> Position {
    Position {
        chunks: 0,
        delta: n,
    }
}

fn file(name: usize) -> Op {
    let node = NewNode {
        kind: FileKind::Regular,
        perm: 0o644,
        rdev: 0,
    };
    Op::Mknod {
        at: root_at(name),
        node,
        owner: Owner::default(),
    }
}

fn write(offset: i64, len: u16) -> Op {
    let (target, offset) = (Pick::File(0), bytes(offset));
    Op::Write {
        target,
        offset,
        len,
        seed: 1,
        kill_suid_sgid: false,
    }
}

#[track_caller]
fn check(base: Vec<BaseEntry>, ops: &[Op]) {
    let world = MemoryWorld::new(&BaseTree { entries: base }, CHUNK_BYTES);
    super::run(world, ops, Options::default()).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn regression_rename_of_nothing_to_a_hidden_name_finds_nothing() {
    let (from, to) = (root_at(0), root_at(HIDDEN));
    check(
        Vec::new(),
        &[Op::Rename {
            from,
            to,
            mode: RenameMode::Replace,
        }],
    );
}

#[test]
fn regression_set_group_id_of_a_directory_survives_a_change_of_owner() {
    let set = SetAttr {
        uid: Some(1),
        kill_suid_sgid: true,
        ..SetAttr::default()
    };
    let ops = [Op::SetAttr {
        target: Pick::Dir(1),
        set,
    }];
    check(vec![entry(0, 0o2775, BaseKind::Dir)], &ops);
}

#[test]
fn regression_copying_within_a_growing_file_ends_at_its_old_end() {
    let (from, to) = (Pick::File(0), Pick::File(0));
    let (from_offset, to_offset, len) = (bytes(0), bytes(192), bytes(192));
    let ops = [Op::CopyRange {
        from,
        from_offset,
        to,
        to_offset,
        len,
    }];
    check(
        vec![entry(0, 0o644, BaseKind::File(191, vec![(0, 191)]))],
        &ops,
    );
}

#[test]
fn regression_copying_keeps_set_user_id() {
    let (from, to) = (Pick::File(0), Pick::File(0));
    let (from_offset, to_offset, len) = (bytes(0), bytes(100), bytes(10));
    let ops = [Op::CopyRange {
        from,
        from_offset,
        to,
        to_offset,
        len,
    }];
    check(
        vec![entry(0, 0o6755, BaseKind::File(50, vec![(0, 50)]))],
        &ops,
    );
}

#[test]
fn regression_writing_nothing_past_the_end_changes_nothing() {
    check(Vec::new(), &[file(0), write(500, 0)]);
    check(
        vec![entry(0, 0o644, BaseKind::File(5, vec![(0, 5)]))],
        &[write(500, 0)],
    );
}

#[test]
fn regression_an_open_base_file_shows_when_it_was_unlinked() {
    let ops = [
        Op::Hold {
            target: Pick::File(0),
        },
        Op::Unlink { at: root_at(0) },
    ];
    check(vec![entry(0, 0o644, BaseKind::File(5, vec![(0, 5)]))], &ops);
}
