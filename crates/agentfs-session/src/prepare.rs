//! What has to be so before a session is started: a base, paths and a database
//! that are fit, and directories for temporary files.
//!
//! Changes nothing on the host but what it makes: a database and the temporary
//! directories.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use agentfs_sqlite::{Database, OpenOptions, clear_place};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::error::SessionError;
use crate::runtime::{self, DbId, StartLock};

type Temps = (
    Vec<(crate::protocol::AnyPath, crate::protocol::AnyPath)>,
    Vec<OwnedFd>,
);

/// Directories for the private `/tmp` and `/var/tmp`, where the host has these.
/// Who keeps the project or `$HOME` in `/var/tmp` uses it as a disk, of which
/// the rest must stay visible: it is left as it is, read-only.
pub(crate) fn make_temps(base: &Path) -> Result<Temps, SessionError> {
    let mut temps = Vec::new();
    let mut locks = Vec::new();
    let mut seen: Vec<PathBuf> = Vec::new();
    for shared in ["/tmp", "/var/tmp"] {
        // One may be a link to the other.
        let Ok(target) = fs::canonicalize(shared) else {
            continue;
        };
        let in_use = shared == "/var/tmp"
            && (base.starts_with(&target) || home().is_some_and(|home| home.starts_with(&target)));
        if seen.contains(&target) || in_use {
            continue;
        }
        match runtime::make_temp(&target) {
            Ok((path, lock)) => {
                temps.push((path.into(), target.clone().into()));
                locks.push(lock);
            }
            Err(error) if target == Path::new("/tmp") => return Err(error),
            Err(_) => {}
        }
        seen.push(target);
    }
    Ok((temps, locks))
}

pub(crate) fn home() -> Option<PathBuf> {
    let home = PathBuf::from(std::env::var_os("HOME")?);
    let home = fs::canonicalize(home).ok()?;
    (home.is_dir() && home != Path::new("/")).then_some(home)
}

pub(crate) fn checked_base(base: &Path) -> Result<PathBuf, SessionError> {
    let real = fs::canonicalize(base).map_err(|e| SessionError::BaseGone {
        base: base.to_owned(),
        reason: e.to_string(),
    })?;
    if !real.is_dir() {
        return Err(SessionError::BaseGone {
            base: real,
            reason: "it is not a directory".into(),
        });
    }
    let special = ["/proc", "/sys", "/dev"]
        .iter()
        .any(|dir| real.starts_with(dir));
    let ours = runtime::all_roots()
        .iter()
        .any(|root| root.starts_with(&real) || real.starts_with(root));
    if real == Path::new("/") || special || ours {
        return Err(SessionError::BaseUnsuitable { base: real });
    }
    Ok(real)
}

pub(crate) fn checked_allows(
    allow: &[PathBuf],
    base: &Path,
    db: &Path,
) -> Result<Vec<PathBuf>, SessionError> {
    let mut checked = Vec::new();
    for path in allow {
        let refuse = |reason: &str| SessionError::AllowUnsuitable {
            path: path.clone(),
            reason: reason.to_owned(),
        };
        let real =
            fs::canonicalize(path).map_err(|_| refuse("it does not exist; create it first"))?;
        let special =
            ["/proc", "/sys"].iter().any(|dir| real.starts_with(dir)) || real == Path::new("/dev");
        if real == Path::new("/") || special {
            return Err(refuse(
                "this cannot be made writable; name a directory below it",
            ));
        }
        if real == base {
            return Err(refuse(
                "this is the base of the session; work there without agentfs instead",
            ));
        }
        if db.starts_with(&real) {
            return Err(refuse(
                "it holds the session's database; name a directory beside that",
            ));
        }
        if runtime::all_roots()
            .iter()
            .any(|root| root.starts_with(&real) || real.starts_with(root))
        {
            return Err(refuse(
                "it holds the session's runtime files; name a directory beside those",
            ));
        }
        if !checked.contains(&real) {
            checked.push(real);
        }
    }
    Ok(checked)
}

/// The path of a database that may not exist yet, in a directory that does.
pub(crate) fn real_database_path(db: &Path) -> Result<PathBuf, SessionError> {
    let unreachable = |reason: String| SessionError::DatabaseUnreachable {
        db: db.to_owned(),
        reason,
    };
    if db.exists() {
        return fs::canonicalize(db).map_err(|e| unreachable(e.to_string()));
    }
    let name = db
        .file_name()
        .ok_or_else(|| unreachable("it names no file".into()))?;
    let directory = match db.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::canonicalize(directory)
        .map(|dir| dir.join(name))
        .map_err(|e| unreachable(e.to_string()))
}

/// Takes back the database that was made for a session that could not be started.
pub(crate) fn remove_unused(id: DbId, db: &Path) {
    // A mount has no socket, but the lock.
    if let Ok(_lock) = StartLock::take(id)
        && runtime::find(id).is_none()
        && runtime::db_id(db).is_ok_and(|now| now == id)
        && let Ok(file) = fs::File::open(db)
        && file.try_lock().is_ok()
    {
        let _ = fs::remove_file(db);
    }
}

/// Identity of the database, and whether it had to be made.
pub(crate) fn open_database(db: &Path) -> Result<(DbId, bool), SessionError> {
    let unreachable = |e: io::Error| SessionError::DatabaseUnreachable {
        db: db.to_owned(),
        reason: e.to_string(),
    };
    match runtime::db_id(db) {
        Ok(id) => Ok((id, false)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let created = create_database(db)?;
            Ok((runtime::db_id(db).map_err(unreachable)?, created))
        }
        Err(error) => Err(unreachable(error)),
    }
}

/// Makes a database beside its place and puts it there whole: at no moment does
/// anybody find an empty one, and of several `run`s one is first. False when
/// somebody else was.
fn create_database(db: &Path) -> Result<bool, SessionError> {
    let mut new = db.as_os_str().to_owned();
    new.push(format!(".new-{}", std::process::id()));
    let new = PathBuf::from(new);
    let made = make_in_memory(&new).or_else(|_| make_at(&new));
    let published = made.and_then(|()| {
        let Some(_cleared) = clear_place(db).map_err(|e| e.to_string())? else {
            return Ok(false);
        };
        match renameat_with(CWD, &new, CWD, db, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            // A file system without that flag.
            Err(Errno::INVAL) => fs::rename(&new, db)
                .map(|()| true)
                .map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        }
    });
    if matches!(published, Ok(true)) {
        // Its name, too, is to outlast a power failure, where the file system can say.
        let directory = db.parent().unwrap_or(Path::new("/"));
        let _ = fs::File::open(directory).and_then(|directory| directory.sync_all());
    } else {
        let _ = fs::remove_file(&new);
    }
    published.map_err(|reason| SessionError::DatabaseUnreachable {
        db: db.to_owned(),
        reason,
    })
}

fn make_at(path: &Path) -> Result<(), String> {
    let database = Database::open(path, &OpenOptions::new().create(true));
    let database = database.map_err(|error| error.to_string())?;
    database.close().map_err(|error| error.to_string())
}

/// Makes the tables on a file system in memory and copies the file: SQLite
/// waits for the disk a dozen times on the way, of which once is enough.
fn make_in_memory(path: &Path) -> Result<(), String> {
    let (uid, pid) = (rustix::process::geteuid().as_raw(), std::process::id());
    let scratch = PathBuf::from(format!("/dev/shm/agentfs-{uid}-{pid}"));
    // Fails when somebody has put anything there.
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&scratch)
        .map_err(|error| error.to_string())?;
    let draft = scratch.join("new.db");
    let made = make_at(&draft).and_then(|()| {
        fs::copy(&draft, path)
            .and_then(|_| fs::File::open(path)?.sync_all())
            .map_err(|error| error.to_string())
    });
    let _ = fs::remove_dir_all(&scratch);
    made
}
