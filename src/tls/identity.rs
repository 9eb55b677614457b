//! The host's identity: one RSA-2048 key, one self-signed certificate, one UUID, made once and kept.
//!
//! Clients store the UUID as the name of this host and compare the certificate byte for byte, so a new
//! identity means that every client has to pair again. Therefore it is made only where no part of one
//! exists, and damaged files are a reason to refuse, never to start afresh. It keeps no other state.
//! Source for the certificate's shape: Sunshine src/crypto.cpp.
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::proto::crypto::{RsaSigner, Signer, rsa_pkcs1_sha256_verifies};
use crate::proto::x509::{Certificate, pem_to_der};

const CERTIFICATE: &str = "cert.pem";
const KEY: &str = "key.pem";
const UUID: &str = "uuid";
const FILES: [&str; 3] = [KEY, CERTIFICATE, UUID];
/// Exists while the three files are being made: what it stands beside was never used.
const UNFINISHED: &str = "identity.unfinished";
const FILE_BYTES_MAX: u64 = 64 * 1024;
const VALIDITY: Duration = Duration::from_secs(20 * 365 * 24 * 3600);

/// Why there is no identity. The host does not start; nothing was changed.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}; {mend}", .path.display())]
pub struct IdentityError {
    pub path: PathBuf,
    pub reason: Reason,
    /// What the operator can do.
    pub mend: &'static str,
}

/// What is wrong with a path.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// The system refused; its error says why.
    #[error("{action} failed: {error}")]
    System { action: &'static str, error: io::Error },
    /// Others may put their own identity there.
    #[error("others than the owner may write here")]
    Writable,
    /// A directory, symbolic link, pipe or device.
    #[error("is not a regular file")]
    NotAFile,
    /// This file is not there, but others of the identity are.
    #[error("is missing while other files of the identity exist")]
    Missing,
    /// More than 64 KiB.
    #[error("is longer than {FILE_BYTES_MAX} bytes")]
    TooLong,
    /// Empty, truncated, filled with zeros or something else altogether.
    #[error("does not hold {0}")]
    Content(&'static str),
    /// Both are sound, but the certificate is another key's.
    #[error("is not the certificate of key.pem")]
    Mismatch,
    /// Another process is making an identity in the same directory.
    #[error("another process is making an identity here")]
    Busy,
    /// The key or certificate could not be made.
    #[error("could not be made: {0}")]
    Making(rcgen::Error),
}

const RESTORE: &str = "restore it from a backup, or remove key.pem, cert.pem and uuid together to \
                       get a new identity (every client must then pair again)";
const PERMIT: &str = "give the host's user access to it";

/// The host's key, certificate and UUID, checked against each other.
pub struct Identity {
    certificate: Certificate,
    certificate_pem: String,
    key_pem: Zeroizing<String>,
    key: PrivateKeyDer<'static>,
    signer: RsaSigner,
    uuid: String,
}

impl Identity {
    /// Loads the identity of a state directory, or makes one if it has no part of any. A directory
    /// that is not there is made with mode 0700.
    pub fn load_or_make(directory: &Path) -> Result<Self, IdentityError> {
        make_directory(directory)?;
        let unfinished = directory.join(UNFINISHED);
        let exist = FILES.map(|name| directory.join(name).symlink_metadata().is_ok());
        if unfinished.symlink_metadata().is_err() && exist.contains(&true) {
            return Self::load(directory);
        }
        let lock = lock(&unfinished)?;
        // The other process may have ended between the look and the lock.
        let identity = match Self::load(directory) {
            Ok(identity) => identity,
            Err(_) => Self::make_in(directory)?,
        };
        remove(&unfinished)?;
        sync_directory(directory)?;
        drop(lock);
        Ok(identity)
    }

    /// Loads what must be there.
    pub fn load(directory: &Path) -> Result<Self, IdentityError> {
        let read = |name: &str| read(&directory.join(name));
        let identity = Self::from_parts(&read(CERTIFICATE)?, &read(KEY)?, &read(UUID)?);
        identity.map_err(|(name, reason)| IdentityError {
            path: directory.join(name),
            reason,
            mend: RESTORE,
        })
    }

    /// A fresh identity that is stored nowhere.
    pub fn make() -> Result<Self, IdentityError> {
        let (certificate, key, uuid) = make_parts().map_err(|error| IdentityError {
            path: CERTIFICATE.into(),
            reason: Reason::Making(error),
            mend: "look for a system without randomness or with a clock far in the past",
        })?;
        Self::from_parts(&certificate, &key, &uuid).map_err(|(name, reason)| IdentityError {
            path: name.into(),
            reason,
            mend: RESTORE,
        })
    }

    fn make_in(directory: &Path) -> Result<Self, IdentityError> {
        let identity = Self::make()?;
        for name in FILES {
            remove(&directory.join(name))?;
        }
        write(directory, KEY, &identity.key_pem)?;
        write(directory, CERTIFICATE, &identity.certificate_pem)?;
        write(directory, UUID, &format!("{}\n", identity.uuid))?;
        Ok(identity)
    }

    fn from_parts(
        certificate_pem: &str,
        key_pem: &str,
        uuid: &str,
    ) -> Result<Self, (&'static str, Reason)> {
        let pkcs8 = pem_to_der(key_pem, "PRIVATE KEY").map(|der| PrivateKeyDer::Pkcs8(der.into()));
        let key = pkcs8
            .or_else(|_| {
                let der = pem_to_der(key_pem, "RSA PRIVATE KEY")?;
                Ok::<_, crate::proto::x509::CertificateError>(PrivateKeyDer::Pkcs1(der.into()))
            })
            .map_err(|_| (KEY, Reason::Content("a PEM private key")))?;
        let no_key = || (KEY, Reason::Content("an RSA-2048 private key"));
        let signer = RsaSigner::from_der(key.secret_der()).map_err(|_| no_key())?;
        let proof = signer.sign_pkcs1_sha256(b"is this your key");
        if proof.len() != 256 {
            return Err(no_key());
        }
        let certificate = Certificate::from_pem(certificate_pem)
            .map_err(|_| (CERTIFICATE, Reason::Content("one PEM certificate")))?;
        let public = certificate.public_key();
        if !rsa_pkcs1_sha256_verifies(public, b"is this your key", &proof) {
            return Err((CERTIFICATE, Reason::Mismatch));
        }
        let uuid = uuid.trim_end_matches('\n');
        if !is_uuid(uuid) {
            return Err((UUID, Reason::Content("a UUID")));
        }
        Ok(Self {
            certificate_pem: certificate.to_pem(),
            key_pem: Zeroizing::new(key_pem.to_owned()),
            uuid: uuid.to_owned(),
            certificate,
            key,
            signer,
        })
    }

    /// The certificate; pairing hashes its signature, clients pin its bytes.
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The PEM text of the same bytes: `plaincert` of pairing.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Signs the secrets of pairing.
    pub const fn signer(&self) -> &RsaSigner {
        &self.signer
    }

    /// `uniqueid` of serverinfo.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Certificate and key for TLS.
    pub(super) fn tls_certificate(&self) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        (self.certificate.der().to_vec().into(), self.key.clone_key())
    }
}

/// Prints nothing of the key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("certificate", &self.certificate)
            .field("uuid", &self.uuid)
            .finish_non_exhaustive()
    }
}

/// Certificate PEM, key PEM, UUID.
fn make_parts() -> Result<(String, Zeroizing<String>, String), rcgen::Error> {
    let mut random = [0; 36];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| rcgen::Error::RingUnspecified)?;
    let (serial, id) = random.split_at_mut(20);
    // 159 bits: positive, and twenty bytes long in every case.
    serial[0] = serial[0] & 0x7f | 0x40;
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, "moonshard");
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    params.serial_number = Some(serial.to_vec().into());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now.as_secs());
    params.not_after = params.not_before + VALIDITY;
    let der = params.self_signed(&key)?;
    let certificate =
        Certificate::from_der(der.der()).map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
    Ok((certificate.to_pem(), Zeroizing::new(key.serialize_pem()), uuid_v4(id)))
}

/// RFC 9562 version 4 from sixteen random bytes.
fn uuid_v4(random: &[u8]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in random.iter().enumerate() {
        let byte = match at {
            6 => byte & 0x0f | 0x40,
            8 => byte & 0x3f | 0x80,
            _ => *byte,
        };
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&crate::proto::hex::encode(&[byte]));
    }
    text
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

fn system<T>(path: &Path, action: &'static str, result: io::Result<T>) -> Result<T, IdentityError> {
    result.map_err(|error| IdentityError {
        path: path.to_owned(),
        reason: Reason::System { action, error },
        mend: PERMIT,
    })
}

fn make_directory(directory: &Path) -> Result<(), IdentityError> {
    let made = DirBuilder::new().mode(0o700).recursive(true).create(directory);
    system(directory, "making the directory", made)?;
    let metadata = system(directory, "looking at it", fs::metadata(directory))?;
    if metadata.mode() & 0o022 != 0 {
        return Err(IdentityError {
            path: directory.to_owned(),
            reason: Reason::Writable,
            mend: "use a directory of the host's own with mode 0700",
        });
    }
    Ok(())
}

/// Makes the mark of an unfinished identity and locks it for as long as the file is open.
fn lock(unfinished: &Path) -> Result<File, IdentityError> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let file = system(unfinished, "making it", options.open(unfinished))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(IdentityError {
            path: unfinished.to_owned(),
            reason: Reason::Busy,
            mend: "wait for it, or give each host a state directory of its own",
        }),
        Err(TryLockError::Error(error)) => system(unfinished, "locking it", Err(error)),
    }
}

fn read(path: &Path) -> Result<Zeroizing<String>, IdentityError> {
    let refuse = |reason| IdentityError { path: path.to_owned(), reason, mend: RESTORE };
    let metadata = match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(refuse(Reason::Missing));
        }
        other => system(path, "looking at it", other)?,
    };
    if !metadata.is_file() {
        return Err(refuse(Reason::NotAFile));
    }
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = system(path, "opening it", options.open(path))?;
    if path.ends_with(KEY) && metadata.mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "the host's key is open to other users; chmod 600");
    }
    let mut bytes = Zeroizing::new(Vec::new());
    let count = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
    if system(path, "reading it", count)? as u64 > FILE_BYTES_MAX {
        return Err(refuse(Reason::TooLong));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| refuse(Reason::Content("text")))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Removes a file that need not be there.
fn remove(path: &Path) -> Result<(), IdentityError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => system(path, "removing it", other),
    }
}

/// Writes a file that is there whole or not at all, and is there after a power cut.
fn write(directory: &Path, name: &str, text: &str) -> Result<(), IdentityError> {
    let path = directory.join(name);
    let temporary = directory.join(format!(".{name}.new"));
    let written = (|| {
        let _ = fs::remove_file(&temporary);
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)
    })();
    system(&path, "writing it", written)?;
    sync_directory(directory)
}

fn sync_directory(directory: &Path) -> Result<(), IdentityError> {
    let synced = File::open(directory).and_then(|opened| opened.sync_all());
    system(directory, "syncing it", synced)
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
