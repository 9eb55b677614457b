//! The session's sound: an audio server of its own, read natively, encoded and sent.
//!
//! One thread owns all of it: it watches the server's process, reads what the server plays, encodes and
//! sends one packet per 5 or 10 ms, silence included. It knows nothing of the control connection or of
//! video, and sound that fails never ends a session.
//!
//! Only this folder names libpulse and libopus.
mod ears;
mod opus;
mod server;
mod voice;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

pub use opus::{OpusDecoder, OpusError};

use self::ears::Ears;
use self::server::Server;
use self::voice::Voice;
use crate::net::now;
use crate::proto::secret::SessionKey;
use crate::proto::stream::AudioSpec;
use crate::time::Time;

/// Orders that wait for the thread; it takes them every few milliseconds.
const ORDERS_MAX: usize = 16;
/// How long one turn of the thread waits for the server at least, at most, and without a viewer.
const TURN_MIN: Duration = Duration::from_millis(1);
const TURN: Duration = Duration::from_millis(20);
const IDLE_TURN: Duration = Duration::from_millis(50);
/// A connection to the server must stand within this, tried this often.
const CONNECT: Duration = Duration::from_secs(5);
const CONNECT_EVERY: Duration = Duration::from_millis(20);
/// A server that gives a listener nothing for this long is replaced. Apps lose their connection by
/// that, so it must not be hasty.
const STALL: Duration = Duration::from_secs(2);
/// A restart waits from the first to the last; one that stood for the third begins with the first.
const BACK_OFF: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_millis(500);
/// Silence when a server stands still, however often it did before, but for its start.
const _: () = assert!(STALL.as_millis() + BACK_OFF_MAX.as_millis() <= 2_500);
const STOOD: Duration = Duration::from_secs(10);
/// How long a start waits for the server.
const READY: Duration = Duration::from_secs(1);
/// How long the end waits for the thread.
const JOIN: Duration = Duration::from_secs(2);

pub mod player;

/// How to make a session's sound.
#[derive(Clone, Debug)]
pub struct AudioConfig {
    /// The session's directory; the server's socket is made in it.
    pub runtime_dir: PathBuf,
    /// Of the sink: 2, 6 or 8.
    pub channels: u8,
}

/// Where sound goes.
#[derive(Debug)]
pub struct AudioViewer {
    /// Connected to the viewer's audio port.
    pub socket: OwnedFd,
    pub spec: AudioSpec,
    pub key: SessionKey,
    /// Base of the IVs.
    pub rikeyid: i32,
}

/// Why there is no sound. The session goes on without.
#[derive(Debug, thiserror::Error)]
pub enum AudioError {
    /// The server's program is not there, or cannot be started.
    #[error("pulseaudio cannot be started ({0}); mend: apt-get install pulseaudio")]
    Server(io::Error),
    /// No thread could be made.
    #[error(transparent)]
    System(#[from] io::Error),
}

enum Order {
    Attach(Box<AudioViewer>),
    Detach,
    End,
}

/// Counters of a session's sound; each only grows.
#[derive(Debug, Default)]
struct Counts {
    packets: AtomicU64,
    silences: AtomicU64,
    dropped_frames: AtomicU64,
    server_restarts: AtomicU64,
    stalls: AtomicU64,
    errors: AtomicU64,
}

impl Counts {
    fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

/// A running sound. Its drop ends server and thread within two seconds.
#[derive(Debug)]
pub struct Audio {
    orders: SyncSender<Order>,
    counts: Arc<Counts>,
    server: String,
    thread: Option<JoinHandle<()>>,
}

/// Starts the audio server and its reader. Returns when apps can connect to it, but waits no longer
/// than a second for that.
///
/// # Errors
/// See [`AudioError`].
pub fn start(config: AudioConfig) -> Result<Audio, AudioError> {
    let mut server = Server::start(&config).map_err(AudioError::Server)?;
    let until = now() + READY;
    let is_up = || UnixStream::connect(server::socket(&config.runtime_dir)).is_ok();
    while !is_up() && now() < until && !server.has_ended() {
        std::thread::sleep(Duration::from_millis(2));
    }
    let address = address(&config.runtime_dir);
    let counts = Arc::new(Counts::default());
    let (orders, inbox) = sync_channel(ORDERS_MAX);
    let (of_thread, to) = (Arc::clone(&counts), address.clone());
    let thread = std::thread::Builder::new()
        .name("audio".into())
        .spawn(move || Player::new(config, server, to, of_thread).run(&inbox))?;
    Ok(Audio { orders, counts, server: address, thread: Some(thread) })
}

/// The value of PULSE_SERVER for a session in this directory, whether it has a server or not.
pub fn address(runtime_dir: &Path) -> String {
    format!("unix:{}", server::socket(runtime_dir).display())
}

impl Audio {
    /// The value of PULSE_SERVER.
    pub fn server(&self) -> String {
        self.server.clone()
    }

    /// Sends to this viewer from now on. The same key again is the same stream with another socket: its
    /// numbers go on, so that no IV is used twice.
    pub fn attach(&self, viewer: AudioViewer) {
        self.order(Order::Attach(Box::new(viewer)));
    }

    /// Sends to nobody.
    pub fn detach(&self) {
        self.order(Order::Detach);
    }

    fn order(&self, order: Order) {
        if self.orders.try_send(order).is_err() {
            Counts::add(&self.counts.errors, 1);
            tracing::error!("the audio thread takes no orders");
        }
    }

    pub fn figures(&self) -> BTreeMap<String, f64> {
        let c = &self.counts;
        let all = [
            ("packets", &c.packets),
            ("silences", &c.silences),
            ("dropped_frames", &c.dropped_frames),
            ("server_restarts", &c.server_restarts),
            ("stalls", &c.stalls),
            ("errors", &c.errors),
        ];
        all.map(|(name, n)| (name.to_owned(), n.load(Ordering::Relaxed) as f64)).into()
    }
}

impl Drop for Audio {
    fn drop(&mut self) {
        let _ = self.orders.try_send(Order::End);
        let Some(thread) = self.thread.take() else { return };
        let until = now() + JOIN;
        while !thread.is_finished() && now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The thread's state.
struct Player {
    config: AudioConfig,
    address: String,
    counts: Arc<Counts>,
    server: Option<Server>,
    /// When the server was last started, and how long the wait before another start is.
    started: Time,
    back_off: Duration,
    ears: Option<Ears>,
    /// When to connect again, and by when a connection must stand.
    connect_at: Time,
    connect_by: Time,
    voice: Option<Voice>,
}

impl Player {
    fn new(config: AudioConfig, server: Server, address: String, counts: Arc<Counts>) -> Self {
        let now = now();
        Self {
            config,
            address,
            counts,
            server: Some(server),
            started: now,
            back_off: BACK_OFF,
            ears: None,
            connect_at: now,
            connect_by: now + CONNECT,
            voice: None,
        }
    }

    fn run(mut self, orders: &Receiver<Order>) {
        crate::proc::priority::prefer_this_thread("audio");
        loop {
            match orders.try_recv() {
                Ok(Order::Attach(viewer)) => self.attach(*viewer),
                Ok(Order::Detach) => self.voice.iter_mut().for_each(Voice::mute),
                Ok(Order::End) | Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => self.turn(),
            }
        }
    }

    fn attach(&mut self, viewer: AudioViewer) {
        if let Some(voice) = self.voice.as_mut().filter(|voice| voice.belongs_to(&viewer)) {
            return voice.unmute(viewer.socket, now());
        }
        match Voice::new(viewer, self.voice.as_ref(), now()) {
            Ok(voice) => self.voice = Some(voice),
            Err(error) => {
                Counts::add(&self.counts.errors, 1);
                tracing::error!(%error, "no sound for this viewer");
                self.voice.iter_mut().for_each(Voice::mute);
            }
        }
    }

    /// One turn: the server, what it plays, and what is due.
    fn turn(&mut self) {
        self.keep_server();
        let voice = self.voice.as_ref().filter(|voice| voice.sounds());
        let wanted = voice.map(Voice::channels);
        let wait = voice.map_or(IDLE_TURN, |v| v.silence_due().since(now()).clamp(TURN_MIN, TURN));
        match &mut self.ears {
            None => std::thread::sleep(wait.min(CONNECT_EVERY)),
            Some(ears) => match ears.turn(wanted, wait) {
                Ok(()) => {
                    if let Some(voice) = &mut self.voice {
                        voice.speak(ears.heard(), now(), &self.counts);
                    }
                }
                Err(error) => {
                    tracing::debug!(error, "no connection to the audio server");
                    self.ears = None;
                    self.connect_at = now() + CONNECT_EVERY;
                }
            },
        }
        if let Some(voice) = &mut self.voice {
            voice.fill_gap(now(), &self.counts);
        }
    }

    /// Replaces a server that has ended or stands still, and connects to it.
    fn keep_server(&mut self) {
        let now = now();
        if self.ears.as_ref().is_some_and(Ears::is_connected) {
            self.connect_by = now + CONNECT;
        } else {
            // A server that only starts does not stand still.
            self.voice.iter_mut().for_each(Voice::forget_gap);
        }
        if self.server.as_mut().is_some_and(Server::has_ended) {
            self.lose_server("it has ended");
        } else if self.server.is_some() && now > self.connect_by {
            Counts::add(&self.counts.stalls, 1);
            self.lose_server("it does not answer");
        } else if self.server.is_some() && self.voice.as_ref().is_some_and(|v| v.gap() > STALL) {
            Counts::add(&self.counts.stalls, 1);
            self.lose_server("it stands still");
        }
        if self.server.is_none() && now > self.connect_at {
            self.start_server(now);
        }
        if self.server.is_some() && self.ears.is_none() && now >= self.connect_at {
            self.connect_at = now + CONNECT_EVERY;
            self.ears = Ears::connect(&self.address);
        }
    }

    fn lose_server(&mut self, why: &str) {
        tracing::warn!(why, "the audio server is lost");
        self.ears = None;
        self.server = None;
        if now().since(self.started) > STOOD {
            self.back_off = BACK_OFF;
        }
        self.connect_at = now() + self.back_off;
    }

    fn start_server(&mut self, now: Time) {
        self.started = now;
        self.connect_at = now + self.back_off;
        self.connect_by = now + CONNECT;
        self.back_off = (self.back_off * 2).min(BACK_OFF_MAX);
        match Server::start(&self.config) {
            Ok(server) => {
                Counts::add(&self.counts.server_restarts, 1);
                self.connect_at = now + CONNECT_EVERY;
                self.server = Some(server);
            }
            Err(error) => tracing::warn!(%error, "the audio server cannot be started"),
        }
    }
}
