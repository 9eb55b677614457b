//! The fork and exec of an app: own process group, dies with this process, nothing inherited.
//!
//! It must be called from a thread that lives as long as the session: PDEATHSIG follows it.
#![expect(unsafe_code, reason = "pre_exec")]
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// Starts the command under the name `name`; with `cgroup` (an open `cgroup.procs`) inside that cgroup.
///
/// # Errors
/// The system's, also if the program cannot be executed.
pub fn spawn(command: &mut Command, name: &str, cgroup: Option<OwnedFd>) -> io::Result<Child> {
    command.arg0(name).process_group(0);
    // SAFETY: only async-signal-safe system calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            let mut empty = std::mem::zeroed();
            libc::sigemptyset(&raw mut empty);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, std::ptr::null_mut());
            if let Some(cgroup) = &cgroup {
                // Best effort: without it the process group alone is killed.
                let _ = libc::write(cgroup.as_raw_fd(), c"0".as_ptr().cast(), 1);
            }
            // Marked, not closed: the standard library still reports a failed exec through one.
            if libc::syscall(libc::SYS_close_range, 3, u32::MAX, 4u32) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    command.spawn()
}
