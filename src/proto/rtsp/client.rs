//! The client's side of RTSP: requests in the library's form, responses read with its strictness.
//!
//! For test clients. The parser follows the library token by token, so what it refuses, clients refuse.
//!
//! Source: moonlight-common-c src/RtspConnection.c, src/RtspParser.c (`parseRtspMessage`).
use thiserror::Error;

use super::Method;
use super::target_of;
use crate::proto::ping;
use crate::proto::stream::Flow;

/// A request to be written. The headers follow from the method.
#[derive(Clone, Copy, Debug)]
pub struct ClientRequest<'a> {
    pub method: Method,
    pub target: &'a str,
    pub cseq: u32,
    /// Host part of the target URL, or `0.0.0.0` for normal audio quality.
    pub host: &'a str,
    /// The token of the audio SETUP's response.
    pub session: Option<&'a str>,
    /// SDP, for ANNOUNCE.
    pub body: &'a str,
}

const EPOCH: &str = "Thu, 01 Jan 1970 00:00:00 GMT";

impl<'a> ClientRequest<'a> {
    /// SETUP of one flow.
    pub fn setup(flow: Flow, cseq: u32, host: &'a str, session: Option<&'a str>) -> Self {
        Self { method: Method::Setup, target: target_of(flow), cseq, host, session, body: "" }
    }

    /// The bytes as the library sends them.
    pub fn write(&self) -> Vec<u8> {
        let Self { target, cseq, host, body, .. } = self;
        let name = match self.method {
            Method::Announce => "ANNOUNCE",
            Method::Describe => "DESCRIBE",
            Method::Options => "OPTIONS",
            Method::Other => "TEARDOWN",
            Method::Play => "PLAY",
            Method::Setup => "SETUP",
        };
        let mut text = format!(
            "{name} {target} RTSP/1.0\r\nCSeq: {cseq}\r\nX-GS-ClientVersion: 14\r\nHost: {host}\r\n"
        );
        if let Some(session) = self.session {
            text.push_str(&format!("Session: {session}\r\n"));
        }
        match self.method {
            Method::Describe => {
                text.push_str(&format!(
                    "Accept: application/sdp\r\nIf-Modified-Since: {EPOCH}\r\n"
                ));
            }
            Method::Setup => text.push_str(&format!(
                "Transport: unicast;X-GS-ClientPort=50000-50001\r\nIf-Modified-Since: {EPOCH}\r\n"
            )),
            Method::Announce => text.push_str(&format!(
                "Content-type: application/sdp\r\nContent-length: {}\r\n",
                body.len()
            )),
            Method::Options | Method::Other | Method::Play => {}
        }
        text.push_str("\r\n");
        text.push_str(body);
        text.into_bytes()
    }
}

/// A response as the library understands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientResponse {
    pub status: i32,
    /// In order of first appearance; a repeated name has its last value.
    headers: Vec<(String, String)>,
    /// `None`: nothing behind the empty line.
    pub body: Option<String>,
}

/// The library would report -1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("response that the client library refuses")]
pub struct Refused;

impl ClientResponse {
    /// Reads everything that came up to the end of the connection.
    pub fn parse(message: &[u8]) -> Result<Self, Refused> {
        let text_end = message.iter().position(|byte| *byte == 0).unwrap_or(message.len());
        let text = std::str::from_utf8(&message[..text_end]).map_err(|_| Refused)?;
        let mut tokens = Tokens { rest: text };
        let protocol = tokens.next(" \r\n").ok_or(Refused)?;
        let code = tokens.next(" \r\n").ok_or(Refused)?;
        let _reason = tokens.next("\r\n").ok_or(Refused)?;
        if protocol != "RTSP/1.0" {
            return Err(Refused);
        }
        let status = code.parse().map_err(|_| Refused)?;
        let mut headers: Vec<(String, String)> = Vec::new();
        loop {
            let name = tokens.next(" :\r\n").ok_or(Refused)?;
            let content = tokens.next("\r\n").ok_or(Refused)?;
            // The library skips one byte, whatever it is.
            let mut value = content.chars();
            value.next();
            let value = value.as_str().to_owned();
            match headers.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => *known = value,
                None => headers.push((name.to_owned(), value)),
            }
            if matches!(tokens.rest, "\n" | "\n\r" | "\n\r\n") {
                return Ok(Self { status, headers, body: None });
            }
            if let Some(body) = tokens.rest.strip_prefix("\n\r\n") {
                return Ok(Self { status, headers, body: Some(body.to_owned()) });
            }
        }
    }

    /// A header by its exact name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The session token, up to `;`. Without one a client fails at the audio SETUP.
    pub fn session(&self) -> Option<&str> {
        let token = self.header("Session")?.split(';').next()?;
        (!token.is_empty()).then_some(token)
    }

    /// The UDP port of a SETUP, if there is a valid one.
    pub fn server_port(&self) -> Option<u16> {
        let (_, rest) = self.header("Transport")?.split_once("server_port=")?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse().ok().filter(|port| *port != 0)
    }

    /// The ping payload; `None` means legacy pings.
    pub fn ping_payload(&self) -> Option<ping::Payload> {
        self.header("X-SS-Ping-Payload").and_then(ping::payload_of_header)
    }

    /// The ENet connect data, in any base that C detects; 0 without a readable one.
    pub fn connect_data(&self) -> u32 {
        self.header("X-SS-Connect-Data").map_or(0, number_of)
    }
}

/// C's `strtoul` with base 0, as far as unsigned 32-bit numbers go; 0 for what is none.
pub fn number_of(text: &str) -> u32 {
    let text = text.trim_start();
    let (digits, base) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16),
        [b'0', _, ..] => (&text[1..], 8),
        _ => (text, 10),
    };
    let end = digits.find(|c: char| !c.is_digit(base)).unwrap_or(digits.len());
    u32::from_str_radix(&digits[..end], base).unwrap_or(0)
}

/// C's `strtok_r`: skips leading separators, cuts at the next one and swallows it.
struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Tokens<'a> {
    fn next(&mut self, separators: &str) -> Option<&'a str> {
        let is_separator = |c: char| separators.contains(c);
        let text = self.rest.trim_start_matches(is_separator);
        let end = text.find(is_separator).unwrap_or(text.len());
        let (token, rest) = text.split_at(end);
        self.rest = rest.get(1..).unwrap_or_default();
        (!token.is_empty()).then_some(token)
    }
}
