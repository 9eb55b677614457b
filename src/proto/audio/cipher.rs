//! Encryption of single Opus packets: AES-128-CBC with PKCS#7 padding; the IV is
//! u32be(rikeyid + sequence number) and twelve zero bytes.
//!
//! There is no authentication, so a wrong key shows only as bad padding.
//! Source: moonlight-common-c src/AudioStream.c (decodeInputData).
use std::fmt;

use aes::Aes128;
use aes::cipher::{Block, BlockDecrypt, BlockEncrypt, KeyInit};

use crate::proto::secret::SessionKey;

const BLOCK_BYTES: usize = 16;

/// The cipher of one stream.
pub struct PacketCipher {
    aes: Aes128,
    rikeyid: u32,
}

impl fmt::Debug for PacketCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PacketCipher(..)")
    }
}

/// Length of the encryption of `bytes` bytes.
pub const fn encrypted_bytes(bytes: usize) -> usize {
    BLOCK_BYTES * (bytes / BLOCK_BYTES + 1)
}

impl PacketCipher {
    pub fn new(key: &SessionKey, rikeyid: i32) -> Self {
        Self { aes: Aes128::new(&key.0.into()), rikeyid: rikeyid.cast_unsigned() }
    }

    fn iv(&self, sequence: u16) -> [u8; BLOCK_BYTES] {
        let mut iv = [0; BLOCK_BYTES];
        iv[..4].copy_from_slice(&self.rikeyid.wrapping_add(u32::from(sequence)).to_be_bytes());
        iv
    }

    /// Writes the encryption of `plain` to `out`, which has exactly [`encrypted_bytes`] bytes.
    pub fn encrypt(&self, sequence: u16, plain: &[u8], out: &mut [u8]) {
        assert!(out.len() == encrypted_bytes(plain.len()));
        let padding = out.len() - plain.len();
        out[..plain.len()].copy_from_slice(plain);
        out[plain.len()..].fill(padding as u8);
        let mut previous = self.iv(sequence);
        for block in out.chunks_exact_mut(BLOCK_BYTES) {
            block.iter_mut().zip(previous).for_each(|(byte, previous)| *byte ^= previous);
            self.aes.encrypt_block(Block::<Aes128>::from_mut_slice(block));
            previous.copy_from_slice(block);
        }
    }

    /// The plaintext of `bytes`; `None` if it has a wrong length or padding.
    pub fn decrypt(&self, sequence: u16, bytes: &[u8]) -> Option<Vec<u8>> {
        if bytes.is_empty() || !bytes.len().is_multiple_of(BLOCK_BYTES) {
            return None;
        }
        let mut plain = bytes.to_vec();
        let mut previous = self.iv(sequence);
        for (block, cipher) in
            plain.chunks_exact_mut(BLOCK_BYTES).zip(bytes.chunks_exact(BLOCK_BYTES))
        {
            self.aes.decrypt_block(Block::<Aes128>::from_mut_slice(block));
            block.iter_mut().zip(previous).for_each(|(byte, previous)| *byte ^= previous);
            previous.copy_from_slice(cipher);
        }
        let padding = usize::from(*plain.last()?);
        let len = plain.len().checked_sub(padding)?;
        let is_sound = (1..=BLOCK_BYTES).contains(&padding)
            && plain[len..].iter().all(|&byte| usize::from(byte) == padding);
        plain.truncate(len);
        is_sound.then_some(plain)
    }
}
