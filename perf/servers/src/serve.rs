//! One thread, one epoll, every connection. Writes are short and the peers read, so a full socket ends
//! its connection.
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::net::SocketFlags;

use crate::session::{Session, Step};

const LISTENER: u64 = u64::MAX;
const EVENTS_MAX: usize = 256;

/// Serves until it is killed. `handle` sees each request head before its answer goes out.
pub fn run<S: Session>(
    answer: &[u8],
    handle: impl Fn(&[u8]),
    new: impl Fn() -> Result<S, Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    rustix::net::listen(&listener, 4096)?;
    listener.set_nonblocking(true)?;
    // Accepted sockets inherit it.
    rustix::net::sockopt::set_tcp_nodelay(&listener, true)?;
    println!("{}", listener.local_addr()?.port());
    io::stdout().flush()?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut open: BTreeMap<u64, (TcpStream, S)> = BTreeMap::new();
    let mut events: Vec<Event> = Vec::with_capacity(EVENTS_MAX);
    loop {
        events.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let token = event.data.u64();
            if token != LISTENER {
                let gone = open.get_mut(&token).is_none_or(|(socket, session)| {
                    !matches!(turn(socket, session, answer, &handle), Ok(true))
                });
                if gone {
                    open.remove(&token);
                }
                continue;
            }
            while let Some(socket) = accept(&listener)? {
                let token = socket.as_raw_fd() as u64;
                let flags = EventFlags::IN | EventFlags::RDHUP;
                epoll::add(&epoll, &socket, EventData::new_u64(token), flags)?;
                open.insert(token, (socket, new()?));
            }
        }
    }
}

fn accept(listener: &TcpListener) -> io::Result<Option<TcpStream>> {
    use rustix::io::Errno;
    match rustix::net::accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
        Ok(socket) => Ok(Some(socket.into())),
        Err(Errno::WOULDBLOCK | Errno::CONNABORTED) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether the connection goes on.
fn turn<S: Session>(
    socket: &TcpStream,
    session: &mut S,
    answer: &[u8],
    handle: impl Fn(&[u8]),
) -> io::Result<bool> {
    match session.advance(socket)? {
        Step::Wait => Ok(true),
        Step::Asked(head) => {
            handle(&head);
            session.finish(socket, answer)?;
            Ok(false)
        }
    }
}
