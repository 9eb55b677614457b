//! The runtime directory: one host at a time in it, and a directory of its own for each session.
//!
//! A session's directory belongs to its session: the flock on its `lock` is held by the session's
//! process alone and goes with it, whatever happens to this one.
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::orphans;
use crate::ipc::SessionId;
use crate::proc::plain;

/// A session's log is cut to its newest part when it is longer, bytes.
const LOG_BYTES_MAX: u64 = 1024 * 1024;
/// What is kept of it then, bytes.
const LOG_BYTES_KEPT: u64 = 256 * 1024;

/// Why the runtime directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error("another host already runs in {}: moonshard serve (pid {pid})", directory.display())]
    Occupied { directory: PathBuf, pid: u32 },
    #[error("{}: {error}", path.display())]
    System { path: PathBuf, error: io::Error },
}

fn at(path: &Path) -> impl Fn(io::Error) -> DirectoryError {
    move |error| DirectoryError::System { path: path.to_owned(), error }
}

/// The runtime directory, held by this host as long as this value lives.
pub struct RuntimeDirectory {
    path: PathBuf,
    _lock: File,
}

impl RuntimeDirectory {
    /// Makes the directory and takes its lock.
    ///
    /// # Errors
    /// `Occupied` if another host holds it.
    pub fn occupy(path: &Path) -> Result<Self, DirectoryError> {
        make_private(path)?;
        make_private(&path.join("sessions"))?;
        let file = path.join("lock");
        let occupied = || {
            let pid = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
            DirectoryError::Occupied { directory: path.to_owned(), pid: pid.unwrap_or(0) }
        };
        let mut lock = lock_file(&file).map_err(at(&file))?.ok_or_else(occupied)?;
        lock.set_len(0).map_err(at(&file))?;
        writeln!(lock, "{}", std::process::id()).map_err(at(&file))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    pub fn admin_socket(&self) -> PathBuf {
        self.path.join("admin.sock")
    }

    pub fn session(&self, id: SessionId) -> PathBuf {
        self.path.join("sessions").join(id.to_string())
    }

    /// Makes a session's directory; its lock is held by the file that comes back.
    pub fn make_session(&self, id: SessionId) -> Result<(PathBuf, OwnedFd), DirectoryError> {
        let path = self.session(id);
        DirBuilder::new().mode(0o700).create(&path).map_err(at(&path))?;
        let file = path.join("lock");
        match lock_file(&file) {
            Ok(Some(lock)) => Ok((path, lock.into())),
            Ok(None) => Err(at(&file)(io::Error::other("it is locked already"))),
            Err(error) => Err(at(&file)(error)),
        }
    }

    /// Kills and removes what sessions that no longer live have left behind; returns those that do live.
    pub fn sweep(&self) -> Vec<SessionId> {
        let mut living = Vec::new();
        let Ok(entries) = fs::read_dir(self.path.join("sessions")) else { return living };
        for entry in entries.flatten() {
            let id = entry.file_name().into_string().ok().and_then(|n| SessionId::try_from(n).ok());
            match (id, lock_file(&entry.path().join("lock"))) {
                (Some(id), Ok(None)) => living.push(id),
                // Not locked, not a directory, or without a place for a lock: nobody's.
                (id, _) => {
                    // Its subreaper went with it, so that its mark is all there is to find them by.
                    if let Some(id) = id {
                        orphans::kill(id, None, &BTreeSet::new());
                    }
                    remove(&entry.path());
                }
            }
        }
        living
    }

    /// Removes everything in it and itself; the lock goes last.
    pub fn clear(self) {
        for name in ["admin.sock", "sessions", "lock"] {
            remove(&self.path.join(name));
        }
        let _ = fs::remove_dir(&self.path);
    }
}

/// Removes a directory and all in it, or a file. What cannot be removed is named in the log.
pub fn remove(path: &Path) {
    let result = match fs::symlink_metadata(path) {
        Ok(data) if data.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %path.display(), %error, "cannot remove"),
    }
}

/// Makes a directory that only its owner may enter, with its parents; one that exists must be ours.
pub fn make_private(path: &Path) -> Result<(), DirectoryError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at(path))?;
    let data = fs::symlink_metadata(path).map_err(at(path))?;
    if !data.is_dir() {
        return Err(at(path)(io::Error::other("is not a directory: remove it")));
    }
    if data.uid() != rustix::process::geteuid().as_raw() {
        let message = format!("belongs to user {}: choose another or remove it", data.uid());
        return Err(at(path)(io::Error::other(message)));
    }
    if data.mode() & 0o077 != 0 {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .map_err(at(path))?;
    }
    Ok(())
}

/// Opens or makes a lock file and locks it; None: somebody else holds it.
fn lock_file(path: &Path) -> io::Result<Option<File>> {
    // A file that was removed while we waited for nothing is tried again; a few times are enough.
    for _ in 0..8 {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        // Its owner removes the file before it lets go: then this one is nobody's any more.
        let same = |data: fs::Metadata| Some((data.dev(), data.ino()));
        if fs::symlink_metadata(path).ok().and_then(same) == file.metadata().ok().and_then(same) {
            return Ok(Some(file));
        }
    }
    Err(io::Error::other("the lock file changes all the time"))
}

/// A log that its writers append to.
pub fn open_log(path: &Path) -> io::Result<OwnedFd> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    Ok(file.into())
}

/// Cuts a log that has grown too long to its newest part. Lines written meanwhile may be lost.
pub fn bound_log(path: &Path) {
    let cut = || -> io::Result<()> {
        if fs::symlink_metadata(path)?.len() <= LOG_BYTES_MAX {
            return Ok(());
        }
        let tail = tail(path, LOG_BYTES_KEPT)?;
        let mut log = OpenOptions::new().append(true).open(path)?;
        log.set_len(0)?;
        log.write_all(b"(older lines were removed)\n")?;
        log.write_all(tail.as_bytes())
    };
    if let Err(error) = cut() {
        tracing::debug!(path = %path.display(), %error, "cannot bound the log");
    }
}

/// The last whole lines of a file, at most `bytes` of them.
///
/// # Errors
/// There is none, or something else is in its place: an app may write here.
pub fn tail(path: &Path, bytes: u64) -> io::Result<String> {
    let mut file = plain::open(path)?;
    let start = file.metadata()?.len().saturating_sub(bytes);
    file.seek(SeekFrom::Start(start))?;
    let mut text = Vec::new();
    file.take(bytes).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let whole = if start == 0 { 0 } else { text.find('\n').map_or(0, |newline| newline + 1) };
    Ok(text[whole..].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_in_the_place_of_a_log_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("session.log");
        fs::write(&path, "one\ntwo\n").unwrap();
        assert_eq!(tail(&path, 5).unwrap(), "two\n");
        fs::remove_file(&path).unwrap();
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
        assert!(tail(&path, 5).is_err());
    }

    #[test]
    fn a_second_host_is_refused_and_named_and_may_follow_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("moonshard");
        let first = RuntimeDirectory::occupy(&path).unwrap();
        let error = RuntimeDirectory::occupy(&path).err().unwrap().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        first.clear();
        assert!(!path.exists());
        RuntimeDirectory::occupy(&path).unwrap();
    }

    #[test]
    fn the_sweep_removes_what_is_not_locked_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = RuntimeDirectory::occupy(dir.path()).unwrap();
        let (alive, dead) = (SessionId(1), SessionId(2));
        let (_, lock) = runtime.make_session(alive).unwrap();
        drop(runtime.make_session(dead).unwrap());
        fs::write(runtime.session(dead).join("x"), "x").unwrap();
        fs::create_dir_all(dir.path().join("sessions/stranger/deep")).unwrap();
        fs::write(dir.path().join("sessions/file"), "x").unwrap();
        assert_eq!(runtime.sweep(), [alive]);
        let left: Vec<_> = fs::read_dir(dir.path().join("sessions")).unwrap().flatten().collect();
        assert_eq!(left.len(), 1);
        drop(lock);
        assert_eq!(runtime.sweep(), []);
        assert!(!runtime.session(alive).exists());
    }

    #[test]
    fn a_log_is_bounded_and_keeps_its_newest_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = File::from(open_log(&path).unwrap());
        for i in 0..200_000 {
            writeln!(log, "line {i}").unwrap();
        }
        bound_log(&path);
        writeln!(log, "after").unwrap();
        let size = fs::metadata(&path).unwrap().len();
        assert!(size <= LOG_BYTES_KEPT + 100, "{size}");
        let text = tail(&path, 40).unwrap();
        assert_eq!(text, "line 199998\nline 199999\nafter\n");
    }

    #[test]
    fn a_link_in_place_of_the_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir(&target).unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(RuntimeDirectory::occupy(&link).is_err());
    }
}
