//! `play`: one client from pairing to goodbye.
use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use moonshard::proto::audio::{AudioParameters, Encryption};
use moonshard::proto::control::{Message, TERMINATED_BY_HOST, Version};
use moonshard::proto::input::{InputEvent, Modifiers};
use moonshard::proto::pairing::Pin;
use moonshard::proto::pattern::TONE_HZ;
use moonshard::proto::sdp::client::ClientAnnounce;
use moonshard::proto::sdp::encryption;
use moonshard::proto::secret::SessionKey;
use moonshard::proto::stream::Codec;
use moonshard::proto::surround::{Layout, Quality};
use moonshard::proto::video::{ReceiverParameters, Request};

use crate::arguments::{Mode, Play};
use crate::control::{Control, ControlError, Ended};
use crate::host::{Family, Host, HostError, PinEntry, Wanted, resolve};
use crate::identity::{Identity, IdentityError};
use crate::report::{Findings, Header, Report};
use crate::rtsp::{Handshake, RtspError, Settled};
use crate::sound::Sound;
use crate::video::{Before, Video, VideoError};

const AUDIO_PACKET_MS: u8 = 5;
/// A frame must come within this time.
const FIRST_FRAME_WAIT: Duration = Duration::from_secs(15);
const ANSWER_WAIT: Duration = Duration::from_secs(1);
/// Presses without an answer, so that the colours of the answer tell how many were answered.
const OWED_MAX: usize = 2;
/// A moving picture that stands for longer is broken, however slow this machine is.
const FREEZE_MAX_MS: f64 = 10_000.0;
/// A stream of so many seconds has had time for its first sound.
const SOUND_DUE_S: f64 = 3.0;
const KEY_HELD: Duration = Duration::from_millis(30);
const TYPE_AFTER: Duration = Duration::from_secs(1);
const TYPE_EVERY: Duration = Duration::from_millis(20);
const TONE_TOLERANCE_HZ: f64 = 5.0;
const VK_RETURN: u8 = 0x0D;
const VK_F5: u8 = 0x74;

/// There is no stream, or it broke.
#[derive(Debug, thiserror::Error)]
pub enum PlayError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Rtsp(#[from] RtspError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Video(#[from] VideoError),
    #[error("a soak disturbs a moonshard of this machine: add --pin-via-admin")]
    NeedsAdmin,
    #[error("sound: {0}")]
    Sound(std::io::Error),
    #[error("{}: {error}", path.display())]
    Save { path: PathBuf, error: std::io::Error },
}

/// Plays as asked; the report tells whether it was clean.
pub fn play(wanted: &Play) -> Result<Report, PlayError> {
    if let Some(path) = &wanted.save_frame {
        // Better now than after the stream.
        let made = std::fs::File::create(path);
        made.map_err(|error| PlayError::Save { path: path.clone(), error })?;
    }
    let host = reach(wanted)?;
    let app = host.app(&wanted.app)?;
    let resumes = host.running()? == app;
    let played = both(wanted, &host, app, resumes);
    if !wanted.keep && !wanted.drop {
        match (host.cancel(), &played) {
            (Err(error), Ok(_)) => return Err(error.into()),
            (Err(_), Err(_)) | (Ok(()), _) => {}
        }
    }
    played
}

/// The host, paired with the identity of the state directory.
pub fn reach(wanted: &Play) -> Result<Host, PlayError> {
    let family = match (wanted.ipv4, wanted.ipv6) {
        (true, _) => Family::V4,
        (_, true) => Family::V6,
        _ => Family::Any,
    };
    let address = resolve(&wanted.host, family)?;
    let identity = Identity::load_or_make(&wanted.state_dir())?;
    let pin = match &wanted.pin {
        Some(digits) => Pin::parse(digits).map(|pin| PinEntry::ByHand(pin, digits.clone())),
        None => wanted.pin_via_admin.then(|| PinEntry::Admin(wanted.moonshard_program())),
    };
    Ok(Host::reach(address, &identity, pin.as_ref())?)
}

fn both(wanted: &Play, host: &Host, app: i32, resumes: bool) -> Result<Report, PlayError> {
    let mut report = stream(wanted, host, app, resumes, wanted.mode, Before::default())?;
    if let Some(mode) = wanted.resume_mode {
        let before = report.before;
        report.resumed = Some(Box::new(stream(wanted, host, app, true, mode, before)?));
    }
    Ok(report)
}

/// One launch or resume, one handshake, one stream. `before`: what an earlier one of this session has
/// shown.
pub fn stream(
    wanted: &Play,
    host: &Host,
    app: i32,
    resume: bool,
    mode: Mode,
    before: Before,
) -> Result<Report, PlayError> {
    let mut key = SessionKey([0; 16]);
    aws_lc_rs::rand::fill(&mut key.0).expect("the system has randomness");
    let mut id = [0; 4];
    aws_lc_rs::rand::fill(&mut id).expect("the system has randomness");
    let rikeyid = i32::from_le_bytes(id);
    if let Some(path) = &wanted.keys {
        let noted = note_key(path, &key);
        noted.map_err(|error| PlayError::Save { path: path.clone(), error })?;
    }
    let launched = Instant::now();
    let url = host.start(
        app,
        resume,
        &Wanted {
            mode: (mode.width, mode.height, mode.fps),
            channels: wanted.channels,
            key: &key,
            rikeyid,
            encrypted_rtsp: !wanted.plain_rtsp,
        },
    )?;
    let handshake = Handshake::new(host.http, &url, &key)?;
    let settled = handshake.run(|describe, port| {
        let offered = describe
            .encryption_enabled(wanted.wants_video_encryption(), wanted.wants_audio_encryption());
        Ok(announce(wanted, host.http, mode, port, offered))
    })?;
    let announced = &settled.announced;
    let header = Header {
        host: host.name.clone(),
        app: wanted.app.clone(),
        mode: format!("{}x{}x{}", mode.width, mode.height, mode.fps),
        encrypted_rtsp: url.starts_with("rtspenc"),
        encrypted_video: announced.encryption & encryption::VIDEO != 0,
        encrypted_audio: announced.encryption & encryption::AUDIO != 0,
    };
    let link = Link { key: &key, rikeyid, launched, before };
    let running = Running::start(wanted, host.http, &settled, link)?;
    running.run(wanted, mode, header)
}

/// Appends a line.
fn note_key(path: &Path, key: &SessionKey) -> std::io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let digits: String = key.0.iter().map(|byte| format!("{byte:02x}")).collect();
    writeln!(file, "{digits}")
}

fn announce(wanted: &Play, to: SocketAddr, mode: Mode, port: u16, bits: u32) -> ClientAnnounce {
    ClientAnnounce {
        host: to.ip(),
        video_port: port,
        encryption: bits,
        wants_audio_encrypted: false,
        yuv444: false,
        width: mode.width,
        height: mode.height,
        fps: mode.fps,
        packet_size: wanted.packet_size,
        bitrate_kbps: wanted.bitrate,
        remote: false,
        slices: wanted.slices,
        codec: match wanted.codec {
            crate::arguments::CodecName::H264 => Codec::H264,
            crate::arguments::CodecName::Hevc => Codec::Hevc,
            crate::arguments::CodecName::Av1 => Codec::Av1,
        },
        ten_bit: false,
        reference_invalidation: false,
        refresh_x100: 0,
        channels: wanted.channels,
        surround_high: false,
        audio_packet_ms: AUDIO_PACKET_MS,
        csc_mode: 2,
    }
}

/// What a stream is opened with beyond the handshake's answers.
struct Link<'a> {
    key: &'a SessionKey,
    rikeyid: i32,
    launched: Instant,
    before: Before,
}

struct Running {
    control: Control,
    video: Video,
    sound: Sound,
    launched: Instant,
}

impl Running {
    fn start(
        wanted: &Play,
        to: SocketAddr,
        settled: &Settled,
        link: Link<'_>,
    ) -> Result<Self, PlayError> {
        let Link { key, rikeyid, launched, before } = link;
        let announced = &settled.announced;
        let layout = settled.describe.layout(wanted.channels, Quality::Normal);
        let layout: Layout = layout.ok_or(RtspError::Channels(wanted.channels))?;
        let has = |bit: u32| announced.encryption & bit != 0;
        let at = |port| SocketAddr::new(to.ip(), port);
        let encryption = has(encryption::AUDIO).then(|| Encryption { key: key.clone(), rikeyid });
        let audio = AudioParameters { packet_ms: AUDIO_PACKET_MS, encryption };
        let sound =
            Sound::start(at(settled.audio.port), settled.audio.payload, &audio, &layout, launched)
                .map_err(PlayError::Sound)?;
        let version = if has(encryption::CONTROL_V2) { Version::V2 } else { Version::V1 };
        let control =
            Control::connect(at(settled.control.port), settled.control.connect_data, key, version)?;
        let overhead = if has(encryption::VIDEO) { 32 } else { 0 };
        let parameters = ReceiverParameters {
            packet_size: u16::try_from(announced.packet_size - overhead).unwrap_or(u16::MAX),
            codec: announced.codec,
            key: has(encryption::VIDEO).then(|| key.clone()),
            invalidation: announced.reference_invalidation,
        };
        let (port, payload) = (settled.video.port, settled.video.payload);
        let video = Video::start(at(port), payload, &parameters, launched, before)?;
        Ok(Self { control, video, sound, launched })
    }

    fn run(mut self, wanted: &Play, mode: Mode, header: Header) -> Result<Report, PlayError> {
        let mut keys = Keys::new(wanted);
        let mut end = Instant::now() + FIRST_FRAME_WAIT;
        let mut progress = Progress::new(wanted);
        let mut first = None;
        while Instant::now() < end && self.control.ended.is_none() {
            self.control.tick().map_err(ControlError::from)?;
            self.pass_requests_on();
            let (decoded, answer_changed) = {
                let seen = self.video.seen.lock().expect("no thread panics");
                progress.show(&seen);
                (seen.first_decoded, seen.answer_changed)
            };
            if first.is_none() && decoded.is_some() {
                first = decoded;
                end = Instant::now() + Duration::from_secs_f64(wanted.seconds);
            }
            if let Some(first) = first {
                keys.work(&mut self.control, &self.video, first, answer_changed);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        progress.clear();
        self.finish(wanted, mode, header, &keys)
    }

    fn pass_requests_on(&mut self) {
        while let Ok(request) = self.video.requests.try_recv() {
            self.control.urgent(&match request {
                Request::Idr => Message::RequestIdr,
                Request::Invalidate { first, last } => {
                    Message::InvalidateReferenceFrames { first, last }
                }
            });
        }
    }

    /// Says goodbye, waits for what is still being decoded, and judges.
    fn finish(
        self,
        wanted: &Play,
        mode: Mode,
        header: Header,
        keys: &Keys,
    ) -> Result<Report, PlayError> {
        let ended = self.control.ended;
        let termination = match (ended, wanted.drop) {
            (Some(Ended::Terminated(TERMINATED_BY_HOST)), _) => "ended by the host".to_owned(),
            (Some(Ended::Terminated(code)), _) => format!("ended by the host, code {code:#010x}"),
            (Some(Ended::Disconnected), _) => "the connection was lost".to_owned(),
            (None, true) => "vanished".to_owned(),
            (None, false) => "said goodbye".to_owned(),
        };
        let unopened = self.control.unopened;
        let over = Instant::now();
        if !wanted.drop {
            self.control.disconnect();
        }
        let (seen, heard) = (self.video.finish(), self.sound.finish());
        let mut report = Report::new(
            header,
            &Findings {
                seen: &seen,
                heard: &heard,
                launched: self.launched,
                over,
                round_trips: &keys.round_trips,
                unanswered: keys.unanswered,
                termination,
            },
        );
        if let (Some(path), Some(picture)) = (&wanted.save_frame, &seen.picture) {
            let saved = picture.save(path);
            saved.map_err(|error| PlayError::Save { path: path.clone(), error })?;
        }
        report.ended_by_host = ended.is_some();
        if ended.is_some() {
            report.blame(report.termination.clone());
        }
        if unopened > 0 {
            report.blame(format!("{unopened} control messages did not open"));
        }
        if let Some(error) = &seen.decoder_error {
            report.blame(error.clone());
        }
        if seen.skipped > 0 {
            report.blame(format!("the decoder here was too slow for {} frames", seen.skipped));
        }
        if seen.decoded > 0 && seen.size != (mode.width, mode.height) {
            report.blame(format!("the picture is {}x{}", seen.size.0, seen.size.1));
        }
        judge(wanted, &mut report);
        Ok(report)
    }
}

fn judge(wanted: &Play, report: &mut Report) {
    let lost = report.frames_lost_after_first_second;
    if lost > 0 && !wanted.allow_loss {
        report.blame(format!("{lost} frames lost"));
    }
    if report.frames_decoded == 0 {
        report.blame("no frame was decoded");
    }
    // Only the pattern moves always: other hosts send nothing of a picture that does not.
    if wanted.pattern_check && report.longest_freeze_ms > FREEZE_MAX_MS {
        report.blame(format!("the picture stood still for {} ms", report.longest_freeze_ms));
    }
    if report.audio_packets == 0 && report.seconds >= SOUND_DUE_S {
        report.blame("no sound came");
    }
    for (count, what) in [
        (report.decode_errors, "video decode errors"),
        (report.audio_decode_errors, "audio decode errors"),
        (report.malformed_datagrams, "malformed video datagrams"),
        (report.unopened_datagrams, "video datagrams that do not open"),
    ] {
        if count > 0 {
            report.blame(format!("{count} {what}"));
        }
    }
    if wanted.pattern_check {
        let pattern = report.pattern;
        if pattern.readable == 0 || pattern.unreadable > 0 {
            report.blame(format!(
                "the pattern's counter was read from {} pictures and not from {}",
                pattern.readable, pattern.unreadable
            ));
        }
        if pattern.backwards > 0 {
            report.blame(format!("the pattern went backwards {} times", pattern.backwards));
        }
        if pattern.foreign_colours > 0 {
            report.blame(format!(
                "the pattern's colour changed {} times without a key press of this client",
                pattern.foreign_colours
            ));
        }
        match report.audio_hz {
            _ if !wanted.tone_check => {}
            Some(hz) if (hz - TONE_HZ).abs() <= TONE_TOLERANCE_HZ => {}
            Some(hz) => report.blame(format!("the tone has {hz} Hz instead of {TONE_HZ} Hz")),
            None => report.blame("the tone is not heard"),
        }
    }
    // Of a crowd, the colours tell whether presses arrive; how fast is a question of the machine.
    if wanted.input_every.is_some() && wanted.clients.is_none() {
        if report.input_unanswered > 0 {
            report.blame(format!("{} key presses were not answered", report.input_unanswered));
        } else if report.input_round_trip_ms.is_none() {
            report.blame("no key press was answered");
        }
    }
}

/// What is pressed and typed, and how long answers took.
struct Keys {
    every: Option<Duration>,
    text: Vec<char>,
    next_press: Option<Instant>,
    pressed: Option<Instant>,
    release_at: Option<Instant>,
    next_type: Instant,
    round_trips: Histogram<u64>,
    unanswered: u64,
}

impl Keys {
    fn new(wanted: &Play) -> Self {
        Self {
            every: wanted.input_every.map(Duration::from_millis),
            text: wanted.r#type.iter().flat_map(|text| text.chars().rev()).collect(),
            next_press: None,
            pressed: None,
            release_at: None,
            next_type: Instant::now(),
            round_trips: Histogram::new(3).expect("three digits are legal"),
            unanswered: 0,
        }
    }

    fn work(
        &mut self,
        control: &mut Control,
        video: &Video,
        first: Instant,
        changed: Option<Instant>,
    ) {
        let now = Instant::now();
        if now < first + TYPE_AFTER {
            return;
        }
        if now >= self.next_type
            && let Some(character) = self.text.pop()
        {
            self.next_type = now + TYPE_EVERY;
            type_character(control, character);
        }
        if self.release_at.is_some_and(|at| now >= at) {
            self.release_at = None;
            control.input(&key(false, VK_F5));
        }
        let Some(every) = self.every else { return };
        if let Some(pressed) = self.pressed {
            if let Some(changed) = changed.filter(|changed| *changed > pressed) {
                let micros = u64::try_from((changed - pressed).as_micros()).unwrap_or(u64::MAX);
                let _ = self.round_trips.record(micros);
                self.pressed = None;
            } else if now > pressed + ANSWER_WAIT {
                self.unanswered += 1;
                self.pressed = None;
            }
        } else if self.release_at.is_none() && self.next_press.is_none_or(|next| now >= next) {
            let mut seen = video.seen.lock().expect("no thread panics");
            if seen.colours.owed > OWED_MAX {
                return;
            }
            // Before it is sent: its answer may come at once.
            seen.colours.owed += 1;
            drop(seen);
            self.next_press = Some(now + every);
            self.release_at = Some(now + KEY_HELD);
            self.pressed = Some(now);
            control.input(&key(true, VK_F5));
        }
    }
}

fn key(down: bool, vk: u8) -> InputEvent {
    InputEvent::Key { down, vk, modifiers: Modifiers::default(), not_normalised: false }
}

/// Letters, digits, blanks and new lines as keys of a US keyboard, everything else as text.
fn type_character(control: &mut Control, character: char) {
    let vk = match character {
        'a'..='z' => u8::try_from(character.to_ascii_uppercase()).ok(),
        '0'..='9' | ' ' => u8::try_from(character).ok(),
        '\n' => Some(VK_RETURN),
        _ => None,
    };
    match vk {
        Some(vk) => [true, false].into_iter().for_each(|down| control.input(&key(down, vk))),
        None => control.input(&InputEvent::Text(character.into())),
    }
}

/// The line that lives while a stream runs, on a terminal.
struct Progress {
    shows: bool,
    next: Instant,
}

impl Progress {
    fn new(wanted: &Play) -> Self {
        let shows = !wanted.json && std::io::stderr().is_terminal();
        Self { shows, next: Instant::now() }
    }

    fn show(&mut self, seen: &crate::video::Seen) {
        if self.shows && Instant::now() >= self.next {
            self.next = Instant::now() + Duration::from_millis(500);
            let s = &seen.statistics;
            eprint!(
                "\r\x1b[K  {} frames, {} lost, {} repaired, {:.1} MB",
                seen.decoded,
                s.frames_lost,
                s.frames_repaired,
                s.bytes as f64 / 1e6
            );
        }
    }

    fn clear(&self) {
        if self.shows {
            eprint!("\r\x1b[K");
        }
    }
}
