//! An identity is made once, comes back the same, and is never replaced behind the operator's back.
use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries
        .filter(|entry| entry.path().is_file())
        .map(|entry| {
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap_or_default())
        })
        .collect()
}

/// A directory with an identity in it.
fn made() -> (tempfile::TempDir, PathBuf, Identity) {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("deep/state");
    let identity = Identity::load_or_make(&directory).unwrap();
    (root, directory, identity)
}

#[test]
fn made_once_and_loaded_ever_after() {
    let (_root, directory, first) = made();
    let before = files(&directory);
    assert_eq!(before.keys().collect::<Vec<_>>(), ["cert.pem", "key.pem", "uuid"]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    for name in before.keys() {
        assert_eq!(mode(&directory.join(name)), 0o600);
    }
    let second = Identity::load_or_make(&directory).unwrap();
    assert_eq!(files(&directory), before);
    assert_eq!(second.certificate(), first.certificate());
    assert_eq!(second.uuid(), first.uuid());
    assert_eq!(first.certificate_pem().as_bytes(), before["cert.pem"]);
    assert!(is_uuid(first.uuid()) && first.uuid().as_bytes()[14] == b'4');
    assert_ne!(Identity::make().unwrap().uuid(), first.uuid());
    assert!(!format!("{first:?}").contains("PRIVATE"));
}

#[test]
fn the_certificate_has_the_shape_that_clients_expect() {
    let identity = Identity::make().unwrap();
    let certificate = identity.certificate();
    let der = certificate.der();
    assert_eq!(certificate.serial().len(), 20);
    assert_eq!(certificate.serial()[0] & 0xc0, 0x40, "159 bits and positive");
    assert_eq!(certificate.signature().len(), 256);
    let holds = |bytes: &[u8]| der.windows(bytes.len()).any(|window| window == bytes);
    assert!(holds(&[0xa0, 3, 2, 1, 2]), "version 3");
    assert!(holds(b"\x0c\x09moonshard"), "common name");
    let after_key = certificate.public_key().as_ptr().addr() - der.as_ptr().addr()
        + certificate.public_key().len();
    assert_eq!(der[after_key], 0x30, "signature algorithm follows: no extensions");
    assert!(!holds(&[0xa3, 0x82]) && holds(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11]));
}

/// Spoils one file and expects a refusal that names it and leaves everything as it is.
fn refused(spoil: impl Fn(&Path), name: &str) -> IdentityError {
    let (_root, directory, _) = made();
    let path = directory.join(name);
    spoil(&path);
    let before = files(&directory);
    let error = Identity::load_or_make(&directory).unwrap_err();
    assert_eq!(files(&directory), before, "nothing was touched");
    assert_eq!(error.path, path);
    let text = error.to_string();
    assert!(text.starts_with(path.to_str().unwrap()) && text.contains("; "), "{text}");
    error
}

#[test]
fn damaged_files_are_refused_by_name() {
    for name in FILES {
        let rewrite = |change: fn(Vec<u8>) -> Vec<u8>| {
            move |path: &Path| fs::write(path, change(fs::read(path).unwrap())).unwrap()
        };
        for change in [
            |_| Vec::new(),
            |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec(),
            |bytes: Vec<u8>| vec![0; bytes.len()],
            |_| vec![0xff; 100],
        ] as [fn(Vec<u8>) -> Vec<u8>; 4]
        {
            let error = refused(rewrite(change), name);
            assert!(matches!(error.reason, Reason::Content(_)), "{error}");
        }
        let long = refused(rewrite(|_| vec![b'a'; 100_000]), name);
        assert!(matches!(long.reason, Reason::TooLong));
        let missing = refused(|path| fs::remove_file(path).unwrap(), name);
        assert!(matches!(missing.reason, Reason::Missing));
        let directory = |path: &Path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        };
        assert!(matches!(refused(directory, name).reason, Reason::NotAFile));
        let link = |path: &Path| {
            fs::rename(path, path.with_extension("moved")).unwrap();
            symlink(path.with_extension("moved"), path).unwrap();
        };
        assert!(matches!(refused(link, name).reason, Reason::NotAFile));
    }
}

#[test]
fn every_truncation_of_the_key_is_refused() {
    let (certificate, key, uuid) = make_parts().unwrap();
    for short in 0..key.trim_end().len() {
        assert!(Identity::from_parts(&certificate, &key[..short], &uuid).is_err(), "{short}");
    }
    assert!(Identity::from_parts(&certificate, &key, &uuid).is_ok());
}

#[test]
fn the_certificate_of_another_key_is_refused() {
    let other = Identity::make().unwrap();
    let swap = |path: &Path| fs::write(path, other.certificate_pem()).unwrap();
    assert!(matches!(refused(swap, CERTIFICATE).reason, Reason::Mismatch));
}

#[test]
fn a_key_of_another_kind_is_refused() {
    let (certificate, _, uuid) = make_parts().unwrap();
    let ecdsa = KeyPair::generate().unwrap().serialize_pem();
    let large = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_3072).unwrap();
    for key in [ecdsa, large.serialize_pem()] {
        let (name, reason) = Identity::from_parts(&certificate, &key, &uuid).err().unwrap();
        assert!(name == KEY && matches!(reason, Reason::Content(_)));
    }
}

/// A crash at any point of the making leaves the mark; what stands beside it was never used.
#[test]
fn an_interrupted_making_is_begun_again() {
    for kept in 0..=FILES.len() {
        let (_root, directory, first) = made();
        fs::write(directory.join(UNFINISHED), "").unwrap();
        fs::write(directory.join(".cert.pem.new"), "half").unwrap();
        for name in &FILES[kept..] {
            fs::remove_file(directory.join(name)).unwrap();
        }
        let second = Identity::load_or_make(&directory).unwrap();
        assert_eq!(second.certificate() == first.certificate(), kept == FILES.len());
        assert!(!directory.join(UNFINISHED).exists());
        let third = Identity::load_or_make(&directory).unwrap();
        assert_eq!(third.certificate(), second.certificate());
    }
}

#[test]
fn two_makers_do_not_mix() {
    let root = tempfile::tempdir().unwrap();
    let held = lock(&root.path().join(UNFINISHED)).unwrap();
    let error = Identity::load_or_make(root.path()).unwrap_err();
    assert!(matches!(error.reason, Reason::Busy));
    drop(held);
    Identity::load_or_make(root.path()).unwrap();
}

#[test]
fn a_directory_that_others_may_write_is_refused() {
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let error = Identity::load_or_make(root.path()).unwrap_err();
    assert!(matches!(error.reason, Reason::Writable));
    assert_eq!(files(root.path()).len(), 0);
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Identity::load_or_make(&file).unwrap_err();
    assert!(matches!(error.reason, Reason::System { .. }));
}
