//! The door on loopback, with a played session at the other end of the link.
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::*;
use crate::front::script::{self, SESSION, Shared, VIEWER};
use crate::net::Family;
use crate::proc::link::Link;
use crate::proto::ping::Ping;

struct Porch {
    core: Arc<Core>,
    script: Shared,
    links: Arc<SessionLinks>,
    video: SocketAddr,
    control: SocketAddr,
    stop: DoorStop,
    thread: Option<std::thread::JoinHandle<()>>,
}

fn open() -> Porch {
    let (core, script) = script::core();
    let links = Arc::new(SessionLinks::default());
    let sockets: Vec<_> = (0..3).map(|_| DoorSocket::bind(Family::V4, 0).unwrap()).collect();
    let at = |socket: &DoorSocket| SocketAddr::from(([127, 0, 0, 1], socket.port()));
    let (video, control) = (at(&sockets[0]), at(&sockets[1]));
    let fds = sockets.into_iter().map(OwnedFd::from).collect();
    let door = Door::new(Arc::clone(&core), Arc::clone(&links), fds).unwrap();
    let stop = door.stopper();
    let thread = Some(spawn(door).unwrap());
    Porch { core, script, links, video, control, stop, thread }
}

impl Drop for Porch {
    fn drop(&mut self) {
        self.stop.stop();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn client() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    socket
}

fn ping(first: u8) -> Vec<u8> {
    let mut payload = *b"0123456789ABCDEF";
    payload[0] = first;
    Ping::Identified { payload, sequence: 1 }.write()
}

fn hand_over() -> Route {
    Route::HandOver { session: SESSION, viewer: VIEWER }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 5 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_first_datagram_brings_its_session_a_socket_of_its_own() {
    let porch = open();
    porch.script.lock().unwrap().routes.push((b'A', hand_over()));
    let (ours, session) = Link::pair().unwrap();
    porch.links.insert(SESSION, ours);
    let client = client();
    client.send_to(&ping(b'A'), porch.video).unwrap();
    let (message, fds) = session.receive_within::<ToSession>(Duration::from_secs(5)).unwrap();
    let ToSession::Socket { viewer, flow, local, peer, first } = message else {
        panic!("{message:?}");
    };
    assert_eq!((viewer, flow, local), (VIEWER, Flow::Video, porch.video));
    assert_eq!((peer, first), (client.local_addr().unwrap(), ping(b'A')));
    let socket = UdpSocket::from(fds.into_iter().next().unwrap());
    assert_eq!(socket.peer_addr().unwrap(), peer);
    // What the client sends now comes here, and strangers still come to the door.
    client.send_to(b"direct", porch.video).unwrap();
    let mut buffer = [0; 64];
    eventually("it arrives", || socket.recv(&mut buffer).is_ok_and(|n| buffer[..n] == *b"direct"));
    socket.send(b"media").unwrap();
    assert_eq!(client.recv_from(&mut buffer).unwrap(), (5, porch.video));
    let read = porch.core.counters().door_datagrams.get();
    self::client().send_to(&ping(b'Z'), porch.video).unwrap();
    eventually("the door reads on", || porch.core.counters().door_datagrams.get() == read + 1);
    assert_eq!(porch.core.counters().door_handed_over.get(), 1);
}

#[test]
fn strangers_get_nothing_and_are_counted() {
    let porch = open();
    porch.script.lock().unwrap().routes.push((b'A', hand_over()));
    let client = client();
    let magic = [&[0xff; 6][..], &[2; 96]].concat();
    for to in [porch.video, porch.control] {
        for datagram in [&b""[..], b"x", b"PING", &ping(b'B'), &magic, &[0; 1400]] {
            client.send_to(datagram, to).unwrap();
        }
    }
    eventually("all are read", || porch.core.counters().door_strangers.get() == 12);
    assert!(client.recv_from(&mut [0; 64]).is_err());
    assert_eq!(porch.core.counters().door_handed_over.get(), 0);
}

#[test]
fn a_session_that_takes_no_sockets_does_not_hold_the_door() {
    let porch = open();
    porch.script.lock().unwrap().routes.push((b'A', hand_over()));
    let client = client();
    // No link at all, then a full one.
    client.send_to(&ping(b'A'), porch.video).unwrap();
    eventually("dropped", || porch.core.counters().door_dropped.get() == 1);
    let (ours, _session) = Link::pair().unwrap();
    let filler = ToSession::Stop { reason: "x".repeat(100_000) };
    while ours.send(&filler, &[]).is_ok() {}
    while ours.send(&0, &[]).is_ok() {}
    porch.links.insert(SESSION, ours);
    client.send_to(&ping(b'A'), porch.video).unwrap();
    eventually("dropped again", || porch.core.counters().door_dropped.get() == 2);
    // The peer's datagrams still come to the door: its socket went with the refusal.
    client.send_to(&ping(b'A'), porch.video).unwrap();
    eventually("and again", || porch.core.counters().door_dropped.get() == 3);
}

#[test]
fn a_dead_sessions_peer_is_told_so() {
    let porch = open();
    porch.script.lock().unwrap().routes.push((9, Route::LastWill { session: SESSION }));
    let client = client();
    // An ENet ping to peer 9: header, then command 5 on channel 255.
    let datagram = [0x80, 9, 0, 1, 0x85, 0xff, 0, 1];
    client.send_to(&datagram, porch.control).unwrap();
    let mut buffer = [0; 64];
    let (n, from) = client.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..n], from), (&b"last will"[..], porch.control));
    eventually("counted", || porch.core.counters().door_last_wills.get() == 1);
}
