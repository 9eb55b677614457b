//! A door and a client for tests of sessions: connected sockets as the door makes them, ENet as clients
//! drive it.
#![allow(dead_code, reason = "each test uses a part of it")]
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use moonshard::ipc::{ViewerGrant, ViewerId};
use moonshard::proto::control::{Direction, Feedback, Message, OpenWindow, SealedSender, Version};
use moonshard::proto::enet;
use moonshard::proto::input::InputEvent;
use moonshard::proto::secret::SessionKey;
use moonshard::proto::stream::{AudioSpec, Codec, Colorspace, Mode, StreamSpec, VideoSpec};
use rusty_enet::{EventNoRef, Host, HostSettings, MTU_MAX, Packet, PacketReceived, PeerID, Socket};

pub const KEY: [u8; 16] = [7; 16];
pub const CONNECT_DATA: u32 = 0xC0FF_EE01;
pub const PEER_ID: u16 = 0x5A5;
/// Nothing here takes longer, unless it does not work.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough for an answer over loopback to have come, several times over.
pub const SILENCE: Duration = Duration::from_millis(400);

pub fn grant() -> ViewerGrant {
    ViewerGrant {
        viewer: ViewerId(1),
        key: SessionKey(KEY),
        rikeyid: 1,
        ping_payload: "0123456789ABCDEF".into(),
        connect_data: CONNECT_DATA,
        peer_id: PEER_ID,
    }
}

pub fn stream(control_v2: bool, sends_identity: bool) -> StreamSpec {
    StreamSpec {
        video: VideoSpec {
            mode: Mode { width: 1280, height: 720, millihertz: 60_000 },
            codec: Codec::H264,
            ten_bit: false,
            yuv444: false,
            colorspace: Colorspace::Rec709,
            full_range: false,
            bitrate_kbps: 10_000,
            slices: 1,
            reference_frames_max: 0,
            packet_size: 1024,
            fec_percent: 20,
            fec_packets_min: 2,
            encrypted: true,
            qos: false,
        },
        audio: AudioSpec {
            channels: 2,
            streams: 1,
            coupled: 1,
            mapping: vec![0, 1],
            bitrate: 96_000,
            packet_ms: 5,
            encrypted: true,
            qos: false,
        },
        control_v2,
        sends_fec_status: true,
        sends_identity,
    }
}

/// The wildcard socket of the control port.
pub struct Door {
    pub socket: UdpSocket,
}

impl Door {
    pub fn new() -> Self {
        let socket = reusable();
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into()).unwrap();
        let socket: UdpSocket = socket.into();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket }
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.socket.local_addr().unwrap().port()).into()
    }

    /// Waits for a datagram and makes the flow's connected socket, as the door does.
    pub fn hand_over(&self) -> (OwnedFd, Vec<u8>, SocketAddr) {
        let mut buffer = [0; 2048];
        let (length, peer) = self.socket.recv_from(&mut buffer).expect("a first datagram");
        (self.flow(peer), buffer[..length].to_vec(), peer)
    }

    pub fn flow(&self, peer: SocketAddr) -> OwnedFd {
        let flow = reusable();
        flow.bind(&self.address().into()).unwrap();
        flow.connect(&peer.into()).unwrap();
        flow.into()
    }

    pub fn hears_nothing(&self) -> bool {
        self.socket.set_read_timeout(Some(SILENCE)).unwrap();
        let nothing = self.socket.recv_from(&mut [0; 2048]).is_err();
        self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        nothing
    }
}

pub fn reusable() -> socket2::Socket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket
}

/// The client's socket; it can be exchanged, as by a NAT that forgets.
pub struct ClientWire {
    pub socket: UdpSocket,
    pub received: usize,
    /// The peer id in the last datagram to the host.
    pub sent_to: Option<u16>,
}

impl Socket for ClientWire {
    type Address = ();
    type Error = io::Error;

    fn send(&mut self, (): (), datagram: &[u8]) -> io::Result<usize> {
        self.sent_to = enet::peek(datagram).and_then(|peek| peek.peer);
        // A refused port is the host's restart, not the end of the client.
        Ok(self.socket.send(datagram).unwrap_or(0))
    }

    fn receive(&mut self, buffer: &mut [u8; MTU_MAX]) -> io::Result<Option<((), PacketReceived)>> {
        let Ok(length) = self.socket.recv(buffer) else { return Ok(None) };
        self.received += 1;
        Ok(Some(((), PacketReceived::Complete(length))))
    }
}

pub fn client_socket(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect(to).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// A client as moonlight-common-c drives ENet: 48 channels, MTU 900, no checksum.
pub struct Client {
    pub host: Host<ClientWire>,
    pub sealer: SealedSender,
    pub opener: OpenWindow,
    pub connected: bool,
    pub disconnected: bool,
    pub heard: Vec<Feedback>,
    /// Sequence number of the last message heard.
    pub sequence: Option<u32>,
}

impl Client {
    pub fn connect(to: SocketAddr, data: u32, version: Version) -> Self {
        let wire = ClientWire { socket: client_socket(to), received: 0, sent_to: None };
        let settings = HostSettings { peer_limit: 1, channel_limit: 48, ..Default::default() };
        let mut host = Host::new(wire, settings).unwrap();
        host.set_mtu(900).unwrap();
        host.connect((), 48, data).unwrap().set_timeout(2, 10_000, 10_000);
        let key = SessionKey(KEY);
        Self {
            host,
            sealer: SealedSender::new(key.clone(), version, Direction::ClientToHost),
            opener: OpenWindow::new(key, version, Direction::HostToClient),
            connected: false,
            disconnected: false,
            heard: vec![],
            sequence: None,
        }
    }

    pub fn service(&mut self) {
        while let Some(event) = self.host.service().unwrap().map(rusty_enet::Event::no_ref) {
            match event {
                EventNoRef::Connect { .. } => self.connected = true,
                EventNoRef::Disconnect { .. } => self.disconnected = true,
                EventNoRef::Receive { packet, .. } => {
                    let inner = self.opener.open(packet.data()).expect("the host's message opens");
                    self.sequence = Some(inner.sequence);
                    self.heard.extend(Feedback::parse(inner.kind, inner.payload()));
                }
            }
        }
    }

    pub fn seal(&mut self, message: &Message<'_>) -> Vec<u8> {
        self.sealer.seal(&message.write()).unwrap()
    }

    pub fn send(&mut self, channel: u8, message: &Message<'_>) {
        let packet = self.seal(message);
        self.send_raw(channel, &packet);
    }

    pub fn send_raw(&mut self, channel: u8, packet: &[u8]) {
        self.host.peer_mut(PeerID(0)).send(channel, &Packet::reliable(packet)).unwrap();
        self.host.flush();
    }

    pub fn input(&mut self, event: &InputEvent) {
        self.send(event.channel(), &Message::Input(&event.write()));
    }
}
