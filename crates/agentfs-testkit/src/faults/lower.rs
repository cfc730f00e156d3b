//! A lower layer of which one call can be made to fail.

use agentfs_core::error::LowerError;
use agentfs_core::lower::{LowerAttr, LowerDirEntry, LowerFile, LowerLayer};
use agentfs_core::types::{FsStats, LowerPath};

use super::Faults;

/// A lower layer that fails as told by [`Faults`].
#[derive(Debug)]
pub struct FaultyLower<L> {
    inner: L,
    faults: Faults,
}

impl<L> FaultyLower<L> {
    /// Wraps `inner`.
    pub fn new(inner: L, faults: Faults) -> Self {
        Self { inner, faults }
    }

    /// What is wrapped.
    pub fn inner(&self) -> &L {
        &self.inner
    }
}

fn tick(faults: &Faults, path: &LowerPath) -> Result<(), LowerError> {
    if faults.hit() {
        Err(LowerError {
            path: path.clone(),
            errno: libc::EIO,
        })
    } else {
        Ok(())
    }
}

impl<L: LowerLayer> LowerLayer for FaultyLower<L> {
    fn stat(&self, path: &LowerPath) -> Result<Option<LowerAttr>, LowerError> {
        tick(&self.faults, path)?;
        self.inner.stat(path)
    }
    fn read_dir(&self, path: &LowerPath) -> Result<Vec<LowerDirEntry>, LowerError> {
        tick(&self.faults, path)?;
        self.inner.read_dir(path)
    }
    fn read_link(&self, path: &LowerPath) -> Result<Vec<u8>, LowerError> {
        tick(&self.faults, path)?;
        self.inner.read_link(path)
    }
    fn open(&self, path: &LowerPath) -> Result<Box<dyn LowerFile>, LowerError> {
        tick(&self.faults, path)?;
        let inner = self.inner.open(path)?;
        Ok(Box::new(Open {
            inner,
            path: path.clone(),
            faults: self.faults.clone(),
        }))
    }
    fn xattrs(&self, path: &LowerPath) -> Result<Vec<(Vec<u8>, Vec<u8>)>, LowerError> {
        tick(&self.faults, path)?;
        self.inner.xattrs(path)
    }
    fn xattr(&self, path: &LowerPath, name: &[u8]) -> Result<Option<Vec<u8>>, LowerError> {
        tick(&self.faults, path)?;
        self.inner.xattr(path, name)
    }
    fn statfs(&self) -> Result<FsStats, LowerError> {
        tick(&self.faults, &LowerPath::root())?;
        self.inner.statfs()
    }
}

struct Open {
    inner: Box<dyn LowerFile>,
    path: LowerPath,
    faults: Faults,
}

impl LowerFile for Open {
    fn attr(&self) -> Result<LowerAttr, LowerError> {
        tick(&self.faults, &self.path)?;
        self.inner.attr()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, LowerError> {
        tick(&self.faults, &self.path)?;
        self.inner.read_at(buf, offset)
    }
    fn seek(&self, offset: u64, hole: bool) -> Result<Option<u64>, LowerError> {
        tick(&self.faults, &self.path)?;
        self.inner.seek(offset, hole)
    }
}
