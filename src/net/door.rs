//! The door's sockets: one per port and address family, bound to the wildcard address, which every
//! flow's first datagram comes to; and the connected sockets that take a known flow away from them.
//!
//! With wildcard door sockets, a connected socket on the same port gets exactly its peer's
//! datagrams and strangers still reach the door. A door socket bound to one address would break
//! that, and so would a connected socket that is disconnected: it is only ever closed.
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::sys::{self, Batch};

/// Bytes asked for as a door socket's receive buffer: a burst of pings and connects.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;
/// Calls that empty a fresh connected socket at most. What slipped in before it was connected is
/// bounded by its receive buffer, less than 32 times this many.
const DRAIN_CALLS_MAX: usize = 64;
/// Drained datagrams that are kept. More than a few come only from a flood.
const DRAINED_MAX: usize = 64;

/// An address family of the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(address: &SocketAddr) -> Self {
        match address {
            SocketAddr::V4(_) => Self::V4,
            SocketAddr::V6(_) => Self::V6,
        }
    }

    const fn wildcard(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }
}

/// A datagram that came to the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoorDatagram<'a> {
    /// The address and port that the peer sent it to; IPv6 link-local ones with their scope.
    pub local: SocketAddr,
    pub peer: SocketAddr,
    pub bytes: &'a [u8],
}

/// A socket that belongs to one peer.
#[derive(Debug)]
pub struct Connected {
    /// Non-blocking, CLOEXEC, bound to the contacted address, connected to the peer, empty.
    pub fd: OwnedFd,
    /// What came between bind and connect, with its sender: treat it as if it had come to the door.
    pub drained: Vec<(SocketAddr, Vec<u8>)>,
    /// Drained datagrams that were too many or too long to be kept.
    pub dropped: u64,
}

/// An unconnected wildcard socket.
#[derive(Debug)]
pub struct DoorSocket {
    fd: OwnedFd,
    family: Family,
    port: u16,
}

impl AsFd for DoorSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<DoorSocket> for OwnedFd {
    fn from(socket: DoorSocket) -> Self {
        socket.fd
    }
}

impl DoorSocket {
    /// Binds `port` on the wildcard address of `family`. Fails where the machine lacks the family,
    /// and where a socket that does not share holds the port. Port 0 finds one that no such socket
    /// holds; another door of this user may share it.
    pub fn bind(family: Family, port: u16) -> io::Result<Self> {
        let socket = shared_socket(family, SocketAddr::new(family.wildcard(), port))?;
        if let Err(error) = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES) {
            tracing::debug!(%error, "receive buffer refused");
        }
        sys::ask_for_pktinfo(socket.as_fd(), family == Family::V6)?;
        Self::from_fd(socket.into())
    }

    /// Takes over a socket that [`Self::bind`] made, perhaps in another process.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let local = SockRef::from(&fd).local_addr()?.as_socket();
        let local = local.filter(|local| local.ip().is_unspecified());
        let local = local.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(Self { fd, family: Family::of(&local), port: local.port() })
    }

    /// The port that it is bound to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address family.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Takes what has come, at most a batch, without blocking. False if nothing was there.
    pub fn recv_batch(&self, batch: &mut Batch) -> io::Result<bool> {
        match sys::recv_batch(self.fd.as_fd(), batch) {
            Ok(count) => Ok(count > 0),
            Err(error) if is_empty(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The datagrams of a batch that this socket received.
    pub fn datagrams<'a>(&self, batch: &'a Batch) -> impl Iterator<Item = DoorDatagram<'a>> {
        let port = self.port;
        batch.iter().filter_map(move |(peer, local, bytes)| {
            let local = local_address(local?, port);
            Some(DoorDatagram { local, peer, bytes })
        })
    }

    /// Sends one datagram from the address that was contacted. Never blocks: a full socket is
    /// `WouldBlock`, and the datagram is the caller's to drop.
    pub fn send_from(&self, local: SocketAddr, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        if Family::of(&local) != self.family || Family::of(&to) != self.family {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sys::send_from(self.fd.as_fd(), local, to, bytes).map(drop)
    }

    /// Makes the socket that gets what `peer` sends to `local` from now on. Must run as the user
    /// that bound the door's sockets.
    pub fn connected_for(&self, local: SocketAddr, peer: SocketAddr) -> io::Result<Connected> {
        let is_ours = Family::of(&local) == self.family
            && Family::of(&peer) == self.family
            && local.port() == self.port
            && !local.ip().is_unspecified();
        if !is_ours {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let socket = shared_socket(self.family, local)?;
        socket.connect(&peer.into())?;
        drain(socket.into())
    }
}

/// A non-blocking UDP socket that shares its port with others of the same user.
fn shared_socket(family: Family, local: SocketAddr) -> io::Result<Socket> {
    let domain = match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = Socket::new(domain, kind, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if family == Family::V6 {
        socket.set_only_v6(true)?;
    }
    socket.bind(&local.into())?;
    Ok(socket)
}

/// Reads a freshly connected socket empty: strangers could reach it while it was only bound.
fn drain(fd: OwnedFd) -> io::Result<Connected> {
    let mut connected = Connected { fd, drained: Vec::new(), dropped: 0 };
    let mut batch = Batch::default();
    for _ in 0..DRAIN_CALLS_MAX {
        match sys::recv_batch(connected.fd.as_fd(), &mut batch) {
            Ok(_) => {}
            Err(error) if is_empty(&error) => break,
            Err(error) => return Err(error),
        }
        for (peer, _, bytes) in batch.iter() {
            if connected.drained.len() < DRAINED_MAX {
                connected.drained.push((peer, bytes.to_vec()));
            } else {
                connected.dropped += 1;
            }
        }
    }
    connected.dropped += batch.dropped;
    Ok(connected)
}

fn is_empty(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// The contacted address; only link-local ones need the interface to be unambiguous.
fn local_address((ip, interface): (IpAddr, u32), port: u16) -> SocketAddr {
    match ip {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), port),
        IpAddr::V6(ip) => {
            let scope = if ip.is_unicast_link_local() { interface } else { 0 };
            SocketAddrV6::new(ip, port, 0, scope).into()
        }
    }
}
