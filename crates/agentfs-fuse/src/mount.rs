//! From an overlay to a mount that is served: [`serve`], [`mount`], [`Server`].

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use agentfs_core::{LowerLayer, Overlay, Storage};
use thiserror::Error;

use crate::adapter::AgentFs;
use crate::connection;
use crate::counters::Counters;
use crate::device::Device;
use crate::ids::KnownIds;
use crate::interest::{DirInterest, Directories};
use crate::notify::{self, Abilities, Caches, Notifier};
use crate::pairing::Pairing;
use crate::place::{self, Place};
use crate::read_ahead;
use crate::revalidate::{self, Doubts, Revalidator};

/// Threads that answer the requests of one mount, at most: each may have a
/// connection to the storage, and memory for it.
const THREADS_MAX: usize = 8;

/// How an overlay is served.
#[derive(Clone)]
pub struct FuseConfig {
    /// Threads that answer requests.
    pub threads: usize,
    /// How long the kernel may keep what it has learned of a base directory
    /// whose changes are not told.
    pub unwatched_ttl: Duration,
    /// Whether the kernel gathers writes before it hands them over. A program
    /// sees no difference; the storage gets fewer and larger writes.
    pub writeback: bool,
    /// Who watches the base for changes made by others.
    pub interest: Arc<dyn DirInterest>,
    /// The ids that the mount knows, where it does not know all of them (an
    /// ordinary user's namespace). Others are shown as these.
    pub known_ids: Option<KnownIds>,
    /// Keeps programs and answers on one processor, where that is faster.
    pub pairing: Option<Arc<Pairing>>,
    /// Who looks at what programs have used, once they rest, so that their next look is
    /// answered by the kernel.
    pub revalidator: Option<Arc<dyn Revalidator>>,
}

impl FuseConfig {
    /// The defaults: a thread for each processor and one more, as one may wait for the
    /// disk, three to eight; half a second; writeback. Measured on two processors: with
    /// three threads in place of two a cold `git status` takes a tenth less, and eight
    /// programs are served a twentieth slower; with eight, a fifth.
    #[must_use]
    pub fn new(interest: Arc<dyn DirInterest>) -> Self {
        let processors = std::thread::available_parallelism().map_or(2, NonZeroUsize::get);
        Self {
            threads: (processors + 1).clamp(3, THREADS_MAX),
            unwatched_ttl: Duration::from_millis(500),
            writeback: true,
            interest,
            known_ids: None,
            pairing: None,
            revalidator: None,
        }
    }
}

/// Who may use a mount made by [`mount`], and how it is listed.
#[derive(Clone, Debug, Default)]
pub struct MountOptions {
    /// Users other than the mounting one may use it. An ordinary user needs
    /// `user_allow_other` in `/etc/fuse.conf` for that.
    pub allow_other: bool,
}

/// Why a view could not be mounted.
#[derive(Debug, Error)]
pub enum MountError {
    /// `/dev/fuse` is missing or closed to this user.
    #[error("cannot open /dev/fuse ({0}): load the fuse module, or have it made accessible")]
    Device(io::Error),
    /// Neither root nor the setuid helper.
    #[error("mounting as an ordinary user needs fusermount3: install the package fuse3")]
    NoHelper,
    /// The kernel or the helper refused.
    #[error("cannot mount on {path}: {source}")]
    Refused {
        /// The mount point.
        path: String,
        /// What it said.
        source: io::Error,
    },
    /// The kernel does not speak the protocol, or a thread could not be started.
    #[error("cannot serve the mounted view: {0}")]
    Serve(io::Error),
}

/// A view that is being served.
pub struct Server {
    requests: Vec<JoinHandle<io::Result<()>>>,
    /// Those that tell the kernel something, or have it ask.
    others: Vec<JoinHandle<()>>,
    notifier: Notifier,
    doubts: Option<Arc<Doubts>>,
    counters: Arc<Counters>,
    /// Of what [`mount`] mounted.
    place: Option<Arc<Place>>,
}

impl Server {
    /// The handle to tell the kernel of changes with.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// Counts of the requests so far.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Unmounts what [`mount`] mounted. A mount made by hand (see [`serve`])
    /// ends when whoever made it unmounts it, or its namespace ends.
    ///
    /// # Errors
    /// The host's: EBUSY when files are open.
    pub fn unmount(&self) -> io::Result<()> {
        self.place.as_ref().map_or(Ok(()), |place| place.unmount())
    }

    /// Whether the mount has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.requests.iter().all(JoinHandle::is_finished)
    }

    /// Returns when the mount has ended.
    ///
    /// # Errors
    /// Why it ended, if not by being unmounted.
    pub fn wait(self) -> io::Result<()> {
        let mut ended = Ok(());
        for thread in self.requests {
            let result = thread.join();
            ended = ended.and(result.unwrap_or_else(|_| Err(io::Error::other("panicked"))));
        }
        self.notifier.end();
        if let Some(doubts) = self.doubts {
            doubts.end();
        }
        for thread in self.others {
            let _ = thread.join();
        }
        ended
    }
}

/// Serves a file system that is mounted already, by `mount(2)` with
/// [`mount_data`] on a descriptor of `/dev/fuse`. Returns once the kernel has
/// agreed on the protocol; requests are answered by threads.
///
/// # Errors
/// [`MountError::Serve`]
pub fn serve<S: Storage, L: LowerLayer>(
    overlay: Arc<Overlay<S, L>>,
    device: OwnedFd,
    config: FuseConfig,
) -> Result<Server, MountError> {
    start(overlay, config, &Arc::new(Device::new(device)), None)
}

/// Mounts a view on a directory: directly as root, else through `fusermount3`.
///
/// # Errors
/// As [`MountError`] lists.
pub fn mount<S: Storage, L: LowerLayer>(
    overlay: Arc<Overlay<S, L>>,
    mountpoint: &Path,
    options: &MountOptions,
    config: FuseConfig,
) -> Result<Server, MountError> {
    let place = Arc::new(place::mount(mountpoint, options.allow_other)?);
    let served = start(overlay, config, place.device(), Some(Arc::clone(&place)));
    if served.is_err() {
        let _ = place.unmount();
    }
    served
}

fn start<S: Storage, L: LowerLayer>(
    overlay: Arc<Overlay<S, L>>,
    config: FuseConfig,
    device: &Arc<Device>,
    place: Option<Arc<Place>>,
) -> Result<Server, MountError> {
    let threads = config.threads.max(1);
    let counters = Arc::new(Counters::default());
    let (notifier, waiting) = notify::pair();
    config.interest.attached(&notifier);
    let interest = Arc::clone(&config.interest);
    let directories = Arc::new(Directories::new(interest, config.unwatched_ttl));
    let abilities = Arc::new(Abilities::default());
    let mut fs = AgentFs::new(
        Arc::clone(&overlay),
        Arc::clone(&directories),
        Arc::clone(&counters),
        notifier.clone(),
        Arc::clone(&abilities),
        config,
    );
    connection::agree(&mut fs, device).map_err(MountError::Serve)?;
    read_ahead::extend(&**device);
    let caches = Caches::new(Arc::clone(device), abilities);
    let notifications = waiting.start(Arc::clone(&overlay), Arc::clone(&directories), caches);
    let mut others = Vec::from(notifications.map_err(MountError::Serve)?);
    let doubts = fs.doubts();
    if let Some(doubts) = &doubts {
        let started = revalidate::start(Arc::clone(doubts), overlay, directories);
        others.push(started.map_err(MountError::Serve)?);
    }
    let fs = Arc::new(fs);
    let answering = |number| {
        let (fs, device, place) = (Arc::clone(&fs), Arc::clone(device), place.clone());
        let thread = std::thread::Builder::new().name(format!("fuse-{number}"));
        thread.spawn(move || {
            let ended = connection::answer_requests(&fs, &device);
            // Or programs would wait for answers for ever.
            if let (Err(_), Some(place)) = (&ended, place) {
                let _ = place.unmount();
            }
            ended
        })
    };
    let requests: io::Result<_> = (0..threads).map(answering).collect();
    Ok(Server {
        requests: requests.map_err(MountError::Serve)?,
        others,
        notifier,
        doubts,
        counters,
        place,
    })
}

/// The data argument of `mount(2)` for a descriptor of `/dev/fuse`, with source
/// `agentfs` and type `fuse.agentfs`: the kernel checks permissions
/// (`default_permissions`), and all users of the mount's user namespace may use
/// it. `user_id` and `group_id` are those of the mounting process, in its user
/// namespace.
#[must_use]
pub fn mount_data(device: &impl AsRawFd, user_id: u32, group_id: u32) -> String {
    place::data(device, user_id, group_id, true)
}
