//! The bytes of one unencrypted video packet and of the frame header inside the first one.
//!
//! | Offset | Size | Field |
//! |---|---|---|
//! | 0 | 1 | 0x90: RTP version 2, extension bit |
//! | 1 | 1 | payload type 0 |
//! | 2 | 2 | u16be sequence number |
//! | 4 | 4 | u32be timestamp, 90 kHz |
//! | 8 | 4 | ssrc 0 |
//! | 12 | 4 | 0 |
//! | 16 | 4 | u32le stream packet index: 24-bit counter << 8 |
//! | 20 | 4 | u32le frame index, from 1 |
//! | 24 | 1 | flags |
//! | 25 | 1 | extra flags: 0x01 long-term reference |
//! | 26 | 1 | 0x10 |
//! | 27 | 1 | block << 4, last block << 6 |
//! | 28 | 4 | u32le percentage << 4, index in block << 12, data packets << 22 |
//! | 32 | P - 16 | payload |
//!
//! In parity packets the stream packet index, both flags and the payload are FEC output.
//! Source: moonlight-common-c src/Video.h, src/RtpVideoQueue.c.
use super::layout::{BLOCK_DATA_MAX, Block, parity};
use crate::proto::fec::BLOCK_SHARDS_MAX;

/// RTP header and its extension, before the P bytes that the client counts.
pub const RTP_BYTES: usize = 16;
/// All headers of a packet.
pub const HEADER_BYTES: usize = 32;
/// The header before an access unit.
pub const FRAME_HEADER_BYTES: usize = 8;

pub const RTP_FIRST_BYTE: u8 = 0x90;
const MULTI_FEC_FLAGS: u8 = 0x10;
const PICTURE: u8 = 0x01;
const END: u8 = 0x02;
const START: u8 = 0x04;
const LONG_TERM_REFERENCE: u8 = 0x01;

/// What a frame is to a client that waits after a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// Refers to earlier frames.
    Predicted,
    /// Starts anew.
    Idr,
    /// Completes an intra refresh.
    IntraRefresh,
    /// Refers only to frames from before the invalidated ones.
    AfterInvalidation,
}

impl FrameKind {
    /// The byte of the frame header.
    pub const fn wire(self) -> u8 {
        match self {
            Self::Predicted => 1,
            Self::Idr => 2,
            Self::IntraRefresh => 4,
            Self::AfterInvalidation => 5,
        }
    }

    /// From the byte of the frame header.
    pub const fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Predicted),
            2 => Some(Self::Idr),
            4 => Some(Self::IntraRefresh),
            5 => Some(Self::AfterInvalidation),
            _ => None,
        }
    }
}

/// The frame header: type 0x01, u16le latency in 1/10 ms, frame kind, u16le bytes of the last data
/// packet's payload, two zero bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Capture to packets, 1/10 ms; 0 is unknown or a repeated frame.
    pub latency: u16,
    pub kind: FrameKind,
    /// 1..=P - 16.
    pub last_payload_bytes: u16,
}

impl FrameHeader {
    pub fn encode(self) -> [u8; FRAME_HEADER_BYTES] {
        let ([a, b], [c, d]) = (self.latency.to_le_bytes(), self.last_payload_bytes.to_le_bytes());
        [0x01, a, b, self.kind.wire(), c, d, 0, 0]
    }

    /// `None` if the bytes are no such header.
    pub fn parse(bytes: &[u8; FRAME_HEADER_BYTES]) -> Option<Self> {
        let [0x01, a, b, kind, c, d, 0, 0] = *bytes else { return None };
        Some(Self {
            latency: u16::from_le_bytes([a, b]),
            kind: FrameKind::from_wire(kind)?,
            last_payload_bytes: u16::from_le_bytes([c, d]),
        })
    }
}

/// What the packets of one frame have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameFields {
    pub index: u32,
    pub timestamp: u32,
    pub long_term_reference: bool,
}

/// Where a block stands in its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockPosition {
    /// 0..=3.
    pub index: u8,
    /// Index of the frame's last block, 0..=3.
    pub last: u8,
}

impl BlockPosition {
    fn wire(self) -> u8 {
        self.index << 4 | self.last << 6
    }
}

/// The flags that data packet `index` of `data` has.
fn flags(index: usize, data: usize) -> u8 {
    let start = if index == 0 { START } else { 0 };
    let end = if index + 1 == data { END } else { 0 };
    PICTURE | start | end
}

/// Writes the fields of a data packet that the code covers; the others are zero.
pub fn write_covered(
    packet: &mut [u8],
    frame: &FrameFields,
    position: BlockPosition,
    (index, data): (usize, usize),
    counter: u64,
) {
    packet[..RTP_BYTES].fill(0);
    packet[16..20].copy_from_slice(&((counter as u32) << 8).to_le_bytes());
    packet[20..24].copy_from_slice(&frame.index.to_le_bytes());
    packet[24] = flags(index, data);
    packet[25] = if frame.long_term_reference { LONG_TERM_REFERENCE } else { 0 };
    packet[26] = MULTI_FEC_FLAGS;
    packet[27] = position.wire();
    packet[28..32].fill(0);
}

/// Writes the fields of any packet of a block that the code does not cover, or not for parity.
pub fn write_uncovered(
    packet: &mut [u8],
    frame: &FrameFields,
    position: BlockPosition,
    (index, block): (usize, Block),
    counter: u64,
) {
    packet[0] = RTP_FIRST_BYTE;
    packet[2..4].copy_from_slice(&(counter as u16).to_be_bytes());
    packet[4..8].copy_from_slice(&frame.timestamp.to_be_bytes());
    packet[8..12].fill(0);
    packet[20..24].copy_from_slice(&frame.index.to_le_bytes());
    packet[27] = position.wire();
    let fec = u32::from(block.percent) << 4 | (index as u32) << 12 | (block.data as u32) << 22;
    packet[28..32].copy_from_slice(&fec.to_le_bytes());
}

/// The header of a packet that came: every field is consistent with the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketHeader {
    pub sequence: u16,
    pub timestamp: u32,
    pub frame: u32,
    pub position: BlockPosition,
    pub block: Block,
    /// Position in the block, 0..data + parity.
    pub index: usize,
}

impl PacketHeader {
    /// Reads the header; `None` if it contradicts itself.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let header: &[u8; HEADER_BYTES] = packet.first_chunk()?;
        let word = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
        let fec = u32::from_le_bytes(word(28));
        let percent = (fec >> 4) as u8;
        let index = (fec >> 12 & 0x3FF) as usize;
        let data = (fec >> 22) as usize;
        let block = Block { data, parity: parity(data, usize::from(percent)), percent };
        let position = BlockPosition { index: header[27] >> 4 & 3, last: header[27] >> 6 };
        let is_sound = header[0] == RTP_FIRST_BYTE
            && header[27] & 0x0F == 0
            && fec & 0x0F == 0
            && (1..=BLOCK_DATA_MAX).contains(&data)
            && (block.parity == 0 || block.packets() <= BLOCK_SHARDS_MAX)
            && index < block.packets()
            && position.index <= position.last;
        is_sound.then_some(Self {
            sequence: u16::from_be_bytes([header[2], header[3]]),
            timestamp: u32::from_be_bytes(word(4)),
            frame: u32::from_le_bytes(word(20)),
            position,
            block,
            index,
        })
    }

    /// Sequence number of the block's first packet.
    pub fn base(&self) -> u16 {
        self.sequence.wrapping_sub(self.index as u16)
    }
}

/// Whether data packet `index` of `data` has the flags that its position asks for.
pub fn flags_are_sound(packet: &[u8], index: usize, data: usize) -> bool {
    packet.get(24) == Some(&flags(index, data))
}

/// Whether the packet says that its frame is a long-term reference.
pub fn is_long_term_reference(packet: &[u8]) -> bool {
    packet.get(25).is_some_and(|extra| extra & LONG_TERM_REFERENCE != 0)
}
