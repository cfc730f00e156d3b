//! Reading and writing, within a transaction, over the layers of state: staged
//! by this transaction, pending, being committed, cached, in SQLite.
//!
//! Holds a guard on the state for its whole life, so that nothing moves from one
//! layer to the next meanwhile; SQLite is only asked, on one snapshot, for what
//! no layer above says. Writes go to the staged layer and nowhere else.

mod read;
mod write;

use std::cell::{OnceCell, RefCell};
use std::sync::Arc;

use agentfs_core::storage::{Chunk, InodeRow, copy_chunk};
use agentfs_core::{Ino, LowerPath, Name, StorageError};
use rusqlite::Connection;

use crate::cache::{Cache, ChunkLens, DIR_ENTRIES_MAX};
use crate::database::Volume;
use crate::gate::{Lease, Purpose};
use crate::pending::{Delta, Map, Put, Said, Set, VolumeDelta};
use crate::rows;
use crate::shared::Shared;
use crate::sql::VolumeSql;

type Result<T> = std::result::Result<T, StorageError>;

/// State above the caches: what SQLite does not have yet.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Applied, waiting for the committer.
    pub(crate) pending: Delta,
    /// In the committer's hands.
    pub(crate) committing: Option<Arc<Delta>>,
}

/// One transaction.
pub(crate) struct Txn<'a> {
    shared: &'a Arc<Shared>,
    volume: Volume,
    state: &'a State,
    /// Nothing, as long as nothing has been written.
    staged: Option<Delta>,
    lease: OnceCell<Lease<'a>>,
}

impl<'a> Txn<'a> {
    pub(crate) fn new(shared: &'a Arc<Shared>, volume: Volume, state: &'a State) -> Self {
        Self {
            shared,
            volume,
            state,
            staged: None,
            lease: OnceCell::new(),
        }
    }

    /// The changes made, if any.
    pub(crate) fn into_staged(self) -> Option<Delta> {
        self.staged.filter(|staged| !staged.is_empty())
    }

    /// Where changes to the volume go.
    fn stage(&mut self) -> &mut VolumeDelta {
        let volume = self.volume;
        self.stage_any().volume_mut(volume)
    }

    /// Where changes to what belongs to no volume go.
    fn stage_any(&mut self) -> &mut Delta {
        self.staged.get_or_insert_default()
    }

    fn sql(&self) -> &'a VolumeSql {
        self.shared.sql(self.volume)
    }

    fn cache(&self) -> &'a Cache {
        self.shared.cache(self.volume)
    }

    /// Asks SQLite; `absent` when the volume has no tables yet.
    fn query<T>(&self, absent: T, f: impl Fn(&Connection) -> Result<T>) -> Result<T> {
        if self.volume == Volume::Home && !self.shared.home_exists() {
            return Ok(absent);
        }
        self.query_any(f)
    }

    fn query_any<T>(&self, f: impl Fn(&Connection) -> Result<T>) -> Result<T> {
        if self.lease.get().is_none() {
            let lease = self.shared.lease(Purpose::Read)?;
            if !lease.is_snapshot() {
                lease.query(rows::begin)?;
            }
            // Nobody else can have set it: this is not shared between threads.
            let _ = self.lease.set(lease);
        }
        let lease = self.lease.get();
        lease
            .ok_or_else(|| StorageError::Io("no connection".into()))?
            .query(f)
    }

    /// All layers above SQLite, newest first.
    fn layers(&self) -> impl DoubleEndedIterator<Item = &Delta> {
        [
            self.staged.as_ref(),
            Some(&self.state.pending),
            self.state.committing.as_deref(),
        ]
        .into_iter()
        .flatten()
    }

    fn volumes(&self) -> impl DoubleEndedIterator<Item = &VolumeDelta> {
        self.layers().map(|delta| delta.volume(self.volume))
    }

    /// What the newest layer that says anything says.
    fn said<'s, T: 's>(&'s self, f: impl Fn(&'s VolumeDelta) -> Said<T>) -> Said<T> {
        self.volumes()
            .map(f)
            .find(|said| !matches!(said, Said::Nothing))
            .unwrap_or(Said::Nothing)
    }

    /// The inodes that are as good as gone.
    fn discarded(&self) -> Set<Ino> {
        let mut all = self.shared.discarded.lock()[self.volume as usize].clone();
        all.extend(self.volumes().flat_map(|delta| &delta.discarded));
        all
    }

    /// Whether SQLite may have rows of an inode.
    fn may_have_inode(&self, ino: Ino) -> Result<bool> {
        self.may_have(|cache| cache.may_have_inode(ino))
    }

    /// Whether SQLite may have entries of a directory.
    fn may_have_dentries(&self, parent: Ino) -> Result<bool> {
        self.may_have(|cache| cache.may_have_dentries(parent))
    }

    /// Whether SQLite may have extended attributes of an inode.
    fn may_have_xattrs(&self, ino: Ino) -> Result<bool> {
        Ok(self.may_have_inode(ino)? && self.may_have(|cache| cache.may_have_xattrs(ino))?)
    }

    /// Whether SQLite may have whiteouts in a directory.
    fn may_have_whiteouts(&self, dir: &LowerPath) -> Result<bool> {
        self.may_have(|cache| cache.may_have_whiteouts(dir))
    }

    /// Asks what is known of all rows; loads that first where it is not.
    fn may_have(&self, ask: impl Fn(&Cache) -> Option<bool>) -> Result<bool> {
        if let Some(known) = ask(self.cache()) {
            return Ok(known);
        }
        self.load_known()?;
        Ok(ask(self.cache()).unwrap_or(true))
    }

    fn load_known(&self) -> Result<()> {
        if self.volume == Volume::Home && !self.shared.home_exists() {
            self.cache().know_empty();
            return Ok(());
        }
        let (cache, sql) = (self.cache(), self.sql());
        self.query((), |conn| cache.load_known(conn, sql))
    }

    fn clean_inode(&self, ino: Ino) -> Result<Option<InodeRow>> {
        if !self.may_have_inode(ino)? {
            return Ok(None);
        }
        if let Some(row) = self.cache().inode(ino) {
            return Ok(Some(row));
        }
        let sql = self.sql();
        let row = self.query(None, |conn| rows::inode(conn, sql, ino))?;
        if let Some(row) = &row {
            self.cache().put_inode(ino, row);
        }
        Ok(row)
    }

    fn has_clean_inode(&self, ino: Ino) -> Result<bool> {
        Ok(self.cache().has_inode(ino) || self.clean_inode(ino)?.is_some())
    }

    fn clean_dentry(&self, parent: Ino, name: &Name) -> Result<Option<Ino>> {
        if !self.may_have_dentries(parent)? {
            return Ok(None);
        }
        if let Some(known) = self.cache().dentry(parent, name) {
            return Ok(known);
        }
        if let Some(entries) = self.cache().note_miss(parent)
            && let Some(dir) = self.load_dir(parent, entries)?
        {
            return Ok(dir.get(name).copied());
        }
        let sql = self.sql();
        let ino = self.query(None, |conn| rows::dentry(conn, sql, parent, name))?;
        self.cache().put_dentry(parent, name.clone(), ino);
        Ok(ino)
    }

    /// Reads a directory whole and keeps it, unless it has more entries.
    fn load_dir(&self, parent: Ino, entries_max: usize) -> Result<Option<Map<Name, Ino>>> {
        let sql = self.sql();
        let limit = entries_max + 1;
        let entries = self.query(Vec::new(), |conn| rows::dentries(conn, sql, parent, limit))?;
        if entries.len() == limit {
            return Ok(None);
        }
        let dir: Map<Name, Ino> = entries.into_iter().collect();
        self.cache().put_dir(parent, dir.clone());
        Ok(Some(dir))
    }

    fn clean_dentries(&self, parent: Ino) -> Result<Map<Name, Ino>> {
        let fresh = self.volumes().any(|delta| delta.is_fresh(parent));
        if fresh || !self.may_have_dentries(parent)? {
            return Ok(Map::default());
        }
        if let Some(dir) = self.cache().dir(parent) {
            return Ok(dir);
        }
        if let Some(dir) = self.load_dir(parent, DIR_ENTRIES_MAX)? {
            return Ok(dir);
        }
        let sql = self.sql();
        let all = self.query(Vec::new(), |conn| {
            rows::dentries(conn, sql, parent, usize::MAX)
        })?;
        Ok(all.into_iter().collect())
    }

    fn clean_whiteouts(&self, dir: &LowerPath) -> Result<Set<Name>> {
        if !self.may_have_whiteouts(dir)? {
            return Ok(Set::default());
        }
        if let Some(names) = self.cache().whiteouts(dir) {
            return Ok(names);
        }
        let sql = self.sql();
        let names = self.query(Vec::new(), |conn| rows::whiteouts(conn, sql, dir))?;
        let names: Set<Name> = names.into_iter().collect();
        self.cache().put_whiteouts(dir.clone(), names.clone());
        Ok(names)
    }

    /// What can be said of a chunk without a look into SQLite.
    fn known_chunk(&self, ino: Ino, index: u64) -> Result<Said<Chunk>> {
        if !self.may_have_inode(ino)? {
            return Ok(Said::Row(None));
        }
        let cached = self.cache().chunk(ino, index);
        Ok(cached.map_or(Said::Nothing, |chunk| Said::Row(Some(chunk))))
    }

    fn clean_chunk(&self, ino: Ino, index: u64) -> Result<Option<Chunk>> {
        if let Said::Row(chunk) = self.known_chunk(ino, index)? {
            return Ok(chunk);
        }
        let chunk = self.stored_chunk(ino, index)?;
        if let Some(chunk) = &chunk {
            self.cache().put_chunk(ino, index, chunk.clone());
        }
        Ok(chunk)
    }

    /// Copies all bytes of a chunk into `buf`, which is as long as a chunk can be, past
    /// the cache. Whether there is one.
    fn read_clean_chunk(&self, ino: Ino, index: u64, buf: &mut [u8]) -> Result<bool> {
        if let Said::Row(chunk) = self.known_chunk(ino, index)? {
            return Ok(copy_chunk(chunk.as_deref(), 0, buf));
        }
        let (ahead, begins) = self.cache().ask_ahead(ino, index);
        if begins {
            self.shared.read_ahead.begin();
        }
        if let Some(chunk) = ahead {
            return Ok(copy_chunk(Some(&chunk), 0, buf));
        }
        let (sql, chunk_size) = (self.sql(), self.shared.chunk_size_bytes());
        // A query may be run again: the last run is the one that counts.
        let buf = RefCell::new(buf);
        let copied = self.query(None, |conn| {
            rows::with_chunk(conn, sql, ino, index, chunk_size, |data| {
                copy_chunk(Some(data), 0, &mut buf.borrow_mut())
            })
        })?;
        Ok(copied.is_some())
    }

    /// A chunk as SQLite has it, to be kept until it is asked for; `None` where that is
    /// not what a program would read.
    pub(crate) fn chunk_ahead(&self, ino: Ino, index: u64) -> Result<Option<Chunk>> {
        if !self.is_clean_chunk(ino, index) {
            return Ok(None);
        }
        self.stored_chunk(ino, index)
    }

    /// Whether no layer says anything of a chunk.
    fn is_clean_chunk(&self, ino: Ino, index: u64) -> bool {
        matches!(self.said(|delta| delta.chunk(ino, index)), Said::Nothing)
    }

    /// A chunk as SQLite has it.
    fn stored_chunk(&self, ino: Ino, index: u64) -> Result<Option<Chunk>> {
        let (sql, chunk_size) = (self.sql(), self.shared.chunk_size_bytes());
        self.query(None, |conn| rows::chunk(conn, sql, ino, index, chunk_size))
    }

    /// The length of a stored chunk, without its bytes.
    fn chunk_len(&self, ino: Ino, index: u64) -> Result<Option<usize>> {
        if let Said::Row(put) = self.said(|delta| delta.chunk(ino, index)) {
            return Ok(put.map(Put::chunk_len));
        }
        if !self.may_have_inode(ino)? {
            return Ok(None);
        }
        if let Some(len) = self.cache().chunk_len(ino, index) {
            return Ok(len);
        }
        let sql = self.sql();
        let group = ChunkLens::group(index);
        let lens = self.query(Vec::new(), |conn| {
            rows::chunk_lens(conn, sql, ino, ChunkLens::indexes(group))
        })?;
        self.cache().put_chunk_lens(ino, group, &lens);
        let len = lens.iter().find(|(at, _)| *at == index);
        Ok(len.map(|(_, len)| *len))
    }

    /// The smallest chunk index in SQLite at or after `from` that no layer hides.
    fn clean_next_chunk(&self, ino: Ino, mut from: u64) -> Result<Option<u64>> {
        if self.volumes().any(|delta| delta.is_fresh(ino)) || !self.may_have_inode(ino)? {
            return Ok(None);
        }
        let (sql, chunk_size) = (self.sql(), self.shared.chunk_size_bytes());
        loop {
            let next = self.query(None, |conn| {
                rows::next_chunk(conn, sql, ino, from, chunk_size)
            })?;
            let Some(next) = next else { return Ok(None) };
            let hidden_to = self
                .volumes()
                .filter_map(|delta| delta.chunks.get(&ino)?.erased_end(next))
                .max();
            match hidden_to {
                Some(end) => from = end,
                None => return Ok(Some(next)),
            }
        }
    }

    fn check_ino(ino: Ino) -> Result<()> {
        if ino.0 == 0 || ino > Ino::MAX {
            return Err(StorageError::Io(format!(
                "inode number {ino} cannot be stored"
            )));
        }
        Ok(())
    }
}
