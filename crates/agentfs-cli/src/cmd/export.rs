//! `agentfs export`: a copy of a session's database, whoever is in it.
//!
//! The copy gets its name when all of it is on stable storage: whatever happens
//! before, what was at that name stays. Must never touch the session.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use agentfs_sqlite::DatabaseFiles;
use anyhow::{Context as _, Result, bail};

use crate::args::ExportArgs;
use crate::locate;
use crate::output::{self, Progress};
use crate::store::{self, Claim, Store};

pub(crate) fn export(args: &ExportArgs) -> Result<u8> {
    let located = locate::existing(&args.name)?;
    let file = std::path::absolute(&args.file)?;
    may_be_written(&file, &located.db, args.force)?;
    let cannot = || format!("{} cannot be written", output::path(&file));
    let dir = file.parent().unwrap_or(Path::new("/"));
    let copy = tempfile::Builder::new()
        .prefix(".agentfs-export-")
        // As for any new file; the umask decides.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(dir)
        .with_context(cannot)?;

    let store = Store::read(&located)?;
    let progress = Progress::new("exporting");
    store.database.backup_to(copy.path())?;
    drop(progress);

    if args.force {
        // Another session may be at that name: a new one by now, even.
        let _claim = may_be_written(&file, &located.db, true)?;
        store::remove_companions(&file)?;
        copy.persist(&file).map_err(|e| e.error)
    } else {
        copy.persist_noclobber(&file).map_err(|e| e.error)
    }
    .with_context(cannot)?;
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .with_context(cannot)?;
    Ok(0)
}

/// Refuses a place that holds something, unless that may be replaced: then no session
/// starts on it while the claim lives.
fn may_be_written(file: &Path, session: &Path, force: bool) -> Result<Option<Claim>> {
    let there = match fs::symlink_metadata(file) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if !force {
                nothing_beside(file)?;
            }
            return Ok(None);
        }
        Err(error) => {
            return Err(error).with_context(|| format!("{} cannot be written", output::path(file)));
        }
    };
    let same_as = |other: &Path| {
        fs::metadata(other)
            .is_ok_and(|other| (other.dev(), other.ino()) == (there.dev(), there.ino()))
    };
    if same_as(session) {
        bail!(
            "{} is the session itself: choose another file",
            output::path(file)
        );
    }
    if there.is_dir() {
        bail!("{} is a directory: name a file in it", output::path(file));
    }
    if !there.is_file() && !there.is_symlink() {
        bail!(
            "{} is a device, a pipe or a socket: name a file",
            output::path(file)
        );
    }
    if !force {
        bail!(
            "{} exists: choose another file, or replace it with --force",
            output::path(file)
        );
    }
    let claim = store::claim(file);
    if claim.is_none() {
        bail!(
            "{} is the database of a session that is running or mounted: end that first",
            output::path(file)
        );
    }
    Ok(claim)
}

/// What is left of a database that was at that place would be laid over the copy.
fn nothing_beside(file: &Path) -> Result<()> {
    let files = DatabaseFiles::of(file);
    if let Some(left) = files.companions().into_iter().find(|path| path.exists()) {
        bail!(
            "{} is left of another database and would be taken for the copy's: remove it, or use --force",
            output::path(left)
        );
    }
    Ok(())
}
