//! Storage in memory: for embedding without a file, and the reference that
//! other storages are compared with.
//!
//! Kept simple enough to be seen to be right: ordered maps behind one lock, and
//! for each map the values that a failed transaction has to put back. It must
//! never grow a cache, a background thread or a rule of the overlay.

use std::collections::BTreeMap;

use parking_lot::RwLock;

use crate::error::StorageError;
use crate::storage::{Chunk, InodeRow, KvRow, ReadTxn, Storage, SyncDone, ToolCallRow, WriteTxn};
use crate::types::{Ino, LowerPath, Name, Timestamp};

/// A [`Storage`] that lives and dies with its value.
///
/// ```
/// use agentfs_core::storage::{MemoryStorage, Storage};
/// use agentfs_core::StorageError;
///
/// let storage = MemoryStorage::new(4096);
/// storage.write(|txn| txn.put_kv("answer", "42", 0))?;
/// let answer = storage.read(|txn| txn.kv("answer"))?;
/// assert_eq!(answer.map(|row| row.value).as_deref(), Some("42"));
/// # Ok::<(), StorageError>(())
/// ```
#[derive(Debug)]
pub struct MemoryStorage {
    chunk_size_bytes: u32,
    state: RwLock<State>,
}

impl MemoryStorage {
    /// An empty storage whose chunks hold at most `chunk_size_bytes` (at least 1).
    #[must_use]
    pub fn new(chunk_size_bytes: u32) -> Self {
        let chunk_size_bytes = chunk_size_bytes.max(1);
        Self {
            chunk_size_bytes,
            state: RwLock::new(State::new(chunk_size_bytes)),
        }
    }
}

impl Storage for MemoryStorage {
    fn read<T, E: From<StorageError>>(
        &self,
        f: impl FnOnce(&dyn ReadTxn) -> Result<T, E>,
    ) -> Result<T, E> {
        f(&*self.state.read())
    }

    fn write<T, E: From<StorageError>>(
        &self,
        f: impl FnOnce(&mut dyn WriteTxn) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut state = self.state.write();
        // Rolls back on every way out but the one that commits, panics of `f`
        // included.
        let transaction = RollbackOnDrop(&mut state);
        let result = f(transaction.0);
        if result.is_ok() {
            transaction.0.commit();
        }
        result
    }

    fn sync_then(&self, done: SyncDone) {
        done(Ok(()));
    }

    fn chunk_size_bytes(&self) -> u32 {
        self.chunk_size_bytes
    }
}

struct RollbackOnDrop<'a>(&'a mut State);

impl Drop for RollbackOnDrop<'_> {
    fn drop(&mut self) {
        self.0.roll_back();
    }
}

/// An ordered map that remembers what the current transaction replaced.
#[derive(Debug)]
struct Table<K, V> {
    rows: BTreeMap<K, V>,
    /// Earlier values, oldest first; `None` where there was no row.
    undo: Vec<(K, Option<V>)>,
}

impl<K: Ord + Clone, V> Table<K, V> {
    fn new() -> Self {
        Self {
            rows: BTreeMap::new(),
            undo: Vec::new(),
        }
    }

    fn put(&mut self, key: K, value: V) {
        let before = self.rows.insert(key.clone(), value);
        self.undo.push((key, before));
    }

    fn delete(&mut self, key: &K) -> bool {
        let Some(before) = self.rows.remove(key) else {
            return false;
        };
        self.undo.push((key.clone(), Some(before)));
        true
    }

    fn delete_range(&mut self, from: &K, to: &K) {
        if from >= to {
            return;
        }
        let keys: Vec<K> = self
            .rows
            .range(from..to)
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            self.delete(&key);
        }
    }

    fn commit(&mut self) {
        self.undo.clear();
    }

    fn roll_back(&mut self) {
        while let Some((key, before)) = self.undo.pop() {
            match before {
                Some(value) => self.rows.insert(key, value),
                None => self.rows.remove(&key),
            };
        }
    }
}

/// Keys that are two-part end in an `Option`, `None` being below every name: the
/// start of a range over the first part.
#[derive(Debug)]
struct State {
    chunk_size_bytes: u32,
    next_ino: Ino,
    inodes: Table<Ino, InodeRow>,
    dentries: Table<(Ino, Option<Name>), Ino>,
    whiteouts: Table<(LowerPath, Option<Name>), Timestamp>,
    chunks: Table<(Ino, u64), Chunk>,
    symlinks: Table<Ino, Vec<u8>>,
    xattrs: Table<(Ino, Vec<u8>), Vec<u8>>,
    kvs: Table<String, KvRow>,
    tool_calls: Table<i64, ToolCallRow>,
}

impl State {
    fn new(chunk_size_bytes: u32) -> Self {
        Self {
            chunk_size_bytes,
            next_ino: Ino::FIRST_UPPER,
            inodes: Table::new(),
            dentries: Table::new(),
            whiteouts: Table::new(),
            chunks: Table::new(),
            symlinks: Table::new(),
            xattrs: Table::new(),
            kvs: Table::new(),
            tool_calls: Table::new(),
        }
    }

    fn commit(&mut self) {
        self.inodes.commit();
        self.dentries.commit();
        self.whiteouts.commit();
        self.chunks.commit();
        self.symlinks.commit();
        self.xattrs.commit();
        self.kvs.commit();
        self.tool_calls.commit();
    }

    /// Inode numbers are not given back: "never given before" is the promise.
    fn roll_back(&mut self) {
        self.inodes.roll_back();
        self.dentries.roll_back();
        self.whiteouts.roll_back();
        self.chunks.roll_back();
        self.symlinks.roll_back();
        self.xattrs.roll_back();
        self.kvs.roll_back();
        self.tool_calls.roll_back();
    }
}

fn next(ino: Ino) -> Ino {
    Ino(ino.0.saturating_add(1))
}

impl ReadTxn for State {
    fn inode(&self, ino: Ino) -> Result<Option<InodeRow>, StorageError> {
        Ok(self.inodes.rows.get(&ino).cloned())
    }

    fn inodes(&self, from: Ino, f: &mut dyn FnMut(Ino)) -> Result<(), StorageError> {
        self.inodes.rows.range(from..).for_each(|(ino, _)| f(*ino));
        Ok(())
    }

    fn dentry(&self, parent: Ino, name: &Name) -> Result<Option<Ino>, StorageError> {
        Ok(self
            .dentries
            .rows
            .get(&(parent, Some(name.clone())))
            .copied())
    }

    fn dentries(&self, parent: Ino, f: &mut dyn FnMut(Name, Ino)) -> Result<(), StorageError> {
        for ((_, name), ino) in self
            .dentries
            .rows
            .range((parent, None)..(next(parent), None))
        {
            if let Some(name) = name {
                f(name.clone(), *ino);
            }
        }
        Ok(())
    }

    fn whiteout(&self, dir: &LowerPath, name: &Name) -> Result<bool, StorageError> {
        Ok(self
            .whiteouts
            .rows
            .contains_key(&(dir.clone(), Some(name.clone()))))
    }

    fn whiteouts(&self, dir: &LowerPath, f: &mut dyn FnMut(Name)) -> Result<(), StorageError> {
        let from = (dir.clone(), None);
        for (_, name) in self
            .whiteouts
            .rows
            .range(from..)
            .map(|(k, _)| k)
            .take_while(|k| k.0 == *dir)
        {
            if let Some(name) = name {
                f(name.clone());
            }
        }
        Ok(())
    }

    fn whiteout_dirs(&self, f: &mut dyn FnMut(LowerPath)) -> Result<(), StorageError> {
        let mut last = None;
        for (dir, _) in self.whiteouts.rows.keys() {
            if last != Some(dir) {
                f(dir.clone());
                last = Some(dir);
            }
        }
        Ok(())
    }

    fn chunk(&self, ino: Ino, index: u64) -> Result<Option<Chunk>, StorageError> {
        Ok(self.chunks.rows.get(&(ino, index)).cloned())
    }

    fn next_chunk(&self, ino: Ino, from: u64) -> Result<Option<u64>, StorageError> {
        let range = (ino, from)..=(ino, u64::MAX);
        Ok(self
            .chunks
            .rows
            .range(range)
            .next()
            .map(|((_, index), _)| *index))
    }

    fn symlink(&self, ino: Ino) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.symlinks.rows.get(&ino).cloned())
    }

    fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.xattrs.rows.get(&(ino, name.to_vec())).cloned())
    }

    fn xattrs(&self, ino: Ino, f: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StorageError> {
        let range = (ino, Vec::new())..(next(ino), Vec::new());
        self.xattrs
            .rows
            .range(range)
            .for_each(|((_, name), value)| f(name, value));
        Ok(())
    }

    fn kv(&self, key: &str) -> Result<Option<KvRow>, StorageError> {
        Ok(self.kvs.rows.get(key).cloned())
    }

    fn kvs(&self, f: &mut dyn FnMut(KvRow)) -> Result<(), StorageError> {
        self.kvs.rows.values().cloned().for_each(f);
        Ok(())
    }

    fn tool_calls(&self, f: &mut dyn FnMut(ToolCallRow) -> bool) -> Result<(), StorageError> {
        for call in self.tool_calls.rows.values().rev() {
            if !f(call.clone()) {
                break;
            }
        }
        Ok(())
    }
}

impl WriteTxn for State {
    fn allocate_ino(&mut self) -> Result<Ino, StorageError> {
        let ino = self.next_ino;
        if ino >= Ino::FIRST_MAPPED {
            return Err(StorageError::Full);
        }
        self.next_ino = next(ino);
        Ok(ino)
    }

    fn put_inode(&mut self, ino: Ino, row: &InodeRow) -> Result<(), StorageError> {
        self.inodes.put(ino, row.clone());
        Ok(())
    }

    fn delete_inode(&mut self, ino: Ino) -> Result<(), StorageError> {
        self.inodes.delete(&ino);
        self.symlinks.delete(&ino);
        self.chunks.delete_range(&(ino, 0), &(next(ino), 0));
        self.xattrs
            .delete_range(&(ino, Vec::new()), &(next(ino), Vec::new()));
        Ok(())
    }

    fn put_dentry(&mut self, parent: Ino, name: &Name, ino: Ino) -> Result<(), StorageError> {
        self.dentries.put((parent, Some(name.clone())), ino);
        Ok(())
    }

    fn delete_dentry(&mut self, parent: Ino, name: &Name) -> Result<(), StorageError> {
        self.dentries.delete(&(parent, Some(name.clone())));
        Ok(())
    }

    fn put_whiteout(
        &mut self,
        dir: &LowerPath,
        name: &Name,
        now: Timestamp,
    ) -> Result<(), StorageError> {
        self.whiteouts.put((dir.clone(), Some(name.clone())), now);
        Ok(())
    }

    fn delete_whiteout(&mut self, dir: &LowerPath, name: &Name) -> Result<(), StorageError> {
        self.whiteouts.delete(&(dir.clone(), Some(name.clone())));
        Ok(())
    }

    fn put_chunk(&mut self, ino: Ino, index: u64, data: Chunk) -> Result<(), StorageError> {
        if data.is_empty() || data.len() > self.chunk_size_bytes as usize {
            return Err(StorageError::Io(format!("a chunk of {} bytes", data.len())));
        }
        self.chunks.put((ino, index), data);
        Ok(())
    }

    fn delete_chunks(&mut self, ino: Ino, from: u64, to: u64) -> Result<(), StorageError> {
        self.chunks.delete_range(&(ino, from), &(ino, to));
        Ok(())
    }

    fn put_symlink(&mut self, ino: Ino, target: &[u8]) -> Result<(), StorageError> {
        self.symlinks.put(ino, target.to_vec());
        Ok(())
    }

    fn put_xattr(&mut self, ino: Ino, name: &[u8], value: &[u8]) -> Result<(), StorageError> {
        self.xattrs.put((ino, name.to_vec()), value.to_vec());
        Ok(())
    }

    fn delete_xattr(&mut self, ino: Ino, name: &[u8]) -> Result<(), StorageError> {
        self.xattrs.delete(&(ino, name.to_vec()));
        Ok(())
    }

    fn put_kv(&mut self, key: &str, value: &str, now: i64) -> Result<(), StorageError> {
        let created_at = self.kvs.rows.get(key).map_or(now, |row| row.created_at);
        let row = KvRow {
            key: key.into(),
            value: value.into(),
            created_at,
            updated_at: now,
        };
        self.kvs.put(key.into(), row);
        Ok(())
    }

    fn delete_kv(&mut self, key: &str) -> Result<bool, StorageError> {
        Ok(self.kvs.delete(&key.to_owned()))
    }

    fn insert_tool_call(&mut self, call: &ToolCallRow) -> Result<i64, StorageError> {
        let last = self.tool_calls.rows.last_key_value();
        let id = last.map_or(1, |(id, _)| id.saturating_add(1));
        self.tool_calls.put(id, ToolCallRow { id, ..call.clone() });
        Ok(id)
    }
}

#[cfg(test)]
mod tests;
