//! One session: a process per running app, with its desktop, its sound and its viewers.
//!
//! [`life`] decides, the files beside it carry out. Nothing here encodes, serves HTTP or reads a socket
//! of strangers.
pub mod life;

#[cfg(feature = "host")]
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(2)
}
