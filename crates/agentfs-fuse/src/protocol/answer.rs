//! [`Answer`]: what the kernel is told, and [`Later`], for what takes a while.

use std::sync::Arc;
use std::time::Duration;

use agentfs_core::types::FsStats;
use agentfs_core::{Attr, FileKind, Ino};

use super::memory::aligned;
use super::{Errno, HEADER_OUT_BYTES, header};
use crate::device::Device;

/// Inode numbers are never reused for another object.
const GENERATION: u64 = 0;
/// What `stat` gives as the preferred size of reads and writes, in bytes.
const BLKSIZE_BYTES: u32 = 4096;
/// `struct fuse_dirent`, without the name.
const DIRENT_BYTES: usize = 24;
/// Each entry of a listing begins at a multiple of it.
const DIRENT_ALIGN_BYTES: usize = 8;
/// `struct fuse_attr`.
const ATTR_BYTES: usize = 88;
/// `struct fuse_entry_out`.
const ENTRY_BYTES: usize = 40 + ATTR_BYTES;
/// More than any answer but a listing or the bytes of a file.
const SMALL_BYTES: usize = 1024;

/// The answer to one request at a time, written where it will be sent from: what it
/// consists of begins on a page, its header before that.
pub(crate) struct Answer {
    memory: Vec<u8>,
    /// Where the header begins; the body [`HEADER_OUT_BYTES`] later.
    start: usize,
    /// Of the body, so far.
    len: usize,
}

impl Answer {
    pub(crate) fn new() -> Self {
        let (memory, body) = aligned(HEADER_OUT_BYTES, SMALL_BYTES);
        Self {
            memory,
            start: body - HEADER_OUT_BYTES,
            len: 0,
        }
    }

    /// Begins another one.
    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    /// The whole of it, for the request `unique`: the header alone where it is refused.
    pub(crate) fn finish(&mut self, unique: u64, refused: Option<Errno>) -> &[u8] {
        let error = refused.map_or(0, wire_error);
        if refused.is_some() {
            self.len = 0;
        }
        let whole = HEADER_OUT_BYTES + self.len;
        let bytes = &mut self.memory[self.start..][..whole];
        bytes[..HEADER_OUT_BYTES].copy_from_slice(&header(unique, error, whole));
        bytes
    }

    /// Room for `len` bytes from the beginning of the body on.
    fn make_room(&mut self, len: usize) {
        if self.start + HEADER_OUT_BYTES + len > self.memory.len() {
            let (mut memory, body) = aligned(HEADER_OUT_BYTES, len.next_power_of_two());
            let before = self.start + HEADER_OUT_BYTES;
            memory[body..][..self.len].copy_from_slice(&self.memory[before..][..self.len]);
            self.memory = memory;
            self.start = body - HEADER_OUT_BYTES;
        }
    }

    /// The next `len` bytes of the body.
    fn next(&mut self, len: usize) -> &mut [u8] {
        let from = self.len;
        self.make_room(from + len);
        self.len += len;
        &mut self.memory[self.start + HEADER_OUT_BYTES + from..][..len]
    }

    pub(super) fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        self.next(N).copy_from_slice(&bytes);
    }

    pub(super) fn u32s<const N: usize>(&mut self, numbers: [u32; N]) {
        for (out, number) in self.next(4 * N).chunks_exact_mut(4).zip(numbers) {
            out.copy_from_slice(&number.to_ne_bytes());
        }
    }

    fn u64s<const N: usize>(&mut self, numbers: [u64; N]) {
        for (out, number) in self.next(8 * N).chunks_exact_mut(8).zip(numbers) {
            out.copy_from_slice(&number.to_ne_bytes());
        }
    }

    /// Bytes as they are: of a link, a list.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.next(bytes.len()).copy_from_slice(bytes);
    }

    /// Up to `len` bytes of a file, put there by `read`, which says how many.
    pub(crate) fn content<E>(
        &mut self,
        len: usize,
        read: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<(), E> {
        let read = read(self.next(len))?;
        self.len = self.len - len + read.min(len);
        Ok(())
    }

    /// An entry that was found or made; the name holds for `entry_ttl`.
    pub(crate) fn entry(&mut self, attr: &Attr, attr_ttl: Duration, entry_ttl: Duration) {
        self.u64s([
            attr.ino.0,
            GENERATION,
            entry_ttl.as_secs(),
            attr_ttl.as_secs(),
        ]);
        self.u32s([entry_ttl.subsec_nanos(), attr_ttl.subsec_nanos()]);
        self.attributes(attr);
    }

    /// There is no such entry, which holds for `ttl`.
    pub(crate) fn no_entry(&mut self, ttl: Duration) {
        self.u64s([0, GENERATION, ttl.as_secs(), 0]);
        self.u32s([ttl.subsec_nanos(), 0]);
        self.put([0; ATTR_BYTES]);
    }

    /// Attributes that hold for `ttl`.
    pub(crate) fn attr(&mut self, attr: &Attr, ttl: Duration) {
        self.u64s([ttl.as_secs()]);
        self.u32s([ttl.subsec_nanos(), 0]);
        self.attributes(attr);
    }

    fn attributes(&mut self, attr: &Attr) {
        self.u64s([
            attr.ino.0,
            attr.size,
            attr.blocks,
            attr.atime.secs.cast_unsigned(),
            attr.mtime.secs.cast_unsigned(),
            attr.ctime.secs.cast_unsigned(),
        ]);
        self.u32s([
            attr.atime.nanos,
            attr.mtime.nanos,
            attr.ctime.nanos,
            attr.kind.mode_bits() | u32::from(attr.perm),
            attr.nlink,
            attr.uid,
            attr.gid,
            attr.rdev,
            BLKSIZE_BYTES,
            0,
        ]);
    }

    /// A file is open, with these `FOPEN_*`; nothing is kept for it.
    pub(crate) fn opened(&mut self, flags: u32) {
        self.u64s([0]);
        self.u32s([flags, 0]);
    }

    /// So many bytes were taken.
    pub(crate) fn written(&mut self, len: u32) {
        self.u32s([len, 0]);
    }

    /// A value or a list of so many bytes there would be.
    pub(crate) fn size(&mut self, len: u32) {
        self.u32s([len, 0]);
    }

    pub(crate) fn statistics(&mut self, stats: &FsStats) {
        let name_max = u32::try_from(agentfs_core::types::NAME_MAX_BYTES).unwrap_or(0);
        let block = stats.block_size_bytes;
        self.u64s([
            stats.blocks,
            stats.blocks_free,
            stats.blocks_available,
            stats.files,
            stats.files_free,
        ]);
        self.u32s([block, name_max, block, 0, 0, 0, 0, 0, 0, 0]);
    }

    /// A name of a listing, `cookie` being where to go on behind it; `false` where it
    /// does not fit any more into `room` bytes.
    #[must_use]
    pub(crate) fn dirent(&mut self, entry: &Dirent<'_>, room: usize) -> bool {
        if self.len + entry.len() > room {
            return false;
        }
        let name_len = u32::try_from(entry.name.len()).unwrap_or(u32::MAX);
        self.u64s([entry.ino.0, entry.cookie]);
        self.u32s([name_len, entry.kind.mode_bits() >> 12]);
        let padded = self.next(entry.len() - DIRENT_BYTES);
        let (name, padding) = padded.split_at_mut(entry.name.len());
        name.copy_from_slice(entry.name);
        padding.fill(0);
        true
    }

    /// The same with attributes, as of a LOOKUP, and how long they and the entry hold;
    /// `None` for `.` and `..`, which the kernel does not look up.
    #[must_use]
    pub(crate) fn dirent_plus(
        &mut self,
        entry: &Dirent<'_>,
        attr: Option<(&Attr, Duration, Duration)>,
        room: usize,
    ) -> bool {
        if self.len + ENTRY_BYTES + entry.len() > room {
            return false;
        }
        match attr {
            Some((attr, attr_ttl, entry_ttl)) => self.entry(attr, attr_ttl, entry_ttl),
            None => self.no_entry(Duration::ZERO),
        }
        self.dirent(entry, room)
    }
}

/// An entry of a listing.
pub(crate) struct Dirent<'a> {
    pub(crate) ino: Ino,
    pub(crate) cookie: u64,
    pub(crate) kind: FileKind,
    pub(crate) name: &'a [u8],
}

impl Dirent<'_> {
    fn len(&self) -> usize {
        (DIRENT_BYTES + self.name.len()).next_multiple_of(DIRENT_ALIGN_BYTES)
    }
}

/// How a refusal stands in a header.
fn wire_error(refused: Errno) -> i32 {
    -refused.raw_os_error()
}

/// An answer that is given when something else is done, from whichever thread. One that
/// is dropped is EIO: a program must not wait for ever.
pub(crate) struct Later {
    device: Arc<Device>,
    unique: u64,
    given: bool,
}

impl Later {
    pub(crate) fn new(device: &Arc<Device>, unique: u64) -> Self {
        Self {
            device: Arc::clone(device),
            unique,
            given: false,
        }
    }

    /// Done, with nothing to tell.
    pub(crate) fn empty(self, result: Result<(), Errno>) {
        self.give(result.map(|()| [0; 0]));
    }

    /// A place in a file.
    pub(crate) fn offset(self, result: Result<u64, Errno>) {
        self.give(result.map(u64::to_ne_bytes));
    }

    fn give<const N: usize>(mut self, body: Result<[u8; N], Errno>) {
        self.given = true;
        let (error, body) = match &body {
            Ok(body) => (0, body.as_slice()),
            Err(refused) => (wire_error(*refused), &[][..]),
        };
        let whole = HEADER_OUT_BYTES + body.len();
        self.device
            .answer(&[&header(self.unique, error, whole), body].concat());
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        if !self.given {
            let refusal = header(self.unique, wire_error(Errno::IO), HEADER_OUT_BYTES);
            self.device.answer(&refusal);
        }
    }
}

#[cfg(test)]
mod tests {
    use agentfs_core::Timestamp;

    use super::super::PAGE_BYTES;
    use super::*;

    fn attr() -> Attr {
        let time = Timestamp::new(-1, 999_999_999);
        Attr {
            ino: Ino(5),
            kind: FileKind::Regular,
            perm: 0o4750,
            nlink: 2,
            uid: 1000,
            gid: 100,
            rdev: 0,
            size: 10,
            blocks: 8,
            atime: time,
            mtime: time,
            ctime: time,
        }
    }

    fn body(answer: &mut Answer) -> Vec<u8> {
        answer.finish(1, None)[HEADER_OUT_BYTES..].to_vec()
    }

    /// The sizes are those of `linux/fuse.h`: the kernel takes no other.
    #[test]
    fn answers_have_the_sizes_that_the_kernel_takes() {
        let second = Duration::from_secs(1);
        let stats = FsStats {
            block_size_bytes: 4096,
            blocks: 1,
            blocks_free: 1,
            blocks_available: 1,
            files: 1,
            files_free: 1,
        };
        let mut answer = Answer::new();
        let mut size_of = |write: &dyn Fn(&mut Answer)| {
            answer.clear();
            write(&mut answer);
            body(&mut answer).len()
        };
        assert_eq!(size_of(&|out| out.entry(&attr(), second, second)), 128);
        assert_eq!(size_of(&|out| out.no_entry(second)), 128);
        assert_eq!(size_of(&|out| out.attr(&attr(), second)), 104);
        assert_eq!(size_of(&|out| out.statistics(&stats)), 80);
        assert_eq!(size_of(&|out| out.opened(0)), 16);
        assert_eq!(size_of(&|out| out.written(1)), 8);
        assert_eq!(size_of(&|out| out.size(1)), 8);
    }

    #[test]
    fn a_time_before_the_epoch_is_given_as_it_is() {
        let mut answer = Answer::new();
        answer.attr(&attr(), Duration::ZERO);
        let body = body(&mut answer);
        assert_eq!(body[40..48], (-1_i64).to_ne_bytes());
        assert_eq!(body[64..68], 999_999_999_u32.to_ne_bytes());
        assert_eq!(body[76..80], 0o104_750_u32.to_ne_bytes());
    }

    #[test]
    fn a_refusal_has_no_body() {
        let mut answer = Answer::new();
        answer.written(1);
        let refused = answer.finish(7, Some(Errno::NOENT)).to_vec();
        assert_eq!(refused, header(7, -libc::ENOENT, HEADER_OUT_BYTES));
    }

    #[test]
    fn a_listing_ends_where_the_room_does() {
        let entry = |name| Dirent {
            ino: Ino(5),
            cookie: 9,
            kind: FileKind::Directory,
            name,
        };
        let mut answer = Answer::new();
        // 24 bytes and the name, up to a multiple of 8.
        assert!(answer.dirent(&entry(b"ten bytes!".as_slice()), 40));
        assert!(!answer.dirent(&entry(b"x".as_slice()), 71));
        assert!(answer.dirent(&entry(b"x".as_slice()), 72));
        let listed = body(&mut answer);
        assert_eq!(listed.len(), 72);
        assert_eq!(listed[20..24], (libc::S_IFDIR >> 12).to_ne_bytes());
        assert_eq!(listed[24..40], *b"ten bytes!\0\0\0\0\0\0");
        answer.clear();
        let plus = Some((&attr(), Duration::ZERO, Duration::ZERO));
        assert!(!answer.dirent_plus(&entry(b"x".as_slice()), plus, 159));
        assert!(answer.dirent_plus(&entry(b"x".as_slice()), None, 160));
        assert_eq!(body(&mut answer)[..8], [0; 8], "nothing is looked up");
    }

    #[test]
    fn what_is_large_begins_on_a_page_and_keeps_what_there_was() {
        let mut answer = Answer::new();
        answer.bytes(b"before");
        let fill = |bytes: &mut [u8]| {
            bytes.fill(7);
            Ok::<_, ()>(bytes.len() - 1)
        };
        answer.content(1 << 20, fill).unwrap();
        let whole = answer.finish(1, None);
        assert_eq!(whole[HEADER_OUT_BYTES..].as_ptr().addr() % PAGE_BYTES, 0);
        assert_eq!(whole.len(), HEADER_OUT_BYTES + 6 + (1 << 20) - 1);
        assert!(whole[HEADER_OUT_BYTES..].starts_with(b"before\x07"));
    }
}
