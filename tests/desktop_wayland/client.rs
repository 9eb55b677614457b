//! A Wayland client that shows plain windows and writes down everything it hears.
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use smithay::input::keyboard::xkb;
use wayland_client::globals::{GlobalListContents, registry_queue_init};
use wayland_client::protocol::wl_buffer::WlBuffer;
use wayland_client::protocol::wl_callback::{self, WlCallback};
use wayland_client::protocol::wl_compositor::WlCompositor;
use wayland_client::protocol::wl_keyboard::{self, WlKeyboard};
use wayland_client::protocol::wl_output::{self, WlOutput};
use wayland_client::protocol::wl_pointer::{self, WlPointer};
use wayland_client::protocol::wl_region::WlRegion;
use wayland_client::protocol::wl_registry::{self, WlRegistry};
use wayland_client::protocol::wl_seat::WlSeat;
use wayland_client::protocol::wl_shm::{Format, WlShm};
use wayland_client::protocol::wl_shm_pool::WlShmPool;
use wayland_client::protocol::wl_surface::WlSurface;
use wayland_client::protocol::wl_touch::{self, WlTouch};
use wayland_client::{Connection, Dispatch, EventQueue, Proxy, QueueHandle, WEnum, delegate_noop};
use wayland_protocols::wp::pointer_constraints::zv1::client::zwp_confined_pointer_v1::{
    self, ZwpConfinedPointerV1,
};
use wayland_protocols::wp::pointer_constraints::zv1::client::zwp_locked_pointer_v1::{
    self, ZwpLockedPointerV1,
};
use wayland_protocols::wp::pointer_constraints::zv1::client::zwp_pointer_constraints_v1::ZwpPointerConstraintsV1;
use wayland_protocols::wp::presentation_time::client::wp_presentation::{self, WpPresentation};
use wayland_protocols::wp::presentation_time::client::wp_presentation_feedback::{
    self, WpPresentationFeedback,
};
use wayland_protocols::wp::relative_pointer::zv1::client::zwp_relative_pointer_manager_v1::ZwpRelativePointerManagerV1;
use wayland_protocols::wp::relative_pointer::zv1::client::zwp_relative_pointer_v1::{
    self, ZwpRelativePointerV1,
};
use wayland_protocols::xdg::shell::client::xdg_popup::{self, XdgPopup};
use wayland_protocols::xdg::shell::client::xdg_positioner::XdgPositioner;
use wayland_protocols::xdg::shell::client::xdg_surface::{self, XdgSurface};
use wayland_protocols::xdg::shell::client::xdg_toplevel::{self, XdgToplevel};
use wayland_protocols::xdg::shell::client::xdg_wm_base::{self, XdgWmBase};

use crate::viewer::{Host, PATIENCE};

/// Something that the client heard. Surfaces are told apart by the number of their window.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    Axis { vertical: bool, value: f64 },
    Axis120 { vertical: bool, value: i32 },
    Button { serial: u32, code: u32, down: bool },
    Close,
    Configured { window: usize, width: i32, height: i32, states: Vec<u32> },
    Confined,
    Frame,
    KeyboardEnter { window: usize },
    KeyboardLeave { window: usize },
    Key { code: u32, down: bool, keysym: u32, text: String },
    Keymap,
    Locked,
    Mode { width: i32, height: i32, refresh: i32 },
    Modifiers { depressed: u32, locked: u32, group: u32 },
    Motion { x: f64, y: f64 },
    PointerEnter { serial: u32, x: f64, y: f64 },
    PopupDone,
    Presented { ns: u64, refresh: u32 },
    Relative { dx: f64, dy: f64 },
    RepeatInfo { rate: i32, delay: i32 },
    TouchCancel,
    TouchDown { id: i32, x: f64, y: f64 },
    TouchMotion { id: i32, x: f64, y: f64 },
    TouchUp { id: i32 },
}

#[derive(Default)]
pub struct Ears {
    pub heard: Vec<Heard>,
    windows: Vec<WlSurface>,
    pending: (i32, i32, Vec<u32>),
    keymap: Option<xkb::State>,
}

pub struct Client {
    queue: EventQueue<Ears>,
    pub ears: Ears,
    pub handle: QueueHandle<Ears>,
    pub compositor: WlCompositor,
    pub shm: WlShm,
    pub shell: XdgWmBase,
    pub seat: WlSeat,
    pub pointer: WlPointer,
    pub constraints: ZwpPointerConstraintsV1,
    pub presentation: WpPresentation,
}

/// A toplevel window.
pub struct Window {
    pub number: usize,
    pub surface: WlSurface,
    pub xdg: XdgSurface,
    pub toplevel: XdgToplevel,
}

impl Client {
    pub fn connect(host: &Host) -> Self {
        let stream = UnixStream::connect(host.socket()).unwrap();
        let connection = Connection::from_socket(stream).unwrap();
        let (globals, queue) = registry_queue_init::<Ears>(&connection).unwrap();
        let handle = queue.handle();
        let seat: WlSeat = globals.bind(&handle, 9..=9, ()).unwrap();
        let pointer = seat.get_pointer(&handle, ());
        seat.get_keyboard(&handle, ());
        seat.get_touch(&handle, ());
        globals.bind::<WlOutput, _, _>(&handle, 4..=4, ()).unwrap();
        let relative: ZwpRelativePointerManagerV1 = globals.bind(&handle, 1..=1, ()).unwrap();
        relative.get_relative_pointer(&pointer, &handle, ());
        let mut client = Self {
            compositor: globals.bind(&handle, 6..=6, ()).unwrap(),
            shm: globals.bind(&handle, 1..=1, ()).unwrap(),
            shell: globals.bind(&handle, 6..=6, ()).unwrap(),
            constraints: globals.bind(&handle, 1..=1, ()).unwrap(),
            presentation: globals.bind(&handle, 1..=1, ()).unwrap(),
            seat,
            pointer,
            handle,
            queue,
            ears: Ears::default(),
        };
        client.round_trip();
        client
    }

    /// All that was asked is answered.
    pub fn round_trip(&mut self) {
        self.queue.roundtrip(&mut self.ears).unwrap();
    }

    /// Listens for a while; an error is that of the connection.
    pub fn listen(&mut self, wait: Duration) -> Result<(), wayland_client::DispatchError> {
        self.queue.flush()?;
        self.queue.dispatch_pending(&mut self.ears)?;
        if let Some(guard) = self.queue.prepare_read() {
            let fd = guard.connection_fd();
            let mut poll = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
            let timeout = rustix::time::Timespec {
                tv_sec: wait.as_secs() as i64,
                tv_nsec: i64::from(wait.subsec_nanos()),
            };
            let ready = rustix::event::poll(&mut poll, Some(&timeout)).unwrap_or(0);
            if ready > 0 {
                match guard.read() {
                    Err(wayland_client::backend::WaylandError::Io(e))
                        if e.kind() == std::io::ErrorKind::WouldBlock => {}
                    other => {
                        other?;
                    }
                }
            }
        }
        self.queue.dispatch_pending(&mut self.ears)?;
        Ok(())
    }

    /// Listens until something is found in what was heard.
    pub fn until<T>(&mut self, what: &str, find: impl Fn(&[Heard]) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = find(&self.ears.heard) {
                return found;
            }
            assert!(start.elapsed() < PATIENCE, "no {what} in {:#?}", self.ears.heard);
            self.listen(Duration::from_millis(20)).unwrap();
        }
    }

    pub fn until_heard(&mut self, wanted: &Heard) {
        self.until(&format!("{wanted:?}"), |heard| heard.contains(wanted).then_some(()));
    }

    /// The serial of the pointer's last arrival.
    pub fn pointer_entered(&mut self) -> u32 {
        self.until("pointer", |heard| {
            heard.iter().rev().find_map(|h| match h {
                Heard::PointerEnter { serial, .. } => Some(*serial),
                _ => None,
            })
        })
    }

    /// A window that has said its first word and has its first answer, but shows nothing.
    pub fn introduce(&mut self, prepare: impl FnOnce(&XdgToplevel)) -> (Window, i32, i32) {
        let number = self.ears.windows.len();
        let surface = self.compositor.create_surface(&self.handle, ());
        let xdg = self.shell.get_xdg_surface(&surface, &self.handle, number);
        let toplevel = xdg.get_toplevel(&self.handle, ());
        self.ears.windows.push(surface.clone());
        prepare(&toplevel);
        surface.commit();
        let size = self.until("first configure", |heard| {
            heard.iter().find_map(|h| match h {
                Heard::Configured { window, width, height, .. } if *window == number => {
                    Some((*width, *height))
                }
                _ => None,
            })
        });
        (Window { number, surface, xdg, toplevel }, size.0, size.1)
    }

    /// A window of the size that it is told, or else of the given one, in one colour.
    pub fn show(&mut self, colour: u32, size: (i32, i32)) -> Window {
        self.show_prepared(colour, size, |_| {})
    }

    pub fn show_prepared(
        &mut self,
        colour: u32,
        size: (i32, i32),
        prepare: impl FnOnce(&XdgToplevel),
    ) -> Window {
        let (window, width, height) = self.introduce(prepare);
        let width = if width > 0 { width } else { size.0 };
        let height = if height > 0 { height } else { size.1 };
        self.paint(&window.surface, colour, (width, height));
        window
    }

    /// Puts one colour (0xAARRGGBB, multiplied) on a surface.
    pub fn paint(&mut self, surface: &WlSurface, colour: u32, (width, height): (i32, i32)) {
        let buffer = self.buffer(colour, width, height);
        surface.attach(Some(&buffer), 0, 0);
        surface.damage_buffer(0, 0, width, height);
        surface.commit();
        self.queue.flush().unwrap();
    }

    pub fn buffer(&mut self, colour: u32, width: i32, height: i32) -> WlBuffer {
        let length = width * height * 4;
        let file = memory(length as u64);
        file.write_all_at(&colour.to_le_bytes().repeat((width * height) as usize), 0).unwrap();
        let pool = self.shm.create_pool(file.as_fd(), length, &self.handle, ());
        let buffer =
            pool.create_buffer(0, width, height, width * 4, Format::Argb8888, &self.handle, ());
        pool.destroy();
        buffer
    }
}

/// A memfd.
pub fn memory(length: u64) -> File {
    let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, length).unwrap();
    File::from(fd)
}

impl Ears {
    fn number(&self, surface: &WlSurface) -> usize {
        self.windows.iter().position(|s| s == surface).unwrap_or(usize::MAX)
    }
}

impl Dispatch<WlRegistry, GlobalListContents> for Ears {
    fn event(
        _: &mut Self,
        _: &WlRegistry,
        _: wl_registry::Event,
        _: &GlobalListContents,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
    }
}

macro_rules! hear {
    ($interface:ty, $data:ty, |$ears:ident, $proxy:ident, $event:ident, $user:ident| $body:block) => {
        impl Dispatch<$interface, $data> for Ears {
            fn event(
                $ears: &mut Self,
                $proxy: &$interface,
                $event: <$interface as Proxy>::Event,
                $user: &$data,
                _: &Connection,
                _: &QueueHandle<Self>,
            ) $body
        }
    };
}

hear!(XdgWmBase, (), |_ears, shell, event, _user| {
    if let xdg_wm_base::Event::Ping { serial } = event {
        shell.pong(serial);
    }
});

hear!(XdgToplevel, (), |ears, _toplevel, event, _user| {
    match event {
        xdg_toplevel::Event::Configure { width, height, states } => {
            let states = states.chunks(4).map(|s| u32::from_ne_bytes(s.try_into().unwrap()));
            ears.pending = (width, height, states.collect());
        }
        xdg_toplevel::Event::Close => ears.heard.push(Heard::Close),
        _ => {}
    }
});

hear!(XdgSurface, usize, |ears, surface, event, number| {
    if let xdg_surface::Event::Configure { serial } = event {
        surface.ack_configure(serial);
        let (width, height, states) = ears.pending.clone();
        ears.heard.push(Heard::Configured { window: *number, width, height, states });
    }
});

hear!(XdgPopup, (), |ears, _popup, event, _user| {
    if let xdg_popup::Event::PopupDone = event {
        ears.heard.push(Heard::PopupDone);
    }
});

hear!(WlCallback, (), |ears, _callback, event, _user| {
    if let wl_callback::Event::Done { .. } = event {
        ears.heard.push(Heard::Frame);
    }
});

hear!(WlOutput, (), |ears, _output, event, _user| {
    if let wl_output::Event::Mode { width, height, refresh, .. } = event {
        ears.heard.push(Heard::Mode { width, height, refresh });
    }
});

hear!(WlKeyboard, (), |ears, _keyboard, event, _user| {
    match event {
        wl_keyboard::Event::Keymap { fd, size, .. } => {
            let mut text = vec![0; size as usize];
            File::from(fd).read_exact_at(&mut text, 0).unwrap();
            let text = String::from_utf8(text).unwrap();
            let context = xkb::Context::new(xkb::CONTEXT_NO_FLAGS);
            let keymap = xkb::Keymap::new_from_string(
                &context,
                text.trim_end_matches('\0').to_owned(),
                xkb::KEYMAP_FORMAT_TEXT_V1,
                xkb::KEYMAP_COMPILE_NO_FLAGS,
            );
            ears.keymap = Some(xkb::State::new(&keymap.unwrap()));
            ears.heard.push(Heard::Keymap);
        }
        wl_keyboard::Event::Enter { surface, .. } => {
            let window = ears.number(&surface);
            ears.heard.push(Heard::KeyboardEnter { window });
        }
        wl_keyboard::Event::Leave { surface, .. } => {
            let window = ears.number(&surface);
            ears.heard.push(Heard::KeyboardLeave { window });
        }
        wl_keyboard::Event::Key { key, state, .. } => {
            let keymap = ears.keymap.as_ref().expect("a keymap comes first");
            let code = xkb::Keycode::new(key + 8);
            ears.heard.push(Heard::Key {
                code: key,
                down: state == WEnum::Value(wl_keyboard::KeyState::Pressed),
                keysym: keymap.key_get_one_sym(code).raw(),
                text: keymap.key_get_utf8(code),
            });
        }
        wl_keyboard::Event::Modifiers {
            mods_depressed, mods_latched, mods_locked, group, ..
        } => {
            if let Some(keymap) = &mut ears.keymap {
                keymap.update_mask(mods_depressed, mods_latched, mods_locked, 0, 0, group);
            }
            ears.heard.push(Heard::Modifiers {
                depressed: mods_depressed,
                locked: mods_locked,
                group,
            });
        }
        wl_keyboard::Event::RepeatInfo { rate, delay } => {
            ears.heard.push(Heard::RepeatInfo { rate, delay });
        }
        _ => {}
    }
});

hear!(WlPointer, (), |ears, _pointer, event, _user| {
    let vertical = |axis| axis == WEnum::Value(wl_pointer::Axis::VerticalScroll);
    let heard = match event {
        wl_pointer::Event::Enter { serial, surface_x, surface_y, .. } => {
            Heard::PointerEnter { serial, x: surface_x, y: surface_y }
        }
        wl_pointer::Event::Motion { surface_x, surface_y, .. } => {
            Heard::Motion { x: surface_x, y: surface_y }
        }
        wl_pointer::Event::Button { serial, button, state, .. } => {
            let down = state == WEnum::Value(wl_pointer::ButtonState::Pressed);
            Heard::Button { serial, code: button, down }
        }
        wl_pointer::Event::Axis { axis, value, .. } => {
            Heard::Axis { vertical: vertical(axis), value }
        }
        wl_pointer::Event::AxisValue120 { axis, value120 } => {
            Heard::Axis120 { vertical: vertical(axis), value: value120 }
        }
        _ => return,
    };
    ears.heard.push(heard);
});

hear!(WlTouch, (), |ears, _touch, event, _user| {
    let heard = match event {
        wl_touch::Event::Down { id, x, y, .. } => Heard::TouchDown { id, x, y },
        wl_touch::Event::Up { id, .. } => Heard::TouchUp { id },
        wl_touch::Event::Motion { id, x, y, .. } => Heard::TouchMotion { id, x, y },
        wl_touch::Event::Cancel => Heard::TouchCancel,
        _ => return,
    };
    ears.heard.push(heard);
});

hear!(ZwpRelativePointerV1, (), |ears, _pointer, event, _user| {
    if let zwp_relative_pointer_v1::Event::RelativeMotion { dx, dy, .. } = event {
        ears.heard.push(Heard::Relative { dx, dy });
    }
});

hear!(ZwpLockedPointerV1, (), |ears, _pointer, event, _user| {
    if let zwp_locked_pointer_v1::Event::Locked = event {
        ears.heard.push(Heard::Locked);
    }
});

hear!(ZwpConfinedPointerV1, (), |ears, _pointer, event, _user| {
    if let zwp_confined_pointer_v1::Event::Confined = event {
        ears.heard.push(Heard::Confined);
    }
});

hear!(WpPresentationFeedback, (), |ears, _feedback, event, _user| {
    if let wp_presentation_feedback::Event::Presented {
        tv_sec_hi,
        tv_sec_lo,
        tv_nsec,
        refresh,
        ..
    } = event
    {
        let seconds = u64::from(tv_sec_hi) << 32 | u64::from(tv_sec_lo);
        let ns = seconds * 1_000_000_000 + u64::from(tv_nsec);
        ears.heard.push(Heard::Presented { ns, refresh });
    }
});

hear!(WpPresentation, (), |_ears, _presentation, event, _user| {
    if let wp_presentation::Event::ClockId { clk_id } = event {
        assert_eq!(clk_id, 1, "CLOCK_MONOTONIC");
    }
});

delegate_noop!(Ears: WlCompositor);
delegate_noop!(Ears: WlRegion);
delegate_noop!(Ears: WlShmPool);
delegate_noop!(Ears: XdgPositioner);
delegate_noop!(Ears: ZwpRelativePointerManagerV1);
delegate_noop!(Ears: ZwpPointerConstraintsV1);
delegate_noop!(Ears: ignore WlBuffer);
delegate_noop!(Ears: ignore WlSeat);
delegate_noop!(Ears: ignore WlShm);
delegate_noop!(Ears: ignore WlSurface);
