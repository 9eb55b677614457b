//! The discovery and pairing API: heads, queries, what they ask for, certificates, and the XML of the
//! answers.
use crate::limits::{HEIGHT_MAX, HTTP_HEAD_BYTES_MAX, WIDTH_MAX};
use crate::proto::crypto::{Hash, Signer, rsa_pkcs1_sha256_verifies};
use crate::proto::hex;
use crate::proto::http::{Head, QUERY_PARAMETERS_MAX, Query, Response};
use crate::proto::launch::{self, LaunchRequest, Surround, Verb};
use crate::proto::pairing::{
    Attempt, NONCE_BYTES, Outcome, PairRequest, PairingError, Phase, Pin,
    client_certificate_parameter,
};
use crate::proto::serverinfo::{App, ServerInfo, app_list, status};
use crate::proto::stream::CodecSupport;
use crate::proto::x509::{Certificate, CertificateError, pem_to_der};

/// Everything that came on a connection.
pub fn head(bytes: &[u8]) {
    let whole = Head::parse(bytes);
    match &whole {
        Ok(Some((request, used))) => {
            assert!((1..=bytes.len().min(HTTP_HEAD_BYTES_MAX)).contains(used));
            assert_eq!(Head::parse(&bytes[..*used]), whole, "what follows is not looked at");
            assert_eq!(Head::parse(&bytes[..*used - 1]), Ok(None), "nothing less is a request");
            assert!(request.path.starts_with('/'));
            let text = format!("GET {}?{} HTTP/1.1\r\n\r\n", request.path, request.query.write());
            if request.query.defect().is_none() && text.len() <= HTTP_HEAD_BYTES_MAX {
                let again = Head::parse(text.as_bytes());
                assert_eq!(again, Ok(Some((request.clone(), text.len()))));
            }
        }
        Ok(None) => assert!(bytes.len() <= HTTP_HEAD_BYTES_MAX, "not read for ever"),
        Err(error) => {
            let answer = Response::refusal(*error).to_bytes();
            assert!(answer.starts_with(b"HTTP/1.1 400 ") && answer.len() < 256);
        }
    }
    // In two parts it is the same request, or refused earlier.
    let part = Head::parse(&bytes[..bytes.len() / 2]);
    match part {
        Ok(None) => {}
        Ok(Some(_)) => assert_eq!(part, whole),
        Err(_) => assert!(whole.is_err()),
    }
}

fn query_of(bytes: &[u8]) -> Query {
    Query::parse(&String::from_utf8_lossy(bytes))
}

/// The text behind the question mark.
pub fn query(bytes: &[u8]) {
    let query = query_of(bytes);
    let text = query.write();
    assert!(text.split('&').count() <= QUERY_PARAMETERS_MAX);
    assert!(text.len() <= 9 * bytes.len() + QUERY_PARAMETERS_MAX, "escapes are three bytes");
    let again = Query::parse(&text);
    assert_eq!(again.defect(), None);
    assert_eq!(again.write(), text);
    assert!(query.defect().is_some() || again == query);
}

/// The query of `/launch` and `/resume`.
pub fn launch(bytes: &[u8]) {
    let query = query_of(bytes);
    for verb in [Verb::Launch, Verb::Resume] {
        match LaunchRequest::parse(verb, &query) {
            Ok(request) => {
                let text = launch_query(&request);
                let again = LaunchRequest::parse(verb, &Query::parse(&text));
                assert_eq!(again.as_ref(), Ok(&request), "{text}");
                if let Some(mode) = request.mode {
                    assert!((1..=WIDTH_MAX).contains(&mode.width));
                    assert!((1..=HEIGHT_MAX).contains(&mode.height));
                }
                assert!(verb == Verb::Resume || request.appid.is_some());
                assert_eq!(launch::legacy_iv(request.rikeyid)[4..], [0; 12]);
                assert!(!format!("{request:?}").contains(&hex::encode(&request.rikey.0)));
            }
            Err(error) => is_well_formed(&error.response()),
        }
    }
}

/// The query that says what `request` says.
fn launch_query(request: &LaunchRequest) -> String {
    let flag = |name: &str, value: bool| format!("{name}={}", u8::from(value));
    let Surround { channels, mask } = request.surround;
    let mut parts = vec![
        format!("rikey={}", hex::encode(&request.rikey.0)),
        format!("rikeyid={}", request.rikeyid),
        format!("surroundAudioInfo={}", u32::from(mask) << 16 | u32::from(channels)),
        format!("corever={}", request.corever),
        flag("sops", request.sops),
        flag("hdrMode", request.hdr),
        format!("gcmap={}", request.gamepads),
        flag("gcpersist", request.keep_gamepads),
        flag("continuousAudio", request.continuous_audio),
    ];
    parts.extend(request.appid.map(|id| format!("appid={id}")));
    parts.extend(request.local_audio.map(|on| flag("localAudioPlayMode", on)));
    parts
        .extend(request.surround_params.as_ref().map(|l| format!("surroundParams={}", l.digits())));
    parts.extend(request.mode.map(|mode| {
        let (whole, thousandths) = (mode.millihertz / 1000, mode.millihertz % 1000);
        format!("mode={}x{}x{whole}.{thousandths:03}", mode.width, mode.height)
    }));
    parts.join("&")
}

/// A signer without a key: whoever can make its signature has proven nothing.
struct NoKey;

impl Signer for NoKey {
    fn sign_pkcs1_sha256(&self, _message: &[u8]) -> Vec<u8> {
        vec![0x5A; 256]
    }
}

/// A certificate of the fewest bytes that have all fields.
fn host_certificate() -> Certificate {
    const DER: [u8; 29] = [
        0x30, 27, 0x30, 19, 2, 1, 1, 0x30, 0, 0x30, 0, 0x30, 0, 0x30, 0, // up to the subject
        0x30, 6, 0x30, 0, 3, 2, 0, 9, // the public key
        0x30, 0, 3, 2, 0, 7, // the signature
    ];
    Certificate::from_der(&DER).expect("every field is there")
}

/// A session of `/pair` requests, one query a line; a line `pin=NNNN` is the user's.
///
/// The client cannot know the host's fresh randomness beforehand, so whatever it sends, it is not paired.
pub fn pairing(bytes: &[u8]) {
    let host = host_certificate();
    let (secret, challenge) = ([0x11; NONCE_BYTES], [0x22; NONCE_BYTES]);
    let mut attempt: Option<Attempt> = None;
    // How many phases this attempt has done; `None`: it has ended.
    let mut done = None;
    for line in bytes.split(|byte| *byte == b'\n').take(16) {
        let query = query_of(line);
        if let Some(pin) = query.get("pin").and_then(Pin::parse) {
            let taken = attempt.as_mut().map(|attempt| attempt.pin_entered(&pin));
            let is_due = done == Some(1);
            assert_eq!(taken.is_some_and(|taken| taken.is_ok()), is_due, "one guess");
            done = if is_due { Some(2) } else { done };
            continue;
        }
        let phase = match PairRequest::parse(&query) {
            Ok(request) => {
                assert!(request.device_name.chars().count() <= 64);
                request.phase
            }
            Err(error) => {
                is_well_formed(&error.response());
                continue;
            }
        };
        let (due, result) = match (phase, &mut attempt) {
            (Ok(Phase::GetServerCert { salt, client }), _) => {
                let hash = if salt[0] & 1 == 0 { Hash::Sha256 } else { Hash::Sha1 };
                attempt = Some(Attempt::new(hash, salt, client));
                done = Some(1);
                continue;
            }
            (Ok(Phase::ClientChallenge(sent)), Some(attempt)) => {
                (2, attempt.client_challenge(&sent, &host, secret, challenge).map(drop))
            }
            (Ok(Phase::ServerChallengeResponse(sent)), Some(attempt)) => {
                (3, attempt.server_challenge_response(&sent, &NoKey).map(drop))
            }
            (Ok(Phase::ClientPairingSecret(sent)), Some(attempt)) => {
                let outcome = attempt.client_pairing_secret(&sent);
                assert!(!matches!(outcome, Ok(Outcome::Paired(_))), "nothing was proven");
                (4, outcome.map(drop))
            }
            (Ok(_), _) => continue,
            (Err(error), _) => {
                is_well_formed(&error.response());
                (attempt, done) = (None, None);
                continue;
            }
        };
        assert_eq!(result, if done == Some(due) { Ok(()) } else { Err(PairingError::Order) });
        done = done.filter(|done| *done == due && due < 4).map(|done| done + 1);
    }
}

/// A certificate as DER, as PEM and as the hexadecimal of pairing.
pub fn x509(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    _ = pem_to_der(&text, "PRIVATE KEY");
    let from_text = [Certificate::from_pem(&text), Certificate::from_hex_of_pem(&text)];
    let from_der = Certificate::from_der(bytes);
    if let Ok(certificate) = &from_der {
        assert_eq!(certificate.der(), bytes);
        let longer = [bytes, &[0]].concat();
        let error = Certificate::from_der(&longer).unwrap_err();
        assert!(matches!(error, CertificateError::Der | CertificateError::TooLong));
    }
    for certificate in from_text.into_iter().chain([from_der]).flatten() {
        assert_eq!(Certificate::from_der(certificate.der()).as_ref(), Ok(&certificate));
        let (pem, digits) = (certificate.to_pem(), client_certificate_parameter(&certificate));
        if pem.len() <= crate::proto::x509::CERTIFICATE_BYTES_MAX {
            assert_eq!(Certificate::from_pem(&pem).as_ref(), Ok(&certificate));
            assert_eq!(Certificate::from_hex_of_pem(&digits).as_ref(), Ok(&certificate));
        }
        assert!(!certificate.serial().is_empty() && !certificate.signature().is_empty());
        let (key, signature) = (certificate.public_key(), certificate.signature());
        assert!(!rsa_pkcs1_sha256_verifies(key, b"never signed", signature));
    }
}

/// What an operator may call things, and what an error may quote: fields between zero bytes.
pub fn serverinfo(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let fields: Vec<&str> = text.split('\0').take(64).collect();
    let codecs = CodecSupport { h264: true, hevc: true, av1: false, extra_bits: u32::MAX };
    let info = ServerInfo {
        hostname: fields[0],
        uniqueid: fields.last().copied().unwrap_or_default(),
        https_port: 47984,
        external_port: 47989,
        external_ip: None,
        local_ip: std::net::Ipv6Addr::LOCALHOST.into(),
        mac: Some([2; 6]),
        codecs: &codecs,
        paired: true,
        current_app: 1,
    };
    is_well_formed(&info.response());
    let answer = info.public().response();
    is_well_formed(&answer);
    let body = String::from_utf8(answer.body).expect("it is text");
    assert!(body.contains("<PairStatus>0</PairStatus>") && body.contains("<currentgame>0<"));
    assert!(!body.contains("02:02"), "strangers are not told the hardware address");
    let apps = (1..).zip(&fields).map(|(id, title)| App { id, title, hdr: false });
    is_well_formed(&app_list(apps));
    is_well_formed(&status(400, &text));
}

/// An XML parser would take the document, and find one `root`.
fn is_well_formed(answer: &Response) {
    let text = std::str::from_utf8(&answer.body).expect("it is text");
    let legal = |c: char| !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}');
    let (declaration, mut rest) = text.split_once('\n').expect("a declaration");
    assert!(declaration.starts_with("<?xml ") && rest.chars().all(legal), "{text}");
    let mut open: Vec<&str> = Vec::new();
    while let Some((before, after)) = rest.split_once('<') {
        is_text(before);
        let (tag, after) = after.split_once('>').expect("a tag ends");
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
        } else {
            assert!(!open.is_empty() || tag.starts_with("root "), "one root");
            let name = tag.split(' ').next().expect("a name");
            attributes(tag[name.len()..].trim_end_matches('/'));
            if !tag.ends_with('/') {
                open.push(name);
            }
        }
    }
    is_text(rest);
    assert!(open.is_empty() && rest.is_empty(), "{text}");
}

fn attributes(mut text: &str) {
    while let Some(rest) = text.strip_prefix(' ') {
        let (name, rest) = rest.split_once("=\"").expect("a quoted value");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        let (value, rest) = rest.split_once('"').expect("its end");
        is_text(value);
        text = rest;
    }
    assert!(text.is_empty(), "{text}");
}

/// No markup but references.
fn is_text(text: &str) {
    assert!(!text.contains(['<', '>', '"']), "{text}");
    for reference in text.split('&').skip(1) {
        let (name, _) = reference.split_once(';').expect("a reference ends");
        let is_known = ["amp", "lt", "gt", "quot", "apos"].contains(&name);
        assert!(is_known || name.starts_with("#"), "{name}");
    }
}
