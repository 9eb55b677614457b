//! A TLS client that trusts whoever answers, as one does who only wants to see whether somebody does.
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};

use super::config::provider;

/// Of an answer no more is read, bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// GET over TLS at a port of 127.0.0.1, to the end of the connection; `wait` bounds each step.
///
/// # Errors
/// In words: which step failed, and how.
pub fn get(port: u16, path: &str, wait: Duration) -> Result<Vec<u8>, String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut socket =
        TcpStream::connect_timeout(&address, wait).map_err(|e| format!("connect: {e}"))?;
    let bounded = socket.set_read_timeout(Some(wait)).and(socket.set_write_timeout(Some(wait)));
    bounded.map_err(|e| format!("timeouts: {e}"))?;
    let config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS settings: {e}"))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_no_client_auth();
    let name = ServerName::IpAddress(address.ip().into());
    let mut tls =
        ClientConnection::new(Arc::new(config), name).map_err(|e| format!("TLS settings: {e}"))?;
    while tls.is_handshaking() {
        tls.complete_io(&mut socket).map_err(|e| format!("handshake: {e}"))?;
    }
    let mut stream = rustls::Stream::new(&mut tls, &mut socket);
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|e| format!("request: {e}"))?;
    let mut answer = Vec::new();
    match stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer) {
        Err(error) if answer.is_empty() => Err(format!("answer: {error}")),
        // Whether it is whole, the caller sees; a missing close_notify says nothing.
        _ => Ok(answer),
    }
}

/// Believes every server: for probes, tests and measurements.
#[derive(Debug)]
pub struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
