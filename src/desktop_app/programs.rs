//! The programs of the desktop: started on request, reaped, ended with it.
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use super::bar::scaled;
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

    /// For an output of this size: text grows with it, as the bar does.
    fn arguments(self, (width, height): (u32, u32)) -> Vec<String> {
        let pixels = |at: u32| scaled(at, height);
        match self {
            Self::Terminal => vec![
                format!("--override=font=DejaVu Sans Mono:pixelsize={}", pixels(15)),
                format!("--override=pad={}x{}", pixels(8), pixels(6)),
                format!(
                    "--override=initial-window-size-pixels={}x{}",
                    width * 2 / 3,
                    height * 2 / 3
                ),
                format!("--override=csd.size={}", pixels(28)),
                format!("--override=csd.button-width={}", pixels(28)),
                format!("--override=csd.font=DejaVu Sans:pixelsize={}", pixels(14)),
                "--override=csd.color=ff242b36".into(),
                "--override=csd.button-color=ffe6eaf0".into(),
                "--override=csd.button-minimize-color=ff242b36".into(),
                "--override=csd.button-maximize-color=ff242b36".into(),
                "--override=csd.button-close-color=ff7a3038".into(),
                "--override=colors.background=12161c".into(),
                "--override=colors.foreground=e6eaf0".into(),
            ],
            Self::Launcher => vec![
                format!("--font=DejaVu Sans:pixelsize={}", pixels(16)),
                "--terminal=foot".into(),
                "--lines=12".into(),
                "--width=40".into(),
                format!("--line-height={}px", pixels(30)),
                format!("--vertical-pad={}", pixels(12)),
                "--background-color=1b212af8".into(),
                "--text-color=e6eaf0ff".into(),
                "--match-color=ffb030ff".into(),
                "--selection-color=344154ff".into(),
                "--selection-text-color=ffffffff".into(),
                "--selection-match-color=ffb030ff".into(),
                "--border-color=3a4452ff".into(),
                format!("--border-width={}", pixels(1)),
                format!("--border-radius={}", pixels(8)),
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
    pub fn start(&mut self, program: Program, output: (u32, u32)) -> Result<(), String> {
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
        command.args(program.arguments(output)).process_group(0).stdin(Stdio::null());
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
