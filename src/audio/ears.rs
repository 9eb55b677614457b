//! What the session plays, as samples: a connection to its audio server with a bounded wait per turn.
//!
//! While a viewer listens there are two streams: a recording of the sink's monitor, and a silent
//! playback that keeps the sink running; without that the first sound comes two seconds late.
use std::collections::VecDeque;
use std::time::Duration;

use libpulse_binding::channelmap::{Map, Position};
use libpulse_binding::context::{Context, FlagSet as ContextFlags, State as ContextState};
use libpulse_binding::def::BufferAttr;
use libpulse_binding::mainloop::standard::Mainloop;
use libpulse_binding::sample::{Format, Spec};
use libpulse_binding::stream::{FlagSet, PeekResult, SeekMode, State, Stream};
use libpulse_binding::time::MicroSeconds;

use super::server::SINK;

pub const RATE: u32 = 48_000;
/// Samples per channel in 5 ms: what the server is asked to deliver at once.
const FRAGMENT: u32 = RATE / 200;
/// Two fragments of eight channels: how much silence goes out at once.
static ZEROS: [u8; 2 * FRAGMENT as usize * 8 * 2] = [0; 2 * FRAGMENT as usize * 8 * 2];
/// Samples per channel that wait to be spoken; the oldest go first.
const HEARD_MAX: usize = RATE as usize / 5;

/// A connection to the session's audio server.
pub struct Ears {
    // Streams and context go before the loop that they use.
    listening: Option<Listening>,
    context: Context,
    mainloop: Mainloop,
}

struct Listening {
    channels: u8,
    record: Stream,
    silence: Stream,
    heard: VecDeque<i16>,
}

impl Ears {
    /// Begins to connect. None: libpulse refuses, which it does only without memory.
    pub fn connect(address: &str) -> Option<Self> {
        let mainloop = Mainloop::new()?;
        let mut context = Context::new(&mainloop, "moonshard")?;
        context.connect(Some(address), ContextFlags::NOAUTOSPAWN, None).ok()?;
        Some(Self { listening: None, context, mainloop })
    }

    pub fn is_connected(&self) -> bool {
        self.context.get_state() == ContextState::Ready
    }

    fn stop_listening(&mut self) {
        if let Some(mut listening) = self.listening.take() {
            let _ = listening.record.disconnect();
            let _ = listening.silence.disconnect();
        }
    }

    /// Waits at most `wait` for news and takes them in. `wanted`: channels to listen with, which the
    /// server mixes to; none means that nobody listens.
    pub fn turn(&mut self, wanted: Option<u8>, wait: Duration) -> Result<(), &'static str> {
        self.mainloop
            .prepare(Some(MicroSeconds(u64::try_from(wait.as_micros()).unwrap_or(0))))
            .and_then(|()| self.mainloop.poll())
            .and_then(|_| self.mainloop.dispatch())
            .map_err(|_| "the event loop failed")?;
        match self.context.get_state() {
            ContextState::Failed | ContextState::Terminated => return Err("disconnected"),
            ContextState::Ready => {}
            _ => return Ok(()),
        }
        if self.listening.as_ref().is_some_and(|listening| Some(listening.channels) != wanted) {
            self.stop_listening();
        }
        if self.listening.is_none()
            && let Some(channels) = wanted
        {
            self.listening = Some(Listening::begin(&mut self.context, channels)?);
        }
        self.listening.as_mut().map_or(Ok(()), Listening::take)
    }

    /// Interleaved samples that came since they were last taken from here.
    pub fn heard(&mut self) -> Option<&mut VecDeque<i16>> {
        self.listening.as_mut().map(|listening| &mut listening.heard)
    }
}

impl Listening {
    fn begin(context: &mut Context, channels: u8) -> Result<Self, &'static str> {
        let spec = Spec { format: Format::S16le, channels, rate: RATE };
        let map = channel_map(channels);
        let fragment = FRAGMENT * u32::from(channels) * 2;
        let any = u32::MAX;
        let flags = FlagSet::ADJUST_LATENCY | FlagSet::DONT_MOVE;
        let mut record = Stream::new(context, "what is played", &spec, Some(&map))
            .ok_or("no recording stream")?;
        let attributes = BufferAttr {
            maxlength: any,
            tlength: any,
            prebuf: any,
            minreq: any,
            fragsize: fragment,
        };
        record
            .connect_record(Some(&format!("{SINK}.monitor")), Some(&attributes), flags)
            .map_err(|_| "the monitor cannot be recorded")?;
        let mut silence =
            Stream::new(context, "silence", &spec, Some(&map)).ok_or("no silent stream")?;
        let attributes = BufferAttr {
            maxlength: any,
            tlength: 2 * fragment,
            prebuf: 0,
            minreq: fragment,
            fragsize: any,
        };
        silence
            .connect_playback(Some(SINK), Some(&attributes), flags, None, None)
            .map_err(|_| "silence cannot be played")?;
        Ok(Self { channels, record, silence, heard: VecDeque::new() })
    }

    fn take(&mut self) -> Result<(), &'static str> {
        for stream in [&self.record, &self.silence] {
            if matches!(stream.get_state(), State::Failed | State::Terminated) {
                return Err("a stream ended");
            }
        }
        if self.silence.get_state() == State::Ready
            && let Some(room) = self.silence.writable_size().filter(|room| *room > 0)
        {
            let zeros = &ZEROS[..room.min(ZEROS.len())];
            self.silence.write_copy(zeros, 0, SeekMode::Relative).map_err(|_| "silence failed")?;
        }
        if self.record.get_state() != State::Ready {
            return Ok(());
        }
        loop {
            let hole = match self.record.peek().map_err(|_| "recording failed")? {
                PeekResult::Empty => break,
                PeekResult::Hole(bytes) => bytes,
                PeekResult::Data(bytes) => {
                    let samples = bytes.chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]]));
                    self.heard.extend(samples);
                    0
                }
            };
            self.heard.extend(std::iter::repeat_n(0, (hole / 2).min(HEARD_MAX)));
            self.record.discard().map_err(|_| "recording failed")?;
        }
        let excess = self.heard.len().saturating_sub(HEARD_MAX * usize::from(self.channels));
        self.heard
            .drain(..excess.next_multiple_of(usize::from(self.channels)).min(self.heard.len()));
        Ok(())
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        self.stop_listening();
        self.context.disconnect();
    }
}

/// Channels in the order of clients.
fn channel_map(channels: u8) -> Map {
    const POSITIONS: [Position; 8] = [
        Position::FrontLeft,
        Position::FrontRight,
        Position::FrontCenter,
        Position::Lfe,
        Position::RearLeft,
        Position::RearRight,
        Position::SideLeft,
        Position::SideRight,
    ];
    let mut map = Map::default();
    map.set_len(channels);
    let places = map.get_mut();
    for (place, position) in places.iter_mut().zip(POSITIONS) {
        *place = position;
    }
    map
}
