//! SDP of the RTSP handshake: what the host offers in DESCRIBE, what the client settles in ANNOUNCE.
//!
//! Neither is SDP in earnest. DESCRIBE is searched for substrings by the client; ANNOUNCE is a list of
//! `a=<name>:<value>` lines, most of which mean nothing to this host. The client's side is in `client`,
//! for test clients.
//!
//! Source: moonlight-common-c src/RtspConnection.c, src/SdpGenerator.c; Sunshine src/rtsp.cpp.
use thiserror::Error;

use crate::proto::rtsp::Status;
use crate::proto::stream::Codec;
use crate::proto::stream::CodecSupport;
use crate::proto::surround;
use crate::proto::surround::Layout;

mod announce;
pub mod client;
#[cfg(test)]
mod tests;

pub use announce::AnnounceContext;
pub use announce::encoder_kbps;
pub use announce::parse as parse_announce;

/// Bits of `encryptionSupported`, `encryptionRequested`, `encryptionEnabled`.
pub mod encryption {
    /// Control stream with a 12-byte IV.
    pub const CONTROL_V2: u32 = 0x01;
    pub const VIDEO: u32 = 0x02;
    pub const AUDIO: u32 = 0x04;
    pub const ALL: u32 = CONTROL_V2 | VIDEO | AUDIO;
}

/// Bits of the host's `x-ss-general.featureFlags`: which input events a client may send.
pub mod host_feature {
    pub const PEN_TOUCH: u32 = 0x01;
    /// Controller touchpads and controller motion.
    pub const CONTROLLER_TOUCH: u32 = 0x02;
}

/// What DESCRIBE tells a client.
#[derive(Clone, Debug)]
pub struct DescribeOffer<'a> {
    /// Must agree with `ServerCodecModeSupport`.
    pub codecs: &'a CodecSupport,
    /// Bits of [`host_feature`].
    pub features: u32,
    /// Bits of [`encryption`]; `requested` is a subset of `supported`.
    pub encryption_supported: u32,
    pub encryption_requested: u32,
    /// The encoder can go on after lost frames without a key frame.
    pub reference_invalidation: bool,
    /// The client's own layout of `/launch`.
    pub surround: Option<&'a Layout>,
}

/// The body of the DESCRIBE response.
pub fn describe(offer: &DescribeOffer<'_>) -> String {
    assert!(offer.encryption_requested & !offer.encryption_supported == 0);
    let mut lines = vec![
        format!("a=x-ss-general.featureFlags:{}", offer.features),
        format!("a=x-ss-general.encryptionSupported:{}", offer.encryption_supported),
        format!("a=x-ss-general.encryptionRequested:{}", offer.encryption_requested),
    ];
    if offer.reference_invalidation {
        lines.push("a=x-nv-video[0].refPicInvalidation:1".to_owned());
    }
    if offer.codecs.hevc {
        lines.push("sprop-parameter-sets=AAAAAU".to_owned());
    }
    if offer.codecs.av1 {
        lines.push("a=rtpmap:98 AV1/90000".to_owned());
    }
    // A client takes the first line of its channel count for normal quality, the second for high.
    let custom = offer.surround.map(Layout::digits);
    let own = surround::ADVERTISED.iter().filter_map(|(channels, quality)| {
        Layout::of(*channels, *quality).map(|layout| layout.advertised(*quality))
    });
    for digits in custom.iter().cloned().chain(custom.iter().cloned()).chain(own) {
        lines.push(format!("a=fmtp:97 surround-params={digits}"));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Why an ANNOUNCE is refused. The session does not start; the client shows the status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SdpError {
    /// This host cannot encode it, or the number names no codec.
    #[error("codec not available")]
    Codec,
    /// Policy demands an encryption that the client did not enable.
    #[error("encryption required")]
    EncryptionRequired,
    /// The client enabled an encryption that was not offered.
    #[error("encryption not supported")]
    EncryptionUnsupported,
    /// Not a decimal number, or out of range.
    #[error("{name} has no acceptable value")]
    Invalid { name: &'static str },
    #[error("{name} is missing")]
    Missing { name: &'static str },
    /// The body is no UTF-8.
    #[error("not text")]
    NotText,
    /// The client does not speak the encrypted control protocol.
    #[error("plaintext control streams are not served")]
    PlaintextControl,
    #[error("too many attributes")]
    TooMany,
    /// 4:4:4 with this codec cannot be encoded here.
    #[error("4:4:4 not available")]
    Yuv444,
}

impl SdpError {
    pub fn status(&self) -> Status {
        match self {
            Self::EncryptionRequired | Self::PlaintextControl => Status::Forbidden,
            _ => Status::BadRequest,
        }
    }
}

/// `ServerCodecModeSupport` bit of 8-bit 4:4:4 with a codec.
fn yuv444_bit(codec: Codec) -> u32 {
    match codec {
        Codec::H264 => 0x0004_0000,
        Codec::Hevc => 0x0008_0000,
        Codec::Av1 => 0x0020_0000,
    }
}
