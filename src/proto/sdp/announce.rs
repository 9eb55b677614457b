//! From the attributes of ANNOUNCE to the stream that they settle.
//!
//! Attributes without a meaning for this host are not even read as numbers. HDR (`dynamicRangeMode`) is
//! taken and streamed as 8-bit SDR, which every client shows.
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::SdpError;
use super::encryption;
use super::yuv444_bit;
use crate::limits;
use crate::proto::stream::AudioSpec;
use crate::proto::stream::Codec;
use crate::proto::stream::CodecSupport;
use crate::proto::stream::Colorspace;
use crate::proto::stream::Mode;
use crate::proto::stream::StreamSpec;
use crate::proto::stream::VideoSpec;
use crate::proto::surround;
use crate::proto::surround::Layout;
use crate::proto::surround::Quality;

/// What the host brings to an ANNOUNCE.
#[derive(Clone, Debug)]
pub struct AnnounceContext<'a> {
    pub codecs: &'a CodecSupport,
    /// As DESCRIBE said.
    pub encryption_supported: u32,
    /// What policy demands; a subset of the supported.
    pub encryption_required: u32,
    /// Parity as a percentage of data packets.
    pub fec_percent: u8,
    /// The client's own layout, if DESCRIBE sent it.
    pub surround: Option<&'a Layout>,
}

/// Bits of `x-ml-general.featureFlags`.
const SENDS_FEC_STATUS: u32 = 0x01;
const SENDS_IDENTITY: u32 = 0x02;
/// Bit of `x-nv-general.featureFlags`, set by clients that want audio encrypted whatever is offered.
const AUDIO_ENCRYPTION: u32 = 0x20;
/// `x-nv-general.useReliableUdp` of the encrypted control protocol.
const ENCRYPTED_CONTROL: u32 = 13;

const FPS: RangeInclusive<u32> = 10..=240;
const WIDTH: RangeInclusive<u32> = 16..=limits::WIDTH_MAX as u32;
const HEIGHT: RangeInclusive<u32> = 16..=limits::HEIGHT_MAX as u32;
const PACKET_BYTES: RangeInclusive<u32> = 208..=8192;
const PACKET_BYTES_DEFAULT: u32 = 1024;
/// Far above what any client's slider gives, far below an overflow.
const BITRATE_KBPS: RangeInclusive<u32> = 0..=4_000_000;
/// No encoder makes anything of less.
const ENCODER_KBPS_MIN: u32 = 100;
const SLICES_MAX: u32 = 32;
const REFERENCE_FRAMES: RangeInclusive<u32> = 0..=16;
const ANY: RangeInclusive<u32> = 0..=u32::MAX;

/// Reads the body of an ANNOUNCE. `host` is the `Host` header of that request: `0.0.0.0` asks for
/// normal stereo quality.
pub fn parse(
    body: &[u8],
    host: &str,
    context: &AnnounceContext<'_>,
) -> Result<StreamSpec, SdpError> {
    let attributes = Attributes::parse(body)?;
    if attributes.number("x-nv-general.useReliableUdp", ANY, Some(1))? != ENCRYPTED_CONTROL {
        return Err(SdpError::PlaintextControl);
    }
    let encrypted = encryption(&attributes, context)?;
    let quality = quality(&attributes, host)?;
    let channels = channels(&attributes)?;
    let features = attributes.number("x-ml-general.featureFlags", ANY, Some(0))?;
    Ok(StreamSpec {
        video: video(&attributes, context, encrypted, channels, quality)?,
        audio: audio(&attributes, context, encrypted, channels, quality)?,
        control_v2: encrypted & encryption::CONTROL_V2 != 0,
        sends_fec_status: features & SENDS_FEC_STATUS != 0,
        sends_identity: features & SENDS_IDENTITY != 0,
    })
}

/// Which encryptions the client has switched on; judged against offer and policy.
fn encryption(attributes: &Attributes<'_>, context: &AnnounceContext<'_>) -> Result<u32, SdpError> {
    let enabled = attributes.number("x-ss-general.encryptionEnabled", ANY, Some(0))?;
    if enabled & !context.encryption_supported != 0 {
        return Err(SdpError::EncryptionUnsupported);
    }
    // A client that wants its audio encrypted decrypts it, whether it was offered or not.
    let flags = attributes.number("x-nv-general.featureFlags", ANY, Some(0x87))?;
    let audio = if flags & AUDIO_ENCRYPTION != 0 { encryption::AUDIO } else { 0 };
    let encrypted = enabled | audio;
    if context.encryption_required & !encrypted != 0 {
        return Err(SdpError::EncryptionRequired);
    }
    Ok(encrypted)
}

fn channels(attributes: &Attributes<'_>) -> Result<u8, SdpError> {
    let name = "x-nv-audio.surround.numChannels";
    match attributes.number(name, ANY, Some(2))? {
        2 => Ok(2),
        6 => Ok(6),
        8 => Ok(8),
        _ => Err(SdpError::Invalid { name }),
    }
}

/// Of surround by attribute, of stereo by the whole `Host` header.
fn quality(attributes: &Attributes<'_>, host: &str) -> Result<Quality, SdpError> {
    let asked = attributes.number("x-nv-audio.surround.AudioQuality", ANY, Some(0))?;
    let high = if channels(attributes)? > 2 { asked == 1 } else { host.trim() != "0.0.0.0" };
    Ok(if high { Quality::High } else { Quality::Normal })
}

fn video(
    attributes: &Attributes<'_>,
    context: &AnnounceContext<'_>,
    encrypted: u32,
    channels: u8,
    quality: Quality,
) -> Result<VideoSpec, SdpError> {
    let codec = codec(attributes, context.codecs)?;
    let yuv444 = attributes.number("x-ss-video[0].chromaSamplingType", 0..=1, Some(0))? == 1;
    if yuv444 && context.codecs.extra_bits & yuv444_bit(codec) == 0 {
        return Err(SdpError::Yuv444);
    }
    let (colorspace, full_range) = color(attributes)?;
    let slices = attributes.number("x-nv-video[0].videoEncoderSlicesPerFrame", ANY, Some(1))?;
    let references =
        attributes.number("x-nv-video[0].maxNumReferenceFrames", REFERENCE_FRAMES, Some(1))?;
    let parity = attributes.number("x-nv-vqos[0].fec.minRequiredFecPackets", 0..=255, Some(0))?;
    Ok(VideoSpec {
        mode: mode(attributes)?,
        codec,
        ten_bit: false,
        yuv444,
        colorspace,
        full_range,
        bitrate_kbps: bitrate(attributes, context.fec_percent, channels, quality)?,
        slices: small(slices.clamp(1, SLICES_MAX)),
        reference_frames_max: small(references),
        packet_size: packet_size(attributes)?,
        fec_percent: context.fec_percent,
        fec_packets_min: small(parity),
        encrypted: encrypted & encryption::VIDEO != 0,
        qos: attributes.number("x-nv-vqos[0].qosTrafficType", ANY, Some(5))? != 0,
    })
}

fn codec(attributes: &Attributes<'_>, support: &CodecSupport) -> Result<Codec, SdpError> {
    let (codec, available) =
        match attributes.number("x-nv-vqos[0].bitStreamFormat", ANY, Some(0))? {
            0 => (Codec::H264, support.h264),
            1 => (Codec::Hevc, support.hevc),
            2 => (Codec::Av1, support.av1),
            _ => return Err(SdpError::Codec),
        };
    if available { Ok(codec) } else { Err(SdpError::Codec) }
}

/// `encoderCscMode`: colour space in the upper bits, full range in the lowest. As long as only 8 bits are
/// encoded, Rec. 2020 and HDR become Rec. 709.
fn color(attributes: &Attributes<'_>) -> Result<(Colorspace, bool), SdpError> {
    attributes.number("x-nv-video[0].dynamicRangeMode", 0..=1, Some(0))?;
    let mode = attributes.number("x-nv-video[0].encoderCscMode", 0..=5, Some(0))?;
    let colorspace = if mode >> 1 == 0 { Colorspace::Rec601 } else { Colorspace::Rec709 };
    Ok((colorspace, mode & 1 != 0))
}

fn mode(attributes: &Attributes<'_>) -> Result<Mode, SdpError> {
    let even = |name, range| {
        let pixels = attributes.number(name, range, None)?;
        Ok(u16::try_from(pixels.next_multiple_of(2)).expect("the range ends far below"))
    };
    let width = even("x-nv-video[0].clientViewportWd", WIDTH)?;
    let height = even("x-nv-video[0].clientViewportHt", HEIGHT)?;
    let fps = attributes.number("x-nv-video[0].maxFPS", FPS, None)?;
    let refresh = attributes.number("x-nv-video[0].clientRefreshRateX100", ANY, Some(0))?;
    // Some clients send the rate of their display there, whatever the stream's is.
    let is_the_streams = refresh.abs_diff(fps * 100) <= fps;
    let millihertz = if is_the_streams { refresh * 10 } else { fps * 1000 };
    Ok(Mode { width, height, millihertz })
}

/// Used as sent: with another size, clients rebuild lost packets wrongly.
fn packet_size(attributes: &Attributes<'_>) -> Result<u16, SdpError> {
    let name = "x-nv-video[0].packetSize";
    let bytes = attributes.number(name, PACKET_BYTES, Some(PACKET_BYTES_DEFAULT))?;
    if !bytes.is_multiple_of(16) {
        return Err(SdpError::Invalid { name });
    }
    u16::try_from(bytes).map_err(|_| SdpError::Invalid { name })
}

fn bitrate(
    attributes: &Attributes<'_>,
    fec_percent: u8,
    channels: u8,
    quality: Quality,
) -> Result<u32, SdpError> {
    let configured =
        attributes.number("x-ml-video.configuredBitrateKbps", BITRATE_KBPS, Some(0))?;
    if configured > 0 {
        return Ok(encoder_kbps(configured, fec_percent, channels, quality));
    }
    let name = "x-nv-vqos[0].bw.maximumBitrateKbps";
    match attributes.number(name, BITRATE_KBPS, None)? {
        0 => Err(SdpError::Invalid { name }),
        kbps => Ok(kbps.max(ENCODER_KBPS_MIN)),
    }
}

/// What remains for the encoder of the total that a user chose: less parity, audio, and control.
pub fn encoder_kbps(total: u32, fec_percent: u8, channels: u8, quality: Quality) -> u32 {
    let mut kbps = u64::from(total);
    if fec_percent <= 80 {
        kbps = kbps * u64::from(100 - fec_percent) / 100;
    }
    let per_channel = if quality == Quality::High { 256 } else { 96 };
    kbps -= (u64::from(channels) * per_channel).min(kbps / 5);
    kbps -= (kbps / 10).min(500);
    u32::try_from(kbps).expect("not more than the total").max(ENCODER_KBPS_MIN)
}

fn audio(
    attributes: &Attributes<'_>,
    context: &AnnounceContext<'_>,
    encrypted: u32,
    channels: u8,
    quality: Quality,
) -> Result<AudioSpec, SdpError> {
    let name = "x-nv-aqos.packetDuration";
    let packet_ms = match attributes.number(name, ANY, Some(5))? {
        5 => 5,
        10 => 10,
        _ => return Err(SdpError::Invalid { name }),
    };
    let custom = context.surround.filter(|layout| layout.channels == channels);
    // The client's own line passes its conversion too: encode what it ends up with.
    let layout = match custom {
        Some(layout) => layout.as_client_reads(quality),
        None => Layout::of(channels, quality).expect("2, 6 or 8 channels"),
    };
    Ok(AudioSpec {
        channels,
        streams: layout.streams,
        coupled: layout.coupled,
        mapping: layout.mapping,
        bitrate: surround::bitrate(channels, quality, packet_ms),
        packet_ms,
        encrypted: encrypted & encryption::AUDIO != 0,
        qos: attributes.number("x-nv-aqos.qosTrafficType", ANY, Some(4))? != 0,
    })
}

fn small(number: u32) -> u8 {
    u8::try_from(number).expect("the range ends at 255 at most")
}

/// Names and trimmed values; the first of equal names counts.
struct Attributes<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Attributes<'a> {
    fn parse(body: &'a [u8]) -> Result<Self, SdpError> {
        let text = std::str::from_utf8(body).map_err(|_| SdpError::NotText)?;
        let mut attributes = BTreeMap::new();
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix("a="));
        for (n, line) in lines.enumerate() {
            if n == limits::SDP_ATTRIBUTES_MAX {
                return Err(SdpError::TooMany);
            }
            if let Some((name, value)) = line.split_once(':') {
                attributes.entry(name.trim()).or_insert(value.trim());
            }
        }
        Ok(Self(attributes))
    }

    /// A plain decimal number within `range`; `default` if it is missing, an error without one.
    fn number(
        &self,
        name: &'static str,
        range: RangeInclusive<u32>,
        default: Option<u32>,
    ) -> Result<u32, SdpError> {
        let Some(text) = self.0.get(name) else { return default.ok_or(SdpError::Missing { name }) };
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|number| digits && range.contains(number));
        number.ok_or(SdpError::Invalid { name })
    }
}
