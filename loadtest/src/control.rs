//! The control stream: ENet to the host, sealed messages both ways.
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use moonshard::proto::control::{Direction, Feedback, Message, OpenWindow, SealedSender, Version};
use moonshard::proto::input::InputEvent;
use moonshard::proto::secret::SessionKey;
use rusty_enet::{EventNoRef, Host, HostSettings, MTU_MAX, Packet, PacketReceived, PeerID, Socket};

const CONNECT_WAIT: Duration = Duration::from_secs(10);
const GOODBYE_WAIT: Duration = Duration::from_secs(2);
const PING_EVERY: Duration = Duration::from_millis(100);
const CHANNELS: usize = 48;
const MTU: u16 = 900;
const GENERIC: u8 = 0;
const URGENT: u8 = 1;

/// The control stream cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("control stream: {0}")]
    Socket(#[from] io::Error),
    #[error("the host does not answer on the control port")]
    NoAnswer,
}

/// What came from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It said so, with this code.
    Terminated(u32),
    /// ENet ended without a word, or it timed out.
    Disconnected,
}

struct Wire(UdpSocket);

impl Socket for Wire {
    type Address = ();
    type Error = io::Error;

    fn send(&mut self, (): (), datagram: &[u8]) -> io::Result<usize> {
        // A refused port shows in the timeout.
        Ok(self.0.send(datagram).unwrap_or(0))
    }

    fn receive(&mut self, buffer: &mut [u8; MTU_MAX]) -> io::Result<Option<((), PacketReceived)>> {
        let Ok(length) = self.0.recv(buffer) else { return Ok(None) };
        Ok(Some(((), PacketReceived::Complete(length))))
    }
}

/// A UDP socket of this client, connected to one port of the host.
pub fn udp(to: SocketAddr) -> io::Result<UdpSocket> {
    let from = match to {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(from)?;
    socket.connect(to)?;
    Ok(socket)
}

/// The connected stream.
pub struct Control {
    host: Host<Wire>,
    sealer: SealedSender,
    opener: OpenWindow,
    next_ping: Instant,
    pub ended: Option<Ended>,
    /// Messages of the host that did not open.
    pub unopened: u64,
}

impl Control {
    /// Connects, and says that the client is ready.
    pub fn connect(
        to: SocketAddr,
        data: u32,
        key: &SessionKey,
        version: Version,
    ) -> Result<Self, ControlError> {
        let socket = udp(to)?;
        socket.set_nonblocking(true)?;
        let settings =
            HostSettings { peer_limit: 1, channel_limit: CHANNELS, ..Default::default() };
        let broken = |_| ControlError::NoAnswer;
        let mut host = Host::new(Wire(socket), settings).map_err(|_| ControlError::NoAnswer)?;
        host.set_mtu(MTU).map_err(|_| ControlError::NoAnswer)?;
        let peer = host.connect((), CHANNELS, data).map_err(|_| ControlError::NoAnswer)?;
        peer.set_timeout(2, 10_000, 10_000);
        let mut control = Self {
            host,
            sealer: SealedSender::new(key.clone(), version, Direction::ClientToHost),
            opener: OpenWindow::new(key.clone(), version, Direction::HostToClient),
            next_ping: Instant::now(),
            ended: None,
            unopened: 0,
        };
        let deadline = Instant::now() + CONNECT_WAIT;
        while !control.service().map_err(broken)? {
            if Instant::now() > deadline || control.ended.is_some() {
                return Err(ControlError::NoAnswer);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        control.send(GENERIC, &Message::RequestIdr);
        control.send(GENERIC, &Message::StartB);
        control.send(GENERIC, &Message::Input(&InputEvent::EnableHaptics(true).write()));
        Ok(control)
    }

    /// Takes what came and sends what is due. Whether the connection was made now.
    pub fn service(&mut self) -> io::Result<bool> {
        let mut connected = false;
        while let Some(event) = self.host.service()?.map(rusty_enet::Event::no_ref) {
            match event {
                EventNoRef::Connect { .. } => connected = true,
                EventNoRef::Disconnect { .. } => {
                    self.ended.get_or_insert(Ended::Disconnected);
                }
                EventNoRef::Receive { packet, .. } => self.hear(packet.data()),
            }
        }
        Ok(connected)
    }

    fn hear(&mut self, packet: &[u8]) {
        let Ok(inner) = self.opener.open(packet) else {
            self.unopened += 1;
            return;
        };
        if let Some(Feedback::Termination { code }) = Feedback::parse(inner.kind, inner.payload()) {
            self.ended.get_or_insert(Ended::Terminated(code));
        }
    }

    /// To be called often: pings every 100 ms.
    pub fn tick(&mut self) -> io::Result<()> {
        self.service()?;
        if Instant::now() >= self.next_ping && self.ended.is_none() {
            self.next_ping = Instant::now() + PING_EVERY;
            self.send(GENERIC, &Message::Ping);
        }
        Ok(())
    }

    pub fn urgent(&mut self, message: &Message<'_>) {
        self.send(URGENT, message);
    }

    pub fn input(&mut self, event: &InputEvent) {
        self.send(event.channel(), &Message::Input(&event.write()));
    }

    fn send(&mut self, channel: u8, message: &Message<'_>) {
        let Ok(packet) = self.sealer.seal(&message.write()) else { return };
        // It fails only on a peer that is gone, which `ended` tells.
        let _ = self.host.peer_mut(PeerID(0)).send(channel, &Packet::reliable(&packet[..]));
        self.host.flush();
    }

    /// Says goodbye and waits a moment for the answer.
    pub fn disconnect(mut self) {
        if self.ended.is_some() {
            return;
        }
        self.host.peer_mut(PeerID(0)).disconnect(0);
        let deadline = Instant::now() + GOODBYE_WAIT;
        while self.ended.is_none() && Instant::now() < deadline && self.service().is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
