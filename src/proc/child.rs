//! A child process with one owner: a pidfd to wait for, signals that reach only it, reaped for sure.
//!
//! Dropping a child kills its process group and reaps it, so that no path leaves a zombie.
#![expect(unsafe_code, reason = "a system call in a child before it runs its program")]
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open};

/// A started process.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    reaped: bool,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// Starts a program of others that is killed when this thread ends, however it ends.
pub fn spawn_dying_with_us(mut command: std::process::Command) -> io::Result<Child> {
    use std::os::unix::process::CommandExt;
    // SAFETY: one async-signal-safe system call between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    Child::new(command.spawn()?)
}

impl Child {
    /// Takes over a child of the standard library; its pipes are the caller's.
    pub fn new(child: std::process::Child) -> io::Result<Self> {
        let raw = i32::try_from(child.id()).map_err(io::Error::other)?;
        let pid = Pid::from_raw(raw).ok_or_else(|| io::Error::other("no pid"))?;
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        Ok(Self { pid, pidfd, reaped: false })
    }

    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Signals the child alone, by its pidfd: never a stranger that got its number.
    pub fn signal(&self, signal: Signal) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, signal);
    }

    /// Kills the whole process group, and the child.
    pub fn kill(&self) {
        if !self.reaped {
            let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
            self.signal(Signal::KILL);
        }
    }

    /// Reaps the child if it has ended.
    pub fn try_reap(&mut self) -> Option<Exit> {
        if self.reaped {
            return None;
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            Ok(Some(status)) => {
                self.reaped = true;
                Some(match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Exit::Code(code),
                    (None, Some(signal)) => Exit::Signal(signal),
                    (None, None) => Exit::Code(-1),
                })
            }
            Ok(None) => None,
            Err(_) => {
                self.reaped = true;
                Some(Exit::Code(-1))
            }
        }
    }

    /// It has ended and was reaped, here or by somebody else.
    pub fn was_reaped(&self) -> bool {
        self.reaped
    }

    /// Waits at most `wait` for the end.
    pub fn wait(&mut self, wait: Duration) -> Option<Exit> {
        let timeout = rustix::time::Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let _ = poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&timeout));
        self.try_reap()
    }
}

/// Readable when the process has ended.
impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.reaped || self.try_reap().is_some() {
            return;
        }
        self.kill();
        // A killed process can linger only in an uninterruptible system call; then init reaps it.
        let _ = self.wait(Duration::from_secs(2));
    }
}
