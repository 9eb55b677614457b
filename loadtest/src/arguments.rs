//! The command line.
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A Moonlight client that measures a GameStream host.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Pair if needed, start an app, watch and hear it, and report
    Play(Box<Play>),
    /// Load any TLS server with handshakes and requests
    Handshake(crate::handshake::Handshake),
    /// Attack a server while honest clients are measured beside it
    Attack(crate::attack::Attack),
    /// The same load on two servers in turn
    Compare(crate::compare::Compare),
}

/// WIDTHxHEIGHTxFPS.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    pub width: u32,
    pub height: u32,
    pub fps: u32,
}

impl FromStr for Mode {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<u32> = text.split('x').filter_map(|part| part.parse().ok()).collect();
        match parts.as_slice() {
            &[width, height, fps] if text.split('x').count() == 3 => {
                Ok(Self { width, height, fps })
            }
            _ => Err("like 1280x720x60".into()),
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum CodecName {
    H264,
    Hevc,
    Av1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

#[derive(Args, Debug)]
#[command(args_override_self = true)]
pub struct Play {
    /// Name or address, with the HTTP port if it is not 47989
    #[arg(long)]
    pub host: String,
    /// Title of the app
    #[arg(long)]
    pub app: String,
    /// How long to play after the first frame
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Pair with this PIN, which somebody enters at the host
    #[arg(long, value_name = "NNNN", value_parser = four_digits, conflicts_with = "pin_via_admin")]
    pub pin: Option<String>,
    /// Pair by entering a PIN with `moonshard pair` on this machine
    #[arg(long)]
    pub pin_via_admin: bool,
    /// The moonshard program that --pin-via-admin runs [default: beside this one, else in PATH]
    #[arg(long, value_name = "PATH")]
    pub moonshard: Option<PathBuf>,
    /// Where identity and pairings are kept [default: $XDG_STATE_HOME/moonshard-loadtest]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    #[arg(long, default_value = "1280x720x60", value_name = "WxHxFPS")]
    pub mode: Mode,
    /// kbit/s in all
    #[arg(long, default_value_t = 20_000)]
    pub bitrate: u32,
    #[arg(long, value_enum, default_value_t = CodecName::H264)]
    pub codec: CodecName,
    /// Bytes of a video packet, a multiple of 16
    #[arg(long, default_value_t = 1024, value_parser = packet_size)]
    pub packet_size: u32,
    /// Do not encrypt RTSP
    #[arg(long)]
    pub plain_rtsp: bool,
    /// Ask for encrypted video
    #[arg(long, conflicts_with = "no_video_encryption")]
    pub video_encryption: bool,
    /// Do not ask for encrypted video (a host may still demand it)
    #[arg(long)]
    pub no_video_encryption: bool,
    #[arg(long, value_enum, default_value_t = Switch::On)]
    pub audio_encryption: Switch,
    /// 2, 6 or 8
    #[arg(long, default_value_t = 2, value_parser = channels)]
    pub channels: u8,
    /// Slices of a picture
    #[arg(long, default_value_t = 1)]
    pub slices: u8,
    #[arg(long, conflicts_with = "ipv6")]
    pub ipv4: bool,
    #[arg(long)]
    pub ipv6: bool,
    /// Press a key this often and measure until the pattern answers
    #[arg(long, value_name = "MS")]
    pub input_every: Option<u64>,
    /// Type this text one second after the first frame; \n is the enter key
    #[arg(long, value_name = "TEXT", value_parser = unescape)]
    pub r#type: Option<String>,
    /// Demand the test pattern: its counter in each picture, its tone in the sound
    #[arg(long)]
    pub pattern_check: bool,
    /// Save the last picture
    #[arg(long, value_name = "FILE.png")]
    pub save_frame: Option<PathBuf>,
    /// Append the key of each stream, in hexadecimal, so that its packets can be read
    #[arg(long, value_name = "FILE")]
    pub keys: Option<PathBuf>,
    /// Then leave, resume in this mode, and play once more
    #[arg(long, value_name = "WxHxFPS")]
    pub resume_mode: Option<Mode>,
    /// End the app at the end (the default)
    #[arg(long, conflicts_with = "keep")]
    pub quit: bool,
    /// Let the app run on
    #[arg(long)]
    pub keep: bool,
    /// Vanish without a goodbye
    #[arg(long)]
    pub drop: bool,
    /// Lost frames do not make a run unclean
    #[arg(long)]
    pub allow_loss: bool,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

impl Play {
    pub fn state_dir(&self) -> PathBuf {
        self.state.clone().unwrap_or_else(|| {
            let home = || std::env::home_dir().unwrap_or_default().join(".local/state");
            let base = std::env::var_os("XDG_STATE_HOME").map_or_else(home, PathBuf::from);
            base.join("moonshard-loadtest")
        })
    }

    pub fn moonshard_program(&self) -> PathBuf {
        self.moonshard.clone().unwrap_or_else(|| {
            let own = std::env::current_exe().unwrap_or_default();
            let beside = own.with_file_name("moonshard");
            if beside.is_file() { beside } else { "moonshard".into() }
        })
    }

    pub fn wants_video_encryption(&self) -> bool {
        !self.no_video_encryption
    }

    pub fn wants_audio_encryption(&self) -> bool {
        self.audio_encryption == Switch::On
    }
}

fn four_digits(text: &str) -> Result<String, String> {
    let fits = text.len() == 4 && text.bytes().all(|b| b.is_ascii_digit());
    fits.then(|| text.to_owned()).ok_or_else(|| "four digits".into())
}

fn packet_size(text: &str) -> Result<u32, String> {
    let size = text.parse().ok().filter(|n: &u32| n.is_multiple_of(16) && (256..=8192).contains(n));
    size.ok_or_else(|| "a multiple of 16 from 256 to 8192".into())
}

fn channels(text: &str) -> Result<u8, String> {
    text.parse().ok().filter(|n| [2, 6, 8].contains(n)).ok_or_else(|| "2, 6 or 8".into())
}

fn unescape(text: &str) -> Result<String, String> {
    Ok(text.replace("\\n", "\n"))
}
