//! Real programs: a background, a terminal, a launcher. They have to be installed.
//!
//! With MOONSHARD_PICTURES=directory the pictures are kept there, to be looked at.
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use moonshard::proto::input::{InputEvent, Modifiers, MouseButton};
use moonshard::proto::stream::Mode;

use crate::viewer::{Encoder, Host, Picture};

const MODE: Mode = Mode { width: 1280, height: 720, millihertz: 60_000 };

/// A program that ends with the test.
struct Program(Child);

impl Program {
    fn start(host: &Host, program: &str, arguments: &[&str]) -> Self {
        let child = Command::new(program)
            .args(arguments)
            .env("XDG_RUNTIME_DIR", host.directory.path())
            .env("WAYLAND_DISPLAY", host.desktop.wayland_display())
            .env("XDG_CONFIG_HOME", host.directory.path())
            .env("XDG_CACHE_HOME", host.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn();
        Self(child.unwrap_or_else(|e| panic!("{program} has to be installed for this test: {e}")))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
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

/// The picture after things have settled.
fn settled(encoder: &Encoder) -> Picture {
    let mut last = encoder.note();
    encoder.give_back(last);
    let mut repeats = 0;
    while repeats < 20 {
        last = encoder.note();
        repeats = if last.repeated { repeats + 1 } else { 0 };
        encoder.give_back(last);
    }
    encoder.picture(last)
}

fn key(host: &Host, vk: u8, down: bool) {
    let modifiers = Modifiers::default();
    host.input(InputEvent::Key { down, vk, modifiers, not_normalised: false });
}

fn type_text(host: &Host, text: &str) {
    for character in text.chars() {
        host.input(InputEvent::Text(character.into()));
    }
}

fn click(host: &Host, x: u16, y: u16) {
    host.input(InputEvent::MouseAbsolute { x, y, width: 1279, height: 719 });
    for down in [true, false] {
        host.input(InputEvent::MouseButton { down, button: MouseButton::Left });
    }
}

#[test]
fn a_terminal_fills_the_output_and_runs_what_is_typed() {
    let host = Host::with(MODE, "us", "");
    let encoder = host.attach(MODE.width, MODE.height);
    let script = "printf '\\033[48;2;10;200;30m\\033[2J'; read line; \
                  [ \"$line\" = 'grüße 😀' ] && printf '\\033[48;2;200;10;30m\\033[2J'; sleep 100";
    let _foot = Program::start(&host, "foot", &["-o", "csd.preferred=client", "sh", "-c", script]);
    let picture = encoder.picture_when("a green terminal", |p| p.count(0x0A_C8_1E) > 800_000);
    keep(&picture, "terminal");
    // No title bar: green up to the edges but for less than a cell of padding.
    assert_eq!(picture.at(640, 10), 0x0A_C8_1E);
    type_text(&host, "grüße 😀");
    key(&host, 0x0D, true);
    key(&host, 0x0D, false);
    let picture = encoder.picture_when("a red terminal", |p| p.count(0xC8_0A_1E) > 800_000);
    keep(&picture, "terminal-typed");
}

#[test]
fn a_background_a_launcher_and_floating_terminals_look_like_a_desktop() {
    let host = Host::with(MODE, "us", "");
    let encoder = host.attach(MODE.width, MODE.height);
    let _background = Program::start(&host, "swaybg", &["-c", "#264f78"]);
    let picture = encoder.picture_when("a background", |p| p.is(0x26_4F_78));
    keep(&picture, "desktop-background");

    let _launcher = Program::start(&host, "fuzzel", &[]);
    encoder.picture_when("a launcher", |p| p.at(640, 360) != 0x26_4F_78);
    type_text(&host, "fo");
    std::thread::sleep(Duration::from_millis(300));
    let picture = settled(&encoder);
    keep(&picture, "desktop-launcher");
    assert_eq!(picture.at(5, 5), 0x26_4F_78);
    // Escape ends it.
    key(&host, 0x1B, true);
    key(&host, 0x1B, false);
    encoder.picture_when("no launcher", |p| p.is(0x26_4F_78));

    let _one = Program::start(&host, "foot", &["sh", "-c", "ls --color=always /; sleep 100"]);
    // It floats: there is a background to be seen.
    let picture = encoder.picture_when("a terminal", |p| {
        p.at(640, 360) != 0x26_4F_78 && p.count(0x26_4F_78) < 800_000
    });
    assert_eq!((picture.at(5, 5), picture.at(1275, 715)), (0x26_4F_78, 0x26_4F_78));
    let _two = Program::start(&host, "foot", &["-w", "500x300", "sh", "-c", "sleep 100"]);
    host.input(InputEvent::MouseAbsolute { x: 700, y: 400, width: 1279, height: 719 });
    std::thread::sleep(Duration::from_millis(500));
    let picture = settled(&encoder);
    keep(&picture, "desktop-windows");
    click(&host, 310, 400);
    let picture = settled(&encoder);
    keep(&picture, "desktop-raised");
}
