//! The links to the fronts: they come and go, the session does not care.
//!
//! Every link is told everything, because an old front that drains and its successor both wait for
//! answers of their own. A link that is full is dropped: its front does not read.
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::ipc::{FromSession, ToSession};
use crate::proc::link::{Link, LinkError};

/// Links at once; the oldest goes.
const LINKS_MAX: usize = 4;
/// Connections accepted and messages read from one link in one turn.
const ACCEPTS_MAX: usize = 8;
const MESSAGES_MAX: usize = 64;
/// Outcomes kept for a front that is yet to come.
const UNHEARD_MAX: usize = 4;

/// Which link said something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkId(u64);

/// A message with the fds that came with it.
pub type Received = (LinkId, ToSession, Vec<OwnedFd>);

pub struct Fronts {
    listener: OwnedFd,
    /// Accepting failed: it is not tried again before [`Fronts::resume`].
    is_paused: bool,
    links: VecDeque<(LinkId, Link)>,
    next: u64,
    /// Who is connected, and the last will that goes with it: news to every front that comes.
    connected: Option<FromSession>,
    /// Why the session ends, as long as nobody was there to hear it.
    unheard: VecDeque<FromSession>,
}

impl Fronts {
    pub fn new(listener: OwnedFd) -> Self {
        let _ = rustix::fs::fcntl_setfl(&listener, rustix::fs::OFlags::NONBLOCK);
        let (links, unheard) = (VecDeque::new(), VecDeque::new());
        Self { listener, is_paused: false, links, next: 0, connected: None, unheard }
    }

    /// Takes new connections; each gets `identity` first, and hears who is connected.
    pub fn accept(&mut self, identity: &FromSession) {
        for _ in 0..ACCEPTS_MAX {
            let link = match Link::accept(self.listener.as_fd()) {
                Ok(Some(link)) => link,
                Ok(None) => return,
                Err(e) => {
                    // Out of file descriptors, most likely: the listener would stay readable.
                    tracing::warn!(error = %e, "accepting a front");
                    self.is_paused = true;
                    return;
                }
            };
            let first = [Some(identity), self.connected.as_ref()];
            if first.into_iter().flatten().any(|message| link.send(message, &[]).is_err()) {
                continue;
            }
            while let Some(message) = self.unheard.front() {
                if link.send(message, &[]).is_err() {
                    break;
                }
                self.unheard.pop_front();
            }
            if self.links.len() == LINKS_MAX {
                self.links.pop_front();
            }
            self.links.push_back((LinkId(self.next), link));
            self.next += 1;
        }
    }

    /// Some time has passed: accepting may work again.
    pub fn resume(&mut self) {
        self.is_paused = false;
    }

    /// The messages that wait, link by link in their order; closed links go.
    pub fn receive(&mut self) -> Vec<Received> {
        let mut all = Vec::new();
        self.links.retain(|(id, link)| {
            for _ in 0..MESSAGES_MAX {
                match link.receive() {
                    Ok((message, fds)) => all.push((*id, message, fds)),
                    Err(LinkError::Empty) => return true,
                    // A younger front may say what this session does not know; the rest it does.
                    Err(LinkError::Malformed(e)) => tracing::warn!(error = e, "a front's message"),
                    Err(LinkError::Closed | LinkError::Full | LinkError::System(_)) => {
                        return false;
                    }
                }
            }
            true
        });
        all
    }

    /// Tells all. The outcome of the session is kept for a front that is yet to come.
    pub fn tell(&mut self, message: FromSession) {
        self.links.retain(|(_, link)| link.send(&message, &[]).is_ok());
        match &message {
            FromSession::ViewerConnected { .. } => self.connected = Some(message.clone()),
            FromSession::ViewerGone { viewer: gone, .. } => _ = self.connected.take_if(|message| {
                matches!(message, FromSession::ViewerConnected { viewer, .. } if viewer == gone)
            }),
            _ => {}
        }
        let is_outcome =
            matches!(message, FromSession::StartFailed { .. } | FromSession::AppExited { .. });
        if is_outcome && self.links.is_empty() && self.unheard.len() < UNHEARD_MAX {
            self.unheard.push_back(message);
        }
    }

    /// Answers one.
    pub fn answer(&mut self, to: LinkId, message: &FromSession) {
        self.links.retain(|(id, link)| *id != to || link.send(message, &[]).is_ok());
    }

    /// Something is to be told and nobody was there.
    pub fn owes(&self) -> bool {
        !self.unheard.is_empty()
    }

    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let listener = (!self.is_paused).then_some(self.listener.as_fd());
        listener.into_iter().chain(self.links.iter().map(|(_, link)| link.as_fd()))
    }
}
