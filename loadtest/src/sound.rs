//! The audio stream: datagrams to Opus packets to sound, on one thread.
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use moonshard::proto::audio::{AudioEvent, AudioParameters, AudioReceiver, AudioStatistics};
use moonshard::proto::ping::{Payload, Ping};
use moonshard::proto::surround::Layout;
use moonshard::time::Time;

use crate::control::udp;
use crate::opus::Decoder;
use crate::tone::Ear;

const PING_EVERY: Duration = Duration::from_millis(500);
const DATAGRAM_BYTES_MAX: usize = 2048;

/// What was heard so far.
#[derive(Default)]
pub struct Heard {
    pub statistics: AudioStatistics,
    pub gaps: u64,
    pub packets: u64,
    pub decode_errors: u64,
    pub longest_silence: Duration,
    pub ear: Ear,
}

/// The running stream.
pub struct Sound {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    pub heard: Arc<Mutex<Heard>>,
}

impl Sound {
    pub fn start(
        to: SocketAddr,
        payload: Option<Payload>,
        parameters: &AudioParameters,
        layout: &Layout,
        start: Instant,
    ) -> io::Result<Self> {
        let socket = udp(to)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let decoder = Decoder::new(layout, parameters.packet_ms);
        let decoder = decoder.ok_or_else(|| io::Error::other("libopus refuses the layout"))?;
        let (stop, heard) =
            (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Heard::default())));
        let link = Link {
            socket,
            payload,
            receiver: AudioReceiver::new(parameters),
            decoder,
            channels: usize::from(layout.channels),
            start,
            heard: Arc::clone(&heard),
        };
        let thread = {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || link.run(&stop))
        };
        Ok(Self { stop, thread, heard })
    }

    pub fn finish(self) -> Heard {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        std::mem::take(&mut *self.heard.lock().expect("no thread panics"))
    }
}

struct Link {
    socket: UdpSocket,
    payload: Option<Payload>,
    receiver: AudioReceiver,
    decoder: Decoder,
    channels: usize,
    start: Instant,
    heard: Arc<Mutex<Heard>>,
}

impl Link {
    fn run(mut self, stop: &AtomicBool) {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        let (mut next_ping, mut sequence) = (Instant::now(), 0);
        let mut last: Option<Instant> = None;
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
            let Ok(length) = self.socket.recv(&mut buffer) else { continue };
            let now = Instant::now();
            let time = Time(u64::try_from((now - self.start).as_nanos()).unwrap_or(u64::MAX));
            let events = self.receiver.push(&buffer[..length], time);
            let mut heard = self.heard.lock().expect("no thread panics");
            heard.statistics = self.receiver.statistics();
            if let Some(last) = last.replace(now) {
                heard.longest_silence = heard.longest_silence.max(now - last);
            }
            for event in events {
                take(&mut self.decoder, self.channels, event, &mut heard);
            }
        }
    }
}

fn take(decoder: &mut Decoder, channels: usize, event: AudioEvent, heard: &mut Heard) {
    let pcm = match event {
        AudioEvent::Packet { opus, .. } => {
            heard.packets += 1;
            decoder.decode(Some(&opus))
        }
        AudioEvent::Lost { .. } => {
            heard.gaps += 1;
            decoder.decode(None)
        }
    };
    match pcm {
        Some(pcm) => heard.ear.hear(pcm.into_iter().step_by(channels)),
        None => heard.decode_errors += 1,
    }
}
