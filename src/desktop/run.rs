//! The desktop's thread: one event loop over the Wayland socket, the clients, the commands and the
//! refresh clock. It decides nothing; it calls.
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use calloop::channel::{Channel, Event};
use calloop::generic::Generic;
use calloop::timer::{TimeoutAction, Timer};
use calloop::{
    EventLoop, Interest, LoopHandle, LoopSignal, Mode as Trigger, PostAction, RegistrationToken,
};
use smithay::reexports::wayland_server::{Display, ListeningSocket};
use tracing::{debug, error, info};

use super::figures::Figures;
use super::state::State;
use super::{DesktopCommand, DesktopConfig, DesktopError, WAYLAND_DISPLAY};
use crate::time::Time;

/// The event loop wakes at least this often.
const WAKE: Duration = Duration::from_secs(1);

/// What the loop's sources work on.
struct Core {
    display: Display<State>,
    state: State,
    signal: LoopSignal,
    handle: LoopHandle<'static, Core>,
    clock: RegistrationToken,
}

/// CLOCK_MONOTONIC now.
pub fn now() -> Time {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Time(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}

/// Makes the desktop, reports on `ready`, and runs until told to stop.
pub fn run(
    config: DesktopConfig,
    commands: Channel<DesktopCommand>,
    figures: Arc<Figures>,
    ready: &SyncSender<Result<LoopSignal, DesktopError>>,
) {
    let (mut event_loop, mut core) = match set_up(config, commands, figures) {
        Ok(made) => made,
        Err(e) => {
            let _ = ready.try_send(Err(e));
            return;
        }
    };
    let _ = ready.try_send(Ok(event_loop.get_signal()));
    info!(display = WAYLAND_DISPLAY, "desktop started");
    let ended = event_loop.run(WAKE, &mut core, |core| {
        core.state.tidy(now());
        if let Err(e) = core.display.flush_clients() {
            debug!(error = %e, "flush to a client");
        }
    });
    match ended {
        Ok(()) => info!("desktop ended"),
        Err(e) => error!(error = %e, "the desktop's event loop failed"),
    }
}

fn set_up(
    config: DesktopConfig,
    commands: Channel<DesktopCommand>,
    figures: Arc<Figures>,
) -> Result<(EventLoop<'static, Core>, Core), DesktopError> {
    let path = config.runtime_dir.join(WAYLAND_DISPLAY);
    let socket =
        ListeningSocket::bind_absolute(path).map_err(|e| DesktopError::Socket(e.to_string()))?;
    let mut display = Display::<State>::new().map_err(|e| DesktopError::Socket(e.to_string()))?;
    let state = State::new(&display.handle(), &config, figures, now())?;
    let event_loop = EventLoop::<Core>::try_new().map_err(as_io)?;
    let handle = event_loop.handle();
    let clients = display.backend().poll_fd().try_clone_to_owned()?;

    handle
        .insert_source(Generic::new(socket, Interest::READ, Trigger::Level), accept)
        .map_err(|e| as_io(e.error))?;
    handle
        .insert_source(Generic::new(clients, Interest::READ, Trigger::Level), |_, _, core| {
            core.state.touch_picture();
            core.display.dispatch_clients(&mut core.state)?;
            Ok(PostAction::Continue)
        })
        .map_err(|e| as_io(e.error))?;
    handle
        .insert_source(commands, |event, (), core| match event {
            Event::Msg(DesktopCommand::Stop) | Event::Closed => core.signal.stop(),
            Event::Msg(command) => core.obey(command),
        })
        .map_err(|e| as_io(e.error))?;
    let clock = insert_clock(&handle)?;
    let signal = event_loop.get_signal();
    Ok((event_loop, Core { display, state, signal, handle, clock }))
}

fn as_io(e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> std::io::Error {
    std::io::Error::other(e)
}

/// Takes all connections that wait.
fn accept(
    _: calloop::Readiness,
    socket: &mut calloop::generic::NoIoDrop<ListeningSocket>,
    core: &mut Core,
) -> std::io::Result<PostAction> {
    loop {
        match socket.accept() {
            Ok(Some(stream)) => admit(stream, core),
            Ok(None) => return Ok(PostAction::Continue),
            Err(e) => {
                // Out of file descriptors, most likely; the connection waits for better times.
                debug!(error = %e, "accept");
                std::thread::sleep(Duration::from_millis(1));
                return Ok(PostAction::Continue);
            }
        }
    }
}

fn admit(stream: UnixStream, core: &mut Core) {
    let Some(app) = core.state.admit() else { return };
    if let Err(e) = core.display.handle().insert_client(stream, app) {
        debug!(error = %e, "a client could not be added");
    }
}

/// The refresh clock as a source, due at once. Its rate is asked for at each tick.
fn insert_clock(handle: &LoopHandle<'static, Core>) -> std::io::Result<RegistrationToken> {
    let clock = handle.insert_source(Timer::immediate(), |_, (), core| {
        core.state.tick(now());
        let now = now();
        let next = core.state.next_tick(now);
        TimeoutAction::ToInstant(Instant::now() + next.since(now))
    });
    clock.map_err(|e| as_io(e.error))
}

impl Core {
    fn obey(&mut self, command: DesktopCommand) {
        let rate = self.state.tick_rate();
        self.state.obey(command, now());
        if self.state.tick_rate() == rate {
            return;
        }
        // The next tick of the old rate may be far away.
        match insert_clock(&self.handle) {
            Ok(clock) => self.handle.remove(std::mem::replace(&mut self.clock, clock)),
            Err(e) => error!(error = %e, "the refresh clock keeps its next tick"),
        }
    }
}
