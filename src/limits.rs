//! Every static limit, with its unit, in one place. Related ones are asserted against each other.
//!
//! What an operator may change lives in `config`; its defaults are taken from here.

/// HTTP request head, bytes. `getservercert` carries a client certificate in hex (8 KiB at most seen).
pub const HTTP_HEAD_BYTES_MAX: usize = 32 * 1024;
/// HTTP header lines in one head.
pub const HTTP_HEADERS_MAX: usize = 64;
/// RTSP message, bytes, plain or inside the encrypted envelope.
pub const RTSP_MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// SDP attributes in one ANNOUNCE.
pub const SDP_ATTRIBUTES_MAX: usize = 512;
/// UTF-8 bytes of one text event.
pub const TEXT_BYTES_MAX: usize = 32;
/// Inner control message, bytes.
pub const CONTROL_MESSAGE_BYTES_MAX: usize = 4096;
/// ENet channels offered; clients ask for 48.
pub const ENET_CHANNELS: usize = 48;
/// ENet peer ids that exist host-wide (12 bits, 0xFFF means "none yet").
pub const ENET_PEER_IDS: u16 = 0xFFF;
/// Pending pairings in all, and per source address.
pub const PAIRINGS_MAX: usize = 64;
pub const PAIRINGS_PER_SOURCE_MAX: usize = 4;
/// Failed pairings per source in ten minutes before attempts are delayed and refused.
pub const PAIRING_FAILURES_MAX: usize = 5;
/// Sessions of one host.
pub const SESSIONS_MAX: usize = 256;
/// A message between our processes, bytes.
pub const IPC_MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// File descriptors in one message between our processes.
pub const IPC_FDS_MAX: usize = 16;
/// Slots of a frame ring.
pub const RING_SLOTS: usize = 4;
/// Largest mode accepted at launch.
pub const WIDTH_MAX: u16 = 7680;
pub const HEIGHT_MAX: u16 = 4320;

const _: () = assert!(PAIRINGS_PER_SOURCE_MAX < PAIRINGS_MAX);
const _: () = assert!(RTSP_MESSAGE_BYTES_MAX < IPC_MESSAGE_BYTES_MAX);
const _: () = assert!(RING_SLOTS <= IPC_FDS_MAX);
