//! Encryption of single video packets.
//!
//! | Offset | Size | Field |
//! |---|---|---|
//! | 0 | 12 | IV: u64le packet counter, three zero bytes, 'V' |
//! | 12 | 4 | u32le frame index (not authenticated) |
//! | 16 | 16 | AES-128-GCM tag |
//! | 32 | P + 16 | ciphertext of the whole packet |
//!
//! Source: moonlight-common-c src/VideoStream.c, src/Video.h (ENC_VIDEO_HEADER).
use crate::proto::crypto::{GcmKey, TAG_BYTES};
use crate::proto::secret::SessionKey;

/// Bytes before the ciphertext.
pub const PREFIX_BYTES: usize = 32;
const IV_BYTES: usize = 12;
const TAG_AT: usize = PREFIX_BYTES - TAG_BYTES;

/// The key of one stream.
#[derive(Debug)]
pub struct PacketKey(GcmKey);

impl PacketKey {
    pub fn new(key: &SessionKey) -> Self {
        Self(GcmKey::new(key))
    }

    /// Encrypts the packet in `datagram[PREFIX_BYTES..]` and writes the prefix before it. A counter
    /// must never be used twice under one key.
    pub fn seal(&self, datagram: &mut [u8], counter: u64, frame: u32) {
        let mut iv = [0; IV_BYTES];
        iv[..8].copy_from_slice(&counter.to_le_bytes());
        iv[11] = b'V';
        let (prefix, packet) = datagram.split_at_mut(PREFIX_BYTES);
        prefix[..IV_BYTES].copy_from_slice(&iv);
        prefix[IV_BYTES..TAG_AT].copy_from_slice(&frame.to_le_bytes());
        prefix[TAG_AT..].copy_from_slice(&self.0.seal_in_place(iv, packet));
    }

    /// Decrypts a datagram into `packet`; false if it is too short or not under this key.
    pub fn open(&self, datagram: &[u8], packet: &mut Vec<u8>) -> bool {
        let Some((prefix, ciphertext)) = datagram.split_first_chunk::<PREFIX_BYTES>() else {
            return false;
        };
        let (Some(iv), Some(tag)) = (prefix.first_chunk(), prefix.last_chunk()) else {
            return false;
        };
        packet.clear();
        packet.extend_from_slice(ciphertext);
        self.0.open_in_place(*iv, tag, packet).is_ok()
    }
}

/// The frame index that an encrypted datagram shows in the clear.
pub fn frame_in_clear(datagram: &[u8]) -> Option<u32> {
    let (_, frame) = datagram.get(..TAG_AT)?.split_last_chunk()?;
    Some(u32::from_le_bytes(*frame))
}
