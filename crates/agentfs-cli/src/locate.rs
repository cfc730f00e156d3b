//! From what the user calls a session to its database file.
//!
//! Finds; creates nothing but `.agentfs` itself, and opens no database.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use agentfs_session::{BadSessionName, SessionName};
use thiserror::Error;

use crate::output;

/// The directory that holds the databases of a project.
pub(crate) const HOLDER: &str = ".agentfs";

/// Why no database was found.
#[derive(Debug, Error)]
pub(crate) enum LocateError {
    #[error(transparent)]
    BadName(#[from] BadSessionName),
    #[error("'{0}' is not a session name, because it is not text")]
    NameNotText(String),
    #[error(
        "there is no session {name} in {HOLDER} of {} or of a directory above it; 'agentfs run --session {name}' starts it",
        output::path(.from)
    )]
    NotFound { name: SessionName, from: PathBuf },
    #[error("there is no session database {}", output::path(.0))]
    NoSuchFile(PathBuf),
    #[error("{} cannot be reached ({reason})", output::path(.path))]
    Unreachable { path: PathBuf, reason: io::Error },
    #[error("the session database directory {} cannot be made ({reason})", output::path(.path))]
    CannotCreate { path: PathBuf, reason: io::Error },
}

/// A session and where its database is, or will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Located {
    /// The session's name: the file's, without `.db`.
    pub(crate) name: SessionName,
    /// The database file, absolute.
    pub(crate) db: PathBuf,
    /// Whether it is there.
    pub(crate) exists: bool,
}

impl Located {
    /// The directory that holds the `.agentfs` the database is in; `None` for a
    /// database elsewhere.
    pub(crate) fn holder(&self) -> Option<&Path> {
        let dir = self.db.parent()?;
        (dir.file_name()? == HOLDER).then(|| dir.parent()).flatten()
    }
}

/// Finds an existing session by name or path.
pub(crate) fn existing(word: &OsStr) -> Result<Located, LocateError> {
    let from = working_dir()?;
    let located = find(word, &from)?;
    if located.exists {
        return Ok(located);
    }
    Err(if is_path(word) {
        LocateError::NoSuchFile(located.db)
    } else {
        LocateError::NotFound {
            name: located.name,
            from,
        }
    })
}

/// Finds a session by name or path, or says where a new one goes: `.agentfs` of
/// the current directory.
pub(crate) fn existing_or_new(word: &OsStr) -> Result<Located, LocateError> {
    find(word, &working_dir()?)
}

/// A session of that name in `.agentfs` of the current directory, wherever else
/// there may be one.
pub(crate) fn here(word: &OsStr) -> Result<Located, LocateError> {
    let from = working_dir()?;
    if is_path(word) {
        return at_path(word, &from);
    }
    let name = session_name(word)?;
    let db = database_in(&from, &name);
    let exists = stat(&db)?.is_some();
    Ok(Located { name, db, exists })
}

/// A new session with a name nobody has used here.
pub(crate) fn fresh() -> Result<Located, LocateError> {
    let mut located = here(OsStr::new("session"))?;
    for words in [2, 2, 2, 3, 3, 4] {
        if let Some(name) = petname::petname(words, "-") {
            located = here(OsStr::new(&name))?;
            if !located.exists {
                break;
            }
        }
    }
    Ok(located)
}

/// Makes the directory of the database, if it is an `.agentfs` that is missing.
/// Git is told to leave it alone.
pub(crate) fn create_holder(located: &Located) -> Result<(), LocateError> {
    let (Some(_), Some(dir)) = (located.holder(), located.db.parent()) else {
        return Ok(());
    };
    let cannot = |reason| LocateError::CannotCreate {
        path: dir.to_owned(),
        reason,
    };
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(cannot(error)),
        _ => {}
    }
    match File::create_new(dir.join(".gitignore")) {
        Ok(mut file) => file.write_all(b"*\n").map_err(cannot),
        // It is there, or the directory is not ours to add to: the database is
        // what counts.
        Err(_) => Ok(()),
    }
}

/// Finds a session by name or path, as from a directory.
pub(crate) fn find(word: &OsStr, from: &Path) -> Result<Located, LocateError> {
    if is_path(word) {
        return at_path(word, from);
    }
    let name = session_name(word)?;
    let start = stat(from)?;
    for dir in from.ancestors() {
        let holder = dir.join(HOLDER);
        let Some(found) = stat(&holder)?.filter(Metadata::is_dir) else {
            continue;
        };
        if dir != from && !trusted(&found, start.as_ref()) {
            continue;
        }
        let db = database_in(dir, &name);
        let exists = match stat(&db) {
            // Above: root's own, which is no session of this user's.
            Err(LocateError::Unreachable { reason, .. })
                if dir != from && reason.kind() == io::ErrorKind::PermissionDenied =>
            {
                false
            }
            there => there?.is_some(),
        };
        if exists {
            return Ok(Located { name, db, exists });
        }
    }
    let db = database_in(from, &name);
    Ok(Located {
        name,
        db,
        exists: false,
    })
}

/// Whether an `.agentfs` found above the current directory is one the user means:
/// not one that somebody else has put into a shared directory such as `/tmp`.
fn trusted(holder: &Metadata, start: Option<&Metadata>) -> bool {
    let me = rustix::process::geteuid().as_raw();
    holder.uid() == me || holder.uid() == 0 || start.is_some_and(|dir| dir.uid() == holder.uid())
}

fn at_path(word: &OsStr, from: &Path) -> Result<Located, LocateError> {
    let path = from.join(word);
    let unreachable = |reason| LocateError::Unreachable {
        path: path.clone(),
        reason,
    };
    let file = path
        .file_name()
        .ok_or_else(|| unreachable(io::ErrorKind::InvalidInput.into()))?;
    // The directory by its real path, so that `..` and links do not hide that
    // two paths mean one session.
    let dir = path.parent().unwrap_or(Path::new("/"));
    let dir = match dir.canonicalize() {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(LocateError::NoSuchFile(path));
        }
        Err(error) => return Err(unreachable(error)),
    };
    let stem = path.file_stem().unwrap_or(file).to_string_lossy();
    // A file may be called anything; the session in it is called something close.
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let plain: String = stem
        .chars()
        .map(|c| if allowed(c) { c } else { '_' })
        .collect();
    let name = SessionName::new(&plain).or_else(|_| SessionName::new("session"))?;
    let db = dir.join(file);
    let exists = stat(&db)?.is_some();
    Ok(Located { name, db, exists })
}

/// Whether a word names a file, not a session.
fn is_path(word: &OsStr) -> bool {
    word.as_encoded_bytes().ends_with(b".db")
}

fn session_name(word: &OsStr) -> Result<SessionName, LocateError> {
    let text = word
        .to_str()
        .ok_or_else(|| LocateError::NameNotText(word.to_string_lossy().into_owned()))?;
    Ok(SessionName::new(text)?)
}

fn database_in(dir: &Path, name: &SessionName) -> PathBuf {
    dir.join(HOLDER).join(format!("{name}.db"))
}

fn working_dir() -> Result<PathBuf, LocateError> {
    std::env::current_dir().map_err(|reason| LocateError::Unreachable {
        path: PathBuf::from("."),
        reason,
    })
}

fn stat(path: &Path) -> Result<Option<Metadata>, LocateError> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
            _ => Err(LocateError::Unreachable {
                path: path.to_owned(),
                reason: error,
            }),
        },
    }
}
