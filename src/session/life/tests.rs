//! Each rule of a session's life in virtual time, and random histories in which the books must balance.
use super::*;
use crate::ipc::{ActiveViewer, AppSpec, ClientId, SessionId, SessionPolicy};
use crate::proto::secret::SessionKey;
use crate::proto::stream::{AudioSpec, Codec, Colorspace, Mode, VideoSpec};

mod encoder_tests;

const MODE: Mode = Mode { width: 1280, height: 720, millihertz: 60_000 };

fn session_spec() -> SessionSpec {
    SessionSpec {
        version: VERSION,
        id: SessionId(7),
        client: ClientId([1; 32]),
        client_name: "client".into(),
        app: AppSpec {
            id: 1,
            title: "Pattern".into(),
            command: vec!["moonshard".into(), "pattern".into()],
            environment: BTreeMap::new(),
            directory: None,
        },
        mode: MODE,
        audio_channels: 2,
        policy: SessionPolicy {
            keep_ms: 30_000,
            never_viewed_ms: 60_000,
            idle_fps: 10,
            slow_app_ms: 15_000,
            reason_ms: 0,
            keyboard_layout: "us".into(),
            keyboard_variant: String::new(),
            encoder: "auto".into(),
            audio: true,
            adapt: false,
            media_cores: vec![],
        },
    }
}

fn stream_spec() -> Box<StreamSpec> {
    Box::new(StreamSpec {
        video: VideoSpec {
            mode: MODE,
            codec: Codec::H264,
            ten_bit: false,
            yuv444: false,
            colorspace: Colorspace::Rec709,
            full_range: false,
            bitrate_kbps: 10_000,
            slices: 1,
            reference_frames_max: 0,
            packet_size: 1024,
            fec_percent: 20,
            fec_packets_min: 2,
            encrypted: true,
            qos: false,
        },
        audio: AudioSpec {
            channels: 2,
            streams: 1,
            coupled: 1,
            mapping: vec![0, 1],
            bitrate: 96_000,
            packet_ms: 5,
            encrypted: true,
            qos: false,
        },
        control_v2: true,
        sends_fec_status: false,
        sends_identity: true,
    })
}

fn grant(viewer: u64) -> ViewerGrant {
    ViewerGrant {
        viewer: ViewerId(viewer),
        key: SessionKey([viewer as u8; 16]),
        rikeyid: 1,
        ping_payload: "0123456789ABCDEF".into(),
        connect_data: viewer as u32,
        peer_id: viewer as u16,
    }
}

/// A life with its own clock; keeps every effect as text, which is easy to assert on.
struct Driver {
    life: Life,
    now: Time,
}

impl Driver {
    fn new() -> Self {
        Self::with(session_spec())
    }

    fn with(spec: SessionSpec) -> Self {
        Self { life: Life::new(spec, Time::ZERO), now: Time::ZERO }
    }

    fn started() -> Self {
        let mut driver = Self::new();
        assert_eq!(driver.on(Event::Started), ["tell Started"]);
        driver
    }

    /// Viewer 1 streams: all sockets there, connected, started.
    fn streaming() -> Self {
        let mut driver = Self::started();
        driver.stream(1);
        driver
    }

    fn stream(&mut self, viewer: u64) {
        self.front(ToSession::Grant(grant(viewer)));
        self.announce(viewer);
        self.on(Event::EncoderReady);
        self.socket(viewer, Flow::Control);
        self.connect(viewer);
        self.socket(viewer, Flow::Video);
        self.socket(viewer, Flow::Audio);
    }

    fn on(&mut self, event: Event) -> Vec<String> {
        let mut out = Vec::new();
        self.life.handle(event, self.now, &mut out);
        out.iter().map(text).collect()
    }

    fn front(&mut self, message: ToSession) -> Vec<String> {
        self.on(Event::Front(message))
    }

    fn announce(&mut self, viewer: u64) -> Vec<String> {
        self.front(ToSession::Announce { viewer: ViewerId(viewer), spec: stream_spec() })
    }

    fn socket(&mut self, viewer: u64, flow: Flow) -> Vec<String> {
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let viewer = ViewerId(viewer);
        let first = vec![];
        self.front(ToSession::Socket { viewer, flow, local: address, peer: address, first })
    }

    fn connect(&mut self, viewer: u64) -> Vec<String> {
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let (local, peer) = (address, address);
        let viewer = ViewerId(viewer);
        self.on(Event::ControlConnected { viewer, local, peer, last_will: vec![] })
    }

    /// Lets time pass, waking the machine when it asks to be; returns what it did with the time (ms).
    fn pass(&mut self, wait: Duration) -> Vec<(u64, String)> {
        let end = self.now + wait;
        let mut all = Vec::new();
        for step in 0.. {
            assert!(step < 10_000, "it asks to be woken without end");
            let Some(at) = self.life.next_timeout().filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            let now = self.now.0 / 1_000_000;
            all.extend(self.on(Event::Timeout).into_iter().map(|what| (now, what)));
        }
        self.now = end;
        all
    }

    fn pass_ms(&mut self, ms: u64) -> Vec<(u64, String)> {
        self.pass(Duration::from_millis(ms))
    }

    fn pulse(&mut self, silent_ms: u64, frames_in: u64, frames_out: u64) -> Vec<String> {
        let silent = Duration::from_millis(silent_ms);
        self.on(Event::EncoderPulse(Pulse { silent, frames_in, frames_out, ..Pulse::default() }))
    }

    /// Keeps the client talking while time passes.
    fn talk(&mut self, viewer: u64, ms: u64) {
        for _ in 0..ms / 100 {
            self.pass_ms(100);
            self.on(Event::Heard { viewer: ViewerId(viewer) });
        }
    }
}

fn text(effect: &Effect) -> String {
    match effect {
        Effect::Tell(message) => match message {
            FromSession::ViewerGone { viewer, reason } => format!("gone {} {reason}", viewer.0),
            FromSession::ViewerReady { viewer } => format!("ready {}", viewer.0),
            FromSession::ViewerConnected { viewer, .. } => format!("connected {}", viewer.0),
            FromSession::ViewerRefused { viewer, status, reason } => {
                format!("refused {} {status} {reason}", viewer.0)
            }
            FromSession::AppExited { status, .. } => format!("app exited {status}"),
            other => format!("tell {other:?}"),
        },
        Effect::StartEncoder { viewer, .. } => format!("start encoder {}", viewer.0),
        Effect::UseSocket { viewer, flow } => format!("use {} {flow:?}", viewer.0),
        Effect::DropSockets { viewer } => format!("drop sockets {}", viewer.0),
        Effect::Terminate { viewer, why } => format!("terminate {} {:08x}", viewer.0, why.code()),
        Effect::CloseControl { viewer } => format!("close control {}", viewer.0),
        Effect::HdrOff { viewer } => format!("hdr off {}", viewer.0),
        other => format!("{other:?}"),
    }
}

const GOES: [&str; 4] = ["StopEncoder", "DetachAudio", "ReleaseInputs", "drop sockets 1"];

#[test]
fn a_start_that_fails_is_told_and_ends_the_session() {
    let mut driver = Driver::new();
    let told = driver.on(Event::StartFailed { reason: "no such file".into() });
    assert_eq!(told, ["tell StartFailed { reason: \"no such file\" }", "EndApp"]);
    assert_eq!(driver.on(Event::AppGone), ["Exit"]);
    assert!(driver.life.is_over());
    assert!(driver.announce(1).is_empty());
}

#[test]
fn an_announcement_before_the_start_or_without_a_grant_is_refused() {
    let mut driver = Driver::new();
    driver.front(ToSession::Grant(grant(1)));
    assert_eq!(driver.announce(1), ["refused 1 503 the session is still starting"]);
    driver.on(Event::Started);
    assert_eq!(driver.announce(2), ["refused 2 503 the launch has expired"]);
    assert_eq!(driver.announce(1), ["start encoder 1"]);
    assert_eq!(driver.announce(1), ["refused 1 400 announced twice"]);
}

#[test]
fn sockets_that_come_before_the_announcement_are_used_when_their_time_has_come() {
    let mut driver = Driver::started();
    driver.front(ToSession::Grant(grant(1)));
    for flow in [Flow::Audio, Flow::Control, Flow::Video] {
        assert!(driver.socket(1, flow).is_empty());
    }
    assert_eq!(driver.announce(1), ["start encoder 1", "use 1 Video", "use 1 Control"]);
    assert_eq!(driver.on(Event::EncoderReady), ["ready 1"]);
    assert_eq!(driver.connect(1), ["connected 1", "use 1 Audio"]);
}

#[test]
fn sockets_of_nobody_are_dropped() {
    let mut driver = Driver::streaming();
    assert_eq!(driver.socket(9, Flow::Video), ["drop sockets 9"]);
}

#[test]
fn a_flow_that_comes_again_is_used_again() {
    let mut driver = Driver::streaming();
    for flow in [Flow::Video, Flow::Control, Flow::Audio] {
        assert_eq!(driver.socket(1, flow), [format!("use 1 {flow:?}")]);
    }
}

#[test]
fn grants_are_bounded_and_the_newest_win() {
    let mut driver = Driver::started();
    for viewer in 1..=4 {
        assert!(driver.front(ToSession::Grant(grant(viewer))).is_empty());
    }
    // Told twice changes nothing.
    assert!(driver.front(ToSession::Grant(grant(4))).is_empty());
    let told = driver.front(ToSession::Grant(grant(5)));
    assert_eq!(told, ["drop sockets 1", "gone 1 too many grants, the newest win"]);
    assert!(driver.life.grant(ViewerId(1)).is_none());
    assert_eq!(driver.announce(1), ["refused 1 503 the launch has expired"]);
    assert_eq!(driver.announce(5), ["start encoder 5"]);
}

#[test]
fn a_void_grant_is_forgotten() {
    let mut driver = Driver::started();
    driver.front(ToSession::Grant(grant(1)));
    let end = ToSession::EndViewer { viewer: ViewerId(1), reason: "expired".into() };
    assert_eq!(driver.front(end), ["drop sockets 1", "gone 1 expired"]);
    assert_eq!(driver.announce(1), ["refused 1 503 the launch has expired"]);
}

#[test]
fn an_encoder_that_does_not_start_refuses_the_viewer_with_its_reason() {
    let mut driver = Driver::started();
    driver.front(ToSession::Grant(grant(1)));
    driver.announce(1);
    driver.on(Event::EncoderFailed { reason: "no encoder for av1".into() });
    let told = driver.on(Event::EncoderExited { status: "exit 1".into() });
    assert_eq!(told[0], "refused 1 503 no encoder for av1");
    assert_eq!(told.last().unwrap(), "gone 1 the encoder did not start");
    assert!(driver.life.grant(ViewerId(1)).is_none(), "no half session");
    assert_eq!(driver.life.figures().encoder_restarts, 0);
}

#[test]
fn an_encoder_that_never_gets_ready_refuses_the_viewer() {
    let mut driver = Driver::started();
    driver.front(ToSession::Grant(grant(1)));
    driver.announce(1);
    let did = driver.pass(ENCODER_START_MAX);
    assert_eq!(did[0], (8_000, "KillEncoder".into()));
    assert_eq!(did[1].1, "refused 1 503 the encoder did not start in time");
}

#[test]
fn a_viewer_that_never_connects_is_ended() {
    let mut driver = Driver::started();
    driver.front(ToSession::Grant(grant(1)));
    driver.announce(1);
    driver.pass_ms(500);
    driver.on(Event::EncoderReady);
    let did = driver.pass(CONNECT_MAX);
    assert_eq!(did[0], (15_500, "close control 1".into()));
    assert_eq!(did.last().unwrap().1, "gone 1 no control connection came");
}

#[test]
fn a_client_that_disconnects_leaves_nothing_held_and_its_enet_is_served_a_moment() {
    let mut driver = Driver::streaming();
    let told = driver.on(Event::ControlClosed { viewer: ViewerId(1) });
    assert_eq!(told[..4], GOES);
    assert_eq!(told[4], "gone 1 the client disconnected");
    assert!(!driver.life.streaming());
    assert_eq!(driver.pass_ms(299), []);
    assert_eq!(driver.pass_ms(1), [(300, "close control 1".into())]);
    // Once is enough.
    assert!(driver.on(Event::ControlClosed { viewer: ViewerId(1) }).is_empty());
}

#[test]
fn a_silent_client_is_gone_after_ten_seconds_and_told_so() {
    let mut driver = Driver::streaming();
    driver.talk(1, 15_000);
    assert!(driver.life.streaming());
    let did = driver.pass_ms(10_000);
    assert_eq!(did[0], (25_000, "terminate 1 80030023".into()));
    assert_eq!(did[5], (25_000, "gone 1 no control message for 10 s".into()));
}

#[test]
fn the_front_can_end_a_viewer_who_is_told_first() {
    let mut driver = Driver::streaming();
    let end = ToSession::EndViewer { viewer: ViewerId(1), reason: "revoked".into() };
    let told = driver.front(end);
    assert_eq!(told[0], "terminate 1 80030023");
    assert_eq!(told[1..5], GOES);
    assert_eq!(told[5], "gone 1 revoked");
}

#[test]
fn a_newer_viewer_takes_over_when_it_announces_and_not_before() {
    let mut driver = Driver::streaming();
    assert!(driver.front(ToSession::Grant(grant(2))).is_empty());
    assert!(driver.life.streaming());
    let told = driver.announce(2);
    assert_eq!(told[0], "terminate 1 80030023");
    assert_eq!(told[1..5], GOES);
    assert_eq!(told[5], "gone 1 another connection took over");
    assert_eq!(told[6], "start encoder 2");
    // Words of the old one change nothing.
    assert!(driver.on(Event::ControlClosed { viewer: ViewerId(1) }).is_empty());
    assert!(driver.on(Event::KeyFrameAsked { viewer: ViewerId(1) }).is_empty());
    assert_eq!(driver.pass_ms(300), [(300, "close control 1".into())]);
}

#[test]
fn leaving_viewers_are_bounded() {
    let mut driver = Driver::streaming();
    let mut closed = vec![];
    for viewer in 2..=6 {
        driver.front(ToSession::Grant(grant(viewer)));
        let told = driver.announce(viewer);
        closed.extend(told.into_iter().filter(|what| what.starts_with("close control")));
        driver.on(Event::EncoderReady);
        driver.connect(viewer);
    }
    assert_eq!(closed, ["close control 1"]);
}

#[test]
fn the_hdr_state_is_sent_when_the_client_is_ready() {
    let mut driver = Driver::streaming();
    assert_eq!(driver.on(Event::StartB { viewer: ViewerId(1) }), ["hdr off 1"]);
}

#[test]
fn key_frames_are_coalesced() {
    let mut driver = Driver::streaming();
    let ask = Event::KeyFrameAsked { viewer: ViewerId(1) };
    assert_eq!(driver.on(ask.clone()), ["KeyFrame"]);
    for _ in 0..9 {
        assert!(driver.on(ask.clone()).is_empty());
    }
    assert_eq!(driver.pass_ms(1_000), [(50, "KeyFrame".into())]);
    assert_eq!(driver.life.figures().key_frames_asked, 10);
}

#[test]
fn the_first_message_asks_for_no_second_key_frame_before_the_video_flows() {
    let mut driver = Driver::started();
    driver.front(ToSession::Grant(grant(1)));
    driver.announce(1);
    driver.on(Event::EncoderReady);
    driver.connect(1);
    assert!(driver.on(Event::KeyFrameAsked { viewer: ViewerId(1) }).is_empty());
}

#[test]
fn a_dead_encoder_is_replaced_on_the_same_sockets_and_the_client_stays() {
    let mut driver = Driver::streaming();
    let told = driver.on(Event::EncoderExited { status: "signal 9".into() });
    assert_eq!(told, ["start encoder 1", "use 1 Video"]);
    assert!(driver.on(Event::EncoderReady).is_empty(), "ready is told once");
    assert!(driver.life.streaming());
}

#[test]
fn a_fourth_death_within_ten_seconds_ends_the_viewer_with_a_reason() {
    let mut driver = Driver::streaming();
    for _ in 0..3 {
        driver.pass_ms(1_000);
        let told = driver.on(Event::EncoderExited { status: "signal 6".into() });
        assert_eq!(told[0], "start encoder 1");
        driver.on(Event::EncoderReady);
    }
    let told = driver.on(Event::EncoderExited { status: "signal 6".into() });
    assert_eq!(told[0], "terminate 1 800e9403");
    assert_eq!(told[5], "gone 1 the encoder failed 4 times: the encoder ended: signal 6");
    assert!(!driver.life.is_over(), "the game goes on");
}

#[test]
fn deaths_far_apart_are_mended_for_ever() {
    let mut driver = Driver::streaming();
    for _ in 0..20 {
        driver.talk(1, 4_000);
        let told = driver.on(Event::EncoderExited { status: "signal 11".into() });
        assert_eq!(told[0], "start encoder 1");
        driver.on(Event::EncoderReady);
    }
}

#[test]
fn an_encoder_without_a_sign_of_life_is_killed_and_replaced() {
    let mut driver = Driver::streaming();
    assert!(driver.pulse(1_000, 5, 5).is_empty());
    let told = driver.pulse(1_001, 5, 5);
    assert_eq!(told, ["KillEncoder", "start encoder 1", "use 1 Video"]);
    // The new one is given time to start.
    assert!(driver.pulse(5_000, 5, 5).is_empty());
}

#[test]
fn an_encoder_that_takes_frames_and_gives_none_is_replaced_within_a_second() {
    let mut driver = Driver::streaming();
    driver.pulse(0, 100, 100);
    for step in 1..=11 {
        driver.pass_ms(100);
        assert!(driver.pulse(0, 104, 100).is_empty(), "step {step}");
    }
    driver.pass_ms(100);
    assert_eq!(driver.pulse(0, 104, 100)[0], "KillEncoder");
}

#[test]
fn an_idle_encoder_and_a_slow_one_are_left_alone() {
    let mut driver = Driver::streaming();
    for frame in 0..50 {
        driver.talk(1, 900);
        assert!(driver.pulse(0, frame + 1, frame).is_empty());
        assert!(driver.pulse(0, frame + 1, frame + 1).is_empty());
        driver.talk(1, 2_000);
        assert!(driver.pulse(0, frame + 1, frame + 1).is_empty());
    }
}

#[test]
fn a_new_encoder_that_does_not_get_ready_counts_as_a_failure() {
    let mut driver = Driver::streaming();
    driver.on(Event::EncoderExited { status: "signal 9".into() });
    driver.talk(1, 4_900);
    let did = driver.pass_ms(100);
    assert_eq!(did[0], (5_000, "KillEncoder".into()));
    assert_eq!(did[1].1, "start encoder 1");
}

#[test]
fn an_app_that_ends_ends_the_session_and_the_viewer_is_told() {
    let mut driver = Driver::streaming();
    let exited = Event::AppExited { status: "exit 0".into(), last_words: "bye".into() };
    let told = driver.on(exited);
    assert_eq!(told[..2], ["app exited exit 0", "terminate 1 80030023"]);
    assert_eq!(told.last().unwrap(), "EndApp");
    assert!(driver.on(Event::AppGone).is_empty(), "its ENet is served a moment longer");
    let did = driver.pass_ms(2_000);
    assert_eq!(did, [(300, "close control 1".into()), (300, "Exit".into())]);
}

#[test]
fn an_app_that_ends_unseen_ends_the_session_at_once() {
    let mut driver = Driver::started();
    let exited = Event::AppExited { status: "exit 127".into(), last_words: String::new() };
    assert_eq!(driver.on(exited), ["app exited exit 127", "EndApp"]);
    assert_eq!(driver.on(Event::AppGone), ["Exit"]);
}

#[test]
fn a_desktop_that_dies_ends_the_session_and_the_viewer_is_told() {
    let mut driver = Driver::streaming();
    let told = driver.on(Event::DesktopLost);
    assert_eq!(told[0], "terminate 1 80030023");
    assert_eq!(told[5..], ["gone 1 the desktop has died", "EndApp"]);
}

#[test]
fn stop_is_over_within_two_seconds_even_if_the_app_does_not_listen() {
    let mut driver = Driver::streaming();
    let told = driver.front(ToSession::Stop { reason: "cancel".into() });
    assert_eq!(told[0], "terminate 1 80030023");
    assert_eq!(told[5], "gone 1 cancel");
    assert_eq!(told[6], "EndApp");
    let did = driver.pass_ms(5_000);
    let expected = [(300, "close control 1"), (1_500, "KillApp"), (1_900, "Exit")];
    assert_eq!(did, expected.map(|(ms, what)| (ms, what.to_owned())));
}

#[test]
fn a_second_stop_and_late_announcements_change_nothing() {
    let mut driver = Driver::streaming();
    driver.front(ToSession::Grant(grant(2)));
    let told = driver.front(ToSession::Stop { reason: "cancel".into() });
    assert!(told.contains(&"drop sockets 2".into()));
    assert!(driver.front(ToSession::Stop { reason: "again".into() }).is_empty());
    assert_eq!(driver.announce(2), ["refused 2 503 the session is ending"]);
    let exited = Event::AppExited { status: "exit 0".into(), last_words: String::new() };
    assert!(driver.on(exited).is_empty());
    driver.pass_ms(400);
    assert_eq!(driver.on(Event::AppGone), ["Exit"]);
}

#[test]
fn a_session_that_was_never_viewed_ends_after_its_time() {
    let mut driver = Driver::started();
    let did = driver.pass_ms(60_000);
    assert_eq!(did, [(60_000, "EndApp".into())]);
}

#[test]
fn a_paused_session_is_kept_for_its_time_after_the_last_viewer() {
    let mut driver = Driver::streaming();
    driver.talk(1, 100_000);
    driver.on(Event::ControlClosed { viewer: ViewerId(1) });
    driver.pass_ms(29_000);
    driver.stream(2);
    assert!(driver.life.streaming(), "resumed");
    driver.on(Event::ControlClosed { viewer: ViewerId(2) });
    let did = driver.pass_ms(30_000);
    assert_eq!(did.last().unwrap(), &(159_000, "EndApp".into()));
}

#[test]
fn keep_zero_lives_while_the_app_runs() {
    let mut spec = session_spec();
    spec.policy.keep_ms = 0;
    let mut driver = Driver::with(spec);
    driver.on(Event::Started);
    driver.stream(1);
    driver.on(Event::ControlClosed { viewer: ViewerId(1) });
    assert_eq!(driver.pass_ms(100_000_000), [(300, "close control 1".into())]);
    assert_eq!(driver.life.next_timeout(), None);
}

#[test]
fn a_fresh_grant_holds_the_session_back_from_ending() {
    let mut driver = Driver::streaming();
    driver.on(Event::ControlClosed { viewer: ViewerId(1) });
    driver.pass_ms(29_999);
    driver.front(ToSession::Grant(grant(2)));
    assert_eq!(driver.pass_ms(9_000), []);
    driver.stream(2);
    assert!(driver.life.streaming());
}

#[test]
fn a_viewer_that_fails_to_connect_does_not_prolong_a_session_for_ever() {
    let mut driver = Driver::started();
    driver.pass_ms(59_000);
    driver.front(ToSession::Grant(grant(1)));
    driver.announce(1);
    driver.on(Event::EncoderReady);
    let did = driver.pass_ms(15_000);
    assert_eq!(did.last().unwrap(), &(74_000, "EndApp".into()));
}

#[test]
fn the_identity_names_all_grants_and_whether_it_streams() {
    let mut driver = Driver::streaming();
    driver.front(ToSession::Grant(grant(2)));
    let FromSession::Identity { started, streaming, grants, pid, .. } = driver.life.identity(42)
    else {
        panic!("no identity");
    };
    assert!(started && streaming);
    assert_eq!(pid, 42);
    let viewers: Vec<u64> = grants.iter().map(|g| g.viewer.0).collect();
    assert_eq!(viewers, [2, 1]);
    assert_eq!(driver.life.stream(ViewerId(1)), Some(&*stream_spec()));
}

#[test]
fn the_identity_tells_how_far_the_active_viewer_has_come_and_in_which_mode() {
    let told = |driver: &Driver| match driver.life.identity(42) {
        FromSession::Identity { active, spec, .. } => (active, spec.mode),
        other => panic!("{other:?}"),
    };
    let mut driver = Driver::started();
    driver.front(ToSession::Grant(grant(1)));
    assert_eq!(told(&driver), (None, MODE));
    let mode = Mode { width: 640, height: 360, millihertz: 30_000 };
    let mut spec = stream_spec();
    spec.video.mode = mode;
    driver.front(ToSession::Announce { viewer: ViewerId(1), spec });
    let active = |ready, connected| Some(ActiveViewer { viewer: ViewerId(1), ready, connected });
    assert_eq!(told(&driver), (active(false, None), mode));
    driver.on(Event::EncoderReady);
    assert_eq!(told(&driver), (active(true, None), mode));
    let (local, peer) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
    let (viewer, last_will) = (ViewerId(1), vec![4, 2]);
    driver.on(Event::ControlConnected { viewer, local, peer, last_will: last_will.clone() });
    let connected = ConnectedViewer { local, peer, last_will };
    assert_eq!(told(&driver), (active(true, Some(connected)), mode));
    driver.on(Event::ControlClosed { viewer });
    assert_eq!(told(&driver), (None, mode));
}

/// What must hold whatever happens in whatever order.
#[derive(Default)]
struct Ledger {
    /// Viewer whose encoder was started and who has not gone.
    active: Option<u64>,
    ready: bool,
    connected: bool,
    starts: Vec<Time>,
    held: bool,
    app_ended: Option<Time>,
    over: bool,
}

impl Ledger {
    fn enter(&mut self, effect: &Effect, now: Time) {
        assert!(!self.over, "{effect:?} after the end");
        match effect {
            Effect::StartEncoder { viewer, .. } => {
                if self.active != Some(viewer.0) {
                    assert_eq!(self.active, None, "two viewers at once");
                    *self = Self { active: Some(viewer.0), ..Self::default() };
                }
                self.starts.retain(|at| now.since(*at) < RESTART_WINDOW);
                self.starts.push(now);
                assert!(self.starts.len() <= RESTARTS_MAX + 1, "encoders without end");
                self.held = true;
            }
            Effect::ReleaseInputs => self.held = false,
            Effect::Tell(FromSession::ViewerReady { viewer }) => {
                assert_eq!(self.active, Some(viewer.0));
                assert!(!std::mem::replace(&mut self.ready, true), "ready twice");
            }
            Effect::Tell(FromSession::ViewerConnected { viewer, .. }) => {
                assert_eq!(self.active, Some(viewer.0));
                self.connected = true;
            }
            Effect::Tell(FromSession::ViewerRefused { viewer, status, .. }) => {
                let is_second_announcement = *status == 400;
                assert!(self.active != Some(viewer.0) || is_second_announcement || !self.ready);
            }
            Effect::Tell(FromSession::ViewerGone { viewer, .. })
                if self.active == Some(viewer.0) =>
            {
                assert!(!self.held, "a viewer went and something is still held");
                self.active = None;
            }
            Effect::Terminate { viewer, .. } => {
                assert_eq!(self.active, Some(viewer.0), "the word comes before the farewell");
                assert!(self.connected);
            }
            Effect::EndApp => {
                assert_eq!(self.active, None, "the app ends after its viewer was told");
                assert_eq!(self.app_ended, None, "ended twice");
                self.app_ended = Some(now);
            }
            Effect::Exit => {
                let since = self.app_ended.expect("the app is ended before the session");
                assert!(now.since(since) <= END_MAX);
                self.over = true;
            }
            _ => {}
        }
    }
}

fn event_of(choice: u8, viewer: u64) -> Event {
    let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let (id, first) = (ViewerId(viewer), vec![]);
    let socket = |flow| {
        let (local, peer, first) = (address, address, first.clone());
        Event::Front(ToSession::Socket { viewer: id, flow, local, peer, first })
    };
    let pulse = |silent, frames_in, frames_out| {
        let silent = Duration::from_millis(silent);
        Event::EncoderPulse(Pulse { silent, frames_in, frames_out, ..Pulse::default() })
    };
    match choice {
        0..=2 => Event::Front(ToSession::Grant(grant(viewer))),
        3..=5 => Event::Front(ToSession::Announce { viewer: id, spec: stream_spec() }),
        6 => socket(Flow::Video),
        7 => socket(Flow::Control),
        8 => socket(Flow::Audio),
        9..=11 => Event::EncoderReady,
        12 => Event::EncoderFailed { reason: "why".into() },
        13 => Event::EncoderExited { status: "signal 9".into() },
        14 => pulse(2_000, 0, 0),
        15 => pulse(0, 9, viewer),
        16..=18 => {
            let (local, peer, last_will) = (address, address, vec![]);
            Event::ControlConnected { viewer: id, local, peer, last_will }
        }
        19 => Event::ControlClosed { viewer: id },
        20..=22 => Event::Heard { viewer: id },
        23 => Event::KeyFrameAsked { viewer: id },
        24 => Event::StartB { viewer: id },
        25 => Event::Front(ToSession::EndViewer { viewer: id, reason: "ended".into() }),
        26 => Event::Front(ToSession::AskFigures),
        27 => Event::AppGone,
        28 if viewer == 0 => {
            Event::AppExited { status: "exit 0".into(), last_words: String::new() }
        }
        29 if viewer == 0 => Event::DesktopLost,
        30 if viewer == 0 => Event::Front(ToSession::Stop { reason: "stop".into() }),
        _ => Event::Timeout,
    }
}

proptest::proptest! {
    #[test]
    fn whatever_happens_the_books_balance_and_a_stop_ends_it(
        steps in proptest::collection::vec((0u8..32, 0u64..4, 0u64..1_500), 0..300)
    ) {
        let mut life = Life::new(session_spec(), Time::ZERO);
        let mut ledger = Ledger::default();
        let mut now = Time::ZERO;
        let mut out = Vec::new();
        let mut step = |life: &mut Life, event: Event, now: Time| {
            life.handle(event, now, &mut out);
            out.drain(..).for_each(|effect| ledger.enter(&effect, now));
        };
        step(&mut life, Event::Started, now);
        let wait = |life: &mut Life, now: &mut Time, wait: u64, step: &mut dyn FnMut(&mut Life, Event, Time)| {
            let end = *now + Duration::from_millis(wait);
            let mut wakes = 0;
            while let Some(at) = life.next_timeout().filter(|at| *at <= end) {
                *now = at.max(*now);
                step(life, Event::Timeout, *now);
                wakes += 1;
                assert!(wakes < 1_000, "it wakes without end");
            }
            *now = end;
        };
        for (choice, viewer, ms) in steps {
            step(&mut life, event_of(choice, viewer), now);
            wait(&mut life, &mut now, ms, &mut step);
            assert!(life.grants.len() <= GRANTS_MAX && life.leaving.len() <= LEAVING_MAX);
        }
        step(&mut life, Event::Front(ToSession::Stop { reason: "end".into() }), now);
        wait(&mut life, &mut now, 2_000, &mut step);
        assert!(life.is_over(), "a stop is over within two seconds");
    }
}
