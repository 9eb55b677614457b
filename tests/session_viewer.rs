//! A viewer's whole way through a real session process: grant, announcement, sockets, control
//! connection, frames, and what happens when parts of it die.
//!
//! This program plays the encoder of the sessions that it starts (they start `/proc/self/exe`), so that
//! encoders can be told to die, hang or refuse; the rest is real. Its bitrate is an encoder's script.
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use moonshard::ipc::{
    AppSpec, ClientId, EncoderBoot, FrameNote, FromEncoder, FromSession, SessionBoot, SessionId,
    SessionPolicy, SessionSpec, ToEncoder, ToSession, VERSION, ViewerGrant, ViewerId,
};
use moonshard::proc::boot::{self, Spawn};
use moonshard::proc::child::Child;
use moonshard::proc::link::{Link, LinkError};
use moonshard::proc::page::{Figure, ViewerPage};
use moonshard::proto::control::{
    Feedback, LAST_WILL_SEQUENCE, Message, TERMINATED_BY_HOST, Version,
};
use moonshard::proto::input::{InputEvent, MouseButton};
use moonshard::proto::stream::{Flow, Mode, StreamSpec};
use moonshard::proto::video::{Event, Receiver, ReceiverParameters};
use moonshard::time::Time;
use rusty_enet::PeerID;

mod encoder_faults;
mod session_client;

use session_client::{CONNECT_DATA, Client, Door, PATIENCE, grant, stream};

/// A session whose encoders are real, and fail as their names say.
const FAULTY: SessionId = SessionId(0xfa17);

// What the encoder is to do, as its bitrate.
const WORKS: u32 = 10_000;
const REFUSES: u32 = 1_001;
const HANGS_ONCE: u32 = 1_002;
const STOPS_ONCE: u32 = 1_003;
const DIES_ALWAYS: u32 = 1_004;

/// Frames after which an encoder does what it is to do.
const FRAMES: u64 = 10;

type Test = (&'static str, fn());

const TESTS: [Test; 13] = [
    (
        "an_encoder_that_fails_in_any_way_gives_way_to_the_next",
        an_encoder_that_fails_in_any_way_gives_way_to_the_next,
    ),
    ("an_app_that_ends_tells_the_viewer", an_app_that_ends_tells_the_viewer),
    ("real_frames_survive_their_encoder", real_frames_survive_their_encoder),
    ("a_viewer_streams_leaves_and_another_resumes", a_viewer_streams_leaves_and_another_resumes),
    ("sockets_may_come_before_the_announcement", sockets_may_come_before_the_announcement),
    ("a_killed_encoder_is_replaced", a_killed_encoder_is_replaced),
    (
        "an_encoder_that_makes_no_progress_is_replaced",
        an_encoder_that_makes_no_progress_is_replaced,
    ),
    ("an_encoder_without_heartbeat_is_replaced", an_encoder_without_heartbeat_is_replaced),
    ("an_encoder_that_always_dies_ends_the_viewer", an_encoder_that_always_dies_ends_the_viewer),
    ("an_encoder_that_refuses_refuses_the_viewer", an_encoder_that_refuses_refuses_the_viewer),
    ("a_newer_viewer_takes_over", a_newer_viewer_takes_over),
    ("a_stop_tells_the_viewer", a_stop_tells_the_viewer),
    (
        "a_killed_session_leaves_a_last_will_and_no_child",
        a_killed_session_leaves_a_last_will_and_no_child,
    ),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("session") => return moonshard::session::main(),
        Some("encoder") if arguments.get(1) == Some(&FAULTY.to_string()) => {
            return moonshard::encoder::main_with(encoder_faults::ROWS, encoder_faults::register);
        }
        Some("encoder") => return encoder(),
        _ => {}
    }
    if arguments.iter().any(|a| a == "--list") {
        TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let wanted = arguments.iter().find(|a| !a.starts_with('-'));
    let is_wanted = |(name, _): &&Test| wanted.is_none_or(|w| name.contains(w.as_str()));
    for (name, test) in TESTS.iter().filter(is_wanted) {
        // A test that fails panics, which ends this program with a code other than 0.
        test();
        println!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

// --- the encoder ------------------------------------------------------------------------------------

/// Sends a datagram for each frame: frame index and epoch.
fn encoder() -> ExitCode {
    let (boot, fds) = boot::receive::<EncoderBoot>(boot::inherited()).unwrap();
    let mut fds = fds.into_iter();
    let frames = Link::from_fd(fds.next().unwrap());
    let control = Link::from_fd(fds.next().unwrap());
    let page = ViewerPage::open(fds.next().unwrap()).unwrap();
    assert_eq!(fds.count(), boot.ring.slots as usize);
    page.beat(now_ns());
    let script = boot.spec.video.bitrate_kbps;
    if boot.passed_over.contains(&"fake".to_owned()) {
        let reason = "fake failed too often".into();
        control.send(&FromEncoder::Failed { reason }, &[]).unwrap();
        return ExitCode::FAILURE;
    }
    control.send(&FromEncoder::Trying { encoder: "fake".into() }, &[]).unwrap();
    match script {
        REFUSES => {
            let reason = "no such encoder here".into();
            control.send(&FromEncoder::Failed { reason }, &[]).unwrap();
            return ExitCode::FAILURE;
        }
        _ => control.send(&FromEncoder::Ready { encoder: "fake".into() }, &[]).unwrap(),
    }
    let mut socket: Option<UdpSocket> = None;
    let mut seen = 0;
    loop {
        page.beat(now_ns());
        match control.receive::<ToEncoder>() {
            Ok((ToEncoder::Socket, fds)) => socket = fds.into_iter().next().map(UdpSocket::from),
            Ok((ToEncoder::KeyFrame, _)) => page.add(Figure::KeyFrames, 1),
            Ok((ToEncoder::Bitrate { .. } | ToEncoder::Parity { .. }, _))
            | Err(LinkError::Empty) => {}
            Ok((ToEncoder::Stop, _)) | Err(_) => return ExitCode::SUCCESS,
        }
        let mut buffer = [0; FrameNote::BYTES];
        let Ok((length, _)) = frames.receive_bytes(&mut buffer) else {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        };
        let note = FrameNote::from_bytes(&buffer[..length]).unwrap();
        page.add(Figure::FramesReceived, 1);
        seen += 1;
        match script {
            HANGS_ONCE if boot.epoch == 0 && seen >= FRAMES && socket.is_some() => continue,
            STOPS_ONCE if boot.epoch == 0 && seen >= FRAMES && socket.is_some() => {
                rustix::process::kill_process(
                    rustix::process::getpid(),
                    rustix::process::Signal::STOP,
                )
                .unwrap();
            }
            DIES_ALWAYS if socket.is_some() => std::process::abort(),
            _ => {}
        }
        let Ok(frame) = page.reserve_frame(boot.epoch) else { return ExitCode::FAILURE };
        if let Some(socket) = &socket {
            let mut datagram = frame.to_be_bytes().to_vec();
            datagram.extend(boot.epoch.to_be_bytes());
            let _ = socket.send(&datagram);
            page.add(Figure::FramesSent, 1);
        } else {
            page.add(Figure::FramesDropped, 1);
        }
        let _ = frames.send_bytes(&note.to_bytes(), &[]);
    }
}

fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

// --- the session and a client -----------------------------------------------------------------------

struct Session {
    process: Child,
    link: Link,
    told: Vec<FromSession>,
    directory: tempfile::TempDir,
    /// Its encoders send real frames, which [`Picture`] receives.
    is_real: bool,
}

impl Session {
    /// With the encoder of this file.
    fn start() -> Self {
        Self::start_from(&boot::own_binary())
    }

    fn start_from(program: &Path) -> Self {
        Self::start_with(program, SessionId(0x5e55_1018), "auto")
    }

    fn start_with(program: &Path, id: SessionId, encoder: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let spec = SessionSpec {
            version: VERSION,
            id,
            client: ClientId([3; 32]),
            client_name: "client".into(),
            app: AppSpec {
                id: 1,
                title: "Test".into(),
                command: vec!["sleep".into(), "1000".into()],
                environment: BTreeMap::new(),
                directory: None,
            },
            mode: Mode { width: 320, height: 240, millihertz: 60_000 },
            audio_channels: 2,
            policy: SessionPolicy {
                keep_ms: 0,
                never_viewed_ms: 60_000,
                idle_fps: 10,
                slow_app_ms: 15_000,
                reason_ms: 0,
                keyboard_layout: "us".into(),
                keyboard_variant: String::new(),
                encoder: encoder.into(),
                audio: false,
                adapt: true,
                media_cores: vec![],
            },
        };
        let socket = directory.path().join("session.sock");
        let listener = Link::listen(&socket).unwrap();
        let lock: OwnedFd = std::fs::File::create(directory.path().join("lock")).unwrap().into();
        let how = Spawn {
            kind: "session",
            label: "5e551018",
            fds: &[listener.as_fd(), lock.as_fd()],
            dies_with_parent: true,
            output: None,
            oom_score_adj: 200,
        };
        let boot = SessionBoot { spec, directory: directory.path().to_owned() };
        let process = boot::spawn_from(program, &how, &boot).unwrap();
        let link = Link::connect(&socket).unwrap();
        let is_real = id == FAULTY || program != boot::own_binary();
        Self { process, link, told: vec![], directory, is_real }
    }

    fn say(&self, message: &ToSession) {
        self.link.send(message, &[]).unwrap();
    }

    fn hear(&mut self) {
        while let Ok((message, _)) = self.link.receive() {
            self.told.push(message);
        }
    }

    /// Waits for a message that is wanted, also one told before; each is found once.
    fn told<T>(&mut self, want: impl Fn(&FromSession) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            self.hear();
            if let Some(at) = self.told.iter().position(|m| want(m).is_some()) {
                return want(&self.told.remove(at)).expect("just seen");
            }
            assert!(Instant::now() < end, "not told among {:?}", self.told);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn figures(&mut self) -> BTreeMap<String, f64> {
        self.say(&ToSession::AskFigures);
        self.told(|m| match m {
            FromSession::Figures { figures } => Some(figures.clone()),
            _ => None,
        })
    }

    /// Processes that the session has started, except those that are dead.
    fn children(&self) -> Vec<(u32, String)> {
        let pid = self.process.pid();
        let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let list = list.unwrap_or_default();
        let command = |pid: &str| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
            Some((pid.parse().ok()?, line.replace('\0', " ")))
        };
        list.split_whitespace().filter_map(command).filter(|(_, line)| !line.is_empty()).collect()
    }

    fn encoder(&self) -> u32 {
        let children = self.children();
        let found = children.iter().rfind(|(_, line)| line.contains("encoder"));
        found.unwrap_or_else(|| panic!("no encoder among {children:?}")).0
    }
}

fn viewer_grant(viewer: u64) -> ViewerGrant {
    ViewerGrant { viewer: ViewerId(viewer), ..grant() }
}

fn stream_with(script: u32) -> Box<StreamSpec> {
    let mut stream = stream(true, true);
    stream.video.mode = Mode { width: 320, height: 240, millihertz: 60_000 };
    stream.video.bitrate_kbps = script;
    Box::new(stream)
}

/// One flow of media: what the client receives, and what the session sends on.
struct Media {
    client: UdpSocket,
    is_real: bool,
    last: Option<(u64, u16)>,
}

/// A viewer as front, door and client together make it.
struct Viewer {
    id: ViewerId,
    door: Door,
    client: Client,
    video: Media,
}

impl Viewer {
    /// Grants, announces, waits for readiness and connects all flows.
    fn connect(session: &mut Session, id: u64, script: u32) -> Self {
        Self::connect_with(session, id, stream_with(script))
    }

    fn connect_with(session: &mut Session, id: u64, spec: Box<StreamSpec>) -> Self {
        session.say(&ToSession::Grant(viewer_grant(id)));
        session.say(&ToSession::Announce { viewer: ViewerId(id), spec });
        ready(session, id);
        let mut viewer = Self::prepare(session, id);
        viewer.connected(session);
        viewer
    }

    /// Hands over the sockets of all flows.
    fn prepare(session: &Session, id: u64) -> Self {
        let viewer = ViewerId(id);
        let door = Door::new();
        let mut client = Client::connect(door.address(), CONNECT_DATA, Version::V2);
        client.service();
        let (socket, first, peer) = door.hand_over();
        let message =
            ToSession::Socket { viewer, flow: Flow::Control, local: door.address(), peer, first };
        session.link.send(&message, &[socket.as_fd()]).unwrap();
        let video = media(session, viewer, Flow::Video);
        media(session, viewer, Flow::Audio);
        Self { id: viewer, door, client, video }
    }

    fn connected(&mut self, session: &mut Session) -> Vec<u8> {
        self.until(|viewer| viewer.client.connected);
        let id = self.id;
        session.told(|m| match m {
            FromSession::ViewerConnected { viewer, last_will, .. } if *viewer == id => {
                Some(last_will.clone())
            }
            _ => None,
        })
    }

    fn until(&mut self, done: impl Fn(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            self.client.service();
            self.video.receive();
            if done(self) {
                return;
            }
            assert!(Instant::now() < end, "it does not come: {:?}", self.client.heard);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until frames come from an encoder of this epoch, later ones than before.
    fn sees_frames(&mut self, epoch: u16) {
        let before = self.video.last.map_or(0, |(frame, _)| frame);
        self.until(|viewer| viewer.video.last.is_some_and(|(f, e)| f > before + 2 && e == epoch));
    }
}

fn media(session: &Session, viewer: ViewerId, flow: Flow) -> Media {
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    client.set_nonblocking(true).unwrap();
    let host = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    host.connect(client.local_addr().unwrap()).unwrap();
    let (local, peer): (SocketAddr, SocketAddr) =
        (host.local_addr().unwrap(), client.local_addr().unwrap());
    let message = ToSession::Socket { viewer, flow, local, peer, first: b"PING".to_vec() };
    session.link.send(&message, &[host.as_fd()]).unwrap();
    Media { client, is_real: session.is_real, last: None }
}

impl Media {
    /// Takes what came; frame indices never repeat and never go back.
    fn receive(&mut self) {
        let mut buffer = [0; 64];
        if self.is_real {
            return;
        }
        while let Ok(length) = self.client.recv(&mut buffer) {
            assert_eq!(length, 10);
            let frame = u64::from_be_bytes(buffer[..8].try_into().unwrap());
            let epoch = u16::from_be_bytes(buffer[8..10].try_into().unwrap());
            assert!(self.last.is_none_or(|(last, e)| frame > last && epoch >= e));
            self.last = Some((frame, epoch));
        }
    }
}

fn ready(session: &mut Session, id: u64) {
    session.told(|m| match m {
        FromSession::ViewerReady { viewer } => (*viewer == ViewerId(id)).then_some(()),
        FromSession::ViewerRefused { reason, .. } => panic!("refused: {reason}"),
        _ => None,
    });
}

fn gone(session: &mut Session, id: u64) -> String {
    session.told(|m| match m {
        FromSession::ViewerGone { viewer, reason } if *viewer == ViewerId(id) => {
            Some(reason.clone())
        }
        _ => None,
    })
}

fn is_terminated(client: &Client, code: u32) -> bool {
    client.heard.contains(&Feedback::Termination { code })
}

fn click() -> InputEvent {
    InputEvent::MouseButton { down: true, button: MouseButton::Left }
}

fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z"))
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// The pictures of a real encoder as a client shows them.
struct Picture {
    receiver: Receiver,
    shown: u64,
    /// The start of each datagram so far: its IV.
    ivs: Vec<[u8; 12]>,
    pinged: Instant,
}

impl Picture {
    fn new() -> Self {
        let stream = stream_with(WORKS);
        let parameters = ReceiverParameters {
            packet_size: stream.video.packet_size,
            codec: stream.video.codec,
            key: stream.video.encrypted.then(|| grant().key),
            invalidation: false,
        };
        Self {
            receiver: Receiver::new(&parameters),
            shown: 0,
            ivs: Vec::new(),
            pinged: Instant::now(),
        }
    }

    /// Takes what came, asks for key frames as clients do.
    fn receive(&mut self, viewer: &mut Viewer) {
        // A client that says nothing for ten seconds is gone.
        if self.pinged.elapsed() > Duration::from_millis(500) {
            self.pinged = Instant::now();
            viewer.client.send(0, &Message::Ping);
        }
        let mut buffer = [0; 2048];
        while let Ok(length) = viewer.video.client.recv(&mut buffer) {
            self.ivs.extend(buffer[..length].first_chunk::<12>());
            for event in self.receiver.push(&buffer[..length], Time(now_ns())) {
                match event {
                    Event::Frame(_) => self.shown += 1,
                    Event::Request(_) => viewer.client.send(1, &Message::RequestIdr),
                    _ => {}
                }
            }
        }
    }

    /// Waits until more is shown; returns how long that took.
    fn moves(&mut self, viewer: &mut Viewer) -> Duration {
        self.moves_within(PATIENCE, viewer)
    }

    fn moves_within(&mut self, patience: Duration, viewer: &mut Viewer) -> Duration {
        let (start, before) = (Instant::now(), self.shown);
        while self.shown < before + 3 {
            assert!(start.elapsed() < patience, "the picture stands");
            viewer.client.service();
            self.receive(viewer);
            std::thread::sleep(Duration::from_millis(1));
        }
        start.elapsed()
    }
}

// --- the tests --------------------------------------------------------------------------------------

fn a_viewer_streams_leaves_and_another_resumes() {
    let mut session = Session::start();
    let mut viewer = Viewer::connect(&mut session, 1, WORKS);
    viewer.client.send(0, &Message::RequestIdr);
    viewer.client.send(0, &Message::StartB);
    viewer.until(|viewer| viewer.client.heard == [Feedback::HdrMode(None)]);
    viewer.sees_frames(0);
    viewer.client.input(&click());
    viewer.client.send(1, &Message::RequestIdr);
    viewer.client.send(0, &Message::Ping);
    viewer.sees_frames(0);
    let figures = session.figures();
    for name in ["viewers", "input_passed", "encoder_frames_sent", "control_messages"] {
        assert!(figures[name] >= 1.0, "{name} in {figures:?}");
    }
    assert!(figures["encoder_key_frames"] >= 1.0);
    let encoder = session.encoder();
    let score = |pid: u32| -> i32 {
        let text = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        text.trim().parse().unwrap()
    };
    let app = session.children().into_iter().find(|(pid, _)| *pid != encoder).unwrap().0;
    assert!(score(session.process.pid()) < score(encoder) && score(encoder) < score(app));

    viewer.client.host.peer_mut(PeerID(0)).disconnect_later(0);
    viewer.until(|viewer| viewer.client.disconnected);
    assert_eq!(gone(&mut session, 1), "the client disconnected");
    let end = Instant::now() + PATIENCE;
    while lives(encoder) {
        assert!(Instant::now() < end, "the encoder outlives its viewer");
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut second = Viewer::connect(&mut session, 2, WORKS);
    second.sees_frames(0);
    drop(session.directory);
}

fn real_frames_survive_their_encoder() {
    let mut session = Session::start_from(Path::new(env!("CARGO_BIN_EXE_moonshard")));
    let mut viewer = Viewer::connect(&mut session, 1, WORKS);
    let mut picture = Picture::new();
    println!("  picture after {:?}", picture.moves(&mut viewer));
    kill(session.encoder());
    println!("  again {:?} after the encoder was killed", picture.moves(&mut viewer));
    let encoder = rustix::process::Pid::from_raw(session.encoder() as i32).unwrap();
    rustix::process::kill_process(encoder, rustix::process::Signal::STOP).unwrap();
    println!("  again {:?} after the encoder was stopped", picture.moves(&mut viewer));
    let statistics = picture.receiver.statistics();
    assert_eq!((statistics.malformed, statistics.unopened), (0, 0));
    assert_eq!(session.figures()["encoder_restarts"], 2.0);
    assert_eq!(viewer.client.heard, [], "the client was not told to go");

    // Another device of the same client takes over, with a mode of its own.
    let mut spec = stream_with(WORKS);
    spec.video.mode = Mode { width: 640, height: 400, millihertz: 30_000 };
    let mut other = Viewer::connect_with(&mut session, 2, spec);
    println!("  another picture after {:?}", Picture::new().moves(&mut other));
    viewer.until(|viewer| is_terminated(&viewer.client, TERMINATED_BY_HOST));
}

fn an_encoder_that_fails_in_any_way_gives_way_to_the_next() {
    const FAULTS: &str = "never-starts,hangs,errs,aborts,works,x264enc";
    let mut session = Session::start_with(&boot::own_binary(), FAULTY, FAULTS);
    // The first one holds up the announcement until it is passed over.
    let mut viewer = Viewer::connect(&mut session, 1, WORKS);
    let mut picture = Picture::new();
    assert_eq!(session.figures()["encoders_passed_over"], 1.0);
    // Three times each: hung in the chain, an error, a dead process, every slot kept. The client sees
    // the picture move in between and stays.
    for passed in 2..=5 {
        let mut longest = Duration::ZERO;
        while session.figures()["encoders_passed_over"] < f64::from(passed) {
            // On a busy machine an encoder may fail before it has shown anything.
            longest = longest.max(picture.moves_within(6 * PATIENCE, &mut viewer));
        }
        println!("  {passed} passed over; the picture stood for {longest:?} at the longest");
    }
    picture.moves(&mut viewer);
    assert_eq!(session.figures()["encoder_restarts"], 12.0);
    assert_eq!(viewer.client.heard, [], "the client was not told to go");
    // The last one dies by other hands: then none is left, and the client is told why.
    for _ in 0..3 {
        picture.moves(&mut viewer);
        kill(session.encoder());
    }
    let end = Instant::now() + PATIENCE;
    while !is_terminated(&viewer.client, 0x800E_9403) {
        assert!(Instant::now() < end, "the client was not told: {:?}", viewer.client.heard);
        viewer.client.service();
        picture.receive(&mut viewer);
        std::thread::sleep(Duration::from_millis(1));
    }
    let reason = gone(&mut session, 1);
    assert!(reason.starts_with("no encoder is left") && reason.contains("x264enc"), "{reason}");
    // Over all fourteen encoders, under one key, no IV was used twice.
    let (sent, statistics) = (picture.ivs.len(), picture.receiver.statistics());
    picture.ivs.sort_unstable();
    picture.ivs.dedup();
    assert_eq!(picture.ivs.len(), sent);
    assert_eq!((statistics.malformed, statistics.unopened), (0, 0));
}

fn an_app_that_ends_tells_the_viewer() {
    let mut session = Session::start();
    let mut viewer = Viewer::connect(&mut session, 1, WORKS);
    viewer.sees_frames(0);
    let app = session.children().into_iter().find(|(_, line)| line.starts_with("sleep"));
    kill(app.expect("the app runs").0);
    viewer.until(|viewer| is_terminated(&viewer.client, TERMINATED_BY_HOST));
    let status = session.told(|m| match m {
        FromSession::AppExited { status, .. } => Some(status.clone()),
        _ => None,
    });
    assert_eq!(status, "signal 9");
    gone(&mut session, 1);
    assert!(session.process.wait(PATIENCE).is_some(), "it does not end");
}

fn sockets_may_come_before_the_announcement() {
    let mut session = Session::start();
    session.say(&ToSession::Grant(viewer_grant(1)));
    let mut viewer = Viewer::prepare(&session, 1);
    session.say(&ToSession::Announce { viewer: ViewerId(1), spec: stream_with(WORKS) });
    ready(&mut session, 1);
    viewer.connected(&mut session);
    viewer.sees_frames(0);
}

fn a_killed_encoder_is_replaced() {
    let mut session = Session::start();
    let mut viewer = Viewer::connect(&mut session, 1, WORKS);
    viewer.sees_frames(0);
    for epoch in 1..=2 {
        kill(session.encoder());
        viewer.sees_frames(epoch);
    }
    assert_eq!(session.figures()["encoder_restarts"], 2.0);
    viewer.client.input(&click());
    viewer.client.send(0, &Message::StartB);
    viewer.until(|viewer| !viewer.client.heard.is_empty());
}

fn an_encoder_that_makes_no_progress_is_replaced() {
    let mut session = Session::start();
    let mut viewer = Viewer::connect(&mut session, 1, HANGS_ONCE);
    viewer.sees_frames(1);
}

fn an_encoder_without_heartbeat_is_replaced() {
    let mut session = Session::start();
    let mut viewer = Viewer::connect(&mut session, 1, STOPS_ONCE);
    viewer.sees_frames(1);
}

fn an_encoder_that_always_dies_ends_the_viewer() {
    let mut session = Session::start();
    let mut viewer = Viewer::connect(&mut session, 1, DIES_ALWAYS);
    viewer.until(|viewer| is_terminated(&viewer.client, 0x800E_9403));
    assert_eq!(gone(&mut session, 1), "no encoder is left: fake failed too often");
    // The game goes on.
    assert!(session.process.try_reap().is_none());
    Viewer::connect(&mut session, 2, WORKS).sees_frames(0);
}

fn an_encoder_that_refuses_refuses_the_viewer() {
    let mut session = Session::start();
    session.say(&ToSession::Grant(viewer_grant(1)));
    session.say(&ToSession::Announce { viewer: ViewerId(1), spec: stream_with(REFUSES) });
    let refused = session.told(|m| match m {
        FromSession::ViewerRefused { status, reason, .. } => Some((*status, reason.clone())),
        _ => None,
    });
    assert_eq!(refused, (503, "fake failed too often".into()));
    Viewer::connect(&mut session, 2, WORKS).sees_frames(0);
}

fn a_newer_viewer_takes_over() {
    let mut session = Session::start();
    let mut first = Viewer::connect(&mut session, 1, WORKS);
    first.sees_frames(0);
    let mut second = Viewer::connect(&mut session, 2, WORKS);
    second.sees_frames(0);
    first.until(|viewer| is_terminated(&viewer.client, TERMINATED_BY_HOST));
    assert_eq!(gone(&mut session, 1), "another connection took over");
}

fn a_stop_tells_the_viewer() {
    let mut session = Session::start();
    let mut viewer = Viewer::connect(&mut session, 1, WORKS);
    viewer.sees_frames(0);
    let start = Instant::now();
    session.say(&ToSession::Stop { reason: "cancel".into() });
    viewer.until(|viewer| is_terminated(&viewer.client, TERMINATED_BY_HOST));
    assert_eq!(gone(&mut session, 1), "cancel");
    assert!(session.process.wait(PATIENCE).is_some(), "it does not end");
    assert!(start.elapsed() < PATIENCE);
}

fn a_killed_session_leaves_a_last_will_and_no_child() {
    let mut session = Session::start();
    session.say(&ToSession::Grant(viewer_grant(1)));
    session.say(&ToSession::Announce { viewer: ViewerId(1), spec: stream_with(WORKS) });
    ready(&mut session, 1);
    let mut viewer = Viewer::prepare(&session, 1);
    let last_will = viewer.connected(&mut session);
    viewer.sees_frames(0);
    let children = session.children();
    assert_eq!(children.len(), 2, "app and encoder: {children:?}");
    kill(session.process.pid());
    assert!(session.process.wait(PATIENCE).is_some());
    let end = Instant::now() + PATIENCE;
    while children.iter().any(|(pid, _)| lives(*pid)) {
        assert!(Instant::now() < end, "children outlive their session: {children:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    // The client's next word reaches the door, which answers for the dead.
    viewer.client.send(0, &Message::Ping);
    let (_, _, peer) = viewer.door.hand_over();
    viewer.door.socket.send_to(&last_will, peer).unwrap();
    viewer.until(|viewer| is_terminated(&viewer.client, TERMINATED_BY_HOST));
    assert_eq!(viewer.client.sequence, Some(LAST_WILL_SEQUENCE));
}
