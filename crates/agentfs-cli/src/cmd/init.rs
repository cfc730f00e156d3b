//! `agentfs init`: a session without a program.

use std::io::Write as _;

use agentfs_core::Overlay;
use anyhow::{Result, bail};

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
        let Some(_claim) = store::claim(&located.db) else {
            bail!(
                "session {} is running or mounted: end it first, with 'agentfs stop {}' or 'agentfs umount'",
                located.name,
                located.name
            );
        };
        store::remove_companions(&located.db)?;
        store::remove(&located.db)?;
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
