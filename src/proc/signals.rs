//! SIGTERM, SIGINT and SIGCHLD as a readable pipe. A handler instead of a blocked mask: children would
//! inherit the mask, handlers end at exec.
#![expect(unsafe_code, reason = "sigaction")]
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

/// The pipe's write end; -1 before [`Signals::catch`].
static PIPE: AtomicI32 = AtomicI32::new(-1);

/// The read end.
#[derive(Debug)]
pub struct Signals {
    pipe: OwnedFd,
}

/// What has come since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caught {
    /// SIGTERM or SIGINT.
    pub stop: bool,
    /// SIGCHLD.
    pub child: bool,
}

impl Signals {
    /// Catches from now on. Once per process.
    pub fn catch() -> io::Result<Self> {
        let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
        let (read, write) = rustix::pipe::pipe_with(flags)?;
        PIPE.store(write.into_raw_fd(), Ordering::Release);
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGCHLD] {
            // SAFETY: the handler only loads an atomic and calls write(2); errno is kept by it.
            let set = unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as usize;
                action.sa_flags = libc::SA_RESTART;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut())
            };
            if set < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Self { pipe: read })
    }

    pub fn take(&self) -> Caught {
        let mut caught = Caught::default();
        let mut buffer = [0u8; 64];
        while let Ok(length @ 1..) = rustix::io::read(&self.pipe, &mut buffer) {
            for byte in &buffer[..length] {
                match i32::from(*byte) {
                    libc::SIGCHLD => caught.child = true,
                    _ => caught.stop = true,
                }
            }
        }
        caught
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> i32 {
        self.pipe.as_raw_fd()
    }
}

extern "C" fn on_signal(signal: libc::c_int) {
    // SAFETY: async-signal-safe calls only; a full pipe loses a repetition of what it holds already,
    // or, after 64 KiB of SIGCHLD unread, one more wake-up.
    unsafe {
        let errno = libc::__errno_location();
        let kept = *errno;
        let byte = signal as u8;
        libc::write(PIPE.load(Ordering::Acquire), (&raw const byte).cast(), 1);
        *errno = kept;
    }
}
