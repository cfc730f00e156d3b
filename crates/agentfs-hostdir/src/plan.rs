//! [`Plan`]: what to read ahead next, and how much of it.
//!
//! Each use of what was read ahead allows some more, so that wrong guesses end by
//! themselves. Must never wait or reach the host: it is locked by the threads that
//! answer programs.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use agentfs_core::LowerPath;
use lru::LruCache;

/// Directories looked through ahead for each that a program enters.
const DIRECTORIES_A_VISIT: usize = 8;
/// Directories that may be looked through before the next visit, at most.
const DIRECTORIES_MAX: usize = 64;
/// Bytes begun for each file that a program reads.
const BYTES_A_FILE: u64 = 128 * 1024;
/// Bytes that may be begun before the next is read, at most.
const BYTES_MAX: u64 = 16 << 20;
/// Steps waiting, at most, of each kind; more are not taken.
const WAITING_MAX: usize = 1024;
/// Directories and files remembered.
const REMEMBERED_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// What was planned before a pause of so long is of no use to anybody.
pub(crate) const FORGOTTEN_AFTER: Duration = Duration::from_millis(500);

/// Something to do.
pub(crate) enum Step {
    /// Look up all names of a directory, or only list it where they are `known`.
    /// What is below it comes first where a program has `visited` it.
    Look {
        path: LowerPath,
        visited: bool,
        known: bool,
    },
    /// Read the small files of a directory.
    Contents(LowerPath),
}

/// What was done in a directory.
#[derive(Clone, Copy, Default)]
struct Seen {
    looked: bool,
    visited: bool,
    contents: bool,
}

/// What is to be read ahead.
pub(crate) struct Plan {
    visits: VecDeque<LowerPath>,
    looks: VecDeque<LowerPath>,
    contents: VecDeque<LowerPath>,
    seen: LruCache<LowerPath, Seen>,
    /// Files begun and not read by a program yet.
    begun: LruCache<LowerPath, ()>,
    directories_allowed: usize,
    bytes_allowed: u64,
    /// The directory of the file that a program had to wait for last.
    waited_in: Option<LowerPath>,
    last_used: Instant,
}

impl Plan {
    pub(crate) fn new() -> Self {
        Self {
            visits: VecDeque::new(),
            looks: VecDeque::new(),
            contents: VecDeque::new(),
            seen: LruCache::new(REMEMBERED_MAX),
            begun: LruCache::new(REMEMBERED_MAX),
            directories_allowed: 0,
            bytes_allowed: 0,
            waited_in: None,
            last_used: Instant::now(),
        }
    }

    /// The next step; none until a program does something.
    pub(crate) fn next(&mut self) -> Option<Step> {
        if self.bytes_allowed > 0
            && let Some(path) = self.contents.pop_front()
        {
            return Some(Step::Contents(path));
        }
        if let Some(path) = self.visits.pop_front() {
            let seen = self.seen.get_or_insert_mut(path.clone(), Seen::default);
            seen.visited = true;
            let known = std::mem::replace(&mut seen.looked, true);
            let visited = true;
            return Some(Step::Look {
                path,
                visited,
                known,
            });
        }
        while self.directories_allowed > 0 {
            let path = self.looks.pop_front()?;
            if !self.seen.contains(&path) {
                self.directories_allowed -= 1;
                let seen = self.seen.get_or_insert_mut(path.clone(), Seen::default);
                seen.looked = true;
                let (visited, known) = (false, false);
                return Some(Step::Look {
                    path,
                    visited,
                    known,
                });
            }
        }
        None
    }

    /// A program looks into a directory; `cold` where its names are not in the
    /// kernel's caches. Gives whether there is something to do now, as the others.
    pub(crate) fn entered(&mut self, path: &LowerPath, cold: bool) -> bool {
        let seen = self.seen.get_mut(path);
        let ahead = seen.as_ref().is_some_and(|seen| !seen.visited);
        if !cold && !ahead {
            return false;
        }
        self.used();
        let seen = self.seen.get_or_insert_mut(path.clone(), Seen::default);
        seen.visited = true;
        seen.looked &= !cold;
        self.directories_allowed =
            (self.directories_allowed + DIRECTORIES_A_VISIT).min(DIRECTORIES_MAX);
        if self.visits.len() < WAITING_MAX {
            self.visits.push_back(path.clone());
        }
        true
    }

    /// The names of a directory have been looked up, `below` are its directories.
    pub(crate) fn looked(&mut self, path: &LowerPath, below: Vec<LowerPath>, visited: bool) {
        for path in below.into_iter().rev() {
            if self.looks.len() >= WAITING_MAX {
                self.looks.pop_back();
            }
            if visited {
                self.looks.push_front(path);
            } else {
                self.looks.push_back(path);
            }
        }
        self.plan_contents(path, visited);
    }

    /// A program begins to read a file; `cold` where it has to wait.
    pub(crate) fn read_first(&mut self, path: &LowerPath, cold: bool) -> bool {
        let ahead = !self.begun.is_empty() && self.begun.pop(path).is_some();
        if !cold && !ahead {
            return false;
        }
        self.used();
        let dir = path.split().map(|(dir, _)| dir);
        let goes_on = ahead || self.bytes_allowed > 0 || self.waited_in == dir;
        if cold {
            self.waited_in.clone_from(&dir);
        }
        if !goes_on {
            return false;
        }
        self.bytes_allowed = (self.bytes_allowed + BYTES_A_FILE).min(BYTES_MAX);
        if let Some(dir) = dir {
            self.plan_contents(&dir, true);
        }
        true
    }

    fn plan_contents(&mut self, dir: &LowerPath, first: bool) {
        let seen = self.seen.get_or_insert_mut(dir.clone(), Seen::default);
        if std::mem::replace(&mut seen.contents, true) || self.contents.len() >= WAITING_MAX {
            return;
        }
        if first {
            self.contents.push_front(dir.clone());
        } else {
            self.contents.push_back(dir.clone());
        }
    }

    /// A file of `bytes` is being read.
    pub(crate) fn began(&mut self, path: LowerPath, bytes: u64) {
        self.begun.put(path, ());
        self.bytes_allowed = self.bytes_allowed.saturating_sub(bytes);
    }

    /// The files that wait to be read by a program.
    #[cfg(test)]
    pub(crate) fn begun(&self) -> Vec<LowerPath> {
        self.begun.iter().map(|(path, ())| path.clone()).collect()
    }

    fn used(&mut self) {
        self.forget();
        self.last_used = Instant::now();
    }

    /// Begins anew where nothing was used for [`FORGOTTEN_AFTER`]. Gives what is forgotten,
    /// which may be much.
    pub(crate) fn forget(&mut self) -> Option<Self> {
        let is_old = self.last_used.elapsed() > FORGOTTEN_AFTER;
        is_old.then(|| std::mem::replace(self, Self::new()))
    }

    /// Whether there is nothing to forget.
    pub(crate) fn is_empty(&self) -> bool {
        self.seen.is_empty() && self.begun.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> LowerPath {
        LowerPath::parse(text.as_bytes()).unwrap()
    }

    fn looks(plan: &mut Plan) -> usize {
        std::iter::from_fn(|| plan.next())
            .filter(|step| matches!(step, Step::Look { .. }))
            .count()
    }

    #[test]
    fn a_visit_allows_a_few_directories_and_their_use_more() {
        let mut plan = Plan::new();
        assert!(!plan.entered(&path("d"), false));
        assert!(plan.entered(&path("d"), true));
        let below: Vec<_> = (0..100).map(|i| path(&format!("d/{i}"))).collect();
        plan.looked(&path("d"), below, true);
        assert_eq!(looks(&mut plan), 1 + DIRECTORIES_A_VISIT);
        // One that was looked through ahead is used: it, and as many again.
        assert!(plan.entered(&path("d/0"), false));
        assert_eq!(looks(&mut plan), 1 + DIRECTORIES_A_VISIT);
        assert!(!plan.entered(&path("d/0"), false));
        assert_eq!(looks(&mut plan), 0);
    }

    #[test]
    fn contents_are_read_after_the_second_wait_in_a_directory_and_not_beyond_use() {
        let mut plan = Plan::new();
        assert!(!plan.read_first(&path("d/a"), true));
        assert!(!plan.read_first(&path("e/a"), true));
        assert!(plan.read_first(&path("e/b"), true));
        assert!(matches!(plan.next(), Some(Step::Contents(dir)) if dir == path("e")));
        plan.began(path("e/c"), BYTES_A_FILE);
        plan.looked(&path("f"), Vec::new(), false);
        assert!(plan.next().is_none(), "nobody has read what was begun");
        assert!(plan.read_first(&path("e/c"), false));
        assert!(matches!(plan.next(), Some(Step::Contents(dir)) if dir == path("f")));
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut plan = Plan::new();
        let many: Vec<_> = (0..3 * WAITING_MAX)
            .map(|i| path(&format!("{i}")))
            .collect();
        for dir in &many {
            plan.entered(dir, true);
            plan.read_first(&dir.join(&agentfs_core::Name::new(b"x").unwrap()), true);
        }
        plan.looked(&path("d"), many, false);
        let longest = [&plan.visits, &plan.looks, &plan.contents].map(VecDeque::len);
        assert_eq!(longest.iter().max(), Some(&WAITING_MAX));
        assert!(plan.directories_allowed <= DIRECTORIES_MAX);
    }

    /// By whoever notices first, and with all that was allowed.
    #[test]
    fn after_a_pause_all_begins_anew() {
        let mut plan = Plan::new();
        let old = |plan: &mut Plan| plan.last_used -= FORGOTTEN_AFTER * 2;
        for by_itself in [true, false] {
            assert!(plan.is_empty());
            assert!(plan.entered(&path("d"), true));
            plan.looked(&path("d"), vec![path("d/0")], true);
            plan.began(path("d/a"), 1);
            assert!(!plan.is_empty() && plan.forget().is_none(), "not yet");
            old(&mut plan);
            if by_itself {
                assert_eq!(plan.forget().unwrap().begun(), [path("d/a")]);
            } else {
                assert!(!plan.read_first(&path("e/a"), true));
                assert!(plan.begun().is_empty());
            }
            assert_eq!(looks(&mut plan), 0);
        }
    }
}
