//! The bad connections: each slot keeps one open, does its kind of harm and notes how the server ended it.
//! It knows nothing of the honest ones. One thread, one epoll.
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use serde_json::{Value, json};
use socket2::Socket;

use crate::handshake::poll::{Poll, connected, dial};

const TICK: Duration = Duration::from_millis(20);
/// Between two bytes that drip.
const DRIP: Duration = Duration::from_millis(200);
/// Before a slot connects again.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Connects and says nothing
    Silent,
    /// A ClientHello, one byte after the other
    Drip,
    /// Half a ClientHello
    HalfHello,
    /// A whole ClientHello, then nothing
    HelloThenSilence,
    /// Half a ClientHello, then a reset
    Rst,
    /// Half a ClientHello, then FIN
    Fin,
    /// Bytes that are no TLS
    Garbage,
    /// A request head without end
    HugeHead,
    /// A ClientHello, then a reset as soon as the server has signed, and again
    Flood,
    /// All of them in turn
    Mixed,
}

const SINGLE: [Kind; 9] = [
    Kind::Silent,
    Kind::Drip,
    Kind::HalfHello,
    Kind::HelloThenSilence,
    Kind::Rst,
    Kind::Fin,
    Kind::Garbage,
    Kind::HugeHead,
    Kind::Flood,
];

/// How connections ended, and at which age in tenths of a second.
#[derive(Default)]
pub struct Ends {
    pub opened: u64,
    counts: BTreeMap<&'static str, u64>,
    ages: BTreeMap<u64, u64>,
}

impl Ends {
    fn server(&mut self, how: &'static str, age: Duration) {
        *self.counts.entry(how).or_default() += 1;
        *self.ages.entry(u64::try_from(age.as_millis()).unwrap_or(0) / 100).or_default() += 1;
    }

    pub fn json(&self) -> Value {
        let names = ["fin", "reset", "refused", "other", "by_us", "still_open"];
        let ends: BTreeMap<_, _> =
            names.iter().map(|name| (*name, self.counts.get(name).copied().unwrap_or(0))).collect();
        let ages: Vec<_> = self
            .ages
            .iter()
            .map(|(tenth, count)| json!({ "from_ms": tenth * 100, "count": count }))
            .collect();
        json!({ "opened": self.opened, "ends": ends, "closed_by_server_at_age": ages })
    }
}

struct Bad {
    socket: Socket,
    kind: Kind,
    tls: ClientConnection,
    hello: Vec<u8>,
    sent: usize,
    begin: Instant,
    next_drip: Instant,
    connected: bool,
    shut: bool,
}

/// Attacks with `count` connections until `stop`.
pub fn run(
    target: SocketAddr,
    config: &Arc<ClientConfig>,
    kind: Kind,
    count: usize,
    stop: &AtomicBool,
) -> io::Result<Ends> {
    let mut poll = Poll::new()?;
    let mut ends = Ends::default();
    let mut slots: Vec<Result<Bad, Instant>> = (0..count).map(|_| Err(Instant::now())).collect();
    let mut ready = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        for (token, slot) in (0_u64..).zip(&mut slots) {
            match slot {
                Err(at) if *at <= now => {
                    let kind = match kind {
                        Kind::Mixed => SINGLE[usize::try_from(token).unwrap_or(0) % SINGLE.len()],
                        kind => kind,
                    };
                    ends.opened += 1;
                    let made = Bad::start(target, config, kind)
                        .and_then(|bad| poll.add(&bad.socket, token).map(|()| bad));
                    *slot = made.map_err(|error| {
                        ends.server(how(&error), Duration::ZERO);
                        now + PAUSE
                    });
                    step(slot, &mut ends);
                }
                Err(_) => {}
                // Only dripping and huge heads act by themselves.
                Ok(bad) if bad.next_drip <= now => step(slot, &mut ends),
                Ok(_) => {}
            }
        }
        poll.wait(TICK, &mut ready)?;
        for token in &ready {
            if let Some(slot) = usize::try_from(*token).ok().and_then(|at| slots.get_mut(at)) {
                step(slot, &mut ends);
            }
        }
    }
    let open = slots.iter().filter(|slot| slot.is_ok()).count();
    ends.counts.insert("still_open", open.try_into().unwrap_or(0));
    Ok(ends)
}

fn step(slot: &mut Result<Bad, Instant>, ends: &mut Ends) {
    let Ok(bad) = slot else { return };
    let age = bad.begin.elapsed();
    match bad.act() {
        Ok(true) => return,
        Ok(false) => *ends.counts.entry("by_us").or_default() += 1,
        Err(error) => ends.server(how(&error), age),
    }
    let pause = if bad.kind == Kind::Flood { Duration::ZERO } else { PAUSE };
    *slot = Err(Instant::now() + pause);
}

fn how(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::UnexpectedEof => "fin",
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "reset",
        ErrorKind::ConnectionRefused => "refused",
        _ => "other",
    }
}

impl Bad {
    fn start(target: SocketAddr, config: &Arc<ClientConfig>, kind: Kind) -> io::Result<Self> {
        let name = ServerName::IpAddress(target.ip().into());
        let mut tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        let mut hello = Vec::new();
        match kind {
            Kind::Silent | Kind::HugeHead => {}
            Kind::Garbage => hello = vec![0xA5; 1024],
            _ => drop(tls.write_tls(&mut hello)?),
        }
        if matches!(kind, Kind::HalfHello | Kind::Rst | Kind::Fin) {
            hello.truncate(hello.len() / 2);
        }
        let begin = Instant::now();
        let socket = dial(target)?;
        let (sent, connected, shut) = (0, false, false);
        Ok(Self { socket, kind, tls, hello, sent, begin, next_drip: begin, connected, shut })
    }

    /// Whether it goes on; an error is how the server ended it.
    fn act(&mut self) -> io::Result<bool> {
        self.next_drip = Instant::now() + DRIP;
        if !self.connected {
            self.connected = connected(&self.socket)?;
            if !self.connected {
                return Ok(true);
            }
        }
        if self.kind == Kind::HugeHead {
            return self.huge_head().map(|()| true);
        }
        let most = if self.kind == Kind::Drip { self.sent + 1 } else { self.hello.len() };
        let part = &self.hello[self.sent..most.min(self.hello.len())];
        if !part.is_empty() {
            self.sent += nothing_yet((&self.socket).write(part))?.unwrap_or(0);
        }
        if self.sent == self.hello.len() {
            match self.kind {
                Kind::Rst => return Ok(false),
                Kind::Fin if !self.shut => {
                    self.shut = true;
                    self.socket.shutdown(Shutdown::Write)?;
                }
                _ => {}
            }
        }
        let mut buffer = [0; 4096];
        while let Some(length) = nothing_yet((&self.socket).read(&mut buffer))? {
            match length {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                _ if self.kind == Kind::Flood => return Ok(false),
                _ => {}
            }
        }
        Ok(true)
    }

    fn huge_head(&mut self) -> io::Result<()> {
        while let Some(length) = nothing_yet(self.tls.read_tls(&mut &self.socket))? {
            if length == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let _ = self.tls.process_new_packets();
        }
        if !self.tls.is_handshaking() {
            if self.sent == 0 {
                self.tls.writer().write_all(b"GET / HTTP/1.1\r\n")?;
            }
            self.sent += 1;
            self.tls.writer().write_all(&[b'x'; 1000])?;
            self.tls.writer().write_all(b": y\r\n")?;
        }
        while self.tls.wants_write() {
            if nothing_yet(self.tls.write_tls(&mut &self.socket))?.is_none() {
                break;
            }
        }
        Ok(())
    }
}

/// None instead of "not now".
fn nothing_yet(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(length) => Ok(Some(length)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
