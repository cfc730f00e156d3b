//! Running programs and making directories, for the suites and soaks.
//!
//! Must never wait for ever.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

const POLL: Duration = Duration::from_millis(10);

/// Whether the caller may mount, switch users and drop caches.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// Runs a program to its end and gives what it printed.
///
/// # Errors
/// When it cannot be started or fails; the error has the end of its stderr.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run `{name}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        // fsx goes on to tell its whole history.
        let first: Vec<_> = said.lines().take(8).collect();
        bail!("`{name}`: {}: {}", output.status, first.join("\n"));
    }
    Ok(output.stdout)
}

/// The agentfs binary: the one given, or that of the release profile, built.
pub(crate) fn agentfs(root: &Path, given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let build = [
        "build",
        "--quiet",
        "--release",
        "--locked",
        "-p",
        "agentfs-cli",
    ];
    run(Command::new("cargo").args(build).current_dir(root))?;
    Ok(root.join("target/release/agentfs"))
}

/// The same program, which writes to a pipe wherever its output goes to. More
/// arguments can follow.
pub(super) fn piped(command: &Command) -> Command {
    let mut piped = Command::new("bash");
    piped.args(["-o", "pipefail", "-c", "\"$0\" \"$@\" 2>&1 | cat"]);
    piped.arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => piped.env(key, value),
            None => piped.env_remove(key),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        piped.current_dir(dir);
    }
    piped
}

/// A program that runs, and the file that all it says goes to.
pub(crate) struct Job {
    child: Child,
    log: PathBuf,
    until: Instant,
}

impl Job {
    pub(crate) fn start(mut command: Command, log: &Path, limit: Duration) -> anyhow::Result<Self> {
        let file = File::create(log).with_context(|| log.display().to_string())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot run {:?}", command.get_program()))?;
        Ok(Self {
            child,
            log: log.to_owned(),
            until: Instant::now() + limit,
        })
    }

    /// Whether it has ended well, without waiting.
    ///
    /// # Errors
    /// When it runs for longer than its limit: it is killed.
    pub(crate) fn poll(&mut self) -> anyhow::Result<Option<bool>> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(Some(status.success()));
        }
        if Instant::now() > self.until {
            self.child.kill()?;
            bail!("took too long, and was killed; see {}", self.log.display());
        }
        Ok(None)
    }

    /// Waits for the end; calls `meanwhile` again and again.
    pub(crate) fn wait(
        &mut self,
        mut meanwhile: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<bool> {
        loop {
            if let Some(success) = self.poll()? {
                return Ok(success);
            }
            meanwhile()?;
            std::thread::sleep(POLL);
        }
    }

    /// All that it said so far.
    pub(crate) fn said(&self) -> anyhow::Result<String> {
        let bytes = fs::read(&self.log).with_context(|| self.log.display().to_string())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Tries again until `done`.
pub(crate) fn wait_until(
    what: &str,
    limit: Duration,
    mut done: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let until = Instant::now() + limit;
    while !done()? {
        if Instant::now() > until {
            bail!("{what}: not within {limit:?}");
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Takes a scratch directory, which another may not use until what is returned is
/// dropped, and removes what an earlier one left in it.
///
/// # Errors
/// While another has it.
pub(crate) fn claim(dir: &Path) -> anyhow::Result<File> {
    let path = dir.with_extension("lock");
    let lock = File::create(&path).with_context(|| path.display().to_string())?;
    if let Err(TryLockError::WouldBlock) = lock.try_lock() {
        bail!(
            "another one works in {}: name another place with --work",
            dir.display()
        );
    }
    remove(dir)?;
    Ok(lock)
}

/// Removes a directory, if it is there.
pub(crate) fn remove(dir: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Removes a file, if it is there.
pub(crate) fn remove_file(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}

/// Lets every user enter a directory, whatever the umask.
pub(crate) fn open_to_all(dir: &Path) -> anyhow::Result<()> {
    fs::set_permissions(dir, PermissionsExt::from_mode(0o755))
        .with_context(|| dir.display().to_string())
}
