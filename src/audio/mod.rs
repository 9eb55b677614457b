//! The session's sound: an audio server of its own, read natively, encoded and sent.
//!
//! It knows nothing of the control connection or of video.
