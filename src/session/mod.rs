//! One session: a process per running app, with its desktop, its sound and its viewers.
//!
//! [`life`] decides, the files beside it carry out. Nothing here encodes, serves HTTP or reads a socket
//! of strangers. The process outlives its supervisor and its fronts; its children die with it.
pub mod life;

#[cfg(feature = "host")]
mod account;
#[cfg(feature = "host")]
pub mod app;
#[cfg(feature = "host")]
pub mod control;
#[cfg(feature = "host")]
mod encoder_link;
#[cfg(feature = "host")]
mod flows;
#[cfg(feature = "host")]
mod fronts;
#[cfg(feature = "host")]
mod hands;
#[cfg(feature = "host")]
mod oom;
#[cfg(feature = "host")]
mod presence;
#[cfg(feature = "host")]
mod process;
#[cfg(feature = "host")]
mod run;

#[cfg(feature = "host")]
pub use process::main;
