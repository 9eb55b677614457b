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
use std::fmt;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::proto::secret::SessionKey;

/// Bytes before the ciphertext.
pub const PREFIX_BYTES: usize = 32;

/// The key of one stream; its schedule is computed once.
pub struct PacketKey(LessSafeKey);

impl fmt::Debug for PacketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PacketKey(..)")
    }
}

impl PacketKey {
    pub fn new(key: &SessionKey) -> Self {
        let key = UnboundKey::new(&AES_128_GCM, &key.0).expect("16 bytes are an AES-128 key");
        Self(LessSafeKey::new(key))
    }

    /// Encrypts the packet in `datagram[PREFIX_BYTES..]` and writes the prefix before it. A counter
    /// must never be used twice under one key.
    pub fn seal(&self, datagram: &mut [u8], counter: u64, frame: u32) {
        let mut iv = [0; 12];
        iv[..8].copy_from_slice(&counter.to_le_bytes());
        iv[11] = b'V';
        let (prefix, packet) = datagram.split_at_mut(PREFIX_BYTES);
        let tag = self
            .0
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(iv), Aad::empty(), packet)
            .expect("a packet is far below the limit of GCM");
        prefix[..12].copy_from_slice(&iv);
        prefix[12..16].copy_from_slice(&frame.to_le_bytes());
        prefix[16..].copy_from_slice(tag.as_ref());
    }

    /// Decrypts a datagram into `packet`; false if it is too short or not under this key.
    pub fn open(&self, datagram: &[u8], packet: &mut Vec<u8>) -> bool {
        let Some((prefix, ciphertext)) = datagram.split_first_chunk::<PREFIX_BYTES>() else {
            return false;
        };
        let Some(iv) = prefix.first_chunk::<12>() else { return false };
        packet.clear();
        packet.resize(ciphertext.len(), 0);
        let nonce = Nonce::assume_unique_for_key(*iv);
        self.0.open_separate_gather(nonce, Aad::empty(), ciphertext, &prefix[16..], packet).is_ok()
    }
}

/// The frame index that an encrypted datagram shows in the clear.
pub fn frame_in_clear(datagram: &[u8]) -> Option<u32> {
    let bytes = datagram.get(12..16)?;
    Some(u32::from_le_bytes(bytes.try_into().expect("four bytes")))
}
