//! One pairing: the host's side, the client's side, and the requests and answers between them.
//!
//! Pure computation in a fixed order. Which attempts exist, how many a source may have, how long one
//! waits for its PIN and where a paired certificate is kept is decided elsewhere; all randomness is
//! passed in. Source: Sunshine src/nvhttp.cpp, moonlight-qt app/backend/nvpairingmanager.cpp,
//! moonlight-embedded libgamestream/client.c.
use std::fmt;

use zeroize::Zeroize;

use super::crypto::{AesKey, Hash, Signer, equal_in_constant_time, rsa_pkcs1_sha256_verifies};
use super::http::{Query, Response};
use super::secret::SessionKey;
use super::x509::{Certificate, CertificateError};
use super::xml::Document;
use super::{hex, x509};

/// Bytes of salt, challenges and secrets.
pub const NONCE_BYTES: usize = 16;
/// Bytes of the encrypted hash of phase 3, padded to whole blocks in both generations.
pub const CHALLENGE_RESPONSE_BYTES: usize = 32;
/// Longest signature accepted in phase 4: RSA-8192.
const SIGNATURE_BYTES_MAX: usize = 1024;
/// Longest `uniqueid`; clients send up to 16 characters.
const UNIQUE_ID_BYTES_MAX: usize = 64;
/// Characters of the device name that are kept.
const DEVICE_NAME_CHARACTERS_MAX: usize = 64;

/// Why a pairing request is refused. Whatever the cause, the attempt it belongs to has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PairingError {
    /// The query cannot be decoded, names a parameter twice or two phases at once.
    #[error("the pairing request is ambiguous or not encoded correctly; pair again")]
    Query,
    /// `uniqueid` is missing, longer than 64 characters or not of letters, digits, '-' and '_'.
    #[error("uniqueid is missing or malformed in the pairing request; pair again")]
    UniqueId,
    /// No such attempt, or this phase is not the one that is due. Also every phase after an error.
    #[error("this phase of the pairing is not due; start the pairing again")]
    Order,
    /// The named parameter has the wrong length or is not hexadecimal.
    #[error("{0} is missing or malformed in the pairing request; pair again")]
    Parameter(&'static str),
    /// The client's certificate cannot be read.
    #[error("clientcert of the pairing request: {0}; pair again")]
    Certificate(#[from] CertificateError),
    /// Neither a known phrase nor a phase parameter.
    #[error("the pairing request names no phase")]
    Phase,
}

impl PairingError {
    /// The `status_code` of the answer.
    pub const fn status(self) -> u32 {
        match self {
            Self::Phase => 404,
            _ => 400,
        }
    }

    /// The answer: HTTP 200, `paired` 0.
    pub fn response(self) -> Response {
        refused(self.status(), &self.to_string())
    }
}

/// An answer that ends a pairing for a reason of the host's (declined, too many, timed out).
pub fn refused(status: u32, message: &str) -> Response {
    Document::new(status).attribute("status_message", message).element("paired", "0").response()
}

/// The four digits that the client shows and the user types at the host.
#[derive(Clone, PartialEq, Eq)]
pub struct Pin([u8; 4]);

impl Pin {
    /// Exactly four ASCII digits; leading zeros count.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: [u8; 4] = text.as_bytes().try_into().ok()?;
        digits.iter().all(u8::is_ascii_digit).then_some(Self(digits))
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin(..)")
    }
}

/// What a client calls itself. Neither unique nor authenticated: only good to find a pending attempt
/// together with the peer's address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UniqueId(String);

impl UniqueId {
    /// 1 to 64 letters, digits, '-' and '_'.
    pub fn parse(text: &str) -> Option<Self> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let fits = (1..=UNIQUE_ID_BYTES_MAX).contains(&text.len());
        (fits && text.bytes().all(legal)).then(|| Self(text.to_owned()))
    }

    /// As sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A request to `/pair`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairRequest {
    pub uniqueid: UniqueId,
    /// For display only; `roth` with official clients.
    pub device_name: String,
    /// The phase, or why it is malformed: then the attempt of this `uniqueid` and address ends.
    pub phase: Result<Phase, PairingError>,
}

/// The five phases. The first four come over HTTP, the last over TLS with the new certificate.
#[derive(Clone, PartialEq, Eq)]
pub enum Phase {
    /// Phase 1; answered when the PIN was typed.
    GetServerCert { salt: [u8; NONCE_BYTES], client: Certificate },
    /// Phase 2.
    ClientChallenge([u8; NONCE_BYTES]),
    /// Phase 3.
    ServerChallengeResponse([u8; CHALLENGE_RESPONSE_BYTES]),
    /// Phase 4: 16 bytes and a signature.
    ClientPairingSecret(Vec<u8>),
    /// Phase 5.
    PairChallenge,
}

impl fmt::Debug for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GetServerCert { .. } => "GetServerCert",
            Self::ClientChallenge(_) => "ClientChallenge",
            Self::ServerChallengeResponse(_) => "ServerChallengeResponse",
            Self::ClientPairingSecret(_) => "ClientPairingSecret",
            Self::PairChallenge => "PairChallenge",
        })
    }
}

/// The attempt that `/unpair` may abort. It never removes anything that is stored.
pub fn unpair_request(query: &Query) -> Result<UniqueId, PairingError> {
    query.get("uniqueid").and_then(UniqueId::parse).ok_or(PairingError::UniqueId)
}

impl PairRequest {
    /// From the query of `/pair`. An error here belongs to no attempt.
    pub fn parse(query: &Query) -> Result<Self, PairingError> {
        let uniqueid = unpair_request(query)?;
        if query.repeated("uniqueid") {
            return Err(PairingError::Query);
        }
        let name = query.get("devicename").unwrap_or_default();
        let printable = name.chars().filter(|c| !c.is_control());
        Ok(Self {
            uniqueid,
            device_name: printable.take(DEVICE_NAME_CHARACTERS_MAX).collect(),
            phase: phase(query),
        })
    }
}

fn phase(query: &Query) -> Result<Phase, PairingError> {
    const PHRASES: [&str; 2] = ["getservercert", "pairchallenge"];
    const NAMES: [&str; 3] = ["clientchallenge", "serverchallengeresp", "clientpairingsecret"];
    let read = ["phrase", "salt", "clientcert"];
    if query.defect().is_some() || read.iter().chain(&NAMES).any(|name| query.repeated(name)) {
        return Err(PairingError::Query);
    }
    let phrase = query.get("phrase").filter(|phrase| PHRASES.contains(phrase));
    let mut phases = phrase.into_iter().chain(NAMES.into_iter().filter(|n| query.get(n).is_some()));
    let due = phases.next().ok_or(PairingError::Phase)?;
    if phases.next().is_some() {
        return Err(PairingError::Query);
    }
    let value = |name| query.get(name).ok_or(PairingError::Parameter(name));
    match due {
        "getservercert" => {
            let salt = value("salt")?.get(..2 * NONCE_BYTES).and_then(hex::decode_array);
            Ok(Phase::GetServerCert {
                salt: salt.ok_or(PairingError::Parameter("salt"))?,
                client: Certificate::from_hex_of_pem(value("clientcert")?)?,
            })
        }
        "pairchallenge" => Ok(Phase::PairChallenge),
        "clientchallenge" => hex::decode_array(value("clientchallenge")?)
            .map(Phase::ClientChallenge)
            .ok_or(PairingError::Parameter("clientchallenge")),
        "serverchallengeresp" => hex::decode_array(value("serverchallengeresp")?)
            .map(Phase::ServerChallengeResponse)
            .ok_or(PairingError::Parameter("serverchallengeresp")),
        _ => hex::decode(value("clientpairingsecret")?)
            .filter(|secret| split_secret(secret).is_some())
            .map(Phase::ClientPairingSecret)
            .ok_or(PairingError::Parameter("clientpairingsecret")),
    }
}

/// A successful answer of the host.
#[derive(Clone, PartialEq, Eq)]
pub enum Answer<'a> {
    /// Phase 1: the host certificate's PEM text.
    Certificate { pem: &'a str },
    /// Phase 2: what [`Attempt::client_challenge`] returned.
    Challenge(&'a [u8]),
    /// Phase 3: what [`Attempt::server_challenge_response`] returned.
    Secret(&'a [u8]),
    /// Phases 4 and 5.
    Paired,
    /// Phase 4 with a wrong PIN or a bad signature: status 200 all the same.
    Rejected,
    /// Phase 1 while the host takes no further attempt: the client says "already in progress".
    Busy,
    /// `/unpair`, whatever came of it.
    Unpaired,
}

impl Answer<'_> {
    /// The XML, elements in Sunshine's order.
    pub fn response(&self) -> Response {
        let ok = Document::new(200);
        match self {
            Self::Certificate { pem } => {
                ok.element("paired", "1").element("plaincert", &hex::encode(pem.as_bytes()))
            }
            Self::Challenge(bytes) => {
                ok.element("paired", "1").element("challengeresponse", &hex::encode(bytes))
            }
            Self::Secret(bytes) => {
                ok.element("pairingsecret", &hex::encode(bytes)).element("paired", "1")
            }
            Self::Paired | Self::Busy => ok.element("paired", "1"),
            Self::Rejected => ok.element("paired", "0"),
            Self::Unpaired => ok,
        }
        .response()
    }
}

/// How an attempt ended in phase 4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Store this certificate, then answer [`Answer::Paired`].
    Paired(Certificate),
    /// Wrong PIN or foreign key. Nothing is stored; answer [`Answer::Rejected`].
    Rejected,
}

/// The host's side of one pairing. Phases in order, each once; any error ends it for good.
pub struct Attempt {
    hash: Hash,
    client: Certificate,
    due: Due,
}

enum Due {
    Pin { salt: [u8; NONCE_BYTES] },
    ClientChallenge { key: AesKey },
    ServerChallengeResponse { key: AesKey, secret: [u8; NONCE_BYTES], challenge: [u8; NONCE_BYTES] },
    ClientPairingSecret { challenge: [u8; NONCE_BYTES], client_hash: Vec<u8> },
    Nothing,
}

impl Attempt {
    /// After phase 1 was read. `hash` is SHA-256 for the version that we report.
    pub const fn new(hash: Hash, salt: [u8; NONCE_BYTES], client: Certificate) -> Self {
        Self { hash, client, due: Due::Pin { salt } }
    }

    /// The certificate that wants to pair; not proven before [`Outcome::Paired`].
    pub const fn client(&self) -> &Certificate {
        &self.client
    }

    /// Whether the user still has to type the PIN.
    pub const fn awaits_pin(&self) -> bool {
        matches!(self.due, Due::Pin { .. })
    }

    /// The user typed the PIN: phase 1 can be answered. Only one guess is taken; a second one is refused
    /// with [`PairingError::Order`] and changes nothing, since it is not the peer's doing.
    pub fn pin_entered(&mut self, pin: &Pin) -> Result<(), PairingError> {
        let Due::Pin { salt } = self.due else { return Err(PairingError::Order) };
        self.due = Due::ClientChallenge { key: pairing_key(self.hash, &salt, pin) };
        Ok(())
    }

    /// Phase 2. `secret` and `challenge` are fresh randomness, `host` our own certificate. Returns the
    /// challenge response, 48 bytes.
    pub fn client_challenge(
        &mut self,
        encrypted: &[u8; NONCE_BYTES],
        host: &Certificate,
        secret: [u8; NONCE_BYTES],
        challenge: [u8; NONCE_BYTES],
    ) -> Result<Vec<u8>, PairingError> {
        let Due::ClientChallenge { key } = self.take() else { return Err(PairingError::Order) };
        let client_challenge = ecb_decrypt(&key, encrypted);
        let mut answer = self.hash.of(&[&client_challenge, host.signature(), &secret]);
        answer.extend_from_slice(&challenge);
        let answer = ecb_encrypt(&key, answer);
        self.due = Due::ServerChallengeResponse { key, secret, challenge };
        Ok(answer)
    }

    /// Phase 3. `signer` holds the key of our certificate. Returns the pairing secret: 16 bytes and
    /// their signature.
    pub fn server_challenge_response(
        &mut self,
        encrypted: &[u8; CHALLENGE_RESPONSE_BYTES],
        signer: &dyn Signer,
    ) -> Result<Vec<u8>, PairingError> {
        let Due::ServerChallengeResponse { key, secret, challenge } = self.take() else {
            return Err(PairingError::Order);
        };
        let mut client_hash = ecb_decrypt(&key, encrypted);
        client_hash.truncate(self.hash.bytes());
        self.due = Due::ClientPairingSecret { challenge, client_hash };
        Ok([&secret[..], &signer.sign_pkcs1_sha256(&secret)].concat())
    }

    /// Phase 4. Both the hash (which proves the PIN) and the signature (which proves the key) are
    /// always checked, so that the time taken does not tell which one failed.
    pub fn client_pairing_secret(&mut self, bytes: &[u8]) -> Result<Outcome, PairingError> {
        let Due::ClientPairingSecret { challenge, client_hash } = self.take() else {
            return Err(PairingError::Order);
        };
        let (secret, signature) =
            split_secret(bytes).ok_or(PairingError::Parameter("clientpairingsecret"))?;
        let expected = self.hash.of(&[&challenge, self.client.signature(), secret]);
        let pin_proven = equal_in_constant_time(&expected, &client_hash);
        let key_proven = rsa_pkcs1_sha256_verifies(self.client.public_key(), secret, signature);
        Ok(if pin_proven & key_proven {
            Outcome::Paired(self.client.clone())
        } else {
            Outcome::Rejected
        })
    }

    /// Ends the attempt unless the caller sets the next phase.
    const fn take(&mut self) -> Due {
        std::mem::replace(&mut self.due, Due::Nothing)
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let due = match self.due {
            Due::Pin { .. } => "Pin",
            Due::ClientChallenge { .. } => "ClientChallenge",
            Due::ServerChallengeResponse { .. } => "ServerChallengeResponse",
            Due::ClientPairingSecret { .. } => "ClientPairingSecret",
            Due::Nothing => "Nothing",
        };
        f.debug_struct("Attempt").field("client", &self.client).field("due", &due).finish()
    }
}

/// Why a client gives a pairing up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The host's answer has the wrong length.
    #[error("the host's answer has the wrong length")]
    Length,
    /// The secret is not signed by the certificate of phase 1: someone is in between.
    #[error("the host does not own the certificate that it sent")]
    HostSignature,
    /// The host was given another PIN than was shown.
    #[error("the PIN at the host was wrong")]
    WrongPin,
}

/// The client's side of one pairing, in three steps that consume each other.
pub struct ClientAttempt {
    hash: Hash,
    key: AesKey,
    client: Certificate,
    host: Certificate,
    challenge: [u8; NONCE_BYTES],
}

/// Waits for the answer of phase 3.
pub struct ClientProof {
    attempt: ClientAttempt,
    host_hash: Vec<u8>,
    secret: [u8; NONCE_BYTES],
}

impl ClientAttempt {
    /// After phase 1: the host's certificate is known. Returns the value of `clientchallenge`.
    pub fn new(
        hash: Hash,
        salt: &[u8; NONCE_BYTES],
        pin: &Pin,
        client: Certificate,
        host: Certificate,
        challenge: [u8; NONCE_BYTES],
    ) -> (Self, Vec<u8>) {
        let key = pairing_key(hash, salt, pin);
        let sent = ecb_encrypt(&key, challenge.to_vec());
        (Self { hash, key, client, host, challenge }, sent)
    }

    /// The answer of phase 2 is here. `secret` is fresh randomness. Returns the value of
    /// `serverchallengeresp`.
    pub fn challenge_response(
        self,
        answer: &[u8],
        secret: [u8; NONCE_BYTES],
    ) -> Result<(ClientProof, Vec<u8>), ClientError> {
        let hash_bytes = self.hash.bytes();
        if answer.len() != (hash_bytes + NONCE_BYTES).next_multiple_of(NONCE_BYTES) {
            return Err(ClientError::Length);
        }
        let mut plain = ecb_decrypt(&self.key, answer);
        plain.truncate(hash_bytes + NONCE_BYTES);
        let server_challenge = plain.split_off(hash_bytes);
        let mut proof = self.hash.of(&[&server_challenge, self.client.signature(), &secret]);
        proof.resize(CHALLENGE_RESPONSE_BYTES, 0);
        let sent = ecb_encrypt(&self.key, proof);
        Ok((ClientProof { attempt: self, host_hash: plain, secret }, sent))
    }
}

impl ClientProof {
    /// The answer of phase 3 is here: checks that the host owns its certificate and was given the PIN.
    /// Returns the value of `clientpairingsecret`; `signer` holds the client's key.
    pub fn pairing_secret(
        self,
        answer: &[u8],
        signer: &dyn Signer,
    ) -> Result<Vec<u8>, ClientError> {
        let (secret, signature) = split_secret(answer).ok_or(ClientError::Length)?;
        let host = &self.attempt.host;
        if !rsa_pkcs1_sha256_verifies(host.public_key(), secret, signature) {
            return Err(ClientError::HostSignature);
        }
        let expected = self.attempt.hash.of(&[&self.attempt.challenge, host.signature(), secret]);
        if !equal_in_constant_time(&expected, &self.host_hash) {
            return Err(ClientError::WrongPin);
        }
        Ok([&self.secret[..], &signer.sign_pkcs1_sha256(&self.secret)].concat())
    }
}

/// The value of `clientcert`: hexadecimal of the PEM text, lower case as desktop clients send it.
pub fn client_certificate_parameter(client: &x509::Certificate) -> String {
    hex::encode(client.to_pem().as_bytes()).to_lowercase()
}

fn pairing_key(hash: Hash, salt: &[u8; NONCE_BYTES], pin: &Pin) -> AesKey {
    let mut digest = hash.of(&[salt, &pin.0]);
    let mut key = SessionKey([0; 16]);
    key.0.iter_mut().zip(&digest).for_each(|(to, from)| *to = *from);
    digest.zeroize();
    AesKey::new(&key)
}

/// Pads with zeros to whole blocks, which only the SHA-1 generation needs.
fn ecb_encrypt(key: &AesKey, mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(NONCE_BYTES), 0);
    key.ecb_encrypt(&mut bytes).expect("padded to whole blocks");
    bytes
}

/// `bytes` is whole blocks: its type or a check says so.
fn ecb_decrypt(key: &AesKey, bytes: &[u8]) -> Vec<u8> {
    let mut plain = bytes.to_vec();
    key.ecb_decrypt(&mut plain).expect("callers pass whole blocks");
    plain
}

/// 16 bytes and a signature of 1 to 1024 bytes.
fn split_secret(bytes: &[u8]) -> Option<(&[u8; NONCE_BYTES], &[u8])> {
    let (secret, signature) = bytes.split_first_chunk()?;
    (1..=SIGNATURE_BYTES_MAX).contains(&signature.len()).then_some((secret, signature))
}

#[cfg(test)]
#[path = "pairing_tests.rs"]
pub(crate) mod tests;
