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
use crate::ipc::{ClientId, FromSession, SessionId, SessionSpec, ToSession, VERSION, ViewerId};
use crate::limits::{ENET_PEER_IDS, SESSIONS_MAX};
use crate::proto::http::Query;
use crate::proto::launch::{LaunchRequest, Verb, session_url, started};
use crate::proto::stream::Mode;
use crate::time::Time;

mod adopt;
mod keys;
mod operator;
pub(super) mod wills;

use keys::UsedKeys;
use operator::Listing;
use wills::Wills;

/// The answer to a key that would repeat IVs.
const KEY_USED: &str = "This rikey was used by a launch before; start the app again";
/// A session that was told to stop is killed after this.
const STOP: Duration = Duration::from_secs(5);
/// A session that was told to stop is killed after this, if its viewer is connected still: who was
/// removed must not see another second.
const DARK: Duration = Duration::from_millis(900);
/// Sessions of one client that are told to stop and have not gone yet; a launch beyond is refused, so
/// that no client takes everybody's seats by quitting and starting.
const STOPPING_PER_CLIENT_MAX: usize = 4;
/// A launch whose client will be told apart by its address alone waits at most this long for another
/// one from there to be through, and looks this often whether it is.
const TURN_WAIT: Duration = Duration::from_secs(5);
const TURN_LOOK: Duration = Duration::from_millis(250);
/// Ended sessions whose belated words are still known as such.
const ENDED_MAX: usize = 2 * SESSIONS_MAX;

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
    /// Set while it waits for an earlier launch from the same address.
    turn: Option<Turn>,
}

#[derive(Clone, Copy)]
struct Turn {
    until: Time,
    look: Time,
}

/// The connected viewer's control flow. It outlives its grant until the session says that it is gone.
struct Connected {
    viewer: ViewerId,
    peer_id: u16,
    peer: SocketAddr,
    last_will: Vec<u8>,
}

pub(super) struct Session {
    /// Its mode is the one that is shown now.
    pub(super) spec: SessionSpec,
    state: State,
    since: Time,
    pid: Option<u32>,
    waiting: Vec<Waiting>,
    pub(super) grant: Option<Grant>,
    connected: Option<Connected>,
    /// It was told to let its viewer go: killed, if the viewer is not gone by then.
    dark_by: Option<Time>,
    /// What it told of itself last, and when.
    figures: Option<(Time, BTreeMap<String, f64>)>,
    /// Operators that wait for its log, and until when.
    log_asked: Vec<(u64, Time)>,
}

/// All sessions of the host; at most one that is not stopping per client.
#[derive(Default)]
pub struct Sessions {
    pub(super) all: BTreeMap<SessionId, Session>,
    keys: UsedKeys,
    pub(super) wills: Wills,
    /// The operator's questions that wait for the sessions' figures.
    listings: Vec<Listing>,
    /// Sessions that ended a moment ago, oldest first: what they said before may arrive after.
    ended: VecDeque<SessionId>,
}

impl Session {
    fn stopping(&self) -> bool {
        matches!(self.state, State::Stopping { .. })
    }

    /// A viewer is connected, or may be before its session's word of that is here.
    fn may_stream(&self) -> bool {
        self.connected.is_some() || self.grant.as_ref().is_some_and(|g| g.stage > Stage::Handshake)
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

    pub(super) fn sizes(&self) -> [(&'static str, usize); 6] {
        let all = || self.all.values();
        [
            ("sessions", self.all.len()),
            ("waiting", all().map(|s| s.waiting.len()).sum()),
            ("logs asked", all().map(|s| s.log_asked.len()).sum()),
            ("keys", self.keys.len()),
            ("ended", self.ended.len()),
            ("listings", self.listings.len()),
        ]
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
        if self.keys.holds(from.client, &request.rikey) {
            return refuse(cx, 400, KEY_USED);
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
        let session = self.all.get_mut(&id).expect("found or made above");
        // The newest wins: an older launch that still waits is answered, not forgotten.
        for older in session.waiting.drain(..) {
            cx.answer(older.call, older.verb.refusal(503, "Replaced by a newer launch"));
        }
        let waiting =
            Waiting { call, verb, request, peer: from.peer, local: from.local, turn: None };
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
        let ending =
            self.all.values().filter(|s| s.spec.client == from.client && s.stopping()).count();
        if ending >= STOPPING_PER_CLIENT_MAX {
            return Err((503, "This device's last sessions are still ending; try again".into()));
        }
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
            if plain && self.address_claimed_elsewhere(id, waiting.peer, cx.now) {
                let until = waiting.turn.map_or(cx.now + TURN_WAIT, |turn| turn.until);
                waiting.turn = Some(Turn { until, look: until.min(cx.now + TURN_LOOK) });
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

    /// Whether another grant's RTSP or datagrams are found by this address alone.
    fn address_claimed_elsewhere(&self, id: SessionId, peer: IpAddr, now: Time) -> bool {
        self.all.iter().any(|(other, session)| {
            let claims = |g: &Grant| same_address(g.peer, peer) && g.claims_address(now);
            *other != id && !session.stopping() && session.grant.as_ref().is_some_and(claims)
        })
    }

    fn grant(&mut self, id: SessionId, w: Waiting, config: &Config, cx: &mut Context<'_>) {
        let Some(peer_id) = self.free_peer_id(cx.entropy.next_u64()) else {
            return cx.answer(w.call, w.verb.refusal(503, "No seat is free; try again later"));
        };
        let Some(session) = self.all.get_mut(&id) else { return };
        // Another launch may have come by the same key while this one waited.
        if self.keys.holds(session.spec.client, &w.request.rikey) {
            return cx.answer(w.call, w.verb.refusal(400, KEY_USED));
        }
        self.keys.note(session.spec.client, &w.request.rikey);
        if let Some(old) = session.grant.take() {
            end_grant(id, old, "taken over by a newer connection", cx);
        }
        let encrypted = w.request.corever >= 1;
        let launch = Launch {
            peer: w.peer,
            encrypted,
            key: w.request.rikey.clone(),
            rikeyid: w.request.rikeyid,
            surround: w.request.surround_params,
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
                || self.wills.hold(id)
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
        if let FromSession::Identity { spec, pid, started, streaming, grants, active, .. } = message
        {
            let identity = adopt::Identity { spec: *spec, pid, started, streaming, grants, active };
            return self.identity(id, identity, config, cx);
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
                    grant.ready(config, cx);
                    if let Some(spec) = &grant.spec {
                        session.spec.mode = spec.video.mode;
                    }
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
                    let peer_id = grant.wire.peer_id;
                    session.connected = Some(Connected { viewer, peer_id, peer, last_will });
                    self.serve_all(config, cx);
                }
            }
            FromSession::ViewerGone { viewer, reason } => {
                tracing::info!(session = %id, %viewer, %reason, "viewer gone");
                session.connected.take_if(|c| c.viewer == viewer);
                if let Some(grant) = session.grant.take_if(|g| g.wire.viewer == viewer) {
                    grant.close_calls(cx);
                }
                if !session.may_stream() {
                    session.dark_by = None;
                }
                self.serve_all(config, cx);
            }
            FromSession::AppExited { status, last_words } => {
                tracing::info!(session = %id, %status, "the app has ended");
                let text = format!("The app ended at once ({status}). {}", tail(&last_words));
                self.fail_start(id, &text, cx);
                self.stop(id, cx.now + STOP);
            }
            FromSession::Figures { figures } => self.figures(id, figures, cx),
            FromSession::Log { text } => session.logged(&text, cx),
        }
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
        let Some(mut session) = self.all.remove(&id) else { return };
        self.heard_of(id, cx);
        session.unlogged(Time(u64::MAX), "The session has ended.", cx);
        if let Some(connected) = session.connected {
            self.wills.leave(id, connected, cx.now);
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

    /// A client that was removed: whatever of its runs, also what was told to stop before.
    pub(super) fn lock_out(&mut self, client: ClientId, config: &Config, cx: &mut Context<'_>) {
        let own = self.all.iter().filter(|(_, s)| s.spec.client == client);
        for id in own.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.stop_session(id, "this device was removed from the host", config, cx);
            self.darken(id, cx);
        }
    }

    /// Its viewer must be gone in a moment, or the session is killed.
    fn darken(&mut self, id: SessionId, cx: &mut Context<'_>) {
        if let Some(session) = self.all.get_mut(&id).filter(|s| s.may_stream()) {
            session.dark_by.get_or_insert(cx.now + DARK);
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
        super::grant::rtsp(self.live_grants(), call, peer, wire, config, facts, cx);
    }

    /// The grants of sessions that are not stopping.
    pub(super) fn live_grants(&mut self) -> impl Iterator<Item = (SessionId, &mut Grant)> {
        let live = self.all.iter_mut().filter(|(_, session)| !session.stopping());
        live.filter_map(|(id, session)| session.grant.as_mut().map(|grant| (*id, grant)))
    }

    fn serve_all(&mut self, config: &Config, cx: &mut Context<'_>) {
        let waiting = self.all.iter().filter(|(_, s)| s.state == State::Running);
        let waiting = waiting.filter(|(_, s)| !s.waiting.is_empty());
        for id in waiting.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.serve_waiting(id, config, cx);
        }
    }

    pub(super) fn expire(&mut self, config: &Config, cx: &mut Context<'_>) {
        self.wills.expire(cx.now);
        self.expire_listings(cx);
        let mut turns = false;
        for id in self.all.keys().copied().collect::<Vec<_>>() {
            let Some(session) = self.all.get_mut(&id) else { continue };
            if let Some(grant) = session.grant.take_if(|g| g.expired(cx.now)) {
                tracing::info!(session = %id, viewer = %grant.wire.viewer, "no stream came of a launch in time");
                end_grant(id, grant, "the client did not connect in time", cx);
                turns = true;
            }
            turns |= session.waiting.iter().any(|w| w.turn.is_some_and(|t| t.look <= cx.now));
            session.unlogged(cx.now, "The session does not answer.", cx);
            if session.dark_by.take_if(|by| *by <= cx.now).is_some() {
                tracing::warn!(session = %id, "a viewer that must go is not gone; killing its session");
                cx.effects.push(Effect::Kill { session: id });
            }
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
            let turns = s.waiting.iter().filter_map(|w| w.turn).map(|turn| turn.look).min();
            let logs = s.log_asked.iter().map(|(_, until)| *until).min();
            [state, grant, turns, s.dark_by, logs].into_iter().flatten().min()
        };
        let others = self.wills.next_timeout().into_iter().chain(self.next_listing());
        self.all.values().filter_map(of_session).chain(others).min()
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
            dark_by: None,
            figures: None,
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
