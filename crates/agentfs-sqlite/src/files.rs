//! [`DatabaseFiles`]: where a database and what SQLite keeps beside it lie. The one
//! place that knows the names; must never look at a file.

use std::path::{Path, PathBuf};

/// The database file and its companions (SQLite's file format, 1: "hot journals" and
/// write-ahead logs), there or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseFiles {
    /// The file itself.
    pub database: PathBuf,
    /// Transactions not yet in the file.
    pub wal: PathBuf,
    /// An index of the `-wal`, made anew when it is missing.
    pub shm: PathBuf,
    /// What a transaction replaces, where no `-wal` is used.
    pub journal: PathBuf,
}

impl DatabaseFiles {
    /// Of the database at a path, or of that name.
    #[must_use]
    pub fn of(database: &Path) -> Self {
        let beside = |suffix: &str| {
            let mut name = database.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        Self {
            database: database.to_path_buf(),
            wal: beside("-wal"),
            shm: beside("-shm"),
            journal: beside("-journal"),
        }
    }

    /// What lies beside the file.
    #[must_use]
    pub fn companions(&self) -> [&Path; 3] {
        [&self.wal, &self.shm, &self.journal]
    }
}
