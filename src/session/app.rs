//! The app as an outside thing: started with a scrubbed environment, heard, ended with all it started.
//!
//! It leads a process group; what leaves that group is found among the [`orphans`], and what escapes
//! even them is in the session's cgroup, which the supervisor kills with it. It knows nothing of viewers
//! or of why it is to end. Nothing here blocks.
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use super::oom;
use crate::ipc::AppSpec;
use crate::proc::boot;
use crate::proc::child::{Child, Exit};

mod log;
pub mod orphans;
mod spawn;

use log::Log;

/// Read from the app's output at one time; more waits in the pipe.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// What an app gets of our own environment.
const INHERITED: [&str; 7] = ["HOME", "PATH", "LANG", "LC_ALL", "TZ", "USER", "LOGNAME"];
/// How much later than this process an app is worth keeping when memory is short.
const OOM_ABOVE_SESSION: i32 = 300;

/// Why an app could not be started. The session cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The configuration names no program.
    #[error("the app {0:?} has an empty command")]
    Command(String),
    /// The directory to start it in is missing or no directory.
    #[error("the app's directory {0} does not exist")]
    Directory(PathBuf),
    /// No such program, not executable, or no resources for a process.
    #[error("cannot run {program:?}: {source}")]
    Program { program: String, source: io::Error },
    /// No pipe for its output.
    #[error("the app's output: {0}")]
    Output(io::Error),
}

/// What surrounds an app.
pub struct Surroundings<'a> {
    /// XDG_RUNTIME_DIR.
    pub directory: &'a Path,
    pub wayland_display: &'a str,
    /// PULSE_SERVER, also where there is no sound: without a name an app would look for other servers,
    /// or start one.
    pub pulse_server: &'a str,
}

/// A started app.
#[derive(Debug)]
pub struct App {
    child: Child,
    exit: Option<Exit>,
    told: bool,
    output: Option<OwnedFd>,
    log: Log,
}

/// Starts an app.
///
/// # Errors
/// See [`AppError`]; nothing is left behind.
pub fn start(spec: &AppSpec, around: &Surroundings<'_>) -> Result<App, AppError> {
    let program = spec.command.first().filter(|p| !p.is_empty());
    let program = program.ok_or_else(|| AppError::Command(spec.title.clone()))?;
    let mut command = Command::new(if program == "moonshard" {
        boot::own_binary()
    } else {
        PathBuf::from(program)
    });
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_dir());
    let directory = match &spec.directory {
        Some(directory) if directory.is_dir() => directory.clone(),
        Some(directory) => return Err(AppError::Directory(directory.clone())),
        None => home.unwrap_or_else(|| PathBuf::from("/")),
    };
    command.args(&spec.command[1..]).current_dir(directory);
    set_environment(&mut command, spec, around);

    let (read, write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(output_error)?;
    rustix::fs::fcntl_setfl(&read, rustix::fs::OFlags::NONBLOCK).map_err(output_error)?;
    command.stdin(Stdio::null());
    command.stdout(write.try_clone().map_err(AppError::Output)?).stderr(write);

    let child = spawn::spawn(&mut command, program).and_then(Child::new);
    let child = child.map_err(|source| AppError::Program { program: program.clone(), source })?;
    oom::set(child.pid(), oom::own().saturating_add(OOM_ABOVE_SESSION));
    Ok(App { child, exit: None, told: false, output: Some(read), log: Log::new() })
}

fn output_error(e: rustix::io::Errno) -> AppError {
    AppError::Output(e.into())
}

fn set_environment(command: &mut Command, spec: &AppSpec, around: &Surroundings<'_>) {
    command.env_clear();
    // For a host that was started with next to nothing: programs take these for granted.
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command.env("LANG", "C.UTF-8");
    command.env("HOME", around.directory);
    for name in INHERITED {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.envs(&spec.environment);
    // Ours last: an app outside its session's desktop would be somewhere it must not be.
    command.env("XDG_RUNTIME_DIR", around.directory);
    command.env("XDG_SESSION_TYPE", "wayland");
    command.env("WAYLAND_DISPLAY", around.wayland_display);
    command.env("PULSE_SERVER", around.pulse_server);
}

impl App {
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// The pipe to poll; None: everybody has closed its other end.
    pub fn output(&self) -> Option<BorrowedFd<'_>> {
        self.output.as_ref().map(AsFd::as_fd)
    }

    /// Takes what the app has written, a bounded part of it. True: the bound was reached.
    pub fn read_output(&mut self) -> bool {
        let Some(pipe) = &self.output else { return false };
        let mut buffer = [0; 4096];
        let mut taken = 0;
        while taken < OUTPUT_BYTES_MAX {
            match rustix::io::read(pipe, &mut buffer) {
                Ok(0) => {
                    self.output = None;
                    return false;
                }
                Ok(length) => {
                    self.log.push(&buffer[..length]);
                    taken += length;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// The newest part of what it wrote.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Its last lines, fit to be shown.
    pub fn last_words(&self) -> String {
        self.log.last_words()
    }

    /// How its first process ended, told once. What that leaves behind goes on, among the orphans.
    pub fn try_reap(&mut self) -> Option<Exit> {
        let exit = self.exit()?;
        (!std::mem::replace(&mut self.told, true)).then_some(exit)
    }

    /// How its first process ended, if it has.
    pub fn exit(&mut self) -> Option<Exit> {
        if self.exit.is_none() {
            self.exit = self.child.try_reap();
        }
        self.exit
    }

    /// SIGTERM to the process group.
    pub fn term(&self) {
        if !self.is_gone() {
            signal_group(self.child.pid(), Signal::TERM);
        }
    }

    /// SIGKILL to the process group.
    pub fn kill(&self) {
        if !self.is_gone() {
            self.child.kill();
        }
    }

    /// Its first process was reaped.
    pub fn is_gone(&self) -> bool {
        self.exit.is_some()
    }
}

/// Readable when the first process has ended.
impl AsFd for App {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.as_fd()
    }
}

fn signal_group(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process_group(pid, signal);
    }
}

#[cfg(test)]
mod tests;
