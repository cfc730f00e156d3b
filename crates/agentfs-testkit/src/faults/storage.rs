//! A storage of which one call can be made to fail: any method of a transaction,
//! its begin or its commit.

use std::sync::atomic::Ordering::SeqCst;

use agentfs_core::error::StorageError;
use agentfs_core::storage::{
    Chunk, InodeRow, KvRow, ReadTxn, Storage, SyncDone, ToolCallRow, WriteTxn,
};
use agentfs_core::types::{Ino, LowerPath, Name, Timestamp};

use super::Faults;

/// A storage that fails and counts as told by [`Faults`].
#[derive(Debug)]
pub struct FaultyStorage<S> {
    inner: S,
    faults: Faults,
}

impl<S> FaultyStorage<S> {
    /// Wraps `inner`.
    pub fn new(inner: S, faults: Faults) -> Self {
        Self { inner, faults }
    }

    /// What is wrapped.
    pub fn inner(&self) -> &S {
        &self.inner
    }
}

fn tick(faults: &Faults) -> Result<(), StorageError> {
    if faults.hit() {
        Err(StorageError::Io("injected".into()))
    } else {
        Ok(())
    }
}

impl<S: Storage> Storage for FaultyStorage<S> {
    fn read<T, E: From<StorageError>>(
        &self,
        f: impl FnOnce(&dyn ReadTxn) -> Result<T, E>,
    ) -> Result<T, E> {
        tick(&self.faults)?;
        self.inner.read(|txn| {
            f(&Reading {
                inner: txn,
                faults: &self.faults,
            })
        })
    }

    fn write<T, E: From<StorageError>>(
        &self,
        f: impl FnOnce(&mut dyn WriteTxn) -> Result<T, E>,
    ) -> Result<T, E> {
        tick(&self.faults)?;
        self.faults.0.write_transactions.fetch_add(1, SeqCst);
        self.inner.write(|txn| {
            let value = f(&mut Writing {
                inner: txn,
                faults: &self.faults,
            })?;
            tick(&self.faults)?;
            Ok(value)
        })
    }

    fn sync_then(&self, done: SyncDone) {
        match tick(&self.faults) {
            Ok(()) => self.inner.sync_then(done),
            Err(e) => done(Err(e)),
        }
    }

    fn chunk_size_bytes(&self) -> u32 {
        self.inner.chunk_size_bytes()
    }
}

struct Reading<'a> {
    inner: &'a dyn ReadTxn,
    faults: &'a Faults,
}

struct Writing<'a> {
    inner: &'a mut dyn WriteTxn,
    faults: &'a Faults,
}

macro_rules! read_methods {
    () => {
        fn inode(&self, ino: Ino) -> Result<Option<InodeRow>, StorageError> {
            tick(self.faults)?;
            self.inner.inode(ino)
        }
        fn inodes(&self, from: Ino, f: &mut dyn FnMut(Ino)) -> Result<(), StorageError> {
            tick(self.faults)?;
            self.inner.inodes(from, f)
        }
        fn orphans(&self, f: &mut dyn FnMut(Ino)) -> Result<(), StorageError> {
            tick(self.faults)?;
            self.inner.orphans(f)
        }
        fn dentry(&self, parent: Ino, name: &Name) -> Result<Option<Ino>, StorageError> {
            tick(self.faults)?;
            self.inner.dentry(parent, name)
        }
        fn dentries(&self, dir: Ino, f: &mut dyn FnMut(Name, Ino)) -> Result<(), StorageError> {
            tick(self.faults)?;
            self.inner.dentries(dir, f)
        }
        fn whiteout(&self, dir: &LowerPath, name: &Name) -> Result<bool, StorageError> {
            tick(self.faults)?;
            self.inner.whiteout(dir, name)
        }
        fn whiteouts(&self, dir: &LowerPath, f: &mut dyn FnMut(Name)) -> Result<(), StorageError> {
            tick(self.faults)?;
            self.inner.whiteouts(dir, f)
        }
        fn whiteout_dirs(&self, f: &mut dyn FnMut(LowerPath)) -> Result<(), StorageError> {
            tick(self.faults)?;
            self.inner.whiteout_dirs(f)
        }
        fn chunk(&self, ino: Ino, index: u64) -> Result<Option<Chunk>, StorageError> {
            tick(self.faults)?;
            self.inner.chunk(ino, index)
        }
        fn read_chunk(
            &self,
            ino: Ino,
            index: u64,
            skip: usize,
            buf: &mut [u8],
        ) -> Result<bool, StorageError> {
            tick(self.faults)?;
            self.inner.read_chunk(ino, index, skip, buf)
        }
        fn next_chunk(&self, ino: Ino, from: u64) -> Result<Option<u64>, StorageError> {
            tick(self.faults)?;
            self.inner.next_chunk(ino, from)
        }
        fn symlink(&self, ino: Ino) -> Result<Option<Vec<u8>>, StorageError> {
            tick(self.faults)?;
            self.inner.symlink(ino)
        }
        fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
            tick(self.faults)?;
            self.inner.xattr(ino, name)
        }
        fn xattrs(&self, ino: Ino, f: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StorageError> {
            tick(self.faults)?;
            self.inner.xattrs(ino, f)
        }
        fn kv(&self, key: &str) -> Result<Option<KvRow>, StorageError> {
            tick(self.faults)?;
            self.inner.kv(key)
        }
        fn kvs(&self, f: &mut dyn FnMut(KvRow)) -> Result<(), StorageError> {
            tick(self.faults)?;
            self.inner.kvs(f)
        }
        fn tool_calls(&self, f: &mut dyn FnMut(ToolCallRow) -> bool) -> Result<(), StorageError> {
            tick(self.faults)?;
            self.inner.tool_calls(f)
        }
    };
}

impl ReadTxn for Reading<'_> {
    read_methods!();
}

impl ReadTxn for Writing<'_> {
    read_methods!();
}

impl WriteTxn for Writing<'_> {
    fn allocate_ino(&mut self) -> Result<Ino, StorageError> {
        tick(self.faults)?;
        self.inner.allocate_ino()
    }
    fn put_inode(&mut self, ino: Ino, row: &InodeRow) -> Result<(), StorageError> {
        tick(self.faults)?;
        self.faults.0.inodes_put.fetch_add(1, SeqCst);
        self.inner.put_inode(ino, row)
    }
    fn delete_inode(&mut self, ino: Ino) -> Result<(), StorageError> {
        tick(self.faults)?;
        self.inner.delete_inode(ino)
    }
    fn put_dentry(&mut self, parent: Ino, name: &Name, ino: Ino) -> Result<(), StorageError> {
        tick(self.faults)?;
        self.inner.put_dentry(parent, name, ino)
    }
    fn delete_dentry(&mut self, parent: Ino, name: &Name) -> Result<(), StorageError> {
        tick(self.faults)?;
        self.inner.delete_dentry(parent, name)
    }
    fn put_whiteout(
        &mut self,
        dir: &LowerPath,
        name: &Name,
        now: Timestamp,
    ) -> Result<(), StorageError> {
        tick(self.faults)?;
        self.inner.put_whiteout(dir, name, now)
    }
    fn delete_whiteout(&mut self, dir: &LowerPath, name: &Name) -> Result<(), StorageError> {
        tick(self.faults)?;
        self.inner.delete_whiteout(dir, name)
    }
    fn put_chunk(&mut self, ino: Ino, index: u64, data: Chunk) -> Result<(), StorageError> {
        tick(self.faults)?;
        self.faults.0.chunks_put.fetch_add(1, SeqCst);
        self.inner.put_chunk(ino, index, data)
    }
    fn patch_chunk(
        &mut self,
        ino: Ino,
        index: u64,
        len_bytes: usize,
        start: usize,
        part: &[u8],
    ) -> Result<bool, StorageError> {
        tick(self.faults)?;
        let patched = self.inner.patch_chunk(ino, index, len_bytes, start, part)?;
        self.faults.0.chunks_put.fetch_add(patched.into(), SeqCst);
        Ok(patched)
    }
    fn delete_chunks(&mut self, ino: Ino, from: u64, to: u64) -> Result<(), StorageError> {
        tick(self.faults)?;
        self.inner.delete_chunks(ino, from, to)
    }
    fn put_symlink(&mut self, ino: Ino, target: &[u8]) -> Result<(), StorageError> {
        tick(self.faults)?;
        self.inner.put_symlink(ino, target)
    }
    fn put_xattr(&mut self, ino: Ino, name: &[u8], value: &[u8]) -> Result<(), StorageError> {
        tick(self.faults)?;
        self.inner.put_xattr(ino, name, value)
    }
    fn delete_xattr(&mut self, ino: Ino, name: &[u8]) -> Result<(), StorageError> {
        tick(self.faults)?;
        self.inner.delete_xattr(ino, name)
    }
    fn put_kv(&mut self, key: &str, value: &str, now: i64) -> Result<(), StorageError> {
        tick(self.faults)?;
        self.inner.put_kv(key, value, now)
    }
    fn delete_kv(&mut self, key: &str) -> Result<bool, StorageError> {
        tick(self.faults)?;
        self.inner.delete_kv(key)
    }
    fn insert_tool_call(&mut self, call: &ToolCallRow) -> Result<i64, StorageError> {
        tick(self.faults)?;
        self.inner.insert_tool_call(call)
    }
}
