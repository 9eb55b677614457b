//! The sending side of one viewer's flow: bursts of equally long datagrams over a connected socket.
//!
//! One system call carries up to 64 datagrams (UDP_SEGMENT). Where the kernel or the path refuses
//! that, it falls back to sendmmsg and then to one call per datagram, and remembers. It never
//! blocks longer than its caller's deadline and keeps nothing: what was not sent is the caller's to
//! drop.
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use socket2::SockRef;

use super::pacer::{Pacer, SEGMENTS_MAX};
use super::{now, sleep_until, sys};
use crate::time::Time;

/// Bytes of one call with UDP_SEGMENT: the longest UDP payload over IPv4.
const CALL_BYTES_MAX: usize = 65_507;
/// Datagrams that one `discard_received` takes.
const DISCARDED_MAX: usize = 64;
/// What the send buffer is asked to hold; the kernel may grant less.
const SEND_BUFFER_BYTES: usize = 1 << 20;

/// What a flow carries: decides its marking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    Video,
    Audio,
}

impl Traffic {
    /// DSCP: CS5 for video, CS6 for audio.
    const fn dscp(self) -> u32 {
        match self {
            Self::Video => 40,
            Self::Audio => 48,
        }
    }

    /// SO_PRIORITY, seen by local queues only.
    const fn priority(self) -> u32 {
        match self {
            Self::Video => 5,
            Self::Audio => 6,
        }
    }
}

/// Counters since the socket was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendStatistics {
    pub datagrams: u64,
    pub bytes: u64,
    pub calls: u64,
    /// The peer or a router refused an earlier datagram (ICMP).
    pub refused: u64,
    /// Waits for room in the send buffer.
    pub waits: u64,
    /// Bursts that the deadline cut short.
    pub late: u64,
    /// Steps down to a slower way of sending.
    pub fallbacks: u64,
}

/// How datagrams are handed to the kernel, fastest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Segments,
    Many,
    Single,
}

/// A connected UDP socket and how it is best used.
#[derive(Debug)]
pub struct MediaSocket {
    fd: OwnedFd,
    pub(super) way: Way,
    statistics: SendStatistics,
}

impl AsFd for MediaSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl MediaSocket {
    /// Takes over a connected UDP socket for `traffic`; `marks` allows DSCP marking. Markings are
    /// wishes: a kernel that refuses one changes nothing else.
    pub fn new(fd: OwnedFd, traffic: Traffic, marks: bool) -> Self {
        let socket = SockRef::from(&fd);
        let mut refusals = vec![socket.set_send_buffer_size(SEND_BUFFER_BYTES)];
        if marks {
            let is_v6 = socket.local_addr().is_ok_and(|address| address.is_ipv6());
            let class = traffic.dscp() << 2;
            refusals.push(match is_v6 {
                true => socket.set_tclass_v6(class),
                false => socket.set_tos_v4(class),
            });
        }
        // After the class: setting that resets the priority.
        refusals.push(socket.set_priority(traffic.priority()));
        for error in refusals.into_iter().filter_map(Result::err) {
            tracing::debug!(?traffic, %error, "socket option refused");
        }
        Self { fd, way: Way::Segments, statistics: SendStatistics::default() }
    }

    /// Counters so far.
    pub fn statistics(&self) -> SendStatistics {
        self.statistics
    }

    /// Sends `datagrams`, which are `datagram_bytes` each, one after the other; the last may be
    /// shorter. How many went before `deadline` (CLOCK_MONOTONIC): fewer than all means that the
    /// socket stayed full. An error ends the burst: what was not sent is lost, the socket is
    /// usable.
    pub fn send_burst(
        &mut self,
        datagrams: &[u8],
        datagram_bytes: usize,
        deadline: Time,
    ) -> io::Result<usize> {
        assert!((1..=CALL_BYTES_MAX).contains(&datagram_bytes));
        let count = datagrams.len().div_ceil(datagram_bytes);
        let mut sent = 0;
        let mut was_refused = false;
        while sent < count {
            let rest = &datagrams[sent * datagram_bytes..];
            self.statistics.calls += 1;
            match self.send_some(rest, datagram_bytes) {
                Ok(n) => {
                    let bytes = rest.len().min(n * datagram_bytes);
                    self.statistics.datagrams += n as u64;
                    self.statistics.bytes += bytes as u64;
                    sent += n;
                    was_refused = false;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.wait_for_room(deadline)? {
                        self.statistics.late += 1;
                        break;
                    }
                }
                // Speaks of an earlier datagram: this one was not sent yet.
                Err(error) if is_refusal(&error) && !was_refused => {
                    self.statistics.refused += 1;
                    was_refused = true;
                }
                Err(error) if self.steps_down(&error, rest.len() > datagram_bytes) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    /// Sends `datagrams` in the batches and at the times that `pacer` allows. Result and deadline
    /// are those of [`Self::send_burst`].
    pub fn send_paced(
        &mut self,
        pacer: &mut Pacer,
        datagrams: &[u8],
        datagram_bytes: usize,
        deadline: Time,
    ) -> io::Result<usize> {
        let count = datagrams.len().div_ceil(datagram_bytes);
        let mut sent = 0;
        pacer.begin_frame(now());
        while sent < count {
            let batch = pacer.next_batch(count - sent, now());
            if let Some(at) = batch.at {
                if at > deadline {
                    self.statistics.late += 1;
                    break;
                }
                sleep_until(at);
            }
            let rest = &datagrams[sent * datagram_bytes..];
            let bytes = rest.len().min(batch.datagrams * datagram_bytes);
            let n = self.send_burst(&rest[..bytes], datagram_bytes, deadline)?;
            sent += n;
            if n < batch.datagrams {
                break;
            }
        }
        Ok(sent)
    }

    /// Throws away what the peer has sent, at most [`DISCARDED_MAX`] datagrams; how many there
    /// were. On a known flow these are its pings: they show that the client lives, and say nothing
    /// new.
    pub fn discard_received(&mut self) -> io::Result<usize> {
        let mut discarded = 0;
        while discarded < DISCARDED_MAX {
            let mut none = [0; 0];
            match rustix::net::recv(&self.fd, &mut none, RecvFlags::DONTWAIT) {
                Ok(_) => discarded += 1,
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => break,
                // What became of an earlier datagram of ours; told once.
                Err(Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH) => {
                    self.statistics.refused += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(discarded)
    }

    /// One system call; how many datagrams it took.
    fn send_some(&self, rest: &[u8], datagram_bytes: usize) -> io::Result<usize> {
        match self.way {
            Way::Segments => {
                let segments = (CALL_BYTES_MAX / datagram_bytes).min(SEGMENTS_MAX);
                let bytes = rest.len().min(segments * datagram_bytes);
                let segment = (bytes > datagram_bytes).then_some(datagram_bytes as u16);
                sys::send(self.fd.as_fd(), &rest[..bytes], segment)?;
                Ok(bytes.div_ceil(datagram_bytes))
            }
            Way::Many => sys::send_many(self.fd.as_fd(), rest, datagram_bytes),
            Way::Single => {
                sys::send(self.fd.as_fd(), &rest[..rest.len().min(datagram_bytes)], None)?;
                Ok(1)
            }
        }
    }

    /// Goes on in a slower way if `error` may come from the way; false if it does not.
    fn steps_down(&mut self, error: &io::Error, has_several: bool) -> bool {
        let slower = match (self.way, error.raw_os_error()) {
            (Way::Segments, Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE)) if has_several => {
                Way::Many
            }
            (Way::Many, Some(libc::ENOSYS | libc::EINVAL)) => Way::Single,
            _ => return false,
        };
        self.way = slower;
        self.statistics.fallbacks += 1;
        tracing::info!(way = ?self.way, %error, "sending falls back");
        true
    }

    /// Waits until the socket takes more; false if `deadline` came first.
    fn wait_for_room(&mut self, deadline: Time) -> io::Result<bool> {
        self.statistics.waits += 1;
        loop {
            let left = deadline.since(now());
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
            let mut fds = [PollFd::new(&self.fd, PollFlags::OUT)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether the error reports what became of an earlier datagram.
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EPROTO)
    )
}
