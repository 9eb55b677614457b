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
/// How long one turn of the thread waits for the server, with and without a viewer.
const TURN: Duration = Duration::from_millis(2);
const IDLE_TURN: Duration = Duration::from_millis(50);
/// A connection to the server must stand within this; a restart of it waits from the first to the last.
const CONNECT: Duration = Duration::from_secs(5);
const BACK_OFF: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(2);
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
    let server = Server::start(&config).map_err(AudioError::Server)?;
    let until = now() + READY;
    while UnixStream::connect(server::socket(&config.runtime_dir)).is_err() && now() < until {
        std::thread::sleep(Duration::from_millis(2));
    }
    let address = format!("unix:{}", server::socket(&config.runtime_dir).display());
    let counts = Arc::new(Counts::default());
    let (orders, inbox) = sync_channel(ORDERS_MAX);
    let (of_thread, to) = (Arc::clone(&counts), address.clone());
    let thread = std::thread::Builder::new()
        .name("audio".into())
        .spawn(move || Player::new(config, server, to, of_thread).run(&inbox))?;
    Ok(Audio { orders, counts, server: address, thread: Some(thread) })
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
    /// When the server may be started again, and how long the wait after that will be.
    again: (Time, Duration),
    ears: Option<Ears>,
    voice: Option<Voice>,
}

impl Player {
    fn new(config: AudioConfig, server: Server, address: String, counts: Arc<Counts>) -> Self {
        let again = (now(), BACK_OFF);
        Self { config, address, counts, server: Some(server), again, ears: None, voice: None }
    }

    fn run(mut self, orders: &Receiver<Order>) {
        prefer_this_thread();
        loop {
            match orders.try_recv() {
                Ok(Order::Attach(viewer)) => self.attach(*viewer),
                Ok(Order::Detach) => {
                    self.voice.iter_mut().for_each(Voice::mute);
                    self.ears.iter_mut().for_each(Ears::stop_listening);
                }
                Ok(Order::End) | Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => self.turn(),
            }
        }
    }

    fn attach(&mut self, viewer: AudioViewer) {
        match self.voice.as_mut().filter(|voice| voice.belongs_to(&viewer)) {
            Some(voice) => voice.unmute(viewer.socket, now()),
            None => match Voice::new(viewer, now()) {
                Ok(voice) => self.voice = Some(voice),
                Err(error) => {
                    Counts::add(&self.counts.errors, 1);
                    tracing::error!(%error, "no sound for this viewer");
                }
            },
        }
        // Another viewer may want another number of channels.
        self.ears.iter_mut().for_each(Ears::stop_listening);
    }

    /// One turn: the server, what it plays, and what is due.
    fn turn(&mut self) {
        self.keep_server();
        let wanted = self.voice.as_ref().filter(|voice| voice.sounds()).map(Voice::channels);
        let wait = if wanted.is_some() { TURN } else { IDLE_TURN };
        let Some(ears) = &mut self.ears else {
            std::thread::sleep(wait);
            return self.speak_silence();
        };
        if let Err(error) = ears.turn(wanted, wait) {
            tracing::warn!(error, "the connection to the audio server is lost");
            self.ears = None;
        } else if let (Some(voice), Some(ears)) = (&mut self.voice, &mut self.ears) {
            voice.speak(ears.heard(), now(), &self.counts);
        }
        self.speak_silence();
    }

    fn speak_silence(&mut self) {
        if let Some(voice) = &mut self.voice {
            voice.fill_gap(now(), &self.counts);
        }
    }

    /// Starts the server again when it has ended or does not answer, and connects to it.
    fn keep_server(&mut self) {
        if self.server.as_mut().is_some_and(Server::has_ended) {
            tracing::warn!("the audio server has ended");
            self.server = None;
            self.ears = None;
        }
        if self.ears.as_ref().is_some_and(|ears| ears.overdue(now())) {
            tracing::warn!("the audio server does not answer");
            self.server = None;
            self.ears = None;
        }
        let (at, wait) = self.again;
        if self.server.is_none() && now() >= at {
            self.again = (now() + wait, (wait * 2).min(BACK_OFF_MAX));
            match Server::start(&self.config) {
                Ok(server) => {
                    Counts::add(&self.counts.server_restarts, 1);
                    self.server = Some(server);
                }
                Err(error) => tracing::warn!(%error, "the audio server cannot be started"),
            }
        }
        if self.ears.is_none() && self.server.is_some() && server::socket(self.directory()).exists()
        {
            self.ears = Ears::connect(&self.address, now() + CONNECT);
        }
        if self.ears.as_ref().is_some_and(Ears::is_connected) {
            self.again.1 = BACK_OFF;
        }
    }

    fn directory(&self) -> &Path {
        &self.config.runtime_dir
    }
}

/// A little ahead of the rest, where that is allowed; what the thread starts is not.
fn prefer_this_thread() {
    if let Err(error) = rustix::process::nice(-10) {
        tracing::debug!(%error, "the audio thread has no priority of its own");
    }
}
