//! GET requests to a host, plain or over TLS pinned to its certificate, and the fields of the answers.
//!
//! It knows no endpoint. A connection carries one request.
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use moonshard::proto::x509::Certificate;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use crate::identity::Identity;

/// Longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 4 << 20;
const CONNECT_WAIT: Duration = Duration::from_secs(10);

/// The host did not answer, or not with what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("{address} cannot be reached: {error}; does the host run, and is this its port?")]
    Unreachable { address: SocketAddr, error: std::io::Error },
    #[error("{address} does not answer {path}: {error}; is it a GameStream host?")]
    Silent { address: SocketAddr, path: String, error: std::io::Error },
    #[error(
        "{address} answers {path} with something that is not GameStream's HTTP; is this the host's \
         HTTP port (47989 unless changed)?"
    )]
    Malformed { address: SocketAddr, path: String },
    #[error("{address} refuses {path}: {code} {message}")]
    Refused { address: SocketAddr, path: String, code: String, message: String },
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// An XML answer whose `status_code` is 200.
#[derive(Clone, Debug)]
pub struct Answer(String);

impl Answer {
    /// The text of the first element called `name`.
    pub fn field(&self, name: &str) -> Option<String> {
        field(&self.0, name).map(|(value, _)| value)
    }

    /// Every element called `name`, as an answer of its own.
    pub fn each(&self, name: &str) -> Vec<Answer> {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let parts = self.0.split(open.as_str()).skip(1);
        parts
            .filter_map(|part| Some(Answer(part.split_once(close.as_str())?.0.to_owned())))
            .collect()
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<(String, &'a str)> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (value, rest) = rest.split_once(&format!("</{name}>"))?;
    Some((unescape(value), rest))
}

/// The value of an attribute of the root element.
fn attribute(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once("<root")?;
    let (head, _) = rest.split_once('>')?;
    let (_, rest) = head.split_once(&format!(" {name}=\""))?;
    rest.split_once('"').map(|(value, _)| unescape(value))
}

fn unescape(text: &str) -> String {
    const ENTITIES: [(&str, &str); 5] =
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    ENTITIES.iter().fold(text.to_owned(), |text, (entity, is)| text.replace(entity, is))
}

/// Percent-encodes everything but letters and digits.
pub fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let each = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(each).collect()
}

/// Asks over plain HTTP.
pub fn get(address: SocketAddr, path: &str, wait: Duration) -> Result<Answer, HttpError> {
    let mut stream = connect(address, wait)?;
    exchange(&mut stream, address, path)
}

/// Asks over TLS, showing the client's certificate, taking only the host's.
pub struct Secure {
    address: SocketAddr,
    config: Arc<ClientConfig>,
}

impl Secure {
    pub fn new(
        address: SocketAddr,
        identity: &Identity,
        host: &Certificate,
    ) -> Result<Self, HttpError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned {
                host: host.der().to_vec(),
                algorithms,
            }))
            .with_client_auth_cert(
                vec![identity.certificate.der().to_vec().into()],
                PrivateKeyDer::Pkcs8(identity.key.clone().into()),
            )?;
        Ok(Self { address, config: Arc::new(config) })
    }

    pub fn get(&self, path: &str, wait: Duration) -> Result<Answer, HttpError> {
        let stream = connect(self.address, wait)?;
        let name: IpAddr = self.address.ip();
        let session = ClientConnection::new(Arc::clone(&self.config), name.into())?;
        exchange(&mut StreamOwned::new(session, stream), self.address, path)
    }
}

fn connect(address: SocketAddr, wait: Duration) -> Result<TcpStream, HttpError> {
    let unreachable = |error| HttpError::Unreachable { address, error };
    let stream = TcpStream::connect_timeout(&address, CONNECT_WAIT).map_err(unreachable)?;
    stream.set_read_timeout(Some(wait)).map_err(unreachable)?;
    stream.set_write_timeout(Some(CONNECT_WAIT)).map_err(unreachable)?;
    Ok(stream)
}

fn exchange(
    stream: &mut (impl Read + Write),
    address: SocketAddr,
    path: &str,
) -> Result<Answer, HttpError> {
    // The query can hold keys.
    let endpoint = path.split('?').next().unwrap_or_default().to_owned();
    let silent = |error| HttpError::Silent { address, path: endpoint.clone(), error };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(silent)?;
    let mut bytes = Vec::new();
    match stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes) {
        // Some hosts close without saying so in TLS.
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
            return Err(silent(error));
        }
        _ => {}
    }
    let text = String::from_utf8_lossy(&bytes);
    let malformed = || HttpError::Malformed { address, path: endpoint.clone() };
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let code = head.split(' ').nth(1).ok_or_else(malformed)?;
    let refused = |code: &str, message: String| HttpError::Refused {
        address,
        path: endpoint.clone(),
        code: code.to_owned(),
        message,
    };
    if code != "200" {
        return Err(refused(code, body.trim().to_owned()));
    }
    match attribute(body, "status_code").as_deref() {
        Some("200") => Ok(Answer(body.to_owned())),
        Some(code) => Err(refused(code, attribute(body, "status_message").unwrap_or_default())),
        None => Err(malformed()),
    }
}

#[derive(Debug)]
struct Pinned {
    host: Vec<u8>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        (leaf.as_ref() == self.host).then(ServerCertVerified::assertion).ok_or(unknown)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, leaf, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_out_unescaped() {
        let text = "<root status_code=\"200\"><App><AppTitle>a &amp;lt; b</AppTitle><ID>1</ID></App>\
                    <App><AppTitle>c</AppTitle><ID>2</ID></App></root>";
        let apps = Answer(text.into()).each("App");
        assert_eq!(apps.len(), 2);
        assert_eq!(apps[0].field("AppTitle").unwrap(), "a &lt; b");
        assert_eq!(apps[1].field("ID").unwrap(), "2");
        assert_eq!(apps[1].field("None"), None);
        assert_eq!(attribute(text, "status_code").unwrap(), "200");
        assert_eq!(escape("Test pattern/ä"), "Test%20pattern%2F%C3%A4");
    }
}
