//! The HTTP side of a client: serverinfo, pairing, app list, launch, resume, cancel.
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use moonshard::proto::crypto::Hash;
use moonshard::proto::hex;
use moonshard::proto::pairing::{ClientAttempt, Pin, client_certificate_parameter};
use moonshard::proto::x509::Certificate;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use crate::identity::Identity;

/// What clients of this kind call themselves.
const UNIQUE_ID: &str = "0123456789ABCDEF";
/// Answers are small; more than this is no answer.
const ANSWER_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// A host as this client sees it.
pub struct Host {
    pub address: SocketAddr,
    https: u16,
    /// The host's own id.
    pub id: String,
    pub codec_bits: u32,
    identity: Identity,
    certificate: Option<Certificate>,
}

/// An answer of the host's: its body, whose status was 200.
pub struct Answer(String);

impl Answer {
    fn parse(body: String) -> Result<Self, String> {
        let attribute = |name: &str| {
            let start = body.split(&format!("{name}=\"")).nth(1)?;
            Some(start.split('"').next().unwrap_or_default().to_owned())
        };
        match attribute("status_code").as_deref() {
            Some("200") => Ok(Self(body)),
            Some(code) => Err(format!(
                "the host answered {code}: {}",
                attribute("status_message").unwrap_or_default()
            )),
            None => Err("the host's answer has no status_code".into()),
        }
    }

    /// The text of the first element of that name.
    pub fn field(&self, name: &str) -> Option<String> {
        self.fields(name).into_iter().next()
    }

    pub fn fields(&self, name: &str) -> Vec<String> {
        let start = format!("<{name}>");
        let parts = self.0.split(&start).skip(1);
        parts.filter_map(|p| p.split("</").next()).map(unescape).collect()
    }
}

fn unescape(text: &str) -> String {
    let mut text = text.to_owned();
    for (from, to) in
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")]
    {
        text = text.replace(from, to);
    }
    text
}

impl Host {
    /// Asks an address who it is.
    pub fn find(address: SocketAddr, identity: Identity) -> Result<Self, String> {
        let body = get(
            TcpStream::connect_timeout(&address, Duration::from_secs(5))
                .map_err(|e| format!("no host at {address}: {e}"))?,
            address,
            "/serverinfo",
            10,
        )?;
        let answer = Answer::parse(body)?;
        let id = answer.field("uniqueid").ok_or("the host has no uniqueid")?;
        let https = answer.field("HttpsPort").and_then(|p| p.parse().ok()).unwrap_or(47984);
        let bits = answer.field("ServerCodecModeSupport").and_then(|b| b.parse().ok());
        let certificate = identity.host(&id);
        Ok(Self { address, https, id, codec_bits: bits.unwrap_or(0), identity, certificate })
    }

    pub fn is_paired(&self) -> bool {
        self.certificate.is_some()
            && self
                .secure("/serverinfo?uniqueid=0123456789ABCDEF", 10)
                .is_ok_and(|a| a.field("PairStatus").as_deref() == Some("1"))
    }

    /// Pairs; `accept` is told the PIN when the host waits for it.
    pub fn pair(
        &mut self,
        pin: &str,
        accept: impl FnOnce() + Send + 'static,
    ) -> Result<(), String> {
        let (mut salt, mut challenge, mut secret) = ([0; 16], [0; 16], [0; 16]);
        for bytes in [&mut salt, &mut challenge, &mut secret] {
            random(bytes);
        }
        let own = self.identity.certificate.clone();
        let query = format!(
            "phrase=getservercert&salt={}&clientcert={}",
            hex::encode(&salt),
            client_certificate_parameter(&own)
        );
        let waiting = std::thread::spawn(accept);
        let first = self.phase(&query, 200)?;
        let _ = waiting.join();
        let pem = first.field("plaincert").ok_or("the host pairs with somebody else just now")?;
        let host = Certificate::from_hex_of_pem(&pem).map_err(|e| e.to_string())?;
        let pin = Pin::parse(pin).ok_or("a PIN has four digits")?;
        let bytes = |answer: &Answer, name: &str| {
            answer.field(name).and_then(|t| hex::decode(&t)).ok_or(format!("no {name}"))
        };
        let (attempt, sent) =
            ClientAttempt::new(Hash::Sha256, &salt, &pin, own, host.clone(), challenge);
        let second = self.phase(&format!("clientchallenge={}", hex::encode(&sent)), 10)?;
        let (proof, sent) = attempt
            .challenge_response(&bytes(&second, "challengeresponse")?, secret)
            .map_err(|e| e.to_string())?;
        let third = self.phase(&format!("serverchallengeresp={}", hex::encode(&sent)), 10)?;
        let sent = proof
            .pairing_secret(&bytes(&third, "pairingsecret")?, &self.identity.signer)
            .map_err(|e| e.to_string())?;
        let fourth = self.phase(&format!("clientpairingsecret={}", hex::encode(&sent)), 10)?;
        if fourth.field("paired").as_deref() != Some("1") {
            return Err("the host did not accept the pairing".into());
        }
        self.identity.remember_host(&self.id, &host)?;
        self.certificate = Some(host);
        self.secure(&format!("/pair?uniqueid={UNIQUE_ID}&phrase=pairchallenge"), 10).map(|_| ())
    }

    fn phase(&self, query: &str, seconds: u64) -> Result<Answer, String> {
        let target =
            format!("/pair?uniqueid={UNIQUE_ID}&devicename=loadtest&updateState=1&{query}");
        let stream = TcpStream::connect(self.address).map_err(|e| e.to_string())?;
        Answer::parse(get(stream, self.address, &target, seconds)?)
    }

    /// Id of the app with this title, and the app that runs for us (0: none).
    pub fn app(&self, title: &str) -> Result<(i32, i32), String> {
        let list = self.secure(&format!("/applist?uniqueid={UNIQUE_ID}"), 10)?;
        let titles = list.fields("AppTitle");
        let ids = list.fields("ID");
        let found = titles.iter().position(|t| t == title);
        let id = found.and_then(|i| ids.get(i)?.parse().ok());
        let info = self.secure(&format!("/serverinfo?uniqueid={UNIQUE_ID}"), 10)?;
        let running = info.field("currentgame").and_then(|g| g.parse().ok()).unwrap_or(0);
        let id = id.ok_or(format!("the host has no app {title:?}, but {titles:?}"))?;
        Ok((id, running))
    }

    /// Launches or resumes; gives `sessionUrl0`.
    pub fn launch(&self, verb: &str, query: &str) -> Result<String, String> {
        let answer = self.secure(&format!("/{verb}?uniqueid={UNIQUE_ID}&{query}"), 120)?;
        answer.field("sessionUrl0").ok_or("the host gives no sessionUrl0".into())
    }

    pub fn cancel(&self) -> Result<(), String> {
        self.secure(&format!("/cancel?uniqueid={UNIQUE_ID}"), 30).map(|_| ())
    }

    /// A request over TLS with our certificate; the host's must be the one of the pairing.
    pub fn secure(&self, target: &str, seconds: u64) -> Result<Answer, String> {
        let pinned = self.certificate.as_ref().ok_or("not paired")?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = Arc::new(Pinned { der: pinned.der().to_vec(), provider: provider.clone() });
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(
                vec![CertificateDer::from(self.identity.certificate.der().to_vec())],
                PrivatePkcs8KeyDer::from(self.identity.key_der.clone()).into(),
            )
            .map_err(|e| e.to_string())?;
        let address = SocketAddr::new(self.address.ip(), self.https);
        let name = ServerName::from(address.ip());
        let tls = ClientConnection::new(Arc::new(config), name).map_err(|e| e.to_string())?;
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))
            .map_err(|e| format!("{address}: {e}"))?;
        let wait = Some(Duration::from_secs(seconds));
        stream.set_read_timeout(wait).map_err(|e| e.to_string())?;
        Answer::parse(get(StreamOwned::new(tls, stream), address, target, seconds)?)
    }
}

/// One request over a fresh connection; gives the body.
fn get<S: Read + Write + Timed>(
    mut stream: S,
    address: SocketAddr,
    target: &str,
    seconds: u64,
) -> Result<String, String> {
    stream.wait(Duration::from_secs(seconds));
    let head = format!("GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).map_err(|e| format!("{address}: {e}"))?;
    let mut answer = Vec::new();
    // A peer that leaves without close_notify has answered all the same.
    let _ = stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    let (_, body) = answer.split_once("\r\n\r\n").ok_or(format!("{address} does not answer"))?;
    Ok(body.to_owned())
}

trait Timed {
    fn wait(&self, time: Duration);
}

impl Timed for TcpStream {
    fn wait(&self, time: Duration) {
        let _ = self.set_read_timeout(Some(time));
    }
}

impl Timed for StreamOwned<ClientConnection, TcpStream> {
    fn wait(&self, time: Duration) {
        self.sock.wait(time);
    }
}

pub fn random(bytes: &mut [u8]) {
    ::aws_lc_rs::rand::fill(bytes).expect("the system gives randomness");
}

/// Accepts exactly one certificate.
#[derive(Debug)]
struct Pinned {
    der: Vec<u8>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match end_entity.as_ref() == self.der {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(rustls::Error::General("not the certificate of the pairing".into())),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
