//! The desktop as its neighbours see it: Wayland clients on one side, an encoder on the other.
#![cfg(feature = "host")]

#[path = "desktop_wayland/client.rs"]
mod client;
#[path = "desktop_wayland/frames.rs"]
mod frames;
#[path = "desktop_wayland/hands.rs"]
mod hands;
#[path = "desktop_wayland/hostile.rs"]
mod hostile;
#[path = "desktop_wayland/programs.rs"]
mod programs;
#[path = "desktop_wayland/viewer.rs"]
mod viewer;
#[path = "desktop_wayland/window.rs"]
mod window;
