//! The terminals and commands that are connected to the server: what they ask, and
//! what they are told.
//!
//! Never waits for one of them: an answer that is not taken in time ends the
//! connection. What is asked is done by the parent module.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::Server;
use crate::error::SessionError;
use crate::note::Note;
use crate::protocol::{Channel, HolderReply, HolderRequest, Inside, Reply, Request, VERSION};
use crate::request::{SessionInfo, TerminalInfo};
use crate::runtime;

/// The most clients at a time.
const CLIENTS_MAX: usize = 256;
/// How long one client may keep us in a send.
const SEND_TIMEOUT: Duration = Duration::from_millis(500);

pub(super) struct Client {
    pub(super) channel: Channel,
    pub(super) terminal: Option<TerminalInfo>,
    /// The `run` that started us and has yet to join.
    pub(super) starter: bool,
}

impl Client {
    pub(super) fn new(channel: Channel, starter: bool) -> Self {
        let _ = channel.set_timeout(Some(SEND_TIMEOUT));
        Self {
            channel,
            terminal: None,
            starter,
        }
    }
}

impl Server {
    /// Takes new connections, of our own user only.
    pub(super) fn accept(&mut self) -> bool {
        let mut any = false;
        while let Ok((stream, _)) = self.listener.accept() {
            let same_user = rustix::net::sockopt::socket_peercred(&stream)
                .is_ok_and(|peer| peer.uid == rustix::process::geteuid());
            if !same_user || self.clients.len() >= CLIENTS_MAX {
                tracing::warn!(same_user, "a connection was refused");
                continue;
            }
            if stream.set_nonblocking(false).is_ok() {
                self.clients
                    .push(Client::new(Channel::new(stream.into(), false), false));
                any = true;
            }
        }
        any
    }

    /// Hears one client. `Some` when the session is to end.
    pub(super) fn hear(&mut self, index: usize) -> Option<Duration> {
        loop {
            let client = self.clients.get_mut(index)?;
            let request = match client.channel.try_receive::<Request>() {
                Ok(Some(request)) => request,
                Ok(None) => return None,
                Err(error) => {
                    if error.kind() != io::ErrorKind::UnexpectedEof {
                        tracing::warn!("a client makes no sense: {error}");
                    }
                    self.clients.swap_remove(index);
                    return None;
                }
            };
            let version = match &request {
                Request::Join { version, .. }
                | Request::Info { version }
                | Request::Flush { version }
                | Request::Note { version, .. }
                | Request::Stop { version, .. } => *version,
                Request::Leave => VERSION,
            };
            let (reply, grace) = if version == VERSION {
                self.answer(index, request)
            } else {
                (
                    Reply::Refused(SessionError::ProtocolMismatch {
                        theirs: VERSION,
                        ours: version,
                    }),
                    None,
                )
            };
            let fds: Vec<_> = match &reply {
                Reply::Joined(_) => self.holder.namespaces.iter().map(AsFd::as_fd).collect(),
                _ => Vec::new(),
            };
            let client = self.clients.get_mut(index)?;
            if let Err(error) = client.channel.send(&reply, &fds) {
                tracing::warn!("a client takes no answer: {error}");
                self.clients.swap_remove(index);
                return grace;
            }
            if grace.is_some() {
                return grace;
            }
        }
    }

    fn answer(&mut self, index: usize, request: Request) -> (Reply, Option<Duration>) {
        match request {
            Request::Join {
                pid, tty, command, ..
            } => (self.join(index, pid, tty, command), None),
            Request::Leave => {
                if let Some(client) = self.clients.get_mut(index) {
                    client.terminal = None;
                    client.starter = false;
                }
                let alone = !self
                    .clients
                    .iter()
                    .any(|c| c.starter || c.terminal.is_some());
                let last = alone && self.count().is_ok_and(|count| count == 0);
                (Reply::Left { last }, None)
            }
            Request::Info { .. } => (Reply::Info(Box::new(self.info())), None),
            Request::Flush { .. } => {
                self.view.flush();
                (Reply::Flushed, None)
            }
            Request::Note { note, .. } => (self.note(&note), None),
            Request::Stop { grace_ms, .. } => (
                Reply::Stopping,
                Some(Duration::from_millis(grace_ms.min(60_000))),
            ),
        }
    }

    fn join(&mut self, index: usize, pid: u32, tty: Option<String>, command: String) -> Reply {
        let inside_tty = tty
            .as_deref()
            .and_then(|tty| tty.strip_prefix("/dev/"))
            .and_then(
                |name| match self.ask_holder(&HolderRequest::Terminal(name.to_owned())) {
                    Ok(HolderReply::Terminal(name)) => name,
                    _ => None,
                },
            );
        let joined_before = self.joined;
        self.joined += 1;
        if let Some(client) = self.clients.get_mut(index) {
            client.starter = false;
            client.terminal = Some(TerminalInfo {
                pid,
                tty,
                command,
                since: SystemTime::now(),
            });
        }
        Reply::Joined(Box::new(Inside {
            base: self.config.base.clone(),
            home: self.config.home.clone(),
            places: self.holder.places.clone(),
            limits: self.holder.limits.clone(),
            tty: inside_tty.map(|tty| PathBuf::from(tty).into()),
            joined_before,
        }))
    }

    fn note(&self, note: &Note) -> Reply {
        // What waits to be written can keep this waiting for long.
        if !self.view.flush() {
            return Reply::NotNow;
        }
        let refused = |reason| Reply::Refused(SessionError::NoteRefused { reason });
        match self.view.write(note) {
            Ok(noted) if self.view.flush() => Reply::Noted(noted),
            Ok(_) => refused(
                "another program has just taken the database: this will be written, and is lost \
                 if the session's server is killed before"
                    .to_owned(),
            ),
            Err(error) => refused(error.to_string()),
        }
    }

    fn info(&mut self) -> SessionInfo {
        SessionInfo {
            name: self.config.session.clone(),
            db: self.config.db.clone().into(),
            base: self.config.base.clone().into(),
            server_pid: std::process::id(),
            started: self.started,
            log: self.runtime.join(runtime::LOG),
            terminals: self
                .clients
                .iter()
                .filter_map(|client| client.terminal.clone())
                .collect(),
            processes: self.count().unwrap_or(0),
            inodes: self.view.inodes(),
        }
    }
}
