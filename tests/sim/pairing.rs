//! Pairing with the real computation on both sides, and an operator who types PINs.
use moonshard::host::event::Event;
use moonshard::host::{Client, client_id};
use moonshard::ipc::{AdminRequest, ClientId, PendingPairing};
use moonshard::proto::crypto::Hash;
use moonshard::proto::hex;
use moonshard::proto::pairing::{ClientAttempt, ClientProof, Pin, client_certificate_parameter};
use moonshard::time::Entropy;

use super::kit::{Device, kit};
use super::players::Wish;
use super::{ATTACKER, CLIENTS, NEWCOMER, World, ms, setup};

/// A client's pairing under way: which phase was sent last, and what the next one needs.
pub struct Pairing {
    salt: [u8; 16],
    /// What the device shows.
    pin: u64,
    /// The operator typed it.
    right: bool,
    attempt: Option<ClientAttempt>,
    proof: Option<ClientProof>,
}

fn device(player: usize) -> &'static Device {
    if player == ATTACKER { &kit().attacker } else { &kit().newcomer }
}

fn pin(number: u64) -> Pin {
    Pin::parse(&format!("{number:04}")).unwrap()
}

/// The text of an XML element.
fn element<'a>(body: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    rest.split_once('<').map(|(text, _)| text)
}

impl World {
    /// Phase 1. The attacker uses the newcomer's own name.
    pub fn begin_pairing(&mut self, player: usize) {
        let mut salt = [0; 16];
        self.workload.fill(&mut salt);
        let pin = self.workload.below(9_000);
        let certificate = client_certificate_parameter(&device(player).certificate);
        let salt_hex = hex::encode(&salt);
        self.players[player].pairing =
            Some(Pairing { salt, pin, right: false, attempt: None, proof: None });
        let query = format!(
            "devicename=roth&phrase=getservercert&salt={salt_hex}&clientcert={certificate}"
        );
        self.pair(player, 1, &query);
    }

    fn pair(&mut self, player: usize, phase: u8, query: &str) {
        let target = format!("/pair?uniqueid=0123456789ABCDEF&{query}");
        let limit = if phase == 1 { setup::PIN_MS + 2_000 } else { 3_000 };
        self.request(player, Wish::Pair(phase), &target, limit, false);
    }

    /// Somebody throws in a phase that is not its turn.
    pub fn pairing_noise(&mut self, player: usize) {
        let name = ["clientchallenge", "serverchallengeresp", "clientpairingsecret"]
            [self.workload.below(3) as usize];
        let query = format!("{name}={}", hex::encode(&[7; 32]));
        self.players[player].pairing = None;
        self.pair(player, 9, &query);
    }

    /// The operator sees that somebody waits; he types what the device in that room shows. For the
    /// attacker he types what the newcomer shows, or would.
    pub fn asked_for_pin(&mut self, asked: &PendingPairing) {
        let player = (0..CLIENTS).find(|p| self.players[*p].address == asked.address);
        let Some(player) = player.filter(|p| self.players[*p].pairing.is_some()) else { return };
        if self.fails("PIN is typed", 8) {
            return;
        }
        let wrong = self.fails("PIN is right", 6) || player == ATTACKER;
        let pairing = self.players[player].pairing.as_mut().unwrap();
        pairing.right = !wrong;
        let typed = if wrong { (pairing.pin + 1) % 9_000 } else { pairing.pin };
        let request = AdminRequest::Pin { id: asked.id.clone(), pin: format!("{typed:04}") };
        self.number += 1;
        self.host_hears(3_000, Event::Admin { id: self.number, request });
    }

    /// The host answered phase `phase`.
    pub fn paired_on(&mut self, player: usize, phase: u8, body: &str) {
        let Some(mut pairing) = self.players[player].pairing.take() else { return };
        let hex_of = |name| element(body, name).and_then(hex::decode);
        if body.contains("status_code=\"429\"") {
            self.players[player].delayed = true;
        }
        if element(body, "paired") != Some("1") {
            self.errors += 1;
            return;
        }
        let next = match phase {
            1 => {
                let device = device(player);
                let host = kit().own().certificate;
                let mut challenge = [0; 16];
                self.workload.fill(&mut challenge);
                let pin = pin(pairing.pin);
                let certificate = device.certificate.clone();
                let (attempt, sent) = ClientAttempt::new(
                    Hash::Sha256,
                    &pairing.salt,
                    &pin,
                    certificate,
                    host,
                    challenge,
                );
                pairing.attempt = Some(attempt);
                format!("clientchallenge={}", hex::encode(&sent))
            }
            2 => {
                let mut secret = [0; 16];
                self.workload.fill(&mut secret);
                let Some(attempt) = pairing.attempt.take() else { return };
                let answer = hex_of("challengeresponse").unwrap_or_default();
                match attempt.challenge_response(&answer, secret) {
                    Ok((proof, sent)) => {
                        pairing.proof = Some(proof);
                        format!("serverchallengeresp={}", hex::encode(&sent))
                    }
                    Err(_) => return,
                }
            }
            3 => {
                let Some(proof) = pairing.proof.take() else { return };
                let answer = hex_of("pairingsecret").unwrap_or_default();
                match proof.pairing_secret(&answer, &device(player).signer) {
                    Ok(sent) if pairing.right => {
                        format!("clientpairingsecret={}", hex::encode(&sent))
                    }
                    Ok(_) => self.broken("a client took a host for its own without the PIN"),
                    // An honest client stops; the attacker goes on with what it has.
                    Err(_) if player == NEWCOMER => {
                        self.errors += 1;
                        let target = "/unpair?uniqueid=0123456789ABCDEF";
                        return self.request(player, Wish::Poll, target, 2_000, false);
                    }
                    Err(_) => {
                        let mut secret = vec![7; 16];
                        secret.extend(sign(player, &secret));
                        format!("clientpairingsecret={}", hex::encode(&secret))
                    }
                }
            }
            4 => {
                if !self.disk.contains_key(&client_id(&self.players[player].certificate)) {
                    self.broken("a client was told that it is paired and nothing is on disk");
                }
                return self.request(
                    player,
                    Wish::Poll,
                    "/pair?uniqueid=1&phrase=pairchallenge",
                    2_000,
                    true,
                );
            }
            _ => return,
        };
        self.players[player].pairing = Some(pairing);
        self.pair(player, phase + 1, &next);
    }

    /// Writes a client's certificate; it must have been proven.
    pub fn store(&mut self, client: ClientId, certificate: Vec<u8>) {
        let newcomer = client_id(&self.players[NEWCOMER].certificate);
        if client != newcomer {
            self.broken("a certificate is stored that nobody has proven");
        }
        let failed = self.fails("store", 6);
        if !failed {
            let name = "x".into();
            self.disk.insert(client, Client { certificate, name, paired_at: 1 });
        }
        let result = if failed { Err("no space".into()) } else { Ok(1) };
        self.host_hears(50, Event::ClientStored { client, result });
    }

    /// Rests until a pairing that was given up is over at the host too.
    pub fn pairs(&self, player: usize) -> bool {
        self.players[player].pairing.is_some()
            && self.calls.values().any(|c| c.client == player && matches!(c.wish, Wish::Pair(_)))
            && self.now.since(self.front_since) > ms(0)
    }
}

fn sign(player: usize, message: &[u8]) -> Vec<u8> {
    use moonshard::proto::crypto::Signer;
    device(player).signer.sign_pkcs1_sha256(message)
}
