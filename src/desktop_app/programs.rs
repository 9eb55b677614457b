//! The programs of the desktop: started on request, reaped, ended with it.
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::proc::child::Child;

/// More are not started.
const PROGRAMS_MAX: usize = 64;

/// What can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Terminal,
    Launcher,
}

impl Program {
    /// The program, which is also the name of the package that brings it.
    fn name(self) -> &'static str {
        match self {
            Self::Terminal => "foot",
            Self::Launcher => "fuzzel",
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Terminal => &[
                "--override=font=DejaVu Sans Mono:size=11",
                "--override=pad=8x6",
                "--override=colors.background=12161c",
                "--override=colors.foreground=e6eaf0",
            ],
            Self::Launcher => &[
                "--font=DejaVu Sans:size=12",
                "--terminal=foot",
                "--lines=12",
                "--width=40",
                "--line-height=22",
                "--vertical-pad=12",
                "--background-color=1b212af8",
                "--text-color=e6eaf0ff",
                "--match-color=ffb030ff",
                "--selection-color=344154ff",
                "--selection-text-color=ffffffff",
                "--selection-match-color=ffb030ff",
                "--border-color=3a4452ff",
                "--border-width=1",
                "--border-radius=8",
            ],
        }
    }
}

/// What runs.
#[derive(Debug, Default)]
pub struct Programs {
    running: Vec<(Program, Child)>,
}

impl Programs {
    /// Starts a program. A second launcher is not started: the first one ends instead.
    ///
    /// # Errors
    /// What to tell the player.
    pub fn start(&mut self, program: Program) -> Result<(), String> {
        self.reap();
        if program == Program::Launcher {
            let before = self.running.len();
            self.running.retain(|(running, _)| *running != Program::Launcher);
            if self.running.len() < before {
                return Ok(());
            }
        }
        if self.running.len() >= PROGRAMS_MAX {
            return Err(format!("{PROGRAMS_MAX} programs run already"));
        }
        let name = program.name();
        let mut command = Command::new(name);
        command.args(program.arguments()).process_group(0).stdin(Stdio::null());
        match command.spawn().and_then(Child::new) {
            Ok(child) => {
                tracing::info!(program = name, pid = child.pid(), "started");
                self.running.push((program, child));
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::warn!(program = name, "not installed: apt install {name}");
                Err(format!("{name} is not installed: apt install {name}"))
            }
            Err(error) => {
                tracing::warn!(program = name, %error, "not started");
                Err(format!("{name}: {error}"))
            }
        }
    }

    /// Takes leave of what has ended.
    pub fn reap(&mut self) {
        self.running.retain_mut(|(program, child)| match child.try_reap() {
            Some(exit) => {
                tracing::info!(program = program.name(), %exit, "ended");
                false
            }
            None => true,
        });
    }
}
