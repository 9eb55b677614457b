//! Playback into the session's audio server: what our own test pattern sounds like.
//!
//! It knows nothing of viewers and of the server's own end. Missing sound is logged and tried again, and
//! never stops the caller.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::Duration;

use libpulse_binding::def::BufferAttr;
use libpulse_binding::sample::{Format, Spec};
use libpulse_binding::stream::Direction;
use libpulse_simple_binding::Simple;

/// Frames per second.
pub const RATE: u32 = 48_000;
/// Frames that are asked for at a time: 5 ms.
const BLOCK: usize = 240;
/// Blocks that wait in the server: 30 ms.
const BLOCKS_QUEUED: u32 = 6;
/// From a failure to the next attempt.
const RETRY: Duration = Duration::from_secs(1);
/// Longest wait for the thread's end; a server that hangs keeps it.
const STOP_DEADLINE: Duration = Duration::from_millis(200);
/// Farther from the server's clock than this, time jumps.
const DRIFT_MAX_NS: u64 = 4_000_000;

/// A 16-bit stereo frame: left, right.
pub type Frame = [i16; 2];

/// A playing sound. Dropping it ends it.
#[derive(Debug)]
pub struct Player {
    stop: Arc<AtomicBool>,
    /// Closed when the thread has ended.
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Player {
    /// Plays what `source` fills in, on a thread of its own, at the server that PULSE_SERVER names.
    ///
    /// The source is told at which CLOCK_MONOTONIC nanosecond its first frame leaves the server. Without
    /// PULSE_SERVER nothing is played, and the log says so.
    ///
    /// # Errors
    /// The system's: no thread.
    pub fn start(
        name: &'static str,
        source: impl FnMut(u64, &mut [Frame]) + Send + 'static,
    ) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (ending, ended) = mpsc::sync_channel::<()>(0);
        let thread = {
            let stop = stop.clone();
            std::thread::Builder::new().name("player".into()).spawn(move || {
                let _ending = ending;
                play(name, source, &stop);
            })?
        };
        Ok(Self { stop, ended, thread: Some(thread) })
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return };
        thread.thread().unpark();
        if self.ended.recv_timeout(STOP_DEADLINE) != Err(mpsc::RecvTimeoutError::Timeout) {
            let _ = thread.join();
        }
    }
}

fn play(name: &str, mut source: impl FnMut(u64, &mut [Frame]), stop: &AtomicBool) {
    // Without it the library would start a server of its own, outside the session.
    if std::env::var_os("PULSE_SERVER").is_none_or(|server| server.is_empty()) {
        tracing::info!("no PULSE_SERVER: silent");
        return;
    }
    let mut complained = false;
    while !stop.load(Ordering::Relaxed) {
        match play_until_failure(name, &mut source, stop) {
            Ok(()) => return,
            Err(failure) if failure.played || !complained => {
                complained = true;
                tracing::warn!(error = %failure.error, "no sound; trying again every second");
            }
            Err(_) => {}
        }
        std::thread::park_timeout(RETRY);
    }
}

struct Failure {
    error: String,
    /// It was heard before.
    played: bool,
}

fn play_until_failure(
    name: &str,
    source: &mut impl FnMut(u64, &mut [Frame]),
    stop: &AtomicBool,
) -> Result<(), Failure> {
    let mut played = false;
    let failure = |error: libpulse_binding::error::PAErr, played| Failure {
        error: error.to_string().unwrap_or_else(|| format!("{error:?}")),
        played,
    };
    let stream = connect(name).map_err(|error| failure(error, false))?;
    let mut frames = [[0i16; 2]; BLOCK];
    let mut bytes = Vec::with_capacity(BLOCK * 4);
    let mut due = 0;
    while !stop.load(Ordering::Relaxed) {
        let latency = stream.get_latency().map_err(|error| failure(error, played))?;
        let heard = monotonic_ns() + latency.0.min(1_000_000) * 1000;
        if heard.abs_diff(due) > DRIFT_MAX_NS {
            due = heard;
        }
        source(due, &mut frames);
        due += BLOCK as u64 * 1_000_000_000 / u64::from(RATE);
        bytes.clear();
        bytes.extend(frames.iter().flatten().flat_map(|sample| sample.to_le_bytes()));
        // Blocks while enough is queued: this is what paces the thread.
        stream.write(&bytes).map_err(|error| failure(error, played))?;
        played = true;
    }
    Ok(())
}

fn connect(name: &str) -> Result<Simple, libpulse_binding::error::PAErr> {
    let spec = Spec { format: Format::S16le, channels: 2, rate: RATE };
    let block = (BLOCK * size_of::<Frame>()) as u32;
    let attributes = BufferAttr {
        maxlength: block * (BLOCKS_QUEUED + 2),
        tlength: block * BLOCKS_QUEUED,
        prebuf: block,
        minreq: block,
        fragsize: u32::MAX,
    };
    Simple::new(None, name, Direction::Playback, None, name, &spec, None, Some(&attributes))
}

fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}
