//! One session: a process per running app, with its desktop, its sound and its viewers.
//!
//! [`life`] decides, the files beside it carry out. Nothing here encodes, serves HTTP or reads a socket
//! of strangers.
pub mod life;

#[cfg(feature = "host")]
pub mod app;
#[cfg(feature = "host")]
pub mod control;
#[cfg(feature = "host")]
mod hands;
#[cfg(feature = "host")]
mod oom;
#[cfg(feature = "host")]
mod signals;

#[cfg(feature = "host")]
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(2)
}
