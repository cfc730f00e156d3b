//! What is outside a session, and what must not happen to it: files, sockets, a
//! process that watches itself, a control group.

use std::collections::BTreeMap;
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use agentfs_tests::Run;
use agentfs_tests::child::Running;
use agentfs_tests::world::World;

use super::super::eventually;
use super::Attempt;

/// Python: the process that watches itself.
const WITNESS: &str = include_str!("witness.py");

/// Everything that attempts aim at. New for each set of them.
pub(super) struct Outside {
    /// Not writable inside.
    pub(super) directory: PathBuf,
    /// Writable inside, for real.
    pub(super) allowed: PathBuf,
    home: PathBuf,
    project: PathBuf,
    listeners: Vec<UnixListener>,
    abstract_name: String,
    /// Tells the witness to end.
    end: PathBuf,
    witness: Running,
    said: serde_json::Value,
    group: Option<Group>,
    before: Snapshot,
}

type Snapshot = BTreeMap<PathBuf, String>;

impl Outside {
    pub(super) fn new(world: &World) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let unique = format!(
            "{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let directory = world.dir.join(format!("outside-{unique}"));
        let allowed = world.dir.join(format!("allowed-{unique}"));
        for made in [&directory, &allowed, &directory.join("sub")] {
            fs::create_dir_all(made).expect("a directory");
        }
        fs::write(directory.join("file"), "precious\n").expect("a file");
        let by_name = SocketAddr::from_abstract_name(&unique).expect("a name");
        let listeners = vec![
            UnixListener::bind(directory.join("socket")).expect("a socket"),
            UnixListener::bind_addr(&by_name).expect("a socket"),
        ];
        for listener in &listeners {
            listener.set_nonblocking(true).expect("a socket");
        }
        world.own(&directory);
        world.own(&allowed);
        let end = world.dir.join(format!("end-{unique}"));
        let run = world.run("python3").args(["-c", WITNESS]);
        let mut witness = run.args([&end, &directory]).start();
        eventually("the witness speaks", || {
            assert_eq!(witness.ended(), None, "{:?}", witness.printed());
            witness.printed().0.ends_with(b"\n")
        });
        let said = serde_json::from_slice(&witness.printed().0).expect("JSON of the witness");
        Self {
            before: snapshot(&directory),
            home: world.home.clone(),
            project: world.project.clone(),
            directory,
            allowed,
            listeners,
            abstract_name: unique.clone(),
            end,
            witness,
            said,
            group: (world.account.uid == 0)
                .then(|| Group::new(&unique))
                .flatten(),
        }
    }

    /// Those of the attempts for which there is something to aim at here: an
    /// empty answer of a kernel without message queues would prove nothing.
    pub(super) fn possible(&self, attempts: &[Attempt]) -> Vec<Attempt> {
        let can = |attempt: &&Attempt| {
            (self.group.is_some() || !attempt.1.contains("E['GROUP']"))
                && (self.said["queue"] == true || !attempt.1.contains("raw(240"))
                && (self.said["ring"] == true || !attempt.1.contains("raw(250"))
        };
        attempts.iter().filter(can).copied().collect()
    }

    /// Tells whoever makes attempts what there is.
    pub(super) fn tell(&self, run: Run, attempts: &[Attempt]) -> Run {
        let list: Vec<_> = attempts
            .iter()
            .map(|(name, code, _)| [name, code])
            .collect();
        let text = |key: &str| self.said[key].to_string().trim_matches('"').to_owned();
        let run = run
            .env("ATTEMPTS", serde_json::to_string(&list).expect("JSON"))
            .env("OUTSIDE", &self.directory)
            .env("FILE", self.directory.join("file"))
            .env("SOCKET", self.directory.join("socket"))
            .env("ABSTRACT", &self.abstract_name)
            .env("ALLOWED", &self.allowed)
            .env("BASE", &self.project)
            .env("WITNESS", self.witness.pid().to_string())
            .env("ADDRESS", text("address"))
            .env("SHARED", text("shared"))
            .env("NAME", text("name"));
        match &self.group {
            Some(group) => run.env("GROUP", &group.0),
            None => run,
        }
    }

    /// Fails when anything has been changed, reached or left behind. `unreached`:
    /// also when somebody has connected.
    pub(super) fn expect_as_before(mut self, who: &str, unreached: bool) {
        assert_eq!(snapshot(&self.directory), self.before, "{who}");
        for path in [&self.home, Path::new("/etc")] {
            let planted = path.join("agentfs-escape");
            assert!(!planted.exists(), "{who}: {}", planted.display());
        }
        for (path, what) in snapshot(&self.allowed) {
            let plain = !what.contains("set-id") && !what.contains("capability");
            assert!(plain, "{who}: {} is {what}", path.display());
        }
        for listener in self.listeners.iter().filter(|_| unreached) {
            assert!(listener.accept().is_err(), "{who}: somebody has connected");
        }
        if let Some(group) = &self.group {
            assert!(
                !group.was_entered(),
                "{who}: somebody was in {}",
                group.0.display()
            );
        }
        fs::write(&self.end, "").expect("a file");
        eventually("the witness ends", || self.witness.ended().is_some());
        let printed = String::from_utf8(self.witness.printed().0).expect("text");
        let last = printed
            .lines()
            .nth(1)
            .unwrap_or_else(|| panic!("{who}: the witness died"));
        let last: serde_json::Value = serde_json::from_str(last).expect("JSON of the witness");
        assert_eq!(last, self.said["state"], "{who}");
    }
}

impl Drop for Outside {
    /// Lets the witness take away what it has put into the machine's memory.
    fn drop(&mut self) {
        let _ = fs::write(&self.end, "");
        let until = Instant::now() + Duration::from_secs(5);
        while self.witness.ended().is_none() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A control group of this test's own, removed when dropped.
struct Group(PathBuf);

impl Group {
    fn new(unique: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        let second = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let at = fields.next()?;
            (fields.next() == Some("cgroup2")).then(|| at.to_owned())
        })?;
        let group = Path::new(&second).join(format!("agentfs-test-{unique}"));
        fs::create_dir(&group).ok()?;
        Some(Self(group))
    }

    /// Whether any process was ever in it: it has used processor time.
    fn was_entered(&self) -> bool {
        let stat = fs::read_to_string(self.0.join("cpu.stat")).unwrap_or_default();
        let used = stat
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "));
        let now = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        !now.is_empty() || used.is_some_and(|used| used.trim() != "0")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Everything that can be seen of what lies below a directory.
fn snapshot(top: &Path) -> Snapshot {
    let mut found = Snapshot::new();
    let mut waiting = vec![top.to_owned()];
    while let Some(path) = waiting.pop() {
        let meta = fs::symlink_metadata(&path).expect("it is there");
        if meta.is_dir() {
            let entries = fs::read_dir(&path).expect("a directory");
            waiting.extend(entries.map(|entry| entry.expect("an entry").path()));
        }
        let set_id = if meta.is_file() && meta.mode() & 0o6000 != 0 {
            " set-id"
        } else {
            ""
        };
        let mut value = [0; 64];
        let capability = rustix::fs::lgetxattr(&path, "security.capability", &mut value);
        let capability = if capability.is_ok() {
            " capability"
        } else {
            ""
        };
        // The change time tells of whatever is not named here.
        let what = format!(
            "{:o} of {}:{}, {} bytes, {} names, written {}.{}, changed {}.{}{set_id}{capability}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.size(),
            meta.nlink(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
        );
        found.insert(path, what);
    }
    found
}
