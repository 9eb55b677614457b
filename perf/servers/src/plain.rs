//! Connections without TLS that move as many bytes in as many turns as one with it: what its sockets
//! alone cost.
use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::session::{Session, Step};

/// Connections at once, as the generator of handshakes has.
const AT_ONCE: usize = 16;

/// Bytes to the server and its bytes back.
type Turn = (usize, usize);

/// The turns, and the bytes of the last answer.
pub fn flights(text: &str) -> Result<(Vec<Turn>, usize), Box<dyn Error>> {
    let mut turns = Vec::new();
    for turn in text.split(',') {
        let (to, from) = turn.split_once(':').ok_or("a turn is IN:OUT")?;
        turns.push((to.parse()?, from.parse()?));
    }
    let (_, last) = *turns.last().ok_or("no turn")?;
    Ok((turns, last))
}

pub struct Plain<'a> {
    turns: &'a [Turn],
    /// Bytes of this turn that have come.
    come: usize,
}

impl<'a> Plain<'a> {
    pub fn new(turns: &'a [Turn]) -> Self {
        Self { turns, come: 0 }
    }
}

impl Session for Plain<'_> {
    fn advance(&mut self, mut socket: &TcpStream) -> io::Result<Step> {
        let mut chunk = [0; 16 * 1024];
        loop {
            match socket.read(&mut chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.come += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Step::Wait),
                Err(error) => return Err(error),
            }
            let Some(((to, from), rest)) = self.turns.split_first() else {
                return Err(ErrorKind::InvalidData.into());
            };
            if self.come >= *to {
                (self.come, self.turns) = (0, rest);
                if rest.is_empty() {
                    return Ok(Step::Asked(Vec::new()));
                }
                socket.write_all(&chunk[..*from])?;
            }
        }
    }

    fn finish(&mut self, mut socket: &TcpStream, answer: &[u8]) -> io::Result<()> {
        socket.write_all(answer)
    }
}

/// Connects again and again for so many seconds; prints how many connections were served.
pub fn dial(port: u16, text: &str, seconds: f64) -> Result<(), Box<dyn Error>> {
    let (turns, _) = flights(text)?;
    let (over, served) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) && talk(port, &turns).is_ok() {
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        thread::sleep(Duration::from_secs_f64(seconds));
        over.store(true, Ordering::Relaxed);
    });
    println!("{}", served.into_inner());
    Ok(())
}

fn talk(port: u16, turns: &[Turn]) -> io::Result<()> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_nodelay(true)?;
    // Closed by a reset: nothing lingers, neither side runs out of ports.
    rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    let mut chunk = [0; 16 * 1024];
    for (to, from) in turns {
        socket.write_all(&chunk[..*to])?;
        socket.read_exact(&mut chunk[..*from])?;
    }
    Ok(())
}
