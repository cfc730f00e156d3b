//! [`Request`]: what the kernel asks for.

use agentfs_core::{Ino, Name, Owner, Timestamp};

use super::{Errno, HEADER_IN_BYTES};
use crate::convert::refused;
use crate::counters::Operation;

/// The opcode of what the kernel asks first.
const INIT: u32 = 26;

/// Which fields of a SETATTR are meant (`FATTR_*`).
pub(crate) mod valid {
    pub(crate) const MODE: u32 = 1;
    pub(crate) const UID: u32 = 1 << 1;
    pub(crate) const GID: u32 = 1 << 2;
    pub(crate) const SIZE: u32 = 1 << 3;
    pub(crate) const ATIME: u32 = 1 << 4;
    pub(crate) const MTIME: u32 = 1 << 5;
    pub(crate) const ATIME_NOW: u32 = 1 << 7;
    pub(crate) const MTIME_NOW: u32 = 1 << 8;
    pub(crate) const CTIME: u32 = 1 << 10;
    pub(crate) const KILL_SUIDGID: u32 = 1 << 11;
}

/// One request. Its arguments are asked for by their place, in bytes behind the
/// header; what is not there is a refusal, never a panic.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    opcode: u32,
    /// What the answer has to name.
    pub(crate) unique: u64,
    /// The inode that it is about.
    pub(crate) ino: Ino,
    uid: u32,
    gid: u32,
    /// The thread that asks, in the process namespace of the mount; 0 for none, or one
    /// that is not in it.
    pub(crate) thread: u32,
    arguments: &'a [u8],
}

impl<'a> Request<'a> {
    /// `None` for what is too short to have a header.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header = bytes.first_chunk::<HEADER_IN_BYTES>()?;
        let number = |at: usize| header[at..].first_chunk().copied().map(u32::from_ne_bytes);
        let wide = |at: usize| header[at..].first_chunk().copied().map(u64::from_ne_bytes);
        Some(Self {
            opcode: number(4)?,
            unique: wide(8)?,
            ino: Ino(wide(16)?),
            uid: number(24)?,
            gid: number(28)?,
            thread: number(32)?,
            arguments: &bytes[HEADER_IN_BYTES..],
        })
    }

    pub(crate) fn is_init(&self) -> bool {
        self.opcode == INIT
    }

    /// What is asked for; `None` for what is not answered.
    pub(crate) fn operation(&self) -> Option<Operation> {
        Operation::from_opcode(self.opcode)
    }

    /// To whom belongs what it makes.
    pub(crate) fn owner(&self) -> Owner {
        Owner {
            uid: self.uid,
            gid: self.gid,
        }
    }

    /// All arguments from a place on.
    pub(crate) fn rest(&self, at: usize) -> Result<&'a [u8], Errno> {
        self.arguments.get(at..).ok_or(Errno::IO)
    }

    pub(crate) fn u32(&self, at: usize) -> Result<u32, Errno> {
        let bytes = self.rest(at)?.first_chunk().ok_or(Errno::IO)?;
        Ok(u32::from_ne_bytes(*bytes))
    }

    pub(crate) fn u64(&self, at: usize) -> Result<u64, Errno> {
        let bytes = self.rest(at)?.first_chunk().ok_or(Errno::IO)?;
        Ok(u64::from_ne_bytes(*bytes))
    }

    pub(crate) fn ino_at(&self, at: usize) -> Result<Ino, Errno> {
        self.u64(at).map(Ino)
    }

    /// The bytes up to the NUL that ends them.
    pub(crate) fn string(&self, at: usize) -> Result<&'a [u8], Errno> {
        let rest = self.rest(at)?;
        let end = rest.iter().position(|&byte| byte == 0).ok_or(Errno::IO)?;
        Ok(&rest[..end])
    }

    /// The string there as the name of an entry.
    pub(crate) fn name(&self, at: usize) -> Result<Name, Errno> {
        Name::new(self.string(at)?).map_err(refused)
    }

    /// The two names there.
    pub(crate) fn names(&self, at: usize) -> Result<(Name, Name), Errno> {
        let first = self.name(at)?;
        let second = self.name(at + first.as_bytes().len() + 1)?;
        Ok((first, second))
    }

    /// A time whose seconds and nanoseconds are there. It may be before the epoch.
    pub(crate) fn time(&self, secs_at: usize, nanos_at: usize) -> Result<Timestamp, Errno> {
        let secs = self.u64(secs_at)?.cast_signed();
        Ok(Timestamp::new(secs, self.u32(nanos_at)?))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A request as the kernel sends it, of thread 77.
    pub(crate) fn request(unique: u64, opcode: u32, ino: u64, arguments: &[u8]) -> Vec<u8> {
        let len = u32::try_from(HEADER_IN_BYTES + arguments.len()).unwrap();
        let mut bytes = [len.to_ne_bytes(), opcode.to_ne_bytes()].concat();
        for number in [unique, ino] {
            bytes.extend_from_slice(&number.to_ne_bytes());
        }
        for number in [1000_u32, 100, 77, 0] {
            bytes.extend_from_slice(&number.to_ne_bytes());
        }
        bytes.extend_from_slice(arguments);
        bytes
    }

    #[test]
    fn the_header_and_what_follows_it() {
        let bytes = request(9, 12, 3, b"\x05\0\0\0\0\0\0\0old\0new\0");
        let request = Request::parse(&bytes).unwrap();
        assert_eq!(request.operation(), Some(Operation::Rename));
        assert_eq!((request.unique, request.ino), (9, Ino(3)));
        assert_eq!(
            request.owner(),
            Owner {
                uid: 1000,
                gid: 100
            }
        );
        assert_eq!(request.thread, 77);
        assert_eq!(request.ino_at(0), Ok(Ino(5)));
        let (old, new) = request.names(8).unwrap();
        assert_eq!((old.as_bytes(), new.as_bytes()), (&b"old"[..], &b"new"[..]));
    }

    /// The kernel sends none such; nothing else is lost if one ever comes.
    #[test]
    fn what_is_cut_short_is_refused() {
        let whole = request(9, 12, 3, b"\x05\0\0\0\0\0\0\0old\0new\0");
        for len in 0..HEADER_IN_BYTES {
            assert!(Request::parse(&whole[..len]).is_none());
        }
        for len in HEADER_IN_BYTES..whole.len() {
            let request = Request::parse(&whole[..len]).unwrap();
            assert!(request.names(8).is_err(), "{len}");
        }
        let short = request(9, 3, 3, b"\x01\0\0");
        let short = Request::parse(&short).unwrap();
        assert_eq!(short.u32(0), Err(Errno::IO));
        assert_eq!(short.u64(usize::MAX), Err(Errno::IO));
        let unended = request(9, 1, 3, b"name");
        assert_eq!(Request::parse(&unended).unwrap().string(0), Err(Errno::IO));
        assert!(
            Request::parse(&request(9, 9999, 3, b""))
                .unwrap()
                .operation()
                .is_none()
        );
    }

    #[test]
    fn a_time_before_the_epoch_is_taken_as_it_is() {
        for secs in [i64::MIN, -1, 0, i64::MAX] {
            let arguments = [&secs.to_ne_bytes()[..], &999_999_999_u32.to_ne_bytes()].concat();
            let bytes = request(9, 4, 3, &arguments);
            let time = Request::parse(&bytes).unwrap().time(0, 8);
            assert_eq!(time, Ok(Timestamp::new(secs, 999_999_999)));
        }
    }
}
