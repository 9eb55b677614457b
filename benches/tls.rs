//! The server's share of a TLS connection without sockets: handshake with client certificate, request,
//! answer, close_notify, with the host's own settings. Microseconds of the thread's own CPU time, so the
//! client's share and other programs do not count. `cargo bench --bench tls -- --json` is for programs.
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use moonshard::tls::client::AnyServer;
use moonshard::tls::config::{Resumption, provider, server_config};
use moonshard::tls::identity::Identity;
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use rustix::time::{ClockId, clock_gettime};
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection,
    SupportedProtocolVersion,
};

const MEASURED: Duration = Duration::from_secs(2);
const WARM_UP: u32 = 20;
const REQUEST: &[u8] =
    b"GET /serverinfo HTTP/1.1\r\nHost: 127.0.0.1:47984\r\nConnection: close\r\n\r\n";
/// About as long as the answer to a client that is not paired.
const ANSWER: [u8; 300] = [b'x'; 300];

/// Bytes to the server and its bytes back, in turn.
type Flights = Vec<(usize, usize)>;

/// What one case came to.
struct Cost {
    server_us: f64,
    flights: Flights,
}

fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    let identity = Identity::make().expect("the system has randomness");
    let mut parts = Vec::new();
    for (name, version) in [("1.3", &TLS13), ("1.2", &TLS12)] {
        for (kind, resumption) in [("full", Resumption::Off), ("resumed", Resumption::Tickets)] {
            // With tickets as the host gives them, whether or not the client comes back with one.
            let server = server_config(&identity).expect("valid settings");
            let client = client(version, resumption);
            let Cost { server_us, flights } = measure(&client, &server, resumption);
            let list: Vec<_> = flights.iter().map(|(to, from)| format!("{to}:{from}")).collect();
            let list = list.join(",");
            if json {
                let key = format!("{kind}{}", name.replace('.', ""));
                parts.push(format!(
                    r#""{key}": {{"server_us": {server_us:.2}, "flights": "{list}"}}"#
                ));
            } else {
                let rate = 1e6 / server_us;
                println!("TLS {name}, {kind}: {server_us:.1} us, {rate:.0}/s; bytes in:out {list}");
            }
        }
    }
    if json {
        println!("{{{}}}", parts.join(", "));
    }
}

fn measure(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>, wanted: Resumption) -> Cost {
    for _ in 0..WARM_UP {
        connect(client, server);
    }
    let (start, mut count, mut used) = (Instant::now(), 0, Duration::ZERO);
    let mut flights = Vec::new();
    while start.elapsed() < MEASURED {
        let (time, moved, kind) = connect(client, server);
        assert_eq!(kind == HandshakeKind::Resumed, wanted == Resumption::Tickets);
        (count, used, flights) = (count + 1, used + time, moved);
    }
    Cost { server_us: used.as_secs_f64() * 1e6 / f64::from(count), flights }
}

/// One connection from ClientHello to close_notify: the server's time, its flights, how it was secured.
fn connect(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> (Duration, Flights, HandshakeKind) {
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    let mut client = ClientConnection::new(Arc::clone(client), name).expect("valid settings");
    let (mut flights, mut to, mut from) = (Vec::new(), Vec::new(), Vec::new());
    let mut used = Duration::ZERO;
    let mut begin = cpu_time();
    let mut tls = ServerConnection::new(Arc::clone(server)).expect("valid settings");
    used += cpu_time() - begin;
    let (mut is_asked, mut is_answered) = (false, false);
    while !is_answered {
        if !client.is_handshaking() && !is_asked {
            is_asked = true;
            client.writer().write_all(REQUEST).expect("room");
        }
        to.clear();
        while client.wants_write() {
            client.write_tls(&mut to).expect("memory");
        }
        from.clear();
        begin = cpu_time();
        is_answered = serve(&mut tls, &to, &mut from);
        used += cpu_time() - begin;
        flights.push((to.len(), from.len()));
        let mut rest = from.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).expect("memory");
            client.process_new_packets().expect("an honest server");
        }
    }
    let mut answer = Vec::new();
    client.reader().read_to_end(&mut answer).expect("close_notify");
    assert_eq!(answer, ANSWER);
    (used, flights, client.handshake_kind().expect("it is secured"))
}

/// The server's turn; true: it has answered.
fn serve(tls: &mut ServerConnection, mut bytes: &[u8], out: &mut Vec<u8>) -> bool {
    while !bytes.is_empty() {
        tls.read_tls(&mut bytes).expect("memory");
        tls.process_new_packets().expect("an honest client");
    }
    let mut head = [0; 2048];
    let asked = tls.reader().read(&mut head).is_ok_and(|n| head[..n].ends_with(b"\r\n\r\n"));
    if asked {
        tls.writer().write_all(&ANSWER).expect("room");
        tls.send_close_notify();
    }
    while tls.wants_write() {
        tls.write_tls(out).expect("memory");
    }
    asked
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A client like Moonlight: a self-signed RSA-2048 certificate, any server.
fn client(version: &'static SupportedProtocolVersion, resumption: Resumption) -> Arc<ClientConfig> {
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("randomness");
    let certificate = CertificateParams::default().self_signed(&key).expect("an RSA key signs");
    let chain = vec![certificate.der().clone()];
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[version])
        .expect("both versions are known")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_client_auth_cert(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .expect("a key that fits");
    if resumption == Resumption::Off {
        config.resumption = rustls::client::Resumption::disabled();
    }
    Arc::new(config)
}
