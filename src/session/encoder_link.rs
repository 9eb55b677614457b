//! The encoder process of the active viewer: its page, its links, its start, its end.
//!
//! It decides nothing about restarts. A page belongs to a viewer and outlives its encoders; its epoch
//! is raised before each further one, so that a killed encoder that still runs can take no number that
//! its successor takes. Encoders that are to go are given [`STOP_GRACE`], killed, and reaped when they
//! are dead; nobody waits for them.
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::life::Pulse;
use super::life::loss::{Sent, Tuning};
use super::oom;
use crate::ipc::{
    EncoderBoot, FromEncoder, RingSpec, SessionId, Timed, ToEncoder, VERSION, ViewerGrant, ViewerId,
};
use crate::proc::boot::{self, Spawn};
use crate::proc::child::Child;
use crate::proc::link::{Link, LinkError};
use crate::proc::page::{Figure, Stage, ViewerPage};
use crate::proto::stream::StreamSpec;
use crate::time::Time;

/// From the order to stop to SIGKILL.
const STOP_GRACE: Duration = Duration::from_millis(500);
/// Messages read in one turn; an encoder has two to say, and one for each that it tries.
const MESSAGES_MAX: usize = 16;
/// How much later than its session an encoder is worth keeping when memory is short.
const OOM_ABOVE_SESSION: i32 = 150;

/// What the encoder said or did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Trying { encoder: String },
    Ready { encoder: String },
    Failed { reason: String },
    Exited { status: String },
}

/// What to start an encoder with.
pub struct Order<'a> {
    pub grant: &'a ViewerGrant,
    pub stream: &'a StreamSpec,
    /// Encoders that are not to be tried.
    pub passed_over: Vec<String>,
    pub ring: RingSpec,
    pub slots: &'a [BorrowedFd<'a>],
}

/// At most one encoder that counts, and those that are going.
pub struct EncoderLink {
    session: SessionId,
    choice: String,
    cores: Vec<usize>,
    page: Option<(ViewerId, ViewerPage)>,
    running: Option<Running>,
    going: Vec<Going>,
    video: Option<OwnedFd>,
}

struct Running {
    child: Child,
    control: Link,
    /// It has closed its end: it is broken and was killed.
    is_deaf: bool,
    started: Time,
    /// As it told with its first word.
    name: Option<String>,
    /// What the page showed at the start: an earlier encoder's frames are not this one's.
    base: (u64, u64),
}

struct Going {
    child: Child,
    /// Kept open: an encoder that sees it closed may end before it has finished.
    _control: Link,
    kill_at: Time,
}

impl EncoderLink {
    /// `choice`: "auto" or an encoder's name; `cores`: empty for any.
    pub fn new(session: SessionId, choice: String, cores: Vec<usize>) -> Self {
        let (page, running, going, video) = (None, None, Vec::new(), None);
        Self { session, choice, cores, page, running, going, video }
    }

    /// Starts an encoder; returns the link on which it takes frames. One that still runs is killed.
    ///
    /// # Errors
    /// The system's; then none runs.
    pub fn start(&mut self, order: &Order<'_>, now: Time) -> io::Result<Link> {
        self.kill();
        let viewer = order.grant.viewer;
        let epoch = match &self.page {
            Some((owner, page)) if *owner == viewer => page.raise_epoch(),
            _ => {
                self.video = None;
                self.page = None;
                0
            }
        };
        let (_, page) = match self.page.take() {
            Some(kept) => self.page.insert(kept),
            None => self.page.insert((viewer, ViewerPage::create()?)),
        };
        let message = EncoderBoot {
            version: VERSION,
            session: self.session,
            viewer,
            spec: order.stream.clone(),
            key: order.grant.key.clone(),
            epoch,
            ring: order.ring,
            encoder: self.choice.clone(),
            passed_over: order.passed_over.clone(),
            cores: self.cores.clone(),
        };
        let (frames, its_frames) = Link::pair()?;
        let (control, its_control) = Link::pair()?;
        let mut fds = vec![its_frames.as_fd(), its_control.as_fd(), page.as_fd()];
        fds.extend_from_slice(order.slots);
        let how = Spawn {
            kind: "encoder",
            label: &self.session.to_string(),
            fds: &fds,
            dies_with_parent: true,
            output: None,
            oom_score_adj: oom::own().saturating_add(OOM_ABOVE_SESSION).min(1000),
        };
        let child = boot::spawn(&how, &message)?;
        let base = counts(page);
        tracing::info!(pid = child.pid(), epoch, viewer = %viewer, "encoder started");
        let (is_deaf, name) = (false, None);
        self.running = Some(Running { child, control, is_deaf, started: now, name, base });
        Ok(frames)
    }

    /// Lets it finish, within bounds, and forgets the viewer's video socket.
    pub fn stop(&mut self, now: Time) {
        self.video = None;
        if let Some(running) = self.running.take() {
            // A full or closed link: the deadline ends it.
            let _ = running.control.send(&ToEncoder::Stop, &[]);
            self.bury(running, now + STOP_GRACE);
        }
    }

    /// Kills it now.
    pub fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            running.child.kill();
            self.bury(running, Time(u64::MAX));
        }
    }

    /// Sends there from now on, also with encoders that are yet to be started for this viewer.
    pub fn set_socket(&mut self, socket: OwnedFd) {
        self.video = Some(socket);
        self.hand_socket();
    }

    /// Hands the viewer's video socket to a new encoder.
    pub fn hand_socket(&self) {
        if let (Some(running), Some(socket)) = (&self.running, &self.video)
            && let Err(e) = running.control.send(&ToEncoder::Socket, &[socket.as_fd()])
        {
            // It does not listen: its heartbeat will tell, and the next one gets the socket.
            tracing::warn!(error = %e, "the encoder did not get its socket");
        }
    }

    pub fn key_frame(&self) {
        if let Some(running) = &self.running {
            // A full link holds such a request already, or its encoder hangs.
            let _ = running.control.send(&ToEncoder::KeyFrame, &[]);
        }
    }

    /// Its bitrate and parity from now on. A full link drops it: the next decision says it again.
    pub fn tune(&self, tuning: Tuning) {
        if let Some(running) = &self.running {
            let (kbps, percent) = (tuning.kbps, tuning.fec_percent);
            let _ = running.control.send(&ToEncoder::Bitrate { kbps }, &[]);
            let _ = running.control.send(&ToEncoder::Parity { percent }, &[]);
        }
    }

    /// Takes what it has said, sees whether it lives, and reaps those that are dead.
    pub fn look(&mut self, now: Time, seen: &mut Vec<Seen>) {
        if let Some(running) = &mut self.running {
            running.listen(seen);
            if let Some(exit) = running.child.try_reap() {
                // Its last words may have come in between.
                running.listen(seen);
                seen.push(Seen::Exited { status: exit.to_string() });
                self.running = None;
            }
        }
        self.going.retain_mut(|going| {
            if now >= going.kill_at {
                going.child.kill();
                going.kill_at = Time(u64::MAX);
            }
            going.child.try_reap().is_none()
        });
    }

    /// How it gets on; None: none runs.
    pub fn pulse(&self, now: Time) -> Option<Pulse> {
        let running = self.running.as_ref()?;
        let (_, page) = self.page.as_ref()?;
        let beat = Time(page.heartbeat_ns());
        // A beat of the future is none.
        let alive = if beat > now { running.started } else { beat.max(running.started) };
        let (frames_in, frames_out) = counts(page);
        Some(Pulse {
            silent: now.since(alive),
            frames_in: frames_in.saturating_sub(running.base.0),
            frames_out: frames_out.saturating_sub(running.base.1),
            sent: Sent {
                packets: page.figure(Figure::PacketsSent),
                frames: page.figure(Figure::FramesSent),
                full: page.figure(Figure::DroppedLate),
            },
        })
    }

    /// The earliest deadline of those that are going.
    pub fn next_timeout(&self) -> Option<Time> {
        self.going.iter().map(|going| going.kill_at).filter(|at| at.0 < u64::MAX).min()
    }

    /// Readable when something is to be seen.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let child = self.running.iter().map(|r| r.child.as_fd());
        let control = self.running.iter().filter(|r| !r.is_deaf).map(|r| r.control.as_fd());
        child.chain(control).chain(self.going.iter().map(|going| going.child.as_fd()))
    }

    /// All encoder processes that are not reaped.
    pub fn pids(&self) -> Vec<u32> {
        let running = self.running.iter().map(|r| r.child.pid());
        running.chain(self.going.iter().map(|going| going.child.pid())).collect()
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// The viewer's counts so far, over all its encoders.
    pub fn figures(&self, figures: &mut BTreeMap<String, f64>) {
        let Some((_, page)) = &self.page else { return };
        for (figure, name) in Figure::ALL {
            figures.insert(format!("encoder_{name}"), page.figure(figure) as f64);
        }
        figures.insert("encoder_epoch".into(), f64::from(page.epoch()));
    }

    /// The name of the encoder that runs, once it has told.
    pub fn name(&self) -> Option<&str> {
        self.running.as_ref()?.name.as_deref()
    }

    /// How long the viewer's frames took, by stage.
    pub fn times(&self) -> Vec<Timed> {
        let Some((_, page)) = &self.page else { return Vec::new() };
        let all = Stage::ALL.iter();
        all.map(|(stage, name, meaning)| page.times(*stage).timed(name, meaning)).collect()
    }

    fn bury(&mut self, running: Running, kill_at: Time) {
        let Running { child, control, .. } = running;
        self.going.push(Going { child, _control: control, kill_at });
    }
}

impl Running {
    fn listen(&mut self, seen: &mut Vec<Seen>) {
        for _ in 0..MESSAGES_MAX {
            match self.control.receive::<FromEncoder>() {
                Ok((FromEncoder::Trying { encoder }, _)) => seen.push(Seen::Trying { encoder }),
                Ok((FromEncoder::Ready { encoder }, _)) => {
                    self.name = Some(encoder.clone());
                    seen.push(Seen::Ready { encoder });
                }
                Ok((FromEncoder::Failed { reason }, _)) => seen.push(Seen::Failed { reason }),
                Err(LinkError::Malformed(e)) => tracing::warn!(error = e, "encoder's message"),
                Err(LinkError::Empty) => return,
                Err(_) => {
                    // Its end follows, seen by the pidfd.
                    if !std::mem::replace(&mut self.is_deaf, true) {
                        self.child.kill();
                    }
                    return;
                }
            }
        }
    }
}

/// Frames taken, and frames sent or dropped.
fn counts(page: &ViewerPage) -> (u64, u64) {
    let sent = page.figure(Figure::FramesSent);
    let out = sent.saturating_add(page.figure(Figure::FramesDropped));
    (page.figure(Figure::FramesReceived), out)
}
