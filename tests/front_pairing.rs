//! A client pairs with a running host, is known to the next front, and is locked out when removed.
mod cli_support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use cli_support::{Host, Place, eventually, signal};
use moonshard::proto::crypto::{Hash, RsaSigner};
use moonshard::proto::hex;
use moonshard::proto::pairing::{ClientAttempt, Pin, client_certificate_parameter};
use moonshard::proto::x509::{Certificate, pem_to_der};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

/// A server that shows exactly the certificate that pairing phase 1 told of.
#[derive(Debug)]
struct Pinned(Vec<u8>);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = leaf.as_ref() == self.0 && others.is_empty();
        let refuse = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        pinned.then(ServerCertVerified::assertion).ok_or(refuse)
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PKCS1_SHA256]
    }
}

/// A Moonlight client before and after pairing.
struct Client {
    certificate: Certificate,
    key: Vec<u8>,
    http: SocketAddr,
    https: SocketAddr,
}

impl Client {
    fn of(host: &mut Host) -> Self {
        let line = host.expect("(HTTPS)");
        let mut ports = line.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
        let mut next = || SocketAddr::from((Ipv4Addr::LOCALHOST, ports.next().unwrap()));
        let (https, http) = (next(), next());
        let text = include_str!("vectors/pairing-01-qt-sha256.json");
        let vector: serde_json::Value = serde_json::from_str(text).unwrap();
        let pem = |field: &str| vector["client"][field].as_str().unwrap();
        let certificate = Certificate::from_pem(pem("cert_pem")).unwrap();
        let key = pem_to_der(pem("key_pem"), "PRIVATE KEY").unwrap();
        Self { certificate, key, http, https }
    }

    fn pair(&self, query: &str) -> String {
        let mut stream = TcpStream::connect(self.http).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        get(&mut stream, &format!("/pair?uniqueid=0123456789ABCDEF&devicename=roth&{query}"))
    }

    fn tls(&self, host: &Certificate) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned(host.der().to_vec())))
            .with_client_auth_cert(
                vec![self.certificate.der().to_vec().into()],
                PrivateKeyDer::Pkcs8(self.key.clone().into()),
            );
        Arc::new(config.unwrap())
    }

    fn secure(&self, config: &Arc<ClientConfig>, path: &str) -> String {
        let stream = TcpStream::connect(self.https).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let session = ClientConnection::new(Arc::clone(config), self.https.ip().into()).unwrap();
        get(&mut StreamOwned::new(session, stream), path)
    }
}

fn get(stream: &mut (impl Read + Write), target: &str) -> String {
    write!(stream, "GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    answer
}

/// What stands in an element, from hexadecimal.
fn value(answer: &str, element: &str) -> Vec<u8> {
    let (_, rest) =
        answer.split_once(&format!("<{element}>")).unwrap_or_else(|| panic!("{answer}"));
    hex::decode(rest.split_once('<').unwrap().0).unwrap()
}

/// All five phases; the host's certificate.
fn pair(place: &Place, client: &Client) -> Certificate {
    let salt = [7; 16];
    let parameter = client_certificate_parameter(&client.certificate);
    let first = format!("phrase=getservercert&salt={}&clientcert={parameter}", hex::encode(&salt));
    let answer = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| client.pair(&first));
        let id = eventually(|| {
            let pending = place.run(&["pair", "--json"]).json();
            Some(pending.as_array()?.first()?["id"].as_str()?.to_owned())
        });
        // Nobody else waits for this client's PIN.
        let mut other = TcpStream::connect(client.http).unwrap();
        assert!(get(&mut other, "/serverinfo").contains("<PairStatus>0</PairStatus>"));
        assert_eq!(place.run(&["pair", &id, "1234"]).code, Some(0));
        waiting.join().unwrap()
    });
    let host = String::from_utf8(value(&answer, "plaincert")).unwrap();
    let host = Certificate::from_pem(&host).unwrap();
    let pin = Pin::parse("1234").unwrap();
    let own = client.certificate.clone();
    let (attempt, challenge) =
        ClientAttempt::new(Hash::Sha256, &salt, &pin, own, host.clone(), [9; 16]);
    let answer = client.pair(&format!("clientchallenge={}", hex::encode(&challenge)));
    let (proof, response) =
        attempt.challenge_response(&value(&answer, "challengeresponse"), [5; 16]).unwrap();
    let answer = client.pair(&format!("serverchallengeresp={}", hex::encode(&response)));
    let signer = RsaSigner::from_der(&client.key).unwrap();
    let secret = proof.pairing_secret(&value(&answer, "pairingsecret"), &signer).unwrap();
    let answer = client.pair(&format!("clientpairingsecret={}", hex::encode(&secret)));
    assert!(answer.contains("<paired>1</paired>"), "{answer}");
    host
}

#[test]
fn a_client_pairs_outlives_a_front_and_is_locked_out_when_removed() {
    let place = Place::new();
    let mut host = place.serve();
    let client = Client::of(&mut host);
    let certificate = pair(&place, &client);
    let config = client.tls(&certificate);
    let challenge = client.secure(&config, "/pair?uniqueid=0123456789ABCDEF&phrase=pairchallenge");
    assert!(challenge.contains("<paired>1</paired>"), "{challenge}");
    assert!(client.secure(&config, "/applist").contains("<AppTitle>Desktop</AppTitle>"));

    let clients = place.state().join("clients");
    let files: Vec<_> = std::fs::read_dir(&clients).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");

    // The next front knows the client, and shows the same certificate.
    let front = place.process("front");
    signal(front, "KILL");
    eventually(|| (place.process("front") != front).then_some(()));
    assert!(client.secure(&config, "/serverinfo").contains("<PairStatus>1</PairStatus>"));

    let listed = place.run(&["clients", "--json"]).json();
    let id = listed[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(place.run(&["clients", "remove", &id]).code, Some(0));
    assert!(!files[0].exists());
    // Also with the ticket of an earlier connection.
    for path in ["/serverinfo", "/applist", "/launch?appid=1", "/appasset?appid=1"] {
        assert!(client.secure(&config, path).contains("status_code=\"401\""), "{path}");
    }
}

#[test]
fn a_damaged_client_file_is_named_and_the_others_are_served() {
    let place = Place::new();
    let clients = place.state().join("clients");
    std::fs::create_dir_all(&clients).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(place.state(), mode).unwrap();
    let path = clients.join(format!("{}.json", "ab".repeat(32)));
    std::fs::write(&path, "{").unwrap();
    let mut host = place.start();
    let line = host.expect("not loaded");
    assert!(line.contains(path.to_str().unwrap()), "{line}");
    host.expect("ready in");
    let client = Client::of(&mut host);
    pair(&place, &client);
    assert_eq!(std::fs::read(&path).unwrap(), b"{");
}
