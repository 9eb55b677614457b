//! What the viewer's hands do, as the focused client hears it.
use std::time::Duration;

use moonshard::desktop::DesktopCommand;
use moonshard::proto::input::{InputEvent, Modifiers, MouseButton, Pen, Phase, Tool, Touch};
use moonshard::proto::stream::Mode;
use wayland_protocols::wp::pointer_constraints::zv1::client::zwp_pointer_constraints_v1::Lifetime;

use crate::client::{Client, Heard, Window};
use crate::viewer::{Host, MODE};

const RED: u32 = 0xFF_FF_00_00;

/// A desktop, and a client whose window fills it and has the keyboard.
fn focused(layout: &str) -> (Host, Client, Window) {
    let host = Host::with(MODE, layout, "");
    let mut client = Client::connect(&host);
    let window = client.show(RED, (10, 10));
    client.until_heard(&Heard::KeyboardEnter { window: 0 });
    client.ears.heard.clear();
    (host, client, window)
}

fn key(vk: u8, down: bool) -> InputEvent {
    key_with(vk, down, Modifiers::default())
}

fn key_with(vk: u8, down: bool, modifiers: Modifiers) -> InputEvent {
    InputEvent::Key { down, vk, modifiers, not_normalised: false }
}

fn touch(phase: Phase, pointer: u32, x: f32, y: f32) -> InputEvent {
    InputEvent::Touch(Touch {
        phase,
        rotation: None,
        pointer,
        x,
        y,
        pressure: 0.0,
        major: 0.0,
        minor: 0.0,
    })
}

/// What the client hears until it hears the end of it: a press of F12.
fn all_heard(host: &Host, client: &mut Client) -> Vec<Heard> {
    const F12: u32 = 88;
    host.input(key(0x7B, true));
    host.input(key(0x7B, false));
    client.until("F12", |heard| {
        heard.iter().any(|h| matches!(h, Heard::Key { code: F12, down: false, .. })).then_some(())
    });
    let heard = std::mem::take(&mut client.ears.heard);
    heard.into_iter().filter(|h| !matches!(h, Heard::Key { code: F12, .. })).collect()
}

/// Key events in short: code, press, keysym.
fn keys(heard: &[Heard]) -> Vec<(u32, bool, u32)> {
    heard
        .iter()
        .filter_map(|h| match h {
            Heard::Key { code, down, keysym, .. } => Some((*code, *down, *keysym)),
            _ => None,
        })
        .collect()
}

fn typed(heard: &[Heard]) -> String {
    heard
        .iter()
        .filter_map(|h| match h {
            Heard::Key { down: true, text, .. } => Some(text.as_str()),
            _ => None,
        })
        .collect()
}

#[test]
fn a_key_is_a_position_that_the_session_layout_gives_its_meaning() {
    for (layout, keysym) in [("us", u32::from(b'y')), ("de", u32::from(b'z'))] {
        let (host, mut client, _window) = focused(layout);
        host.input(key(0x59, true));
        host.input(key(0x59, true));
        host.input(key(0x59, false));
        host.input(key(0x59, false));
        let heard = all_heard(&host, &mut client);
        assert_eq!(keys(&heard), [(21, true, keysym), (21, false, keysym)], "{layout}");
        // Duplicates, and nothing else, had no effect.
        assert_eq!(host.desktop.figures()["input_ignored"], 2.0);
    }
}

#[test]
fn alt_gr_gives_the_third_level_of_a_layout() {
    let (host, mut client, _window) = focused("de");
    for event in [key(0xA5, true), key(0x51, true), key(0x51, false), key(0xA5, false)] {
        host.input(event);
    }
    let heard = all_heard(&host, &mut client);
    assert!(typed(&heard).contains('@'), "{heard:?}");
}

#[test]
fn unmapped_keys_are_ignored_and_repeat_is_the_clients_affair() {
    let (host, mut client, _window) = focused("us");
    for vk in [0x00, 0xFF, 0x07] {
        host.input(key(vk, true));
    }
    let heard = all_heard(&host, &mut client);
    assert_eq!(keys(&heard), []);
    let mut other = Client::connect(&host);
    other.until_heard(&Heard::RepeatInfo { rate: 25, delay: 600 });
}

#[test]
fn a_modifier_that_the_client_holds_is_pressed_around_the_key() {
    let (host, mut client, _window) = focused("us");
    let shift = Modifiers { shift: true, ..Modifiers::default() };
    host.input(key_with(0x41, true, shift));
    host.input(key_with(0x41, false, shift));
    let heard = all_heard(&host, &mut client);
    let codes: Vec<(u32, bool)> = keys(&heard).iter().map(|k| (k.0, k.1)).collect();
    assert_eq!(codes, [(42, true), (30, true), (42, false), (30, false)]);
    assert_eq!(typed(&heard), "A");

    // Not when it is down already, on either side.
    host.input(key(0xA1, true));
    host.input(key_with(0x41, true, shift));
    host.input(key_with(0x41, false, shift));
    host.input(key(0xA1, false));
    let heard = all_heard(&host, &mut client);
    let codes: Vec<(u32, bool)> = keys(&heard).iter().map(|k| (k.0, k.1)).collect();
    assert_eq!(codes, [(54, true), (30, true), (30, false), (54, false)]);
}

#[test]
fn modifiers_leave_the_layout_group_alone() {
    let (host, mut client, _window) = focused("us,de");
    for event in [key(0xA0, true), key(0xA0, false)] {
        host.input(event);
    }
    let heard = all_heard(&host, &mut client);
    let groups: Vec<u32> = heard
        .iter()
        .filter_map(|h| match h {
            Heard::Modifiers { group, .. } => Some(*group),
            _ => None,
        })
        .collect();
    assert!(!groups.is_empty() && groups.iter().all(|&g| g == 0), "{groups:?}");
}

#[test]
fn text_reaches_the_client_whatever_the_layout_has() {
    for layout in ["us", "de", "ru"] {
        let (host, mut client, _window) = focused(layout);
        host.input(InputEvent::Text("😀".into()));
        host.input(InputEvent::Text("é".into()));
        host.input(InputEvent::Text("aあ😀\n".into()));
        let heard = all_heard(&host, &mut client);
        assert_eq!(typed(&heard), "😀éaあ😀\r", "{layout}");
        let keysyms: Vec<u32> = keys(&heard).iter().map(|k| k.2).collect();
        assert_eq!(keysyms[0], 0x0100_0000 | u32::from('😀'));
        assert!(keys(&heard).iter().all(|k| k.0 + 8 <= 255), "a key code beyond X11's");
        // The layout is as before.
        host.input(key(0x59, true));
        host.input(key(0x59, false));
        let heard = all_heard(&host, &mut client);
        let expected = match layout {
            "us" => "y",
            "de" => "z",
            _ => "н",
        };
        assert_eq!(typed(&heard), expected);
    }
}

#[test]
fn more_characters_than_spare_keys_are_typed_in_order() {
    let (host, mut client, _window) = focused("us");
    let text: String = (0..300).map(|i| char::from_u32(0x4E00 + i).unwrap()).collect();
    for character in text.chars() {
        host.input(InputEvent::Text(character.into()));
    }
    let heard = all_heard(&host, &mut client);
    assert_eq!(typed(&heard), text);
}

#[test]
fn text_leaves_caps_lock_and_held_keys_as_they_are() {
    let (host, mut client, _window) = focused("us");
    host.input(key(0x14, true));
    host.input(key(0x14, false));
    host.input(key(0xA2, true));
    host.input(InputEvent::Text("ж".into()));
    host.input(key(0xA2, false));
    host.input(key(0x41, true));
    host.input(key(0x41, false));
    let heard = all_heard(&host, &mut client);
    assert_eq!(typed(&heard), "жA", "{heard:#?}");
    let last = heard.iter().rev().find_map(|h| match h {
        Heard::Modifiers { depressed, locked, .. } => Some((*depressed, *locked)),
        _ => None,
    });
    assert_eq!(last, Some((0, 2)), "caps lock alone is on");
}

#[test]
fn an_absolute_position_reaches_the_last_pixel_and_a_relative_one_stays_inside() {
    let (host, mut client, _window) = focused("us");
    host.input(InputEvent::MouseAbsolute { x: 1919, y: 1079, width: 1919, height: 1079 });
    client.pointer_entered();
    host.input(InputEvent::MouseAbsolute { x: 0, y: 0, width: 1919, height: 1079 });
    host.input(InputEvent::MouseRelative { dx: 10, dy: -5 });
    host.input(InputEvent::MouseRelative { dx: i16::MAX, dy: i16::MAX });
    let heard = all_heard(&host, &mut client);
    let enter = heard.iter().find_map(|h| match h {
        Heard::PointerEnter { x, y, .. } => Some((*x, *y)),
        _ => None,
    });
    assert_eq!(enter, Some((319.0, 199.0)));
    let motions: Vec<(f64, f64)> = heard
        .iter()
        .filter_map(|h| match h {
            Heard::Motion { x, y } => Some((*x, *y)),
            _ => None,
        })
        .collect();
    assert_eq!(motions, [(0.0, 0.0), (10.0, 0.0), (319.0, 199.0)]);
    let relatives: Vec<(f64, f64)> = heard
        .iter()
        .filter_map(|h| match h {
            Heard::Relative { dx, dy } => Some((*dx, *dy)),
            _ => None,
        })
        .collect();
    assert!(relatives.ends_with(&[(10.0, -5.0), (32767.0, 32767.0)]), "{relatives:?}");
}

#[test]
fn buttons_are_named_as_evdev_names_them_and_duplicates_are_ignored() {
    let (host, mut client, _window) = focused("us");
    host.input(InputEvent::MouseAbsolute { x: 1, y: 1, width: 2, height: 2 });
    use MouseButton::{Extra, Left, Middle, Right, Side};
    for button in [Left, Middle, Right, Side, Extra] {
        for down in [true, true, false, false] {
            host.input(InputEvent::MouseButton { down, button });
        }
    }
    let heard = all_heard(&host, &mut client);
    let buttons: Vec<(u32, bool)> = heard
        .iter()
        .filter_map(|h| match h {
            Heard::Button { code, down, .. } => Some((*code, *down)),
            _ => None,
        })
        .collect();
    let expected: Vec<(u32, bool)> =
        [0x110, 0x112, 0x111, 0x113, 0x114].iter().flat_map(|&c| [(c, true), (c, false)]).collect();
    assert_eq!(buttons, expected);
}

#[test]
fn the_wheel_turns_in_hundred_and_twentieths_of_a_click() {
    let (host, mut client, _window) = focused("us");
    host.input(InputEvent::MouseAbsolute { x: 1, y: 1, width: 2, height: 2 });
    host.input(InputEvent::ScrollVertical(120));
    host.input(InputEvent::ScrollVertical(-30));
    host.input(InputEvent::ScrollHorizontal(240));
    host.input(InputEvent::ScrollVertical(i16::MIN));
    let heard = all_heard(&host, &mut client);
    let wheel: Vec<Heard> = heard
        .into_iter()
        .filter(|h| matches!(h, Heard::Axis { .. } | Heard::Axis120 { .. }))
        .collect();
    let of = |vertical, value: i32| {
        [
            Heard::Axis120 { vertical, value },
            Heard::Axis { vertical, value: f64::from(value) / 8.0 },
        ]
    };
    let mut expected = Vec::new();
    for pair in [of(true, -120), of(true, 30), of(false, 240), of(true, 32768)] {
        expected.extend(pair);
    }
    let sort = |mut list: Vec<Heard>| {
        list.sort_by_key(|h| format!("{h:?}"));
        list
    };
    assert_eq!(sort(wheel), sort(expected));
}

#[test]
fn fingers_have_slots_and_are_lifted_or_cancelled() {
    let (host, mut client, _window) = focused("us");
    for event in [
        touch(Phase::Down, 700, 0.0, 0.0),
        touch(Phase::Down, 9, 1.0, 1.0),
        touch(Phase::Down, 9, 0.5, 0.5),
        touch(Phase::Move, 700, 0.5, 0.25),
        touch(Phase::Move, 12345, 0.5, 0.25),
        touch(Phase::Up, 700, 0.5, 0.25),
        touch(Phase::Down, 1, 0.5, 0.5),
        touch(Phase::CancelAll, 0, 0.0, 0.0),
        touch(Phase::Up, 9, 0.0, 0.0),
    ] {
        host.input(event);
    }
    let heard = all_heard(&host, &mut client);
    let touches: Vec<&Heard> = heard
        .iter()
        .filter(|h| {
            matches!(
                h,
                Heard::TouchDown { .. }
                    | Heard::TouchMotion { .. }
                    | Heard::TouchUp { .. }
                    | Heard::TouchCancel
            )
        })
        .collect();
    assert_eq!(
        touches,
        [
            &Heard::TouchDown { id: 0, x: 0.0, y: 0.0 },
            &Heard::TouchDown { id: 1, x: 319.0, y: 199.0 },
            &Heard::TouchMotion { id: 0, x: 159.5, y: 49.75 },
            &Heard::TouchUp { id: 0 },
            &Heard::TouchDown { id: 0, x: 159.5, y: 99.5 },
            // Where they are already, so that no finger is left out of what follows.
            &Heard::TouchMotion { id: 0, x: 159.5, y: 99.5 },
            &Heard::TouchMotion { id: 1, x: 319.0, y: 199.0 },
            &Heard::TouchCancel,
        ]
    );
    // After that fingers work as before.
    host.input(touch(Phase::Down, 9, 0.0, 0.0));
    client.until_heard(&Heard::TouchDown { id: 0, x: 0.0, y: 0.0 });
}

#[test]
fn a_pen_is_a_pointer_with_the_left_button_at_its_tip() {
    let (host, mut client, _window) = focused("us");
    let pen = |phase| {
        InputEvent::Pen(Pen {
            phase,
            tool: Tool::Pen,
            buttons: 0,
            x: 1.0,
            y: 0.0,
            pressure: 0.5,
            rotation: None,
            tilt: None,
            major: 0.0,
            minor: 0.0,
        })
    };
    for phase in [Phase::Hover, Phase::Down, Phase::Move, Phase::Up] {
        host.input(pen(phase));
    }
    let heard = all_heard(&host, &mut client);
    let buttons: Vec<bool> = heard
        .iter()
        .filter_map(|h| match h {
            Heard::Button { code: 0x110, down, .. } => Some(*down),
            _ => None,
        })
        .collect();
    assert_eq!(buttons, [true, false]);
    assert!(heard.iter().any(|h| matches!(h, Heard::PointerEnter { x: 319.0, y: 0.0, .. })));
}

#[test]
fn everything_is_let_go_when_the_viewer_leaves() {
    let (host, mut client, _window) = focused("us");
    host.input(InputEvent::MouseAbsolute { x: 1, y: 1, width: 2, height: 2 });
    host.input(key(0xA2, true));
    host.input(key(0x41, true));
    host.input(InputEvent::MouseButton { down: true, button: MouseButton::Left });
    host.input(touch(Phase::Down, 3, 0.5, 0.5));
    host.desktop.send(DesktopCommand::ReleaseAll).unwrap();
    let heard = all_heard(&host, &mut client);
    let up: Vec<u32> = keys(&heard).iter().filter(|k| !k.1).map(|k| k.0).collect();
    assert_eq!(up, [29, 30]);
    assert!(heard.iter().any(|h| matches!(h, Heard::Button { code: 0x110, down: false, .. })));
    assert!(heard.contains(&Heard::TouchCancel));
    let modifiers = heard.iter().rev().find_map(|h| match h {
        Heard::Modifiers { depressed, .. } => Some(*depressed),
        _ => None,
    });
    assert_eq!(modifiers, Some(0));
    // And can be pressed again.
    host.input(key(0x41, true));
    let heard = all_heard(&host, &mut client);
    assert_eq!(keys(&heard), [(30, true, u32::from(b'a'))]);
}

#[test]
fn a_locked_pointer_stays_and_hears_how_far_the_hand_moved() {
    let (host, mut client, window) = focused("us");
    host.input(InputEvent::MouseAbsolute { x: 1, y: 1, width: 2, height: 2 });
    client.pointer_entered();
    let _lock = client.constraints.lock_pointer(
        &window.surface,
        &client.pointer,
        None,
        Lifetime::Persistent,
        &client.handle,
        (),
    );
    client.until_heard(&Heard::Locked);
    client.ears.heard.clear();
    host.input(InputEvent::MouseRelative { dx: 30, dy: 40 });
    // Absolute motion of a touch-screen client moves the hand, too.
    host.input(InputEvent::MouseAbsolute { x: 0, y: 0, width: 319, height: 199 });
    host.input(InputEvent::MouseAbsolute { x: 7, y: 3, width: 319, height: 199 });
    let heard = all_heard(&host, &mut client);
    assert!(!heard.iter().any(|h| matches!(h, Heard::Motion { .. })), "{heard:?}");
    assert!(heard.contains(&Heard::Relative { dx: 30.0, dy: 40.0 }));
    let last = heard.iter().rev().find_map(|h| match h {
        Heard::Relative { dx, dy } => Some((*dx, *dy)),
        _ => None,
    });
    assert_eq!(last, Some((7.0, 3.0)));
}

#[test]
fn a_confined_pointer_slides_along_its_region() {
    let (host, mut client, window) = focused("us");
    host.input(InputEvent::MouseAbsolute { x: 20, y: 20, width: 319, height: 199 });
    client.pointer_entered();
    let region = client.compositor.create_region(&client.handle, ());
    region.add(10, 10, 50, 50);
    let _confinement = client.constraints.confine_pointer(
        &window.surface,
        &client.pointer,
        Some(&region),
        Lifetime::Persistent,
        &client.handle,
        (),
    );
    client.until_heard(&Heard::Confined);
    client.ears.heard.clear();
    host.input(InputEvent::MouseRelative { dx: 100, dy: 5 });
    host.input(InputEvent::MouseRelative { dx: 7, dy: 100 });
    let heard = all_heard(&host, &mut client);
    let motions: Vec<(f64, f64)> = heard
        .iter()
        .filter_map(|h| match h {
            Heard::Motion { x, y } => Some((*x, *y)),
            _ => None,
        })
        .collect();
    assert_eq!(motions, [(20.0, 25.0), (27.0, 25.0)]);
}

#[test]
fn a_full_queue_refuses_commands_and_never_blocks() {
    // A desktop with much to do: text that needs a new keymap for every other character.
    let host = Host::with(Mode { width: 640, ..MODE }, "us", "");
    let mut refused = 0;
    for i in 0..20_000u32 {
        let text = char::from_u32(0x4E00 + i % 20_000).unwrap().to_string();
        let command = DesktopCommand::Input(InputEvent::Text(text));
        refused += u32::from(host.desktop.send(command).is_err());
    }
    assert!(refused > 0);
    drop(host);
}

#[test]
fn a_desktop_ends_in_time_and_leaves_no_socket() {
    let host = Host::start();
    let mut client = Client::connect(&host);
    let start = std::time::Instant::now();
    let Host { desktop, directory } = host;
    drop(desktop);
    assert!(start.elapsed() < Duration::from_secs(2));
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    assert!((0..100).any(|_| client.listen(Duration::from_millis(20)).is_err()));
}

#[test]
fn a_click_or_the_wheel_may_be_the_first_word_of_the_pointer() {
    let button = |down| InputEvent::MouseButton { down, button: MouseButton::Left };
    let place = |heard: &[Heard]| {
        heard.iter().find_map(|h| match h {
            Heard::PointerEnter { x, y, .. } => Some((*x, *y)),
            _ => None,
        })
    };
    // The pointer rests in the middle.
    let (host, mut client, _window) = focused("us");
    host.input(button(true));
    host.input(button(false));
    let heard = all_heard(&host, &mut client);
    assert_eq!(place(&heard), Some((160.0, 100.0)), "{heard:?}");
    let entered = heard.iter().position(|h| matches!(h, Heard::PointerEnter { .. }));
    let clicked = heard.iter().position(|h| matches!(h, Heard::Button { down: true, .. }));
    assert!(entered < clicked && clicked.is_some(), "{heard:?}");

    let (host, mut client, _window) = focused("us");
    host.input(InputEvent::ScrollVertical(120));
    let heard = all_heard(&host, &mut client);
    assert!(place(&heard).is_some(), "{heard:?}");
    assert!(heard.contains(&Heard::Axis120 { vertical: true, value: -120 }), "{heard:?}");
}

#[test]
fn a_finger_needs_no_pointer_and_a_click_after_it_finds_the_new_window() {
    let (host, mut client, _window) = focused("us");
    host.input(touch(Phase::Down, 1, 0.5, 0.5));
    host.input(touch(Phase::Up, 1, 0.5, 0.5));
    let heard = all_heard(&host, &mut client);
    assert!(heard.iter().any(|h| matches!(h, Heard::TouchDown { .. })), "{heard:?}");
    // A window that came while the finger had hidden the pointer.
    client.show(0xFF_00_00_FF, (40, 40));
    client.until_heard(&Heard::KeyboardEnter { window: 1 });
    for down in [true, false] {
        host.input(InputEvent::MouseButton { down, button: MouseButton::Left });
    }
    let heard = all_heard(&host, &mut client);
    let entered = heard.iter().any(|h| matches!(h, Heard::PointerEnter { x: 20.0, y: 20.0, .. }));
    assert!(entered, "{heard:?}");
    assert!(heard.iter().any(|h| matches!(h, Heard::Button { down: true, .. })), "{heard:?}");
}

#[test]
fn combinations_with_all_modifiers_are_the_apps() {
    let (host, mut client, _window) = focused("us");
    let all = Modifiers { shift: true, ctrl: true, alt: true, ..Modifiers::default() };
    for vk in [0x51, 0x09, 0x73, 0x08] {
        host.input(key_with(vk, true, all));
        host.input(key_with(vk, false, all));
    }
    let heard = all_heard(&host, &mut client);
    let codes: Vec<u32> = keys(&heard).iter().filter(|k| k.1).map(|k| k.0).collect();
    for code in [16, 15, 62, 14] {
        assert!(codes.contains(&code), "{code} in {codes:?}");
    }
    assert!(!heard.contains(&Heard::Close), "{heard:?}");
}
