//! The control connection: ENet on 48 channels, sealed messages, pings.
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use moonshard::proto::control::{Direction, Feedback, Message, OpenWindow, SealedSender, Version};
use moonshard::proto::input::InputEvent;
use moonshard::proto::secret::SessionKey;
use rusty_enet::{EventNoRef, Host, HostSettings, Packet, PeerID};

const CHANNELS: usize = 48;
const PING_EVERY: Duration = Duration::from_millis(100);

/// What the host said.
pub enum Heard {
    Connected,
    Disconnected,
    Termination(u32),
}

/// The connection of one stream.
pub struct Control {
    host: Host<UdpSocket>,
    peer: PeerID,
    sender: SealedSender,
    window: OpenWindow,
    connected: bool,
    next_ping: Instant,
}

impl Control {
    pub fn connect(
        local: SocketAddr,
        to: SocketAddr,
        data: u32,
        key: &SessionKey,
        v2: bool,
    ) -> Result<Self, String> {
        let socket = UdpSocket::bind(local).map_err(|e| e.to_string())?;
        socket.set_nonblocking(true).map_err(|e| e.to_string())?;
        let settings =
            HostSettings { peer_limit: 1, channel_limit: CHANNELS, ..HostSettings::default() };
        let mut host = Host::new(socket, settings).map_err(|e| format!("{e:?}"))?;
        let peer = host.connect(to, CHANNELS, data).map_err(|e| format!("{e:?}"))?;
        peer.set_timeout(2, 10_000, 10_000);
        let peer = peer.id();
        let version = if v2 { Version::V2 } else { Version::V1 };
        Ok(Self {
            host,
            peer,
            sender: SealedSender::new(key.clone(), version, Direction::ClientToHost),
            window: OpenWindow::new(key.clone(), version, Direction::HostToClient),
            connected: false,
            next_ping: Instant::now(),
        })
    }

    /// Moves ENet on; gives what the host said.
    pub fn turn(&mut self) -> Result<Vec<Heard>, String> {
        let mut heard = Vec::new();
        if self.connected && Instant::now() >= self.next_ping {
            self.next_ping = Instant::now() + PING_EVERY;
            self.send(0, true, &Message::Ping);
        }
        while let Some(event) = self.host.service().map_err(|e| format!("{e:?}"))? {
            match event.no_ref() {
                EventNoRef::Connect { .. } => {
                    self.connected = true;
                    heard.push(Heard::Connected);
                }
                EventNoRef::Disconnect { .. } => {
                    self.connected = false;
                    heard.push(Heard::Disconnected);
                }
                EventNoRef::Receive { packet, .. } => {
                    let Ok(inner) = self.window.open(packet.data()) else { continue };
                    if let Some(Feedback::Termination { code }) =
                        Feedback::parse(inner.kind, inner.payload())
                    {
                        heard.push(Heard::Termination(code));
                    }
                }
            }
        }
        Ok(heard)
    }

    pub fn send(&mut self, channel: u8, reliable: bool, message: &Message<'_>) {
        let Ok(sealed) = self.sender.seal(&message.write()) else { return };
        let packet = match reliable {
            true => Packet::reliable(&sealed[..]),
            false => Packet::unreliable(&sealed[..]),
        };
        let _ = self.host.peer_mut(self.peer).send(channel, &packet);
    }

    pub fn input(&mut self, event: &InputEvent) {
        let bytes = event.write();
        self.send(event.channel(), event.is_reliable(), &Message::Input(&bytes));
        self.host.flush();
    }

    /// Says goodbye and waits at most two seconds for the host's acknowledgement.
    pub fn leave(&mut self) -> bool {
        self.host.peer_mut(self.peer).disconnect_later(0);
        let end = Instant::now() + Duration::from_secs(2);
        while self.connected && Instant::now() < end {
            let _ = self.turn();
            std::thread::sleep(Duration::from_millis(2));
        }
        !self.connected
    }
}
