//! The configuration: what a TOML file says (`raw`) and what it means (`resolved`).
//!
//! Pure: text in, values or errors with line and column out. It reads no file and no environment;
//! paths that depend on them are passed in.
mod resolved;

pub use resolved::*;
