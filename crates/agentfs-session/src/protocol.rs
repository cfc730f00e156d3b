//! What is said over the sockets: JSON lines, with descriptors beside them.
//!
//! Three conversations use it: a `run` with the server, the server with the
//! holder, and the starting `run` with the server it starts. Every message is
//! bounded; descriptors sent by a `run` are never taken.

use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::SessionError;
use crate::note::{Note, Noted};
use crate::request::{Limit, SessionInfo, SessionName};

/// Counts every change of a message. Both sides must have the same.
pub(crate) const VERSION: u32 = 3;
/// The longest message, in bytes.
const MESSAGE_MAX_BYTES: usize = 1 << 20;
/// The most descriptors one message carries.
const FDS_MAX: usize = 8;

/// A path as it is, also when it is no text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AnyPath(OsString);

impl From<PathBuf> for AnyPath {
    fn from(path: PathBuf) -> Self {
        Self(path.into_os_string())
    }
}

impl From<AnyPath> for PathBuf {
    fn from(path: AnyPath) -> Self {
        Self::from(path.0)
    }
}

/// The first message to a new server: everything it needs to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StartConfig {
    pub(crate) version: u32,
    pub(crate) session: SessionName,
    pub(crate) db: AnyPath,
    pub(crate) base: AnyPath,
    pub(crate) home: Option<AnyPath>,
    /// Directory of this session's socket, log and info.
    pub(crate) runtime: AnyPath,
    /// Directories made for the private `/tmp` and `/var/tmp`, and their mount points.
    pub(crate) temp: Vec<(AnyPath, AnyPath)>,
    pub(crate) allow: Vec<AnyPath>,
    pub(crate) default_allows: bool,
}

/// The answer of a new server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum StartReply {
    /// Programs can join; the same socket goes on as that of a client.
    Ready,
    /// It has ended.
    Failed(SessionError),
}

/// From a client to the server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Asks for the namespaces; the connection counts as a terminal from now on.
    Join {
        version: u32,
        pid: u32,
        tty: Option<String>,
        command: String,
    },
    /// The command has ended; the answer says whether the session goes on.
    Leave,
    /// Asks who is in.
    Info { version: u32 },
    /// Asks that everything done so far be in the database.
    Flush { version: u32 },
    /// Asks for something to be written beside the files.
    Note { version: u32, note: Note },
    /// Ends the session.
    Stop { version: u32, grace_ms: u64 },
}

/// From the server to a client.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// With descriptors: user, mount, pid and IPC namespace, and their `/proc` if
    /// it could be mounted.
    Joined(Box<Inside>),
    /// `last`: the session now ends; the connection closes when it has.
    Left {
        last: bool,
    },
    Info(Box<SessionInfo>),
    /// Everything is in the database, unless it is held by somebody.
    Flushed,
    /// It is in the database.
    Noted(Noted),
    /// Nothing was written: the database is held by somebody.
    NotNow,
    /// The connection closes when it has ended.
    Stopping,
    Refused(SessionError),
}

/// What a joining command must know about the inside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Inside {
    pub(crate) base: AnyPath,
    pub(crate) home: Option<AnyPath>,
    pub(crate) places: Vec<Place>,
    pub(crate) limits: Vec<Limit>,
    /// The name the terminal has inside.
    pub(crate) tty: Option<AnyPath>,
    /// How many have joined before.
    pub(crate) joined_before: u64,
}

/// A path that can be written inside.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) path: AnyPath,
    pub(crate) kind: PlaceKind,
}

/// Where what is written goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PlaceKind {
    /// To the host, for real.
    Real,
    /// The view of the base.
    View,
    /// The session's layer over a directory of `$HOME`.
    Cache,
    /// A temporary directory of the session.
    Temporary,
}

/// From the server to the holder.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum HolderRequest {
    /// The id maps are written: build.
    Build(Box<BuildPlan>),
    /// Requests on the mount it sent are being answered.
    Serving,
    /// Makes a host terminal available inside, by its path under `/dev`.
    Terminal(String),
    /// Asks how many processes are inside.
    Count,
    /// Signals every process inside.
    Signal(i32),
}

/// From the holder to the server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum HolderReply {
    /// With descriptors: `/dev/fuse`, mounted, and the socket of an onlooker.
    Mounted(Volume),
    /// With descriptors: user, mount, pid and IPC namespace, and their `/proc` if
    /// it could be mounted.
    Built {
        places: Vec<Place>,
        limits: Vec<Limit>,
    },
    Failed(SessionError),
    /// The name inside, if it could be made.
    Terminal(Option<String>),
    Count(u32),
}

/// Which of the two file systems of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Volume {
    /// The view of the base.
    Base,
    /// The session's layer over `$HOME`.
    Home,
}

/// What the holder is to build.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BuildPlan {
    pub(crate) base: AnyPath,
    pub(crate) db: AnyPath,
    /// Not to be reachable inside.
    pub(crate) hidden: Vec<AnyPath>,
    pub(crate) log: AnyPath,
    pub(crate) home: Option<AnyPath>,
    /// Directories for the private `/tmp` and `/var/tmp`, and their mount points.
    pub(crate) temp: Vec<(AnyPath, AnyPath)>,
    /// Writable for real.
    pub(crate) real: Vec<AnyPath>,
    /// Names in `home` to show through the session's layer over it.
    pub(crate) caches: Vec<AnyPath>,
    /// Sockets to cover that only the server can find.
    pub(crate) sockets: Vec<AnyPath>,
}

/// One side of a conversation.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
    /// Received and not yet taken.
    pending: Vec<u8>,
    fds: Vec<OwnedFd>,
    take_fds: bool,
}

impl Channel {
    /// `take_fds`: whether descriptors from the other side are welcome.
    pub(crate) fn new(socket: OwnedFd, take_fds: bool) -> Self {
        Self {
            socket,
            pending: Vec::new(),
            fds: Vec::new(),
            take_fds,
        }
    }

    /// Bounds how long one send or receive waits.
    pub(crate) fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        use rustix::net::sockopt::{Timeout, set_socket_timeout};
        set_socket_timeout(&self.socket, Timeout::Recv, timeout)?;
        set_socket_timeout(&self.socket, Timeout::Send, timeout)?;
        Ok(())
    }

    /// Sends one message.
    pub(crate) fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        if line.len() > MESSAGE_MAX_BYTES || fds.len() > FDS_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "message too large",
            ));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        let mut rest = &line[..];
        while !rest.is_empty() {
            match sendmsg(
                &self.socket,
                &[io::IoSlice::new(rest)],
                &mut control,
                SendFlags::NOSIGNAL,
            ) {
                Ok(sent) => {
                    control.clear();
                    rest = rest.get(sent..).unwrap_or_default();
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reads once from the socket. False at the end of the conversation.
    fn fill(&mut self, flags: RecvFlags) -> io::Result<bool> {
        let mut buffer = [0_u8; 16 << 10];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = if self.take_fds {
            RecvAncillaryBuffer::new(&mut space)
        } else {
            RecvAncillaryBuffer::default()
        };
        let received = loop {
            let mut parts = [io::IoSliceMut::new(&mut buffer)];
            match recvmsg(
                &self.socket,
                &mut parts,
                &mut control,
                flags | RecvFlags::CMSG_CLOEXEC,
            ) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other?,
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        if self.take_fds && received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "descriptors were lost",
            ));
        }
        if self.fds.len() > 4 * FDS_MAX || self.pending.len() + received.bytes > MESSAGE_MAX_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "message too large",
            ));
        }
        self.pending
            .extend(buffer.get(..received.bytes).unwrap_or_default());
        Ok(received.bytes > 0)
    }

    /// Takes one whole message out of what was received.
    fn take<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let Some(end) = self.pending.iter().position(|&b| b == b'\n') else {
            return Ok(None);
        };
        let line: Vec<u8> = self.pending.drain(..=end).collect();
        Ok(Some(serde_json::from_slice(&line)?))
    }

    /// Waits for one message. An error of kind `UnexpectedEof` when the other
    /// side has gone.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            if !self.fill(RecvFlags::empty())? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// One message if it is there. `UnexpectedEof` as in [`Self::receive`],
    /// but not before everything received has been taken.
    pub(crate) fn try_receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            match self.fill(RecvFlags::DONTWAIT) {
                Ok(true) => {}
                Ok(false) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// The descriptors received with the messages so far.
    pub(crate) fn take_fds(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.fds)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (Channel, Channel) {
        let (a, b) = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        (Channel::new(a, true), Channel::new(b, false))
    }

    #[test]
    fn messages_and_descriptors_arrive_in_order() {
        let (mut a, b) = pair();
        b.send(&Reply::Left { last: true }, &[]).unwrap();
        b.send(&Reply::Stopping, &[std::io::stdin().as_fd()])
            .unwrap();
        assert!(matches!(a.receive().unwrap(), Reply::Left { last: true }));
        assert!(matches!(a.receive().unwrap(), Reply::Stopping));
        assert_eq!(a.take_fds().len(), 1);
        assert!(a.try_receive::<Reply>().unwrap().is_none());
        drop(b);
        assert_eq!(
            a.receive::<Reply>().unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    #[test]
    fn descriptors_are_not_taken_where_they_are_not_welcome() {
        let (a, mut b) = pair();
        a.send(&Request::Leave, &[std::io::stdin().as_fd()])
            .unwrap();
        assert!(matches!(b.receive().unwrap(), Request::Leave));
        assert!(b.take_fds().is_empty());
    }

    #[test]
    fn nonsense_is_an_error_and_never_more() {
        for bytes in [
            &b"\n"[..],
            b"{}\n",
            b"\xff\xfe\n",
            b"[[[[\n",
            b"{\"Join\":{\"version\":\"x\"}}\n",
        ] {
            let (a, mut b) = pair();
            rustix::io::write(&a, bytes).unwrap();
            assert!(b.receive::<Request>().is_err(), "{bytes:?}");
        }
        let (a, mut b) = pair();
        std::thread::spawn(move || while rustix::io::write(&a, &[b'x'; 4096]).is_ok() {});
        assert_eq!(
            b.receive::<Request>().unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }
}
