//! A worker that lives in a view for all phases, as a person's shell would.
//!
//! Must never wait for ever: a view that hangs is given up.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::host;
use super::worker::Answer;

/// The worker's end that the orchestrator holds.
pub(super) struct View {
    child: Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<String>,
    stderr: PathBuf,
}

impl View {
    /// Starts the worker; `log` receives what it and its session say.
    pub(super) fn open(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(log).with_context(|| log.display().to_string())?)
            .spawn()
            .with_context(|| format!("cannot run {:?}", command.get_program()))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let stdout = stdout.context("the worker has no stdout")?;
        let (sender, answers) = mpsc::channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            // Ends when the view is dropped or the worker ends.
            lines.map(|line| sender.send(line)).all(|sent| sent.is_ok());
        });
        Ok(Self {
            child,
            stdin,
            answers,
            stderr: log.to_owned(),
        })
    }

    /// Has the worker do something.
    ///
    /// # Errors
    /// When the view is lost: the worker ended, talks nonsense or takes longer
    /// than `limit`. A phase that failed is an answer.
    pub(super) fn ask(&mut self, request: &str, limit: Duration) -> anyhow::Result<Answer> {
        let stdin = self.stdin.as_mut().context("the worker has no stdin")?;
        let told = writeln!(stdin, "{request}").and_then(|()| stdin.flush());
        let line = match (told, self.answers.recv_timeout(limit)) {
            (Ok(()), Ok(line)) => line,
            (_, Err(mpsc::RecvTimeoutError::Timeout)) => bail!("no answer within {limit:?}"),
            _ => bail!("the worker ended ({})", self.last_words()),
        };
        serde_json::from_str(&line).with_context(|| format!("not an answer: `{line}`"))
    }

    /// How it ended, and the end of what it said.
    fn last_words(&mut self) -> String {
        std::thread::sleep(Duration::from_millis(20)); // its stdout closes before it ends
        let status = match self.child.try_wait() {
            Ok(Some(status)) => status.to_string(),
            _ => "but its program still runs".to_owned(),
        };
        let said = fs::read(&self.stderr).unwrap_or_default();
        let said = host::last_lines(&String::from_utf8_lossy(&said));
        if said.is_empty() {
            return status;
        }
        format!("{status}: {said}")
    }

    /// Lets the worker end and gives the time that leaving took.
    pub(super) fn close(mut self, limit: Duration) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        drop(self.stdin.take());
        while begin.elapsed() < limit {
            if self.child.try_wait()?.is_some() {
                return Ok(begin.elapsed());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.child.kill()?;
        bail!("leaving took longer than {limit:?}")
    }

    /// Ends a view that is lost.
    pub(super) fn abandon(mut self) {
        // It may have ended already, or hang in the kernel: nothing to do then.
        let _ = self.child.kill();
        std::thread::sleep(Duration::from_millis(200));
        let _ = self.child.try_wait();
    }
}
