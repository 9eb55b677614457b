//! A shard that stands still, and what becomes of its connections.
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use socket2::{Domain, Socket, Type};

use super::*;
use crate::front::script::{self, Shared};
use crate::front::watch::{Pulse, Verdict, Watch};
use crate::host::event::{Answer, Effect, Event};
use crate::proto::http::Response;
use crate::tls::{config::server_config, identity::Identity};

fn listener(port: u16) -> OwnedFd {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    socket.listen(256).unwrap();
    socket.into()
}

fn port(fd: &OwnedFd) -> u16 {
    socket2::SockRef::from(fd).local_addr().unwrap().as_socket().unwrap().port()
}

/// Two shards in one group; the HTTP port.
fn open() -> (Reception, Shared, SocketAddr) {
    let (core, script) = script::core();
    let first = [listener(0), listener(0), listener(0)];
    let second = first.each_ref().map(|fd| listener(port(fd)));
    let http = SocketAddr::from(([127, 0, 0, 1], port(&first[1])));
    let tls = TlsAcceptor::new(server_config(&Identity::make().unwrap()).unwrap());
    let places =
        [first, second].into_iter().map(|listeners| Place { core: None, listeners }).collect();
    let limits = Limits { head_ms: 20_000, ..Limits::default() };
    (Reception::open(&core, limits, tls, places).unwrap(), script, http)
}

/// Answers every request that the scripted host has met.
fn answer_all(core: &Core, script: &Shared) {
    let mut script = script.lock().unwrap();
    let calls = script.events.drain(..).filter_map(|event| match event {
        Event::Http { call, .. } => Some(call),
        _ => None,
    });
    let answer = |call| {
        let answer = Answer::Http(Response::xml("<root/>".into()));
        Effect::Answer { call, answer }
    };
    let effects: Vec<_> = calls.map(answer).collect();
    if !effects.is_empty() {
        script.effects.extend(effects);
        drop(script);
        core.dispatch(Event::Timeout);
    }
}

fn request(to: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    stream
}

#[test]
fn a_shard_that_stands_still_is_named_and_its_connections_are_served_by_the_other() {
    let (mut reception, script, http) = open();
    let core = Arc::clone(&reception.core);
    reception.outsides[0].errands.try_send(Errand::Stall(Duration::from_secs(3))).unwrap();
    let stalled = Instant::now();
    std::thread::sleep(Duration::from_millis(50));
    let before: Vec<TcpStream> = (0..40).map(|_| request(http)).collect();

    let mut watch = Watch::new(2, Duration::from_secs(5));
    let named = loop {
        std::thread::sleep(Duration::from_millis(100));
        let vitals = reception.shards().vitals().iter();
        let pulses: Vec<_> =
            vitals.map(|v| Pulse { beat: v.last_beat(), starved: v.starved() }).collect();
        if let Some(change) = watch.look(&pulses, now()).first() {
            break *change;
        }
        assert!(stalled.elapsed() < Duration::from_secs(3), "not noticed");
    };
    assert_eq!(named, (0, Verdict::Stalled));
    assert!(reception.retire(0));
    assert!(!reception.retire(1), "the last shard stays");
    let after: Vec<TcpStream> = (0..40).map(|_| request(http)).collect();

    // The ring of the stalled shard had one accept under way, whose connection only it can serve.
    let waiting: Vec<TcpStream> = before.into_iter().chain(after).collect();
    waiting.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
    let mut left = waiting;
    while left.len() > 1 {
        answer_all(&core, &script);
        left.retain_mut(|stream| match stream.read(&mut [0; 512]) {
            Ok(n) => {
                assert!(n > 0, "closed without an answer");
                false
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                true
            }
        });
        assert!(stalled.elapsed() < Duration::from_secs(3), "{} not served", left.len());
        std::thread::sleep(Duration::from_millis(2));
    }
    // The next front listens anew on what the supervisor holds.
    let mut held = reception.outsides[0].listeners[1].try_clone().unwrap();
    reception.drain();
    drop(reception);
    shard::revive(&mut held).unwrap();
    let _waits = TcpStream::connect(http).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while shard::take_queued(held.as_fd(), 1).is_empty() {
        assert!(Instant::now() < deadline, "the listener is dead");
    }
}

#[test]
fn a_listener_that_somebody_shuts_down_is_noticed() {
    let (reception, _script, _http) = open();
    assert_eq!(reception.find_closed(), None);
    let listener = &reception.outsides[1].listeners[2];
    rustix::net::shutdown(listener, rustix::net::Shutdown::Both).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while reception.find_closed() != Some(1) {
        assert!(Instant::now() < deadline, "not noticed");
        std::thread::sleep(Duration::from_millis(5));
    }
}
