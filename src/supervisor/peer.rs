//! Who is at the other end of a local socket. Tells the user and nothing of the process, which has no
//! number here if it lives outside of this PID namespace.
#![expect(unsafe_code, reason = "SO_PEERCRED with a pid of 0, which rustix's type cannot hold")]
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

use rustix::process::Uid;

/// The effective user of the process that connected, at that time.
pub fn user(socket: impl AsFd) -> io::Result<Uid> {
    let mut credentials = MaybeUninit::<libc::ucred>::zeroed();
    let size = size_of::<libc::ucred>();
    let mut length = libc::socklen_t::try_from(size).map_err(io::Error::other)?;
    // SAFETY: the buffer is as large as said; the kernel writes no more than that. All zeros is a value
    // of this type, so it is one also where less was written.
    let credentials = unsafe {
        let done = libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            credentials.as_mut_ptr().cast(),
            &raw mut length,
        );
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        credentials.assume_init()
    };
    if usize::try_from(length) != Ok(size) {
        return Err(io::Error::other("credentials of another size"));
    }
    Ok(Uid::from_raw(credentials.uid))
}
