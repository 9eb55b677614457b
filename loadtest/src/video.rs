//! The video stream: datagrams to frames on one thread, frames to pictures and findings on another.
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver as Queue, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use moonshard::proto::pattern::{ANSWERS, answer_field, answer_of, read_counter};
use moonshard::proto::ping::{Payload, Ping};
use moonshard::proto::video::{
    Event, FrameKind, ReceivedFrame, Receiver, ReceiverParameters, Request, Statistics,
};
use moonshard::time::Time;

use crate::control::udp;
use crate::picture::{DecodeError, Decoder, Picture};

const PING_EVERY: Duration = Duration::from_millis(500);
const DATAGRAM_BYTES_MAX: usize = 65_536;
const RECEIVE_BUFFER: usize = 4 << 20;
/// Frames that wait for the decoder; beyond that the machine is too slow, and the run is not clean.
const DECODER_QUEUE: usize = 60;
/// Losses in this time after the first frame are no loss: the stream is still being set up.
const SETTLING: Duration = Duration::from_secs(1);

/// What was seen so far.
pub struct Seen {
    pub statistics: Statistics,
    pub lost_after_settling: u64,
    pub idrs: u64,
    pub undecoded: u64,
    pub corrupted: u64,
    /// Frames that the decoder had no time for.
    pub skipped: u64,
    pub decoder_error: Option<String>,
    pub first_decoded: Option<Instant>,
    pub last_decoded: Option<Instant>,
    pub decoded: u64,
    pub longest_freeze: Duration,
    /// Microseconds. It grows by itself, so recording never fails.
    pub intervals: Histogram<u64>,
    /// Tenths of a millisecond, as the host tells.
    pub latencies: Histogram<u64>,
    pub size: (u32, u32),
    pub counter: Counter,
    pub answer: Option<usize>,
    pub colours: Colours,
    pub answer_changed: Option<Instant>,
    pub picture: Option<Picture>,
}

/// What this client saw of the session before; the stream must go on from there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Before {
    pub colours: Colours,
    pub counter: Option<u32>,
}

/// The pattern's counter, as it was read back.
#[derive(Clone, Copy, Default)]
pub struct Counter {
    pub first: Option<u32>,
    pub last: Option<u32>,
    /// After the first one that was readable.
    pub unreadable: u64,
    pub readable: u64,
    pub backwards: u64,
}

/// The colour of the pattern's answer field. Only a key press moves it, one step each: what own presses
/// do not explain is another's picture, or another's key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Colours {
    /// None: not known yet, the first one seen is taken.
    pub shown: Option<usize>,
    /// Own presses that no picture has shown yet.
    pub owed: usize,
    /// Changes that no press explains.
    pub foreign: u64,
    last: Option<usize>,
}

impl Colours {
    /// Those of a session that has just started.
    pub fn fresh() -> Self {
        Self { shown: Some(0), ..Self::default() }
    }

    /// A colour counts once two pictures in a row show it: one alone may be half drawn.
    fn see(&mut self, colour: usize) {
        if self.last.replace(colour) != Some(colour) {
            return;
        }
        let before = *self.shown.get_or_insert(colour);
        let steps = (colour + ANSWERS.len() - before) % ANSWERS.len();
        self.foreign += u64::from(steps > self.owed);
        self.owed = self.owed.saturating_sub(steps);
        self.shown = Some(colour);
    }
}

impl Default for Seen {
    fn default() -> Self {
        let histogram = || Histogram::new(3).expect("three digits are legal");
        Self {
            statistics: Statistics::default(),
            lost_after_settling: 0,
            idrs: 0,
            undecoded: 0,
            corrupted: 0,
            skipped: 0,
            decoder_error: None,
            first_decoded: None,
            last_decoded: None,
            decoded: 0,
            longest_freeze: Duration::ZERO,
            intervals: histogram(),
            latencies: histogram(),
            size: (0, 0),
            counter: Counter::default(),
            answer: None,
            colours: Colours::default(),
            answer_changed: None,
            picture: None,
        }
    }
}

/// The running stream.
pub struct Video {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    pub requests: Queue<Request>,
    pub seen: Arc<Mutex<Seen>>,
}

impl Video {
    /// Starts to ping and to receive. `start` is the origin of arrival times, `before` what an earlier
    /// stream of the session has shown.
    pub fn start(
        to: SocketAddr,
        payload: Option<Payload>,
        parameters: &ReceiverParameters,
        start: Instant,
        before: Before,
    ) -> Result<Self, VideoError> {
        let socket = udp(to)?;
        socket2::SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let decoder = Decoder::start(parameters.codec)?;
        let counter = Counter { last: before.counter, ..Counter::default() };
        let seen = Seen { colours: before.colours, counter, ..Seen::default() };
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(seen)));
        let (to_decoder, frames) = sync_channel(DECODER_QUEUE);
        let (to_control, requests) = channel();
        let link = Link {
            socket,
            payload,
            receiver: Receiver::new(parameters),
            start,
            to_decoder,
            to_control,
            seen: Arc::clone(&seen),
            first_frame: None,
        };
        let receiving = {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || link.run(&stop))
        };
        let decoding = {
            let seen = Arc::clone(&seen);
            std::thread::spawn(move || decode(decoder, &frames, &seen))
        };
        Ok(Self { stop, threads: vec![receiving, decoding], requests, seen })
    }

    /// Stops both threads and waits until what was received is decoded.
    pub fn finish(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let _ = thread.join();
        }
        std::mem::take(&mut *self.seen.lock().expect("no thread panics"))
    }
}

/// The stream cannot be received.
#[derive(Debug, thiserror::Error)]
pub enum VideoError {
    #[error("video stream: {0}")]
    Socket(#[from] io::Error),
    #[error(transparent)]
    Decoder(#[from] DecodeError),
}

struct Link {
    socket: UdpSocket,
    payload: Option<Payload>,
    receiver: Receiver,
    start: Instant,
    to_decoder: SyncSender<ReceivedFrame>,
    to_control: Sender<Request>,
    seen: Arc<Mutex<Seen>>,
    first_frame: Option<Instant>,
}

impl Link {
    fn run(mut self, stop: &AtomicBool) {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        let (mut next_ping, mut sequence) = (Instant::now(), 0);
        while !stop.load(Ordering::Relaxed) {
            if Instant::now() >= next_ping {
                sequence += 1;
                next_ping = Instant::now() + PING_EVERY;
                let ping = match self.payload {
                    Some(payload) => Ping::Identified { payload, sequence },
                    None => Ping::Legacy,
                };
                let _ = self.socket.send(&ping.write());
            }
            if let Ok(length) = self.socket.recv(&mut buffer) {
                let now = Instant::now();
                let time = Time(u64::try_from((now - self.start).as_nanos()).unwrap_or(u64::MAX));
                for event in self.receiver.push(&buffer[..length], time) {
                    self.take(event, now);
                }
            }
        }
        self.seen.lock().expect("no thread panics").statistics = self.receiver.statistics();
    }

    fn take(&mut self, event: Event, now: Instant) {
        match event {
            Event::FirstPacket | Event::Discarded { .. } => {}
            Event::Request(request) => drop(self.to_control.send(request)),
            Event::Lost { first, last } => {
                let settled = self.first_frame.is_some_and(|first| now - first > SETTLING);
                let count = u64::from(last.wrapping_sub(first)) + 1;
                let mut seen = self.seen.lock().expect("no thread panics");
                seen.lost_after_settling += if settled { count } else { 0 };
            }
            Event::Frame(frame) => {
                self.first_frame.get_or_insert(now);
                let mut seen = self.seen.lock().expect("no thread panics");
                seen.statistics = self.receiver.statistics();
                seen.idrs += u64::from(frame.kind == FrameKind::Idr);
                if frame.latency != 0 {
                    let _ = seen.latencies.record(u64::from(frame.latency));
                }
                drop(seen);
                if let Err(TrySendError::Full(_)) = self.to_decoder.try_send(frame) {
                    self.seen.lock().expect("no thread panics").skipped += 1;
                }
            }
        }
    }
}

fn decode(mut decoder: Decoder, frames: &Queue<ReceivedFrame>, seen: &Mutex<Seen>) {
    while let Ok(frame) = frames.recv() {
        match decoder.decode(frame.index, frame.bytes) {
            Ok(pictures) => {
                let now = Instant::now();
                for picture in pictures {
                    look(picture, now, &mut seen.lock().expect("no thread panics"));
                }
            }
            Err(error) => {
                seen.lock().expect("no thread panics").decoder_error = Some(error.to_string());
                return;
            }
        }
        seen.lock().expect("no thread panics").undecoded = decoder.undecoded() as u64;
    }
    let rest = decoder.rest();
    let mut seen = seen.lock().expect("no thread panics");
    let now = Instant::now();
    rest.into_iter().for_each(|picture| look(picture, now, &mut seen));
    seen.undecoded = decoder.undecoded() as u64;
}

fn look(picture: Picture, now: Instant, seen: &mut Seen) {
    seen.decoded += 1;
    seen.corrupted += u64::from(picture.corrupted);
    seen.size = (picture.width, picture.height);
    if let Some(last) = seen.last_decoded {
        let interval = now - last;
        seen.longest_freeze = seen.longest_freeze.max(interval);
        let _ = seen.intervals.record(u64::try_from(interval.as_micros()).unwrap_or(u64::MAX));
    }
    seen.first_decoded.get_or_insert(now);
    seen.last_decoded = Some(now);
    let counter = &mut seen.counter;
    match read_counter(picture.width, picture.height, |x, y| picture.luma(x, y)) {
        Some(number) => {
            counter.readable += 1;
            counter.backwards += u64::from(counter.last.is_some_and(|last| number < last));
            counter.first.get_or_insert(number);
            counter.last = Some(number);
        }
        None => counter.unreadable += u64::from(counter.first.is_some()),
    }
    let field = answer_field(picture.width, picture.height);
    let (red, green, blue) = picture.rgb(field.x + field.width / 2, field.y + field.height / 2);
    if let Some(answer) = answer_of(red, green, blue) {
        seen.colours.see(answer);
        if seen.answer.replace(answer).is_some_and(|before| before != answer) {
            seen.answer_changed = Some(now);
        }
    }
    seen.picture = Some(picture);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_presses_explain_a_colour() {
        let mut colours = Colours::fresh();
        let mut see = |colour, presses| {
            colours.owed += presses;
            // A single picture proves nothing.
            colours.see((colour + 3) % ANSWERS.len());
            colours.see(colour);
            colours.see(colour);
            (colours.owed, colours.foreign)
        };
        assert_eq!(see(0, 0), (0, 0));
        assert_eq!(see(1, 1), (0, 0));
        assert_eq!(see(1, 2), (2, 0), "still on their way");
        assert_eq!(see(3, 0), (0, 0));
        assert_eq!(see(5, 3), (1, 0));
        assert_eq!(see(0, 0), (0, 0), "the colours go around");
        assert_eq!(see(2, 1), (0, 1), "one press is not two steps");
        assert_eq!(see(1, 0), (0, 2));
    }
}
