//! The life of one session as a pure machine: events in, effects out, time passed in.
//!
//! It decides who views, when an encoder is started, restarted or given up, what a viewer that goes
//! leaves behind, and when the session ends. It holds no socket, process, thread or clock; the
//! composition beside it carries the effects out in their order and reports back.
//!
//! One viewer at most is *active* (its encoder runs). Others are grants that wait for their ANNOUNCE,
//! or are *leaving*: told to go, their control connection served a moment longer so that the word
//! arrives. Encoder events speak of the encoder that was started last; the composition forgets the
//! others' words.
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use crate::ipc::{
    ConnectedViewer, FromSession, SessionSpec, ToSession, VERSION, ViewerGrant, ViewerId,
};
use crate::proto::stream::{Flow, StreamSpec};
use crate::time::Time;

mod event;
mod keyframe;
pub mod loss;
#[cfg(test)]
mod tests;
mod viewer;

pub use event::{Effect, Event, Farewell, Pulse};
use keyframe::KeyFrames;
use loss::Path;
use viewer::{Connection, Encoder, Overdue, Sockets, Viewer};

/// Grants that wait at once; the newest wins.
pub const GRANTS_MAX: usize = 4;
/// Viewers whose control connection is still served after they went; the oldest is closed early.
pub const LEAVING_MAX: usize = 4;
/// How long a leaving viewer's ENet is served, for retransmission and the acknowledgement.
pub const LINGER: Duration = Duration::from_millis(300);
/// A viewer that sends no control message for this long is gone.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);
/// From `ViewerReady` to the control connection.
pub const CONNECT_MAX: Duration = Duration::from_secs(15);
/// From the start of an encoder to its `Ready`: at ANNOUNCE, and mid-stream.
pub const ENCODER_START_MAX: Duration = Duration::from_secs(8);
pub const ENCODER_RESTART_MAX: Duration = Duration::from_secs(5);
/// No sign of life, or no frame out while frames wait, for this long: the encoder hangs.
pub const ENCODER_STALL_MAX: Duration = Duration::from_secs(1);
/// Failures of one encoder within [`RESTART_WINDOW`] before the next one of the table is taken.
pub const FAILURES_MAX: usize = 3;
/// Encoders of one viewer that may be passed over; there are not so many in the table.
pub const PASSED_OVER_MAX: usize = 32;
/// Restarts within [`RESTART_WINDOW`] of an encoder process that did not even say what it starts,
/// before the viewer is given up.
pub const RESTARTS_MAX: usize = 3;
pub const RESTART_WINDOW: Duration = Duration::from_secs(10);
/// A fresh grant holds a session back from ending by policy for this long.
pub const GRANT_HOLD: Duration = Duration::from_secs(10);
/// From SIGTERM to SIGKILL of the app, and from the order to end to the end.
pub const APP_TERM_MAX: Duration = Duration::from_millis(1_500);
pub const END_MAX: Duration = Duration::from_millis(1_900);

const _: () = assert!(APP_TERM_MAX.as_millis() < END_MAX.as_millis());
const _: () = assert!(LINGER.as_millis() < END_MAX.as_millis());

/// The machine.
#[derive(Debug)]
pub struct Life {
    spec: SessionSpec,
    phase: Phase,
    grants: VecDeque<Grant>,
    active: Option<Viewer>,
    leaving: BTreeMap<ViewerId, Time>,
    /// When the session began, or its last viewer went.
    idle_since: Time,
    viewed: bool,
    last_grant: Option<Time>,
    figures: Figures,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub viewers: u64,
    pub encoder_restarts: u64,
    pub encoders_passed_over: u64,
    pub tunings: u64,
    pub key_frames_asked: u64,
}

#[derive(Debug)]
enum Phase {
    Starting,
    Running,
    Ending { since: Time, linger_until: Time, app_gone: bool, app_killed: bool },
    Over,
}

#[derive(Debug)]
struct Grant {
    grant: ViewerGrant,
    sockets: Sockets,
}

impl Life {
    pub fn new(spec: SessionSpec, now: Time) -> Self {
        Self {
            spec,
            phase: Phase::Starting,
            grants: VecDeque::new(),
            active: None,
            leaving: BTreeMap::new(),
            idle_since: now,
            viewed: false,
            last_grant: None,
            figures: Figures::default(),
        }
    }

    /// What a front is told first.
    pub fn identity(&self, pid: u32) -> FromSession {
        let active = self.active.iter().map(|v| v.grant.clone());
        FromSession::Identity {
            version: VERSION,
            spec: Box::new(self.spec.clone()),
            pid,
            started: matches!(self.phase, Phase::Running),
            streaming: self.streaming(),
            grants: self.grants.iter().map(|g| g.grant.clone()).chain(active).collect(),
            active: self.active.as_ref().map(Viewer::progress),
        }
    }

    /// A viewer's control connection stands.
    pub fn streaming(&self) -> bool {
        self.active.as_ref().is_some_and(|v| matches!(v.connection, Connection::Up { .. }))
    }

    /// The grant of a viewer that waits or is active.
    pub fn grant(&self, viewer: ViewerId) -> Option<&ViewerGrant> {
        let waiting = self.grants.iter().map(|g| &g.grant);
        waiting.chain(self.active.iter().map(|v| &v.grant)).find(|g| g.viewer == viewer)
    }

    /// The settled stream of the active viewer.
    pub fn stream(&self, viewer: ViewerId) -> Option<&StreamSpec> {
        self.active.as_ref().filter(|v| v.grant.viewer == viewer).map(|v| &*v.spec)
    }

    /// The viewer whose encoder runs, and its stream.
    pub fn active(&self) -> Option<(ViewerId, &StreamSpec)> {
        self.active.as_ref().map(|v| (v.grant.viewer, &*v.spec))
    }

    /// The title of the app.
    pub fn app(&self) -> &str {
        &self.spec.app.title
    }

    /// "starting", "streaming", "paused", "stopping".
    pub fn state(&self) -> &'static str {
        match self.phase {
            Phase::Starting => "starting",
            Phase::Running if self.streaming() => "streaming",
            Phase::Running => "paused",
            Phase::Ending { .. } | Phase::Over => "stopping",
        }
    }

    /// How the active viewer's stream is encoded now; None: as it was announced.
    pub fn tuning(&self) -> Option<loss::Tuning> {
        self.active.as_ref()?.path.as_ref().map(Path::tuning)
    }

    pub fn figures(&self) -> Figures {
        self.figures
    }

    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// Takes one event; appends what follows from it.
    pub fn handle(&mut self, event: Event, now: Time, out: &mut Vec<Effect>) {
        match (&self.phase, event) {
            (Phase::Over, _) => return,
            (Phase::Starting, Event::Started) => {
                self.phase = Phase::Running;
                self.idle_since = now;
                out.push(Effect::Tell(FromSession::Started));
            }
            (Phase::Starting, Event::StartFailed { reason }) => {
                out.push(Effect::Tell(FromSession::StartFailed { reason }));
                self.begin_end(now, out);
            }
            (Phase::Ending { .. }, Event::AppGone) => self.app_gone(),
            (Phase::Ending { .. }, event) => self.while_ending(event, out),
            (_, Event::Front(message)) => self.front(message, now, out),
            (_, Event::AppExited { status, last_words }) => {
                out.push(Effect::Tell(FromSession::AppExited { status, last_words }));
                self.end_active(now, "the app has ended", Some(Farewell::Ended), out);
                self.begin_end(now, out);
            }
            (_, Event::DesktopLost) => {
                self.end_active(now, "the desktop has died", Some(Farewell::Ended), out);
                self.begin_end(now, out);
            }
            (_, event) => self.viewer_event(event, now, out),
        }
        self.check_time(now, out);
    }

    /// When [`Event::Timeout`] is wanted at the latest.
    pub fn next_timeout(&self) -> Option<Time> {
        let leaving = self.leaving.values().min().copied();
        let phase = match &self.phase {
            Phase::Over => return None,
            Phase::Starting => None,
            Phase::Running => match &self.active {
                Some(viewer) => Some(viewer.next_timeout()),
                None => self.policy_end(),
            },
            Phase::Ending { since, linger_until, app_gone, app_killed } => Some(if *app_gone {
                *linger_until
            } else if *app_killed {
                *since + END_MAX
            } else {
                *since + APP_TERM_MAX
            }),
        };
        [leaving, phase].into_iter().flatten().min()
    }

    // --- the front's words --------------------------------------------------------------------

    fn front(&mut self, message: ToSession, now: Time, out: &mut Vec<Effect>) {
        match message {
            ToSession::Grant(grant) => self.granted(grant, now, out),
            ToSession::Announce { viewer, spec } => self.announced(viewer, spec, now, out),
            ToSession::Socket { viewer, flow, .. } => self.socket(viewer, flow, out),
            ToSession::EndViewer { viewer, reason } => {
                if self.is_active(viewer) {
                    self.end_active(now, &reason, Some(Farewell::Ended), out);
                } else if let Some(at) = self.grants.iter().position(|g| g.grant.viewer == viewer) {
                    self.grants.remove(at);
                    out.push(Effect::DropSockets { viewer });
                    out.push(Effect::Tell(FromSession::ViewerGone { viewer, reason }));
                }
            }
            ToSession::Stop { reason } => {
                self.end_active(now, &reason, Some(Farewell::Ended), out);
                self.begin_end(now, out);
            }
            ToSession::Hello { .. } | ToSession::AskFigures | ToSession::AskLog => {}
        }
    }

    fn granted(&mut self, grant: ViewerGrant, now: Time, out: &mut Vec<Effect>) {
        if self.grant(grant.viewer).is_some() {
            return;
        }
        if self.grants.len() == GRANTS_MAX
            && let Some(old) = self.grants.pop_front()
        {
            let viewer = old.grant.viewer;
            out.push(Effect::DropSockets { viewer });
            let reason = "too many grants, the newest win".into();
            out.push(Effect::Tell(FromSession::ViewerGone { viewer, reason }));
        }
        self.last_grant = Some(now);
        self.grants.push_back(Grant { grant, sockets: Sockets::default() });
    }

    fn announced(
        &mut self,
        viewer: ViewerId,
        spec: Box<StreamSpec>,
        now: Time,
        out: &mut Vec<Effect>,
    ) {
        let refusal = |status, reason: &str| {
            Effect::Tell(FromSession::ViewerRefused { viewer, status, reason: reason.into() })
        };
        if !matches!(self.phase, Phase::Running) {
            out.push(refusal(503, "the session is still starting"));
            return;
        }
        if self.is_active(viewer) {
            out.push(refusal(400, "announced twice"));
            return;
        }
        let Some(at) = self.grants.iter().position(|g| g.grant.viewer == viewer) else {
            out.push(refusal(503, "the launch has expired"));
            return;
        };
        self.end_active(now, "another connection took over", Some(Farewell::Ended), out);
        // A new front is told the mode that is shown, not the one of the first launch.
        self.spec.mode = spec.video.mode;
        let Some(Grant { grant, sockets }) = self.grants.remove(at) else { return };
        let path = self.spec.policy.adapt.then(|| Path::new(&spec.video, now));
        let active = Viewer {
            grant,
            spec,
            sockets,
            encoder: Encoder::Starting { since: now, reason: None },
            restarts: VecDeque::new(),
            tried: None,
            passed_over: Vec::new(),
            ready: false,
            connection: Connection::Awaited { since: now },
            key_frames: KeyFrames::new(),
            path,
        };
        let passed_over = Vec::new();
        out.push(Effect::StartEncoder { viewer, spec: active.tuned(), passed_over });
        if sockets.video {
            out.push(Effect::UseSocket { viewer, flow: Flow::Video });
        }
        if sockets.control {
            out.push(Effect::UseSocket { viewer, flow: Flow::Control });
        }
        self.active = Some(active);
    }

    fn socket(&mut self, viewer: ViewerId, flow: Flow, out: &mut Vec<Effect>) {
        if let Some(active) = self.active.as_mut().filter(|v| v.grant.viewer == viewer) {
            active.sockets.arrived(flow);
            if flow != Flow::Audio || matches!(active.connection, Connection::Up { .. }) {
                out.push(Effect::UseSocket { viewer, flow });
            }
        } else if let Some(grant) = self.grants.iter_mut().find(|g| g.grant.viewer == viewer) {
            grant.sockets.arrived(flow);
        } else {
            out.push(Effect::DropSockets { viewer });
        }
    }

    // --- the active viewer ----------------------------------------------------------------------

    fn is_active(&self, viewer: ViewerId) -> bool {
        self.active.as_ref().is_some_and(|v| v.grant.viewer == viewer)
    }

    fn viewer_event(&mut self, event: Event, now: Time, out: &mut Vec<Effect>) {
        match event {
            Event::EncoderTries { encoder } => {
                if let Some(viewer) = &mut self.active {
                    viewer.tries(encoder, now);
                }
            }
            Event::EncoderReady => self.encoder_ready(now, out),
            Event::EncoderFailed { reason } => {
                if let Some(viewer) = &mut self.active {
                    viewer.encoder.note(reason);
                }
            }
            Event::EncoderExited { status } => {
                self.encoder_lost(&format!("the encoder ended: {status}"), false, now, out);
            }
            Event::EncoderPulse(pulse) => self.encoder_pulse(pulse, now, out),
            Event::ControlConnected { viewer, local, peer, last_will } => {
                self.connected(viewer, local, peer, last_will, now, out);
            }
            Event::ControlClosed { viewer } if self.is_active(viewer) => {
                self.end_active(now, "the client disconnected", None, out);
            }
            Event::Heard { viewer } => {
                if let Some(active) = self.active.as_mut().filter(|v| v.grant.viewer == viewer)
                    && let Connection::Up { heard, .. } = &mut active.connection
                {
                    *heard = now;
                }
            }
            Event::KeyFrameAsked { viewer } => {
                if let Some(active) = self.active.as_mut().filter(|v| v.grant.viewer == viewer) {
                    self.figures.key_frames_asked += 1;
                    // Before there is video, it is how clients begin, and no frame is lost.
                    if let Some(path) = active.path.as_mut().filter(|_| active.sockets.video) {
                        path.lost_frame();
                    }
                    if active.sockets.video && active.key_frames.asked(now) {
                        out.push(Effect::KeyFrame);
                    }
                }
            }
            Event::BlockReported { viewer, block } => {
                if let Some(active) = self.active.as_mut().filter(|v| v.grant.viewer == viewer)
                    && let Some(path) = &mut active.path
                {
                    path.reported(&block, now);
                }
            }
            Event::StartB { viewer } if self.is_active(viewer) => {
                out.push(Effect::HdrOff { viewer });
            }
            _ => {}
        }
    }

    fn encoder_pulse(&mut self, pulse: Pulse, now: Time, out: &mut Vec<Effect>) {
        let Some(viewer) = &mut self.active else { return };
        if let Some(reason) = viewer.stalled(pulse, now) {
            self.encoder_lost(reason, true, now, out);
        } else if let Some(path) = &mut viewer.path
            && let Some(tuning) = path.decide(pulse.sent, now)
        {
            self.figures.tunings += 1;
            out.push(Effect::Tune(tuning));
        }
    }

    fn encoder_ready(&mut self, now: Time, out: &mut Vec<Effect>) {
        let Some(viewer) = &mut self.active else { return };
        viewer.encoder = Encoder::Running { reason: None, frames_out: 0, waiting: None };
        if !viewer.ready {
            viewer.ready = true;
            if let Connection::Awaited { since } = &mut viewer.connection {
                *since = now;
            }
            let viewer = viewer.grant.viewer;
            out.push(Effect::Tell(FromSession::ViewerReady { viewer }));
        }
    }

    fn connected(
        &mut self,
        viewer: ViewerId,
        local: SocketAddr,
        peer: SocketAddr,
        last_will: Vec<u8>,
        now: Time,
        out: &mut Vec<Effect>,
    ) {
        let Some(active) = self.active.as_mut().filter(|v| v.grant.viewer == viewer) else {
            return;
        };
        let told = ConnectedViewer { local, peer, last_will: last_will.clone() };
        active.connection = Connection::Up { heard: now, told };
        self.viewed = true;
        self.figures.viewers += 1;
        out.push(Effect::Tell(FromSession::ViewerConnected { viewer, local, peer, last_will }));
        if active.sockets.audio {
            out.push(Effect::UseSocket { viewer, flow: Flow::Audio });
        }
    }

    /// The encoder died (`hung`: is to be killed): it again, the next one of the table, or the
    /// viewer's end.
    fn encoder_lost(&mut self, what: &str, hung: bool, now: Time, out: &mut Vec<Effect>) {
        let Some(viewer) = &mut self.active else { return };
        let reason = viewer.encoder.reason().unwrap_or(what).to_owned();
        if hung {
            out.push(Effect::KillEncoder);
        }
        let given_up = viewer.given_up(now);
        if let Some(encoder) = &given_up {
            tracing::warn!(encoder, reason, "passed over from now on");
            self.figures.encoders_passed_over += 1;
        } else if !viewer.ready {
            let id = viewer.grant.viewer;
            let refused = FromSession::ViewerRefused { viewer: id, status: 503, reason };
            out.push(Effect::Tell(refused));
            self.end_active(now, "the encoder did not start", Some(Farewell::EncoderLost), out);
            return;
        }
        let is_none_left = given_up.is_none()
            && viewer.tried.is_none()
            && !viewer.passed_over.is_empty()
            && viewer.encoder.reason().is_some();
        if viewer.restarts.len() >= RESTARTS_MAX || is_none_left {
            let reason = match is_none_left {
                true => format!("no encoder is left: {reason}"),
                false => format!("the encoder failed {} times: {reason}", RESTARTS_MAX + 1),
            };
            self.end_active(now, &reason, Some(Farewell::EncoderLost), out);
            return;
        }
        if given_up.is_none() {
            viewer.restarts.push_back(now);
        }
        viewer.tried = None;
        viewer.encoder = Encoder::Starting { since: now, reason: None };
        if viewer.ready {
            self.figures.encoder_restarts += 1;
        }
        let (id, passed_over) = (viewer.grant.viewer, viewer.passed_over.clone());
        out.push(Effect::StartEncoder { viewer: id, spec: viewer.tuned(), passed_over });
        if viewer.sockets.video {
            out.push(Effect::UseSocket { viewer: id, flow: Flow::Video });
        }
    }

    /// Ends the active viewer, with a word to the client if `farewell` and if it is connected.
    fn end_active(
        &mut self,
        now: Time,
        reason: &str,
        farewell: Option<Farewell>,
        out: &mut Vec<Effect>,
    ) {
        let Some(active) = self.active.take() else { return };
        let viewer = active.grant.viewer;
        if matches!(active.connection, Connection::Up { .. }) {
            if let Some(why) = farewell {
                out.push(Effect::Terminate { viewer, why });
            }
            self.leave(viewer, now, out);
            self.idle_since = now;
        } else {
            out.push(Effect::CloseControl { viewer });
        }
        out.push(Effect::StopEncoder);
        out.push(Effect::DetachAudio);
        out.push(Effect::ReleaseInputs);
        out.push(Effect::DropSockets { viewer });
        out.push(Effect::Tell(FromSession::ViewerGone { viewer, reason: reason.to_owned() }));
    }

    fn leave(&mut self, viewer: ViewerId, now: Time, out: &mut Vec<Effect>) {
        if self.leaving.len() == LEAVING_MAX
            && let Some(oldest) = self.leaving.iter().min_by_key(|(_, at)| **at).map(|(v, _)| *v)
        {
            self.leaving.remove(&oldest);
            out.push(Effect::CloseControl { viewer: oldest });
        }
        self.leaving.insert(viewer, now + LINGER);
    }

    // --- the end ----------------------------------------------------------------------------------

    fn begin_end(&mut self, now: Time, out: &mut Vec<Effect>) {
        for waiting in self.grants.drain(..) {
            out.push(Effect::DropSockets { viewer: waiting.grant.viewer });
        }
        out.push(Effect::EndApp);
        let linger_until = self.leaving.values().max().copied().unwrap_or(now);
        self.phase = Phase::Ending { since: now, linger_until, app_gone: false, app_killed: false };
    }

    fn app_gone(&mut self) {
        if let Phase::Ending { app_gone, .. } = &mut self.phase {
            *app_gone = true;
        }
    }

    fn while_ending(&mut self, event: Event, out: &mut Vec<Effect>) {
        match event {
            Event::Front(ToSession::Socket { viewer, .. }) => {
                out.push(Effect::DropSockets { viewer });
            }
            Event::Front(ToSession::Announce { viewer, .. }) => {
                let reason = "the session is ending".into();
                let refused = FromSession::ViewerRefused { viewer, status: 503, reason };
                out.push(Effect::Tell(refused));
            }
            _ => {}
        }
    }

    // --- time -------------------------------------------------------------------------------------

    fn check_time(&mut self, now: Time, out: &mut Vec<Effect>) {
        while let Some(viewer) = self.leaving.iter().find(|(_, at)| **at <= now).map(|(v, _)| *v) {
            self.leaving.remove(&viewer);
            out.push(Effect::CloseControl { viewer });
        }
        match &mut self.phase {
            Phase::Starting | Phase::Over => {}
            Phase::Running => self.check_running(now, out),
            Phase::Ending { since, linger_until, app_gone, app_killed } => {
                let out_of_time = now >= *since + END_MAX;
                if !*app_gone && !*app_killed && now >= *since + APP_TERM_MAX {
                    *app_killed = true;
                    out.push(Effect::KillApp);
                }
                if out_of_time || (*app_gone && now >= *linger_until) {
                    self.phase = Phase::Over;
                    out.push(Effect::Exit);
                }
            }
        }
    }

    fn check_running(&mut self, now: Time, out: &mut Vec<Effect>) {
        if let Some(viewer) = &mut self.active {
            match viewer.overdue(now) {
                Some(Overdue::Encoder) => {
                    self.encoder_lost("the encoder did not start in time", true, now, out);
                }
                Some(Overdue::Connection) => {
                    self.end_active(now, "no control connection came", None, out);
                }
                Some(Overdue::Word) => {
                    let silent = "no control message for 10 s";
                    self.end_active(now, silent, Some(Farewell::Ended), out);
                }
                None if viewer.key_frames.due(now) => out.push(Effect::KeyFrame),
                None => {}
            }
        }
        if self.active.is_none() && self.policy_end().is_some_and(|at| now >= at) {
            self.begin_end(now, out);
        }
    }

    /// When a session without a viewer ends.
    fn policy_end(&self) -> Option<Time> {
        let policy = &self.spec.policy;
        let ms = if self.viewed { policy.keep_ms } else { policy.never_viewed_ms };
        let end = (ms > 0).then(|| self.idle_since + Duration::from_millis(ms))?;
        Some(self.last_grant.map_or(end, |at| end.max(at + GRANT_HOLD)))
    }
}
