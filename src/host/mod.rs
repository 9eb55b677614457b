//! `Host`: pairings, pending launches, which sessions exist. One pure machine behind one mutex.
//!
//! Events in, effects out; time and randomness are arguments. It holds no socket, file or thread.
pub mod event;
