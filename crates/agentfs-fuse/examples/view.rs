//! Mounts a view of a host directory whose changes are kept in memory only:
//! `view BASE MOUNTPOINT [--threads N] [--no-writeback]`. Ends when unmounted,
//! and then prints how many requests were made.

#![allow(clippy::print_stderr)]

use std::path::PathBuf;
use std::sync::Arc;

use agentfs_core::storage::MemoryStorage;
use agentfs_core::{Overlay, OverlayConfig, Owner};
use agentfs_fuse::{FuseConfig, MountOptions, Unchanging};
use agentfs_hostdir::{HostClock, HostDir};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut paths = Vec::new();
    let mut config = FuseConfig::new(Arc::new(Unchanging));
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--no-writeback" => config.writeback = false,
            "--threads" => config.threads = arguments.next().ok_or("--threads N")?.parse()?,
            _ => paths.push(PathBuf::from(argument)),
        }
    }
    let [base, mountpoint] = paths.as_slice() else {
        return Err("usage: view BASE MOUNTPOINT [--threads N] [--no-writeback]".into());
    };
    let overlay_config = OverlayConfig {
        clock: Arc::new(HostClock),
        hidden: Vec::new(),
        root_owner: Owner::default(),
    };
    let overlay = Overlay::open(
        MemoryStorage::new(65_536),
        HostDir::open(base)?,
        overlay_config,
    )?;
    let options = MountOptions::default();
    let server = agentfs_fuse::mount(Arc::new(overlay), mountpoint, &options, config)?;
    let counters = Arc::clone(server.counters());
    server.wait()?;
    eprintln!("{counters}");
    Ok(())
}
