//! Logs: to stderr, readable for people or one JSON object a line, filtered as RUST_LOG says.
//!
//! Every kind of process calls [`init`] once, first thing. What `serve` says to people is not a log.
#![expect(unsafe_code, reason = "the choice of format travels to child processes by environment")]
use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// "json" here makes this process and its children log JSON.
const FORMAT_VARIABLE: &str = "MOONSHARD_LOG_FORMAT";

/// Makes this process and every one that it starts log JSON. Call before any thread is started.
pub fn choose_json() {
    // SAFETY: called from the command line's first steps, while this process has one thread.
    unsafe { std::env::set_var(FORMAT_VARIABLE, "json") };
}

/// Starts the log of this process; `process` is its kind ("serve", "front", "session", ...).
///
/// Without RUST_LOG the processes that share the operator's terminal say warnings only, the others,
/// whose logs are files, what they do. A second call changes nothing.
pub fn init(process: &'static str) {
    let quiet = matches!(process, "serve" | "front" | "probe" | "cli");
    let default = if quiet { "warn" } else { "warn,moonshard=info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Another subscriber is in place only in tests, which call this more than once.
    if std::env::var_os(FORMAT_VARIABLE).is_some_and(|format| format == "json") {
        let _ = log.json().flatten_event(true).with_current_span(false).try_init();
    } else {
        let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let _ = log.with_ansi(colours).try_init();
    }
    tracing::debug!(process, pid = std::process::id(), "started");
}
