//! The loop of a Wayland client: its display, its signals, and nothing else to wait for.
use std::time::Duration;

use calloop::generic::Generic;
use calloop::{EventLoop, Interest, Mode, PostAction};
use smithay_client_toolkit::reexports::calloop_wayland_source::WaylandSource;
use wayland_client::{Connection, EventQueue};

use crate::proc::signals::{Caught, Signals};

/// Longest sleep, so that a clock on the screen goes on.
const SLEEP_MAX: Duration = Duration::from_millis(500);

/// Why a Wayland program of ours ends.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// WAYLAND_DISPLAY names no compositor that can be reached.
    #[error("no Wayland display: {0}; WAYLAND_DISPLAY has to name one")]
    NoDisplay(String),
    /// The compositor has gone, lacks what is needed, or found fault with us.
    #[error("Wayland: {0}")]
    Protocol(String),
}

impl Fault {
    pub fn no_display(error: impl std::fmt::Display) -> Self {
        Self::NoDisplay(error.to_string())
    }

    pub fn protocol(error: impl std::fmt::Display) -> Self {
        Self::Protocol(error.to_string())
    }
}

/// Dispatches events until `after`, which is called after each round, says how it ends.
///
/// # Errors
/// See [`Fault`].
pub fn run<S: 'static>(
    connection: Connection,
    queue: EventQueue<S>,
    signals: Signals,
    state: &mut S,
    mut after: impl FnMut(&mut S, Caught) -> Option<Result<(), Fault>>,
) -> Result<(), Fault> {
    let mut events: EventLoop<'_, (&mut S, Caught)> =
        EventLoop::try_new().map_err(Fault::protocol)?;
    let display = WaylandSource::new(connection, queue);
    let handle = events.handle();
    handle
        .insert_source(display, |(), queue, (state, _)| queue.dispatch_pending(*state))
        .map_err(Fault::protocol)?;
    let signals = Generic::new(signals, Interest::READ, Mode::Level);
    handle
        .insert_source(signals, |_, signals, (_, caught)| {
            let new = signals.take();
            caught.stop |= new.stop;
            caught.child |= new.child;
            Ok(PostAction::Continue)
        })
        .map_err(Fault::protocol)?;
    let mut data = (state, Caught::default());
    loop {
        events.dispatch(Some(SLEEP_MAX), &mut data).map_err(Fault::protocol)?;
        if let Some(end) = after(data.0, std::mem::take(&mut data.1)) {
            return end;
        }
    }
}
