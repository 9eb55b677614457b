//! GStreamer as an outside thing: which encoders there are and how they are set ([`table`]), frame
//! slots as its memory ([`slots`]), one encoding chain ([`pipeline`]), and the trial of what works
//! ([`probe`]). With `encoder` the only place that names GStreamer.
//!
//! It knows neither packets, sockets nor other processes. Elements and drivers abort and hang: call
//! nothing here in a process that must live on.
pub mod decoder;
pub mod flights;
pub mod h264;
pub mod pipeline;
pub mod probe;
pub mod slots;
pub mod table;
mod trial;

pub use probe::probe;

/// Why there are no encoded frames.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// The chain could not be built, linked or started: the encoder is skipped.
    #[error("{element}: {reason}")]
    Broken { element: String, reason: String },
    /// The element is not installed: the encoder is skipped.
    #[error("{element} is not installed: apt-get install {packages}")]
    Missing { element: String, packages: String },
    /// The installed element has no such property, or not this value: the encoder is skipped.
    #[error("{element} cannot take {property}={value}: {reason}")]
    Setting { element: String, property: String, value: String, reason: String },
    /// The element is there but gave nothing before the deadline.
    #[error("{element} encoded nothing within {ms} ms")]
    Silent { element: String, ms: u128 },
    /// A slot is not what the ring says it is: the process ends.
    #[error("frame slot {slot}: {reason}")]
    Slot { slot: usize, reason: String },
    /// The chain reported an error while it ran: the process ends and is replaced.
    #[error("{element} failed: {reason}")]
    Stream { element: String, reason: String },
    /// GStreamer itself does not start: nothing can be encoded.
    #[error("GStreamer does not start: {0}")]
    System(String),
    /// No encoder has that name, or none makes what the stream asks for.
    #[error("{0}")]
    Unsuited(String),
}

/// Starts GStreamer in this process. Plugins are scanned in this process, if at all, because the
/// scanner's own child could hang unseen.
pub fn start() -> Result<(), MediaError> {
    slots::forbid_scanner_child();
    gstreamer::init().map_err(|e| MediaError::System(e.to_string()))
}
