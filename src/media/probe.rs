//! `moonshard probe`: which encoders really work here, and which of them are quick enough. Each is
//! tried in a process of its own, because encoders and drivers abort and hang; the report goes to
//! stdout as JSON.
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::table::{self, ROWS, Row};
use super::trial;
use crate::ipc::{EncoderFinding, EncoderReport};
use crate::ops::log;
use crate::proc::boot::{Spawn, spawn};
use crate::proc::child::Exit;

/// One encoder's trial, and all of them together.
const TRIAL_WAIT: Duration = Duration::from_secs(5);
const ALL_WAIT: Duration = Duration::from_secs(13);
/// Of a trial's output no more is read, bytes.
const OUTPUT_BYTES_MAX: u64 = 256 * 1024;

/// Software that encodes HEVC or AV1 beside a game needs cores: with fewer it is not even tried,
/// unless it was asked for by name.
const COSTLY_CORES_MIN: usize = 8;

/// `moonshard probe` prints an [`EncoderReport`]; so does `moonshard probe auto,<element>,..`, which
/// tries the named ones whatever they cost. `moonshard probe <element>` tries one encoder in this
/// process and prints its [`EncoderFinding`], or null. Exit code 2: no such encoder is known.
pub fn probe() -> ExitCode {
    log::init("probe");
    let wanted = std::env::args().nth(2).unwrap_or_else(|| "auto".to_owned());
    let text = match wanted.strip_prefix("auto") {
        Some(named) => serde_json::to_string(&try_all(named)),
        None => match table::row(&wanted) {
            Some(row) => serde_json::to_string(&try_here(row)),
            None => return ExitCode::from(2),
        },
    };
    let text = text.expect("a report is plain data");
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn try_all(named: &str) -> EncoderReport {
    let start = Instant::now();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let is_named = |row: &Row| named.split(',').any(|name| name.trim() == row.element);
    let encoders = ROWS.iter().filter_map(|row| {
        if row.is_costly() && cores < COSTLY_CORES_MIN && !is_named(row) {
            let detail = format!(
                "not tried: it needs {COSTLY_CORES_MIN} cores, here are {cores}. \
                 Name it in session.encoder to use it all the same"
            );
            return Some(finding(row, false, detail));
        }
        let left = ALL_WAIT.saturating_sub(start.elapsed()).min(TRIAL_WAIT);
        try_apart(row, left).unwrap_or_else(|detail| Some(finding(row, false, detail)))
    });
    EncoderReport { encoders: encoders.collect() }
}

fn finding(row: &Row, works: bool, detail: String) -> EncoderFinding {
    let quick = works && !row.is_costly();
    EncoderFinding { name: row.element.into(), codec: row.codec, works, quick, detail }
}

/// Tries an encoder in a child process; what it found, or how it ended instead.
fn try_apart(row: &Row, wait: Duration) -> Result<Option<EncoderFinding>, String> {
    let system = |e: std::io::Error| format!("its trial could not be started: {e}");
    let memfd = rustix::fs::memfd_create("trial", rustix::fs::MemfdFlags::CLOEXEC);
    let mut output = File::from(memfd.map_err(|e| system(e.into()))?);
    let how = Spawn {
        kind: "probe",
        label: row.element,
        fds: &[],
        dies_with_parent: true,
        output: Some(OwnedFd::from(output.try_clone().map_err(system)?)),
        oom_score_adj: 500,
    };
    // Dropped at the end: killed and reaped if it still runs.
    let mut child = spawn(&how, &()).map_err(system)?;
    let exit = child.wait(wait);
    let mut bytes = Vec::new();
    let _ = output.seek(SeekFrom::Start(0));
    let _ = output.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let Some(exit) = exit else {
        return Err(format!("it did not end within {wait:.1?} and was killed"));
    };
    let found = text.lines().rev().find_map(|line| serde_json::from_str(line).ok());
    match (exit, found) {
        (Exit::Code(0), Some(found)) => Ok(found),
        _ => {
            let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
            Err(format!("it ended its process ({exit}): {}", last.trim()))
        }
    }
}

/// Tries an encoder in this process. None: its hardware is not in this machine, and it is not
/// installed.
fn try_here(row: &'static Row) -> Option<EncoderFinding> {
    match trial::run(row) {
        Ok(found) => {
            let quick = found.is_quick() || !row.is_costly();
            Some(EncoderFinding { quick, ..finding(row, true, found.to_string()) })
        }
        Err(trial::Failure::Missing(_)) if row.device.is_some_and(|d| !Path::new(d).exists()) => {
            None
        }
        Err(failure) => Some(finding(row, false, failure.to_string())),
    }
}
