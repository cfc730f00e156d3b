//! Rows of inodes, packed: a million of them in some ten MiB.
//!
//! Neighbours in number were mostly made one after the other and differ in
//! little, so they are kept in groups, each row as its difference from the one
//! before. A row is taken out by undoing at most a group of differences, which
//! costs less than a microsecond; SQLite needs nine for a row. Whoever asks for
//! one neighbour after the other, as most do, pays for one difference each.
//! Bounded by bytes. Must give back exactly the row that was put in, or nothing.

use agentfs_core::storage::{InodeRow, Origin};
use agentfs_core::{FileKind, Ino, Timestamp};
use foldhash::fast::RandomState;

use super::Lru;
use super::varint::{self, Bytes};

/// Rows per group: as many as `Group::present` has bits.
const GROUP: u8 = 32;
/// What all rows may take.
const BYTES_MAX: usize = 24 << 20;
/// What a group costs beside its rows, and an origin beside its path, roughly.
const GROUP_COST_BYTES: usize = 144;
const ORIGIN_COST_BYTES: usize = size_of::<(u8, Origin)>() + 32;

/// A change to one row; `None`: there is none any more.
pub(super) type Change<'a> = (Ino, Option<&'a InodeRow>);

pub(super) struct Inodes {
    groups: Lru<u64, Group>,
    bytes: usize,
    bytes_max: usize,
    /// Where the last row was taken out; gone with the next change.
    cursor: Option<Cursor>,
}

/// A row of a group, without its origin, and where the next one begins.
struct Cursor {
    group: u64,
    row: InodeRow,
    /// Rows taken out so far: this one and those before.
    rows: u32,
    /// Of the packed bytes, those that follow.
    rest_bytes: usize,
}

#[derive(Default)]
struct Group {
    /// Which rows are here, a bit each.
    present: u32,
    /// These rows, in order.
    packed: Box<[u8]>,
    /// Those among them that were copied up, by place in the group.
    origins: Box<[(u8, Origin)]>,
}

impl Inodes {
    pub(super) fn new() -> Self {
        Self::with_bytes_max(BYTES_MAX)
    }

    fn with_bytes_max(bytes_max: usize) -> Self {
        Self {
            groups: Lru::unbounded_with_hasher(RandomState::default()),
            bytes: 0,
            bytes_max,
            cursor: None,
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::with_bytes_max(self.bytes_max);
    }

    pub(super) fn get(&mut self, ino: Ino) -> Option<InodeRow> {
        let (key, place) = (group(ino), place(ino));
        let group = self.groups.get(&key)?;
        let rows = group.rows_to(place)?;
        let cursor = self.cursor.take();
        let mut cursor = cursor
            .filter(|cursor| cursor.group == key && cursor.rows <= rows)
            .unwrap_or_else(|| Cursor::before(key, group));
        cursor.advance(rows, group);
        let row = InodeRow {
            origin: group.origin(place).cloned(),
            ..cursor.row
        };
        self.cursor = Some(cursor);
        Some(row)
    }

    pub(super) fn contains(&self, ino: Ino) -> bool {
        let group = self.groups.peek(&group(ino));
        group.is_some_and(|group| group.rows_to(place(ino)).is_some())
    }

    pub(super) fn put(&mut self, ino: Ino, row: &InodeRow) {
        self.change(&[(ino, Some(row))]);
    }

    /// Takes over changes to rows of one group, ascending.
    pub(super) fn change(&mut self, changes: &[Change<'_>]) {
        let Some((ino, _)) = changes.first() else {
            return;
        };
        let key = group(*ino);
        self.cursor = None;
        let before = match self.groups.peek(&key) {
            Some(group) => group,
            None if changes.iter().all(|(_, row)| row.is_none()) => return,
            None => &Group::default(),
        };
        let after = before.changed(changes);
        if after.present == 0 {
            self.forget(key);
            return;
        }
        self.bytes += after.cost_bytes();
        if let Some(before) = self.groups.put(key, after) {
            self.bytes -= before.cost_bytes();
        }
        while self.bytes > self.bytes_max {
            let Some((_, group)) = self.groups.pop_lru() else {
                break;
            };
            self.bytes -= group.cost_bytes();
        }
    }

    fn forget(&mut self, key: u64) {
        if let Some(group) = self.groups.pop(&key) {
            self.bytes -= group.cost_bytes();
        }
    }
}

/// Changes to any rows, by group.
pub(super) fn by_group<'a, 'b>(
    changes: &'b mut [Change<'a>],
) -> impl Iterator<Item = &'b [Change<'a>]> {
    changes.sort_unstable_by_key(|(ino, _)| *ino);
    changes.chunk_by(|(a, _), (b, _)| group(*a) == group(*b))
}

impl Cursor {
    fn before(key: u64, group: &Group) -> Self {
        Self {
            group: key,
            row: blank(),
            rows: 0,
            rest_bytes: group.packed.len(),
        }
    }

    /// Goes on to the row that is the last of `rows`.
    fn advance(&mut self, rows: u32, group: &Group) {
        let from = group.packed.len() - self.rest_bytes;
        let mut bytes = Bytes(&group.packed[from..]);
        for _ in self.rows..rows {
            unpack(&mut bytes, &mut self.row);
        }
        (self.rows, self.rest_bytes) = (rows, bytes.0.len());
    }
}

impl Group {
    fn cost_bytes(&self) -> usize {
        let paths = self.origins.iter().map(|(_, origin)| &origin.path);
        let paths: usize = paths.map(|path| path.as_bytes().len()).sum();
        GROUP_COST_BYTES + self.packed.len() + self.origins.len() * ORIGIN_COST_BYTES + paths
    }

    /// How many rows there are up to this place, if there is one at it.
    fn rows_to(&self, place: u8) -> Option<u32> {
        let is_here = self.present & bit(place) != 0;
        is_here.then(|| (self.present & (bit(place) - 1)).count_ones() + 1)
    }

    fn origin(&self, place: u8) -> Option<&Origin> {
        let mut origins = self.origins.iter();
        let (_, origin) = origins.find(|(at, _)| *at == place)?;
        Some(origin)
    }

    fn changed(&self, changes: &[Change<'_>]) -> Self {
        let mut bytes = Bytes(&self.packed);
        let (mut old, mut last) = (blank(), blank());
        let (mut present, mut packed, mut origins) = (0, Vec::new(), Vec::new());
        let mut changes = changes.iter().peekable();
        for at in 0..GROUP {
            let was_here = self.present & bit(at) != 0;
            if was_here {
                unpack(&mut bytes, &mut old);
            }
            let (row, origin) = match changes.next_if(|(ino, _)| place(*ino) == at) {
                Some((_, None)) => continue,
                Some((_, Some(row))) => (*row, row.origin.as_ref()),
                None if was_here => (&old, self.origin(at)),
                None => continue,
            };
            present |= bit(at);
            pack(&mut packed, &last, row);
            origins.extend(origin.map(|origin| (at, origin.clone())));
            last = InodeRow {
                origin: None,
                ..*row
            };
        }
        Self {
            present,
            packed: packed.into(),
            origins: origins.into(),
        }
    }
}

/// The group that a row is in, and where.
fn group(ino: Ino) -> u64 {
    ino.0 / u64::from(GROUP)
}

fn place(ino: Ino) -> u8 {
    // Less than GROUP.
    #[allow(clippy::cast_possible_truncation)]
    let place = (ino.0 % u64::from(GROUP)) as u8;
    place
}

fn bit(place: u8) -> u32 {
    1 << place
}

/// What the first row of a group is told apart from.
fn blank() -> InodeRow {
    InodeRow {
        kind: FileKind::Regular,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        atime: Timestamp::default(),
        mtime: Timestamp::default(),
        ctime: Timestamp::default(),
        origin: None,
    }
}

// What follows in a packed row, a bit each in its first byte.
const KIND: u8 = 1;
const OWNER: u8 = 2;
const SIZE: u8 = 4;
const ATIME: u8 = 8;
const MTIME: u8 = 16;
const CTIME: u8 = 32;

/// Appends what tells `row`, its origin aside, from the one before.
fn pack(out: &mut Vec<u8>, last: &InodeRow, row: &InodeRow) {
    let kind = |row: &InodeRow| (row.kind, row.perm, row.nlink);
    let owner = |row: &InodeRow| (row.uid, row.gid, row.rdev);
    let has = |differs: bool, flag: u8| if differs { flag } else { 0 };
    let flags = has(kind(row) != kind(last), KIND)
        | has(owner(row) != owner(last), OWNER)
        | has(row.size != last.size, SIZE)
        | has(row.atime != last.atime, ATIME)
        | has(row.mtime != row.atime, MTIME)
        | has(row.ctime != row.mtime, CTIME);
    out.push(flags);
    if flags & KIND != 0 {
        varint::put(out, u64::from(row.kind.mode_bits() | u32::from(row.perm)));
        varint::put(out, u64::from(row.nlink));
    }
    if flags & OWNER != 0 {
        varint::put(out, u64::from(row.uid));
        varint::put(out, u64::from(row.gid));
        varint::put(out, u64::from(row.rdev));
    }
    if flags & SIZE != 0 {
        varint::put(out, row.size);
    }
    for (flag, time, from) in [
        (ATIME, row.atime, last.atime),
        (MTIME, row.mtime, row.atime),
        (CTIME, row.ctime, row.mtime),
    ] {
        if flags & flag != 0 {
            varint::put_signed(out, time.secs.wrapping_sub(from.secs));
            varint::put_signed(out, i64::from(time.nanos) - i64::from(from.nanos));
        }
    }
}

/// Makes the row before into the next.
fn unpack(bytes: &mut Bytes<'_>, row: &mut InodeRow) {
    // Only what `pack` wrote is read: no number is out of its range.
    let flags = bytes.byte();
    if flags & KIND != 0 {
        let mode = bytes.varint32();
        row.kind = FileKind::from_mode(mode).unwrap_or(FileKind::Regular);
        // Masked to twelve bits.
        #[allow(clippy::cast_possible_truncation)]
        let perm = (mode & 0o7777) as u16;
        row.perm = perm;
        row.nlink = bytes.varint32();
    }
    if flags & OWNER != 0 {
        row.uid = bytes.varint32();
        row.gid = bytes.varint32();
        row.rdev = bytes.varint32();
    }
    if flags & SIZE != 0 {
        row.size = bytes.varint();
    }
    let mut time = |flag: u8, from: Timestamp| {
        if flags & flag == 0 {
            return from;
        }
        let secs = from.secs.wrapping_add(bytes.signed());
        let nanos = i64::from(from.nanos) + bytes.signed();
        Timestamp {
            secs,
            nanos: u32::try_from(nanos).unwrap_or(0),
        }
    };
    row.atime = time(ATIME, row.atime);
    row.mtime = time(MTIME, row.atime);
    row.ctime = time(CTIME, row.mtime);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use agentfs_core::LowerPath;
    use agentfs_core::storage::{Fingerprint, LowerId};
    use proptest::prelude::*;

    use super::*;

    fn some_time() -> impl Strategy<Value = Timestamp> {
        let secs = prop_oneof![1_795_653_000..1_795_653_010_i64, any::<i64>()];
        (secs, 0..1_000_000_000_u32).prop_map(|(secs, nanos)| Timestamp::new(secs, nanos))
    }

    fn some_origin() -> impl Strategy<Value = Origin> {
        let time = some_time();
        ("[a-z]{1,9}", any::<u64>(), any::<u32>(), time).prop_map(|(path, big, nlink, time)| {
            Origin {
                path: LowerPath::parse(path.as_bytes()).unwrap(),
                fingerprint: Fingerprint {
                    id: LowerId {
                        dev: big,
                        ino: !big,
                    },
                    nlink,
                    size: big,
                    mtime: time,
                    ctime: time,
                },
                data_len_bytes: big / 2,
            }
        })
    }

    fn some_row() -> impl Strategy<Value = InodeRow> {
        let kind = prop_oneof![
            Just(FileKind::Regular),
            Just(FileKind::Directory),
            Just(FileKind::Symlink),
            Just(FileKind::CharDevice)
        ];
        let small = prop_oneof![Just(0), 0..300_u32, any::<u32>()];
        let size = prop_oneof![Just(100), any::<u64>()];
        (
            (kind, 0..0o10000_u16, small.clone(), small.clone(), small),
            (size, some_time(), some_time(), some_time(), 0..8_u8),
            prop::option::of(some_origin()),
        )
            .prop_map(
                |((kind, perm, nlink, uid, rdev), (size, a, m, c, same), origin)| {
                    let mtime = if same & 1 == 0 { a } else { m };
                    InodeRow {
                        kind,
                        perm,
                        nlink,
                        uid,
                        gid: uid / 2,
                        rdev,
                        size,
                        atime: a,
                        mtime,
                        ctime: if same & 2 == 0 { mtime } else { c },
                        origin,
                    }
                },
            )
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_was_put_in_comes_out(
            batches in prop::collection::vec(
                prop::collection::btree_map(0..100_u64, prop::option::of(some_row()), 1..40),
                1..12,
            ),
        ) {
            let mut inodes = Inodes::new();
            let mut expected = BTreeMap::new();
            for batch in &batches {
                let changes = batch.iter().map(|(ino, row)| (Ino(*ino), row.as_ref()));
                let mut changes: Vec<_> = changes.collect();
                by_group(&mut changes).for_each(|changes| inodes.change(changes));
                expected.extend(batch);
                // Twice the same, forwards, then backwards.
                for ino in (0..200).map(|step| step / 2).chain((0..100).rev()) {
                    let row = expected.get(&ino).and_then(|row| row.as_ref());
                    prop_assert_eq!(inodes.contains(Ino(ino)), row.is_some());
                    prop_assert_eq!(inodes.get(Ino(ino)), row.cloned());
                }
            }
            let cost: usize = inodes.groups.iter().map(|(_, group)| group.cost_bytes()).sum();
            prop_assert_eq!(inodes.bytes, cost);
        }
    }

    #[test]
    fn a_million_files_made_one_after_the_other_fit() {
        let mut inodes = Inodes::new();
        let mut row = InodeRow {
            perm: 0o644,
            nlink: 1,
            size: 100,
            ..blank()
        };
        for ino in 0..1_000_000 {
            // A file each 60 us, written 20 us after it was made.
            let at = ino * 60_000;
            let time = |at: u64| {
                let nanos = u32::try_from(at % 1_000_000_000).unwrap();
                Timestamp::new((at / 1_000_000_000).cast_signed(), nanos)
            };
            row.atime = time(at);
            row.mtime = time(at + 20_000);
            row.ctime = row.mtime;
            inodes.put(Ino(ino), &row);
        }
        assert_eq!(inodes.get(Ino(999_999)), Some(row));
        assert!(inodes.get(Ino(0)).is_some(), "{} bytes", inodes.bytes);
    }

    #[test]
    fn what_was_not_used_for_long_goes_first() {
        let mut inodes = Inodes::with_bytes_max(4 * (GROUP_COST_BYTES + 16));
        let first_of = |group: u64| Ino(group * u64::from(GROUP));
        for group in 0..10 {
            inodes.put(first_of(group), &blank());
            assert!(inodes.get(Ino(0)).is_some());
        }
        assert!(inodes.get(first_of(9)).is_some());
        assert!(inodes.get(first_of(2)).is_none());
        assert!(inodes.bytes <= inodes.bytes_max);
    }
}
