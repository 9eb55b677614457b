//! What a TLS 1.2 client of our own says after its handshake: rustls never asks to renegotiate, so the
//! request is sealed here. It opens nothing and reads nothing.
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::{ClientConnection, ConnectionTrafficSecrets};

const HANDSHAKE: u8 = 22;
const TLS_1_2: [u8; 2] = [3, 3];

/// Seals records with the keys of a finished handshake.
pub struct Sealer {
    key: LessSafeKey,
    salt: [u8; 4],
    sequence: u64,
}

impl Sealer {
    /// None: the connection has no AES-GCM keys, or does not give them away.
    pub fn of(tls: ClientConnection) -> Option<Self> {
        let (sequence, secrets) = tls.dangerous_extract_secrets().ok()?.tx;
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            _ => return None,
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).ok()?);
        let salt = iv.as_ref().first_chunk().copied()?;
        Some(Self { key, salt, sequence })
    }

    /// A handshake message as a record. Source: RFC 5246, section 6.2.3.3; RFC 5288, section 3.
    pub fn handshake(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        let explicit = self.sequence.to_be_bytes();
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&self.salt);
        nonce[4..].copy_from_slice(&explicit);
        let length = |n: usize| u16::try_from(n).map(u16::to_be_bytes).ok();
        let mut aad = explicit.to_vec();
        aad.push(HANDSHAKE);
        aad.extend(TLS_1_2);
        aad.extend(length(message.len())?);
        let mut sealed = message.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut sealed).ok()?;
        self.sequence += 1;
        let mut record = vec![HANDSHAKE];
        record.extend(TLS_1_2);
        record.extend(length(explicit.len() + sealed.len())?);
        record.extend(explicit);
        record.extend(sealed);
        Some(record)
    }
}
