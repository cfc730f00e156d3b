//! The writing half of a transaction: everything goes to the staged layer.

use agentfs_core::storage::{Chunk, InodeRow, KvRow, ReadTxn, ToolCallRow, WriteTxn};
use agentfs_core::{Ino, LowerPath, Name, StorageError, Timestamp};

use super::{Result, Txn};
use crate::pending::Said;
use crate::rows;

impl WriteTxn for Txn<'_> {
    fn allocate_ino(&mut self) -> Result<Ino> {
        let ino = self.shared.allocate_ino()?;
        self.stage().fresh.insert(ino);
        Ok(ino)
    }

    fn put_inode(&mut self, ino: Ino, row: &InodeRow) -> Result<()> {
        Self::check_ino(ino)?;
        let unheard = matches!(self.said(|delta| delta.inode(ino)), Said::Nothing);
        let fresh = unheard
            && !self.volumes().any(|delta| delta.is_fresh(ino))
            && !self.has_clean_inode(ino)?;
        let staged = self.stage();
        if fresh {
            staged.fresh.insert(ino);
        }
        staged.put_inode(ino, Some(row.clone()));
        Ok(())
    }

    fn delete_inode(&mut self, ino: Ino) -> Result<()> {
        self.stage().delete_inode(ino);
        Ok(())
    }

    fn put_dentry(&mut self, parent: Ino, name: &Name, ino: Ino) -> Result<()> {
        Self::check_ino(parent)?;
        Self::check_ino(ino)?;
        self.stage().put_dentry(parent, name.clone(), Some(ino));
        Ok(())
    }

    fn delete_dentry(&mut self, parent: Ino, name: &Name) -> Result<()> {
        self.stage().put_dentry(parent, name.clone(), None);
        Ok(())
    }

    fn put_whiteout(&mut self, dir: &LowerPath, name: &Name, now: Timestamp) -> Result<()> {
        let staged = self.stage();
        staged.put_whiteout(dir.clone(), name.clone(), Some(now));
        Ok(())
    }

    fn delete_whiteout(&mut self, dir: &LowerPath, name: &Name) -> Result<()> {
        let staged = self.stage();
        staged.put_whiteout(dir.clone(), name.clone(), None);
        Ok(())
    }

    fn put_chunk(&mut self, ino: Ino, index: u64, data: Chunk) -> Result<()> {
        Self::check_ino(ino)?;
        if data.is_empty() || data.len() > self.shared.chunk_size_bytes() as usize {
            return Err(StorageError::Io(format!("a chunk of {} bytes", data.len())));
        }
        self.stage().put_chunk(ino, index, data);
        Ok(())
    }

    fn patch_chunk(
        &mut self,
        ino: Ino,
        index: u64,
        len_bytes: usize,
        start: usize,
        part: &[u8],
    ) -> Result<bool> {
        let fits = start
            .checked_add(part.len())
            .is_some_and(|end| end <= len_bytes);
        if !fits || part.is_empty() || self.chunk_len(ino, index)? != Some(len_bytes) {
            return Ok(false);
        }
        self.stage()
            .patch_chunk(ino, index, len_bytes, start, Chunk::from(part));
        Ok(true)
    }

    fn delete_chunks(&mut self, ino: Ino, from: u64, to: u64) -> Result<()> {
        self.stage().erase_chunks(ino, from, to);
        Ok(())
    }

    fn put_symlink(&mut self, ino: Ino, target: &[u8]) -> Result<()> {
        Self::check_ino(ino)?;
        self.stage().put_symlink(ino, target.to_vec());
        Ok(())
    }

    fn put_xattr(&mut self, ino: Ino, name: &[u8], value: &[u8]) -> Result<()> {
        Self::check_ino(ino)?;
        let staged = self.stage();
        staged.put_xattr(ino, name.to_vec(), Some(value.to_vec()));
        Ok(())
    }

    fn delete_xattr(&mut self, ino: Ino, name: &[u8]) -> Result<()> {
        self.stage().put_xattr(ino, name.to_vec(), None);
        Ok(())
    }

    fn put_kv(&mut self, key: &str, value: &str, now: i64) -> Result<()> {
        let created_at = self.kv(key)?.map_or(now, |row| row.created_at);
        let row = KvRow {
            key: key.into(),
            value: value.into(),
            created_at,
            updated_at: now,
        };
        self.stage_any().kvs.insert(key.into(), Some(row));
        Ok(())
    }

    fn delete_kv(&mut self, key: &str) -> Result<bool> {
        let existed = self.kv(key)?.is_some();
        if existed {
            self.stage_any().kvs.insert(key.into(), None);
        }
        Ok(existed)
    }

    fn insert_tool_call(&mut self, call: &ToolCallRow) -> Result<i64> {
        let pending = self.layers().find_map(|delta| delta.tool_calls.last());
        let pending = pending.map_or(0, |call| call.id);
        let stored = self.query_any(rows::last_tool_call)?;
        let id = pending
            .max(stored)
            .checked_add(1)
            .ok_or(StorageError::Full)?;
        self.stage_any()
            .tool_calls
            .push(ToolCallRow { id, ..call.clone() });
        Ok(id)
    }
}
