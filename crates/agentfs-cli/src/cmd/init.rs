//! `agentfs init`: a session without a program.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use agentfs_core::Overlay;
use anyhow::{Context as _, Result, bail};

use crate::args::InitArgs;
use crate::output::{self, Out};
use crate::store::{self, Store};
use crate::{base, locate};

pub(crate) fn init(args: &InitArgs) -> Result<u8> {
    let located = match &args.name {
        Some(word) => locate::here(word)?,
        None => locate::fresh()?,
    };
    let base = args.base.as_deref().map(base::real_directory).transpose()?;
    if base.is_none() && located.holder().is_none() {
        bail!(
            "{} lies in no .agentfs directory, so say which directory it shows with --base DIR",
            output::path(&located.db)
        );
    }
    if located.exists {
        if !args.force {
            bail!(
                "session {} exists ({}): choose another name, or replace it with --force",
                located.name,
                output::path(&located.db)
            );
        }
        if store::is_served(&located) {
            bail!(
                "session {} is running or mounted: end it first, with 'agentfs stop {}' or 'agentfs umount'",
                located.name,
                located.name
            );
        }
        remove(&located.db)?;
    }
    locate::create_holder(&located)?;
    let store = Store::create(&located.db)?;
    if let Some(base) = base {
        base::record(&located, &store.database, &base)?;
    }
    // Makes the root of the view, with the attributes of the base's.
    let (lower, _) = store::lower_or_nothing(&located, &store.database)?;
    drop(Overlay::open(
        store.storage.clone(),
        lower,
        store::config(),
    )?);
    store.close()?;
    let mut out = Out::new();
    writeln!(out, "{}", output::path(&located.db))?;
    out.finish()?;
    Ok(0)
}

/// Removes a database; what SQLite keeps beside it first, lest it be taken for
/// that of the next one.
fn remove(db: &Path) -> Result<()> {
    for suffix in ["-wal", "-shm", "-journal", ""] {
        let mut path = db.as_os_str().to_owned();
        path.push(suffix);
        let path = PathBuf::from(path);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error)
                    .with_context(|| format!("{} cannot be removed", output::path(&path)));
            }
            _ => {}
        }
    }
    Ok(())
}
