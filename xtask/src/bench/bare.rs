//! A FUSE server that keeps names and bytes in memory and does nothing else: what
//! requests cost by themselves. `bench --floor` puts it beside the other columns.
//!
//! It asks the kernel for what `agentfs-fuse` asks for, so that the kernel sends the
//! same requests, answers with one thread, and is bound to one processor together with
//! whoever works in it. Knows one user; must never be taken for a file system.

mod tree;
mod wire;

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use rustix::mount::{MountFlags, mount};
use rustix::thread::{CpuSet, sched_setaffinity};

use tree::{Errno, Tree};
use wire::{Answer, Request, opcode};

/// The processor that the server and the worker share.
pub(super) const PROCESSOR: usize = 0;
/// The largest request that is taken, beside its header.
const REQUEST_MAX_BYTES: usize = 1 << 20;

/// Arguments of the server.
#[derive(Args)]
pub(crate) struct BareArgs {
    /// Where to mount it.
    at: PathBuf,
}

/// Mounts it and serves until it is unmounted.
///
/// # Errors
/// When it cannot be mounted: it needs root.
pub(crate) fn serve(args: &BareArgs) -> anyhow::Result<()> {
    let mut device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .context("/dev/fuse")?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other\0",
        device.as_raw_fd()
    );
    let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes())?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("bare", &args.at, "fuse", flags, options).context("mount")?;
    let mut processor = CpuSet::new();
    processor.set(PROCESSOR);
    sched_setaffinity(None, &processor)?;
    let mut tree = Tree::new();
    let mut buffer = vec![0; REQUEST_MAX_BYTES + 8192];
    loop {
        match device.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => answer(&mut tree, &mut device, &buffer[..len])?,
            Err(error) => match rustix::io::Errno::from_io_error(&error) {
                // Unmounted.
                Some(rustix::io::Errno::NODEV) => return Ok(()),
                // A request that was taken back.
                Some(rustix::io::Errno::NOENT | rustix::io::Errno::INTR) => {}
                _ => return Err(error.into()),
            },
        }
    }
}

fn answer(tree: &mut Tree, device: &mut File, bytes: &[u8]) -> io::Result<()> {
    let Some(request) = Request::parse(bytes) else {
        return Ok(());
    };
    if opcode::WITHOUT_ANSWER.contains(&request.opcode) {
        tree.forget(&request);
        return Ok(());
    }
    let mut out = Answer::new(request.unique);
    let outcome = handle(tree, &request, &mut out);
    let written = device.write(&out.finish(outcome.err().map(|Errno(number)| number)));
    match written {
        // Whoever asked has gone.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written.map(drop),
    }
}

fn handle(tree: &mut Tree, request: &Request<'_>, out: &mut Answer) -> Result<(), Errno> {
    let node = request.node;
    match request.opcode {
        opcode::INIT => out.init(request, REQUEST_MAX_BYTES),
        opcode::LOOKUP => out.entry(tree.find(node, request.name(0))?),
        opcode::GETATTR => out.attr_answer(tree.node(node)?),
        opcode::SETATTR => out.attr_answer(tree.set(node, request)?),
        opcode::MKNOD => out.entry(Some(tree.make(request, request.u32(0), 16)?)),
        opcode::MKDIR => {
            let mode = request.u32(0) | tree::DIRECTORY;
            out.entry(Some(tree.make(request, mode, 8)?));
        }
        opcode::SYMLINK => {
            let target = request.name(request.name(0).len() + 1).to_vec();
            out.entry(Some(tree.link_to(request, target)?));
        }
        opcode::READLINK => out.bytes(&tree.node(node)?.data),
        opcode::UNLINK | opcode::RMDIR => tree.remove(node, request.name(0))?,
        opcode::RENAME => tree.rename(request, 8)?,
        opcode::RENAME2 => tree.rename(request, 16)?,
        opcode::WRITE => {
            let data = request.rest(40);
            tree.write(node, request.u64(8), data)?;
            out.written(data.len());
        }
        opcode::READ => {
            let (from, to) = (request.u64(8), u64::from(request.u32(16)));
            out.bytes(tree.read(node, from, to)?);
        }
        opcode::COPY_FILE_RANGE => out.written(tree.copy(request)?),
        opcode::READDIR | opcode::READDIRPLUS => {
            let plus = request.opcode == opcode::READDIRPLUS;
            tree.list(node, request.u64(8), request.u32(16), plus, out)?;
        }
        opcode::GETXATTR | opcode::LISTXATTR => return Err(Errno::NODATA),
        opcode::STATFS => out.statfs(),
        opcode::FSYNC | opcode::DESTROY => {}
        // So the kernel opens, closes and creates without asking again.
        _ => return Err(Errno::NOSYS),
    }
    Ok(())
}
