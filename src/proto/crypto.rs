//! The few primitives that the protocol is made of, under names that say how it uses them.
//!
//! Thin wrappers: no protocol state, no randomness, no key is ever printed. AES-GCM with the 12-byte
//! IV, hashes and RSA come from aws-lc; the odd 16-byte IV and the raw AES modes from RustCrypto.
//! Source: moonlight-common-c src/PlatformCrypto.c.
use std::fmt;

use aes::Aes128;
use aes::cipher::{BlockDecrypt, BlockEncrypt, KeyInit};
use aes_gcm::aead::AeadInPlace;
use aes_gcm::{AesGcm, aead::consts::U16};
use aws_lc_rs::{aead, digest, rand, signature};

use super::secret::SessionKey;

/// Bytes of an AES-GCM tag; on the wire it stands in front of the ciphertext.
pub const TAG_BYTES: usize = 16;
/// Bytes of an AES block.
pub const BLOCK_BYTES: usize = 16;

/// Why bytes could not be decrypted or a key not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// The tag does not fit key, IV and ciphertext: forged, damaged or another key. Drop the message.
    #[error("authentication tag does not match")]
    Tag,
    /// Shorter than a tag, or not whole blocks. Drop the message.
    #[error("length does not fit the cipher")]
    Length,
    /// The padding after decryption is not PKCS#7: damaged or another key. Drop the message.
    #[error("padding is not valid")]
    Padding,
    /// The DER is no RSA private key of 2048 to 8192 bits. The key cannot be used.
    #[error("not an RSA private key of 2048 to 8192 bits")]
    PrivateKey,
}

/// Who sent a sealed message; part of its IV, so that none can be sent back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    ClientToHost,
    HostToClient,
}

/// The IV of RTSP (`plane` is `R`) and control (`C`) messages: the sequence number little-endian, six
/// zeros, `C` or `H` for the sender, the plane.
pub(super) fn message_iv(sequence: u32, direction: Direction, plane: u8) -> [u8; 12] {
    let mut iv = [0; 12];
    iv[..4].copy_from_slice(&sequence.to_le_bytes());
    iv[10] = match direction {
        Direction::ClientToHost => b'C',
        Direction::HostToClient => b'H',
    };
    iv[11] = plane;
    iv
}

/// An AES-128-GCM key with 12-byte IVs, expanded once and used for every packet. No call allocates.
///
/// Used by encrypted RTSP, control v2 and video. The caller never repeats an IV.
pub struct GcmKey(aead::LessSafeKey);

impl GcmKey {
    /// Expands `key`.
    pub fn new(key: &SessionKey) -> Self {
        let key = aead::UnboundKey::new(&aead::AES_128_GCM, &key.0);
        Self(aead::LessSafeKey::new(key.expect("AES-128 takes any 16 bytes")))
    }

    /// Encrypts `bytes` where they are and returns the tag.
    pub fn seal_in_place(&self, iv: [u8; 12], bytes: &mut [u8]) -> [u8; TAG_BYTES] {
        let nonce = aead::Nonce::assume_unique_for_key(iv);
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce, aead::Aad::empty(), bytes)
            .expect("sealing fails only above 64 GiB");
        let mut out = [0; TAG_BYTES];
        out.copy_from_slice(tag.as_ref());
        out
    }

    /// Checks `tag` and decrypts `bytes` where they are. After [`CryptoError::Tag`] their content is
    /// unspecified and must not be used.
    pub fn open_in_place(
        &self,
        iv: [u8; 12],
        tag: &[u8; TAG_BYTES],
        bytes: &mut [u8],
    ) -> Result<(), CryptoError> {
        let nonce = aead::Nonce::assume_unique_for_key(iv);
        self.0
            .open_in_place_separate_tag(nonce, aead::Aad::empty(), tag, bytes)
            .map_err(|_| CryptoError::Tag)?;
        Ok(())
    }

    /// Tag, then ciphertext: the order of the wire.
    pub fn seal(&self, iv: [u8; 12], plain: &[u8]) -> Vec<u8> {
        let mut out = vec![0; TAG_BYTES + plain.len()];
        let (tag, body) = out.split_at_mut(TAG_BYTES);
        body.copy_from_slice(plain);
        tag.copy_from_slice(&self.seal_in_place(iv, body));
        out
    }

    /// Opens what [`seal`](Self::seal) makes. [`CryptoError::Length`] below 16 bytes.
    pub fn open(&self, iv: [u8; 12], sealed: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let (tag, body) = sealed.split_first_chunk::<TAG_BYTES>().ok_or(CryptoError::Length)?;
        let mut plain = body.to_vec();
        self.open_in_place(iv, tag, &mut plain)?;
        Ok(plain)
    }
}

impl fmt::Debug for GcmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GcmKey(..)")
    }
}

/// An AES-128-GCM key with 16-byte IVs: control encryption v1 and the old input encryption.
pub struct LongIvGcmKey(AesGcm<Aes128, U16>);

impl LongIvGcmKey {
    /// Expands `key`.
    pub fn new(key: &SessionKey) -> Self {
        Self(AesGcm::new(&key.0.into()))
    }

    /// Encrypts `bytes` where they are and returns the tag.
    pub fn seal_in_place(&self, iv: [u8; 16], bytes: &mut [u8]) -> [u8; TAG_BYTES] {
        self.0
            .encrypt_in_place_detached(&iv.into(), &[], bytes)
            .expect("sealing fails only above 64 GiB")
            .into()
    }

    /// Checks `tag` and decrypts `bytes` where they are; they are unchanged if the tag is wrong.
    pub fn open_in_place(
        &self,
        iv: [u8; 16],
        tag: &[u8; TAG_BYTES],
        bytes: &mut [u8],
    ) -> Result<(), CryptoError> {
        self.0
            .decrypt_in_place_detached(&iv.into(), &[], bytes, tag.into())
            .map_err(|_| CryptoError::Tag)
    }
}

impl fmt::Debug for LongIvGcmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LongIvGcmKey(..)")
    }
}

/// AES-128 in the modes without authentication, expanded once: ECB for pairing, CBC for audio.
pub struct AesKey(Aes128);

impl AesKey {
    /// Expands `key`.
    pub fn new(key: &SessionKey) -> Self {
        Self(Aes128::new(&key.0.into()))
    }

    /// ECB without padding, in place. [`CryptoError::Length`] unless whole blocks.
    pub fn ecb_encrypt(&self, bytes: &mut [u8]) -> Result<(), CryptoError> {
        let (blocks, rest) = bytes.as_chunks_mut::<BLOCK_BYTES>();
        if !rest.is_empty() {
            return Err(CryptoError::Length);
        }
        blocks.iter_mut().for_each(|block| self.0.encrypt_block(block.into()));
        Ok(())
    }

    /// ECB without padding, in place. [`CryptoError::Length`] unless whole blocks.
    pub fn ecb_decrypt(&self, bytes: &mut [u8]) -> Result<(), CryptoError> {
        let (blocks, rest) = bytes.as_chunks_mut::<BLOCK_BYTES>();
        if !rest.is_empty() {
            return Err(CryptoError::Length);
        }
        blocks.iter_mut().for_each(|block| self.0.decrypt_block(block.into()));
        Ok(())
    }

    /// CBC with PKCS#7: pads the end of `bytes` from `start` on and encrypts that part in place, so
    /// that a header in front stays as it is. Grows `bytes` by 1 to 16.
    pub fn cbc_encrypt(&self, iv: [u8; 16], bytes: &mut Vec<u8>, start: usize) {
        let start = start.min(bytes.len());
        let padding = BLOCK_BYTES - (bytes.len() - start) % BLOCK_BYTES;
        bytes.resize(bytes.len() + padding, padding as u8);
        let mut previous = iv;
        for block in bytes[start..].as_chunks_mut::<BLOCK_BYTES>().0 {
            block.iter_mut().zip(previous).for_each(|(b, p)| *b ^= p);
            self.0.encrypt_block(block.into());
            previous = *block;
        }
    }

    /// CBC with PKCS#7: what [`cbc_encrypt`](Self::cbc_encrypt) was given.
    pub fn cbc_decrypt(&self, iv: [u8; 16], sealed: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let mut plain = sealed.to_vec();
        let (blocks, rest) = plain.as_chunks_mut::<BLOCK_BYTES>();
        if blocks.is_empty() || !rest.is_empty() {
            return Err(CryptoError::Length);
        }
        let mut previous = iv;
        for block in blocks {
            let cipher = *block;
            self.0.decrypt_block(block.into());
            block.iter_mut().zip(previous).for_each(|(b, p)| *b ^= p);
            previous = cipher;
        }
        let padding = plain.last().copied().unwrap_or(0);
        let kept = plain.len().checked_sub(padding.into()).ok_or(CryptoError::Padding)?;
        let valid = (1..=BLOCK_BYTES as u8).contains(&padding);
        if !valid || plain[kept..].iter().any(|&b| b != padding) {
            return Err(CryptoError::Padding);
        }
        plain.truncate(kept);
        Ok(plain)
    }
}

impl fmt::Debug for AesKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AesKey(..)")
    }
}

/// The hash of a pairing generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// Hosts that report a major version of 7 or more: 32 bytes. Ours.
    Sha256,
    /// Older hosts: 20 bytes. Only clients of such hosts need it.
    Sha1,
}

impl Hash {
    /// Bytes of one value.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha1 => 20,
        }
    }

    /// The hash of `parts` one after the other.
    pub fn of(self, parts: &[&[u8]]) -> Vec<u8> {
        let mut context = digest::Context::new(match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        });
        parts.iter().for_each(|part| context.update(part));
        context.finish().as_ref().to_vec()
    }
}

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// Compares in a time that depends on the lengths alone.
pub fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// Whether `signature` is RSASSA-PKCS1-v1_5 with SHA-256 over `message` by `public_key`, which is the
/// DER of a SubjectPublicKeyInfo or of an RSAPublicKey of 2048 to 8192 bits. Any defect is false.
pub fn rsa_pkcs1_sha256_verifies(public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    signature::UnparsedPublicKey::new(&signature::RSA_PKCS1_2048_8192_SHA256, public_key)
        .verify(message, signature)
        .is_ok()
}

/// Holds an RSA private key and signs with it, wherever the key may be.
pub trait Signer {
    /// RSASSA-PKCS1-v1_5 with SHA-256 over `message`; as long as the modulus (256 bytes for RSA-2048).
    fn sign_pkcs1_sha256(&self, message: &[u8]) -> Vec<u8>;
}

/// An RSA private key in memory.
pub struct RsaSigner(signature::RsaKeyPair);

impl RsaSigner {
    /// From PKCS#8 or PKCS#1 DER. [`CryptoError::PrivateKey`] for anything else.
    pub fn from_der(der: &[u8]) -> Result<Self, CryptoError> {
        signature::RsaKeyPair::from_pkcs8(der)
            .or_else(|_| signature::RsaKeyPair::from_der(der))
            .map(Self)
            .map_err(|_| CryptoError::PrivateKey)
    }

    /// The public half as DER RSAPublicKey, to compare with a certificate's.
    pub fn public_key(&self) -> &[u8] {
        use signature::KeyPair;
        self.0.public_key().as_ref()
    }
}

impl Signer for RsaSigner {
    fn sign_pkcs1_sha256(&self, message: &[u8]) -> Vec<u8> {
        let mut out = vec![0; self.0.public_modulus_len()];
        self.0
            .sign(&signature::RSA_PKCS1_SHA256, &rand::SystemRandom::new(), message, &mut out)
            .expect("a key that was accepted signs any message");
        out
    }
}

impl fmt::Debug for RsaSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RsaSigner(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: SessionKey = SessionKey(*b"0123456789abcdef");

    #[test]
    fn gcm_round_trip_and_every_flipped_bit() {
        let key = GcmKey::new(&KEY);
        let sealed = key.seal([7; 12], b"picture");
        assert_eq!(sealed.len(), TAG_BYTES + 7);
        assert_eq!(key.open([7; 12], &sealed).unwrap(), b"picture");
        assert_eq!(key.open([8; 12], &sealed), Err(CryptoError::Tag));
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.open([7; 12], &bad), Err(CryptoError::Tag));
        }
        for short in 0..TAG_BYTES {
            assert_eq!(key.open([7; 12], &sealed[..short]), Err(CryptoError::Length));
        }
    }

    /// NIST GCM test case 1 and 2 (zero key, zero IV): the two backends agree with the standard.
    #[test]
    fn gcm_known_answers() {
        let key = GcmKey::new(&SessionKey([0; 16]));
        let mut block = [0; 16];
        let tag = key.seal_in_place([0; 12], &mut block);
        assert_eq!(block[..4], [0x03, 0x88, 0xda, 0xce]);
        assert_eq!(tag[..4], [0xab, 0x6e, 0x47, 0xd4]);
        assert_eq!(key.seal_in_place([0; 12], &mut [])[..4], [0x58, 0xe2, 0xfc, 0xce]);
    }

    #[test]
    fn long_iv_round_trip() {
        let key = LongIvGcmKey::new(&KEY);
        let mut bytes = *b"control";
        let tag = key.seal_in_place([3; 16], &mut bytes);
        let sealed = bytes;
        assert_eq!(key.open_in_place([4; 16], &tag, &mut bytes), Err(CryptoError::Tag));
        assert_eq!(bytes, sealed);
        key.open_in_place([3; 16], &tag, &mut bytes).unwrap();
        assert_eq!(&bytes, b"control");
    }

    /// FIPS 197 appendix B key and block.
    #[test]
    fn ecb_known_answer() {
        let key = AesKey::new(&SessionKey(std::array::from_fn(|i| i as u8)));
        let plain: [u8; 16] = std::array::from_fn(|i| (i * 0x11) as u8);
        let mut block = plain;
        key.ecb_encrypt(&mut block).unwrap();
        assert_eq!(block[..4], [0x69, 0xc4, 0xe0, 0xd8]);
        key.ecb_decrypt(&mut block).unwrap();
        assert_eq!(block, plain);
        assert_eq!(key.ecb_encrypt(&mut [0; 17]), Err(CryptoError::Length));
        assert_eq!(key.ecb_decrypt(&mut [0; 15]), Err(CryptoError::Length));
    }

    #[test]
    fn cbc_round_trip_behind_a_header() {
        let key = AesKey::new(&KEY);
        for len in 0..50usize {
            let plain: Vec<u8> = (0..len as u8).collect();
            let mut bytes = [b"head", plain.as_slice()].concat();
            key.cbc_encrypt([9; 16], &mut bytes, 4);
            assert_eq!(&bytes[..4], b"head");
            assert_eq!((bytes.len() - 4) % BLOCK_BYTES, 0);
            assert_eq!(key.cbc_decrypt([9; 16], &bytes[4..]).unwrap(), plain);
            for short in 4..bytes.len() {
                let opened = key.cbc_decrypt([9; 16], &bytes[4..short]);
                assert!(short % 16 == 4 && short > 4 || opened == Err(CryptoError::Length));
            }
        }
        assert_eq!(key.cbc_decrypt([9; 16], &[0; 16]), Err(CryptoError::Padding));
    }

    /// The CBC chain is the one of every other implementation.
    #[test]
    fn cbc_agrees_with_aws_lc() {
        use aws_lc_rs::cipher::{
            AES_128, EncryptionContext, PaddedBlockEncryptingKey, UnboundCipherKey,
        };
        let theirs =
            PaddedBlockEncryptingKey::cbc_pkcs7(UnboundCipherKey::new(&AES_128, &KEY.0).unwrap())
                .unwrap();
        let mut expected = b"twenty bytes of text".to_vec();
        let mut ours = expected.clone();
        let iv = EncryptionContext::Iv128([5; 16].into());
        theirs.less_safe_encrypt(&mut expected, iv).unwrap();
        AesKey::new(&KEY).cbc_encrypt([5; 16], &mut ours, 0);
        assert_eq!(ours, expected);
    }

    #[test]
    fn hashes() {
        assert_eq!(Hash::Sha256.of(&[b"a", b"bc"]), sha256(b"abc"));
        assert_eq!(Hash::Sha1.of(&[b"abc"])[..4], [0xa9, 0x99, 0x3e, 0x36]);
        assert_eq!(Hash::Sha1.of(&[]).len(), Hash::Sha1.bytes());
        assert!(equal_in_constant_time(b"ab", b"ab"));
        assert!(!equal_in_constant_time(b"ab", b"ac"));
        assert!(!equal_in_constant_time(b"ab", b"abc"));
    }

    #[test]
    fn keys_are_not_printed() {
        assert_eq!(format!("{:?}", GcmKey::new(&KEY)), "GcmKey(..)");
        assert_eq!(format!("{:?}", LongIvGcmKey::new(&KEY)), "LongIvGcmKey(..)");
        assert_eq!(format!("{:?}", AesKey::new(&KEY)), "AesKey(..)");
    }

    #[test]
    fn a_private_key_is_refused_unless_it_is_one() {
        assert_eq!(RsaSigner::from_der(b"").err(), Some(CryptoError::PrivateKey));
        assert_eq!(RsaSigner::from_der(&[0x30; 300]).err(), Some(CryptoError::PrivateKey));
    }
}
