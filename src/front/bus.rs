//! The bus: one plain thread between the host and the other processes.
//!
//! It carries out the host's effects, turns messages of the supervisor and of sessions into events, and
//! wakes the host when its time has come. It waits in poll() only, and never for one peer: what a peer
//! does not take waits in a bounded queue, and a session that takes nothing is reported as deaf.
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, SyncSender};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use serde::de::DeserializeOwned;

use super::core::Core;
use super::links::{Deaf, Outgoing, SessionLinks};
use super::store::Job;
use super::turn::Turn;
use crate::host::event::{Effect, Event};
use crate::ipc::{
    AdminAnswer, FromSession, FrontOrder, FrontReport, SessionId, ToSession, VERSION,
};
use crate::limits::{IPC_MESSAGE_BYTES_MAX, SESSIONS_MAX};
use crate::proc::link::{Link, LinkError};
use crate::shard::now;
use crate::time::Time;

/// How long a session's socket may refuse connections.
const CONNECT_MAX: Duration = Duration::from_secs(2);
const CONNECT_EVERY: Duration = Duration::from_millis(50);
/// How long a new front waits for the sessions that run to say who they are.
const ADOPT_MAX: Duration = Duration::from_millis(500);
/// Least time between two timeouts of the host; an earlier one of its wakes the bus by itself.
const TIMEOUTS_APART: Duration = Duration::from_millis(5);
/// Messages taken from one peer per turn, so that none starves the others.
const MESSAGES_PER_TURN: usize = 64;

/// What the supervisor wants of the whole front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Summons {
    /// No new connections; finish and exit.
    Drain,
    /// Another front is to take over at the next calm moment.
    Yield,
    /// The supervisor is gone; so are the listeners' owner and everything that could start a session.
    Orphaned,
}

/// Ends the bus's thread.
#[derive(Clone)]
pub struct BusStop {
    stop: Arc<AtomicBool>,
    core: Arc<Core>,
}

impl BusStop {
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.core.wake();
    }
}

enum SessionLink {
    /// Not connected (any more); trying until the deadline.
    Connecting {
        next: Time,
        deadline: Time,
        /// The host waits for `SessionSpawned`.
        spawned: bool,
    },
    Up(Outgoing),
}

impl SessionLink {
    /// `spawned`: the host waits to hear that the session runs.
    fn connecting(now: Time, spawned: bool) -> Self {
        Self::Connecting { next: now, deadline: now + CONNECT_MAX, spawned }
    }
}

struct Session {
    socket: PathBuf,
    link: SessionLink,
}

/// The thread's state.
pub struct Bus {
    core: Arc<Core>,
    supervisor: Outgoing,
    supervisor_gone: bool,
    sessions: BTreeMap<SessionId, Session>,
    links: Arc<SessionLinks>,
    store: SyncSender<Job>,
    summons: Sender<Summons>,
    stop: Arc<AtomicBool>,
    turn: Arc<Turn>,
    /// For one message.
    buffer: Vec<u8>,
}

impl Bus {
    pub fn new(
        core: Arc<Core>,
        supervisor: Link,
        links: Arc<SessionLinks>,
        store: SyncSender<Job>,
        summons: Sender<Summons>,
    ) -> Self {
        Self {
            core,
            supervisor: Outgoing::new(supervisor),
            supervisor_gone: false,
            sessions: BTreeMap::new(),
            links,
            store,
            summons,
            stop: Arc::new(AtomicBool::new(false)),
            turn: Arc::default(),
            buffer: vec![0; IPC_MESSAGE_BYTES_MAX],
        }
    }

    pub fn stopper(&self) -> BusStop {
        BusStop { stop: Arc::clone(&self.stop), core: Arc::clone(&self.core) }
    }

    /// What the thread shows of itself.
    pub fn turn(&self) -> Arc<Turn> {
        Arc::clone(&self.turn)
    }

    /// Says hello to the supervisor and finds the sessions that run already: they outlive a front.
    pub fn introduce(&mut self, runtime: &Path) {
        use io::ErrorKind::{ConnectionRefused, NotFound};
        let _ = self.report(&hello());
        let directories = match std::fs::read_dir(runtime.join("sessions")) {
            Ok(directories) => directories,
            Err(error) if error.kind() == NotFound => return,
            Err(error) => {
                let path = runtime.join("sessions").display().to_string();
                return tracing::error!(path, %error, "running sessions cannot be found");
            }
        };
        for entry in directories.flatten().take(SESSIONS_MAX) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(id) = SessionId::try_from(name) else { continue };
            let socket = entry.path().join("session.sock");
            match Link::connect(&socket) {
                Ok(link) => self.connected(id, socket, link),
                // Nobody listens: the session has ended, and its directory goes with the next sweep.
                Err(error) if matches!(error.kind(), NotFound | ConnectionRefused) => {}
                // It lives, and does not come to accept.
                Err(_) => {
                    let link = SessionLink::connecting(now(), false);
                    self.sessions.insert(id, Session { socket, link });
                }
            }
        }
        let deadline = now() + ADOPT_MAX;
        let mut silent: Vec<SessionId> = self.sessions.keys().copied().collect();
        while !silent.is_empty() && now() < deadline {
            self.wait(deadline.min(now() + Duration::from_millis(20)));
            for id in silent.clone() {
                if self.read_session(id) > 0 {
                    silent.retain(|s| *s != id);
                }
            }
        }
        for session in silent {
            tracing::warn!(%session, "a running session has not said who it is yet");
        }
    }

    /// Tells the supervisor that connections are accepted. Call once, before [`run`](Self::run).
    pub fn serving(&mut self) {
        let _ = self.report(&FrontReport::Serving);
    }

    /// The thread's work; ends when stopped.
    pub fn run(mut self) {
        while !self.stop.load(Ordering::Acquire) {
            let (effects, timeout) = self.core.take_effects();
            for effect in effects {
                self.carry_out(effect);
            }
            let mut next = timeout.unwrap_or(Time(u64::MAX));
            if next <= now() {
                self.core.dispatch(Event::Timeout);
                // If the host still wants one, it has a bug; that must not cost a core.
                next = now() + TIMEOUTS_APART;
            }
            self.wait(next);
            self.read_supervisor();
            for id in self.sessions.keys().copied().collect::<Vec<_>>() {
                self.read_session(id);
                self.tend(id);
            }
            if self.supervisor.flush(now()).is_err() {
                self.orphaned();
            }
        }
        // What the host decided last (a stored pairing's answer to the operator) still goes out.
        let (effects, _) = self.core.take_effects();
        effects.into_iter().for_each(|effect| self.carry_out(effect));
        self.turn.end();
    }

    /// Waits for any peer, the host, or `deadline`, whatever is first.
    fn wait(&self, deadline: Time) {
        let sessions = self.sessions.values();
        let due = sessions.filter_map(|session| match &session.link {
            SessionLink::Connecting { next, .. } => Some(*next),
            SessionLink::Up(out) => out.give_up_at(),
        });
        let supervisor = self.supervisor.give_up_at().filter(|_| !self.supervisor_gone);
        let due = due.chain(supervisor).chain([deadline]).min();
        let wait = due.unwrap_or(deadline).since(now()).min(Duration::from_secs(60));
        let timeout = rustix::time::Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(60),
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let interest = |out: &Outgoing| {
            if out.waits() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN }
        };
        let mut fds = vec![PollFd::new(&self.core, PollFlags::IN)];
        if !self.supervisor_gone {
            fds.push(PollFd::new(self.supervisor.link(), interest(&self.supervisor)));
        }
        for session in self.sessions.values() {
            if let SessionLink::Up(out) = &session.link {
                fds.push(PollFd::new(out.link(), interest(out)));
            }
        }
        self.turn.end();
        // An interrupted or failed wait is a short one.
        let _ = poll(&mut fds, Some(&timeout));
        self.turn.begin();
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            // The core delivers answers itself.
            Effect::Answer { .. } => {}
            Effect::AnswerAdmin { id, answer } => {
                if self.report(&FrontReport::AdminAnswer { id, answer }) == Err(Deaf::TooLarge) {
                    let answer = AdminAnswer::Error("The answer is too long to be shown.".into());
                    let _ = self.report(&FrontReport::AdminAnswer { id, answer });
                }
            }
            Effect::StoreClient { client, name, certificate } => {
                if self.store.try_send(Job::Store { client, name, certificate }).is_err() {
                    let result = Err("the disk does not keep up; try again".to_owned());
                    self.core.dispatch(Event::ClientStored { client, result });
                }
            }
            Effect::EraseClient { client } => {
                if self.store.try_send(Job::Erase { client }).is_err() {
                    let result = Err("the disk does not keep up; try again".to_owned());
                    self.core.dispatch(Event::ClientErased { client, result });
                }
            }
            Effect::Spawn { spec } => {
                let session = spec.id;
                if let Err(deaf) = self.report(&FrontReport::Spawn { spec }) {
                    let result = Err(format!("the supervisor cannot be asked: {deaf}"));
                    self.core.dispatch(Event::SessionSpawned { session, result });
                }
            }
            Effect::Send { session, message } => self.send(session, &message),
            Effect::Kill { session } => _ = self.report(&FrontReport::Kill { session }),
            Effect::PairingAsked(pairing) => _ = self.report(&FrontReport::PairingAsked(pairing)),
            Effect::PairingEnded { id, outcome } => {
                _ = self.report(&FrontReport::PairingEnded { id, outcome });
            }
        }
    }

    fn report(&mut self, report: &FrontReport) -> Result<(), Deaf> {
        let sent = if self.supervisor_gone {
            Err(Deaf::Broken)
        } else {
            self.supervisor.send(report, now())
        };
        if let Err(deaf) = sent {
            self.core.counters().reports_dropped.add();
            tracing::error!(%deaf, "a report to the supervisor was dropped");
            if deaf == Deaf::Broken {
                self.orphaned();
            }
        }
        sent
    }

    fn orphaned(&mut self) {
        if !self.supervisor_gone {
            self.supervisor_gone = true;
            let _ = self.summons.send(Summons::Orphaned);
        }
    }

    fn send(&mut self, id: SessionId, message: &ToSession) {
        let sent = match self.sessions.get_mut(&id) {
            Some(Session { link: SessionLink::Up(out), .. }) => out.send(message, now()),
            _ => Err(Deaf::Broken),
        };
        let Err(deaf) = sent else { return };
        self.core.counters().session_messages_dropped.add();
        tracing::warn!(session = %id, %deaf, "a message to the session was dropped");
        if deaf == Deaf::Stuck {
            self.give_up(id);
        }
    }

    fn read_supervisor(&mut self) {
        for _ in 0..MESSAGES_PER_TURN {
            if self.supervisor_gone {
                return;
            }
            match receive::<FrontOrder>(self.supervisor.link(), &mut self.buffer) {
                Ok(order) => self.order(order),
                Err(LinkError::Empty) => return,
                Err(LinkError::Malformed(reason)) => {
                    // From a newer supervisor, perhaps: what is not understood is left undone.
                    self.core.counters().messages_malformed.add();
                    tracing::error!(reason, "an order of the supervisor was not understood");
                }
                Err(_) => self.orphaned(),
            }
        }
    }

    fn order(&mut self, order: FrontOrder) {
        match order {
            FrontOrder::Hello { version } => {
                tracing::debug!(version, ours = VERSION, "hello from the supervisor");
            }
            // Started for the front before this one, and found in its directory since.
            FrontOrder::SessionSpawned { session, .. } if self.sessions.contains_key(&session) => {
                self.core.dispatch(Event::SessionSpawned { session, result: Ok(()) });
            }
            FrontOrder::SessionSpawned { session, socket } => {
                let link = SessionLink::connecting(now(), true);
                self.sessions.insert(session, Session { socket, link });
                self.tend(session);
            }
            FrontOrder::SessionNotSpawned { session, reason } => {
                self.core.dispatch(Event::SessionSpawned { session, result: Err(reason) });
            }
            FrontOrder::SessionExited { session, status, last_words } => {
                // Its last messages are still in the link.
                while self.read_session(session) == MESSAGES_PER_TURN {}
                self.sessions.remove(&session);
                self.links.remove(session);
                self.core.dispatch(Event::SessionExited { session, status, last_words });
            }
            FrontOrder::Admin { id, request } => self.core.dispatch(Event::Admin { id, request }),
            FrontOrder::Drain => _ = self.summons.send(Summons::Drain),
            FrontOrder::Yield => _ = self.summons.send(Summons::Yield),
            // It does already.
            FrontOrder::Serve => {}
        }
    }

    /// Reads what a session has said, at most one turn's worth; how many messages it was.
    fn read_session(&mut self, id: SessionId) -> usize {
        for count in 0..MESSAGES_PER_TURN {
            let Some(Session { link: SessionLink::Up(out), .. }) = self.sessions.get(&id) else {
                return count;
            };
            match receive::<FromSession>(out.link(), &mut self.buffer) {
                Ok(FromSession::Identity { spec, .. }) if spec.id != id => {
                    self.core.counters().messages_malformed.add();
                    tracing::error!(session = %id, claims = %spec.id, "a session under a false name");
                    self.give_up(id);
                }
                Ok(message) => self.core.dispatch(Event::Session { session: id, message }),
                Err(LinkError::Empty) => return count,
                Err(LinkError::Malformed(reason)) => {
                    self.core.counters().messages_malformed.add();
                    tracing::error!(session = %id, reason, "a message of the session was not understood");
                }
                Err(_) => self.reconnect(id),
            }
        }
        MESSAGES_PER_TURN
    }

    /// What a session's link needs without having said anything: a connection, a flush, an end.
    fn tend(&mut self, id: SessionId) {
        let now = now();
        match self.sessions.get_mut(&id) {
            Some(Session { link: SessionLink::Up(out), .. }) => match out.flush(now) {
                Err(Deaf::Stuck) => self.give_up(id),
                Err(_) => self.reconnect(id),
                Ok(()) => {}
            },
            Some(Session { socket, link: SessionLink::Connecting { next, deadline, spawned } })
                if *next <= now =>
            {
                let (spawned, late) = (*spawned, *deadline <= now);
                *next = now + CONNECT_EVERY;
                match Link::connect(socket) {
                    Ok(link) => {
                        let socket = socket.clone();
                        self.connected(id, socket, link);
                        if spawned {
                            self.core
                                .dispatch(Event::SessionSpawned { session: id, result: Ok(()) });
                        }
                    }
                    Err(error) if late => self.unreachable(id, spawned, &error),
                    Err(_) => {}
                }
            }
            _ => {}
        }
    }

    fn connected(&mut self, id: SessionId, socket: PathBuf, link: Link) {
        match link.try_clone() {
            Ok(second) => self.links.insert(id, second),
            Err(error) => tracing::error!(session = %id, %error, "no second handle to the link"),
        }
        let mut out = Outgoing::new(link);
        // If this fails, the next flush or read finds the same.
        let _ = out.send(&ToSession::Hello { version: VERSION }, now());
        self.sessions.insert(id, Session { socket, link: SessionLink::Up(out) });
    }

    fn unreachable(&mut self, id: SessionId, spawned: bool, error: &io::Error) {
        self.core.counters().session_links_failed.add();
        tracing::error!(session = %id, %error, "the session's link cannot be connected");
        self.sessions.remove(&id);
        let event = match spawned {
            true => Event::SessionSpawned { session: id, result: Err(format!("no link: {error}")) },
            false => Event::SessionDeaf { session: id },
        };
        self.core.dispatch(event);
    }

    /// The link broke. If the session lives it accepts another; if it has ended, the supervisor says
    /// so before the time is up.
    fn reconnect(&mut self, id: SessionId) {
        self.core.counters().session_links_broken.add();
        self.links.remove(id);
        if let Some(session) = self.sessions.get_mut(&id) {
            let now = now();
            let (next, deadline) = (now + CONNECT_EVERY, now + CONNECT_MAX);
            session.link = SessionLink::Connecting { next, deadline, spawned: false };
        }
    }

    /// The session does not listen, or lies: it is the host's to end it.
    fn give_up(&mut self, id: SessionId) {
        self.core.counters().session_links_broken.add();
        self.sessions.remove(&id);
        self.links.remove(id);
        self.core.dispatch(Event::SessionDeaf { session: id });
    }
}

/// The first words of a front.
pub fn hello() -> FrontReport {
    let program = env!("CARGO_PKG_VERSION").to_owned();
    FrontReport::Hello { version: VERSION, pid: std::process::id(), program }
}

/// The next message that is there. File descriptors are not expected, and closed.
fn receive<T: DeserializeOwned>(link: &Link, buffer: &mut [u8]) -> Result<T, LinkError> {
    let (length, _fds) = link.receive_bytes(buffer)?;
    serde_json::from_slice(&buffer[..length]).map_err(|e| LinkError::Malformed(e.to_string()))
}

/// Starts the bus's thread.
///
/// # Errors
/// If the thread cannot be made.
pub fn spawn(bus: Bus) -> io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name("bus".into()).spawn(move || bus.run())
}

#[cfg(test)]
#[path = "bus_tests.rs"]
mod tests;
