//! [`AgentFs`]: one FUSE request, one operation of the overlay.
//!
//! No rule of the file system is decided here. No handler waits for anything
//! but the overlay, none touches the mount, and a panic in one is an EIO for
//! its program, not the end of the mount.

mod content;
mod listing;
mod requests;
mod xattrs;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agentfs_core::overlay::{SetAttr, SetTime, Times};
use agentfs_core::{Attr, FileKind, FsError, Ino, LowerLayer, Overlay, Storage};

use crate::convert::refused;
use crate::counters::Counters;
use crate::device::Device;
use crate::ids::KnownIds;
use crate::interest::{Directories, FOR_GOOD};
use crate::mount::FuseConfig;
use crate::notify::{Abilities, EntryChange, Notifier};
use crate::pairing::Pairing;
use crate::protocol::{Answer, Errno, Later, Offer, Request, flags};
use crate::revalidate::Doubts;

/// The first minor version of the protocol whose kernel can expire all entries,
/// the negative ones too, at once (Linux 6.16).
const EPOCH_MINOR: u32 = 44;

/// How a request that has succeeded is answered.
enum Reply {
    /// With what has been written for it.
    Now,
    /// By whoever has the [`Later`].
    Later,
    /// Not at all: the kernel waits for none.
    Never,
}

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
    doubts: Option<Arc<Doubts>>,
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
            doubts: config.revalidator.map(|by| Arc::new(Doubts::new(by))),
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

    /// What is to be looked at once programs rest, where there is somebody who can.
    pub(crate) fn doubts(&self) -> Option<Arc<Doubts>> {
        self.doubts.clone()
    }

    /// Of what the kernel offers, what it is to do without asking (see [`flags`]).
    pub(crate) fn negotiate(&mut self, offer: &Offer) -> u64 {
        let mut wanted = flags::ASYNC_READ
            | flags::BIG_WRITES
            | flags::MAX_PAGES
            | flags::ASYNC_DIO
            | flags::HANDLE_KILLPRIV_V2
            | flags::DO_READDIRPLUS
            | flags::READDIRPLUS_AUTO
            | flags::PARALLEL_DIROPS
            | flags::CACHE_SYMLINKS
            | flags::NO_OPEN_SUPPORT
            | flags::NO_OPENDIR_SUPPORT;
        if self.writeback {
            wanted |= flags::WRITEBACK_CACHE;
        }
        let is_offered = |flag| offer.flags & flag != 0;
        self.no_open = is_offered(flags::NO_OPEN_SUPPORT);
        self.no_opendir = is_offered(flags::NO_OPENDIR_SUPPORT);
        let Abilities {
            expire_entry,
            expire_all,
        } = &*self.abilities;
        expire_entry.store(is_offered(flags::HAS_EXPIRE_ONLY), Ordering::Relaxed);
        expire_all.store(offer.version.1 >= EPOCH_MINOR, Ordering::Relaxed);
        tracing::debug!(?offer, "mounted");
        wanted
    }

    /// Answers a request, in `out` where that is done at once. One that panics is
    /// refused with EIO.
    pub(crate) fn answer(&self, request: &Request<'_>, device: &Arc<Device>, out: &mut Answer) {
        out.clear();
        let Some(operation) = request.operation() else {
            return device.answer(out.finish(request.unique, Some(Errno::NOSYS)));
        };
        self.counters.count(operation);
        if let Some((pairing, mount)) = &self.pairing {
            let content_bytes = requests::content_bytes(operation, request);
            pairing.requested(*mount, request.thread, content_bytes);
        }
        if let Some(doubts) = &self.doubts {
            doubts.requested(operation, request);
        }
        let work = || self.work(operation, request, device, out);
        let outcome = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
            let operation = operation.name();
            tracing::error!(operation, "a request panicked; answered with EIO");
            Err(Errno::IO)
        });
        match outcome {
            Ok(Reply::Now) => device.answer(out.finish(request.unique, None)),
            Ok(Reply::Later | Reply::Never) => {}
            Err(refused) => device.answer(out.finish(request.unique, Some(refused))),
        }
        if let Some((pairing, mount)) = &self.pairing {
            pairing.answered(*mount);
        }
    }

    /// Attributes as programs are to see them.
    fn shown(&self, attr: &Attr) -> Attr {
        let mut shown = attr.clone();
        if let Some(ids) = &self.known_ids {
            ids.apply(&mut shown);
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

    /// Answers with an entry that was found or made in a directory whose answers hold
    /// for `in_dir`.
    fn entry(&self, in_dir: Duration, attr: &Attr, out: &mut Answer) {
        let attr_ttl = self.attr_ttl(attr, in_dir);
        if self.looks_changed(attr, attr_ttl) {
            self.tell_changed(attr.ino, attr.kind);
        }
        out.entry(&self.shown(attr), attr_ttl, in_dir);
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

    fn attr(&self, result: Result<Attr, FsError>, out: &mut Answer) -> Result<(), Errno> {
        let attr = result.map_err(refused)?;
        let parent = || self.overlay.known_name(attr.ino).map(|(parent, _)| parent);
        let ttl = self.asked_ttl(attr.ino, attr.kind, parent);
        out.attr(&self.shown(&attr), ttl);
        Ok(())
    }

    fn forget_one(&self, ino: Ino, count: u64) {
        self.overlay.forget(ino, count);
        if self.directories.contains(ino) && self.overlay.known_name(ino).is_none() {
            self.directories.forget(ino);
        }
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

    fn sync(&self, later: Later) {
        self.overlay.sync(Box::new(move |result| {
            later.empty(result.map_err(|error| refused(FsError::Storage(error))));
        }));
    }
}
