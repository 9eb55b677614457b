//! What any bytes may do to each parser: nothing but give a sound value or be refused.
//!
//! One body per parser. It takes bytes as they could come from a peer, a file or another process of
//! ours, and asserts: no panic, what is written again reads back the same, a repetition or another
//! fragmentation changes nothing, sizes stay within their limits. The fuzzer (`fuzz/`) and an ordinary
//! test (`tests/fuzz_replay.rs`, which also bounds what is allocated) drive the same bodies. Not for
//! use by the host; pure like what it drives.
use crate::proto::reader::Reader;
use crate::proto::secret::SessionKey;

mod control;
mod http;
mod media;
mod own;
mod rtsp;

/// A name, as the fuzzer and the folders of `tests/corpus` spell it, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("audio_receive", media::audio_receive),
    ("audio_send", media::audio_send),
    ("config", own::config),
    ("control_plain", control::plain),
    ("control_replay", control::replay),
    ("control_sealed", control::sealed),
    ("enet", control::enet),
    ("fec", media::fec),
    ("http_head", http::head),
    ("input", control::input),
    ("ipc", own::ipc),
    ("launch", http::launch),
    ("pairing", http::pairing),
    ("ping", media::ping),
    ("query", http::query),
    ("rtsp_plain", rtsp::plain),
    ("rtsp_sealed", rtsp::sealed),
    ("sdp", rtsp::sdp),
    ("serverinfo", http::serverinfo),
    ("video_receive", media::video_receive),
    ("video_send", media::video_send),
    ("x509", http::x509),
];

/// Runs the target called `name`; panics if there is none, or if one of its assertions fails.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, body) = target.unwrap_or_else(|| panic!("no target is called {name}"));
    body(bytes);
}

/// The records of a target that takes several messages: each is a u16be length and as many bytes, the
/// last one may be cut short.
fn records(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut reader = Reader::new(bytes);
    std::iter::from_fn(move || {
        let length = usize::from(reader.u16be().ok()?);
        reader.take(length.min(reader.remaining())).ok()
    })
}

/// The key of the recorded control messages, so that these open.
const CONTROL_KEY: SessionKey = SessionKey([
    0x52, 0xbc, 0xec, 0x4e, 0x99, 0x38, 0xc3, 0x57, 0x1b, 0x81, 0x7b, 0x9b, 0xbd, 0xdf, 0x81, 0xcd,
]);
/// The key of the recorded RTSP messages.
const RTSP_KEY: SessionKey = SessionKey([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
