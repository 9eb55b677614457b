//! What one stream is: the settled result of ANNOUNCE, free of any unvalidated field.
//!
//! `sdp` makes it from the client's attributes; sessions and encoders obey it. It says nothing about
//! sockets or keys.
use serde::{Deserialize, Serialize};

/// Everything that ANNOUNCE fixed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSpec {
    pub video: VideoSpec,
    pub audio: AudioSpec,
    /// Control encryption v2 (12-byte IV) if true, v1 (16-byte IV) otherwise.
    pub control_v2: bool,
    /// The client reports frame FEC status (0x5502).
    pub sends_fec_status: bool,
    /// The client sends the ping payload and the ENet connect data; they are then required.
    pub sends_identity: bool,
}

/// Video of one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VideoSpec {
    pub mode: Mode,
    pub codec: Codec,
    /// 8 or 10 bit per sample.
    pub ten_bit: bool,
    /// 4:4:4 chroma instead of 4:2:0.
    pub yuv444: bool,
    pub colorspace: Colorspace,
    pub full_range: bool,
    /// What the encoder is told, in kbit/s; FEC, audio and overhead are already subtracted.
    pub bitrate_kbps: u32,
    /// Slices per frame, >= 1.
    pub slices: u8,
    /// 0: the encoder's choice; 1: a single reference frame.
    pub reference_frames_max: u8,
    /// P of the wire: bytes from the NV header to the end of a packet; a multiple of 16, 208..=8192.
    /// A datagram is P + 16 bytes, + 32 when encrypted.
    pub packet_size: u16,
    /// Parity as a percentage of the data packets, 0..=255.
    pub fec_percent: u8,
    /// Parity packets per FEC block at least.
    pub fec_packets_min: u8,
    pub encrypted: bool,
    /// DSCP marking allowed.
    pub qos: bool,
}

/// Audio of one stream. 48 kHz, Opus multistream, constant bitrate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AudioSpec {
    /// 2, 6 or 8, in client order FL FR C LFE BL BR SL SR.
    pub channels: u8,
    /// Opus streams and how many of them are coupled (stereo).
    pub streams: u8,
    pub coupled: u8,
    /// Encoder mapping in client order, `channels` entries.
    pub mapping: Vec<u8>,
    pub bitrate: u32,
    /// 5 or 10.
    pub packet_ms: u8,
    pub encrypted: bool,
    pub qos: bool,
}

/// A display mode. The rate is exact: 59.94 Hz is 59_940.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mode {
    pub width: u16,
    pub height: u16,
    pub millihertz: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    H264,
    Hevc,
    Av1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Colorspace {
    Rec601,
    Rec709,
    Rec2020,
}

/// What this host can encode, as the probes found it. An empty one advertises nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodecSupport {
    pub h264: bool,
    pub hevc: bool,
    pub av1: bool,
    /// 10-bit and 4:4:4 variants that passed, as `ServerCodecModeSupport` bits.
    pub extra_bits: u32,
}

/// One of the three UDP flows of a viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flow {
    Video,
    Control,
    Audio,
}
