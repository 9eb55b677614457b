//! What can happen to a session, and what is to be done about it. Types only.
use std::net::SocketAddr;
use std::time::Duration;

use super::loss::{Sent, Tuning};
use crate::ipc::{FromSession, ToSession, ViewerId};
use crate::proto::control::FecStatus;
use crate::proto::stream::{Flow, StreamSpec};

/// Why a client is sent away, as the termination message says it. Source: moonlight-common-c
/// src/ControlStream.c, src/Limelight.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// An ordinary end: 0x80030023.
    Ended,
    /// The host cannot encode: 0x800E9403, which clients explain as an encoding error.
    EncoderLost,
}

impl Farewell {
    pub fn code(self) -> u32 {
        match self {
            Self::Ended => 0x8003_0023,
            Self::EncoderLost => 0x800E_9403,
        }
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Desktop and app run.
    Started,
    StartFailed {
        reason: String,
    },
    /// A message of the front. The composition stashes the fd of a `Socket` by viewer and flow, the
    /// newest for each, before it passes the message on.
    Front(ToSession),
    /// The encoder process starts this encoder.
    EncoderTries {
        encoder: String,
    },
    /// The encoder can take frames.
    EncoderReady,
    /// The encoder says why it will end, or why it was not started.
    EncoderFailed {
        reason: String,
    },
    EncoderExited {
        status: String,
    },
    /// What the page shows; a few times a second while an encoder runs.
    EncoderPulse(Pulse),
    ControlConnected {
        viewer: ViewerId,
        local: SocketAddr,
        peer: SocketAddr,
        last_will: Vec<u8>,
    },
    /// ENet says that the peer is gone.
    ControlClosed {
        viewer: ViewerId,
    },
    /// An authenticated control message.
    Heard {
        viewer: ViewerId,
    },
    KeyFrameAsked {
        viewer: ViewerId,
    },
    /// The client tells how a block of packets arrived.
    BlockReported {
        viewer: ViewerId,
        block: FecStatus,
    },
    /// The client is ready.
    StartB {
        viewer: ViewerId,
    },
    /// The app's first process ended.
    AppExited {
        status: String,
        last_words: String,
    },
    /// Nothing of the app is left.
    AppGone,
    /// The desktop has died; without it the app is nowhere.
    DesktopLost,
    /// Time has come ([`Life::next_timeout`](super::Life::next_timeout)).
    Timeout,
}

/// An encoder's progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    /// Since its last sign of life, or since it was started if it gave none.
    pub silent: Duration,
    /// Frames that it took, and frames that left it sent or dropped.
    pub frames_in: u64,
    pub frames_out: u64,
    /// What was sent to this viewer, by all its encoders.
    pub sent: Sent,
}

/// What is to be done, in order.
#[derive(Clone, Debug)]
pub enum Effect {
    /// To every front there is: while one follows another, to both.
    Tell(FromSession),
    /// Set the desktop's mode, make a ring, start an encoder for this viewer on its page; a page that
    /// was used before gets a new epoch first.
    StartEncoder {
        viewer: ViewerId,
        spec: Box<StreamSpec>,
        /// Encoders that are not to be tried.
        passed_over: Vec<String>,
    },
    /// Kill the encoder now; reap it when it is dead.
    KillEncoder,
    /// Take the frames from the encoder and let it finish; bounded by the composition.
    StopEncoder,
    KeyFrame,
    /// Change bitrate and parity of the running encoder.
    Tune(Tuning),
    /// Put the stashed socket to use; if none is stashed, the one in use again (a new encoder).
    UseSocket {
        viewer: ViewerId,
        flow: Flow,
    },
    /// Close this viewer's sockets, stashed or used, except the control connection in use.
    DropSockets {
        viewer: ViewerId,
    },
    HdrOff {
        viewer: ViewerId,
    },
    Terminate {
        viewer: ViewerId,
        why: Farewell,
    },
    /// Close the control connection, if there is one.
    CloseControl {
        viewer: ViewerId,
    },
    DetachAudio,
    /// Release every key, button and touch.
    ReleaseInputs,
    /// SIGTERM to everything of the app.
    EndApp,
    /// SIGKILL to everything of the app.
    KillApp,
    /// The session is over: leave.
    Exit,
}
