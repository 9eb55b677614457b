//! The active viewer: its flows, its encoder's state, its deadlines.
use std::collections::VecDeque;

use super::event::Pulse;
use super::keyframe::KeyFrames;
use super::loss::Path;
use super::{
    CONNECT_MAX, ENCODER_RESTART_MAX, ENCODER_STALL_MAX, ENCODER_START_MAX, FAILURES_MAX,
    PASSED_OVER_MAX, RESTART_WINDOW, SILENCE_MAX,
};
use crate::ipc::{ActiveViewer, ConnectedViewer, ViewerGrant};
use crate::proto::stream::{Flow, StreamSpec};
use crate::time::Time;

/// Which flows have shown themselves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sockets {
    pub video: bool,
    pub control: bool,
    pub audio: bool,
}

impl Sockets {
    pub fn arrived(&mut self, flow: Flow) {
        match flow {
            Flow::Video => self.video = true,
            Flow::Control => self.control = true,
            Flow::Audio => self.audio = true,
        }
    }
}

#[derive(Debug)]
pub struct Viewer {
    pub grant: ViewerGrant,
    pub spec: Box<StreamSpec>,
    pub sockets: Sockets,
    pub encoder: Encoder,
    /// When encoders were lost.
    pub restarts: VecDeque<Time>,
    /// What the encoder process has started last.
    pub tried: Option<String>,
    /// Encoders that failed too often for this viewer.
    pub passed_over: Vec<String>,
    /// `ViewerReady` was told.
    pub ready: bool,
    pub connection: Connection,
    pub key_frames: KeyFrames,
    /// None: the stream stays as it was announced.
    pub path: Option<Path>,
}

#[derive(Debug)]
pub enum Connection {
    Awaited { since: Time },
    Up { heard: Time, told: ConnectedViewer },
}

#[derive(Debug)]
pub enum Encoder {
    Starting {
        since: Time,
        reason: Option<String>,
    },
    /// `waiting`: since when frames wait and none came out.
    Running {
        reason: Option<String>,
        frames_out: u64,
        waiting: Option<Time>,
    },
}

pub enum Overdue {
    Encoder,
    Connection,
    Word,
}

impl Viewer {
    /// What a new front is told of it.
    pub fn progress(&self) -> ActiveViewer {
        let connected = match &self.connection {
            Connection::Awaited { .. } => None,
            Connection::Up { told, .. } => Some(told.clone()),
        };
        ActiveViewer { viewer: self.grant.viewer, ready: self.ready, connected }
    }

    pub fn encoder_deadline(&self) -> Option<Time> {
        let is_short = self.ready || self.tried.is_some();
        let limit = if is_short { ENCODER_RESTART_MAX } else { ENCODER_START_MAX };
        match self.encoder {
            Encoder::Starting { since, .. } => Some(since + limit),
            Encoder::Running { .. } => None,
        }
    }

    pub fn connection_deadline(&self) -> Option<Time> {
        match self.connection {
            Connection::Awaited { since } => self.ready.then(|| since + CONNECT_MAX),
            Connection::Up { heard, .. } => Some(heard + SILENCE_MAX),
        }
    }

    pub fn overdue(&self, now: Time) -> Option<Overdue> {
        let is_over = |deadline: Option<Time>| deadline.is_some_and(|at| now >= at);
        if is_over(self.connection_deadline()) {
            return Some(match self.connection {
                Connection::Awaited { .. } => Overdue::Connection,
                Connection::Up { .. } => Overdue::Word,
            });
        }
        is_over(self.encoder_deadline()).then_some(Overdue::Encoder)
    }

    pub fn next_timeout(&self) -> Time {
        let deadlines =
            [self.encoder_deadline(), self.connection_deadline(), self.key_frames.next()];
        deadlines.into_iter().flatten().min().expect("an encoder that runs awaits a connection")
    }

    /// The stream as a new encoder is to make it.
    pub fn tuned(&self) -> Box<StreamSpec> {
        let mut spec = self.spec.clone();
        if let Some(path) = &self.path {
            let tuning = path.tuning();
            (spec.video.bitrate_kbps, spec.video.fec_percent) = (tuning.kbps, tuning.fec_percent);
        }
        spec
    }

    /// The encoder process starts `encoder`, which has its own time for that.
    pub fn tries(&mut self, encoder: String, now: Time) {
        self.tried = Some(encoder);
        if let Encoder::Starting { since, .. } = &mut self.encoder {
            *since = now;
        }
    }

    /// An encoder was lost. The name of the one that is not to be tried again, if it is time for that:
    /// one that does not start while the client waits, or that failed [`FAILURES_MAX`] times in a row.
    pub fn given_up(&mut self, now: Time) -> Option<String> {
        self.restarts.retain(|at| now.since(*at) < RESTART_WINDOW);
        let is_last = self.restarts.len() + 1 >= FAILURES_MAX || !self.ready;
        if !is_last || self.passed_over.len() >= PASSED_OVER_MAX {
            return None;
        }
        let encoder = self.tried.take()?;
        self.passed_over.push(encoder.clone());
        self.restarts.clear();
        Some(encoder)
    }

    /// Why this encoder is taken to hang, if it is.
    pub fn stalled(&mut self, pulse: Pulse, now: Time) -> Option<&'static str> {
        let Encoder::Running { frames_out, waiting, .. } = &mut self.encoder else { return None };
        let waits = pulse.frames_in > pulse.frames_out && self.sockets.video;
        if pulse.frames_out != *frames_out || !waits {
            *frames_out = pulse.frames_out;
            *waiting = None;
        }
        if pulse.silent > ENCODER_STALL_MAX {
            return Some("the encoder gives no sign of life");
        }
        let since = *waits.then(|| waiting.get_or_insert(now))?;
        (now.since(since) > ENCODER_STALL_MAX).then_some("the encoder makes no progress")
    }
}

impl Encoder {
    pub fn note(&mut self, why: String) {
        match self {
            Self::Starting { reason, .. } | Self::Running { reason, .. } => *reason = Some(why),
        }
    }

    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Starting { reason, .. } | Self::Running { reason, .. } => reason.as_deref(),
        }
    }
}
