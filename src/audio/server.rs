//! One PulseAudio daemon per session: its script, its process, its end.
//!
//! Everything it writes is in the session's directory. It dies with the thread that started it.
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::AudioConfig;
use crate::proc::child::Child;

/// The only sink there is.
pub const SINK: &str = "session";

/// The socket that apps and we connect to.
pub fn socket(directory: &Path) -> PathBuf {
    directory.join("pulse.sock")
}

/// The running daemon.
#[derive(Debug)]
pub struct Server {
    child: Child,
}

/// Channel names in the order of clients: FL FR FC LFE BL BR SL SR.
pub const CHANNEL_NAMES: [&str; 8] = [
    "front-left",
    "front-right",
    "front-center",
    "lfe",
    "rear-left",
    "rear-right",
    "side-left",
    "side-right",
];

impl Server {
    /// Starts it; its socket appears some ten milliseconds later.
    pub fn start(config: &AudioConfig) -> io::Result<Self> {
        let directory = &config.runtime_dir;
        let socket = socket(directory);
        let _ = std::fs::remove_file(&socket);
        let channels = usize::from(config.channels).clamp(1, CHANNEL_NAMES.len());
        let script = directory.join("pulse.pa");
        // A sink that can rewind plays two seconds ahead as long as nobody plays; the first sound would
        // then be heard only behind them.
        std::fs::write(
            &script,
            format!(
                ".fail\n\
                 load-module module-native-protocol-unix socket={} auth-anonymous=1\n\
                 load-module module-null-sink sink_name={SINK} rate=48000 channels={channels} channel_map={} norewinds=1\n\
                 set-default-sink {SINK}\n",
                socket.display(),
                CHANNEL_NAMES[..channels].join(","),
            ),
        )?;
        let own = |name: &str| directory.join(name);
        let mut command = Command::new("pulseaudio");
        command
            .args(["-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1"])
            .args(["--realtime=no", "--high-priority=no", "--disable-shm=yes", "--log-level=error"])
            .args([
                "--log-target=stderr",
                "--disallow-exit=yes",
                "--disallow-module-loading=yes",
                "-F",
            ])
            .arg(&script)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", directory)
            .env("XDG_RUNTIME_DIR", directory)
            .env("XDG_CONFIG_HOME", own("pulse-config"))
            .env("PULSE_RUNTIME_PATH", own("pulse-runtime"))
            .env("PULSE_STATE_PATH", own("pulse-state"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0);
        let child = crate::proc::child::spawn_dying_with_us(command)?;
        let _ = std::fs::write(format!("/proc/{}/oom_score_adj", child.pid()), "300");
        Ok(Self { child })
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_reap().is_some() || self.child.was_reaped()
    }
}
