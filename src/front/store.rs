//! The paired clients on disk: one file each, written so that a crash leaves the old or the new state.
//!
//! `<state>/clients/<id>.json` holds a name, the certificate and when it was paired. A file that cannot
//! be read is reported with its path and reason, and is not loaded; it is never deleted: an operator
//! may mend it. Its client has to pair again, which keeps the broken file as `.bak`.
//! Writing is the business of one thread ([`spawn`]), because an fsync can take as long as it likes.
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::core::Core;
use crate::host::event::Event;
use crate::host::{Client, client_id};
use crate::ipc::ClientId;
use crate::proto::x509::Certificate;

/// Of the files' layout.
const VERSION: u32 = 1;
/// Bytes of one file.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Files that are looked at.
const CLIENTS_MAX: usize = 4096;
/// Jobs that may wait for the disk. When full, the pairing or removal fails with a reason.
const JOBS_MAX: usize = 64;

#[derive(Serialize, Deserialize)]
struct ClientFile {
    version: u32,
    name: String,
    /// PEM.
    certificate: String,
    /// Seconds since the Unix epoch.
    paired_at: u64,
}

/// A file that was not loaded.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}", path = path.display())]
pub struct BrokenFile {
    pub path: PathBuf,
    pub reason: String,
}

/// The directory of client files.
pub struct Store {
    directory: PathBuf,
}

impl Store {
    /// Opens `<state>/clients`, making it (0700) if it is not there.
    ///
    /// # Errors
    /// If it cannot be made or is no directory.
    pub fn open(state: &Path) -> io::Result<Self> {
        let directory = state.join("clients");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        Ok(Self { directory })
    }

    /// Every client that can be read, and every file that cannot.
    ///
    /// # Errors
    /// If the directory itself cannot be read: then nothing is known about who is paired.
    pub fn load(&self) -> io::Result<(Vec<Client>, Vec<BrokenFile>)> {
        let (mut clients, mut broken) = (Vec::new(), Vec::new());
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.ends_with(".json") && !name.starts_with('.') && paths.len() < CLIENTS_MAX {
                paths.push(path);
            }
        }
        paths.sort();
        for path in paths {
            match read(&path) {
                Ok(client) => clients.push(client),
                Err(reason) => broken.push(BrokenFile { path, reason }),
            }
        }
        Ok((clients, broken))
    }

    /// Writes a client's file. When it returns, the file survives a power cut.
    ///
    /// # Errors
    /// The file is as it was before.
    pub fn store(&self, client: &Client) -> Result<(), String> {
        let id = client_id(&client.certificate);
        let certificate = Certificate::from_der(&client.certificate).map_err(|e| e.to_string())?;
        let file = ClientFile {
            version: VERSION,
            name: client.name.clone(),
            certificate: certificate.to_pem(),
            paired_at: client.paired_at,
        };
        let text = serde_json::to_vec_pretty(&file).map_err(|e| e.to_string())?;
        self.replace(id, &text).map_err(|e| format!("{}: {e}", self.path(id).display()))
    }

    /// Removes a client's file, durably. A file that is not there is removed already.
    ///
    /// # Errors
    /// The file may still be there.
    pub fn erase(&self, client: ClientId) -> Result<(), String> {
        let path = self.path(client);
        let removed = match fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        removed.and_then(|()| self.sync_directory()).map_err(|e| format!("{}: {e}", path.display()))
    }

    fn path(&self, client: ClientId) -> PathBuf {
        self.directory.join(format!("{client}.json"))
    }

    fn replace(&self, id: ClientId, text: &[u8]) -> io::Result<()> {
        let path = self.path(id);
        if path.symlink_metadata().is_ok() && read(&path).is_err() {
            fs::rename(&path, path.with_extension("json.bak"))?;
        }
        let new = self.directory.join(format!(".{id}.new"));
        let written = write_through(&new, text).and_then(|()| fs::rename(&new, &path));
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written.and_then(|()| self.sync_directory())
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }
}

fn write_through(path: &Path, text: &[u8]) -> io::Result<()> {
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

fn read(path: &Path) -> Result<Client, String> {
    let open =
        OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = open.map_err(|e| match e.raw_os_error() {
        Some(libc::ELOOP) => "is a symbolic link".to_owned(),
        _ => e.to_string(),
    })?;
    if !file.metadata().map_err(|e| e.to_string())?.is_file() {
        return Err("is not a regular file".into());
    }
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(|e| e.to_string())?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("is longer than {FILE_BYTES_MAX} bytes"));
    }
    let file: ClientFile = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    if file.version != VERSION {
        return Err(format!("has layout version {}, this program reads {VERSION}", file.version));
    }
    let certificate = Certificate::from_pem(&file.certificate).map_err(|e| e.to_string())?;
    let certificate = certificate.der().to_vec();
    let id = client_id(&certificate);
    if path.file_stem().is_none_or(|stem| *stem != *id.to_string()) {
        return Err(format!("its certificate is that of client {id}"));
    }
    Ok(Client { certificate, name: file.name, paired_at: file.paired_at })
}

/// Work for the disk.
#[derive(Debug)]
pub enum Job {
    Store { client: ClientId, name: String, certificate: Vec<u8> },
    Erase { client: ClientId },
}

/// Starts the thread that writes; it tells the host of each result and ends when the sender is dropped.
///
/// # Errors
/// If the thread cannot be made.
pub fn spawn(store: Store, core: Arc<Core>) -> io::Result<(SyncSender<Job>, JoinHandle<()>)> {
    let (sender, jobs) = sync_channel(JOBS_MAX);
    let thread = std::thread::Builder::new().name("store".into());
    let thread = thread.spawn(move || work(&store, &core, &jobs))?;
    Ok((sender, thread))
}

fn work(store: &Store, core: &Core, jobs: &Receiver<Job>) {
    for job in jobs {
        let (client, event, failure) = match job {
            Job::Store { client, name, certificate } => {
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                let paired_at = since.map_or(0, |since| since.as_secs());
                let result = store.store(&Client { certificate, name, paired_at });
                let failure = result.as_ref().err().cloned();
                let result = result.map(|()| paired_at);
                (client, Event::ClientStored { client, result }, failure)
            }
            Job::Erase { client } => {
                let result = store.erase(client);
                let failure = result.as_ref().err().cloned();
                (client, Event::ClientErased { client, result }, failure)
            }
        };
        match failure {
            None => core.counters().store_writes.add(),
            Some(reason) => {
                core.counters().store_failures.add();
                tracing::error!(?client, reason, "a client's file could not be changed");
            }
        }
        core.dispatch(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Client {
        let text = include_str!("../../tests/vectors/pairing-01-qt-sha256.json");
        let vector: serde_json::Value = serde_json::from_str(text).unwrap();
        let pem = vector["client"]["cert_pem"].as_str().unwrap();
        let certificate = Certificate::from_pem(pem).unwrap().der().to_vec();
        Client { certificate, name: "Deck <1>".into(), paired_at: 1_700_000_000 }
    }

    fn open() -> (tempfile::TempDir, Store) {
        let state = tempfile::tempdir().unwrap();
        let store = Store::open(state.path()).unwrap();
        (state, store)
    }

    #[test]
    fn a_stored_client_is_loaded_and_an_erased_one_is_not() {
        let (_state, store) = open();
        let client = client();
        store.store(&client).unwrap();
        let (clients, broken) = store.load().unwrap();
        assert!(broken.is_empty());
        assert_eq!(clients[0].certificate, client.certificate);
        assert_eq!(clients[0].name, client.name);
        assert_eq!(clients[0].paired_at, client.paired_at);
        store.erase(client_id(&client.certificate)).unwrap();
        store.erase(client_id(&client.certificate)).unwrap();
        assert!(store.load().unwrap().0.is_empty());
    }

    #[test]
    fn broken_files_are_named_kept_and_not_loaded() {
        let (_state, store) = open();
        let client = client();
        store.store(&client).unwrap();
        let good = store.path(client_id(&client.certificate));
        let text = fs::read(&good).unwrap();
        let other = |digit: u8| store.directory.join(format!("{}.json", ClientId([digit; 32])));
        fs::write(other(1), &text[..text.len() / 2]).unwrap();
        fs::write(other(2), vec![0; 100]).unwrap();
        fs::write(other(3), &text).unwrap();
        fs::create_dir(other(4)).unwrap();
        std::os::unix::fs::symlink(&good, other(5)).unwrap();
        fs::write(other(6), vec![b' '; 300_000]).unwrap();
        let wrong_version =
            String::from_utf8(text).unwrap().replace("\"version\": 1", "\"version\": 9");
        fs::write(other(7), wrong_version).unwrap();
        let (clients, broken) = store.load().unwrap();
        assert_eq!(clients.len(), 1);
        let broken: Vec<_> = broken.iter().map(|b| b.path.clone()).collect();
        assert_eq!(broken, (1..=7).map(other).collect::<Vec<_>>());
        assert!(broken.iter().all(|path| path.symlink_metadata().is_ok()));
    }

    #[test]
    fn a_new_pairing_keeps_the_broken_file_beside_it() {
        let (_state, store) = open();
        let client = client();
        let path = store.path(client_id(&client.certificate));
        fs::write(&path, b"{").unwrap();
        store.store(&client).unwrap();
        assert_eq!(store.load().unwrap().0.len(), 1);
        assert_eq!(fs::read(path.with_extension("json.bak")).unwrap(), b"{");
    }

    #[test]
    fn what_a_crash_leaves_behind_is_not_loaded_and_not_in_the_way() {
        let (_state, store) = open();
        let client = client();
        let id = client_id(&client.certificate);
        fs::write(store.directory.join(format!(".{id}.new")), b"{\"versi").unwrap();
        let (clients, broken) = store.load().unwrap();
        assert!(clients.is_empty() && broken.is_empty());
        store.store(&client).unwrap();
        assert_eq!(store.load().unwrap().0.len(), 1);
    }
}
