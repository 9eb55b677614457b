//! Signals as an fd, and children that have ended without being awaited by anyone else.
#![expect(unsafe_code, reason = "signalfd, sigprocmask and waitid without a pid")]
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// What the supervisor is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM, SIGINT: end.
    Stop,
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGUSR2: go over to the program on disk.
    Upgrade,
    /// SIGCHLD: some child has ended.
    Child,
}

/// SIGTERM, SIGINT, SIGHUP, SIGUSR2 and SIGCHLD, blocked and readable here instead.
pub struct Signals {
    fd: OwnedFd,
}

impl Signals {
    /// Blocks them for this thread and all that it starts. Call before any thread is started.
    pub fn block() -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set; the other calls read it or write nothing.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            let ours = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR2, libc::SIGCHLD];
            for signal in ours {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            if libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self { fd: OwnedFd::from_raw_fd(fd) })
        }
    }

    /// The next signal that is there.
    pub fn next(&self) -> Option<Signal> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer is as large as said; the kernel writes whole records only.
        let number = unsafe {
            let read = libc::read(self.fd.as_raw_fd(), info.as_mut_ptr().cast(), size);
            if usize::try_from(read) != Ok(size) {
                return None;
            }
            info.assume_init().ssi_signo
        };
        match i32::try_from(number) {
            Ok(libc::SIGCHLD) => Some(Signal::Child),
            Ok(libc::SIGHUP) => Some(Signal::Reload),
            Ok(libc::SIGUSR2) => Some(Signal::Upgrade),
            _ => Some(Signal::Stop),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A child that has ended and waits to be reaped; it is left as it is.
pub fn ended_child() -> Option<u32> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: waitid fills `info`, which was zeroed, so that a pid of 0 says "none".
    let pid = unsafe {
        if libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), options) != 0 {
            return None;
        }
        info.assume_init().si_pid()
    };
    u32::try_from(pid).ok().filter(|pid| *pid != 0)
}
