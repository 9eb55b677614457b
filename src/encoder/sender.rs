//! The thread that takes access units from the chain, packs, seals and sends them.
//!
//! Until a socket has come, and after a frame went wrong, everything up to the next key frame is
//! dropped: a client could not show it. A frame that the socket does not take in time is given up
//! with all its rest, so that nothing queues up here.
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::end::{self, end};
use super::shared::{Shared, lock};
use super::timeline::{Timeline, latency};
use crate::media::pipeline::AccessUnit;
use crate::net::{self, MediaSocket, Pacer, Traffic};
use crate::proc::page::{Figure, Replaced, Stage};
use crate::proto::secret::SessionKey;
use crate::proto::stream::VideoSpec;
use crate::proto::video::{Frame, FrameKind, Packetizer, Parameters, strip_leading_sei};
use crate::time::Time;

/// How long one wait for an access unit may be.
const WAIT: Duration = Duration::from_millis(100);
/// Sending is spread for a path of 1 Gbit/s, as Sunshine does.
const LINK_BITS: u64 = 1_000_000_000;
/// A frame may take two frame intervals to leave, within these bounds.
const SEND_MIN: Duration = Duration::from_millis(30);
const SEND_MAX: Duration = Duration::from_millis(100);

/// Why a frame was not sent whole.
#[derive(Debug, thiserror::Error)]
enum NotSent {
    #[error("no socket yet")]
    NoSocket,
    #[error("a key frame is awaited")]
    AwaitsKey,
    #[error(transparent)]
    TooLarge(#[from] crate::proto::video::FrameTooLarge),
    #[error("the socket took {sent} of {packets} packets in time")]
    Late { sent: usize, packets: usize },
    #[error(transparent)]
    System(#[from] std::io::Error),
    #[error(transparent)]
    Replaced(#[from] Replaced),
}

impl NotSent {
    fn figure(&self) -> Figure {
        match self {
            Self::NoSocket => Figure::DroppedNoSocket,
            Self::AwaitsKey => Figure::DroppedAwaitsKey,
            Self::TooLarge(_) => Figure::DroppedTooLarge,
            Self::Late { .. } => Figure::DroppedLate,
            Self::System(_) | Self::Replaced(_) => Figure::DroppedSystem,
        }
    }
}

pub struct Sender<'a> {
    shared: &'a Shared,
    spec: VideoSpec,
    packetizer: Packetizer,
    pacer: Pacer,
    socket: Option<MediaSocket>,
    timeline: Timeline,
    /// Only a key frame may be sent next.
    awaits_key: bool,
    send_for: Duration,
    /// The datagrams of one frame; parameter sets of a key frame. Kept for their room.
    datagrams: Vec<u8>,
    head: Vec<u8>,
    has_told: bool,
}

impl<'a> Sender<'a> {
    pub fn new(shared: &'a Shared, spec: &VideoSpec, key: &SessionKey) -> Self {
        let packetizer = Packetizer::new(&Parameters::new(spec, key));
        let interval = Duration::from_secs(1000) / spec.mode.millihertz.max(1);
        Self {
            shared,
            spec: spec.clone(),
            pacer: Pacer::new(packetizer.datagram_bytes(), LINK_BITS),
            packetizer,
            socket: None,
            timeline: Timeline::default(),
            awaits_key: true,
            send_for: (interval * 2).clamp(SEND_MIN, SEND_MAX),
            datagrams: Vec::new(),
            head: Vec::new(),
            has_told: false,
        }
    }

    /// Runs until the process ends.
    pub fn run(mut self) {
        loop {
            match self.shared.chain.pull(WAIT) {
                Ok(Some(unit)) => self.handle(&unit),
                Ok(None) => {}
                Err(error) => self.shared.fail(error.to_string()),
            }
        }
    }

    fn handle(&mut self, unit: &AccessUnit) {
        if let Some(fd) = lock(&self.shared.socket).take() {
            self.socket = Some(MediaSocket::new(fd, Traffic::Video, self.spec.qos));
            self.awaits_key = true;
        }
        let page = &self.shared.page;
        page.add(Figure::FramesEncoded, 1);
        page.add(Figure::FramesDropped, unit.swallowed);
        page.add(Figure::DroppedSwallowed, unit.swallowed);
        let encoded = net::now();
        page.times(Stage::Encode).record(encoded.since(Time(unit.note.captured_ns)));
        match self.send(unit, encoded) {
            Ok(()) => {}
            Err(NotSent::Replaced(_)) => end(end::DONE),
            Err(reason) => {
                page.add(Figure::FramesDropped, 1);
                page.add(reason.figure(), 1);
                self.recover(&reason);
            }
        }
        self.shared.done.fetch_add(1, Ordering::Release);
    }

    /// After a frame that was not sent whole.
    fn recover(&mut self, reason: &NotSent) {
        match reason {
            // A key frame was asked for when the socket came, or when the one before went wrong.
            NotSent::NoSocket | NotSent::AwaitsKey | NotSent::Replaced(_) => return,
            NotSent::TooLarge(_) | NotSent::Late { .. } | NotSent::System(_) => {}
        }
        self.shared.page.add(Figure::SendErrors, 1);
        if !std::mem::replace(&mut self.has_told, true) {
            tracing::warn!(%reason, "a frame was not sent; further ones are only counted");
        }
        self.awaits_key = true;
        self.shared.want_key();
    }

    fn send(&mut self, unit: &AccessUnit, encoded: Time) -> Result<(), NotSent> {
        let socket = self.socket.as_mut().ok_or(NotSent::NoSocket)?;
        if self.awaits_key && !unit.is_key {
            return Err(NotSent::AwaitsKey);
        }
        let (page, epoch) = (&self.shared.page, self.shared.epoch);
        let body = strip_leading_sei(self.spec.codec, unit.bytes(), &mut self.head);
        self.packetizer.set_fec_percent(self.shared.fec_percent.load(Ordering::Relaxed));
        // Before anything is reserved: a frame that cannot be sent leaves no gap.
        let layout = self.packetizer.layout(self.head.len() + body.len())?;
        let packets = layout.packets();
        let index = page.reserve_frame(epoch)?;
        let counter = page.reserve_packets(epoch, packets as u32)?;
        let captured = Time(unit.note.captured_ns);
        let frame = Frame {
            index: index as u32,
            kind: if unit.is_key { FrameKind::Idr } else { FrameKind::Predicted },
            timestamp: self.timeline.stamp(captured),
            latency: latency(net::now().since(captured), unit.note.repeated),
            long_term_reference: false,
            head: &self.head,
            body,
        };
        self.packetizer.packetize(&frame, counter, &mut self.datagrams)?;
        let bytes = self.packetizer.datagram_bytes();
        let packed = net::now();
        page.times(Stage::Packetize).record(packed.since(encoded));
        let deadline = packed + self.send_for;
        let sent = socket.send_paced(&mut self.pacer, &self.datagrams, bytes, deadline);
        // Pings that came in between say nothing new.
        let _ = socket.discard_received();
        let sent = sent?;
        page.add(Figure::PacketsSent, sent as u64);
        page.add(Figure::BytesSent, (sent * bytes) as u64);
        if sent < packets {
            return Err(NotSent::Late { sent, packets });
        }
        page.add(Figure::FramesSent, 1);
        page.add(Figure::ParitySent, (packets - layout.data_packets()) as u64);
        let gone = net::now();
        page.times(Stage::Send).record(gone.since(packed));
        page.times(Stage::Total).record(gone.since(captured));
        let took = gone.since(captured).as_micros() as u64;
        page.add(Figure::LatencySumUs, took);
        page.set(Figure::LatencyLastUs, took);
        if unit.is_key {
            self.awaits_key = false;
            page.add(Figure::KeyFrames, 1);
        }
        Ok(())
    }
}
