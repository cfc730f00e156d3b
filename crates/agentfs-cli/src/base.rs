//! Which directory a session shows.
//!
//! The one that holds `.agentfs`, so that a moved project keeps its sessions;
//! only another one is recorded in the database (as `base_path`).

use std::path::{Path, PathBuf};

use agentfs_sqlite::Database;
use anyhow::{Context as _, Result, bail};

use crate::locate::{self, Located};
use crate::output;
use crate::store::{self, Store};

/// The base of a session that is about to run; a new session is made ready for
/// it. `asked` is the `--base` of the command line.
pub(crate) fn prepare(located: &Located, asked: Option<&Path>) -> Result<PathBuf> {
    let asked = asked.map(real_directory).transpose()?;
    // One that an SDK has made lacks the .gitignore.
    locate::create_holder(located)?;
    if !located.exists {
        if let Some(base) = asked.filter(|base| Some(base.as_path()) != located.holder()) {
            let store = Store::create(&located.db)?;
            record(located, &store.database, &base)?;
            store.close()?;
            return Ok(base);
        }
        return known(located, None);
    }
    if let Ok(Some(live)) = agentfs_session::find_session(&located.db) {
        return agreed(located, live.base, asked);
    }
    let recorded = recorded(&located.db)?;
    if let Some(asked) = &asked
        && recorded.as_ref().is_none_or(|base| !base.exists())
        && located.holder().is_none_or(|_| recorded.is_some())
    {
        // It says nothing, or names a directory that has moved: now it knows.
        let store = Store::write(located)?;
        record(located, &store.database, asked)?;
        store.close()?;
        return Ok(asked.clone());
    }
    agreed(located, known(located, recorded)?, asked)
}

/// The base a session has, unless another one was asked for.
fn agreed(located: &Located, base: PathBuf, asked: Option<PathBuf>) -> Result<PathBuf> {
    match asked {
        Some(asked) if asked != base => bail!(
            "session {} shows {}, not {}: choose another session name for another base",
            located.name,
            output::path(&base),
            output::path(&asked)
        ),
        _ => Ok(base),
    }
}

fn known(located: &Located, recorded: Option<PathBuf>) -> Result<PathBuf> {
    let Some(base) = recorded.or_else(|| located.holder().map(Path::to_owned)) else {
        bail!(
            "{} says nothing of a base directory: name it once, with 'agentfs run --session {} --base DIR'",
            output::path(&located.db),
            output::path(&located.db)
        );
    };
    Ok(base)
}

/// A directory named by the user, by its real path.
pub(crate) fn real_directory(path: &Path) -> Result<PathBuf> {
    let real = path
        .canonicalize()
        .with_context(|| format!("the base {} cannot be used", output::path(path)))?;
    if !real.is_dir() {
        bail!("the base {} is not a directory", output::path(path));
    }
    Ok(real)
}

/// The base of a session whose database is open.
pub(crate) fn of(located: &Located, database: &Database) -> Result<PathBuf> {
    known(located, database.base_path()?.map(PathBuf::from))
}

/// Records the base in a database, if it is another than the directory that
/// holds `.agentfs`.
pub(crate) fn record(located: &Located, database: &Database, base: &Path) -> Result<()> {
    if Some(base) == located.holder() {
        return Ok(());
    }
    let Some(text) = base.to_str() else {
        bail!(
            "the base {} cannot be recorded, because its path is not UTF-8",
            output::path(base)
        );
    };
    database.set_base_path(text)?;
    Ok(())
}

fn recorded(db: &Path) -> Result<Option<PathBuf>> {
    // Another `run` has just made the file and is about to fill it.
    if std::fs::metadata(db).is_ok_and(|meta| meta.len() == 0) {
        return Ok(None);
    }
    let database = store::open_read_only(db)?;
    Ok(database.base_path()?.map(PathBuf::from))
}
