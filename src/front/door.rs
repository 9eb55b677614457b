//! The door: one plain thread that reads the unconnected UDP sockets.
//!
//! The first datagram of a flow says whose it is. The door then makes a socket that gets this peer's
//! datagrams from now on, and passes it with the datagram to the session. Strangers get nothing, not
//! even an error: a reply to an address that has shown nothing would be somebody else's flood.
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, PollFd, PollFlags, poll};

use super::core::Core;
use super::links::SessionLinks;
use super::turn::Turn;
use crate::host::event::Route;
use crate::ipc::{SessionId, ToSession, ViewerId};
use crate::net::{Batch, DoorSocket};
use crate::proto::enet::{self, Command};
use crate::proto::ping::Ping;
use crate::proto::stream::Flow;
use crate::shard::now;

/// Batches taken from one socket before the others have their turn.
const BATCHES_PER_TURN: usize = 4;
/// Datagrams that slipped into a fresh socket and are looked at like the door's own.
const SLIPPED_MAX: usize = 64;

/// One datagram of a known flow, on its way to its session.
struct Arrival {
    local: SocketAddr,
    peer: SocketAddr,
    bytes: Vec<u8>,
}

/// The thread's state.
pub struct Door {
    core: Arc<Core>,
    links: Arc<SessionLinks>,
    sockets: Vec<(Flow, DoorSocket)>,
    stop: Arc<OwnedFd>,
    turn: Arc<Turn>,
}

/// Ends the door's thread.
#[derive(Clone)]
pub struct DoorStop(Arc<OwnedFd>);

impl DoorStop {
    pub fn stop(&self) {
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
}

impl Door {
    /// Takes the sockets in the order of the boot message: video, control, audio, per family.
    ///
    /// # Errors
    /// If one is no door socket, or the system gives no eventfd.
    pub fn new(
        core: Arc<Core>,
        links: Arc<SessionLinks>,
        sockets: Vec<OwnedFd>,
    ) -> io::Result<Self> {
        let flows = [Flow::Video, Flow::Control, Flow::Audio].into_iter().cycle();
        let sockets = flows.zip(sockets).map(|(flow, fd)| Ok((flow, DoorSocket::from_fd(fd)?)));
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let sockets = sockets.collect::<io::Result<_>>()?;
        Ok(Self { core, links, sockets, stop: Arc::new(stop), turn: Arc::default() })
    }

    pub fn stopper(&self) -> DoorStop {
        DoorStop(Arc::clone(&self.stop))
    }

    /// What the thread shows of itself.
    pub fn turn(&self) -> Arc<Turn> {
        Arc::clone(&self.turn)
    }

    /// The thread's work; ends when stopped.
    pub fn run(self) {
        let mut batch = Batch::default();
        loop {
            let mut fds = vec![PollFd::new(&*self.stop, PollFlags::IN)];
            fds.extend(self.sockets.iter().map(|(_, s)| PollFd::new(s, PollFlags::IN)));
            self.turn.end();
            let polled = poll(&mut fds, None);
            self.turn.begin();
            if let Err(error) = polled
                && error != rustix::io::Errno::INTR
            {
                tracing::error!(%error, "the door cannot wait");
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            if !fds[0].revents().is_empty() {
                return self.turn.end();
            }
            let ready: Vec<bool> = fds[1..].iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(fds);
            for (index, _) in ready.iter().enumerate().filter(|(_, ready)| **ready) {
                self.read(index, &mut batch);
            }
        }
    }

    fn read(&self, index: usize, batch: &mut Batch) {
        let (flow, socket) = &self.sockets[index];
        for _ in 0..BATCHES_PER_TURN {
            match socket.recv_batch(batch) {
                Ok(true) => {}
                Ok(false) => return,
                // An ICMP error about a last will, or a lack of memory: the next turn tells.
                Err(error) => return tracing::debug!(?flow, %error, "the door could not read"),
            }
            for datagram in socket.datagrams(batch) {
                self.datagram(*flow, socket, datagram.local, datagram.peer, datagram.bytes);
            }
        }
    }

    fn datagram(
        &self,
        flow: Flow,
        socket: &DoorSocket,
        local: SocketAddr,
        peer: SocketAddr,
        bytes: &[u8],
    ) {
        let mut slipped = VecDeque::new();
        self.arrival(flow, socket, (local, peer, bytes), &mut slipped);
        // Others that came while a socket was made; theirs may be flows of their own.
        let mut looked_at = 0;
        while let Some(Arrival { local, peer, bytes }) = slipped.pop_front() {
            looked_at += 1;
            if looked_at > SLIPPED_MAX {
                return;
            }
            self.arrival(flow, socket, (local, peer, &bytes), &mut slipped);
        }
    }

    fn arrival(
        &self,
        flow: Flow,
        socket: &DoorSocket,
        (local, peer, bytes): (SocketAddr, SocketAddr, &[u8]),
        slipped: &mut VecDeque<Arrival>,
    ) {
        let counters = self.core.counters();
        counters.door_datagrams.add();
        match self.route(flow, peer, bytes) {
            Route::HandOver { session, viewer } => match socket.connected_for(local, peer) {
                Ok(connected) => {
                    let others = connected.drained.into_iter();
                    slipped.extend(others.map(|(peer, bytes)| Arrival { local, peer, bytes }));
                    let first = bytes.to_vec();
                    let message = ToSession::Socket { viewer, flow, local, peer, first };
                    self.hand_over(session, viewer, &message, &connected.fd);
                }
                Err(error) => {
                    counters.door_sockets_failed.add();
                    tracing::warn!(%session, ?flow, %peer, %error, "no socket for the peer");
                }
            },
            Route::LastWill { session } => {
                let Some(will) = self.core.last_will(session) else { return };
                match socket.send_from(local, peer, &will) {
                    Ok(()) => counters.door_last_wills.add(),
                    Err(error) => tracing::debug!(%session, %peer, %error, "last will not sent"),
                }
            }
            Route::Stranger => counters.door_strangers.add(),
        }
    }

    fn hand_over(
        &self,
        session: SessionId,
        viewer: ViewerId,
        message: &ToSession,
        socket: &OwnedFd,
    ) {
        match self.links.hand_over(session, message, socket.as_fd()) {
            Ok(()) => {
                self.core.counters().door_handed_over.add();
                tracing::debug!(%session, %viewer, "socket handed over");
            }
            // The peer's next datagram comes to the door again: the socket is closed here.
            Err(error) => {
                self.core.counters().door_dropped.add();
                tracing::warn!(%session, %viewer, %error, "the session did not take a socket");
            }
        }
    }

    fn route(&self, flow: Flow, peer: SocketAddr, bytes: &[u8]) -> Route {
        let Some(question) = Question::of(flow, bytes) else { return Route::Stranger };
        let now = now();
        self.core.route(|host| match question {
            Question::Ping(None) => host.route_ping(flow, None, peer, now),
            Question::Ping(Some(payload)) => host.route_ping(flow, Some(&payload), peer, now),
            Question::Connect(data) => host.route_connect(data, peer, now),
            Question::Peer(id) => host.route_peer(id, peer, now),
        })
    }
}

/// What a datagram asks of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Ping(Option<[u8; 16]>),
    Connect(u32),
    Peer(u16),
}

impl Question {
    /// None: it can be nobody's, and the host need not be asked.
    fn of(flow: Flow, bytes: &[u8]) -> Option<Self> {
        if flow != Flow::Control {
            return Some(match Ping::parse(bytes)? {
                Ping::Legacy => Self::Ping(None),
                // Payloads are printable: what else is thrown at the port is not worth the lock.
                Ping::Identified { payload, .. } => {
                    payload.iter().all(u8::is_ascii_graphic).then_some(Self::Ping(Some(payload)))?
                }
            });
        }
        let peek = enet::peek(bytes)?;
        match (peek.first, peek.peer) {
            (Command::Connect(connect), _) => Some(Self::Connect(connect.data)),
            (_, Some(peer)) => Some(Self::Peer(peer)),
            (_, None) => None,
        }
    }
}

/// Starts the door's thread.
///
/// # Errors
/// If the thread cannot be made.
pub fn spawn(door: Door) -> io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name("door".into()).spawn(move || door.run())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wake_on_lan_packets_are_nobodys() {
        let mut magic = vec![0xff; 6];
        (0..16).for_each(|_| magic.extend([0x02, 0xfc, 0x11, 0x22, 0x33, 0x44]));
        assert_eq!(magic.len(), 102);
        for flow in [Flow::Video, Flow::Audio, Flow::Control] {
            assert_eq!(Question::of(flow, &magic), None);
        }
    }

    #[test]
    fn pings_and_noise_are_told_apart() {
        assert_eq!(Question::of(Flow::Video, b"PING"), Some(Question::Ping(None)));
        let payload = *b"0123456789ABCDEF";
        let ping = Ping::Identified { payload, sequence: 1 }.write();
        assert_eq!(Question::of(Flow::Audio, &ping), Some(Question::Ping(Some(payload))));
        for short in 0..ping.len() {
            assert_eq!(Question::of(Flow::Audio, &ping[..short]), None);
        }
        assert_eq!(Question::of(Flow::Video, &[0; 20]), None);
        assert_eq!(Question::of(Flow::Control, &[]), None);
    }
}

#[cfg(test)]
#[path = "door_tests.rs"]
mod loopback;
