//! AES-128-GCM in place with the tag apart, as RTSP and control messages carry it.
//!
//! No counters and no framing: which number becomes which IV is the business of the message. There is
//! never additional data. The IV is 12 bytes, or 16 for control encryption v1.
use aes_gcm::AeadInPlace;
use aes_gcm::AesGcm;
use aes_gcm::KeyInit;
use aes_gcm::aes::Aes128;
use aes_gcm::aes::cipher::consts::U12;
use aes_gcm::aes::cipher::consts::U16;

pub(super) const TAG_BYTES: usize = 16;

/// The two IV lengths that occur.
pub(super) enum Iv {
    Short([u8; 12]),
    Long([u8; 16]),
}

/// Encrypts `data` in place and returns the tag.
pub(super) fn seal(key: &[u8; 16], iv: &Iv, data: &mut [u8]) -> [u8; TAG_BYTES] {
    let sealed = match iv {
        Iv::Short(iv) => {
            AesGcm::<Aes128, U12>::new(key.into()).encrypt_in_place_detached(iv.into(), &[], data)
        }
        Iv::Long(iv) => {
            AesGcm::<Aes128, U16>::new(key.into()).encrypt_in_place_detached(iv.into(), &[], data)
        }
    };
    sealed.expect("a message is far below the 64 GiB that GCM takes").into()
}

/// Decrypts `data` in place if `tag` fits; otherwise `data` is not to be used.
pub(super) fn open(key: &[u8; 16], iv: &Iv, data: &mut [u8], tag: &[u8; TAG_BYTES]) -> bool {
    match iv {
        Iv::Short(iv) => AesGcm::<Aes128, U12>::new(key.into())
            .decrypt_in_place_detached(iv.into(), &[], data, tag.into())
            .is_ok(),
        Iv::Long(iv) => AesGcm::<Aes128, U16>::new(key.into())
            .decrypt_in_place_detached(iv.into(), &[], data, tag.into())
            .is_ok(),
    }
}
