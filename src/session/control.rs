//! The control connection of one viewer: an ENet host of its own on a connected UDP socket, and the
//! sealed messages in it.
//!
//! It decides nothing about the viewer and knows neither desktop nor encoder: what was said becomes
//! [`ControlEvent`]s. It never blocks; [`Control::service`] wants to be called when the socket is
//! readable and every [`SERVICE_EVERY`], because ENet's timers live in it.
//!
//! Nothing is sealed before the peer is connected, and each viewer has a key of its own, so the sequence
//! numbers of one key are used by one `Control` only.
use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rusty_enet::{EventNoRef, Host, HostSettings, Packet, Peer, PeerID};

use crate::ipc::{ViewerGrant, ViewerId};
use crate::limits::{CONTROL_MESSAGE_BYTES_MAX, ENET_CHANNELS};
use crate::proto::control::{
    Direction, FecStatus, Feedback, HEADER_BYTES, Inner, Message, OpenError, OpenWindow,
    SealedSender, Version,
};
use crate::proto::enet;
use crate::proto::input::InputEvent;
use crate::proto::stream::StreamSpec;
use crate::time::Time;

mod wire;

use wire::{Admission, Wire};

/// ENet's timers are looked at this often.
pub const SERVICE_EVERY: Duration = Duration::from_millis(10);
/// ENet events taken in one call; more wait for the next.
const EVENTS_MAX: usize = 256;
/// A flow moves at most this often.
const MOVE_EVERY: Duration = Duration::from_secs(1);
/// As clients have it, so that no datagram of ours is fragmented on a path that carries theirs.
const MTU: u16 = 900;
/// Received packets that wait in ENet for an earlier one, bytes.
const WAITING_BYTES_MAX: usize = 256 * 1024;
/// The client acknowledges nothing for this long: gone.
const ACKNOWLEDGE_MS_MAX: u32 = 10_000;
/// Retransmissions before [`ACKNOWLEDGE_MS_MAX`] counts.
const RETRANSMISSIONS: u32 = 32;
/// Everything that a host sends goes there. Source: moonlight-common-c src/ControlStream.c.
const CHANNEL: u8 = 0;
/// The group of the last will; nothing else of ours is unsequenced.
const LAST_WILL_GROUP: u16 = 1;
/// The one peer of the host.
const PEER: PeerID = PeerID(0);

/// What the client said or did.
#[derive(Clone, Debug, PartialEq)]
pub enum ControlEvent {
    /// The connection stands. The datagram ends the client when it is sent to it, by whomever.
    Connected {
        last_will: Vec<u8>,
    },
    /// The client disconnected, or acknowledges nothing any more.
    Closed,
    /// At least one authenticated message came.
    Heard,
    Input(InputEvent),
    /// The next frame is to be a key frame.
    KeyFrame,
    /// How a block of video packets arrived.
    Block(FecStatus),
    /// The client is ready.
    StartB,
}

/// Counts since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub messages: u64,
    /// Dropped: not authentic; seen before; plaintext, lying sizes or senseless.
    pub forged: u64,
    pub replayed: u64,
    pub malformed: u64,
    /// Datagrams that never reached ENet.
    pub strange_datagrams: u64,
    /// Sends that the peer's network or our buffers refused.
    pub send_errors: u64,
    pub moves: u64,
    pub fec_reports: u64,
    /// Packets that the client missed, as those reports say.
    pub packets_missed: u64,
    /// FEC blocks that lacked packets and could be repaired, and those that could not.
    pub blocks_recovered: u64,
    pub blocks_lost: u64,
}

/// Why a flow did not move to a new socket; it stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotMoved {
    /// The datagram proves nothing: no new message that opens under the viewer's key.
    #[error("the new address proves nothing")]
    Unproven,
    /// It moved less than a second ago.
    #[error("moved too often")]
    TooSoon,
    /// No ENet host could be made on the new socket.
    #[error("no ENet host")]
    Host,
}

/// One viewer's control connection.
pub struct Control {
    viewer: ViewerId,
    host: Host<Wire>,
    admission: Admission,
    sender: SealedSender,
    window: OpenWindow,
    connected: bool,
    moved: Option<Time>,
    figures: Figures,
}

impl Control {
    /// Takes the viewer's connected socket and the datagram that opened the flow.
    ///
    /// # Errors
    /// ENet refuses its settings: does not happen.
    pub fn open(
        socket: OwnedFd,
        first: Vec<u8>,
        grant: &ViewerGrant,
        stream: &StreamSpec,
    ) -> io::Result<Self> {
        let admission = Admission {
            peer_id: grant.peer_id,
            connect_data: stream.sends_identity.then_some(grant.connect_data),
        };
        let version = if stream.control_v2 { Version::V2 } else { Version::V1 };
        let key = &grant.key;
        Ok(Self {
            viewer: grant.viewer,
            host: host(Wire::new(socket, first, admission))?,
            admission,
            sender: SealedSender::new(key.clone(), version, Direction::HostToClient),
            window: OpenWindow::new(key.clone(), version, Direction::ClientToHost),
            connected: false,
            moved: None,
            figures: Figures::default(),
        })
    }

    /// Reads, answers, retransmits. True: more is there, call again soon.
    pub fn service(&mut self, events: &mut Vec<ControlEvent>) -> bool {
        let mut heard = false;
        let mut more = true;
        for _ in 0..EVENTS_MAX {
            // The socket's errors are counted in the wire; it reports none.
            match self.host.service().ok().flatten().map(rusty_enet::Event::no_ref) {
                None => {
                    more = false;
                    break;
                }
                Some(EventNoRef::Connect { .. }) => self.on_connect(events),
                Some(EventNoRef::Disconnect { .. }) => {
                    if std::mem::take(&mut self.connected) {
                        events.push(ControlEvent::Closed);
                    }
                }
                Some(EventNoRef::Receive { packet, .. }) => {
                    heard |= self.on_packet(packet.data(), events);
                }
            }
        }
        if heard {
            events.push(ControlEvent::Heard);
        }
        more
    }

    /// Seals and sends a message reliably, at once. False: not connected.
    pub fn send(&mut self, feedback: &Feedback) -> bool {
        if !self.connected {
            return false;
        }
        let Ok(packet) = self.sender.seal(&feedback.write()) else { return false };
        let sent = self.peer().send(CHANNEL, &Packet::reliable(packet.as_slice())).is_ok();
        self.host.flush();
        sent
    }

    /// The peer's flow shows itself on another socket. Connected, it moves only when the datagram holds
    /// a message that opens under the key with a new number; before that, with the right CONNECT.
    pub fn move_to(&mut self, socket: OwnedFd, first: Vec<u8>, now: Time) -> Result<(), NotMoved> {
        if self.moved.is_some_and(|at| now.since(at) < MOVE_EVERY) {
            return Err(NotMoved::TooSoon);
        }
        if self.connected {
            if !enet::packets(&first).any(|packet| self.window.admits(packet)) {
                return Err(NotMoved::Unproven);
            }
            self.host.socket_mut().replace(socket, first);
        } else {
            assert_eq!(self.sender.sent(), 0, "nothing is sealed before the connection stands");
            if !self.admission.is_connect(&first) {
                return Err(NotMoved::Unproven);
            }
            let wire = Wire::new(socket, first, self.admission);
            self.host = host(wire).map_err(|_| NotMoved::Host)?;
        }
        self.moved = Some(now);
        self.figures.moves += 1;
        Ok(())
    }

    /// Disconnects without waiting for an answer. Call before dropping, after the farewell had time.
    pub fn close(&mut self) {
        if std::mem::take(&mut self.connected) {
            self.peer().disconnect_now(0);
            self.host.flush();
        }
    }

    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// To the client and back, as ENet measures it by its pings; None: not connected.
    pub fn round_trip(&self) -> Option<Duration> {
        self.connected.then(|| self.host.peer(PEER).round_trip_time())
    }

    pub fn figures(&self) -> Figures {
        let wire = self.host.socket().figures();
        let (strange_datagrams, send_errors) = (wire.strange, wire.send_errors);
        Figures { strange_datagrams, send_errors, ..self.figures }
    }

    fn peer(&mut self) -> &mut Peer<Wire> {
        self.host.peer_mut(PEER)
    }

    fn on_connect(&mut self, events: &mut Vec<ControlEvent>) {
        self.connected = true;
        self.peer().set_timeout(RETRANSMISSIONS, ACKNOWLEDGE_MS_MAX, ACKNOWLEDGE_MS_MAX);
        let farewell = Feedback::Termination { code: crate::proto::control::TERMINATED_BY_HOST };
        let packet = self.sender.last_will(&farewell.write());
        // A connection stands only after a datagram of ours named the client's id.
        let last_will = self.host.socket().receiver().map_or_else(Vec::new, |(peer, session)| {
            enet::unsequenced(peer, session, LAST_WILL_GROUP, &packet)
        });
        events.push(ControlEvent::Connected { last_will });
    }

    /// True: an authentic message.
    fn on_packet(&mut self, packet: &[u8], events: &mut Vec<ControlEvent>) -> bool {
        match self.window.open(packet) {
            Ok(inner) => {
                self.figures.messages += 1;
                self.on_message(&inner, events);
                return true;
            }
            Err(OpenError::Forged) => self.on_forged(),
            Err(OpenError::Replayed) => self.figures.replayed += 1,
            Err(OpenError::Inner | OpenError::Plaintext | OpenError::Size) => {
                self.figures.malformed += 1;
            }
        }
        false
    }

    /// Told once: who sends them could send many.
    fn on_forged(&mut self) {
        if self.figures.forged == 0 {
            let viewer = self.viewer;
            tracing::warn!(%viewer, "control messages under another key; further ones are counted");
        }
        self.figures.forged += 1;
    }

    fn on_message(&mut self, inner: &Inner, events: &mut Vec<ControlEvent>) {
        match Message::parse(inner) {
            Ok(Message::Input(payload)) => match InputEvent::parse(payload) {
                Ok(event) => events.push(ControlEvent::Input(event)),
                Err(_) => self.figures.malformed += 1,
            },
            Ok(Message::RequestIdr | Message::InvalidateReferenceFrames { .. }) => {
                events.push(ControlEvent::KeyFrame);
            }
            Ok(Message::StartB) => events.push(ControlEvent::StartB),
            Ok(Message::FecStatus(status)) => {
                self.figures.fec_reports += 1;
                self.figures.packets_missed += u64::from(status.missing_before_highest);
                let received = u32::from(status.received_data) + u32::from(status.received_parity);
                match received >= u32::from(status.data_packets) {
                    true => self.figures.blocks_recovered += 1,
                    false => self.figures.blocks_lost += 1,
                }
                events.push(ControlEvent::Block(status));
            }
            Ok(
                Message::FrameStatistics
                | Message::LossStatistics { .. }
                | Message::LtrAck { .. }
                | Message::Ping
                | Message::StartA
                | Message::Unknown { .. },
            ) => {}
            Err(_) => self.figures.malformed += 1,
        }
    }
}

/// Readable when datagrams wait.
impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.host.socket().as_fd()
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("connected", &self.connected).finish_non_exhaustive()
    }
}

fn host(wire: Wire) -> io::Result<Host<Wire>> {
    let settings = HostSettings {
        peer_limit: 1,
        channel_limit: ENET_CHANNELS,
        time: Box::new(monotonic),
        ..HostSettings::default()
    };
    let mut host = Host::new(wire, settings).map_err(|e| io::Error::other(format!("{e:?}")))?;
    let bounded = host
        .set_mtu(MTU)
        .and_then(|()| host.set_maximum_packet_size(HEADER_BYTES + CONTROL_MESSAGE_BYTES_MAX))
        .and_then(|()| host.set_maximum_waiting_data(WAITING_BYTES_MAX));
    bounded.map_err(|e| io::Error::other(format!("{e:?}")))?;
    Ok(host)
}

fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// The error of a socket that reports none.
type Never = Infallible;
