//! moonshard: a Moonlight host. This file is the map, innermost ring first.
//!
//! Pure ring (always built): bytes and events in, bytes and effects out; time and randomness are
//! arguments; no sockets, files, threads or clocks. Adapters (feature `host`): each owns one outside
//! thing. Processes: compositions of adapters, one folder per kind of process.
#![deny(unsafe_code)]

// Pure ring.
pub mod config;
#[doc(hidden)]
pub mod fuzz;
pub mod host;
pub mod ipc;
pub mod limits;
pub mod proto;
// Its `life` alone; the rest of it needs the feature.
pub mod session;
pub mod time;

// Adapters.
#[cfg(feature = "host")]
pub mod audio;
#[cfg(feature = "host")]
pub mod desktop;
#[cfg(feature = "host")]
pub mod media;
#[cfg(feature = "host")]
pub mod net;
#[cfg(feature = "host")]
pub mod ops;
#[cfg(feature = "host")]
pub mod paint;
#[cfg(feature = "host")]
pub mod proc;
#[cfg(feature = "host")]
pub mod shard;
#[cfg(feature = "host")]
pub mod tls;
#[cfg(feature = "host")]
pub mod wayland;

// Processes: one binary, four kinds, and the programs beside them.
#[cfg(feature = "host")]
pub mod cli;
#[cfg(feature = "host")]
pub mod desktop_app;
#[cfg(feature = "host")]
pub mod encoder;
#[cfg(feature = "host")]
pub mod front;
#[cfg(feature = "host")]
pub mod pattern;
#[cfg(feature = "host")]
pub mod supervisor;
