//! The client's own certificate and key, and the certificates of hosts it has paired with: files in
//! its state directory.
use std::fs;
use std::path::{Path, PathBuf};

use moonshard::proto::crypto::RsaSigner;
use moonshard::proto::x509::{Certificate, pem_to_der};
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_RSA_SHA256, RsaKeySize};

/// Who this client is.
pub struct Identity {
    pub certificate: Certificate,
    pub key_der: Vec<u8>,
    pub signer: RsaSigner,
    directory: PathBuf,
}

impl Identity {
    /// Reads it, or makes it like the desktop client does: RSA-2048, serial 0, no extensions.
    pub fn open(directory: &Path) -> Result<Self, String> {
        let told = |e: &dyn std::fmt::Display| format!("{}: {e}", directory.display());
        fs::create_dir_all(directory).map_err(|e| told(&e))?;
        let (cert, key) = (directory.join("client.pem"), directory.join("client.key"));
        if !cert.exists() || !key.exists() {
            let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)
                .map_err(|e| told(&e))?;
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, "NVIDIA GameStream Client");
            params.serial_number = Some(vec![0].into());
            let made = params.self_signed(&pair).map_err(|e| told(&e))?;
            let made = Certificate::from_der(made.der()).map_err(|e| told(&e))?;
            fs::write(&key, pair.serialize_pem()).map_err(|e| told(&e))?;
            fs::write(&cert, made.to_pem()).map_err(|e| told(&e))?;
        }
        let read = |path: &Path| fs::read_to_string(path).map_err(|e| told(&e));
        let certificate = Certificate::from_pem(&read(&cert)?).map_err(|e| told(&e))?;
        let key_der = pem_to_der(&read(&key)?, "PRIVATE KEY").map_err(|e| told(&e))?;
        let signer = RsaSigner::from_der(&key_der).map_err(|e| told(&e))?;
        Ok(Self { certificate, key_der, signer, directory: directory.to_owned() })
    }

    /// The certificate that the host with this id showed at pairing.
    pub fn host(&self, id: &str) -> Option<Certificate> {
        Certificate::from_pem(&fs::read_to_string(self.host_file(id)).ok()?).ok()
    }

    pub fn remember_host(&self, id: &str, certificate: &Certificate) -> Result<(), String> {
        fs::write(self.host_file(id), certificate.to_pem()).map_err(|e| e.to_string())
    }

    fn host_file(&self, id: &str) -> PathBuf {
        let name: String = id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        self.directory.join(format!("host-{name}.pem"))
    }
}
