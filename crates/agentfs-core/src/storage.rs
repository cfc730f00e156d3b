//! The boundary to whatever keeps the upper layer: rows and transactions.
//!
//! The trait speaks in inodes, dentries, whiteouts, chunks, key-values and tool
//! calls; never in SQL and never in paths of the host or of the view. It knows
//! nothing of overlay rules: those are all in [`crate::overlay`].
//!
//! Contract, proved for every implementation by `agentfs_testkit::contract`:
//! a [`Storage::write`] whose closure returns `Ok` is applied whole, one that
//! returns `Err` leaves no trace; a transaction sees its own writes; readers see
//! a whole number of write transactions; what was applied before a successful
//! [`Storage::sync`] survives a crash; of what was applied after it a crash keeps
//! a prefix, in order.

mod memory;

pub use memory::MemoryStorage;

use std::sync::Arc;

use crate::error::StorageError;
use crate::types::{FileKind, Ino, LowerPath, Name, Timestamp};

/// What the upper layer stores of an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InodeRow {
    /// Type.
    pub kind: FileKind,
    /// `st_mode & 07777`.
    pub perm: u16,
    /// Names of this inode in the view. 0: unlinked but still referenced.
    /// A directory has 1 when something of the lower layer may show through it,
    /// else [`EMPTY_DIR_NLINK`](crate::types::EMPTY_DIR_NLINK) and one for each directory in it.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, else 0.
    pub rdev: u32,
    /// Size in bytes (of the target for a symbolic link; 0 for a directory).
    pub size: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// The lower object this inode was copied up from, if any.
    pub origin: Option<Origin>,
}

/// The lower object an upper inode was copied up from.
///
/// For a directory: the lower directory merged beneath it. For a regular file:
/// where the bytes come from that no chunk holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Where it lies in the lower layer.
    pub path: LowerPath,
    /// What it was at copy-up.
    pub fingerprint: Fingerprint,
    /// Bytes `[0, data_len_bytes)` of a regular file that no chunk holds are the
    /// lower file's. Only ever shrinks (truncation). 0 for other kinds.
    pub data_len_bytes: u64,
}

/// Identity of a lower object at a moment, to notice that it changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Device and inode number on the host.
    pub id: LowerId,
    /// Link count.
    pub nlink: u32,
    /// Size in bytes.
    pub size: u64,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
}

/// Host identity of a lower object. Two names with one id are hard links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LowerId {
    /// `st_dev`
    pub dev: u64,
    /// `st_ino`
    pub ino: u64,
}

/// One entry of the key-value store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvRow {
    /// The key.
    pub key: String,
    /// The value, as JSON text.
    pub value: String,
    /// Unix seconds of the first write.
    pub created_at: i64,
    /// Unix seconds of the last write.
    pub updated_at: i64,
}

/// One entry of the tool-call audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCallRow {
    /// Given by the storage on insertion, ascending.
    pub id: i64,
    /// The tool.
    pub name: String,
    /// Arguments, as JSON text.
    pub parameters: Option<String>,
    /// Result, as JSON text.
    pub result: Option<String>,
    /// Error message.
    pub error: Option<String>,
    /// `pending`, `success` or `error`.
    pub status: String,
    /// Unix seconds.
    pub started_at: i64,
    /// Unix seconds.
    pub completed_at: Option<i64>,
    /// Milliseconds.
    pub duration_ms: Option<i64>,
}

/// The bytes of one chunk, shared without copying.
pub type Chunk = Arc<[u8]>;

/// Copies the bytes of a chunk from `skip` on into `buf`, zeros where it is too short;
/// whether there is a chunk.
pub fn copy_chunk(chunk: Option<&[u8]>, skip: usize, buf: &mut [u8]) -> bool {
    let Some(chunk) = chunk else {
        return false;
    };
    let bytes = chunk.get(skip..).unwrap_or_default();
    let (there, beyond) = buf.split_at_mut(bytes.len().min(buf.len()));
    there.copy_from_slice(&bytes[..there.len()]);
    beyond.fill(0);
    true
}

/// Reading, within a transaction: one consistent state.
pub trait ReadTxn {
    /// The row of an inode.
    fn inode(&self, ino: Ino) -> Result<Option<InodeRow>, StorageError>;
    /// Calls `f` for every inode number that has a row, ascending, from `from` on.
    fn inodes(&self, from: Ino, f: &mut dyn FnMut(Ino)) -> Result<(), StorageError>;
    /// Calls `f` for every inode whose `nlink` is 0, in no particular order.
    fn orphans(&self, f: &mut dyn FnMut(Ino)) -> Result<(), StorageError> {
        let mut all = Vec::new();
        self.inodes(Ino(0), &mut |ino| all.push(ino))?;
        for ino in all {
            if self.inode(ino)?.is_some_and(|row| row.nlink == 0) {
                f(ino);
            }
        }
        Ok(())
    }
    /// The inode an upper directory entry names.
    fn dentry(&self, parent: Ino, name: &Name) -> Result<Option<Ino>, StorageError>;
    /// Calls `f` for every upper entry of a directory, in no particular order.
    fn dentries(&self, parent: Ino, f: &mut dyn FnMut(Name, Ino)) -> Result<(), StorageError>;
    /// Whether the lower name must not show through.
    fn whiteout(&self, dir: &LowerPath, name: &Name) -> Result<bool, StorageError>;
    /// Calls `f` for every whiteout of a lower directory, in no particular order.
    fn whiteouts(&self, dir: &LowerPath, f: &mut dyn FnMut(Name)) -> Result<(), StorageError>;
    /// Calls `f` for every lower directory that has whiteouts, once each.
    fn whiteout_dirs(&self, f: &mut dyn FnMut(LowerPath)) -> Result<(), StorageError>;
    /// The bytes of a chunk: at most the chunk size; absent chunks are holes
    /// (or the lower file's bytes); bytes past a short chunk are zero.
    fn chunk(&self, ino: Ino, index: u64) -> Result<Option<Chunk>, StorageError>;
    /// Copies the bytes of a chunk from `skip` on into `buf`, zeros where it is too
    /// short, and returns whether there is one; if not, or after an error, what `buf`
    /// holds means nothing. What is read whole need not be kept: nobody is likely to
    /// ask for it again.
    fn read_chunk(
        &self,
        ino: Ino,
        index: u64,
        skip: usize,
        buf: &mut [u8],
    ) -> Result<bool, StorageError> {
        Ok(copy_chunk(self.chunk(ino, index)?.as_deref(), skip, buf))
    }
    /// The smallest index of a stored chunk at or after `from`.
    fn next_chunk(&self, ino: Ino, from: u64) -> Result<Option<u64>, StorageError>;
    /// The target of a symbolic link.
    fn symlink(&self, ino: Ino) -> Result<Option<Vec<u8>>, StorageError>;
    /// The value of an extended attribute of an upper inode.
    fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>, StorageError>;
    /// Calls `f` for every extended attribute of an upper inode, ascending by name.
    fn xattrs(&self, ino: Ino, f: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StorageError>;

    /// One key-value entry.
    fn kv(&self, key: &str) -> Result<Option<KvRow>, StorageError>;
    /// Calls `f` for every key-value entry, ascending by key.
    fn kvs(&self, f: &mut dyn FnMut(KvRow)) -> Result<(), StorageError>;
    /// Calls `f` for every tool call, newest first, until it returns `false`.
    fn tool_calls(&self, f: &mut dyn FnMut(ToolCallRow) -> bool) -> Result<(), StorageError>;
}

/// Writing, within a transaction. Nothing shows outside before the closure of
/// [`Storage::write`] returns `Ok`.
pub trait WriteTxn: ReadTxn {
    /// A number for an inode born in the upper layer: at least
    /// [`Ino::FIRST_UPPER`], never given before in the life of this storage.
    fn allocate_ino(&mut self) -> Result<Ino, StorageError>;
    /// Creates or replaces the row of an inode.
    fn put_inode(&mut self, ino: Ino, row: &InodeRow) -> Result<(), StorageError>;
    /// Removes an inode with its chunks, target and extended attributes.
    fn delete_inode(&mut self, ino: Ino) -> Result<(), StorageError>;
    /// Creates or replaces an upper directory entry.
    fn put_dentry(&mut self, parent: Ino, name: &Name, ino: Ino) -> Result<(), StorageError>;
    /// Removes an upper directory entry; no error when absent.
    fn delete_dentry(&mut self, parent: Ino, name: &Name) -> Result<(), StorageError>;
    /// Hides a lower name, since `now`.
    fn put_whiteout(
        &mut self,
        dir: &LowerPath,
        name: &Name,
        now: Timestamp,
    ) -> Result<(), StorageError>;
    /// Lets a lower name show through again; no error when absent.
    fn delete_whiteout(&mut self, dir: &LowerPath, name: &Name) -> Result<(), StorageError>;
    /// Creates or replaces a chunk; `data` is 1 to chunk size bytes.
    fn put_chunk(&mut self, ino: Ino, index: u64, data: Chunk) -> Result<(), StorageError>;
    /// Overwrites bytes of a stored chunk of exactly `len_bytes`, from `start`
    /// on; `part` lies within it. `false`, with nothing changed, when no chunk
    /// of that length is stored. Costs no reading of the chunk where the storage
    /// can do without.
    fn patch_chunk(
        &mut self,
        ino: Ino,
        index: u64,
        len_bytes: usize,
        start: usize,
        part: &[u8],
    ) -> Result<bool, StorageError> {
        let Some(chunk) = self.chunk(ino, index)? else {
            return Ok(false);
        };
        let mut bytes = chunk.to_vec();
        let room = bytes.get_mut(start..start.saturating_add(part.len()));
        let Some(room) = room.filter(|_| chunk.len() == len_bytes) else {
            return Ok(false);
        };
        room.copy_from_slice(part);
        self.put_chunk(ino, index, bytes.into())?;
        Ok(true)
    }
    /// Removes the chunks with `from <= index < to`.
    fn delete_chunks(&mut self, ino: Ino, from: u64, to: u64) -> Result<(), StorageError>;
    /// Sets the target of a symbolic link.
    fn put_symlink(&mut self, ino: Ino, target: &[u8]) -> Result<(), StorageError>;
    /// Sets an extended attribute.
    fn put_xattr(&mut self, ino: Ino, name: &[u8], value: &[u8]) -> Result<(), StorageError>;
    /// Removes an extended attribute; no error when absent.
    fn delete_xattr(&mut self, ino: Ino, name: &[u8]) -> Result<(), StorageError>;

    /// Sets a key-value entry at Unix second `now` (keeps an existing `created_at`).
    fn put_kv(&mut self, key: &str, value: &str, now: i64) -> Result<(), StorageError>;
    /// Removes a key-value entry; tells whether it was there.
    fn delete_kv(&mut self, key: &str) -> Result<bool, StorageError>;
    /// Appends a tool call (its `id` is ignored) and returns the id given.
    fn insert_tool_call(&mut self, call: &ToolCallRow) -> Result<i64, StorageError>;
}

/// Called once when a sync has ended, from any thread.
pub type SyncDone = Box<dyn FnOnce(Result<(), StorageError>) + Send>;

/// A store of the upper layer, shared between threads.
pub trait Storage: Send + Sync + 'static {
    /// Runs `f` on one consistent state.
    ///
    /// # Errors
    /// Those of `f`, and the storage's own.
    fn read<T, E: From<StorageError>>(
        &self,
        f: impl FnOnce(&dyn ReadTxn) -> Result<T, E>,
    ) -> Result<T, E>;

    /// Runs `f` as one transaction: applied whole when it returns `Ok`, without
    /// a trace when it returns `Err`. Transactions are serialized. `f` must not
    /// call back into this storage.
    ///
    /// # Errors
    /// Those of `f`, and the storage's own.
    fn write<T, E: From<StorageError>>(
        &self,
        f: impl FnOnce(&mut dyn WriteTxn) -> Result<T, E>,
    ) -> Result<T, E>;

    /// Removes inodes of which nothing will be asked or changed any more, as
    /// [`WriteTxn::delete_inode`] does: numbers that were allocated here, without a
    /// name for good. At once, or together with the next changes that reach stable
    /// storage; from now on [`ReadTxn::inodes`] and [`ReadTxn::orphans`] do without them.
    ///
    /// # Errors
    /// The storage's own; the inodes stay.
    fn discard(&self, inos: &[Ino]) -> Result<(), StorageError> {
        self.write(|txn| inos.iter().try_for_each(|&ino| txn.delete_inode(ino)))
    }

    /// Calls `done` when everything applied so far is on stable storage: before
    /// or after it returns. Little may be written by the calling thread.
    fn sync_then(&self, done: SyncDone);

    /// Returns when everything applied so far is on stable storage.
    ///
    /// # Errors
    /// The storage's own: nothing is promised then.
    fn sync(&self) -> Result<(), StorageError> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.sync_then(Box::new(move |result| {
            let _ = sender.send(result);
        }));
        receiver
            .recv()
            .unwrap_or_else(|_| Err(StorageError::Io("the committer is gone".into())))
    }

    /// Bytes per chunk; never changes in the life of a storage.
    fn chunk_size_bytes(&self) -> u32;
}

impl<S: Storage> Storage for Arc<S> {
    fn read<T, E: From<StorageError>>(
        &self,
        f: impl FnOnce(&dyn ReadTxn) -> Result<T, E>,
    ) -> Result<T, E> {
        (**self).read(f)
    }

    fn write<T, E: From<StorageError>>(
        &self,
        f: impl FnOnce(&mut dyn WriteTxn) -> Result<T, E>,
    ) -> Result<T, E> {
        (**self).write(f)
    }

    fn discard(&self, inos: &[Ino]) -> Result<(), StorageError> {
        (**self).discard(inos)
    }

    fn sync_then(&self, done: SyncDone) {
        (**self).sync_then(done);
    }

    fn chunk_size_bytes(&self) -> u32 {
        (**self).chunk_size_bytes()
    }
}
