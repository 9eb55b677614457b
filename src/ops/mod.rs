//! What an operator meets: logs, the state of the machine, who holds a port, the encoder probe.
//!
//! It answers questions about this machine; it decides nothing and serves nobody.
pub mod doctor;
pub mod io_uring;
pub mod log;
pub mod machine;
pub mod metrics;
pub mod out;
pub mod ports;
pub mod probe;
mod recorder;
pub mod style;
