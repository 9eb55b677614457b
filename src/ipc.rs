//! The messages between our processes: supervisor, front, session, encoder. Types only, no sockets.
//!
//! Every message is one JSON object in one SOCK_SEQPACKET datagram (`proc::link`), at most
//! `limits::IPC_MESSAGE_BYTES_MAX` bytes. Each link starts with a hello that carries [`VERSION`],
//! because an old session meets a new front; unknown fields are ignored, so fields may be added.
//! Frames travel apart, as [`FrameNote`]s of fixed size.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::proto::secret::SessionKey;
use crate::proto::stream::{Flow, Mode, StreamSpec};

/// Version of all messages here. A peer with another version is spoken to as far as fields allow.
pub const VERSION: u32 = 1;

/// A session: 8 random bytes, written as 16 hex digits; never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct SessionId(pub u64);

/// One connection of a client to its session, made by each launch or resume; never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ViewerId(pub u64);

/// A paired client: SHA-256 of its certificate's DER.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ClientId(pub [u8; 32]);

macro_rules! hex_u64_id {
    ($t:ident) => {
        impl std::fmt::Display for $t {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }
        impl std::fmt::Debug for $t {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }
        impl From<$t> for String {
            fn from(id: $t) -> Self {
                id.to_string()
            }
        }
        impl TryFrom<String> for $t {
            type Error = NotAnId;
            fn try_from(text: String) -> Result<Self, NotAnId> {
                if text.len() != 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(NotAnId);
                }
                u64::from_str_radix(&text, 16).map(Self).map_err(|_| NotAnId)
            }
        }
    };
}
hex_u64_id!(SessionId);
hex_u64_id!(ViewerId);

/// The text is not an id: wrong length or not hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an id: expected hexadecimal digits")]
pub struct NotAnId;

impl std::fmt::Display for ClientId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl std::fmt::Debug for ClientId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0[..4].iter().try_for_each(|b| write!(f, "{b:02x}"))?;
        f.write_str("..")
    }
}

impl From<ClientId> for String {
    fn from(id: ClientId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for ClientId {
    type Error = NotAnId;
    fn try_from(text: String) -> Result<Self, NotAnId> {
        if text.len() != 64 || !text.is_ascii() {
            return Err(NotAnId);
        }
        let mut id = [0; 32];
        for (byte, pair) in id.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| NotAnId)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NotAnId)?;
        }
        Ok(Self(id))
    }
}

// ---------------------------------------------------------------------------------------------
// Supervisor <-> front
// ---------------------------------------------------------------------------------------------

/// From the supervisor to the front.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum FrontOrder {
    Hello {
        version: u32,
    },
    /// The session's process runs; its link can be connected at `socket`.
    SessionSpawned {
        session: SessionId,
        socket: PathBuf,
    },
    /// The session's process could not be started.
    SessionNotSpawned {
        session: SessionId,
        reason: String,
    },
    /// The session's process has ended and was reaped; its directory is gone.
    SessionExited {
        session: SessionId,
        /// "exit 0", "signal 9", ...
        status: String,
        /// The last lines of its log, for the operator and the client's error text.
        last_words: String,
    },
    /// A question from the admin socket; answered with [`FrontReport::AdminAnswer`] and the same id.
    Admin {
        id: u64,
        request: AdminRequest,
    },
    /// No new connections; finish what is in progress, then exit.
    Drain,
    /// Another front is prepared: let go at the next calm moment (no launch, handshake or pairing on
    /// its way), or after a few seconds without one. Answered by `Yielded`; then as `Drain`.
    Yield,
    /// To a prepared front: the one before has let go.
    Serve,
}

/// From the front to the supervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum FrontReport {
    Hello {
        version: u32,
        pid: u32,
        /// The version of its program.
        #[serde(default)]
        program: String,
    },
    /// A front that succeeds another could serve now, and waits for `Serve`.
    Prepared,
    /// All shards accept connections.
    Serving,
    /// It accepts nothing any more, reads no datagram, and holds nothing that its successor lacks.
    Yielded,
    /// It ends, and why.
    Failed {
        reason: String,
    },
    /// Start this session. Answered by `SessionSpawned` or `SessionNotSpawned`.
    Spawn {
        spec: Box<SessionSpec>,
    },
    /// Kill this session's process group now (it did not stop in time).
    Kill {
        session: SessionId,
    },
    AdminAnswer {
        id: u64,
        answer: AdminAnswer,
    },
    /// A client waits for its PIN; the supervisor shows it to the operator.
    PairingAsked(PendingPairing),
    /// That pairing is over.
    PairingEnded {
        id: String,
        outcome: String,
    },
}

/// What an operator may ask over the admin socket (CLI). `Debug` prints no PIN.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminRequest {
    Pairings,
    /// Enter the PIN that the client shows, for one pending pairing.
    Pin {
        id: String,
        pin: String,
    },
    Clients,
    RemoveClient {
        client: String,
    },
    Apps,
    Sessions,
    StopSession {
        session: String,
    },
    /// The bounded log of the session's app.
    SessionLog {
        session: String,
    },
    /// What `serve` printed at start: addresses, encoder, missing parts.
    Status,
    /// Go over to the program that is on disk now.
    Upgrade,
}

impl std::fmt::Debug for AdminRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pin { id, .. } => f.debug_struct("Pin").field("id", id).finish_non_exhaustive(),
            other => f.write_str(&serde_json::to_string(other).unwrap_or_default()),
        }
    }
}

/// The answer to an [`AdminRequest`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum AdminAnswer {
    Pairings(Vec<PendingPairing>),
    Clients(Vec<ClientSummary>),
    Apps(Vec<AppSummary>),
    Sessions(Vec<SessionSummary>),
    Log(String),
    Status(serde_json::Value),
    Done(String),
    /// What went wrong and how to mend it.
    Error(String),
}

/// A client that waits for its PIN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingPairing {
    /// Unguessable, expires with the attempt.
    pub id: String,
    /// As the client calls itself; not to be trusted.
    pub device: String,
    pub address: String,
    pub seconds_left: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientSummary {
    pub id: ClientId,
    pub name: String,
    /// Seconds since the Unix epoch.
    pub paired_at: u64,
    pub session: Option<SessionId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppSummary {
    pub id: i32,
    pub title: String,
    pub command: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionSummary {
    pub id: SessionId,
    pub client: ClientId,
    pub client_name: String,
    pub app: String,
    /// "starting", "streaming", "paused", "stopping".
    pub state: String,
    /// As it is shown now; before the first stream, as it was asked for.
    pub mode: Mode,
    pub pid: Option<u32>,
    pub age_seconds: u64,
    /// How old the figures are; None: it has told none.
    #[serde(default)]
    pub figures_age_ms: Option<u64>,
    /// Counters of the session and its encoder, by name.
    pub figures: BTreeMap<String, f64>,
}

/// What the front is started with. Its fds, in order: the link to the supervisor; per shard the
/// HTTPS, HTTP and RTSP listeners; the door's sockets for video, control and audio over IPv4, then
/// the same three over IPv6 where the machine has it; then the sheet for its [`FrontFigures`], last
/// the memory of its flight recorder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrontBoot {
    pub version: u32,
    pub config: crate::config::Config,
    /// Core of each shard; None: not pinned.
    pub shards: Vec<Option<usize>>,
    pub door_ipv6: bool,
    pub encoders: EncoderReport,
    /// Another front still serves: prepare, and wait for `Serve`.
    #[serde(default)]
    pub succeeds: bool,
}

/// What the front writes on its sheet several times a second, for the supervisor to read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FrontFigures {
    /// CLOCK_MONOTONIC ns of this writing.
    pub written_ns: u64,
    pub calls_waiting: u64,
    pub shards: Vec<ShardFigures>,
    pub counters: Vec<Counted>,
    pub times: Vec<Timed>,
}

/// What one shard shows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardFigures {
    /// CLOCK_MONOTONIC ns of its last beat; 0: none yet.
    pub beat_ns: u64,
    pub tasks: u64,
    pub panics: u64,
    /// How long its thread was ready without a core, ns.
    pub starved_ns: u64,
    pub counters: Vec<Counted>,
    pub times: Vec<Timed>,
}

/// A number that only grows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    pub name: String,
    pub meaning: String,
    pub value: u64,
}

/// Durations: (upper bound in microseconds, how many were below it), ascending, the last bound open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed {
    pub name: String,
    pub meaning: String,
    pub cumulative: Vec<(u64, u64)>,
    pub sum_us: u64,
}

/// The name of the sheet in a session's directory.
pub const SESSION_SHEET: &str = "figures";

/// What a session writes on its sheet every second, for the supervisor to read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SessionFigures {
    /// CLOCK_MONOTONIC ns of its beginning and of this writing.
    pub began_ns: u64,
    pub written_ns: u64,
    /// The app's title.
    pub app: String,
    /// "starting", "streaming", "paused", "stopping".
    pub state: String,
    /// Who views, if somebody does.
    pub viewer: Option<ViewerFigures>,
    pub figures: BTreeMap<String, f64>,
    /// How long frames took, by stage.
    pub times: Vec<Timed>,
}

/// What is known of the viewer that streams or is about to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ViewerFigures {
    pub id: ViewerId,
    pub mode: Mode,
    pub codec: crate::proto::stream::Codec,
    /// The encoder's name, once it has told.
    pub encoder: Option<String>,
    /// To the client and back, as ENet measures it; None: not connected.
    pub round_trip_us: Option<u64>,
}

/// What the encoder probe found; printed as JSON by `moonshard probe`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EncoderReport {
    /// In order of preference.
    pub encoders: Vec<EncoderFinding>,
}

/// One encoder, tried by really encoding frames and decoding them again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncoderFinding {
    /// The GStreamer element.
    pub name: String,
    pub codec: crate::proto::stream::Codec,
    pub works: bool,
    /// Quick enough to be used without having been asked for by name.
    #[serde(default)]
    pub quick: bool,
    /// Why it does not, and how to mend it; or what was measured.
    pub detail: String,
}

impl EncoderReport {
    /// The encoders that streams may use, the preferred ones first. `choice` is the configuration's:
    /// "auto" means all that are quick enough, names mean themselves.
    pub fn usable<'a>(&'a self, choice: &'a str) -> impl Iterator<Item = &'a EncoderFinding> {
        let automatic = self.encoders.iter().filter(move |_| choice == "auto").filter(|e| e.quick);
        let named = choice.split(',').flat_map(|name| {
            self.encoders.iter().filter(move |encoder| encoder.name == name.trim())
        });
        automatic.chain(named).filter(|encoder| encoder.works)
    }

    /// What may be advertised: exactly what can be used.
    pub fn codecs(&self, choice: &str) -> crate::proto::stream::CodecSupport {
        use crate::proto::stream::{Codec, CodecSupport};
        let works = |codec| self.usable(choice).any(|encoder| encoder.codec == codec);
        CodecSupport {
            h264: works(Codec::H264),
            hevc: works(Codec::Hevc),
            av1: works(Codec::Av1),
            extra_bits: 0,
        }
    }
}

// ---------------------------------------------------------------------------------------------
// Session
// ---------------------------------------------------------------------------------------------

/// What a session is started with. Its fds: the listening link (`session.sock` in its directory),
/// then the flock'ed `lock` file of its directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionBoot {
    pub spec: SessionSpec,
    /// `$RUNTIME/sessions/<id>`, mode 0700; holds everything of the session and goes with it.
    pub directory: PathBuf,
}

/// What a session is made from. Holds no secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionSpec {
    pub version: u32,
    pub id: SessionId,
    pub client: ClientId,
    pub client_name: String,
    pub app: AppSpec,
    /// The mode at launch; ANNOUNCE may change it.
    pub mode: Mode,
    /// Channels of the session's sink: 2, 6 or 8.
    pub audio_channels: u8,
    pub policy: SessionPolicy,
}

/// One entry of the app list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppSpec {
    /// Stable, > 0.
    pub id: i32,
    pub title: String,
    /// Program and arguments; the program `moonshard` means this very binary.
    pub command: Vec<String>,
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    #[serde(default)]
    pub directory: Option<PathBuf>,
}

/// How a session behaves; taken from the configuration when it starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionPolicy {
    /// Ends this long after its last viewer went; 0: lives while the app runs.
    pub keep_ms: u64,
    /// Ends this long after its start if it never had a viewer.
    pub never_viewed_ms: u64,
    /// Frames per second of an unchanging picture.
    pub idle_fps: u32,
    /// An app that has shown nothing for this long is said to be slow.
    #[serde(default)]
    pub slow_app_ms: u64,
    /// How long a client is shown why its app has ended; 0: not at all.
    #[serde(default)]
    pub reason_ms: u64,
    pub keyboard_layout: String,
    pub keyboard_variant: String,
    /// "auto" or the name of an encoder, as `EncoderChoice` of the configuration.
    pub encoder: String,
    pub audio: bool,
    /// Parity and bitrate follow what the path loses.
    #[serde(default = "yes")]
    pub adapt: bool,
    /// Cores for encoders; empty: unpinned.
    pub media_cores: Vec<usize>,
}

/// What policies mean that do not say.
fn yes() -> bool {
    true
}

/// The right of one viewer to come: made at launch or resume, sent to its session at once. `Debug`
/// prints nothing by which somebody else could come in its place.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct ViewerGrant {
    pub viewer: ViewerId,
    pub key: SessionKey,
    /// Base of the audio IVs.
    pub rikeyid: i32,
    /// 16 printable bytes; what this viewer's pings carry.
    pub ping_payload: String,
    /// The `data` of this viewer's ENet CONNECT.
    pub connect_data: u32,
    /// ENet peer id on the wire, unique in the whole host.
    pub peer_id: u16,
}

impl std::fmt::Debug for ViewerGrant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (viewer, peer_id) = (&self.viewer, &self.peer_id);
        let mut shown = f.debug_struct("ViewerGrant");
        shown.field("viewer", viewer).field("peer_id", peer_id).finish_non_exhaustive()
    }
}

/// From the front to a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToSession {
    Hello {
        version: u32,
    },
    Grant(ViewerGrant),
    /// ANNOUNCE was accepted: start the encoder. Answered by `ViewerReady` or `ViewerRefused`.
    Announce {
        viewer: ViewerId,
        spec: Box<StreamSpec>,
    },
    /// A connected socket of a flow (one fd with the message) and the datagram that opened it.
    /// A second one for the same flow replaces the first (the peer moved).
    Socket {
        viewer: ViewerId,
        flow: Flow,
        local: SocketAddr,
        peer: SocketAddr,
        first: Vec<u8>,
    },
    /// The grant is void, or the viewer is to go, with a termination message if it is connected.
    EndViewer {
        viewer: ViewerId,
        reason: String,
    },
    /// End the app and the session; viewers are told.
    Stop {
        reason: String,
    },
    /// Answered by `Figures`.
    AskFigures,
    /// Answered by `Log`.
    AskLog,
}

/// From a session to the front.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum FromSession {
    /// The first message on each link; a new front learns from it what runs.
    Identity {
        version: u32,
        spec: Box<SessionSpec>,
        pid: u32,
        started: bool,
        streaming: bool,
        /// Those that wait, oldest first; the active viewer's last.
        grants: Vec<ViewerGrant>,
        /// How far the active viewer has come.
        #[serde(default)]
        active: Option<ActiveViewer>,
    },
    /// Compositor and app have started.
    Started,
    /// The session could not start; it ends by itself after this.
    StartFailed {
        reason: String,
    },
    /// Media sockets may come, the control connection is awaited.
    ViewerReady {
        viewer: ViewerId,
    },
    ViewerRefused {
        viewer: ViewerId,
        /// RTSP status: 400, 500, 503.
        status: u16,
        reason: String,
    },
    /// The control connection stands.
    ViewerConnected {
        viewer: ViewerId,
        local: SocketAddr,
        peer: SocketAddr,
        /// A ready datagram that ends the client, for the door to send if this session dies.
        last_will: Vec<u8>,
    },
    ViewerGone {
        viewer: ViewerId,
        reason: String,
    },
    /// The app has ended by itself; the session ends after its viewers were told.
    AppExited {
        status: String,
        last_words: String,
    },
    Figures {
        figures: BTreeMap<String, f64>,
    },
    Log {
        text: String,
    },
}

/// The viewer whose stream a session makes or is about to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveViewer {
    pub viewer: ViewerId,
    /// `ViewerReady` was told: only the control connection is awaited, or was seen.
    pub ready: bool,
    /// What `ViewerConnected` told; None: not connected yet.
    pub connected: Option<ConnectedViewer>,
}

/// Where a connected viewer's control connection runs, and what is to be sent there at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectedViewer {
    pub local: SocketAddr,
    pub peer: SocketAddr,
    /// As in `FromSession::ViewerConnected`.
    pub last_will: Vec<u8>,
}

// ---------------------------------------------------------------------------------------------
// Encoder
// ---------------------------------------------------------------------------------------------

/// From a session to an encoder, on its control link.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToEncoder {
    /// Where to send from now on (one fd with the message); the next frame is a key frame.
    Socket,
    /// The next frame must be a key frame.
    KeyFrame,
    /// The encoder's from now on, where it can change it without a key frame.
    Bitrate { kbps: u32 },
    /// Of the frames to come, as a percentage of their data packets.
    Parity { percent: u8 },
    /// Finish within 500 ms.
    Stop,
}

/// From an encoder to its session, on its control link.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum FromEncoder {
    /// It starts this one now: whatever happens until the next word is that one's doing.
    Trying {
        encoder: String,
    },
    Ready {
        encoder: String,
    },
    /// The encoder ends after this.
    Failed {
        reason: String,
    },
}

/// What an encoder is started with (its boot message; fds by position: frame link, control link,
/// shared page, then the ring's slots).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EncoderBoot {
    pub version: u32,
    pub session: SessionId,
    pub viewer: ViewerId,
    pub spec: StreamSpec,
    pub key: SessionKey,
    /// The epoch of the page under which it may reserve counters.
    pub epoch: u16,
    pub ring: RingSpec,
    /// "auto" or names, the preferred first.
    pub encoder: String,
    /// Those of them that failed too often: not to be tried.
    #[serde(default)]
    pub passed_over: Vec<String>,
    pub cores: Vec<usize>,
}

/// The ring of frame slots: all alike, BGRx (little-endian XR24), one plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingSpec {
    pub width: u32,
    pub height: u32,
    /// Bytes from one row to the next.
    pub stride: u32,
    pub slots: u32,
    /// True: the slot fds are DMA-BUFs; false: memfds.
    pub dmabuf: bool,
}

impl RingSpec {
    /// Bytes of one slot.
    pub fn slot_bytes(&self) -> usize {
        self.stride as usize * self.height as usize
    }
}

/// A frame handed to the encoder, or a slot handed back: 32 bytes on the frame link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameNote {
    pub slot: u32,
    /// Counts frames from 1; a hand-back carries the number of the frame that it releases.
    pub seq: u64,
    /// CLOCK_MONOTONIC, ns: when the compositor had drawn it.
    pub captured_ns: u64,
    /// True: the picture equals the previous one (a repetition for idle streams).
    pub repeated: bool,
}

impl FrameNote {
    pub const BYTES: usize = 32;

    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[0..4].copy_from_slice(&self.slot.to_le_bytes());
        out[4..8].copy_from_slice(&u32::from(self.repeated).to_le_bytes());
        out[8..16].copy_from_slice(&self.seq.to_le_bytes());
        out[16..24].copy_from_slice(&self.captured_ns.to_le_bytes());
        out
    }

    /// None: not 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let u32_at =
            |i: usize| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        let u64_at = |i: usize| u64::from(u32_at(i)) | u64::from(u32_at(i + 4)) << 32;
        Some(Self {
            slot: u32_at(0),
            repeated: u32_at(4) & 1 == 1,
            seq: u64_at(8),
            captured_ns: u64_at(16),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let pin = AdminRequest::Pin { id: "ab".into(), pin: "4711".into() };
        assert_eq!(format!("{pin:?}"), "Pin { id: \"ab\", .. }");
        assert_eq!(format!("{:?}", AdminRequest::Sessions), "\"Sessions\"");
        let grant = ViewerGrant {
            viewer: ViewerId(1),
            key: SessionKey([0x5A; 16]),
            rikeyid: 987_654_321,
            ping_payload: "abcdefghijklmnop".into(),
            connect_data: 123_456_789,
            peer_id: 5,
        };
        let shown = format!("{:?}", ToSession::Grant(grant));
        assert_eq!(shown, "Grant(ViewerGrant { viewer: 0000000000000001, peer_id: 5, .. })");
    }
}
