//! A view in memory that is used by path: what the tests of the clauses share.

use std::ops::ControlFlow;
use std::sync::Arc;

use agentfs_core::error::FsError;
use agentfs_core::lower::MemoryLower;
use agentfs_core::overlay::{NewNode, Overlay, OverlayConfig, RenameMode, SetAttr};
use agentfs_core::storage::MemoryStorage;
use agentfs_core::types::{Attr, FileKind, Ino, ManualClock, Name, Owner, Timestamp};
use agentfs_testkit::faults::{Faults, FaultyStorage, Tally};

pub(super) const CHUNK_BYTES: u32 = 4096;

type Memory = Overlay<FaultyStorage<Arc<MemoryStorage>>, MemoryLower>;

/// An overlay over a base in memory, with a clock that is set by hand.
pub(super) struct View {
    pub(super) base: MemoryLower,
    pub(super) storage: Arc<MemoryStorage>,
    pub(super) clock: Arc<ManualClock>,
    pub(super) overlay: Memory,
    faults: Faults,
}

pub(super) fn name(bytes: impl AsRef<[u8]>) -> Name {
    Name::new(bytes.as_ref()).unwrap()
}

/// Seconds after the start of the clock.
pub(super) fn at(secs: i64) -> Timestamp {
    Timestamp::new(2_000_000_000 + secs, 5)
}

impl View {
    /// An empty upper layer over `base`.
    pub(super) fn over(base: &MemoryLower) -> Self {
        let storage = Arc::new(MemoryStorage::new(CHUNK_BYTES));
        Self::open(base.clone(), storage, Arc::new(ManualClock::new(at(0))))
    }

    fn open(base: MemoryLower, storage: Arc<MemoryStorage>, clock: Arc<ManualClock>) -> Self {
        let faults = Faults::default();
        let config = OverlayConfig {
            clock: clock.clone(),
            hidden: vec![name(".agentfs")],
            root_owner: Owner::default(),
        };
        let faulty = FaultyStorage::new(Arc::clone(&storage), faults.clone());
        let overlay = Overlay::open(faulty, base.clone(), config).unwrap();
        Self {
            base,
            storage,
            clock,
            overlay,
            faults,
        }
    }

    /// The session ends and starts again.
    pub(super) fn restart(self) -> Self {
        let Self {
            base,
            storage,
            clock,
            overlay,
            ..
        } = self;
        drop(overlay);
        Self::open(base, storage, clock)
    }

    /// What `f` wrote to the storage.
    pub(super) fn written(&self, f: impl FnOnce(&Self)) -> Tally {
        let before = self.faults.tally();
        f(self);
        self.faults.tally() - before
    }

    /// Looks a path up; references are never given back.
    pub(super) fn find(&self, path: &str) -> Result<Ino, FsError> {
        let mut ino = Ino::ROOT;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            ino = self.overlay.lookup(ino, &name(part))?.ino;
        }
        Ok(ino)
    }

    pub(super) fn ino(&self, path: &str) -> Ino {
        self.find(path).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// The directory of a path and the name in it.
    pub(super) fn place(&self, path: &str) -> (Ino, Name) {
        match path.rsplit_once('/') {
            Some((dir, last)) => (self.ino(dir), name(last)),
            None => (Ino::ROOT, name(path)),
        }
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        match self.find(path) {
            Ok(_) => true,
            Err(FsError::NotFound) => false,
            Err(e) => panic!("{path}: {e}"),
        }
    }

    pub(super) fn attr(&self, path: &str) -> Attr {
        self.overlay.getattr(self.ino(path)).unwrap()
    }

    pub(super) fn ls(&self, path: &str) -> Vec<String> {
        let mut names = Vec::new();
        self.overlay
            .read_dir(self.ino(path), 0, &mut |entry| {
                names.push(String::from_utf8_lossy(entry.name.as_bytes()).into_owned());
                ControlFlow::Continue(())
            })
            .unwrap();
        names.sort();
        names
    }

    pub(super) fn read(&self, path: &str) -> Vec<u8> {
        self.overlay.read(self.ino(path), 0, 1 << 20).unwrap()
    }

    pub(super) fn write(&self, path: &str, offset: u64, data: &[u8]) {
        self.overlay
            .write(self.ino(path), offset, data, false)
            .unwrap();
    }

    pub(super) fn create(&self, path: &str) -> Ino {
        self.try_create(path)
            .unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    pub(super) fn try_create(&self, path: &str) -> Result<Ino, FsError> {
        let (dir, name) = self.place(path);
        let node = NewNode {
            kind: FileKind::Regular,
            perm: 0o644,
            rdev: 0,
        };
        Ok(self.overlay.mknod(dir, &name, node, Owner::default())?.ino)
    }

    pub(super) fn mkdir(&self, path: &str) -> Ino {
        let (dir, name) = self.place(path);
        self.overlay
            .mkdir(dir, &name, 0o755, Owner::default())
            .unwrap()
            .ino
    }

    pub(super) fn unlink(&self, path: &str) {
        let (dir, name) = self.place(path);
        self.overlay
            .unlink(dir, &name)
            .unwrap_or_else(|e| panic!("{path}: {e}"));
    }

    pub(super) fn rmdir(&self, path: &str) -> Result<(), FsError> {
        let (dir, name) = self.place(path);
        self.overlay.rmdir(dir, &name)
    }

    pub(super) fn rename(&self, from: &str, to: &str) {
        self.try_rename(from, to, RenameMode::Replace)
            .unwrap_or_else(|e| panic!("{from}: {e}"));
    }

    pub(super) fn try_rename(&self, from: &str, to: &str, mode: RenameMode) -> Result<(), FsError> {
        let ((dir, name), (new_dir, new_name)) = (self.place(from), self.place(to));
        self.overlay.rename(dir, &name, new_dir, &new_name, mode)
    }

    pub(super) fn link(&self, from: &str, to: &str) {
        let (dir, name) = self.place(to);
        self.overlay.link(self.ino(from), dir, &name).unwrap();
    }

    pub(super) fn set(&self, path: &str, set: &SetAttr) -> Attr {
        self.overlay.setattr(self.ino(path), set).unwrap()
    }
}
