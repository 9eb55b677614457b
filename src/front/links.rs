//! Links as the front writes to them: never waiting, with a bounded queue behind each.
//!
//! [`Outgoing`] is one link with its queue. [`SessionLinks`] is what the door needs of them: a socket
//! for a session goes at once or not at all, because the next ping brings another chance.
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::ipc::{SessionId, ToSession};
use crate::proc::link::{Link, LinkError};
use crate::time::Time;

/// Messages that may wait for one peer to read.
const QUEUE_MAX: usize = 128;
/// A peer that takes nothing for this long is deaf.
const STUCK_MAX: Duration = Duration::from_secs(2);

/// One link and the messages that it did not take yet.
pub struct Outgoing {
    link: Link,
    queue: VecDeque<Vec<u8>>,
    stuck_since: Option<Time>,
}

/// The peer does not read, or its end is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Deaf {
    #[error("the peer does not read its messages")]
    Stuck,
    #[error("the link is broken")]
    Broken,
    /// This one message only.
    #[error("the message is too large")]
    TooLarge,
}

impl Outgoing {
    pub fn new(link: Link) -> Self {
        Self { link, queue: VecDeque::new(), stuck_since: None }
    }

    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Sends, or queues behind what waits already.
    ///
    /// # Errors
    /// `TooLarge` concerns this message only; after the others the link is of no use.
    pub fn send<T: Serialize>(&mut self, message: &T, now: Time) -> Result<(), Deaf> {
        let bytes = serde_json::to_vec(message).map_err(|_| Deaf::TooLarge)?;
        if bytes.len() > crate::limits::IPC_MESSAGE_BYTES_MAX {
            return Err(Deaf::TooLarge);
        }
        if self.queue.len() >= QUEUE_MAX {
            return Err(Deaf::Stuck);
        }
        self.queue.push_back(bytes);
        self.flush(now)
    }

    /// Sends what waits, as far as the peer takes it. Call when the link is writable, and when
    /// [`give_up_at`](Self::give_up_at) has come.
    pub fn flush(&mut self, now: Time) -> Result<(), Deaf> {
        while let Some(bytes) = self.queue.front() {
            match self.link.send_bytes(bytes, &[]) {
                Ok(()) => {
                    self.queue.pop_front();
                    self.stuck_since = None;
                }
                Err(LinkError::Full) => {
                    let since = *self.stuck_since.get_or_insert(now);
                    let stuck = now.since(since) >= STUCK_MAX;
                    return if stuck { Err(Deaf::Stuck) } else { Ok(()) };
                }
                Err(_) => return Err(Deaf::Broken),
            }
        }
        self.stuck_since = None;
        Ok(())
    }

    /// Whether messages wait for the link to become writable.
    pub fn waits(&self) -> bool {
        !self.queue.is_empty()
    }

    /// When a peer that reads nothing counts as deaf.
    pub fn give_up_at(&self) -> Option<Time> {
        self.stuck_since.map(|since| since + STUCK_MAX)
    }
}

/// A second handle to each session's link, for the door.
#[derive(Default)]
pub struct SessionLinks(Mutex<BTreeMap<SessionId, Link>>);

impl SessionLinks {
    pub fn insert(&self, session: SessionId, link: Link) {
        self.lock().insert(session, link);
    }

    pub fn remove(&self, session: SessionId) {
        self.lock().remove(&session);
    }

    /// Hands a socket to a session now, or not at all.
    ///
    /// # Errors
    /// The link is full, gone, or was never there.
    pub fn hand_over(
        &self,
        session: SessionId,
        message: &ToSession,
        socket: BorrowedFd<'_>,
    ) -> Result<(), LinkError> {
        let links = self.lock();
        links.get(&session).ok_or(LinkError::Closed)?.send(message, &[socket.as_fd()])
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<SessionId, Link>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_does_not_read_is_deaf_after_its_time_and_not_before() {
        let (ours, theirs) = Link::pair().unwrap();
        let mut outgoing = Outgoing::new(ours);
        let message = "x".repeat(60_000);
        let start = Time::from_millis(1000);
        while !outgoing.waits() {
            outgoing.send(&message, start).unwrap();
        }
        assert_eq!(outgoing.give_up_at(), Some(start + STUCK_MAX));
        assert_eq!(outgoing.flush(start + STUCK_MAX / 2), Ok(()));
        assert_eq!(outgoing.flush(start + STUCK_MAX), Err(Deaf::Stuck));
        // It reads after all: everything arrives, in order and whole.
        while let Ok((text, _)) = theirs.receive::<String>() {
            assert_eq!(text, message);
            outgoing.flush(start).unwrap();
        }
        assert!(!outgoing.waits());
        assert_eq!(outgoing.give_up_at(), None);
    }

    #[test]
    fn the_queue_is_bounded_and_one_large_message_harms_no_other() {
        let (ours, theirs) = Link::pair().unwrap();
        let mut outgoing = Outgoing::new(ours);
        let now = Time::ZERO;
        let huge = "x".repeat(crate::limits::IPC_MESSAGE_BYTES_MAX);
        assert_eq!(outgoing.send(&huge, now), Err(Deaf::TooLarge));
        outgoing.send(&1, now).unwrap();
        assert_eq!(theirs.receive::<u32>().unwrap().0, 1);
        let message = "x".repeat(60_000);
        let refused = (0..10_000).find_map(|_| outgoing.send(&message, now).err());
        assert_eq!(refused, Some(Deaf::Stuck));
        assert_eq!(outgoing.queue.len(), QUEUE_MAX);
        drop(theirs);
        assert_eq!(outgoing.flush(now), Err(Deaf::Broken));
    }
}
