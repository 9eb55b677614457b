//! Responses, in the spelling that the client library's parser needs.
//!
//! Its rules: `RTSP/1.0 <code> <reason>` with a reason, at least one header, exactly one space behind the
//! colon, names with this spelling, CRLF, the body up to the end of the connection without NUL.
use crate::proto::ping;

/// The statuses that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ok,
    /// Unparsable, a required attribute missing, a codec not there.
    BadRequest,
    /// Encryption required and not enabled, or a plaintext control stream asked for.
    Forbidden,
    /// Unknown method or stream.
    NotFound,
    TooLong,
    /// The `Session` token is not the one that was given.
    SessionNotFound,
    /// For example PLAY before ANNOUNCE.
    WrongState,
    /// The session could not be started.
    Internal,
    /// The host is going down, or has no room.
    Unavailable,
}

impl Status {
    pub fn code(self) -> u16 {
        match self {
            Self::Ok => 200,
            Self::BadRequest => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::TooLong => 413,
            Self::SessionNotFound => 454,
            Self::WrongState => 455,
            Self::Internal => 500,
            Self::Unavailable => 503,
        }
    }

    /// Never empty.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::BadRequest => "BAD REQUEST",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NOT FOUND",
            Self::TooLong => "Request Entity Too Large",
            Self::SessionNotFound => "Session Not Found",
            Self::WrongState => "Method Not Valid in This State",
            Self::Internal => "Internal Server Error",
            Self::Unavailable => "Service Unavailable",
        }
    }
}

/// A response in the making; `write` gives the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    status: Status,
    cseq: u32,
    headers: Vec<(&'static str, String)>,
    body: String,
}

impl Response {
    /// An answer to the request that carried `cseq`.
    pub fn new(status: Status, cseq: u32) -> Self {
        Self { status, cseq, headers: Vec::new(), body: String::new() }
    }

    pub fn ok(cseq: u32) -> Self {
        Self::new(Status::Ok, cseq)
    }

    pub fn status(&self) -> Status {
        self.status
    }

    /// The token of a session, without `;` and blanks. A client needs it in the audio SETUP.
    #[must_use]
    pub fn session(self, token: &str) -> Self {
        assert!(!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        self.header("Session", format!("{token};timeout = 90"))
    }

    /// The UDP port of a SETUP.
    #[must_use]
    pub fn server_port(self, port: u16) -> Self {
        assert!(port != 0);
        self.header("Transport", format!("server_port={port}"))
    }

    /// The payload that the pings of a flow must carry; printable.
    #[must_use]
    pub fn ping_payload(self, payload: &ping::Payload) -> Self {
        assert!(payload.iter().all(u8::is_ascii_graphic));
        let text = payload.iter().copied().map(char::from).collect();
        self.header("X-SS-Ping-Payload", text)
    }

    /// The `data` that the ENet CONNECT must carry.
    #[must_use]
    pub fn connect_data(self, data: u32) -> Self {
        self.header("X-SS-Connect-Data", data.to_string())
    }

    /// The body; no NUL.
    #[must_use]
    pub fn body(mut self, body: String) -> Self {
        assert!(!body.contains('\0'));
        self.body = body;
        self
    }

    pub fn write(&self) -> Vec<u8> {
        let Self { status, cseq, headers, body } = self;
        let mut text =
            format!("RTSP/1.0 {} {}\r\nCSeq: {cseq}\r\n", status.code(), status.reason());
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        text.push_str(body);
        text.into_bytes()
    }

    fn header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }
}
