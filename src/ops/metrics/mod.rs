//! The operators' listener: `/metrics`, `/healthz`, `/readyz`, `/capacity`.
//!
//! It runs on threads of its own beside the supervisor's loop, answers from the [`board`] that the loop
//! keeps, and changes nothing. What is unknown is left out or said to be unknown; it is never 0.
pub mod board;
mod control;
pub mod listener;
pub mod readiness;
mod sockets;
mod streams;
mod text;
