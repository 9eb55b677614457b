//! The client side of Wayland: what our own programs, the test pattern and the desktop's panel, share.
//!
//! Pixels in shared memory (drawing is `paint`); no GPU, no session, no sound.
pub mod buffers;
pub mod events;
pub mod local_time;
