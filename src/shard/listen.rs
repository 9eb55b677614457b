//! Listening sockets and the connections that they accept.
//!
//! Listeners arrive as fds from the supervisor, which made them. Policy for a process that has run
//! out of descriptors or memory: wait 50 ms, then look again; peers wait in the backlog meanwhile.
//!
//! Who waits in the backlog is taken with one accept4(2); the runtime, whose own attempt costs five
//! system calls and loses a connection if it is given up, is asked only to wait for the next.
#![expect(unsafe_code, reason = "the runtime takes over a listening socket only as a raw fd")]
use std::cell::Cell;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use glommio::GlommioError;
use glommio::net::TcpStream;
use socket2::{Protocol, Socket, Type};

use super::clock::{now, sleep_until};
use crate::time::Time;

/// Connections that may wait to be accepted, per listener.
const BACKLOG: i32 = 4096;
/// How long an exhausted process waits before it accepts again.
const BACK_OFF: Duration = Duration::from_millis(50);
/// Bytes that one gathering write sends at most.
const GATHERED_BYTES_MAX: usize = 16 * 1024;
/// At most one line of log in this time about failing accepts.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// What a listener has met.
#[derive(Debug, Default)]
pub struct ListenFigures {
    pub accepted: AtomicU64,
    /// Accepts that failed for lack of descriptors or memory.
    pub exhausted: AtomicU64,
    /// Peers that were gone before they could be looked at, and other single failures.
    pub vanished: AtomicU64,
}

/// The listener was shut down; it accepts no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the listener was shut down")]
pub struct ListenerEnded;

/// A listening TCP socket on one shard.
pub struct Listener {
    fd: OwnedFd,
    /// Waits for the next connection; None: was used up.
    ready: Cell<Option<TcpStream>>,
    figures: Arc<ListenFigures>,
    logged: Cell<Time>,
}

impl Listener {
    /// Takes a bound and listening socket; only within a shard.
    ///
    /// The socket is shared with the supervisor and, while one front follows another, with that front:
    /// it must be non-blocking for good, or an accept that comes second would block its shard.
    pub fn new(fd: OwnedFd, figures: Arc<ListenFigures>) -> Self {
        let _ = rustix::io::ioctl_fionbio(&fd, true);
        let ready = Cell::new(waiting(&fd).ok());
        Self { fd, ready, figures, logged: Cell::new(Time::ZERO) }
    }

    /// The next connection. Failures that concern one peer or pass by themselves are waited out.
    ///
    /// Dropping the future loses no connection: none is taken from the queue but by the call that
    /// returns it. (The runtime's own accept is an operation of the ring, which may take a connection
    /// after its future was dropped and then keeps it.)
    ///
    /// # Errors
    /// The listener was shut down, by this process or by one that shares it.
    pub async fn accept(&self) -> Result<Conn, ListenerEnded> {
        loop {
            let error = match self.take_waiting() {
                Ok(conn) => {
                    self.figures.accepted.fetch_add(1, Ordering::Relaxed);
                    return Ok(conn);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match self.readable().await {
                        Ok(()) => continue,
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            match verdict(&error) {
                Verdict::Ended => return Err(ListenerEnded),
                Verdict::Peer => {
                    self.figures.vanished.fetch_add(1, Ordering::Relaxed);
                }
                Verdict::Exhausted => {
                    self.figures.exhausted.fetch_add(1, Ordering::Relaxed);
                    self.log(&error);
                    sleep_until(now() + BACK_OFF).await;
                }
            }
        }
    }

    /// Waits until a connection may be there.
    async fn readable(&self) -> io::Result<()> {
        let mut ready = match self.ready.take() {
            Some(ready) => ready,
            None => waiting(&self.fd)?,
        };
        let _ = ready.read(&mut [0]).await;
        Ok(())
    }

    /// A connection that is there already; `WouldBlock`: none is.
    fn take_waiting(&self) -> io::Result<Conn> {
        let (fd, peer) = rustix::net::acceptfrom_with(&self.fd, rustix::net::SocketFlags::CLOEXEC)?;
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        // SAFETY: the fd is owned here and given away; the stream closes it.
        let stream = unsafe { TcpStream::from_raw_fd(fd.into_raw_fd()) };
        Conn::new(stream, peer)
    }

    fn log(&self, error: &io::Error) {
        let now = now();
        if self.logged.get() == Time::ZERO || now.since(self.logged.get()) >= LOG_EVERY {
            self.logged.set(now);
            let count = self.figures.exhausted.load(Ordering::Relaxed);
            tracing::warn!(%error, count, "cannot accept connections; trying again every 50 ms");
        }
    }
}

/// Something that can be read, once, when a connection is there: the runtime waits for readiness only
/// on behalf of a read. On a listener the read itself then fails.
fn waiting(listener: &OwnedFd) -> io::Result<TcpStream> {
    let fd = listener.try_clone()?;
    // SAFETY: the fd is owned here and given away; the stream closes it.
    Ok(unsafe { TcpStream::from_raw_fd(fd.into_raw_fd()) })
}

fn plain(error: GlommioError<()>) -> io::Error {
    match error {
        GlommioError::IoError(error) => error,
        other => io::Error::other(other.to_string()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Concerns one peer: go on.
    Peer,
    /// The process or the machine lacks something: wait.
    Exhausted,
    /// No listener any more.
    Ended,
}

/// Source: accept(2), ERRORS. What is not known is treated as exhaustion, which cannot spin.
fn verdict(error: &io::Error) -> Verdict {
    match error.raw_os_error() {
        Some(libc::EINVAL | libc::EBADF | libc::ENOTSOCK) => Verdict::Ended,
        Some(
            libc::ECONNABORTED
            | libc::ECONNRESET
            | libc::ENOTCONN
            | libc::EPERM
            | libc::EINTR
            | libc::EAGAIN
            | libc::EPROTO
            | libc::ENETDOWN
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::EHOSTUNREACH,
        ) => Verdict::Peer,
        _ => Verdict::Exhausted,
    }
}

/// One accepted connection: closed on exec, closed when dropped.
pub struct Conn {
    stream: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    accepted: Time,
    reset_on_close: Cell<bool>,
}

/// Takes the connections that wait in a listener's queue, at most `most` of them: from another thread,
/// when the listener's own shard stands still.
pub fn take_queued(listener: BorrowedFd<'_>, most: usize) -> Vec<OwnedFd> {
    let mut taken = Vec::new();
    while taken.len() < most {
        match rustix::net::accept_with(listener, rustix::net::SocketFlags::CLOEXEC) {
            Ok(fd) => taken.push(fd),
            Err(rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => {}
            Err(_) => break,
        }
    }
    taken
}

/// Replaces a listener that was shut down by a fresh one on the same address, with the same options.
/// (Listening again on the old one succeeds, but connections are refused all the same: measured on
/// Linux 6.18.) One that listens is left as it is.
///
/// # Errors
/// The address cannot be bound again.
pub fn revive(listener: &mut OwnedFd) -> io::Result<()> {
    let old = socket2::SockRef::from(&*listener);
    if old.is_listener()? {
        return Ok(());
    }
    let address = old.local_addr()?;
    let socket = Socket::new(address.domain(), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(old.only_v6()?)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(old.tcp_nodelay()?)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address)?;
    socket.listen(BACKLOG)?;
    *listener = socket.into();
    Ok(())
}

impl Conn {
    /// Takes over a connection that another thread accepted, closed on exec; only within a shard.
    ///
    /// # Errors
    /// The peer is gone already.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: the fd is owned here and given away; the stream closes it.
        Self::new(unsafe { TcpStream::from_raw_fd(fd.into_raw_fd()) }, None)
    }

    fn new(stream: TcpStream, peer: Option<SocketAddr>) -> io::Result<Self> {
        let peer = peer.map_or_else(|| stream.peer_addr().map_err(plain), Ok)?;
        let local = canonical(stream.local_addr().map_err(plain)?);
        let reset_on_close = Cell::new(false);
        Ok(Self { stream, peer: canonical(peer), local, accepted: now(), reset_on_close })
    }

    /// The peer's address, never v4-mapped.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The address of ours that the peer contacted, never v4-mapped.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// When it was accepted.
    pub fn accepted(&self) -> Time {
        self.accepted
    }

    /// Whether closing resets the connection, which leaves no TIME_WAIT behind: for peers that miss a
    /// deadline or are turned away.
    pub fn set_reset_on_close(&self, reset: bool) {
        self.reset_on_close.set(reset);
    }
}

impl Drop for Conn {
    /// The socket learns of it only now: most connections change their mind on the way.
    fn drop(&mut self) {
        if self.reset_on_close.get() {
            let _ = rustix::net::sockopt::set_socket_linger(self.as_fd(), Some(Duration::ZERO));
        }
    }
}

impl AsFd for Conn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the stream owns the fd and is borrowed for as long.
        unsafe { BorrowedFd::borrow_raw(self.stream.as_raw_fd()) }
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Conn {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    /// In one piece: the runtime knows no gathering write, and a handshake's answer is several records.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [piece] = pieces {
            return Pin::new(&mut self.stream).poll_write(cx, piece);
        }
        let mut whole = Vec::with_capacity(GATHERED_BYTES_MAX.min(total(pieces)));
        for piece in pieces {
            let room = GATHERED_BYTES_MAX - whole.len();
            whole.extend_from_slice(&piece[..piece.len().min(room)]);
        }
        Pin::new(&mut self.stream).poll_write(cx, &whole)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Ends the writing side; the reading side stays open.
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

fn total(pieces: &[IoSlice<'_>]) -> usize {
    pieces.iter().map(|piece| piece.len()).sum()
}

/// The same address with an IPv4 address written as one.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_accept_are_told_apart() {
        let of = |code| verdict(&io::Error::from_raw_os_error(code));
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            assert_eq!(of(code), Verdict::Exhausted);
        }
        assert_eq!(of(libc::ECONNABORTED), Verdict::Peer);
        assert_eq!(of(libc::EPERM), Verdict::Peer);
        assert_eq!(of(libc::EINVAL), Verdict::Ended);
        assert_eq!(verdict(&io::Error::other("?")), Verdict::Exhausted);
    }

    #[test]
    fn mapped_addresses_are_written_as_what_they_are() {
        let mapped: SocketAddr = "[::ffff:10.0.0.7]:80".parse().unwrap();
        assert_eq!(canonical(mapped), "10.0.0.7:80".parse().unwrap());
        let v6: SocketAddr = "[fe80::1%3]:80".parse().unwrap();
        assert_eq!(canonical(v6), v6);
    }
}
