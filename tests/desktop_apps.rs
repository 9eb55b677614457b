//! The programs of the default apps, run as programs on a real desktop.
//!
//! With MOONSHARD_PICTURES=directory the pictures are kept there, to be looked at.
#![cfg(feature = "host")]

#[allow(dead_code, reason = "shared with the desktop's own tests, which use all of it")]
#[path = "desktop_wayland/viewer.rs"]
mod viewer;

use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use moonshard::desktop::DesktopCommand;
use moonshard::proto::input::{InputEvent, Modifiers, MouseButton};
use moonshard::proto::pattern::{self, Field};
use moonshard::proto::stream::Mode;
use viewer::{Host, PATIENCE, Picture};

const MODE: Mode = Mode { width: 1280, height: 720, millihertz: 60_000 };

/// A program of ours that ends with the test.
struct Program(Child);

impl Program {
    fn start(host: &Host, kind: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_moonshard"));
        command
            .arg(kind)
            .env("XDG_RUNTIME_DIR", host.directory.path())
            .env("WAYLAND_DISPLAY", host.desktop.wayland_display())
            .env("XDG_CONFIG_HOME", host.directory.path())
            .env("XDG_CACHE_HOME", host.directory.path())
            .env("SHELL", "/bin/sh")
            .env("PS1", "$ ")
            .env_remove("PULSE_SERVER")
            .stdin(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn terminate(&self) {
        let pid = rustix::process::Pid::from_raw(self.0.id() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the program does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Processor time so far, in seconds.
    fn processor_time(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: f64 = fields[11..13].iter().map(|n| n.parse::<f64>().unwrap()).sum();
        ticks / rustix::param::clock_ticks_per_second() as f64
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            self.terminate();
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn keep(picture: &Picture, name: &str) {
    if let Some(directory) = std::env::var_os("MOONSHARD_PICTURES").map(PathBuf::from) {
        std::fs::create_dir_all(&directory).unwrap();
        picture.write_png(&directory.join(format!("{name}.png")));
    }
}

fn counter(picture: &Picture) -> Option<u32> {
    let luma = |x, y| (picture.at(x as usize, y as usize) >> 8) as u8;
    pattern::read_counter(picture.width as u32, picture.height as u32, luma)
}

fn answer(picture: &Picture) -> Option<usize> {
    let Field { x, y, width, height } =
        pattern::answer_field(picture.width as u32, picture.height as u32);
    let colour = picture.at((x + width / 2) as usize, (y + height / 2) as usize);
    let [_, red, green, blue] = colour.to_be_bytes();
    pattern::answer_of(red, green, blue)
}

fn press(host: &Host, vk: u8) {
    for down in [true, false] {
        let modifiers = Modifiers::default();
        host.input(InputEvent::Key { down, vk, modifiers, not_normalised: false });
    }
}

fn click(host: &Host, x: u16, y: u16) {
    host.input(InputEvent::MouseAbsolute { x, y, width: 1279, height: 719 });
    for down in [true, false] {
        host.input(InputEvent::MouseButton { down, button: MouseButton::Left });
    }
}

#[test]
fn the_pattern_counts_answers_and_follows_the_mode() {
    let host = Host::with(MODE, "us", "");
    let encoder = host.attach(MODE.width, MODE.height);
    let mut program = Program::start(&host, "pattern");
    let first = encoder.picture_when("a counter", |p| counter(p).is_some());
    let first = counter(&first).unwrap();
    let later = encoder.picture_when("a higher counter", |p| {
        counter(p).is_some_and(|counter| counter > first + 60)
    });
    keep(&later, "pattern");
    assert_eq!(answer(&later), Some(0));
    press(&host, 0x41);
    encoder.picture_when("the second answer", |p| answer(p) == Some(1));
    click(&host, 640, 360);
    encoder.picture_when("the third answer", |p| answer(p) == Some(2));

    let mode = Mode { width: 1920, height: 1080, millihertz: 60_000 };
    host.desktop.send(DesktopCommand::Mode(mode)).unwrap();
    let encoder = host.attach(mode.width, mode.height);
    let larger = encoder.picture_when("a counter at 1080p", |p| counter(p).is_some());
    assert!(counter(&larger).unwrap() > first);
    let larger = encoder.picture_when("it goes on", |p| counter(p) > counter(&larger));
    keep(&larger, "pattern-1080");
    program.terminate();
    assert_eq!(program.wait().code(), Some(0));
}

/// No assertion: what a machine needs is no property of the program. Run with --ignored --nocapture.
#[test]
#[ignore = "a measurement"]
fn the_pattern_is_cheap() {
    for (width, height) in [(1280, 720), (1920, 1080)] {
        let host = Host::with(Mode { width, height, millihertz: 60_000 }, "us", "");
        let encoder = host.attach(width, height);
        let program = Program::start(&host, "pattern");
        let picture = encoder.picture_when("a counter", |p| counter(p).is_some());
        let (before, start) = (program.processor_time(), Instant::now());
        let mut last = encoder.note();
        while start.elapsed() < Duration::from_secs(5) {
            encoder.give_back(last);
            last = encoder.note();
        }
        let frames = counter(&encoder.picture(last)).unwrap() - counter(&picture).unwrap();
        let share = (program.processor_time() - before) / start.elapsed().as_secs_f64();
        println!("{width}x{height}: {:.1} % of a core, {frames} frames in 5 s", share * 100.0);
    }
}

#[test]
fn without_a_display_a_program_says_so() {
    for kind in ["pattern", "desktop"] {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_moonshard"));
        command.arg(kind).env("XDG_RUNTIME_DIR", directory.path()).env_remove("WAYLAND_DISPLAY");
        let output = command.env_remove("PULSE_SERVER").output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("no Wayland display"), "{said}");
    }
}

#[test]
fn the_desktop_has_a_terminal_a_launcher_and_an_end() {
    let host = Host::with(MODE, "us", "");
    let encoder = host.attach(MODE.width, MODE.height);
    let mut program = Program::start(&host, "desktop");
    const BAR: u32 = 0x16_1B_22;
    const TERMINAL: u32 = 0x12_16_1C;
    encoder.picture_when("a bar", |p| p.count(BAR) > 20_000);
    let empty = encoder.picture_when("a terminal", |p| p.count(TERMINAL) > 100_000);
    let before = empty.count(TERMINAL);
    for character in "echo moonshard desktop".chars() {
        host.input(InputEvent::Text(character.into()));
    }
    press(&host, 0x0D);
    let typed = encoder.picture_when("typed text", |p| p.count(TERMINAL) + 1_500 < before);
    keep(&typed, "desktop-app");

    click(&host, 60, 702);
    const LAUNCHER: u32 = 0x34_41_54;
    let launcher = encoder.picture_when("a launcher", |p| p.count(LAUNCHER) > 6_000);
    keep(&launcher, "desktop-app-launcher");
    press(&host, 0x1B);
    let closed = encoder.picture_when("no launcher", |p| p.count(LAUNCHER) < 6_000);
    keep(&closed, "desktop-app-closed");

    // The terminal ends, the desktop goes on.
    for character in "exit".chars() {
        host.input(InputEvent::Text(character.into()));
    }
    press(&host, 0x0D);
    let bare = encoder.picture_when("no terminal", |p| p.count(TERMINAL) < 1_000);
    keep(&bare, "desktop-app-bare");
    assert!(program.0.try_wait().unwrap().is_none());
    click(&host, 1255, 702);
    assert_eq!(program.wait().code(), Some(0));
}
