//! How a frame is cut into FEC blocks: how many data and parity packets each has.
use thiserror::Error;

use super::packet::{HEADER_BYTES, RTP_BYTES};
use crate::proto::fec::BLOCK_SHARDS_MAX;

/// FEC blocks of one frame.
pub const BLOCKS_MAX: usize = 4;
/// Data packets of one block: its header field has 10 bits.
pub const BLOCK_DATA_MAX: usize = 1023;
/// Data packets of one frame.
pub const DATA_PACKETS_MAX: usize = BLOCKS_MAX * BLOCK_DATA_MAX;
/// Packets of one frame, parity included: without parity there can be more of them than with.
pub const PACKETS_MAX: usize = DATA_PACKETS_MAX;

const _: () = assert!(BLOCKS_MAX * BLOCK_SHARDS_MAX <= PACKETS_MAX);

/// The frame needs more than [`DATA_PACKETS_MAX`] data packets. It cannot be sent: the next one
/// must be a smaller key frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a frame of {data_packets} data packets is too large")]
pub struct FrameTooLarge {
    pub data_packets: usize,
}

/// One FEC block. Receivers compute `parity` from the other two, so they always agree:
/// `parity == (data * percent + 99) / 100`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// Data packets, 1..=1023.
    pub data: usize,
    /// Parity packets; with any, data + parity <= 255.
    pub parity: usize,
    /// The percentage that the packets announce.
    pub percent: u8,
}

impl Block {
    /// Packets on the wire.
    pub fn packets(self) -> usize {
        self.data + self.parity
    }

    /// `data` packets with at least `percent` parity, and at least `parity_min` parity packets as
    /// far as the percentage field and the code allow.
    fn new(data: usize, percent: u8, parity_min: u8) -> Self {
        let parity_min = usize::from(parity_min);
        let mut announced = usize::from(percent);
        if percent > 0 && parity(data, announced) < parity_min {
            announced = (100 * parity_min / data).min(255);
            // Rounding down loses a packet in blocks of more than 100.
            if parity(data, announced) < parity_min && announced < 255 {
                announced += 1;
            }
            while data + parity(data, announced) > BLOCK_SHARDS_MAX {
                announced -= 1;
            }
        }
        Self { data, parity: parity(data, announced), percent: announced as u8 }
    }
}

/// The parity packets that `percent` of `data` packets mean to a receiver.
pub(super) const fn parity(data: usize, percent: usize) -> usize {
    (data * percent).div_ceil(100)
}

/// The blocks of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    blocks: [Block; BLOCKS_MAX],
    count: usize,
}

/// Data packets of a frame that still has room for `percent` parity.
const fn parity_packets_max(percent: u8) -> usize {
    BLOCKS_MAX * (100 * BLOCK_SHARDS_MAX / (100 + percent as usize))
}

/// Bytes of an access unit that still has room for `percent` parity, in packets of size P.
pub fn parity_bytes_max(packet_size: u16, percent: u8) -> usize {
    parity_packets_max(percent) * usize::from(packet_size).saturating_sub(HEADER_BYTES - RTP_BYTES)
}

impl Layout {
    /// The most parity, up to `percent`, for which a frame of `data_packets` (>= 1) has room; 0: it
    /// has none for any.
    pub fn fitting_percent(data_packets: usize, percent: u8) -> u8 {
        let each = data_packets.div_ceil(BLOCKS_MAX);
        let room = BLOCK_SHARDS_MAX.saturating_sub(each) * 100 / each;
        percent.min(u8::try_from(room).unwrap_or(u8::MAX))
    }

    /// Cuts `data_packets` (>= 1) into blocks with `fec_percent` parity and at least
    /// `fec_packets_min` parity packets each. A frame that four such blocks cannot hold has no
    /// parity.
    pub fn new(
        data_packets: usize,
        fec_percent: u8,
        fec_packets_min: u8,
    ) -> Result<Self, FrameTooLarge> {
        assert!(data_packets > 0);
        if data_packets > DATA_PACKETS_MAX {
            return Err(FrameTooLarge { data_packets });
        }
        let data_max = 100 * BLOCK_SHARDS_MAX / (100 + usize::from(fec_percent));
        let mut count = data_packets.div_ceil(data_max);
        let mut percent = fec_percent;
        if count > BLOCKS_MAX {
            count = BLOCKS_MAX;
            percent = 0;
        }
        let mut each = data_packets.div_ceil(count);
        while each * (count - 1) >= data_packets {
            count -= 1;
            each = data_packets.div_ceil(count);
        }
        let mut blocks = [Block::default(); BLOCKS_MAX];
        for (i, block) in blocks[..count].iter_mut().enumerate() {
            *block = Block::new(each.min(data_packets - i * each), percent, fec_packets_min);
        }
        Ok(Self { blocks, count })
    }

    /// The blocks in wire order, 1..=4.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks[..self.count]
    }

    /// Data packets of the frame.
    pub fn data_packets(&self) -> usize {
        self.blocks().iter().map(|block| block.data).sum()
    }

    /// Packets of the frame, parity included: the counters that it consumes.
    pub fn packets(&self) -> usize {
        self.blocks().iter().map(|block| block.packets()).sum()
    }
}
