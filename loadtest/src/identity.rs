//! The client's identity: a certificate like Moonlight's, its key, and which hosts it is paired with.
//!
//! Kept as files in one state directory: `client.pem`, `client.key`, and `hosts/<uniqueid>.pem` for the
//! certificate of each host that was paired. It speaks to nobody.
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use moonshard::proto::crypto::RsaSigner;
use moonshard::proto::x509::{Certificate, pem_to_der};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_RSA_SHA256, RsaKeySize};

/// Moonlight's own: twenty years.
const VALIDITY: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// The identity cannot be read or made. The message names the file.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: std::io::Error },
    #[error("{}: damaged; remove it, and pair again", .0.display())]
    Damaged(PathBuf),
    #[error("no certificate could be made: {0}")]
    Making(#[from] rcgen::Error),
}

/// A client as the host sees it.
pub struct Identity {
    directory: PathBuf,
    pub certificate: Certificate,
    /// PKCS#8 DER.
    pub key: Vec<u8>,
    pub signer: RsaSigner,
}

impl Identity {
    /// Loads the identity of a state directory, or makes one.
    pub fn load_or_make(directory: &Path) -> Result<Self, IdentityError> {
        let file = |path: &Path| {
            let path = path.to_owned();
            move |error| IdentityError::File { path, error }
        };
        let hosts = directory.join("hosts");
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&hosts);
        made.map_err(file(&hosts))?;
        let (certificate_path, key_path) =
            (directory.join("client.pem"), directory.join("client.key"));
        if !certificate_path.exists() {
            let (certificate, key) = make()?;
            write(&key_path, &key).map_err(file(&key_path))?;
            write(&certificate_path, &certificate).map_err(file(&certificate_path))?;
        }
        let text = |path: &PathBuf| fs::read_to_string(path).map_err(file(path));
        let damaged = |path: &PathBuf| IdentityError::Damaged(path.clone());
        let certificate = Certificate::from_pem(&text(&certificate_path)?)
            .map_err(|_| damaged(&certificate_path))?;
        let key = pem_to_der(&text(&key_path)?, "PRIVATE KEY").map_err(|_| damaged(&key_path))?;
        let signer = RsaSigner::from_der(&key).map_err(|_| damaged(&key_path))?;
        Ok(Self { directory: directory.to_owned(), certificate, key, signer })
    }

    /// The certificate of a paired host, if it is known.
    pub fn host(&self, uniqueid: &str) -> Option<Certificate> {
        Certificate::from_pem(&fs::read_to_string(self.host_path(uniqueid)).ok()?).ok()
    }

    /// Remembers a host after pairing.
    pub fn remember(&self, uniqueid: &str, host: &Certificate) -> Result<(), IdentityError> {
        let path = self.host_path(uniqueid);
        let written = write(&path, &host.to_pem());
        written.map_err(|error| IdentityError::File { path, error })
    }

    /// A host chooses its id; only harmless characters of it become a file name.
    fn host_path(&self, uniqueid: &str) -> PathBuf {
        let name: String =
            uniqueid.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(64).collect();
        self.directory.join("hosts").join(format!("{name}.pem"))
    }
}

/// Certificate and key as PEM. Serial 0 as Moonlight's have it.
fn make() -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "NVIDIA GameStream Client");
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.serial_number = Some(vec![0].into());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now.as_secs());
    params.not_after = params.not_before + VALIDITY;
    let certificate = Certificate::from_der(params.self_signed(&key)?.der())
        .map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
    Ok((certificate.to_pem(), key.serialize_pem()))
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}
