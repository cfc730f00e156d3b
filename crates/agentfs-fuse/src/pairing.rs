//! [`Pairing`]: keeps a program and the thread that answers it on one processor.
//!
//! A request wakes the server, its answer wakes the program. While another
//! processor idles, the scheduler puts the two on one each, and most of a
//! request's time goes into waking a processor: measured in a virtual machine
//! with two, 18 µs a request against 6 µs. So, during a burst of requests by one
//! program or two, a thread of the lowest priority occupies the other processor, one
//! answering thread is kept on the program's own, and the others stand by: of
//! several that wait the kernel wakes the one that waited longest, wherever it is.
//! What else the server has to do is kept on the other: left to itself the scheduler,
//! which sees two busy processors, lets it compete with the pair. After a rest a single
//! request begins a burst: those that follow it, and the disk's answers, would wait for
//! processors that sleep deeply.
//!
//! Only on machines with exactly two processors: with more, more than one would
//! have to be occupied. Must never hold up a request, touch a program's own
//! affinity, or use a processor while nothing is asked.

mod asked;

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::fs::{Mode, OFlags, openat};
use rustix::thread::{CpuSet, Pid, gettid, sched_getaffinity, sched_setaffinity};

use asked::{Asked, Askers, Look};

/// The lowest priority: anything else that wants the processor gets it.
const COMPANION_NICE: i32 = 19;
/// This many requests in [`BURST_WITHIN`] begin a burst.
const BURST_REQUESTS: u64 = 8;
const BURST_WITHIN: Duration = Duration::from_millis(2);
/// A burst is over when nothing was asked for so long: longer than a sync takes.
const QUIET: Duration = Duration::from_millis(3);
/// How often it is seen where the program runs.
const LOOK_EVERY: Duration = Duration::from_micros(300);
/// For so long nothing is paired after [`Outcome::Several`].
const APART: Duration = Duration::from_millis(5);
/// Who moves so many bytes in one request is longer at copying them than at waking,
/// and both sides copy at once on a processor each.
const BULK_BYTES: usize = 64 * 1024;
/// With nothing asked for so long, processors and disk have gone to sleep.
const RESTED_AFTER: Duration = Duration::from_millis(100);
/// Rounds of the idle loop before another thread may have the processor: a few microseconds.
const IDLE_ROUNDS: usize = 64;
/// As often it does so between two looks at who asked: what is looked at has to be fetched
/// from this processor with the next request.
const YIELDS_PER_LOOK: usize = 16;

thread_local! {
    static OWN_TID: Cell<u32> = const { Cell::new(0) };
}

/// A thread that answers the requests of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answering {
    mount: u32,
    tid: u32,
}

impl Answering {
    fn own(mount: u32) -> Self {
        Self {
            mount,
            tid: own_tid(),
        }
    }

    fn pack(self) -> u64 {
        u64::from(self.mount) << 32 | u64::from(self.tid)
    }

    fn unpack(packed: u64) -> Self {
        let low = packed & u64::from(u32::MAX);
        Self {
            mount: u32::try_from(packed >> 32).unwrap_or(0),
            tid: u32::try_from(low).unwrap_or(0),
        }
    }

    fn pid(self) -> Option<Pid> {
        i32::try_from(self.tid).ok().and_then(Pid::from_raw)
    }
}

/// What the answering threads and the companion share.
#[derive(Debug)]
struct Shared {
    asked: Asked,
    mounts: AtomicU32,
    /// The answering thread that is paired, as one number, while the others of its
    /// mount stand by; 0: none. Set with `standing_by` held.
    paired: AtomicU64,
    standing_by: Mutex<()>,
    parted: Condvar,
    active: AtomicBool,
    /// Nothing was asked for [`RESTED_AFTER`]: the next request begins a burst by itself.
    rested: AtomicBool,
    ended: AtomicBool,
    began: Instant,
    last_stride_nanos: AtomicU64,
    processes: OnceLock<OwnedFd>,
    workers: Mutex<Vec<Pid>>,
}

/// One for all mounts that a process serves. Ends its thread when dropped.
#[derive(Debug)]
pub struct Pairing {
    shared: Arc<Shared>,
    companion: Option<JoinHandle<()>>,
}

impl Pairing {
    /// `None` where the calling thread may not run on exactly two processors, or
    /// not all the time (a control group's quota), or no thread can be had:
    /// everything works without.
    #[must_use]
    pub fn start() -> Option<Arc<Self>> {
        two_processors()?;
        if std::thread::available_parallelism().ok()?.get() != 2 {
            return None;
        }
        let shared = Arc::new(Shared {
            asked: Asked::default(),
            mounts: AtomicU32::new(0),
            paired: AtomicU64::new(0),
            standing_by: Mutex::new(()),
            parted: Condvar::new(),
            active: AtomicBool::new(false),
            rested: AtomicBool::new(true),
            ended: AtomicBool::new(false),
            began: Instant::now(),
            last_stride_nanos: AtomicU64::new(0),
            processes: OnceLock::new(),
            workers: Mutex::new(Vec::new()),
        });
        let told = Arc::clone(&shared);
        let companion = std::thread::Builder::new()
            .name("fuse-companion".into())
            .spawn(move || accompany(&told))
            .ok()?;
        Some(Arc::new(Self {
            shared,
            companion: Some(companion),
        }))
    }

    /// Gives the `/proc` whose process numbers are those in requests: that of
    /// the namespace the file system was mounted in. Before, the companion only
    /// keeps the other processor awake.
    pub fn set_processes(&self, proc: OwnedFd) {
        let _ = self.shared.processes.set(proc);
    }

    /// Names a thread of this process that works beside those that answer: during
    /// a burst it is kept on the other processor. `worker` is what gettid(2) gives; it
    /// must live as long as this.
    pub fn add_worker(&self, worker: i32) {
        self.shared.workers.lock().extend(Pid::from_raw(worker));
    }

    /// A number for one more mount.
    pub(crate) fn add_mount(&self) -> u32 {
        self.shared.mounts.fetch_add(1, Ordering::Relaxed)
    }

    /// A request of the thread `client` to `mount` is about to be answered by the
    /// calling thread, and is about `len` bytes of a file. Client 0: nobody's, or
    /// somebody's who cannot be seen.
    pub(crate) fn requested(&self, mount: u32, client: u32, len: usize) {
        if len >= BULK_BYTES {
            return;
        }
        let shared = &*self.shared;
        let count = shared.asked.note(client, Answering::own(mount).pack());
        if shared.rested.load(Ordering::Relaxed) {
            shared.rested.store(false, Ordering::Relaxed);
            self.begin_burst();
        } else if count.is_multiple_of(BURST_REQUESTS) && !shared.active.load(Ordering::Relaxed) {
            let now = u64::try_from(shared.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let before = shared.last_stride_nanos.swap(now, Ordering::Relaxed);
            if Duration::from_nanos(now.saturating_sub(before)) < BURST_WITHIN {
                self.begin_burst();
            }
        }
    }

    fn begin_burst(&self) {
        self.shared.active.store(true, Ordering::Release);
        if let Some(companion) = &self.companion {
            companion.thread().unpark();
        }
    }

    /// The calling thread has answered. Stands by while another one is paired:
    /// returns when it shall wait for requests again.
    pub(crate) fn answered(&self, mount: u32) {
        let shared = &*self.shared;
        let own = Answering::own(mount);
        let stands_by = || {
            let paired = Answering::unpack(shared.paired.load(Ordering::Acquire));
            paired.pid().is_some() && paired.mount == mount && paired != own
        };
        if stands_by() {
            let mut standing_by = shared.standing_by.lock();
            while stands_by() {
                shared.parted.wait(&mut standing_by);
            }
        }
    }
}

impl Drop for Pairing {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        if let Some(companion) = self.companion.take() {
            companion.thread().unpark();
            let _ = companion.join();
        }
    }
}

fn own_tid() -> u32 {
    OWN_TID.with(|tid| {
        if tid.get() == 0 {
            tid.set(gettid().as_raw_nonzero().get().unsigned_abs());
        }
        tid.get()
    })
}

/// The two processors that the calling thread may use.
fn two_processors() -> Option<[usize; 2]> {
    let set = sched_getaffinity(None).ok()?;
    if set.count() != 2 {
        return None;
    }
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu));
    Some([cpus.next()?, cpus.next()?])
}

/// The life of the companion: sleeps, and spins while a burst lasts.
fn accompany(shared: &Shared) {
    if rustix::process::setpriority_process(None, COMPANION_NICE).is_err() {
        return;
    }
    while !shared.ended.load(Ordering::Acquire) {
        if !shared.active.load(Ordering::Acquire) {
            rest(shared);
            continue;
        }
        if let Some(cpus) = two_processors() {
            let mut placement = Placement {
                shared,
                cpus,
                now: None,
            };
            let outcome = spin(shared, &mut placement);
            drop(placement);
            if outcome == Outcome::Several {
                std::thread::park_timeout(APART);
            }
        }
        shared.active.store(false, Ordering::Release);
    }
}

/// Sleeps until something may have happened.
fn rest(shared: &Shared) {
    if shared.rested.load(Ordering::Relaxed) {
        std::thread::park();
        return;
    }
    let (before, since) = (shared.asked.requests(), Instant::now());
    std::thread::park_timeout(RESTED_AFTER);
    // It may have been woken, or not have slept: a burst that was begun earlier counts.
    let has_slept = since.elapsed() >= RESTED_AFTER;
    if has_slept && shared.asked.requests() == before {
        shared.rested.store(true, Ordering::Relaxed);
    }
}

/// Until the burst is over, or programs are in it that need both processors.
fn spin(shared: &Shared, placement: &mut Placement<'_>) -> Outcome {
    let mut requests = shared.asked.requests();
    let mut last_request = Instant::now();
    let mut looked: Option<Look> = None;
    while !shared.ended.load(Ordering::Relaxed) {
        for _ in 0..YIELDS_PER_LOOK {
            for _ in 0..IDLE_ROUNDS {
                std::hint::spin_loop();
            }
            // The scheduler lets even the lowest priority finish its slice, which
            // whoever has come here in the meantime need not wait for.
            std::thread::yield_now();
        }
        let count = shared.asked.requests();
        if count == requests {
            if last_request.elapsed() > QUIET {
                return Outcome::Quiet;
            }
            continue;
        }
        (requests, last_request) = (count, Instant::now());
        if looked.is_some_and(|look| last_request - look.at < LOOK_EVERY) {
            continue;
        }
        let now = shared.asked.look(last_request);
        let askers = looked
            .replace(now)
            .map_or(Askers::One, |then| now.askers_since(&then));
        match askers {
            Askers::More => return Outcome::Several,
            // They come to the processor where they are answered.
            Askers::Two if placement.now.is_some() => {}
            Askers::One | Askers::Two => placement.follow_client(),
        }
    }
    Outcome::Quiet
}

/// Why the companion stopped.
#[derive(PartialEq, Eq)]
enum Outcome {
    Quiet,
    /// Programs ask at once that need both processors.
    Several,
}

/// Where the answering thread and the companion have been put, until dropped.
struct Placement<'a> {
    shared: &'a Shared,
    cpus: [usize; 2],
    /// The answering thread and its processor.
    now: Option<(Answering, usize)>,
}

impl Placement<'_> {
    /// Puts the thread that answered last where the program runs.
    fn follow_client(&mut self) {
        let client = self.shared.asked.client();
        let proc = self.shared.processes.get();
        match proc.and_then(|proc| processor_of(proc, client).ok().flatten()) {
            Some(cpu) => {
                let server = self.shared.asked.server();
                self.pair(Answering::unpack(server), cpu);
            }
            None => self.undo(),
        }
    }

    fn pair(&mut self, server: Answering, cpu: usize) {
        if self.now == Some((server, cpu)) {
            return;
        }
        self.undo();
        let other = match self.cpus {
            [a, b] if a == cpu => b,
            [a, b] if b == cpu => a,
            _ => return,
        };
        // A thread that has just ended needs no place.
        let _ = sched_setaffinity(server.pid(), &set_of(&[cpu]));
        self.place_the_others(&[other]);
        self.now = Some((server, cpu));
        self.set_paired(server.pack());
    }

    fn undo(&mut self) {
        if let Some((server, _)) = self.now.take() {
            let _ = sched_setaffinity(server.pid(), &set_of(&self.cpus));
            self.place_the_others(&self.cpus);
            self.set_paired(0);
            self.shared.parted.notify_all();
        }
    }

    /// The companion and the workers.
    fn place_the_others(&self, cpus: &[usize]) {
        let _ = sched_setaffinity(None, &set_of(cpus));
        for worker in &*self.shared.workers.lock() {
            let _ = sched_setaffinity(Some(*worker), &set_of(cpus));
        }
    }

    fn set_paired(&self, paired: u64) {
        let _standing_by = self.shared.standing_by.lock();
        self.shared.paired.store(paired, Ordering::Release);
    }
}

impl Drop for Placement<'_> {
    fn drop(&mut self) {
        self.undo();
    }
}

fn set_of(cpus: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|&cpu| set.set(cpu));
    set
}

/// The processor that a thread last ran on; none for one that has gone.
fn processor_of(proc: &OwnedFd, thread: u32) -> io::Result<Option<usize>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let stat = openat(proc, format!("{thread}/stat"), flags, Mode::empty())?;
    let mut text = [0; 1024];
    let len = rustix::io::read(stat, &mut text)?;
    Ok(parse_processor(&text[..len]))
}

/// The 39th field of `/proc/PID/stat` (proc(5)). The second is the program's
/// name in parentheses, which may itself hold spaces and parentheses.
fn parse_processor(stat: &[u8]) -> Option<usize> {
    const FIELD: usize = 39;
    const NAME_FIELD: usize = 2;
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let mut fields = stat[end + 1..].split(u8::is_ascii_whitespace);
    let text = fields.nth(FIELD - NAME_FIELD)?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proc() -> OwnedFd {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open("/proc", flags, Mode::empty()).unwrap()
    }

    #[test]
    fn a_name_may_look_like_fields() {
        let rest = (3..=52).map(|n| n.to_string()).collect::<Vec<_>>();
        let line = format!("7 (a) 9 (b c)) {}\n", rest.join(" "));
        assert_eq!(parse_processor(line.as_bytes()), Some(39));
        assert_eq!(parse_processor(b"7 (a) R 1"), None);
        assert_eq!(parse_processor(b""), None);
    }

    #[test]
    fn the_own_processor_is_found_and_a_stranger_is_not() {
        let cpu = processor_of(&proc(), own_tid()).unwrap().unwrap();
        assert!(sched_getaffinity(None).unwrap().is_set(cpu));
        assert!(processor_of(&proc(), 0).is_err());
    }

    /// A burst moves the answering thread to its program and the worker away from it,
    /// and the end of the burst gives all back what they had.
    #[test]
    fn affinities_come_back_after_a_burst() {
        let before = sched_getaffinity(None).unwrap();
        let Some(pairing) = Pairing::start() else {
            return; // More processors, or one.
        };
        pairing.set_processes(proc());
        let mount = pairing.add_mount();
        let until = Instant::now() + Duration::from_secs(20);
        let (named, name) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let worker = std::thread::spawn(move || {
            named.send(gettid()).unwrap();
            let _ = ended.recv();
        });
        let worker_id = name.recv().unwrap();
        pairing.add_worker(worker_id.as_raw_pid());
        let affinity = |thread| sched_getaffinity(thread).unwrap();
        // This thread is both, and is therefore kept where it is. Looked at once: without
        // requests, as while another test has the processor, the burst ends.
        let (own, of_worker) = loop {
            pairing.requested(mount, own_tid(), 0);
            pairing.answered(mount);
            let now = (affinity(None), affinity(Some(worker_id)));
            if now.0.count() == 1 && now.1.count() == 1 {
                break now;
            }
            assert!(Instant::now() < until, "never paired");
        };
        assert_ne!(own, of_worker);
        while affinity(None) != before || affinity(Some(worker_id)) != before {
            std::thread::sleep(Duration::from_millis(1));
            assert!(Instant::now() < until, "still pinned");
        }
        drop(end);
        worker.join().unwrap();
    }

    /// Whoever reads a large file does not ask for a pair.
    #[test]
    fn many_bytes_begin_no_burst() {
        let Some(pairing) = Pairing::start() else {
            return;
        };
        let mount = pairing.add_mount();
        for _ in 0..1_000 {
            pairing.requested(mount, own_tid(), BULK_BYTES);
            assert!(!pairing.shared.active.load(Ordering::Relaxed));
        }
        let until = Instant::now() + Duration::from_secs(20);
        while !pairing.shared.active.load(Ordering::Relaxed) {
            pairing.requested(mount, own_tid(), BULK_BYTES - 1);
            assert!(Instant::now() < until, "small ones do");
        }
    }

    /// One request alone, where there was a rest before; what follows it soon does not.
    #[test]
    fn the_first_request_after_a_rest_begins_a_burst() {
        let Some(pairing) = Pairing::start() else {
            return;
        };
        let mount = pairing.add_mount();
        let until = Instant::now() + Duration::from_secs(20);
        let wait_for = |what: &dyn Fn(&Shared) -> bool| {
            while !what(&pairing.shared) {
                std::thread::sleep(Duration::from_millis(1));
                assert!(Instant::now() < until);
            }
        };
        let is_active = |shared: &Shared| shared.active.load(Ordering::Relaxed);
        let is_rested = |shared: &Shared| shared.rested.load(Ordering::Relaxed);
        for _ in 0..2 {
            assert!(is_rested(&pairing.shared));
            let asked_at = Instant::now();
            pairing.requested(mount, own_tid(), 0);
            let began = is_active(&pairing.shared);
            assert!(began || asked_at.elapsed() > QUIET);
            wait_for(&|shared| !is_active(shared));

            let asked_at = Instant::now();
            pairing.requested(mount, own_tid(), 0);
            let began = is_active(&pairing.shared);
            assert!(!began || asked_at.elapsed() > RESTED_AFTER, "no rest");
            wait_for(&is_rested);
        }
    }

    /// While one thread is paired another of its mount stands by, one of another
    /// mount does not, and the end of the burst ends that.
    #[test]
    fn others_of_the_mount_stand_by_until_the_burst_is_over() {
        let Some(pairing) = Pairing::start() else {
            return;
        };
        pairing.set_processes(proc());
        let (mount, another) = (pairing.add_mount(), pairing.add_mount());
        let client = own_tid();
        let (sender, answered) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let pairing = &pairing;
            let until = Instant::now() + Duration::from_secs(20);
            while pairing.shared.paired.load(Ordering::Acquire) == 0 {
                pairing.requested(mount, client, 0);
                assert!(Instant::now() < until, "never paired");
            }
            scope.spawn(move || {
                pairing.answered(another);
                sender.send(another).unwrap();
                pairing.answered(mount);
                sender.send(mount).unwrap();
            });
            let first = loop {
                pairing.requested(mount, client, 0);
                match answered.try_recv() {
                    Ok(number) => break number,
                    Err(_) => assert!(Instant::now() < until),
                }
            };
            assert_eq!(first, another);
            assert_eq!(answered.recv().unwrap(), mount);
        });
        assert!(pairing.shared.paired.load(Ordering::Acquire) == 0);
    }
}
