//! A disk that remembers: a small file system in memory, one directory, that
//! records every write and every sync in order, and that can be told to fail.
//!
//! From the record follows what a power failure at any moment may leave
//! ([`crate::power`]). It is a real mount and not a VFS of SQLite's, because
//! agentfs syncs the `-wal` past SQLite; so whoever uses the disk, and however,
//! is seen. What is mapped (the `-shm`) is recorded when the kernel writes it.
//! What the process that uses the disk has to say of itself it writes to the file
//! [`MARKS`], so that it is recorded in order too.
//!
//! Must never be used by the process that serves it: killed in a request to itself,
//! that would stay for ever.

mod event;

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite, Request, SessionACL, TimeOrNow, WriteFlags,
};

pub use event::{Event, MARKS, Mark};

/// Nobody changes the disk but through its one mount.
const FOREVER: Duration = Duration::from_secs(1 << 20);

/// A mounted disk; unmounted when dropped.
pub struct Disk {
    state: Arc<Mutex<State>>,
    session: Option<BackgroundSession>,
    place: PathBuf,
}

#[derive(Default)]
struct State {
    names: BTreeMap<OsString, u64>,
    files: HashMap<u64, File>,
    owner: (u32, u32),
    last: u64,
    /// The file [`MARKS`].
    marks: Option<u64>,
    /// `None`: nothing is recorded.
    record: Option<Vec<Event>>,
    /// What changing and syncing fails with.
    fault: Option<i32>,
    /// The next sync of a file loses what it was to write.
    losing: bool,
}

#[derive(Clone)]
struct File {
    data: Vec<u8>,
    perm: u16,
    names: u32,
    changed: SystemTime,
}

impl Disk {
    /// An empty disk on the directory `place`, which everybody may use and which
    /// belongs to `owner` (user, group). Needs root.
    ///
    /// # Panics
    /// When it cannot be mounted.
    #[must_use]
    pub fn mount(place: &Path, owner: (u32, u32)) -> Self {
        let state = Arc::new(Mutex::new(State {
            owner,
            last: INodeNo::ROOT.0,
            ..State::default()
        }));
        let mut config = Config::default();
        config.acl = SessionACL::All;
        config.mount_options = vec![MountOption::FSName("disk".into())];
        // One thread: the record is in the order in which things happened.
        config.n_threads = Some(1);
        let session = fuser::spawn_mount(Served(Arc::clone(&state)), place, &config)
            .unwrap_or_else(|e| panic!("{}: {e}", place.display()));
        Self {
            state,
            session: Some(session),
            place: place.to_owned(),
        }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Begins a new record.
    pub fn begin_record(&self) {
        lock(&self.state).record = Some(Vec::new());
    }

    /// How many events there are so far.
    #[must_use]
    pub fn recorded(&self) -> usize {
        lock(&self.state).record.as_ref().map_or(0, Vec::len)
    }

    /// Ends the record.
    #[must_use]
    pub fn end_record(&self) -> Vec<Event> {
        lock(&self.state).record.take().unwrap_or_default()
    }

    /// From now on everything that changes or syncs anything fails with this errno;
    /// `None`: no more. Reading goes on.
    pub fn fail(&self, errno: Option<i32>) {
        lock(&self.state).fault = errno;
    }

    /// The next sync of a file fails with EIO, and what it was to write is lost: it can
    /// be read, as long as it is in the cache, and later syncs succeed without it. That
    /// is what Linux does when a disk refuses a write.
    pub fn lose_next_sync(&self) {
        lock(&self.state).losing = true;
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever still uses it (a test that failed) keeps it until they end.
        let flags = rustix::mount::UnmountFlags::DETACH;
        let _ = rustix::mount::unmount(&self.place, flags);
        drop(self.session.take());
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn note(&mut self, event: Event) {
        if let Some(record) = &mut self.record {
            record.push(event);
        }
    }

    fn fault(&self) -> Result<(), Errno> {
        self.fault
            .map_or(Ok(()), |errno| Err(Errno::from_i32(errno)))
    }

    fn attr(&self, ino: INodeNo) -> Result<FileAttr, Errno> {
        let (uid, gid) = self.owner;
        let mut attr = FileAttr {
            ino,
            size: 0,
            blocks: 0,
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
            crtime: SystemTime::UNIX_EPOCH,
            kind: FileType::Directory,
            perm: 0o700,
            nlink: 2,
            uid,
            gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        if ino == INodeNo::ROOT {
            return Ok(attr);
        }
        let file = self.files.get(&ino.0).ok_or(Errno::ENOENT)?;
        attr.kind = FileType::RegularFile;
        attr.size = file.data.len() as u64;
        attr.blocks = attr.size.div_ceil(512);
        (attr.perm, attr.nlink) = (file.perm, file.names);
        (attr.mtime, attr.ctime) = (file.changed, file.changed);
        Ok(attr)
    }

    fn create(&mut self, name: &OsStr, mode: u32) -> Result<FileAttr, Errno> {
        self.fault()?;
        self.last += 1;
        let number = self.last;
        let file = File {
            data: Vec::new(),
            perm: u16::try_from(mode & 0o7777).unwrap_or(0o600),
            names: 1,
            changed: SystemTime::now(),
        };
        self.files.insert(number, file);
        self.names.insert(name.to_owned(), number);
        if name == MARKS {
            self.marks = Some(number);
        } else {
            self.note(Event::Create {
                name: name.to_owned(),
                file: number,
            });
        }
        self.attr(INodeNo(number))
    }

    fn unlink(&mut self, name: &OsStr) -> Result<(), Errno> {
        self.fault()?;
        let number = self.names.remove(name).ok_or(Errno::ENOENT)?;
        // It lives on for whoever has it open; what it holds is not given back.
        if let Some(file) = self.files.get_mut(&number) {
            file.names = 0;
        }
        self.note(Event::Unlink {
            name: name.to_owned(),
        });
        Ok(())
    }

    fn rename(&mut self, from: &OsStr, to: &OsStr, flags: RenameFlags) -> Result<(), Errno> {
        self.fault()?;
        let there = self.names.get(to).copied();
        if flags.contains(RenameFlags::RENAME_EXCHANGE) {
            return Err(Errno::EINVAL);
        }
        if flags.contains(RenameFlags::RENAME_NOREPLACE) && there.is_some() {
            return Err(Errno::EEXIST);
        }
        let number = self.names.remove(from).ok_or(Errno::ENOENT)?;
        if let Some(file) = there.and_then(|there| self.files.get_mut(&there)) {
            file.names = 0;
        }
        self.names.insert(to.to_owned(), number);
        self.note(Event::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
        });
        Ok(())
    }

    fn write(&mut self, number: u64, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.fault()?;
        if self.marks == Some(number) {
            let mark = Mark::parse(data).ok_or(Errno::EINVAL)?;
            self.note(Event::Mark(mark));
            return Ok(());
        }
        let file = self.files.get_mut(&number).ok_or(Errno::ENOENT)?;
        put(&mut file.data, offset, data);
        file.changed = SystemTime::now();
        self.note(Event::Write {
            file: number,
            offset,
            data: data.to_vec(),
        });
        Ok(())
    }

    fn resize(&mut self, number: u64, size: u64) -> Result<(), Errno> {
        self.fault()?;
        let file = self.files.get_mut(&number).ok_or(Errno::ENOENT)?;
        file.data.resize(index(size), 0);
        file.changed = SystemTime::now();
        self.note(Event::Resize { file: number, size });
        Ok(())
    }

    fn sync(&mut self, event: Event) -> Result<(), Errno> {
        self.fault()?;
        if let Event::Sync { file } = event
            && std::mem::take(&mut self.losing)
        {
            self.note(Event::Lost { file });
            return Err(Errno::EIO);
        }
        self.note(event);
        Ok(())
    }
}

/// Puts bytes into a file, which grows as needed.
pub(crate) fn put(file: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let from = index(offset);
    let to = from + data.len();
    if file.len() < to {
        file.resize(to, 0);
    }
    file[from..to].copy_from_slice(data);
}

pub(crate) fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("a file of a test fits in memory")
}

/// What the kernel talks to.
struct Served(Arc<Mutex<State>>);

impl Served {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let state = self.state();
        let found = state.names.get(name).ok_or(Errno::ENOENT);
        match found.and_then(|number| state.attr(INodeNo(*number))) {
            Ok(attr) => reply.entry(&FOREVER, &attr, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.state().attr(ino) {
            Ok(attr) => reply.attr(&FOREVER, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.state();
        let resized = size.map_or(Ok(()), |size| state.resize(ino.0, size));
        if let (Some(mode), Some(file)) = (mode, state.files.get_mut(&ino.0)) {
            file.perm = u16::try_from(mode & 0o7777).unwrap_or(file.perm);
        }
        match resized.and_then(|()| state.attr(ino)) {
            Ok(attr) => reply.attr(&FOREVER, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        match self.state().create(name, mode & !umask) {
            Ok(attr) => reply.created(
                &FOREVER,
                &attr,
                Generation(0),
                FileHandle(0),
                FopenFlags::FOPEN_KEEP_CACHE,
            ),
            Err(errno) => reply.error(errno),
        }
    }

    fn unlink(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.state().unlink(name), reply);
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        from: &OsStr,
        _: INodeNo,
        to: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        answer(self.state().rename(from, to, flags), reply);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.state().files.get(&ino.0) {
            Some(file) => {
                let from = index(offset).min(file.data.len());
                let to = (from + size as usize).min(file.data.len());
                reply.data(&file.data[from..to]);
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.state().write(ino.0, offset, data) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(self.state().sync(Event::Sync { file: ino.0 }), reply);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(self.state().sync(Event::SyncNames), reply);
    }
}

fn answer(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}
