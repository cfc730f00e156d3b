//! Looking at files of the view for the server, which must not: the server names them
//! ([`Onlooker`]), the holder looks ([`Looking`]).
//!
//! What is said: strings, a NUL after each. One that ends in a slash is a directory, by
//! its path below the view's root; others are names in the last directory; an empty one
//! asks for a byte in answer. What is named need not be there. Nobody may be led out of
//! the view: no link is followed and no other mount entered.

use std::ffi::CStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use agentfs_fuse::{Look, Revalidator};
use parking_lot::Mutex;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};

/// The holder is the first process of its namespace.
const HOLDER: u32 = 1;
/// A path, its slash and its NUL.
const STRING_MAX_BYTES: usize = 4097;

/// The server's end.
pub(crate) struct Onlooker(Mutex<UnixStream>);

impl Onlooker {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self(Mutex::new(socket.into()))
    }
}

impl Revalidator for Onlooker {
    fn thread(&self) -> u32 {
        HOLDER
    }

    fn look(&self, at: &[Look]) -> io::Result<()> {
        let mut socket = self.0.lock();
        socket.write_all(&said(at))?;
        socket.read_exact(&mut [0])
    }
}

fn said(looks: &[Look]) -> Vec<u8> {
    let mut said = Vec::new();
    for look in looks {
        said.extend_from_slice(&look.dir);
        said.extend_from_slice(b"/\0");
        for name in &look.names {
            said.extend_from_slice(name.as_bytes());
            said.push(0);
        }
    }
    said.push(0);
    said
}

/// The holder's end: what is known of one mount.
pub(crate) struct Looking {
    socket: UnixStream,
    root: OwnedFd,
    /// The last directory that was named, if it is there.
    dir: Option<OwnedFd>,
    /// The beginning of a string.
    begun: Vec<u8>,
}

impl Looking {
    /// `root`: a descriptor of the mount's root, with `O_PATH`.
    ///
    /// # Errors
    /// The host's.
    pub(crate) fn new(socket: UnixStream, root: OwnedFd) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            root,
            dir: None,
            begun: Vec::new(),
        })
    }

    /// Looks at what has been named so far. Waits for nobody but the mount.
    ///
    /// # Errors
    /// The other end has gone, or says what it must not.
    pub(crate) fn go_on(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        let said = match self.socket.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            received => buffer.get(..received?).unwrap_or_default(),
        };
        for part in said.split_inclusive(|&byte| byte == 0) {
            self.begun.extend_from_slice(part);
            if self.begun.len() > STRING_MAX_BYTES {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if part.ends_with(&[0]) {
                let string = std::mem::take(&mut self.begun);
                self.look(CStr::from_bytes_with_nul(&string).map_err(io::Error::other)?)?;
            }
        }
        Ok(())
    }

    fn look(&mut self, string: &CStr) -> io::Result<()> {
        match string.to_bytes() {
            [] => {
                self.dir = None;
                self.socket.write_all(&[0])?;
            }
            [path @ .., b'/'] => {
                self.dir = self.open(path).ok();
                if let Some(dir) = &self.dir {
                    stat(dir.as_fd(), c"");
                }
            }
            _ => {
                if let Some(dir) = &self.dir {
                    stat(dir.as_fd(), string);
                }
            }
        }
        Ok(())
    }

    fn open(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() {
            b".".as_slice()
        } else {
            path
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), within)
    }
}

impl AsFd for Looking {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What it says is nobody's business; the kernel remembers it.
fn stat(dir: BorrowedFd<'_>, name: &CStr) {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::EMPTY_PATH;
    let _ = rustix::fs::statat(dir, name, flags);
}

#[cfg(test)]
mod tests {
    use agentfs_core::Name;

    use super::*;

    /// A program inside may put a link where a directory was named.
    #[test]
    fn nothing_outside_is_looked_at() {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(place.path().join("a/b")).unwrap();
        for (link, target) in [("etc", "/etc"), ("a/up", ".."), ("in", "a")] {
            std::os::unix::fs::symlink(target, place.path().join(link)).unwrap();
        }
        let root = crate::mounts::open_path(place.path()).unwrap();
        let (_server, holder) = UnixStream::pair().unwrap();
        let looking = Looking::new(holder, root).unwrap();
        for path in ["", "a", "a/b"] {
            looking.open(path.as_bytes()).unwrap();
        }
        for path in ["etc", "a/up", "in/b", "..", "a/../..", "/etc", "/"] {
            assert!(looking.open(path.as_bytes()).is_err(), "{path}");
        }
    }

    /// Of any length, and whether it is there or not; an answer comes as long as somebody looks.
    #[test]
    fn each_message_is_answered() {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(place.path().join("a/b")).unwrap();
        let root = crate::mounts::open_path(place.path()).unwrap();
        let (server, holder) = UnixStream::pair().unwrap();
        let onlooker = Onlooker::new(server.into());
        let mut looking = Looking::new(holder, root).unwrap();
        let look = |dir: &str, names: &[&str]| Look {
            dir: dir.as_bytes().to_vec(),
            names: names
                .iter()
                .map(|name| Name::new(name.as_bytes()).unwrap())
                .collect(),
        };
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let many: Vec<_> = (0..500).map(|_| look("a/b", &["x"; 40])).collect();
                onlooker.look(&many)?;
                onlooker.look(&[
                    look("", &["a", "none"]),
                    look("none", &["x"]),
                    look("a/b", &[]),
                ])
            });
            while !asking.is_finished() {
                looking.go_on().unwrap();
            }
            asking.join().unwrap().unwrap();
        });
        drop(looking);
        assert!(onlooker.look(&[]).is_err(), "nobody is there");
    }
}
