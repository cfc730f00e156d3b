//! `agentfs stop`: ends a live session.

use std::time::Duration;

use anyhow::Result;

use crate::args::StopArgs;
use crate::locate;

/// How long the processes inside have to end by themselves.
const GRACE: Duration = Duration::from_secs(5);

pub(crate) fn stop(args: &StopArgs) -> Result<u8> {
    let located = locate::existing(&args.name)?;
    agentfs_session::stop(&located.db, GRACE)?;
    Ok(0)
}
