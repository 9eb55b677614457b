//! Can a new session be made right now? Proved at the real TLS port, by a child that can be killed.
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::board::Known;
use crate::proc::boot::{self, Spawn};

/// A handshake and its answer take no longer, or the port does not serve.
const PROBE_MAX: Duration = Duration::from_secs(3);
/// How long an outcome holds.
const OUTCOME_AGE_MAX: Duration = Duration::from_secs(5);
/// Of the child's words no more is read, bytes.
const WORDS_BYTES_MAX: u64 = 512;
/// What the child says when all is well.
const WELL: &str = "well";

type Outcome = Result<(), String>;

/// The newest outcome. Whoever asks while a probe runs waits for that one.
#[derive(Debug, Default)]
pub struct Readiness(Mutex<Option<(Instant, Outcome)>>);

impl Readiness {
    /// Why no session can be made now; empty: one can. `now_ns`: CLOCK_MONOTONIC.
    pub fn obstacles(&self, known: &Known, now_ns: u64) -> Vec<String> {
        let mut obstacles = known.ailments(now_ns);
        if known.stopping {
            obstacles.push("the host is being stopped".into());
        } else if known.free_seats() == 0 {
            obstacles.push(format!("all {} seats are taken", known.seats));
        }
        if known.encoder.name.is_none() {
            obstacles.push(format!("no encoder works: {}", known.encoder.reason));
        }
        if obstacles.is_empty() {
            obstacles.extend(self.handshake(known.listening.https).err());
        }
        obstacles
    }

    fn handshake(&self, port: u16) -> Outcome {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((when, outcome)) = &*newest
            && when.elapsed() < OUTCOME_AGE_MAX
        {
            return outcome.clone();
        }
        let outcome = probe(port).unwrap_or_else(|e| Err(format!("no probe could be made: {e}")));
        *newest = Some((Instant::now(), outcome.clone()));
        outcome
    }
}

/// Has a child do a handshake and ask for `/serverinfo`.
fn probe(port: u16) -> io::Result<Outcome> {
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
    let mut child = boot::spawn(&how, &port)?;
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
    if !ended {
        return Ok(Err(format!("no answer at the TLS port within {} s", PROBE_MAX.as_secs())));
    }
    let mut text = String::new();
    words.seek(SeekFrom::Start(0))?;
    words.take(WORDS_BYTES_MAX).read_to_string(&mut text)?;
    Ok(if text.trim() == WELL { Ok(()) } else { Err(format!("the TLS port: {}", text.trim())) })
}

/// The child's entry, called by the binary for `moonshard probe-tls`.
pub fn main() -> ExitCode {
    let asked = boot::receive::<u16>(0).map_err(|e| e.to_string());
    let outcome = asked.and_then(|(port, _)| {
        let answer = crate::tls::client::get(port, "/serverinfo?uniqueid=probe", PROBE_MAX)?;
        // A stranger is told 401 in the XML; that, too, is the host's own answer.
        let whole =
            answer.starts_with(b"HTTP/1.1 200 ") && answer.windows(5).any(|part| part == b"<root");
        if whole { Ok(()) } else { Err("the answer to /serverinfo is not whole".to_owned()) }
    });
    match outcome {
        Ok(()) => println!("{WELL}"),
        Err(reason) => println!("{reason}"),
    }
    ExitCode::SUCCESS
}
