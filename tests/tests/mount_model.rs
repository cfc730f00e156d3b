//! The random operations of the model test as system calls: on a real mount and
//! on a plain directory of the host that starts as the same tree. Both have to
//! do what the model says, which proves the model against ext4 as well.
//!
//! Two threads, the "terminals", take turns on the mount.

mod compare;
mod side;
mod sys;
mod together;

use std::path::Path;
use std::sync::Arc;

use agentfs_core::overlay::{Fallocate, Overlay, OverlayConfig};
use agentfs_core::storage::Storage;
use agentfs_core::types::{FileKind, Owner};
use agentfs_fuse::{FuseConfig, MountOptions, Server, Unchanging};
use agentfs_hostdir::{HostClock, HostDir};
use agentfs_sqlite::{Database, OpenOptions, Volume};
use agentfs_testkit::base::{BaseTree, base_tree};
use agentfs_testkit::driver::Divergence;
use agentfs_testkit::model::{Model, NodeId};
use agentfs_testkit::op::{Action, NamePick, Op, Weights, hidden_name, ops};
use proptest::test_runner::{TestCaseError, TestError, TestRunner};
use rustix::mount::UnmountFlags;
use tempfile::TempDir;

use compare::Times;
use side::Side;
pub(crate) use sys::must_write as map_write;

const CHUNK_BYTES: u32 = 4096;

/// Mounts the view of a base on a directory.
pub(crate) fn mount<S: Storage>(storage: S, base: &Path, at: &Path) -> Server {
    sys::own_mounts();
    let config = OverlayConfig {
        clock: Arc::new(HostClock),
        hidden: vec![hidden_name()],
        root_owner: Owner::default(),
    };
    let overlay = Overlay::open(storage, HostDir::open(base).unwrap(), config).unwrap();
    let options = MountOptions::default();
    agentfs_fuse::mount(
        Arc::new(overlay),
        at,
        &options,
        FuseConfig::new(Arc::new(Unchanging)),
    )
    .unwrap()
}

/// Ends the mount on a directory.
pub(crate) fn unmount(server: Server, at: &Path) {
    // A child that another test is just starting has our descriptors until it
    // calls exec. The server tries once only.
    let mut tries = 0;
    while let Err(e) = rustix::mount::unmount(at, UnmountFlags::empty()) {
        tries += 1;
        assert!(tries < 500, "unmount: {e}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    server.wait().unwrap();
}

/// Makes of an action what a privileged program can ask, or nothing.
fn adapt(model: &Model, action: Action) -> Option<Action> {
    let hidden = hidden_name();
    let kind = |node: &NodeId| model.node(*node).kind;
    let owner = Owner::default();
    let names_hidden = match &action {
        Action::Mknod { name, .. }
        | Action::Mkdir { name, .. }
        | Action::Symlink { name, .. }
        | Action::Link { name, .. }
        | Action::Unlink { name, .. }
        | Action::Rmdir { name, .. } => *name == hidden,
        Action::Rename { name, new_name, .. } => *name == hidden || *new_name == hidden,
        _ => false,
    };
    if names_hidden {
        return None;
    }
    Some(match action {
        Action::Mknod {
            dir, name, node, ..
        } => Action::Mknod {
            dir,
            name,
            node,
            owner,
        },
        Action::Mkdir {
            dir, name, perm, ..
        } => {
            // mkdir(2) takes the permission and sticky bits only.
            Action::Mkdir {
                dir,
                name,
                perm: perm & 0o1777,
                owner,
            }
        }
        Action::Symlink {
            dir, name, target, ..
        } => Action::Symlink {
            dir,
            name,
            target,
            owner,
        },
        Action::SetAttr { node, mut set } => {
            let openable = matches!(kind(&node), FileKind::Regular | FileKind::Directory);
            if set.size.is_some() && !openable {
                return None;
            }
            // Root may write set-user-ID files, but a change of owner is one.
            set.kill_suid_sgid = set.uid.is_some() || set.gid.is_some();
            Action::SetAttr { node, set }
        }
        Action::Write {
            node, offset, data, ..
        } => Action::Write {
            node,
            offset,
            data,
            kill_suid_sgid: false,
        },
        Action::Hold { node }
            if !matches!(kind(&node), FileKind::Regular | FileKind::Directory) =>
        {
            return None;
        }
        // Documented: keeps the times, which ext4 does not.
        Action::Fallocate {
            mode: Fallocate::KeepSize,
            ..
        }
        | Action::Tmpfile { .. }
        | Action::StreamOpen { .. }
        | Action::StreamStep { .. }
        | Action::ForgetAll
        | Action::Invalidate { .. }
        | Action::Reopen => return None,
        other => other,
    })
}

/// The names that are hidden in the one cannot be in the other.
fn without_hidden(mut base: BaseTree) -> BaseTree {
    base.entries.retain(|entry| {
        let name = NamePick::Pool(entry.name);
        let Op::Unlink { at } = (Op::Unlink {
            at: agentfs_testkit::op::At { dir: 0, name },
        }) else {
            return true;
        };
        let NamePick::Pool(index) = at.name else {
            return true;
        };
        let pool = agentfs_testkit::op::name_pool();
        pool[index % pool.len()] != hidden_name()
    });
    base
}

/// One base, one sequence, two trees.
struct Trial {
    model: Model,
    handles: Vec<NodeId>,
    sides: Vec<Side>,
    times: Times,
    steps: u32,
}

impl Trial {
    fn new(base: &Path, roots: &[(&'static str, &Path)]) -> Self {
        let model = Model::from_lower(&HostDir::open(base).unwrap(), &[hidden_name()]);
        Self {
            model,
            handles: Vec::new(),
            sides: roots
                .iter()
                .map(|(name, path)| Side::new(name, path))
                .collect(),
            times: Times::start(),
            steps: 0,
        }
    }

    fn step(&mut self, op: &Op) -> Result<(), Divergence> {
        self.steps += 1;
        self.model.now = compare::model_time(self.steps);
        let resolved = op.resolve(&self.model, &self.handles, 0, CHUNK_BYTES.into());
        let Some(action) = resolved.and_then(|action| adapt(&self.model, action)) else {
            return Ok(());
        };
        let context = |side: &Side, what: String| {
            Divergence(format!(
                "step {}, {}: {action:?}: {what}",
                self.steps, side.name
            ))
        };
        let before = self.model.clone();
        match &action {
            Action::Hold { node } => {
                self.handles.push(*node);
                self.model.hold(*node);
            }
            Action::Release { handle } => {
                let node = self.handles.swap_remove(*handle);
                self.model.release(node);
            }
            _ => {}
        }
        let expected = self.model.apply(&action);
        for side in &mut self.sides {
            let real = side.run(&before, &action, self.steps);
            if real.as_ref().err() != expected.as_ref().err() {
                return Err(context(
                    side,
                    format!("gave {real:?}, should give {expected:?}"),
                ));
            }
            if let (Ok(real), Ok(expected)) = (&real, &expected) {
                side::same(real, expected).map_err(|what| context(side, what))?;
            }
        }
        for side in &self.sides {
            compare::tree(&self.model, side, &self.times).map_err(|what| context(side, what))?;
        }
        Ok(())
    }
}

fn check(cases: u32, longest: usize, f: impl Fn(&BaseTree, &[Op]) -> Result<(), Divergence>) {
    let weights = Weights {
        library_only: false,
        lifecycle: true,
        max_io_bytes: 9000,
    };
    let input = (base_tree(CHUNK_BYTES.into()), ops(weights, longest));
    let mut runner = TestRunner::new(crate::model::config(cases));
    let result = runner.run(&input, |(base, ops)| {
        f(&without_hidden(base), &ops).map_err(|e| TestCaseError::fail(e.0))
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, (base, ops))) => crate::model::report(&why, &base, &ops, ""),
        Err(aborted) => panic!("{aborted}"),
    }
}

fn copy_of(base: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("cp")
        .arg("-a")
        .arg(base.join("."))
        .arg(copy.path())
        .status()
        .unwrap();
    assert!(status.success(), "cp -a");
    copy
}

#[test]
#[cfg_attr(missing_root, ignore = "skipped: owners and devices need root")]
fn a_plain_directory_is_the_model() {
    check(60, 40, |base, ops| {
        let base_dir = crate::model::host_tree(base);
        let plain = copy_of(base_dir.path());
        let mut trial = Trial::new(base_dir.path(), &[("plain", plain.path())]);
        ops.iter().try_for_each(|op| trial.step(op))
    });
}

fn mounted_is_plain<S: Storage>(
    base: &BaseTree,
    ops: &[Op],
    mut open: impl FnMut() -> S,
) -> Result<(), Divergence> {
    let base_dir = crate::model::host_tree(base);
    let plain = copy_of(base_dir.path());
    let at = tempfile::tempdir().unwrap();
    let server = mount(open(), base_dir.path(), at.path());
    let mut trial = Trial::new(
        base_dir.path(),
        &[("plain", plain.path()), ("mount", at.path())],
    );
    let outcome = ops.iter().try_for_each(|op| trial.step(op));
    let Trial {
        mut model,
        handles,
        sides,
        times,
        ..
    } = trial;
    drop(sides);
    unmount(server, at.path());
    outcome?;
    for node in handles {
        model.release(node);
    }
    let server = mount(open(), base_dir.path(), at.path());
    let side = Side::new("mounted again", at.path());
    let same = compare::tree(&model, &side, &times);
    drop(side);
    unmount(server, at.path());
    same.map_err(|what| Divergence(format!("mounted again: {what}")))
}

#[test]
#[cfg_attr(missing_root, ignore = "skipped: owners and devices need root")]
#[cfg_attr(missing_fuse, ignore = "skipped: no /dev/fuse")]
fn a_mount_is_the_model_and_a_plain_directory() {
    check(25, 30, |base, ops| {
        let storage = Arc::new(agentfs_core::storage::MemoryStorage::new(CHUNK_BYTES));
        mounted_is_plain(base, ops, || Arc::clone(&storage))
    });
}

#[test]
#[cfg_attr(missing_root, ignore = "skipped: owners and devices need root")]
#[cfg_attr(missing_fuse, ignore = "skipped: no /dev/fuse")]
fn a_mount_over_sqlite_is_the_model_and_a_plain_directory() {
    check(12, 30, |base, ops| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("session.db");
        mounted_is_plain(base, ops, || {
            let options = OpenOptions::new()
                .create(true)
                .chunk_size_bytes(CHUNK_BYTES);
            let database = Database::open(&path, &options).unwrap();
            database.volume(Volume::View)
        })
    });
}
