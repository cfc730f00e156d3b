//! Extended attributes. Those of a lower inode are its own until copy-up, which
//! brings them along.
//!
//! `user.*`, `security.*` and `trusted.*` are kept as they are. `system.*`
//! (POSIX ACLs among them) is refused with [`FsError::NotSupported`]: an ACL
//! that is stored but not enforced would be a lie.

use super::Overlay;
use super::copy_up::as_read;
use super::lookup::Inode;
use super::request::XattrMode;
use crate::error::FsError;
use crate::lower::LowerLayer;
use crate::storage::{ReadTxn, Storage};
use crate::types::Ino;

/// Linux `XATTR_NAME_MAX`.
const NAME_MAX_BYTES: usize = 255;
/// Linux `XATTR_SIZE_MAX`.
const VALUE_MAX_BYTES: usize = 65_536;
/// Linux `XATTR_LIST_MAX`.
const LIST_MAX_BYTES: usize = 65_536;

impl<S: Storage, L: LowerLayer> Overlay<S, L> {
    /// The value of an extended attribute.
    ///
    /// # Errors
    /// [`FsError::NoAttribute`], [`FsError::NotSupported`],
    /// [`FsError::StaleInode`], and those of the layers.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        require_namespace(name)?;
        let _namespace = self.namespace.read();
        self.storage.read(|txn| {
            let value = match self.inode(txn, ino)? {
                Inode::Upper(_) => txn.xattr(ino, name)?,
                Inode::Lower { path, .. } => self.lower.xattr(&path, name)?,
            };
            value.ok_or(FsError::NoAttribute)
        })
    }

    /// All names, sorted.
    ///
    /// # Errors
    /// [`FsError::StaleInode`], and those of the layers.
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<Vec<u8>>, FsError> {
        let _namespace = self.namespace.read();
        self.storage.read(|txn| self.xattr_names(txn, ino))
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// [`FsError::AttributeExists`] and [`FsError::NoAttribute`] by `mode`;
    /// [`FsError::AttributeTooLarge`]; [`FsError::InvalidArgument`] for an empty
    /// name, [`FsError::NotSupported`]; [`FsError::StaleInode`], and those of
    /// the layers.
    pub fn setxattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<(), FsError> {
        require_namespace(name)?;
        if value.len() > VALUE_MAX_BYTES {
            return Err(FsError::AttributeTooLarge);
        }
        self.change_xattrs(ino, |names| {
            let exists = names.iter().any(|existing| existing == name);
            match (exists, mode) {
                (true, XattrMode::Create) => return Err(FsError::AttributeExists),
                (false, XattrMode::Replace) => return Err(FsError::NoAttribute),
                _ => {}
            }
            let listed: usize = names.iter().map(|name| name.len() + 1).sum();
            if !exists && listed + name.len() + 1 > LIST_MAX_BYTES {
                return Err(FsError::AttributeTooLarge);
            }
            Ok((name, Some(value)))
        })
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// [`FsError::NoAttribute`], [`FsError::NotSupported`],
    /// [`FsError::StaleInode`], and those of the layers.
    pub fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<(), FsError> {
        require_namespace(name)?;
        self.change_xattrs(ino, |names| {
            if !names.iter().any(|existing| existing == name) {
                return Err(FsError::NoAttribute);
            }
            Ok((name, None))
        })
    }

    fn xattr_names(&self, txn: &dyn ReadTxn, ino: Ino) -> Result<Vec<Vec<u8>>, FsError> {
        let mut names = Vec::new();
        match self.inode(txn, ino)? {
            Inode::Upper(_) => txn.xattrs(ino, &mut |name, _| names.push(name.to_vec()))?,
            Inode::Lower { path, .. } => {
                names.extend(self.lower.xattrs(&path)?.into_iter().map(|(name, _)| name));
            }
        }
        names.sort();
        Ok(names)
    }

    /// Lets `decide` look at the names there are and say what to set (`Some`) or
    /// remove (`None`); copies up only when it does not refuse.
    fn change_xattrs<'a>(
        &self,
        ino: Ino,
        decide: impl FnOnce(&[Vec<u8>]) -> Result<(&'a [u8], Option<&'a [u8]>), FsError>,
    ) -> Result<(), FsError> {
        let _namespace = self.namespace.write();
        let now = self.config.clock.now();
        self.storage.write(|txn| {
            let (name, value) = decide(&self.xattr_names(as_read(txn), ino)?)?;
            let mut row = self.copy_up(txn, ino)?;
            match value {
                Some(value) => txn.put_xattr(ino, name, value)?,
                None => txn.delete_xattr(ino, name)?,
            }
            row.ctime = now;
            Ok(txn.put_inode(ino, &row)?)
        })
    }
}

fn require_namespace(name: &[u8]) -> Result<(), FsError> {
    if name.is_empty() || name.len() > NAME_MAX_BYTES {
        return Err(FsError::InvalidArgument);
    }
    let known: [&[u8]; 3] = [b"user.", b"security.", b"trusted."];
    match known.iter().find(|prefix| name.starts_with(prefix)) {
        Some(prefix) if name.len() > prefix.len() => Ok(()),
        Some(_) => Err(FsError::InvalidArgument),
        None => Err(FsError::NotSupported),
    }
}
