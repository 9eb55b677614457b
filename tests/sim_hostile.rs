//! A host under hostile clients: every wrong request gets its reason, starts nothing and harms nobody,
//! and what the host holds stays bounded.
#[allow(dead_code, reason = "shared with the simulation")]
#[path = "sim/kit.rs"]
mod kit;
#[allow(dead_code, reason = "shared with the simulation")]
#[path = "sim/setup.rs"]
mod setup;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use moonshard::host::event::{Answer, CallId, Caller, Effect, Event, Route};
use moonshard::host::{Client, Host, client_id};
use moonshard::ipc::{AdminRequest, FromSession, SessionId, ToSession, ViewerGrant};
use moonshard::proto::crypto::Hash;
use moonshard::proto::hex;
use moonshard::proto::http::Head;
use moonshard::proto::pairing::{ClientAttempt, Pin, client_certificate_parameter};
use moonshard::proto::rtsp::{self, Direction};
use moonshard::proto::secret::SessionKey;
use moonshard::proto::stream::Flow;
use moonshard::time::{Entropy, Time};

use kit::kit;

/// SplitMix64.
struct Chance(u64);

impl Entropy for Chance {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
        }
    }
}

struct Bench {
    host: Host,
    now: Time,
    chance: Chance,
    calls: u64,
}

const HONEST: &str = "10.0.0.9";

impl Bench {
    fn new() -> Self {
        let client = |c: u8| Client { certificate: vec![c], name: "x".into(), paired_at: 1 };
        let disk: BTreeMap<_, _> =
            [1, 2].map(client).into_iter().map(|c| (client_id(&c.certificate), c)).collect();
        let host = setup::host(&disk);
        Self { host, now: Time::from_millis(1_000), chance: Chance(7), calls: 0 }
    }

    fn event(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.host.handle(event, self.now, &mut self.chance, &mut effects);
        effects
    }

    fn http(&mut self, peer: &str, client: Option<u8>, target: &str) -> Vec<Effect> {
        self.calls += 1;
        let head = format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        let (request, _) = Head::parse(head.as_bytes()).unwrap().unwrap();
        let caller = Caller {
            peer: SocketAddr::new(peer.parse().unwrap(), 5_000),
            local: "10.0.0.1:47984".parse().unwrap(),
            certificate: client.map(|c| vec![c]),
            tls: client.is_some(),
        };
        self.event(Event::Http { call: CallId(self.calls), caller, request })
    }

    fn rtsp(&mut self, peer: &str, wire: Vec<u8>) -> Vec<Effect> {
        self.calls += 1;
        let peer = SocketAddr::new(peer.parse().unwrap(), 6_000);
        let local = "10.0.0.1:48010".parse().unwrap();
        self.event(Event::Rtsp { call: CallId(self.calls), peer, local, wire })
    }

    /// Client 1 launches and has its grant.
    fn launched(&mut self, key: u8) -> (SessionId, ViewerGrant) {
        let effects = self.http(HONEST, Some(1), &launch("rikey", &hex::encode(&[key; 16])));
        let session = effects
            .iter()
            .find_map(|e| match e {
                Effect::Spawn { spec } => Some(spec.id),
                _ => None,
            })
            .expect("spawned");
        let effects = self.event(Event::Session { session, message: FromSession::Started });
        let grant = effects.iter().find_map(|e| match e {
            Effect::Send { message: ToSession::Grant(grant), .. } => Some(grant.clone()),
            _ => None,
        });
        (session, grant.expect("granted"))
    }

    fn bounded(&self) {
        for (what, size) in self.host.sizes() {
            assert!(size <= 1_024, "{size} {what}");
        }
    }
}

/// A launch with one value of its own.
fn launch(name: &str, value: &str) -> String {
    let all = [
        ("appid", "1"),
        ("mode", "1280x720x60"),
        ("rikey", "000102030405060708090A0B0C0D0E0F"),
        ("rikeyid", "7"),
        ("localAudioPlayMode", "0"),
        ("surroundAudioInfo", "196610"),
        ("corever", "1"),
    ];
    let pairs = all.map(|(n, v)| format!("{n}={}", if n == name { value } else { v }));
    format!("/launch?{}", pairs.join("&"))
}

fn body(effects: &[Effect]) -> String {
    let [Effect::Answer { answer: Answer::Http(response), .. }] = effects else {
        panic!("not one answer and nothing else: {effects:?}")
    };
    String::from_utf8(response.body.clone()).unwrap()
}

/// The one thing that happened is an answer with an error and a reason.
fn refused(effects: &[Effect], what: &str) {
    let started = effects.iter().any(|e| !matches!(e, Effect::Answer { .. }));
    assert!(!started, "{what} has started something");
    let body = body(effects);
    assert!(!body.contains("status_code=\"200\""), "{what}: {body}");
    let (_, reason) = body.split_once("status_message=\"").expect("a reason");
    assert!(reason.find('"').is_some_and(|end| end > 10), "{what}: {body}");
    assert!(body.len() < 1_024, "{what}: what was sent is not sent back");
}

#[test]
fn wrong_launches_are_told_why_and_start_nothing() {
    let mut bench = Bench::new();
    let huge = "A".repeat(8_000);
    let wrong: [(&str, &[&str]); 7] = [
        ("appid", &["", "x", "-1", "0", "99", "2147483648", "1%00", &huge]),
        ("mode", &["1x", "99999x1x1", "0x0x60", "1280x720x-60", "axbxc", &huge]),
        ("rikey", &["", "00", "zz0102030405060708090A0B0C0D0E0F", &huge]),
        ("rikeyid", &["", "x", "99999999999", &huge]),
        ("localAudioPlayMode", &["", "2", "x", &huge]),
        ("surroundAudioInfo", &["x", "99999999999", &huge]),
        ("corever", &["x", &huge]),
    ];
    for (name, values) in wrong {
        for value in values {
            let short: String = value.chars().take(20).collect();
            let effects = bench.http(HONEST, Some(1), &launch(name, value));
            refused(&effects, &format!("{name}={short}"));
        }
    }
    for name in ["appid", "rikey", "rikeyid", "localAudioPlayMode"] {
        let target = launch(name, "").replace(&format!("{name}=&"), "");
        refused(&bench.http(HONEST, Some(1), &target), name);
        let twice = format!("{}&{name}=2", launch("", ""));
        refused(&bench.http(HONEST, Some(1), &twice), &format!("{name} twice"));
    }
    assert!(bench.host.is_idle());
    // None of these used the key up.
    bench.launched(1);
}

#[test]
fn wrong_pairing_requests_are_told_why_and_leave_nothing() {
    let mut bench = Bench::new();
    let certificate = client_certificate_parameter(&kit().newcomer.certificate);
    let huge = "A".repeat(20_000);
    let first = |id: &str, salt: &str, certificate: &str| {
        format!("/pair?uniqueid={id}&phrase=getservercert&salt={salt}&clientcert={certificate}")
    };
    let salt = "00".repeat(16);
    let wrong = [
        "/pair".to_owned(),
        "/pair?uniqueid=1".into(),
        "/pair?uniqueid=1&phrase=nonsense".into(),
        "/pair?uniqueid=1&phrase=pairchallenge".into(),
        "/pair?uniqueid=1&clientchallenge=00".into(),
        "/pair?uniqueid=1&serverchallengeresp=zz".into(),
        "/pair?uniqueid=1&clientpairingsecret=".into(),
        first("", &salt, &certificate),
        first("..%2f..%2fetc", &salt, &certificate),
        first(&huge[..200], &salt, &certificate),
        first("1", "", &certificate),
        first("1", "zz", &certificate),
        first("1", &salt, ""),
        first("1", &salt, &huge),
        first("1", &salt, &certificate[..certificate.len() / 2]),
    ];
    for target in wrong {
        let short: String = target.chars().take(60).collect();
        refused(&bench.http("10.0.0.66", None, &target), &short);
        assert!(bench.host.is_idle(), "{short}");
    }
}

/// A client's pairing after phase 1 was asked for.
struct Guest {
    address: String,
    salt: [u8; 16],
    pin: String,
    id: String,
}

impl Guest {
    fn asks(bench: &mut Bench, address: String, pin: String) -> Option<Self> {
        let mut salt = [0; 16];
        bench.chance.fill(&mut salt);
        let certificate = client_certificate_parameter(&kit().newcomer.certificate);
        let target = format!(
            "/pair?uniqueid=0123456789ABCDEF&phrase=getservercert&salt={}&clientcert={certificate}",
            hex::encode(&salt)
        );
        let effects = bench.http(&address, None, &target);
        let id = effects.iter().find_map(|effect| match effect {
            Effect::PairingAsked(asked) => Some(asked.id.clone()),
            _ => None,
        })?;
        Some(Self { address, salt, pin, id })
    }

    fn phase(&self, bench: &mut Bench, name: &str, value: &[u8]) -> Vec<Effect> {
        let target = format!("/pair?uniqueid=0123456789ABCDEF&{name}={}", hex::encode(value));
        bench.http(&self.address, None, &target)
    }

    /// The operator types this; the client goes on as far as an honest one does. True: stored.
    fn goes_on(&self, bench: &mut Bench, typed: &str) -> bool {
        let request = AdminRequest::Pin { id: self.id.clone(), pin: typed.into() };
        bench.event(Event::Admin { id: 1, request });
        let (host, client) = (kit().own().certificate, kit().newcomer.certificate.clone());
        let pin = Pin::parse(&self.pin).unwrap();
        let (attempt, sent) =
            ClientAttempt::new(Hash::Sha256, &self.salt, &pin, client, host, [5; 16]);
        let element = |effects: &[Effect], name: &str| {
            let body = body(effects);
            let (_, rest) = body.split_once(&format!("<{name}>")).expect("an answer");
            hex::decode(rest.split('<').next().unwrap()).unwrap()
        };
        let effects = self.phase(bench, "clientchallenge", &sent);
        let answer = element(&effects, "challengeresponse");
        let (proof, sent) = attempt.challenge_response(&answer, [6; 16]).unwrap();
        let effects = self.phase(bench, "serverchallengeresp", &sent);
        let answer = element(&effects, "pairingsecret");
        let Ok(sent) = proof.pairing_secret(&answer, &kit().newcomer.signer) else {
            bench.http(&self.address, None, "/unpair?uniqueid=0123456789ABCDEF");
            return false;
        };
        let effects = self.phase(bench, "clientpairingsecret", &sent);
        effects.iter().any(|e| matches!(e, Effect::StoreClient { .. }))
    }
}

#[test]
fn of_fifty_crossed_pairings_each_pin_fits_only_its_own() {
    let mut bench = Bench::new();
    let ask = |bench: &mut Bench| -> Vec<Guest> {
        let guest = |n: u64| {
            Guest::asks(bench, format!("10.1.0.{n}"), format!("{:04}", 1_000 + n)).expect("asked")
        };
        (0..50).map(guest).collect()
    };
    let guests = ask(&mut bench);
    for (n, guest) in guests.iter().enumerate() {
        let other = &guests[(n + 1) % guests.len()];
        assert!(!guest.goes_on(&mut bench, &other.pin), "{n} paired by another's PIN");
    }
    assert_eq!(bench.host.sizes()["clients"], 2);
    let guests = ask(&mut bench);
    let paired = guests.iter().filter(|guest| guest.goes_on(&mut bench, &guest.pin)).count();
    assert_eq!(paired, 50);
    bench.bounded();
}

#[test]
fn of_ten_thousand_guesses_five_are_looked_at() {
    let mut bench = Bench::new();
    let mut looked_at = 0;
    for guess in 0..10_000 {
        let Some(guest) = Guest::asks(&mut bench, "10.0.0.66".into(), format!("{guess:04}")) else {
            continue;
        };
        looked_at += 1;
        assert!(!guest.goes_on(&mut bench, "9999"));
    }
    assert_eq!(looked_at, 5);
    let honest = Guest::asks(&mut bench, HONEST.into(), "4711".into()).expect("not punished");
    assert!(honest.goes_on(&mut bench, "4711"));
    // From ever new addresses: what is remembered of them stays bounded.
    for n in 0..3_000u32 {
        let address = std::net::Ipv4Addr::from(0x0B00_0000 + n).to_string();
        if let Some(guest) = Guest::asks(&mut bench, address, "0000".into()) {
            let request = AdminRequest::Pin { id: guest.id.clone(), pin: "1111".into() };
            bench.event(Event::Admin { id: 1, request });
            bench.http(&guest.address, None, "/unpair?uniqueid=0123456789ABCDEF");
        }
    }
    bench.bounded();
}

#[test]
fn rtsp_of_strangers_is_closed_and_the_launch_goes_on() {
    let mut bench = Bench::new();
    let (_, grant) = bench.launched(1);
    let request = b"OPTIONS rtsp://10.0.0.1:48010 RTSP/1.0\r\nCSeq: 1\r\n\r\n";
    let before = bench.host.sizes();
    let closed =
        |effects: &[Effect]| matches!(effects, [Effect::Answer { answer: Answer::Close, .. }]);
    for n in 0..3_000u32 {
        let mut key = SessionKey([0; 16]);
        bench.chance.fill(&mut key.0);
        let wire = rtsp::seal(&key, n, Direction::ClientToHost, request);
        assert!(closed(&bench.rtsp(HONEST, wire)));
    }
    let sealed = rtsp::seal(&grant.key, 5, Direction::ClientToHost, request);
    // Every byte of a good message matters; cut ones are none.
    for at in 0..sealed.len() {
        let mut wire = sealed.clone();
        wire[at] ^= 1;
        // The first bit of the length tells sealed from plain; both are closed for a sealed launch.
        assert!(closed(&bench.rtsp(HONEST, wire)), "byte {at}");
        assert!(closed(&bench.rtsp(HONEST, sealed[..at].to_vec())), "{at} bytes");
    }
    assert_eq!(bench.host.sizes(), before);
    let answered =
        |effects: &[Effect]| matches!(effects, [Effect::Answer { answer: Answer::Rtsp(_), .. }]);
    assert!(answered(&bench.rtsp(HONEST, sealed.clone())));
    assert!(closed(&bench.rtsp(HONEST, sealed)), "replayed");
}

#[test]
fn forged_and_replayed_first_datagrams_bring_nothing_about() {
    let mut bench = Bench::new();
    let (session, grant) = bench.launched(1);
    let before = bench.host.sizes();
    let evil: SocketAddr = "10.0.0.66:6666".parse().unwrap();
    for n in 0..10_000u32 {
        let mut payload = [0; 16];
        bench.chance.fill(&mut payload);
        let now = bench.now;
        let flow = if n % 2 == 0 { Flow::Video } else { Flow::Audio };
        assert_eq!(bench.host.route_ping(flow, Some(&payload), evil, now), Route::Stranger);
        assert_eq!(bench.host.route_ping(flow, None, evil, now), Route::Stranger);
        assert_eq!(bench.host.route_connect(n, evil, now), Route::Stranger);
        assert_eq!(bench.host.route_peer(n as u16 & 0xFFF, evil, now), Route::Stranger);
    }
    assert_eq!(bench.host.sizes(), before);
    // Who has seen the payload can replay it: once a second at most.
    let payload = grant.ping_payload.as_bytes().try_into().unwrap();
    let here = Route::HandOver { session, viewer: grant.viewer };
    let mut handed = 0;
    for ms in 0..5_000 {
        let now = bench.now + Duration::from_millis(ms);
        handed += u32::from(bench.host.route_ping(Flow::Video, Some(payload), evil, now) == here);
    }
    assert_eq!(handed, 5);
}

#[test]
fn a_client_that_launches_and_quits_without_end_holds_little() {
    let mut bench = Bench::new();
    let mut granted = 0;
    for n in 0..2_000u64 {
        let mut key = [0; 16];
        bench.chance.fill(&mut key);
        let effects = bench.http(HONEST, Some(2), &launch("rikey", &hex::encode(&key)));
        let spawned = effects.iter().find_map(|e| match e {
            Effect::Spawn { spec } => Some(spec.id),
            _ => None,
        });
        if let Some(session) = spawned {
            granted += 1;
            bench.event(Event::Session { session, message: FromSession::Started });
        }
        if n % 3 == 0 {
            bench.http(HONEST, Some(2), "/cancel");
        }
        bench.event(Event::Admin { id: n, request: AdminRequest::Sessions });
    }
    assert!(granted <= setup::SEATS as u32, "{granted} at once");
    bench.bounded();
    // Others still have what they need but for the seats.
    let info = body(&bench.http(HONEST, Some(1), "/serverinfo"));
    assert!(info.contains("_SERVER_FREE<"));
}
