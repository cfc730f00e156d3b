//! [`AgentFs`]: one FUSE request, one operation of the overlay.
//!
//! No rule of the file system is decided here. No handler waits for anything
//! but the overlay, none touches the mount, and a panic in one is an EIO for
//! its program, not the end of the mount.

mod answer;
mod content;
mod listing;
mod requests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agentfs_core::overlay::{SetAttr, SetTime, Times};
use agentfs_core::{Attr, FileKind, FsError, Ino, LowerLayer, Overlay, Storage};
use fuser::{
    FileAttr, Generation, InitFlags, KernelConfig, ReplyAttr, ReplyEmpty, ReplyEntry, Request,
};

use crate::convert::{errno, file_attr};
use crate::counters::{Counters, Operation};
use crate::ids::KnownIds;
use crate::interest::{Directories, FOR_GOOD};
use crate::mount::FuseConfig;
use crate::notify::{Abilities, EntryChange, Notifier};
use crate::pairing::Pairing;

/// Inode numbers are never reused for another object.
const GENERATION: Generation = Generation(0);
/// The largest write and read request, in bytes.
const REQUEST_MAX_BYTES: u32 = 1024 * 1024;
/// Read-ahead and write-back requests that the kernel may have open at once.
const BACKGROUND_MAX: u16 = 64;
/// The first minor version of the protocol whose kernel can expire all entries,
/// the negative ones too, at once (Linux 6.16).
const EPOCH_MINOR: u32 = 44;
/// Cookies of `.` and `..`; those of the overlay are greater.
const DOT_COOKIE: u64 = 1;
const DOT_DOT_COOKIE: u64 = 2;

/// Serves an overlay to the kernel.
pub(crate) struct AgentFs<S, L> {
    overlay: Arc<Overlay<S, L>>,
    directories: Arc<Directories>,
    counters: Arc<Counters>,
    notifier: Notifier,
    writeback: bool,
    known_ids: Option<KnownIds>,
    /// With the number of this mount there.
    pairing: Option<(Arc<Pairing>, u32)>,
    /// The kernel opens without asking; else each open is answered.
    no_open: bool,
    no_opendir: bool,
    abilities: Arc<Abilities>,
}

impl<S: Storage, L: LowerLayer> AgentFs<S, L> {
    pub(crate) fn new(
        overlay: Arc<Overlay<S, L>>,
        directories: Arc<Directories>,
        counters: Arc<Counters>,
        notifier: Notifier,
        abilities: Arc<Abilities>,
        config: FuseConfig,
    ) -> Self {
        Self {
            overlay,
            directories,
            counters,
            notifier,
            writeback: config.writeback,
            known_ids: config.known_ids,
            pairing: config.pairing.map(|pairing| {
                let mount = pairing.add_mount();
                (pairing, mount)
            }),
            no_open: false,
            no_opendir: false,
            abilities,
        }
    }

    /// Agrees with the kernel on what it may do without asking.
    fn negotiate(&mut self, config: &mut KernelConfig) {
        let offered = config.capabilities();
        let mut wanted = InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_NO_OPEN_SUPPORT
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
        if self.writeback {
            wanted |= InitFlags::FUSE_WRITEBACK_CACHE;
        }
        // Every one of them is offered, so none is refused.
        let _ = config.add_capabilities(wanted & offered);
        self.no_open = offered.contains(InitFlags::FUSE_NO_OPEN_SUPPORT);
        self.no_opendir = offered.contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        let expire_entry = offered.contains(InitFlags::FUSE_HAS_EXPIRE_ONLY);
        self.abilities
            .expire_entry
            .store(expire_entry, Ordering::Relaxed);
        let expire_all = config.kernel_abi().1 >= EPOCH_MINOR;
        self.abilities
            .expire_all
            .store(expire_all, Ordering::Relaxed);
        let _ = config.set_max_write(REQUEST_MAX_BYTES);
        let _ = config.set_max_background(BACKGROUND_MAX);
        tracing::debug!(kernel = %config.kernel_abi(), ?offered, "mounted");
    }

    /// Counts a request and runs its handler. One that panics drops its reply
    /// unsent, for which the library answers EIO.
    fn serve(&self, request: &Request, operation: Operation, handler: impl FnOnce()) {
        self.serve_content(request, operation, 0, handler);
    }

    /// As [`Self::serve`], where `len` bytes of a file are asked for or sent.
    fn serve_content(
        &self,
        request: &Request,
        operation: Operation,
        len: usize,
        handler: impl FnOnce(),
    ) {
        self.counters.count(operation);
        if let Some((pairing, mount)) = &self.pairing {
            pairing.requested(*mount, request.pid(), len);
        }
        if catch_unwind(AssertUnwindSafe(handler)).is_err() {
            tracing::error!(
                operation = operation.name(),
                "a request panicked; answered with EIO"
            );
        }
        if let Some((pairing, mount)) = &self.pairing {
            pairing.answered(*mount);
        }
    }

    /// Attributes as programs are to see them.
    fn shown(&self, attr: &Attr) -> FileAttr {
        let mut shown = file_attr(attr);
        if let Some(ids) = &self.known_ids {
            ids.apply(attr, &mut shown);
        }
        shown
    }

    /// How long what is said about the entries of `dir` holds; watches it first.
    fn enter(&self, dir: Ino) -> Duration {
        self.directories.enter(dir, || self.overlay.lower_dir(dir))
    }

    /// How long attributes hold, as found in a directory whose answers hold for
    /// `in_dir`.
    fn attr_ttl(&self, attr: &Attr, in_dir: Duration) -> Duration {
        if attr.kind.is_dir() {
            self.directories.own_ttl(attr.ino).min(in_dir)
        } else {
            in_dir
        }
    }

    /// Where nobody tells of changes, they are noticed when the kernel asks again:
    /// whether this is other than what it was told before. Asks the overlay nothing.
    fn looks_changed(&self, attr: &Attr, ttl: Duration) -> bool {
        ttl != FOR_GOOD && !attr.ino.is_born() && self.directories.has_changed(attr)
    }

    /// Tells the kernel of what [`Self::looks_changed`].
    fn tell_changed(&self, ino: Ino, kind: FileKind) {
        // What programs here did to it the kernel knows.
        if self.overlay.is_upper(ino).unwrap_or(false) {
            return;
        }
        if kind.is_dir() {
            self.notifier.base_directory_changed(ino);
        } else if let Some((dir, name)) = self.overlay.known_name(ino) {
            self.notifier
                .base_entry_changed(dir, name, EntryChange::Object);
        }
    }

    /// Answers with an entry that was found or made in `dir`.
    fn entry(&self, in_dir: Duration, result: Result<Attr, FsError>, reply: ReplyEntry) {
        match result {
            Ok(attr) => {
                let attr_ttl = self.attr_ttl(&attr, in_dir);
                if self.looks_changed(&attr, attr_ttl) {
                    self.tell_changed(attr.ino, attr.kind);
                }
                reply.entry_with_ttls(&attr_ttl, &in_dir, &self.shown(&attr), GENERATION);
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    /// Attributes of an inode. What the base tells of its changes is not asked for it
    /// again.
    fn get_attr(&self, ino: Ino) -> Result<Attr, FsError> {
        self.overlay
            .getattr_as_seen(ino, |kind, in_dir| self.is_told(ino, kind, in_dir))
    }

    /// Whether the base tells of every change of an inode that lies in `dir`.
    fn is_told(&self, ino: Ino, kind: FileKind, dir: Ino) -> bool {
        self.asked_ttl(ino, kind, || Some(dir)) == FOR_GOOD
    }

    /// How long attributes hold that the kernel asks for by number. What is no directory
    /// is told of with the one it lies in.
    fn asked_ttl(
        &self,
        ino: Ino,
        kind: FileKind,
        in_dir: impl FnOnce() -> Option<Ino>,
    ) -> Duration {
        // What was made here nobody else changes.
        if ino.is_born() {
            return FOR_GOOD;
        }
        let told_of = if kind.is_dir() { Some(ino) } else { in_dir() };
        told_of.map_or(FOR_GOOD, |dir| self.directories.own_ttl(dir))
    }

    fn attr(&self, result: Result<Attr, FsError>, reply: ReplyAttr) {
        match result {
            Ok(attr) => {
                let parent = || self.overlay.known_name(attr.ino).map(|(parent, _)| parent);
                let ttl = self.asked_ttl(attr.ino, attr.kind, parent);
                reply.attr(&ttl, &self.shown(&attr));
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn forget_one(&self, ino: Ino, count: u64) {
        self.overlay.forget(ino, count);
        if self.directories.contains(ino) && self.overlay.known_name(ino).is_none() {
            self.directories.forget(ino);
        }
    }

    /// The attributes of `.` and `..`; their numbers are all that is used.
    fn dot_entries(&self, dir: Ino, offset: u64) -> Vec<(Ino, u64, &'static str)> {
        let mut entries = Vec::new();
        if offset < DOT_COOKIE {
            entries.push((dir, DOT_COOKIE, "."));
        }
        if offset < DOT_DOT_COOKIE {
            entries.push((
                self.overlay.parent(dir).unwrap_or(dir),
                DOT_DOT_COOKIE,
                "..",
            ));
        }
        entries
    }

    /// With a write-back cache the times of what changes a file are the kernel's.
    fn times(&self) -> Times {
        if self.writeback {
            Times::Kept
        } else {
            Times::Now
        }
    }

    /// Changes attributes; but for times that nobody can ask for. With a write-back
    /// cache the kernel sends those of a file that has lost its last name with every
    /// `unlink`: it tells them itself to whoever has the file open, who is the last.
    fn set_attr(&self, number: Ino, set: &SetAttr) -> Result<Attr, FsError> {
        let times_alone = SetAttr {
            mtime: set.mtime,
            ctime: set.ctime,
            ..SetAttr::default()
        };
        match (set.mtime, set.ctime) {
            (Some(SetTime::At(mtime)), Some(ctime))
                if self.writeback && *set == times_alone && self.overlay.is_removed(number) =>
            {
                let attr = self.overlay.getattr(number)?;
                Ok(Attr {
                    mtime,
                    ctime,
                    ..attr
                })
            }
            _ => self.overlay.setattr(number, set),
        }
    }

    fn sync(&self, reply: ReplyEmpty) {
        self.overlay.sync(Box::new(move |result| match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&FsError::Storage(error))),
        }));
    }
}

/// Whether set-id bits go, as the kernel says with `FATTR_KILL_SUIDGID`, which the
/// library does not hand on: for every change of owner but a directory's, which the
/// overlay leaves alone, and for a truncation by someone without privilege.
fn kills_suid_sgid(uid: u32, owner: bool, size: bool) -> bool {
    owner || (size && uid != 0)
}
