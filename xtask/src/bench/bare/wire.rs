//! Requests and answers of the kernel's protocol (`linux/fuse.h`, version 7.31 and
//! later), as far as `bare` needs them: numbers at fixed places, in the machine's order.

use super::tree::{Node, Times};

/// What the kernel asks for.
pub(super) mod opcode {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const SYMLINK: u32 = 6;
    pub(crate) const MKNOD: u32 = 8;
    pub(crate) const MKDIR: u32 = 9;
    pub(crate) const UNLINK: u32 = 10;
    pub(crate) const RMDIR: u32 = 11;
    pub(crate) const RENAME: u32 = 12;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const FSYNC: u32 = 20;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const READDIR: u32 = 28;
    const INTERRUPT: u32 = 36;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const READDIRPLUS: u32 = 44;
    pub(crate) const RENAME2: u32 = 45;
    pub(crate) const COPY_FILE_RANGE: u32 = 47;
    /// The kernel waits for none.
    pub(crate) const WITHOUT_ANSWER: [u32; 3] = [FORGET, BATCH_FORGET, INTERRUPT];
}

/// Those that `agentfs-fuse` asks for (`FUSE_*`).
const WANTED_FLAGS: u32 = 1 // ASYNC_READ
    | 1 << 5 // BIG_WRITES
    | 1 << 13 // DO_READDIRPLUS
    | 1 << 14 // READDIRPLUS_AUTO
    | 1 << 15 // ASYNC_DIO
    | 1 << 16 // WRITEBACK_CACHE
    | 1 << 17 // NO_OPEN_SUPPORT
    | 1 << 18 // PARALLEL_DIROPS
    | 1 << 22 // MAX_PAGES
    | 1 << 23 // CACHE_SYMLINKS
    | 1 << 24 // NO_OPENDIR_SUPPORT
    | 1 << 28; // HANDLE_KILLPRIV_V2
const PAGE_BYTES: usize = 4096;
const HEADER_IN_BYTES: usize = 40;
const HEADER_OUT_BYTES: usize = 16;
const ENTRY_BYTES: usize = 128;
const DIRENT_BYTES: usize = 24;
/// Whatever the kernel has been told it may keep.
const FOR_EVER_SECONDS: u64 = 1 << 31;

pub(super) struct Request<'a> {
    pub(super) opcode: u32,
    pub(super) unique: u64,
    pub(super) node: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    body: &'a [u8],
}

impl<'a> Request<'a> {
    /// `None` for what is too short to be one.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        Some(Self {
            opcode: u32::from_ne_bytes(bytes.get(4..8)?.try_into().ok()?),
            unique: u64::from_ne_bytes(bytes.get(8..16)?.try_into().ok()?),
            node: u64::from_ne_bytes(bytes.get(16..24)?.try_into().ok()?),
            uid: u32::from_ne_bytes(bytes.get(24..28)?.try_into().ok()?),
            gid: u32::from_ne_bytes(bytes.get(28..32)?.try_into().ok()?),
            body: bytes.get(HEADER_IN_BYTES..)?,
        })
    }

    /// The number at a place behind the header; 0 beyond the end.
    pub(super) fn u32(&self, at: usize) -> u32 {
        let bytes = self.rest(at).first_chunk().copied();
        bytes.map_or(0, u32::from_ne_bytes)
    }

    pub(super) fn u64(&self, at: usize) -> u64 {
        let bytes = self.rest(at).first_chunk().copied();
        bytes.map_or(0, u64::from_ne_bytes)
    }

    /// All from there.
    pub(super) fn rest(&self, at: usize) -> &'a [u8] {
        self.body.get(at..).unwrap_or_default()
    }

    /// The name that begins there.
    pub(super) fn name(&self, at: usize) -> &'a [u8] {
        let rest = self.rest(at);
        let end = rest.iter().position(|&byte| byte == 0);
        &rest[..end.unwrap_or(rest.len())]
    }
}

pub(super) struct Answer {
    bytes: Vec<u8>,
}

impl Answer {
    pub(super) fn new(unique: u64) -> Self {
        let mut bytes = Vec::with_capacity(512);
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&unique.to_ne_bytes());
        Self { bytes }
    }

    /// The whole of it; only the header with an error.
    pub(super) fn finish(mut self, errno: Option<i32>) -> Vec<u8> {
        if let Some(errno) = errno {
            self.bytes.truncate(HEADER_OUT_BYTES);
            self.bytes[4..8].copy_from_slice(&(-errno).to_ne_bytes());
        }
        let len = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&len.to_ne_bytes());
        self.bytes
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn u32s<const N: usize>(&mut self, numbers: [u32; N]) {
        for number in numbers {
            self.bytes(&number.to_ne_bytes());
        }
    }

    fn u64s<const N: usize>(&mut self, numbers: [u64; N]) {
        for number in numbers {
            self.bytes(&number.to_ne_bytes());
        }
    }

    pub(super) fn init(&mut self, request: &Request<'_>, max_write: usize) {
        let (minor, read_ahead, offered) = (request.u32(4), request.u32(8), request.u32(12));
        self.u32s([7, minor, read_ahead, offered & WANTED_FLAGS]);
        let background = [64_u16, 48];
        for number in background {
            self.bytes(&number.to_ne_bytes());
        }
        self.u32s([u32::try_from(max_write).unwrap_or(u32::MAX), 1]);
        let pages = u16::try_from(max_write / PAGE_BYTES).unwrap_or(u16::MAX);
        self.bytes(&pages.to_ne_bytes());
        self.bytes(&[0; 34]);
    }

    /// `None`: there is no such name, for as long as nobody makes it.
    pub(super) fn entry(&mut self, node: Option<&Node>) {
        match node {
            Some(node) => {
                self.u64s([node.ino, 0, FOR_EVER_SECONDS, FOR_EVER_SECONDS, 0]);
                self.attr(node);
            }
            None => {
                self.u64s([0, 0, FOR_EVER_SECONDS, 0, 0]);
                self.bytes(&[0; 88]);
            }
        }
    }

    pub(super) fn attr_answer(&mut self, node: &Node) {
        self.u64s([FOR_EVER_SECONDS, 0]);
        self.attr(node);
    }

    fn attr(&mut self, node: &Node) {
        let size = node.size();
        let Times { seconds, nanos } = node.times;
        self.u64s([
            node.ino,
            size,
            size.div_ceil(512),
            seconds,
            seconds,
            seconds,
        ]);
        self.u32s([
            nanos, nanos, nanos, node.mode, node.nlink, node.uid, node.gid,
        ]);
        self.u32s([0, 4096, 0]);
    }

    pub(super) fn written(&mut self, len: usize) {
        self.u32s([u32::try_from(len).unwrap_or(u32::MAX), 0]);
    }

    /// One name of a directory; `false` when it does not fit within `room`.
    pub(super) fn dirent(
        &mut self,
        cookie: u64,
        name: &[u8],
        node: &Node,
        plus: bool,
        room: u32,
    ) -> bool {
        let whole = (DIRENT_BYTES + name.len()).next_multiple_of(8);
        let more = if plus { ENTRY_BYTES } else { 0 };
        let used = self.bytes.len() - HEADER_OUT_BYTES;
        if used + whole + more > room as usize {
            return false;
        }
        if plus {
            self.entry(Some(node));
        }
        self.u64s([node.ino, cookie]);
        let len = u32::try_from(name.len()).unwrap_or(u32::MAX);
        self.u32s([len, node.mode >> 12]);
        self.bytes(name);
        let end = HEADER_OUT_BYTES + used + more + whole;
        self.bytes.resize(end, 0);
        true
    }

    pub(super) fn statfs(&mut self) {
        let blocks = 1 << 28;
        self.u64s([blocks, blocks, blocks, blocks, blocks]);
        self.u32s([4096, 255, 4096, 0, 0, 0, 0, 0, 0, 0]);
    }
}
