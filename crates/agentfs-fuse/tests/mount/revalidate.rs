//! What programs have used is looked at once they rest, and the kernel then knows it.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use agentfs_core::lower::MemoryLower;
use agentfs_fuse::Operation::Getattr;
use agentfs_fuse::{FuseConfig, Look, MountOptions, Revalidator, Unchanging};
use parking_lot::Mutex;

use crate::{CACHES, View, skip, within};

/// A thread that looks, as the holder of a session does.
struct Bystander {
    root: Arc<OnceLock<PathBuf>>,
    thread: u32,
    #[allow(clippy::type_complexity)] // what to look at, and where to say so
    looks: Mutex<Sender<(Vec<Look>, Sender<()>)>>,
    /// All that was looked at so far.
    seen: Arc<Mutex<Vec<PathBuf>>>,
}

impl Bystander {
    fn new(root: &Arc<OnceLock<PathBuf>>) -> Self {
        let (looks, asked) = channel::<(Vec<Look>, Sender<()>)>();
        let (tell, thread) = channel();
        let seen = Arc::<Mutex<Vec<PathBuf>>>::default();
        let (told, known) = (Arc::clone(&seen), Arc::clone(root));
        std::thread::spawn(move || {
            let id = rustix::thread::gettid().as_raw_nonzero().get();
            tell.send(id.unsigned_abs()).unwrap();
            for (looks, done) in asked {
                let root = known.get().unwrap();
                for Look { dir, names } in looks {
                    let dir = Path::new(std::ffi::OsStr::from_bytes(&dir));
                    let names = names
                        .iter()
                        .map(|name| dir.join(std::ffi::OsStr::from_bytes(name.as_bytes())));
                    for path in names.chain([dir.to_owned()]) {
                        let _ = fs::symlink_metadata(root.join(&path)); // may be gone
                        told.lock().push(path);
                    }
                }
                let _ = done.send(());
            }
        });
        Self {
            root: Arc::clone(root),
            thread: thread.recv().unwrap(),
            looks: Mutex::new(looks),
            seen,
        }
    }

    fn has_seen(&self, path: &str) -> bool {
        self.seen.lock().iter().any(|seen| seen == Path::new(path))
    }
}

impl Revalidator for Bystander {
    fn thread(&self) -> u32 {
        self.thread
    }

    fn look(&self, at: &[Look]) -> io::Result<()> {
        assert!(self.root.get().is_some());
        let (done, is_done) = channel();
        let sent = self.looks.lock().send((at.to_vec(), done));
        sent.map_err(io::Error::other)?;
        is_done.recv().map_err(io::Error::other)
    }
}

/// A view of `base` that a bystander looks at.
fn view(base: &MemoryLower) -> Option<(View<MemoryLower>, Arc<Bystander>)> {
    if !rustix::process::geteuid().is_root() {
        skip("mounting needs root");
        return None;
    }
    let root = Arc::default();
    let bystander = Arc::new(Bystander::new(&root));
    let config = FuseConfig {
        revalidator: Some(Arc::<Bystander>::clone(&bystander)),
        ..FuseConfig::new(Arc::new(Unchanging))
    };
    let view = View::mount_as(base.clone(), &MountOptions::default(), config);
    root.set(view.path.clone()).unwrap();
    Some((view, bystander))
}

const FILES: usize = 100;

fn name(number: usize) -> String {
    format!("a/b/f{number}")
}

#[test]
fn what_was_read_is_known_once_programs_rest() {
    let _caches = CACHES.read();
    let base = MemoryLower::new();
    base.dir("a", 0o755).unwrap();
    base.dir("a/b", 0o755).unwrap();
    for i in 0..FILES {
        base.file(name(i), 0o644, "content").unwrap();
    }
    let Some((view, bystander)) = view(&base) else {
        return;
    };
    let counters = view.server().counters();
    for i in 0..FILES {
        fs::read(view.at(&name(i))).unwrap();
    }
    assert_eq!(fs::read_dir(view.at("a/b")).unwrap().count(), FILES);
    let seen = || (0..FILES).all(|i| bystander.has_seen(&name(i))) && bystander.has_seen("a/b");
    within(Duration::from_secs(20), "all are looked at", seen);
    // Twice: what was looked at is not looked at again for having been looked at.
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(100));
        counters.reset();
        for i in 0..FILES {
            assert_eq!(fs::metadata(view.at(&name(i))).unwrap().len(), 7);
        }
        assert_eq!(fs::read_dir(view.at("a/b")).unwrap().count(), FILES);
        assert!(view.at("a/b").is_dir());
        assert_eq!(counters.total(), 0, "{counters}");
    }
}

#[test]
fn what_was_written_renamed_and_removed_is_looked_at_where_it_is() {
    let _caches = CACHES.read();
    let Some((view, bystander)) = view(&MemoryLower::new()) else {
        return;
    };
    fs::create_dir(view.at("d")).unwrap();
    for i in 0..FILES {
        fs::write(view.at(&format!("d/f{i}")), vec![b'x'; i + 1]).unwrap();
    }
    fs::rename(view.at("d/f1"), view.at("moved")).unwrap();
    fs::remove_file(view.at("d/f2")).unwrap();
    let last = || bystander.has_seen(&format!("d/f{}", FILES - 1));
    within(
        Duration::from_secs(20),
        "what was written is looked at",
        last,
    );
    within(Duration::from_secs(20), "in its new place", || {
        bystander.has_seen("moved")
    });
    let counters = view.server().counters();
    std::thread::sleep(Duration::from_millis(100));
    counters.reset();
    for i in (0..FILES).filter(|i| ![1, 2].contains(i)) {
        let len = fs::metadata(view.at(&format!("d/f{i}"))).unwrap().len();
        assert_eq!(len, i as u64 + 1);
    }
    assert_eq!(fs::metadata(view.at("moved")).unwrap().len(), 2);
    assert!(!view.at("d/f2").exists());
    assert!(counters.get(Getattr) == 0, "{counters}");
}

/// Nobody is woken for a file or two.
#[test]
fn few_are_left_alone() {
    let base = MemoryLower::new();
    for i in 0..5 {
        base.file(format!("f{i}"), 0o644, "content").unwrap();
    }
    let Some((view, bystander)) = view(&base) else {
        return;
    };
    for i in 0..5 {
        fs::read(view.at(&format!("f{i}"))).unwrap();
    }
    std::thread::sleep(Duration::from_millis(200));
    assert!(bystander.seen.lock().is_empty());
}
