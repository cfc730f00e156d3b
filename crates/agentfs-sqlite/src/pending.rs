//! Changes in memory: final row values, not a log of operations.
//!
//! A [`Delta`] lies over older state: over another delta, over SQLite. Later
//! deltas are merged into earlier ones whole; what is created and deleted within
//! one delta leaves nothing behind. Knows nothing of SQL, threads or files.

mod patch;

use std::collections::{BTreeMap, HashMap, HashSet};

use agentfs_core::storage::{Chunk, InodeRow, KvRow, ToolCallRow};
use agentfs_core::{Ino, LowerPath, Name, Timestamp};
use foldhash::fast::RandomState;

use crate::database::Volume;

pub(crate) use patch::{Patch, Put};

pub(crate) type Map<K, V> = HashMap<K, V, RandomState>;
pub(crate) type Set<K> = HashSet<K, RandomState>;

/// What one row costs in memory beside its content, roughly, in bytes. The
/// limits that count with it are about orders of magnitude.
const ROW_COST_BYTES: usize = 160;

/// Changes to all that a database holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delta {
    pub(crate) view: VolumeDelta,
    pub(crate) home: VolumeDelta,
    /// Key-values set, or deleted (`None`).
    pub(crate) kvs: BTreeMap<String, Option<KvRow>>,
    /// Tool calls appended, with the ids given, ascending.
    pub(crate) tool_calls: Vec<ToolCallRow>,
}

impl Delta {
    pub(crate) fn volume(&self, volume: Volume) -> &VolumeDelta {
        match volume {
            Volume::View => &self.view,
            Volume::Home => &self.home,
        }
    }

    pub(crate) fn volume_mut(&mut self, volume: Volume) -> &mut VolumeDelta {
        match volume {
            Volume::View => &mut self.view,
            Volume::Home => &mut self.home,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.view.is_empty()
            && self.home.is_empty()
            && self.kvs.is_empty()
            && self.tool_calls.is_empty()
    }

    /// Lays `later` over `self`.
    pub(crate) fn merge(&mut self, later: Delta) {
        self.view.merge(later.view);
        self.home.merge(later.home);
        self.kvs.extend(later.kvs);
        self.tool_calls.extend(later.tool_calls);
    }

    /// Roughly what it takes in memory.
    pub(crate) fn cost_bytes(&self) -> usize {
        let texts: usize = self.kvs.values().flatten().map(|row| row.value.len()).sum();
        let calls: usize = self.tool_calls.iter().map(tool_call_bytes).sum();
        let rows = self.kvs.len() + self.tool_calls.len();
        self.view.cost_bytes() + self.home.cost_bytes() + texts + calls + rows * ROW_COST_BYTES
    }

    /// Whether it asks for room: data or new inodes. Deletions and changes of
    /// attributes do not, and stay allowed when the disk is full.
    pub(crate) fn grows(&self) -> bool {
        self.view.grows()
            || self.home.grows()
            || !self.kvs.is_empty()
            || !self.tool_calls.is_empty()
    }

    /// Takes over the inodes that go, those of each volume.
    pub(crate) fn discard(&mut self, [view, home]: [Set<Ino>; 2]) {
        for (volume, inos) in [(&mut self.view, view), (&mut self.home, home)] {
            if volume.discarded.is_empty() {
                volume.discarded = inos;
            } else {
                volume.discarded.extend(inos);
            }
        }
    }

    /// Says that the older state may hold rows of inodes that are new here: the
    /// outcome of a commit is not known.
    pub(crate) fn doubt(&mut self) {
        self.view.uncertain = true;
        self.home.uncertain = true;
    }
}

fn tool_call_bytes(call: &ToolCallRow) -> usize {
    [&call.parameters, &call.result, &call.error]
        .iter()
        .filter_map(|text| text.as_ref())
        .map(String::len)
        .sum::<usize>()
}

/// Changes to one volume. `None` as a value says: deleted.
#[derive(Clone, Debug, Default)]
pub(crate) struct VolumeDelta {
    pub(crate) inodes: Map<Ino, Option<InodeRow>>,
    /// Inodes of which the older state has no row of any kind.
    pub(crate) fresh: Set<Ino>,
    /// The older state may hold rows of fresh inodes after all: a commit of
    /// these changes failed, perhaps after it took effect.
    uncertain: bool,
    pub(crate) dentries: Map<Ino, Map<Name, Option<Ino>>>,
    pub(crate) whiteouts: Map<LowerPath, Map<Name, Option<Timestamp>>>,
    pub(crate) chunks: Map<Ino, ChunkDelta>,
    pub(crate) symlinks: Map<Ino, Option<Vec<u8>>>,
    pub(crate) xattrs: Map<Ino, XattrDelta>,
    /// Inodes that nobody asks for any more: they go, whatever is said of them here.
    pub(crate) discarded: Set<Ino>,
    /// Bytes of chunks, targets and attribute values.
    content_bytes: usize,
    /// Directory entries and whiteouts.
    names: usize,
    chunk_rows: usize,
}

/// Changes to the chunks of one inode.
#[derive(Clone, Debug, Default)]
pub(crate) struct ChunkDelta {
    pub(crate) puts: BTreeMap<u64, Put>,
    /// Ranges `[from, to)` of which the older state does not count: sorted,
    /// apart from each other. Puts lie over them.
    pub(crate) erased: Vec<(u64, u64)>,
}

/// Changes to the extended attributes of one inode.
#[derive(Clone, Debug, Default)]
pub(crate) struct XattrDelta {
    pub(crate) puts: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// The older state does not count.
    pub(crate) wiped: bool,
}

/// What a delta says of a row: that it is so, or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said<T> {
    /// The row is this; `None`: there is none.
    Row(Option<T>),
    /// Ask the older state.
    Nothing,
}

impl ChunkDelta {
    fn is_erased(&self, index: u64) -> bool {
        self.erased_end(index).is_some()
    }

    /// The end of the erased range that `index` lies in.
    pub(crate) fn erased_end(&self, index: u64) -> Option<u64> {
        let at = self.erased.partition_point(|&(_, to)| to <= index);
        self.erased
            .get(at)
            .filter(|(from, _)| *from <= index)
            .map(|(_, to)| *to)
    }

    fn erase(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let first = self.erased.partition_point(|&(_, end)| end < from);
        let last = self.erased.partition_point(|&(start, _)| start <= to);
        let (mut new_from, mut new_to) = (from, to);
        for &(start, end) in &self.erased[first..last] {
            new_from = new_from.min(start);
            new_to = new_to.max(end);
        }
        self.erased.splice(first..last, [(new_from, new_to)]);
    }
}

impl VolumeDelta {
    pub(crate) fn is_empty(&self) -> bool {
        self.inodes.is_empty()
            && self.dentries.is_empty()
            && self.whiteouts.is_empty()
            && self.chunks.is_empty()
            && self.symlinks.is_empty()
            && self.xattrs.is_empty()
            && self.discarded.is_empty()
    }

    fn cost_bytes(&self) -> usize {
        let rows = self.inodes.len() + self.names + self.chunk_rows + self.xattrs.len();
        self.content_bytes + rows * ROW_COST_BYTES
    }

    fn grows(&self) -> bool {
        !self.fresh.is_empty() || self.chunks.values().any(|chunks| !chunks.puts.is_empty())
    }

    /// Whether the older state certainly has no row of any kind of an inode.
    pub(crate) fn is_fresh(&self, ino: Ino) -> bool {
        !self.uncertain && self.fresh.contains(&ino)
    }

    // What this delta says of rows.

    pub(crate) fn inode(&self, ino: Ino) -> Said<&InodeRow> {
        self.inodes
            .get(&ino)
            .map_or(Said::Nothing, |row| Said::Row(row.as_ref()))
    }

    pub(crate) fn dentry(&self, parent: Ino, name: &Name) -> Said<Ino> {
        match self.dentries.get(&parent).and_then(|dir| dir.get(name)) {
            Some(ino) => Said::Row(*ino),
            None if self.is_fresh(parent) => Said::Row(None),
            None => Said::Nothing,
        }
    }

    pub(crate) fn whiteout(&self, dir: &LowerPath, name: &Name) -> Said<()> {
        match self.whiteouts.get(dir).and_then(|names| names.get(name)) {
            Some(since) => Said::Row(since.map(|_| ())),
            None => Said::Nothing,
        }
    }

    pub(crate) fn chunk(&self, ino: Ino, index: u64) -> Said<&Put> {
        if let Some(chunks) = self.chunks.get(&ino) {
            if let Some(chunk) = chunks.puts.get(&index) {
                return Said::Row(Some(chunk));
            }
            if chunks.is_erased(index) {
                return Said::Row(None);
            }
        }
        if self.is_fresh(ino) {
            Said::Row(None)
        } else {
            Said::Nothing
        }
    }

    pub(crate) fn symlink(&self, ino: Ino) -> Said<&Vec<u8>> {
        match self.symlinks.get(&ino) {
            Some(target) => Said::Row(target.as_ref()),
            None if self.is_fresh(ino) => Said::Row(None),
            None => Said::Nothing,
        }
    }

    pub(crate) fn xattr(&self, ino: Ino, name: &[u8]) -> Said<&Vec<u8>> {
        if let Some(xattrs) = self.xattrs.get(&ino) {
            if let Some(value) = xattrs.puts.get(name) {
                return Said::Row(value.as_ref());
            }
            if xattrs.wiped {
                return Said::Row(None);
            }
        }
        if self.is_fresh(ino) {
            Said::Row(None)
        } else {
            Said::Nothing
        }
    }

    // Changes.

    pub(crate) fn put_inode(&mut self, ino: Ino, row: Option<InodeRow>) {
        self.inodes.insert(ino, row);
    }

    /// Removes an inode and all that hangs on it.
    pub(crate) fn delete_inode(&mut self, ino: Ino) {
        self.drop_content(ino);
        if self.is_fresh(ino) {
            self.fresh.remove(&ino);
            self.inodes.remove(&ino);
            if let Some(names) = self.dentries.remove(&ino) {
                self.names -= names.len();
            }
            return;
        }
        self.fresh.remove(&ino);
        self.inodes.insert(ino, None);
        self.erase_chunks(ino, 0, u64::MAX);
        self.delete_symlink(ino);
        self.wipe_xattrs(ino);
    }

    fn delete_symlink(&mut self, ino: Ino) {
        let before = if self.is_fresh(ino) {
            self.symlinks.remove(&ino)
        } else {
            self.symlinks.insert(ino, None)
        };
        self.content_bytes -= before.flatten().map_or(0, |target| target.len());
    }

    fn wipe_xattrs(&mut self, ino: Ino) {
        if let Some(xattrs) = self.xattrs.remove(&ino) {
            let values = xattrs.puts.values().flatten();
            self.content_bytes -= values.map(Vec::len).sum::<usize>();
        }
        if !self.is_fresh(ino) {
            self.xattrs.entry(ino).or_default().wiped = true;
        }
    }

    /// Forgets changes to chunks, target and attributes.
    pub(crate) fn drop_content(&mut self, ino: Ino) {
        if let Some(chunks) = self.chunks.remove(&ino) {
            self.chunk_rows -= chunks.puts.len() + chunks.erased.len();
            self.content_bytes -= chunks.puts.values().map(Put::cost_bytes).sum::<usize>();
        }
        if let Some(Some(target)) = self.symlinks.remove(&ino) {
            self.content_bytes -= target.len();
        }
        if let Some(xattrs) = self.xattrs.remove(&ino) {
            let values = xattrs.puts.values().flatten();
            self.content_bytes -= values.map(Vec::len).sum::<usize>();
        }
    }

    pub(crate) fn put_dentry(&mut self, parent: Ino, name: Name, ino: Option<Ino>) {
        let fresh = self.is_fresh(parent);
        let names = self.dentries.entry(parent).or_default();
        if ino.is_none() && fresh {
            self.names -= usize::from(names.remove(&name).is_some());
        } else {
            self.names += usize::from(names.insert(name, ino).is_none());
        }
    }

    pub(crate) fn put_whiteout(&mut self, dir: LowerPath, name: Name, since: Option<Timestamp>) {
        let names = self.whiteouts.entry(dir).or_default();
        self.names += usize::from(names.insert(name, since).is_none());
    }

    pub(crate) fn put_chunk(&mut self, ino: Ino, index: u64, data: Chunk) {
        self.content_bytes += data.len();
        let puts = &mut self.chunks.entry(ino).or_default().puts;
        match puts.insert(index, Put::Whole(data)) {
            Some(before) => self.content_bytes -= before.cost_bytes(),
            None => self.chunk_rows += 1,
        }
    }

    /// Overwrites a part of a chunk that is stored, here or in the older state,
    /// and has `len_bytes`.
    pub(crate) fn patch_chunk(
        &mut self,
        ino: Ino,
        index: u64,
        len_bytes: usize,
        start: usize,
        part: Chunk,
    ) {
        let is_alone = self.is_fresh(ino);
        let chunks = self.chunks.entry(ino).or_default();
        let is_alone = is_alone || chunks.is_erased(index);
        let put = chunks.puts.entry(index).or_insert_with(|| {
            self.chunk_rows += 1;
            let patch = Patch::new(len_bytes);
            match is_alone {
                // Nothing older counts: callers do not come here.
                true => Put::Whole(patch.applied_to(&[])),
                false => Put::Patch(patch),
            }
        });
        let before = put.cost_bytes();
        put.overwrite(start, part);
        // What a put costs shrinks when the last part makes it whole.
        self.content_bytes = self.content_bytes + put.cost_bytes() - before;
    }

    pub(crate) fn erase_chunks(&mut self, ino: Ino, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let fresh = self.is_fresh(ino);
        if fresh && !self.chunks.contains_key(&ino) {
            return;
        }
        let chunks = self.chunks.entry(ino).or_default();
        let mut tail = chunks.puts.split_off(&from);
        let mut kept = tail.split_off(&to);
        chunks.puts.append(&mut kept);
        self.chunk_rows -= tail.len();
        self.content_bytes -= tail.values().map(Put::cost_bytes).sum::<usize>();
        if !fresh {
            self.chunk_rows -= chunks.erased.len();
            chunks.erase(from, to);
            self.chunk_rows += chunks.erased.len();
        }
    }

    pub(crate) fn put_symlink(&mut self, ino: Ino, target: Vec<u8>) {
        self.content_bytes += target.len();
        if let Some(Some(before)) = self.symlinks.insert(ino, Some(target)) {
            self.content_bytes -= before.len();
        }
    }

    pub(crate) fn put_xattr(&mut self, ino: Ino, name: Vec<u8>, value: Option<Vec<u8>>) {
        let fresh = self.is_fresh(ino);
        self.content_bytes += value.as_ref().map_or(0, Vec::len);
        let puts = &mut self.xattrs.entry(ino).or_default().puts;
        let before = if value.is_none() && fresh {
            puts.remove(&name)
        } else {
            puts.insert(name, value)
        };
        self.content_bytes -= before.flatten().map_or(0, |value| value.len());
    }

    /// Lays `later` over `self`.
    pub(crate) fn merge(&mut self, later: VolumeDelta) {
        let VolumeDelta {
            inodes,
            fresh,
            dentries,
            whiteouts,
            chunks,
            symlinks,
            xattrs,
            discarded,
            ..
        } = later;
        self.discarded.extend(discarded);
        // An inode deleted here and made anew later has rows in the older state
        // that this delta, not the older state's absence, gets rid of.
        for ino in fresh {
            if !self.inodes.contains_key(&ino) {
                self.fresh.insert(ino);
            }
        }
        // Inodes of this delta alone that are deleted later: nothing is left to
        // say of them, not even that they are gone.
        let mut gone: Set<Ino> = Set::default();
        for (ino, row) in inodes {
            if row.is_none() && self.is_fresh(ino) {
                gone.insert(ino);
            }
            match row {
                Some(_) => self.put_inode(ino, row),
                None => self.delete_inode(ino),
            }
        }
        for (parent, names) in dentries {
            if gone.contains(&parent) {
                continue;
            }
            for (name, ino) in names {
                self.put_dentry(parent, name, ino);
            }
        }
        for (dir, names) in whiteouts {
            for (name, since) in names {
                self.put_whiteout(dir.clone(), name, since);
            }
        }
        for (ino, delta) in chunks {
            if gone.contains(&ino) {
                continue;
            }
            for (from, to) in delta.erased {
                self.erase_chunks(ino, from, to);
            }
            for (index, put) in delta.puts {
                match put {
                    Put::Whole(data) => self.put_chunk(ino, index, data),
                    Put::Patch(patch) => {
                        let len_bytes = patch.len_bytes();
                        for (start, part) in patch.into_parts() {
                            self.patch_chunk(ino, index, len_bytes, start, part);
                        }
                    }
                }
            }
        }
        for (ino, target) in symlinks {
            match target {
                Some(target) => self.put_symlink(ino, target),
                None if gone.contains(&ino) => {}
                None => self.delete_symlink(ino),
            }
        }
        for (ino, delta) in xattrs {
            if gone.contains(&ino) {
                continue;
            }
            if delta.wiped {
                self.wipe_xattrs(ino);
            }
            for (name, value) in delta.puts {
                self.put_xattr(ino, name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(byte: u8) -> Chunk {
        Chunk::from([byte])
    }

    #[test]
    fn erased_ranges_join_and_stay_sorted() {
        let check = |ranges: &[(u64, u64)], expected: &[(u64, u64)]| {
            let mut delta = ChunkDelta::default();
            for &(from, to) in ranges {
                delta.erase(from, to);
            }
            assert_eq!(delta.erased, expected, "{ranges:?}");
        };
        check(&[(5, 5)], &[]);
        check(&[(1, 2), (4, 5)], &[(1, 2), (4, 5)]);
        check(&[(4, 5), (1, 2), (2, 4)], &[(1, 5)]);
        check(&[(4, 5), (8, 9), (0, u64::MAX)], &[(0, u64::MAX)]);
        check(&[(0, 10), (3, 4)], &[(0, 10)]);
        check(&[(0, 2), (6, 8), (1, 7), (20, 21)], &[(0, 8), (20, 21)]);
    }

    #[test]
    fn what_is_made_and_deleted_in_one_interval_leaves_nothing() {
        let ino = Ino(Ino::FIRST_UPPER.0 + 1);
        let mut delta = VolumeDelta::default();
        delta.fresh.insert(ino);
        delta.put_chunk(ino, 0, chunk(1));
        delta.put_symlink(ino, vec![1]);
        delta.put_xattr(ino, b"user.a".to_vec(), Some(vec![1]));
        delta.put_dentry(ino, Name::new(b"x").unwrap(), Some(Ino(5)));
        let mut later = VolumeDelta::default();
        later.delete_inode(ino);
        delta.merge(later);
        assert!(delta.is_empty(), "{delta:?}");
        assert_eq!(delta.cost_bytes(), 0);
    }

    #[test]
    fn a_deleted_inode_that_the_older_state_has_is_deleted_there() {
        let ino = Ino(9);
        let mut delta = VolumeDelta::default();
        delta.put_chunk(ino, 3, chunk(1));
        delta.delete_inode(ino);
        assert_eq!(delta.inode(ino), Said::Row(None));
        assert_eq!(delta.chunk(ino, 77), Said::Row(None));
        assert_eq!(delta.xattr(ino, b"user.a"), Said::Row(None));
        // Made anew: the older rows still do not count.
        let mut later = VolumeDelta::default();
        later.fresh.insert(ino);
        later.put_chunk(ino, 0, chunk(2));
        delta.merge(later);
        assert!(!delta.fresh.contains(&ino));
        assert_eq!(delta.chunk(ino, 0), Said::Row(Some(&Put::Whole(chunk(2)))));
        assert_eq!(delta.chunk(ino, 3), Said::Row(None));
    }

    #[test]
    fn costs_come_back_to_zero() {
        let ino = Ino(9);
        let mut delta = VolumeDelta::default();
        delta.fresh.insert(ino);
        for index in 0..10 {
            delta.put_chunk(ino, index, chunk(1));
            delta.put_chunk(ino, index, Chunk::from([1, 2, 3]));
        }
        delta.erase_chunks(ino, 2, 5);
        assert_eq!(delta.chunk_rows, 7);
        assert_eq!(delta.content_bytes, 21);
        delta.erase_chunks(ino, 0, u64::MAX);
        delta.put_xattr(ino, b"user.a".to_vec(), Some(vec![0; 50]));
        delta.put_xattr(ino, b"user.a".to_vec(), None);
        assert_eq!((delta.chunk_rows, delta.content_bytes), (0, 0));
    }
}
