//! Control messages from the client to the host, generation 7, and their writers for test clients.
//!
//! | Type | Message | Payload bytes |
//! |---|---|---|
//! | 0x0200 | periodic ping | 8, content without meaning |
//! | 0x0201 | loss statistics (old clients) | 32 |
//! | 0x0204 | frame statistics (never sent) | 80 |
//! | 0x0206 | input | variable |
//! | 0x0301 | invalidate reference frames | 24 |
//! | 0x0302 | request IDR; also the first message of all | 2 |
//! | 0x0305 | start A (old clients) | 2 |
//! | 0x0307 | start B | 1 |
//! | 0x0350 | long-term reference acknowledgement | 8 |
//! | 0x5502 | frame FEC status, big-endian | 21 |
//!
//! Longer payloads are taken: fields are appended in extensions. Source: moonlight-common-c
//! src/ControlStream.c, src/Video.h (`SS_FRAME_FEC_STATUS`).
use super::Inner;
use super::OpenError;
use super::inner;

const PING: u16 = 0x0200;
const LOSS_STATISTICS: u16 = 0x0201;
const FRAME_STATISTICS: u16 = 0x0204;
const INPUT: u16 = 0x0206;
const INVALIDATE: u16 = 0x0301;
const REQUEST_IDR: u16 = 0x0302;
const START_A: u16 = 0x0305;
const START_B: u16 = 0x0307;
const LTR_ACK: u16 = 0x0350;
const FEC_STATUS: u16 = 0x5502;

/// What a client says on the control stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    FecStatus(FecStatus),
    /// Defined, but no client sends it.
    FrameStatistics,
    /// One input event, for `input::InputEvent::parse`.
    Input(&'a [u8]),
    /// Frames `first..=last` are lost: reference neither them nor what was encoded after them.
    InvalidateReferenceFrames {
        first: u32,
        last: u32,
    },
    /// Old clients only; nothing follows from it.
    LossStatistics {
        interval_ms: u32,
        last_good_frame: u64,
    },
    /// The client has this long-term reference frame completely.
    LtrAck {
        frame: u32,
    },
    Ping,
    /// The next frame must be a key frame. Bursts are to be coalesced.
    RequestIdr,
    StartA,
    /// The client is ready: video and audio may start, and it may be told the HDR state.
    StartB,
    /// To be ignored.
    Unknown {
        kind: u16,
    },
}

/// How one FEC block arrived. Sent for blocks that needed recovery, at most 8 per 100 ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FecStatus {
    pub frame: u32,
    /// RTP sequence numbers.
    pub highest_received: u16,
    pub next_contiguous: u16,
    pub missing_before_highest: u16,
    pub data_packets: u16,
    pub parity_packets: u16,
    pub received_data: u16,
    pub received_parity: u16,
    pub fec_percent: u8,
    pub block: u8,
    pub blocks: u8,
}

impl<'a> Message<'a> {
    /// Refuses payloads shorter than their type needs.
    pub fn parse(inner: &'a Inner) -> Result<Self, OpenError> {
        Self::parse_payload(inner.kind, inner.payload()).ok_or(OpenError::Inner)
    }

    /// The same for a type and payload that were not in an envelope. `None`: too short.
    pub fn parse_payload(kind: u16, payload: &'a [u8]) -> Option<Self> {
        Some(match kind {
            PING => payload.first_chunk::<8>().map(|_| Self::Ping)?,
            LOSS_STATISTICS => {
                let payload = payload.first_chunk::<32>()?;
                let interval_ms = u32_le(payload, 4)?;
                let last_good_frame =
                    u64::from(u32_le(payload, 12)?) | u64::from(u32_le(payload, 16)?) << 32;
                Self::LossStatistics { interval_ms, last_good_frame }
            }
            FRAME_STATISTICS => payload.first_chunk::<80>().map(|_| Self::FrameStatistics)?,
            INPUT => Self::Input(payload),
            INVALIDATE => {
                let payload = payload.first_chunk::<24>()?;
                let (first, last) = (u32_le(payload, 0)?, u32_le(payload, 8)?);
                Self::InvalidateReferenceFrames { first, last }
            }
            REQUEST_IDR => payload.first_chunk::<2>().map(|_| Self::RequestIdr)?,
            START_A => payload.first_chunk::<2>().map(|_| Self::StartA)?,
            START_B => payload.first_chunk::<1>().map(|_| Self::StartB)?,
            LTR_ACK => Self::LtrAck { frame: u32_le(payload.first_chunk::<8>()?, 0)? },
            FEC_STATUS => Self::FecStatus(FecStatus::parse(payload)?),
            _ => Self::Unknown { kind },
        })
    }

    /// The inner message as the client library sends it.
    pub fn write(&self) -> Vec<u8> {
        match self {
            Self::FecStatus(status) => inner(FEC_STATUS, &status.write()),
            Self::FrameStatistics => inner(FRAME_STATISTICS, &[0; 80]),
            Self::Input(event) => inner(INPUT, event),
            Self::InvalidateReferenceFrames { first, last } => {
                let mut payload = [0; 24];
                payload[..4].copy_from_slice(&first.to_le_bytes());
                payload[8..12].copy_from_slice(&last.to_le_bytes());
                inner(INVALIDATE, &payload)
            }
            Self::LossStatistics { interval_ms, last_good_frame } => {
                let mut payload = [0; 32];
                payload[4..8].copy_from_slice(&interval_ms.to_le_bytes());
                payload[8..12].copy_from_slice(&1000_u32.to_le_bytes());
                payload[12..20].copy_from_slice(&last_good_frame.to_le_bytes());
                payload[28] = 0x14;
                inner(LOSS_STATISTICS, &payload)
            }
            Self::LtrAck { frame } => {
                let mut payload = [0; 8];
                payload[..4].copy_from_slice(&frame.to_le_bytes());
                inner(LTR_ACK, &payload)
            }
            Self::Ping => inner(PING, &[4, 0, 0, 0, 0, 0, 0, 0]),
            Self::RequestIdr => inner(REQUEST_IDR, &[0; 2]),
            Self::StartA => inner(START_A, &[0; 2]),
            Self::StartB => inner(START_B, &[0]),
            Self::Unknown { kind } => inner(*kind, &[]),
        }
    }
}

impl FecStatus {
    fn parse(payload: &[u8]) -> Option<Self> {
        let payload = payload.first_chunk::<21>()?;
        let [fec_percent, block, blocks] = *payload.last_chunk::<3>()?;
        let frame = u32::from_be_bytes(*payload.first_chunk()?);
        Some(Self {
            frame,
            highest_received: u16_be(payload, 4)?,
            next_contiguous: u16_be(payload, 6)?,
            missing_before_highest: u16_be(payload, 8)?,
            data_packets: u16_be(payload, 10)?,
            parity_packets: u16_be(payload, 12)?,
            received_data: u16_be(payload, 14)?,
            received_parity: u16_be(payload, 16)?,
            fec_percent,
            block,
            blocks,
        })
    }

    fn write(&self) -> Vec<u8> {
        let mut payload = self.frame.to_be_bytes().to_vec();
        for number in [
            self.highest_received,
            self.next_contiguous,
            self.missing_before_highest,
            self.data_packets,
            self.parity_packets,
            self.received_data,
            self.received_parity,
        ] {
            payload.extend_from_slice(&number.to_be_bytes());
        }
        payload.extend_from_slice(&[self.fec_percent, self.block, self.blocks]);
        payload
    }
}

fn u32_le(payload: &[u8], at: usize) -> Option<u32> {
    payload.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn u16_be(payload: &[u8], at: usize) -> Option<u16> {
    payload.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}
