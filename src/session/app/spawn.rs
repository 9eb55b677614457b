//! The fork and exec of an app: own process group, dies with this process, nothing inherited.
//!
//! It must be called from a thread that lives as long as the session: PDEATHSIG follows it.
#![expect(unsafe_code, reason = "pre_exec")]
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// Files that an app may have open, unless it asks for more: what a login gives.
const FILES: libc::rlim_t = 1024;

/// Starts the command under the name `name`.
///
/// # Errors
/// The system's, also if the program cannot be executed.
pub fn spawn(command: &mut Command, name: &str) -> io::Result<Child> {
    command.arg0(name).process_group(0);
    // SAFETY: only async-signal-safe system calls between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            let mut empty = std::mem::zeroed();
            libc::sigemptyset(&raw mut empty);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, std::ptr::null_mut());
            // What the host has raised for itself breaks programs that count up to it.
            let mut files: libc::rlimit = std::mem::zeroed();
            if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut files) == 0 {
                files.rlim_cur = files.rlim_max.min(FILES);
                libc::setrlimit(libc::RLIMIT_NOFILE, &raw const files);
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
