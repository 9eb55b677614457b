//! Opus multistream layouts: what the host encodes, how it is advertised, what a client makes of it.
//!
//! Channel order is FL FR FC LFE BL BR (SL SR) throughout. On the wire a layout is digits without
//! separators: channels, streams, coupled streams, one mapping digit per channel. For the first line of
//! a channel count ("normal quality") a client assumes LFE last and moves it to position 3; the second
//! ("high quality") it takes as it is. Sampling is 48 kHz, constant bitrate.
//!
//! Source: moonlight-common-c src/RtspConnection.c (`parseOpusConfigurations`), Sunshine src/audio.cpp.
use serde::Deserialize;
use serde::Serialize;

/// Which of the two layouts of a channel count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quality {
    Normal,
    High,
}

/// An Opus multistream layout. `mapping` has one entry per channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    pub channels: u8,
    pub streams: u8,
    pub coupled: u8,
    pub mapping: Vec<u8>,
}

/// The layouts that DESCRIBE lists, in the order of its lines.
pub const ADVERTISED: [(u8, Quality); 6] = [
    (2, Quality::Normal),
    (2, Quality::High),
    (6, Quality::Normal),
    (6, Quality::High),
    (8, Quality::Normal),
    (8, Quality::High),
];

/// Index of LFE in client order, where a client puts the last value of a normal-quality line.
const LFE: usize = 3;

impl Layout {
    /// The host's own layout: identity mapping. `None` unless `channels` is 2, 6 or 8.
    pub fn of(channels: u8, quality: Quality) -> Option<Self> {
        let (streams, coupled) = match (channels, quality) {
            (2, _) => (1, 1),
            (6, Quality::Normal) => (4, 2),
            (8, Quality::Normal) => (5, 3),
            (6 | 8, Quality::High) => (channels, 0),
            _ => return None,
        };
        Some(Self { channels, streams, coupled, mapping: (0..channels).collect() })
    }

    /// A client's `surroundParams` of `/launch`: 6 or 8 channels, as many mapping digits, streams plus
    /// coupled streams equal to the channels, and each decoded channel used once (Opus can encode no
    /// other mapping). `None` for anything else; the parameter is then as if absent.
    pub fn parse_custom(text: &str) -> Option<Self> {
        let layout = Self::parse(text)?;
        let n = layout.channels;
        let permutation = (0..n).all(|channel| layout.mapping.contains(&channel));
        let fits = (n == 6 || n == 8) && layout.streams + layout.coupled == n;
        (fits && layout.coupled <= layout.streams && permutation).then_some(layout)
    }

    /// Reads the digits of one line without judging them beyond their count.
    fn parse(text: &str) -> Option<Self> {
        let digit = |byte: &u8| byte.is_ascii_digit().then(|| byte - b'0');
        let digits: Vec<u8> =
            text.as_bytes().get(..11.min(text.len()))?.iter().map(digit).collect::<Option<_>>()?;
        let [channels, streams, coupled, mapping @ ..] = digits.as_slice() else { return None };
        let whole = mapping.len() == usize::from(*channels) && text.len() == digits.len();
        whole.then(|| Self {
            channels: *channels,
            streams: *streams,
            coupled: *coupled,
            mapping: mapping.to_vec(),
        })
    }

    /// The digits exactly as this layout says, in its own order.
    pub fn digits(&self) -> String {
        let numbers = [self.channels, self.streams, self.coupled];
        numbers.iter().chain(&self.mapping).map(|number| char::from(b'0' + number)).collect()
    }

    /// The digits to send so that a client ends up with this layout's mapping.
    pub fn advertised(&self, quality: Quality) -> String {
        let mut sent = self.clone();
        if quality == Quality::Normal && self.channels > 2 {
            let lfe = sent.mapping.remove(LFE);
            sent.mapping.push(lfe);
        }
        sent.digits()
    }

    /// What a client makes of a line it was sent.
    pub fn as_client_reads(&self, quality: Quality) -> Self {
        let mut read = self.clone();
        if quality == Quality::Normal && self.channels > 2 {
            let last = read.mapping.pop().expect("a layout has one mapping entry per channel");
            read.mapping.insert(LFE, last);
        }
        read
    }

    /// The layout of a client's `surround-params=` line: the digits before anything that is none.
    pub fn parse_line(line: &str) -> Option<Self> {
        let end = line.find(|c: char| !c.is_ascii_digit()).unwrap_or(line.len());
        let layout = Self::parse(&line[..end])?;
        (layout.channels == 2 || layout.mapping.len() > LFE).then_some(layout)
    }
}

/// Bits per second of a layout (Sunshine's values), lowered where a packet of `packet_ms` would not fit
/// a client's 1400-byte buffer with RTP header and cipher padding.
pub fn bitrate(channels: u8, quality: Quality, packet_ms: u8) -> u32 {
    let usual = match (channels, quality) {
        (0..=2, Quality::Normal) => 96_000,
        (0..=2, Quality::High) => 512_000,
        (3..=6, Quality::Normal) => 256_000,
        (3..=6, Quality::High) => 1_536_000,
        (_, Quality::Normal) => 450_000,
        (_, Quality::High) => 2_048_000,
    };
    usual.min(OPUS_BYTES_MAX * 8 * 1000 / u32::from(packet_ms.max(1)))
}

/// 1400 bytes less 12 of RTP, down to whole cipher blocks, less one block of padding.
const OPUS_BYTES_MAX: u32 = 1360;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::vectors;
    use proptest::prelude::*;
    use serde_json::Value;

    fn mapping(value: &Value) -> Vec<u8> {
        value
            .as_array()
            .unwrap()
            .iter()
            .map(|n| u8::try_from(n.as_u64().unwrap()).unwrap())
            .collect()
    }

    #[test]
    fn golden_lines() {
        let golden = vectors::load("opus-surround-params");
        let entries = golden["entries"].as_array().unwrap();
        assert_eq!(entries.len(), 5);
        for entry in entries {
            let quality = match entry["name"].as_str().unwrap() {
                name if name.ends_with("high") => Quality::High,
                _ => Quality::Normal,
            };
            let digits = entry["surround_params"].as_str().unwrap();
            let channels = u8::try_from(entry["channels"].as_u64().unwrap()).unwrap();
            let ours = Layout::of(channels, quality).unwrap();
            assert_eq!(ours.advertised(quality), digits, "{entry}");
            let read = Layout::parse_line(digits).unwrap().as_client_reads(quality);
            assert_eq!(read, ours);
            assert_eq!(u64::from(read.streams), entry["streams"].as_u64().unwrap());
            assert_eq!(u64::from(read.coupled), entry["coupled_streams"].as_u64().unwrap());
            assert_eq!(read.mapping, mapping(&entry["client_mapping"]));
            for end in 0..digits.len() {
                assert_eq!(Layout::parse_line(&digits[..end]), None, "prefix of {end} digits");
            }
        }
        let bad = &golden["known_bad"];
        let read = Layout::parse_line(bad["surround_params"].as_str().unwrap()).unwrap();
        let read = read.as_client_reads(Quality::Normal);
        assert_eq!(read.mapping, mapping(&bad["client"]["client_mapping"]));
    }

    #[test]
    fn custom_layouts_are_judged() {
        let layout = Layout::parse_custom("642012453").unwrap();
        assert_eq!(layout.digits(), "642012453");
        assert!(Layout::parse_custom("85301245673").is_some());
        for bad in [
            "",
            "6",
            "21101",
            "64201245",
            "6420124530",
            "642012456",
            "642012455",
            "652012345",
            "624012345",
            "64201245x",
            "-42012453",
            "853012456731",
            "9540123456789",
            "6\u{e9}2012453",
        ] {
            assert_eq!(Layout::parse_custom(bad), None, "{bad}");
        }
    }

    #[test]
    fn bitrates_fit_a_datagram() {
        assert_eq!(bitrate(2, Quality::High, 5), 512_000);
        assert_eq!(bitrate(8, Quality::High, 5), 2_048_000);
        assert_eq!(bitrate(6, Quality::High, 10), 1_088_000);
        for (channels, quality) in ADVERTISED {
            for ms in [5, 10] {
                let opus = bitrate(channels, quality, ms) * u32::from(ms) / 8000;
                assert!(12 + (opus / 16 + 1) * 16 <= 1400);
            }
        }
    }

    proptest! {
        #[test]
        fn any_text(text in "\\PC*") {
            let _ = Layout::parse_line(&text);
            if let Some(layout) = Layout::parse_custom(&text) {
                prop_assert_eq!(layout.digits(), text);
            }
        }

        #[test]
        fn any_digits(text in "[0-9]{0,13}") {
            let _ = Layout::parse_line(&text);
            let _ = Layout::parse_custom(&text);
        }
    }
}
