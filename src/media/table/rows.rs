//! The rows themselves. Data only. Source of the hardware's properties: GStreamer 1.22 to 1.28,
//! gst-plugins-bad sys/nvcodec, sys/va, sys/qsv; none of those rows was ever verified on hardware.
use super::{Memory, Row, Setting, Stage, Value};
use crate::proto::stream::Codec;

const fn set(name: &'static str, value: Value) -> Setting {
    Setting { name, value }
}

/// In system memory, on one thread: the encoder's threads are enough for one stream.
const CONVERT: &[Stage] =
    &[Stage { element: "videoconvert", settings: &[set("n-threads", Value::Number(1))] }];

/// More frames between key frames than a stream ever has.
const NEVER: Value = Value::Number(i32::MAX as i64);

/// All rows, for each codec the best first.
pub const ROWS: &[Row] = &[
    // GStreamer >= 1.26; from 1.22 to 1.24 the same encoders have the names after them.
    Row { element: "nvh264enc", settings: NVENC, ..NVIDIA },
    NVIDIA,
    Row { element: "vah264enc", ..VA },
    // The low-power encoder of Intel's later GPUs, where the other one is missing.
    Row { element: "vah264lpenc", ..VA },
    QSV,
    X264,
    OPENH264,
    Row { element: "nvh265enc", settings: NVENC, ..NVIDIA_HEVC },
    NVIDIA_HEVC,
    Row { element: "vah265enc", ..VA_HEVC },
    Row { element: "vah265lpenc", ..VA_HEVC },
    Row { element: "qsvh265enc", codec: Codec::Hevc, profile: "main", ..QSV },
    X265,
    NVIDIA_AV1,
    VA_AV1,
    QSV_AV1,
    AV1,
];

/// x264: the best of the software encoders at equal cost. GPL.
pub const X264: Row = Row {
    element: "x264enc",
    codec: Codec::H264,
    device: None,
    convert: CONVERT,
    format: "I420",
    profile: "constrained-baseline",
    imports: &[],
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
    live_rate: true,
    packages: "gstreamer1.0-plugins-ugly",
};

/// OpenH264: BSD, slower than x264 on hard pictures.
pub const OPENH264: Row = Row {
    element: "openh264enc",
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
    ..X264
};

/// x265. GPL. A new bitrate makes the element start its encoder anew, with a key frame.
/// Source: gst-plugins-bad ext/x265/gstx265enc.c, gst_x265_enc_encode_frame.
pub const X265: Row = Row {
    element: "x265enc",
    codec: Codec::Hevc,
    profile: "main",
    settings: &[
        set("tune", Value::Name("zerolatency")),
        set("speed-preset", Value::Name("ultrafast")),
        set("key-int-max", NEVER),
        set("log-level", Value::Name("error")),
    ],
    rate: &[
        set("bitrate", Value::Kbps),
        set(
            "option-string",
            Value::Options(&[
                set("bframes", Value::Number(0)),
                set("rc-lookahead", Value::Number(0)),
                set("ref", Value::Number(1)),
                set("scenecut", Value::Number(0)),
                set("open-gop", Value::Number(0)),
                set("repeat-headers", Value::Number(1)),
                set("aud", Value::Number(0)),
                set("info", Value::Number(0)),
                // More slices, or frames at once, and each frame comes out with the next one only.
                set("slices", Value::Number(1)),
                set("frame-threads", Value::Number(1)),
                set("vbv-maxrate", Value::Kbps),
                set("vbv-bufsize", Value::FrameKbit),
            ]),
        ),
    ],
    live_rate: false,
    packages: "gstreamer1.0-plugins-bad",
    ..X264
};

/// libaom at its fastest. With the element's own `max-quantizer` (0) it aborts on constant bitrates.
/// The colour description stays empty. SVT-AV1 has no row: at a constant bitrate its element makes
/// no key frame on demand (gst-plugins-bad ext/svtav1/gstsvtav1enc.c, `force_key_frames`).
pub const AV1: Row = Row {
    element: "av1enc",
    codec: Codec::Av1,
    profile: "",
    describes_colour: false,
    settings: &[
        set("usage-profile", Value::Name("realtime")),
        set("cpu-used", Value::Number(10)),
        set("end-usage", Value::Name("cbr")),
        set("lag-in-frames", Value::Number(0)),
        set("keyframe-mode", Value::Name("disabled")),
        set("keyframe-max-dist", NEVER),
        set("min-quantizer", Value::Number(2)),
        set("max-quantizer", Value::Number(63)),
        set("row-mt", Value::Flag(true)),
        set("threads", Value::Slices),
        // A buffer of one frame makes its control swing; these are the shortest that do not.
        set("buf-sz", Value::Number(200)),
        set("buf-initial-sz", Value::Number(100)),
        set("buf-optimal-sz", Value::Number(120)),
    ],
    rate: &[set("target-bitrate", Value::Kbps)],
    live_rate: true,
    packages: "gstreamer1.0-plugins-bad",
    ..X264
};

const NVIDIA: Row = Row {
    element: "nvcudah264enc",
    codec: Codec::H264,
    device: Some("/dev/nvidiactl"),
    convert: CONVERT,
    format: "NV12",
    profile: "high",
    imports: &[Memory::Cuda, Memory::Gl],
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
    live_rate: true,
    packages: "gstreamer1.0-plugins-bad, and NVIDIA's driver with libnvidia-encode",
};

const NVIDIA_HEVC: Row =
    Row { element: "nvcudah265enc", codec: Codec::Hevc, profile: "main", ..NVIDIA };

/// GStreamer >= 1.26, NVIDIA Ada and later.
const NVIDIA_AV1: Row = Row {
    element: "nvav1enc",
    codec: Codec::Av1,
    profile: "main",
    // It repeats the sequence header with each key frame by itself.
    settings: NVENC_AV1,
    ..NVIDIA
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

const NVENC_AV1: &[Setting] = &[
    set("preset", Value::Name("p1")),
    set("tune", Value::Name("ultra-low-latency")),
    set("rc-mode", Value::Name("cbr")),
    set("gop-size", Value::Number(-1)),
    set("bframes", Value::Number(0)),
    set("rc-lookahead", Value::Number(0)),
    set("zerolatency", Value::Flag(true)),
];

/// AMD and Intel.
const VA: Row = Row {
    element: "vah264enc",
    device: Some("/dev/dri"),
    imports: &[Memory::Va],
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
    ..NVIDIA
};

const VA_HEVC: Row = Row { codec: Codec::Hevc, profile: "main", ..VA };

/// GStreamer >= 1.24.
const VA_AV1: Row = Row {
    element: "vaav1enc",
    codec: Codec::Av1,
    profile: "",
    settings: &[
        set("rate-control", Value::Name("cbr")),
        set("key-int-max", Value::Number(1024)),
        // No golden frame is further away than the next: nothing is reordered.
        set("gf-group-size", Value::Number(1)),
        set("ref-frames", Value::Number(1)),
        set("hierarchical-level", Value::Number(1)),
        set("target-usage", Value::Number(7)),
    ],
    ..VA
};

/// Intel, by Quick Sync.
const QSV: Row = Row {
    element: "qsvh264enc",
    settings: &[
        set("low-latency", Value::Flag(true)),
        set("target-usage", Value::Number(7)),
        set("rate-control", Value::Name("cbr")),
        set("gop-size", Value::Number(u16::MAX as i64)),
        set("idr-interval", Value::Number(0)),
        set("b-frames", Value::Number(0)),
        set("ref-frames", Value::Number(1)),
    ],
    rate: &[set("bitrate", Value::Kbps)],
    packages: "gstreamer1.0-plugins-bad and Intel's VPL or Media SDK runtime",
    ..VA
};

const QSV_AV1: Row = Row {
    element: "qsvav1enc",
    codec: Codec::Av1,
    profile: "main",
    settings: &[
        set("low-latency", Value::Flag(true)),
        set("target-usage", Value::Number(7)),
        set("rate-control", Value::Name("cbr")),
        set("gop-size", Value::Number(u16::MAX as i64)),
        set("ref-frames", Value::Number(1)),
    ],
    ..QSV
};
