//! From Opus packets to datagrams: RTP header, encryption, and two parity packets after every four.
use thiserror::Error;

use super::cipher::{PacketCipher, encrypted_bytes};
use super::packet::{
    BLOCK_PACKETS, BLOCK_PARITY, DATAGRAM_BYTES_MAX, PAYLOAD_BYTES_MAX, data_header, parity_header,
};
use crate::proto::fec::{Geometry, Kernel, Matrix};
use crate::proto::secret::SessionKey;

/// What encryption needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encryption {
    pub key: SessionKey,
    /// The launch parameter, as 32 bits.
    pub rikeyid: i32,
}

/// What the packets of a stream depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioParameters {
    /// 5 or 10.
    pub packet_ms: u8,
    pub encryption: Option<Encryption>,
}

/// The Opus packet was not sent; the stream goes on as if it had not been given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PacketError {
    /// Its datagrams would be longer than clients read.
    #[error("an Opus packet of {bytes} bytes is too long")]
    TooLong { bytes: usize },
    /// The packets of a block must have one size on the wire, or the client turns repair off for
    /// the rest of the session. The encoder is not at a constant bitrate.
    #[error("a payload of {bytes} bytes in a block of {expected}")]
    Uneven { bytes: usize, expected: usize },
}

/// The sending end of a stream. It allocates nothing after `new`.
#[derive(Debug)]
pub struct AudioPacketizer {
    packet_ms: u32,
    cipher: Option<PacketCipher>,
    sequence: u16,
    timestamp: u32,
    matrix: Matrix,
    kernel: Kernel,
    /// Payloads of the block so far, then its parity, one per [`PAYLOAD_BYTES_MAX`].
    block: Box<[u8; PAYLOAD_BYTES_MAX * (BLOCK_PACKETS + BLOCK_PARITY)]>,
    /// The payload in progress.
    payload: Vec<u8>,
    /// Payload size of the block in progress.
    payload_bytes: usize,
    datagrams: Datagrams,
}

#[derive(Debug)]
struct Datagrams {
    bytes: Box<[u8; DATAGRAM_BYTES_MAX * (1 + BLOCK_PARITY)]>,
    lengths: [usize; 1 + BLOCK_PARITY],
}

impl Datagrams {
    fn write(&mut self, i: usize, header: &[u8], payload: &[u8]) {
        let datagram = &mut self.bytes[i * DATAGRAM_BYTES_MAX..(i + 1) * DATAGRAM_BYTES_MAX];
        datagram[..header.len()].copy_from_slice(header);
        datagram[header.len()..header.len() + payload.len()].copy_from_slice(payload);
        self.lengths[i] = header.len() + payload.len();
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let filled = self.bytes.chunks_exact(DATAGRAM_BYTES_MAX).zip(self.lengths);
        filled.filter(|(_, len)| *len > 0).map(|(datagram, len)| &datagram[..len])
    }
}

impl AudioPacketizer {
    /// A stream whose first packet has `sequence`, a multiple of 4 (0 for a new one), and
    /// `timestamp`.
    pub fn new(parameters: &AudioParameters, sequence: u16, timestamp: u32) -> Self {
        assert!(usize::from(sequence).is_multiple_of(BLOCK_PACKETS));
        Self {
            packet_ms: u32::from(parameters.packet_ms),
            cipher: parameters.encryption.as_ref().map(|e| PacketCipher::new(&e.key, e.rikeyid)),
            sequence,
            timestamp,
            matrix: Matrix::audio(),
            kernel: Kernel::best(),
            block: Box::new([0; PAYLOAD_BYTES_MAX * (BLOCK_PACKETS + BLOCK_PARITY)]),
            payload: Vec::with_capacity(PAYLOAD_BYTES_MAX),
            payload_bytes: 0,
            datagrams: Datagrams {
                bytes: Box::new([0; DATAGRAM_BYTES_MAX * (1 + BLOCK_PARITY)]),
                lengths: [0; 1 + BLOCK_PARITY],
            },
        }
    }

    /// The sequence number of the next packet.
    pub fn sequence(&self) -> u16 {
        self.sequence
    }

    /// Takes one Opus packet; gives its datagram, and after every fourth the two of parity.
    pub fn push(&mut self, opus: &[u8]) -> Result<impl Iterator<Item = &[u8]>, PacketError> {
        let bytes = match self.cipher {
            Some(_) => encrypted_bytes(opus.len()),
            None => opus.len(),
        };
        if bytes > PAYLOAD_BYTES_MAX {
            return Err(PacketError::TooLong { bytes: opus.len() });
        }
        let index = usize::from(self.sequence) % BLOCK_PACKETS;
        if index == 0 {
            self.payload_bytes = bytes;
        } else if bytes != self.payload_bytes {
            return Err(PacketError::Uneven { bytes, expected: self.payload_bytes });
        }
        self.payload.clear();
        self.payload.extend_from_slice(opus);
        if let Some(cipher) = &self.cipher {
            cipher.encrypt(self.sequence, &mut self.payload);
        }
        assert!(self.payload.len() == bytes);
        self.block[index * PAYLOAD_BYTES_MAX..][..bytes].copy_from_slice(&self.payload);
        self.datagrams.lengths = [0; 1 + BLOCK_PARITY];
        self.datagrams.write(0, &data_header(self.sequence, self.timestamp), &self.payload);
        if index + 1 == BLOCK_PACKETS {
            self.write_parity();
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.timestamp = self.timestamp.wrapping_add(self.packet_ms);
        Ok(self.datagrams.iter())
    }

    fn write_parity(&mut self) {
        let geometry = Geometry {
            data: BLOCK_PACKETS,
            stride: PAYLOAD_BYTES_MAX,
            offset: 0,
            len: self.payload_bytes,
        };
        self.matrix.encode(self.kernel, self.block.as_mut_slice(), geometry);
        let earlier = BLOCK_PACKETS as u16 - 1;
        let base = self.sequence - earlier;
        let base_timestamp = self.timestamp.wrapping_sub(self.packet_ms * u32::from(earlier));
        for shard in 0..BLOCK_PARITY {
            let header = parity_header(base, base_timestamp, shard as u8);
            let at = (BLOCK_PACKETS + shard) * PAYLOAD_BYTES_MAX;
            self.datagrams.write(1 + shard, &header, &self.block[at..at + self.payload_bytes]);
        }
    }
}
