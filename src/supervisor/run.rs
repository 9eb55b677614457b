//! The supervisor's loop: what happened, and what is done about it.
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, WaitId, WaitIdOptions};

use super::admin::Admin;
use super::directory::RuntimeDirectory;
use super::evidence::Evidence;
use super::front::{Backoff, Front};
use super::image::Image;
use super::notify::Notify;
use super::session::{Remains, Session};
use super::signals::{self, Signal, Signals};
use super::sockets::Sockets;
use super::succession::{Cause, Succession};
use super::words::Words;
use crate::ipc::{
    AdminAnswer, AdminRequest, FrontBoot, FrontOrder, FrontReport, SessionId, SessionSpec,
};
use crate::limits::SESSIONS_MAX;
use crate::ops::metrics::board::{Board, FrontSeen};

/// After the first signal to stop, whatever still runs is killed.
const STOP_GRACE: Duration = Duration::from_millis(3_500);
/// And if even that does not end it (a process stuck in the kernel), this one goes without it.
const STOP_LIMIT: Duration = Duration::from_millis(4_500);
/// How often logs are bounded and remains are removed, while there are any.
const TICK: Duration = Duration::from_secs(1);
/// An upgraded front that dies earlier is replaced by one of the program before.
const PROVEN_AFTER: Duration = Duration::from_secs(60);
/// Fronts that die one after another before any has served: the start has failed.
const FAILED_STARTS_MAX: u32 = 3;
/// Reports taken from the front in a row before others have their turn.
const REPORTS_IN_A_ROW: usize = 64;

/// Everything that the supervisor owns.
pub struct Supervisor {
    pub signals: Signals,
    pub runtime: RuntimeDirectory,
    pub sockets: Sockets,
    pub boot: FrontBoot,
    pub evidence: Evidence,
    pub admin: Admin,
    pub words: Words,
    /// Reads the configuration again; in words why it cannot be used.
    pub reload: Box<dyn Fn() -> Result<crate::config::Config, String>>,
    pub sessions: BTreeMap<SessionId, Session>,
    /// The program's file as it was called at the start.
    pub program: std::path::PathBuf,
    /// What fronts and sessions are started from, and what they were started from before.
    pub image: Image,
    pub fallback: Option<Image>,
    /// The one in charge.
    pub front: Option<Front>,
    /// The one that is to follow it.
    pub succession: Option<Succession>,
    /// The one that was in charge and finishes.
    pub leaving: Option<Front>,
    /// The configuration has changed again while a front was being replaced.
    pub reload_again: bool,
    pub backoff: Backoff,
    pub front_due: Option<Instant>,
    pub failed_starts: u32,
    pub remains: Vec<Remains>,
    pub next_tick: Instant,
    pub stop: Option<Stop>,
    /// What operators may know.
    pub board: Arc<Board>,
    pub notify: Notify,
}

/// The end has begun.
#[derive(Clone, Copy, Debug)]
pub struct Stop {
    since: Instant,
    /// All that ran was killed.
    killed: bool,
}

impl Stop {
    fn deadline(self) -> Instant {
        self.since + if self.killed { STOP_LIMIT } else { STOP_GRACE }
    }
}

/// Which front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    InCharge,
    Heir,
    Leaving,
}

/// Whose fd is ready.
#[derive(Clone, Copy)]
enum Ready {
    Signals,
    FrontLink(Role),
    FrontProcess(Role),
    Session(SessionId),
    AdminListener,
    Visitor(u64),
}

impl Supervisor {
    /// Serves until it is told to stop or cannot start.
    pub fn run(mut self) -> ExitCode {
        self.start_front();
        loop {
            for ready in self.wait() {
                match ready {
                    Ready::Signals => self.hear_signals(),
                    Ready::FrontLink(role) => self.hear_front(role),
                    Ready::FrontProcess(role) => self.some_front_ended(role),
                    Ready::Session(id) => self.session_ended(id),
                    Ready::AdminListener => self.admin.welcome(Instant::now()),
                    Ready::Visitor(id) => self.hear_visitor(id),
                }
            }
            self.pass_time(Instant::now());
            if let Some(stop) = self.stop {
                if self.fronts().is_empty() && self.sessions.is_empty() {
                    return self.leave(ExitCode::SUCCESS);
                }
                if Instant::now() >= stop.since + STOP_LIMIT {
                    tracing::error!("something cannot be killed and is left behind");
                    return self.leave(ExitCode::FAILURE);
                }
            }
            if self.failed_starts >= FAILED_STARTS_MAX {
                self.words.start_failed();
                return self.leave(ExitCode::FAILURE);
            }
        }
    }

    /// What is ready, once something is or time has come.
    fn wait(&self) -> Vec<Ready> {
        let mut whose = Vec::new();
        let mut fds = Vec::new();
        let mut watch = |ready, fd, flags| {
            whose.push(ready);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        };
        watch(Ready::Signals, self.signals.as_fd(), PollFlags::IN);
        for (role, front) in self.fronts() {
            let behind = if front.is_behind() { PollFlags::OUT } else { PollFlags::empty() };
            watch(Ready::FrontLink(role), front.link.as_fd(), PollFlags::IN | behind);
            watch(Ready::FrontProcess(role), front.child.as_fd(), PollFlags::IN);
        }
        for (id, session) in &self.sessions {
            watch(Ready::Session(*id), session.as_fd(), PollFlags::IN);
        }
        watch(Ready::AdminListener, self.admin.listener(), PollFlags::IN);
        for (id, fd) in self.admin.visitors() {
            watch(Ready::Visitor(id), fd, PollFlags::IN);
        }
        let now = Instant::now();
        let timeout = self.deadline().map(|deadline| {
            let left = deadline.saturating_duration_since(now);
            rustix::time::Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            }
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Vec::new(),
            Err(error) => {
                // Out of kernel memory: nothing is lost by trying again soon.
                tracing::error!(%error, "poll");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        let ready = fds.iter().map(|fd| !fd.revents().is_empty());
        whose.into_iter().zip(ready).filter_map(|(whose, ready)| ready.then_some(whose)).collect()
    }

    /// When something is due without anything having happened.
    fn deadline(&self) -> Option<Instant> {
        let busy = !self.sessions.is_empty() || !self.remains.is_empty();
        [
            self.admin.deadline(),
            self.front_due,
            busy.then_some(self.next_tick),
            self.front.as_ref().and_then(Front::drain_deadline),
            self.front.as_ref().and_then(Front::look_due),
            self.front.as_ref().and_then(|front| front.start_deadline(self.stall())),
            self.leaving.as_ref().and_then(Front::drain_deadline),
            self.succession.as_ref().map(Succession::deadline),
            self.stop.map(Stop::deadline),
            self.notify.deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does what is due.
    fn pass_time(&mut self, now: Instant) {
        self.admin.expire(now);
        crate::ops::log::settle();
        let board = Arc::clone(&self.board);
        let lives = || board.known().ailments(crate::shard::now().0).is_empty();
        self.notify.beat(now, lives);
        if self.front_due.is_some_and(|due| due <= now) {
            self.start_front();
        }
        for front in self.front.iter_mut().chain(&mut self.leaving) {
            front.flush();
            if front.drain_deadline().is_some_and(|deadline| deadline <= now) {
                front.kill();
            }
        }
        self.hurry_succession(now);
        self.watch_front(now);
        if self.stop.is_some_and(|stop| !stop.killed && now >= stop.deadline()) {
            self.kill_all();
        }
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.sessions.values().for_each(Session::bound_log);
            self.remains.retain_mut(|remains| !remains.remove());
        }
    }

    // Signals ---------------------------------------------------------------------------------

    fn hear_signals(&mut self) {
        while let Some(signal) = self.signals.next() {
            match signal {
                Signal::Child => self.reap_orphans(),
                Signal::Reload => self.reload(),
                Signal::Upgrade => self.upgrade(None),
                Signal::Stop if self.stop.is_none() => self.stop(),
                Signal::Stop => self.kill_all(),
            }
        }
    }

    /// Reaps what nobody else awaits: orphans of sessions come to this process as their subreaper.
    fn reap_orphans(&mut self) {
        let mut last = None;
        while let Some(pid) = signals::ended_child().filter(|pid| last.replace(*pid) != Some(*pid))
        {
            let role = self.fronts().into_iter().find(|(_, front)| front.child.pid() == pid);
            if let Some((role, _)) = role {
                self.some_front_ended(role);
            } else if let Some(id) = self.sessions.iter().find(|s| s.1.pid() == pid).map(|s| *s.0) {
                self.session_ended(id);
            } else if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
                let _ = rustix::process::waitid(WaitId::Pid(pid), options);
            }
        }
    }

    fn stop(&mut self) {
        let now = Instant::now();
        self.stop = Some(Stop { since: now, killed: false });
        self.notify.tell("STOPPING=1\nSTATUS=stopping");
        self.board.note(|known| known.stopping = true);
        self.front_due = None;
        self.give_up_succession("the host is being stopped");
        self.words.stopping(self.sessions.len());
        if let Some(front) = &mut self.front {
            front.drain(now);
        }
        for session in self.sessions.values_mut() {
            session.ask_to_stop("the host is being stopped");
        }
    }

    fn kill_all(&mut self) {
        if let Some(stop) = &mut self.stop {
            stop.killed = true;
        }
        for front in self.front.iter_mut().chain(&mut self.leaving) {
            front.kill();
        }
        self.sessions.values().for_each(Session::kill);
    }

    /// Takes a changed configuration over by replacing the front; running streams go on.
    pub(super) fn reload(&mut self) {
        if self.succession.is_some() || self.leaving.is_some() {
            self.reload_again = true;
            return;
        }
        let fresh = match (self.reload)() {
            Ok(fresh) => fresh,
            Err(error) => return self.words.not_reloaded(&error),
        };
        let now = &self.boot.config;
        let same_places = fresh.runtime_dir == now.runtime_dir && fresh.state_dir == now.state_dir;
        // Compared as configured, not as the system chose where it was asked to.
        let port = |a: u16, b: u16| a == b || a == 0;
        let (a, b) = (fresh.ports, now.ports);
        let same_ports = port(a.https, b.https)
            && port(a.http, b.http)
            && port(a.rtsp, b.rtsp)
            && port(a.video, b.video)
            && port(a.control, b.control)
            && port(a.audio, b.audio);
        if !same_places || !same_ports || fresh.cores.control != now.cores.control {
            let words = "ports, directories and control cores change only with a restart";
            return self.words.not_reloaded(words);
        }
        let config = crate::config::Config { ports: now.ports, ..fresh };
        let before = Box::new(std::mem::replace(&mut self.boot.config, config));
        if self.front.is_none() {
            // The next one starts with it.
            return self.words.reloaded();
        }
        let boot = FrontBoot { succeeds: true, ..self.boot.clone() };
        let earlier = before.clone();
        if let Err(reason) = self.succeed(Cause::Reload { before }, &boot) {
            self.boot.config = *earlier;
            self.words.not_reloaded(&reason);
        }
    }

    /// Removes every trace; the lock goes last.
    fn leave(mut self, code: ExitCode) -> ExitCode {
        drop(self.admin);
        for _ in 0..10 {
            while let Some(pid) = signals::ended_child() {
                let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { break };
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
                let _ = rustix::process::waitid(WaitId::Pid(pid), options);
            }
            self.remains.retain_mut(|remains| !remains.remove());
            if self.remains.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.runtime.clear();
        if code == ExitCode::SUCCESS {
            self.words.gone();
        }
        code
    }

    // Front -----------------------------------------------------------------------------------

    /// All fronts there are.
    fn fronts(&self) -> Vec<(Role, &Front)> {
        let heir = self.succession.as_ref().map(|succession| (Role::Heir, &succession.heir));
        let front = self.front.as_ref().map(|front| (Role::InCharge, front));
        let leaving = self.leaving.as_ref().map(|front| (Role::Leaving, front));
        front.into_iter().chain(heir).chain(leaving).collect()
    }

    fn front_as(&mut self, role: Role) -> Option<&mut Front> {
        match role {
            Role::InCharge => self.front.as_mut(),
            Role::Heir => self.succession.as_mut().map(|succession| &mut succession.heir),
            Role::Leaving => self.leaving.as_mut(),
        }
    }

    pub(super) fn start_front(&mut self) {
        self.front_due = None;
        self.sockets.revive();
        match Front::start(self.image.path(), &self.boot, &self.sockets) {
            // It finds the sessions that run by itself, in their directories.
            Ok(front) => {
                self.front = Some(front);
                self.board.note(|known| known.front_starts += 1);
                self.show_front();
            }
            Err(error) => {
                tracing::error!(%error, "the front could not be started");
                self.front_due = Some(Instant::now() + self.backoff.after(Duration::ZERO));
            }
        }
    }

    fn some_front_ended(&mut self, role: Role) {
        match role {
            Role::InCharge => self.front_ended(),
            Role::Heir => self.heir_ended(),
            Role::Leaving => self.leaver_ended(),
        }
        let settled = self.leaving.is_none() && self.succession.is_none() && self.stop.is_none();
        if settled && std::mem::take(&mut self.reload_again) {
            self.reload();
        }
    }

    fn front_ended(&mut self) {
        let Some(exit) = self.front.as_mut().and_then(|front| front.child.try_reap()) else {
            return;
        };
        let Some(mut front) = self.front.take() else { return };
        self.show_front();
        // What it said before it went still counts, but a session for nobody is not started.
        while let Some(report) = front.report() {
            if !matches!(report, FrontReport::Spawn { .. }) {
                self.obey(Role::InCharge, report);
            }
        }
        if self.stop.is_some() {
            return;
        }
        let now = Instant::now();
        if self.succession.is_some() {
            return self.take_over();
        }
        if front.draining.is_some() || front.yielded {
            self.front_due = Some(now);
            return;
        }
        let wait = self.backoff.after(now.duration_since(front.started));
        if !front.was_killed() {
            let pid = front.child.pid();
            self.evidence.keep("front", pid, &format!("ended: {exit}"), &front.evidence());
        }
        tracing::error!(%exit, restart_ms = wait.as_millis(), "the front has ended");
        if now.duration_since(front.started) < PROVEN_AFTER
            && let Some(image) = self.fallback.take()
        {
            tracing::error!("the upgrade is taken back: the program before it is started again");
            self.image = image;
        }
        self.front_due = Some(now + wait);
        if !self.words.has_served() {
            self.failed_starts += 1;
        }
    }

    /// Replaces a front that stands still. Its sessions, and the listeners, do not notice.
    fn watch_front(&mut self, now: Instant) {
        let limit = self.stall();
        let Some(front) = &mut self.front else { return };
        let late = front.start_deadline(limit).is_some_and(|deadline| deadline <= now);
        let silence = match front.look(now).filter(|silence| *silence >= limit) {
            Some(silence) => silence,
            None if late => now.duration_since(front.started),
            None => return,
        };
        let (pid, silence_ms) = (front.child.pid(), silence.as_millis());
        let reason = match late {
            true => format!("does not serve after {silence_ms} ms: killed"),
            false => format!("no sign of life for {silence_ms} ms: killed"),
        };
        let evidence = self.evidence.keep("front", pid, &reason, &front.evidence());
        let evidence = evidence.display();
        tracing::error!(pid, silence_ms, %evidence, "the front stands still: killed");
        front.kill();
    }

    /// How long a front may stand still.
    fn stall(&self) -> Duration {
        Duration::from_millis(self.boot.config.limits.stall_ms)
    }

    fn hear_front(&mut self, role: Role) {
        for _ in 0..REPORTS_IN_A_ROW {
            let Some(report) = self.front_as(role).and_then(Front::report) else { break };
            let takes_over = role == Role::Heir && matches!(report, FrontReport::Serving);
            self.obey(role, report);
            if takes_over {
                break;
            }
        }
    }

    pub(super) fn obey(&mut self, role: Role, report: FrontReport) {
        match report {
            FrontReport::Hello { version, pid, program } => {
                tracing::debug!(version, pid, program, "a front says hello");
                if let Some(front) = self.front_as(role) {
                    front.program = program;
                }
            }
            FrontReport::Prepared if role == Role::Heir => self.heir_prepared(),
            FrontReport::Serving if role == Role::Heir => self.heir_serves(),
            FrontReport::Failed { reason } => {
                if let Some(succession) = self.succession.as_mut().filter(|_| role == Role::Heir) {
                    succession.fails(reason);
                }
            }
            FrontReport::Yielded => {
                if let Some(front) = self.front_as(role) {
                    front.yielded = true;
                }
                if role == Role::InCharge {
                    self.take_over();
                }
            }
            FrontReport::Prepared => {}
            FrontReport::Serving => {
                if let Some(front) = &mut self.front {
                    front.serving = true;
                }
                self.words.serving();
                self.show_front();
                self.notify.tell("READY=1\nSTATUS=serving");
            }
            FrontReport::Spawn { spec } => self.start_session(*spec),
            FrontReport::Kill { session } => {
                if let Some(session) = self.sessions.get(&session) {
                    let text = session.evidence();
                    self.evidence.keep("session", session.pid(), "the front had it killed", &text);
                    session.kill();
                }
            }
            FrontReport::AdminAnswer { id, answer } => self.admin.answer(id, &answer),
            FrontReport::PairingAsked(pending) => self.words.pairing_asked(&pending),
            FrontReport::PairingEnded { id, outcome } => self.words.pairing_ended(&id, &outcome),
        }
    }

    /// For the operators: the front as it is now.
    pub(super) fn show_front(&self) {
        let seen = self.front.as_ref().map(|front| FrontSeen {
            pid: front.child.pid(),
            serving: front.serving,
            draining: front.draining.is_some(),
            sheet: Arc::clone(&front.sheet),
        });
        self.board.note(|known| known.front = seen);
    }

    pub(super) fn tell_front(&mut self, order: FrontOrder) {
        if let Some(front) = &mut self.front {
            front.order(order);
        }
    }

    /// Tells all that care for sessions: while one front follows another, each has calls of its own.
    fn tell_fronts(&mut self, order: &FrontOrder) {
        let heir = self.succession.as_mut().filter(|s| s.is_taking()).map(|s| &mut s.heir);
        for front in self.front.iter_mut().chain(&mut self.leaving).chain(heir) {
            front.order(order.clone());
        }
    }

    // Sessions --------------------------------------------------------------------------------

    fn start_session(&mut self, spec: SessionSpec) {
        let id = spec.id;
        let result = if self.stop.is_some() {
            Err("the host is being stopped".to_owned())
        } else if self.sessions.contains_key(&id) {
            Err("a session with this id runs already".to_owned())
        } else if self.sessions.len() >= SESSIONS_MAX {
            Err(format!("there are {SESSIONS_MAX} sessions already"))
        } else {
            Session::start(self.image.path(), &self.runtime, spec)
        };
        match result {
            Ok(session) => {
                tracing::info!(session = %id, pid = session.pid(), "the session's process runs");
                let socket = session.socket();
                let pid = session.pid();
                self.sessions.insert(id, session);
                self.board.note(|known| {
                    known.sessions_started += 1;
                    known.sessions.insert(id, pid);
                });
                self.tell_fronts(&FrontOrder::SessionSpawned { session: id, socket });
            }
            Err(reason) => {
                tracing::error!(session = %id, reason, "the session was not started");
                self.board.note(|known| known.sessions_not_started += 1);
                self.tell_fronts(&FrontOrder::SessionNotSpawned { session: id, reason });
            }
        }
    }

    fn session_ended(&mut self, id: SessionId) {
        let Some(status) = self.sessions.get_mut(&id).and_then(Session::try_reap) else { return };
        let Some(session) = self.sessions.remove(&id) else { return };
        let mut except: BTreeSet<u32> = self.sessions.values().map(Session::pid).collect();
        except.extend(self.fronts().into_iter().map(|(_, front)| front.child.pid()));
        let well = status == "exit 0";
        let (pid, flight) = (session.pid(), if well { String::new() } else { session.evidence() });
        let (last_words, mut remains) = session.bury(&except);
        if !well {
            let text = format!("{flight}last words:\n{last_words}\n");
            self.evidence.keep("session", pid, &format!("ended: {status}"), &text);
        }
        self.board.note(|known| {
            known.sessions.remove(&id);
            let (ok, failed) = &mut known.sessions_ended;
            *(if well { ok } else { failed }) += 1;
        });
        if well {
            tracing::info!(session = %id, status, "the session has ended");
        } else {
            tracing::warn!(session = %id, status, last_words, "the session has ended");
        }
        if !remains.remove() {
            self.remains.push(remains);
            self.next_tick = Instant::now() + Duration::from_millis(50);
        }
        self.tell_fronts(&FrontOrder::SessionExited { session: id, status, last_words });
    }

    // Admin -----------------------------------------------------------------------------------

    fn hear_visitor(&mut self, id: u64) {
        let Some(request) = self.admin.question(id) else { return };
        if request == AdminRequest::Status {
            let status = self.words.status(&self.board.known());
            return self.admin.answer(id, &AdminAnswer::Status(status));
        }
        if request == AdminRequest::Upgrade {
            return self.upgrade(Some(id));
        }
        if let Some(succession) = self.succession.as_mut().filter(|s| s.is_taking()) {
            return succession.hold(id, request);
        }
        match &mut self.front {
            Some(front) => front.order(FrontOrder::Admin { id, request }),
            None => {
                let words = "the front is being restarted: try again in a few seconds";
                self.admin.answer(id, &AdminAnswer::Error(words.to_owned()));
            }
        }
    }
}
