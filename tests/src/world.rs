//! A scratch world for one test: a project, a home directory, a user.
//!
//! Worlds lie under `/var/tmp`, never under `/tmp`: a session has a `/tmp` of
//! its own. All of a world is removed when it is dropped.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::child::{Finished, Run};
use crate::tree::{SCRIPT, Tree};
use crate::user::{Account, Who};

/// Variables that say how this machine reaches the package registries.
const PASSED_ON: [&str; 5] = [
    "PIP_",
    "SSL_CERT",
    "NODE_EXTRA_CA_CERTS",
    "CARGO_HTTP_",
    "npm_config_",
];
const PASSED_ON_SUFFIXES: [&str; 3] = ["_proxy", "_PROXY", "_CA_BUNDLE"];

/// The directory all worlds lie in; everybody may enter it.
#[must_use]
pub fn scratch_root() -> PathBuf {
    let root = rustix::process::geteuid().is_root();
    let name = if root {
        "agentfs-tests".to_owned()
    } else {
        format!("agentfs-tests-{}", rustix::process::geteuid().as_raw())
    };
    Path::new("/var/tmp").join(name)
}

/// A project, a home and a user.
pub struct World {
    /// Where everything of this test lies.
    pub dir: PathBuf,
    /// The directory that sessions are of.
    pub project: PathBuf,
    /// `$HOME`.
    pub home: PathBuf,
    /// The user that everything runs as.
    pub account: Account,
    binary: PathBuf,
    path: String,
    kept: bool,
}

impl World {
    /// An empty project and a home with the caches that toolchains write to.
    ///
    /// # Errors
    /// A sentence for [`crate::skip!`] when there is no such user here.
    ///
    /// # Panics
    /// When the host does not let us make it.
    pub fn new(who: Who) -> Result<Self, String> {
        Self::with_binary(who, crate::agentfs::agentfs_binary)
    }

    /// The same with another `agentfs` than the one of this workspace; the first
    /// that a process asks for is that of all its worlds.
    ///
    /// # Errors
    /// A sentence when there is no such user here.
    ///
    /// # Panics
    /// When the host does not let us make it.
    pub fn with_binary<B: AsRef<Path>>(
        who: Who,
        binary: impl FnOnce() -> B,
    ) -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let account = who.account()?;
        let binary = public_binary(binary).to_owned();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = scratch_root().join(format!("{}-{number}", std::process::id()));
        let (project, home) = (dir.join("project"), dir.join("home"));
        for made in [&dir, &project, &home] {
            fs::create_dir_all(made).expect("a scratch directory");
        }
        for cache in [".cache", ".cargo", ".local", ".npm"] {
            fs::create_dir(home.join(cache)).expect("a cache directory");
        }
        fs::write(home.join(".gitconfig"), GITCONFIG).expect("a git configuration");
        let mut world = Self {
            dir,
            project,
            home,
            account,
            binary,
            path: STANDARD_PATH.to_owned(),
            kept: false,
        };
        if let Some(path) = std::env::var_os("PATH") {
            world.path = format!("{STANDARD_PATH}:{}", path.to_string_lossy());
        }
        world.own(&world.dir);
        Ok(world)
    }

    /// Puts `dir` first on the search path of all programs.
    pub fn prefer_programs_in(&mut self, dir: &Path) {
        self.path = format!("{}:{}", dir.display(), self.path);
    }

    /// Leaves everything for somebody to look at, under another name in the same
    /// place: what dead processes have left is removed by the next.
    pub fn keep(&mut self) {
        self.kept = true;
        let name = self.dir.file_name().unwrap_or_default().to_string_lossy();
        let kept = self.dir.with_file_name(format!("kept-{name}"));
        if fs::rename(&self.dir, &kept).is_ok() {
            self.dir = kept;
        }
    }

    /// The `agentfs` of this world.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Gives everything at and below `path` to the user of this world.
    ///
    /// # Panics
    /// When that fails.
    pub fn own(&self, path: &Path) {
        if rustix::process::geteuid().as_raw() != self.account.uid {
            chown_all(path, &self.account).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
    }

    /// A program as the user of this world, in the project.
    pub fn run(&self, program: impl AsRef<OsStr>) -> Run {
        let mut run = Run::new(program)
            .dir(&self.project)
            .env("HOME", &self.home)
            .env("USER", &self.account.name)
            .env("LOGNAME", &self.account.name)
            .env("SHELL", "/bin/sh")
            .env("PATH", &self.path)
            .env("LANG", "C.UTF-8")
            .env("TZ", "UTC")
            .env("TERM", "xterm");
        for (key, value) in std::env::vars_os() {
            let name = key.to_string_lossy();
            let passed_on = PASSED_ON.iter().any(|prefix| name.starts_with(prefix))
                || PASSED_ON_SUFFIXES
                    .iter()
                    .any(|suffix| name.ends_with(suffix));
            if passed_on {
                run = run.env(&key, value);
            }
        }
        if rustix::process::geteuid().as_raw() == self.account.uid {
            return run;
        }
        run.user(self.account.uid, self.account.gid)
    }

    /// `agentfs` with these arguments, in the project.
    pub fn agentfs<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Run {
        self.run(&self.binary).args(args)
    }

    /// A shell script inside the session `name`.
    pub fn in_session(&self, name: &str, script: &str) -> Run {
        self.agentfs(["run", "--session", name, "--", "sh", "-c", script])
    }

    /// The view of the session `name`, as seen from inside.
    ///
    /// # Panics
    /// When it cannot be listed.
    #[must_use]
    pub fn view(&self, name: &str) -> Tree {
        Tree::parse(&self.in_session(name, SCRIPT).finish().ok().stdout)
    }

    /// The database of the session `name`.
    #[must_use]
    pub fn database(&self, name: &str) -> PathBuf {
        self.project.join(".agentfs").join(format!("{name}.db"))
    }

    /// Waits until the session `name` has ended: one file and nothing beside it.
    ///
    /// # Panics
    /// When it has not within ten seconds.
    pub fn wait_for_end(&self, name: &str) {
        let started = Instant::now();
        let database = self.database(name);
        loop {
            let beside = ["-wal", "-shm", "-journal"].map(|suffix| {
                let mut path = database.clone().into_os_string();
                path.push(suffix);
                PathBuf::from(path)
            });
            let left: Vec<_> = beside.iter().filter(|path| path.exists()).collect();
            if left.is_empty() {
                assert!(database.exists(), "{} is gone", database.display());
                return;
            }
            assert!(
                started.elapsed() < Duration::from_secs(30),
                "still there: {left:?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Runs `agentfs` and gives what it printed on standard output.
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    pub fn agentfs_out<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Finished {
        self.agentfs(args).finish().ok()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if std::thread::panicking() && std::env::var_os("AGENTFS_KEEP_WORLDS").is_some() {
            return;
        }
        // A session server that still holds it is no reason to fail.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

const STANDARD_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `gc --auto` in the background would make the outcome a matter of chance.
const GITCONFIG: &str = "\
[user]
\tname = A Person
\temail = person@example.org
[init]
\tdefaultBranch = main
[gc]
\tautoDetach = false
[maintenance]
\tautoDetach = false
[advice]
\tdetachedHead = false
";

/// The binary under test at a place every user can read.
fn public_binary<B: AsRef<Path>>(built: impl FnOnce() -> B) -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let built = built();
        remove_dead_worlds();
        let dir = scratch_root().join(format!("bin-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a scratch directory");
        for open in [scratch_root(), dir.clone()] {
            fs::set_permissions(open, fs::Permissions::from_mode(0o755)).expect("a mode");
        }
        let copy = dir.join("agentfs");
        fs::copy(built.as_ref(), &copy).expect("a copy of agentfs");
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("a mode");
        copy
    })
}

/// Removes what earlier runs left that were killed.
fn remove_dead_worlds() {
    let Ok(entries) = fs::read_dir(scratch_root()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name
            .trim_start_matches("bin-")
            .split('-')
            .next()
            .unwrap_or_default()
            .to_owned();
        let is_a_pid = !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
        if is_a_pid && !Path::new("/proc").join(&pid).exists() {
            // Somebody else may be removing it as well.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn chown_all(path: &Path, account: &Account) -> io::Result<()> {
    lchown(path, Some(account.uid), Some(account.gid))?;
    if path.symlink_metadata()?.is_dir() {
        for entry in fs::read_dir(path)? {
            chown_all(&entry?.path(), account)?;
        }
    }
    Ok(())
}
