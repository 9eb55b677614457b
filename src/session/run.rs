//! The control thread of a session: one poll loop over the fronts, the viewers' control sockets, the
//! encoder, the app and the signals. It turns what they say into [`life::Event`]s and [`Effect`]s into
//! calls. It never blocks before its end, where a front may still be told for a second, and it starts every
//! child, because it lives as long as they may.
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use super::account::Account;
use super::app::{App, orphans};
use super::control::{self, ControlEvent};
use super::encoder_link::{EncoderLink, Order, Seen};
use super::flows::{Arrived, Flows, Said};
use super::fronts::{Fronts, LinkId, Received};
use super::hands::{self, Given, Hands};
use super::life::{Effect, Event, Life};
use super::presence::{self, Presence, Step};
use crate::audio::{Audio, AudioViewer};
use crate::desktop::{Desktop, DesktopCommand, Ring};
use crate::ipc::{FromSession, SessionFigures, SessionSpec, ToSession, ViewerFigures, ViewerId};
use crate::proc::signals::Signals;
use crate::proto::control::Feedback;
use crate::proto::stream::{Flow, StreamSpec};
use crate::time::Time;

/// The encoder's page is looked at this often.
const PULSE_EVERY: Duration = Duration::from_millis(100);
/// Everything else is looked at at least this often.
const TICK: Duration = Duration::from_millis(500);
/// While the app is to end, its processes are looked for this often.
const ENDING_TICK: Duration = Duration::from_millis(50);
/// An app that writes without end is read this often, 64 KiB each time.
const OUTPUT_EVERY: Duration = Duration::from_millis(20);
/// A session whose end nobody has heard of waits this long for a front to come.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// CLOCK_MONOTONIC now.
pub fn now() -> Time {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Time(now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs())
}

/// Everything that a session consists of.
pub struct Session {
    pub life: Life,
    presence: Presence,
    fronts: Fronts,
    signals: Signals,
    parts: Parts,
    encoder: EncoderLink,
    flows: Flows,
    hands: Hands,
    events: VecDeque<Event>,
    /// Children that are not the app's: the audio server.
    own_children: Vec<u32>,
    ending: Ending,
    due: Due,
    /// Encoders that could not be started.
    failures: u64,
    account: Account,
}

/// What the app needs. Without a desktop there is nothing.
pub struct Parts {
    pub desktop: Option<Desktop>,
    pub audio: Option<Audio>,
    pub app: Option<App>,
}

/// How far the end of the app was ordered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    No,
    Asked,
    Killing,
}

/// Where reading is worth it; the rest is looked at each time, because it costs next to nothing.
#[derive(Clone, Copy)]
struct Ready {
    fronts: bool,
    encoder: bool,
}

/// When things are to be looked at again.
struct Due {
    tick: Time,
    pulse: Time,
    service: Time,
    output: Time,
}

impl Session {
    pub fn new(
        spec: SessionSpec,
        listener: OwnedFd,
        signals: Signals,
        parts: Parts,
        own_children: Vec<u32>,
        account: Account,
    ) -> Self {
        let start = now();
        let policy = &spec.policy;
        let encoder = EncoderLink::new(spec.id, policy.encoder.clone(), policy.media_cores.clone());
        Self {
            presence: Presence::new(&spec, start),
            life: Life::new(spec, start),
            fronts: Fronts::new(listener),
            signals,
            parts,
            encoder,
            flows: Flows::default(),
            hands: Hands::default(),
            events: VecDeque::new(),
            own_children,
            ending: Ending::No,
            due: Due { tick: start, pulse: start, service: start, output: start },
            failures: 0,
            account,
        }
    }

    /// Lives until the session is over.
    pub fn run(&mut self, first: Event) {
        self.command(DesktopCommand::Say(Some(self.presence.greeting())));
        self.events.push_back(first);
        self.settle();
        while !self.life.is_over() {
            let ready = self.wait();
            self.look(ready);
            self.settle();
        }
        self.farewell();
        self.flows.close_all();
        orphans::signal(&self.known(), Signal::KILL);
    }

    /// Handles what has happened until nothing more follows from it.
    fn settle(&mut self) {
        let mut effects = Vec::new();
        while let Some(event) = self.events.pop_front() {
            self.life.handle(event, now(), &mut effects);
            for effect in effects.drain(..) {
                self.carry_out(effect);
            }
        }
    }

    // --- waiting ------------------------------------------------------------------------------

    /// Waits until something is to be done, or time has come.
    fn wait(&self) -> Ready {
        let now = now();
        let timeout = self.next_due(now).since(now);
        let timeout = Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let mut fds: Vec<PollFd<'_>> = self.fronts.fds().map(readable).collect();
        let fronts = fds.len();
        fds.extend(self.encoder.fds().map(readable));
        let encoder = fds.len();
        fds.push(readable(self.signals.as_fd()));
        let mut add = |fd| fds.push(readable(fd));
        self.flows.fds().for_each(&mut add);
        if let Some(app) = &self.parts.app {
            if !app.is_gone() {
                add(app.as_fd());
            }
            if let Some(output) = app.output().filter(|_| now >= self.due.output) {
                add(output);
            }
        }
        // EINTR: a signal, whose pipe is looked at next.
        let _ = poll(&mut fds, Some(&timeout));
        let any = |fds: &[PollFd<'_>]| fds.iter().any(|fd| !fd.revents().is_empty());
        Ready { fronts: any(&fds[..fronts]), encoder: any(&fds[fronts..encoder]) }
    }

    fn next_due(&self, now: Time) -> Time {
        if !self.events.is_empty() {
            return now;
        }
        let mut due = self.due.tick.min(self.account.due());
        if self.encoder.is_running() {
            due = due.min(self.due.pulse);
        }
        if self.flows.is_served() || self.hands.owes() {
            due = due.min(self.due.service);
        }
        if self.parts.app.as_ref().is_some_and(|a| a.output().is_some()) && self.due.output > now {
            due = due.min(self.due.output);
        }
        [self.life.next_timeout(), self.encoder.next_timeout()]
            .into_iter()
            .flatten()
            .fold(due, Time::min)
    }

    // --- looking ------------------------------------------------------------------------------

    /// Sees what has happened.
    fn look(&mut self, ready: Ready) {
        let now = now();
        let caught = self.signals.take();
        if caught.stop {
            let reason = "the session was told to end".into();
            self.events.push_back(Event::Front(ToSession::Stop { reason }));
        }
        if ready.fronts {
            self.fronts.accept(&self.life.identity(std::process::id()));
            for received in self.fronts.receive() {
                self.hear(received);
            }
        }
        self.look_at_controls(now);
        self.look_at_encoder(ready, now);
        self.look_at_app(now, caught.child);
        if now >= self.due.tick {
            self.tick(now);
        }
        if now >= self.account.due() {
            let figures = self.told();
            self.account.write(figures, now);
        }
        if self.life.next_timeout().is_some_and(|at| now >= at) {
            self.events.push_back(Event::Timeout);
        }
    }

    fn hear(&mut self, (link, message, fds): Received) {
        match message {
            ToSession::AskFigures => {
                let figures = FromSession::Figures { figures: self.figures() };
                self.fronts.answer(link, &figures);
            }
            ToSession::AskLog => self.answer_log(link),
            ToSession::Socket { viewer, flow, local, peer, ref first } => {
                let Some(socket) = fds.into_iter().next() else {
                    tracing::warn!(%viewer, ?flow, "a socket message without a socket");
                    return;
                };
                let arrived = Arrived { socket, local, peer, first: first.clone() };
                self.flows.stash(viewer, flow, arrived);
                self.events.push_back(Event::Front(message));
            }
            other => self.events.push_back(Event::Front(other)),
        }
        // In order: a socket is stashed for the event that speaks of it.
        self.settle();
    }

    fn answer_log(&mut self, link: LinkId) {
        let mut text = self.parts.app.as_ref().map(App::log).unwrap_or_default();
        // A control character takes six bytes in JSON; the message must still fit.
        let most = crate::limits::IPC_MESSAGE_BYTES_MAX / 6 - 64;
        if text.len() > most {
            let cut = text.len() - most;
            let cut = (cut..text.len()).find(|at| text.is_char_boundary(*at));
            text.drain(..cut.unwrap_or(text.len()));
        }
        self.fronts.answer(link, &FromSession::Log { text });
    }

    fn look_at_controls(&mut self, now: Time) {
        self.due.service = now + control::SERVICE_EVERY;
        let mut said = Vec::new();
        if self.flows.service(&mut said) {
            self.due.service = now;
        }
        for said in said {
            self.on_control(said, now);
        }
        let desktop = self.parts.desktop.as_ref();
        self.hands.settle(&mut |given| give(desktop, given));
    }

    fn on_control(&mut self, said: Said, now: Time) {
        let Said { viewer, local, peer, event } = said;
        let event = match event {
            ControlEvent::Connected { last_will } => {
                Event::ControlConnected { viewer, local, peer, last_will }
            }
            ControlEvent::Closed => Event::ControlClosed { viewer },
            ControlEvent::Heard => Event::Heard { viewer },
            ControlEvent::KeyFrame => Event::KeyFrameAsked { viewer },
            ControlEvent::Block(block) => Event::BlockReported { viewer, block },
            ControlEvent::StartB => Event::StartB { viewer },
            ControlEvent::Input(event) => {
                // A viewer that leaves has no hands any more.
                if self.life.stream(viewer).is_some() {
                    let desktop = self.parts.desktop.as_ref();
                    self.hands.event(event, now, &mut |given| give(desktop, given));
                }
                return;
            }
        };
        self.events.push_back(event);
    }

    fn look_at_encoder(&mut self, ready: Ready, now: Time) {
        let mut seen = Vec::new();
        if ready.encoder || self.encoder.next_timeout().is_some_and(|at| now >= at) {
            self.encoder.look(now, &mut seen);
        }
        for seen in seen {
            self.events.push_back(match seen {
                Seen::Trying { encoder } => Event::EncoderTries { encoder },
                Seen::Ready { encoder } => {
                    tracing::info!(encoder, "encoder ready");
                    Event::EncoderReady
                }
                Seen::Failed { reason } => {
                    tracing::warn!(reason, "encoder failed");
                    Event::EncoderFailed { reason }
                }
                Seen::Exited { status } => {
                    tracing::warn!(status, "encoder ended");
                    Event::EncoderExited { status }
                }
            });
        }
        if now >= self.due.pulse {
            self.due.pulse = now + PULSE_EVERY;
            if let Some(pulse) = self.encoder.pulse(now) {
                self.events.push_back(Event::EncoderPulse(pulse));
            }
        }
    }

    fn look_at_app(&mut self, now: Time, child_ended: bool) {
        if let Some(app) = &mut self.parts.app {
            if now >= self.due.output {
                self.due.output = if app.read_output() { now + OUTPUT_EVERY } else { now };
            }
            if let Some(exit) = app.try_reap() {
                app.read_output();
                let last_words = app.last_words();
                tracing::info!(status = %exit, last_words, "the app's first process ended");
                let seen = self.seen(orphans::reap(&self.known()));
                let step = self.presence.exited(exit, last_words, seen, now);
                self.take(step);
            }
        }
        if child_ended {
            orphans::reap(&self.known());
        }
    }

    /// The app as its viewer sees it.
    fn seen(&self, others: usize) -> presence::Seen {
        let desktop = self.parts.desktop.as_ref();
        presence::Seen {
            shows: desktop.is_some_and(Desktop::shows),
            has_shown: desktop.is_some_and(Desktop::has_shown),
            others,
            watched: self.encoder.is_running() || self.life.figures().viewers == 0,
        }
    }

    fn take(&mut self, step: Option<Step>) {
        match step {
            Some(Step::Say(notice)) => {
                tracing::warn!(title = notice.title, text = notice.text, "the viewer is told");
                self.command(DesktopCommand::Say(Some(notice)));
            }
            Some(Step::Over { status, last_words }) => {
                tracing::info!(status, "the app has ended");
                self.events.push_back(Event::AppExited { status, last_words });
            }
            None => {}
        }
    }

    fn tick(&mut self, now: Time) {
        self.due.tick = now + if self.ending == Ending::No { TICK } else { ENDING_TICK };
        crate::ops::log::settle();
        self.fronts.resume();
        let alive = orphans::reap(&self.known());
        if self.ending != Ending::No {
            if self.ending == Ending::Killing && alive > 0 {
                orphans::signal(&self.known(), Signal::KILL);
            }
            if alive == 0 && self.parts.app.as_ref().is_none_or(App::is_gone) {
                self.events.push_back(Event::AppGone);
            }
            return;
        }
        if self.parts.desktop.as_ref().is_some_and(|d| !d.is_running()) {
            self.events.push_back(Event::DesktopLost);
        }
        let words = self.parts.app.as_ref().map(App::last_words).unwrap_or_default();
        let seen = self.seen(alive);
        let step = self.presence.look(seen, &words, now);
        self.take(step);
    }

    /// Children that are no orphans of the app.
    fn known(&self) -> Vec<u32> {
        let app = self.parts.app.iter().filter(|a| !a.is_gone()).map(App::pid);
        self.own_children.iter().copied().chain(self.encoder.pids()).chain(app).collect()
    }

    // --- doing ----------------------------------------------------------------------------------

    fn carry_out(&mut self, effect: Effect) {
        tracing::debug!(?effect);
        match effect {
            Effect::Tell(message) => self.fronts.tell(message),
            Effect::StartEncoder { viewer, spec, passed_over } => {
                if let Err(reason) = self.start_encoder(viewer, &spec, passed_over) {
                    self.failures += 1;
                    tracing::error!(%viewer, reason, "no encoder");
                    self.encoder.kill();
                    self.events.push_back(Event::EncoderFailed { reason });
                    let status = "not started".into();
                    self.events.push_back(Event::EncoderExited { status });
                }
            }
            Effect::KillEncoder => {
                self.command(DesktopCommand::Detach);
                self.encoder.kill();
            }
            Effect::StopEncoder => {
                self.command(DesktopCommand::Detach);
                self.encoder.stop(now());
            }
            Effect::KeyFrame => self.encoder.key_frame(),
            Effect::Tune(tuning) => {
                tracing::info!(tuning.kbps, tuning.fec_percent, "the stream follows its path");
                self.encoder.tune(tuning);
            }
            Effect::UseSocket { viewer, flow } => self.use_socket(viewer, flow),
            Effect::DropSockets { viewer } => self.flows.drop_stashed(viewer),
            Effect::HdrOff { viewer } => self.flows.say(viewer, &Feedback::HdrMode(None)),
            Effect::Terminate { viewer, why } => {
                self.flows.say(viewer, &Feedback::Termination { code: why.code() });
            }
            Effect::CloseControl { viewer } => self.flows.close_control(viewer),
            Effect::DetachAudio => {
                if let Some(audio) = &self.parts.audio {
                    audio.detach();
                }
            }
            Effect::ReleaseInputs => {
                let desktop = self.parts.desktop.as_ref();
                self.hands.release(&mut |given| give(desktop, given));
            }
            Effect::EndApp => self.end_app(Ending::Asked, Signal::TERM),
            Effect::KillApp => self.end_app(Ending::Killing, Signal::KILL),
            Effect::Exit => {}
        }
    }

    fn start_encoder(
        &mut self,
        viewer: ViewerId,
        stream: &StreamSpec,
        passed_over: Vec<String>,
    ) -> Result<(), String> {
        let grant = self.life.grant(viewer).ok_or("the viewer is gone")?.clone();
        let mode = stream.video.mode;
        let ring = Ring::create(mode.width, mode.height).map_err(|e| format!("frame ring: {e}"))?;
        let slots = ring.fds();
        let order = Order { grant: &grant, stream, passed_over, ring: ring.spec(), slots: &slots };
        let frames =
            self.encoder.start(&order, now()).map_err(|e| format!("encoder process: {e}"))?;
        let desktop = self.parts.desktop.as_ref().ok_or("no desktop")?;
        let attach = DesktopCommand::Attach { frames, ring };
        let taken = desktop.send(DesktopCommand::Mode(mode)).and_then(|()| desktop.send(attach));
        taken.map_err(|_| "the desktop does not answer".to_owned())
    }

    fn use_socket(&mut self, viewer: ViewerId, flow: Flow) {
        let arrived = self.flows.take(viewer, flow);
        let Some(grant) = self.life.grant(viewer) else { return };
        let Some(stream) = self.life.stream(viewer) else { return };
        match (flow, arrived) {
            (Flow::Video, Some(arrived)) => self.encoder.set_socket(arrived.socket),
            (Flow::Video, None) => self.encoder.hand_socket(),
            (Flow::Audio, Some(arrived)) => {
                if let Some(audio) = &self.parts.audio {
                    let (spec, key) = (stream.audio.clone(), grant.key.clone());
                    let (socket, rikeyid) = (arrived.socket, grant.rikeyid);
                    audio.attach(AudioViewer { socket, spec, key, rikeyid });
                }
            }
            (Flow::Control, Some(arrived)) => {
                self.flows.control(grant, stream, arrived, now());
                // The first datagram waits already.
                self.look_at_controls(now());
            }
            (Flow::Audio | Flow::Control, None) => {}
        }
    }

    fn command(&self, command: DesktopCommand) {
        // A desktop so busy sees from its closed link that the encoder is gone.
        if let Some(desktop) = &self.parts.desktop {
            let _ = desktop.send(command);
        }
    }

    fn end_app(&mut self, ending: Ending, signal: Signal) {
        self.ending = ending;
        self.due.tick = now();
        if let Some(app) = &self.parts.app {
            match ending {
                Ending::Killing => app.kill(),
                Ending::Asked | Ending::No => app.term(),
            }
        }
        orphans::signal(&self.known(), signal);
    }

    /// Waits, bounded, for a front that has not yet heard how this ended.
    fn farewell(&mut self) {
        let end = now() + FAREWELL_MAX;
        while self.fronts.owes() && now() < end {
            self.fronts.accept(&self.life.identity(std::process::id()));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What operators are told of this session.
    fn told(&self) -> SessionFigures {
        let viewer = self.life.active().map(|(id, stream)| ViewerFigures {
            id,
            mode: stream.video.mode,
            codec: stream.video.codec,
            encoder: self.encoder.name().map(str::to_owned),
            round_trip_us: self.flows.round_trip(id).map(|time| time.as_micros() as u64),
        });
        let mut times = self.encoder.times();
        let drawing = self.parts.desktop.as_ref().map(Desktop::drawing);
        times.extend(drawing.map(|d| d.timed("capture", "From the wish to draw to drawn")));
        SessionFigures {
            app: self.life.app().to_owned(),
            state: self.life.state().into(),
            viewer,
            figures: self.figures(),
            times,
            ..SessionFigures::default()
        }
    }

    fn figures(&self) -> BTreeMap<String, f64> {
        let mut figures = BTreeMap::new();
        let mut put = |name: &str, value: u64| figures.insert(name.to_owned(), value as f64);
        let life = self.life.figures();
        put("viewers", life.viewers);
        put("encoder_restarts", life.encoder_restarts);
        put("encoders_passed_over", life.encoders_passed_over);
        put("encoder_tunings", life.tunings);
        if let Some(tuning) = self.life.tuning() {
            put("encoder_kbps", u64::from(tuning.kbps));
            put("encoder_fec_percent", u64::from(tuning.fec_percent));
        }
        put("key_frames_asked", life.key_frames_asked);
        let hands = self.hands.figures();
        put("input_passed", hands.passed);
        put("input_dropped", hands.dropped);
        put("input_ignored", hands.ignored);
        put("input_released", hands.released);
        put("failures", self.failures);
        self.flows.figures(self.life.active().map(|(viewer, _)| viewer), &mut figures);
        self.encoder.figures(&mut figures);
        let desktop = self.parts.desktop.iter().flat_map(|d| d.figures());
        figures.extend(desktop.map(|(name, value)| (format!("desktop_{name}"), value)));
        let audio = self.parts.audio.iter().flat_map(|a| a.figures());
        figures.extend(audio.map(|(name, value)| (format!("audio_{name}"), value)));
        figures
    }
}

fn readable(fd: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::from_borrowed_fd(fd, PollFlags::IN)
}

fn give(desktop: Option<&Desktop>, given: Given) -> Result<(), hands::Busy> {
    let command = match given {
        Given::Event(event) => DesktopCommand::Input(event),
        Given::ReleaseAll => DesktopCommand::ReleaseAll,
    };
    desktop.map_or(Ok(()), |d| d.send(command).map_err(|_| hands::Busy))
}
