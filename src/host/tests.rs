//! The host machine driven by hand: pairing transcripts, the launch table, RTSP, routes.
use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;

use super::event::{Answer, CallId, Caller, Effect, Event, HostFacts, Route};
use super::pairings::OwnIdentity;
use super::{Client, Host, HostSetup, client_id};
use crate::config::{App, Config, Surroundings};
use crate::ipc::{
    AdminAnswer, AdminRequest, AppSpec, FromSession, SessionId, SessionPolicy, ToSession,
    ViewerGrant,
};
use crate::proto::crypto::RsaSigner;
use crate::proto::hex;
use crate::proto::http::Head;
use crate::proto::rtsp::{self, Direction};
use crate::proto::stream::{CodecSupport, Flow};
use crate::proto::x509::{Certificate, pem_to_der};
use crate::time::{Entropy, Time};

mod adoption;
mod client;
mod endings;
mod handshake;
mod launch;
mod operator;
mod routes;

fn vector(name: &str) -> Value {
    let path = format!("{}/tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Gives out what a test wants next, then a counter.
#[derive(Default)]
struct Script {
    next: Vec<Vec<u8>>,
    counter: u16,
}

impl Entropy for Script {
    fn fill(&mut self, bytes: &mut [u8]) {
        match self.next.first() {
            Some(wanted) if wanted.len() == bytes.len() => {
                bytes.copy_from_slice(&self.next.remove(0));
            }
            _ => {
                self.counter += 1;
                let [low, high] = self.counter.to_le_bytes();
                bytes.fill(low);
                bytes[0] ^= high;
            }
        }
    }
}

struct Bench {
    host: Host,
    now: Time,
    entropy: Script,
    calls: u64,
}

const TWO: [u8; 2] = *b"ab";

impl Bench {
    fn new(own: OwnIdentity, clients: Vec<Client>) -> Self {
        let app = |id, title: &str| App {
            spec: AppSpec {
                id,
                title: title.into(),
                command: vec!["true".into()],
                environment: BTreeMap::new(),
                directory: None,
            },
            image: None,
        };
        let usual = Config::parse("", &Surroundings { root: true, ..Surroundings::default() });
        let usual = usual.expect("the defaults hold");
        let config = Config {
            host_name: "den".into(),
            session: SessionPolicy { keep_ms: 0, reason_ms: 0, ..usual.session },
            apps: vec![app(1, "Desktop"), app(2, "Pattern")],
            ..usual
        };
        let codecs = CodecSupport { h264: true, hevc: true, av1: true, extra_bits: 0 };
        let setup = HostSetup {
            config,
            uuid: "7C0F1B1E-5B0E-4E53-9A40-0D1B5B4B2E11".into(),
            own,
            clients,
            facts: HostFacts { macs: Vec::new(), codecs },
            pictures: BTreeMap::new(),
        };
        let now = Time::from_millis(1000);
        Self { host: Host::new(setup), now, entropy: Script::default(), calls: 0 }
    }

    /// A host and two paired clients, `TWO`.
    fn paired() -> Self {
        let clients = TWO.map(|c| Client { certificate: vec![c], name: "x".into(), paired_at: 1 });
        Self::new(own(&vector("pairing-01-qt-sha256")), clients.to_vec())
    }

    fn event(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.host.handle(event, self.now, &mut self.entropy, &mut effects);
        effects
    }

    fn http(
        &mut self,
        peer: &str,
        certificate: Option<&[u8]>,
        target: &str,
    ) -> (CallId, Vec<Effect>) {
        self.calls += 1;
        let call = CallId(self.calls);
        let head = format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        let (request, _) = Head::parse(head.as_bytes()).unwrap().unwrap();
        let caller = Caller {
            peer: SocketAddr::new(peer.parse().unwrap(), 5000),
            local: "10.0.0.1:47984".parse().unwrap(),
            certificate: certificate.map(<[u8]>::to_vec),
            tls: certificate.is_some(),
        };
        (call, self.event(Event::Http { call, caller, request }))
    }

    fn launch(
        &mut self,
        client: u8,
        peer: &str,
        what: &str,
        key: u8,
        corever: u8,
    ) -> (CallId, Vec<Effect>) {
        let target = format!(
            "/{what}&mode=1280x720x60&rikey={}&rikeyid=7&localAudioPlayMode=0&corever={corever}",
            hex::encode(&[key; 16])
        );
        self.http(peer, Some(&[client]), &target)
    }

    /// Launches app 1 and has its session come up; returns the session and its grant.
    fn running(
        &mut self,
        client: u8,
        peer: &str,
        key: u8,
        corever: u8,
    ) -> (SessionId, ViewerGrant) {
        let (call, effects) = self.launch(client, peer, "launch?appid=1", key, corever);
        let session = spawned(&effects);
        assert!(self.event(Event::SessionSpawned { session, result: Ok(()) }).is_empty());
        let effects = self.event(Event::Session { session, message: FromSession::Started });
        assert!(body(&effects, call).contains("<gamesession>1</gamesession>"));
        (session, grant(&effects))
    }

    fn rtsp(&mut self, peer: &str, wire: Vec<u8>) -> (CallId, Vec<Effect>) {
        self.calls += 1;
        let call = CallId(self.calls);
        let peer = SocketAddr::new(peer.parse().unwrap(), 6000);
        let local = "10.0.0.1:48010".parse().unwrap();
        (call, self.event(Event::Rtsp { call, peer, local, wire }))
    }
}

fn own(vector: &Value) -> OwnIdentity {
    let pem = text(&vector["server"]["cert_pem"]).to_owned();
    let key = pem_to_der(text(&vector["server"]["key_pem"]), "PRIVATE KEY").unwrap();
    OwnIdentity {
        certificate: Certificate::from_pem(&pem).unwrap(),
        pem,
        signer: Box::new(RsaSigner::from_der(&key).unwrap()),
    }
}

fn find<T>(effects: &[Effect], pick: impl Fn(&Effect) -> Option<T>) -> Option<T> {
    effects.iter().find_map(pick)
}

fn body(effects: &[Effect], wanted: CallId) -> String {
    let pick = |effect: &Effect| match effect {
        Effect::Answer { call, answer: Answer::Http(r) } if *call == wanted => {
            Some(String::from_utf8(r.body.clone()).unwrap())
        }
        _ => None,
    };
    find(effects, pick).unwrap_or_else(|| panic!("no answer in {effects:?}"))
}

fn spawned(effects: &[Effect]) -> SessionId {
    let pick = |effect: &Effect| match effect {
        Effect::Spawn { spec } => Some(spec.id),
        _ => None,
    };
    find(effects, pick).expect("a session is spawned")
}

fn grant(effects: &[Effect]) -> ViewerGrant {
    let pick = |effect: &Effect| match effect {
        Effect::Send { message: ToSession::Grant(grant), .. } => Some(grant.clone()),
        _ => None,
    };
    find(effects, pick).expect("a grant is sent")
}

fn rtsp_bytes(effects: &[Effect]) -> Vec<u8> {
    let pick = |effect: &Effect| match effect {
        Effect::Answer { answer: Answer::Rtsp(bytes), .. } => Some(bytes.clone()),
        _ => None,
    };
    find(effects, pick).unwrap_or_else(|| panic!("no RTSP answer in {effects:?}"))
}

#[test]
fn pairing_transcripts_replay_bit_for_bit_and_only_the_proven_are_stored() {
    for (name, paired) in [
        ("pairing-01-qt-sha256", true),
        ("pairing-02-android-sha256", true),
        ("pairing-03-x509v2-client-sha256", true),
        ("pairing-04-embedded-sha256", true),
        ("pairing-05-wrong-pin", false),
        ("pairing-06-bad-client-signature", false),
        ("pairing-07-client-key-mismatch", false),
    ] {
        let vector = vector(name);
        let mut bench = Bench::new(own(&vector), Vec::new());
        let phases = vector["phases"].as_array().unwrap();
        let (first, effects) = bench.http("10.0.0.9", None, text(&phases[0]["request_target"]));
        let Some(Effect::PairingAsked(asked)) = effects.first() else { panic!("{effects:?}") };
        let pin = text(&vector["pin_entered_by_user_on_host"]).to_owned();
        let request = AdminRequest::Pin { id: asked.id.clone(), pin };
        let effects = bench.event(Event::Admin { id: 1, request });
        assert_eq!(body(&effects, first), text(&phases[0]["response_body"]), "{name} 1");
        let middle = &phases[1]["intermediate"];
        for value in ["server_secret", "server_challenge"] {
            bench.entropy.next.push(hex::decode(text(&middle[value])).unwrap());
        }
        for (number, phase) in phases.iter().enumerate().skip(1).take(3) {
            let (call, mut effects) = bench.http("10.0.0.9", None, text(&phase["request_target"]));
            let stored = effects.iter().find_map(|e| match e {
                Effect::StoreClient { client, certificate, .. } => {
                    Some((*client, certificate.clone()))
                }
                _ => None,
            });
            assert_eq!(stored.is_some(), number == 3 && paired, "{name}");
            if let Some((client, certificate)) = stored {
                assert_eq!(certificate, hex::decode(text(&vector["client"]["cert_der"])).unwrap());
                assert!(
                    effects.iter().all(|e| !matches!(e, Effect::Answer { .. })),
                    "stored first"
                );
                effects = bench.event(Event::ClientStored { client, result: Ok(9) });
            }
            assert_eq!(body(&effects, call), text(&phase["response_body"]), "{name} {number}");
        }
        let der = hex::decode(text(&vector["client"]["cert_der"])).unwrap();
        let (call, effects) =
            bench.http("10.0.0.9", Some(&der), "/pair?uniqueid=1&phrase=pairchallenge");
        let expected = if paired { "<paired>1</paired>" } else { "status_code=\"401\"" };
        assert!(body(&effects, call).contains(expected), "{name}");
    }
}

#[test]
fn too_many_wrong_guesses_from_one_source_are_not_evaluated() {
    let vector = vector("pairing-05-wrong-pin");
    let mut bench = Bench::new(own(&vector), Vec::new());
    let target = text(&vector["phases"][0]["request_target"]).to_owned();
    let mut evaluated = 0;
    for _ in 0..50 {
        let (call, effects) = bench.http("10.0.0.9", None, &target);
        let Some(Effect::PairingAsked(asked)) = effects.first() else {
            assert!(body(&effects, call).contains("status_code=\"429\""));
            continue;
        };
        let request = AdminRequest::Pin { id: asked.id.clone(), pin: "9999".into() };
        bench.event(Event::Admin { id: 1, request });
        evaluated += 1;
        bench.http("10.0.0.9", None, "/unpair?uniqueid=0c0609b218ad8f3b");
        let id = target.split("uniqueid=").nth(1).unwrap().split('&').next().unwrap();
        bench.http("10.0.0.9", None, &format!("/unpair?uniqueid={id}"));
    }
    assert_eq!(evaluated, 5);
    let (_, effects) = bench.http("10.0.0.10", None, &target);
    assert!(matches!(effects.first(), Some(Effect::PairingAsked(_))), "others are not punished");
}

#[test]
fn what_the_unpaired_see() {
    let mut bench = Bench::paired();
    let (call, effects) = bench.http("10.0.0.9", None, "/serverinfo");
    let info = body(&effects, call);
    for part in ["<PairStatus>0<", "<mac>00:00:00:00:00:00<", "_SERVER_FREE<", "<currentgame>0<"] {
        assert!(info.contains(part), "{part}");
    }
    let (call, effects) = bench.http("10.0.0.9", None, "/applist");
    assert!(body(&effects, call).contains("status_code=\"404\""));
    for path in ["/serverinfo", "/applist", "/launch?appid=1", "/nonsense", "/cancel"] {
        let (call, effects) = bench.http("10.0.0.9", Some(b"stranger"), path);
        assert!(body(&effects, call).contains("status_code=\"401\""), "{path}");
        assert_eq!(effects.len(), 1);
    }
}

#[test]
fn launch_resume_and_cancel_act_on_the_clients_own_session() {
    let mut bench = Bench::paired();
    let (call, effects) = bench.launch(b'a', "10.0.0.9", "resume?appid=1", 1, 1);
    assert!(body(&effects, call).contains("status_code=\"503\""));
    let (session, first) = bench.running(b'a', "10.0.0.9", 1, 1);
    let (call, effects) = bench.launch(b'a', "10.0.0.9", "launch?appid=2", 2, 1);
    assert!(body(&effects, call).contains("status_code=\"400\""));
    let (call, effects) = bench.launch(b'a', "10.0.0.9", "launch?appid=1", 1, 1);
    assert!(body(&effects, call).contains("status_code=\"400\""), "the same key again");
    let (call, effects) = bench.launch(b'a', "10.0.0.9", "launch?appid=1", 3, 1);
    assert!(body(&effects, call).contains("rtspenc://10.0.0.1:48010<"));
    let second = grant(&effects);
    assert_ne!(first.viewer, second.viewer);
    assert_ne!(first.ping_payload, second.ping_payload);
    assert_ne!(first.connect_data, second.connect_data);
    let ended = |e: &Effect| matches!(e, Effect::Send { message: ToSession::EndViewer { viewer, .. }, .. } if *viewer == first.viewer);
    assert!(effects.iter().any(ended));
    let (call, effects) = bench.http("10.0.0.9", Some(b"a"), "/serverinfo");
    assert!(
        body(&effects, call).contains("<currentgame>1</currentgame><state>SUNSHINE_SERVER_BUSY<")
    );
    let (call, effects) = bench.http("10.0.0.9", Some(b"b"), "/serverinfo");
    assert!(body(&effects, call).contains("_SERVER_FREE<"), "another client's session is its own");
    let (call, effects) = bench.http("10.0.0.9", Some(b"b"), "/cancel");
    assert!(body(&effects, call).contains("<cancel>1<"));
    assert_eq!(effects.len(), 1);
    let (call, effects) = bench.http("10.0.0.9", Some(b"a"), "/cancel");
    assert!(body(&effects, call).contains("<cancel>1<"));
    assert!(
        effects.iter().any(|e| matches!(e, Effect::Send { message: ToSession::Stop { .. }, .. }))
    );
    let (call, effects) = bench.http("10.0.0.9", Some(b"a"), "/serverinfo");
    assert!(body(&effects, call).contains("_SERVER_FREE<"));
    bench.now = bench.host.next_timeout().unwrap();
    let effects = bench.event(Event::Timeout);
    assert!(effects.iter().any(|e| matches!(e, Effect::Kill { session: s } if *s == session)));
    bench.event(Event::SessionExited {
        session,
        status: "signal 9".into(),
        last_words: String::new(),
    });
    assert!(bench.host.sessions().is_empty());
    assert_eq!(bench.host.next_timeout(), None);
}

#[test]
fn a_session_that_does_not_start_is_answered_with_its_reason() {
    let mut bench = Bench::paired();
    let (call, effects) = bench.launch(b'a', "10.0.0.9", "launch?appid=1", 1, 1);
    let session = spawned(&effects);
    let message = FromSession::StartFailed { reason: "no such program: gnome".into() };
    let effects = bench.event(Event::Session { session, message });
    let text = body(&effects, call);
    assert!(text.contains("status_code=\"500\"") && text.contains("no such program: gnome"));
    bench.event(Event::SessionExited { session, status: "exit 1".into(), last_words: "x".into() });
    let (call, effects) = bench.launch(b'a', "10.0.0.9", "launch?appid=1", 2, 1);
    let session = spawned(&effects);
    bench.now = bench.host.next_timeout().unwrap();
    let effects = bench.event(Event::Timeout);
    assert!(body(&effects, call).contains("did not start in time"));
    assert!(effects.iter().any(|e| matches!(e, Effect::Kill { session: s } if *s == session)));
}

#[test]
fn a_removed_client_is_locked_out_at_once_and_its_session_stopped() {
    let mut bench = Bench::paired();
    let (session, _) = bench.running(b'a', "10.0.0.9", 1, 1);
    let client = client_id(b"a").to_string();
    let effects =
        bench.event(Event::Admin { id: 4, request: AdminRequest::RemoveClient { client } });
    assert!(effects.iter().any(|e| matches!(e, Effect::EraseClient { .. })));
    assert!(effects.iter().any(|e| matches!(e, Effect::Send { session: s, message: ToSession::Stop { .. } } if *s == session)));
    let (call, effects) = bench.http("10.0.0.9", Some(b"a"), "/applist");
    assert!(body(&effects, call).contains("status_code=\"401\""));
    let effects = bench.event(Event::ClientErased { client: client_id(b"a"), result: Ok(()) });
    assert!(matches!(&effects[..], [Effect::AnswerAdmin { id: 4, answer: AdminAnswer::Done(_) }]));
}

/// Runs a recorded handshake; returns the grant's session.
fn handshake(bench: &mut Bench, vector: &Value, encrypted: bool) -> SessionId {
    let key_byte = hex::decode(text(&vector["rikey"])).unwrap();
    let target = format!(
        "/launch?appid=1&mode=1920x1080x60&rikey={}&rikeyid=7&localAudioPlayMode=0&corever={}",
        text(&vector["rikey"]),
        u8::from(encrypted)
    );
    let (_, effects) = bench.http("10.0.0.9", Some(b"a"), &target);
    let session = spawned(&effects);
    let effects = bench.event(Event::Session { session, message: FromSession::Started });
    let granted = grant(&effects);
    let key = crate::proto::secret::SessionKey(key_byte.try_into().unwrap());
    let mut token = String::new();
    let recorded = if encrypted { "exchanges" } else { "messages" };
    for (number, exchange) in vector[recorded].as_array().unwrap().iter().enumerate() {
        let request = &exchange["request"];
        let request = text(if encrypted { &request["plaintext"] } else { request });
        let request = request.replace("DEADBEEFCAFE", &token);
        // Clients count on over launches: this one begins at 8.
        let sequence = 8 + u32::try_from(number).unwrap();
        let wire = match encrypted {
            true => rtsp::seal(&key, sequence, Direction::ClientToHost, request.as_bytes()),
            false => request.into_bytes(),
        };
        let (_, mut effects) = bench.rtsp("10.0.0.9", wire.clone());
        if let Some(Effect::Send { message: ToSession::Announce { viewer, .. }, .. }) =
            effects.first()
        {
            assert_eq!(*viewer, granted.viewer);
            let message = FromSession::ViewerReady { viewer: *viewer };
            effects = bench.event(Event::Session { session, message });
        }
        let mut answer = rtsp_bytes(&effects);
        if encrypted {
            let opened = rtsp::open(&key, &answer, Direction::HostToClient).unwrap();
            assert_eq!(opened.0, 1 + u32::try_from(number).unwrap());
            answer = opened.1;
            let (_, effects) = bench.rtsp("10.0.0.9", wire);
            assert!(
                matches!(&effects[..], [Effect::Answer { answer: Answer::Close, .. }]),
                "replayed"
            );
        }
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("RTSP/1.0 200 OK\r\n"), "{answer}");
        if let Some(found) = answer.split("Session: ").nth(1) {
            token = found.split(';').next().unwrap().to_owned();
        }
    }
    let (now, source) = (bench.now, "10.0.0.9:7000".parse().unwrap());
    let payload = granted.ping_payload.as_bytes().try_into().unwrap();
    assert_eq!(
        bench.host.route_ping(Flow::Video, Some(b"0123456789abcdef"), source, now),
        Route::Stranger
    );
    let here = Route::HandOver { session, viewer: granted.viewer };
    assert_eq!(bench.host.route_ping(Flow::Video, Some(payload), source, now), here);
    assert_eq!(bench.host.route_ping(Flow::Video, Some(payload), source, now), Route::Stranger);
    assert_eq!(bench.host.route_connect(granted.connect_data ^ 1, source, now), Route::Stranger);
    assert_eq!(bench.host.route_peer(granted.peer_id, source, now), Route::Stranger);
    assert_eq!(bench.host.route_connect(granted.connect_data, source, now), here);
    session
}

#[test]
fn recorded_handshakes_get_through_sealed_and_plain() {
    let sealed = vector("rtsp-encrypted-local-stereo-hevc");
    handshake(&mut Bench::paired(), &sealed, true);
    let mut plain = vector("rtsp-plain-remote-51-av1");
    plain["rikey"] = sealed["rikey"].clone();
    handshake(&mut Bench::paired(), &plain, false);
}

#[test]
fn the_last_will_of_a_dead_session_reaches_only_its_peer() {
    let mut bench = Bench::paired();
    let session = handshake(&mut bench, &vector("rtsp-encrypted-local-stereo-hevc"), true);
    let viewer = bench.host.sessions.all[&session].grant.as_ref().unwrap().wire.clone();
    let (peer, local) = ("10.0.0.9:7000".parse().unwrap(), "10.0.0.1:47999".parse().unwrap());
    let message =
        FromSession::ViewerConnected { viewer: viewer.viewer, local, peer, last_will: vec![1, 2] };
    bench.event(Event::Session { session, message });
    bench.event(Event::SessionExited {
        session,
        status: "signal 9".into(),
        last_words: String::new(),
    });
    let now = bench.now;
    assert_eq!(bench.host.route_peer(viewer.peer_id, peer, now), Route::LastWill { session });
    let other = "10.0.0.9:7001".parse().unwrap();
    assert_eq!(bench.host.route_peer(viewer.peer_id, other, now), Route::Stranger);
    assert_eq!(bench.host.last_will(session), Some(vec![1, 2]));
}

#[test]
fn a_second_plain_launch_from_one_address_waits_its_turn_then_is_refused() {
    let mut bench = Bench::paired();
    bench.running(b'a', "10.0.0.9", 1, 0);
    let (call, effects) = bench.launch(b'b', "10.0.0.9", "launch?appid=1", 2, 0);
    let session = spawned(&effects);
    let effects = bench.event(Event::Session { session, message: FromSession::Started });
    assert!(effects.is_empty(), "it waits: {effects:?}");
    let start = bench.now;
    loop {
        bench.now = bench.host.next_timeout().unwrap();
        let effects = bench.event(Event::Timeout);
        assert!(bench.now.since(start).as_secs() <= 5, "it waits for ever");
        if !effects.is_empty() {
            assert!(body(&effects, call).contains("status_code=\"503\""));
            assert_eq!(bench.now.since(start).as_secs(), 5);
            return;
        }
    }
}

#[test]
fn a_launch_that_nobody_follows_disarms_and_can_be_resumed() {
    let mut bench = Bench::paired();
    let (session, first) = bench.running(b'a', "10.0.0.9", 1, 1);
    bench.now = bench.host.next_timeout().unwrap();
    let effects = bench.event(Event::Timeout);
    let ended = |e: &Effect| matches!(e, Effect::Send { session: s, message: ToSession::EndViewer { viewer, .. } } if *s == session && *viewer == first.viewer);
    assert!(effects.iter().any(ended));
    let (call, effects) = bench.launch(b'a', "10.0.0.9", "resume?appid=1", 2, 1);
    assert!(body(&effects, call).contains("<resume>1</resume>"));
}
