//! A link: one SOCK_SEQPACKET socket that carries whole messages and file descriptors.
//!
//! Sending never blocks: a full link is an error that the caller's policy answers. Receiving blocks
//! only as long as the caller's deadline. Messages over `IPC_MESSAGE_BYTES_MAX` are refused.
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::{IPC_FDS_MAX, IPC_MESSAGE_BYTES_MAX};

/// Bytes asked for as a link's send buffer, so that a whole message fits with room to spare.
const SEND_BUFFER_BYTES: usize = 4 * IPC_MESSAGE_BYTES_MAX;

/// Why a message did not pass.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The peer has closed its end: it is gone.
    #[error("the other end is closed")]
    Closed,
    /// The link is full: the peer does not read. Nothing was sent.
    #[error("the link is full")]
    Full,
    /// No message came before the deadline, or none is there now.
    #[error("no message")]
    Empty,
    /// The bytes are not a message of ours; the link should be dropped.
    #[error("malformed message: {0}")]
    Malformed(String),
    #[error(transparent)]
    System(#[from] io::Error),
}

/// One end of a link. Cloning the fd is the way to send from several threads: messages stay whole.
#[derive(Debug)]
pub struct Link {
    fd: OwnedFd,
}

impl Link {
    /// Both ends, CLOEXEC and non-blocking.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        Ok((Self::from_fd(a), Self::from_fd(b)))
    }

    /// Takes an fd that is a SEQPACKET socket.
    pub fn from_fd(fd: OwnedFd) -> Self {
        let _ = net::sockopt::set_socket_send_buffer_size(&fd, SEND_BUFFER_BYTES);
        let _ = rustix::fs::fcntl_setfl(&fd, rustix::fs::OFlags::NONBLOCK);
        Self { fd }
    }

    /// A listening SEQPACKET socket at `path`; the file must not exist.
    pub fn listen(path: &Path) -> io::Result<OwnedFd> {
        let fd = net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        net::bind(&fd, &SocketAddrUnix::new(path)?)?;
        net::listen(&fd, 8)?;
        Ok(fd)
    }

    /// Accepts one waiting connection; `Ok(None)` if none waits.
    pub fn accept(listener: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        match net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(fd) => Ok(Some(Self::from_fd(fd))),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::CONNABORTED) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Connects to a listening link.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let fd = net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        net::connect(&fd, &SocketAddrUnix::new(path)?)?;
        Ok(Self::from_fd(fd))
    }

    /// Another handle to the same end.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()? })
    }

    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Sends one message with up to `IPC_FDS_MAX` fds.
    ///
    /// # Errors
    /// `Full` and `Closed` as they say; `Malformed` if the message is too large.
    pub fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> Result<(), LinkError> {
        let bytes = serde_json::to_vec(message).map_err(|e| LinkError::Malformed(e.to_string()))?;
        self.send_bytes(&bytes, fds)
    }

    /// Sends raw bytes as one message.
    pub fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), LinkError> {
        if bytes.len() > IPC_MESSAGE_BYTES_MAX || fds.len() > IPC_FDS_MAX {
            return Err(LinkError::Malformed(format!("{} bytes, {} fds", bytes.len(), fds.len())));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(IPC_FDS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match net::sendmsg(&self.fd, &[IoSlice::new(bytes)], &mut ancillary, flags) {
            Ok(_) => Ok(()),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS) => Err(LinkError::Full),
            Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => Err(LinkError::Closed),
            Err(e) => Err(LinkError::System(e.into())),
        }
    }

    /// The next message that is already there, with its fds.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>), LinkError> {
        let mut buffer = vec![0; IPC_MESSAGE_BYTES_MAX];
        let (length, fds) = self.receive_bytes(&mut buffer)?;
        let message = serde_json::from_slice(&buffer[..length])
            .map_err(|e| LinkError::Malformed(e.to_string()))?;
        Ok((message, fds))
    }

    /// Waits at most `wait` for the next message.
    pub fn receive_within<T: DeserializeOwned>(
        &self,
        wait: Duration,
    ) -> Result<(T, Vec<OwnedFd>), LinkError> {
        let timeout = rustix::time::Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let mut poll_fds = [PollFd::new(&self.fd, PollFlags::IN)];
        match poll(&mut poll_fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => self.receive(),
            Err(e) => Err(LinkError::System(e.into())),
        }
    }

    /// The next message's bytes into `buffer`; a message that does not fit is `Malformed`.
    pub fn receive_bytes(&self, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), LinkError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(IPC_FDS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received =
            match net::recvmsg(&self.fd, &mut [IoSliceMut::new(buffer)], &mut ancillary, flags) {
                Ok(received) => received,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {
                    return Err(LinkError::Empty);
                }
                Err(rustix::io::Errno::CONNRESET) => return Err(LinkError::Closed),
                Err(e) => return Err(LinkError::System(e.into())),
            };
        let fds: Vec<OwnedFd> = ancillary
            .drain()
            .filter_map(|m| match m {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .collect();
        if received.flags.contains(net::ReturnFlags::TRUNC) {
            return Err(LinkError::Malformed("message too large".into()));
        }
        if received.bytes == 0 {
            return Err(LinkError::Closed);
        }
        Ok((received.bytes, fds))
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_whole_with_its_fds() {
        let (a, b) = Link::pair().unwrap();
        let (extra, _keep) = Link::pair().unwrap();
        a.send(&vec![1u8, 2, 3], &[extra.as_fd()]).unwrap();
        let (message, fds): (Vec<u8>, _) = b.receive().unwrap();
        assert_eq!(message, [1, 2, 3]);
        assert_eq!(fds.len(), 1);
        let flags = rustix::io::fcntl_getfd(&fds[0]).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn a_link_that_is_not_read_is_full_and_a_dropped_one_closed() {
        let (a, b) = Link::pair().unwrap();
        let message = vec![7u8; 10_000];
        let full = (0..10_000).find_map(|_| a.send(&message, &[]).err());
        assert!(matches!(full, Some(LinkError::Full)));
        drop(b);
        assert!(matches!(a.send(&message, &[]), Err(LinkError::Closed)));
    }

    #[test]
    fn oversized_and_malformed_messages_are_refused() {
        let (a, b) = Link::pair().unwrap();
        let huge = vec![0u8; IPC_MESSAGE_BYTES_MAX + 1];
        assert!(matches!(a.send_bytes(&huge, &[]), Err(LinkError::Malformed(_))));
        a.send_bytes(b"{", &[]).unwrap();
        assert!(matches!(b.receive::<u32>(), Err(LinkError::Malformed(_))));
        assert!(matches!(b.receive::<u32>(), Err(LinkError::Empty)));
    }
}
