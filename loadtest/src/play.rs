//! `play`: from an address to a report. Composition only.
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Args;
use moonshard::proto::audio::{AudioParameters, Encryption};
use moonshard::proto::hex;
use moonshard::proto::sdp::client::ClientAnnounce;
use moonshard::proto::sdp::encryption;
use moonshard::proto::secret::SessionKey;
use moonshard::proto::stream::Codec;
use moonshard::proto::surround::Quality;
use moonshard::proto::video::{Receiver, ReceiverParameters};

use crate::control::Control;
use crate::gamestream::{Host, random};
use crate::identity::Identity;
use crate::picture::Pictures;
use crate::report::Report;
use crate::rtsp::Rtsp;
use crate::sound::Sound;
use crate::stream::{Script, Stream};

/// Bit rates from which clients ask for high-quality sound.
const HIGH_AUDIO_KBPS: u32 = 15_000;

#[derive(Args, Clone, Debug)]
pub struct Play {
    /// Address or name of the host, with its HTTP port if that is not 47989
    #[arg(long)]
    host: String,
    /// Title of the app
    #[arg(long, default_value = "Test pattern")]
    app: String,
    /// How long to play after the first picture
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// The PIN of a pairing, to be entered at the host; a random one is shown otherwise
    #[arg(long)]
    pin: Option<String>,
    /// Enter the PIN with `moonshard pair` (the host runs on this machine)
    #[arg(long)]
    pin_via_admin: bool,
    /// The moonshard program for --pin-via-admin
    #[arg(long, value_name = "FILE")]
    moonshard: Option<PathBuf>,
    /// Where certificates are kept
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Width, height and frames per second
    #[arg(long, default_value = "1280x720x60")]
    mode: String,
    /// Total bit rate in kbit/s
    #[arg(long, default_value_t = 10_000)]
    bitrate: u32,
    /// h264, hevc or av1; only h264 is decoded
    #[arg(long, default_value = "h264")]
    codec: String,
    #[arg(long, default_value_t = 1392)]
    packet_size: u32,
    #[arg(long, default_value_t = 1)]
    slices: u8,
    /// 2, 6 or 8
    #[arg(long, default_value_t = 2)]
    channels: u8,
    /// Unencrypted RTSP, like old clients
    #[arg(long)]
    plain_rtsp: bool,
    /// Have video encrypted
    #[arg(long)]
    video_encryption: bool,
    /// Have sound encrypted
    #[arg(long)]
    audio_encryption: bool,
    /// Press a key this often, in ms, and wait for the pattern's answer
    #[arg(long, value_name = "MS")]
    input_every: Option<u64>,
    /// Type this into the app
    #[arg(long = "type", value_name = "TEXT")]
    text: Option<String>,
    /// Read the test pattern back from every picture, and its tone from the sound
    #[arg(long)]
    pattern_check: bool,
    /// Write the last picture
    #[arg(long, value_name = "FILE.png")]
    save_frame: Option<PathBuf>,
    /// Afterwards resume in this mode and play as long again
    #[arg(long, value_name = "MODE")]
    resume_mode: Option<String>,
    /// Leave the app running
    #[arg(long)]
    keep: bool,
    /// Vanish without a goodbye
    #[arg(long)]
    drop: bool,
    /// Lost frames are no fault
    #[arg(long)]
    allow_loss: bool,
    /// One JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Plays. An error means that there was nothing to measure.
pub fn run(play: &Play) -> Result<Report, String> {
    let address = address_of(&play.host)?;
    let state = play.state.clone().unwrap_or_else(default_state);
    let mut host = Host::find(address, Identity::open(&state)?)?;
    if !host.is_paired() {
        pair(play, &mut host)?;
    }
    let mut report = Report::new(play.host.clone(), play.app.clone());
    let mut sequence = 1;
    let played = stream(play, &host, &play.mode, &mut sequence, &mut report).and_then(|()| {
        match &play.resume_mode {
            Some(mode) => stream(play, &host, mode, &mut sequence, &mut report),
            None => Ok(()),
        }
    });
    if !play.keep {
        let _ = host.cancel();
    }
    played?;
    report.judge(play.allow_loss);
    Ok(report)
}

fn default_state() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/state"));
    let base = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).or_else(home);
    base.unwrap_or_else(std::env::temp_dir).join("moonshard-loadtest")
}

fn address_of(text: &str) -> Result<SocketAddr, String> {
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, 47989));
    }
    let with_port = if text.contains(':') { text.to_owned() } else { format!("{text}:47989") };
    let mut found = with_port.to_socket_addrs().map_err(|e| format!("{text}: {e}"))?;
    found.next().ok_or(format!("{text} has no address"))
}

fn pair(play: &Play, host: &mut Host) -> Result<(), String> {
    let mut digits = [0; 2];
    random(&mut digits);
    let drawn = format!("{:04}", u16::from_be_bytes(digits) % 10_000);
    let pin = play.pin.clone().unwrap_or(drawn);
    if play.pin_via_admin {
        let beside = std::env::current_exe().ok().map(|own| own.with_file_name("moonshard"));
        let beside = beside.filter(|path| path.exists());
        let program = play.moonshard.clone().or(beside).unwrap_or_else(|| "moonshard".into());
        let told = pin.clone();
        return host.pair(&pin, move || enter_pin(&program, &told));
    }
    let shown = pin.clone();
    host.pair(&pin, move || eprintln!("Enter this PIN at the host: {shown}"))
}

/// Looks for a waiting pairing and gives it the PIN, as an operator would.
fn enter_pin(program: &Path, pin: &str) {
    for _ in 0..100 {
        let list = Command::new(program).args(["pair", "--json"]).output();
        let list = list.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
        let parsed: Option<serde_json::Value> =
            list.ok().and_then(|text| serde_json::from_str(&text).ok());
        let waiting = parsed.as_ref().and_then(|list| list.as_array()).into_iter().flatten();
        let ours = waiting.filter(|p| p["device"] == "loadtest").next_back();
        if let Some(id) = ours.and_then(|pairing| pairing["id"].as_str()) {
            let _ = Command::new(program).args(["pair", id, pin]).output();
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    eprintln!("the host shows no waiting pairing");
}

/// One stream: launch or resume, handshake, play.
fn stream(
    play: &Play,
    host: &Host,
    mode: &str,
    sequence: &mut u32,
    report: &mut Report,
) -> Result<(), String> {
    let numbers: Vec<u32> = mode.split('x').filter_map(|n| n.parse().ok()).collect();
    let [width, height, fps] = numbers[..] else {
        return Err(format!("{mode} is no mode like 1280x720x60"));
    };
    let codec = match play.codec.as_str() {
        "h264" => Codec::H264,
        "hevc" => Codec::Hevc,
        "av1" => Codec::Av1,
        other => return Err(format!("{other} is no codec: h264, hevc or av1")),
    };
    let pictures = Pictures::start(play.save_frame.clone())?;
    let mut key = SessionKey([0; 16]);
    random(&mut key.0);
    let mut id = [0; 4];
    random(&mut id);
    let rikeyid = i32::from_be_bytes(id);
    let mask = match play.channels {
        6 => 0x3F,
        8 => 0x63F,
        _ => 3,
    };
    let (app, running) = host.app(&play.app)?;
    let verb = if running == 0 { "launch" } else { "resume" };
    let launched = Instant::now();
    let url = host.launch(
        verb,
        &format!(
            "appid={app}&mode={width}x{height}x{fps}&additionalStates=1&sops=1&rikey={}\
             &rikeyid={rikeyid}&localAudioPlayMode=0&surroundAudioInfo={}\
             &remoteControllersBitmap=0&gcmap=0&corever={}",
            hex::encode(&key.0),
            (mask << 16) | u32::from(play.channels),
            u8::from(!play.plain_rtsp)
        ),
    )?;
    let port = url.rsplit(':').next().and_then(|p| p.parse().ok()).ok_or("no RTSP port")?;
    let high = play.bitrate >= HIGH_AUDIO_KBPS;
    let mut announce = ClientAnnounce {
        host: host.address.ip(),
        video_port: 0,
        encryption: 0,
        wants_audio_encrypted: false,
        yuv444: false,
        width,
        height,
        fps,
        packet_size: play.packet_size,
        bitrate_kbps: play.bitrate,
        remote: false,
        slices: play.slices,
        codec,
        ten_bit: false,
        reference_invalidation: false,
        refresh_x100: fps * 100,
        channels: play.channels,
        surround_high: false,
        audio_packet_ms: 5,
        csc_mode: 2,
    };
    let rtsp_address = SocketAddr::new(host.address.ip(), port);
    Rtsp::probe(rtsp_address);
    let mut rtsp =
        Rtsp { address: rtsp_address, url: &url, key: &key, sequence, cseq: 0, low_audio: !high };
    let wants = (play.video_encryption, play.audio_encryption);
    let settled = rtsp.shake(&mut announce, wants, high)?;
    let video_key = (settled.encryption & encryption::VIDEO != 0).then(|| key.clone());
    let packet_size = play.packet_size - if video_key.is_some() { 32 } else { 0 };
    let receiver = Receiver::new(&ReceiverParameters {
        packet_size: u16::try_from(packet_size).map_err(|e| e.to_string())?,
        codec,
        key: video_key,
        invalidation: settled.describe.reference_invalidation,
    });
    let sound_encrypted = wants.1 || settled.encryption & encryption::AUDIO != 0;
    let quality = if high { Quality::High } else { Quality::Normal };
    let layout = settled.describe.layout(play.channels, quality);
    let sound = Sound::new(
        &AudioParameters {
            packet_ms: 5,
            encryption: sound_encrypted.then(|| Encryption { key: key.clone(), rikeyid }),
        },
        &layout.ok_or("the host offers no such sound")?,
    )?;
    let any: IpAddr = if host.address.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let control = Control::connect(
        SocketAddr::new(any, 0),
        SocketAddr::new(host.address.ip(), settled.control_port),
        settled.connect_data,
        &key,
        settled.encryption & encryption::CONTROL_V2 != 0,
    )?;
    let script = Script {
        seconds: play.seconds,
        input_every: play.input_every.map(Duration::from_millis),
        text: play.text.clone().map(|text| text.replace("\\n", "\n")),
        pattern_check: play.pattern_check,
        drop: play.drop,
        progress: !play.json,
    };
    let mut stream =
        Stream::open(host.address.ip(), settled, control, receiver, sound, pictures, launched)?;
    stream.play(&script, report)
}
