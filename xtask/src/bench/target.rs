//! What is measured: the plain disk, two overlays, and programs with the
//! command line `run --session NAME -- COMMAND`.
//!
//! Must never leave a mount behind, nor work outside the scratch directory.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, bail};

use super::CommonArgs;
use super::bare;
use super::host::{self, User};
use super::inputs::Inputs;
use crate::suite::host::wait_until;

/// How long a session may take to commit and end.
pub(super) const END_LIMIT: Duration = Duration::from_secs(60);
/// The session's name.
pub(super) const SESSION: &str = "bench";

/// One column of the table.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// For the table.
    pub(super) name: String,
    kind: Kind,
    /// Whom it runs as; none: whoever runs the benchmark.
    user: Option<User>,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Disk,
    KernelOverlay,
    FuseOverlayfs,
    /// The server of [`bare`], with whoever works in it on one processor.
    Bare,
    /// A program, and whether it is this repository's.
    Session(PathBuf, bool),
}

/// All that can be measured here; notes say why something cannot.
pub(super) fn all(
    root: &Path,
    common: &CommonArgs,
    rivals: &[PathBuf],
    floor: bool,
) -> anyhow::Result<(Vec<Target>, Vec<String>)> {
    let mut notes = Vec::new();
    let disk = filesystem_name(&common.work)?;
    let mut targets = vec![Target::new(&disk, Kind::Disk)];
    if host::is_root() {
        targets.push(Target::new("kernel overlayfs", Kind::KernelOverlay));
    } else {
        notes.push("kernel overlayfs and cold caches need root: left out".to_owned());
    }
    if host::has_program("fuse-overlayfs") {
        targets.push(Target::new("fuse-overlayfs", Kind::FuseOverlayfs));
    } else {
        notes.push("fuse-overlayfs is not installed: left out".to_owned());
    }
    if floor {
        if !host::is_root() || !host::has_program("taskset") {
            bail!("--floor needs root, and the program taskset");
        }
        targets.push(Target::new("requests alone", Kind::Bare));
    }
    for rival in rivals {
        let name = rival.file_name().unwrap_or(rival.as_os_str());
        let name = format!("{} (rival)", name.to_string_lossy());
        targets.push(Target::new(&name, Kind::Session(rival.clone(), false)));
    }
    let (sessions, more) = ours(root, common)?;
    targets.extend(sessions);
    notes.extend(more);
    Ok((targets, notes))
}

/// This repository's binary, as root and as an ordinary user where possible.
pub(super) fn ours(root: &Path, common: &CommonArgs) -> anyhow::Result<(Vec<Target>, Vec<String>)> {
    let binary = match &common.agentfs {
        Some(binary) => binary.clone(),
        None => build(root)?,
    };
    let kind = Kind::Session(binary, true);
    if !host::is_root() {
        return Ok((vec![Target::new("agentfs (user)", kind)], Vec::new()));
    }
    let mut targets = vec![Target::new("agentfs (root)", kind.clone())];
    let asked = common.user.as_deref();
    let user = match asked {
        Some("none") => None,
        Some(name) => Some(User::find(name)?),
        None => User::find("agentfs-test").ok(),
    };
    let mut notes = Vec::from_iter(common.memory_note());
    if let Some(user) = user {
        host::open_dev_fuse()?;
        let mut target = Target::new("agentfs (user)", kind);
        target.user = Some(user);
        targets.push(target);
    } else if asked.is_none() {
        notes.push("there is no user `agentfs-test`: no ordinary user is measured".to_owned());
    }
    Ok((targets, notes))
}

/// Builds this repository's binary for release.
pub(crate) fn build(root: &Path) -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--package", "agentfs-cli"])
        .current_dir(root)
        .status()?;
    if !status.success() {
        bail!("agentfs does not build; name a binary with --agentfs");
    }
    let target_dir =
        std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    Ok(target_dir.join("release/agentfs"))
}

fn filesystem_name(dir: &Path) -> anyhow::Result<String> {
    let output = host::run(Command::new("df").arg("--output=fstype").arg(dir))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().nth(1).unwrap_or("disk").trim().to_owned())
}

impl Target {
    fn new(name: &str, kind: Kind) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            user: None,
        }
    }

    /// Whether it is this repository's.
    pub(super) fn is_ours(&self) -> bool {
        matches!(self.kind, Kind::Session(_, true))
    }

    /// Whether it was named with `--rival`.
    pub(super) fn is_rival(&self) -> bool {
        matches!(self.kind, Kind::Session(_, false))
    }

    /// The column that others are compared with.
    pub(super) fn is_disk(&self) -> bool {
        self.kind == Kind::Disk
    }

    /// The other column that others are compared with.
    pub(super) fn is_kernel_overlay(&self) -> bool {
        self.kind == Kind::KernelOverlay
    }

    /// Whether it shows what requests cost alone.
    pub(super) fn is_bare(&self) -> bool {
        self.kind == Kind::Bare
    }

    /// Whether it keeps a database.
    pub(super) fn is_session(&self) -> bool {
        matches!(self.kind, Kind::Session(..))
    }

    /// The name as part of a path.
    pub(super) fn slug(&self) -> String {
        let letters = self
            .name
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || *c == ' ');
        letters.map(|c| if c == ' ' { '-' } else { c }).collect()
    }

    /// Copies the base and mounts what is to be mounted.
    pub(super) fn set_up(&self, work: &Path, inputs: &Inputs) -> anyhow::Result<Stage> {
        let root = work.join("stages").join(self.slug());
        if root.exists() {
            fs::remove_dir_all(&root)
                .with_context(|| format!("{} is left over; unmount it", root.display()))?;
        }
        let stage = Stage {
            base: root.join("base"),
            home: root.join("home"),
            program: self.install(&root)?,
            root,
            target: self.clone(),
            inputs: inputs.dir.clone(),
            server: RefCell::new(None),
        };
        stage.prepare(inputs)?;
        match self.kind {
            Kind::Disk | Kind::Session(..) => Ok(()),
            Kind::KernelOverlay => host::run(
                Command::new("mount")
                    .args(["-t", "overlay", "overlay", "-o"])
                    .arg(stage.overlay_options())
                    .arg(stage.view()),
            )
            .map(drop),
            Kind::FuseOverlayfs => host::run(
                Command::new("fuse-overlayfs")
                    .arg("-o")
                    .arg(stage.overlay_options())
                    .arg(stage.view()),
            )
            .map(drop),
            Kind::Bare => stage.start_bare(),
        }?;
        Ok(stage)
    }

    /// Puts the program where everybody can run it and it can be told from
    /// others of its name.
    fn install(&self, root: &Path) -> anyhow::Result<Option<PathBuf>> {
        match &self.kind {
            Kind::Disk | Kind::KernelOverlay | Kind::Bare => Ok(None),
            Kind::FuseOverlayfs => Ok(fs::canonicalize("/usr/bin/fuse-overlayfs").ok()),
            Kind::Session(binary, _) => {
                fs::create_dir_all(root.join("bin"))?;
                let copy = root.join("bin/agentfs");
                fs::copy(binary, &copy).with_context(|| format!("no {}", binary.display()))?;
                Ok(Some(copy))
            }
        }
    }
}

/// A target set up below the scratch directory.
pub(super) struct Stage {
    /// All of it lies here.
    root: PathBuf,
    /// The copy of the inputs' base.
    pub(super) base: PathBuf,
    /// `HOME` inside.
    home: PathBuf,
    /// What serves the view.
    pub(super) program: Option<PathBuf>,
    target: Target,
    inputs: PathBuf,
    /// That of [`bare`]; ends when it is unmounted.
    server: RefCell<Option<Child>>,
}

impl Stage {
    fn prepare(&self, inputs: &Inputs) -> anyhow::Result<()> {
        for name in ["home", "upper", "scratch", "merged"] {
            fs::create_dir_all(self.root.join(name))?;
        }
        let (from, to) = (inputs.base(), &self.base);
        host::run(Command::new("cp").arg("-a").arg(from).arg(to))?;
        // Whoever owns the inputs, git shall read them.
        fs::write(
            self.home.join(".gitconfig"),
            "[safe]\n\tdirectory = *\n[user]\n\tname = bench\n\temail = bench@example.org\n\
             [gc]\n\tauto = 0\n[advice]\n\tdetachedHead = false\n",
        )?;
        if let Some(user) = &self.target.user {
            let owner = format!("{}:{}", user.uid, user.gid);
            let paths = [&self.base, &self.home];
            host::run(Command::new("chown").arg("-R").arg(owner).args(paths))?;
        }
        // The copy has other inode numbers: git takes note of them once, here.
        let mut git = self.plain_command("git");
        host::run(git.args(["-C", "repo", "status", "--porcelain"]))?;
        Ok(())
    }

    /// Where programs work.
    pub(super) fn view(&self) -> PathBuf {
        match self.target.kind {
            Kind::Disk | Kind::Session(..) => self.base.clone(),
            Kind::KernelOverlay | Kind::FuseOverlayfs | Kind::Bare => self.root.join("merged"),
        }
    }

    /// Where the view's process says things.
    pub(super) fn log(&self) -> PathBuf {
        self.root.join("stderr.log")
    }

    fn overlay_options(&self) -> String {
        format!(
            "lowerdir={},upperdir={},workdir={}",
            self.base.display(),
            self.root.join("upper").display(),
            self.root.join("scratch").display()
        )
    }

    fn start_bare(&self) -> anyhow::Result<()> {
        let view = self.view();
        let device = |path: &Path| fs::metadata(path).map(|there| there.dev());
        let before = device(&view)?;
        let mut command = Command::new(std::env::current_exe()?);
        let server = command.arg("bench-bare").arg(&view).spawn()?;
        *self.server.borrow_mut() = Some(server);
        wait_until("mounting what only answers", END_LIMIT, || {
            Ok(device(&view)? != before)
        })
    }

    /// A program as the target's user, beside the view.
    pub(super) fn plain_command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(&self.base)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.home)
            .env("LC_ALL", "C")
            .env("SHELL", "/bin/sh");
        if let Some(user) = &self.target.user {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }

    /// A program inside the view, in a session of that name.
    pub(super) fn command(&self, session: &str, program: &Path) -> Command {
        let Kind::Session(..) = self.target.kind else {
            let mut command = match self.target.kind {
                Kind::Bare => {
                    let mut command = self.plain_command("taskset");
                    let processor = bare::PROCESSOR.to_string();
                    command.args(["-c", &processor]).arg(program);
                    command
                }
                _ => self.plain_command(program),
            };
            command.current_dir(self.view());
            return command;
        };
        let mut command = self.plain_command(self.program.as_deref().unwrap_or(program));
        command
            .args(["run", "--session", session, "--"])
            .arg(program);
        command
    }

    /// A worker inside the view.
    pub(super) fn worker(&self, worker: &Path) -> Command {
        let mut command = self.command(SESSION, worker);
        command
            .arg("bench-worker")
            .arg("--dir")
            .arg(self.view())
            .arg("--inputs")
            .arg(&self.inputs);
        command
    }

    /// Waits until a session's server has committed everything and ended.
    pub(super) fn wait_for_end(&self) -> anyhow::Result<()> {
        match &self.program {
            Some(program) if self.target.is_session() => host::wait_until_gone(program, END_LIMIT),
            _ => Ok(()),
        }
    }

    /// The session's database, wherever the program keeps it.
    pub(super) fn database(&self) -> Option<PathBuf> {
        let mut pending = vec![(self.base.join(".agentfs"), 0), (self.home.clone(), 0)];
        while let Some((dir, depth)) = pending.pop() {
            for path in host::children(&dir) {
                if path.extension().is_some_and(|extension| extension == "db") {
                    return Some(path);
                }
                if depth < 5 && path.is_dir() {
                    pending.push((path, depth + 1));
                }
            }
        }
        None
    }

    /// Unmounts and removes everything.
    pub(super) fn tear_down(&self) -> anyhow::Result<()> {
        if matches!(
            self.target.kind,
            Kind::KernelOverlay | Kind::FuseOverlayfs | Kind::Bare
        ) {
            let unmount = if host::is_root() {
                host::run(Command::new("umount").arg(self.view()))
            } else {
                host::run(Command::new("fusermount3").arg("-u").arg(self.view()))
            };
            unmount?;
        }
        if let Some(mut server) = self.server.borrow_mut().take() {
            server.wait()?;
        }
        fs::remove_dir_all(&self.root).with_context(|| self.root.display().to_string())
    }
}

/// Copies this program where everybody can run it.
pub(super) fn install_worker(work: &Path) -> anyhow::Result<PathBuf> {
    let dir = work.join("bin");
    fs::create_dir_all(&dir)?;
    for dir in [work, &dir] {
        fs::set_permissions(dir, PermissionsExt::from_mode(0o755))?;
    }
    let worker = dir.join(format!("worker-{}", std::process::id()));
    fs::copy(std::env::current_exe()?, &worker)?;
    Ok(worker)
}
