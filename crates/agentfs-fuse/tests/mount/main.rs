//! Real mounts of overlays over a base in memory or on the host, used through
//! the host's own calls. Needs root (or fusermount3) and `/dev/fuse`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)] // Failing is their purpose.

mod base;
mod data;
mod dirs;
mod names;
mod requests;
mod revalidate;
mod serving;

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use agentfs_core::lower::MemoryLower;
use agentfs_core::storage::MemoryStorage;
use agentfs_core::{Ino, LowerLayer, LowerPath, Overlay, OverlayConfig, Owner, Storage};
use agentfs_fuse::{
    DirInterest, EntryChange, FuseConfig, MountOptions, Notifier, Server, Unchanging,
};
use agentfs_hostdir::{BaseChange, BaseWatcher, HostClock, HostDir, WatchState};

/// Tells that a test cannot run here; with `AGENTFS_REQUIRE_ALL=1` that is a failure.
fn skip(why: &str) {
    assert!(
        std::env::var_os("AGENTFS_REQUIRE_ALL").is_none(),
        "not skipped: {why}"
    );
    eprintln!("skipped: {why}");
}

/// Held for writing by the test that drops the kernel's caches, for reading by
/// those that count on them.
static CACHES: std::sync::RwLock<()> = std::sync::RwLock::new(());

const NO_WRITEBACK: &str = "AGENTFS_TEST_NO_WRITEBACK";

/// Whether the kernel gathers writes in this run.
fn writeback() -> bool {
    std::env::var_os(NO_WRITEBACK).is_none()
}

/// Everything must hold either way.
#[test]
fn without_writeback() {
    if !writeback() {
        return;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--skip", "what_the_kernel_forgets"])
        .env(NO_WRITEBACK, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}

fn overlay<L: LowerLayer>(lower: L) -> Arc<Overlay<MemoryStorage, L>> {
    overlay_on(MemoryStorage::new(4096), lower)
}

fn overlay_on<S: Storage, L: LowerLayer>(storage: S, lower: L) -> Arc<Overlay<S, L>> {
    let config = OverlayConfig {
        clock: Arc::new(HostClock),
        hidden: Vec::new(),
        root_owner: Owner::default(),
    };
    Arc::new(Overlay::open(storage, lower, config).unwrap())
}

/// A mounted view, unmounted when dropped. Dereferences to its path.
struct View<L: LowerLayer> {
    path: PathBuf,
    _place: tempfile::TempDir,
    server: Option<Server>,
    overlay: Arc<Overlay<MemoryStorage, L>>,
}

impl<L: LowerLayer> View<L> {
    /// `None`, after saying so, where mounting is not possible.
    fn mount(lower: L, interest: Arc<dyn DirInterest>) -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
            let why = "mounting needs root and /dev/fuse";
            assert!(
                std::env::var_os("AGENTFS_REQUIRE_ALL").is_none(),
                "not skipped: {why}"
            );
            eprintln!("skipped: {why}");
            return None;
        }
        let options = MountOptions { allow_other: true };
        Some(Self::mount_here(lower, interest, &options))
    }

    fn mount_here(lower: L, interest: Arc<dyn DirInterest>, options: &MountOptions) -> Self {
        let config = FuseConfig::new(interest);
        Self::mount_as(lower, options, config)
    }

    fn mount_as(lower: L, options: &MountOptions, config: FuseConfig) -> Self {
        let place = tempfile::tempdir().unwrap();
        let overlay = overlay(lower);
        let config = FuseConfig {
            writeback: writeback(),
            ..config
        };
        let server =
            agentfs_fuse::mount(Arc::clone(&overlay), place.path(), options, config).unwrap();
        Self {
            path: place.path().to_owned(),
            _place: place,
            server: Some(server),
            overlay,
        }
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    fn at(&self, path: &str) -> PathBuf {
        self.path.join(path)
    }
}

impl<L: LowerLayer> Deref for View<L> {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

impl<L: LowerLayer> Drop for View<L> {
    fn drop(&mut self) {
        let server = self.server.take().unwrap();
        if server.unmount().is_err() {
            // A failed test left something open.
            let flags = rustix::mount::UnmountFlags::DETACH;
            rustix::mount::unmount(&self.path, flags).unwrap();
        } else {
            server.wait().unwrap();
        }
    }
}

/// A view of a base in memory.
fn memory_view(lower: &MemoryLower) -> Option<View<MemoryLower>> {
    View::mount(lower.clone(), Arc::new(Unchanging))
}

/// A view of a directory on the host, watched as a session does it.
struct HostView {
    view: View<Arc<HostDir>>,
    base: tempfile::TempDir,
}

impl Deref for HostView {
    type Target = View<Arc<HostDir>>;

    fn deref(&self) -> &Self::Target {
        &self.view
    }
}

/// Glue between the watcher of the host directory and the mount.
struct Watch {
    host: Arc<HostDir>,
    watcher: OnceLock<BaseWatcher>,
}

impl DirInterest for Watch {
    fn attached(&self, notifier: &Notifier) {
        let notifier = notifier.clone();
        let watcher = BaseWatcher::start(Arc::clone(&self.host), move |change| match change {
            BaseChange::Entry { dir, name, change } => {
                let change = match change {
                    agentfs_hostdir::EntryChange::Object => EntryChange::Object,
                    agentfs_hostdir::EntryChange::Name => EntryChange::Name,
                };
                notifier.base_entry_changed(dir, name, change);
            }
            BaseChange::Directory { dir } => notifier.base_directory_changed(dir),
            BaseChange::Lost => notifier.base_changed(),
        });
        assert!(self.watcher.set(watcher.unwrap()).is_ok());
    }

    fn looked_up(&self, dir: Ino, lower: &LowerPath) -> bool {
        self.watcher.get().unwrap().watch(lower, dir) == WatchState::Watched
    }

    fn forgotten(&self, dir: Ino) {
        self.watcher.get().unwrap().unwatch(dir);
    }
}

/// A view of a host directory that `make` has filled.
fn host_view(make: impl FnOnce(&Path)) -> Option<HostView> {
    let base = tempfile::tempdir().unwrap();
    make(base.path());
    let host = Arc::new(HostDir::open(base.path()).unwrap());
    let watch = Watch {
        host: Arc::clone(&host),
        watcher: OnceLock::new(),
    };
    let view = View::mount(host, Arc::new(watch))?;
    Some(HostView { view, base })
}

/// Waits until `f` holds.
#[track_caller]
fn within(limit: Duration, what: &str, f: impl Fn() -> bool) {
    let start = Instant::now();
    while !f() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A change in the base shows within a second; a machine that is busy with other
/// tests is given more.
#[track_caller]
fn within_a_second(what: &str, f: impl Fn() -> bool) {
    within(Duration::from_secs(10), what, f);
}

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
