//! A base that others change while the server walks it: directories and files are
//! swapped for links that lead out, again and again. What the links lead to is in
//! the host's `/tmp`, which programs inside do not have: only the server's own
//! walks could bring it in.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, RenameFlags, renameat_with};

use super::super::as_everyone;

/// How long it goes on.
const SECONDS: u64 = 3;

/// Python: reads and lists by the changing names; prints what it saw of each kind.
const READER: &str = r"
import os, sys, time
seen = {'base': 0, 'secret': 0, 'nothing': 0}
def saw(text):
    seen['secret' if b'secret' in text else 'base' if text else 'nothing'] += 1
def look(path, how):
    try: saw(how(path))
    except OSError: saw(b'')
def read(path):
    with open(path, 'rb') as f: return f.read()
def listing(path):
    return b' '.join(sorted(os.listdir(os.fsencode(path))))
until = time.monotonic() + float(sys.argv[1])
while time.monotonic() < until:
    for name in ['d/file', 'd/sub/file', 'f', 'd/secret', 'd/sub/secret']:
        look(name, read)
    for name in ['d', 'd/sub', '.']:
        look(name, listing)
    look('f', lambda p: os.getxattr(p, 'user.x'))
print(seen['secret'], int(seen['base'] > 100))
";

#[test]
#[cfg_attr(missing_python3, ignore = "skipped: python3 is not installed")]
fn nothing_outside_the_base_shows_while_it_is_swapped() {
    as_everyone(|world| {
        let secret = tempfile::tempdir_in("/tmp").expect("a directory");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(secret.path(), open).expect("a mode");
        fs::create_dir(secret.path().join("sub")).expect("a directory");
        for name in ["file", "secret", "sub/file", "sub/secret"] {
            fs::write(secret.path().join(name), "secret\n").expect("a file");
        }
        let base = &world.project;
        fs::create_dir_all(base.join("d/sub")).expect("a directory");
        for name in ["d/file", "d/sub/file", "f"] {
            fs::write(base.join(name), "base\n").expect("a file");
        }
        symlink(secret.path(), base.join("d.link")).expect("a link");
        symlink(secret.path().join("sub"), base.join("sub.link")).expect("a link");
        symlink(secret.path().join("file"), base.join("f.link")).expect("a link");
        world.own(base);
        let read = |run: agentfs_tests::Run| {
            let seconds = SECONDS.to_string();
            let (done, swaps) =
                while_swapping(base, || run.args(["-c", READER, &seconds]).finish());
            assert!(swaps > 500, "{swaps} swaps");
            done
        };
        let done = read(world.agentfs(["run", "--session", "s", "--", "python3"]));
        assert_eq!(
            done.out(),
            "0 1\n",
            "secrets, and whether the base was seen: {done}"
        );
        // A reader to whom the links do lead out sees it.
        let done = read(world.run("python3"));
        assert!(!done.out().starts_with("0 "), "{done}");
    });
}

/// Runs `f`, and counts the swaps that were made meanwhile.
fn while_swapping<T>(base: &Path, f: impl FnOnce() -> T) -> (T, u64) {
    let open = |path: &Path| {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        rustix::fs::open(path, flags, Mode::empty()).expect("a directory")
    };
    // `sub` by its directory, which is not always where `d` leads.
    let (top, d) = (open(base), open(&base.join("d")));
    let (ended, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
    let swap_all_the_time = |from: &OwnedFd, name: &str, link: &str| {
        while !ended.load(Ordering::Relaxed) {
            // There and back, so that in the end everything is where it was.
            for _ in 0..2 {
                renameat_with(from, name, &top, link, RenameFlags::EXCHANGE).expect("a swap");
                swaps.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(300));
            }
        }
    };
    let done = std::thread::scope(|scope| {
        let _end = SetWhenDropped(&ended);
        scope.spawn(|| swap_all_the_time(&top, "d", "d.link"));
        scope.spawn(|| swap_all_the_time(&d, "sub", "sub.link"));
        scope.spawn(|| swap_all_the_time(&top, "f", "f.link"));
        f()
    });
    (done, swaps.load(Ordering::Relaxed))
}

/// Ends the swapping, also when the reader fails the test.
struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
