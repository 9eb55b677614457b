//! From one encoded access unit to the complete datagrams of its frame.
use super::layout::{BLOCK_DATA_MAX, FrameTooLarge, Layout};
use super::packet::{
    BlockPosition, FRAME_HEADER_BYTES, FrameFields, FrameHeader, FrameKind, HEADER_BYTES,
    RTP_BYTES, write_covered, write_uncovered,
};
use super::seal::{PREFIX_BYTES, PacketKey};
use crate::proto::fec::{Codes, Geometry, Kernel};
use crate::proto::secret::SessionKey;
use crate::proto::stream::VideoSpec;

/// What the packets of a stream depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// P: a multiple of 16, 48..=16384.
    pub packet_size: u16,
    /// Parity as a percentage of the data packets, 0 for none.
    pub fec_percent: u8,
    /// Parity packets per block at least, if there is any parity.
    pub fec_packets_min: u8,
    /// Encrypts every packet.
    pub key: Option<SessionKey>,
}

impl Parameters {
    /// Those of a negotiated stream; `key` is used if it is encrypted.
    pub fn new(spec: &VideoSpec, key: &SessionKey) -> Self {
        Self {
            packet_size: spec.packet_size,
            fec_percent: spec.fec_percent,
            fec_packets_min: spec.fec_packets_min,
            key: spec.encrypted.then(|| key.clone()),
        }
    }
}

/// One frame to send. The access unit is `head` followed by `body`.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// From 1; +1 for each frame sent.
    pub index: u32,
    pub kind: FrameKind,
    /// 90 kHz, from the capture time.
    pub timestamp: u32,
    /// Capture to now in 1/10 ms; 0 for a repeated frame.
    pub latency: u16,
    pub long_term_reference: bool,
    /// Parameter sets that `strip_leading_sei` kept; empty otherwise.
    pub head: &'a [u8],
    pub body: &'a [u8],
}

impl Frame<'_> {
    /// Length of the access unit.
    pub fn bytes(&self) -> usize {
        self.head.len() + self.body.len()
    }
}

/// Turns frames into datagrams. After the first frames it allocates nothing.
#[derive(Debug)]
pub struct Packetizer {
    packet_size: usize,
    fec_percent: u8,
    fec_packets_min: u8,
    key: Option<PacketKey>,
    codes: Codes,
    kernel: Kernel,
}

impl Packetizer {
    /// Panics if `packet_size` is out of its range: the session description is validated before.
    pub fn new(parameters: &Parameters) -> Self {
        let packet_size = usize::from(parameters.packet_size);
        assert!(packet_size.is_multiple_of(16) && (48..=16384).contains(&packet_size));
        Self {
            packet_size,
            fec_percent: parameters.fec_percent,
            fec_packets_min: parameters.fec_packets_min,
            key: parameters.key.as_ref().map(PacketKey::new),
            codes: Codes::default(),
            kernel: Kernel::best(),
        }
    }

    /// Size of every datagram: P + 16, and 32 more when encrypted.
    pub fn datagram_bytes(&self) -> usize {
        self.prefix_bytes() + RTP_BYTES + self.packet_size
    }

    fn prefix_bytes(&self) -> usize {
        if self.key.is_some() { PREFIX_BYTES } else { 0 }
    }

    fn payload_bytes(&self) -> usize {
        self.packet_size - (HEADER_BYTES - RTP_BYTES)
    }

    /// Parity of the frames to come, as a percentage of the data packets.
    pub fn set_fec_percent(&mut self, percent: u8) {
        self.fec_percent = percent;
    }

    /// The layout of a frame with `bytes` bytes of access unit. Its `packets()` is how many
    /// counters the frame consumes. A frame too large for all its parity gets what there is room for.
    pub fn layout(&self, bytes: usize) -> Result<Layout, FrameTooLarge> {
        let packets = bytes.saturating_add(FRAME_HEADER_BYTES).div_ceil(self.payload_bytes());
        let percent = Layout::fitting_percent(packets, self.fec_percent);
        Layout::new(packets, percent, self.fec_packets_min)
    }

    /// Writes the datagrams of `frame` into `out`, one after the other, [`Self::datagram_bytes`]
    /// each; `out` then has exactly that length. Returns how many there are.
    ///
    /// Packet k has counter `first_counter` + k: RTP sequence number, stream packet index and IV
    /// all come from it. The counter of a stream starts at 0 and no value is ever used twice.
    pub fn packetize(
        &mut self,
        frame: &Frame<'_>,
        first_counter: u64,
        out: &mut Vec<u8>,
    ) -> Result<usize, FrameTooLarge> {
        assert!(frame.index != 0, "clients reject frame 0");
        let layout = self.layout(frame.bytes())?;
        let packets = layout.packets();
        out.resize(packets * self.datagram_bytes(), 0);
        let header = self.frame_header(frame);
        let mut source = Source { parts: [&header, frame.head, frame.body] };
        let mut counter = first_counter;
        let mut rest = out.as_mut_slice();
        for index in 0..layout.blocks().len() {
            let packets = layout.blocks()[index].packets();
            let (block, after) = rest.split_at_mut(packets * self.datagram_bytes());
            self.write_block(frame, &layout, index, &mut source, counter, block);
            counter = counter.checked_add(packets as u64).expect("2^64 packets are never sent");
            rest = after;
        }
        assert!(rest.is_empty() && source.is_empty());
        Ok(packets)
    }

    fn frame_header(&self, frame: &Frame<'_>) -> [u8; FRAME_HEADER_BYTES] {
        let payload = self.payload_bytes();
        let last = (frame.bytes() + FRAME_HEADER_BYTES - 1) % payload + 1;
        let header = FrameHeader {
            latency: frame.latency,
            kind: frame.kind,
            last_payload_bytes: last as u16,
        };
        header.encode()
    }

    /// Fills the datagrams of one block: data, parity, headers, encryption.
    fn write_block(
        &mut self,
        frame: &Frame<'_>,
        layout: &Layout,
        index: usize,
        source: &mut Source<'_>,
        counter: u64,
        out: &mut [u8],
    ) {
        let block = layout.blocks()[index];
        assert!(block.data <= BLOCK_DATA_MAX);
        let (stride, offset) = (self.datagram_bytes(), self.prefix_bytes());
        let last = layout.blocks().len() - 1;
        let position = BlockPosition { index: index as u8, last: last as u8 };
        let fields = FrameFields {
            index: frame.index,
            timestamp: frame.timestamp,
            long_term_reference: frame.long_term_reference,
        };
        let numbered = counter..;
        let data = out.chunks_exact_mut(stride).take(block.data);
        for (i, (datagram, counter)) in data.zip(numbered.clone()).enumerate() {
            let packet = &mut datagram[offset..];
            write_covered(packet, &fields, position, (i, block.data), counter);
            source.fill(&mut packet[HEADER_BYTES..]);
        }
        if block.parity > 0 {
            let geometry = Geometry { data: block.data, stride, offset, len: stride - offset };
            self.codes.cauchy(block.parity).encode(self.kernel, out, geometry);
        }
        for (i, (datagram, counter)) in out.chunks_exact_mut(stride).zip(numbered).enumerate() {
            write_uncovered(&mut datagram[offset..], &fields, position, (i, block), counter);
            if let Some(key) = &self.key {
                key.seal(datagram, counter, frame.index);
            }
        }
    }
}

/// What is left of a frame: its header and the two parts of its access unit.
struct Source<'a> {
    parts: [&'a [u8]; 3],
}

impl Source<'_> {
    fn is_empty(&self) -> bool {
        self.parts.iter().all(|part| part.is_empty())
    }

    /// Moves the next bytes to `payload` and fills what they leave with zeros.
    fn fill(&mut self, mut payload: &mut [u8]) {
        for part in &mut self.parts {
            let (now, later) = part.split_at(part.len().min(payload.len()));
            let (filled, rest) = payload.split_at_mut(now.len());
            filled.copy_from_slice(now);
            (*part, payload) = (later, rest);
        }
        payload.fill(0);
    }
}
