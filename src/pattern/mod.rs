//! `moonshard pattern`: an app that shows and sounds what a machine, or a person, can measure.
//!
//! A Wayland client without a GPU. What it draws is agreed in `proto::pattern`. It ends with SIGTERM, with
//! its window or with its display.
mod picture;
mod sound;
mod window;

use std::process::ExitCode;

use crate::audio::player::Player;
use crate::ops::log;
use crate::proc::signals::Signals;
use crate::proto::pattern::BEEP_MS;

const SECOND_NS: u64 = 1_000_000_000;

/// Flash and beep at this nanosecond of CLOCK_MONOTONIC: at the beginning of each second.
fn is_lit(monotonic_ns: u64) -> bool {
    monotonic_ns % SECOND_NS < u64::from(BEEP_MS) * 1_000_000
}

/// The program. Exit code 1: there is no Wayland display, or it went away; stderr says so.
pub fn main() -> ExitCode {
    log::init("pattern");
    let signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "no signals");
            return ExitCode::FAILURE;
        }
    };
    let mut tone = sound::Sound::default();
    let player = Player::start("moonshard test pattern", move |time, frames| {
        tone.fill(time, frames);
    });
    let _player = player.inspect_err(|error| tracing::warn!(%error, "no sound")).ok();
    match window::run(signals) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the test pattern ends");
            ExitCode::FAILURE
        }
    }
}
