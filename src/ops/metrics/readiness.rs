//! Can a new session be made right now? Proved at the real TLS port and on the real disks, by a child
//! that can be killed.
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};

use super::board::Known;
use crate::proc::boot::{self, Spawn};

/// A handshake and its answer take no longer, or the port does not serve.
const PROBE_MAX: Duration = Duration::from_secs(3);
/// How long an outcome holds.
const OUTCOME_AGE_MAX: Duration = Duration::from_secs(2);
/// Of the child's words no more is read, bytes.
const WORDS_BYTES_MAX: u64 = 4096;
/// Of the file that it writes, as large as that of a paired device, bytes.
const FILE_BYTES: usize = 4096;
/// The child's last word: it has tried everything.
const DONE: &str = "done";

/// What is to be tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Trial {
    /// The TLS port; None: it is known not to answer.
    port: Option<u16>,
    /// Name and place of each directory that must take files.
    directories: Vec<(String, PathBuf)>,
}

/// What did not work, and why.
type Outcome = Vec<String>;

/// The newest outcome. Whoever asks while a probe runs waits for that one.
#[derive(Debug, Default)]
pub struct Readiness(Mutex<Option<(Instant, Trial, Outcome)>>);

impl Readiness {
    /// Why no session can be made now; empty: one can. `now_ns`: CLOCK_MONOTONIC.
    pub fn obstacles(&self, known: &Known, now_ns: u64) -> Vec<String> {
        let mut obstacles = known.obstacles(now_ns);
        let lives = known.ailments(now_ns).is_empty();
        let trial = Trial {
            port: lives.then_some(known.listening.https),
            directories: vec![
                ("state".into(), known.state_dir.clone()),
                ("runtime".into(), known.runtime_dir.clone()),
            ],
        };
        obstacles.extend(self.prove(trial));
        obstacles
    }

    fn prove(&self, trial: Trial) -> Outcome {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((when, of, outcome)) = &*newest
            && when.elapsed() < OUTCOME_AGE_MAX
            && *of == trial
        {
            return outcome.clone();
        }
        let outcome =
            probe(&trial).unwrap_or_else(|e| vec![format!("no probe could be made: {e}")]);
        *newest = Some((Instant::now(), trial, outcome.clone()));
        outcome
    }
}

/// Has a child do a handshake and ask for `/serverinfo`, and write where the host writes.
fn probe(trial: &Trial) -> io::Result<Outcome> {
    let memfd = rustix::fs::memfd_create("probe-tls", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut words = File::from(memfd);
    let how = Spawn {
        kind: "probe-tls",
        label: "",
        fds: &[],
        dies_with_parent: true,
        output: Some(OwnedFd::from(words.try_clone()?)),
        oom_score_adj: 500,
    };
    let mut child = boot::spawn(&how, trial)?;
    let deadline = Instant::now() + PROBE_MAX;
    // Its words count and not its status, which the supervisor's loop may take first.
    let ended = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = rustix::time::Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::from_borrowed_fd(child.as_fd(), PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => break ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    if !ended {
        child.kill();
    }
    let _ = child.wait(Duration::from_millis(200));
    let mut text = String::new();
    words.seek(SeekFrom::Start(0))?;
    words.take(WORDS_BYTES_MAX).read_to_string(&mut text)?;
    let mut outcome: Outcome = text.lines().map(str::to_owned).filter(|l| l != DONE).collect();
    if !ended {
        let step = match trial.port {
            Some(_) => "no answer at the TLS port",
            None => "the directories cannot be written",
        };
        outcome.push(format!("{step} within {} s", PROBE_MAX.as_secs()));
    } else if !text.ends_with(&format!("{DONE}\n")) {
        outcome.push("the probe has died".into());
    }
    Ok(outcome)
}

/// The child's entry, called by the binary for `moonshard probe-tls`: a line for each thing that does
/// not work, then the word that it has tried everything.
pub fn main() -> ExitCode {
    match boot::receive::<Trial>(0) {
        Ok((trial, _)) => {
            for (name, directory) in &trial.directories {
                if let Err(error) = write_in(directory) {
                    let path = directory.display();
                    println!("the {name} directory {path} cannot be written: {error}");
                }
            }
            if let Some(Err(reason)) = trial.port.map(ask) {
                println!("the TLS port: {reason}");
            }
        }
        Err(error) => println!("the probe was not told what to try: {error}"),
    }
    println!("{DONE}");
    ExitCode::SUCCESS
}

fn ask(port: u16) -> Result<(), String> {
    let answer = crate::tls::client::get(port, "/serverinfo?uniqueid=probe", PROBE_MAX)?;
    // A stranger is told 401 in the XML; that, too, is the host's own answer.
    let whole =
        answer.starts_with(b"HTTP/1.1 200 ") && answer.windows(5).any(|part| part == b"<root");
    if whole { Ok(()) } else { Err("the answer to /serverinfo is not whole".to_owned()) }
}

/// Writes a file as the host does when it pairs a device, and removes it again.
fn write_in(directory: &Path) -> io::Result<()> {
    let path = directory.join(".probe");
    let _ = std::fs::remove_file(&path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let written = file.write_all(&[0; FILE_BYTES]).and_then(|()| file.sync_all());
    std::fs::remove_file(&path).and(written)
}
