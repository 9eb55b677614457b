//! The bytes of audio datagrams.
//!
//! | Offset | Size | Data packet | Parity packet |
//! |---|---|---|---|
//! | 0 | 1 | 0x80 | 0x80 |
//! | 1 | 1 | 97 | 127 |
//! | 2 | 2 | u16be sequence number | u16be base + 4 + shard, ignored |
//! | 4 | 4 | u32be timestamp, ms | 0 |
//! | 8 | 4 | ssrc 0 | ssrc 0 |
//! | 12 | 1 | payload | shard, 0 or 1 |
//! | 13 | 1 | | 97 |
//! | 14 | 2 | | u16be base sequence number |
//! | 16 | 4 | | u32be base timestamp |
//! | 20 | 4 | | ssrc 0 |
//! | 24 | n | | parity |
//!
//! Source: moonlight-common-c src/RtpAudioQueue.h.

/// Largest datagram that clients read.
pub const DATAGRAM_BYTES_MAX: usize = 1400;
/// Data packets of an FEC block.
pub const BLOCK_PACKETS: usize = 4;
/// Parity packets of an FEC block.
pub const BLOCK_PARITY: usize = 2;
/// Header of a data packet.
pub const HEADER_BYTES: usize = 12;
/// Header of a parity packet.
pub const PARITY_HEADER_BYTES: usize = 24;
/// Largest payload: its parity packet must fit too.
pub const PAYLOAD_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - PARITY_HEADER_BYTES;

const DATA_TYPE: u8 = 97;
const PARITY_TYPE: u8 = 127;

pub fn data_header(sequence: u16, timestamp: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..2].copy_from_slice(&[0x80, DATA_TYPE]);
    header[2..4].copy_from_slice(&sequence.to_be_bytes());
    header[4..8].copy_from_slice(&timestamp.to_be_bytes());
    header
}

pub fn parity_header(base: u16, base_timestamp: u32, shard: u8) -> [u8; PARITY_HEADER_BYTES] {
    let mut header = [0; PARITY_HEADER_BYTES];
    let sequence = base.wrapping_add(4 + u16::from(shard));
    header[..2].copy_from_slice(&[0x80, PARITY_TYPE]);
    header[2..4].copy_from_slice(&sequence.to_be_bytes());
    header[12..14].copy_from_slice(&[shard, DATA_TYPE]);
    header[14..16].copy_from_slice(&base.to_be_bytes());
    header[16..20].copy_from_slice(&base_timestamp.to_be_bytes());
    header
}

/// A datagram of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AudioPacket<'a> {
    Data { sequence: u16, timestamp: u32, payload: &'a [u8] },
    Parity { base: u16, base_timestamp: u32, shard: u8, payload: &'a [u8] },
}

impl<'a> AudioPacket<'a> {
    /// `None` if it is neither, too long, or without payload.
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (header, payload) = datagram.split_first_chunk::<HEADER_BYTES>()?;
        if datagram.len() > DATAGRAM_BYTES_MAX || payload.is_empty() || header[8..12] != [0; 4] {
            return None;
        }
        let [0x80, kind, s0, s1, t0, t1, t2, t3, ..] = *header else { return None };
        if kind == DATA_TYPE {
            return Some(Self::Data {
                sequence: u16::from_be_bytes([s0, s1]),
                timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
                payload,
            });
        }
        let (fec, payload) =
            payload.split_first_chunk::<{ PARITY_HEADER_BYTES - HEADER_BYTES }>()?;
        let [shard, DATA_TYPE, b0, b1, t0, t1, t2, t3, 0, 0, 0, 0] = *fec else { return None };
        let base = u16::from_be_bytes([b0, b1]);
        let is_sound = kind == PARITY_TYPE
            && usize::from(shard) < BLOCK_PARITY
            && usize::from(base).is_multiple_of(BLOCK_PACKETS)
            && !payload.is_empty();
        let base_timestamp = u32::from_be_bytes([t0, t1, t2, t3]);
        is_sound.then_some(Self::Parity { base, base_timestamp, shard, payload })
    }
}
