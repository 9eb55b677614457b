//! What runs: one session per client, from launch to its end, and the grants of its viewers.
//!
//! It decides; sessions are processes elsewhere. Every wait here has a deadline: a session that does
//! not come up, answer or go is reported and killed.
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::Context;
use super::event::{CallId, Effect, HostFacts};
use super::grant::{Grant, Launch, Stage};
use super::same_address;
use crate::config::Config;
use crate::ipc::{
    AdminAnswer, ClientId, FromSession, SessionId, SessionSpec, SessionSummary, ToSession, VERSION,
    ViewerId,
};
use crate::limits::{ENET_PEER_IDS, SESSIONS_MAX};
use crate::proto::http::Query;
use crate::proto::launch::{LaunchRequest, Verb, session_url, started};
use crate::proto::secret::SessionKey;
use crate::proto::stream::Mode;
use crate::proto::surround::Layout;
use crate::time::Time;

/// A session that was told to stop is killed after this.
const STOP: Duration = Duration::from_secs(5);
/// A second plain launch from one address waits at most this long for the first to be through.
const PLAIN_WAIT: Duration = Duration::from_secs(5);
/// How long a dead session's peer is told so.
const WILL: Duration = Duration::from_secs(15);
/// Wills and waiting launches that are kept; the oldest goes first, a launch beyond is refused.
const WILLS_MAX: usize = 64;
const WAITING_MAX: usize = 64;
/// Ended sessions whose belated words are still known as such.
const ENDED_MAX: usize = 2 * SESSIONS_MAX;
/// Sessions whose figures fit into one answer; of more, none are told.
const FIGURES_TOLD_MAX: usize = 16;
/// Operators that wait for one session's log; the next one is refused.
const LOG_ASKED_MAX: usize = 16;

/// Who launches, and over which addresses.
pub struct From {
    pub client: ClientId,
    pub name: String,
    pub peer: IpAddr,
    pub local: IpAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Process and desktop come up until then.
    Starting {
        until: Time,
    },
    Running,
    /// Told to stop; killed then.
    Stopping {
        until: Time,
    },
}

/// A launch or resume that waits for its session, or for its turn.
struct Waiting {
    call: CallId,
    verb: Verb,
    request: LaunchRequest,
    peer: IpAddr,
    local: IpAddr,
    /// Set while it waits for an earlier plain launch from the same address.
    turn_until: Option<Time>,
}

/// The connected viewer's control flow.
struct Connected {
    viewer: ViewerId,
    peer: SocketAddr,
    last_will: Vec<u8>,
}

pub(super) struct Session {
    pub(super) spec: SessionSpec,
    state: State,
    since: Time,
    pid: Option<u32>,
    waiting: Vec<Waiting>,
    pub(super) grant: Option<Grant>,
    connected: Option<Connected>,
    figures: BTreeMap<String, f64>,
    log_asked: Vec<u64>,
}

/// The termination datagram of a session that died while a viewer was connected.
pub(super) struct Will {
    pub(super) session: SessionId,
    pub(super) peer: SocketAddr,
    pub(super) peer_id: u16,
    pub(super) datagram: Vec<u8>,
    until: Time,
}

/// All sessions of the host; at most one that is not stopping per client.
#[derive(Default)]
pub struct Sessions {
    pub(super) all: BTreeMap<SessionId, Session>,
    /// The key of each client's last launch: a repeated one would repeat IVs.
    last_keys: BTreeMap<ClientId, SessionKey>,
    pub(super) wills: Vec<Will>,
    /// Sessions that ended a moment ago, oldest first: what they said before may arrive after.
    ended: VecDeque<SessionId>,
}

impl Session {
    fn stopping(&self) -> bool {
        matches!(self.state, State::Stopping { .. })
    }

    fn state_name(&self) -> &'static str {
        match self.state {
            State::Starting { .. } => "starting",
            State::Stopping { .. } => "stopping",
            State::Running if self.connected.is_some() => "streaming",
            State::Running => "paused",
        }
    }
}

impl Sessions {
    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Each session's client, whether it is stopping, and its grant.
    pub fn table(&self) -> impl Iterator<Item = (SessionId, ClientId, bool, Option<&Grant>)> {
        self.all.iter().map(|(id, s)| (*id, s.spec.client, s.stopping(), s.grant.as_ref()))
    }

    /// The client's session that runs or starts.
    pub fn of_client(&self, client: ClientId) -> Option<SessionId> {
        let own = |(_, s): &(&SessionId, &Session)| s.spec.client == client && !s.stopping();
        self.all.iter().find(own).map(|(id, _)| *id)
    }

    /// App of the client's session, as `currentgame` tells it.
    pub fn current_app(&self, client: ClientId) -> Option<i32> {
        self.of_client(client).map(|id| self.all[&id].spec.app.id)
    }

    /// `/launch` or `/resume`.
    #[expect(clippy::too_many_arguments, reason = "the parts of one event")]
    pub(super) fn start(
        &mut self,
        verb: Verb,
        call: CallId,
        from: From,
        query: &Query,
        config: &Config,
        facts: &HostFacts,
        cx: &mut Context<'_>,
    ) {
        let request = match LaunchRequest::parse(verb, query) {
            Ok(request) => request,
            Err(error) => return cx.answer(call, error.response()),
        };
        let refuse = |cx: &mut Context<'_>, code, text: &str| {
            cx.answer(call, verb.refusal(code, text));
        };
        if self.last_keys.get(&from.client) == Some(&request.rikey) {
            return refuse(
                cx,
                400,
                "This rikey was used by the launch before; start the app again",
            );
        }
        let running = self.of_client(from.client);
        let id = match (verb, running) {
            (Verb::Resume, None) => {
                return refuse(cx, 503, "Nothing to resume: no app of this device is running");
            }
            (_, Some(id)) => {
                let app = self.all[&id].spec.app.id;
                if verb == Verb::Launch && request.appid.is_some_and(|asked| asked != app) {
                    return refuse(cx, 400, "Another app is running on this host; quit it first");
                }
                id
            }
            (_, None) => {
                if facts.codecs == Default::default() {
                    return refuse(
                        cx,
                        503,
                        "This host has no working video encoder; its operator can see why with `moonshard doctor`",
                    );
                }
                match self.spawn(&request, &from, config, cx) {
                    Ok(id) => id,
                    Err((code, text)) => return refuse(cx, code, &text),
                }
            }
        };
        self.last_keys.insert(from.client, request.rikey.clone());
        let session = self.all.get_mut(&id).expect("found or made above");
        if session.waiting.len() >= WAITING_MAX {
            return refuse(cx, 503, "Too many launches are waiting; try again");
        }
        // The newest wins: an older launch that still waits is answered, not forgotten.
        for older in session.waiting.drain(..) {
            cx.answer(older.call, older.verb.refusal(503, "Replaced by a newer launch"));
        }
        let waiting =
            Waiting { call, verb, request, peer: from.peer, local: from.local, turn_until: None };
        session.waiting.push(waiting);
        if session.state == State::Running {
            self.serve_waiting(id, config, cx);
        }
    }

    fn spawn(
        &mut self,
        request: &LaunchRequest,
        from: &From,
        config: &Config,
        cx: &mut Context<'_>,
    ) -> Result<SessionId, (u32, String)> {
        let appid = request.appid.unwrap_or(0);
        let app = config.apps.iter().find(|app| app.spec.id == appid);
        let app = app.ok_or((404, "This host does not know that app; refresh the list".into()))?;
        if self.all.len() >= config.limits.sessions.min(SESSIONS_MAX) {
            return Err((503, "All seats of this host are taken; try again later".into()));
        }
        let id = SessionId(cx.entropy.next_u64());
        if self.all.contains_key(&id) {
            return Err((503, "Try again".into()));
        }
        let fallback = Mode { width: 1280, height: 720, millihertz: 60_000 };
        let mut mode = request.mode.unwrap_or(fallback);
        if !(10_000..=240_000).contains(&mode.millihertz) {
            mode.millihertz = 60_000;
        }
        let spec = SessionSpec {
            version: VERSION,
            id,
            client: from.client,
            client_name: from.name.clone(),
            app: app.spec.clone(),
            mode,
            audio_channels: request.surround.channels,
            policy: config.session.clone(),
        };
        let until = cx.now + Duration::from_millis(config.limits.launch_ms);
        cx.effects.push(Effect::Spawn { spec: Box::new(spec.clone()) });
        self.all.insert(id, Session::new(spec, State::Starting { until }, cx.now));
        Ok(id)
    }

    /// Gives the waiting launches of a running session their grants, as far as it is their turn.
    fn serve_waiting(&mut self, id: SessionId, config: &Config, cx: &mut Context<'_>) {
        let Some(session) = self.all.get_mut(&id) else { return };
        for mut waiting in std::mem::take(&mut session.waiting) {
            let plain = waiting.request.corever == 0;
            if plain && self.plain_pending_elsewhere(id, waiting.peer) {
                let until = *waiting.turn_until.get_or_insert(cx.now + PLAIN_WAIT);
                if until <= cx.now {
                    let text = "Another launch from this address is under way; try again";
                    cx.answer(waiting.call, waiting.verb.refusal(503, text));
                } else if let Some(session) = self.all.get_mut(&id) {
                    session.waiting.push(waiting);
                }
                continue;
            }
            self.grant(id, waiting, config, cx);
        }
    }

    /// Plain RTSP is matched by address alone, so only one such launch may be under way from each.
    fn plain_pending_elsewhere(&self, id: SessionId, peer: IpAddr) -> bool {
        self.all.iter().any(|(other, session)| {
            let pending = |g: &Grant| !g.encrypted && g.pending() && same_address(g.peer, peer);
            *other != id && !session.stopping() && session.grant.as_ref().is_some_and(pending)
        })
    }

    fn grant(&mut self, id: SessionId, w: Waiting, config: &Config, cx: &mut Context<'_>) {
        let Some(peer_id) = self.free_peer_id(cx.entropy.next_u64()) else {
            return cx.answer(w.call, w.verb.refusal(503, "No seat is free; try again later"));
        };
        let Some(session) = self.all.get_mut(&id) else { return };
        if let Some(old) = session.grant.take() {
            end_grant(id, old, "taken over by a newer connection", cx);
        }
        let encrypted = w.request.corever >= 1;
        let launch = Launch {
            peer: w.peer,
            encrypted,
            key: w.request.rikey.clone(),
            rikeyid: w.request.rikeyid,
            surround: w.request.surround_params.and_then(|p| Layout::parse_custom(&p.digits())),
        };
        let until = cx.now + Duration::from_millis(config.limits.grant_ms);
        let grant = Grant::new(launch, peer_id, until, cx.entropy);
        cx.effects
            .push(Effect::Send { session: id, message: ToSession::Grant(grant.wire.clone()) });
        session.grant = Some(grant);
        let url = session_url(encrypted, w.local, config.ports.rtsp);
        cx.answer(w.call, started(w.verb, &url));
    }

    /// A peer id that no live viewer has.
    fn free_peer_id(&self, random: u64) -> Option<u16> {
        let taken = |id| {
            self.all.values().any(|s| s.grant.as_ref().is_some_and(|g| g.wire.peer_id == id))
                || self.wills.iter().any(|w| w.peer_id == id)
        };
        // Not from 0 upwards: a new front would give out the ids of streams that it does not know yet.
        let start = u16::try_from(random % u64::from(ENET_PEER_IDS)).expect("below the modulus");
        (0..ENET_PEER_IDS).map(|i| (start + i) % ENET_PEER_IDS).find(|id| !taken(*id))
    }

    pub(super) fn spawned(
        &mut self,
        id: SessionId,
        result: Result<(), String>,
        config: &Config,
        cx: &mut Context<'_>,
    ) {
        if let Err(reason) = result {
            self.fail_start(id, &format!("The session could not be started: {reason}"), cx);
            self.gone(id, cx);
            self.serve_all(config, cx);
        }
    }

    /// A message of a session.
    pub(super) fn message(
        &mut self,
        id: SessionId,
        message: FromSession,
        config: &Config,
        cx: &mut Context<'_>,
    ) {
        if let FromSession::Identity { spec, pid, started, streaming, grants, .. } = message {
            return self.identity(id, *spec, pid, started, streaming, grants, config, cx);
        }
        let Some(session) = self.all.get_mut(&id) else { return };
        match message {
            FromSession::Identity { .. } => {}
            FromSession::Started => {
                if matches!(session.state, State::Starting { .. }) {
                    session.state = State::Running;
                    self.serve_waiting(id, config, cx);
                }
            }
            FromSession::StartFailed { reason } => {
                self.fail_start(id, &reason, cx);
                self.stop(id, cx.now + STOP);
            }
            FromSession::ViewerReady { viewer } => {
                if let Some(grant) = session.grant.as_mut().filter(|g| g.wire.viewer == viewer) {
                    grant.ready(cx);
                }
            }
            FromSession::ViewerRefused { viewer, status, reason } => {
                if let Some(grant) = session.grant.as_mut().filter(|g| g.wire.viewer == viewer) {
                    tracing::warn!(session = %id, %viewer, %reason, "the session refused a viewer");
                    grant.refused(status, cx);
                }
            }
            FromSession::ViewerConnected { viewer, peer, last_will, .. } => {
                if let Some(grant) = session.grant.as_mut().filter(|g| g.wire.viewer == viewer) {
                    grant.stage = Stage::Connected;
                    session.connected = Some(Connected { viewer, peer, last_will });
                    self.serve_all(config, cx);
                }
            }
            FromSession::ViewerGone { viewer, reason } => {
                tracing::info!(session = %id, %viewer, %reason, "viewer gone");
                session.connected.take_if(|c| c.viewer == viewer);
                if session.grant.as_ref().is_some_and(|g| g.wire.viewer == viewer) {
                    let grant = session.grant.take().expect("just seen");
                    grant.close_calls(cx);
                }
                self.serve_all(config, cx);
            }
            FromSession::AppExited { status, last_words } => {
                tracing::info!(session = %id, %status, "the app has ended");
                let text = format!("The app ended at once ({status}). {}", tail(&last_words));
                self.fail_start(id, &text, cx);
                self.stop(id, cx.now + STOP);
            }
            FromSession::Figures { figures } => session.figures = figures,
            FromSession::Log { text } => {
                for admin in std::mem::take(&mut session.log_asked) {
                    let answer = AdminAnswer::Log(text.clone());
                    cx.effects.push(Effect::AnswerAdmin { id: admin, answer });
                }
            }
        }
    }

    /// A session says who it is: news only to a front that is new.
    #[expect(clippy::too_many_arguments, reason = "the parts of one message")]
    fn identity(
        &mut self,
        id: SessionId,
        spec: SessionSpec,
        pid: u32,
        started: bool,
        streaming: bool,
        grants: Vec<crate::ipc::ViewerGrant>,
        config: &Config,
        cx: &mut Context<'_>,
    ) {
        if self.ended.contains(&id) {
            return;
        }
        let twin = self.of_client(spec.client).filter(|_| !self.all.contains_key(&id));
        let until = cx.now + Duration::from_millis(config.limits.launch_ms);
        let known = self.all.entry(id).or_insert_with(|| {
            let mut adopted = Session::new(spec, State::Starting { until }, cx.now);
            // What was on its way died with the old front; who streams goes on.
            if let Some(wire) = grants.into_iter().next_back().filter(|_| streaming) {
                adopted.grant = Some(Grant::adopted(wire));
            }
            adopted
        });
        known.pid = Some(pid);
        if started && matches!(known.state, State::Starting { .. }) {
            known.state = State::Running;
        }
        if let Some(twin) = twin {
            self.settle_twins(id, twin, config, cx);
        }
        self.serve_all(config, cx);
    }

    /// A launch came before the word of the client's old session did: the game that runs is kept, if it
    /// is the same one, and who waits gets it; else the newer wish wins.
    fn settle_twins(
        &mut self,
        old: SessionId,
        new: SessionId,
        config: &Config,
        cx: &mut Context<'_>,
    ) {
        let same = self.all[&old].spec.app.id == self.all[&new].spec.app.id;
        let starts = matches!(self.all[&new].state, State::Starting { .. });
        let loser = if same && starts && self.all[&old].state == State::Running {
            let waiting = self.all.get_mut(&new).map(|s| std::mem::take(&mut s.waiting));
            if let Some(session) = self.all.get_mut(&old) {
                session.waiting.extend(waiting.unwrap_or_default());
            }
            new
        } else {
            old
        };
        self.stop_session(loser, "this device has another session", config, cx);
    }

    /// Tells every waiting launch of the session why nothing comes of it.
    fn fail_start(&mut self, id: SessionId, reason: &str, cx: &mut Context<'_>) {
        let Some(session) = self.all.get_mut(&id) else { return };
        for waiting in session.waiting.drain(..) {
            cx.answer(waiting.call, waiting.verb.refusal(500, reason));
        }
    }

    fn stop(&mut self, id: SessionId, until: Time) {
        if let Some(session) = self.all.get_mut(&id).filter(|s| !s.stopping()) {
            session.state = State::Stopping { until };
        }
    }

    /// A stopping session answers no ANNOUNCE any more.
    fn close_waiting(&mut self, id: SessionId, cx: &mut Context<'_>) {
        if let Some(grant) = self.all.get_mut(&id).and_then(|s| s.grant.as_mut()) {
            grant.close_waiting(cx);
        }
    }

    /// The process has ended, whatever it was doing.
    pub(super) fn exited(
        &mut self,
        id: SessionId,
        status: &str,
        last_words: &str,
        config: &Config,
        cx: &mut Context<'_>,
    ) {
        let text = format!("The session ended while starting ({status}). {}", tail(last_words));
        self.fail_start(id, &text, cx);
        self.gone(id, cx);
        self.serve_all(config, cx);
    }

    fn gone(&mut self, id: SessionId, cx: &mut Context<'_>) {
        if self.ended.len() >= ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(id);
        let Some(session) = self.all.remove(&id) else { return };
        for admin in session.log_asked {
            let answer = AdminAnswer::Error("The session has ended.".into());
            cx.effects.push(Effect::AnswerAdmin { id: admin, answer });
        }
        let peer_id = session.grant.as_ref().map(|g| g.wire.peer_id);
        if let (Some(connected), Some(peer_id)) = (session.connected, peer_id) {
            if self.wills.len() >= WILLS_MAX {
                self.wills.remove(0);
            }
            self.wills.push(Will {
                session: id,
                peer: connected.peer,
                peer_id,
                datagram: connected.last_will,
                until: cx.now + WILL,
            });
        }
        if let Some(grant) = session.grant {
            grant.close_calls(cx);
        }
    }

    /// The link to a session is full or broken: it is of no use any more.
    pub(super) fn deaf(&mut self, id: SessionId, cx: &mut Context<'_>) {
        if self.all.contains_key(&id) {
            tracing::warn!(session = %id, "the session does not take messages; killing it");
            self.fail_start(id, "The session does not answer", cx);
            self.stop(id, cx.now + STOP);
            self.close_waiting(id, cx);
            cx.effects.push(Effect::Kill { session: id });
        }
    }

    /// `/cancel`, or an operator's stop: the client's session counts as gone from now on.
    pub(super) fn cancel(
        &mut self,
        client: ClientId,
        reason: &str,
        config: &Config,
        cx: &mut Context<'_>,
    ) {
        if let Some(id) = self.of_client(client) {
            self.stop_session(id, reason, config, cx);
        }
    }

    fn stop_session(&mut self, id: SessionId, reason: &str, config: &Config, cx: &mut Context<'_>) {
        self.fail_start(id, reason, cx);
        self.stop(id, cx.now + STOP);
        self.close_waiting(id, cx);
        let message = ToSession::Stop { reason: reason.to_owned() };
        cx.effects.push(Effect::Send { session: id, message });
        self.serve_all(config, cx);
    }

    pub(super) fn stop_by_prefix(
        &mut self,
        prefix: &str,
        config: &Config,
        cx: &mut Context<'_>,
    ) -> AdminAnswer {
        match self.by_prefix(prefix) {
            Ok(id) => {
                self.stop_session(id, "stopped by the operator", config, cx);
                AdminAnswer::Done(format!("Session {id} is stopping."))
            }
            Err(text) => AdminAnswer::Error(text),
        }
    }

    pub(super) fn ask_log(
        &mut self,
        prefix: &str,
        admin: u64,
        cx: &mut Context<'_>,
    ) -> Result<(), String> {
        let id = self.by_prefix(prefix)?;
        if let Some(session) = self.all.get_mut(&id) {
            if session.log_asked.len() >= LOG_ASKED_MAX {
                return Err(format!("Session {id} is asked for its log too often; wait a moment."));
            }
            session.log_asked.push(admin);
        }
        cx.effects.push(Effect::Send { session: id, message: ToSession::AskLog });
        Ok(())
    }

    fn by_prefix(&self, prefix: &str) -> Result<SessionId, String> {
        let matching = |id: &&SessionId| !prefix.is_empty() && id.to_string().starts_with(prefix);
        let found: Vec<SessionId> = self.all.keys().filter(matching).copied().collect();
        match found[..] {
            [id] => Ok(id),
            [] => Err(format!("No session {prefix}. `moonshard sessions` lists them.")),
            _ => Err(format!("{} sessions begin with {prefix}: give more digits.", found.len())),
        }
    }

    /// For the operator; asks each session for newer figures on the way.
    pub(super) fn list(&mut self, cx: &mut Context<'_>) -> Vec<SessionSummary> {
        let told = self.all.len() <= FIGURES_TOLD_MAX;
        let summary = |(id, s): (&SessionId, &Session)| SessionSummary {
            id: *id,
            client: s.spec.client,
            client_name: s.spec.client_name.clone(),
            app: s.spec.app.title.clone(),
            state: s.state_name().into(),
            mode: s.spec.mode,
            pid: s.pid,
            age_seconds: cx.now.since(s.since).as_secs(),
            // The answer is one message, and has room for the figures of some.
            figures: if told { s.figures.clone() } else { BTreeMap::new() },
        };
        let list = self.all.iter().map(summary).collect();
        for id in self.all.keys() {
            cx.effects.push(Effect::Send { session: *id, message: ToSession::AskFigures });
        }
        list
    }

    pub(super) fn call_gone(&mut self, call: CallId) {
        for session in self.all.values_mut() {
            session.waiting.retain(|w| w.call != call);
            if let Some(grant) = &mut session.grant {
                grant.call_gone(call);
            }
        }
    }

    /// One RTSP message: finds its grant, by key or by address, and lets it answer.
    pub(super) fn rtsp(
        &mut self,
        call: CallId,
        peer: IpAddr,
        wire: &[u8],
        config: &Config,
        facts: &HostFacts,
        cx: &mut Context<'_>,
    ) {
        let grants = self.all.iter_mut().filter(|(_, s)| !s.stopping());
        let grants = grants.filter_map(|(id, s)| s.grant.as_mut().map(|g| (*id, g)));
        super::grant::rtsp(grants, call, peer, wire, config, facts, cx);
    }

    fn serve_all(&mut self, config: &Config, cx: &mut Context<'_>) {
        let waiting = self.all.iter().filter(|(_, s)| s.state == State::Running);
        let waiting = waiting.filter(|(_, s)| !s.waiting.is_empty());
        for id in waiting.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.serve_waiting(id, config, cx);
        }
    }

    pub(super) fn expire(&mut self, config: &Config, cx: &mut Context<'_>) {
        self.wills.retain(|will| will.until > cx.now);
        let mut turns = false;
        for id in self.all.keys().copied().collect::<Vec<_>>() {
            let Some(session) = self.all.get_mut(&id) else { continue };
            if let Some(grant) = session.grant.take_if(|g| g.expired(cx.now)) {
                tracing::info!(session = %id, viewer = %grant.wire.viewer, "no stream came of a launch in time");
                end_grant(id, grant, "the client did not connect in time", cx);
                turns = true;
            }
            turns |= session.waiting.iter().any(|w| w.turn_until.is_some_and(|t| t <= cx.now));
            match session.state {
                State::Starting { until } if until <= cx.now => {
                    self.fail_start(id, "The session did not start in time", cx);
                    self.stop(id, cx.now + STOP);
                    cx.effects.push(Effect::Kill { session: id });
                }
                State::Stopping { until } if until <= cx.now => {
                    self.all.get_mut(&id).expect("listed").state =
                        State::Stopping { until: cx.now + STOP };
                    cx.effects.push(Effect::Kill { session: id });
                }
                _ => {}
            }
        }
        if turns {
            self.serve_all(config, cx);
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Time> {
        let of_session = |s: &Session| {
            let state = match s.state {
                State::Starting { until } | State::Stopping { until } => Some(until),
                State::Running => None,
            };
            let grant = s.grant.as_ref().and_then(Grant::deadline);
            let turns = s.waiting.iter().filter_map(|w| w.turn_until).min();
            [state, grant, turns].into_iter().flatten().min()
        };
        let wills = self.wills.iter().map(|w| w.until);
        self.all.values().filter_map(of_session).chain(wills).min()
    }
}

impl Session {
    fn new(spec: SessionSpec, state: State, now: Time) -> Self {
        Self {
            spec,
            state,
            since: now,
            pid: None,
            waiting: Vec::new(),
            grant: None,
            connected: None,
            figures: BTreeMap::new(),
            log_asked: Vec::new(),
        }
    }
}

fn end_grant(session: SessionId, grant: Grant, reason: &str, cx: &mut Context<'_>) {
    let viewer = grant.wire.viewer;
    grant.close_calls(cx);
    let message = ToSession::EndViewer { viewer, reason: reason.into() };
    cx.effects.push(Effect::Send { session, message });
}

/// The end of an app's last words, short enough for a client's dialog.
fn tail(text: &str) -> String {
    let line = text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or_default();
    line.trim().chars().take(200).collect()
}
