//! Whether io_uring can be used here, by really making a ring.
#![expect(unsafe_code, reason = "one raw system call")]
use std::os::fd::{FromRawFd, OwnedFd};

/// Why no ring can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRing {
    /// The kernel was built without it, or is older than 5.1, or a seccomp filter says so.
    #[error("the kernel does not know io_uring, or a seccomp filter hides it")]
    Unknown,
    /// `kernel.io_uring_disabled` forbids it; its value.
    #[error("kernel.io_uring_disabled is {0}")]
    Sysctl(u8),
    /// Nothing but a seccomp filter (of a container) forbids it in this way.
    #[error("a seccomp filter forbids io_uring_setup")]
    Seccomp,
    #[error("io_uring_setup: {0}")]
    Other(String),
}

/// Makes a small ring and drops it again.
///
/// # Errors
/// Why it cannot be made.
pub fn check() -> Result<(), NoRing> {
    // struct io_uring_params is 120 bytes; all zero asks for the defaults.
    let mut params = [0_u64; 15];
    // SAFETY: the kernel reads and writes the 120 bytes of `params` and returns a new fd or -1.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4_u32, params.as_mut_ptr()) };
    if fd >= 0 {
        let fd = i32::try_from(fd).map_err(|e| NoRing::Other(e.to_string()))?;
        // SAFETY: a fresh fd that nobody else owns.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(match error.raw_os_error() {
        Some(libc::ENOSYS) => NoRing::Unknown,
        Some(libc::EPERM | libc::EACCES) => match disabled() {
            0 => NoRing::Seccomp,
            value => NoRing::Sysctl(value),
        },
        _ => NoRing::Other(error.to_string()),
    })
}

/// The sysctl's value; 0 where it does not exist (before Linux 6.6).
fn disabled() -> u8 {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}
