//! Handshakes in memory with the certificates that clients really bring.
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ClientConnection, ResolvesClientCert};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ServerConnection;
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CipherSuite, DigitallySignedStruct, Error, HandshakeKind, ProtocolVersion, SignatureScheme,
    SupportedProtocolVersion,
};

use super::config::{Resumption, provider, server_config, server_config_with};
use super::identity::Identity;
use crate::proto::pairing::tests::load;
use crate::proto::x509::{Certificate, pem_to_der};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// Pins the host's certificate as clients do, and verifies its signature.
#[derive(Debug)]
struct Pinned(Vec<u8>);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        assert_eq!(intermediates.len(), 0, "exactly one certificate");
        assert_eq!(end_entity.as_ref(), self.0, "the bytes of plaincert");
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Sends the given certificate and signs with the given key, whether or not they belong together.
#[derive(Debug)]
struct Brings(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Brings {
    fn resolve(&self, hints: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        assert_eq!(hints.len(), 0, "no list of acceptable authorities");
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

fn brings(certificate: &[u8], key: PrivateKeyDer<'static>) -> Brings {
    let key = provider().key_provider.load_private_key(key).unwrap();
    Brings(Some(Arc::new(CertifiedKey::new(vec![certificate.to_vec().into()], key))))
}

/// Certificate of one vector, key of another or the same.
fn of_vectors(certificate: &str, key: &str) -> (Vec<u8>, Brings) {
    let pem = load(certificate)["client"]["cert_pem"].as_str().unwrap().to_owned();
    let der = Certificate::from_pem(&pem).unwrap().der().to_vec();
    let key = load(key)["client"]["key_pem"].as_str().unwrap().to_owned();
    let key = PrivateKeyDer::Pkcs8(pem_to_der(&key, "PRIVATE KEY").unwrap().into());
    let brings = brings(&der, key);
    (der, brings)
}

fn client_config(
    host: &Identity,
    version: &'static SupportedProtocolVersion,
    brings: Brings,
) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned(host.certificate().der().to_vec())))
        .with_client_cert_resolver(Arc::new(brings));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.into()
}

/// Moves bytes both ways until neither side has any; the server's first error.
fn talk(client: &mut ClientConnection, server: &mut ServerConnection) -> Result<(), Error> {
    loop {
        let mut moved = 0;
        let mut bytes = Vec::new();
        while client.wants_write() {
            moved += client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        bytes.clear();
        while server.wants_write() {
            moved += server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().unwrap();
        }
        if moved == 0 {
            return Ok(());
        }
    }
}

fn handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<rustls::ServerConfig>,
    name: &'static str,
) -> Result<(ClientConnection, ServerConnection), Error> {
    let name = ServerName::try_from(name).unwrap();
    let mut client = ClientConnection::new(client.clone(), name).unwrap();
    let mut server = ServerConnection::new(server.clone()).unwrap();
    talk(&mut client, &mut server)?;
    assert!(!server.is_handshaking() && !client.is_handshaking());
    Ok((client, server))
}

#[test]
fn every_client_of_the_field_gets_in_with_its_certificate() {
    let host = Identity::make().unwrap();
    let server = server_config(&host).unwrap();
    for version in VERSIONS {
        for vector in
            ["01-qt-sha256", "02-android-sha256", "03-x509v2-client-sha256", "04-embedded-sha256"]
        {
            for name in ["192.168.1.10", "some_host.local"] {
                let (der, brings) = of_vectors(vector, vector);
                let client = client_config(&host, version, brings);
                let (client, server) = handshake(&client, &server, name).unwrap();
                assert_eq!(server.protocol_version(), Some(version.version));
                assert_eq!(server.peer_certificates().unwrap()[0].as_ref(), der, "{vector}");
                assert_eq!(client.alpn_protocol(), Some(&b"http/1.1"[..]));
            }
        }
    }
}

/// Signs with one scheme, allowed or not.
#[derive(Debug)]
struct Only(Arc<dyn SigningKey>, SignatureScheme);

impl SigningKey for Only {
    fn choose_scheme(&self, _: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        self.0.choose_scheme(&[self.1])
    }

    fn algorithm(&self) -> rustls::SignatureAlgorithm {
        self.0.algorithm()
    }
}

#[test]
fn every_scheme_is_verified_and_pkcs1_only_in_tls_1_2() {
    use SignatureScheme as S;
    let host = Identity::make().unwrap();
    let server = server_config(&host).unwrap();
    let pss = [S::RSA_PSS_SHA256, S::RSA_PSS_SHA384, S::RSA_PSS_SHA512];
    let pkcs1 = [S::RSA_PKCS1_SHA256, S::RSA_PKCS1_SHA384, S::RSA_PKCS1_SHA512];
    for version in VERSIONS {
        for scheme in pss.into_iter().chain(pkcs1) {
            for key in ["03-x509v2-client-sha256", "01-qt-sha256"] {
                let (der, brings) = of_vectors("03-x509v2-client-sha256", key);
                let inner = brings.0.unwrap();
                let only = Arc::new(Only(inner.key.clone(), scheme));
                let only = CertifiedKey::new(vec![der.into()], only);
                let client = client_config(&host, version, Brings(Some(Arc::new(only))));
                let fine = key.starts_with("03") && (version == &TLS12 || pss.contains(&scheme));
                let result = handshake(&client, &server, "10.0.0.1");
                assert_eq!(result.is_ok(), fine, "{scheme:?} in {:?}", version.version);
            }
        }
    }
}

#[test]
fn intermediates_are_ignored() {
    let host = Identity::make().unwrap();
    let server = server_config(&host).unwrap();
    for version in VERSIONS {
        let (der, brings) = of_vectors("01-qt-sha256", "01-qt-sha256");
        let chain = vec![der.clone().into(), vec![0x30; 20_000].into()];
        let with_more = CertifiedKey::new(chain, brings.0.unwrap().key.clone());
        let client = client_config(&host, version, Brings(Some(Arc::new(with_more))));
        let (_, server) = handshake(&client, &server, "10.0.0.1").unwrap();
        assert_eq!(server.peer_certificates().unwrap()[0].as_ref(), der);
    }
}

#[test]
fn no_certificate_is_no_reason_to_fail() {
    let host = Identity::make().unwrap();
    let server = server_config(&host).unwrap();
    for version in VERSIONS {
        let client = client_config(&host, version, Brings(None));
        let (_, server) = handshake(&client, &server, "10.0.0.1").unwrap();
        assert!(server.peer_certificates().is_none());
    }
}

/// An expired certificate and one that is not yet valid, both unknown.
#[test]
fn dates_say_nothing() {
    let host = Identity::make().unwrap();
    let server = server_config(&host).unwrap();
    for (from, to) in [(1990, 1991), (2090, 2091)] {
        let key =
            rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)
                .unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        let certificate = params.self_signed(&key).unwrap();
        for version in VERSIONS {
            let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
            let client = client_config(&host, version, brings(certificate.der(), key));
            let (_, server) = handshake(&client, &server, "10.0.0.1").unwrap();
            assert_eq!(server.peer_certificates().unwrap()[0], *certificate.der());
        }
    }
}

#[test]
fn a_certificate_without_its_key_fails_in_the_handshake() {
    let host = Identity::make().unwrap();
    let server = server_config(&host).unwrap();
    for version in VERSIONS {
        for vector in ["01-qt-sha256", "03-x509v2-client-sha256"] {
            let (_, stolen) = of_vectors(vector, "02-android-sha256");
            let client = client_config(&host, version, stolen);
            let error = handshake(&client, &server, "10.0.0.1").err();
            let bad = Error::InvalidCertificate(rustls::CertificateError::BadSignature);
            assert_eq!(error, Some(bad), "{vector}");
        }
    }
}

#[test]
fn bytes_that_are_no_certificate_fail_in_the_handshake() {
    let host = Identity::make().unwrap();
    let server = server_config(&host).unwrap();
    for version in VERSIONS {
        for bytes in [vec![0x30, 0x80], vec![0; 100], vec![0x30; 60_000]] {
            let key = load("01-qt-sha256")["client"]["key_pem"].as_str().unwrap().to_owned();
            let key = PrivateKeyDer::Pkcs8(pem_to_der(&key, "PRIVATE KEY").unwrap().into());
            let client = client_config(&host, version, brings(&bytes, key));
            let error = handshake(&client, &server, "10.0.0.1").err();
            let bad = Error::InvalidCertificate(rustls::CertificateError::BadEncoding);
            assert_eq!(error, Some(bad));
        }
    }
}

/// Two connections of one client: how the second one came about, and what it brought.
fn twice(
    resumption: Resumption,
    version: &'static SupportedProtocolVersion,
) -> (HandshakeKind, Vec<u8>, Vec<u8>) {
    let host = Identity::make().unwrap();
    let server = server_config_with(&host, resumption).unwrap();
    let (der, brings) = of_vectors("03-x509v2-client-sha256", "03-x509v2-client-sha256");
    let client = client_config(&host, version, brings);
    let (_, first) = handshake(&client, &server, "10.0.0.1").unwrap();
    assert_eq!(first.handshake_kind(), Some(HandshakeKind::Full));
    let (_, second) = handshake(&client, &server, "10.0.0.1").unwrap();
    let certificate = second.peer_certificates().unwrap()[0].to_vec();
    (second.handshake_kind().unwrap(), certificate, der)
}

/// The pairing list can be asked on a resumed connection too: the certificate is there.
#[test]
fn a_resumed_connection_still_tells_whose_it_is() {
    for version in VERSIONS {
        let (kind, certificate, der) = twice(Resumption::Tickets, version);
        assert_eq!(kind, HandshakeKind::Resumed, "{:?}", version.version);
        assert_eq!(certificate, der);
        let (kind, certificate, der) = twice(Resumption::Off, version);
        assert_eq!(kind, HandshakeKind::Full, "{:?}", version.version);
        assert_eq!(certificate, der);
    }
}

#[test]
fn tickets_are_good_on_every_shard_of_one_host_only() {
    let host = Identity::make().unwrap();
    let (_, brings) = of_vectors("01-qt-sha256", "01-qt-sha256");
    let client = client_config(&host, &TLS13, brings);
    let [one, other] = [(); 2].map(|()| server_config(&host).unwrap());
    handshake(&client, &one, "10.0.0.1").unwrap();
    let (_, server) = handshake(&client, &one.clone(), "10.0.0.1").unwrap();
    assert_eq!(server.handshake_kind(), Some(HandshakeKind::Resumed));
    let (_, server) = handshake(&client, &other, "10.0.0.1").unwrap();
    assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
}

#[test]
fn only_the_two_groups_are_offered_and_no_early_data() {
    let host = Identity::make().unwrap();
    let config = server_config(&host).unwrap();
    assert_eq!(config.max_early_data_size, 0);
    assert_eq!(config.send_tls13_tickets, 1);
    let groups: Vec<_> = config.crypto_provider().kx_groups.iter().map(|g| g.name()).collect();
    assert_eq!(groups, [rustls::NamedGroup::X25519, rustls::NamedGroup::secp256r1]);
    assert!(VERSIONS.iter().any(|v| v.version == ProtocolVersion::TLSv1_2));
}

#[test]
fn the_host_chooses_a_suite_with_sha_256_whatever_the_client_prefers() {
    let host = Identity::make().unwrap();
    let server = server_config(&host).unwrap();
    for version in VERSIONS {
        // Its own first choice is the one that Moonlight's OpenSSL has: AES-256 with SHA-384.
        let mut reversed = provider();
        reversed.cipher_suites.swap(0, 1);
        reversed.cipher_suites.swap(3, 4);
        let client = ClientConfig::builder_with_provider(Arc::new(reversed))
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned(host.certificate().der().to_vec())))
            .with_no_client_auth();
        let (_, server) = handshake(&Arc::new(client), &server, "localhost").unwrap();
        let chosen = server.negotiated_cipher_suite().unwrap().suite();
        let expected = match version.version {
            ProtocolVersion::TLSv1_2 => CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            _ => CipherSuite::TLS13_AES_128_GCM_SHA256,
        };
        assert_eq!(chosen, expected);
    }
}
