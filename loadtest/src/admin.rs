//! What `moonshard` says of the host on this machine: its process, its sessions, its pairings. A host of
//! another make has no such thing, and nothing but what was asked for by an option needs it.
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("`{} {words}` fails: {why}", program.display())]
pub struct AdminError {
    program: PathBuf,
    words: String,
    why: String,
}

/// Runs `moonshard WORDS --json`; its answer.
pub fn ask(program: &Path, words: &[&str]) -> Result<Value, AdminError> {
    let failed = |why: String| {
        // A PIN is nobody's business.
        let words = words.first().copied().unwrap_or_default().to_owned();
        AdminError { program: program.to_owned(), words, why }
    };
    let output = Command::new(program)
        .args(words)
        .arg("--json")
        .output()
        .map_err(|error| failed(error.to_string()))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let answer: Value = serde_json::from_slice(&output.stdout).map_err(|_| failed(said.clone()))?;
    match answer.get("error").and_then(Value::as_str) {
        Some(why) => Err(failed(why.to_owned())),
        None if output.status.success() => Ok(answer),
        None => Err(failed(said)),
    }
}

/// The host's own process.
pub fn host_pid(program: &Path) -> Result<u32, AdminError> {
    let status = ask(program, &["status"])?;
    let pid = status["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    pid.ok_or_else(|| AdminError {
        program: program.to_owned(),
        words: "status".into(),
        why: "it does not tell its process".into(),
    })
}

/// The host's sessions.
pub fn sessions(program: &Path) -> Result<Vec<Value>, AdminError> {
    Ok(ask(program, &["sessions"])?.as_array().cloned().unwrap_or_default())
}
