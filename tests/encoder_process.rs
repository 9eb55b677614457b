//! The encoder as the process that a session starts: frames by slots, datagrams by a real socket,
//! pictures out of a decoder.
mod encoder_picture;

use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use encoder_picture::{Canvas, difference, read_number, ring, spec};
use moonshard::ipc::{
    EncoderBoot, FrameNote, FromEncoder, SessionId, ToEncoder, VERSION, ViewerId,
};
use moonshard::media::decoder::Decoder;
use moonshard::net;
use moonshard::proc::boot::{Spawn, spawn_from};
use moonshard::proc::child::{Child, Exit};
use moonshard::proc::link::{Link, LinkError};
use moonshard::proc::page::{Figure, ViewerPage};
use moonshard::proto::secret::SessionKey;
use moonshard::proto::stream::{AudioSpec, StreamSpec, VideoSpec};
use moonshard::proto::video::{
    Event, FrameKind, ReceivedFrame, Receiver, ReceiverParameters, idr_fits,
};

const WAIT: Duration = Duration::from_secs(10);
const KEY: SessionKey = SessionKey(*b"0123456789abcdef");

/// A session's side of one encoder, and the client's side of its stream.
struct Viewer {
    spec: VideoSpec,
    choice: String,
    cores: Vec<usize>,
    canvas: Canvas,
    page: ViewerPage,
    epoch: u16,
    encoder: Option<Encoder>,
    /// Slots that the encoder has not.
    free: Vec<u32>,
    /// Hand-backs so far of this encoder.
    returned: u64,
    seq: u64,
    host: UdpSocket,
    client: UdpSocket,
    receiver: Receiver,
    datagrams: Vec<Vec<u8>>,
    frames: Vec<ReceivedFrame>,
}

struct Encoder {
    child: Child,
    frames: Link,
    control: Link,
    ready: String,
}

fn client_socket() -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_nonblocking(true).unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&client, 8 << 20).unwrap();
    client
}

fn stream(video: &VideoSpec) -> StreamSpec {
    let audio = AudioSpec {
        channels: 2,
        streams: 1,
        coupled: 1,
        mapping: vec![0, 1],
        bitrate: 96_000,
        packet_ms: 5,
        encrypted: false,
        qos: false,
    };
    StreamSpec {
        video: video.clone(),
        audio,
        control_v2: true,
        sends_fec_status: true,
        sends_identity: true,
    }
}

impl Viewer {
    fn new(spec: VideoSpec) -> Self {
        let host = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = client_socket();
        host.connect(client.local_addr().unwrap()).unwrap();
        let receiver = Receiver::new(&ReceiverParameters {
            packet_size: spec.packet_size,
            codec: spec.codec,
            key: spec.encrypted.then_some(KEY),
            invalidation: false,
        });
        let canvas = Canvas::new(ring(spec.mode.width, spec.mode.height));
        Self {
            spec,
            choice: "auto".into(),
            cores: Vec::new(),
            canvas,
            page: ViewerPage::create().unwrap(),
            epoch: 0,
            encoder: None,
            free: Vec::new(),
            returned: 0,
            seq: 0,
            host,
            client,
            receiver,
            datagrams: Vec::new(),
            frames: Vec::new(),
        }
    }

    fn boot(&self) -> EncoderBoot {
        EncoderBoot {
            version: VERSION,
            session: SessionId(1),
            viewer: ViewerId(2),
            spec: stream(&self.spec),
            key: KEY,
            epoch: self.epoch,
            ring: self.canvas.ring,
            encoder: self.choice.clone(),
            passed_over: Vec::new(),
            cores: self.cores.clone(),
        }
    }

    /// Starts an encoder process on a new ring; what it says first.
    fn start(&mut self) -> FromEncoder {
        self.canvas = Canvas::new(self.canvas.ring);
        let (frames, its_frames) = Link::pair().unwrap();
        let (control, its_control) = Link::pair().unwrap();
        let slots = self.canvas.fds();
        let mut fds: Vec<BorrowedFd<'_>> =
            vec![its_frames.as_fd(), its_control.as_fd(), self.page.as_fd()];
        fds.extend(slots.iter().map(AsFd::as_fd));
        let how = Spawn {
            kind: "encoder",
            label: "test",
            fds: &fds,
            dies_with_parent: true,
            output: None,
            oom_score_adj: 0,
        };
        let binary = Path::new(env!("CARGO_BIN_EXE_moonshard"));
        let child = spawn_from(binary, &how, &self.boot()).unwrap();
        drop((its_frames, its_control));
        let said = loop {
            match control.receive_within::<FromEncoder>(WAIT).unwrap().0 {
                FromEncoder::Trying { .. } => {}
                said => break said,
            }
        };
        let ready = match &said {
            FromEncoder::Ready { encoder } => encoder.clone(),
            _ => String::new(),
        };
        self.encoder = Some(Encoder { child, frames, control, ready });
        self.free = (0..self.canvas.ring.slots).collect();
        self.returned = 0;
        said
    }

    fn started(spec: VideoSpec) -> Self {
        let mut viewer = Self::new(spec);
        let said = viewer.start();
        assert!(matches!(said, FromEncoder::Ready { .. }), "{said:?}");
        viewer
    }

    fn encoder(&mut self) -> &mut Encoder {
        self.encoder.as_mut().unwrap()
    }

    fn order(&mut self, order: &ToEncoder) {
        self.encoder().control.send(order, &[]).unwrap();
    }

    fn hand_socket(&mut self) {
        let host = self.host.try_clone().unwrap();
        self.encoder().control.send(&ToEncoder::Socket, &[host.as_fd()]).unwrap();
    }

    /// Draws and hands over the next frame; false if no slot is free.
    fn draw(&mut self) -> bool {
        let Some(slot) = self.free.pop() else { return false };
        self.seq += 1;
        self.canvas.draw(slot, self.seq as u32);
        let captured_ns = net::now().0;
        let note = FrameNote { slot, seq: self.seq, captured_ns, repeated: false };
        self.encoder().frames.send_bytes(&note.to_bytes(), &[]).unwrap();
        true
    }

    /// Hands over the next frame, which is noise.
    fn draw_snow(&mut self) -> bool {
        let Some(slot) = self.free.pop() else { return false };
        self.seq += 1;
        self.canvas.draw_snow(slot, self.seq);
        let note = FrameNote { slot, seq: self.seq, captured_ns: net::now().0, repeated: false };
        self.encoder().frames.send_bytes(&note.to_bytes(), &[]).unwrap();
        true
    }

    /// Every frame was sent or dropped, once, and every slot is back.
    fn settle(&mut self) {
        self.wait_until(|v| {
            let done = v.figure(Figure::FramesSent) + v.figure(Figure::FramesDropped);
            v.free.len() == 4 && v.figure(Figure::FramesReceived) == v.seq && done == v.seq
        });
        assert_eq!(self.returned, self.seq);
    }

    /// Takes back slots and takes in datagrams.
    fn look(&mut self) {
        let mut buffer = [0; 64];
        while let Some(encoder) = &self.encoder
            && let Ok((length, _)) = encoder.frames.receive_bytes(&mut buffer)
        {
            let note = FrameNote::from_bytes(&buffer[..length]).unwrap();
            assert!(!self.free.contains(&note.slot), "slot {} came back twice", note.slot);
            self.free.push(note.slot);
            self.returned += 1;
        }
        let mut datagram = vec![0; 65_536];
        while let Ok(length) = self.client.recv(&mut datagram) {
            self.datagrams.push(datagram[..length].to_vec());
            for event in self.receiver.push(&datagram[..length], net::now()) {
                if let Event::Frame(frame) = event {
                    self.frames.push(frame);
                }
            }
        }
    }

    /// Draws a frame each few milliseconds until `enough`.
    fn play_until(&mut self, mut enough: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !enough(self) {
            assert!(start.elapsed() < WAIT, "waited too long; {:?}", self.figures());
            self.draw();
            for _ in 0..8 {
                std::thread::sleep(Duration::from_millis(1));
                self.look();
            }
        }
    }

    /// Looks, without drawing, until `enough`.
    fn wait_until(&mut self, mut enough: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !enough(self) {
            assert!(start.elapsed() < WAIT, "waited too long; {:?}", self.figures());
            std::thread::sleep(Duration::from_millis(1));
            self.look();
        }
    }

    fn figures(&self) -> Vec<(&'static str, u64)> {
        Figure::ALL.iter().map(|(figure, name)| (*name, self.page.figure(*figure))).collect()
    }

    fn figure(&self, figure: Figure) -> u64 {
        self.page.figure(figure)
    }

    /// Plain packets of all datagrams so far.
    fn counters(&self) -> Vec<u16> {
        let sequence = |d: &Vec<u8>| u16::from_be_bytes([d[2], d[3]]);
        self.datagrams.iter().map(sequence).collect()
    }

    fn exit_within(&mut self, wait: Duration) -> Option<Exit> {
        self.encoder().child.wait(wait)
    }
}

/// Every frame decodes to the picture that was drawn with its number.
fn check_pictures(viewer: &Viewer) {
    let decoder = Decoder::start(viewer.spec.codec).unwrap();
    let width = usize::from(viewer.spec.mode.width);
    let mut last = 0;
    for (i, frame) in viewer.frames.iter().enumerate() {
        let picture = decoder.decode(i as u64, &frame.bytes).unwrap().unwrap();
        let number = read_number(width, &picture.bgrx).unwrap();
        assert!(number > last, "{number} after {last}");
        last = number;
        let drawn = encoder_picture::picture(width, usize::from(viewer.spec.mode.height), number);
        let off = difference(&picture.bgrx, &drawn);
        assert!(off < 10.0, "frame {number} is off by {off}");
    }
}

#[test]
fn a_stream_shows_what_was_drawn_at_every_packet_size_plain_and_encrypted() {
    use moonshard::proto::stream::Codec::{H264, Hevc};
    for (codec, packet_size, encrypted) in [
        (H264, 1392, false),
        (H264, 1392, true),
        (H264, 1024, true),
        (H264, 208, false),
        (Hevc, 1024, true),
        (Hevc, 208, false),
    ] {
        let spec = VideoSpec { codec, packet_size, encrypted, ..spec(640, 360) };
        let mut viewer = Viewer::started(spec);
        viewer.hand_socket();
        viewer.play_until(|v| v.frames.len() >= 30);
        let drawn = viewer.seq;
        viewer.wait_until(|v| v.free.len() == 4);
        assert_eq!(viewer.returned, drawn);

        let first = &viewer.frames[0];
        assert_eq!((first.index, first.kind), (1, FrameKind::Idr));
        assert!(idr_fits(viewer.spec.codec, &first.bytes, packet_size));
        assert!(viewer.frames[1..].iter().all(|f| f.kind == FrameKind::Predicted));
        assert!(viewer.frames.windows(2).all(|f| f[1].index == f[0].index + 1));
        assert!(viewer.frames.windows(2).all(|f| f[1].timestamp > f[0].timestamp));
        assert!(viewer.frames.iter().all(|f| f.latency > 0));
        let overhead = if encrypted { 48 } else { 16 };
        assert!(viewer.datagrams.iter().all(|d| d.len() == usize::from(packet_size) + overhead));
        if !encrypted {
            let counters = viewer.counters();
            assert!(counters.iter().enumerate().all(|(i, c)| *c == i as u16));
            // SOF and picture data, and EOF if it is a frame of one packet.
            assert!(matches!(viewer.datagrams[0][24], 5 | 7));
        }
        let statistics = viewer.receiver.statistics();
        assert_eq!((statistics.malformed, statistics.unopened, statistics.frames_lost), (0, 0, 0));
        check_pictures(&viewer);
    }
}

#[test]
fn nothing_is_sent_before_a_socket_comes_and_then_a_key_frame_first() {
    let mut viewer = Viewer::started(spec(640, 360));
    viewer.play_until(|v| v.figure(Figure::FramesEncoded) >= 20);
    assert_eq!(viewer.figure(Figure::PacketsSent), 0);
    assert!(viewer.datagrams.is_empty());
    viewer.hand_socket();
    viewer.play_until(|v| v.frames.len() >= 5);
    assert_eq!((viewer.frames[0].index, viewer.frames[0].kind), (1, FrameKind::Idr));
    // The peer moved: the new socket's first frame is a key frame again.
    let before = viewer.frames.len();
    viewer.hand_socket();
    viewer.play_until(|v| v.frames[before..].iter().any(|f| f.kind == FrameKind::Idr));
    viewer.settle();
}

#[test]
fn a_key_frame_comes_with_the_next_frame_after_the_request_and_not_too_often() {
    let mut viewer = Viewer::started(spec(640, 360));
    viewer.hand_socket();
    viewer.play_until(|v| v.frames.len() >= 5);
    let keys = |v: &Viewer| v.frames.iter().filter(|f| f.kind == FrameKind::Idr).count();
    // Idle, so that the request is there before the next frame is.
    viewer.wait_until(|v| v.free.len() == 4);
    let sent = viewer.seq - viewer.figure(Figure::FramesDropped);
    viewer.wait_until(|v| v.frames.len() as u64 == sent);
    let before = viewer.frames.len();
    viewer.order(&ToEncoder::KeyFrame);
    std::thread::sleep(Duration::from_millis(100));
    viewer.play_until(|v| v.frames.len() > before);
    assert_eq!(viewer.frames[before].kind, FrameKind::Idr);

    let (start, before) = (Instant::now(), keys(&viewer));
    while start.elapsed() < Duration::from_secs(3) {
        viewer.order(&ToEncoder::KeyFrame);
        let frames = viewer.frames.len();
        viewer.play_until(|v| v.frames.len() > frames);
    }
    let took = start.elapsed().as_secs_f64();
    let more = keys(&viewer) - before;
    assert!(more >= 3, "{more} key frames in {took} s");
    assert!((more as f64) <= 2.0 * took + 2.0, "{more} key frames in {took} s");
}

#[test]
fn parity_and_bitrate_change_while_it_runs_and_no_key_frame_comes_of_it() {
    let mut viewer = Viewer::started(VideoSpec { bitrate_kbps: 20_000, ..spec(640, 360) });
    viewer.hand_socket();
    viewer.play_until(|v| v.frames.len() >= 5);
    let percent = |d: &Vec<u8>| u32::from_le_bytes([d[28], d[29], d[30], d[31]]) >> 4 & 0xFF;
    // Blocks of few packets have two parity packets at least.
    assert!(viewer.datagrams.iter().all(|d| percent(d) >= 20));
    viewer.order(&ToEncoder::Parity { percent: 250 });
    viewer.order(&ToEncoder::Bitrate { kbps: 10_000 });
    viewer.play_until(|v| v.datagrams.last().is_some_and(|d| percent(d) == 250));
    let frames = viewer.frames.len();
    viewer.play_until(|v| v.frames.len() >= frames + 5);
    assert_eq!(viewer.frames.iter().filter(|f| f.kind == FrameKind::Idr).count(), 1);
    assert_eq!(viewer.receiver.statistics().frames_lost, 0);
    check_pictures(&viewer);
}

#[test]
fn a_killed_encoder_is_followed_by_one_that_counts_on() {
    let mut viewer = Viewer::started(VideoSpec { encrypted: false, ..spec(640, 360) });
    viewer.hand_socket();
    viewer.play_until(|v| v.frames.len() >= 10);
    viewer.encoder().child.kill();
    assert_eq!(viewer.exit_within(WAIT), Some(Exit::Signal(9)));
    viewer.look();
    viewer.epoch = viewer.page.raise_epoch();
    let (packets, frames) = (viewer.datagrams.len(), viewer.frames.len());
    let started = viewer.start();
    assert!(matches!(started, FromEncoder::Ready { .. }), "{started:?}");
    viewer.hand_socket();
    viewer.play_until(|v| v.frames.len() >= frames + 10);
    let next = &viewer.frames[frames];
    assert_eq!(next.kind, FrameKind::Idr);
    // At most the frame that the kill cut short is missing.
    let gap = next.index - viewer.frames[frames - 1].index;
    assert!((1..=2).contains(&gap), "{gap}");
    assert!(next.timestamp > viewer.frames[frames - 1].timestamp);
    let counters = viewer.counters();
    assert!(counters[packets] >= counters[packets - 1]);
    let mut once = counters.clone();
    once.dedup();
    assert_eq!(once.len(), counters.len());
    check_pictures(&viewer);
}

#[test]
fn a_replaced_encoder_ends_by_itself_and_sends_nothing_more() {
    let mut viewer = Viewer::started(spec(640, 360));
    viewer.hand_socket();
    viewer.play_until(|v| v.frames.len() >= 3);
    viewer.wait_until(|v| v.free.len() == 4);
    viewer.page.raise_epoch();
    let frames = viewer.frames.len();
    viewer.draw();
    assert_eq!(viewer.exit_within(WAIT), Some(Exit::Code(0)));
    viewer.look();
    assert_eq!(viewer.frames.len(), frames);
}

#[test]
fn every_thread_runs_on_the_cores_that_were_named_and_no_other() {
    let allowed = |task: &Path| {
        let status = std::fs::read_to_string(task.join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        line.unwrap().trim().to_owned()
    };
    let own = allowed(Path::new("/proc/self"));
    // The last core of the list "0-3,8".
    let core = own.rsplit([',', '-']).next().unwrap().to_owned();
    let mut viewer = Viewer::new(spec(640, 360));
    viewer.cores = vec![core.parse().unwrap()];
    assert!(matches!(viewer.start(), FromEncoder::Ready { .. }));
    viewer.hand_socket();
    viewer.play_until(|v| v.frames.len() >= 5);
    let pid = viewer.encoder().child.pid();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let tasks: Vec<_> = tasks.map(|task| task.unwrap().path()).collect();
    let name = |task: &Path| std::fs::read_to_string(task.join("comm")).unwrap().trim().to_owned();
    let names: Vec<String> = tasks.iter().map(|task| name(task)).collect();
    assert!(names.contains(&"sender".to_owned()) && names.len() >= 4, "{names:?}");
    for task in &tasks {
        assert_eq!(allowed(task), core, "{}", name(task));
    }
}

#[test]
fn it_stops_when_told_and_when_its_session_is_gone() {
    let mut viewer = Viewer::started(spec(640, 360));
    let start = Instant::now();
    viewer.order(&ToEncoder::Stop);
    assert_eq!(viewer.exit_within(WAIT), Some(Exit::Code(0)));
    assert!(start.elapsed() < Duration::from_secs(2));

    let mut viewer = Viewer::started(spec(640, 360));
    let Encoder { mut child, frames, control, .. } = viewer.encoder.take().unwrap();
    drop((frames, control));
    assert_eq!(child.wait(WAIT), Some(Exit::Code(0)));
}

#[test]
fn it_beats_while_idle_and_while_it_encodes_but_not_while_it_hangs() {
    let mut viewer = Viewer::started(spec(640, 360));
    viewer.hand_socket();
    let age = |v: &Viewer| net::now().0.saturating_sub(v.page.heartbeat_ns());
    let second = 1_000_000_000;
    std::thread::sleep(Duration::from_millis(300));
    assert!(age(&viewer) < second);
    viewer.play_until(|v| v.frames.len() >= 60);
    assert!(age(&viewer) < second);
    viewer.encoder().child.signal(rustix::process::Signal::STOP);
    viewer.draw();
    viewer.wait_until(|v| age(v) > second);
    viewer.encoder().child.signal(rustix::process::Signal::CONT);
    viewer.wait_until(|v| age(v) < second / 2);
}

#[test]
fn what_cannot_be_encoded_is_refused_with_its_reason() {
    let mut viewer = Viewer::new(VideoSpec { ten_bit: true, ..spec(640, 360) });
    let FromEncoder::Failed { reason } = viewer.start() else { panic!("it started") };
    assert!(reason.contains("8 bits"), "{reason}");
    assert_eq!(viewer.exit_within(WAIT), Some(Exit::Code(1)));
    assert!(matches!(
        viewer.encoder().control.receive_within::<FromEncoder>(WAIT),
        Err(LinkError::Closed)
    ));

    let mut viewer = Viewer::new(spec(640, 360));
    viewer.choice = "warpenc".into();
    let FromEncoder::Failed { reason } = viewer.start() else { panic!("it started") };
    assert!(reason.contains("warpenc"), "{reason}");

    // One that is not there is passed over.
    let mut viewer = Viewer::new(spec(640, 360));
    viewer.choice = "vah264enc,x264enc".into();
    assert!(matches!(viewer.start(), FromEncoder::Ready { .. }));
    assert_eq!(viewer.encoder().ready, "x264enc");
}

#[test]
fn a_client_that_is_gone_costs_errors_and_nothing_else() {
    let mut viewer = Viewer::started(spec(640, 360));
    viewer.hand_socket();
    viewer.play_until(|v| v.frames.len() >= 5);
    // Its port is closed: the kernel reports every datagram's refusal.
    viewer.client = client_socket();
    let drawn = viewer.seq;
    viewer.play_until(|v| v.seq >= drawn + 60);
    viewer.settle();
    // It comes back elsewhere.
    viewer.host = UdpSocket::bind("127.0.0.1:0").unwrap();
    viewer.host.connect(viewer.client.local_addr().unwrap()).unwrap();
    let frames = viewer.frames.len();
    viewer.hand_socket();
    viewer.play_until(|v| v.frames.len() >= frames + 5);
    assert_eq!(viewer.frames[frames].kind, FrameKind::Idr);
    viewer.settle();
}

#[test]
fn a_frame_of_too_many_packets_is_dropped_and_smaller_ones_follow_a_key_frame() {
    let spec = VideoSpec { packet_size: 208, bitrate_kbps: 1_500_000, ..spec(1280, 720) };
    let mut viewer = Viewer::started(spec);
    viewer.hand_socket();
    for _ in 0..10 {
        viewer.draw_snow();
        viewer.wait_until(|v| v.free.len() == 4);
    }
    viewer.settle();
    assert!(viewer.figure(Figure::SendErrors) > 0, "{:?}", viewer.figures());
    assert_eq!(viewer.figure(Figure::PacketsSent), 0);
    viewer.order(&ToEncoder::Bitrate { kbps: 5_000 });
    viewer.play_until(|v| v.frames.len() >= 5);
    // Frames that could not be sent left no gap.
    assert_eq!((viewer.frames[0].index, viewer.frames[0].kind), (1, FrameKind::Idr));
    viewer.settle();
}

#[test]
fn a_slot_that_does_not_exist_is_handed_back_and_counted() {
    let mut viewer = Viewer::started(spec(640, 360));
    let note = FrameNote { slot: 77, seq: 1, captured_ns: 1, repeated: false };
    viewer.encoder().frames.send_bytes(&note.to_bytes(), &[]).unwrap();
    viewer.encoder().frames.send_bytes(b"not a note", &[]).unwrap();
    viewer.wait_until(|v| v.returned == 1);
    assert_eq!(viewer.figure(Figure::FramesDropped), 1);
    viewer.free.clear();
    viewer.free.extend(0..4);
    viewer.hand_socket();
    viewer.play_until(|v| v.frames.len() >= 3);
}
