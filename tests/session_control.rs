//! The control connection of a viewer against a real ENet client over loopback, by way of connected
//! sockets as the door makes them.
use std::time::{Duration, Instant};

use moonshard::proto::control::{
    Direction, Feedback, LAST_WILL_SEQUENCE, Message, SealedSender, TERMINATED_BY_HOST, Version,
};
use moonshard::proto::enet;
use moonshard::proto::input::{InputEvent, MouseButton};
use moonshard::proto::secret::SessionKey;
use moonshard::session::control::{Control, ControlEvent, NotMoved};
use moonshard::time::Time;
use rusty_enet::PeerID;

mod session_client;

use session_client::{
    CONNECT_DATA, Client, Door, KEY, PATIENCE, PEER_ID, client_socket, grant, stream,
};

/// Both ends and the door.
struct Pair {
    door: Door,
    client: Client,
    control: Control,
    events: Vec<ControlEvent>,
}

impl Pair {
    fn connected() -> Self {
        Self::connected_as(true, true, CONNECT_DATA)
    }

    fn connected_as(v2: bool, sends_identity: bool, data: u32) -> Self {
        let door = Door::new();
        let version = if v2 { Version::V2 } else { Version::V1 };
        let mut client = Client::connect(door.address(), data, version);
        client.service();
        let (socket, first, _) = door.hand_over();
        let control = Control::open(socket, first, &grant(), &stream(v2, sends_identity)).unwrap();
        let mut pair = Self { door, client, control, events: vec![] };
        pair.until(|pair| pair.client.connected && pair.control.is_connected());
        pair
    }

    fn step(&mut self) {
        self.client.service();
        self.control.service(&mut self.events);
        std::thread::sleep(Duration::from_millis(1));
    }

    fn until(&mut self, done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < end, "not within {PATIENCE:?}: {:?}", self.events);
            self.step();
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.step();
        }
    }

    fn last_will(&self) -> Vec<u8> {
        let last_will = self.events.iter().find_map(|event| match event {
            ControlEvent::Connected { last_will } => Some(last_will.clone()),
            _ => None,
        });
        last_will.expect("it is connected")
    }

    /// What was said, without the notes that something was heard.
    fn said(&self) -> Vec<&ControlEvent> {
        let is_said = |event: &&ControlEvent| {
            !matches!(event, ControlEvent::Heard | ControlEvent::Connected { .. })
        };
        self.events.iter().filter(is_said).collect()
    }

    /// The connection works in both directions.
    fn works(&mut self) {
        let heard = self.client.heard.len();
        self.events.clear();
        self.client.send(1, &Message::RequestIdr);
        assert!(self.control.send(&Feedback::Rumble { controller: 0, low: 1, high: 2 }));
        self.until(|pair| {
            pair.client.heard.len() > heard && pair.events.contains(&ControlEvent::KeyFrame)
        });
    }
}

fn click(down: bool) -> InputEvent {
    InputEvent::MouseButton { down, button: MouseButton::Left }
}

#[test]
fn a_client_connects_and_messages_pass_in_both_directions() {
    let mut pair = Pair::connected();
    pair.client.send(0, &Message::RequestIdr);
    pair.client.send(0, &Message::StartB);
    pair.until(|pair| pair.events.contains(&ControlEvent::StartB));
    pair.client.input(&click(true));
    pair.client.input(&click(false));
    pair.client.send(0, &Message::Ping);
    pair.until(|pair| pair.said().len() == 4);
    let expected = [
        ControlEvent::KeyFrame,
        ControlEvent::StartB,
        ControlEvent::Input(click(true)),
        ControlEvent::Input(click(false)),
    ];
    assert_eq!(pair.said(), expected.iter().collect::<Vec<_>>());
    assert!(pair.events.contains(&ControlEvent::Heard));

    assert!(pair.control.send(&Feedback::HdrMode(None)));
    pair.until(|pair| !pair.client.heard.is_empty());
    assert_eq!(pair.client.heard, [Feedback::HdrMode(None)]);
    assert_eq!(pair.client.sequence, Some(0), "the host's numbers begin at 0");
    let sent_to = pair.client.host.socket().sent_to;
    assert_eq!(sent_to, Some(PEER_ID), "the host-wide id is on the wire");
}

#[test]
fn version_one_and_clients_without_identity_are_served_too() {
    let mut pair = Pair::connected_as(false, false, 0);
    pair.works();
}

#[test]
fn all_channels_of_the_client_exist() {
    let mut pair = Pair::connected();
    let channels: Vec<u8> = (0..=6).chain(0x10..=0x1F).chain(0x20..=0x2F).collect();
    for channel in &channels {
        pair.client.send(*channel, &Message::StartB);
    }
    let count = channels.len();
    pair.until(|pair| pair.said().len() == count);
}

#[test]
fn a_connect_with_other_data_is_not_even_answered() {
    let door = Door::new();
    let mut client = Client::connect(door.address(), CONNECT_DATA ^ 1, Version::V2);
    client.service();
    let (socket, first, _) = door.hand_over();
    let control = Control::open(socket, first, &grant(), &stream(true, true)).unwrap();
    let mut pair = Pair { door, client, control, events: vec![] };
    // Its repetitions go to the connected socket now.
    pair.pass(Duration::from_millis(1_200));
    assert!(!pair.client.connected && !pair.control.is_connected());
    assert_eq!(pair.client.host.socket().received, 0, "an answer would be a reflection");
    assert_eq!(pair.events, []);
    assert!(pair.control.figures().strange_datagrams >= 2);
    assert!(pair.door.hears_nothing());
}

#[test]
fn forged_repeated_and_plain_messages_are_counted_and_dropped() {
    let mut pair = Pair::connected();
    let good = pair.client.seal(&Message::Input(&click(true).write()));
    pair.client.send_raw(3, &good);
    pair.until(|pair| pair.said().len() == 1);

    let mut forged = pair.client.seal(&Message::Input(&click(false).write()));
    *forged.last_mut().unwrap() ^= 1;
    let plain = Message::Input(&click(false).write()).write();
    let lying = vec![1, 0, 0xFF, 0xFF, 0, 0, 0, 0];
    for packet in [&good, &forged, &good, &plain, &lying, &vec![], &vec![1]] {
        pair.client.send_raw(3, packet);
    }
    // The same key in the other direction is not the client's word either.
    let key = SessionKey(KEY);
    let mut host = SealedSender::new(key, Version::V2, Direction::HostToClient);
    host.seal(&Message::Ping.write()).unwrap();
    let mirrored = host.seal(&Message::StartB.write()).unwrap();
    pair.client.send_raw(0, &mirrored);

    pair.until(|pair| {
        let figures = pair.control.figures();
        figures.forged == 2 && figures.replayed == 2 && figures.malformed == 4
    });
    assert_eq!(pair.said().len(), 1, "{:?}", pair.events);
    pair.works();
}

/// What was logged while `call` ran, a line each.
fn logged(call: impl FnOnce()) -> Vec<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let writer = std::sync::Mutex::new(file.reopen().unwrap());
    let subscriber = tracing_subscriber::fmt().with_writer(writer).with_ansi(false).finish();
    tracing::subscriber::with_default(subscriber, call);
    std::fs::read_to_string(file.path()).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_client_with_another_key_is_not_heard_and_told_of_once() {
    let mut honest = Pair::connected();
    let mut pair = Pair::connected();
    let other = SessionKey([8; 16]);
    pair.client.sealer = SealedSender::new(other, Version::V2, Direction::ClientToHost);
    let lines = logged(|| {
        for _ in 0..50 {
            pair.client.input(&click(true));
            pair.client.send(0, &Message::StartB);
        }
        pair.until(|pair| pair.control.figures().forged == 100);
    });
    assert_eq!(pair.said().len(), 0, "{:?}", pair.events);
    assert!(!pair.events.contains(&ControlEvent::Heard), "it does not even live");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains(&grant().viewer.to_string()), "{lines:?}");
    assert!(pair.control.is_connected(), "whoever forges does not end a peer");
    honest.works();
}

#[test]
fn lying_input_events_inside_authentic_messages_are_dropped() {
    let mut pair = Pair::connected();
    for size in [0u32, 3, 0xFFFF_FFFF, 200] {
        let mut payload = click(true).write();
        payload[..4].copy_from_slice(&size.to_be_bytes());
        pair.client.send(3, &Message::Input(&payload));
    }
    pair.client.send(3, &Message::Unknown { kind: 0x7777 });
    pair.until(|pair| pair.control.figures().messages == 5);
    assert_eq!(pair.control.figures().malformed, 4);
    assert_eq!(pair.said().len(), 0);
    pair.works();
}

#[test]
fn a_client_that_disconnects_gets_its_acknowledgement() {
    let mut pair = Pair::connected();
    pair.client.input(&click(true));
    pair.client.host.peer_mut(PeerID(0)).disconnect_later(0);
    pair.until(|pair| pair.client.disconnected);
    assert_eq!(pair.said().last(), Some(&&ControlEvent::Closed));
    assert!(!pair.control.is_connected());
    assert!(!pair.control.send(&Feedback::HdrMode(None)));
}

#[test]
fn a_termination_arrives_before_the_disconnect() {
    let mut pair = Pair::connected();
    let farewell = Feedback::Termination { code: TERMINATED_BY_HOST };
    assert!(pair.control.send(&farewell));
    pair.until(|pair| !pair.client.heard.is_empty());
    assert_eq!(pair.client.heard, [farewell]);
    pair.control.close();
    pair.until(|pair| pair.client.disconnected);
}

#[test]
fn a_client_that_changes_its_port_is_followed_when_it_proves_itself() {
    let mut pair = Pair::connected();
    pair.works();
    let now = Time::from_millis(5_000);

    // A stranger that knows the peer id proves nothing.
    let stranger = client_socket(pair.door.address());
    let header = PEER_ID.to_be_bytes();
    let ping = [header[0], header[1], 5, 0xFF, 0, 1];
    stranger.send(&ping).unwrap();
    let (socket, first, _) = pair.door.hand_over();
    assert_eq!(pair.control.move_to(socket, first, now), Err(NotMoved::Unproven));
    pair.works();

    // The NAT forgets the client: its datagrams come from another port, to the door.
    pair.client.host.socket_mut().socket = client_socket(pair.door.address());
    pair.client.input(&click(true));
    let (socket, first, peer) = pair.door.hand_over();
    pair.control.move_to(socket, first.clone(), now).unwrap();
    pair.works();
    let clicks = pair.said().iter().filter(|e| ***e == ControlEvent::Input(click(true))).count();
    assert!(clicks <= 1, "exactly once, also across the move");

    // The same datagram again, by whomever, moves nothing; nor does anything within a second.
    let again = pair.door.flow(peer);
    let soon = now + Duration::from_millis(999);
    assert_eq!(pair.control.move_to(again, first.clone(), soon), Err(NotMoved::TooSoon));
    let again = pair.door.flow(peer);
    let later = now + Duration::from_millis(1_000);
    assert_eq!(pair.control.move_to(again, first, later), Err(NotMoved::Unproven));
    assert_eq!(pair.control.figures().moves, 1);
}

#[test]
fn a_connect_that_is_repeated_from_another_port_is_served_there() {
    let door = Door::new();
    let mut lost = Client::connect(door.address(), CONNECT_DATA, Version::V2);
    lost.service();
    let (socket, first, _) = door.hand_over();
    let control = Control::open(socket, first, &grant(), &stream(true, true)).unwrap();
    let mut client = Client::connect(door.address(), CONNECT_DATA, Version::V2);
    client.service();
    let (socket, first, _) = door.hand_over();
    let mut pair = Pair { door, client, control, events: vec![] };
    pair.control.move_to(socket, first, Time::ZERO).unwrap();
    pair.until(|pair| pair.client.connected && pair.control.is_connected());
    pair.works();
}

#[test]
fn the_last_will_ends_a_client_whose_session_has_died() {
    let mut pair = Pair::connected();
    let last_will = pair.last_will();
    pair.works();
    let Pair { door, mut client, control, .. } = pair;
    drop(control);

    // The next word of the client reaches the door, which answers for the dead.
    client.send(0, &Message::Ping);
    let mut buffer = [0; 2048];
    let (length, peer) = door.socket.recv_from(&mut buffer).unwrap();
    assert_eq!(enet::peek(&buffer[..length]).unwrap().peer, Some(PEER_ID));
    client.heard.clear();
    door.socket.send_to(&last_will, peer).unwrap();
    door.socket.send_to(&last_will, peer).unwrap();
    let end = Instant::now() + PATIENCE;
    while client.heard.is_empty() {
        assert!(Instant::now() < end);
        client.service();
    }
    assert_eq!(client.heard, [Feedback::Termination { code: TERMINATED_BY_HOST }]);
    assert_eq!(client.sequence, Some(LAST_WILL_SEQUENCE));
}

#[test]
fn hostile_datagrams_on_the_flow_change_nothing() {
    let mut pair = Pair::connected();
    // Sent from the client's own address, as an on-path attacker would.
    let wire = pair.client.host.socket().socket.try_clone().unwrap();
    let [high, low] = PEER_ID.to_be_bytes();
    let mut hostile: Vec<Vec<u8>> =
        vec![vec![], vec![0], vec![high, low], vec![0x80 | high, low, 0]];
    // A fragment of 2^32 - 1 bytes; an acknowledgement of what was never sent; a compressed datagram.
    let mut fragment = vec![high, low, 8, 0, 0, 9, 0, 9, 0, 1];
    fragment.extend([0, 0, 0xFF, 0xFF, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0x55]);
    hostile.push(fragment);
    hostile.push(vec![high, low, 1, 0, 0, 7, 0xAB, 0xCD, 0, 0]);
    hostile.push(vec![0x40 | high, low, 1, 2, 3, 4, 5]);
    let mut seed = 1u64;
    for length in 0..600usize {
        let mut datagram: Vec<u8> = (0..length % 90)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 33) as u8
            })
            .collect();
        if length % 2 == 0 && datagram.len() > 2 {
            datagram[..2].copy_from_slice(&[high, low]);
            // Not an unauthenticated DISCONNECT, which ENet believes.
            datagram[2] = [6, 7, 9, 8, 12, 1, 5][length / 2 % 7];
        }
        hostile.push(datagram);
    }
    for datagram in &hostile {
        let _ = wire.send(datagram);
        pair.step();
    }
    assert!(pair.control.figures().strange_datagrams > 100);
    assert!(pair.control.is_connected());
    assert_eq!(pair.said().len(), 0);
}

/// Random numbers of a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 24
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }

    /// A number as attackers like them.
    fn word(&mut self) -> [u8; 2] {
        match self.below(4) {
            0 => [0, self.next() as u8 & 3],
            1 => [0xFF, 0xFF],
            _ => (self.next() as u16).to_be_bytes(),
        }
    }

    fn long(&mut self) -> [u8; 4] {
        match self.below(4) {
            0 => [0, 0, 0, self.next() as u8 & 7],
            1 => [0xFF; 4],
            2 => [0, 0, self.next() as u8, self.next() as u8],
            _ => (self.next() as u32).to_be_bytes(),
        }
    }

    /// A complete command with senseless numbers; never one that ends the connection.
    fn command(&mut self) -> Vec<u8> {
        let number = [1u8, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12][self.below(11) as usize];
        let mut bytes = vec![number | self.next() as u8 & 0xC0];
        bytes.push(if self.below(3) == 0 { self.next() as u8 } else { self.below(4) as u8 });
        bytes.extend(self.word());
        let length = self.below(40) as usize;
        let data = self.bytes(length);
        let size = (data.len() as u16).to_be_bytes();
        match number {
            1 => bytes.extend([self.word(), self.word()].concat()),
            2 => bytes.extend(self.bytes(44)),
            3 => bytes.extend(self.bytes(40)),
            6 => bytes.extend([&size[..], &data].concat()),
            7 | 9 => bytes.extend([&self.word()[..], &size, &data].concat()),
            8 | 12 => {
                bytes.extend([&self.word()[..], &size].concat());
                for _ in 0..4 {
                    bytes.extend(self.long());
                }
                bytes.extend(data);
            }
            10 => bytes.extend(self.bytes(8)),
            11 => bytes.extend(self.bytes(12)),
            _ => {}
        }
        bytes
    }
}

#[test]
fn whole_datagrams_of_senseless_commands_yield_nothing() {
    let count = std::env::var("HOSTILE_DATAGRAMS").ok().and_then(|n| n.parse().ok());
    let count: usize = count.unwrap_or(3_000);
    let mut pair = Pair::connected();
    let wire = pair.client.host.socket().socket.try_clone().unwrap();
    let mut random = Random(count as u64);
    for round in 0..count {
        let session = (random.below(4) as u16) << 12;
        let mut datagram = (PEER_ID | session).to_be_bytes().to_vec();
        if random.below(2) == 0 {
            datagram[0] |= 0x80;
            datagram.extend(random.word());
        }
        for _ in 0..=random.below(5) {
            datagram.extend(random.command());
        }
        let _ = wire.send(&datagram);
        if round % 20 == 0 {
            pair.control.service(&mut pair.events);
        }
    }
    pair.step();
    assert_eq!(pair.said().len(), 0, "{:?}", pair.said());
}
