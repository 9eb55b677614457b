//! The client side of Wayland: what our own programs, the test pattern and the desktop's panel, share.
//!
//! Pixels in shared memory and text in them; no GPU, no session, no sound.
pub mod buffers;
pub mod canvas;
pub mod events;
pub mod local_time;
pub mod text;
