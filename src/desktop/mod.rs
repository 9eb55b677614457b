//! The session's virtual desktop: a Wayland compositor on its own thread, drawing into a ring.
//!
//! Only this folder names smithay. It knows nothing of viewers, encoders or the network: frames go
//! out as notes on a frame link, slots come back the same way.
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use calloop::LoopSignal;
use calloop::channel::SyncSender;

use crate::proc::histogram::Histogram;
use crate::proc::link::Link;
use crate::proto::input::InputEvent;
use crate::proto::stream::Mode;

mod apps;
mod border;
mod clock;
mod cursor;
mod draw;
mod figures;
mod grab;
mod input;
mod keyboard;
mod layers;
mod mapping;
mod notice;
mod pointer;
mod protocols;
mod ring;
mod run;
mod screen;
mod shell;
mod state;
mod text;
mod touch;
mod windows;

pub use notice::Notice;
pub use ring::Ring;

/// The Wayland socket's name. Each session has a runtime directory of its own, so none can collide.
pub const WAYLAND_DISPLAY: &str = "wayland-0";
/// Commands that may wait; further ones are refused.
pub const COMMANDS_MAX: usize = 1024;
/// Longest wait for the Wayland socket.
const START_DEADLINE: Duration = Duration::from_secs(5);
/// Clients nest surfaces, and walks over them recurse.
const STACK_BYTES: usize = 16 * 1024 * 1024;
/// Longest wait for the thread's end.
const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// How to make a desktop.
#[derive(Clone, Debug)]
pub struct DesktopConfig {
    /// XDG_RUNTIME_DIR of the session; the Wayland socket is made in it.
    pub runtime_dir: PathBuf,
    pub mode: Mode,
    pub keyboard_layout: String,
    pub keyboard_variant: String,
    /// Frames per second when nothing changes.
    pub idle_fps: u32,
}

/// What a desktop is told.
#[derive(Debug)]
pub enum DesktopCommand {
    /// Something that the viewer's hands did. Controllers are not the desktop's: ignored.
    Input(InputEvent),
    /// Lets go of every key, button and finger: the viewer has left or changed.
    ReleaseAll,
    /// A new output mode. Frames go on when a ring of that size is attached.
    Mode(Mode),
    /// A new encoder: notes of frames in the ring's slots go out on the link, and come back on it.
    Attach { frames: Link, ring: Ring },
    /// The encoder is gone.
    Detach,
    /// What to say while no application shows anything, or instead of them; None: nothing.
    Say(Option<Notice>),
    /// The end: clients are cut off, the socket goes.
    Stop,
}

/// A command was not taken: the queue is full or the desktop has ended ([`Desktop::is_running`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the desktop takes no commands now")]
pub struct Busy;

/// Why there is no desktop. The session cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DesktopError {
    /// The layout or variant is unknown to xkbcommon, or xkb-data is not installed.
    #[error(
        "no keyboard layout {layout:?} with variant {variant:?}: see /usr/share/X11/xkb/rules/evdev.lst"
    )]
    Keymap { layout: String, variant: String },
    /// The mode has no area or no rate.
    #[error("the mode {0:?} cannot be shown")]
    Mode(Mode),
    /// The Wayland socket could not be made: the directory is missing, not ours, or in use.
    #[error("no Wayland socket: {0}")]
    Socket(String),
    /// The thread could not be started or set up.
    #[error("desktop thread: {0}")]
    System(#[from] io::Error),
    /// The socket did not come up in time.
    #[error("the Wayland socket did not listen within {}s", START_DEADLINE.as_secs())]
    Timeout,
}

/// A running desktop. Dropping it ends it.
#[derive(Debug)]
pub struct Desktop {
    commands: SyncSender<DesktopCommand>,
    signal: LoopSignal,
    figures: Arc<figures::Figures>,
    /// Closed when the thread has ended.
    ended: mpsc::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

/// Starts a desktop on a thread of its own and waits until its Wayland socket listens, at most 5 s.
///
/// # Errors
/// See [`DesktopError`]; nothing is left behind.
pub fn start(config: DesktopConfig) -> Result<Desktop, DesktopError> {
    let Mode { width, height, millihertz } = config.mode;
    if width == 0 || height == 0 || millihertz == 0 {
        return Err(DesktopError::Mode(config.mode));
    }
    let figures = Arc::new(figures::Figures::default());
    let (commands, queue) = calloop::channel::sync_channel(COMMANDS_MAX);
    let (ready, readiness) = mpsc::sync_channel(1);
    let (ending, ended) = mpsc::sync_channel::<()>(0);
    let thread = {
        let figures = figures.clone();
        let thread = std::thread::Builder::new().name("desktop".into()).stack_size(STACK_BYTES);
        thread.spawn(move || {
            let _ending = ending;
            run::run(config, queue, figures, &ready);
        })?
    };
    let signal = match readiness.recv_timeout(START_DEADLINE) {
        Ok(started) => started?,
        Err(RecvTimeoutError::Timeout) => return Err(DesktopError::Timeout),
        Err(RecvTimeoutError::Disconnected) => {
            return Err(DesktopError::System(io::Error::other("the thread has died")));
        }
    };
    Ok(Desktop { commands, signal, figures, ended, thread: Some(thread) })
}

impl Desktop {
    /// The value of WAYLAND_DISPLAY for clients that share the runtime directory.
    pub fn wayland_display(&self) -> &str {
        WAYLAND_DISPLAY
    }

    /// Queues a command; never blocks.
    ///
    /// # Errors
    /// [`Busy`]: `COMMANDS_MAX` commands wait already, or the desktop has ended. The command is lost.
    pub fn send(&self, command: DesktopCommand) -> Result<(), Busy> {
        self.commands.try_send(command).map_err(|_| Busy)
    }

    /// False: the thread has ended, by `Stop` or by a fault. The session should end too.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|t| !t.is_finished())
    }

    /// Whether an application, a panel or a background shows something now.
    pub fn shows(&self) -> bool {
        self.figures.showing.value() > 0
    }

    /// Whether anything was ever shown.
    pub fn has_shown(&self) -> bool {
        self.figures.shown.value() > 0
    }

    /// Whether an application is connected, if only to ask what there is.
    pub fn has_clients(&self) -> bool {
        self.figures.clients.value() > 0
    }

    /// Counts and measures by name: frames drawn and dropped, commits, clients, render times, input.
    pub fn figures(&self) -> BTreeMap<String, f64> {
        self.figures.snapshot()
    }

    /// How long the drawing of each frame took.
    pub fn drawing(&self) -> &Histogram {
        &self.figures.drawing
    }
}

impl Drop for Desktop {
    fn drop(&mut self) {
        // Not by command: the queue may be full.
        self.signal.stop();
        self.signal.wakeup();
        let Some(thread) = self.thread.take() else { return };
        match self.ended.recv_timeout(STOP_DEADLINE) {
            Err(RecvTimeoutError::Timeout) => {
                tracing::error!("the desktop thread does not end; left behind");
            }
            _ => {
                let _ = thread.join();
            }
        }
    }
}
