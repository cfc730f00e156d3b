//! Operations on one object: attributes, bytes, extended attributes.

use agentfs_core::overlay::{Fallocate, SetAttr, SetTime, XattrMode};
use agentfs_core::types::{FILE_MAX_BYTES, FileKind, Timestamp};

use super::{Body, Errno, Given, Model, Node, NodeId, Outcome, SparseBytes};

/// What is left of the permissions after the content or owner changed.
fn without_set_ids(perm: u16) -> u16 {
    let perm = perm & !0o4000;
    if perm & 0o010 != 0 {
        perm & !0o2000
    } else {
        perm
    }
}

impl Node {
    /// Whether all that `set` asks for is as it is.
    #[must_use]
    pub fn has_already(&self, set: &SetAttr) -> bool {
        let same_time = |t: Option<SetTime>, has| t.is_none_or(|t| t == SetTime::At(has));
        set.perm.is_none_or(|perm| perm == self.perm)
            && set.uid.is_none_or(|uid| uid == self.uid)
            && set.gid.is_none_or(|gid| gid == self.gid)
            && set.size.is_none_or(|size| size == self.size())
            && same_time(set.atime, self.atime)
            && same_time(set.mtime, self.mtime)
            && !(set.kill_suid_sgid
                && !self.kind.is_dir()
                && without_set_ids(self.perm) != self.perm)
    }
}

impl Model {
    /// Changes attributes.
    ///
    /// # Errors
    /// EISDIR, EINVAL (size of what is no file), EFBIG.
    pub fn setattr(&mut self, id: NodeId, set: &SetAttr) -> Outcome {
        let now = self.now;
        let time = |t: SetTime| match t {
            SetTime::Now => now,
            SetTime::At(at) => at,
        };
        let node = self.node_mut(id);
        if let Some(size) = set.size {
            match &mut node.body {
                Body::File(_) if size > FILE_MAX_BYTES => return Err(libc::EFBIG),
                Body::File(bytes) => {
                    bytes.set_len(size);
                    node.mtime = now;
                }
                Body::Directory { .. } => return Err(libc::EISDIR),
                _ => return Err(libc::EINVAL),
            }
        }
        node.perm = set.perm.unwrap_or(node.perm);
        node.uid = set.uid.unwrap_or(node.uid);
        node.gid = set.gid.unwrap_or(node.gid);
        if set.kill_suid_sgid && node.kind != FileKind::Directory {
            node.perm = without_set_ids(node.perm);
        }
        node.atime = set.atime.map_or(node.atime, time);
        node.mtime = set.mtime.map_or(node.mtime, time);
        node.ctime = set.ctime.unwrap_or(now);
        Ok(Given::Unit)
    }

    /// Undoes what a change that changed nothing did to the times.
    pub fn set_times_back(&mut self, id: NodeId, mtime: Timestamp, ctime: Timestamp) {
        let node = self.node_mut(id);
        node.mtime = mtime;
        node.ctime = ctime;
    }

    fn file(&self, id: NodeId) -> Result<&SparseBytes, Errno> {
        match &self.node(id).body {
            Body::File(bytes) => Ok(bytes),
            Body::Directory { .. } => Err(libc::EISDIR),
            _ => Err(libc::EINVAL),
        }
    }

    fn change(&mut self, id: NodeId, f: impl FnOnce(&mut SparseBytes)) {
        let now = self.now;
        let node = self.node_mut(id);
        node.mtime = now;
        node.ctime = now;
        if let Body::File(bytes) = &mut node.body {
            f(bytes);
        }
    }

    /// Reads.
    ///
    /// # Errors
    /// EISDIR, EINVAL.
    pub fn read(&self, id: NodeId, offset: u64, len: usize) -> Outcome {
        Ok(Given::Bytes(self.file(id)?.read(offset, len)))
    }

    /// Writes.
    ///
    /// # Errors
    /// EISDIR, EINVAL, EFBIG.
    pub fn write(&mut self, id: NodeId, offset: u64, data: &[u8], kill_set_ids: bool) -> Outcome {
        self.file(id)?;
        if data.is_empty() {
            return Ok(Given::Unit);
        }
        if offset
            .checked_add(data.len() as u64)
            .is_none_or(|end| end > FILE_MAX_BYTES)
        {
            return Err(libc::EFBIG);
        }
        self.change(id, |bytes| bytes.write(offset, data));
        if kill_set_ids {
            let node = self.node_mut(id);
            node.perm = without_set_ids(node.perm);
        }
        Ok(Given::Unit)
    }

    /// Allocates, punches or zeroes.
    ///
    /// # Errors
    /// EISDIR, EINVAL, EFBIG.
    pub fn fallocate(&mut self, id: NodeId, mode: Fallocate, offset: u64, len: u64) -> Outcome {
        self.file(id)?;
        if len == 0 {
            return Err(libc::EINVAL);
        }
        let end = offset.checked_add(len).filter(|&end| end <= FILE_MAX_BYTES);
        let end = end.ok_or(libc::EFBIG)?;
        // Documented: space is the database's to find.
        if mode == Fallocate::KeepSize {
            return Ok(Given::Unit);
        }
        self.change(id, |bytes| {
            match mode {
                Fallocate::Allocate | Fallocate::KeepSize => {}
                Fallocate::PunchHole | Fallocate::ZeroRange { .. } => bytes.zero(offset, len),
            }
            let extends = matches!(
                mode,
                Fallocate::Allocate | Fallocate::ZeroRange { keep_size: false }
            );
            if extends && end > bytes.len() {
                bytes.set_len(end);
            }
        });
        Ok(Given::Unit)
    }

    /// Copies a range, maybe within one file.
    ///
    /// # Errors
    /// EISDIR, EINVAL (also for overlapping ranges of one file), EFBIG.
    pub fn copy_file_range(
        &mut self,
        from: NodeId,
        from_offset: u64,
        to: NodeId,
        to_offset: u64,
        len: u64,
    ) -> Outcome {
        self.file(to)?;
        let source = self.file(from)?;
        let len = len.min(source.len().saturating_sub(from_offset));
        if len == 0 {
            return Ok(Given::Count(0));
        }
        let to_end = to_offset
            .checked_add(len)
            .filter(|&end| end <= FILE_MAX_BYTES);
        let to_end = to_end.ok_or(libc::EFBIG)?;
        if from == to && to_end > from_offset && to_offset < from_offset + len {
            return Err(libc::EINVAL);
        }
        let data = source.read(from_offset, usize::try_from(len).map_err(|_| libc::EFBIG)?);
        self.change(to, |bytes| bytes.write(to_offset, &data));
        Ok(Given::Count(len))
    }

    /// Reads a symbolic link.
    ///
    /// # Errors
    /// EINVAL for anything else.
    pub fn readlink(&self, id: NodeId) -> Outcome {
        match &self.node(id).body {
            Body::Symlink(target) => Ok(Given::Bytes(target.clone())),
            _ => Err(libc::EINVAL),
        }
    }

    /// Reads an extended attribute.
    ///
    /// # Errors
    /// ENODATA.
    pub fn getxattr(&self, id: NodeId, name: &[u8]) -> Outcome {
        let value = self.node(id).xattrs.get(name).cloned();
        value.map(Given::Bytes).ok_or(libc::ENODATA)
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// EEXIST, ENODATA.
    pub fn setxattr(&mut self, id: NodeId, name: &[u8], value: &[u8], mode: XattrMode) -> Outcome {
        let now = self.now;
        let node = self.node_mut(id);
        match (mode, node.xattrs.contains_key(name)) {
            (XattrMode::Create, true) => return Err(libc::EEXIST),
            (XattrMode::Replace, false) => return Err(libc::ENODATA),
            _ => {}
        }
        node.xattrs.insert(name.to_vec(), value.to_vec());
        node.ctime = now;
        Ok(Given::Unit)
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// ENODATA.
    pub fn removexattr(&mut self, id: NodeId, name: &[u8]) -> Outcome {
        let now = self.now;
        let node = self.node_mut(id);
        node.xattrs.remove(name).ok_or(libc::ENODATA)?;
        node.ctime = now;
        Ok(Given::Unit)
    }
}
