//! The connected UDP socket under a viewer's ENet host, and the guard in front of it: what is no
//! datagram for this viewer never reaches ENet, a CONNECT with other data is not even answered.
//!
//! Errors of the socket are counted and swallowed: a connected socket reports what ICMP said of an
//! earlier datagram, and anybody can forge that.
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rusty_enet::{MTU_MAX, PacketReceived, Socket};

use super::Never;
use crate::proto::enet;
use crate::proto::enet::Command;

/// ENet's own number of its one peer.
const LOCAL_ID: u16 = 0;
/// Reads in a row that bring nothing for ENet before others get their turn.
const REFUSED_MAX: usize = 256;
/// DSCP EF and ECT(1), as clients mark their side. Source: cgutman/enet unix.c.
const TRAFFIC_CLASS: u32 = 0xB9;

/// Whose datagrams pass.
#[derive(Clone, Copy, Debug)]
pub struct Admission {
    /// The viewer's host-wide peer id.
    pub peer_id: u16,
    /// What a CONNECT must carry; None: this client carries nothing.
    pub connect_data: Option<u32>,
}

impl Admission {
    /// A whole datagram that connects with the right data.
    pub fn is_connect(&self, datagram: &[u8]) -> bool {
        enet::is_whole(datagram)
            && enet::peek(datagram).is_some_and(|peek| match peek.first {
                Command::Connect(connect) => self.connect_data.is_none_or(|d| d == connect.data),
                _ => false,
            })
    }

    /// Makes the datagram one for ENet's own peer number. False: it is not for ENet.
    fn pass(&self, datagram: &mut [u8]) -> bool {
        match enet::peek(datagram).map(|peek| peek.first) {
            None => false,
            Some(Command::Connect(_)) => self.is_connect(datagram),
            Some(_) => {
                enet::is_whole(datagram) && enet::rewrite_incoming(datagram, self.peer_id, LOCAL_ID)
            }
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Datagrams that did not pass.
    pub strange: u64,
    pub send_errors: u64,
}

/// The socket as ENet sees it.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    /// Read before the socket is.
    first: Option<Vec<u8>>,
    admission: Admission,
    /// Peer id and session id that the client expects in datagrams to it.
    receiver: Option<(u16, u8)>,
    figures: Figures,
}

impl Wire {
    pub fn new(socket: OwnedFd, first: Vec<u8>, admission: Admission) -> Self {
        mark(&socket);
        let (receiver, figures) = (None, Figures::default());
        Self { socket, first: Some(first), admission, receiver, figures }
    }

    /// Goes on with another socket.
    pub fn replace(&mut self, socket: OwnedFd, first: Vec<u8>) {
        mark(&socket);
        self.socket = socket;
        self.first = Some(first);
    }

    /// How the client is addressed; None: nothing was sent yet.
    pub fn receiver(&self) -> Option<(u16, u8)> {
        self.receiver
    }

    pub fn figures(&self) -> Figures {
        self.figures
    }

    /// The next datagram's length; None: none is there.
    fn next(&mut self, buffer: &mut [u8; MTU_MAX]) -> Option<usize> {
        if let Some(first) = self.first.take() {
            let length = first.len().min(buffer.len());
            buffer[..length].copy_from_slice(&first[..length]);
            return Some(if first.len() > length { 0 } else { length });
        }
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        match rustix::net::recv(&self.socket, &mut buffer[..], flags) {
            Ok((_, length)) => Some(if length > buffer.len() { 0 } else { length }),
            Err(Errno::AGAIN) => None,
            // What ICMP said of an earlier send; what waits behind it is still to be read.
            Err(_) => {
                self.figures.send_errors += 1;
                Some(0)
            }
        }
    }
}

/// Best effort: networks that know the mark deliver it sooner.
fn mark(socket: &OwnedFd) {
    let socket = socket2::SockRef::from(socket);
    let _ = socket.set_tos_v4(TRAFFIC_CLASS);
    let _ = socket.set_tclass_v6(TRAFFIC_CLASS);
}

impl Socket for Wire {
    /// The socket is connected; there is one address.
    type Address = ();
    type Error = Never;

    fn send(&mut self, (): (), datagram: &[u8]) -> Result<usize, Never> {
        let mut bytes = datagram.to_vec();
        if !enet::rewrite_outgoing(&mut bytes, LOCAL_ID, self.admission.peer_id) {
            self.figures.send_errors += 1;
            return Ok(0);
        }
        if let Some(enet::Peek { peer: Some(peer), session, .. }) = enet::peek(&bytes) {
            self.receiver = Some((peer, session));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let mut sent = rustix::net::send(&self.socket, &bytes, flags);
        if matches!(sent, Err(Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH)) {
            // That was about an earlier datagram.
            sent = rustix::net::send(&self.socket, &bytes, flags);
        }
        if sent.is_err() {
            // Lost, like any datagram; ENet sends again what must arrive.
            self.figures.send_errors += 1;
        }
        Ok(datagram.len())
    }

    fn receive(
        &mut self,
        buffer: &mut [u8; MTU_MAX],
    ) -> Result<Option<((), PacketReceived)>, Never> {
        for _ in 0..REFUSED_MAX {
            let Some(length) = self.next(buffer) else { return Ok(None) };
            if self.admission.pass(&mut buffer[..length]) {
                return Ok(Some(((), PacketReceived::Complete(length))));
            }
            self.figures.strange += u64::from(length > 0);
        }
        Ok(None)
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
