//! Frames: what is drawn, where, when, and what becomes of slots.
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use moonshard::desktop::{DesktopCommand, Notice};
use moonshard::ipc::FrameNote;
use moonshard::limits::RING_SLOTS;
use moonshard::proto::input::InputEvent;
use moonshard::proto::stream::Mode;

use crate::client::{Client, Heard};
use crate::viewer::{Host, MODE, PATIENCE, Picture};

const RED: u32 = 0xFF_FF_00_00;
const BLUE: u32 = 0xFF_00_00_FF;

fn rgb(colour: u32) -> u32 {
    colour & 0xFF_FF_FF
}

#[test]
fn the_first_frame_comes_at_once_and_shows_the_whole_desktop() {
    let host = Host::start();
    let encoder = host.attach(MODE.width, MODE.height);
    let note = encoder.note();
    assert_eq!((note.seq, note.repeated), (1, false));
    let picture = encoder.picture(note);
    let background = picture.at(0, 0);
    assert!(background != 0 && picture.is(background), "{background:06x}");
}

#[test]
fn the_only_window_fills_the_output_in_the_slot_that_the_note_names() {
    let host = Host::start();
    let encoder = host.attach(MODE.width, MODE.height);
    let mut client = Client::connect(&host);
    client.show(RED, (10, 10));
    let picture = encoder.picture_when("a red window", |p| p.is(rgb(RED)));
    assert_eq!((picture.width, picture.height), (320, 200));
}

#[test]
fn every_slot_shows_the_present_picture_however_old_its_last_one_is() {
    let host = Host::start();
    let encoder = host.attach(MODE.width, MODE.height);
    let mut client = Client::connect(&host);
    let window = client.show(RED, (10, 10));
    encoder.picture_when("red", |p| p.is(rgb(RED)));
    // A small window moves over the large one; slots are given back in changing order and number.
    let small = client.show(BLUE, (20, 20));
    encoder.picture_when("the small window", |p| p.count(rgb(BLUE)) == 400);
    let mut held: Vec<FrameNote> = Vec::new();
    for round in 0..60u32 {
        let colour = 0xFF00_0000 | (round * 4 + 8) << 8;
        client.paint(&window.surface, colour, (320, 200));
        client.round_trip();
        // The encoder keeps some slots for a while.
        let start = Instant::now();
        loop {
            let note = encoder.note();
            let picture = encoder.picture(note);
            let done = picture.at(0, 0) == rgb(colour);
            if done {
                assert_eq!(picture.count(rgb(BLUE)), 400, "round {round}, slot {}", note.slot);
                let rest = 320 * 200 - 400;
                assert_eq!(picture.count(rgb(colour)), rest, "round {round}, slot {}", note.slot);
            }
            held.push(note);
            while held.len() > (round as usize) % (RING_SLOTS - 1) {
                let at = (round as usize * 7) % held.len();
                encoder.give_back(held.remove(at));
            }
            if done {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "round {round} is not shown");
        }
    }
    drop(small);
}

#[test]
fn without_free_slots_frames_are_dropped_and_counted_and_the_last_one_comes_later() {
    let host = Host::start();
    let encoder = host.attach(MODE.width, MODE.height);
    let mut client = Client::connect(&host);
    let window = client.show(RED, (10, 10));
    let mut held = Vec::new();
    while held.len() < RING_SLOTS {
        client.paint(&window.surface, 0xFF00_0000 | (held.len() as u32 + 1) << 8, (320, 200));
        held.push(encoder.note());
    }
    let slots: std::collections::BTreeSet<u32> = held.iter().map(|n| n.slot).collect();
    assert_eq!(slots.len(), RING_SLOTS, "a slot in flight was used again");
    client.paint(&window.surface, BLUE, (320, 200));
    host.figure_when("frames_dropped_no_slot", |n| n >= 3.0);
    assert_eq!(encoder.note_within(Duration::from_millis(50)), None);
    // The applications are not held up.
    window.surface.frame(&client.handle, ());
    window.surface.commit();
    client.until_heard(&Heard::Frame);
    let last = held.pop().unwrap();
    encoder.give_back(last);
    let note = encoder.note();
    assert_eq!((note.slot, note.repeated), (last.slot, false));
    assert!(encoder.picture(note).is(rgb(BLUE)));
    assert_eq!(note.seq, RING_SLOTS as u64 + 1);
}

#[test]
fn hand_backs_of_a_hostile_encoder_free_nothing_and_harm_nobody() {
    let host = Host::start();
    let encoder = host.attach(MODE.width, MODE.height);
    let note = encoder.note();
    let forged = [
        FrameNote { slot: 99, ..note },
        FrameNote { slot: u32::MAX, seq: u64::MAX, ..note },
        FrameNote { seq: note.seq + 1, ..note },
        FrameNote { slot: note.slot ^ 1, ..note },
    ];
    for forged in forged {
        encoder.give_back(forged);
    }
    encoder.link.send_bytes(&[1, 2, 3], &[]).unwrap();
    encoder.link.send_bytes(&[0; 5000], &[]).unwrap();
    host.figure_when("hand_backs_refused", |n| n == 6.0);
    encoder.give_back(note);
    encoder.give_back(note);
    host.figure_when("hand_backs_refused", |n| n == 7.0);
    assert!(host.desktop.is_running());
    encoder.note();
}

#[test]
fn an_unchanged_picture_is_repeated_at_the_full_rate_then_at_the_idle_rate() {
    let host = Host::start();
    let encoder = host.attach(MODE.width, MODE.height);
    let first = encoder.note();
    encoder.give_back(first);
    let mut notes = Vec::new();
    let end = Instant::now() + Duration::from_millis(2500);
    while Instant::now() < end {
        if let Some(note) = encoder.note_within(Duration::from_millis(500)) {
            encoder.give_back(note);
            notes.push(note);
        }
    }
    assert!(notes.iter().all(|n| n.repeated), "a change where nothing changed");
    let after = |n: &FrameNote| n.captured_ns - first.captured_ns;
    let settling = notes.iter().filter(|n| after(n) < 480_000_000).count();
    let idle: Vec<u64> =
        notes.iter().map(after).filter(|&ns| (600_000_000..2_400_000_000).contains(&ns)).collect();
    // A slow machine misses ticks but never adds any.
    assert!((5..=29).contains(&settling), "{settling} frames in the first 480 ms");
    assert!((5..=19).contains(&idle.len()), "{} frames in 1.8 s of idling", idle.len());
}

#[test]
fn frames_keep_to_the_refresh_rate() {
    let host = Host::with(Mode { millihertz: 59_940, ..MODE }, "us", "");
    let encoder = host.attach(MODE.width, MODE.height);
    let mut client = Client::connect(&host);
    client.until_heard(&Heard::Mode { width: 320, height: 200, refresh: 59_940 });
    let window = client.show(RED, (10, 10));
    encoder.picture_when("red", |p| p.is(rgb(RED)));
    // The client draws at each frame callback.
    let mut stamps = Vec::new();
    let mut colour = 1;
    while stamps.len() < 60 {
        window.surface.frame(&client.handle, ());
        colour = colour % 250 + 1;
        client.paint(&window.surface, 0xFF00_0000 | colour, (320, 200));
        client.ears.heard.retain(|h| *h != Heard::Frame);
        client.until_heard(&Heard::Frame);
        while let Some(note) = encoder.note_within(Duration::ZERO) {
            stamps.push(note.captured_ns);
            encoder.give_back(note);
        }
    }
    // On the grid: distances are multiples of 1/59.94 s, give or take the machine's latency.
    let interval = 1e12 / 59_940.0;
    let span = (stamps[stamps.len() - 1] - stamps[0]) as f64;
    let least = (stamps.len() - 1) as f64 * interval;
    assert!(span > least - 0.5 * interval, "{} frames in {span} ns", stamps.len());
}

#[test]
fn a_mode_change_reconfigures_clients_and_waits_for_a_ring_of_its_size() {
    let host = Host::start();
    let encoder = host.attach(MODE.width, MODE.height);
    let mut client = Client::connect(&host);
    let window = client.show(RED, (10, 10));
    encoder.picture_when("red", |p| p.is(rgb(RED)));

    let mode = Mode { width: 400, height: 240, millihertz: 30_000 };
    host.desktop.send(DesktopCommand::Mode(mode)).unwrap();
    client.until_heard(&Heard::Mode { width: 400, height: 240, refresh: 30_000 });
    client.until("a new size", |heard| {
        heard.iter().find_map(|h| match h {
            Heard::Configured { width: 400, height: 240, .. } => Some(()),
            _ => None,
        })
    });
    client.paint(&window.surface, BLUE, (400, 240));
    host.figure_when("frames_dropped_ring_size", |n| n >= 2.0);
    // Notes from before may still be there; none shows the new picture.
    while let Some(note) = encoder.note_within(Duration::from_millis(50)) {
        assert!(!encoder.picture(note).is(rgb(BLUE)), "the old ring was drawn into");
    }

    let encoder = host.attach(400, 240);
    let note = encoder.note();
    assert_eq!(note.seq, 1);
    assert!(encoder.picture(note).is(rgb(BLUE)));
}

#[test]
fn an_encoder_that_is_gone_is_forgotten_and_another_can_come() {
    let host = Host::start();
    let encoder = host.attach(MODE.width, MODE.height);
    encoder.note();
    drop(encoder);
    let mut client = Client::connect(&host);
    let window = client.show(RED, (10, 10));
    // Nobody watches: the applications live on.
    window.surface.frame(&client.handle, ());
    window.surface.commit();
    client.until_heard(&Heard::Frame);
    let encoder = host.attach(MODE.width, MODE.height);
    let note = encoder.note();
    assert_eq!((note.seq, note.repeated), (1, false));
    encoder.give_back(note);
    encoder.picture_when("red", |p| p.is(rgb(RED)));
    host.desktop.send(DesktopCommand::Detach).unwrap();
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let mut buffer = [0; 64];
        match encoder.link.receive_bytes(&mut buffer) {
            Err(moonshard::proc::link::LinkError::Closed) => return,
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    panic!("the link stays open after a detach");
}

#[test]
fn an_encoder_that_does_not_read_costs_frames_only() {
    let host = Host::start();
    let encoder = host.attach(MODE.width, MODE.height);
    // It gives back without reading: the link fills up some time, or the slots run out.
    let mut client = Client::connect(&host);
    let window = client.show(RED, (10, 10));
    for colour in 0..30u32 {
        client.paint(&window.surface, 0xFF00_0000 | colour, (320, 200));
        client.round_trip();
        std::thread::sleep(Duration::from_millis(5));
    }
    host.figure_when("frames_dropped_no_slot", |n| n > 0.0);
    client.round_trip();
    drop(encoder);
}

#[test]
fn presentation_times_are_those_of_the_frames() {
    let host = Host::start();
    let encoder = host.attach(MODE.width, MODE.height);
    let mut client = Client::connect(&host);
    let window = client.show(RED, (10, 10));
    encoder.picture_when("red", |p| p.is(rgb(RED)));
    let before = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let before = before.tv_sec as u64 * 1_000_000_000 + before.tv_nsec as u64;
    client.presentation.feedback(&window.surface, &client.handle, ());
    client.paint(&window.surface, BLUE, (320, 200));
    encoder.picture_when("blue", |p| p.is(rgb(BLUE)));
    let (ns, refresh) = client.until("presented", |heard| {
        heard.iter().find_map(|h| match h {
            Heard::Presented { ns, refresh } => Some((*ns, *refresh)),
            _ => None,
        })
    });
    assert!(ns >= before && ns < before + PATIENCE.as_nanos() as u64, "{ns}, asked at {before}");
    assert!((16_666_665..=16_666_668).contains(&refresh), "{refresh}");
}

#[test]
fn the_cursor_is_drawn_into_the_frame_and_follows() {
    let host = Host::start();
    let encoder = host.attach(MODE.width, MODE.height);
    let mut client = Client::connect(&host);
    client.show(RED, (10, 10));
    encoder.picture_when("red without a cursor", |p| p.is(rgb(RED)));
    host.input(InputEvent::MouseAbsolute { x: 50, y: 60, width: 319, height: 199 });
    let picture = encoder.picture_when("an arrow", |p| p.count(0xFF_FF_FF) > 20);
    // The tip is at the hot spot, the body right below.
    let mut white = BTreeMap::new();
    for y in 0..200 {
        for x in (0..320).filter(|&x| picture.at(x, y) == 0xFF_FF_FF) {
            white.insert((x, y), ());
        }
    }
    assert!(
        white.keys().all(|&(x, y)| (49..66).contains(&x) && (59..82).contains(&y)),
        "{white:?}"
    );
    host.input(InputEvent::MouseRelative { dx: 100, dy: 50 });
    encoder.picture_when("a moved arrow", |p| {
        let old = (49..66).all(|x| (59..82).all(|y| p.at(x, y) == rgb(RED)));
        old && (150..160).any(|x| p.at(x, 120) == 0xFF_FF_FF)
    });
}

#[test]
fn a_client_cursor_is_drawn_at_its_hot_spot_and_a_hidden_one_is_not() {
    let host = Host::start();
    let encoder = host.attach(MODE.width, MODE.height);
    let mut client = Client::connect(&host);
    client.show(RED, (10, 10));
    encoder.picture_when("red", |p| p.is(rgb(RED)));
    host.input(InputEvent::MouseAbsolute { x: 100, y: 100, width: 319, height: 199 });
    let serial = client.pointer_entered();
    let surface = client.compositor.create_surface(&client.handle, ());
    client.pointer.set_cursor(serial, Some(&surface), 4, 5);
    client.paint(&surface, BLUE, (8, 8));
    let picture = encoder.picture_when("a blue cursor", |p| p.count(rgb(BLUE)) == 64);
    assert_eq!((picture.at(96, 95), picture.at(103, 102)), (rgb(BLUE), rgb(BLUE)));
    client.pointer.set_cursor(serial, None, 0, 0);
    client.round_trip();
    encoder.picture_when("no cursor", |p| p.is(rgb(RED)));
}

#[test]
fn figures_have_their_names() {
    let host = Host::start();
    let encoder = host.attach(MODE.width, MODE.height);
    encoder.note();
    let _client = Client::connect(&host);
    host.figure_when("clients", |n| n == 1.0);
    let figures = host.desktop.figures();
    for name in ["frames_drawn", "commits", "render_us_p50", "render_us_last", "input_events"] {
        assert!(figures.contains_key(name), "{name}");
    }
    assert_eq!(figures["frames_drawn"], 1.0);
    drop(_client);
    host.figure_when("clients", |n| n == 0.0);
}

#[test]
fn a_notice_is_shown_until_a_window_is_and_one_that_covers_is_shown_above_all() {
    let host = Host::start();
    let encoder = host.attach(MODE.width, MODE.height);
    let background = encoder.picture_when("nothing", |_| true).at(0, 0);
    let say = |covers| {
        let notice = Notice { title: "Game starts".into(), text: "patience".into(), covers };
        host.desktop.send(DesktopCommand::Say(Some(notice))).unwrap();
    };
    let bright =
        |p: &Picture| (0..p.width * p.height).any(|i| p.at(i % p.width, i / p.width) > 0xA0_00_00);
    say(false);
    let picture = encoder.picture_when("words", bright);
    // Its block is no other colour than what surrounds it.
    assert_eq!((picture.at(0, 0), picture.at(160, 0)), (background, background));
    assert!(picture.count(background) > 320 * 200 * 3 / 4, "{}", picture.count(background));

    let mut client = Client::connect(&host);
    let window = client.show(BLUE, (10, 10));
    encoder.picture_when("the window alone", |p| p.is(rgb(BLUE)));
    assert!(host.desktop.shows() && host.desktop.has_shown());
    // Said once, forgotten when seen: the desktop is bare afterwards.
    window.surface.attach(None, 0, 0);
    window.surface.commit();
    client.round_trip();
    encoder.picture_when("a bare desktop", |p| p.is(background));
    assert!(!host.desktop.shows() && host.desktop.has_shown());

    client.show(BLUE, (10, 10));
    encoder.picture_when("a window", |p| p.is(rgb(BLUE)));
    say(true);
    encoder.picture_when("words alone", |p| bright(p) && p.count(rgb(BLUE)) == 0);
    // It follows the mode.
    let mode = Mode { width: 640, height: 400, ..MODE };
    host.desktop.send(DesktopCommand::Mode(mode)).unwrap();
    let encoder = host.attach(640, 400);
    encoder.picture_when("words in the new mode", |p| bright(p) && p.count(rgb(BLUE)) == 0);
    host.desktop.send(DesktopCommand::Say(None)).unwrap();
    encoder.picture_when("the window again", |p| p.count(rgb(BLUE)) > 0);
}
