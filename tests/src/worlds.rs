//! The combinations of storage and lower layer that the model is compared with.

use std::path::Path;
use std::sync::Arc;

use agentfs_core::lower::{LowerLayer, MemoryLower};
use agentfs_core::storage::MemoryStorage;
use agentfs_hostdir::HostDir;
use agentfs_sqlite::{Database, OpenOptions, SqliteStorage, Volume};
use agentfs_testkit::base::BaseTree;
use agentfs_testkit::driver::World;

/// Everything in memory.
pub struct MemoryWorld {
    storage: Arc<MemoryStorage>,
    lower: MemoryLower,
}

impl MemoryWorld {
    /// An empty storage over this base.
    #[must_use]
    pub fn new(base: &BaseTree, chunk_size_bytes: u32) -> Self {
        Self {
            storage: Arc::new(MemoryStorage::new(chunk_size_bytes)),
            lower: base.in_memory(),
        }
    }
}

impl World for MemoryWorld {
    type S = Arc<MemoryStorage>;
    type L = MemoryLower;

    fn storage(&mut self) -> Self::S {
        Arc::clone(&self.storage)
    }

    fn lower(&mut self) -> Self::L {
        self.lower.clone()
    }
}

/// Storage in memory over a directory of the host.
pub struct HostWorld {
    storage: Arc<MemoryStorage>,
    base: tempfile::TempDir,
}

impl HostWorld {
    /// An empty storage over this base, which is built on the host.
    #[must_use]
    pub fn new(base: &BaseTree, chunk_size_bytes: u32) -> Self {
        Self {
            storage: Arc::new(MemoryStorage::new(chunk_size_bytes)),
            base: host_tree(base),
        }
    }
}

/// The base in a directory of its own.
///
/// # Panics
/// When there is no temporary directory.
#[must_use]
pub fn host_tree(base: &BaseTree) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    base.on_host(dir.path());
    dir
}

impl World for HostWorld {
    type S = Arc<MemoryStorage>;
    type L = HostDir;

    fn storage(&mut self) -> Self::S {
        Arc::clone(&self.storage)
    }

    fn lower(&mut self) -> Self::L {
        HostDir::open(self.base.path()).unwrap()
    }
}

/// A database of its own, and a lower layer of either kind.
pub struct SqliteWorld<L> {
    /// Goes before its directory.
    open: Option<Database>,
    dir: tempfile::TempDir,
    opened: u32,
    lower: L,
}

/// What a [`SqliteWorld`] lies over.
pub trait Base {
    /// The lower layer.
    type L: LowerLayer;
    /// Opens it.
    fn lower(&self) -> Self::L;
}

impl Base for MemoryLower {
    type L = Self;

    fn lower(&self) -> Self {
        self.clone()
    }
}

impl Base for tempfile::TempDir {
    type L = HostDir;

    fn lower(&self) -> HostDir {
        HostDir::open(self.path()).unwrap()
    }
}

/// The smallest that a database can have.
pub const SQLITE_CHUNK_BYTES: u32 = 512;

/// Opens or creates a database with small chunks.
///
/// # Panics
/// When it does not open.
#[must_use]
pub fn open_database(path: &Path) -> Database {
    let options = OpenOptions::new()
        .create(true)
        .chunk_size_bytes(SQLITE_CHUNK_BYTES);
    Database::open(path, &options).unwrap()
}

impl<L: Base> SqliteWorld<L> {
    /// An empty database over this base.
    ///
    /// # Panics
    /// When there is no temporary directory.
    pub fn new(lower: L) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            open: None,
            opened: 0,
            lower,
        }
    }
}

impl<L: Base> World for SqliteWorld<L> {
    type S = SqliteStorage;
    type L = L::L;

    fn storage(&mut self) -> SqliteStorage {
        let path = self.dir.path().join("session.db");
        if let Some(database) = self.open.take() {
            // Dropping has to keep everything as closing does.
            if self.opened.is_multiple_of(2) {
                assert_eq!(database.integrity_check(), Ok(Vec::new()));
                database.close().unwrap();
                let files = std::fs::read_dir(self.dir.path()).unwrap().count();
                assert_eq!(files, 1, "one file is left after closing");
            }
        }
        self.opened += 1;
        let database = open_database(&path);
        let storage = database.volume(Volume::View);
        self.open = Some(database);
        storage
    }

    fn lower(&mut self) -> L::L {
        self.lower.lower()
    }
}
