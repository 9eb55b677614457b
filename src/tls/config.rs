//! The server's TLS settings, shared by every shard.
//!
//! TLS 1.2 stays on for clients on old system libraries; X25519 and P-256 are the only groups, since a
//! post-quantum share costs 6 % of all handshakes. One certificate goes out, whatever name is asked for.
//! The host, not the client, chooses the cipher suite: most clients would have SHA-384, for which
//! processors have no instructions, and it takes a twentieth of the handshake.
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, Ticketer, cipher_suite, kx_group};
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use rustls::{Error, ServerConfig, SupportedCipherSuite};

use super::identity::Identity;
use super::verify::AnyClient;

/// Whether a client may come back without a full handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumption {
    /// One ticket per connection, valid on every shard. The client's certificate comes back out of the
    /// ticket, so the pairing must be looked up on each request.
    Tickets,
    /// Every connection proves its key anew.
    Off,
}

/// The settings of the host: resumption on. Fails only if the system gives no randomness.
pub fn server_config(identity: &Identity) -> Result<Arc<ServerConfig>, Error> {
    server_config_with(identity, Resumption::Tickets)
}

/// The same with a choice.
pub fn server_config_with(
    identity: &Identity,
    resumption: Resumption,
) -> Result<Arc<ServerConfig>, Error> {
    let (chain, key) = identity.tls_certificate();
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_client_cert_verifier(Arc::new(AnyClient))
        .with_single_cert(vec![chain], key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ignore_client_order = true;
    config.max_early_data_size = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    match resumption {
        Resumption::Tickets => {
            config.ticketer = Ticketer::new()?;
            config.send_tls13_tickets = 1;
        }
        Resumption::Off => config.send_tls13_tickets = 0,
    }
    Ok(Arc::new(config))
}

/// Preferred first. All encrypt with authentication and keep past sessions secret; those of TLS 1.2 fit
/// the host's RSA key.
const CIPHER_SUITES: [SupportedCipherSuite; 6] = [
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// aws-lc with these cipher suites and two groups.
pub fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: CIPHER_SUITES.to_vec(),
        kx_groups: vec![kx_group::X25519, kx_group::SECP256R1],
        ..aws_lc_rs::default_provider()
    }
}
