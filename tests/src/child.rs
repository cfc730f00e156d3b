//! Children with a time limit and captured output.
//!
//! Nothing that is started here outlives its limit: at the limit the whole
//! process group is killed and the test fails with what was printed so far.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Seek, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a child may take unless [`Run::limit`] says otherwise.
pub const DEFAULT_LIMIT: Duration = Duration::from_secs(120);

/// A child to be run to its end.
pub struct Run {
    command: Command,
    line: OsString,
    stdin: Option<Vec<u8>>,
    limit: Duration,
}

/// A child that has ended.
pub struct Finished {
    /// Program and arguments, for messages.
    pub line: String,
    /// How it ended.
    pub status: ExitStatus,
    /// All of standard output.
    pub stdout: Vec<u8>,
    /// All of standard error.
    pub stderr: Vec<u8>,
    /// Wall time.
    pub took: Duration,
}

impl Run {
    /// `program`, with an empty environment and no input.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program.as_ref());
        command.env_clear().process_group(0);
        Self {
            command,
            line: program.as_ref().to_owned(),
            stdin: None,
            limit: DEFAULT_LIMIT,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.line.push(" ");
        self.line.push(arg.as_ref());
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(self, args: impl IntoIterator<Item = A>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// The directory it starts in.
    #[must_use]
    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// What it reads.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// How long it may take.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it as this user and group, without supplementary groups (root only).
    #[must_use]
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.command.uid(uid).gid(gid);
        self
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it cannot be started or takes longer than its limit.
    #[must_use]
    pub fn finish(self) -> Finished {
        let line = self.line.to_string_lossy().into_owned();
        self.start().finish(&line)
    }

    /// Starts it and returns at once.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(mut self) -> Running {
        let line = self.line.to_string_lossy().into_owned();
        // Files, not pipes: a detached grandchild that keeps them open must not
        // be able to make the test wait.
        let stdout = tempfile::tempfile().expect("a temporary file");
        let stderr = tempfile::tempfile().expect("a temporary file");
        let input = match &self.stdin {
            None => Stdio::null(),
            Some(bytes) => {
                let mut file = tempfile::tempfile().expect("a temporary file");
                file.write_all(bytes)
                    .and_then(|()| file.rewind())
                    .expect("a temporary file");
                file.into()
            }
        };
        self.command
            .stdin(input)
            .stdout(stdout.try_clone().expect("a descriptor"))
            .stderr(stderr.try_clone().expect("a descriptor"));
        let child = self
            .command
            .spawn()
            .unwrap_or_else(|error| panic!("{line}: {error}"));
        Running {
            child,
            stdout,
            stderr,
            line,
            started: Instant::now(),
            limit: self.limit,
        }
    }
}

/// A child that runs. Dropping it kills its process group.
pub struct Running {
    child: Child,
    stdout: File,
    stderr: File,
    line: String,
    started: Instant,
    limit: Duration,
}

impl Running {
    /// Its process id, which is also that of its group.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far: standard output and standard error.
    ///
    /// # Panics
    /// When the temporary files cannot be read.
    pub fn printed(&mut self) -> (Vec<u8>, Vec<u8>) {
        (contents(&mut self.stdout), contents(&mut self.stderr))
    }

    /// How it ended, if it has.
    ///
    /// # Panics
    /// When the child cannot be waited for.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child to wait for")
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When that takes longer than the limit.
    #[must_use]
    pub fn wait(self) -> Finished {
        let line = self.line.clone();
        self.finish(&line)
    }

    fn finish(mut self, line: &str) -> Finished {
        let mut pause = Duration::from_millis(1);
        let status = loop {
            if let Some(status) = self.ended() {
                break status;
            }
            if self.started.elapsed() > self.limit {
                self.kill();
                let (stdout, stderr) = self.printed();
                panic!(
                    "{line}: still running after {:?}\n--- stdout\n{}\n--- stderr\n{}",
                    self.limit,
                    String::from_utf8_lossy(&stdout),
                    String::from_utf8_lossy(&stderr)
                );
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        };
        let took = self.started.elapsed();
        let (stdout, stderr) = self.printed();
        Finished {
            line: line.to_owned(),
            status,
            stdout,
            stderr,
            took,
        }
    }

    /// Kills its process group.
    pub fn kill(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            // It may have ended already.
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

fn contents(file: &mut File) -> Vec<u8> {
    // The descriptor shares its offset with the child: read by position.
    use std::os::unix::fs::FileExt;
    let length =
        usize::try_from(file.metadata().expect("a file").len()).expect("it fits in memory");
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file
            .read_at(&mut bytes[filled..], filled as u64)
            .expect("a file")
        {
            0 => break,
            more => filled += more,
        }
    }
    bytes.truncate(filled);
    bytes
}

impl Finished {
    /// The exit status as a shell gives it: 128+n for signal n.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status
            .code()
            .unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Itself, when it ended with 0.
    ///
    /// # Panics
    /// When it did not, with all that it printed.
    #[must_use]
    pub fn ok(self) -> Self {
        assert_eq!(self.code(), 0, "{self}");
        self
    }

    /// Standard output as text.
    #[must_use]
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    #[must_use]
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}\nexit {} after {:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.line,
            self.code(),
            self.took,
            tail(&self.out()),
            tail(&self.err())
        )
    }
}

/// The last of a long text: a failing build says why at its end.
fn tail(text: &str) -> &str {
    const LIMIT_BYTES: usize = 16 * 1024;
    let from = text.len().saturating_sub(LIMIT_BYTES);
    let from = (from..text.len())
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(text.len());
    &text[from..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_gives_its_output_and_status() {
        let done = Run::new("/bin/sh")
            .args(["-c", "cat; echo err >&2; exit 3"])
            .stdin("in")
            .finish();
        assert_eq!(
            (done.code(), done.out().as_str(), done.err().as_str()),
            (3, "in", "err\n")
        );
    }

    #[test]
    fn a_signal_is_128_and_its_number() {
        assert_eq!(
            Run::new("/bin/sh")
                .args(["-c", "kill -TERM $$"])
                .finish()
                .code(),
            143
        );
    }

    #[test]
    #[should_panic(expected = "still running")]
    fn a_child_over_its_limit_is_killed() {
        let _ = Run::new("/bin/sleep")
            .arg("60")
            .limit(Duration::from_millis(50))
            .finish();
    }
}
