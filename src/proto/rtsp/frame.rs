//! From bytes in any fragmentation to one complete message.
//!
//! A client sends one request per connection and does not half-close after it; the first bit tells
//! plain from sealed. What follows a complete message is not looked at.
use thiserror::Error;

use super::HEADER_BYTES;
use super::SEALED;
use super::Status;
use super::content_length;
use super::cseq_of;
use super::parse_headers;
use super::split_head;
use crate::limits;

/// Collects one message. Holds at most the limit plus one header, whatever a peer announces.
#[derive(Debug, Default)]
pub struct Framer {
    buffer: Vec<u8>,
    /// Up to here there is no end of the head.
    searched: usize,
    /// Bytes of the whole message, once its head says so.
    whole: Option<usize>,
}

/// One complete message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// For `Request::parse`.
    Plain(Vec<u8>),
    /// For `open`.
    Sealed(Vec<u8>),
}

/// Why the connection ends; answered (in plaintext only on plain connections) and closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The head is no text with headers, or its `Content-length` no number.
    #[error("malformed RTSP head")]
    Malformed { cseq: u32 },
    /// Head and body together, or the announced length, exceed `RTSP_MESSAGE_BYTES_MAX`.
    #[error("RTSP message too long")]
    TooLong { cseq: u32 },
}

impl FrameError {
    pub fn status(&self) -> Status {
        match self {
            Self::Malformed { .. } => Status::BadRequest,
            Self::TooLong { .. } => Status::TooLong,
        }
    }

    /// For the answer; 0 if it could not be read.
    pub fn cseq(&self) -> u32 {
        match self {
            Self::Malformed { cseq } | Self::TooLong { cseq } => *cseq,
        }
    }
}

impl Framer {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes what was read. `None`: more is needed. After a frame or an error the framer is done with.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
        let room = limits::RTSP_MESSAGE_BYTES_MAX + HEADER_BYTES - self.buffer.len();
        let taken = &bytes[..bytes.len().min(room)];
        self.buffer.extend_from_slice(taken);
        let sealed = self.is_sealed();
        if self.whole.is_none() {
            self.whole = if sealed { self.sealed_length()? } else { self.plain_length()? };
        }
        let limit = limits::RTSP_MESSAGE_BYTES_MAX + if sealed { HEADER_BYTES } else { 0 };
        match self.whole {
            Some(whole) if whole > limit => Err(self.too_long()),
            Some(whole) if whole <= self.buffer.len() => {
                let mut message = std::mem::take(&mut self.buffer);
                message.truncate(whole);
                Ok(Some(if sealed { Frame::Sealed(message) } else { Frame::Plain(message) }))
            }
            None if self.buffer.len() > limit => Err(self.too_long()),
            _ => Ok(None),
        }
    }

    /// Whether the message is sealed: decided by its first bit, false before there is one.
    pub fn is_sealed(&self) -> bool {
        self.buffer.first().is_some_and(|byte| byte & 0x80 != 0)
    }

    /// Whether nothing has come yet: such a connection was a probe.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    fn too_long(&self) -> FrameError {
        FrameError::TooLong { cseq: self.cseq() }
    }

    fn cseq(&self) -> u32 {
        if self.is_sealed() { 0 } else { cseq_of(&self.buffer) }
    }

    fn sealed_length(&self) -> Result<Option<usize>, FrameError> {
        let Some(word) = self.buffer.first_chunk() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*word) & !SEALED).unwrap_or(usize::MAX);
        Ok(Some(length.saturating_add(HEADER_BYTES)))
    }

    fn plain_length(&mut self) -> Result<Option<usize>, FrameError> {
        let start = self.searched;
        let fresh = self.buffer.get(start..).unwrap_or_default();
        let Some(found) = fresh.windows(4).position(|window| window == b"\r\n\r\n") else {
            self.searched = self.buffer.len().saturating_sub(3);
            return Ok(None);
        };
        let head_bytes = start + found + 4;
        let malformed = FrameError::Malformed { cseq: self.cseq() };
        let (head, _) = split_head(&self.buffer[..head_bytes]).ok_or(malformed)?;
        let headers = parse_headers(head.split("\r\n").skip(1)).ok_or(malformed)?;
        let value = headers.iter().rev().find(|(name, _)| name == "content-length");
        let body = content_length(value.map(|(_, value)| value.as_str())).ok_or(malformed)?;
        Ok(Some(head_bytes.saturating_add(body)))
    }
}
