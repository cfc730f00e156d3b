//! Reading, writing and seeking regular files, by inode; open lower files are
//! kept for a while.
//!
//! Reading never writes to the storage. A partly copied-up file whose base
//! changed since gives [`FsError::LowerChanged`], never a mix.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;

use super::data::usize_of;
use super::inode_table::LowerNode;
use super::lookup::Inode;
use super::request::{Fallocate, SeekWhence, Times};
use super::{Overlay, merge};
use crate::error::FsError;
use crate::lower::{LowerFile, LowerLayer};
use crate::storage::{InodeRow, ReadTxn, Storage};
use crate::types::{FILE_MAX_BYTES, FileKind, Ino, LowerPath};

/// Lower files kept open: a descriptor each.
const OPEN_FILES_MAX: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Lower files that were read of late, by inode number.
pub(super) struct OpenFiles(LruCache<Ino, Arc<dyn LowerFile>>);

impl Default for OpenFiles {
    fn default() -> Self {
        Self(LruCache::new(OPEN_FILES_MAX))
    }
}

impl OpenFiles {
    pub(super) fn remove(&mut self, ino: Ino) {
        self.0.pop(&ino);
    }
}

impl<S: Storage, L: LowerLayer> Overlay<S, L> {
    /// Reads up to `len` bytes at `offset`; short only at the end of the file.
    ///
    /// # Errors
    /// As [`Self::read_into`].
    pub fn read(&self, ino: Ino, offset: u64, len: usize) -> Result<Vec<u8>, FsError> {
        let mut buf = vec![0; len];
        let read = self.read_into(ino, offset, &mut buf)?;
        buf.truncate(read);
        Ok(buf)
    }

    /// Reads into `buf` what the file has at `offset`, and returns how much that is;
    /// less than fits only at the end of the file. What `buf` held before is never
    /// seen, and what it holds after an error means nothing.
    ///
    /// # Errors
    /// [`FsError::IsADirectory`]; [`FsError::InvalidArgument`] for other kinds;
    /// [`FsError::LowerChanged`]; [`FsError::StaleInode`], and those of the
    /// layers.
    pub fn read_into(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize, FsError> {
        let namespace = self.namespace.read();
        let plan = self.storage.read(|txn| {
            let Some(row) = txn.inode(ino)? else {
                return Ok(None);
            };
            self.node(ino)?;
            require_regular(row.kind)?;
            let len = (buf.len() as u64).min(row.size.saturating_sub(offset));
            let len = usize_of(len);
            let lower = self.read_chunks(txn, ino, &row, offset, &mut buf[..len])?;
            Ok::<_, FsError>(Some((row, len, lower)))
        })?;
        let Some((row, len, lower)) = plan else {
            let file = self.storage.read(|txn| self.open_lower(txn, ino))?;
            drop(namespace);
            return Ok(file.read_at(buf, offset)?);
        };
        for (at, len) in lower {
            let start = usize_of(at - offset);
            self.read_origin(ino, &row, at, &mut buf[start..start + usize_of(len)])?;
        }
        Ok(len)
    }

    /// Writes all of `data` at `offset`. With `kill_suid_sgid` the set-user-ID
    /// bit goes, and set-group-ID where the group may execute.
    ///
    /// # Errors
    /// [`FsError::FileTooLarge`], and those of [`Self::read`].
    pub fn write(
        &self,
        ino: Ino,
        offset: u64,
        data: &[u8],
        kill_suid_sgid: bool,
    ) -> Result<(), FsError> {
        self.write_with(ino, offset, data, kill_suid_sgid, Times::Now)
    }

    /// Writes what a write-back cache has held until now: as [`Self::write`], with
    /// [`Times::Kept`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_cached(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<(), FsError> {
        self.write_with(ino, offset, data, false, Times::Kept)
    }

    pub(super) fn write_with(
        &self,
        ino: Ino,
        offset: u64,
        data: &[u8],
        kill_suid_sgid: bool,
        times: Times,
    ) -> Result<(), FsError> {
        if data.is_empty() {
            return require_regular(self.getattr(ino)?.kind);
        }
        self.modify(ino, |txn, row| {
            self.write_range(txn, ino, row, offset, data)?;
            self.stamp(row, times);
            if kill_suid_sgid {
                row.perm = super::setattr::without_suid_sgid(row.perm);
            }
            Ok(())
        })
    }

    /// Preallocates, punches holes, zeroes.
    ///
    /// # Errors
    /// [`FsError::InvalidArgument`] for a length of 0,
    /// [`FsError::FileTooLarge`], [`FsError::NotSupported`] for hiding more than
    /// 256 MiB of a lower file before its end, and those of [`Self::read`].
    pub fn fallocate(
        &self,
        ino: Ino,
        mode: Fallocate,
        offset: u64,
        len: u64,
        times: Times,
    ) -> Result<(), FsError> {
        if len == 0 {
            return Err(FsError::InvalidArgument);
        }
        let end = offset
            .checked_add(len)
            .filter(|&end| end <= FILE_MAX_BYTES)
            .ok_or(FsError::FileTooLarge)?;
        if mode == Fallocate::KeepSize {
            // Space is the database's to find; nothing that can be seen changes.
            return require_regular(self.getattr(ino)?.kind);
        }
        self.modify(ino, |txn, row| {
            let extends = matches!(
                mode,
                Fallocate::Allocate | Fallocate::ZeroRange { keep_size: false }
            );
            if extends && end > row.size {
                self.resize(txn, ino, row, end)?;
            }
            if mode != Fallocate::Allocate {
                self.zero_range(txn, ino, row, offset, end)?;
            }
            self.stamp(row, times);
            Ok(())
        })
    }

    /// Finds the next data or hole at or after `offset`.
    ///
    /// # Errors
    /// [`FsError::NoSuchRange`] past the last data, or past the end; and those
    /// of [`Self::read`].
    pub fn lseek(&self, ino: Ino, offset: u64, whence: SeekWhence) -> Result<u64, FsError> {
        let _namespace = self.namespace.read();
        let hole = whence == SeekWhence::Hole;
        self.storage.read(|txn| match self.inode(txn, ino)? {
            Inode::Lower { attr, .. } => {
                require_regular(attr.kind)?;
                let file = self.open_lower(txn, ino)?;
                file.seek(offset, hole)?.ok_or(FsError::NoSuchRange)
            }
            Inode::Upper(row) => {
                require_regular(row.kind)?;
                self.seek_upper(txn, ino, &row, offset, hole)
            }
        })
    }

    pub(super) fn stamp(&self, row: &mut InodeRow, times: Times) {
        if times == Times::Now {
            row.mtime = self.config.clock.now();
            row.ctime = row.mtime;
        }
    }

    /// Copies a regular file up, lets `change` work on it, and writes its row.
    pub(super) fn modify<T>(
        &self,
        ino: Ino,
        change: impl FnOnce(&mut dyn crate::storage::WriteTxn, &mut InodeRow) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let _namespace = self.namespace.write();
        self.node(ino)?;
        self.storage.write(|txn| {
            let mut row = self.copy_up(txn, ino)?;
            require_regular(row.kind)?;
            let value = change(txn, &mut row)?;
            txn.put_inode(ino, &row)?;
            Ok(value)
        })
    }

    /// The open lower file of an inode that is not copied up.
    fn open_lower(&self, txn: &dyn ReadTxn, ino: Ino) -> Result<Arc<dyn LowerFile>, FsError> {
        if let Some(file) = self.files.lock().0.get(&ino) {
            return Ok(Arc::clone(file));
        }
        let node = self.node(ino)?;
        let LowerNode { id, kind, .. } = *node.lower.as_deref().ok_or(FsError::StaleInode)?;
        require_regular(kind)?;
        let path = self.lower_path_of(txn, ino, &node)?;
        let file = self.open_file(ino, &path)?;
        if file.attr()?.id == id {
            return Ok(file);
        }
        self.files.lock().remove(ino);
        Err(FsError::StaleInode)
    }

    /// Reads bytes that a partly copied-up file still has from its base file.
    pub(super) fn read_origin(
        &self,
        ino: Ino,
        row: &InodeRow,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<(), FsError> {
        let origin = row.origin.as_ref().ok_or(FsError::StaleInode)?;
        let changed = || {
            self.files.lock().remove(ino);
            tracing::warn!(base = %origin.path, "changed outside under a partly modified copy");
            FsError::LowerChanged(origin.path.clone())
        };
        let file = match self.open_file(ino, &origin.path) {
            Ok(file) => file,
            Err(FsError::Lower(error)) if error.errno != libc::EMFILE => {
                tracing::debug!(%error, "base file cannot be opened");
                return Err(changed());
            }
            Err(error) => return Err(error),
        };
        let read = file.read_at(buf, offset)?;
        // Asked after the read: whatever changed before or during it shows.
        if read != buf.len() || !merge::same_content(&origin.fingerprint, &file.attr()?) {
            return Err(changed());
        }
        Ok(())
    }

    fn open_file(&self, ino: Ino, path: &LowerPath) -> Result<Arc<dyn LowerFile>, FsError> {
        if let Some(file) = self.files.lock().0.get(&ino) {
            return Ok(Arc::clone(file));
        }
        let file: Arc<dyn LowerFile> = self.lower.open(path)?.into();
        self.files.lock().0.put(ino, Arc::clone(&file));
        Ok(file)
    }

    fn seek_upper(
        &self,
        txn: &dyn ReadTxn,
        ino: Ino,
        row: &InodeRow,
        offset: u64,
        hole: bool,
    ) -> Result<u64, FsError> {
        if offset >= row.size {
            return Err(FsError::NoSuchRange);
        }
        let chunk_size = self.chunk_size();
        let lower_len = Self::lower_len(row);
        let mut index = offset / chunk_size;
        loop {
            let start = index * chunk_size;
            if start >= row.size {
                // The end of the file is a hole, and no data.
                return if hole {
                    Ok(row.size)
                } else {
                    Err(FsError::NoSuchRange)
                };
            }
            let has_data = start < lower_len || txn.chunk(ino, index)?.is_some();
            if has_data != hole {
                return Ok(offset.max(start));
            }
            index = if hole {
                // All that is left of the lower file counts as data.
                (index + 1).max(lower_len.div_ceil(chunk_size))
            } else {
                txn.next_chunk(ino, index + 1)?
                    .ok_or(FsError::NoSuchRange)?
            };
        }
    }
}

pub(super) fn require_regular(kind: FileKind) -> Result<(), FsError> {
    match kind {
        FileKind::Regular => Ok(()),
        FileKind::Directory => Err(FsError::IsADirectory),
        _ => Err(FsError::InvalidArgument),
    }
}
