//! The pending pairings: which there are, whose turn it is, when one ends, who has failed too often.
//!
//! The computation of one pairing is `proto::pairing`; this is the table around it and its limits.
//! Nothing is authorised here: a proven certificate is handed back for storing.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::event::{Answer, CallId, Effect};
use crate::ipc::PendingPairing;
use crate::limits::{PAIRING_FAILURES_MAX, PAIRINGS_MAX, PAIRINGS_PER_SOURCE_MAX};
use crate::proto::crypto::{Hash, Signer};
use crate::proto::hex;
use crate::proto::http::Response;
use crate::proto::pairing::{
    self, Attempt, Outcome, PairRequest, PairingError, Phase, Pin, UniqueId,
};
use crate::proto::x509::Certificate;
use crate::time::{Entropy, Time};

/// Failures of a source are forgotten after this.
const FAILURE_WINDOW: Duration = Duration::from_secs(600);
/// The first delay after too many failures; doubled by each further one.
const FAILURE_DELAY: Duration = Duration::from_secs(15);
/// Sources whose failures are remembered; the oldest goes first.
const FAILURE_SOURCES_MAX: usize = 1024;

/// The host's own part in every pairing.
pub struct OwnIdentity {
    pub certificate: Certificate,
    /// The PEM text, as clients pin it.
    pub pem: String,
    pub signer: Box<dyn Signer + Send + Sync>,
}

/// An attempt's key: the client's own name for itself and where it speaks from.
type Key = (UniqueId, IpAddr);

struct Pending {
    attempt: Attempt,
    /// What the operator names it by.
    id: String,
    device: String,
    expires: Time,
    /// Phase 1, waiting for the PIN.
    waiting: Option<CallId>,
}

#[derive(Clone, Copy)]
struct Failures {
    count: usize,
    last: Time,
}

/// What came of a request.
pub enum Step {
    /// Answered, or waiting with its call noted.
    Done,
    /// Phase 4 succeeded: store the certificate, then answer `Answer::Paired`.
    Proven { certificate: Certificate, device: String },
}

/// All pending pairings. At most `PAIRINGS_MAX`, `PAIRINGS_PER_SOURCE_MAX` of one source.
#[derive(Default)]
pub struct Pairings {
    pending: BTreeMap<Key, Pending>,
    failures: BTreeMap<IpAddr, Failures>,
}

/// The network that counts as one source: an IPv4 address, or an IPv6 /64.
pub fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let mut octets = v6.octets();
            octets[8..].fill(0);
            IpAddr::from(octets)
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Pairings {
    /// A request to `/pair` over plain HTTP.
    #[expect(clippy::too_many_arguments, reason = "the parts of one event")]
    pub fn request(
        &mut self,
        call: CallId,
        from: IpAddr,
        request: PairRequest,
        own: &OwnIdentity,
        wait: Duration,
        now: Time,
        entropy: &mut dyn Entropy,
        effects: &mut Vec<Effect>,
    ) -> Step {
        let key = (request.uniqueid, from);
        let phase = match request.phase {
            Ok(Phase::GetServerCert { salt, client }) => {
                let attempt = Attempt::new(Hash::Sha256, salt, client);
                let id = fresh_id(entropy);
                let pending = Pending {
                    attempt,
                    id,
                    device: request.device_name,
                    expires: now + wait,
                    waiting: Some(call),
                };
                self.begin(key, pending, now, effects);
                return Step::Done;
            }
            Ok(phase) => phase,
            Err(error) => {
                self.end(&key, "malformed request", true, now, effects);
                effects.push(answer(call, error.response()));
                return Step::Done;
            }
        };
        let Some(pending) = self.pending.get_mut(&key) else {
            effects.push(answer(call, PairingError::Order.response()));
            return Step::Done;
        };
        match advance(pending, phase, own, entropy) {
            Ok(Progress::Answer(response)) => effects.push(answer(call, response)),
            Ok(Progress::Ended(Outcome::Paired(certificate))) => {
                let device = pending.device.clone();
                self.end(&key, "paired", false, now, effects);
                return Step::Proven { certificate, device };
            }
            Ok(Progress::Ended(Outcome::Rejected)) => {
                self.end(&key, "wrong PIN or foreign key", true, now, effects);
                effects.push(answer(call, pairing::Answer::Rejected.response()));
            }
            Err(error) => {
                self.end(&key, "phases out of order or malformed", true, now, effects);
                effects.push(answer(call, error.response()));
            }
        }
        Step::Done
    }

    fn begin(&mut self, key: Key, pending: Pending, now: Time, effects: &mut Vec<Effect>) {
        let call = pending.waiting.expect("phase 1 waits");
        let source = source_of(key.1);
        self.end(&key, "replaced by a newer attempt", true, now, effects);
        if let Some(wait) = self.penalty(source, now) {
            let text = format!(
                "Too many failed pairings from this address. Try again in {} seconds.",
                wait.as_secs().max(1)
            );
            effects.push(answer(call, pairing::refused(429, &text)));
            return;
        }
        let of_source = self.pending.keys().filter(|(_, ip)| source_of(*ip) == source).count();
        if self.pending.len() >= PAIRINGS_MAX || of_source >= PAIRINGS_PER_SOURCE_MAX {
            let text = "Too many pairings are waiting for a PIN. Try again in a minute.";
            effects.push(answer(call, pairing::refused(429, text)));
            return;
        }
        effects.push(Effect::PairingAsked(summary(&key, &pending, now)));
        self.pending.insert(key, pending);
    }

    /// How long the source must wait, if it has failed too often.
    fn penalty(&self, source: IpAddr, now: Time) -> Option<Duration> {
        let failures = self.failures.get(&source)?;
        let over = failures.count.checked_sub(PAIRING_FAILURES_MAX)?;
        let delay = FAILURE_DELAY * 2u32.saturating_pow(u32::try_from(over).unwrap_or(u32::MAX));
        let until = failures.last + delay.min(FAILURE_WINDOW);
        (now < until).then(|| until.since(now))
    }

    /// Ends an attempt; `failed` counts against its source if a PIN was tried in it.
    fn end(&mut self, key: &Key, why: &str, failed: bool, now: Time, effects: &mut Vec<Effect>) {
        let Some(pending) = self.pending.remove(key) else { return };
        if let Some(call) = pending.waiting {
            let text = format!("Pairing ended: {why}.");
            effects.push(answer(call, pairing::refused(400, &text)));
        }
        if failed && !pending.attempt.awaits_pin() {
            self.count_failure(source_of(key.1), now);
        }
        effects.push(Effect::PairingEnded { id: pending.id, outcome: why.to_owned() });
    }

    fn count_failure(&mut self, source: IpAddr, now: Time) {
        self.failures.retain(|_, f| now.since(f.last) < FAILURE_WINDOW);
        if self.failures.len() >= FAILURE_SOURCES_MAX && !self.failures.contains_key(&source) {
            let oldest = self.failures.iter().min_by_key(|(_, f)| f.last).map(|(ip, _)| *ip);
            oldest.map(|ip| self.failures.remove(&ip));
        }
        let failures = self.failures.entry(source).or_insert(Failures { count: 0, last: now });
        failures.count += 1;
        failures.last = now;
    }

    /// `/unpair`: aborts the attempt of this name and address, nothing else.
    pub fn abort(
        &mut self,
        uniqueid: UniqueId,
        from: IpAddr,
        now: Time,
        effects: &mut Vec<Effect>,
    ) {
        self.end(&(uniqueid, from), "given up by the client", true, now, effects);
    }

    /// The operator typed a PIN. One guess per attempt.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn pin(
        &mut self,
        id: &str,
        pin: &str,
        own: &OwnIdentity,
        effects: &mut Vec<Effect>,
    ) -> Result<String, String> {
        let pin = Pin::parse(pin)
            .ok_or("A PIN has exactly four digits, as the device shows them (0007 counts).")?;
        let pending =
            self.pending.values_mut().find(|p| p.id == id).ok_or_else(|| {
                format!("No pairing {id} is waiting. `moonshard pair` lists them.")
            })?;
        pending
            .attempt
            .pin_entered(&pin)
            .map_err(|_| "A PIN was already given for this pairing.".to_owned())?;
        if let Some(call) = pending.waiting.take() {
            let response = pairing::Answer::Certificate { pem: &own.pem }.response();
            effects.push(answer(call, response));
        }
        Ok(format!("PIN given to {}; the device now checks it.", pending.device))
    }

    /// The peer of a waiting phase 1 is gone: the attempt with it.
    pub fn call_gone(&mut self, call: CallId, now: Time, effects: &mut Vec<Effect>) -> bool {
        let found = self.pending.iter_mut().find(|(_, p)| p.waiting == Some(call));
        let Some((key, pending)) = found else { return false };
        pending.waiting = None;
        let key = key.clone();
        self.end(&key, "the client went away", false, now, effects);
        true
    }

    pub fn expire(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let over: Vec<Key> =
            self.pending.iter().filter(|(_, p)| p.expires <= now).map(|(k, _)| k.clone()).collect();
        for key in over {
            self.end(&key, "no PIN in time", true, now, effects);
        }
    }

    pub fn next_timeout(&self) -> Option<Time> {
        self.pending.values().map(|p| p.expires).min()
    }

    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    pub(super) fn sizes(&self) -> [(&'static str, usize); 2] {
        [("pairings", self.pending.len()), ("failures", self.failures.len())]
    }

    /// Those that wait for a PIN, for the operator.
    pub fn list(&self, now: Time) -> Vec<PendingPairing> {
        let waiting = self.pending.iter().filter(|(_, p)| p.attempt.awaits_pin());
        waiting.map(|(key, pending)| summary(key, pending, now)).collect()
    }
}

enum Progress {
    Answer(Response),
    Ended(Outcome),
}

fn advance(
    pending: &mut Pending,
    phase: Phase,
    own: &OwnIdentity,
    entropy: &mut dyn Entropy,
) -> Result<Progress, PairingError> {
    let response = match phase {
        Phase::ClientChallenge(encrypted) => {
            let (mut secret, mut challenge) = ([0; 16], [0; 16]);
            entropy.fill(&mut secret);
            entropy.fill(&mut challenge);
            let bytes = pending.attempt.client_challenge(
                &encrypted,
                &own.certificate,
                secret,
                challenge,
            )?;
            pairing::Answer::Challenge(&bytes).response()
        }
        Phase::ServerChallengeResponse(encrypted) => {
            let bytes =
                pending.attempt.server_challenge_response(&encrypted, own.signer.as_ref())?;
            pairing::Answer::Secret(&bytes).response()
        }
        Phase::ClientPairingSecret(secret) => {
            return pending.attempt.client_pairing_secret(&secret).map(Progress::Ended);
        }
        Phase::GetServerCert { .. } | Phase::PairChallenge => return Err(PairingError::Order),
    };
    Ok(Progress::Answer(response))
}

fn summary(key: &Key, pending: &Pending, now: Time) -> PendingPairing {
    PendingPairing {
        id: pending.id.clone(),
        device: pending.device.clone(),
        address: key.1.to_canonical().to_string(),
        seconds_left: pending.expires.since(now).as_secs(),
    }
}

/// Eight hexadecimal digits: short enough to type, unguessable within an attempt's life.
fn fresh_id(entropy: &mut dyn Entropy) -> String {
    let mut bytes = [0; 4];
    entropy.fill(&mut bytes);
    hex::encode(&bytes).to_ascii_lowercase()
}

fn answer(call: CallId, response: Response) -> Effect {
    Effect::Answer { call, answer: Answer::Http(response) }
}
