//! The server of a session: starts everything, lets terminals join, ends when
//! nobody is left.
//!
//! One thread and one `poll`; it sleeps without a timeout except while the last
//! terminal has left and processes still run inside. It never follows a path
//! that a program inside could have chosen, and no client can make it wait.

mod clients;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;

use crate::error::SessionError;
use crate::holder;
use crate::plan;
use crate::protocol::{
    Channel, HolderReply, HolderRequest, Place, Reply, StartConfig, StartReply, VERSION,
};
use crate::request::Limit;
use crate::runtime::{self, StartLock};
use crate::serve::{View, ViewConfig};
use crate::setup::{
    fork_holder, kill_holder, listen, lock_temps, namespaces_refused, open_base, raise_open_files,
    serve_build, write_id_maps,
};
use crate::sys::{self, RawPid, SignalSet};
use clients::Client;

/// How long the holder may take to answer.
const HOLDER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often processes without a terminal are counted.
const LEFT_BEHIND_POLL: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};
/// What a SIGTERM to the server leaves the programs inside.
const TERM_GRACE: Duration = Duration::from_secs(2);

/// See [`crate::server_main`].
pub(crate) fn main() -> ExitCode {
    let Ok(control) = sys::inherited_fd(3) else {
        return ExitCode::from(125);
    };
    let _ = sys::close_on_exec_from(3);
    crate::log::init();
    let mut control = Channel::new(control, false);
    let config: StartConfig = match control.receive() {
        Ok(config) => config,
        Err(error) => {
            tracing::error!("not started by agentfs run: {error}");
            return ExitCode::from(125);
        }
    };
    match Server::start(&config) {
        Ok(mut server) => {
            if control.send(&StartReply::Ready, &[]).is_ok() {
                server.clients.push(Client::new(control, true));
            }
            server.run()
        }
        Err(error) => {
            tracing::error!("{error}");
            for (directory, _) in &config.temp {
                runtime::remove_tree(&PathBuf::from(directory.clone()));
            }
            let _ = control.send(&StartReply::Failed(error), &[]);
            ExitCode::FAILURE
        }
    }
}

/// The holder, its socket and its namespaces.
struct Holder {
    pid: RawPid,
    channel: Channel,
    namespaces: Vec<OwnedFd>,
    places: Vec<Place>,
    limits: Vec<Limit>,
}

struct Server {
    config: StartConfig,
    runtime: PathBuf,
    started: SystemTime,
    holder: Holder,
    view: View,
    listener: UnixListener,
    signals: OwnedFd,
    clients: Vec<Client>,
    joined: u64,
    /// Locks on the temporary directories: they are in use.
    _temps: Vec<OwnedFd>,
}

/// Why the loop ended.
enum Ending {
    /// Nobody is left.
    Empty,
    /// Somebody said so.
    Stop(Duration),
    /// The holder died, and all inside with it.
    HolderLost,
}

impl Server {
    fn start(config: &StartConfig) -> Result<Self, SessionError> {
        let began = Instant::now();
        let runtime = PathBuf::from(config.runtime.clone());
        let log = runtime.join(runtime::LOG);
        let failed = |step: &str| {
            let (step, log) = (step.to_owned(), log.clone());
            move |error: io::Error| SessionError::ServerDied {
                reason: format!("{step}: {error}"),
                log,
            }
        };
        if config.version != VERSION {
            return Err(SessionError::ProtocolMismatch {
                theirs: VERSION,
                ours: config.version,
            });
        }
        rustix::process::umask(Mode::empty());
        raise_open_files()?;
        holder::probe_fuse()?;
        let signals = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGCHLD];
        let signals = SignalSet::new(&signals);
        signals.block().map_err(failed("signals"))?;
        // Under a limit of file sizes, writing the database fails instead.
        SignalSet::new(&[libc::SIGXFSZ])
            .block()
            .map_err(failed("signals"))?;
        let base_path = PathBuf::from(config.base.clone());
        let base = open_base(&base_path)?;

        // The only fork of this process: before any thread is started and
        // before the database is opened.
        let (pid, mut channel) = fork_holder().map_err(|error| namespaces_refused(&error, &log))?;
        let started = (|| {
            write_id_maps(pid).map_err(failed("id maps"))?;
            channel
                .set_timeout(Some(HOLDER_TIMEOUT))
                .map_err(failed("holder"))?;
            let plan = plan::build_plan(config);
            channel
                .send(&HolderRequest::Build(Box::new(plan)), &[])
                .map_err(failed("holder"))?;
            let temps = lock_temps(config).map_err(failed("temporary directories"))?;
            let signals = signals.descriptor().map_err(failed("signals"))?;
            let view = View::open(ViewConfig {
                db: config.db.clone().into(),
                base,
                base_path: base_path.clone(),
                home: config.home.clone().map(Into::into),
                log: log.clone(),
            })?;
            tracing::debug!("database open after {:?}", began.elapsed());
            Ok((temps, signals, view))
        })();
        let (temps, signals, mut view) = match started {
            Ok(parts) => parts,
            Err(error) => {
                kill_holder(pid);
                return Err(error);
            }
        };
        let (namespaces, places, limits) = match serve_build(&mut channel, &mut view, &log) {
            Ok(built) => built,
            Err(error) => {
                kill_holder(pid);
                let _ = view.finish();
                return Err(error);
            }
        };
        let _ = channel.set_timeout(Some(HOLDER_TIMEOUT));
        let listener = listen(&runtime).map_err(|error| {
            kill_holder(pid);
            failed("socket")(error)
        })?;
        tracing::info!(
            session = %config.session, base = %base_path.display(), elapsed = ?began.elapsed(), "the session has started"
        );
        Ok(Self {
            config: config.clone(),
            runtime,
            started: SystemTime::now(),
            holder: Holder {
                pid,
                channel,
                namespaces,
                places,
                limits,
            },
            view,
            listener,
            signals,
            clients: Vec::new(),
            joined: 0,
            _temps: temps,
        })
    }

    fn run(mut self) -> ExitCode {
        loop {
            let ending = self.serve_clients();
            match self.end(&ending) {
                Ok(code) => return code,
                // Somebody joined at the last moment.
                Err(server) => self = *server,
            }
        }
    }

    /// Until the session is to end.
    fn serve_clients(&mut self) -> Ending {
        loop {
            let mut timeout = None;
            if !self
                .clients
                .iter()
                .any(|c| c.starter || c.terminal.is_some())
            {
                match self.count() {
                    Ok(0) => return Ending::Empty,
                    Ok(_) => timeout = Some(&LEFT_BEHIND_POLL),
                    Err(_) => return Ending::HolderLost,
                }
            }
            let ready = self.wait(timeout);
            if ready.signals {
                while let Some(signal) = sys::take_signal(&self.signals) {
                    if signal != libc::SIGCHLD {
                        tracing::info!(signal, "told to end");
                        return Ending::Stop(TERM_GRACE);
                    }
                }
            }
            if ready.holder {
                return Ending::HolderLost;
            }
            if ready.listener {
                self.accept();
            }
            // From the back, so that removing one moves none still to be seen.
            for index in ready.clients.into_iter().rev() {
                if let Some(grace) = self.hear(index) {
                    return Ending::Stop(grace);
                }
            }
        }
    }

    fn wait(&self, timeout: Option<&Timespec>) -> Ready {
        let mut fds = vec![
            PollFd::new(&self.signals, PollFlags::IN),
            // Without requests it never speaks: only its end is of interest.
            PollFd::new(&self.holder.channel, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        fds.extend(
            self.clients
                .iter()
                .map(|client| PollFd::new(&client.channel, PollFlags::IN)),
        );
        if poll(&mut fds, timeout).is_err() {
            return Ready::default();
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let at = |index: usize| ready.get(index).copied().unwrap_or_default();
        Ready {
            signals: at(0),
            holder: at(1),
            listener: at(2),
            clients: (0..self.clients.len())
                .filter(|index| at(index + 3))
                .collect(),
        }
    }

    fn ask_holder(&mut self, request: &HolderRequest) -> io::Result<HolderReply> {
        self.holder.channel.send(request, &[])?;
        self.holder.channel.receive()
    }

    /// Processes inside.
    fn count(&mut self) -> io::Result<u32> {
        match self.ask_holder(&HolderRequest::Count)? {
            HolderReply::Count(count) => Ok(count),
            other => Err(io::Error::other(format!("unexpected answer {other:?}"))),
        }
    }

    /// Ends the session, or gives it back because somebody has just joined.
    fn end(mut self, ending: &Ending) -> Result<ExitCode, Box<Self>> {
        let told = !matches!(ending, Ending::Empty);
        if let Ending::Stop(grace) = ending {
            self.stop_programs(*grace);
        }
        let Some(ending_directory) = self.close_door(told) else {
            return Err(Box::new(self));
        };
        // Kills everything inside and removes the mounts with the namespace.
        self.holder.namespaces.clear();
        kill_holder(self.holder.pid);
        let code = match self.view.finish() {
            Ok(()) => ExitCode::SUCCESS,
            Err(reason) => {
                tracing::error!("{reason}");
                let log = ending_directory.join(runtime::LOG);
                for client in &self.clients {
                    let error = SessionError::Server {
                        reason: reason.clone(),
                        log: log.clone(),
                    };
                    let _ = client.channel.send(&Reply::Refused(error), &[]);
                }
                ExitCode::FAILURE
            }
        };
        // Whoever waits for the end may go; what follows is housekeeping.
        self.clients.clear();
        for (directory, _) in &self.config.temp {
            runtime::remove_tree(&PathBuf::from(directory.clone()));
        }
        if code == ExitCode::SUCCESS {
            let _ = fs::remove_dir_all(&ending_directory);
        }
        Ok(code)
    }

    /// SIGTERM to everything inside, and time to heed it.
    fn stop_programs(&mut self, grace: Duration) {
        for client in &self.clients {
            let Some(terminal) = &client.terminal else {
                continue;
            };
            let _ = client.channel.send(&Reply::Stopping, &[]);
            // A `run` that Ctrl-Z stopped reaps nothing, and a process namespace
            // does not end before its last zombie has gone.
            if let Some(pid) = RawPid::try_from(terminal.pid).ok().filter(|&pid| pid > 1) {
                let _ = sys::kill(pid, libc::SIGCONT);
            }
        }
        let until = Instant::now() + grace;
        let _ = self
            .holder
            .channel
            .send(&HolderRequest::Signal(libc::SIGTERM), &[]);
        let _ = self
            .holder
            .channel
            .send(&HolderRequest::Signal(libc::SIGCONT), &[]);
        while Instant::now() < until && self.count().is_ok_and(|count| count > 0) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Lets nobody join any more. The runtime directory gets another name, so
    /// that the next session on this database can have it; `None` when somebody
    /// has just come (and we are not told to end).
    fn close_door(&mut self, told: bool) -> Option<PathBuf> {
        let lock = StartLock::take_existing(&self.runtime);
        if self.accept() && !told {
            return None;
        }
        let ending = runtime::ending_name(&self.runtime);
        let _ = fs::remove_file(self.runtime.join(runtime::SOCKET));
        let renamed = fs::rename(&self.runtime, &ending);
        drop(lock);
        Some(if renamed.is_ok() {
            ending
        } else {
            self.runtime.clone()
        })
    }
}

#[derive(Default)]
struct Ready {
    signals: bool,
    holder: bool,
    listener: bool,
    clients: Vec<usize>,
}
