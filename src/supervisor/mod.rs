//! `moonshard serve`: starts, watches, kills, reaps. It makes and holds the listeners and the door's
//! sockets, so that the front's death refuses nobody, and reads none of them.
//!
//! One thread, one poll: signals, children, the front's link, the admin socket. Nothing here waits
//! for anything else once it serves.
mod admin;
mod cgroup;
mod directory;
mod evidence;
mod front;
mod image;
mod notify;
mod orphans;
mod peer;
mod run;
mod session;
mod signals;
mod sockets;
mod start;
mod succession;
mod vigil;
mod words;

pub use start::{Options, main};
pub use words::Status;
