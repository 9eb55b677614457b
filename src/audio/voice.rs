//! One viewer's sound: samples in, one packet per 5 or 10 ms out, silence where there are none.
//!
//! It never sends a burst: what a stall left behind is dropped, since the client's queue would drop more.
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::opus::{OpusEncoder, OpusError};
use super::{AudioViewer, Counts};
use crate::net::{MediaSocket, Traffic};
use crate::proto::audio::{AudioPacketizer, AudioParameters, DATAGRAM_BYTES_MAX, Encryption};
use crate::proto::secret::SessionKey;
use crate::proto::stream::AudioSpec;
use crate::time::Time;

/// Frames that may be waiting when a turn begins; more are a stall's, and the oldest are dropped.
const BACKLOG_FRAMES: usize = 4;
/// How far behind its cadence the sound may be before silence takes its place.
const PATIENCE: Duration = Duration::from_millis(30);

/// The encoder and the numbers of one viewer's stream.
pub struct Voice {
    spec: AudioSpec,
    key: SessionKey,
    rikeyid: i32,
    encoder: OpusEncoder,
    packetizer: AudioPacketizer,
    socket: Option<MediaSocket>,
    /// When the next packet is due.
    due: Time,
    /// Packets of silence that took the place of sound since there last was some.
    gap: u32,
    pcm: Vec<i16>,
    opus: Vec<u8>,
}

impl Voice {
    /// `before`: whose place it takes. With the same key the numbers go on in the next block, since the
    /// IVs are made from them.
    pub fn new(viewer: AudioViewer, before: Option<&Self>, now: Time) -> Result<Self, OpusError> {
        let AudioViewer { socket, spec, key, rikeyid } = viewer;
        let encoder = OpusEncoder::new(&spec)?;
        let encryption = spec.encrypted.then(|| Encryption { key: key.clone(), rikeyid });
        let parameters = AudioParameters { packet_ms: spec.packet_ms, encryption };
        let before = before.filter(|before| before.key == key);
        let first = before.map_or(0, |b| b.packetizer.sequence().wrapping_add(3) & !3);
        let timestamp = u32::from(first) * u32::from(spec.packet_ms);
        Ok(Self {
            packetizer: AudioPacketizer::new(&parameters, first, timestamp),
            socket: Some(MediaSocket::new(socket, Traffic::Audio, spec.qos)),
            due: now,
            gap: 0,
            pcm: Vec::with_capacity(encoder.frame_samples()),
            opus: vec![0; DATAGRAM_BYTES_MAX],
            spec,
            key,
            rikeyid,
            encoder,
        })
    }

    /// The viewer's stream is this one, over whatever socket.
    pub fn belongs_to(&self, viewer: &AudioViewer) -> bool {
        self.key == viewer.key && self.rikeyid == viewer.rikeyid && self.spec == viewer.spec
    }

    pub fn channels(&self) -> u8 {
        self.spec.channels
    }

    /// Somebody listens.
    pub fn sounds(&self) -> bool {
        self.socket.is_some()
    }

    pub fn mute(&mut self) {
        self.socket = None;
    }

    pub fn unmute(&mut self, socket: OwnedFd, now: Time) {
        self.socket = Some(MediaSocket::new(socket, Traffic::Audio, self.spec.qos));
        self.due = now;
        self.gap = 0;
    }

    /// When silence must take the place of sound that does not come.
    pub fn silence_due(&self) -> Time {
        self.due + PATIENCE
    }

    /// How long silence has taken the place of sound; time in which we stood still does not count.
    pub fn gap(&self) -> Duration {
        self.packet() * self.gap
    }

    /// No server is connected: it is not one that stands still.
    pub fn forget_gap(&mut self) {
        self.gap = 0;
    }

    /// Sends all whole frames of what was heard.
    pub fn speak(&mut self, heard: Option<&mut VecDeque<i16>>, now: Time, counts: &Counts) {
        let Some(heard) = heard.filter(|_| self.sounds()) else { return };
        let frame = self.encoder.frame_samples();
        let waiting = heard.len() / frame;
        if waiting > BACKLOG_FRAMES {
            heard.drain(..(waiting - BACKLOG_FRAMES) * frame);
            Counts::add(&counts.dropped_frames, (waiting - BACKLOG_FRAMES) as u64);
        }
        while heard.len() >= frame {
            self.pcm.clear();
            self.pcm.extend(heard.drain(..frame));
            self.send(now, counts);
            // The server's clock is the cadence, as long as it ticks.
            self.due = now + self.packet();
            self.gap = 0;
        }
    }

    /// Sends silence if the sound is late, one packet per packet time.
    pub fn fill_gap(&mut self, now: Time, counts: &Counts) {
        if !self.sounds() || now < self.silence_due() {
            return;
        }
        // A thread that itself stood still has nothing to make up for.
        if now.since(self.due) > PATIENCE * 4 {
            self.due = now - PATIENCE;
        }
        self.pcm.clear();
        self.pcm.resize(self.encoder.frame_samples(), 0);
        self.send(now, counts);
        Counts::add(&counts.silences, 1);
        self.gap = self.gap.saturating_add(1);
        self.due = self.due + self.packet();
    }

    fn packet(&self) -> Duration {
        Duration::from_millis(u64::from(self.spec.packet_ms))
    }

    fn send(&mut self, now: Time, counts: &Counts) {
        let Some(socket) = &mut self.socket else { return };
        let packets = self.encoder.encode(&self.pcm, &mut self.opus).map(|bytes| {
            let opus = &self.opus[..bytes];
            self.packetizer.push(opus)
        });
        match packets {
            Ok(Ok(datagrams)) => {
                for datagram in datagrams {
                    match socket.send_burst(datagram, datagram.len(), now) {
                        Ok(1) => Counts::add(&counts.packets, 1),
                        _ => Counts::add(&counts.errors, 1),
                    }
                }
            }
            Ok(Err(error)) => {
                Counts::add(&counts.errors, 1);
                tracing::error!(%error, "a packet of sound was left out");
            }
            Err(error) => {
                Counts::add(&counts.errors, 1);
                tracing::error!(%error, "sound could not be encoded");
            }
        }
        let _ = socket.discard_received();
    }
}
