//! [`Doubts`]: has the kernel ask for attributes that it doubts while nobody waits for
//! them.
//!
//! Reading makes the kernel doubt the time of the last access, a listing that of the
//! directory, writing and closing the blocks allocated, a new name all of its directory:
//! the next `stat` of each is a request. So, once programs have stopped asking,
//! somebody outside of this process ([`Revalidator`]) looks at what they have used, and
//! their next look is answered by the kernel.
//!
//! Must never look at the mount itself (it would wait for itself), do anything while
//! programs ask, or anything at all where they have asked nothing.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use agentfs_core::{Ino, LowerLayer, Name, Overlay, Storage};
use parking_lot::Mutex;

use crate::counters::Operation;
use crate::interest::{Directories, FOR_GOOD};
use crate::protocol::Request;

/// Programs rest when they have asked nothing for so long.
const QUIET: Duration = Duration::from_millis(20);
/// With fewer doubted nobody is woken.
const WORTHWHILE: usize = 16;
/// So many are remembered, those doubted last.
const DOUBTED_MAX: usize = 64 * 1024;
/// So many are looked at before it is seen whether programs ask again: a millisecond.
const LOOKED_AT_ONCE: usize = 128;
/// What is deeper is left alone: no path may be longer (`PATH_MAX`).
const PATH_MAX_BYTES: usize = 4095;

/// A directory of the mount, and names in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Its path below the mount's root, without a slash at either end.
    pub dir: Vec<u8>,
    /// What to look at in it, beside the directory itself.
    pub names: Vec<Name>,
}

/// A process that is none of those that serve the mount and can look at it.
pub trait Revalidator: Send + Sync + 'static {
    /// Which thread it looks with, by its number in the process namespace of the mount.
    fn thread(&self) -> u32;

    /// Looks at all of it (`stat`, no link followed) and returns. What is not there, or
    /// no more, does not matter.
    ///
    /// # Errors
    /// Nobody looks any more.
    fn look(&self, at: &[Look]) -> io::Result<()>;
}

/// What programs have used that the kernel doubts.
pub(crate) struct Doubts {
    revalidator: Arc<dyn Revalidator>,
    /// Its thread, which is no program's.
    onlooking: u32,
    /// Requests of programs; one may be lost where two threads count at once.
    asked: AtomicU64,
    doubted: Mutex<VecDeque<Ino>>,
    ended: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Doubts {
    pub(crate) fn new(revalidator: Arc<dyn Revalidator>) -> Self {
        Self {
            onlooking: revalidator.thread(),
            revalidator,
            asked: AtomicU64::new(0),
            doubted: Mutex::default(),
            ended: AtomicBool::new(false),
            thread: OnceLock::new(),
        }
    }

    /// Notes a request.
    pub(crate) fn requested(&self, operation: Operation, request: &Request<'_>) {
        if request.thread == self.onlooking {
            return;
        }
        let asked = self.asked.load(Ordering::Relaxed);
        self.asked.store(asked.wrapping_add(1), Ordering::Relaxed);
        for ino in doubted_after(operation, request).into_iter().flatten() {
            self.doubt(ino);
        }
    }

    fn doubt(&self, ino: Ino) {
        let mut doubted = self.doubted.lock();
        // A file and its directory take turns.
        if doubted.iter().rev().take(2).any(|&last| last == ino) {
            return;
        }
        if doubted.len() == DOUBTED_MAX {
            doubted.pop_front();
        }
        doubted.push_back(ino);
        if doubted.len() == WORTHWHILE {
            drop(doubted);
            self.wake();
        }
    }

    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Waits until enough is doubted and programs rest. How much they had asked by then;
    /// `None` at the end.
    fn wait_for_rest(&self) -> Option<u64> {
        while !self.has_ended() {
            if self.doubted.lock().len() < WORTHWHILE {
                std::thread::park();
                continue;
            }
            let (asked, since) = (self.asked(), Instant::now());
            std::thread::park_timeout(QUIET);
            if since.elapsed() >= QUIET && self.asked() == asked {
                return Some(asked);
            }
        }
        None
    }

    /// All of it, each once; what is doubted from now on is new.
    fn take(&self) -> Vec<Ino> {
        let mut inos = Vec::from(std::mem::take(&mut *self.doubted.lock()));
        inos.sort_unstable();
        inos.dedup();
        inos
    }

    fn give_back(&self, inos: &[Ino]) {
        let mut doubted = self.doubted.lock();
        for &ino in inos.iter().take(DOUBTED_MAX - doubted.len()) {
            doubted.push_front(ino);
        }
    }
}

/// What the kernel doubts once the request has been answered, or what a program has
/// opened and may be about to close.
fn doubted_after(operation: Operation, request: &Request<'_>) -> [Option<Ino>; 2] {
    match operation {
        Operation::Read
        | Operation::Write
        | Operation::Readlink
        | Operation::Readdir
        | Operation::Readdirplus
        | Operation::Fallocate
        | Operation::Getattr
        // The directory.
        | Operation::Mknod
        | Operation::Mkdir
        | Operation::Symlink
        | Operation::Link
        | Operation::Unlink
        | Operation::Rmdir => [Some(request.ino), None],
        Operation::Rename | Operation::Rename2 => [Some(request.ino), request.ino_at(0).ok()],
        Operation::CopyFileRange => [request.ino_at(16).ok(), None],
        _ => [None, None],
    }
}

/// Looks, on a thread of its own, at what `doubts` names; ends with [`Doubts::end`] or
/// with the revalidator.
///
/// # Errors
/// No thread can be started.
pub(crate) fn start<S: Storage, L: LowerLayer>(
    doubts: Arc<Doubts>,
    overlay: Arc<Overlay<S, L>>,
    directories: Arc<Directories>,
) -> io::Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name("fuse-revalidate".into());
    thread.spawn(move || {
        let _ = doubts.thread.set(std::thread::current());
        let places = Places {
            overlay,
            directories,
        };
        while let Some(asked) = doubts.wait_for_rest() {
            let inos = doubts.take();
            let mut rest = &inos[..];
            while !rest.is_empty() && doubts.asked() == asked && !doubts.has_ended() {
                let (now, later) = rest.split_at(rest.len().min(LOOKED_AT_ONCE));
                rest = later;
                if let Err(error) = doubts.revalidator.look(&places.of(now)) {
                    tracing::debug!(%error, "nobody looks at the mount any more");
                    return;
                }
            }
            doubts.give_back(rest);
        }
    })
}

/// Where inodes are.
struct Places<S, L> {
    overlay: Arc<Overlay<S, L>>,
    directories: Arc<Directories>,
}

impl<S: Storage, L: LowerLayer> Places<S, L> {
    /// A current place of each that has one, and about which answers hold for good.
    fn of(&self, inos: &[Ino]) -> Vec<Look> {
        let mut looks: Vec<Look> = Vec::new();
        let mut last = None;
        for &ino in inos {
            let (dir, name) = match self.overlay.known_name(ino) {
                Some((dir, name)) => (dir, Some(name)),
                None if ino == Ino::ROOT => (ino, None),
                None => continue,
            };
            if last != Some(dir) {
                last = None;
                if self.directories.own_ttl(dir) != FOR_GOOD {
                    continue;
                }
                let Some(path) = self.path(dir) else {
                    continue;
                };
                last = Some(dir);
                looks.push(Look {
                    dir: path,
                    names: Vec::new(),
                });
            }
            if let Some(look) = looks.last_mut() {
                look.names.extend(name);
            }
        }
        looks
    }

    /// Below the root; `None` for what is not there, or too deep.
    fn path(&self, dir: Ino) -> Option<Vec<u8>> {
        let (mut names, mut len, mut ino) = (Vec::new(), 0, dir);
        while ino != Ino::ROOT {
            let (parent, name) = self.overlay.known_name(ino)?;
            len += name.as_bytes().len() + 1;
            if len > PATH_MAX_BYTES {
                return None;
            }
            names.push(name);
            ino = parent;
        }
        let path: Vec<_> = names.iter().rev().map(Name::as_bytes).collect();
        Some(path.join(&b'/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Revalidator for Nobody {
        fn thread(&self) -> u32 {
            1
        }

        fn look(&self, _: &[Look]) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn each_is_taken_once_and_what_is_given_back_again() {
        let doubts = Doubts::new(Arc::new(Nobody));
        for ino in [3, 2, 3, 1, 2, 1] {
            doubts.doubt(Ino(ino));
        }
        let taken = doubts.take();
        assert_eq!(taken, [Ino(1), Ino(2), Ino(3)]);
        assert!(doubts.take().is_empty());
        doubts.doubt(Ino(4));
        doubts.give_back(&taken[1..]);
        assert_eq!(doubts.take(), [Ino(2), Ino(3), Ino(4)]);
    }

    #[test]
    fn those_doubted_last_are_remembered() {
        let doubts = Doubts::new(Arc::new(Nobody));
        let last = DOUBTED_MAX as u64 + 10;
        (1..=last).for_each(|ino| doubts.doubt(Ino(ino)));
        doubts.give_back(&[Ino(1), Ino(2)]);
        let taken = doubts.take();
        assert_eq!(taken.len(), DOUBTED_MAX);
        assert_eq!((taken[0], taken.last()), (Ino(11), Some(&Ino(last))));
    }

    #[test]
    fn a_rest_is_waited_for() {
        let doubts = Doubts::new(Arc::new(Nobody));
        (0..WORTHWHILE as u64).for_each(|ino| doubts.doubt(Ino(ino)));
        let since = Instant::now();
        assert_eq!(doubts.wait_for_rest(), Some(0));
        assert!(since.elapsed() >= QUIET);
        doubts.end();
        assert_eq!(doubts.wait_for_rest(), None);
    }
}
