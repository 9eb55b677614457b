//! The session's virtual desktop: a Wayland compositor on its own thread, drawing into a ring.
//!
//! Only this folder names smithay. It knows nothing of viewers, encoders or the network: frames go
//! out as notes on a frame link, slots come back the same way.
use std::path::PathBuf;

use crate::proto::stream::Mode;

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
