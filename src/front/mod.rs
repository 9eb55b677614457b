//! The front: the control plane's process.
mod admission;
mod core;
mod counters;
mod gate;
mod serve;

pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(2)
}
