//! The shards of a front on loopback, with a scripted host behind them: deadlines, hostile peers,
//! polite endings. What the host would say is not tested here.
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use moonshard::config::Limits;
use moonshard::front::core::{Core, Machine, SystemEntropy};
use moonshard::front::counters::{Counters, ShardCounters};
use moonshard::front::reception::{Place, Reception};
use moonshard::host::event::{Answer, CallId, Caller, Effect, Event, HostFacts, Route};
use moonshard::ipc::SessionId;
use moonshard::proto::http::Response;
use moonshard::proto::ping::Payload;
use moonshard::proto::stream::Flow;
use moonshard::shard::TlsAcceptor;
use moonshard::time::{Entropy, Time};
use moonshard::tls::{config::server_config, identity::Identity};

/// What the scripted host has met.
#[derive(Default)]
struct Met {
    callers: Vec<Caller>,
    rtsp: Vec<Vec<u8>>,
    waiting: Vec<CallId>,
    gone: Vec<CallId>,
}

struct Script(Arc<Mutex<Met>>);

impl Machine for Script {
    fn handle(
        &mut self,
        event: Event,
        _now: Time,
        _entropy: &mut dyn Entropy,
        effects: &mut Vec<Effect>,
    ) {
        let mut met = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answer = |call, answer| effects.push(Effect::Answer { call, answer });
        match event {
            Event::Http { call, caller, request } => {
                met.callers.push(caller);
                match request.path.as_str() {
                    "/wait" => met.waiting.push(call),
                    "/panic" => panic!("as the script says"),
                    "/big" => answer(call, Answer::Http(Response::png(vec![7; 32 << 20]))),
                    path => {
                        answer(call, Answer::Http(Response::xml(format!("<root>{path}</root>"))))
                    }
                }
            }
            Event::Rtsp { call, wire, .. } => {
                answer(
                    call,
                    Answer::Rtsp(
                        format!("RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n{}", wire.len()).into(),
                    ),
                );
                met.rtsp.push(wire);
            }
            Event::CallGone { call } => met.gone.push(call),
            _ => {}
        }
    }
    fn next_timeout(&self) -> Option<Time> {
        None
    }
    fn route_ping(&mut self, _: Flow, _: Option<&Payload>, _: SocketAddr, _: Time) -> Route {
        Route::Stranger
    }
    fn route_connect(&mut self, _: u32, _: SocketAddr, _: Time) -> Route {
        Route::Stranger
    }
    fn route_peer(&mut self, _: u16, _: SocketAddr, _: Time) -> Route {
        Route::Stranger
    }
    fn last_will(&mut self, _: SessionId) -> Option<Vec<u8>> {
        None
    }
    fn learn(&mut self, _: HostFacts) {}
}

/// One test at a time: they count the descriptors of the process.
static ALONE: Mutex<()> = Mutex::new(());

struct House {
    https: SocketAddr,
    http: SocketAddr,
    rtsp: SocketAddr,
    core: Arc<Core>,
    /// Of its one shard.
    counters: Arc<ShardCounters>,
    reception: Reception,
    met: Arc<Mutex<Met>>,
    /// Held by the supervisor in real life.
    http_listener: TcpListener,
    _alone: MutexGuard<'static, ()>,
}

fn limits() -> Limits {
    Limits { handshake_ms: 400, head_ms: 600, write_ms: 500, ..Limits::default() }
}

fn open(limits: Limits) -> House {
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let met = Arc::new(Mutex::new(Met::default()));
    let counters = Arc::new(Counters::default());
    let script = Box::new(Script(Arc::clone(&met)));
    let core = Core::new(script, Box::new(SystemEntropy), Arc::clone(&counters)).unwrap();
    let listener = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let listeners = [listener(), listener(), listener()];
    let [https, http, rtsp] = listeners
        .each_ref()
        .map(|l| SocketAddr::from((Ipv4Addr::LOCALHOST, l.local_addr().unwrap().port())));
    let http_listener = listeners[1].try_clone().unwrap();
    let tls = TlsAcceptor::new(server_config(&Identity::make().unwrap()).unwrap());
    let places = vec![Place { core: None, listeners: listeners.map(Into::into) }];
    let reception = Reception::open(&core, limits, tls, places).unwrap();
    let counters = counters.shard(0);
    House { https, http, rtsp, core, counters, reception, met, http_listener, _alone: alone }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Waits for a condition, 5 s at most.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 5 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Everything until the peer ends the connection, and whether it ended it by a reset.
fn read_all(stream: &mut TcpStream) -> (Vec<u8>, bool) {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return (bytes, false),
            Ok(n) => bytes.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return (bytes, true),
            Err(e) => panic!("neither end nor reset: {e}"),
        }
    }
}

fn get(to: SocketAddr, path: &str) -> (String, bool) {
    let mut stream = connect(to);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let (bytes, reset) = read_all(&mut stream);
    (String::from_utf8(bytes).unwrap(), reset)
}

mod client {
    //! A TLS client as Moonlight is one: its own certificate, any server.
    use super::*;
    use moonshard::tls::client::AnyServer;
    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, StreamOwned};

    /// The DER of the certificate and the configuration that shows it.
    pub fn config() -> (Vec<u8>, Arc<ClientConfig>) {
        let text = include_str!("vectors/pairing-01-qt-sha256.json");
        let vector: serde_json::Value = serde_json::from_str(text).unwrap();
        let pem = |field: &str, kind: &str| {
            let text = vector["client"][field].as_str().unwrap();
            moonshard::proto::x509::pem_to_der(text, kind).unwrap()
        };
        let (certificate, key) = (pem("cert_pem", "CERTIFICATE"), pem("key_pem", "PRIVATE KEY"));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer))
            .with_client_auth_cert(
                vec![certificate.clone().into()],
                PrivateKeyDer::Pkcs8(key.into()),
            )
            .unwrap();
        (certificate, Arc::new(config))
    }

    pub fn connect(to: SocketAddr) -> StreamOwned<ClientConnection, TcpStream> {
        connect_with(&config().1, to)
    }

    pub fn connect_with(
        config: &Arc<ClientConfig>,
        to: SocketAddr,
    ) -> StreamOwned<ClientConnection, TcpStream> {
        let session = ClientConnection::new(Arc::clone(config), to.ip().into()).unwrap();
        StreamOwned::new(session, super::connect(to))
    }

    /// The bytes of a ClientHello.
    pub fn hello(to: SocketAddr) -> Vec<u8> {
        let mut session = ClientConnection::new(config().1, ServerName::from(to.ip())).unwrap();
        let mut hello = Vec::new();
        session.write_tls(&mut hello).unwrap();
        hello
    }
}

#[test]
fn a_paired_client_is_known_by_its_certificate_and_gets_a_clean_end() {
    let house = open(limits());
    let mut stream = client::connect(house.https);
    write!(stream, "GET /ok HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    // An error here would be a missing close_notify or a reset.
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("<root>/ok</root>"));
    let met = house.met.lock().unwrap();
    assert_eq!(met.callers[0].certificate, Some(client::config().0));
    assert!(met.callers[0].tls);
    assert_eq!(met.callers[0].peer, stream.sock.local_addr().unwrap());
    assert_eq!(met.callers[0].local, house.https);
    assert_eq!(house.counters.handshakes.get(), 1);
    assert_eq!(house.counters.handshake_time.count(), 1);
}

#[test]
fn a_client_that_comes_back_with_a_ticket_is_known_all_the_same() {
    let house = open(limits());
    let (certificate, config) = client::config();
    for expected in [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed] {
        let mut stream = client::connect_with(&config, house.https);
        write!(stream, "GET /ok HTTP/1.1\r\n\r\n").unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(stream.conn.handshake_kind(), Some(expected));
    }
    let met = house.met.lock().unwrap();
    assert!(met.callers.iter().all(|caller| caller.certificate.as_ref() == Some(&certificate)));
    assert_eq!(met.callers.len(), 2);
}

#[test]
fn connections_without_a_request_are_reset_at_their_deadline_and_leave_nothing() {
    let house = open(limits());
    let tasks = || house.reception.shards().vitals()[0].tasks();
    let idle = tasks();
    // The first connection makes what is made once.
    assert!(get(house.http, "/ok").0.contains("200 OK"));
    eventually("the first connection ends", || tasks() == idle);
    let before = descriptors();
    let hello = client::hello(house.https);
    let started = Instant::now();
    let mut peers: Vec<(TcpStream, Duration)> = Vec::new();
    let (handshake, head) = (Duration::from_millis(400), Duration::from_millis(600));
    for _ in 0..20 {
        peers.push((connect(house.https), handshake));
        peers.push((connect(house.http), head));
        peers.push((connect(house.rtsp), head));
        for (to, bytes, deadline) in [
            (house.https, &hello[..hello.len() / 2], handshake),
            (house.https, &hello[..], handshake),
            (house.http, &b"GET /ok HTTP/1.1\r\nHost:"[..], head),
            (house.rtsp, &b"OPTIONS rtsp://x RTSP/1.0\r\n"[..], head),
        ] {
            let mut stream = connect(to);
            stream.write_all(bytes).unwrap();
            peers.push((stream, deadline));
        }
    }
    for (stream, deadline) in &mut peers {
        // The server's flight may come before; no answer may.
        let (bytes, reset) = read_all(stream);
        assert!(reset, "closed without a reset");
        assert!(!bytes.starts_with(b"HTTP") && !bytes.starts_with(b"RTSP"));
        assert!(started.elapsed() >= *deadline - Duration::from_millis(5), "too early");
    }
    assert!(started.elapsed() < head + Duration::from_secs(1), "{:?}", started.elapsed());
    drop(peers);
    assert_eq!(house.counters.handshakes_late.get(), 60);
    assert_eq!(house.counters.heads_late.get(), 80);
    eventually("descriptors are back", || descriptors() == before);
    eventually("tasks are back", || tasks() == idle);
    assert!(get(house.http, "/ok").0.contains("200 OK"));
}

#[test]
fn a_drip_of_bytes_does_not_move_the_deadline() {
    let house = open(limits());
    let mut stream = connect(house.http);
    let started = Instant::now();
    let mut head = b"GET /ok?".iter().chain(std::iter::repeat(&b'a'));
    while stream.write_all(&[*head.next().unwrap()]).is_ok() {
        std::thread::sleep(Duration::from_millis(20));
        assert!(started.elapsed() < Duration::from_secs(3), "never closed");
    }
    assert!(started.elapsed() >= Duration::from_millis(550));
    assert_eq!(house.counters.heads_late.get(), 1);
}

#[test]
fn peers_that_leave_at_once_cost_nothing() {
    let house = open(limits());
    let before = descriptors();
    for round in 0..60 {
        let stream = connect([house.https, house.http, house.rtsp][round % 3]);
        if round % 2 == 0 {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
    let counters = &house.counters;
    eventually("all have left", || {
        let vanished = [&counters.https, &counters.http, &counters.rtsp]
            .map(|l| l.vanished.load(std::sync::atomic::Ordering::Relaxed));
        counters.left_early.get() + vanished.iter().sum::<u64>() == 60
    });
    eventually("descriptors are back", || descriptors() == before);
}

#[test]
fn what_is_no_tls_gets_an_alert_and_a_close() {
    let house = open(limits());
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], &[0x16, 3, 1, 0, 5, 9, 0, 0, 1, 0]]
    {
        let mut stream = connect(house.https);
        stream.write_all(garbage).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let (bytes, reset) = read_all(&mut stream);
        assert!(!reset, "reset after {garbage:?}");
        assert!(bytes.is_empty() || bytes[0] == 0x15, "an alert: {bytes:?}");
    }
    eventually("they are counted", || {
        house.counters.handshakes_failed.get() + house.counters.left_early.get() == 3
    });
}

#[test]
fn malformed_requests_get_400_and_an_orderly_close() {
    let house = open(limits());
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100 * 1024));
    let many: String = (0..1000).map(|n| format!("X-{n}: y\r\n")).collect();
    for head in [
        "GET /x\r\n\r\n",
        "GET /x HTTP/1.1\n\n",
        "POST /pair HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
        "GET /a HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nGET /b HTTP/1.1\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\0b\r\n\r\n",
        "\u{16}\u{3}\u{1}",
        &long,
        &format!("GET / HTTP/1.1\r\n{many}\r\n"),
    ] {
        let mut stream = connect(house.http);
        // The host may answer and close before all of it is written.
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.shutdown(Shutdown::Write);
        let (bytes, reset) = read_all(&mut stream);
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("HTTP/1.1 400 "), "{head:.40}: {text}");
        assert_eq!(text.matches("HTTP/1.1").count(), 1, "one answer: {text}");
        assert!(!reset, "{head:.40}");
    }
    assert_eq!(house.counters.http_malformed.get(), 8);
    assert!(house.met.lock().unwrap().callers.is_empty());
}

#[test]
fn a_head_in_single_bytes_is_a_request_and_what_follows_it_is_not() {
    let house = open(Limits { head_ms: 5_000, ..limits() });
    let mut stream = connect(house.http);
    for byte in b"GET /ok HTTP/1.1\r\nHost: x\r\n\r\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    let (bytes, reset) = read_all(&mut stream);
    assert!(bytes.ends_with(b"<root>/ok</root>") && !reset);

    let mut stream = connect(house.http);
    stream.write_all(b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n").unwrap();
    let (bytes, _) = read_all(&mut stream);
    assert!(bytes.ends_with(b"<root>/a</root>"));
    assert_eq!(house.met.lock().unwrap().callers.len(), 2);
}

#[test]
fn rtsp_in_single_bytes_is_answered_and_nonsense_gets_its_status() {
    let house = open(Limits { head_ms: 5_000, ..limits() });
    let message =
        b"ANNOUNCE streamid=control/13/0 RTSP/1.0\r\nCSeq: 6\r\nContent-length: 3\r\n\r\nv=0";
    let mut stream = connect(house.rtsp);
    for byte in message {
        stream.write_all(&[*byte]).unwrap();
    }
    let (bytes, reset) = read_all(&mut stream);
    assert!(bytes.starts_with(b"RTSP/1.0 200 OK") && !reset);
    assert_eq!(house.met.lock().unwrap().rtsp, [message.to_vec()]);

    let refused = |bytes: &[u8]| {
        let mut stream = connect(house.rtsp);
        let _ = stream.write_all(bytes);
        let (bytes, reset) = read_all(&mut stream);
        assert!(!reset);
        String::from_utf8(bytes).unwrap()
    };
    let long = b"ANNOUNCE x RTSP/1.0\r\nCSeq: 7\r\nContent-length: 10485760\r\n\r\n";
    assert!(refused(long).starts_with("RTSP/1.0 413 "));
    let bad = b"ANNOUNCE x RTSP/1.0\r\nCSeq: 7\r\nContent-length: ten\r\n\r\n";
    assert!(refused(bad).starts_with("RTSP/1.0 400 "));
    // A sealed message of 16 MiB: no answer in plaintext.
    assert_eq!(refused(&[0x81, 0, 0, 0, 0, 0, 0, 1]), "");
    eventually("they are counted", || house.counters.rtsp_malformed.get() == 3);
}

#[test]
fn the_host_hears_of_a_waiting_client_that_leaves() {
    let house = open(limits());
    let mut plain = connect(house.http);
    write!(plain, "GET /wait HTTP/1.1\r\n\r\n").unwrap();
    let mut tls = client::connect(house.https);
    write!(tls, "GET /wait HTTP/1.1\r\n\r\n").unwrap();
    tls.flush().unwrap();
    let waiting = || house.met.lock().unwrap().waiting.clone();
    eventually("both wait", || waiting().len() == 2);
    // Longer than any deadline of a request: waiting is not being slow.
    std::thread::sleep(Duration::from_millis(800));
    assert!(house.met.lock().unwrap().gone.is_empty());
    assert_eq!(house.core.calls_waiting(), Some(2));
    drop(plain);
    drop(tls);
    eventually("both are gone", || house.met.lock().unwrap().gone.len() == 2);
    let mut gone = house.met.lock().unwrap().gone.clone();
    gone.sort();
    let mut expected = waiting();
    expected.sort();
    assert_eq!(gone, expected);
    assert_eq!(house.core.calls_waiting(), Some(0));
    assert_eq!(house.counters.calls_gone.get(), 2);
}

#[test]
fn a_flood_makes_room_for_others_and_not_the_other_way_round() {
    let house = open(Limits { pending_per_shard: 16, head_ms: 20_000, ..limits() });
    let mut flood: Vec<TcpStream> = (0..100).map(|_| connect(house.http)).collect();
    eventually("the flood is cut", || house.counters.evicted.get() >= 84);
    // The oldest left; what is left of the flood still counts as one source.
    let (_, reset) = read_all(&mut flood[0]);
    assert!(reset);
    let honest = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    honest.bind(&SocketAddr::new(IpAddr::from([127, 0, 0, 2]), 0).into()).unwrap();
    honest.connect(&house.http.into()).unwrap();
    let mut honest = TcpStream::from(honest);
    honest.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let more: Vec<TcpStream> = (0..40).map(|_| connect(house.http)).collect();
    eventually("the second wave is cut", || house.counters.evicted.get() >= 84 + 40);
    write!(honest, "GET /ok HTTP/1.1\r\n\r\n").unwrap();
    assert!(read_all(&mut honest).0.ends_with(b"<root>/ok</root>"));
    drop(more);
}

#[test]
fn a_panic_of_the_host_costs_one_connection() {
    let house = open(limits());
    let (answer, reset) = get(house.http, "/panic");
    assert!(answer.is_empty() && !reset);
    assert_eq!(house.core.counters().host_panics.get(), 1);
    assert!(get(house.http, "/ok").0.contains("200 OK"));
    assert_eq!(house.core.calls_waiting(), Some(0));
}

#[test]
fn a_peer_that_does_not_take_its_answer_is_reset_at_the_deadline() {
    let house = open(limits());
    let mut stream = connect(house.http);
    write!(stream, "GET /big HTTP/1.1\r\n\r\n").unwrap();
    eventually("given up", || house.counters.answers_late.get() == 1);
    assert!(read_all(&mut stream).1, "reset");
}

#[test]
fn a_drain_ends_what_waits_and_keeps_the_listeners() {
    let mut house = open(Limits { head_ms: 300, ..limits() });
    let mut waiting = connect(house.http);
    write!(waiting, "GET /wait HTTP/1.1\r\n\r\n").unwrap();
    eventually("it waits", || house.core.calls_waiting() == Some(1));
    let started = Instant::now();
    assert!(house.reception.drain());
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(read_all(&mut waiting), (Vec::new(), false));
    assert_eq!(house.met.lock().unwrap().gone.len(), 1);
    // Newcomers wait for the next front: nobody here takes them.
    for _ in 0..3 {
        let _newcomer = connect(house.http);
        eventually("the newcomer waits in the backlog", || house.http_listener.accept().is_ok());
    }
}
