//! A terminal for tests: a shell on a pseudo-terminal made by `script(1)`.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use agentfs_tests::world::World;

use super::PATIENCE;

/// A shell on a terminal of its own.
pub(crate) struct Tty {
    child: Child,
    output: Arc<Mutex<Vec<u8>>>,
    seen: usize,
}

impl Tty {
    /// An interactive bash of the world's user in its project, with `agentfs`
    /// as `$A`.
    pub(crate) fn new(world: &World) -> Result<Self, String> {
        let script = ["/usr/bin/script", "/bin/script"]
            .into_iter()
            .find(|path| std::path::Path::new(path).exists())
            .ok_or("script(1) is not installed")?;
        let line = world.agentfs(["ps"]).finish().line;
        let agentfs = line.split(' ').next().unwrap_or_default().to_owned();
        let mut command = Command::new(script);
        command
            .args(["-q", "-e", "-c", "bash --norc --noprofile -i", "/dev/null"])
            .env_clear()
            .env("HOME", &world.home)
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TERM", "xterm")
            .env("LANG", "C.UTF-8")
            .env("SHELL", "/bin/bash")
            .env("PS1", "$ ")
            .env("A", agentfs)
            .current_dir(&world.project)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if rustix::process::geteuid().as_raw() != world.account.uid {
            use std::os::unix::process::CommandExt;
            command.uid(world.account.uid).gid(world.account.gid);
        }
        let mut child = command.spawn().map_err(|e| format!("script(1): {e}"))?;
        let output = Arc::new(Mutex::new(Vec::new()));
        let mut from = child.stdout.take().ok_or("no output")?;
        let into = Arc::clone(&output);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                into.lock().unwrap().extend(&buffer[..count]);
            }
        });
        let mut tty = Self {
            child,
            output,
            seen: 0,
        };
        tty.line(
            "PS1='$ '; stty -echo; bind 'set enable-bracketed-paste off' 2>/dev/null; echo rea''dy",
        );
        tty.expect("ready");
        Ok(tty)
    }

    /// Types.
    pub(crate) fn send(&mut self, keys: &str) {
        let input = self.child.stdin.as_mut().expect("an input");
        input
            .write_all(keys.as_bytes())
            .expect("the terminal takes it");
        input.flush().expect("the terminal takes it");
    }

    /// Types a line.
    pub(crate) fn line(&mut self, line: &str) {
        self.send(line);
        self.send("\n");
    }

    /// Waits for a text after what was last waited for.
    pub(crate) fn expect(&mut self, text: &str) {
        let started = Instant::now();
        loop {
            let output = self.output.lock().unwrap().clone();
            let rest = String::from_utf8_lossy(&output[self.seen..]).into_owned();
            if let Some(at) = rest.find(text) {
                // Lossy text may be longer than its bytes only for broken UTF-8,
                // of which these tests print none.
                self.seen += at + text.len();
                return;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "{text:?} does not come; instead:\n{rest}"
            );
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
