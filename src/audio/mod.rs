//! The session's sound: an audio server of its own, read natively, encoded and sent.
//!
//! It knows nothing of the control connection or of video. This is the shape that a session uses;
//! without a server behind it, [`start`] says so and the session goes on without sound.
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::proto::secret::SessionKey;
use crate::proto::stream::AudioSpec;

pub mod player;

/// How to make a session's sound.
#[derive(Clone, Debug)]
pub struct AudioConfig {
    /// The session's directory; the server's socket is made in it.
    pub runtime_dir: PathBuf,
    /// Of the sink: 2, 6 or 8.
    pub channels: u8,
}

/// Where sound goes.
#[derive(Debug)]
pub struct AudioViewer {
    /// Connected to the viewer's audio port.
    pub socket: OwnedFd,
    pub spec: AudioSpec,
    pub key: SessionKey,
    /// Base of the IVs.
    pub rikeyid: i32,
}

/// Why there is no sound. The session goes on without.
#[derive(Debug, thiserror::Error)]
pub enum AudioError {
    /// This build contains no audio server.
    #[error("this build has no sound")]
    Absent,
}

/// A running sound.
#[derive(Debug)]
pub struct Audio(std::convert::Infallible);

/// Starts the audio server and its reader.
///
/// # Errors
/// See [`AudioError`].
pub fn start(_: AudioConfig) -> Result<Audio, AudioError> {
    Err(AudioError::Absent)
}

impl Audio {
    /// The value of PULSE_SERVER.
    pub fn server(&self) -> String {
        match self.0 {}
    }

    /// Sends to this viewer from now on.
    pub fn attach(&self, _: AudioViewer) {
        match self.0 {}
    }

    pub fn detach(&self) {
        match self.0 {}
    }

    pub fn figures(&self) -> BTreeMap<String, f64> {
        match self.0 {}
    }
}
