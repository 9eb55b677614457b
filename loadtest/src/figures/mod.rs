//! What is told about a run: numbers, goals, tables, plots. It measures nothing.
pub mod numbers;
pub mod plot;
pub mod slo;

use std::io;
use std::path::Path;

use serde_json::Value;

/// Writes a report for machines beside the one that is printed.
pub fn save_json(file: Option<&Path>, report: &Value) -> io::Result<()> {
    let Some(file) = file else { return Ok(()) };
    let named = |error: io::Error| io::Error::other(format!("{}: {error}", file.display()));
    std::fs::write(file, format!("{report:#}\n")).map_err(named)
}
