//! The receiving end of an audio stream, for the test client: puts packets in order, repairs and
//! decrypts them.
//!
//! It follows the client's queue: packets in order go on at once, parity is used only where one is
//! missing, a block is given up when a later one begins. It decodes no sound.
//! Source: moonlight-common-c src/RtpAudioQueue.c.
use std::collections::BTreeMap;
use std::time::Duration;

use super::cipher::PacketCipher;
use super::packet::{AudioPacket, BLOCK_PACKETS, BLOCK_PARITY};
use super::packetizer::AudioParameters;
use crate::proto::fec::{Geometry, Kernel, Matrix};
use crate::time::Time;

/// How long a gap is waited for once packets came out of order.
const REORDER_WAIT: Duration = Duration::from_millis(10);
/// Blocks that may wait behind a gap. A client holds no more either: 30 packets.
const BLOCKS_MAX: usize = 8;

/// What a datagram led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AudioEvent {
    /// The next Opus packet.
    Packet { sequence: u16, timestamp: u32, opus: Vec<u8>, is_repaired: bool },
    /// Packets that the decoder must conceal.
    Lost { first: u16, count: u32 },
}

/// Counters since the start of the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AudioStatistics {
    pub datagrams: u64,
    pub bytes: u64,
    /// Neither a data nor a parity packet, or against what others of its block say.
    pub malformed: u64,
    /// Payloads that do not decrypt.
    pub unopened: u64,
    /// Came after their place was played or given up; unneeded parity is among them.
    pub late: u64,
    pub duplicate: u64,
    pub data: u64,
    pub parity: u64,
    pub repaired: u64,
    pub lost: u64,
    /// Blocks with payloads of different sizes. The first one turns repair off for good.
    pub uneven_blocks: u64,
}

/// The queue of one stream.
#[derive(Debug)]
pub struct AudioReceiver {
    packet_ms: u32,
    cipher: Option<PacketCipher>,
    matrix: Matrix,
    kernel: Kernel,
    statistics: AudioStatistics,
    /// Number of the next packet to play, extended to 64 bits; `None` before the first block.
    next: Option<u64>,
    blocks: BTreeMap<u64, Block>,
    has_reordered: bool,
    highest: u64,
    repairs: bool,
}

#[derive(Debug)]
struct Block {
    first_at: Time,
    base_timestamp: u32,
    bytes: usize,
    shards: [Option<Vec<u8>>; BLOCK_PACKETS + BLOCK_PARITY],
    repaired: [bool; BLOCK_PACKETS],
}

impl AudioReceiver {
    /// For a stream of these parameters, from its first datagram on or from any later one.
    pub fn new(parameters: &AudioParameters) -> Self {
        Self {
            packet_ms: u32::from(parameters.packet_ms),
            cipher: parameters.encryption.as_ref().map(|e| PacketCipher::new(&e.key, e.rikeyid)),
            matrix: Matrix::audio(),
            kernel: Kernel::best(),
            statistics: AudioStatistics::default(),
            next: None,
            blocks: BTreeMap::new(),
            has_reordered: false,
            highest: 0,
            repairs: true,
        }
    }

    /// Counters so far.
    pub fn statistics(&self) -> AudioStatistics {
        self.statistics
    }

    /// Takes a datagram that arrived at `now`. Any bytes are fine.
    pub fn push(&mut self, datagram: &[u8], now: Time) -> Vec<AudioEvent> {
        let mut events = Vec::new();
        self.statistics.datagrams += 1;
        self.statistics.bytes += datagram.len() as u64;
        match AudioPacket::parse(datagram) {
            Some(packet) => self.receive(packet, now, &mut events),
            None => self.statistics.malformed += 1,
        }
        events
    }

    fn receive(&mut self, packet: AudioPacket<'_>, now: Time, events: &mut Vec<AudioEvent>) {
        let (base, index, base_timestamp, payload) = match packet {
            AudioPacket::Data { sequence, timestamp, payload } => {
                let index = sequence % BLOCK_PACKETS as u16;
                let earlier = u32::from(index) * self.packet_ms;
                (sequence - index, usize::from(index), timestamp.wrapping_sub(earlier), payload)
            }
            AudioPacket::Parity { base, base_timestamp, shard, payload } => {
                (base, BLOCK_PACKETS + usize::from(shard), base_timestamp, payload)
            }
        };
        let is_data = index < BLOCK_PACKETS;
        let Some(next) = self.next.or_else(|| self.synchronise(base, index)) else {
            self.statistics.late += 1;
            return;
        };
        let base = extend(base, next - next % BLOCK_PACKETS as u64);
        let number = base.map(|base| base + index as u64);
        let (Some(base), Some(number)) = (base, number) else {
            self.statistics.late += 1;
            return;
        };
        if base + (BLOCK_PACKETS as u64) <= next || is_data && number < next {
            self.statistics.late += 1;
            return;
        }
        let block = self.blocks.entry(base).or_insert_with(|| Block {
            first_at: now,
            base_timestamp,
            bytes: payload.len(),
            shards: Default::default(),
            repaired: [false; BLOCK_PACKETS],
        });
        if block.shards[index].is_some() {
            self.statistics.duplicate += 1;
            return;
        }
        if block.base_timestamp != base_timestamp {
            self.statistics.malformed += 1;
            return;
        }
        if block.bytes != payload.len() {
            self.statistics.uneven_blocks += 1;
            self.repairs = false;
        }
        block.shards[index] = Some(payload.to_vec());
        if is_data {
            self.statistics.data += 1;
            self.has_reordered |= number < self.highest;
            self.highest = self.highest.max(number);
        } else {
            self.statistics.parity += 1;
        }
        self.play(next, now, events);
    }

    /// The stream begins at a block border: what is left of the first block seen is not played.
    fn synchronise(&mut self, base: u16, index: usize) -> Option<u64> {
        if index != 0 {
            return None;
        }
        // One turn of the sequence number below, so that late packets have a place.
        let next = u64::from(base) + (1 << 16);
        self.highest = next;
        self.next = Some(next);
        self.next
    }

    /// Plays what can be played from `next` on.
    fn play(&mut self, mut next: u64, now: Time, events: &mut Vec<AudioEvent>) {
        loop {
            let index = (next % BLOCK_PACKETS as u64) as usize;
            let base = next - index as u64;
            if self.blocks.get(&base).is_some_and(|block| block.shards[index].is_some()) {
                self.emit(base, index, events);
                next += 1;
            } else if self.repair(base) {
                continue;
            } else if let Some(to) = self.gives_up(base, now) {
                next = self.give_up(next, to, events);
            } else {
                break;
            }
            if next.is_multiple_of(BLOCK_PACKETS as u64) {
                self.blocks.remove(&base);
            }
        }
        self.next = Some(next);
    }

    /// The first later block that has begun, if block `base` is not waited for any longer.
    fn gives_up(&self, base: u64, now: Time) -> Option<u64> {
        let (&later, block) = self.blocks.range(base + 1..).next()?;
        let waits = self.has_reordered
            && now.since(block.first_at) < REORDER_WAIT
            && self.blocks.len() <= BLOCKS_MAX;
        (!waits).then_some(later)
    }

    /// Plays what came of the block of `next`, tells the rest as lost, and goes on at block `to`.
    fn give_up(&mut self, next: u64, to: u64, events: &mut Vec<AudioEvent>) -> u64 {
        let base = next - next % BLOCK_PACKETS as u64;
        let end = (base + BLOCK_PACKETS as u64).min(to);
        for number in next..end {
            let index = (number - base) as usize;
            if self.blocks.get(&base).is_some_and(|block| block.shards[index].is_some()) {
                self.emit(base, index, events);
            } else {
                self.lose(number, 1, events);
            }
        }
        if end < to {
            self.lose(end, to - end, events);
        }
        self.blocks.remove(&base);
        to
    }

    fn lose(&mut self, first: u64, count: u64, events: &mut Vec<AudioEvent>) {
        self.statistics.lost += count;
        if let Some(AudioEvent::Lost { first: earlier, count: so_far }) = events.last_mut()
            && earlier.wrapping_add(*so_far as u16) == first as u16
        {
            *so_far += count as u32;
            return;
        }
        events.push(AudioEvent::Lost { first: first as u16, count: count as u32 });
    }

    /// Restores the missing data of a block, if there are enough shards.
    fn repair(&mut self, base: u64) -> bool {
        let Some(block) = self.blocks.get_mut(&base).filter(|_| self.repairs) else { return false };
        let len = block.bytes;
        let present = block.shards.each_ref().map(Option::is_some);
        if present.iter().filter(|is_present| **is_present).count() < BLOCK_PACKETS {
            return false;
        }
        let mut bytes = vec![0; present.len() * len];
        for (slot, shard) in bytes.chunks_exact_mut(len).zip(&block.shards) {
            if let Some(shard) = shard {
                slot.copy_from_slice(shard);
            }
        }
        let geometry = Geometry { data: BLOCK_PACKETS, stride: len, offset: 0, len };
        if self.matrix.reconstruct(self.kernel, &mut bytes, geometry, &present).is_err() {
            return false;
        }
        for (i, shard) in bytes.chunks_exact(len).take(BLOCK_PACKETS).enumerate() {
            if !present[i] {
                self.statistics.repaired += 1;
                block.repaired[i] = true;
                block.shards[i] = Some(shard.to_vec());
            }
        }
        true
    }

    fn emit(&mut self, base: u64, index: usize, events: &mut Vec<AudioEvent>) {
        let sequence = (base + index as u64) as u16;
        let Some(block) = self.blocks.get_mut(&base) else { return };
        let timestamp = block.base_timestamp.wrapping_add(self.packet_ms * index as u32);
        let Some(payload) = &block.shards[index] else { return };
        let opus = match &self.cipher {
            Some(cipher) => cipher.decrypt(sequence, payload),
            None => Some(payload.clone()),
        };
        match opus {
            Some(opus) => events.push(AudioEvent::Packet {
                sequence,
                timestamp,
                opus,
                is_repaired: block.repaired[index],
            }),
            None => self.statistics.unopened += 1,
        }
    }
}

/// The 64-bit number nearest to `near` that ends in `number`; `None` before the first one.
fn extend(number: u16, near: u64) -> Option<u64> {
    let distance = i64::from(number.wrapping_sub(near as u16).cast_signed());
    near.checked_add_signed(distance)
}
