//! The receiving end of a video stream, for the test client: datagrams in, frames out.
//!
//! It is equivalent to the client's queue: one frame and one FEC block at a time, anything newer
//! gives up what is incomplete. It is stricter where a host must be exact: every datagram has the
//! full size, every header field is consistent. It decodes no picture.
//! Source: moonlight-common-c src/RtpVideoQueue.c.
use std::time::Duration;

use super::bitstream::{idr_fits, is_idr};
use super::layout::Block;
use super::packet::{
    BlockPosition, FRAME_HEADER_BYTES, FrameHeader, FrameKind, HEADER_BYTES, PacketHeader,
    RTP_BYTES, flags_are_sound, is_long_term_reference,
};
use super::recovery::{Recovery, Request};
use super::seal::{PREFIX_BYTES, PacketKey, frame_in_clear};
use crate::proto::fec::{Codes, Geometry, Kernel};
use crate::proto::secret::SessionKey;
use crate::proto::stream::Codec;
use crate::time::Time;

/// After packets came out of order, gaps say nothing about loss for this long.
const REORDERED: Duration = Duration::from_mins(5);

/// What the client announced.
#[derive(Clone, Debug)]
pub struct ReceiverParameters {
    /// P of the stream.
    pub packet_size: u16,
    pub codec: Codec,
    /// The stream is encrypted with this key.
    pub key: Option<SessionKey>,
    /// The client asks for reference invalidation instead of key frames.
    pub invalidation: bool,
}

/// What a datagram led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first datagram of the stream that was any good.
    FirstPacket,
    /// A frame that the client would show.
    Frame(ReceivedFrame),
    /// A complete frame that the client would throw away, as it waits for another kind.
    Discarded { index: u32 },
    /// Frames that will not be complete.
    Lost { first: u32, last: u32 },
    /// What the client now asks the host for.
    Request(Request),
}

/// A complete frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedFrame {
    pub index: u32,
    pub kind: FrameKind,
    /// 90 kHz.
    pub timestamp: u32,
    /// What the host says it took from capture to packets, 1/10 ms.
    pub latency: u16,
    pub long_term_reference: bool,
    /// Data packets that parity restored.
    pub repaired: u32,
    /// When the first packet of the frame came.
    pub first_at: Time,
    /// When it was complete.
    pub complete_at: Time,
    /// The access unit, without padding.
    pub bytes: Vec<u8>,
}

/// Counters since the start of the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    pub datagrams: u64,
    pub bytes: u64,
    /// Of the wrong size, with a header that contradicts itself or its block, or a frame with an
    /// unsound header. A correct host causes none.
    pub malformed: u64,
    /// Encrypted ones that do not open.
    pub unopened: u64,
    /// Came after their block was complete or given up; parity that was not needed is among them.
    pub late: u64,
    pub duplicate: u64,
    pub data: u64,
    pub parity: u64,
    /// Data packets that parity restored.
    pub repaired: u64,
    pub frames_shown: u64,
    pub frames_repaired: u64,
    pub frames_discarded: u64,
    pub frames_lost: u64,
}

/// The queue of one stream.
#[derive(Debug)]
pub struct Receiver {
    packet_bytes: usize,
    packet_size: u16,
    codec: Codec,
    key: Option<PacketKey>,
    codes: Codes,
    kernel: Kernel,
    recovery: Recovery,
    statistics: Statistics,
    started: bool,
    /// Sequence numbers before this one are too late.
    expected: u16,
    /// The frame in progress or awaited.
    frame: u32,
    /// The block of it in progress or awaited.
    block_index: u8,
    /// The loss of the frame in progress has been told already.
    is_told: bool,
    reordered_until: Option<Time>,
    block: Option<Assembly>,
    shards: Vec<u8>,
    present: Vec<bool>,
    /// What the blocks before the one in progress gave.
    partial: Partial,
    opened: Vec<u8>,
}

/// The block in progress; its packets are in `Receiver::shards`.
#[derive(Clone, Copy, Debug)]
struct Assembly {
    base: u16,
    block: Block,
    position: BlockPosition,
    timestamp: u32,
    received: usize,
    received_data: usize,
    /// One more than the highest index that came.
    seen: usize,
}

/// The finished blocks of the frame in progress.
#[derive(Debug, Default)]
struct Partial {
    header: Option<[u8; FRAME_HEADER_BYTES]>,
    bytes: Vec<u8>,
    repaired: u32,
    first_at: Time,
    long_term_reference: bool,
}

impl Receiver {
    /// Panics if P is out of the range that `Packetizer` has.
    pub fn new(parameters: &ReceiverParameters) -> Self {
        let packet_size = parameters.packet_size;
        assert!(packet_size.is_multiple_of(16) && (48..=16384).contains(&packet_size));
        Self {
            packet_bytes: usize::from(packet_size) + RTP_BYTES,
            packet_size,
            codec: parameters.codec,
            key: parameters.key.as_ref().map(PacketKey::new),
            codes: Codes::default(),
            kernel: Kernel::best(),
            recovery: Recovery::new(parameters.invalidation),
            statistics: Statistics::default(),
            started: false,
            expected: 0,
            frame: 1,
            block_index: 0,
            is_told: false,
            reordered_until: None,
            block: None,
            shards: Vec::new(),
            present: Vec::new(),
            partial: Partial::default(),
            opened: Vec::new(),
        }
    }

    /// Counters so far.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// Nothing is shown until a frame of the right kind arrives.
    pub fn is_waiting(&self) -> bool {
        self.recovery.is_waiting()
    }

    /// Takes a datagram that arrived at `now`. Any bytes are fine.
    pub fn push(&mut self, datagram: &[u8], now: Time) -> Vec<Event> {
        let mut events = Vec::new();
        self.statistics.datagrams += 1;
        self.statistics.bytes += datagram.len() as u64;
        if self.key.is_none() {
            self.receive(datagram, now, &mut events);
        } else if datagram.len() != self.packet_bytes + PREFIX_BYTES {
            self.statistics.malformed += 1;
        } else if frame_in_clear(datagram).is_some_and(|f| f != 0 && is_before(f, self.frame)) {
            self.statistics.late += 1;
        } else {
            let mut packet = std::mem::take(&mut self.opened);
            if self.key.as_ref().is_some_and(|key| key.open(datagram, &mut packet)) {
                self.receive(&packet, now, &mut events);
            } else {
                self.statistics.unopened += 1;
            }
            self.opened = packet;
        }
        events
    }

    fn receive(&mut self, packet: &[u8], now: Time, events: &mut Vec<Event>) {
        let header = PacketHeader::parse(packet);
        let Some(header) = header.filter(|_| packet.len() == self.packet_bytes) else {
            self.statistics.malformed += 1;
            return;
        };
        if !std::mem::replace(&mut self.started, true) {
            events.push(Event::FirstPacket);
        }
        let is_late = (header.sequence.wrapping_sub(self.expected) as i16) < 0
            || is_before(header.frame, self.frame)
            || header.frame == self.frame && header.position.index < self.block_index;
        if is_late {
            self.statistics.late += 1;
            return;
        }
        let continues = self.block.is_some()
            && header.frame == self.frame
            && header.position.index == self.block_index;
        if !continues && !self.start_block(&header, now, events) {
            return;
        }
        self.store(&header, packet, now, events);
    }

    /// Gives up what the packet makes hopeless and starts its block; false if its own frame is
    /// hopeless too.
    fn start_block(&mut self, header: &PacketHeader, now: Time, events: &mut Vec<Event>) -> bool {
        if header.frame != self.frame {
            self.lose(header.frame.wrapping_sub(1), events);
            self.begin_frame(header.frame);
        }
        if header.position.index != self.block_index {
            self.lose(header.frame, events);
            self.begin_frame(header.frame.wrapping_add(1));
            return false;
        }
        if header.position.index == 0 {
            self.partial.bytes.clear();
            self.partial =
                Partial { bytes: std::mem::take(&mut self.partial.bytes), ..Partial::default() };
            self.partial.first_at = now;
        }
        let packets = header.block.packets();
        self.shards.resize(packets * self.packet_bytes, 0);
        self.present.clear();
        self.present.resize(packets, false);
        self.expected = header.base();
        self.block = Some(Assembly {
            base: header.base(),
            block: header.block,
            position: header.position,
            timestamp: header.timestamp,
            received: 0,
            received_data: 0,
            seen: 0,
        });
        true
    }

    fn begin_frame(&mut self, frame: u32) {
        self.frame = frame;
        self.block_index = 0;
        self.is_told = false;
        self.block = None;
    }

    /// Frames from the one in progress to `last` will not be complete. Says so once.
    fn lose(&mut self, last: u32, events: &mut Vec<Event>) {
        let first = if self.is_told { self.frame.wrapping_add(1) } else { self.frame };
        if is_before(last, first) {
            return;
        }
        self.statistics.frames_lost += u64::from(last.wrapping_sub(first)) + 1;
        events.push(Event::Lost { first, last });
        events.extend(self.recovery.lost(last).map(Event::Request));
    }

    fn store(&mut self, h: &PacketHeader, packet: &[u8], now: Time, events: &mut Vec<Event>) {
        let Some(mut assembly) = self.block else { return };
        let agrees = h.base() == assembly.base
            && h.block == assembly.block
            && h.position == assembly.position
            && h.timestamp == assembly.timestamp;
        if !agrees {
            self.statistics.malformed += 1;
            return;
        }
        if std::mem::replace(&mut self.present[h.index], true) {
            self.statistics.duplicate += 1;
            return;
        }
        let is_data = h.index < assembly.block.data;
        self.statistics.data += u64::from(is_data);
        self.statistics.parity += u64::from(!is_data);
        if h.index < assembly.seen {
            self.reordered_until = Some(now + REORDERED);
        }
        assembly.received += 1;
        assembly.received_data += usize::from(is_data);
        assembly.seen = assembly.seen.max(h.index + 1);
        let at = h.index * self.packet_bytes;
        self.shards[at..at + self.packet_bytes].copy_from_slice(packet);
        self.block = Some(assembly);
        if assembly.received >= assembly.block.data {
            self.finish_block(assembly, now, events);
        } else if assembly.seen - assembly.received > assembly.block.parity {
            self.foresee_loss(now, events);
        }
    }

    /// More packets are missing than parity exists: a client that can invalidate says so at once.
    fn foresee_loss(&mut self, now: Time, events: &mut Vec<Event>) {
        let is_reordered = self.reordered_until.is_some_and(|until| now < until);
        if !self.is_told && !is_reordered && self.recovery.can_invalidate() {
            self.lose(self.frame, events);
            self.is_told = true;
        }
    }

    fn finish_block(&mut self, assembly: Assembly, now: Time, events: &mut Vec<Event>) {
        self.block = None;
        let Block { data, .. } = assembly.block;
        let missing = data - assembly.received_data;
        self.expected = assembly.base.wrapping_add(assembly.block.packets() as u16);
        if !self.repair(assembly.block, missing) {
            self.statistics.malformed += 1;
            self.lose(self.frame, events);
            self.begin_frame(self.frame.wrapping_add(1));
            return;
        }
        self.partial.repaired += missing as u32;
        self.statistics.repaired += missing as u64;
        for (i, packet) in self.shards.chunks_exact(self.packet_bytes).take(data).enumerate() {
            let mut payload = &packet[HEADER_BYTES..];
            if i == 0 && assembly.position.index == 0 {
                self.partial.header = payload.first_chunk().copied();
                self.partial.long_term_reference = is_long_term_reference(packet);
                payload = &payload[FRAME_HEADER_BYTES..];
            }
            self.partial.bytes.extend_from_slice(payload);
        }
        if assembly.position.index < assembly.position.last {
            self.block_index += 1;
            return;
        }
        let frame = self.frame_of(assembly.timestamp, now);
        if let Some(frame) = frame {
            self.show(frame, events);
        } else {
            self.statistics.malformed += 1;
            self.lose(self.frame, events);
        }
        self.begin_frame(self.frame.wrapping_add(1));
    }

    /// Restores `missing` data packets; false if the result is not a block.
    fn repair(&mut self, block: Block, missing: usize) -> bool {
        let bytes = self.packet_bytes;
        if missing > 0 {
            let geometry = Geometry { data: block.data, stride: bytes, offset: 0, len: bytes };
            let code = self.codes.cauchy(block.parity);
            let result = code.reconstruct(self.kernel, &mut self.shards, geometry, &self.present);
            if result.is_err() {
                return false;
            }
        }
        let mut data = self.shards.chunks_exact(bytes).take(block.data).enumerate();
        data.all(|(i, packet)| flags_are_sound(packet, i, block.data))
    }

    /// The frame of all finished blocks; `None` if its header is unsound.
    fn frame_of(&mut self, timestamp: u32, now: Time) -> Option<ReceivedFrame> {
        let header = FrameHeader::parse(self.partial.header.as_ref()?)?;
        let payload = self.packet_bytes - HEADER_BYTES;
        let padding = payload.checked_sub(usize::from(header.last_payload_bytes))?;
        let bytes = self.partial.bytes.len().checked_sub(padding)?;
        let mut access_unit = std::mem::take(&mut self.partial.bytes);
        access_unit.truncate(bytes);
        (header.last_payload_bytes > 0).then_some(ReceivedFrame {
            index: self.frame,
            kind: header.kind,
            timestamp,
            latency: header.latency,
            long_term_reference: self.partial.long_term_reference,
            repaired: self.partial.repaired,
            first_at: self.partial.first_at,
            complete_at: now,
            bytes: access_unit,
        })
    }

    /// A key frame that the client does not recognise counts as a predicted one.
    fn show(&mut self, frame: ReceivedFrame, events: &mut Vec<Event>) {
        let is_recognised = self.codec == Codec::Av1
            || is_idr(self.codec, &frame.bytes)
                && idr_fits(self.codec, &frame.bytes, self.packet_size);
        let kind = match frame.kind {
            FrameKind::Idr if !is_recognised => FrameKind::Predicted,
            kind => kind,
        };
        let (is_shown, request) = self.recovery.complete(frame.index, kind);
        if is_shown {
            self.statistics.frames_shown += 1;
            self.statistics.frames_repaired += u64::from(frame.repaired > 0);
            events.push(Event::Frame(frame));
        } else {
            self.statistics.frames_discarded += 1;
            events.push(Event::Discarded { index: frame.index });
        }
        events.extend(request.map(Event::Request));
    }
}

/// Whether frame `a` comes before frame `b`.
fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b).cast_signed()) < 0
}
