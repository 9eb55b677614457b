//! The encoders this host knows, as data: one row per GStreamer element, in order of preference.
//!
//! A row says how frames reach the encoder and how it is set for one access unit per frame at the
//! lowest latency: no B-frames, no look-ahead, key frames only on demand, a buffer of one frame.
//! Rows of hardware have never run on any: only the probe can say that they work. After a loss all
//! of them can do one thing only, a key frame: no element of GStreamer invalidates references.
//! Nothing here calls GStreamer.
use crate::proto::stream::{Codec, Colorspace, VideoSpec};

mod rows;

pub use rows::{AV1, OPENH264, ROWS, X264, X265};

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
    /// Named options in one string: `name=value:name=value`.
    Options(&'static [Setting]),
}

/// An element of the chain and its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    pub element: &'static str,
    pub settings: &'static [Setting],
}

/// Memory other than the system's that an element takes as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    Cuda,
    Gl,
    Va,
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
    /// Raw format at the encoder's input; it says depth and chroma, too.
    pub format: &'static str,
    /// Profile in the caps behind the encoder; empty: none is asked for.
    pub profile: &'static str,
    /// Memory of frames that the element itself takes, besides what the chain feeds it.
    pub imports: &'static [Memory],
    /// The element writes the colour description into the parameter sets. One that does not can only
    /// serve what decoders assume without: limited range.
    pub describes_colour: bool,
    pub settings: &'static [Setting],
    /// What follows the bitrate.
    pub rate: &'static [Setting],
    /// `rate` may be set while the encoder runs, and no key frame comes of it.
    pub live_rate: bool,
    /// Debian packages that bring it.
    pub packages: &'static str,
}

/// The row of an element.
pub fn row(element: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.element == element)
}

/// The rows that a configured choice means, in the order in which they are to be tried: "auto" is
/// every software encoder of the codec; otherwise element names, separated by commas (what the probe
/// found to work, in its order). Names that nobody knows are left out.
pub fn choose(choice: &str, codec: Codec) -> Vec<&'static Row> {
    choose_from(ROWS, choice, codec)
}

/// [`choose`] among other rows.
pub fn choose_from(rows: &'static [Row], choice: &str, codec: Codec) -> Vec<&'static Row> {
    let of_codec = rows.iter().filter(move |row| row.codec == codec);
    if choice == "auto" {
        return of_codec.filter(|row| row.device.is_none()).collect();
    }
    let row = |name: &str| of_codec.clone().find(|row| row.element == name.trim());
    choice.split(',').filter_map(row).collect()
}

impl Row {
    /// The caps behind the encoder. Encoders give length-prefixed units unless asked for others.
    pub fn encoded(&self) -> String {
        let mut caps = match self.codec {
            Codec::H264 => "video/x-h264,stream-format=byte-stream,alignment=au".to_owned(),
            Codec::Hevc => "video/x-h265,stream-format=byte-stream,alignment=au".to_owned(),
            Codec::Av1 => "video/x-av1,stream-format=obu-stream,alignment=tu".to_owned(),
        };
        if !self.profile.is_empty() {
            caps += &format!(",profile={}", self.profile);
        }
        caps
    }

    /// Without a GPU, encoding this codec takes so much that it must be tried before it is offered:
    /// H.264 every client needs, so it is offered whatever it takes.
    pub fn is_costly(&self) -> bool {
        self.device.is_none() && self.codec != Codec::H264
    }

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
    /// The number that this value means for a stream; None: it is something else.
    pub fn number(self, amounts: &Amounts) -> Option<i64> {
        let millihertz = i64::from(amounts.millihertz.max(1));
        match self {
            Self::Flag(_) | Self::Name(_) | Self::Options(_) => None,
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

    /// The string of named options; None: it is something else.
    pub fn options(self, amounts: &Amounts) -> Option<String> {
        let Self::Options(options) = self else { return None };
        let option = |setting: &Setting| match setting.value {
            Self::Name(name) => Some(format!("{}={name}", setting.name)),
            value => Some(format!("{}={}", setting.name, value.number(amounts)?)),
        };
        Some(options.iter().filter_map(option).collect::<Vec<_>>().join(":"))
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
        let (name, rate) = (Value::Name("dia"), Value::FrameKbit);
        let settings = [("me", name), ("vbv-bufsize", rate)];
        let settings = settings.map(|(name, value)| Setting { name, value });
        let options = Value::Options(Vec::leak(settings.into())).options(&AMOUNTS);
        assert_eq!(options.as_deref(), Some("me=dia:vbv-bufsize=167"));
    }

    #[test]
    fn auto_is_software_only_and_names_keep_their_order() {
        let names = |choice| -> Vec<&str> {
            choose(choice, Codec::H264).iter().map(|row| row.element).collect()
        };
        assert_eq!(names("auto"), ["x264enc", "openh264enc"]);
        assert_eq!(names("vah264enc, x264enc"), ["vah264enc", "x264enc"]);
        assert_eq!(names("nonsense"), [""; 0]);
        let of = |codec| choose("auto", codec).iter().map(|row| row.element).collect::<Vec<_>>();
        assert_eq!((of(Codec::Hevc), of(Codec::Av1)), (vec!["x265enc"], vec!["av1enc"]));
        assert_eq!(choose("x264enc,x265enc", Codec::Hevc), [&X265]);
    }

    #[test]
    fn elements_and_settings_are_there_once_and_hardware_comes_first() {
        for (at, row) in ROWS.iter().enumerate() {
            assert!(ROWS[..at].iter().all(|before| before.element != row.element));
            assert!(
                row.device.is_none()
                    || ROWS[..at]
                        .iter()
                        .all(|before| { before.codec != row.codec || before.device.is_some() })
            );
            let mut names: Vec<&str> =
                row.settings.iter().chain(row.rate).map(|setting| setting.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), row.settings.len() + row.rate.len(), "{}", row.element);
        }
    }
}
