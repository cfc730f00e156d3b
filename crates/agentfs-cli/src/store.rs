//! A session's database, opened for a command, and the view it gives.
//!
//! Reading commands change nothing, beside a live session or not. Which base a
//! view has is `base`'s to say.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agentfs_core::lower::MemoryLower;
use agentfs_core::{LowerLayer, Name, Overlay, OverlayConfig, Owner, StorageError};
use agentfs_hostdir::{HostClock, HostDir};
use agentfs_session::{Note, Noted};
use agentfs_sqlite::{Database, DatabaseFiles, OpenError, OpenOptions, SqliteStorage, Volume};
use anyhow::{Context as _, Result};

use crate::base;
use crate::locate::{HOLDER, Located};
use crate::output;

/// How long after a change a server has written it: its committer writes every
/// 100 ms at the latest.
const COMMIT_DELAY: Duration = Duration::from_millis(120);

/// A database that is open for reading, or for reading and writing.
pub(crate) struct Store {
    pub(crate) database: Database,
    pub(crate) storage: SqliteStorage,
}

/// A lower layer, whichever it is.
pub(crate) type Lower = Arc<dyn LowerLayer>;

impl Store {
    /// Opens an existing database; everything that a live session has done so
    /// far is in it.
    pub(crate) fn read(located: &Located) -> Result<Self> {
        settle(&located.db);
        Ok(Self::of(open_read_only(&located.db)?))
    }

    /// Opens an existing database for writing, beside a live session or not.
    pub(crate) fn write(located: &Located) -> Result<Self> {
        Self::open(&located.db, &OpenOptions::new())
    }

    /// Creates a database; what is there already stays as it is.
    pub(crate) fn create(db: &Path) -> Result<Self> {
        Self::open(db, &OpenOptions::new().create(true))
    }

    fn open(db: &Path, options: &OpenOptions) -> Result<Self> {
        Ok(Self::of(Database::open(db, options)?))
    }

    fn of(database: Database) -> Self {
        let storage = database.volume(Volume::View);
        Self { database, storage }
    }

    /// Makes sure that what was written is kept, and tidies up.
    pub(crate) fn close(self) -> Result<()> {
        drop(self.storage);
        self.database.sync()?;
        match self.database.close() {
            // Somebody else has it open too, and will tidy up.
            Err(StorageError::Busy) => Ok(()),
            result => Ok(result?),
        }
    }
}

/// Writes to the store or the log of a session: by its server where it is live, which goes
/// on knowing its files, else to the database itself.
pub(crate) fn note(located: &Located, note: &Note) -> Result<Noted> {
    if let Some(noted) = agentfs_session::note(&located.db, note)? {
        return Ok(noted);
    }
    let store = Store::write(located)?;
    let noted = note.write_to(&store.storage);
    store.close()?;
    Ok(noted?)
}

/// Opens a database for reading. One that an SDK has made is given our extension
/// tables first, without which it cannot be read.
pub(crate) fn open_read_only(db: &Path) -> Result<Database, OpenError> {
    let read_only = OpenOptions::new().read_only(true);
    match Database::open(db, &read_only) {
        Err(OpenError::NeedsUpgrade(_)) => {}
        result => return result,
    }
    let database = Database::open(db, &OpenOptions::new())?;
    // Others may have it open; what was added is there all the same.
    let _ = database.close();
    drop(database);
    Database::open(db, &read_only)
}

/// Sees to it that what others have done to a database is in it.
fn settle(db: &Path) {
    // Nobody writes to a database that has no -wal.
    if DatabaseFiles::of(db).wal.exists() && !matches!(agentfs_session::flush(db), Ok(true)) {
        // Served by 'agentfs mount', or by another version.
        std::thread::sleep(COMMIT_DELAY);
    }
}

/// Keeps servers from a database while it is replaced.
#[derive(Debug)]
pub(crate) struct Claim {
    // None for what no server can open, either.
    _locked: Option<File>,
}

/// `None` while a server, of a session or of a mount, has this database.
pub(crate) fn claim(db: &Path) -> Option<Claim> {
    // Opening a pipe would wait.
    let is_file = fs::metadata(db).is_ok_and(|found| found.is_file());
    let locked = match is_file.then(|| File::open(db)) {
        Some(Ok(file)) if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) => return None,
        opened => opened.and_then(Result::ok),
    };
    Some(Claim { _locked: locked })
}

/// Removes what SQLite keeps beside a database, lest it be taken for that of the
/// next one at this path.
pub(crate) fn remove_companions(db: &Path) -> Result<()> {
    let files = DatabaseFiles::of(db);
    files.companions().into_iter().try_for_each(remove)
}

/// Removes a file, if it is there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", output::path(path)))
        }
        _ => Ok(()),
    }
}

fn without_database(host: HostDir, directory: &Path, located: &Located) -> HostDir {
    let files = DatabaseFiles::of(&located.db);
    host.without_database(directory, &files.database, &files.shm, &files.companions())
}

/// The base of a session as a lower layer, as the session sees it.
pub(crate) fn lower(located: &Located, path: &Path) -> Result<Lower> {
    let host = HostDir::open(path)
        .with_context(|| format!("the base {} cannot be opened", output::path(path)))?;
    Ok(Arc::new(without_database(host, path, located)))
}

/// Why there is no base to look at.
pub(crate) enum NoBase {
    /// The database says nothing of one: a copy elsewhere, for instance.
    Unknown,
    /// It is not there.
    Gone(PathBuf),
}

impl std::fmt::Display for NoBase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown => f.write_str("the database says nothing of a base directory"),
            Self::Gone(base) => write!(f, "the base {} is not there", output::path(base)),
        }
    }
}

/// The base as a lower layer, or an empty one and why.
pub(crate) fn lower_or_nothing(
    located: &Located,
    database: &Database,
) -> Result<(Lower, Option<NoBase>)> {
    let nothing = |why| Ok((Arc::new(MemoryLower::new()) as Lower, Some(why)));
    let Ok(path) = base::of(located, database) else {
        return nothing(NoBase::Unknown);
    };
    match HostDir::open(&path) {
        Ok(host) => Ok((Arc::new(without_database(host, &path, located)), None)),
        Err(_) => nothing(NoBase::Gone(path)),
    }
}

/// What the private caches lie over: the home directory, if there is one.
pub(crate) fn home_or_nothing(located: &Located) -> Lower {
    let home = std::env::var_os("HOME").and_then(|home| {
        let host = HostDir::open(&home).ok()?;
        Some(without_database(host, home.as_ref(), located))
    });
    home.map_or_else(
        || Arc::new(MemoryLower::new()) as Lower,
        |home| Arc::new(home) as Lower,
    )
}

/// How a view is opened.
pub(crate) fn config() -> OverlayConfig {
    OverlayConfig {
        clock: Arc::new(HostClock),
        hidden: hidden(),
        root_owner: Owner {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        },
    }
}

/// What the root of a view does not show.
pub(crate) fn hidden() -> Vec<Name> {
    Name::new(HOLDER.as_bytes()).into_iter().collect()
}

/// The view, for looking at.
pub(crate) fn view(store: &Store, lower: Lower) -> Result<Overlay<SqliteStorage, Lower>> {
    Ok(Overlay::open_read_only(
        store.storage.clone(),
        lower,
        config(),
    )?)
}
