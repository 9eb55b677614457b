//! A session's sound from an app's playback to the packets of a viewer, over a real PulseAudio.
use std::io::Write;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use moonshard::audio::{self, Audio, AudioConfig, AudioViewer, OpusDecoder};
use moonshard::net::now;
use moonshard::proto::audio::{AudioEvent, AudioParameters, AudioReceiver, Encryption};
use moonshard::proto::secret::SessionKey;
use moonshard::proto::stream::AudioSpec;
use moonshard::proto::surround::{Layout, Quality, bitrate};

const PATIENCE: Duration = Duration::from_secs(20);

fn spec(channels: u8, quality: Quality, encrypted: bool) -> AudioSpec {
    let layout = Layout::of(channels, quality).unwrap();
    AudioSpec {
        channels,
        streams: layout.streams,
        coupled: layout.coupled,
        mapping: layout.mapping,
        bitrate: bitrate(channels, quality, 5),
        packet_ms: 5,
        encrypted,
        qos: false,
    }
}

/// Both ends of a viewer's audio flow.
fn flow() -> (OwnedFd, UdpSocket) {
    let host = UdpSocket::bind("127.0.0.1:0").unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    host.connect(client.local_addr().unwrap()).unwrap();
    client.connect(host.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    (host.into(), client)
}

fn start(dir: &Path, channels: u8) -> Audio {
    audio::start(AudioConfig { runtime_dir: dir.to_owned(), channels }).unwrap()
}

fn attach(audio: &Audio, socket: OwnedFd, spec: &AudioSpec, key: u8) {
    let key = SessionKey([key; 16]);
    audio.attach(AudioViewer { socket, spec: spec.clone(), key, rikeyid: -2 });
}

/// A playing app; `pacat` is part of pulseaudio-utils.
struct Tone(Child);

impl Tone {
    /// A tone on one of `channels` channels, again and again.
    fn play(audio: &Audio, hertz: f64, channels: usize, on: usize) -> Self {
        const NAMES: [&str; 8] = [
            "front-left",
            "front-right",
            "front-center",
            "lfe",
            "rear-left",
            "rear-right",
            "side-left",
            "side-right",
        ];
        let mut child = Command::new("pacat")
            .args(["--playback", "--raw", "--format=s16le", "--rate=48000", "--latency-msec=20"])
            .arg(format!("--channels={channels}"))
            .arg(format!("--channel-map={}", NAMES[..channels].join(",")))
            .env("PULSE_SERVER", audio.server())
            .stdin(Stdio::piped())
            .spawn()
            .expect("pacat is needed: apt-get install pulseaudio-utils");
        let mut stdin = child.stdin.take().unwrap();
        std::thread::spawn(move || {
            for n in 0u64.. {
                let value = (n as f64 * hertz * std::f64::consts::TAU / 48_000.0).sin() * 8000.0;
                let mut frame = vec![0i16; channels];
                frame[on] = value as i16;
                let bytes: Vec<u8> = frame.iter().flat_map(|s| s.to_le_bytes()).collect();
                if stdin.write_all(&bytes).is_err() {
                    break;
                }
            }
        });
        Self(child)
    }
}

impl Drop for Tone {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The client's end: receives, repairs, decodes, in its own order of channels.
struct Client {
    socket: UdpSocket,
    receiver: AudioReceiver,
    decoder: OpusDecoder,
    channels: usize,
    sizes: Vec<usize>,
    packets: usize,
}

impl Client {
    fn new(socket: UdpSocket, spec: &AudioSpec, quality: Quality, key: u8) -> Self {
        let own = Layout::of(spec.channels, quality).unwrap();
        // As a client reads what DESCRIBE advertises.
        let told = Layout::parse_line(&own.advertised(quality)).unwrap().as_client_reads(quality);
        let told = if spec.channels == 2 { own } else { told };
        let encryption =
            spec.encrypted.then(|| Encryption { key: SessionKey([key; 16]), rikeyid: -2 });
        let parameters = AudioParameters { packet_ms: 5, encryption };
        Self {
            socket,
            receiver: AudioReceiver::new(&parameters),
            decoder: OpusDecoder::new(told.channels, told.streams, told.coupled, &told.mapping)
                .unwrap(),
            channels: usize::from(spec.channels),
            sizes: Vec::new(),
            packets: 0,
        }
    }

    /// Interleaved samples of at least the next `packets` packets.
    fn hear(&mut self, packets: usize) -> Vec<i16> {
        let until = self.packets + packets;
        let (mut samples, mut buffer) = (Vec::new(), [0; 1500]);
        while self.packets < until {
            let length = self.socket.recv(&mut buffer).expect("sound goes on");
            self.sizes.push(length);
            for event in self.receiver.push(&buffer[..length], now()) {
                if let AudioEvent::Packet { opus, .. } = event {
                    samples.extend(self.decoder.decode(&opus).unwrap());
                    self.packets += 1;
                }
            }
        }
        samples
    }

    fn level(&mut self, channel: usize, hertz: f64) -> f64 {
        self.levels(hertz)[channel]
    }

    /// How loud a frequency is on each channel.
    fn levels(&mut self, hertz: f64) -> Vec<f64> {
        let samples = self.hear(40);
        let of = |channel| -> Vec<f64> {
            let one = samples.iter().skip(channel).step_by(self.channels);
            one.map(|sample| f64::from(*sample)).collect()
        };
        (0..self.channels).map(|channel| goertzel(&of(channel), hertz)).collect()
    }

    /// Waits for a tone.
    fn expect_tone(&mut self, channel: usize, hertz: f64) {
        let start = Instant::now();
        while self.level(channel, hertz) < 1000.0 {
            assert!(start.elapsed() < PATIENCE, "no {hertz} Hz on channel {channel}");
        }
    }
}

/// The amplitude of a frequency.
fn goertzel(samples: &[f64], hertz: f64) -> f64 {
    let w = hertz * std::f64::consts::TAU / 48_000.0;
    let (mut a, mut b) = (0.0, 0.0);
    for sample in samples {
        (a, b) = (sample + 2.0 * w.cos() * a - b, a);
    }
    (a * a + b * b - 2.0 * w.cos() * a * b).sqrt() * 2.0 / samples.len().max(1) as f64
}

#[test]
fn a_tone_reaches_the_viewer_plain_and_encrypted() {
    let dir = tempfile::tempdir().unwrap();
    let audio = start(dir.path(), 2);
    let _tone = Tone::play(&audio, 440.0, 2, 0);
    for (key, encrypted) in [(1, false), (2, true)] {
        let spec = spec(2, Quality::High, encrypted);
        let (socket, client) = flow();
        attach(&audio, socket, &spec, key);
        let mut client = Client::new(client, &spec, Quality::High, key);
        client.expect_tone(0, 440.0);
        assert!(client.level(0, 1000.0) < 100.0 && client.level(1, 440.0) < 100.0);
        // Data packets have one size, parity packets another, 12 bytes more.
        let longest = *client.sizes.iter().max().unwrap();
        assert!(client.sizes.iter().all(|size| *size == longest || size + 12 == longest));
    }
}

#[test]
fn each_channel_arrives_where_the_client_expects_it() {
    for channels in [6, 8] {
        let dir = tempfile::tempdir().unwrap();
        let audio = start(dir.path(), channels);
        for (key, quality) in [(1, Quality::Normal), (2, Quality::High)] {
            let spec = spec(channels, quality, false);
            let (socket, client) = flow();
            attach(&audio, socket, &spec, key);
            let mut client = Client::new(client, &spec, quality, key);
            for channel in 0..usize::from(channels) {
                let hertz = if channel == 3 { 80.0 } else { 500.0 };
                let _tone = Tone::play(&audio, hertz, usize::from(channels), channel);
                client.expect_tone(channel, hertz);
                for (other, leak) in client.levels(hertz).into_iter().enumerate() {
                    let fits = other == channel || leak < 800.0;
                    assert!(fits, "{channels} {quality:?}: {channel} on {other}: {leak}");
                }
            }
        }
    }
}

#[test]
fn silence_is_sent_too_and_numbers_go_on_when_the_socket_moves() {
    let dir = tempfile::tempdir().unwrap();
    let audio = start(dir.path(), 2);
    let spec = spec(2, Quality::Normal, true);
    let first_number = |socket: &UdpSocket| {
        let mut buffer = [0; 1500];
        loop {
            let length = socket.recv(&mut buffer).expect("silence is sent");
            if length > 4 && buffer[1] == 97 {
                return u16::from_be_bytes([buffer[2], buffer[3]]);
            }
        }
    };
    let (socket, client) = flow();
    attach(&audio, socket, &spec, 5);
    let mut last = first_number(&client);
    assert_eq!(last, 0);
    for _ in 0..100 {
        last = first_number(&client);
    }
    let (socket, client) = flow();
    attach(&audio, socket, &spec, 5);
    assert!(first_number(&client) > last, "the same key never starts again");
    let (socket, client) = flow();
    attach(&audio, socket, &spec, 6);
    assert_eq!(first_number(&client), 0);
    // The same key with another quality: another encoder, whose blocks begin where they may.
    for _ in 0..20 {
        last = first_number(&client);
    }
    let (socket, client) = flow();
    attach(&audio, socket, &self::spec(2, Quality::High, true), 6);
    let next = first_number(&client);
    assert!(next > last && next.is_multiple_of(4), "{next} after {last}");
    assert_eq!(audio.figures()["errors"], 0.0);
}

#[test]
fn a_sink_of_eight_channels_is_mixed_to_a_stereo_viewer() {
    let dir = tempfile::tempdir().unwrap();
    let audio = start(dir.path(), 8);
    let spec = spec(2, Quality::High, true);
    let (socket, client) = flow();
    attach(&audio, socket, &spec, 1);
    let mut client = Client::new(client, &spec, Quality::High, 1);
    let _tone = Tone::play(&audio, 440.0, 8, 2);
    client.expect_tone(0, 440.0);
    client.expect_tone(1, 440.0);
}

/// A session's sound with a viewer who hears a tone on the right.
fn heard(dir: &Path) -> (Audio, Client, Tone) {
    let audio = start(dir, 2);
    let spec = spec(2, Quality::High, false);
    let (socket, client) = flow();
    attach(&audio, socket, &spec, 1);
    let mut client = Client::new(client, &spec, Quality::High, 1);
    let tone = Tone::play(&audio, 440.0, 2, 1);
    client.expect_tone(1, 440.0);
    (audio, client, tone)
}

/// The server that comes next is heard by the same viewer, on the left.
fn expect_next_server(dir: &Path, audio: &Audio, client: &mut Client) {
    while std::os::unix::net::UnixStream::connect(dir.join("pulse.sock")).is_err() {
        client.hear(10);
    }
    let _tone = Tone::play(audio, 660.0, 2, 0);
    client.expect_tone(0, 660.0);
}

#[test]
fn a_server_that_stands_still_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (audio, mut client, tone) = heard(dir.path());
    let servers = servers_of(dir.path());
    Command::new("kill").args(["-STOP", &servers[0].to_string()]).status().unwrap();
    let start = Instant::now();
    while audio.figures()["server_restarts"] < 1.0 {
        assert!(start.elapsed() < PATIENCE, "the server is not replaced");
        client.hear(10);
    }
    assert_eq!(audio.figures()["stalls"], 1.0);
    drop(tone);
    expect_next_server(dir.path(), &audio, &mut client);
}

#[test]
fn the_server_killed_comes_back_and_nothing_is_left_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (audio, mut client, tone) = heard(dir.path());
    let servers = servers_of(dir.path());
    assert_eq!(servers.len(), 1);
    Command::new("kill").args(["-9", &servers[0].to_string()]).status().unwrap();
    drop(tone);
    // Packets go on without a break that a read would notice.
    client.hear(200);
    let start = Instant::now();
    while servers_of(dir.path()).is_empty() || servers_of(dir.path()) == servers {
        assert!(start.elapsed() < PATIENCE, "the server does not come back");
        client.hear(10);
    }
    expect_next_server(dir.path(), &audio, &mut client);
    assert!(audio.figures()["server_restarts"] >= 1.0);
    drop(audio);
    let start = Instant::now();
    while !servers_of(dir.path()).is_empty() {
        assert!(start.elapsed() < PATIENCE, "the server outlives its session");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Pids of audio servers whose script is in this directory.
fn servers_of(dir: &Path) -> Vec<u32> {
    let script = dir.join("pulse.pa").display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains(&script) {
            found.push(pid);
        }
    }
    found
}
