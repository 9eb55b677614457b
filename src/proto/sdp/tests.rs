//! Golden DESCRIBE and ANNOUNCE bodies, defaults, policy, hostile values.
use proptest::prelude::*;
use serde_json::Value;

use super::client::ClientAnnounce;
use super::client::Describe;
use super::*;
use crate::limits;
use crate::proto::rtsp::Request;
use crate::proto::rtsp::client::ClientResponse;
use crate::proto::stream::Colorspace;
use crate::proto::stream::StreamSpec;
use crate::proto::surround::Quality;
use crate::proto::vectors;

fn codecs() -> CodecSupport {
    CodecSupport { h264: true, hevc: true, av1: true, extra_bits: 0 }
}

fn context(codecs: &CodecSupport) -> AnnounceContext<'_> {
    AnnounceContext {
        codecs,
        encryption_supported: encryption::ALL,
        encryption_required: 0,
        fec_percent: 20,
        surround: None,
    }
}

/// DESCRIBE response, ANNOUNCE request and `expected_parse` of both golden handshakes.
fn golden() -> [(String, Request, Value); 2] {
    let plain = vectors::load("rtsp-plain-remote-51-av1");
    let sealed = vectors::load("rtsp-encrypted-local-stereo-hevc");
    let part = |response: &Value, request: &Value, expected: &Value| {
        let response = ClientResponse::parse(response.as_str().unwrap().as_bytes()).unwrap();
        let request = Request::parse(request.as_str().unwrap().as_bytes()).unwrap();
        (response.body.unwrap(), request, expected.clone())
    };
    let (messages, exchanges) = (&plain["messages"], &sealed["exchanges"]);
    [
        part(&messages[1]["response"], &messages[5]["request"], &plain["expected_parse"]),
        part(
            &exchanges[1]["response"]["plaintext"],
            &exchanges[5]["request"]["plaintext"],
            &sealed["expected_parse"],
        ),
    ]
}

/// The ANNOUNCE body of the encrypted golden handshake: 1080p60 HEVC stereo.
fn body() -> String {
    let [_, (_, announce, _)] = golden();
    String::from_utf8(announce.body).unwrap()
}

fn parse(body: &str) -> Result<StreamSpec, SdpError> {
    parse_announce(body.as_bytes(), "192.168.1.10", &context(&codecs()))
}

/// The golden body with another value, or without the attribute.
fn with(name: &str, value: Option<&str>) -> String {
    let old = body();
    let start = old.find(&format!("a={name}:")).unwrap_or_else(|| panic!("{name} is in the body"));
    let end = start + old[start..].find("\r\n").unwrap() + 2;
    let line = value.map(|value| format!("a={name}:{value} \r\n")).unwrap_or_default();
    format!("{}{line}{}", &old[..start], &old[end..])
}

fn parse_with(name: &str, value: &str) -> Result<StreamSpec, SdpError> {
    parse(&with(name, Some(value)))
}

#[test]
fn golden_describes() {
    for (n, (body, _, _)) in golden().into_iter().enumerate() {
        let codecs = codecs();
        let offer = DescribeOffer {
            codecs: &codecs,
            features: host_feature::PEN_TOUCH | host_feature::CONTROLLER_TOUCH,
            encryption_supported: [5, 7][n],
            encryption_requested: encryption::CONTROL_V2,
            reference_invalidation: true,
            surround: None,
        };
        assert_eq!(describe(&offer), body);
        let read = Describe::parse(&body);
        assert_eq!(read.features, 3);
        assert_eq!(read.encryption_supported, offer.encryption_supported);
        assert_eq!(read.encryption_requested, 1);
        assert!(read.reference_invalidation && read.hevc && read.av1);
        for (channels, quality) in surround::ADVERTISED {
            let layout = read.layout(channels, quality).unwrap();
            assert_eq!(layout, Layout::of(channels, quality).unwrap(), "identity at the client");
        }
        assert_eq!(read.encryption_enabled(true, true), offer.encryption_supported);
        assert_eq!(read.encryption_enabled(false, false), 1);
    }
}

#[test]
fn codecs_are_described_if_they_are_there() {
    let none = CodecSupport { h264: true, ..CodecSupport::default() };
    let custom = Layout::parse_custom("85301245673").unwrap();
    let text = describe(&DescribeOffer {
        codecs: &none,
        features: 0,
        encryption_supported: 7,
        encryption_requested: 7,
        reference_invalidation: false,
        surround: Some(&custom),
    });
    let read = Describe::parse(&text);
    assert!(!read.hevc && !read.av1 && !read.reference_invalidation);
    assert_eq!(read.encryption_enabled(false, false), 7);
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("surround")).collect();
    assert_eq!(lines.len(), 8);
    assert_eq!(lines[0], "a=fmtp:97 surround-params=85301245673");
    assert_eq!(lines[0], lines[1]);
    let read_high = read.layout(8, Quality::High).unwrap();
    assert_eq!(read_high, custom, "both qualities are the client's own line");
}

#[test]
fn golden_announces() {
    for (_, request, expected) in golden() {
        let codecs = codecs();
        let spec = parse_announce(&request.body, request.host(), &context(&codecs)).unwrap();
        let number = |name: &str| u32::try_from(expected[name].as_u64().unwrap()).unwrap();
        let encrypted = number("enc");
        let video = &spec.video;
        assert_eq!(u32::from(video.mode.width), number("w"));
        assert_eq!(u32::from(video.mode.height), number("h"));
        assert_eq!(video.mode.millihertz, number("rr") * 10);
        assert!(number("fps") * 1000 - video.mode.millihertz <= number("fps") * 10);
        let reduced = if encrypted & encryption::VIDEO != 0 { 32 } else { 0 };
        assert_eq!(u32::from(video.packet_size), number("pkt") - reduced);
        assert_eq!(video.encrypted, encrypted & encryption::VIDEO != 0);
        assert_eq!(spec.audio.encrypted, encrypted & encryption::AUDIO != 0);
        assert_eq!(spec.control_v2, encrypted & encryption::CONTROL_V2 != 0);
        assert_eq!(video.codec, [Codec::H264, Codec::Hevc, Codec::Av1][number("codec") as usize]);
        assert_eq!(u32::from(spec.audio.channels), number("ch"));
        assert_eq!(u32::from(video.reference_frames_max), number("refs"));
        let remote = expected["remote"].as_bool().unwrap();
        assert_eq!((video.qos, spec.audio.qos), (!remote, !remote));
        // csc 4 is Rec. 2020, streamed with 8 bit as Rec. 709; csc 2 is Rec. 709 itself.
        assert_eq!((video.colorspace, video.full_range), (Colorspace::Rec709, false));
        assert!(number("csc") >= 2);
        let kbps = if remote { 61_964 } else { 14_988 };
        assert_eq!(video.bitrate_kbps, kbps);
        assert_eq!((video.fec_percent, video.fec_packets_min, video.slices), (20, 2, 1));
        assert!(!video.ten_bit && !video.yuv444);
        assert!(spec.sends_fec_status && spec.sends_identity);
        let (streams, coupled, bitrate) = if remote { (6, 0, 1_536_000) } else { (1, 1, 512_000) };
        assert_eq!((spec.audio.streams, spec.audio.coupled), (streams, coupled));
        assert_eq!((spec.audio.bitrate, spec.audio.packet_ms), (bitrate, 5));
        assert_eq!(spec.audio.mapping, (0..spec.audio.channels).collect::<Vec<u8>>());
        assert_eq!(client_of(&expected).write().as_bytes(), request.body);
    }
}

fn client_of(expected: &Value) -> ClientAnnounce {
    let number = |name: &str| u32::try_from(expected[name].as_u64().unwrap_or(0)).unwrap();
    ClientAnnounce {
        host: expected["addr"].as_str().unwrap().parse().unwrap(),
        video_port: u16::try_from(number("vport")).unwrap(),
        encryption: number("enc"),
        wants_audio_encrypted: expected["audio_optin"].as_bool().unwrap_or(true),
        yuv444: false,
        width: number("w"),
        height: number("h"),
        fps: number("fps"),
        packet_size: number("pkt"),
        bitrate_kbps: number("bitrate"),
        remote: expected["remote"].as_bool().unwrap(),
        slices: 1,
        codec: [Codec::H264, Codec::Hevc, Codec::Av1][number("codec") as usize],
        ten_bit: number("hdr") == 1,
        reference_invalidation: number("refs") == 0,
        refresh_x100: number("rr"),
        channels: u8::try_from(number("ch")).unwrap(),
        surround_high: number("hq") == 1,
        audio_packet_ms: 5,
        csc_mode: number("csc"),
    }
}

#[test]
fn every_prefix_of_an_announce_is_refused_or_whole() {
    let body = body();
    let golden = parse(&body).unwrap();
    for end in 0..body.len() {
        // What is missing at the end has defaults; but nothing else than the stream asked for comes out.
        if let Ok(spec) = parse(&body[..end]) {
            assert_eq!(spec.video.mode.width, golden.video.mode.width);
            assert_eq!(spec.video.mode.height, golden.video.mode.height);
            assert_eq!(spec.video.packet_size, golden.video.packet_size);
        }
    }
}

#[test]
fn missing_attributes_have_defaults_or_are_refused() {
    for (name, status) in [
        ("x-nv-video[0].clientViewportWd", 400),
        ("x-nv-video[0].clientViewportHt", 400),
        ("x-nv-video[0].maxFPS", 400),
        ("x-nv-general.useReliableUdp", 403),
    ] {
        let error = parse(&with(name, None)).unwrap_err();
        assert_eq!(error.status().code(), status, "{name}: {error}");
    }
    let kept = [
        "clientViewportWd",
        "clientViewportHt",
        "maxFPS",
        "useReliableUdp",
        "maximumBitrateKbps",
        "bitStreamFormat:0",
    ];
    let bare: String = with("x-nv-vqos[0].bitStreamFormat", Some("0"))
        .lines()
        .filter(|line| kept.iter().any(|name| line.contains(name)))
        .map(|line| format!("{line}\n"))
        .collect();
    let spec = parse_announce(bare.as_bytes(), "0.0.0.0", &context(&codecs())).unwrap();
    assert!(!spec.control_v2 && !spec.sends_identity && !spec.sends_fec_status);
    assert!(!spec.video.encrypted && !spec.audio.encrypted);
    assert!(spec.video.qos && spec.audio.qos);
    assert_eq!(spec.video.bitrate_kbps, 16_000);
    assert_eq!((spec.video.packet_size, spec.video.slices), (1024, 1));
    assert_eq!((spec.video.reference_frames_max, spec.video.fec_packets_min), (1, 0));
    assert_eq!(spec.video.mode.millihertz, 60_000);
    assert_eq!(spec.video.codec, Codec::H264);
    assert_eq!((spec.audio.channels, spec.audio.packet_ms, spec.audio.bitrate), (2, 5, 96_000));
    let no_bitrate = bare.replace("maximumBitrateKbps", "other");
    let missing = SdpError::Missing { name: "x-nv-vqos[0].bw.maximumBitrateKbps" };
    assert_eq!(parse(&no_bitrate), Err(missing));
}

#[test]
fn hostile_numbers_are_refused() {
    let names = [
        "x-ml-general.featureFlags",
        "x-ss-general.encryptionEnabled",
        "x-ss-video[0].chromaSamplingType",
        "x-ml-video.configuredBitrateKbps",
        "x-nv-video[0].clientViewportWd",
        "x-nv-video[0].clientViewportHt",
        "x-nv-video[0].maxFPS",
        "x-nv-video[0].clientRefreshRateX100",
        "x-nv-video[0].packetSize",
        "x-nv-vqos[0].bitStreamFormat",
        "x-nv-video[0].dynamicRangeMode",
        "x-nv-video[0].encoderCscMode",
        "x-nv-video[0].videoEncoderSlicesPerFrame",
        "x-nv-video[0].maxNumReferenceFrames",
        "x-nv-vqos[0].fec.minRequiredFecPackets",
        "x-nv-vqos[0].qosTrafficType",
        "x-nv-general.featureFlags",
        "x-nv-general.useReliableUdp",
        "x-nv-audio.surround.numChannels",
        "x-nv-audio.surround.AudioQuality",
        "x-nv-aqos.packetDuration",
        "x-nv-aqos.qosTrafficType",
    ];
    let values =
        ["-1", "NaN", "", "4294967296", "99999999999999999999", "1e3", "0x10", "+6", "6 6"];
    for name in names {
        for value in values {
            let error = parse_with(name, value).expect_err(name);
            assert_eq!(error, SdpError::Invalid { name }, "{value:?}");
            assert_eq!(error.status().code(), 400);
            assert!(error.to_string().contains(name));
        }
        // Large but a number: refused, or of no consequence. Never a panic.
        let _ = parse_with(name, "2147483648");
        let _ = parse_with(name, "4294967295");
        let _ = parse_with(name, "0");
    }
}

#[test]
fn sizes_and_rates_have_ranges() {
    let mode = |name: &str, value: &str| parse_with(name, value).map(|spec| spec.video.mode);
    let width = "x-nv-video[0].clientViewportWd";
    let height = "x-nv-video[0].clientViewportHt";
    for refused in ["0", "15", "7681", "65536", "2147483648"] {
        assert_eq!(mode(width, refused), Err(SdpError::Invalid { name: width }));
    }
    assert_eq!(mode(height, "4321"), Err(SdpError::Invalid { name: height }));
    assert_eq!(mode(width, "1365").unwrap().width, 1366);
    assert_eq!(mode(height, "767").unwrap().height, 768);
    assert_eq!(mode(width, "7679").unwrap().width, 7680);
    let fps = "x-nv-video[0].maxFPS";
    for refused in ["0", "9", "241", "100000"] {
        assert_eq!(mode(fps, refused), Err(SdpError::Invalid { name: fps }));
    }
    assert_eq!(mode(fps, "10").unwrap().millihertz, 10_000);
    assert_eq!(mode(fps, "240").unwrap().millihertz, 240_000);
    let refresh = "x-nv-video[0].clientRefreshRateX100";
    for (rate, millihertz) in [
        ("5994", 59_940),
        ("9000", 60_000),
        ("0", 60_000),
        ("5940", 59_400),
        ("5939", 60_000),
        ("6060", 60_600),
        ("4294967295", 60_000),
    ] {
        assert_eq!(mode(refresh, rate).unwrap().millihertz, millihertz, "{rate}");
    }
    let packet = "x-nv-video[0].packetSize";
    for refused in ["0", "192", "207", "209", "1400", "8208", "65535"] {
        let invalid = SdpError::Invalid { name: packet };
        assert_eq!(parse_with(packet, refused), Err(invalid), "{refused}");
    }
    for taken in [208, 1024, 1184, 1392, 8192] {
        let spec = parse_with(packet, &taken.to_string()).unwrap();
        assert_eq!(spec.video.packet_size, taken);
    }
    assert_eq!(
        parse_with("x-nv-video[0].videoEncoderSlicesPerFrame", "0").unwrap().video.slices,
        1
    );
    let many = parse_with("x-nv-video[0].videoEncoderSlicesPerFrame", "4294967295").unwrap();
    assert_eq!(many.video.slices, 32);
}

#[test]
fn codecs_must_be_there() {
    let format = "x-nv-vqos[0].bitStreamFormat";
    let only_h264 = CodecSupport { h264: true, ..CodecSupport::default() };
    let parse = |value: &str| {
        parse_announce(with(format, Some(value)).as_bytes(), "h", &context(&only_h264))
    };
    assert_eq!(parse("0").unwrap().video.codec, Codec::H264);
    for refused in ["1", "2", "3"] {
        assert_eq!(parse(refused), Err(SdpError::Codec));
    }
    assert_eq!(SdpError::Codec.status().code(), 400);
    let chroma = with("x-ss-video[0].chromaSamplingType", Some("1"));
    assert_eq!(
        super::parse_announce(chroma.as_bytes(), "h", &context(&codecs())),
        Err(SdpError::Yuv444)
    );
    let rext = CodecSupport { extra_bits: 0x0008_0000, ..codecs() };
    assert!(parse_announce(chroma.as_bytes(), "h", &context(&rext)).unwrap().video.yuv444);
    let av1_high = CodecSupport { extra_bits: 0x0020_0000, ..codecs() };
    let refused = parse_announce(chroma.as_bytes(), "h", &context(&av1_high));
    assert_eq!(refused, Err(SdpError::Yuv444), "the bit of another codec does not help");
}

#[test]
fn encryption_follows_offer_and_policy() {
    let enabled = "x-ss-general.encryptionEnabled";
    let flags = "x-nv-general.featureFlags";
    let codecs = codecs();
    let mut context = context(&codecs);
    let parse =
        |body: &str, context: &AnnounceContext<'_>| parse_announce(body.as_bytes(), "h", context);
    let body = with(enabled, Some("1"));
    assert!(parse(&body, &context).unwrap().audio.encrypted, "flags 167 with 1: audio encrypted");
    let without = body.replace("featureFlags:167", "featureFlags:135");
    let spec = parse(&without, &context).unwrap();
    assert!(!spec.audio.encrypted && spec.control_v2, "flags 135 with 1: not encrypted");
    assert!(with(flags, Some("135")).contains("featureFlags:135"));
    context.encryption_required = encryption::ALL;
    assert_eq!(parse(&without, &context), Err(SdpError::EncryptionRequired));
    assert_eq!(SdpError::EncryptionRequired.status().code(), 403);
    assert!(parse(&super::tests::body(), &context).is_ok());
    context.encryption_required = 0;
    context.encryption_supported = encryption::CONTROL_V2;
    let refused = parse(&super::tests::body(), &context);
    assert_eq!(refused, Err(SdpError::EncryptionUnsupported));
    let unknown_bit = parse_with(enabled, "8");
    assert_eq!(unknown_bit, Err(SdpError::EncryptionUnsupported));
    let old = parse_with("x-nv-general.useReliableUdp", "1");
    assert_eq!(old.unwrap_err().status().code(), 403);
}

#[test]
fn stereo_quality_is_the_whole_host_header() {
    let codecs = codecs();
    for (host, bitrate) in [
        ("0.0.0.0", 96_000),
        (" 0.0.0.0 ", 96_000),
        ("10.0.0.0", 512_000),
        ("192.168.1.10", 512_000),
        ("", 512_000),
    ] {
        let spec = parse_announce(body().as_bytes(), host, &context(&codecs)).unwrap();
        assert_eq!(spec.audio.bitrate, bitrate, "{host:?}");
    }
}

#[test]
fn surround_layouts_follow_quality_and_the_clients_own() {
    let channels = "x-nv-audio.surround.numChannels";
    let normal = parse_with(channels, "8").unwrap().audio;
    assert_eq!((normal.streams, normal.coupled, normal.bitrate), (5, 3, 450_000));
    assert_eq!(normal.mapping, [0, 1, 2, 3, 4, 5, 6, 7]);
    for refused in ["0", "1", "3", "7", "9", "255"] {
        assert_eq!(parse_with(channels, refused), Err(SdpError::Invalid { name: channels }));
    }
    let high = with(channels, Some("6")).replace("AudioQuality:0", "AudioQuality:1");
    let ten = high.replace("packetDuration:5", "packetDuration:10");
    let audio = parse(&high).unwrap().audio;
    assert_eq!((audio.streams, audio.coupled, audio.bitrate), (6, 0, 1_536_000));
    assert_eq!(parse(&ten).unwrap().audio.bitrate, 1_088_000, "a packet fits a datagram");
    let codecs = codecs();
    let own = Layout::parse_custom("642041523").unwrap();
    let context = AnnounceContext { surround: Some(&own), ..context(&codecs) };
    let audio = parse_announce(high.as_bytes(), "h", &context).unwrap().audio;
    assert_eq!((audio.streams, audio.coupled), (4, 2));
    assert_eq!(audio.mapping, [0, 4, 1, 5, 2, 3], "high quality: as it is");
    let normal = with(channels, Some("6"));
    let audio = parse_announce(normal.as_bytes(), "h", &context).unwrap().audio;
    assert_eq!(audio.mapping, [0, 4, 1, 3, 5, 2], "normal quality: as the client converts it");
    let stereo = parse_announce(body().as_bytes(), "h", &context).unwrap().audio;
    assert_eq!(stereo.channels, 2, "another channel count: not used");
}

#[test]
fn bitrates_follow_the_formula() {
    assert_eq!(encoder_kbps(20_000, 20, 2, Quality::High), 14_988);
    assert_eq!(encoder_kbps(20_000, 81, 2, Quality::High), 18_988, "more than 80 % is not counted");
    assert_eq!(encoder_kbps(1000, 20, 8, Quality::Normal), 576);
    assert_eq!(encoder_kbps(1, 20, 2, Quality::High), 100, "encoders need something");
    assert_eq!(encoder_kbps(u32::MAX, 0, 2, Quality::High), u32::MAX - 1012);
    let chosen = "x-ml-video.configuredBitrateKbps";
    assert_eq!(parse_with(chosen, "0").unwrap().video.bitrate_kbps, 16_000);
    assert_eq!(parse_with(chosen, "4000001"), Err(SdpError::Invalid { name: chosen }));
}

#[test]
fn attributes_are_counted_and_the_first_counts() {
    let many = |n: usize| {
        let lines: String = (0..n).map(|n| format!("a=x-{n}:1\n")).collect();
        parse(&format!("{}{lines}", body()))
    };
    let own = body().matches("a=").count();
    assert!(many(limits::SDP_ATTRIBUTES_MAX - own).is_ok());
    assert_eq!(many(limits::SDP_ATTRIBUTES_MAX - own + 1), Err(SdpError::TooMany));
    assert_eq!(many(100_000), Err(SdpError::TooMany));
    let twice = format!("{}a=x-nv-video[0].maxFPS:30\n", body());
    assert_eq!(parse(&twice).unwrap().video.mode.millihertz, 60_000);
    let no_text = [body().as_bytes(), &[0xFF]].concat();
    let error = parse_announce(&no_text, "h", &context(&codecs()));
    assert_eq!(error, Err(SdpError::NotText));
}

#[test]
fn a_client_reads_any_describe() {
    let empty = Describe::parse("");
    assert_eq!((empty.features, empty.encryption_supported), (0, 0));
    assert_eq!(empty.layout(6, Quality::Normal), None);
    assert_eq!(empty.layout(2, Quality::Normal), Layout::of(2, Quality::Normal));
    let hex = Describe::parse("a=x-ss-general.featureFlags: 0x3\n");
    assert_eq!(hex.features, 3);
}

proptest! {
    #[test]
    fn any_body(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(parse_announce(&bytes, "h", &context(&codecs())).is_err());
    }

    #[test]
    fn any_value(line in 3_usize..38, value in "\\PC{0,12}|-?[0-9]{1,12}") {
        let body = body();
        let mut lines: Vec<String> = body.lines().map(str::to_owned).collect();
        let name = lines[line].split(':').next().unwrap().to_owned();
        lines[line] = format!("{name}:{value}");
        if let Ok(spec) = parse(&lines.join("\n")) {
            let video = &spec.video;
            prop_assert!(video.mode.width % 2 == 0 && video.mode.width <= limits::WIDTH_MAX);
            prop_assert!(video.mode.height % 2 == 0 && video.mode.height <= limits::HEIGHT_MAX);
            prop_assert!((10_000..=242_400).contains(&video.mode.millihertz));
            prop_assert!(video.packet_size % 16 == 0 && (208..=8192).contains(&video.packet_size));
            prop_assert!(video.bitrate_kbps >= 100 && video.slices >= 1);
            prop_assert_eq!(spec.audio.mapping.len(), usize::from(spec.audio.channels));
        }
    }

    #[test]
    fn any_describe(text in "\\PC*(a=fmtp:97 surround-params=[0-9]{0,12}\n){0,3}\\PC*") {
        let read = Describe::parse(&text);
        for channels in [2, 6, 8] {
            let _ = read.layout(channels, Quality::Normal);
            let _ = read.layout(channels, Quality::High);
        }
    }
}
