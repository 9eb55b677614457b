//! Real sockets on loopback: send bounds, segmentation, hand-over from the door.
use std::io;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::gso::Way;
use super::*;

/// An IPv6 address that cannot be bound yet.
const TENTATIVE: u32 = 0x40;
const PATIENCE: Duration = Duration::from_secs(10);

fn soon() -> Time {
    now() + PATIENCE
}

/// A client's socket on any free port of `ip`.
fn client(ip: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address(ip, 0)).expect("a free port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

/// A door on a port of its own. Asked for any port, the kernel may give one that another door
/// shares.
fn door(family: Family) -> DoorSocket {
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = TURN.lock().expect("no test panics here");
    let ip = if family == Family::V4 { "0.0.0.0" } else { "::" };
    let port = client(ip).local_addr().expect("bound").port();
    DoorSocket::bind(family, port).expect("a door")
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut bytes = [0; 65_536];
    let (len, from) = socket.recv_from(&mut bytes).expect("a datagram");
    (bytes[..len].to_vec(), from)
}

/// The next datagrams at the door: who, to which address, what.
fn at_the_door(door: &DoorSocket) -> Vec<(SocketAddr, SocketAddr, Vec<u8>)> {
    wait(door);
    let mut batch = Batch::default();
    door.recv_batch(&mut batch).expect("readable");
    door.datagrams(&batch).map(|d| (d.peer, d.local, d.bytes.to_vec())).collect()
}

fn wait(fd: &impl AsFd) {
    let timeout = Timespec::try_from(PATIENCE).expect("short");
    let ready = poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)).expect("poll");
    assert_eq!(ready, 1, "nothing came");
}

fn is_silent(door: &DoorSocket) -> bool {
    !door.recv_batch(&mut Batch::default()).expect("readable")
}

fn plain(fd: OwnedFd) -> UdpSocket {
    let socket = UdpSocket::from(fd);
    socket.set_nonblocking(false).expect("blocking");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

/// Addresses of this machine by family: the door's, which is not the client's where there are two,
/// and the client's. An IPv6 link-local one is among them where an interface has it.
fn own_addresses() -> Vec<(Family, String, String)> {
    let mut all = vec![(Family::V4, "127.0.0.2".to_owned(), "127.0.0.1".to_owned())];
    let interfaces = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    for interface in interfaces.lines() {
        // Address without colons, interface, prefix length and scope in hexadecimal, flags, name.
        let fields: Vec<&str> = interface.split_whitespace().collect();
        let ip = Ipv6Addr::from(u128::from_str_radix(fields[0], 16).expect("an address"));
        let scope = u32::from_str_radix(fields[1], 16).expect("an interface");
        let flags = u32::from_str_radix(fields[4], 16).expect("flags");
        if flags & TENTATIVE != 0 {
            continue;
        }
        let ip = match ip {
            Ipv6Addr::LOCALHOST => ip.to_string(),
            ip if ip.is_unicast_link_local() => format!("{ip}%{scope}"),
            _ => continue,
        };
        all.push((Family::V6, ip.clone(), ip));
    }
    let tried: Vec<&str> = all.iter().map(|(_, ip, _)| ip.as_str()).collect();
    eprintln!("addresses tried: {tried:?}");
    all
}

fn address(ip: &str, port: u16) -> SocketAddr {
    let text = if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
    text.parse().expect("an address")
}

#[test]
fn the_door_tells_who_sent_what_to_which_address() {
    for (family, host, from) in own_addresses() {
        let door = door(family);
        assert!(is_silent(&door));
        let client = client(&from);
        client.send_to(b"ping", address(&host, door.port())).expect("sent");
        let peer = client.local_addr().expect("bound");
        let local = address(&host, door.port());
        assert_eq!(at_the_door(&door), [(peer, local, b"ping".to_vec())]);
    }
}

#[test]
fn answers_leave_from_the_contacted_address() {
    for (family, host, from) in own_addresses() {
        let door = door(family);
        let client = client(&from);
        let (local, peer) = (address(&host, door.port()), client.local_addr().expect("bound"));
        door.send_from(local, peer, b"last will").expect("sent");
        assert_eq!(receive(&client), (b"last will".to_vec(), local));
    }
    let door = door(Family::V4);
    let error = door.send_from(address("::1", 1), address("::1", 2), b"").expect_err("no IPv6");
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn a_connected_socket_gets_its_peer_and_strangers_still_reach_the_door() {
    for (family, host, from) in own_addresses() {
        let door = door(family);
        let local = address(&host, door.port());
        let viewers: Vec<UdpSocket> = (0..3).map(|_| client(&from)).collect();
        let mut connected = Vec::new();
        for viewer in &viewers {
            viewer.send_to(b"first", local).expect("sent");
            let peer = viewer.local_addr().expect("bound");
            assert_eq!(at_the_door(&door), [(peer, local, b"first".to_vec())]);
            let socket = door.connected_for(local, peer).expect("connected");
            assert_eq!((socket.drained.len(), socket.dropped), (0, 0));
            connected.push(plain(socket.fd));
        }
        for round in 0..20u8 {
            let stranger = client(&from);
            stranger.send_to(&[round], local).expect("sent");
            let met = at_the_door(&door);
            assert_eq!(met, [(stranger.local_addr().expect("bound"), local, vec![round])]);
            for (viewer, socket) in viewers.iter().zip(&connected) {
                viewer.send_to(&[round, 1], local).expect("sent");
                let peer = viewer.local_addr().expect("bound");
                assert_eq!(receive(socket), (vec![round, 1], peer));
                socket.send(&[round, 2]).expect("sent");
                assert_eq!(receive(viewer), (vec![round, 2], local));
            }
        }
        assert!(is_silent(&door));
        // A viewer whose socket is closed is a stranger again.
        connected.clear();
        viewers[0].send_to(b"again", local).expect("sent");
        assert_eq!(at_the_door(&door)[0].2, b"again");
    }
}

#[test]
fn under_a_flood_of_strangers_a_connected_socket_holds_none_of_theirs() {
    let door = door(Family::V4);
    let local = address("127.0.0.1", door.port());
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let stranger = client("127.0.0.1");
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = stranger.send_to(b"flood", local);
            }
        });
        for _ in 0..200 {
            let viewer = client("127.0.0.1");
            let peer = viewer.local_addr().expect("bound");
            let Connected { fd, drained, .. } = door.connected_for(local, peer).expect("connected");
            assert!(drained.iter().all(|(from, bytes)| *from != peer && bytes == b"flood"));
            viewer.send_to(b"mine", local).expect("sent");
            assert_eq!(receive(&plain(fd)), (b"mine".to_vec(), peer));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn a_door_can_be_handed_over_and_refuses_what_is_not_its_own() {
    let door = door(Family::V4);
    let port = door.port();
    let door = DoorSocket::from_fd(OwnedFd::from(door)).expect("a wildcard socket");
    assert_eq!((door.port(), door.family()), (port, Family::V4));
    let peer = address("127.0.0.1", 9);
    for local in [address("127.0.0.1", port ^ 1), address("0.0.0.0", port), address("::1", port)] {
        let error = door.connected_for(local, peer).expect_err("not the door's");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
    let bound = client("127.0.0.1");
    assert!(DoorSocket::from_fd(OwnedFd::from(bound)).is_err());
}

#[test]
fn datagrams_that_are_too_long_are_dropped_and_counted() {
    let door = door(Family::V4);
    let client = client("127.0.0.1");
    client.send_to(&[7; 3000], address("127.0.0.1", door.port())).expect("sent");
    client.send_to(&[7; 2048], address("127.0.0.1", door.port())).expect("sent");
    let mut batch = Batch::default();
    wait(&door);
    assert!(door.recv_batch(&mut batch).expect("readable"));
    let lengths: Vec<usize> = door.datagrams(&batch).map(|d| d.bytes.len()).collect();
    assert_eq!((lengths, batch.dropped), (vec![2048], 1));
}

/// A media socket connected to a client, and the client.
fn media(ip: &str) -> (MediaSocket, UdpSocket) {
    let client = client(ip);
    let socket = UdpSocket::bind(address(ip, 0)).expect("a free port");
    socket.connect(client.local_addr().expect("bound")).expect("connected");
    socket.set_nonblocking(true).expect("non-blocking");
    (MediaSocket::new(socket.into(), Traffic::Video, true), client)
}

fn numbered(count: usize, bytes: usize) -> Vec<u8> {
    (0..count).flat_map(|i| vec![i as u8; bytes]).collect()
}

#[test]
fn every_way_of_sending_delivers_the_same_datagrams() {
    for (_, _, ip) in own_addresses() {
        for way in [Way::Segments, Way::Many, Way::Single] {
            for (count, bytes) in [(1, 1408), (2, 1408), (64, 100), (65, 100), (47, 1408)] {
                let (mut socket, client) = media(&ip);
                socket.way = way;
                let datagrams = numbered(count, bytes);
                let sent = socket.send_burst(&datagrams, bytes, soon()).expect("sent");
                assert_eq!(sent, count);
                for i in 0..count {
                    assert_eq!(receive(&client).0, vec![i as u8; bytes]);
                }
                let statistics = socket.statistics();
                assert_eq!(statistics.datagrams, count as u64);
                assert_eq!(statistics.bytes, datagrams.len() as u64);
                assert_eq!((statistics.fallbacks, socket.way), (0, way));
                if way == Way::Segments && count == 47 {
                    assert_eq!(statistics.calls, 2);
                }
            }
        }
    }
}

#[test]
fn a_shorter_last_datagram_is_sent_as_it_is() {
    for way in [Way::Segments, Way::Many, Way::Single] {
        let (mut socket, client) = media("127.0.0.1");
        socket.way = way;
        assert_eq!(socket.send_burst(&[5; 250], 100, soon()).expect("sent"), 3);
        let lengths: Vec<usize> = (0..3).map(|_| receive(&client).0.len()).collect();
        assert_eq!(lengths, [100, 100, 50]);
    }
}

#[test]
fn a_socket_that_cannot_segment_falls_back_and_remembers() {
    let (mut socket, client) = media("127.0.0.1");
    // Without checksums the kernel refuses to segment.
    sys::disable_checksums(socket.as_fd()).expect("an option");
    let datagrams = numbered(10, 500);
    for burst in 1..=2 {
        assert_eq!(socket.send_burst(&datagrams, 500, soon()).expect("sent"), 10);
        for i in 0..10 {
            assert_eq!(receive(&client).0, vec![i; 500]);
        }
        assert_eq!((socket.way, socket.statistics().fallbacks), (Way::Many, 1), "burst {burst}");
    }
}

#[test]
fn a_refusal_speaks_of_an_earlier_datagram_and_loses_nothing() {
    for way in [Way::Segments, Way::Many, Way::Single] {
        let (mut socket, client) = media("127.0.0.1");
        socket.way = way;
        let peer = client.local_addr().expect("bound");
        drop(client);
        assert_eq!(socket.send_burst(&[1; 100], 100, soon()).expect("sent"), 1);
        let client = UdpSocket::bind(peer).expect("the port is free again");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        assert_eq!(socket.send_burst(&[2; 100], 100, soon()).expect("sent"), 1);
        assert_eq!(receive(&client).0, [2; 100]);
        assert_eq!(socket.statistics().refused, 1);
    }
}

#[test]
fn a_peer_that_is_gone_costs_nothing_but_a_count() {
    let (mut socket, client) = media("127.0.0.1");
    drop(client);
    for _ in 0..20 {
        let datagrams = numbered(100, 200);
        assert_eq!(socket.send_burst(&datagrams, 200, soon()).expect("sent"), 100);
    }
    assert!(socket.statistics().refused > 0);
}

#[test]
fn pings_are_discarded_and_counted_without_waiting() {
    let (mut socket, client) = media("127.0.0.1");
    let ours = socket2::SockRef::from(&socket).local_addr().expect("bound");
    let ours = ours.as_socket().expect("an internet address");
    assert_eq!(socket.discard_received().expect("readable"), 0);
    for _ in 0..70 {
        client.send_to(b"PING", ours).expect("sent");
    }
    wait(&socket);
    assert_eq!(socket.discard_received().expect("readable"), 64);
    assert_eq!(socket.discard_received().expect("readable"), 6);
    drop(client);
    socket.send_burst(&[1; 10], 10, soon()).expect("sent");
    assert_eq!(socket.discard_received().expect("readable"), 0);
    assert_eq!(socket.statistics().refused, 1);
}

/// A socket that is full after a few datagrams: on loopback UDP never is.
fn narrow() -> (MediaSocket, UnixDatagram) {
    let (ours, theirs) = UnixDatagram::pair().expect("a pair");
    ours.set_nonblocking(true).expect("non-blocking");
    let mut socket = MediaSocket::new(ours.into(), Traffic::Audio, false);
    socket.way = Way::Many;
    (socket, theirs)
}

#[test]
fn a_full_socket_is_waited_for_until_the_deadline() {
    let (mut socket, _theirs) = narrow();
    let datagrams = vec![0; 5000 * 1000];
    let deadline = now() + Duration::from_millis(50);
    let sent = socket.send_burst(&datagrams, 1000, deadline).expect("no error");
    assert!(sent > 0 && sent < 5000, "{sent}");
    assert!(now() >= deadline);
    assert_eq!(socket.statistics().late, 1);
    assert_eq!(socket.statistics().datagrams, sent as u64);
}

#[test]
fn a_full_socket_that_empties_takes_the_rest() {
    let (mut socket, theirs) = narrow();
    let datagrams = vec![0; 2000 * 1000];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut bytes = [0; 1000];
            (0..2000).for_each(|_| assert_eq!(theirs.recv(&mut bytes).expect("more"), 1000));
        });
        assert_eq!(socket.send_burst(&datagrams, 1000, soon()).expect("sent"), 2000);
    });
}

#[test]
fn a_paced_frame_arrives_whole_and_not_before_its_time() {
    let (mut socket, client) = media("127.0.0.1");
    let mut pacer = Pacer::new(100, 10_000_000);
    let datagrams = numbered(200, 100);
    let start = now();
    // Ten datagrams per millisecond: the last batch of 8 is due after 192 of them.
    let sent = socket.send_paced(&mut pacer, &datagrams, 100, soon()).expect("sent");
    assert_eq!(sent, 200);
    assert!(now().since(start) >= Duration::from_micros(19_200));
    (0..200).for_each(|i| assert_eq!(receive(&client).0[0], i as u8));
    // The deadline ends a frame early: one batch may still be within the budget.
    let sent = socket.send_paced(&mut pacer, &datagrams, 100, now()).expect("no error");
    assert!(sent <= 64);
    assert_eq!(socket.statistics().late, 1);
}

#[test]
fn bursts_follow_the_budget() {
    let ms = |ms: u64| Time::from_millis(1000 + ms);
    // Sunshine's numbers for P = 1392: 71 per millisecond, 46 at once.
    let mut pacer = Pacer::new(1408, 1_000_000_000);
    pacer.begin_frame(ms(0));
    let mut sent = 0;
    let mut clock = ms(0);
    while sent < 500 {
        let batch = pacer.next_batch(500 - sent, clock);
        clock = batch.at.unwrap_or(clock).max(clock);
        // Never more than the budget of the time passed, one batch, and the batch that overdrew it.
        let budget = clock.since(ms(0)).as_nanos() as usize * 71 / 1_000_000;
        assert!(sent <= budget + 71 + 46, "{sent} at {clock:?}");
        assert!(batch.datagrams <= 46);
        sent += batch.datagrams;
    }
    // The debt is paid before the next frame.
    pacer.begin_frame(clock);
    let next = pacer.next_batch(10, clock);
    let paid_off = ms(0) + Duration::from_nanos(500 * 1_000_000 / 71);
    assert_eq!((next.at, next.datagrams), (Some(paid_off), 10));
    // A frame after a pause starts at once.
    pacer.begin_frame(ms(500));
    assert_eq!(pacer.next_batch(10, ms(500)).at, None);
    let mut unlimited = Pacer::unlimited(1408);
    unlimited.begin_frame(ms(0));
    assert!((0..100).all(|_| unlimited.next_batch(1000, ms(0)).at.is_none()));
}

#[test]
fn marking_happens_only_where_it_is_allowed() {
    for (traffic, marks, class, priority) in [
        (Traffic::Video, true, 40 << 2, 5),
        (Traffic::Audio, true, 48 << 2, 6),
        (Traffic::Video, false, 0, 5),
    ] {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let socket = MediaSocket::new(socket.into(), traffic, marks);
        let options = socket2::SockRef::from(&socket);
        assert_eq!(options.tos_v4().expect("an option"), class);
        assert_eq!(options.priority().expect("an option"), priority);
    }
}
