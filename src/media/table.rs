//! The encoders this host knows, as data: one row per GStreamer element, in order of preference.
//!
//! A row says how frames reach the encoder and how it is set for one access unit per frame at the
//! lowest latency: no B-frames, no look-ahead, key frames only on demand, a buffer of one frame.
//! Rows of hardware have never run on any: they are tried by the probe, and `auto` passes them over.
//! Nothing here calls GStreamer.
use crate::proto::stream::{Codec, Colorspace, VideoSpec};

/// A property and what it is set to. An installed element that lacks it is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    pub name: &'static str,
    pub value: Value,
}

/// A property's value, or what of the stream it follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    Flag(bool),
    Number(i64),
    /// The nick of an enum's or a flag set's value.
    Name(&'static str),
    /// The bitrate, in kbit/s or bit/s.
    Kbps,
    Bps,
    /// Slices per frame, at most one per core that this process may use.
    Slices,
    /// One frame, in ms, rounded up.
    FrameMs,
    /// What one frame may take, in kbit.
    FrameKbit,
}

/// An element of the chain and its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    pub element: &'static str,
    pub settings: &'static [Setting],
}

/// One encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub element: &'static str,
    pub codec: Codec,
    /// The device file without which it cannot work; None: it is software. Rows with one are
    /// unverified on hardware.
    pub device: Option<&'static str>,
    /// Between the slots (BGRx) and the encoder.
    pub convert: &'static [Stage],
    /// Raw format at the encoder's input.
    pub format: &'static str,
    /// Profile in the caps behind the encoder.
    pub profile: &'static str,
    /// The element writes the colour description into the parameter sets. One that does not can only
    /// serve what decoders assume without: limited range.
    pub describes_colour: bool,
    pub settings: &'static [Setting],
    /// Set again when the bitrate changes; each can be changed while the encoder runs.
    pub rate: &'static [Setting],
    /// Debian packages that bring it.
    pub packages: &'static str,
}

const fn set(name: &'static str, value: Value) -> Setting {
    Setting { name, value }
}

/// In system memory, on one thread: the encoder's threads are enough for one stream.
const CONVERT: &[Stage] =
    &[Stage { element: "videoconvert", settings: &[set("n-threads", Value::Number(1))] }];

/// More frames between key frames than a stream ever has.
const NEVER: Value = Value::Number(i32::MAX as i64);

/// All rows, best first.
pub const ROWS: &[Row] = &[
    // GStreamer >= 1.26. Unverified on hardware.
    Row { element: "nvh264enc", settings: NVENC, ..NVIDIA },
    // The same encoder's name from 1.22 to 1.24. Unverified on hardware.
    NVIDIA,
    // AMD and Intel. Unverified on hardware.
    Row {
        element: "vah264enc",
        codec: Codec::H264,
        device: Some("/dev/dri"),
        convert: CONVERT,
        format: "NV12",
        profile: "high",
        describes_colour: true,
        settings: &[
            set("rate-control", Value::Name("cbr")),
            set("key-int-max", Value::Number(1024)),
            set("b-frames", Value::Number(0)),
            set("ref-frames", Value::Number(1)),
            set("num-slices", Value::Slices),
            set("target-usage", Value::Number(7)),
            set("aud", Value::Flag(false)),
        ],
        rate: &[set("bitrate", Value::Kbps), set("cpb-size", Value::FrameKbit)],
        packages: "gstreamer1.0-plugins-bad va-driver-all",
    },
    X264,
    OPENH264,
];

/// x264: the best of the software encoders at equal cost. GPL.
pub const X264: Row = Row {
    element: "x264enc",
    codec: Codec::H264,
    device: None,
    convert: CONVERT,
    format: "I420",
    profile: "constrained-baseline",
    describes_colour: true,
    settings: &[
        set("tune", Value::Name("zerolatency")),
        set("speed-preset", Value::Name("ultrafast")),
        set("key-int-max", NEVER),
        set("bframes", Value::Number(0)),
        set("ref", Value::Number(1)),
        set("rc-lookahead", Value::Number(0)),
        set("sliced-threads", Value::Flag(true)),
        set("threads", Value::Slices),
        set("aud", Value::Flag(false)),
        set("vbv-buf-capacity", Value::FrameMs),
    ],
    rate: &[set("bitrate", Value::Kbps)],
    packages: "gstreamer1.0-plugins-ugly",
};

/// OpenH264: BSD, slower than x264 on hard pictures.
pub const OPENH264: Row = Row {
    element: "openh264enc",
    codec: Codec::H264,
    device: None,
    convert: CONVERT,
    format: "I420",
    profile: "constrained-baseline",
    describes_colour: false,
    settings: &[
        set("usage-type", Value::Name("camera")),
        set("complexity", Value::Name("low")),
        set("rate-control", Value::Name("bitrate")),
        set("gop-size", NEVER),
        set("enable-frame-skip", Value::Flag(false)),
        set("scene-change-detection", Value::Flag(false)),
        set("background-detection", Value::Flag(false)),
        set("slice-mode", Value::Name("n-slices")),
        set("num-slices", Value::Slices),
        set("multi-thread", Value::Slices),
    ],
    rate: &[set("bitrate", Value::Bps)],
    packages: "gstreamer1.0-plugins-bad",
};

const NVIDIA: Row = Row {
    element: "nvcudah264enc",
    codec: Codec::H264,
    device: Some("/dev/nvidiactl"),
    convert: CONVERT,
    format: "NV12",
    profile: "high",
    describes_colour: true,
    settings: &[
        set("preset", Value::Name("low-latency-hp")),
        set("rc-mode", Value::Name("cbr")),
        set("gop-size", Value::Number(-1)),
        set("b-frames", Value::Number(0)),
        set("rc-lookahead", Value::Number(0)),
        set("aud", Value::Flag(false)),
        set("repeat-sequence-header", Value::Flag(true)),
    ],
    rate: &[set("bitrate", Value::Kbps), set("vbv-buffer-size", Value::FrameKbit)],
    packages: "gstreamer1.0-plugins-bad, and NVIDIA's driver with libnvidia-encode",
};

const NVENC: &[Setting] = &[
    set("preset", Value::Name("p1")),
    set("tune", Value::Name("ultra-low-latency")),
    set("rc-mode", Value::Name("cbr")),
    set("gop-size", Value::Number(-1)),
    set("bframes", Value::Number(0)),
    set("rc-lookahead", Value::Number(0)),
    set("zerolatency", Value::Flag(true)),
    set("aud", Value::Flag(false)),
    set("repeat-sequence-header", Value::Flag(true)),
];

/// The row of an element.
pub fn row(element: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.element == element)
}

/// The rows that a configured choice means, in the order in which they are to be tried: "auto" is
/// every software encoder of the codec; otherwise element names, separated by commas (what the probe
/// found to work, in its order). Names that nobody knows are left out.
pub fn choose(choice: &str, codec: Codec) -> Vec<&'static Row> {
    if choice == "auto" {
        return ROWS.iter().filter(|row| row.device.is_none() && row.codec == codec).collect();
    }
    choice.split(',').filter_map(|name| row(name.trim())).filter(|row| row.codec == codec).collect()
}

impl Row {
    /// Why this encoder cannot make that stream; None: it can.
    pub fn unsuited(&self, spec: &VideoSpec) -> Option<&'static str> {
        match () {
            () if spec.codec != self.codec => Some("it makes another codec"),
            () if spec.ten_bit => Some("it is set up for 8 bits per sample"),
            () if spec.yuv444 => Some("it is set up for 4:2:0"),
            () if spec.full_range && !self.describes_colour => {
                Some("it cannot tell decoders of full range")
            }
            () => None,
        }
    }
}

/// What the settings of a stream come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amounts {
    pub kbps: u32,
    pub millihertz: u32,
    /// >= 1
    pub slices: u8,
    /// Cores that this process may use, >= 1.
    pub cores: usize,
}

impl Value {
    /// The number that this value means for a stream; None: it is a flag or a name.
    pub fn number(self, amounts: &Amounts) -> Option<i64> {
        let millihertz = i64::from(amounts.millihertz.max(1));
        match self {
            Self::Flag(_) | Self::Name(_) => None,
            Self::Number(number) => Some(number),
            Self::Kbps => Some(i64::from(amounts.kbps)),
            Self::Bps => Some(i64::from(amounts.kbps) * 1000),
            Self::Slices => {
                let cores = u8::try_from(amounts.cores).unwrap_or(u8::MAX);
                Some(i64::from(amounts.slices.min(cores).max(1)))
            }
            Self::FrameMs => {
                Some(1_000_000_i64.div_euclid(millihertz) + i64::from(1_000_000 % millihertz != 0))
            }
            Self::FrameKbit => {
                let kbit = i64::from(amounts.kbps) * 1000;
                Some((kbit + millihertz - 1).div_euclid(millihertz).max(1))
            }
        }
    }
}

/// GStreamer's name of a colour description, as the encoder signals it: range, matrix, transfer and
/// primaries of BT.601 (6/6/6) or BT.709 (1/1/1). BT.2020 is for 10 bits; with 8 it is BT.709.
/// Source: Sunshine src/video_colorspace.cpp; the numbers are GStreamer's enums.
pub fn colorimetry(colorspace: Colorspace, full_range: bool) -> &'static str {
    match (colorspace, full_range) {
        (Colorspace::Rec601, false) => "2:4:16:4",
        (Colorspace::Rec601, true) => "1:4:16:4",
        (Colorspace::Rec709 | Colorspace::Rec2020, false) => "2:3:5:1",
        (Colorspace::Rec709 | Colorspace::Rec2020, true) => "1:3:5:1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AMOUNTS: Amounts = Amounts { kbps: 10_000, millihertz: 60_000, slices: 4, cores: 2 };

    #[test]
    fn one_frame_is_rounded_up_and_slices_are_bounded_by_cores() {
        assert_eq!(Value::FrameMs.number(&AMOUNTS), Some(17));
        assert_eq!(Value::FrameMs.number(&Amounts { millihertz: 50_000, ..AMOUNTS }), Some(20));
        assert_eq!(Value::FrameMs.number(&Amounts { millihertz: 59_940, ..AMOUNTS }), Some(17));
        assert_eq!(Value::FrameKbit.number(&AMOUNTS), Some(167));
        assert_eq!(Value::Slices.number(&AMOUNTS), Some(2));
        assert_eq!(Value::Slices.number(&Amounts { cores: 64, ..AMOUNTS }), Some(4));
        assert_eq!(Value::Slices.number(&Amounts { slices: 0, ..AMOUNTS }), Some(1));
        assert_eq!(Value::Bps.number(&AMOUNTS), Some(10_000_000));
    }

    #[test]
    fn auto_is_software_only_and_names_keep_their_order() {
        let names = |choice| -> Vec<&str> {
            choose(choice, Codec::H264).iter().map(|row| row.element).collect()
        };
        assert_eq!(names("auto"), ["x264enc", "openh264enc"]);
        assert_eq!(names("vah264enc, x264enc"), ["vah264enc", "x264enc"]);
        assert_eq!(names("nonsense"), [""; 0]);
        assert!(choose("auto", Codec::Av1).is_empty());
    }

    #[test]
    fn a_setting_is_made_once() {
        for row in ROWS {
            let mut names: Vec<&str> =
                row.settings.iter().chain(row.rate).map(|setting| setting.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), row.settings.len() + row.rate.len(), "{}", row.element);
        }
    }
}
