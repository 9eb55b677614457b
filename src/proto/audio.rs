//! The audio stream: from Opus packets to RTP datagrams with parity, and back for the test client.
//!
//! It knows no socket, no clock and no codec. Source: moonlight-common-c src/AudioStream.c,
//! src/RtpAudioQueue.c; Sunshine src/stream.cpp.

mod cipher;
mod packet;
mod packetizer;
mod receiver;
#[cfg(test)]
mod tests;

pub use packet::{BLOCK_PACKETS, DATAGRAM_BYTES_MAX};
pub use packetizer::{AudioPacketizer, AudioParameters, Encryption, PacketError};
pub use receiver::{AudioEvent, AudioReceiver, AudioStatistics};
