//! Starting a process of this binary: its kind as the first argument, a boot message and fds.
//!
//! The child gets the boot message in a sealed memfd at fd 3 and further fds from 4 on, in the order
//! given. Everything else is closed. It leads its own process group, and dies with the spawning
//! thread only when asked to.
#![expect(unsafe_code, reason = "pre_exec, dup2 and taking over inherited fds")]
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::child::Child;

/// The fd of the boot message in the child; the given fds follow it.
const BOOT_FD: i32 = 3;
/// A boot message's largest size, bytes.
const BOOT_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// How to start a process.
pub struct Spawn<'a> {
    /// First argument: "front", "session", "encoder", "probe".
    pub kind: &'a str,
    /// Shown in the process list after the kind, e.g. a session's id.
    pub label: &'a str,
    pub fds: &'a [BorrowedFd<'a>],
    /// Killed when the spawning thread ends.
    pub dies_with_parent: bool,
    /// Where stdout and stderr go; None: inherited.
    pub output: Option<OwnedFd>,
    /// Written to oom_score_adj: the higher, the earlier it is sacrificed.
    pub oom_score_adj: i32,
}

/// This program's file, also after it was replaced on disk.
pub fn own_binary() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

/// Starts a process of this binary with a boot message.
///
/// # Errors
/// The system's, if the process could not be made; nothing is left behind then.
pub fn spawn<T: Serialize>(how: &Spawn<'_>, boot: &T) -> io::Result<Child> {
    spawn_from(&own_binary(), how, boot)
}

/// Starts a process of another binary that is this program, too.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_from<T: Serialize>(binary: &Path, how: &Spawn<'_>, boot: &T) -> io::Result<Child> {
    let message = serde_json::to_vec(boot).map_err(io::Error::other)?;
    let memfd = rustix::fs::memfd_create(
        "boot",
        rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING,
    )?;
    let mut file = std::fs::File::from(memfd);
    file.write_all(&message)?;
    file.seek(SeekFrom::Start(0))?;
    rustix::fs::fcntl_add_seals(
        &file,
        rustix::fs::SealFlags::SHRINK | rustix::fs::SealFlags::GROW | rustix::fs::SealFlags::WRITE,
    )?;

    // Copies above every target number, so that dup2 in the child cannot overwrite a source.
    let floor = BOOT_FD + 1 + i32::try_from(how.fds.len()).map_err(io::Error::other)?;
    let mut sources = vec![rustix::io::fcntl_dupfd_cloexec(&file, floor)?];
    for fd in how.fds {
        sources.push(rustix::io::fcntl_dupfd_cloexec(fd, floor)?);
    }
    let raw: Vec<i32> = sources.iter().map(AsRawFd::as_raw_fd).collect();
    let dies_with_parent = how.dies_with_parent;

    let mut command = Command::new(binary);
    command.arg0("moonshard").arg(how.kind).process_group(0).stdin(Stdio::null());
    if !how.label.is_empty() {
        command.arg(how.label);
    }
    if let Some(output) = &how.output {
        command.stdout(output.try_clone()?).stderr(output.try_clone()?);
    }
    // SAFETY: only async-signal-safe system calls between fork and exec; `raw` was allocated before.
    unsafe {
        command.pre_exec(move || {
            if dies_with_parent {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            }
            let mut empty = std::mem::zeroed();
            libc::sigemptyset(&raw mut empty);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, std::ptr::null_mut());
            let mut target = BOOT_FD;
            for source in &raw {
                if libc::dup2(*source, target) < 0 {
                    return Err(io::Error::last_os_error());
                }
                target += 1;
            }
            // Everything above is marked, so that nothing else crosses the exec.
            if libc::syscall(libc::SYS_close_range, target, u32::MAX, 4u32) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let child = Child::new(command.spawn()?)?;
    let _ = std::fs::write(
        format!("/proc/{}/oom_score_adj", child.pid()),
        how.oom_score_adj.to_string(),
    );
    Ok(child)
}

/// In the child: the boot message and the fds that came with it, in order. Call once, first thing.
///
/// # Errors
/// If this process was not started by [`spawn`].
pub fn receive<T: DeserializeOwned>(fds: usize) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut owned = Vec::with_capacity(fds + 1);
    for i in 0..=fds {
        let raw = BOOT_FD + i32::try_from(i).map_err(io::Error::other)?;
        // SAFETY: F_GETFD on any number is harmless; it tells whether the fd exists.
        if unsafe { libc::fcntl(raw, libc::F_GETFD) } < 0 {
            return Err(io::Error::other("not started by moonshard serve: use `moonshard serve`"));
        }
        // SAFETY: the fd exists and was placed here for this call, which is made once.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        owned.push(fd);
    }
    let boot = std::fs::File::from(owned.remove(0));
    let mut bytes = Vec::new();
    boot.take(BOOT_BYTES_MAX).read_to_end(&mut bytes)?;
    let message = serde_json::from_slice(&bytes).map_err(io::Error::other)?;
    Ok((message, owned))
}

/// How many fds came with the boot message: those open from its number on.
pub fn inherited() -> usize {
    // SAFETY: F_GETFD on any number is harmless.
    (BOOT_FD + 1..1024).take_while(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } >= 0).count()
}
