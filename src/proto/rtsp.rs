//! RTSP as Moonlight clients speak it: one request and one response per TCP connection, plain or sealed.
//!
//! It frames, parses and writes; it knows no session. Bodies are the business of `sdp`. The client's side
//! is in `client`, for test clients.
//!
//! A sealed message (`rtspenc://`):
//!
//! | Offset | Size | Field |
//! |---|---|---|
//! | 0 | 4 | u32 big-endian: 0x80000000 or plaintext length |
//! | 4 | 4 | u32 big-endian sequence number |
//! | 8 | 16 | GCM tag |
//! | 24 | n | ciphertext of one complete message |
//!
//! AES-128-GCM without additional data; the 12-byte IV is the sequence little-endian, six zeros, `CR`
//! from the client or `HR` from the host.
//!
//! Source: moonlight-common-c src/RtspConnection.c, src/RtspParser.c.
use thiserror::Error;

use crate::limits;
use crate::proto::crypto::GcmKey;
use crate::proto::crypto::TAG_BYTES;
use crate::proto::crypto::message_iv;
use crate::proto::secret::SessionKey;
use crate::proto::stream::Flow;

pub mod client;
mod frame;
mod response;
#[cfg(test)]
mod tests;

pub use crate::proto::crypto::Direction;
pub use frame::Frame;
pub use frame::FrameError;
pub use frame::Framer;
pub use response::Response;
pub use response::Status;

/// Bytes before the ciphertext of a sealed message.
pub const HEADER_BYTES: usize = 24;
const SEALED: u32 = 0x8000_0000;
/// In the IV.
const PLANE: u8 = b'R';

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Announce,
    Describe,
    Options,
    /// To be answered with 404.
    Other,
    Play,
    Setup,
}

/// A request, complete and well-formed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: Method,
    /// Not a URI for SETUP and ANNOUNCE; `rtsp://:48010` was seen for the others.
    pub target: String,
    /// 0 if there was none.
    pub cseq: u32,
    /// Names in lower case, values trimmed.
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// Why bytes are no request: answer 400 with `cseq` (0 if even that could not be read).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("malformed RTSP request")]
pub struct Malformed {
    pub cseq: u32,
}

impl Malformed {
    pub fn status(&self) -> Status {
        Status::BadRequest
    }
}

impl Request {
    /// Parses one complete message, as [`Framer`] or [`open`] gives it.
    pub fn parse(message: &[u8]) -> Result<Self, Malformed> {
        let malformed = Malformed { cseq: cseq_of(message) };
        Self::parse_whole(message).ok_or(malformed)
    }

    fn parse_whole(message: &[u8]) -> Option<Self> {
        let (head, body) = split_head(message)?;
        let mut lines = head.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target, protocol) = (words.next()?, words.next()?, words.next()?);
        if protocol != "RTSP/1.0"
            || words.next().is_some()
            || method.is_empty()
            || target.is_empty()
        {
            return None;
        }
        let headers = parse_headers(lines)?;
        let value = |name| headers.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let length = content_length(value("content-length"))?;
        let cseq = value("cseq").map_or(Some(0), |digits| digits.parse().ok())?;
        let method = match method {
            "ANNOUNCE" => Method::Announce,
            "DESCRIBE" => Method::Describe,
            "OPTIONS" => Method::Options,
            "PLAY" => Method::Play,
            "SETUP" => Method::Setup,
            _ => Method::Other,
        };
        let target = target.to_owned();
        (length == body.len()).then(|| Self { method, target, cseq, headers, body: body.to_vec() })
    }

    /// The last value of a header, trimmed; the name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let named = self.headers.iter().rev().find(|(n, _)| n.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str())
    }

    /// `Host`, or empty: `0.0.0.0` asks for normal audio quality.
    pub fn host(&self) -> &str {
        self.header("host").unwrap_or_default()
    }

    /// The `Session` token up to the first `;`, as far as there is one.
    pub fn session(&self) -> Option<&str> {
        let value = self.header("session")?;
        value.split(';').next().map(str::trim).filter(|token| !token.is_empty())
    }

    /// The stream that SETUP or ANNOUNCE names; `None` is answered with 404.
    pub fn stream(&self) -> Option<Flow> {
        stream_of(&self.target)
    }
}

/// The flow behind `streamid=audio/0/0`: the word between `=` and `/`.
pub fn stream_of(target: &str) -> Option<Flow> {
    let (key, rest) = target.split_once('=')?;
    match (key, rest.split('/').next()?) {
        ("streamid", "audio") => Some(Flow::Audio),
        ("streamid", "video") => Some(Flow::Video),
        ("streamid", "control") => Some(Flow::Control),
        _ => None,
    }
}

/// The target by which current clients name a flow.
pub fn target_of(flow: Flow) -> &'static str {
    match flow {
        Flow::Audio => "streamid=audio/0/0",
        Flow::Video => "streamid=video/0/0",
        Flow::Control => "streamid=control/13/0",
    }
}

/// The `CSeq` of a message that may be malformed otherwise; 0 if there is none to be read.
pub fn cseq_of(message: &[u8]) -> u32 {
    let lines = message.split(|byte| *byte == b'\n').take(limits::HTTP_HEADERS_MAX);
    let value = |line: &[u8]| {
        let (name, value) = std::str::from_utf8(line).ok()?.split_once(':')?;
        name.eq_ignore_ascii_case("cseq").then(|| value.trim().parse().ok())?
    };
    lines.skip(1).find_map(value).unwrap_or(0)
}

/// Head without its empty line, and body. `None`: no end of the head, or no text.
fn split_head(message: &[u8]) -> Option<(&str, &[u8])> {
    let end = message.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(message.get(..end)?).ok()?;
    let body = message.get(end + 4..)?;
    (!head.bytes().any(|byte| byte == 0)).then_some((head, body))
}

fn parse_headers<'a>(lines: impl Iterator<Item = &'a str>) -> Option<Vec<(String, String)>> {
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':')?;
        if name.is_empty()
            || name.contains([' ', '\t'])
            || headers.len() == limits::HTTP_HEADERS_MAX
        {
            return None;
        }
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Some(headers)
}

/// Absent is 0; `None` if it is no plain decimal number.
fn content_length(value: Option<&str>) -> Option<usize> {
    let Some(digits) = value else { return Some(0) };
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // Lengths beyond usize are still lengths; they are too long for any limit.
    plain.then(|| digits.parse().unwrap_or(usize::MAX))
}

/// Why a sealed message is refused. There is no answer in plaintext to any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// Another key, another direction, or altered bytes.
    #[error("RTSP message does not authenticate")]
    Forged,
    /// The first bit is clear: plaintext.
    #[error("RTSP message not encrypted")]
    Plaintext,
    /// Not exactly as long as the header says, or beyond the limit.
    #[error("RTSP message has a wrong size")]
    Size,
}

/// Wraps a message. Each side counts from 1 (clients do not restart it), one up per message; the caller
/// never uses a number twice under one key.
pub fn seal(key: &SessionKey, sequence: u32, direction: Direction, plaintext: &[u8]) -> Vec<u8> {
    assert!(plaintext.len() <= limits::RTSP_MESSAGE_BYTES_MAX);
    let length = u32::try_from(plaintext.len()).expect("bounded by the line above");
    let mut wire = Vec::with_capacity(HEADER_BYTES + plaintext.len());
    wire.extend_from_slice(&(SEALED | length).to_be_bytes());
    wire.extend_from_slice(&sequence.to_be_bytes());
    wire.extend_from_slice(&[0; TAG_BYTES]);
    wire.extend_from_slice(plaintext);
    let (header, body) = wire.split_at_mut(HEADER_BYTES);
    let tag = GcmKey::new(key).seal_in_place(message_iv(sequence, direction, PLANE), body);
    header[HEADER_BYTES - TAG_BYTES..].copy_from_slice(&tag);
    wire
}

/// Opens one sealed message: its sequence number and plaintext.
pub fn open(
    key: &SessionKey,
    wire: &[u8],
    direction: Direction,
) -> Result<(u32, Vec<u8>), OpenError> {
    let (word, rest) = wire.split_first_chunk().ok_or(OpenError::Size)?;
    let word = u32::from_be_bytes(*word);
    if word & SEALED == 0 {
        return Err(OpenError::Plaintext);
    }
    let length = usize::try_from(word & !SEALED).map_err(|_| OpenError::Size)?;
    let (sequence, rest) = rest.split_first_chunk().ok_or(OpenError::Size)?;
    let (tag, ciphertext) = rest.split_first_chunk().ok_or(OpenError::Size)?;
    if length != ciphertext.len() || length > limits::RTSP_MESSAGE_BYTES_MAX {
        return Err(OpenError::Size);
    }
    let sequence = u32::from_be_bytes(*sequence);
    let mut plaintext = ciphertext.to_vec();
    let opened =
        GcmKey::new(key).open_in_place(message_iv(sequence, direction, PLANE), tag, &mut plaintext);
    opened.map(|()| (sequence, plaintext)).map_err(|_| OpenError::Forged)
}
