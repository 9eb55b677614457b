//! What all worlds are made from and what is costly to make: keys, certificates, recorded SDP.
use std::sync::OnceLock;

use moonshard::host::pairings::OwnIdentity;
use moonshard::proto::crypto::{RsaSigner, Signer};
use moonshard::proto::x509::{Certificate, pem_to_der};
use serde_json::Value;

/// A device with a key of its own.
pub struct Device {
    pub certificate: Certificate,
    pub signer: RsaSigner,
}

pub struct Kit {
    host: Device,
    pem: String,
    /// Who wants to pair, and who never may.
    pub newcomer: Device,
    pub attacker: Device,
    /// SDP of a client that shows ping payload and connect data, and of one that does not.
    pub announce: String,
    pub announce_without_identity: String,
}

struct Shared(&'static RsaSigner);

impl Signer for Shared {
    fn sign_pkcs1_sha256(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign_pkcs1_sha256(message)
    }
}

pub fn vector(name: &str) -> Value {
    let path = format!("{}/tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn device(side: &Value) -> Device {
    let key = pem_to_der(side["key_pem"].as_str().unwrap(), "PRIVATE KEY").unwrap();
    Device {
        certificate: Certificate::from_pem(side["cert_pem"].as_str().unwrap()).unwrap(),
        signer: RsaSigner::from_der(&key).unwrap(),
    }
}

pub fn kit() -> &'static Kit {
    static KIT: OnceLock<Kit> = OnceLock::new();
    KIT.get_or_init(|| {
        let pairing = vector("pairing-01-qt-sha256");
        let recorded = vector("rtsp-encrypted-local-stereo-hevc");
        let announce = recorded["exchanges"][5]["request"]["plaintext"].as_str().unwrap();
        let announce = announce.split_once("\r\n\r\n").unwrap().1.to_owned();
        let bare = announce.replace("x-ml-general.featureFlags:3", "x-ml-general.featureFlags:1");
        assert_ne!(bare, announce);
        Kit {
            host: device(&pairing["server"]),
            pem: pairing["server"]["cert_pem"].as_str().unwrap().to_owned(),
            newcomer: device(&pairing["client"]),
            attacker: device(&vector("pairing-02-android-sha256")["client"]),
            announce,
            announce_without_identity: bare,
        }
    })
}

impl Kit {
    pub fn own(&'static self) -> OwnIdentity {
        OwnIdentity {
            certificate: self.host.certificate.clone(),
            pem: self.pem.clone(),
            signer: Box::new(Shared(&self.host.signer)),
        }
    }
}
