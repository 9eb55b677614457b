//! The session as a process: what it is started with, the order in which its parts start and end.
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::account::Account;
use super::app::{self, App, Surroundings, orphans};
use super::life::Event;
use super::presence;
use super::run::{Parts, Session, now};
use crate::audio::{self, AudioConfig};
use crate::desktop::{self, Desktop, DesktopConfig};
use crate::ipc::SessionBoot;
use crate::ops::log;
use crate::proc::child::Exit;
use crate::proc::signals::Signals;
use crate::proc::{boot, flight};

/// The listening link and the lock of the directory; a flight recorder's memory may follow.
const FDS: usize = 2;
/// A launch is answered when the app comes to the desktop, or has lived this long.
const FIRST_STEPS: Duration = Duration::from_millis(200);

/// `moonshard session <id>`, started by the supervisor. Exit code 1: it could not start.
pub fn main() -> ExitCode {
    log::init("session");
    match boot::receive::<SessionBoot>(boot::inherited().max(FDS)) {
        Ok((boot, mut fds)) => {
            if let Some(memfd) = fds.drain(FDS.min(fds.len())..).next()
                && let Err(error) = flight::begin(&memfd)
            {
                tracing::warn!(%error, "nothing is recorded");
            }
            live(boot, fds)
        }
        Err(e) => {
            tracing::error!(error = %e, "session");
            ExitCode::from(2)
        }
    }
}

fn live(boot: SessionBoot, fds: Vec<OwnedFd>) -> ExitCode {
    let Ok([listener, lock]) = <[OwnedFd; FDS]>::try_from(fds) else {
        return ExitCode::from(2);
    };
    // Before any thread or child is there.
    let signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(e) => {
            tracing::error!(error = %e, "signals");
            return ExitCode::from(2);
        }
    };
    orphans::adopt();
    let account = Account::open(&boot.directory, &boot.spec, now());
    let mut parts = Parts { desktop: None, audio: None, app: None };
    let mut own_children = Vec::new();
    let started = start(&boot, &mut parts, &mut own_children);
    let code = if started.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let first = match started {
        Ok(()) => Event::Started,
        Err(reason) => {
            tracing::error!(reason, "the session cannot start");
            Event::StartFailed { reason }
        }
    };
    Session::new(boot.spec, listener, signals, parts, own_children, account).run(first);
    // Held until nothing of the session is left.
    drop(lock);
    code
}

/// Starts desktop, sound and app, in this order. Sound that fails is a session without sound.
fn start(boot: &SessionBoot, parts: &mut Parts, own_children: &mut Vec<u32>) -> Result<(), String> {
    let SessionBoot { spec, directory } = boot;
    let desktop = desktop::start(DesktopConfig {
        runtime_dir: directory.clone(),
        mode: spec.mode,
        keyboard_layout: spec.policy.keyboard_layout.clone(),
        keyboard_variant: spec.policy.keyboard_variant.clone(),
        idle_fps: spec.policy.idle_fps,
    });
    let desktop = parts.desktop.insert(desktop.map_err(|e| e.to_string())?);
    if spec.policy.audio {
        let config = AudioConfig { runtime_dir: directory.clone(), channels: spec.audio_channels };
        match audio::start(config) {
            Ok(audio) => parts.audio = Some(audio),
            Err(e) => tracing::warn!(error = %e, "a session without sound"),
        }
    }
    *own_children = orphans::children();
    let pulse_server = audio::address(directory);
    let around = Surroundings {
        directory,
        wayland_display: desktop.wayland_display(),
        pulse_server: &pulse_server,
    };
    let app = parts.app.insert(app::start(&spec.app, &around).map_err(|e| e.to_string())?);
    first_steps(app, desktop, own_children)
        .map_err(|e| format!("{} ended at once. {e}", spec.app.title))
}

/// Waits a moment for an app that cannot go on: who launches is told so then, and why. One that comes
/// to the desktop, or leaves others behind, does go on.
fn first_steps(app: &mut App, desktop: &Desktop, own_children: &[u32]) -> Result<(), String> {
    let end = Instant::now() + FIRST_STEPS;
    while !desktop.has_clients() && Instant::now() < end {
        app.read_output();
        let Some(exit) = app.exit() else {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        app.read_output();
        if exit == Exit::Code(0) && orphans::reap(own_children) > 0 {
            break;
        }
        return Err(presence::reason(exit, &app.last_words(), false).replace('\n', " "));
    }
    Ok(())
}
