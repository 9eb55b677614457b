//! The encoder probe as a child process: what may wedge or abort is not run in this one.
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use crate::ipc::EncoderReport;
use crate::proc::boot::{self, Spawn};
use crate::proc::child::Exit;

/// A probe that has not ended by then is killed.
const DEADLINE: Duration = Duration::from_secs(15);
/// Of its output no more is read, bytes.
const OUTPUT_BYTES_MAX: u64 = 1024 * 1024;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("the encoder probe could not be started: {0}")]
    NotStarted(#[from] io::Error),
    #[error("the encoder probe did not end within {} s and was killed", DEADLINE.as_secs())]
    Wedged,
    /// It crashed or printed something else; how it ended and its last line.
    #[error("the encoder probe failed ({0}){1}")]
    Failed(String, String),
    /// The caller of [`run`] wants it no more; it was killed.
    #[error("interrupted")]
    Interrupted,
}

/// Runs `moonshard probe` to its end or its deadline; encoders that `choice` (the configuration's)
/// names are tried whatever they cost. Whenever `wake` is readable, `stop` is asked
/// whether to give up.
///
/// # Errors
/// Whatever kept it from making a report. Nothing is left running.
pub fn run(
    choice: &str,
    wake: Option<BorrowedFd<'_>>,
    mut stop: impl FnMut() -> bool,
) -> Result<EncoderReport, ProbeError> {
    let memfd = rustix::fs::memfd_create("probe", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(io::Error::from)?;
    let mut output = File::from(memfd);
    let mut child = boot::spawn(
        &Spawn {
            kind: "probe",
            label: &if choice == "auto" { String::new() } else { format!("auto,{choice}") },
            fds: &[],
            dies_with_parent: true,
            output: Some(OwnedFd::from(output.try_clone()?)),
            oom_score_adj: 500,
        },
        &(),
    )?;
    let deadline = Instant::now() + DEADLINE;
    let exit = loop {
        if let Some(exit) = child.try_reap() {
            break exit;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ProbeError::Wedged);
        }
        let mut fds = vec![PollFd::from_borrowed_fd(child.as_fd(), PollFlags::IN)];
        fds.extend(wake.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let timeout = rustix::time::Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) && stop() {
            return Err(ProbeError::Interrupted);
        }
    };
    let mut bytes = Vec::new();
    output.seek(SeekFrom::Start(0))?;
    output.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    match find_report(&text) {
        Some(report) if exit == Exit::Code(0) => Ok(report),
        _ => {
            let last = text.lines().rev().find(|line| !line.trim().is_empty());
            let last = last.map(|line| format!(": {}", line.trim())).unwrap_or_default();
            Err(ProbeError::Failed(exit.to_string(), last))
        }
    }
}

/// The report in an output that libraries may have written to as well.
fn find_report(text: &str) -> Option<EncoderReport> {
    text.match_indices('{').find_map(|(start, _)| {
        serde_json::Deserializer::from_str(&text[start..]).into_iter().next()?.ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_found_among_other_output() {
        let report = r#"{"encoders":[{"name":"x264enc","codec":"h264","works":true,"detail":""}]}"#;
        let noisy = format!("(x:1): GLib-WARNING {{}} **: {{a\n{report}\nbye\n");
        let found = find_report(&noisy).unwrap();
        assert_eq!(found.encoders[0].name, "x264enc");
        assert!(find_report("nothing {").is_none());
        for end in 0..report.len() {
            assert!(find_report(&report[..end]).is_none(), "{end}");
        }
    }
}
