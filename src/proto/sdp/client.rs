//! The client's side of the negotiation: reading DESCRIBE, writing ANNOUNCE as the library does.
//!
//! For test clients.
//!
//! Source: moonlight-common-c src/RtspConnection.c (`performRtspHandshake`), src/SdpGenerator.c.
use std::net::IpAddr;

use super::encryption;
use crate::proto::rtsp::client::number_of;
use crate::proto::stream::Codec;
use crate::proto::surround::Layout;
use crate::proto::surround::Quality;

/// What a client finds in a DESCRIBE body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Describe {
    pub features: u32,
    pub encryption_supported: u32,
    pub encryption_requested: u32,
    pub reference_invalidation: bool,
    pub hevc: bool,
    pub av1: bool,
    body: String,
}

impl Describe {
    /// Searches the body as the library does: any text is a DESCRIBE.
    pub fn parse(body: &str) -> Self {
        let number = |name: &str| {
            let value = body.find(name).and_then(|at| body[at..].split_once(':'));
            value.map_or(0, |(_, value)| number_of(value))
        };
        Self {
            features: number("x-ss-general.featureFlags"),
            encryption_supported: number("x-ss-general.encryptionSupported"),
            encryption_requested: number("x-ss-general.encryptionRequested"),
            reference_invalidation: body.contains("x-nv-video[0].refPicInvalidation"),
            hevc: body.contains("sprop-parameter-sets=AAAAAU"),
            av1: body.contains("AV1/90000"),
            body: body.to_owned(),
        }
    }

    /// The decoder's layout, with the client's own conversion applied. `None`: not offered.
    pub fn layout(&self, channels: u8, quality: Quality) -> Option<Layout> {
        if channels == 2 {
            return Layout::of(2, quality);
        }
        let prefix = format!("a=fmtp:97 surround-params={channels}");
        let line = match quality {
            Quality::Normal => self.body.match_indices(&prefix).next(),
            Quality::High => self.body.match_indices(&prefix).nth(1),
        };
        let digits = prefix.len() - 1;
        let layout = Layout::parse_line(&self.body[line?.0 + digits..])?;
        Some(layout.as_client_reads(quality))
    }

    /// What the library then enables, if its user wants video and audio encrypted.
    pub fn encryption_enabled(&self, wants_video: bool, wants_audio: bool) -> u32 {
        let (supported, requested) = (self.encryption_supported, self.encryption_requested);
        let mut enabled = supported & encryption::CONTROL_V2;
        for (bit, wanted) in [(encryption::VIDEO, wants_video), (encryption::AUDIO, wants_audio)] {
            enabled |= if wanted { (supported | requested) & bit } else { requested & bit };
        }
        enabled
    }
}

/// What a client has decided when it announces.
#[derive(Clone, Debug)]
pub struct ClientAnnounce {
    pub host: IpAddr,
    pub video_port: u16,
    /// As [`Describe::encryption_enabled`] gives it.
    pub encryption: u32,
    /// The user wants audio encrypted, whatever is enabled.
    pub wants_audio_encrypted: bool,
    pub yuv444: bool,
    pub width: u32,
    pub height: u32,
    pub fps: u32,
    /// Before the 32 bytes that encryption takes.
    pub packet_size: u32,
    /// The user's total.
    pub bitrate_kbps: u32,
    /// Not in the host's network: no QoS marking, 500 kbit/s less.
    pub remote: bool,
    pub slices: u8,
    pub codec: Codec,
    pub ten_bit: bool,
    /// The decoder can invalidate reference frames.
    pub reference_invalidation: bool,
    /// 0: unknown.
    pub refresh_x100: u32,
    /// 2, 6 or 8.
    pub channels: u8,
    pub surround_high: bool,
    /// 5 or 10.
    pub audio_packet_ms: u8,
    /// Colour space times 2, plus 1 for full range.
    pub csc_mode: u32,
}

impl ClientAnnounce {
    /// The ANNOUNCE body, byte for byte as the library writes it.
    pub fn write(&self) -> String {
        let family = if self.host.is_ipv4() { "IPv4" } else { "IPv6" };
        let mut text = format!(
            "v=0\r\no=android 0 14 IN {family} {}\r\ns=NVIDIA Streaming Client\r\n",
            self.host
        );
        for (name, value) in self.connection().into_iter().chain(self.media()) {
            text.push_str(&format!("a={name}:{value} \r\n"));
        }
        text.push_str(&format!("t=0 0\r\nm=video {}  \r\n", self.video_port));
        text
    }

    fn connection(&self) -> Vec<(&'static str, u32)> {
        let kbps = self.bitrate_kbps * 4 / 5;
        let kbps = if self.remote && kbps > 500 { kbps - 500 } else { kbps }.min(100_000);
        let video_encrypted = self.encryption & encryption::VIDEO != 0;
        let packet_size = self.packet_size - if video_encrypted { 32 } else { 0 };
        let audio_encrypted =
            self.wants_audio_encrypted || self.encryption & encryption::AUDIO != 0;
        let (video_qos, audio_qos) = if self.remote { (0, 0) } else { (5, 4) };
        vec![
            ("x-ml-general.featureFlags", 3),
            ("x-ss-general.encryptionEnabled", self.encryption),
            ("x-ss-video[0].chromaSamplingType", u32::from(self.yuv444)),
            ("x-nv-video[0].clientViewportWd", self.width),
            ("x-nv-video[0].clientViewportHt", self.height),
            ("x-nv-video[0].maxFPS", self.fps),
            ("x-nv-video[0].packetSize", packet_size),
            ("x-nv-video[0].rateControlMode", 4),
            ("x-nv-video[0].timeoutLengthMs", 7000),
            ("x-nv-video[0].framesWithInvalidRefThreshold", 0),
            ("x-nv-video[0].initialBitrateKbps", kbps),
            ("x-nv-video[0].initialPeakBitrateKbps", kbps),
            ("x-nv-vqos[0].bw.minimumBitrateKbps", kbps),
            ("x-nv-vqos[0].bw.maximumBitrateKbps", kbps),
            ("x-ml-video.configuredBitrateKbps", self.bitrate_kbps),
            ("x-nv-vqos[0].fec.enable", 1),
            ("x-nv-vqos[0].videoQualityScoreUpdateTime", 5000),
            ("x-nv-vqos[0].qosTrafficType", video_qos),
            ("x-nv-aqos.qosTrafficType", audio_qos),
            ("x-nv-general.featureFlags", if audio_encrypted { 0xA7 } else { 0x87 }),
            ("x-nv-general.useReliableUdp", 13),
            ("x-nv-vqos[0].fec.minRequiredFecPackets", 2),
            ("x-nv-vqos[0].bllFec.enable", 0),
            ("x-nv-vqos[0].drc.enable", 0),
            ("x-nv-general.enableRecoveryMode", 0),
        ]
    }

    fn media(&self) -> Vec<(&'static str, u32)> {
        let (hevc, format) = match self.codec {
            Codec::H264 => (Some(0), 0),
            Codec::Hevc => (Some(1), 1),
            Codec::Av1 => (None, 2),
        };
        let mask = match self.channels {
            6 => 0x3F,
            8 => 0x63F,
            _ => 0x3,
        };
        let mut attributes =
            vec![("x-nv-video[0].videoEncoderSlicesPerFrame", u32::from(self.slices))];
        attributes.extend(hevc.map(|hevc| ("x-nv-clientSupportHevc", hevc)));
        attributes.extend([
            ("x-nv-vqos[0].bitStreamFormat", format),
            ("x-nv-video[0].dynamicRangeMode", u32::from(self.ten_bit)),
            ("x-nv-video[0].maxNumReferenceFrames", u32::from(!self.reference_invalidation)),
            ("x-nv-video[0].clientRefreshRateX100", self.refresh_x100),
            ("x-nv-audio.surround.numChannels", u32::from(self.channels)),
            ("x-nv-audio.surround.channelMask", mask),
            ("x-nv-audio.surround.enable", u32::from(self.channels > 2)),
            ("x-nv-audio.surround.AudioQuality", u32::from(self.surround_high)),
            ("x-nv-aqos.packetDuration", u32::from(self.audio_packet_ms)),
            ("x-nv-video[0].encoderCscMode", self.csc_mode),
        ]);
        attributes
    }
}
