//! Encryption of single Opus packets: AES-128-CBC with PKCS#7 padding; the IV is
//! u32be(rikeyid + sequence number) and twelve zero bytes.
//!
//! There is no authentication, so a wrong key shows only as bad padding.
//! Source: moonlight-common-c src/AudioStream.c (decodeInputData).
use crate::proto::crypto::{AesKey, BLOCK_BYTES};
use crate::proto::secret::SessionKey;

/// The cipher of one stream.
#[derive(Debug)]
pub struct PacketCipher {
    key: AesKey,
    rikeyid: i32,
}

/// Length of the encryption of `bytes` bytes.
pub const fn encrypted_bytes(bytes: usize) -> usize {
    BLOCK_BYTES * (bytes / BLOCK_BYTES + 1)
}

impl PacketCipher {
    pub fn new(key: &SessionKey, rikeyid: i32) -> Self {
        Self { key: AesKey::new(key), rikeyid }
    }

    fn iv(&self, sequence: u16) -> [u8; BLOCK_BYTES] {
        let mut iv = [0; BLOCK_BYTES];
        iv[..4].copy_from_slice(&self.rikeyid.wrapping_add(sequence.into()).to_be_bytes());
        iv
    }

    /// Encrypts `bytes` where they are; they grow to [`encrypted_bytes`].
    pub fn encrypt(&self, sequence: u16, bytes: &mut Vec<u8>) {
        self.key.cbc_encrypt(self.iv(sequence), bytes, 0);
    }

    /// The plaintext of `bytes`; `None` if it has a wrong length or padding.
    pub fn decrypt(&self, sequence: u16, bytes: &[u8]) -> Option<Vec<u8>> {
        self.key.cbc_decrypt(self.iv(sequence), bytes).ok()
    }
}
