//! The listeners of each shard and the door's datagram sockets: made here once, held for ever,
//! handed to every front in turn.
#![expect(unsafe_code, reason = "setsockopt for PKTINFO, which socket2 does not have")]
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::config::Ports;
use crate::ops::ports::{Holder, Protocol, holders};

/// Connections that may wait while there is no front.
const BACKLOG: i32 = 4096;
/// Bytes asked for to hold datagrams that the door has not read yet; the system may give less.
const DOOR_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// A host that was just killed may still be closing its sockets.
const TAKEN_PATIENCE: Duration = Duration::from_secs(1);

/// The listeners of a shard, in order.
const SERVICES: [&str; 3] = ["HTTPS", "HTTP", "RTSP"];

/// A port could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("{protocol} port {port} ({name}) is taken by {}", describe(holders))]
    Taken { protocol: Protocol, port: u16, name: &'static str, holders: Vec<Holder> },
    #[error("{protocol} port {port} ({name}) cannot be opened: {error}")]
    System { protocol: Protocol, port: u16, name: &'static str, error: io::Error },
}

fn describe(holders: &[Holder]) -> String {
    match holders.first() {
        Some(holder) => holder.to_string(),
        None => "another program".to_owned(),
    }
}

/// All sockets of the host, open.
pub struct Sockets {
    /// Per shard: HTTPS, HTTP, RTSP.
    listeners: Vec<[Socket; 3]>,
    /// Video, control, audio over IPv4, then the same over IPv6 where the machine has it.
    door: Vec<Socket>,
    pub door_ipv6: bool,
    /// The ports as they are; 0 is replaced by what the system chose.
    pub ports: Ports,
}

impl Sockets {
    /// Opens everything for `shards` shards.
    ///
    /// # Errors
    /// The first port that cannot be had, and who holds it.
    pub fn open(wanted: Ports, shards: usize) -> Result<Self, SocketError> {
        let ipv6 = has_ipv6();
        let mut ports = wanted;
        for (name, port) in SERVICES.into_iter().zip([ports.https, ports.http, ports.rtsp]) {
            refuse_taken(Protocol::Tcp, name, port, ipv6)?;
        }
        for (name, port) in
            [("video", ports.video), ("control", ports.control), ("audio", ports.audio)]
        {
            refuse_taken(Protocol::Udp, name, port, ipv6)?;
        }
        let mut listeners = Vec::with_capacity(shards);
        for _ in 0..shards {
            listeners.push([
                listener("HTTPS", &mut ports.https, ipv6)?,
                listener("HTTP", &mut ports.http, ipv6)?,
                listener("RTSP", &mut ports.rtsp, ipv6)?,
            ]);
        }
        let mut families = vec![false];
        families.extend(ipv6.then_some(true));
        let mut door = Vec::new();
        for family in families {
            door.push(datagrams("video", &mut ports.video, family)?);
            door.push(datagrams("control", &mut ports.control, family)?);
            door.push(datagrams("audio", &mut ports.audio, family)?);
        }
        Ok(Self { listeners, door, door_ipv6: ipv6, ports })
    }

    /// Replaces what a front has shut down: it takes a stalled shard out of the group of its port that
    /// way, and the listener, which is shared, stays deaf for the next front too. To listen on it again
    /// would not bring it back into the group (measured on Linux 6.18).
    pub fn revive(&mut self) {
        let ports = [self.ports.https, self.ports.http, self.ports.rtsp];
        for shard in &mut self.listeners {
            for (old, (name, mut port)) in shard.iter_mut().zip(SERVICES.into_iter().zip(ports)) {
                if old.is_listener().unwrap_or(false) {
                    continue;
                }
                match listener(name, &mut port, self.door_ipv6) {
                    Ok(new) => *old = new,
                    Err(error) => tracing::error!(%error, "a listener cannot be replaced"),
                }
            }
        }
    }

    /// In the order of `FrontBoot`.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let listeners = self.listeners.iter().flatten();
        listeners.chain(&self.door).map(AsFd::as_fd).collect()
    }
}

/// A wildcard IPv6 socket can be bound here.
fn has_ipv6() -> bool {
    Socket::new(Domain::IPV6, Type::DGRAM, None).is_ok_and(|socket| {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        socket.bind(&any.into()).is_ok()
    })
}

fn wildcard(ipv6: bool, port: u16) -> SocketAddr {
    let ip = if ipv6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::UNSPECIFIED.into() };
    SocketAddr::from((ip, port))
}

/// SO_REUSEPORT would let a second host of the same user share the port in silence, so the port is
/// tried without it first. Connections that linger (TIME_WAIT) and connected datagram sockets of
/// sessions that outlived an earlier host do not count.
fn refuse_taken(
    protocol: Protocol,
    name: &'static str,
    port: u16,
    ipv6: bool,
) -> Result<(), SocketError> {
    let deadline = Instant::now() + TAKEN_PATIENCE;
    loop {
        let Err(error) = try_bind(protocol, port, ipv6) else { return Ok(()) };
        if error.kind() != io::ErrorKind::AddrInUse {
            return Err(SocketError::System { protocol, port, name, error });
        }
        let holders = holders(protocol, port);
        if holders.is_empty() && protocol == Protocol::Udp {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(SocketError::Taken { protocol, port, name, holders });
        }
        sleep(Duration::from_millis(50));
    }
}

fn try_bind(protocol: Protocol, port: u16, ipv6: bool) -> io::Result<()> {
    if protocol == Protocol::Tcp {
        let socket = Socket::new(domain(ipv6), Type::STREAM, None)?;
        if ipv6 {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        return socket.bind(&wildcard(ipv6, port).into());
    }
    // Without SO_REUSEADDR: with it two datagram sockets may always share a port.
    let v4 = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    v4.bind(&wildcard(false, port).into())?;
    if ipv6 {
        let v6 = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
        v6.set_only_v6(true)?;
        v6.bind(&wildcard(true, port).into())?;
    }
    Ok(())
}

fn domain(ipv6: bool) -> Domain {
    if ipv6 { Domain::IPV6 } else { Domain::IPV4 }
}

/// A listener on `port`, which is replaced by the system's choice if it is 0.
fn listener(name: &'static str, port: &mut u16, ipv6: bool) -> Result<Socket, SocketError> {
    let open = |port: u16| -> io::Result<Socket> {
        let socket = Socket::new(domain(ipv6), Type::STREAM, None)?;
        if ipv6 {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        // Accepted sockets inherit it.
        socket.set_tcp_nodelay(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&wildcard(ipv6, port).into())?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    };
    finish(Protocol::Tcp, name, port, open)
}

/// A datagram socket of the door.
fn datagrams(name: &'static str, port: &mut u16, ipv6: bool) -> Result<Socket, SocketError> {
    let open = |port: u16| -> io::Result<Socket> {
        let socket = Socket::new(domain(ipv6), Type::DGRAM, None)?;
        if ipv6 {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        tell_local_address(&socket, ipv6)?;
        // Best effort: the system's own limit may be lower.
        let _ = socket.set_recv_buffer_size(DOOR_BUFFER_BYTES);
        socket.bind(&wildcard(ipv6, port).into())?;
        Ok(socket)
    };
    finish(Protocol::Udp, name, port, open)
}

fn finish(
    protocol: Protocol,
    name: &'static str,
    port: &mut u16,
    open: impl Fn(u16) -> io::Result<Socket>,
) -> Result<Socket, SocketError> {
    let fault = |error| SocketError::System { protocol, port: *port, name, error };
    let socket = open(*port).map_err(fault)?;
    let address = socket.local_addr().map_err(fault)?;
    *port = address.as_socket().map_or(*port, |address| address.port());
    Ok(socket)
}

/// Each datagram then says which address of ours it was sent to (IP_PKTINFO, IPV6_RECVPKTINFO).
fn tell_local_address(socket: &Socket, ipv6: bool) -> io::Result<()> {
    let (level, option) = if ipv6 {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
    } else {
        (libc::IPPROTO_IP, libc::IP_PKTINFO)
    };
    let on: libc::c_int = 1;
    // SAFETY: the option's value is one int, which lives through the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: Ports = Ports { https: 0, http: 0, rtsp: 0, video: 0, control: 0, audio: 0 };

    #[test]
    fn all_shards_share_the_ports_and_a_second_host_is_refused_by_name() {
        let first = Sockets::open(ANY, 2).unwrap();
        assert!(first.ports.https != 0 && first.ports.audio != 0);
        assert_eq!(first.fds().len(), 6 + if first.door_ipv6 { 6 } else { 3 });
        for fd in first.fds() {
            let flags = rustix::io::fcntl_getfd(fd).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        }
        let me = std::process::id();
        for wanted in
            [Ports { rtsp: first.ports.rtsp, ..ANY }, Ports { video: first.ports.video, ..ANY }]
        {
            let error = Sockets::open(wanted, 1).err().unwrap().to_string();
            assert!(error.contains("is taken by"), "{error}");
            assert!(error.contains(&format!("pid {me}")), "{error}");
        }
        let ports = first.ports;
        drop(first);
        Sockets::open(ports, 1).unwrap();
    }

    #[test]
    fn a_listener_that_a_front_shut_down_serves_the_next_one() {
        let mut sockets = Sockets::open(ANY, 2).unwrap();
        let stalled = &sockets.listeners[0][1];
        stalled.shutdown(std::net::Shutdown::Both).unwrap();
        assert!(stalled.accept().is_err_and(|error| error.kind() == io::ErrorKind::InvalidInput));
        sockets.revive();
        let [stalled, other] = [&sockets.listeners[0][1], &sockets.listeners[1][1]];
        // The port's group hashes by source port: before long each of the two has its share.
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, sockets.ports.http));
        let mut served = [0, 0];
        for _ in 0..200 {
            let _client = std::net::TcpStream::connect(address).unwrap();
            let accepted = [stalled, other].map(|listener| listener.accept().is_ok());
            assert_eq!(accepted.iter().filter(|one| **one).count(), 1);
            served[usize::from(accepted[1])] += 1;
        }
        assert!(served[0] > 0 && served[1] > 0, "{served:?}");
    }

    #[test]
    fn a_session_that_outlived_its_host_does_not_hold_the_port() {
        let first = Sockets::open(ANY, 1).unwrap();
        let ports = first.ports;
        let session = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        session.set_reuse_address(true).unwrap();
        session.set_reuse_port(true).unwrap();
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, ports.video));
        session.bind(&local.into()).unwrap();
        session.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, 9)).into()).unwrap();
        drop(first);
        Sockets::open(ports, 1).unwrap();
    }
}
