//! What the inside of a session looks like: everything of the host read-only,
//! and on it the view, the private directories and the allowed paths.
//!
//! Runs in the holder, once. The order matters throughout: what is to be shown
//! again is taken (as a detached tree) before its place is covered.

mod private;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use agentfs_sqlite::DatabaseFiles;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount_change};

use crate::error::SessionError;
use crate::mounts::{
    NO_DEVICES, NO_SETUID, READ_ONLY, Tree, ensure_mount_point, mount_new, open_path, restrict_all,
};
use crate::protocol::{BuildPlan, Place, PlaceKind, Volume};
use crate::request::Limit;
use crate::sockets;

/// Sockets through which user and host names are looked up.
const SOCKETS_KEPT: [&str; 4] = [
    "/run/nscd/",
    "/run/systemd/userdb/",
    "/run/systemd/resolve/",
    "/var/lib/sss/pipes/",
];

/// What stands when all is built.
pub(crate) struct Built {
    pub(crate) places: Vec<Place>,
    pub(crate) limits: Vec<Limit>,
    /// The host's `/dev`, from which terminals are taken.
    pub(crate) host_dev: OwnedFd,
    /// The private `/dev` by a mount that can be written.
    pub(crate) dev: OwnedFd,
}

/// Gives the device of a FUSE file system, which is mounted at a path, to the server and
/// returns when it answers.
pub(crate) type Serve<'a> = dyn FnMut(Volume, OwnedFd, &Path) -> Result<(), SessionError> + 'a;

struct Placement {
    target: PathBuf,
    is_dir: bool,
    source: Source,
}

enum Source {
    Tree(Tree, Option<PlaceKind>),
    View,
}

struct Builder<'a, 'b> {
    plan: &'a BuildPlan,
    serve: &'a mut Serve<'b>,
    places: Vec<Place>,
    limits: Vec<Limit>,
    host_dev: OwnedFd,
}

fn failed(step: &str, log: &Path) -> impl FnOnce(io::Error) -> SessionError {
    let (step, log) = (step.to_owned(), log.to_owned());
    move |error| {
        if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) && apparmor_restricts()
        {
            return SessionError::NamespacesAppArmor;
        }
        SessionError::NamespacesRefused {
            reason: format!("{step}: {error}"),
            log,
        }
    }
}

/// Whether Ubuntu's restriction is on: namespaces can then be made, but
/// nothing can be mounted in them.
pub(crate) fn apparmor_restricts() -> bool {
    fs::read_to_string("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
        .is_ok_and(|s| s.trim() == "1")
}

/// Builds the inside of a session in this (new) mount namespace.
///
/// # Errors
/// The first step without which the session would not be safe or of no use.
/// What merely cannot be shown becomes a [`Limit`].
pub(crate) fn build(plan: &BuildPlan, serve: &mut Serve<'_>) -> Result<Built, SessionError> {
    let log = PathBuf::from(plan.log.clone());
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(|e| failed("mount propagation", &log)(e.into()))?;
    let host_dev = open_path(Path::new("/dev")).map_err(failed("/dev", &log))?;
    let mut builder = Builder {
        plan,
        serve,
        places: Vec::new(),
        limits: Vec::new(),
        host_dev,
    };
    let dev = builder.run(&log)?;
    let Builder {
        places,
        limits,
        host_dev,
        ..
    } = builder;
    Ok(Built {
        places,
        limits,
        host_dev,
        dev,
    })
}

impl Builder<'_, '_> {
    /// Returns the private /dev by a mount that can be written.
    fn run(&mut self, log: &Path) -> Result<OwnedFd, SessionError> {
        // Take what will be covered.
        let mut sockets = sockets::by_absolute_path();
        sockets.extend(self.plan.sockets.iter().cloned().map(PathBuf::from));
        let mut placements = self.take_placements();
        let run_kept = private::take_run();

        let restrictions = READ_ONLY | NO_SETUID | NO_DEVICES;
        restrict_all(Path::new("/"), restrictions, 0).map_err(failed("read-only mounts", log))?;
        // Devices are shown again from here, one by one.
        restrict_all(Path::new("/dev"), 0, NO_DEVICES).map_err(failed("devices", log))?;

        self.proc_directory();
        let dev = self.dev_directory().map_err(failed("private /dev", log))?;
        self.run_directory(run_kept)
            .map_err(failed("private /run", log))?;

        // Only now: the server opens the database meanwhile.
        let caches = self.take_caches()?;
        placements.extend(caches);
        // A path covers what lies above it in the tree, so parents come first.
        placements.sort_by(|a, b| a.target.cmp(&b.target));
        for placement in placements {
            self.place(placement)?;
        }
        self.hide_ourselves()
            .map_err(failed("hiding the database", log))?;
        self.cover_sockets(&sockets);
        Ok(dev)
    }

    #[allow(clippy::needless_pass_by_value)] // for errors of any kind
    fn not_mounted(&mut self, path: &Path, reason: impl ToString) {
        self.limits.push(Limit::NotMounted {
            path: path.to_owned(),
            reason: reason.to_string(),
        });
    }

    fn writable(&mut self, path: &Path, kind: PlaceKind) {
        self.places.push(Place {
            path: path.to_owned().into(),
            kind,
        });
    }

    /// Detached, writable copies of the allowed paths and the temporary
    /// directories, and the place of the view.
    fn take_placements(&mut self) -> Vec<Placement> {
        let mut placements = vec![Placement {
            target: self.plan.base.clone().into(),
            is_dir: true,
            source: Source::View,
        }];
        let plan = self.plan;
        for (source, target) in &plan.temp {
            let (source, target) = (PathBuf::from(source.clone()), PathBuf::from(target.clone()));
            match Tree::copy_of(&source).and_then(|tree| tree.restrict(NO_SETUID | NO_DEVICES)) {
                Ok(tree) => {
                    let source = Source::Tree(tree, Some(PlaceKind::Temporary));
                    placements.push(Placement {
                        target,
                        is_dir: true,
                        source,
                    });
                }
                Err(error) => self.not_mounted(&target, error),
            }
        }
        for path in &plan.real {
            let target = PathBuf::from(path.clone());
            let restrictions = if target.starts_with("/dev") {
                NO_SETUID
            } else {
                NO_SETUID | NO_DEVICES
            };
            let tree = fs::symlink_metadata(&target).and_then(|meta| {
                Ok((
                    meta.is_dir(),
                    Tree::copy_of(&target)?.restrict(restrictions)?,
                ))
            });
            match tree {
                Ok((is_dir, tree)) => {
                    let source = Source::Tree(tree, Some(PlaceKind::Real));
                    placements.push(Placement {
                        target,
                        is_dir,
                        source,
                    });
                }
                Err(error) => self.not_mounted(&target, error),
            }
        }
        placements
    }

    fn mount_fuse(&mut self, volume: Volume, target: &Path) -> Result<(), SessionError> {
        let log = PathBuf::from(self.plan.log.clone());
        // By descriptor: the private /dev has no such device.
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let device =
            rustix::fs::openat(&self.host_dev, "fuse", flags, Mode::empty()).map_err(|error| {
                match error {
                    Errno::ACCESS | Errno::PERM => SessionError::FuseNotPermitted,
                    // ENXIO, ENODEV: the node is there and the module is not.
                    _ => SessionError::FuseMissing,
                }
            })?;
        let options = crate::serve::mount_options(&device);
        mount_new(
            "fuse.agentfs",
            target,
            MountFlags::NOSUID | MountFlags::NODEV,
            &options,
        )
        .map_err(|error| {
            let denied = matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES));
            if denied && apparmor_restricts() {
                return SessionError::NamespacesAppArmor;
            }
            SessionError::FuseMount {
                reason: error.to_string(),
                log,
            }
        })?;
        (self.serve)(volume, device, target)
    }

    /// Copies of the cache directories out of the session's layer over `$HOME`.
    /// That file system is mounted on /sys for a moment.
    fn take_caches(&mut self) -> Result<Vec<Placement>, SessionError> {
        let mut placements = Vec::new();
        let (Some(home), false) = (&self.plan.home, self.plan.caches.is_empty()) else {
            return Ok(placements);
        };
        let home = PathBuf::from(home.clone());
        let hidden = Path::new("/sys");
        self.mount_fuse(Volume::Home, hidden)?;
        let root = match open_path(hidden) {
            Ok(root) => root,
            Err(error) => {
                self.not_mounted(&home, error);
                return Ok(placements);
            }
        };
        for name in &self.plan.caches {
            let name = PathBuf::from(name.clone());
            let target = home.join(&name);
            match Tree::copy_at(root.as_fd(), &name) {
                Ok(tree) => placements.push(Placement {
                    target,
                    is_dir: true,
                    source: Source::Tree(tree, Some(PlaceKind::Cache)),
                }),
                Err(error) => self.not_mounted(&target, error),
            }
        }
        // The copies keep the file system; its own place is not to be seen.
        let _ = rustix::mount::unmount(hidden, rustix::mount::UnmountFlags::DETACH);
        Ok(placements)
    }

    fn place(&mut self, placement: Placement) -> Result<(), SessionError> {
        let Placement {
            target,
            is_dir,
            source,
        } = placement;
        let log = PathBuf::from(self.plan.log.clone());
        match source {
            Source::View => {
                ensure_mount_point(&target, true)
                    .map_err(failed("the view's mount point", &log))?;
                self.mount_fuse(Volume::Base, &target)?;
                self.writable(&target, PlaceKind::View);
            }
            Source::Tree(tree, kind) => {
                match ensure_mount_point(&target, is_dir).and_then(|()| tree.attach(&target)) {
                    Ok(_) => {
                        if let Some(kind) = kind {
                            self.writable(&target, kind);
                        }
                    }
                    Err(error) => self.not_mounted(&target, error),
                }
            }
        }
        Ok(())
    }

    /// Covers the database and the runtime directory where the view and the
    /// private directories do not.
    fn hide_ourselves(&mut self) -> io::Result<()> {
        let base = PathBuf::from(self.plan.base.clone());
        let db = PathBuf::from(self.plan.db.clone());
        if !db.starts_with(&base) {
            match db.parent() {
                Some(dir) if dir.file_name() == Some(OsStr::new(".agentfs")) => {
                    cover_if_there(dir)?;
                }
                _ => {
                    let files = DatabaseFiles::of(&db);
                    cover_if_there(&db)?;
                    files
                        .companions()
                        .into_iter()
                        .try_for_each(cover_if_there)?;
                }
            }
        }
        // Where this user's sessions keep their sockets and temporary files.
        for root in self.plan.hidden.iter().cloned().map(PathBuf::from) {
            if !self
                .places
                .iter()
                .any(|place| root.starts_with(PathBuf::from(place.path.clone())))
            {
                cover_if_there(&root)?;
            }
        }
        Ok(())
    }

    /// Covers Unix sockets of the host that can still be reached by path.
    fn cover_sockets(&mut self, sockets: &BTreeSet<PathBuf>) {
        for path in sockets {
            let kept = SOCKETS_KEPT
                .iter()
                .any(|k| path.as_os_str().as_bytes().starts_with(k.as_bytes()));
            let private = self
                .places
                .iter()
                .any(|place| path.starts_with(PathBuf::from(place.path.clone())));
            if kept
                || private
                || !fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
            {
                continue;
            }
            if let Err(error) = cover_with_nothing(path, false) {
                self.not_mounted(path, error);
            }
        }
    }
}

/// Covers a directory with an empty one, a file with `/dev/null`.
fn cover_with_nothing(path: &Path, is_dir: bool) -> io::Result<()> {
    let tree = if is_dir {
        Tree::tmpfs("0555", "4k")?
    } else {
        Tree::copy_of(Path::new("/dev/null"))?
    };
    tree.restrict(READ_ONLY)?.attach(path)?;
    Ok(())
}

fn cover_if_there(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) => cover_with_nothing(path, meta.is_dir()),
        Err(_) => Ok(()),
    }
}
