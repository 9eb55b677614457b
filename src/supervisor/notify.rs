//! What systemd is told over `$NOTIFY_SOCKET`, as sd_notify(3) and sd_watchdog_enabled(3) describe.
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// The way to systemd; silent where there is none.
#[derive(Debug, Default)]
pub struct Notify {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often a sign of life is due: half of what systemd waits.
    every: Option<Duration>,
    next: Option<Instant>,
}

impl Notify {
    /// From the environment.
    pub fn from_environment() -> Self {
        let socket = std::env::var_os("NOTIFY_SOCKET").and_then(|path| {
            let address = match path.as_bytes().strip_prefix(b"@") {
                Some(name) => SocketAddr::from_abstract_name(name).ok()?,
                None => SocketAddr::from_pathname(&path).ok()?,
            };
            let socket = UnixDatagram::unbound().ok()?;
            socket.set_nonblocking(true).ok()?;
            Some((socket, address))
        });
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let every = number("WATCHDOG_USEC")
            .filter(|us| ours && socket.is_some() && *us > 1)
            .map(|us| Duration::from_micros(us / 2));
        Self { next: every.map(|_| Instant::now()), socket, every }
    }

    /// Tells it now or not at all: nothing waits for systemd.
    pub fn tell(&self, state: &str) {
        let Some((socket, address)) = &self.socket else { return };
        if let Err(error) = socket.send_to_addr(state.as_bytes(), address) {
            tracing::debug!(%error, "systemd was not told");
        }
    }

    /// When the next sign of life is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Gives a sign of life if one is due and the host `lives`. If it does not, systemd acts in time.
    pub fn beat(&mut self, now: Instant, lives: impl FnOnce() -> bool) {
        let (Some(next), Some(every)) = (self.next, self.every) else { return };
        if next <= now {
            self.next = Some(now + every);
            if lives() {
                self.tell("WATCHDOG=1");
            }
        }
    }
}
