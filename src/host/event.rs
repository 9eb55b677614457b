//! What can happen to the host, and what it answers. Types only.
use std::net::{IpAddr, SocketAddr};

use crate::ipc::{
    AdminAnswer, AdminRequest, ClientId, FromSession, SessionId, SessionSpec, ToSession,
};
use crate::proto::http;

/// One request that waits for its answer; numbered by the adapter, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// Where a request came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub peer: SocketAddr,
    /// The address of ours that the peer contacted.
    pub local: SocketAddr,
    /// DER of the certificate whose key the peer has proven to own; None: none was shown.
    pub certificate: Option<Vec<u8>>,
    /// Over TLS.
    pub tls: bool,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A whole HTTP request. Answered by exactly one `Effect::Answer` with this call, now or later.
    Http { call: CallId, caller: Caller, request: http::Request },
    /// A whole RTSP message as it came from the wire (plain or enveloped). Answered likewise.
    Rtsp { call: CallId, peer: SocketAddr, local: SocketAddr, wire: Vec<u8> },
    /// The peer of a waiting call is gone; no answer is wanted any more.
    CallGone { call: CallId },
    /// A question from the operator. Answered by `Effect::AnswerAdmin`.
    Admin { id: u64, request: AdminRequest },
    /// A client's certificate is on disk, since that second of the Unix epoch, or is not.
    ClientStored { client: ClientId, result: Result<u64, String> },
    /// A client's file was removed (or was not).
    ClientErased { client: ClientId, result: Result<(), String> },
    /// The session's process runs and its link is connected, or neither.
    SessionSpawned { session: SessionId, result: Result<(), String> },
    /// A message from a session.
    Session { session: SessionId, message: FromSession },
    /// The session's process has ended.
    SessionExited { session: SessionId, status: String, last_words: String },
    /// A session's link is full or broken; its process may still live.
    SessionDeaf { session: SessionId },
    /// Time has come (`Host::next_timeout`).
    Timeout,
}

/// What is to be done about it, in order.
#[derive(Clone, Debug)]
pub enum Effect {
    Answer {
        call: CallId,
        answer: Answer,
    },
    AnswerAdmin {
        id: u64,
        answer: AdminAnswer,
    },
    /// Write the client's certificate durably, then report `ClientStored`.
    StoreClient {
        client: ClientId,
        name: String,
        certificate: Vec<u8>,
    },
    /// Remove it durably, then report `ClientErased`.
    EraseClient {
        client: ClientId,
    },
    /// Have the supervisor start it, connect its link, then report `SessionSpawned`.
    Spawn {
        spec: Box<SessionSpec>,
    },
    Send {
        session: SessionId,
        message: ToSession,
    },
    /// It did not stop in time: kill it.
    Kill {
        session: SessionId,
    },
    PairingAsked(crate::ipc::PendingPairing),
    PairingEnded {
        id: String,
        outcome: String,
    },
}

/// The answer to a call.
#[derive(Clone, Debug)]
pub enum Answer {
    Http(http::Response),
    /// Bytes for the wire, sealed already where that is needed; then the connection is closed.
    Rtsp(Vec<u8>),
    /// Close without a word.
    Close,
}

/// Where a first datagram of a flow belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Make a connected socket and hand it to this viewer's session.
    HandOver { session: SessionId, viewer: crate::ipc::ViewerId },
    /// The peer of a dead session: send it `Host::last_will`.
    LastWill { session: SessionId },
    /// Nobody's. Send nothing.
    Stranger,
}

/// Facts about the machine that requests only read; made and refreshed off the shards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// (address of ours, MAC of its interface).
    pub macs: Vec<(IpAddr, [u8; 6])>,
    pub codecs: crate::proto::stream::CodecSupport,
}
