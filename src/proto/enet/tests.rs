//! Two real ENet hosts with the rewriting in between; golden layouts; hostile datagrams.
use std::cell::Cell;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;
use rusty_enet::EventNoRef;
use rusty_enet::Host;
use rusty_enet::HostSettings;
use rusty_enet::MTU_MAX;
use rusty_enet::Packet;
use rusty_enet::PacketReceived;
use rusty_enet::PeerID;
use rusty_enet::Socket;

use super::*;
use crate::limits;

/// The two directions of an in-memory UDP socket.
#[derive(Clone, Default)]
struct Wire {
    to_host: Rc<RefCell<VecDeque<Vec<u8>>>>,
    from_host: Rc<RefCell<VecDeque<Vec<u8>>>>,
}

impl Socket for Wire {
    type Address = ();
    type Error = Infallible;

    fn send(&mut self, (): (), buffer: &[u8]) -> Result<usize, Infallible> {
        self.from_host.borrow_mut().push_back(buffer.to_vec());
        Ok(buffer.len())
    }

    fn receive(
        &mut self,
        buffer: &mut [u8; MTU_MAX],
    ) -> Result<Option<((), PacketReceived)>, Infallible> {
        let Some(datagram) = self.to_host.borrow_mut().pop_front() else { return Ok(None) };
        buffer[..datagram.len()].copy_from_slice(&datagram);
        Ok(Some(((), PacketReceived::Complete(datagram.len()))))
    }
}

/// An ENet host on a wire, with the clock of the test.
struct End {
    host: Host<Wire>,
    wire: Wire,
    events: Vec<EventNoRef>,
}

impl End {
    fn new(clock: &Rc<Cell<u64>>) -> Self {
        let wire = Wire::default();
        let clock = Rc::clone(clock);
        let settings = HostSettings {
            peer_limit: 1,
            channel_limit: limits::ENET_CHANNELS,
            time: Box::new(move || Duration::from_millis(clock.get())),
            seed: Some(7),
            ..HostSettings::default()
        };
        let Ok(mut host) = Host::new(wire.clone(), settings) else { panic!("a host") };
        host.set_mtu(900).unwrap();
        Self { host, wire, events: Vec::new() }
    }

    fn service(&mut self) {
        while let Some(event) = self.host.service().unwrap() {
            self.events.push(event.no_ref());
        }
    }

    fn send(&mut self, channel: u8, packet: &Packet) {
        self.host.peer_mut(PeerID(0)).send(channel, packet).unwrap();
    }

    fn received(&mut self) -> Vec<(u8, Vec<u8>)> {
        let packets = self.events.drain(..).map(|event| match event {
            EventNoRef::Receive { channel_id, packet, .. } => (channel_id, packet.data().to_vec()),
            other => panic!("{other:?}"),
        });
        packets.collect()
    }
}

/// One viewer: a client's ENet host, this side's ENet host, and the wide id between them.
struct Viewer {
    client: End,
    session: End,
    wide: u16,
    data: u32,
    /// Peer and session id of the last datagram to the client.
    addressed: Option<(u16, u8)>,
}

/// Some viewers behind one door, on one clock.
struct Door {
    clock: Rc<Cell<u64>>,
    viewers: Vec<Viewer>,
}

impl Door {
    fn new(wides: &[u16]) -> Self {
        let clock = Rc::new(Cell::new(1000));
        let viewers = wides.iter().zip(40..).map(|(wide, data)| Viewer {
            client: End::new(&clock),
            session: End::new(&clock),
            wide: *wide,
            data,
            addressed: None,
        });
        let mut door = Self { viewers: viewers.collect(), clock };
        door.connect();
        door
    }

    fn connect(&mut self) {
        for viewer in &mut self.viewers {
            viewer.client.host.connect((), limits::ENET_CHANNELS, viewer.data).unwrap();
        }
        self.run(10);
        for viewer in &mut self.viewers {
            let data = viewer.data;
            let connected = |events: &[EventNoRef], data: u32| matches!(events, [EventNoRef::Connect { peer: PeerID(0), data: d }] if *d == data);
            assert!(connected(&viewer.client.events, 0), "{:?}", viewer.client.events);
            assert!(connected(&viewer.session.events, data), "{:?}", viewer.session.events);
            viewer.client.events.clear();
            viewer.session.events.clear();
            assert_eq!(viewer.client.host.peer(PeerID(0)).channel_count(), limits::ENET_CHANNELS);
        }
    }

    fn run(&mut self, rounds: u64) {
        for _ in 0..rounds {
            self.clock.set(self.clock.get() + 5);
            for viewer in &mut self.viewers {
                viewer.client.service();
                viewer.session.service();
            }
            for n in 0..self.viewers.len() {
                let up = Rc::clone(&self.viewers[n].client.wire.from_host);
                for datagram in up.borrow_mut().drain(..) {
                    self.route(datagram);
                }
                self.viewers[n].deliver_down();
            }
        }
    }

    /// What the door does: by connect data once, then by the wide peer id alone.
    fn route(&mut self, mut datagram: Vec<u8>) {
        assert!(is_whole(&datagram));
        let peek = peek(&datagram).unwrap();
        let viewer = match peek.first {
            Command::Connect(connect) => {
                assert_eq!((peek.peer, connect.channels, connect.mtu), (None, 48, 900));
                self.viewers.iter_mut().find(|viewer| viewer.data == connect.data)
            }
            _ => self.viewers.iter_mut().find(|viewer| Some(viewer.wide) == peek.peer),
        };
        let viewer = viewer.expect("every datagram has an owner");
        let before = datagram.clone();
        assert!(rewrite_incoming(&mut datagram, viewer.wide, 0));
        assert_eq!(datagram[2..], before[2..]);
        viewer.session.wire.to_host.borrow_mut().push_back(datagram);
    }
}

impl Viewer {
    fn deliver_down(&mut self) {
        for mut datagram in self.session.wire.from_host.borrow_mut().drain(..) {
            assert!(is_whole(&datagram));
            assert!(rewrite_outgoing(&mut datagram, 0, self.wide));
            let peek = peek(&datagram).unwrap();
            self.addressed = Some((peek.peer.unwrap(), peek.session));
            if let Command::VerifyConnect { peer, incoming_session, .. } = peek.first {
                assert_eq!((peer, incoming_session), (self.wide, peek.session));
            }
            self.client.wire.to_host.borrow_mut().push_back(datagram);
        }
    }
}

fn numbered(channel: u8, viewer: usize) -> Vec<u8> {
    let mut payload = vec![channel, u8::try_from(viewer).unwrap()];
    payload.resize(if channel.is_multiple_of(16) { 5000 } else { 20 }, channel);
    payload
}

#[test]
fn viewers_share_a_port_by_wide_peer_ids() {
    let mut door = Door::new(&[0x123, 0, 0xFFE]);
    for (n, viewer) in door.viewers.iter_mut().enumerate() {
        for channel in 0..48 {
            viewer.client.send(channel, &Packet::reliable(numbered(channel, n).as_slice()));
            viewer.session.send(channel, &Packet::reliable(numbered(channel, n).as_slice()));
        }
    }
    door.run(60);
    for (n, viewer) in door.viewers.iter_mut().enumerate() {
        for end in [&mut viewer.session, &mut viewer.client] {
            let mut packets = end.received();
            packets.sort();
            let expected: Vec<_> = (0..48).map(|channel| (channel, numbered(channel, n))).collect();
            assert_eq!(packets, expected);
        }
        viewer.client.send(0, &Packet::unreliable_unsequenced(b"status".as_slice()));
        viewer.client.send(0x20, &Packet::unreliable(b"motion".as_slice()));
    }
    door.run(5);
    for viewer in &mut door.viewers {
        let mut packets = viewer.session.received();
        packets.sort();
        assert_eq!(packets, [(0, b"status".to_vec()), (0x20, b"motion".to_vec())]);
    }
}

#[test]
fn a_last_will_arrives_once_after_the_host_is_gone() {
    let mut door = Door::new(&[0x123, 0x456]);
    // A second connection of the same client has another session id.
    for viewer in &mut door.viewers {
        viewer.client.host.peer_mut(PeerID(0)).disconnect(0);
    }
    door.run(10);
    for viewer in &mut door.viewers {
        for end in [&mut viewer.client, &mut viewer.session] {
            let ended = matches!(end.events.as_slice(), [EventNoRef::Disconnect { .. }]);
            assert!(ended, "{:?}", end.events);
            end.events.clear();
        }
    }
    door.connect();
    for viewer in &mut door.viewers {
        let (peer, session) = viewer.addressed.unwrap();
        assert_eq!(peer, 0, "the client's own id for this host");
        let stale = unsequenced(peer, (session + 1) & 3, 1, b"stale");
        let will = unsequenced(peer, session, 1, b"the end");
        viewer.session = End::new(&door.clock);
        viewer.client.wire.to_host.borrow_mut().extend([stale, will.clone(), will]);
        viewer.client.service();
        assert_eq!(viewer.client.received(), [(0, b"the end".to_vec())]);
    }
}

#[test]
fn a_connect_is_seen_through() {
    let connect = golden_connect();
    let peek = peek(&connect).unwrap();
    assert_eq!((peek.peer, peek.session), (None, 0));
    let Command::Connect(seen) = peek.first else { panic!("{peek:?}") };
    assert_eq!((seen.peer, seen.mtu, seen.channels, seen.data), (0, 900, 48, 0x1234_5678));
    let mut rewritten = connect.clone();
    assert!(rewrite_incoming(&mut rewritten, 5, 0));
    assert_eq!(rewritten, connect, "it has no peer id to be rewritten");
    for end in 0..connect.len() {
        assert_eq!(super::peek(&connect[..end]), None, "prefix of {end} bytes");
        assert!(!is_whole(&connect[..end]));
    }
    let longer = [connect.as_slice(), &[5]].concat();
    assert!(!is_whole(&longer));
}

/// CONNECT as the client's ENet sends it (sent time present).
fn golden_connect() -> Vec<u8> {
    let clock = Rc::new(Cell::new(5000));
    let mut client = End::new(&clock);
    client.host.connect((), 48, 0x1234_5678).unwrap();
    client.service();
    let datagram = client.wire.from_host.borrow_mut().pop_front().unwrap();
    assert_eq!(datagram[..2], [0x8F, 0xFF]);
    assert_eq!(datagram.len(), 4 + 48);
    datagram
}

#[test]
fn what_is_not_for_us_is_left_alone() {
    let ping = [0x81, 0x23, 0, 9, 0x85, 0xFF, 0, 1];
    let peek = peek(&ping).unwrap();
    assert_eq!((peek.peer, peek.session), (Some(0x123), 0));
    assert_eq!(peek.first, Command::Other { number: 5 });
    let mut other = ping;
    assert!(!rewrite_incoming(&mut other, 0x124, 0));
    assert_eq!(other, ping);
    assert!(rewrite_incoming(&mut other, 0x123, 7));
    assert_eq!(other[..2], [0x80, 7]);
    let compressed = [0xC1, 0x23, 0, 9, 0x85, 0xFF, 0, 1];
    assert_eq!(super::peek(&compressed), None);
    assert!(!rewrite_incoming(&mut compressed.to_vec(), 0x123, 0));
    let nameless_ping = [0x8F, 0xFF, 0, 9, 0x85, 0xFF, 0, 1];
    assert_eq!(super::peek(&nameless_ping), None);
    let mut unanswerable = golden_connect();
    unanswerable[8..10].copy_from_slice(&[0x0F, 0xFF]);
    assert_eq!(super::peek(&unanswerable), None);
    let mut named_connect = golden_connect();
    named_connect[0] = 0x80;
    assert_eq!(super::peek(&named_connect), None);
}

#[test]
fn every_verify_connect_of_a_datagram_is_rewritten() {
    let mut verify = vec![0x83, 0xFF, 0, 1, 0, 0, 1, 2];
    verify.resize(44, 0);
    let reliable = [0x86, 0, 0, 1, 0, 2, 0x83, 0xFF];
    let mut datagram = [&[0x90, 0x05, 0, 0][..], &verify[..], &reliable[..], &verify[..]].concat();
    assert!(rewrite_outgoing(&mut datagram, 0, 0xABC));
    assert_eq!(datagram[8..10], [0x0A, 0xBC]);
    assert_eq!(datagram[48..56], reliable, "data that looks like a command is not one");
    assert_eq!(datagram[60..62], [0x0A, 0xBC]);
    assert_eq!(datagram[..2], [0x90, 0x05], "the receiver's id is its own");
    assert_eq!(packets(&datagram).collect::<Vec<_>>(), [[0x83, 0xFF]]);
    assert!(!rewrite_outgoing(&mut datagram[..70], 0, 1), "a cut command");
    assert!(!rewrite_outgoing(&mut [0x90], 0, 1));
}

#[test]
fn an_unsequenced_datagram_holds_its_packet() {
    let datagram = unsequenced(0xFFE, 3, 1, b"bye");
    assert_eq!(datagram, [0x3F, 0xFE, 0x49, 0, 0, 0, 0, 1, 0, 3, b'b', b'y', b'e']);
    assert!(is_whole(&datagram));
    assert_eq!(packets(&datagram).collect::<Vec<_>>(), [b"bye"]);
    assert_eq!(peek(&datagram).unwrap().first, Command::Other { number: 9 });
    for end in 0..datagram.len() {
        assert!(!is_whole(&datagram[..end]));
        assert_eq!(packets(&datagram[..end]).count(), 0);
    }
}

#[test]
fn commands_are_counted() {
    let pings = |n: usize| [&[0, 1][..], &[5, 0xFF, 0, 1].repeat(n)[..]].concat();
    assert!(is_whole(&pings(COMMANDS_MAX)));
    assert!(!is_whole(&pings(COMMANDS_MAX + 1)));
    assert!(rewrite_outgoing(&mut pings(COMMANDS_MAX), 0, 1));
    assert!(!rewrite_outgoing(&mut pings(COMMANDS_MAX + 1), 0, 1));
    assert!(!is_whole(&pings(0)));
}

proptest! {
    #[test]
    fn any_datagram(bytes in prop::collection::vec(any::<u8>(), 0..200), wide in 0_u16..0xFFF) {
        let _ = is_whole(&bytes);
        let _ = packets(&bytes).count();
        let mut incoming = bytes.clone();
        if let Some(Peek { peer: Some(peer), .. }) = peek(&bytes) {
            prop_assert!(rewrite_incoming(&mut incoming, peer, wide));
            prop_assert_eq!(peek(&incoming).unwrap().peer, Some(wide));
            prop_assert!(rewrite_incoming(&mut incoming, wide, peer));
            prop_assert_eq!(&incoming, &bytes);
        } else {
            rewrite_incoming(&mut incoming, wide, 0);
        }
        let mut outgoing = bytes.clone();
        let whole = rewrite_outgoing(&mut outgoing, 0, wide);
        prop_assert!(whole || !is_whole(&bytes));
    }

    #[test]
    fn any_commands(
        word: u16,
        commands in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 3..60)), 0..6),
    ) {
        let mut bytes = word.to_be_bytes().to_vec();
        for (number, body) in commands {
            bytes.push(number);
            bytes.extend_from_slice(&body);
        }
        let _ = (peek(&bytes), is_whole(&bytes), packets(&bytes).count());
        rewrite_outgoing(&mut bytes, 0, 0xFFE);
    }
}
