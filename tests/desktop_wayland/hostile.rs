//! Clients that mean harm. Each may lose its own connection; nobody else may notice.
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use moonshard::desktop::DesktopCommand;
use moonshard::proto::input::{InputEvent, Modifiers};
use moonshard::proto::stream::Mode;
use smithay::input::keyboard::xkb;
use wayland_client::protocol::wl_shm::Format;

use crate::client::{Client, Heard, memory};
use crate::viewer::{Encoder, Host, MODE, PATIENCE};

const RED: u32 = 0xFF_FF_00_00;
const BLUE: u32 = 0xFF_00_00_FF;

/// A desktop with an encoder, and an honest client whose window fills it.
fn honest() -> (Host, Encoder, Client, crate::client::Window) {
    let host = Host::start();
    let encoder = host.attach(MODE.width, MODE.height);
    let mut client = Client::connect(&host);
    let window = client.show(RED, (10, 10));
    encoder.picture_when("red", |p| p.is(0xFF_00_00));
    (host, encoder, client, window)
}

/// The client is cut off.
fn dies(client: &mut Client) {
    let start = Instant::now();
    while client.listen(Duration::from_millis(20)).is_ok() {
        assert!(start.elapsed() < PATIENCE, "a hostile client was not cut off");
    }
}

/// The honest client is served as if nothing had happened.
fn unharmed(host: &Host, encoder: &Encoder, client: &mut Client, window: &crate::client::Window) {
    client.paint(&window.surface, BLUE, (320, 200));
    encoder.picture_when("blue", |p| p.is(0x00_00_FF));
    client.round_trip();
    assert!(host.desktop.is_running());
}

#[test]
fn a_truncated_pool_costs_its_client_only() {
    let (host, encoder, mut client, window) = honest();
    let mut hostile = Client::connect(&host);
    let (evil, _, _) = hostile.introduce(|_| {});
    let file = memory(320 * 200 * 4);
    let pool = hostile.shm.create_pool(file.as_fd(), 320 * 200 * 4, &hostile.handle, ());
    let buffer = pool.create_buffer(0, 320, 200, 320 * 4, Format::Argb8888, &hostile.handle, ());
    hostile.round_trip();
    rustix::fs::ftruncate(&file, 0).unwrap();
    evil.surface.attach(Some(&buffer), 0, 0);
    evil.surface.damage_buffer(0, 0, 320, 200);
    evil.surface.commit();
    dies(&mut hostile);
    unharmed(&host, &encoder, &mut client, &window);
    assert!(host.desktop.figures()["frames_dropped_render"] == 0.0);
}

#[test]
fn a_pool_larger_than_its_file_costs_its_client_only() {
    let (host, encoder, mut client, window) = honest();
    let mut hostile = Client::connect(&host);
    let (evil, _, _) = hostile.introduce(|_| {});
    let file = memory(4096);
    let pool = hostile.shm.create_pool(file.as_fd(), i32::MAX, &hostile.handle, ());
    let side = 23_000;
    let buffer = pool.create_buffer(0, side, side, side * 4, Format::Argb8888, &hostile.handle, ());
    evil.surface.attach(Some(&buffer), 0, 0);
    evil.surface.damage_buffer(0, 0, side, side);
    evil.surface.commit();
    dies(&mut hostile);
    unharmed(&host, &encoder, &mut client, &window);
}

#[test]
fn a_pool_resized_to_nothing_costs_its_client_only() {
    for size in [0, -1, i32::MIN] {
        let (host, encoder, mut client, window) = honest();
        let mut hostile = Client::connect(&host);
        let file = memory(4096);
        let pool = hostile.shm.create_pool(file.as_fd(), 4096, &hostile.handle, ());
        pool.resize(size);
        dies(&mut hostile);
        unharmed(&host, &encoder, &mut client, &window);
    }
}

#[test]
fn floods_of_surfaces_pools_and_buffers_are_cut_off() {
    let (host, encoder, mut client, window) = honest();
    type Flood = (&'static str, fn(&mut Client));
    let floods: [Flood; 3] = [
        ("surfaces", |c| {
            for _ in 0..10_000 {
                c.compositor.create_surface(&c.handle, ());
                let _ = c.try_flush();
            }
        }),
        ("pools", |c| {
            let file = memory(4096);
            for _ in 0..700 {
                c.shm.create_pool(file.as_fd(), 4096, &c.handle, ());
                let _ = c.try_flush();
            }
        }),
        ("buffers", |c| {
            let file = memory(4096);
            let pool = c.shm.create_pool(file.as_fd(), 4096, &c.handle, ());
            for _ in 0..10_000 {
                pool.create_buffer(0, 1, 1, 4, Format::Argb8888, &c.handle, ());
                let _ = c.try_flush();
            }
        }),
    ];
    for (number, (what, flood)) in floods.into_iter().enumerate() {
        let mut hostile = Client::connect(&host);
        flood(&mut hostile);
        dies(&mut hostile);
        let cut = host.figure_when("clients_cut_off", |n| n > number as f64);
        assert_eq!(cut, number as f64 + 1.0, "{what}");
    }
    unharmed(&host, &encoder, &mut client, &window);
}

#[test]
fn what_is_given_back_does_not_count_against_a_client() {
    let (host, encoder, mut client, window) = honest();
    for round in 0..3000 {
        client.buffer(RED, 1, 1).destroy();
        client.compositor.create_surface(&client.handle, ()).destroy();
        if round % 100 == 0 {
            client.round_trip();
        }
    }
    unharmed(&host, &encoder, &mut client, &window);
    assert_eq!(host.desktop.figures()["clients_cut_off"], 0.0);
}

#[test]
fn more_clients_than_allowed_are_refused_until_others_go() {
    let (host, encoder, mut client, window) = honest();
    let idle: Vec<UnixStream> =
        (0..100).map(|_| UnixStream::connect(host.socket()).unwrap()).collect();
    host.figure_when("clients_refused", |n| n == 37.0);
    assert_eq!(host.desktop.figures()["clients"], 64.0);
    unharmed(&host, &encoder, &mut client, &window);
    drop(idle);
    host.figure_when("clients", |n| n == 1.0);
    Client::connect(&host);
}

#[test]
fn a_client_that_never_acknowledges_or_reads_harms_nobody() {
    let (host, encoder, mut client, window) = honest();
    let mut hostile = Client::connect(&host);
    let (_evil, _, _) = hostile.introduce(|_| {});
    // From here on it does not read, while there is much to tell it; the honest one does.
    for i in 0..500u16 {
        if i % 10 == 0 {
            client.round_trip();
        }
        let mode = Mode { width: 100 + i % 50, height: 100, millihertz: 60_000 };
        while host.desktop.send(DesktopCommand::Mode(mode)).is_err() {
            std::thread::yield_now();
        }
    }
    while host.desktop.send(DesktopCommand::Mode(MODE)).is_err() {}
    unharmed(&host, &encoder, &mut client, &window);
}

#[test]
fn random_bytes_cost_their_sender_only() {
    let (host, encoder, mut client, window) = honest();
    let mut seed = 0x9E37_79B9_7F4A_7C15u64;
    for _ in 0..50 {
        let mut stream = UnixStream::connect(host.socket()).unwrap();
        let bytes: Vec<u8> = (0..4000)
            .map(|_| {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                seed as u8
            })
            .collect();
        let _ = stream.write_all(&bytes);
    }
    host.figure_when("clients", |n| n == 1.0);
    unharmed(&host, &encoder, &mut client, &window);
}

#[test]
fn a_truncated_keymap_of_a_virtual_keyboard_costs_its_client_only() {
    let (host, encoder, mut client, window) = honest();
    for length in [0, 10, 5000] {
        let mut raw = Raw::connect(&host);
        let seat = raw.bind("wl_seat", 7);
        let manager = raw.bind("zwp_virtual_keyboard_manager_v1", 1);
        let keyboard = raw.next_id();
        raw.request(manager, 0, &[seat, keyboard], None);
        let file = memory(length);
        file.write_all_at(&vec![b'x'; length as usize], 0).unwrap();
        raw.request(keyboard, 0, &[1, 100_000], Some(&file));
        raw.dies();
        unharmed(&host, &encoder, &mut client, &window);
        client.paint(&window.surface, RED, (320, 200));
    }
}

#[test]
fn an_honest_virtual_keyboard_types_with_its_own_keymap() {
    let host = Host::with(MODE, "de", "");
    let mut client = Client::connect(&host);
    client.show(RED, (10, 10));
    client.until_heard(&Heard::KeyboardEnter { window: 0 });
    let context = xkb::Context::new(xkb::CONTEXT_NO_FLAGS);
    let flags = xkb::KEYMAP_COMPILE_NO_FLAGS;
    let keymap = xkb::Keymap::new_from_names(&context, "", "", "us", "", None, flags).unwrap();
    let mut text = keymap.get_as_string(xkb::KEYMAP_FORMAT_TEXT_V1).into_bytes();
    text.push(0);
    let file = memory(text.len() as u64);
    file.write_all_at(&text, 0).unwrap();

    let mut raw = Raw::connect(&host);
    let seat = raw.bind("wl_seat", 7);
    let manager = raw.bind("zwp_virtual_keyboard_manager_v1", 1);
    let keyboard = raw.next_id();
    raw.request(manager, 0, &[seat, keyboard], None);
    raw.request(keyboard, 0, &[1, text.len() as u32], Some(&file));
    const Y: u32 = 21;
    for state in [1, 0] {
        raw.request(keyboard, 1, &[0, Y, state], None);
    }
    let typed = |client: &mut Client, letter: &str| {
        client.until(letter, |heard| {
            let is = |h: &Heard| matches!(h, Heard::Key { code: Y, down: true, text, .. } if text == letter);
            heard.iter().any(is).then_some(())
        });
    };
    typed(&mut client, "y");
    // The viewer's keys keep the session's layout.
    for down in [true, false] {
        let modifiers = Modifiers::default();
        host.input(InputEvent::Key { down, vk: 0x59, modifiers, not_normalised: false });
    }
    typed(&mut client, "z");
}

#[test]
fn a_hostile_picture_size_or_place_leaves_the_rest_of_the_picture_alone() {
    let (host, encoder, mut client, window) = honest();
    let mut hostile = Client::connect(&host);
    for (x, y, width, height) in
        [(i32::MIN, i32::MIN, i32::MAX, i32::MAX), (0, 0, i32::MAX, 1), (i32::MAX, i32::MAX, 1, 1)]
    {
        let evil = hostile.show(0, (4, 4));
        evil.xdg.set_window_geometry(x, y, width, height);
        hostile.paint(&evil.surface, 0, (4, 4));
        let _ = hostile.listen(Duration::from_millis(50));
    }
    unharmed(&host, &encoder, &mut client, &window);
    client.until_heard(&Heard::KeyboardEnter { window: window.number });
}

#[test]
fn monstrous_scaling_leaves_the_rest_of_the_picture_alone() {
    let (host, encoder, mut client, window) = honest();
    let mut hostile = Client::connect(&host);
    for (width, height) in [(i32::MAX, i32::MAX), (i32::MAX, 1), (1_000_000, 3)] {
        let evil = hostile.show(0, (4, 4));
        let viewport = hostile.viewporter.get_viewport(&evil.surface, &hostile.handle, ());
        viewport.set_source(0.0, 0.0, 1.0 / 256.0, 1.0 / 256.0);
        viewport.set_destination(width, height);
        hostile.paint(&evil.surface, 0, (4, 4));
        let _ = hostile.listen(Duration::from_millis(50));
        client.paint(&window.surface, RED, (320, 200));
        encoder.give_back(encoder.note());
    }
    unharmed(&host, &encoder, &mut client, &window);
}

#[test]
fn a_thousand_nested_surfaces_harm_nobody() {
    let (host, encoder, mut client, window) = honest();
    let mut hostile = Client::connect(&host);
    let (evil, _, _) = hostile.introduce(|_| {});
    let buffer = hostile.buffer(0, 1, 1);
    let mut parent = evil.surface.clone();
    for _ in 0..1000 {
        let surface = hostile.compositor.create_surface(&hostile.handle, ());
        hostile.subcompositor.get_subsurface(&surface, &parent, &hostile.handle, ()).set_desync();
        surface.attach(Some(&buffer), 0, 0);
        surface.commit();
        parent = surface;
        hostile.flush();
    }
    hostile.paint(&evil.surface, 0, (4, 4));
    hostile.round_trip();
    unharmed(&host, &encoder, &mut client, &window);
}

/// Wayland by hand, for what no library would send.
struct Raw {
    stream: UnixStream,
    globals: Vec<(u32, String)>,
    ids: u32,
}

impl Raw {
    const REGISTRY: u32 = 2;

    fn connect(host: &Host) -> Self {
        let stream = UnixStream::connect(host.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut raw = Self { stream, globals: Vec::new(), ids: 2 };
        // get_registry, then sync: the globals come before the callback's answer.
        raw.request(1, 1, &[Self::REGISTRY], None);
        let callback = raw.next_id();
        raw.request(1, 0, &[callback], None);
        loop {
            let (object, opcode, body) = raw.event().expect("globals");
            if object == callback {
                return raw;
            }
            if (object, opcode) == (Self::REGISTRY, 0) {
                let word = |at: usize| u32::from_ne_bytes(body[at..at + 4].try_into().unwrap());
                let length = word(4) as usize;
                let name = String::from_utf8(body[8..8 + length - 1].to_vec()).unwrap();
                raw.globals.push((word(0), name));
            }
        }
    }

    fn next_id(&mut self) -> u32 {
        self.ids += 1;
        self.ids
    }

    fn event(&mut self) -> Option<(u32, u32, Vec<u8>)> {
        let mut head = [0; 8];
        self.stream.read_exact(&mut head).ok()?;
        let object = u32::from_ne_bytes(head[..4].try_into().unwrap());
        let second = u32::from_ne_bytes(head[4..].try_into().unwrap());
        let mut body = vec![0; (second >> 16) as usize - 8];
        self.stream.read_exact(&mut body).ok()?;
        Some((object, second & 0xFFFF, body))
    }

    fn request(&mut self, object: u32, opcode: u32, words: &[u32], fd: Option<&std::fs::File>) {
        let body: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        self.send(object, opcode, &body, fd);
    }

    fn send(&mut self, object: u32, opcode: u32, body: &[u8], fd: Option<&std::fs::File>) {
        let size = (8 + body.len()) as u32;
        let mut bytes = object.to_ne_bytes().to_vec();
        bytes.extend((size << 16 | opcode).to_ne_bytes());
        bytes.extend(body);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = rustix::net::SendAncillaryBuffer::new(&mut space);
        let fds = fd.map(|f| [f.as_fd()]);
        if let Some(fds) = &fds {
            ancillary.push(rustix::net::SendAncillaryMessage::ScmRights(fds));
        }
        let flags = rustix::net::SendFlags::NOSIGNAL;
        let _ = rustix::net::sendmsg(&self.stream, &[IoSlice::new(&bytes)], &mut ancillary, flags);
    }

    fn bind(&mut self, interface: &str, version: u32) -> u32 {
        let name = self.globals.iter().find(|(_, i)| i == interface).expect(interface).0;
        let id = self.next_id();
        let mut body = name.to_ne_bytes().to_vec();
        body.extend((interface.len() as u32 + 1).to_ne_bytes());
        body.extend(interface.as_bytes());
        body.push(0);
        body.resize(body.len().next_multiple_of(4), 0);
        body.extend(version.to_ne_bytes());
        body.extend(id.to_ne_bytes());
        self.send(Self::REGISTRY, 0, &body, None);
        id
    }

    /// The connection ends.
    fn dies(&mut self) {
        while self.event().is_some() {}
    }
}
