//! `moonshard desktop`: the app "Desktop": a background, a bar and the programs that it starts.
//!
//! A Wayland client; the compositor is `desktop`. It ends with Quit, SIGTERM or its display, and what it
//! has started ends with it.
mod bar;
mod programs;
mod surfaces;

use std::process::ExitCode;

use crate::ops::log;
use crate::proc::signals::Signals;

/// The program. Exit code 1: there is no Wayland display, or it went away; stderr says so.
pub fn main() -> ExitCode {
    log::init("desktop");
    let ended =
        Signals::catch().map_err(crate::wayland::events::Fault::protocol).and_then(surfaces::run);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the desktop ends");
            ExitCode::FAILURE
        }
    }
}
