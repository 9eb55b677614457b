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

use super::renegotiation::Sealer;
use crate::handshake::poll::{Poll, connected, dial};

const TICK: Duration = Duration::from_millis(20);
/// Between two bytes that drip.
const DRIP: Duration = Duration::from_millis(200);
/// Of a head without end, before others have their turn.
const HEADERS_AT_ONCE: usize = 64;
const RECORD_HEADER_BYTES: usize = 5;
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
    /// A whole handshake and half a request, then nothing
    Idle,
    /// A request head without end
    HugeHead,
    /// TLS 1.2, then requests to renegotiate
    Renegotiate,
    /// A ClientHello, then a reset as soon as the server has signed, and again
    Flood,
    /// Silent, unfinished and idle ones in turn, to use up the server's files: give it --connections
    /// beyond what it may open
    FdExhaustion,
    /// All of them in turn
    Mixed,
}

const HOLDING: [Kind; 3] = [Kind::Silent, Kind::HelloThenSilence, Kind::Idle];
const SINGLE: [Kind; 11] = [
    Kind::Silent,
    Kind::Drip,
    Kind::HalfHello,
    Kind::HelloThenSilence,
    Kind::Rst,
    Kind::Fin,
    Kind::Garbage,
    Kind::Idle,
    Kind::HugeHead,
    Kind::Renegotiate,
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
    /// None: its keys were taken out.
    tls: Option<ClientConnection>,
    sealer: Option<Sealer>,
    hello: Vec<u8>,
    sent: usize,
    begin: Instant,
    next_drip: Instant,
    connected: bool,
    shut: bool,
}

/// How the connections speak TLS.
pub struct Configs {
    pub usual: Arc<ClientConfig>,
    /// TLS 1.2, with keys that can be taken out.
    pub renegotiating: Arc<ClientConfig>,
}

/// Attacks with `count` connections until `stop`.
pub fn run(
    target: SocketAddr,
    configs: &Configs,
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
                    let turn = usize::try_from(token).unwrap_or(0);
                    let kind = match kind {
                        Kind::Mixed => SINGLE[turn % SINGLE.len()],
                        Kind::FdExhaustion => HOLDING[turn % HOLDING.len()],
                        kind => kind,
                    };
                    ends.opened += 1;
                    let made = Bad::start(target, configs, kind)
                        .and_then(|bad| poll.add(&bad.socket, token).map(|()| bad));
                    *slot = made.map_err(|error| {
                        ends.server(how(&error), Duration::ZERO);
                        now + PAUSE
                    });
                    step(slot, &mut ends);
                }
                Err(_) => {}
                // What drips or goes on and on acts by itself.
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
    fn start(target: SocketAddr, configs: &Configs, kind: Kind) -> io::Result<Self> {
        let name = ServerName::IpAddress(target.ip().into());
        let config = match kind {
            Kind::Renegotiate => &configs.renegotiating,
            _ => &configs.usual,
        };
        let mut tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        let mut hello = Vec::new();
        match kind {
            Kind::Silent | Kind::Idle | Kind::HugeHead => {}
            Kind::Garbage => hello = vec![0xA5; 1024],
            _ => drop(tls.write_tls(&mut hello)?),
        }
        if matches!(kind, Kind::HalfHello | Kind::Rst | Kind::Fin) {
            hello.truncate(hello.len() / 2);
        }
        let begin = Instant::now();
        let socket = dial(target)?;
        let (sent, connected, shut) = (0, false, false);
        let (tls, sealer) = (Some(tls), None);
        let next_drip = begin;
        Ok(Self { socket, kind, tls, sealer, hello, sent, begin, next_drip, connected, shut })
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
        match self.kind {
            Kind::Idle | Kind::HugeHead => return self.request(),
            Kind::Renegotiate if self.sent == self.hello.len() => return self.renegotiate(),
            _ => {}
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
        if self.kind == Kind::Renegotiate {
            return Ok(true);
        }
        self.listen()
    }

    /// Takes what the server says and does not care.
    fn listen(&mut self) -> io::Result<bool> {
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

    /// Half a request, or one that never ends.
    fn request(&mut self) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else { return Ok(false) };
        flush(tls, &self.socket)?;
        handshake(tls, &self.socket)?;
        flush(tls, &self.socket)?;
        if tls.is_handshaking() {
            return Ok(true);
        }
        if self.sent == 0 {
            tls.writer().write_all(b"GET / HTTP/1.1\r\n")?;
            self.sent = 1;
        }
        flush(tls, &self.socket)?;
        if self.kind == Kind::HugeHead {
            for _ in 0..HEADERS_AT_ONCE {
                if tls.wants_write() {
                    break;
                }
                tls.writer().write_all(&[b'x'; 1000])?;
                tls.writer().write_all(b": y\r\n")?;
                flush(tls, &self.socket)?;
            }
        }
        Ok(true)
    }

    /// Finishes the handshake, then asks for another, again and again.
    fn renegotiate(&mut self) -> io::Result<bool> {
        if let Some(tls) = &mut self.tls {
            flush(tls, &self.socket)?;
            handshake(tls, &self.socket)?;
            flush(tls, &self.socket)?;
            if tls.is_handshaking() || tls.wants_write() {
                return Ok(true);
            }
            self.sealer = self.tls.take().and_then(Sealer::of);
        }
        let Some(sealer) = &mut self.sealer else { return Ok(false) };
        let hello = self.hello.get(RECORD_HEADER_BYTES..).unwrap_or_default();
        let Some(record) = sealer.handshake(hello) else { return Ok(false) };
        match nothing_yet((&self.socket).write(&record))? {
            // A record that went out in part can not be mended; a full socket only waits.
            Some(length) if length < record.len() => Ok(false),
            _ => self.listen(),
        }
    }
}

/// Takes what came, as TLS.
fn handshake(tls: &mut ClientConnection, mut socket: &Socket) -> io::Result<()> {
    while let Some(length) = nothing_yet(tls.read_tls(&mut socket))? {
        if length == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let _ = tls.process_new_packets();
    }
    Ok(())
}

fn flush(tls: &mut ClientConnection, mut socket: &Socket) -> io::Result<()> {
    while tls.wants_write() {
        if nothing_yet(tls.write_tls(&mut socket))?.is_none() {
            break;
        }
    }
    Ok(())
}

/// None instead of "not now".
fn nothing_yet(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(length) => Ok(Some(length)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
