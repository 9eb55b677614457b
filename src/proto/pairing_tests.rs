//! Replays every recorded pairing on both sides, bit for bit, and tries to break the order of phases.
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::proto::crypto::RsaSigner;
use crate::proto::http::Head;
use crate::proto::x509::pem_to_der;

pub(crate) const VECTORS: [&str; 8] = [
    "01-qt-sha256",
    "02-android-sha256",
    "03-x509v2-client-sha256",
    "04-embedded-sha256",
    "05-wrong-pin",
    "06-bad-client-signature",
    "07-client-key-mismatch",
    "08-legacy-sha1",
];

pub(crate) fn load(name: &str) -> Value {
    let path = format!("{}/tests/vectors/pairing-{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key}"))
}

fn bytes(value: &Value, key: &str) -> Vec<u8> {
    hex::decode(text(value, key)).unwrap()
}

fn array<const N: usize>(value: &Value, key: &str) -> [u8; N] {
    hex::decode_array(text(value, key)).unwrap()
}

fn certificate(vector: &Value, side: &str) -> Certificate {
    Certificate::from_pem(text(&vector[side], "cert_pem")).unwrap()
}

fn signer(vector: &Value, side: &str) -> RsaSigner {
    let der = pem_to_der(text(&vector[side], "key_pem"), "PRIVATE KEY").unwrap();
    RsaSigner::from_der(&der).unwrap()
}

fn hash(vector: &Value) -> Hash {
    match text(vector, "hash_algorithm") {
        "sha256" => Hash::Sha256,
        "sha1" => Hash::Sha1,
        other => panic!("{other}"),
    }
}

/// The request of a phase, through the whole of our parsing.
fn request(phase: &Value) -> PairRequest {
    let head = format!("GET {} HTTP/1.1\r\nHost: h\r\n\r\n", text(phase, "request_target"));
    let (request, used) = Head::parse(head.as_bytes()).unwrap().unwrap();
    assert_eq!((request.path.as_str(), used), ("/pair", head.len()));
    PairRequest::parse(&request.query).unwrap()
}

fn body(answer: Answer<'_>) -> String {
    String::from_utf8(answer.response().body).unwrap()
}

/// Replays the host's side and returns what phase 4 came to.
fn replay_host(vector: &Value) -> Outcome {
    let phases = vector["phases"].as_array().unwrap();
    let host = certificate(vector, "server");

    let first = request(&phases[0]);
    assert_eq!(first.uniqueid.as_str(), text(vector, "unique_id"));
    assert_eq!(first.device_name, "roth");
    let Ok(Phase::GetServerCert { salt, client }) = first.phase else { panic!() };
    assert_eq!(client, certificate(vector, "client"));
    assert_eq!(salt, array(vector, "salt"));
    let mut attempt = Attempt::new(hash(vector), salt, client);
    assert!(attempt.awaits_pin());
    attempt.pin_entered(&Pin::parse(text(vector, "pin_entered_by_user_on_host")).unwrap()).unwrap();
    assert!(!attempt.awaits_pin());
    let pem = text(&vector["server"], "cert_pem");
    assert_eq!(body(Answer::Certificate { pem }), text(&phases[0], "response_body"));

    let Ok(Phase::ClientChallenge(challenge)) = request(&phases[1]).phase else { panic!() };
    let made = &phases[1]["intermediate"];
    let answer = attempt
        .client_challenge(
            &challenge,
            &host,
            array(made, "server_secret"),
            array(made, "server_challenge"),
        )
        .unwrap();
    assert_eq!(body(Answer::Challenge(&answer)), text(&phases[1], "response_body"));

    let Ok(Phase::ServerChallengeResponse(response)) = request(&phases[2]).phase else { panic!() };
    let answer = attempt.server_challenge_response(&response, &signer(vector, "server")).unwrap();
    assert_eq!(body(Answer::Secret(&answer)), text(&phases[2], "response_body"));

    let Ok(Phase::ClientPairingSecret(secret)) = request(&phases[3]).phase else { panic!() };
    let outcome = attempt.client_pairing_secret(&secret).unwrap();
    let answer = match outcome {
        Outcome::Paired(_) => Answer::Paired,
        Outcome::Rejected => Answer::Rejected,
    };
    assert_eq!(body(answer), text(&phases[3], "response_body"));
    assert_eq!(attempt.client_pairing_secret(&secret), Err(PairingError::Order));
    outcome
}

#[test]
fn the_host_answers_every_vector_bit_for_bit() {
    for name in VECTORS {
        let vector = load(name);
        let expected = match text(&vector, "expected_result") {
            "paired" => Outcome::Paired(certificate(&vector, "client")),
            "rejected" => Outcome::Rejected,
            other => panic!("{other}"),
        };
        assert_eq!(replay_host(&vector), expected, "{name}");
        if let Some(last) = vector["phases"].get(4) {
            assert_eq!(request(last).phase, Ok(Phase::PairChallenge));
            assert_eq!(body(Answer::Paired), text(last, "response_body"));
        }
    }
}

#[test]
fn the_client_sends_every_vector_bit_for_bit() {
    for name in VECTORS {
        let vector = load(name);
        let phases = vector["phases"].as_array().unwrap();
        let sent = |at: usize, key| bytes(&phases[at]["params"], key);
        let answered = |at: usize, key| bytes(&phases[at]["response_fields"], key);

        let client = certificate(&vector, "client");
        assert_eq!(
            client_certificate_parameter(&client),
            text(&phases[0]["params"], "clientcert").to_lowercase()
        );
        let plaincert = text(&phases[0]["response_fields"], "plaincert");
        let (attempt, challenge) = ClientAttempt::new(
            hash(&vector),
            &array(&vector, "salt"),
            &Pin::parse(text(&vector, "pin_shown_by_client")).unwrap(),
            client,
            Certificate::from_hex_of_pem(plaincert).unwrap(),
            array(&phases[1]["intermediate"], "client_challenge_plain"),
        );
        assert_eq!(challenge, sent(1, "clientchallenge"), "{name}");
        let client_secret = array(&phases[2]["intermediate"], "client_secret");
        let (proof, response) =
            attempt.challenge_response(&answered(1, "challengeresponse"), client_secret).unwrap();
        assert_eq!(response, sent(2, "serverchallengeresp"), "{name}");
        let secret =
            proof.pairing_secret(&answered(2, "pairingsecret"), &signer(&vector, "client"));
        match name {
            "05-wrong-pin" => assert_eq!(secret, Err(ClientError::WrongPin)),
            // Here the vector's client misbehaves on purpose; an honest one signs correctly.
            "06-bad-client-signature" | "07-client-key-mismatch" => {
                assert_ne!(secret.unwrap(), sent(3, "clientpairingsecret"));
            }
            _ => assert_eq!(secret.unwrap(), sent(3, "clientpairingsecret"), "{name}"),
        }
    }
}

#[test]
fn the_client_notices_a_host_without_its_key() {
    let vector = load(VECTORS[0]);
    let phases = vector["phases"].as_array().unwrap();
    let mut answer = bytes(&phases[2]["response_fields"], "pairingsecret");
    answer[100] ^= 1;
    let attempt = || {
        let (attempt, _) = ClientAttempt::new(
            Hash::Sha256,
            &array(&vector, "salt"),
            &Pin::parse("4711").unwrap(),
            certificate(&vector, "client"),
            certificate(&vector, "server"),
            array(&phases[1]["intermediate"], "client_challenge_plain"),
        );
        attempt
    };
    let response = bytes(&phases[1]["response_fields"], "challengeresponse");
    let (proof, _) = attempt().challenge_response(&response, [0; 16]).unwrap();
    let error = proof.pairing_secret(&answer, &signer(&vector, "client"));
    assert_eq!(error, Err(ClientError::HostSignature));
    for short in 0..response.len() {
        let refused = attempt().challenge_response(&response[..short], [0; 16]);
        assert!(matches!(refused, Err(ClientError::Length)));
    }
}

/// Calls one phase with the vector's own values; whether it was accepted.
fn step(attempt: &mut Attempt, vector: &Value, phase: usize, key: &RsaSigner) -> bool {
    let phases = vector["phases"].as_array().unwrap();
    let params = |at: usize| &phases[at]["params"];
    let result = match phase {
        1 => attempt.pin_entered(&Pin::parse("4711").unwrap()),
        2 => attempt
            .client_challenge(
                &array(params(1), "clientchallenge"),
                &certificate(vector, "server"),
                array(&phases[1]["intermediate"], "server_secret"),
                array(&phases[1]["intermediate"], "server_challenge"),
            )
            .map(drop),
        3 => attempt
            .server_challenge_response(&array(params(2), "serverchallengeresp"), key)
            .map(drop),
        _ => attempt
            .client_pairing_secret(&bytes(params(3), "clientpairingsecret"))
            .map(|outcome| assert!(matches!(outcome, Outcome::Paired(_)))),
    };
    assert!(matches!(result, Ok(()) | Err(PairingError::Order)));
    result.is_ok()
}

/// All sequences of up to five steps: only 1-2-3-4 pairs, and an error of the peer ends the attempt.
#[test]
fn phases_in_order_and_once() {
    let vector = load(VECTORS[0]);
    let key = signer(&vector, "server");
    for code in 0..4usize.pow(5) {
        let steps: Vec<usize> = (0..5).map(|at| code / 4usize.pow(at) % 4 + 1).collect();
        let (mut attempt, mut due) = (
            Attempt::new(Hash::Sha256, array(&vector, "salt"), certificate(&vector, "client")),
            Some(1),
        );
        for &phase in &steps {
            let accepted = step(&mut attempt, &vector, phase, &key);
            assert_eq!(accepted, due == Some(phase), "{steps:?}");
            due = match (accepted, phase) {
                (true, 4) => None,
                (true, _) => Some(phase + 1),
                (false, 1) => due,
                (false, _) => None,
            };
        }
    }
}

#[test]
fn pins() {
    for good in ["0007", "9999"] {
        assert!(Pin::parse(good).is_some());
    }
    for bad in ["", "1", "123", "12345", "12 4", "-123", "12a4", "١٢", "١٢٣٤"] {
        assert!(Pin::parse(bad).is_none(), "{bad}");
    }
    assert_eq!(format!("{:?}", Pin::parse("0007").unwrap()), "Pin(..)");
}

fn parse(query: &str) -> Result<Phase, PairingError> {
    PairRequest::parse(&Query::parse(query)).and_then(|request| request.phase)
}

#[test]
fn malformed_requests() {
    use PairingError as E;
    let cert = client_certificate_parameter(&certificate(&load(VECTORS[0]), "client"));
    let (b15, b16, b32) = ("00".repeat(15), "00".repeat(16), "00".repeat(32));
    assert!(
        parse(&format!("uniqueid=1&phrase=getservercert&salt={b16}&clientcert={cert}")).is_ok()
    );
    let long_salt =
        parse(&format!("uniqueid=1&phrase=getservercert&salt={b16}ff&clientcert={cert}"));
    assert!(matches!(long_salt, Ok(Phase::GetServerCert { salt, .. }) if salt == [0; 16]));
    for (query, error) in [
        (String::new(), E::UniqueId),
        (format!("clientchallenge={b16}"), E::UniqueId),
        (format!("uniqueid=&clientchallenge={b16}"), E::UniqueId),
        (format!("uniqueid=..%2fx&clientchallenge={b16}"), E::UniqueId),
        (format!("uniqueid={}&clientchallenge={b16}", "a".repeat(65)), E::UniqueId),
        (format!("uniqueid=1&uniqueid=2&clientchallenge={b16}"), E::Query),
        ("uniqueid=1".into(), E::Phase),
        ("uniqueid=1&phrase=other".into(), E::Phase),
        ("uniqueid=1&phrase=getservercert".into(), E::Parameter("salt")),
        (format!("uniqueid=1&phrase=getservercert&salt={b15}"), E::Parameter("salt")),
        (format!("uniqueid=1&phrase=getservercert&salt={b15}zz"), E::Parameter("salt")),
        (format!("uniqueid=1&phrase=getservercert&salt={b16}"), E::Parameter("clientcert")),
        (
            format!("uniqueid=1&phrase=getservercert&salt={b16}&clientcert=ab"),
            E::Certificate(CertificateError::Pem),
        ),
        (
            format!("uniqueid=1&phrase=getservercert&salt={b16}&clientcert=a"),
            E::Certificate(CertificateError::Hex),
        ),
        (format!("uniqueid=1&clientchallenge={b15}"), E::Parameter("clientchallenge")),
        (format!("uniqueid=1&clientchallenge={b16}00"), E::Parameter("clientchallenge")),
        ("uniqueid=1&clientchallenge=".into(), E::Parameter("clientchallenge")),
        (format!("uniqueid=1&serverchallengeresp={b16}"), E::Parameter("serverchallengeresp")),
        (format!("uniqueid=1&clientpairingsecret={b16}"), E::Parameter("clientpairingsecret")),
        (
            format!("uniqueid=1&clientpairingsecret={}", "00".repeat(16 + 1025)),
            E::Parameter("clientpairingsecret"),
        ),
        (format!("uniqueid=1&clientchallenge={b16}&serverchallengeresp={b32}"), E::Query),
        (format!("uniqueid=1&phrase=pairchallenge&clientchallenge={b16}"), E::Query),
        (format!("uniqueid=1&clientchallenge={b16}&clientchallenge={b32}"), E::Query),
        (format!("uniqueid=1&clientchallenge={b16}&x=%"), E::Query),
    ] {
        assert_eq!(parse(&query), Err(error), "{query}");
        let body = String::from_utf8(error.response().body).unwrap();
        assert!(body.contains("<paired>0</paired>") && body.contains("status_message="));
        assert_eq!(error.status(), if error == E::Phase { 404 } else { 400 });
    }
}

#[test]
fn answers_of_the_host_without_phases() {
    assert!(body(Answer::Busy).contains("<paired>1</paired></root>"));
    assert!(body(Answer::Unpaired).ends_with("<root status_code=\"200\"/>"));
    assert!(unpair_request(&Query::parse("uniqueid=1&uuid=2")).is_ok());
    assert_eq!(unpair_request(&Query::parse("uuid=2")), Err(PairingError::UniqueId));
}

#[test]
fn nothing_secret_is_printed() {
    let vector = load(VECTORS[0]);
    let mut attempt = Attempt::new(Hash::Sha256, [0xab; 16], certificate(&vector, "client"));
    attempt.pin_entered(&Pin::parse("4711").unwrap()).unwrap();
    let text = format!("{attempt:?}");
    assert!(text.contains("ClientChallenge") && !text.contains("4711") && !text.contains("171"));
    assert_eq!(format!("{:?}", Phase::ClientChallenge([1; 16])), "ClientChallenge");
}

proptest! {
    #[test]
    fn no_query_panics(query in "(uniqueid=1&)?((phrase=getservercert|salt|clientchallenge|clientcert|serverchallengeresp|clientpairingsecret)(=[0-9a-f]{0,70})?&){0,4}.{0,20}") {
        _ = parse(&query);
    }

    #[test]
    fn no_secret_panics(secret: Vec<u8>) {
        let vector = load(VECTORS[0]);
        let mut attempt = Attempt::new(Hash::Sha256, [1; 16], certificate(&vector, "client"));
        attempt.due = Due::ClientPairingSecret { challenge: [2; 16], client_hash: vec![3; 32] };
        let result = attempt.client_pairing_secret(&secret);
        prop_assert!(matches!(result, Ok(Outcome::Rejected) | Err(PairingError::Parameter(_))));
        prop_assert_eq!(attempt.client_pairing_secret(&secret), Err(PairingError::Order));
    }
}
