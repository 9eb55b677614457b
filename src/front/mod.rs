//! The front: the control plane's process.
mod admission;
mod bus;
mod core;
mod counters;
mod gate;
mod links;
mod serve;
mod store;

pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(2)
}
