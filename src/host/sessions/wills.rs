//! Last wills: what the client of a session that died still has to be told.
use std::net::SocketAddr;
use std::time::Duration;

use super::Connected;
use crate::ipc::SessionId;
use crate::time::Time;

/// How long a dead session's peer is told so: it gives up by itself after ten seconds.
const WILL: Duration = Duration::from_secs(15);
/// Wills that are kept; the oldest goes first.
const WILLS_MAX: usize = 64;

/// The termination datagram of a session that died while a viewer was connected.
struct Will {
    session: SessionId,
    connected: Connected,
    until: Time,
}

/// All wills, oldest first.
#[derive(Default)]
pub(in crate::host) struct Wills(Vec<Will>);

impl Wills {
    pub(super) fn leave(&mut self, session: SessionId, connected: Connected, now: Time) {
        if self.0.len() >= WILLS_MAX {
            self.0.remove(0);
        }
        self.0.push(Will { session, connected, until: now + WILL });
    }

    pub(super) fn expire(&mut self, now: Time) {
        self.0.retain(|will| will.until > now);
    }

    pub(super) fn next_timeout(&self) -> Option<Time> {
        self.0.iter().map(|will| will.until).min()
    }

    /// Whether a client that is still to be told goes by this ENet peer id.
    pub(super) fn hold(&self, peer_id: u16) -> bool {
        self.0.iter().any(|will| will.connected.peer_id == peer_id)
    }

    /// The dead session whose client speaks. An address that was not its client's gets nothing.
    pub(in crate::host) fn of(&self, peer_id: u16, source: SocketAddr) -> Option<SessionId> {
        let its = |c: &Connected| c.peer_id == peer_id && c.peer == source;
        self.0.iter().find(|will| its(&will.connected)).map(|will| will.session)
    }

    pub(in crate::host) fn datagram(&self, session: SessionId) -> Option<&[u8]> {
        let will = self.0.iter().find(|will| will.session == session)?;
        Some(&will.connected.last_will)
    }
}
