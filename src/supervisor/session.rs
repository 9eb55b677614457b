//! One session's process as the supervisor sees it: started or adopted, watched, ended for good.
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::cgroup::Cgroup;
use super::directory::{self, RuntimeDirectory};
use super::orphans;
use crate::ipc::{SessionBoot, SessionId, SessionSpec, ToSession, VERSION};
use crate::proc::boot::{self, Spawn};
use crate::proc::child::Child;
use crate::proc::flight::Flight;
use crate::proc::link::{Link, LinkError};

/// The newest lines of a log that are told to operator and client, bytes.
const LAST_WORDS_BYTES: u64 = 1024;

/// A session that runs.
pub struct Session {
    id: SessionId,
    process: Process,
    directory: PathBuf,
    cgroup: Option<Cgroup>,
    /// What its threads did last; None: it was adopted.
    flight: Option<Flight>,
    /// Over which it was asked to stop.
    last_link: Option<Link>,
}

enum Process {
    Started(Child),
    /// Started by an earlier supervisor; another process reaps it.
    Adopted {
        pid: Pid,
        pidfd: OwnedFd,
    },
}

/// What is left to remove of a session that has ended: killed processes may take a moment to go.
pub struct Remains {
    directory: PathBuf,
    cgroup: Option<Cgroup>,
    attempts: u32,
}

impl Session {
    /// Makes its directory and starts its process from a file of this program.
    ///
    /// # Errors
    /// In words for the client and the operator. Nothing is left behind then.
    pub fn start(
        program: &Path,
        runtime: &RuntimeDirectory,
        spec: SessionSpec,
    ) -> Result<Self, String> {
        let id = spec.id;
        let (path, lock) = runtime.make_session(id).map_err(|error| error.to_string())?;
        Self::spawn(program, &path, &lock, spec).map_err(|error| {
            directory::remove(&path);
            format!("the session's process could not be started: {error}")
        })
    }

    fn spawn(program: &Path, path: &Path, lock: &OwnedFd, spec: SessionSpec) -> io::Result<Self> {
        let id = spec.id;
        let listener = Link::listen(&socket(path))?;
        let log = directory::open_log(&log(path))?;
        let flight = Flight::create()?;
        let how = Spawn {
            kind: "session",
            label: &id.to_string(),
            fds: &[listener.as_fd(), lock.as_fd(), flight.as_fd()],
            dies_with_parent: false,
            output: Some(log),
            oom_score_adj: 200,
        };
        let child =
            boot::spawn_from(program, &how, &SessionBoot { spec, directory: path.to_owned() })?;
        // Lets the next supervisor find it.
        std::fs::write(path.join("pid"), child.pid().to_string())?;
        let cgroup = Cgroup::hold(id, child.pid());
        Ok(Self {
            id,
            process: Process::Started(child),
            directory: path.to_owned(),
            cgroup,
            flight: Some(flight),
            last_link: None,
        })
    }

    /// Takes over a session that outlived its supervisor. None: its process cannot be identified.
    pub fn adopt(runtime: &RuntimeDirectory, id: SessionId) -> Option<Self> {
        let directory = runtime.session(id);
        let text = std::fs::read_to_string(directory.join("pid")).ok()?;
        let pid: u32 = text.trim().parse().ok()?;
        let raw = Pid::from_raw(i32::try_from(pid).ok()?)?;
        let pidfd = pidfd_open(raw, PidfdFlags::NONBLOCK).ok()?;
        // Looked at after the pidfd was opened: so it speaks of that very process.
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        if words.get(1) != Some(&b"session".as_slice())
            || words.get(2) != Some(&id.to_string().as_bytes())
        {
            return None;
        }
        let cgroup = Cgroup::hold(id, pid);
        Some(Self {
            id,
            process: Process::Adopted { pid: raw, pidfd },
            directory,
            cgroup,
            flight: None,
            last_link: None,
        })
    }

    pub fn pid(&self) -> u32 {
        match &self.process {
            Process::Started(child) => child.pid(),
            Process::Adopted { pid, .. } => pid.as_raw_nonzero().get().unsigned_abs(),
        }
    }

    pub fn socket(&self) -> PathBuf {
        socket(&self.directory)
    }

    /// All that can be said of it without asking it.
    pub fn evidence(&self) -> String {
        let flight = self.flight.as_ref().map(Flight::text).unwrap_or_default();
        super::evidence::threads(self.pid()) + &flight
    }

    /// Kills its process, and its process group.
    pub fn kill(&self) {
        match &self.process {
            Process::Started(child) => child.kill(),
            Process::Adopted { pid, pidfd } => {
                let _ = pidfd_send_signal(pidfd, Signal::KILL);
                let _ = rustix::process::kill_process_group(*pid, Signal::KILL);
            }
        }
    }

    /// Asks it to end by itself and to tell its viewers, over a link of its own, so that no front is
    /// needed for it. A session that cannot be asked is killed.
    pub fn ask_to_stop(&mut self, reason: &str) {
        let ask = || -> Result<Link, LinkError> {
            let link = Link::connect(&self.socket())?;
            link.send(&ToSession::Hello { version: VERSION }, &[])?;
            link.send(&ToSession::Stop { reason: reason.to_owned() }, &[])?;
            Ok(link)
        };
        match ask() {
            // Kept open: closed with something unread in it, it would break before it is read.
            Ok(link) => self.last_link = Some(link),
            Err(error) => {
                tracing::debug!(session = %self.id, %error, "cannot be asked to stop: killed");
                self.kill();
            }
        }
    }

    /// How it ended, if it has.
    pub fn try_reap(&mut self) -> Option<String> {
        match &mut self.process {
            Process::Started(child) => {
                // While it is a zombie its number, and so its group's, cannot belong to another.
                let group = i32::try_from(child.pid()).ok().and_then(Pid::from_raw);
                let ended = has_ended(child.as_fd());
                if ended && let Some(group) = group {
                    let _ = rustix::process::kill_process_group(group, Signal::KILL);
                }
                child.try_reap().map(|exit| exit.to_string())
            }
            Process::Adopted { pidfd, .. } => {
                has_ended(pidfd.as_fd()).then(|| "ended (adopted: status unknown)".to_owned())
            }
        }
    }

    /// After its end: kills what it left behind. Returns its last words and what is to be removed.
    pub fn bury(self, except: &BTreeSet<u32>) -> (String, Remains) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
        orphans::kill(self.id, Some(std::process::id()), except);
        let words = directory::tail(&log(&self.directory), LAST_WORDS_BYTES).unwrap_or_default();
        let remains = Remains { directory: self.directory, cgroup: self.cgroup, attempts: 0 };
        (words.trim_end().to_owned(), remains)
    }

    /// Keeps its log short.
    pub fn bound_log(&self) {
        directory::bound_log(&log(&self.directory));
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.process {
            Process::Started(child) => child.as_fd(),
            Process::Adopted { pidfd, .. } => pidfd.as_fd(),
        }
    }
}

impl Remains {
    /// Attempts before it is given up, one a tick.
    const ATTEMPTS_MAX: u32 = 20;

    /// Removes it; true: done, or given up with a word in the log.
    pub fn remove(&mut self) -> bool {
        self.attempts += 1;
        let emptied = self.cgroup.as_ref().is_none_or(Cgroup::remove);
        directory::remove(&self.directory);
        if emptied && !self.directory.exists() {
            return true;
        }
        if self.attempts >= Self::ATTEMPTS_MAX {
            tracing::warn!(directory = %self.directory.display(), "something of the session stays");
        }
        self.attempts >= Self::ATTEMPTS_MAX
    }
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("session.sock")
}

fn log(directory: &Path) -> PathBuf {
    directory.join("session.log")
}

/// A pidfd is readable once its process has ended.
fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}
