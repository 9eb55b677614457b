//! One stream from its first ping to its last packet: sockets, control, video, sound, input.
use std::io::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use moonshard::proto::control::{Message, TERMINATED_BY_HOST};
use moonshard::proto::input::{InputEvent, Modifiers};
use moonshard::proto::ping::Ping;
use moonshard::proto::video::{Event, FrameKind, Receiver, Request};
use moonshard::time::Time;

use crate::control::{Control, Heard};
use crate::picture::{Pictures, Seen};
use crate::report::Report;
use crate::rtsp::Settled;
use crate::sound::Sound;

const PING_EVERY: Duration = Duration::from_millis(500);
/// Without a picture, or without the control connection, the client gives up.
const START_MAX: Duration = Duration::from_secs(10);
/// Virtual key of the space bar: the pattern answers any key.
const SPACE: u8 = 0x20;
const DATAGRAM_BYTES_MAX: usize = 2048;
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// What is done with the stream while it runs.
pub struct Script {
    pub seconds: u64,
    /// Press a key this often and wait for the pattern's answer.
    pub input_every: Option<Duration>,
    /// Typed once, a second after the first picture.
    pub text: Option<String>,
    /// The pattern's counter must be in every picture and rise.
    pub pattern_check: bool,
    /// Vanish instead of saying goodbye.
    pub drop: bool,
    /// Show progress.
    pub progress: bool,
}

/// The parts of a running stream.
pub struct Stream {
    pub settled: Settled,
    pub control: Control,
    pub receiver: Receiver,
    pub sound: Sound,
    pub pictures: Pictures,
    pub launched: Instant,
    video: UdpSocket,
    audio: UdpSocket,
    started: Instant,
    pings: u32,
    next_ping: Instant,
    first_picture: Option<Instant>,
    last_frame: Option<Instant>,
    counter: Option<u32>,
    answer: Option<usize>,
    /// When the key was pressed whose answer is awaited.
    pressed: Option<Instant>,
    next_press: Instant,
    typed: bool,
    connected: bool,
    over: bool,
}

impl Stream {
    /// Opens the media sockets and sends the first pings.
    #[expect(clippy::too_many_arguments, reason = "the parts of a stream")]
    pub fn open(
        host: IpAddr,
        settled: Settled,
        control: Control,
        receiver: Receiver,
        sound: Sound,
        pictures: Pictures,
        launched: Instant,
    ) -> Result<Self, String> {
        let socket = |port| -> Result<UdpSocket, String> {
            let any: IpAddr = if host.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
            let socket = UdpSocket::bind((any, 0)).map_err(|e| e.to_string())?;
            let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
            socket.connect(SocketAddr::new(host, port)).map_err(|e| e.to_string())?;
            socket.set_nonblocking(true).map_err(|e| e.to_string())?;
            Ok(socket)
        };
        let (video, audio) = (socket(settled.video_port)?, socket(settled.audio_port)?);
        let now = Instant::now();
        Ok(Self {
            settled,
            control,
            receiver,
            sound,
            pictures,
            launched,
            video,
            audio,
            started: now,
            pings: 0,
            next_ping: now,
            first_picture: None,
            last_frame: None,
            counter: None,
            answer: None,
            pressed: None,
            next_press: now,
            typed: false,
            connected: false,
            over: false,
        })
    }

    fn time(&self) -> Time {
        Time(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Plays by the script; what was seen goes into the report.
    pub fn play(&mut self, script: &Script, report: &mut Report) -> Result<(), String> {
        let mut next_line = Instant::now() + Duration::from_secs(1);
        while !self.over {
            let now = Instant::now();
            let begun = self.first_picture.unwrap_or(self.started);
            if self.first_picture.is_some() && now - begun >= Duration::from_secs(script.seconds) {
                break;
            }
            if self.first_picture.is_none() && now - self.started > START_MAX {
                report.fault("no picture within 10 s");
                break;
            }
            self.ping(now);
            self.take_control(report)?;
            self.take_video(report);
            self.take_audio();
            self.take_pictures(script, report);
            self.act(script, now);
            if script.progress && now >= next_line {
                next_line = now + Duration::from_secs(1);
                eprint!(
                    "\r{:4} s  {} frames  {} lost  {} sound packets ",
                    (now - begun).as_secs(),
                    report.frames,
                    report.lost,
                    self.sound.packets
                );
                let _ = std::io::stderr().flush();
            }
            std::thread::sleep(Duration::from_micros(300));
        }
        if script.progress {
            eprintln!();
        }
        if !script.drop && !self.over && !self.control.leave() {
            report.fault("the host did not acknowledge the goodbye");
        }
        self.pictures.finish();
        self.take_pictures(script, report);
        self.sum_up(script, report);
        Ok(())
    }

    fn ping(&mut self, now: Instant) {
        if now < self.next_ping {
            return;
        }
        self.next_ping = now + PING_EVERY;
        self.pings += 1;
        let ping = match self.settled.payload {
            Some(payload) => Ping::Identified { payload, sequence: self.pings },
            None => Ping::Legacy,
        };
        let bytes = ping.write();
        let _ = self.audio.send(&bytes);
        // As the library: video pings begin when the control connection stands.
        if self.connected {
            let _ = self.video.send(&bytes);
        }
    }

    fn take_control(&mut self, report: &mut Report) -> Result<(), String> {
        for heard in self.control.turn()? {
            match heard {
                Heard::Connected => {
                    self.connected = true;
                    self.next_ping = Instant::now();
                    self.control.send(0, true, &Message::RequestIdr);
                    self.control.send(0, true, &Message::StartB);
                    self.control.input(&InputEvent::EnableHaptics(true));
                }
                Heard::Disconnected => {
                    report.fault("the control connection was lost");
                    self.over = true;
                }
                Heard::Termination(code) => {
                    report.termination = Some(code);
                    if code != TERMINATED_BY_HOST {
                        report.fault(&format!("terminated with {code:#x}"));
                    }
                    self.over = true;
                }
            }
        }
        if !self.connected && self.started.elapsed() > START_MAX {
            return Err("the control connection was not made within 10 s".into());
        }
        Ok(())
    }

    fn take_video(&mut self, report: &mut Report) {
        let mut datagram = [0; DATAGRAM_BYTES_MAX];
        while let Ok(length) = self.video.recv(&mut datagram) {
            let now = self.time();
            for event in self.receiver.push(&datagram[..length], now) {
                match event {
                    Event::Frame(frame) => {
                        let at = Instant::now();
                        if let Some(last) = self.last_frame.replace(at) {
                            report.interval(at - last);
                        }
                        report.frame(&frame);
                        if frame.kind == FrameKind::Idr {
                            report.key_frames += 1;
                        }
                        self.pictures.push(frame.bytes);
                    }
                    Event::Lost { first, last } => {
                        report.lost += u64::from(last.saturating_sub(first)) + 1;
                    }
                    Event::Request(Request::Idr) => {
                        self.control.send(1, true, &Message::RequestIdr);
                    }
                    Event::Request(Request::Invalidate { first, last }) => {
                        let message = Message::InvalidateReferenceFrames { first, last };
                        self.control.send(1, true, &message);
                    }
                    Event::FirstPacket | Event::Discarded { .. } => {}
                }
            }
        }
    }

    fn take_audio(&mut self) {
        let mut datagram = [0; DATAGRAM_BYTES_MAX];
        while let Ok(length) = self.audio.recv(&mut datagram) {
            let now = self.time();
            self.sound.push(&datagram[..length], now);
        }
    }

    fn take_pictures(&mut self, script: &Script, report: &mut Report) {
        while let Ok(seen) = self.pictures.seen.try_recv() {
            if !seen.decoded {
                report.decode_errors += 1;
                continue;
            }
            report.decoded += 1;
            report.size = seen.size;
            if self.first_picture.is_none() {
                self.first_picture = Some(seen.decoded_at);
                self.next_press = seen.decoded_at + Duration::from_secs(1);
                report.first_picture(seen.decoded_at - self.launched);
            }
            if script.pattern_check {
                self.check_counter(&seen, report);
            }
            if let (Some(pressed), Some(answer)) = (self.pressed, seen.answer)
                && self.answer.is_some_and(|before| before != answer)
            {
                report.round_trip(seen.decoded_at - pressed);
                self.pressed = None;
            }
            if seen.answer.is_some() {
                self.answer = seen.answer;
            }
        }
    }

    fn check_counter(&mut self, seen: &Seen, report: &mut Report) {
        match (seen.counter, self.counter) {
            // Before the app has drawn there is nothing to read.
            (None, None) => {}
            (None, Some(_)) => report.pattern_misses += 1,
            (Some(now), Some(before)) if now < before => {
                report.fault(&format!("the pattern went back from {before} to {now}"));
                self.counter = Some(now);
            }
            (Some(now), _) => {
                report.pattern_reads += 1;
                self.counter = Some(now);
            }
        }
    }

    fn act(&mut self, script: &Script, now: Instant) {
        let Some(first) = self.first_picture else { return };
        if let Some(every) = script.input_every
            && self.pressed.is_none()
            && self.answer.is_some()
            && now >= self.next_press
        {
            self.key(SPACE, true);
            self.key(SPACE, false);
            self.pressed = Some(now);
            self.next_press = now + every;
        }
        if !self.typed && now - first > Duration::from_secs(1) {
            self.typed = true;
            for c in script.text.iter().flat_map(|text| text.chars()) {
                match c {
                    '\n' => {
                        self.key(0x0D, true);
                        self.key(0x0D, false);
                    }
                    c => self.control.input(&InputEvent::Text(c.into())),
                }
            }
        }
    }

    fn key(&mut self, vk: u8, down: bool) {
        let modifiers = Modifiers::default();
        self.control.input(&InputEvent::Key { down, vk, modifiers, not_normalised: false });
    }

    fn sum_up(&mut self, script: &Script, report: &mut Report) {
        let (video, sound) = (self.receiver.statistics(), &self.sound);
        report.repaired += video.frames_repaired;
        report.bytes += video.bytes;
        report.malformed += video.malformed + video.unopened;
        report.audio_packets += sound.packets;
        report.audio_gaps += sound.gaps;
        report.audio_errors += sound.decode_errors;
        report.tone = (sound.tone_windows, sound.loud_windows);
        if let (Some(first), Some(last)) = (self.first_picture, self.last_frame) {
            report.seconds += (last.max(first) - first).as_secs_f64();
        }
        if script.pattern_check && self.counter.is_none() {
            report.fault("no picture of the test pattern was seen");
        }
        if script.pattern_check && sound.tone_windows == 0 {
            report.fault("the pattern's tone was not heard");
        }
        if self.pressed.is_some_and(|pressed| pressed.elapsed() > Duration::from_secs(2)) {
            report.fault("a key press was not answered");
        }
    }
}
