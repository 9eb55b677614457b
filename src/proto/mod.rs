//! The wire: bytes to types and back. No IO, no clock, no randomness of its own.
//!
//! One file per noun of the protocol; each says which bytes it speaks of and where that is known from.
//! Parsers take a slice and return a type that needs no further check; nothing is sized by a peer
//! before a limit check.
pub mod audio;
pub mod control;
pub mod crypto;
pub mod enet;
pub mod fec;
pub mod hex;
pub mod http;
pub mod input;
pub mod keymap;
pub mod launch;
pub mod pairing;
pub mod pattern;
pub mod ping;
pub mod reader;
pub mod rtsp;
pub mod sdp;
pub mod secret;
pub mod serverinfo;
pub mod stream;
pub mod surround;
#[cfg(test)]
mod vectors;
pub mod video;
pub mod x509;
pub mod xml;
