//! Telling the kernel that what it has cached is no longer so.
//!
//! All of it happens on threads that serve no requests: the kernel takes locks
//! for a notification which a pending request may hold, so that a request
//! handler that notified would wait for itself. Writing back has a thread of its
//! own: a seek waits for it with the file locked, an unlink waits for the file
//! with the directory locked, and dropping an entry waits for the directory. No
//! lock of ours is held while a notification is written.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use agentfs_core::{FileKind, Ino, LowerLayer, Name, Overlay, Storage};

use crate::device::Device;
use crate::interest::Directories;
use crate::protocol::{Errno, notification};

/// Changes waiting to be told one by one, at most; more are told as "anything
/// may have changed".
const WAITING_MAX: usize = 16 * 1024;

/// What others did to an entry of a base directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryChange {
    /// Content or attributes.
    Object,
    /// The name appeared, vanished or leads to another object.
    Name,
}

/// Takes word of changes made behind the kernel's back. Cheap to clone; never
/// waits, so that it can be called from anywhere.
#[derive(Clone)]
pub struct Notifier {
    jobs: Sender<Job>,
    write_backs: Sender<WriteBack>,
    pending: Arc<Pending>,
}

/// Once the kernel has written back what it holds of the file, run this.
type WriteBack = Option<(Ino, Box<dyn FnOnce() + Send>)>;

/// What waits for the notifying thread.
#[derive(Default)]
struct Pending {
    jobs: AtomicUsize,
    /// These two need not wait twice.
    everything: AtomicBool,
    storage: AtomicBool,
}

enum Job {
    Entry(Ino, Name, EntryChange),
    Directory(Ino),
    Everything,
    Storage,
    End,
}

impl Notifier {
    /// Others changed an entry of the base directory that shows as `dir`.
    pub fn base_entry_changed(&self, dir: Ino, name: Name, change: EntryChange) {
        if self.pending.jobs.load(Ordering::Relaxed) < WAITING_MAX {
            self.send(Job::Entry(dir, name, change));
        } else {
            self.base_changed();
        }
    }

    /// Others changed the attributes of the base directory that shows as `dir`,
    /// or moved or removed it.
    pub fn base_directory_changed(&self, dir: Ino) {
        self.send(Job::Directory(dir));
    }

    /// Anything in the base may have changed.
    pub fn base_changed(&self) {
        if !self.pending.everything.swap(true, Ordering::AcqRel) {
            self.send(Job::Everything);
        }
    }

    /// Someone else wrote to the storage: anything in the view may have changed.
    pub fn invalidate_all(&self) {
        if !self.pending.storage.swap(true, Ordering::AcqRel) {
            self.send(Job::Storage);
        }
    }

    /// Has the kernel write back what it holds of a file, then runs `then`.
    pub(crate) fn write_back(&self, ino: Ino, then: Box<dyn FnOnce() + Send>) {
        // Dropped at the end of the mount, which is an answer, too.
        let _ = self.write_backs.send(Some((ino, then)));
    }

    pub(crate) fn end(&self) {
        self.send(Job::End);
        let _ = self.write_backs.send(None);
    }

    fn send(&self, job: Job) {
        self.pending.jobs.fetch_add(1, Ordering::Relaxed);
        // Nobody listens any more after the end of the mount.
        let _ = self.jobs.send(job);
    }
}

/// The receiving end; runs on its own thread.
struct NotifyThread<S, L> {
    overlay: Arc<Overlay<S, L>>,
    directories: Arc<Directories>,
    caches: Arc<Caches>,
    pending: Arc<Pending>,
}

pub(crate) fn pair() -> (Notifier, Waiting) {
    let (jobs, jobs_end) = channel();
    let (write_backs, write_backs_end) = channel();
    let pending = Arc::new(Pending::default());
    let waiting = Waiting {
        jobs: jobs_end,
        write_backs: write_backs_end,
        pending: Arc::clone(&pending),
    };
    (
        Notifier {
            jobs,
            write_backs,
            pending,
        },
        waiting,
    )
}

/// Jobs that nobody works on yet.
pub(crate) struct Waiting {
    jobs: Receiver<Job>,
    write_backs: Receiver<WriteBack>,
    pending: Arc<Pending>,
}

impl Waiting {
    /// Starts the threads; they end with [`Notifier::end`].
    ///
    /// # Errors
    /// No thread can be started.
    pub(crate) fn start<S: Storage, L: LowerLayer>(
        self,
        overlay: Arc<Overlay<S, L>>,
        directories: Arc<Directories>,
        caches: Caches,
    ) -> io::Result<[JoinHandle<()>; 2]> {
        let Self {
            jobs,
            write_backs,
            pending,
        } = self;
        let caches = Arc::new(caches);
        let notify = NotifyThread {
            overlay,
            directories,
            caches: Arc::clone(&caches),
            pending,
        };
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        Ok([
            thread("fuse-notify").spawn(move || notify.run(&jobs))?,
            thread("fuse-writeback").spawn(move || {
                while let Ok(Some((ino, then))) = write_backs.recv() {
                    survive(|| {
                        caches.invalidate_inode(ino);
                        then();
                    });
                }
            })?,
        ])
    }
}

/// Nobody but the log sees a panic on these threads, and they must go on.
fn survive(work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        tracing::error!("a notification failed in a way it must not; going on");
    }
}

impl<S: Storage, L: LowerLayer> NotifyThread<S, L> {
    fn run(self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            self.pending.jobs.fetch_sub(1, Ordering::Relaxed);
            if matches!(job, Job::End) {
                return;
            }
            survive(|| self.work(job));
        }
    }

    fn work(&self, job: Job) {
        match job {
            Job::Entry(dir, name, change) => self.entry(dir, &name, change),
            Job::Directory(dir) => self.directory(dir),
            Job::Everything => {
                self.pending.everything.store(false, Ordering::Release);
                self.everything();
            }
            Job::Storage => {
                self.pending.storage.store(false, Ordering::Release);
                let inos = self.overlay.storage_changed();
                self.directories.forget_all();
                self.all(&inos);
            }
            Job::End => {}
        }
    }

    fn entry(&self, dir: Ino, name: &Name, change: EntryChange) {
        let stale = self.overlay.lower_changed(dir, Some(name));
        let objects: Vec<Ino> = stale.into_iter().filter(|&ino| ino != dir).collect();
        let directory = objects.iter().any(|&ino| self.is_directory(ino));
        if change == EntryChange::Name {
            self.caches.invalidate_inode(dir);
        }
        if change == EntryChange::Name || !directory {
            self.caches.invalidate_entry(dir, name, directory);
        }
        for ino in objects {
            self.refresh(ino);
        }
    }

    fn directory(&self, dir: Ino) {
        for ino in self.overlay.lower_changed(dir, None) {
            self.caches.invalidate_inode(ino);
        }
    }

    fn everything(&self) {
        let mut inos = self.overlay.storage_changed();
        inos.retain(|&ino| !ino.is_born());
        for &dir in inos.iter().filter(|&&ino| self.directories.contains(ino)) {
            self.overlay.lower_changed(dir, None);
        }
        self.all(&inos);
    }

    fn all(&self, inos: &[Ino]) {
        self.caches.expire_all();
        for &ino in inos {
            let directory = self.is_directory(ino);
            if let Some((parent, name)) = self.overlay.known_name(ino) {
                self.caches.invalidate_entry(parent, &name, directory);
            }
            self.refresh(ino);
        }
    }

    /// Makes the kernel ask again for attributes and content.
    ///
    /// With a writeback cache it takes the size and the times of a regular file
    /// from nobody but itself as long as it knows the inode. Dropping the last
    /// entry that leads to it makes it forget the inode, unless a program has
    /// the file open: then at least a growth is told, by handing over the last
    /// byte. Nothing else may be handed over, and nothing of a file that has been changed
    /// here (after what was dirty has been written back): between reading that byte and
    /// handing it over a program may write another, which would be lost. Beyond the end
    /// that it knows only one that appends meanwhile can.
    fn refresh(&self, ino: Ino) {
        if !self.caches.invalidate_inode(ino) || self.overlay.is_upper(ino).unwrap_or(true) {
            return;
        }
        let Ok(attr) = self.overlay.getattr(ino) else {
            return;
        };
        if attr.kind != FileKind::Regular || !self.overlay.tell_growth(ino, attr.size) {
            return;
        }
        let last = attr.size - 1;
        if let Ok(byte) = self.overlay.read(ino, last, 1)
            && byte.len() == 1
        {
            self.caches.store(ino, last, &byte);
        }
    }

    fn is_directory(&self, ino: Ino) -> bool {
        self.overlay
            .getattr(ino)
            .is_ok_and(|attr| attr.kind.is_dir())
    }
}

/// What the kernel can be told; set once, when it says which protocol it speaks.
#[derive(Default)]
pub(crate) struct Abilities {
    /// `FUSE_EXPIRE_ONLY` (Linux 6.2).
    pub(crate) expire_entry: AtomicBool,
    /// `FUSE_NOTIFY_INC_EPOCH` (Linux 6.16).
    pub(crate) expire_all: AtomicBool,
}

/// What the kernel has cached of one mount, as far as it can be told to drop it.
pub(crate) struct Caches {
    device: Arc<Device>,
    abilities: Arc<Abilities>,
}

impl Caches {
    pub(crate) fn new(device: Arc<Device>, abilities: Arc<Abilities>) -> Self {
        Self { device, abilities }
    }

    /// Drops cached attributes and pages, after writing back what is dirty.
    /// Returns whether the kernel knows the inode.
    fn invalidate_inode(&self, ino: Ino) -> bool {
        self.notify(&notification::invalidate_inode(ino))
    }

    /// Drops an entry; with `keep` it is only looked up again before its next
    /// use, which spares a directory that is somebody's working directory.
    fn invalidate_entry(&self, dir: Ino, name: &Name, keep: bool) {
        if keep && !self.abilities.expire_entry.load(Ordering::Relaxed) {
            return;
        }
        self.notify(&notification::invalidate_entry(dir, name, keep));
    }

    /// Puts bytes into the page cache, growing the file there.
    fn store(&self, ino: Ino, offset: u64, data: &[u8]) {
        self.notify(&notification::store(ino, offset, data));
    }

    /// Has every entry, the negative ones too, looked up again before its next use.
    fn expire_all(&self) {
        if self.abilities.expire_all.load(Ordering::Relaxed) {
            self.notify(&notification::next_epoch());
        }
    }

    fn notify(&self, message: &[u8]) -> bool {
        match self.device.notify(message) {
            Ok(()) => true,
            // The kernel does not know it, which is as good.
            Err(Errno::NOENT) => false,
            Err(error) => {
                tracing::debug!(%error, "notification refused");
                false
            }
        }
    }
}
