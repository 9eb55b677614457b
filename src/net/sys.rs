//! The socket calls that have no safe wrapper: sendmsg with UDP_SEGMENT or PKTINFO, sendmmsg,
//! recvmmsg.
//!
//! Thin: no retry, no policy. Every call is non-blocking (MSG_DONTWAIT).
#![expect(unsafe_code, reason = "message headers hold raw pointers to addresses and buffers")]

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::pacer::SEGMENTS_MAX;

/// Room for one control message: the largest used is an in6_pktinfo.
const CONTROL_BYTES: usize = 64;
/// Datagrams that one `recv_batch` takes at most.
pub const BATCH_DATAGRAMS: usize = 32;
/// Longest datagram that is taken; a longer one is dropped and counted.
pub const DATAGRAM_BYTES_MAX: usize = 2048;

/// A control buffer with the alignment of a header.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

impl Control {
    const EMPTY: Self = Self([0; CONTROL_BYTES]);
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Makes the one control message of `header`, which points to a zeroed `Control`.
fn set_control<T: Copy>(header: &mut libc::msghdr, level: i32, kind: i32, value: T) {
    const { assert!(size_of::<T>() + size_of::<libc::cmsghdr>() <= CONTROL_BYTES - 16) };
    // SAFETY: the control buffer is aligned and large enough for a header and the value (asserted),
    // so CMSG_FIRSTHDR is not null and CMSG_DATA lies within it.
    unsafe {
        header.msg_controllen = libc::CMSG_SPACE(size_of::<T>() as u32) as _;
        let message = libc::CMSG_FIRSTHDR(header);
        (*message).cmsg_level = level;
        (*message).cmsg_type = kind;
        (*message).cmsg_len = libc::CMSG_LEN(size_of::<T>() as u32) as _;
        ptr::write_unaligned(libc::CMSG_DATA(message).cast::<T>(), value);
    }
}

/// A header without address and control message.
fn header(iov: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: all-zero is a valid msghdr: null pointers with zero lengths.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_iov = iov;
    header.msg_iovlen = 1;
    header
}

/// The kernel only reads through the pointer.
fn iovec(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

/// From now on datagrams come with the address that they were sent to.
pub fn ask_for_pktinfo(fd: BorrowedFd<'_>, is_v6: bool) -> io::Result<()> {
    match is_v6 {
        true => set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        false => set_option(fd, libc::IPPROTO_IP, libc::IP_PKTINFO),
    }
}

/// Sends without checksums, which makes the kernel refuse UDP_SEGMENT.
#[cfg(test)]
pub fn disable_checksums(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_NO_CHECK)
}

/// Turns an option on.
fn set_option(fd: BorrowedFd<'_>, level: i32, option: i32) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int that outlives the call.
    let result = unsafe {
        let (value, len) = (ptr::from_ref(&on).cast(), size_of::<libc::c_int>() as _);
        libc::setsockopt(fd.as_raw_fd(), level, option, value, len)
    };
    check(result as isize).map(drop)
}

/// Sends `bytes` on a connected socket: as one datagram, or cut into datagrams of `segment` bytes.
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8], segment: Option<u16>) -> io::Result<usize> {
    let mut iov = iovec(bytes);
    let mut header = header(&mut iov);
    let mut control = Control::EMPTY;
    if let Some(segment) = segment {
        header.msg_control = ptr::from_mut(&mut control).cast();
        set_control(&mut header, libc::SOL_UDP, libc::UDP_SEGMENT, segment);
    }
    // SAFETY: the header points to `iov`, `bytes` and `control`, which outlive the call.
    check(unsafe { libc::sendmsg(fd.as_raw_fd(), &header, libc::MSG_DONTWAIT) })
}

/// Sends up to 64 datagrams of `datagram_bytes` from `bytes` on a connected socket; how many went.
pub fn send_many(fd: BorrowedFd<'_>, bytes: &[u8], datagram_bytes: usize) -> io::Result<usize> {
    // SAFETY: all-zero is valid for both types.
    let mut iovs: [libc::iovec; SEGMENTS_MAX] = unsafe { zeroed() };
    // SAFETY: as above.
    let mut headers: [libc::mmsghdr; SEGMENTS_MAX] = unsafe { zeroed() };
    let mut count = 0;
    let slots = iovs.iter_mut().zip(&mut headers);
    for ((iov, slot), datagram) in slots.zip(bytes.chunks(datagram_bytes)) {
        *iov = iovec(datagram);
        slot.msg_hdr = header(iov);
        count += 1;
    }
    // SAFETY: the first `count` headers point to iovecs and datagrams that outlive the call.
    let sent =
        unsafe { libc::sendmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
    check(sent as isize)
}

/// Sends one datagram from the local address `local` (its port is the socket's own) to `to`.
pub fn send_from(
    fd: BorrowedFd<'_>,
    local: SocketAddr,
    to: SocketAddr,
    bytes: &[u8],
) -> io::Result<usize> {
    let mut iov = iovec(bytes);
    let mut header = header(&mut iov);
    let mut control = Control::EMPTY;
    header.msg_control = ptr::from_mut(&mut control).cast();
    match local {
        SocketAddr::V4(local) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(local.ip().octets()) },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            set_control(&mut header, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
        }
        SocketAddr::V6(local) => {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr { s6_addr: local.ip().octets() },
                ipi6_ifindex: local.scope_id() as _,
            };
            set_control(&mut header, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
        }
    }
    // SAFETY: all-zero is a valid address storage.
    let mut storage: libc::sockaddr_storage = unsafe { zeroed() };
    header.msg_namelen = write_address(&mut storage, to);
    header.msg_name = ptr::from_mut(&mut storage).cast();
    // SAFETY: the header points to locals and `bytes`, which outlive the call.
    check(unsafe { libc::sendmsg(fd.as_raw_fd(), &header, libc::MSG_DONTWAIT) })
}

fn write_address(storage: &mut libc::sockaddr_storage, address: SocketAddr) -> libc::socklen_t {
    match address {
        SocketAddr::V4(address) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as _,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: a storage is large enough and aligned for every address family.
            unsafe { ptr::from_mut(storage).cast::<libc::sockaddr_in>().write(raw) };
            size_of::<libc::sockaddr_in>() as _
        }
        SocketAddr::V6(address) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as _,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: address.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                sin6_scope_id: address.scope_id(),
            };
            // SAFETY: as above.
            unsafe { ptr::from_mut(storage).cast::<libc::sockaddr_in6>().write(raw) };
            size_of::<libc::sockaddr_in6>() as _
        }
    }
}

fn read_address(storage: &libc::sockaddr_storage, len: usize) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET if len >= size_of::<libc::sockaddr_in>() => {
            // SAFETY: the kernel wrote an address of this family and at least this length.
            let raw = unsafe { ptr::from_ref(storage).cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
        }
        libc::AF_INET6 if len >= size_of::<libc::sockaddr_in6>() => {
            // SAFETY: as above.
            let raw = unsafe { ptr::from_ref(storage).cast::<libc::sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(raw.sin6_port), 0, raw.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// Reusable memory for [`recv_batch`], and what the last one brought.
pub struct Batch {
    buffers: Box<[[u8; DATAGRAM_BYTES_MAX]; BATCH_DATAGRAMS]>,
    received: Vec<Received>,
    /// Datagrams that were too long or had no usable addresses, since the start.
    pub dropped: u64,
}

/// One datagram in a [`Batch`].
struct Received {
    buffer: usize,
    bytes: usize,
    peer: SocketAddr,
    local: Option<(IpAddr, u32)>,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            buffers: Box::new([[0; DATAGRAM_BYTES_MAX]; BATCH_DATAGRAMS]),
            received: Vec::with_capacity(BATCH_DATAGRAMS),
            dropped: 0,
        }
    }
}

impl Batch {
    /// Peer, local address and interface as the kernel tells them, and bytes of each datagram.
    pub(super) fn iter(&self) -> impl Iterator<Item = (SocketAddr, Option<(IpAddr, u32)>, &[u8])> {
        self.received.iter().map(|r| (r.peer, r.local, &self.buffers[r.buffer][..r.bytes]))
    }
}

/// Takes what is there, at most [`BATCH_DATAGRAMS`], and replaces what `batch` held. How many were
/// read, dropped ones included; an empty socket is `WouldBlock`.
pub fn recv_batch(fd: BorrowedFd<'_>, batch: &mut Batch) -> io::Result<usize> {
    batch.received.clear();
    // SAFETY: all-zero is valid for these three types.
    let mut names: [libc::sockaddr_storage; BATCH_DATAGRAMS] = unsafe { zeroed() };
    // SAFETY: as above.
    let mut iovs: [libc::iovec; BATCH_DATAGRAMS] = unsafe { zeroed() };
    // SAFETY: as above.
    let mut headers: [libc::mmsghdr; BATCH_DATAGRAMS] = unsafe { zeroed() };
    let mut controls = [Control::EMPTY; BATCH_DATAGRAMS];
    let parts = names.iter_mut().zip(&mut controls).zip(batch.buffers.iter_mut()).zip(&mut iovs);
    for (slot, (((name, control), buffer), iov)) in headers.iter_mut().zip(parts) {
        *iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        slot.msg_hdr = header(iov);
        slot.msg_hdr.msg_name = ptr::from_mut(name).cast();
        slot.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as _;
        slot.msg_hdr.msg_control = ptr::from_mut(control).cast();
        slot.msg_hdr.msg_controllen = CONTROL_BYTES as _;
    }
    // SAFETY: every header points to its own name, buffer and control, which outlive the call.
    let count = unsafe {
        let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
        let count = BATCH_DATAGRAMS as u32;
        libc::recvmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), count, flags, ptr::null_mut())
    };
    let count = check(count as isize)?;
    for (i, (slot, name)) in headers.iter().zip(&names).take(count).enumerate() {
        let is_cut = slot.msg_hdr.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
        let peer = read_address(name, slot.msg_hdr.msg_namelen as usize).filter(|_| !is_cut);
        let Some(peer) = peer else {
            batch.dropped += 1;
            continue;
        };
        let (local, bytes) = (contacted(&slot.msg_hdr), slot.msg_len as usize);
        batch.received.push(Received { buffer: i, bytes, peer, local });
    }
    Ok(count)
}

/// The local address and interface that a datagram came to, from its PKTINFO.
fn contacted(header: &libc::msghdr) -> Option<(IpAddr, u32)> {
    // SAFETY: the kernel filled the control buffer; the macros stay within its length, and the
    // data of a PKTINFO message is the structure that its type names.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while let Some(found) = message.as_ref() {
            let data = libc::CMSG_DATA(message);
            match (found.cmsg_level, found.cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    let ip = Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes());
                    return Some((ip.into(), info.ipi_ifindex.cast_unsigned()));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                    return Some((ip.into(), info.ipi6_ifindex as u32));
                }
                _ => message = libc::CMSG_NXTHDR(header, message),
            }
        }
    }
    None
}
