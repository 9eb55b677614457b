//! The video stream: from encoded access units to UDP datagrams, and back for the test client.
//!
//! It knows no socket, no clock and no encoder. Counters are arguments, because they outlive the
//! process that uses them. All video datagrams of a stream have the same size.
//! Source: moonlight-common-c src/Video.h, src/RtpVideoQueue.c, src/VideoDepacketizer.c; Sunshine
//! src/stream.cpp.

mod bitstream;
mod layout;
mod packet;
mod packetizer;
mod receiver;
mod recovery;
mod seal;
#[cfg(test)]
mod tests;

pub use bitstream::{idr_fits, is_idr, strip_leading_sei};
pub use layout::{Block, DATA_PACKETS_MAX, FrameTooLarge, Layout, PACKETS_MAX, parity_bytes_max};
pub use packet::FrameKind;
pub use packetizer::{Frame, Packetizer, Parameters};
pub use receiver::{Event, ReceivedFrame, Receiver, ReceiverParameters, Statistics};
pub use recovery::Request;
