//! Control messages: the encrypted envelope, replay protection, and what is inside.
//!
//! One ENet packet carries one message. It does not know ENet, channels or peers, and an input payload
//! stays bytes here (`input` reads it). Plaintext control streams are not spoken: a packet that is no
//! envelope is refused.
//!
//! | Offset | Size | Envelope |
//! |---|---|---|
//! | 0 | 2 | u16le 0x0001 |
//! | 2 | 2 | u16le length of what follows: 4 + 16 + n |
//! | 4 | 4 | u32le sequence number |
//! | 8 | 16 | GCM tag |
//! | 24 | n | ciphertext of the inner message: u16le type, u16le payload length, payload |
//!
//! AES-128-GCM without additional data. The IV of version 2 is 12 bytes: sequence little-endian, six
//! zeros, `CC` from the client or `HC` from the host. That of version 1 is 16 bytes: the low byte of the
//! sequence, fifteen zeros, the same in both directions; so its upper 24 bits are not authenticated, a
//! replay that alters them is not seen, and IVs repeat after 256 messages. Version 1 is for clients that
//! know nothing better.
//!
//! Source: moonlight-common-c src/ControlStream.c.
use thiserror::Error;

use crate::limits;
use crate::proto::crypto::{GcmKey, LongIvGcmKey, TAG_BYTES, message_iv};
use crate::proto::secret::SessionKey;

mod feedback;
mod message;
#[cfg(test)]
mod tests;

pub use crate::proto::crypto::Direction;
pub use feedback::Feedback;
pub use feedback::HdrMetadata;
pub use feedback::TERMINATED_BY_HOST;
pub use message::FecStatus;
pub use message::Message;

/// Bytes before the ciphertext.
pub const HEADER_BYTES: usize = 24;
const TYPE_ENVELOPE: u16 = 0x0001;
/// In the IV of version 2.
const PLANE: u8 = b'C';
/// Type and payload length of an inner message.
const INNER_HEADER_BYTES: usize = 4;
/// Sequence number and tag, which the envelope's length counts.
const COUNTED_BYTES: usize = 20;

/// The sequence number kept back for the datagram that is sent when a session has died.
pub const LAST_WILL_SEQUENCE: u32 = u32::MAX;

/// Which of the two encryptions ANNOUNCE settled on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 16-byte IV, for clients without `SS_ENC_CONTROL_V2`.
    V1,
    /// 12-byte IV.
    V2,
}

/// Why a packet is dropped. None of them changes any state; the stream goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// Authentication failed: another key, another direction, or altered bytes.
    #[error("control message does not authenticate")]
    Forged,
    /// The inner message is an envelope, shorter than its header, or not as long as it says.
    #[error("inner control message malformed")]
    Inner,
    /// Not an envelope, for example plaintext.
    #[error("control message not encrypted")]
    Plaintext,
    /// This sequence number was opened before, or lies behind the window.
    #[error("control message repeated")]
    Replayed,
    /// Shorter than an envelope, or than its own length says, or longer than any message.
    #[error("control message has a wrong size")]
    Size,
}

/// All 2^32 numbers of one key were used; the session has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("control sequence numbers are spent")]
pub struct SequenceSpent;

/// An inner message, authenticated and of the length it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inner {
    pub kind: u16,
    pub sequence: u32,
    bytes: Vec<u8>,
}

impl Inner {
    /// What follows type and length.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[INNER_HEADER_BYTES..]
    }
}

/// Writes an inner message: type, payload length, payload (at most 64 KiB less one).
pub fn inner(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("control payloads are some hundred bytes");
    let mut bytes = Vec::with_capacity(INNER_HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&kind.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Wraps an inner message (as [`inner`] writes it, at most `CONTROL_MESSAGE_BYTES_MAX`). The caller owns
/// the sequence number: one that is used twice under a key breaks the encryption ([`SealedSender`]).
pub fn seal(
    key: &SessionKey,
    version: Version,
    direction: Direction,
    sequence: u32,
    inner: &[u8],
) -> Vec<u8> {
    assert!(inner.len() <= limits::CONTROL_MESSAGE_BYTES_MAX);
    let length = u16::try_from(COUNTED_BYTES + inner.len()).expect("bounded by the line above");
    let mut packet = Vec::with_capacity(HEADER_BYTES + inner.len());
    packet.extend_from_slice(&TYPE_ENVELOPE.to_le_bytes());
    packet.extend_from_slice(&length.to_le_bytes());
    packet.extend_from_slice(&sequence.to_le_bytes());
    packet.extend_from_slice(&[0; TAG_BYTES]);
    packet.extend_from_slice(inner);
    let (header, body) = packet.split_at_mut(HEADER_BYTES);
    let tag = match version {
        Version::V1 => LongIvGcmKey::new(key).seal_in_place(iv_v1(sequence), body),
        Version::V2 => GcmKey::new(key).seal_in_place(message_iv(sequence, direction, PLANE), body),
    };
    header[HEADER_BYTES - TAG_BYTES..].copy_from_slice(&tag);
    packet
}

/// Opens one packet, whatever its sequence number ([`OpenWindow`] refuses repetitions). Bytes behind
/// the announced length are ignored, as the client library and Sunshine do.
pub fn open(
    key: &SessionKey,
    version: Version,
    direction: Direction,
    packet: &[u8],
) -> Result<Inner, OpenError> {
    let envelope = Envelope::parse(packet)?;
    let mut bytes = envelope.ciphertext.to_vec();
    let Envelope { sequence, tag, .. } = envelope;
    let opened = match version {
        Version::V1 => LongIvGcmKey::new(key).open_in_place(iv_v1(sequence), tag, &mut bytes),
        Version::V2 => {
            GcmKey::new(key).open_in_place(message_iv(sequence, direction, PLANE), tag, &mut bytes)
        }
    };
    opened.map_err(|_| OpenError::Forged)?;
    let (kind, rest) = bytes.split_first_chunk().ok_or(OpenError::Inner)?;
    let (length, payload) = rest.split_first_chunk().ok_or(OpenError::Inner)?;
    let kind = u16::from_le_bytes(*kind);
    if kind == TYPE_ENVELOPE || usize::from(u16::from_le_bytes(*length)) != payload.len() {
        return Err(OpenError::Inner);
    }
    Ok(Inner { kind, sequence, bytes })
}

/// The unauthenticated outside of a packet.
struct Envelope<'a> {
    sequence: u32,
    tag: &'a [u8; TAG_BYTES],
    ciphertext: &'a [u8],
}

impl<'a> Envelope<'a> {
    fn parse(packet: &'a [u8]) -> Result<Self, OpenError> {
        let (kind, rest) = packet.split_first_chunk().ok_or(OpenError::Size)?;
        if u16::from_le_bytes(*kind) != TYPE_ENVELOPE {
            return Err(OpenError::Plaintext);
        }
        let (length, rest) = rest.split_first_chunk().ok_or(OpenError::Size)?;
        let length = usize::from(u16::from_le_bytes(*length));
        let limits =
            COUNTED_BYTES + INNER_HEADER_BYTES..=COUNTED_BYTES + limits::CONTROL_MESSAGE_BYTES_MAX;
        if !limits.contains(&length) {
            return Err(OpenError::Size);
        }
        let rest = rest.get(..length).ok_or(OpenError::Size)?;
        let (sequence, rest) = rest.split_first_chunk().ok_or(OpenError::Size)?;
        let (tag, ciphertext) = rest.split_first_chunk().ok_or(OpenError::Size)?;
        Ok(Self { sequence: u32::from_le_bytes(*sequence), tag, ciphertext })
    }
}

/// The same in both directions.
fn iv_v1(sequence: u32) -> [u8; 16] {
    let mut iv = [0; 16];
    iv[0] = sequence.to_le_bytes()[0];
    iv
}

/// One side's outgoing messages: a counter from 0, up by one with each message on whichever channel.
///
/// There must be one for each key and direction, ever. [`LAST_WILL_SEQUENCE`] is not reached by it.
#[derive(Debug)]
pub struct SealedSender {
    key: SessionKey,
    version: Version,
    direction: Direction,
    next: u32,
}

impl SealedSender {
    pub fn new(key: SessionKey, version: Version, direction: Direction) -> Self {
        Self { key, version, direction, next: 0 }
    }

    /// Wraps the next inner message.
    pub fn seal(&mut self, inner: &[u8]) -> Result<Vec<u8>, SequenceSpent> {
        if self.next == LAST_WILL_SEQUENCE {
            return Err(SequenceSpent);
        }
        let packet = seal(&self.key, self.version, self.direction, self.next, inner);
        self.next += 1;
        Ok(packet)
    }

    /// The message to be sent, at most once, when this sender exists no more.
    pub fn last_will(&self, inner: &[u8]) -> Vec<u8> {
        seal(&self.key, self.version, self.direction, LAST_WILL_SEQUENCE, inner)
    }

    /// How many messages were sealed.
    pub fn sent(&self) -> u32 {
        self.next
    }
}

/// Numbers remembered behind the highest one. Channels and unreliable delivery reorder messages, by
/// some tens in practice.
const WINDOW: u32 = 2048;
const WINDOW_WORDS: usize = (WINDOW / 64) as usize;

/// One side's incoming messages: opens each sequence number once, in any order within 2048 numbers.
///
/// Only an authenticated message moves the window.
#[derive(Debug)]
pub struct OpenWindow {
    key: SessionKey,
    version: Version,
    direction: Direction,
    /// One above the highest number opened; 0 before the first. u64 so that u32::MAX has one above.
    end: u64,
    /// Bit n % 2048 says that number n, one of the 2048 below `end`, was opened.
    opened: [u64; WINDOW_WORDS],
}

impl OpenWindow {
    /// `direction` is that of the messages to be opened.
    pub fn new(key: SessionKey, version: Version, direction: Direction) -> Self {
        Self { key, version, direction, end: 0, opened: [0; WINDOW_WORDS] }
    }

    /// Whether [`Self::open`] would open this packet; nothing changes. Such a packet proves that who
    /// sent it has the key, wherever it came from.
    pub fn admits(&self, packet: &[u8]) -> bool {
        Envelope::parse(packet).is_ok_and(|envelope| self.is_new(envelope.sequence))
            && open(&self.key, self.version, self.direction, packet).is_ok()
    }

    /// Opens a packet that was not opened before.
    pub fn open(&mut self, packet: &[u8]) -> Result<Inner, OpenError> {
        let sequence = Envelope::parse(packet)?.sequence;
        if !self.is_new(sequence) {
            return Err(OpenError::Replayed);
        }
        let inner = open(&self.key, self.version, self.direction, packet)?;
        self.mark(sequence);
        Ok(inner)
    }

    fn is_new(&self, sequence: u32) -> bool {
        let sequence = u64::from(sequence);
        if sequence >= self.end {
            return true;
        }
        sequence + u64::from(WINDOW) >= self.end && self.opened[word(sequence)] & bit(sequence) == 0
    }

    fn mark(&mut self, sequence: u32) {
        let sequence = u64::from(sequence);
        if sequence >= self.end {
            if sequence - self.end >= u64::from(WINDOW) {
                self.opened = [0; WINDOW_WORDS];
            } else {
                for skipped in self.end..sequence {
                    self.opened[word(skipped)] &= !bit(skipped);
                }
            }
            self.end = sequence + 1;
        }
        self.opened[word(sequence)] |= bit(sequence);
    }
}

fn word(sequence: u64) -> usize {
    usize::try_from(sequence % u64::from(WINDOW) / 64).expect("below 32")
}

fn bit(sequence: u64) -> u64 {
    1 << (sequence % 64)
}
