//! A tolerant reader of the certificates that clients bring.
//!
//! A certificate is an identity by its bytes, nothing else: names, dates, version and extensions say
//! nothing here and are not judged (devices without a clock, and one with the version field "v2", must
//! pair too). Only where the public key and the signature value are is read. It verifies nothing.
//! Source: RFC 5280 section 4.1; the certificates in the field: moonlight-qt
//! app/backend/identitymanager.cpp, moonlight-embedded libgamestream/mkcert.c, mbedTLS in moonlight-tv.
use std::fmt;

use super::crypto::sha256;
use super::hex;
use super::reader::{Reader, UnexpectedEnd};

/// Largest certificate accepted, bytes of DER; also of its PEM text.
pub const CERTIFICATE_BYTES_MAX: usize = 64 * 1024;

/// Bytes that are no certificate. The peer is refused; its text is never shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// More than 64 KiB.
    #[error("the certificate is longer than {CERTIFICATE_BYTES_MAX} bytes")]
    TooLong,
    /// Not DER, or not the fields of a certificate.
    #[error("the certificate is not valid DER")]
    Der,
    /// Not one PEM block of the expected kind.
    #[error("the text is not one PEM block of the expected kind")]
    Pem,
    /// Odd number of digits, or other characters.
    #[error("the certificate is not hexadecimal")]
    Hex,
}

impl From<UnexpectedEnd> for CertificateError {
    fn from(_: UnexpectedEnd) -> Self {
        Self::Der
    }
}

/// A certificate as DER whose fields were found. Equal iff the bytes are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Certificate {
    der: Vec<u8>,
    serial: (usize, usize),
    public_key: (usize, usize),
    signature: (usize, usize),
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

impl Certificate {
    /// From DER; nothing may follow it.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        if der.len() > CERTIFICATE_BYTES_MAX {
            return Err(CertificateError::TooLong);
        }
        let range = |part: &[u8]| {
            let start = part.as_ptr().addr().saturating_sub(der.as_ptr().addr());
            (start, start + part.len())
        };
        let mut outer = Reader::new(der);
        let mut certificate = Reader::new(expect(&mut outer, SEQUENCE)?.content);
        let mut fields = Reader::new(expect(&mut certificate, SEQUENCE)?.content);
        expect(&mut certificate, SEQUENCE)?; // signatureAlgorithm
        let signature = bits(expect(&mut certificate, BIT_STRING)?.content)?;
        if !outer.is_empty() || !certificate.is_empty() {
            return Err(CertificateError::Der);
        }

        let mut first = element(&mut fields)?;
        if first.tag == VERSION {
            first = element(&mut fields)?;
        }
        if first.tag != INTEGER || first.content.is_empty() {
            return Err(CertificateError::Der);
        }
        let serial = first.content;
        for _algorithm_issuer_validity_subject in 0..4 {
            expect(&mut fields, SEQUENCE)?;
        }
        let public_key = expect(&mut fields, SEQUENCE)?;
        let mut inside = Reader::new(public_key.content);
        expect(&mut inside, SEQUENCE)?;
        bits(expect(&mut inside, BIT_STRING)?.content)?;

        Ok(Self {
            serial: range(serial),
            public_key: range(public_key.whole),
            signature: range(signature),
            der: der.to_vec(),
        })
    }

    /// From the PEM text of one certificate.
    pub fn from_pem(text: &str) -> Result<Self, CertificateError> {
        Self::from_der(&pem_to_der(text, "CERTIFICATE")?)
    }

    /// From the hexadecimal of the PEM text, as pairing phase 1 carries it both ways.
    pub fn from_hex_of_pem(digits: &str) -> Result<Self, CertificateError> {
        if digits.len() > 2 * CERTIFICATE_BYTES_MAX {
            return Err(CertificateError::TooLong);
        }
        let bytes = hex::decode(digits).ok_or(CertificateError::Hex)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| CertificateError::Pem)?;
        Self::from_pem(text)
    }

    /// The bytes that are the identity.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The PEM text with lines of 64 characters and a line feed at the end.
    pub fn to_pem(&self) -> String {
        let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
        let base64 = base64_encode(&self.der);
        for line in base64.as_bytes().chunks(64) {
            text.extend(line.iter().map(|&b| char::from(b)));
            text.push('\n');
        }
        text + "-----END CERTIFICATE-----\n"
    }

    /// The serial number's content octets, at least one; zero is legal.
    pub fn serial(&self) -> &[u8] {
        &self.der[self.serial.0..self.serial.1]
    }

    /// The DER of the SubjectPublicKeyInfo.
    pub fn public_key(&self) -> &[u8] {
        &self.der[self.public_key.0..self.public_key.1]
    }

    /// The signature value without the byte that counts unused bits: `SIG(cert)` of pairing.
    pub fn signature(&self) -> &[u8] {
        &self.der[self.signature.0..self.signature.1]
    }

    /// SHA-256 of the DER: the name under which a certificate is stored and shown.
    pub fn fingerprint(&self) -> [u8; 32] {
        sha256(&self.der)
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({})", hex::encode(&self.fingerprint()[..8]))
    }
}

/// The DER inside the one PEM block that `text` holds, of at most 64 KiB. `kind` is the word between
/// BEGIN and the dashes. Lines may end in CRLF; text before the block is passed over.
pub fn pem_to_der(text: &str, kind: &str) -> Result<Vec<u8>, CertificateError> {
    if text.len() > CERTIFICATE_BYTES_MAX {
        return Err(CertificateError::TooLong);
    }
    let (_, after) =
        text.split_once(&format!("-----BEGIN {kind}-----")).ok_or(CertificateError::Pem)?;
    let (body, rest) =
        after.split_once(&format!("-----END {kind}-----")).ok_or(CertificateError::Pem)?;
    if rest.contains("-----BEGIN") {
        return Err(CertificateError::Pem);
    }
    base64_decode(body).ok_or(CertificateError::Pem)
}

struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    /// Tag, length and content.
    whole: &'a [u8],
}

/// Takes one DER element with a low tag number and a definite length of at most three bytes.
fn element<'a>(reader: &mut Reader<'a>) -> Result<Element<'a>, CertificateError> {
    let start = reader.peek();
    let tag = reader.u8()?;
    if tag & 0x1f == 0x1f {
        return Err(CertificateError::Der);
    }
    let length = match reader.u8()? {
        short @ 0..=0x7f => usize::from(short),
        long @ 0x81..=0x83 => {
            let bytes = reader.take(usize::from(long & 0x7f))?;
            bytes.iter().fold(0, |length, &byte| length << 8 | usize::from(byte))
        }
        _ => return Err(CertificateError::Der),
    };
    let content = reader.take(length)?;
    let whole = start.get(..start.len() - reader.remaining()).ok_or(CertificateError::Der)?;
    Ok(Element { tag, content, whole })
}

fn expect<'a>(reader: &mut Reader<'a>, tag: u8) -> Result<Element<'a>, CertificateError> {
    element(reader).and_then(|e| if e.tag == tag { Ok(e) } else { Err(CertificateError::Der) })
}

/// The content of a BIT STRING of whole bytes.
fn bits(content: &[u8]) -> Result<&[u8], CertificateError> {
    match content {
        [0, bytes @ ..] if !bytes.is_empty() => Ok(bytes),
        _ => Err(CertificateError::Der),
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64_encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| group.get(at).map_or(0, |&b| u32::from(b));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let index = (word >> (18 - 6 * digit)) as usize & 63;
            text.push(if digit <= group.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    text
}

/// Whitespace is passed over; padding is required and only stands at the end.
fn base64_decode(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let padding = digits.iter().rev().take_while(|&&b| b == b'=').count();
    if !digits.len().is_multiple_of(4) || padding > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3);
    let (mut word, mut have) = (0u32, 0);
    for &digit in &digits[..digits.len() - padding] {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        word = word << 6 | u32::from(value);
        have += 6;
        if have >= 8 {
            have -= 8;
            bytes.push((word >> have) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Client and server certificates of all pairing vectors: (pem, der, signature, fingerprint).
    fn vectors() -> Vec<[String; 4]> {
        let mut all = Vec::new();
        for name in crate::proto::pairing::tests::VECTORS {
            let vector = crate::proto::pairing::tests::load(name);
            for side in ["client", "server"] {
                let field = |key: &str| vector[side][key].as_str().unwrap().to_owned();
                all.push(
                    ["cert_pem", "cert_der", "cert_signature", "cert_sha256_fingerprint"]
                        .map(field),
                );
            }
        }
        assert_eq!(all.len(), 16);
        all
    }

    #[test]
    fn every_certificate_of_the_vectors() {
        for [pem, der, signature, fingerprint] in vectors() {
            let certificate = Certificate::from_pem(&pem).unwrap();
            assert_eq!(hex::encode(certificate.der()).to_lowercase(), der);
            assert_eq!(hex::encode(certificate.signature()).to_lowercase(), signature);
            assert_eq!(hex::encode(&certificate.fingerprint()).to_lowercase(), fingerprint);
            assert_eq!(certificate.to_pem(), pem);
            assert_eq!(
                Certificate::from_hex_of_pem(&hex::encode(pem.as_bytes())),
                Ok(certificate.clone())
            );
            assert_eq!(Certificate::from_pem(&pem.replace('\n', "\r\n")), Ok(certificate.clone()));
            assert!(super::super::crypto::rsa_pkcs1_sha256_verifies(
                certificate.public_key(),
                to_be_signed(certificate.der()),
                certificate.signature(),
            ));
            assert!(!certificate.serial().is_empty());
        }
    }

    fn to_be_signed(der: &[u8]) -> &[u8] {
        let mut outer = Reader::new(der);
        let mut inner = Reader::new(expect(&mut outer, SEQUENCE).unwrap().content);
        element(&mut inner).unwrap().whole
    }

    #[test]
    fn every_prefix_and_any_tail_is_refused() {
        let der = hex::decode(&vectors()[4][1]).unwrap();
        assert!(Certificate::from_der(&der).is_ok());
        for short in 0..der.len() {
            assert_eq!(Certificate::from_der(&der[..short]), Err(CertificateError::Der));
        }
        assert_eq!(Certificate::from_der(&[der, vec![0]].concat()), Err(CertificateError::Der));
    }

    #[test]
    fn bounds_and_wrong_text() {
        assert_eq!(
            Certificate::from_der(&vec![0x30; CERTIFICATE_BYTES_MAX + 1]),
            Err(CertificateError::TooLong)
        );
        let long = "0".repeat(2 * CERTIFICATE_BYTES_MAX + 2);
        assert_eq!(Certificate::from_hex_of_pem(&long), Err(CertificateError::TooLong));
        assert_eq!(Certificate::from_hex_of_pem("0"), Err(CertificateError::Hex));
        assert_eq!(Certificate::from_hex_of_pem("ff"), Err(CertificateError::Pem));
        let [pem, ..] = &vectors()[0];
        for wrong in [
            String::new(),
            pem.replace("END", "END "),
            pem.replace("CERTIFICATE", "PRIVATE KEY"),
            format!("{pem}{pem}"),
            pem.replace('M', "*"),
            pem.replacen("MII", "MI", 1),
        ] {
            assert_eq!(Certificate::from_pem(&wrong), Err(CertificateError::Pem));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            _ = Certificate::from_der(&bytes);
        }

        #[test]
        fn no_damaged_certificate_panics(
            damage in prop::collection::vec((0usize..2000, any::<u8>()), 1..8)
        ) {
            let mut der = hex::decode(&vectors()[0][1]).unwrap();
            for (at, byte) in damage {
                let at = at % der.len();
                der[at] = byte;
            }
            if let Ok(certificate) = Certificate::from_der(&der) {
                prop_assert_eq!(certificate.der(), der);
                _ = (certificate.serial(), certificate.public_key(), certificate.signature());
            }
        }

        #[test]
        fn no_text_panics(text in ".*", body in "[A-Za-z0-9+/=\n]{0,80}") {
            _ = Certificate::from_pem(&text);
            _ = Certificate::from_hex_of_pem(&text);
            _ = Certificate::from_pem(&format!("-----BEGIN CERTIFICATE-----{body}-----END CERTIFICATE-----"));
        }

        #[test]
        fn base64_round_trip(bytes: Vec<u8>) {
            prop_assert_eq!(base64_decode(&base64_encode(&bytes)), Some(bytes));
        }
    }
}
