//! Window policy, as the windows' clients and the picture show it.
use moonshard::desktop::DesktopCommand;
use moonshard::proto::input::{InputEvent, Modifiers, MouseButton};
use moonshard::proto::stream::Mode;
use wayland_protocols::xdg::shell::client::xdg_positioner::{Anchor, Gravity};
use wayland_protocols::xdg::shell::client::xdg_toplevel::ResizeEdge;

use crate::client::{Client, Heard, Window};
use crate::viewer::{Host, MODE};

const RED: u32 = 0xFF_FF_00_00;
const BLUE: u32 = 0xFF_00_00_FF;
const GREEN: u32 = 0xFF_00_FF_00;

const MAXIMISED: u32 = 1;
const FULLSCREEN: u32 = 2;
const RESIZING: u32 = 3;
const ACTIVATED: u32 = 4;

fn rgb(colour: u32) -> u32 {
    colour & 0xFF_FF_FF
}

fn key(host: &Host, vk: u8, down: bool) {
    let modifiers = Modifiers::default();
    host.input(InputEvent::Key { down, vk, modifiers, not_normalised: false });
}

fn point(host: &Host, x: u16, y: u16) {
    host.input(InputEvent::MouseAbsolute { x, y, width: MODE.width - 1, height: MODE.height - 1 });
}

fn button(host: &Host, down: bool) {
    host.input(InputEvent::MouseButton { down, button: MouseButton::Left });
}

/// The last configure that a window got and that satisfies the condition.
fn configured(
    client: &mut Client,
    number: usize,
    condition: impl Fn(i32, i32, &[u32]) -> bool,
) -> (i32, i32) {
    client.until("configure", |heard| {
        heard.iter().rev().find_map(|h| match h {
            Heard::Configured { window, width, height, states }
                if *window == number && condition(*width, *height, states) =>
            {
                Some((*width, *height))
            }
            _ => None,
        })
    })
}

/// The serial of the last button press.
fn pressed(client: &mut Client) -> u32 {
    client.until("button press", |heard| {
        heard.iter().rev().find_map(|h| match h {
            Heard::Button { serial, down: true, .. } => Some(*serial),
            _ => None,
        })
    })
}

/// A desktop with a red window that fills it and a blue one of 40 by 20 over it.
fn two_windows() -> (Host, Client, Window, Window) {
    let host = Host::start();
    let mut client = Client::connect(&host);
    let red = client.show(RED, (10, 10));
    client.until_heard(&Heard::KeyboardEnter { window: 0 });
    let blue = client.show(BLUE, (40, 20));
    client.until_heard(&Heard::KeyboardEnter { window: 1 });
    (host, client, red, blue)
}

#[test]
fn the_first_window_fills_the_output_and_the_second_floats_in_the_middle() {
    let (host, mut client, _red, _blue) = two_windows();
    configured(&mut client, 0, |w, h, states| (w, h) == (320, 200) && states.contains(&MAXIMISED));
    configured(&mut client, 1, |w, h, states| (w, h) == (0, 0) && !states.contains(&MAXIMISED));
    let encoder = host.attach(MODE.width, MODE.height);
    let picture = encoder.picture_when("both", |p| p.count(rgb(BLUE)) == 800);
    assert_eq!((picture.at(140, 90), picture.at(179, 109)), (rgb(BLUE), rgb(BLUE)));
    assert_eq!((picture.at(0, 0), picture.at(319, 199)), (rgb(RED), rgb(RED)));
}

#[test]
fn a_window_of_fixed_size_is_not_stretched() {
    let host = Host::start();
    let mut client = Client::connect(&host);
    let (_, width, height) = client.introduce(|toplevel| {
        toplevel.set_min_size(100, 50);
        toplevel.set_max_size(100, 50);
    });
    assert_eq!((width, height), (0, 0));
}

#[test]
fn focus_follows_a_new_window_and_a_click() {
    let (host, mut client, _red, _blue) = two_windows();
    configured(&mut client, 1, |_, _, states| states.contains(&ACTIVATED));
    client.ears.heard.clear();
    point(&host, 5, 5);
    button(&host, true);
    button(&host, false);
    client.until_heard(&Heard::KeyboardEnter { window: 0 });
    assert!(client.ears.heard.contains(&Heard::KeyboardLeave { window: 1 }));
    configured(&mut client, 0, |_, _, states| states.contains(&ACTIVATED));
    configured(&mut client, 1, |_, _, states| !states.contains(&ACTIVATED));
    let encoder = host.attach(MODE.width, MODE.height);
    encoder.picture_when("the red window on top", |p| p.count(rgb(BLUE)) == 0);
}

#[test]
fn a_window_that_goes_gives_the_keyboard_back() {
    let (_host, mut client, _red, blue) = two_windows();
    client.ears.heard.clear();
    blue.toplevel.destroy();
    blue.xdg.destroy();
    blue.surface.destroy();
    client.until_heard(&Heard::KeyboardEnter { window: 0 });
}

#[test]
fn a_window_can_take_its_picture_away_and_come_back() {
    let (host, mut client, _red, blue) = two_windows();
    client.ears.heard.clear();
    blue.surface.attach(None, 0, 0);
    blue.surface.commit();
    client.until_heard(&Heard::KeyboardEnter { window: 0 });
    client.ears.heard.clear();
    blue.surface.commit();
    configured(&mut client, 1, |_, _, _| true);
    client.paint(&blue.surface, GREEN, (30, 30));
    client.until_heard(&Heard::KeyboardEnter { window: 1 });
    let encoder = host.attach(MODE.width, MODE.height);
    encoder.picture_when("the green window", |p| p.count(rgb(GREEN)) == 900);
}

#[test]
fn alt_tab_cycles_and_alt_f4_asks_to_close() {
    let (host, mut client, _red, _blue) = two_windows();
    let green = client.show(GREEN, (20, 20));
    client.until_heard(&Heard::KeyboardEnter { window: green.number });
    client.ears.heard.clear();
    key(&host, 0xA4, true);
    // From green to blue to red, in the order of their stack.
    for window in [1, 0] {
        key(&host, 0x09, true);
        key(&host, 0x09, false);
        client.until_heard(&Heard::KeyboardEnter { window });
    }
    key(&host, 0xA4, false);
    // A new round starts from the present stack: red, blue, green.
    client.ears.heard.clear();
    key(&host, 0xA4, true);
    key(&host, 0x09, true);
    key(&host, 0x09, false);
    client.until_heard(&Heard::KeyboardEnter { window: 1 });
    key(&host, 0x73, true);
    key(&host, 0x73, false);
    key(&host, 0xA4, false);
    client.until_heard(&Heard::Close);
    let tab_or_f4 = |h: &Heard| matches!(h, Heard::Key { code: 15 | 62, .. });
    assert!(!client.ears.heard.iter().any(tab_or_f4), "{:?}", client.ears.heard);
    assert!(host.desktop.is_running());
}

#[test]
fn maximise_fullscreen_and_back() {
    let (host, mut client, _red, blue) = two_windows();
    client.ears.heard.clear();
    blue.toplevel.set_maximized();
    configured(&mut client, 1, |w, h, s| (w, h) == (320, 200) && s.contains(&MAXIMISED));
    blue.toplevel.set_fullscreen(None);
    configured(&mut client, 1, |w, h, s| (w, h) == (320, 200) && s.contains(&FULLSCREEN));
    client.paint(&blue.surface, BLUE, (320, 200));
    let encoder = host.attach(MODE.width, MODE.height);
    encoder.picture_when("a fullscreen window", |p| p.is(rgb(BLUE)));
    blue.toplevel.unset_fullscreen();
    configured(&mut client, 1, |w, h, s| {
        (w, h) == (40, 20) && !s.contains(&FULLSCREEN) && !s.contains(&MAXIMISED)
    });
    client.paint(&blue.surface, BLUE, (40, 20));
    let picture = encoder.picture_when("the floating window", |p| p.count(rgb(BLUE)) == 800);
    assert_eq!(picture.at(140, 90), rgb(BLUE));
}

#[test]
fn a_window_is_moved_by_the_pointer_when_its_client_asks() {
    let (host, mut client, _red, blue) = two_windows();
    let encoder = host.attach(MODE.width, MODE.height);
    encoder.picture_when("blue in the middle", |p| p.at(140, 90) == rgb(BLUE));
    point(&host, 150, 95);
    button(&host, true);
    let serial = pressed(&mut client);
    blue.toplevel._move(&client.seat, serial);
    client.round_trip();
    point(&host, 50, 45);
    encoder.picture_when("blue moved by 100, 50", |p| {
        p.at(40, 40) == rgb(BLUE) && p.at(79, 59) == rgb(BLUE) && p.at(140, 90) == rgb(RED)
    });
    button(&host, false);
    point(&host, 200, 150);
    client.round_trip();
    encoder.picture_when("blue where it was left", |p| {
        p.at(40, 40) == rgb(BLUE) && p.at(201, 151) != rgb(RED)
    });
    // A stale serial starts nothing.
    blue.toplevel._move(&client.seat, serial);
    client.round_trip();
    point(&host, 10, 10);
    encoder.picture_when("blue still there", |p| {
        p.at(78, 58) == rgb(BLUE) && p.at(11, 12) != rgb(RED)
    });
}

#[test]
fn a_window_is_resized_by_its_left_edge_and_its_right_one_stays() {
    let (host, mut client, _red, blue) = two_windows();
    point(&host, 141, 95);
    button(&host, true);
    let serial = pressed(&mut client);
    blue.toplevel.resize(&client.seat, serial, ResizeEdge::Left);
    client.round_trip();
    point(&host, 121, 95);
    let size = configured(&mut client, 1, |w, _, states| w == 60 && states.contains(&RESIZING));
    // The button is up before the client answers.
    button(&host, false);
    configured(&mut client, 1, |w, _, states| w == 60 && !states.contains(&RESIZING));
    client.paint(&blue.surface, BLUE, size);
    let encoder = host.attach(MODE.width, MODE.height);
    let wide = 60 * size.1 as usize;
    let picture = encoder.picture_when("a wider window", |p| p.count(rgb(BLUE)) > wide - 300);
    assert_eq!(picture.at(179, 109), rgb(BLUE));
    assert_eq!(picture.at(180, 109), rgb(RED));
    // Above the cursor.
    assert_eq!((picture.at(120, 91), picture.at(119, 91)), (rgb(BLUE), rgb(RED)));
}

#[test]
fn a_menu_has_the_keyboard_and_a_click_elsewhere_ends_it() {
    let host = Host::start();
    let mut stranger = Client::connect(&host);
    stranger.show(RED, (10, 10));
    stranger.until_heard(&Heard::KeyboardEnter { window: 0 });
    let mut client = Client::connect(&host);
    let blue = client.show(BLUE, (40, 20));
    client.until_heard(&Heard::KeyboardEnter { window: 0 });
    point(&host, 145, 95);
    button(&host, true);
    let serial = pressed(&mut client);
    let positioner = client.shell.create_positioner(&client.handle, ());
    positioner.set_size(60, 50);
    positioner.set_anchor_rect(0, 0, 10, 10);
    positioner.set_anchor(Anchor::BottomRight);
    positioner.set_gravity(Gravity::BottomRight);
    let surface = client.compositor.create_surface(&client.handle, ());
    let xdg = client.shell.get_xdg_surface(&surface, &client.handle, 77);
    let popup = xdg.get_popup(Some(&blue.xdg), &positioner, &client.handle, ());
    popup.grab(&client.seat, serial);
    surface.commit();
    configured(&mut client, 77, |_, _, _| true);
    client.paint(&surface, 0xFF_FF_FF_00, (60, 50));
    let encoder = host.attach(MODE.width, MODE.height);
    let picture = encoder.picture_when("a yellow menu", |p| p.count(0xFF_FF_00) > 2500);
    assert_eq!(picture.at(150 + 59, 100 + 49), 0xFF_FF_00);
    button(&host, false);
    point(&host, 5, 5);
    button(&host, true);
    client.until_heard(&Heard::PopupDone);
    button(&host, false);
}

#[test]
fn a_window_too_large_to_float_fills_the_output() {
    let (_host, mut client, _red, _blue) = two_windows();
    let large = client.show(GREEN, (500, 100));
    configured(&mut client, large.number, |w, h, states| {
        (w, h) == (320, 200) && states.contains(&MAXIMISED)
    });
}

#[test]
fn a_window_that_comes_under_a_resting_pointer_hears_of_it() {
    let (host, mut client, _red, _blue) = two_windows();
    point(&host, 160, 100);
    client.pointer_entered();
    client.ears.heard.clear();
    client.show(GREEN, (20, 20));
    let at = client.until("the pointer", |heard| {
        heard.iter().find_map(|h| match h {
            Heard::PointerEnter { x, y, .. } => Some((*x, *y)),
            _ => None,
        })
    });
    assert_eq!(at, (10.0, 10.0));
}

#[test]
fn a_smaller_mode_pulls_floating_windows_in() {
    let (host, mut client, _red, blue) = two_windows();
    let mode = Mode { width: 160, height: 100, millihertz: 60_000 };
    host.desktop.send(DesktopCommand::Mode(mode)).unwrap();
    configured(&mut client, 0, |w, h, _| (w, h) == (160, 100));
    let encoder = host.attach(160, 100);
    let picture = encoder.picture_when("some of the blue window", |p| p.count(rgb(BLUE)) > 0);
    assert!(picture.count(rgb(BLUE)) >= 32 * 20);
    drop(blue);
}
