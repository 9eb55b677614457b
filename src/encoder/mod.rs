//! The encoder process: one viewer's frames in, datagrams out. Started by its session, killed and
//! replaced when it fails or hangs; only its page outlives it.
//!
//! Three threads: `frames` takes notes of drawn slots and queues them for the chain; `sender` takes
//! what the chain encoded, packs, seals and sends it; the first one obeys the session and beats the
//! heart. Slots go back from whatever thread lets go of them. It knows nothing of the other flows.
//!
//! It decides no restart: whatever fails here ends the process with a reason, at once and without
//! waiting for what may hang.
mod end;
mod frames;
mod key_budget;
mod place;
mod process;
mod sender;
mod shared;
mod timeline;

pub use process::{main, main_with};
