//! Clean rows kept in memory: what SQLite holds, so that a lookup need not ask
//! it again.
//!
//! Everything here may be dropped at any moment without loss, and every part is
//! bounded, save the sets of inode numbers and of directories with whiteouts,
//! which grow with what the session changed (some ten bytes each). A cache must
//! never hold a row that SQLite does not have: pending rows live elsewhere.

mod ahead;
mod dirs;
mod inodes;
mod lens;
mod packed_dir;
mod varint;

use std::num::NonZeroUsize;
use std::ops::Range;
use std::time::Duration;

use agentfs_core::storage::{Chunk, InodeRow};
use agentfs_core::{Ino, LowerPath, Name, StorageError};
use foldhash::fast::RandomState;
use lru::LruCache;
use parking_lot::{Condvar, Mutex, RwLock};
use rusqlite::Connection;

use crate::pending::{ChunkDelta, Map, Put, Said, Set, VolumeDelta};
use crate::rows;
use crate::sql::VolumeSql;

use ahead::Ahead;
use dirs::Dirs;
use inodes::Inodes;

pub(crate) use dirs::DIR_ENTRIES_MAX;
pub(crate) use lens::ChunkLens;

const NAMES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(65_535);
const WHITEOUT_DIRS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(8_191);
const CHUNK_BYTES: usize = 64 << 20;
/// So many names are taken over before others get at the cache again: a microsecond.
const NAMES_AT_ONCE: usize = 8;
/// Rounds for which a lock is left alone then.
const PAUSE_ROUNDS: usize = 16;
/// Longer than a disk takes for a chunk that is read ahead; then it is read beside that.
const AHEAD_PATIENCE: Duration = Duration::from_millis(20);
/// What a chunk costs beside its bytes, roughly.
const CHUNK_COST_BYTES: usize = 144;

type Lru<K, V> = LruCache<K, V, RandomState>;

/// The cached rows of one volume.
pub(crate) struct Cache {
    /// What every lookup of a lower file asks; `None` before it was loaded.
    known: RwLock<Option<Known>>,
    inodes: Mutex<Inodes>,
    dirs: Mutex<Dirs>,
    /// Single entries of directories too large to keep whole.
    names: Mutex<Lru<(Ino, Name), Option<Ino>>>,
    whiteouts: Mutex<Lru<LowerPath, Set<Name>>>,
    chunks: Mutex<Chunks>,
    ahead: Mutex<Ahead>,
    /// A chunk that was being read is here, or will not come.
    ahead_moved: Condvar,
    chunk_size_bytes: u32,
    chunk_lens: Mutex<ChunkLens>,
}

/// Small facts on all rows of a volume.
#[derive(Default)]
struct Known {
    /// Inodes whose number `allocate_ino` did not give: copied up from the
    /// lower layer, or older than this format's numbering.
    outside_born: Set<Ino>,
    /// Directories among such numbers that have entries.
    parents: Set<Ino>,
    /// Any inodes with extended attributes: `ls -l` asks each file for some.
    with_xattrs: Set<Ino>,
    whiteout_dirs: Set<LowerPath>,
}

struct Chunks {
    lru: Lru<(Ino, u64), Chunk>,
    bytes: usize,
}

impl Cache {
    pub(crate) fn new(chunk_size_bytes: u32) -> Self {
        Self {
            chunk_size_bytes,
            known: RwLock::new(None),
            inodes: Mutex::new(Inodes::new()),
            dirs: Mutex::new(Dirs::new()),
            names: Mutex::new(LruCache::with_hasher(NAMES, RandomState::default())),
            whiteouts: Mutex::new(LruCache::with_hasher(WHITEOUT_DIRS, RandomState::default())),
            chunks: Mutex::new(Chunks {
                lru: LruCache::unbounded_with_hasher(RandomState::default()),
                bytes: 0,
            }),
            ahead: Mutex::default(),
            ahead_moved: Condvar::new(),
            chunk_lens: Mutex::new(ChunkLens::new()),
        }
    }

    /// Drops everything: somebody else wrote to the database.
    pub(crate) fn clear(&self) {
        *self.known.write() = None;
        self.inodes.lock().clear();
        *self.dirs.lock() = Dirs::new();
        self.names.lock().clear();
        self.whiteouts.lock().clear();
        let mut chunks = self.chunks.lock();
        chunks.lru.clear();
        chunks.bytes = 0;
        drop(chunks);
        self.forget_ahead(|_| true);
        self.chunk_lens.lock().clear();
    }

    /// Whether the database may have a row of this inode. `None`: not loaded.
    pub(crate) fn may_have_inode(&self, ino: Ino) -> Option<bool> {
        if ino.is_born() {
            return Some(true);
        }
        self.known_says(|known| known.outside_born.contains(&ino))
    }

    /// Whether the database may have entries of a directory. `None`: not loaded.
    pub(crate) fn may_have_dentries(&self, parent: Ino) -> Option<bool> {
        if parent.is_born() {
            return Some(true);
        }
        self.known_says(|known| known.parents.contains(&parent))
    }

    /// Whether the database may have extended attributes of an inode. `None`: not loaded.
    pub(crate) fn may_have_xattrs(&self, ino: Ino) -> Option<bool> {
        self.known_says(|known| known.with_xattrs.contains(&ino))
    }

    /// Whether the database has whiteouts in a directory. `None`: not loaded.
    pub(crate) fn may_have_whiteouts(&self, dir: &LowerPath) -> Option<bool> {
        self.known_says(|known| known.whiteout_dirs.contains(dir))
    }

    fn known_says(&self, ask: impl FnOnce(&Known) -> bool) -> Option<bool> {
        self.known.read().as_ref().map(ask)
    }

    /// Reads the small facts from the database.
    pub(crate) fn load_known(
        &self,
        conn: &Connection,
        sql: &VolumeSql,
    ) -> Result<(), StorageError> {
        let known = Known {
            outside_born: rows::inodes_outside_born(conn, sql)?.into_iter().collect(),
            parents: rows::parents_outside_born(conn, sql)?.into_iter().collect(),
            with_xattrs: rows::xattr_inodes(conn, sql)?.into_iter().collect(),
            whiteout_dirs: rows::whiteout_dirs(conn, sql)?.into_iter().collect(),
        };
        *self.known.write() = Some(known);
        Ok(())
    }

    /// Says that the volume has no rows at all.
    pub(crate) fn know_empty(&self) {
        *self.known.write() = Some(Known::default());
    }

    pub(crate) fn inode(&self, ino: Ino) -> Option<InodeRow> {
        self.inodes.lock().get(ino)
    }

    /// Whether [`Self::inode`] knows a row, at less cost.
    pub(crate) fn has_inode(&self, ino: Ino) -> bool {
        self.inodes.lock().contains(ino)
    }

    pub(crate) fn put_inode(&self, ino: Ino, row: &InodeRow) {
        self.inodes.lock().put(ino, row);
    }

    /// `Some(None)`: known to be absent.
    pub(crate) fn dentry(&self, parent: Ino, name: &Name) -> Option<Option<Ino>> {
        if let Some(known) = self.dirs.lock().entry(parent, name) {
            return Some(known);
        }
        self.names.lock().get(&(parent, name.clone())).copied()
    }

    pub(crate) fn put_dentry(&self, parent: Ino, name: Name, ino: Option<Ino>) {
        self.names.lock().put((parent, name), ino);
    }

    /// All entries of a directory, when it is kept whole.
    pub(crate) fn dir(&self, parent: Ino) -> Option<Map<Name, Ino>> {
        self.dirs.lock().get(parent)
    }

    /// Notes that an entry of a directory was looked for and is not here. Returns
    /// how many entries may now be read to keep that directory whole.
    pub(crate) fn note_miss(&self, parent: Ino) -> Option<usize> {
        self.dirs.lock().note_miss(parent)
    }

    pub(crate) fn put_dir(&self, parent: Ino, entries: Map<Name, Ino>) {
        self.dirs.lock().put(parent, entries);
    }

    pub(crate) fn whiteouts(&self, dir: &LowerPath) -> Option<Set<Name>> {
        self.whiteouts.lock().get(dir).cloned()
    }

    pub(crate) fn whiteout(&self, dir: &LowerPath, name: &Name) -> Option<bool> {
        self.whiteouts
            .lock()
            .get(dir)
            .map(|names| names.contains(name))
    }

    pub(crate) fn put_whiteouts(&self, dir: LowerPath, names: Set<Name>) {
        self.whiteouts.lock().put(dir, names);
    }

    pub(crate) fn chunk(&self, ino: Ino, index: u64) -> Option<Chunk> {
        self.chunks.lock().lru.get(&(ino, index)).cloned()
    }

    pub(crate) fn put_chunk(&self, ino: Ino, index: u64, data: Chunk) {
        self.chunks.lock().put((ino, index), data);
    }

    /// A chunk that has been read ahead, which is then no longer here; waits for it
    /// while it is being read. And whether to begin to read ahead.
    pub(crate) fn ask_ahead(&self, ino: Ino, index: u64) -> (Option<Chunk>, bool) {
        let mut ahead = self.ahead.lock();
        let begins = ahead.ask(ino, index);
        while ahead.is_coming(ino, index) {
            let waited = self.ahead_moved.wait_for(&mut ahead, AHEAD_PATIENCE);
            if waited.timed_out() {
                break;
            }
        }
        (ahead.take(ino, index), begins)
    }

    /// What to read ahead next; `None`: nothing, for now.
    pub(crate) fn ahead_piece(&self) -> Option<(Ino, Range<u64>)> {
        self.ahead.lock().piece()
    }

    /// Takes what was read ahead, or that it is not to be kept. Whether the rest of the
    /// piece is wanted.
    pub(crate) fn put_ahead(&self, ino: Ino, index: u64, chunk: Option<Chunk>) -> bool {
        let goes_on = self.ahead.lock().put(ino, index, chunk);
        self.ahead_moved.notify_all();
        goes_on
    }

    fn forget_ahead(&self, has_changed: impl FnOnce(Ino) -> bool) {
        self.ahead.lock().forget(has_changed);
        self.ahead_moved.notify_all();
    }

    /// The length of a chunk; `Some(None)`: known not to be stored.
    pub(crate) fn chunk_len(&self, ino: Ino, index: u64) -> Option<Option<usize>> {
        let known = self.chunk_lens.lock().get(ino, index);
        // Or one that is here with its bytes: of a small file.
        known.or_else(|| {
            let chunks = self.chunks.lock();
            let chunk = chunks.lru.peek(&(ino, index))?;
            Some(Some(chunk.len()))
        })
    }

    pub(crate) fn put_chunk_lens(&self, ino: Ino, group: u64, stored: &[(u64, usize)]) {
        self.chunk_lens.lock().put(ino, group, stored);
    }

    /// Takes over rows that have just been committed. Others use the cache meanwhile, so
    /// each lock is held for a few rows at a time; they must not ask for rows of `delta`,
    /// nor put in what was read before the commit.
    pub(crate) fn apply(&self, delta: &VolumeDelta) {
        let has_changed = |ino| delta.chunks.contains_key(&ino) || delta.discarded.contains(&ino);
        self.forget_ahead(has_changed);
        self.apply_known(delta);
        self.apply_discarded(delta);
        self.apply_inodes(delta);
        self.apply_dentries(delta);
        self.apply_whiteouts(delta);
        self.apply_chunks(delta);
    }

    fn apply_inodes(&self, delta: &VolumeDelta) {
        let stay = delta.inodes.iter();
        let stay = stay.filter(|(ino, _)| !delta.discarded.contains(*ino));
        let stay = stay.map(|(ino, row)| (*ino, row.as_ref()));
        let gone = delta.discarded.iter().map(|ino| (*ino, None));
        let mut changes: Vec<inodes::Change<'_>> = stay.chain(gone).collect();
        for group in inodes::by_group(&mut changes) {
            self.inodes.lock().change(group);
            let_others_in();
        }
    }

    fn apply_whiteouts(&self, delta: &VolumeDelta) {
        for (dir, changes) in &delta.whiteouts {
            let changes: Vec<_> = changes.iter().collect();
            for changes in changes.chunks(NAMES_AT_ONCE) {
                let mut whiteouts = self.whiteouts.lock();
                let Some(names) = whiteouts.get_mut(dir) else {
                    break;
                };
                for (name, since) in changes {
                    match since {
                        Some(_) => names.insert((*name).clone()),
                        None => names.remove(*name),
                    };
                }
                drop(whiteouts);
                let_others_in();
            }
        }
    }

    fn apply_chunks(&self, delta: &VolumeDelta) {
        let erased: Map<Ino, &ChunkDelta> = delta
            .chunks
            .iter()
            .filter(|(_, chunks)| !chunks.erased.is_empty())
            .map(|(ino, chunks)| (*ino, chunks))
            .collect();
        if !erased.is_empty() {
            self.chunks.lock().retain(|(ino, index)| {
                erased
                    .get(ino)
                    .is_none_or(|chunks| chunks.erased_end(*index).is_none())
            });
        }
        let stay = delta.chunks.iter();
        for (ino, delta) in stay.filter(|(ino, _)| !delta.discarded.contains(*ino)) {
            for (index, put) in &delta.puts {
                self.chunks.lock().apply((*ino, *index), put);
            }
            let mut lens = self.chunk_lens.lock();
            if !lens.is_empty() {
                lens.apply(*ino, delta);
            }
        }
    }

    /// Drops the chunks of inodes that go, where it is known how large they were.
    fn apply_discarded(&self, delta: &VolumeDelta) {
        for &ino in delta.discarded.difference(&delta.fresh) {
            let row = match delta.inode(ino) {
                Said::Row(row) => row.cloned(),
                Said::Nothing => self.inode(ino),
            };
            if let Some(row) = row {
                let count = row.size.div_ceil(u64::from(self.chunk_size_bytes));
                self.chunks.lock().discard(ino, count);
            }
        }
    }

    fn apply_known(&self, delta: &VolumeDelta) {
        let inodes = delta.inodes.iter().filter(|(ino, _)| !ino.is_born());
        let inodes: Vec<_> = inodes.map(|(ino, row)| (*ino, row.is_some())).collect();
        // Deletions leave in what is in: the sets say "may have".
        let parents = delta.dentries.iter();
        let parents = parents.filter(|(ino, names)| !ino.is_born() && adds(names.values()));
        let parents: Vec<_> = parents.map(|(ino, _)| *ino).collect();
        let dirs = delta
            .whiteouts
            .iter()
            .filter(|(_, names)| adds(names.values()));
        let dirs: Vec<_> = dirs.map(|(dir, _)| dir.clone()).collect();
        let xattrs = delta.xattrs.iter();
        let xattrs = xattrs.filter(|(_, delta)| adds(delta.puts.values()));
        let xattrs: Vec<_> = xattrs.map(|(ino, _)| *ino).collect();
        if inodes.is_empty() && parents.is_empty() && dirs.is_empty() && xattrs.is_empty() {
            return;
        }
        let mut known = self.known.write();
        let Some(known) = known.as_mut() else { return };
        for (ino, exists) in inodes {
            match exists {
                true => known.outside_born.insert(ino),
                false => known.outside_born.remove(&ino),
            };
        }
        known.parents.extend(parents);
        known.with_xattrs.extend(xattrs);
        known.whiteout_dirs.extend(dirs);
    }

    fn apply_dentries(&self, delta: &VolumeDelta) {
        for ino in delta.fresh.difference(&delta.discarded) {
            let is_dir = delta.inodes.get(ino).and_then(Option::as_ref);
            if is_dir.is_some_and(|row| row.kind.is_dir()) {
                self.dirs.lock().put(*ino, Map::default());
            }
        }
        for (parent, changes) in &delta.dentries {
            let changes: Vec<dirs::Change<'_>> = changes.iter().map(|(n, i)| (n, *i)).collect();
            for changes in changes.chunks(NAMES_AT_ONCE) {
                let mut dirs = self.dirs.lock();
                let mut names = self.names.lock();
                let whole = dirs.update(*parent, changes);
                for (name, ino) in changes {
                    let key = (*parent, (*name).clone());
                    match whole {
                        // Nothing stale may be left for when the whole is evicted.
                        true => names.pop(&key),
                        false => names.put(key, *ino),
                    };
                }
                drop((dirs, names));
                let_others_in();
            }
        }
    }
}

/// Whether any of these changes is no deletion.
fn adds<'a, V: 'a>(mut changes: impl Iterator<Item = &'a Option<V>>) -> bool {
    changes.any(Option::is_some)
}

/// Whoever looks for a lock again and again, before it sleeps, finds it free. Woken from
/// sleep it would find it taken again, and again: that was 0.5 to 0.9 ms a batch.
fn let_others_in() {
    for _ in 0..PAUSE_ROUNDS {
        std::hint::spin_loop();
    }
}

impl Chunks {
    fn put(&mut self, key: (Ino, u64), data: Chunk) {
        self.bytes += cost(&data);
        if let Some(before) = self.lru.put(key, data) {
            self.bytes -= cost(&before);
        }
        while self.bytes > CHUNK_BYTES {
            let Some((_, data)) = self.lru.pop_lru() else {
                break;
            };
            self.bytes -= cost(&data);
        }
    }

    /// Takes over a chunk that has just been committed; a part only where the
    /// chunk is here.
    fn apply(&mut self, key: (Ino, u64), put: &Put) {
        match put {
            Put::Whole(data) => self.put(key, data.clone()),
            Put::Patch(patch) => {
                if let Some(chunk) = self.lru.get_mut(&key) {
                    self.bytes -= cost(chunk);
                    patch.apply_to(chunk);
                    self.bytes += cost(chunk);
                }
            }
        }
    }

    /// Drops the chunks `0..count` of an inode that nobody asks for any more. What is
    /// missed here goes in its turn.
    fn discard(&mut self, ino: Ino, count: u64) {
        let most = u64::try_from(self.lru.len()).unwrap_or(u64::MAX);
        for index in 0..count.min(most) {
            if let Some(data) = self.lru.pop(&(ino, index)) {
                self.bytes -= cost(&data);
            }
        }
    }

    fn retain(&mut self, keep: impl Fn(&(Ino, u64)) -> bool) {
        let out: Vec<_> = self
            .lru
            .iter()
            .map(|(key, _)| *key)
            .filter(|key| !keep(key))
            .collect();
        for key in out {
            if let Some(data) = self.lru.pop(&key) {
                self.bytes -= cost(&data);
            }
        }
    }
}

fn cost(chunk: &Chunk) -> usize {
    chunk.len() + CHUNK_COST_BYTES
}
