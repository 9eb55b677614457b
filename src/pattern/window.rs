//! The pattern's window: filled anew at each frame callback, from the first configure to the end.
use smithay_client_toolkit::compositor::{CompositorHandler, CompositorState};
use smithay_client_toolkit::output::{OutputHandler, OutputState};
use smithay_client_toolkit::registry::{ProvidesRegistryState, RegistryState};
use smithay_client_toolkit::seat::{Capability, SeatHandler, SeatState};
use smithay_client_toolkit::shell::WaylandSurface;
use smithay_client_toolkit::shell::xdg::XdgShell;
use smithay_client_toolkit::shell::xdg::window::{
    Window, WindowConfigure, WindowDecorations, WindowHandler,
};
use smithay_client_toolkit::shm::{Shm, ShmHandler};
use smithay_client_toolkit::{
    delegate_compositor, delegate_output, delegate_registry, delegate_seat, delegate_shm,
    delegate_xdg_shell, delegate_xdg_window, registry_handlers,
};
use wayland_client::globals::registry_queue_init;
use wayland_client::protocol::{wl_keyboard, wl_output, wl_pointer, wl_seat, wl_surface, wl_touch};
use wayland_client::{Connection, Dispatch, QueueHandle, WEnum};

use super::picture::{Moment, Picture, Shown};
use crate::proc::signals::Signals;
use crate::proto::pattern::ANSWERS;
use crate::wayland::buffers::Buffers;
use crate::wayland::events::{self, Fault};
use crate::wayland::local_time;

/// Where the compositor leaves the size to us.
const OWN_SIZE: (u32, u32) = (1280, 720);
/// Larger than any output.
const SIZE_MAX: u32 = 16_384;

/// Shows the pattern until SIGTERM or until the window is closed.
///
/// # Errors
/// See [`Fault`].
pub fn run(signals: Signals) -> Result<(), Fault> {
    let connection = Connection::connect_to_env().map_err(Fault::no_display)?;
    let (globals, queue) = registry_queue_init::<Pattern>(&connection).map_err(Fault::protocol)?;
    let handle = queue.handle();
    let compositor = CompositorState::bind(&globals, &handle).map_err(Fault::protocol)?;
    let shell = XdgShell::bind(&globals, &handle).map_err(Fault::protocol)?;
    let shm = Shm::bind(&globals, &handle).map_err(Fault::protocol)?;

    let surface = compositor.create_surface(&handle);
    let window = shell.create_window(surface, WindowDecorations::ServerDefault, &handle);
    window.set_title("moonshard test pattern");
    window.set_app_id("moonshard.pattern");
    window.set_fullscreen(None);
    window.commit();

    let mut pattern = Pattern {
        registry: RegistryState::new(&globals),
        seats: SeatState::new(&globals, &handle),
        outputs: OutputState::new(&globals, &handle),
        shm,
        window,
        canvas: None,
        rate: None,
        counter: 0,
        answer: 0,
        awaiting: false,
        end: None,
    };
    events::run(connection, queue, signals, &mut pattern, |pattern, caught| {
        if caught.stop {
            pattern.end = Some(Ok(()));
        }
        pattern.end.take()
    })
}

struct Pattern {
    registry: RegistryState,
    seats: SeatState,
    outputs: OutputState,
    shm: Shm,
    window: Window,
    /// None before the first configure.
    canvas: Option<Frames>,
    /// Of the output, in millihertz.
    rate: Option<u32>,
    /// Frames that were submitted.
    counter: u32,
    answer: usize,
    /// A frame callback is to come.
    awaiting: bool,
    end: Option<Result<(), Fault>>,
}

/// What belongs to one size.
struct Frames {
    picture: Picture,
    buffers: Buffers<Option<Shown>>,
    /// What was submitted last.
    last: Option<Shown>,
}

impl Pattern {
    fn resize(&mut self, (width, height): (u32, u32)) {
        match Buffers::new(&self.shm, width, height) {
            Ok(buffers) => {
                let picture = Picture::new(width, height, self.rate);
                self.canvas = Some(Frames { picture, buffers, last: None });
                tracing::info!(width, height, rate = self.rate, "size");
            }
            Err(error) => self.end = Some(Err(Fault::protocol(error))),
        }
    }

    fn draw(&mut self, handle: &QueueHandle<Self>) {
        let Some(frames) = &mut self.canvas else { return };
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let moment = Moment {
            counter: self.counter.wrapping_add(1),
            monotonic_ns: now.tv_sec.unsigned_abs() * super::SECOND_NS + now.tv_nsec.unsigned_abs(),
            answer: self.answer,
            time: local_time::now(),
        };
        let surface = self.window.wl_surface();
        let picture = &mut frames.picture;
        let mut drawn = None;
        let attached = frames.buffers.draw(surface, |canvas, shown| {
            let now = picture.draw(canvas, *shown, &moment);
            *shown = Some(now);
            drawn = Some(now);
        });
        if let Err(error) = attached {
            self.end = Some(Err(Fault::protocol(error)));
            return;
        }
        // No free buffer: only the callback is asked for again.
        if let Some(now) = drawn {
            self.counter = moment.counter;
            for area in picture.damage(frames.last, now) {
                surface.damage_buffer(area.x, area.y, area.width, area.height);
            }
            frames.last = Some(now);
        }
        if !self.awaiting {
            surface.frame(handle, surface.clone());
            self.awaiting = true;
        }
        self.window.commit();
    }

    fn pressed(&mut self) {
        self.answer = (self.answer + 1) % ANSWERS.len();
    }

    fn learn_rate(&mut self, output: &wl_output::WlOutput) {
        let info = self.outputs.info(output);
        let mode = info.and_then(|info| info.modes.into_iter().find(|mode| mode.current));
        let rate = mode.and_then(|mode| u32::try_from(mode.refresh_rate).ok());
        let rate = rate.filter(|rate| *rate > 0);
        if rate == self.rate {
            return;
        }
        self.rate = rate;
        if let Some(size) = self.canvas.as_ref().map(|frames| frames.buffers.size()) {
            self.resize(size);
        }
    }
}

impl WindowHandler for Pattern {
    fn request_close(&mut self, _: &Connection, _: &QueueHandle<Self>, _: &Window) {
        self.end = Some(Ok(()));
    }

    fn configure(
        &mut self,
        _: &Connection,
        handle: &QueueHandle<Self>,
        _: &Window,
        configure: WindowConfigure,
        _: u32,
    ) {
        let (width, height) = configure.new_size;
        let size = (
            width.map_or(OWN_SIZE.0, |width| width.get().min(SIZE_MAX)),
            height.map_or(OWN_SIZE.1, |height| height.get().min(SIZE_MAX)),
        );
        if self.canvas.as_ref().map(|frames| frames.buffers.size()) != Some(size) {
            self.resize(size);
            self.draw(handle);
        } else if !self.awaiting {
            self.draw(handle);
        }
    }
}

impl CompositorHandler for Pattern {
    fn scale_factor_changed(
        &mut self,
        _: &Connection,
        _: &QueueHandle<Self>,
        _: &wl_surface::WlSurface,
        _: i32,
    ) {
    }

    fn transform_changed(
        &mut self,
        _: &Connection,
        _: &QueueHandle<Self>,
        _: &wl_surface::WlSurface,
        _: wl_output::Transform,
    ) {
    }

    fn frame(
        &mut self,
        _: &Connection,
        handle: &QueueHandle<Self>,
        _: &wl_surface::WlSurface,
        _: u32,
    ) {
        self.awaiting = false;
        self.draw(handle);
    }

    fn surface_enter(
        &mut self,
        _: &Connection,
        _: &QueueHandle<Self>,
        _: &wl_surface::WlSurface,
        output: &wl_output::WlOutput,
    ) {
        self.learn_rate(output);
    }

    fn surface_leave(
        &mut self,
        _: &Connection,
        _: &QueueHandle<Self>,
        _: &wl_surface::WlSurface,
        _: &wl_output::WlOutput,
    ) {
    }
}

impl OutputHandler for Pattern {
    fn output_state(&mut self) -> &mut OutputState {
        &mut self.outputs
    }

    fn new_output(&mut self, _: &Connection, _: &QueueHandle<Self>, output: wl_output::WlOutput) {
        self.learn_rate(&output);
    }

    fn update_output(
        &mut self,
        _: &Connection,
        _: &QueueHandle<Self>,
        output: wl_output::WlOutput,
    ) {
        self.learn_rate(&output);
    }

    fn output_destroyed(&mut self, _: &Connection, _: &QueueHandle<Self>, _: wl_output::WlOutput) {}
}

impl SeatHandler for Pattern {
    fn seat_state(&mut self) -> &mut SeatState {
        &mut self.seats
    }

    fn new_seat(&mut self, _: &Connection, _: &QueueHandle<Self>, _: wl_seat::WlSeat) {}

    fn new_capability(
        &mut self,
        _: &Connection,
        handle: &QueueHandle<Self>,
        seat: wl_seat::WlSeat,
        capability: Capability,
    ) {
        // They live as long as this program; a seat that loses one falls silent.
        match capability {
            Capability::Keyboard => drop(seat.get_keyboard(handle, ())),
            Capability::Pointer => drop(seat.get_pointer(handle, ())),
            Capability::Touch => drop(seat.get_touch(handle, ())),
            _ => {}
        }
    }

    fn remove_capability(
        &mut self,
        _: &Connection,
        _: &QueueHandle<Self>,
        _: wl_seat::WlSeat,
        _: Capability,
    ) {
    }

    fn remove_seat(&mut self, _: &Connection, _: &QueueHandle<Self>, _: wl_seat::WlSeat) {}
}

impl Dispatch<wl_keyboard::WlKeyboard, ()> for Pattern {
    fn event(
        pattern: &mut Self,
        _: &wl_keyboard::WlKeyboard,
        event: wl_keyboard::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        let pressed = WEnum::Value(wl_keyboard::KeyState::Pressed);
        if matches!(event, wl_keyboard::Event::Key { state, .. } if state == pressed) {
            pattern.pressed();
        }
    }
}

impl Dispatch<wl_pointer::WlPointer, ()> for Pattern {
    fn event(
        pattern: &mut Self,
        _: &wl_pointer::WlPointer,
        event: wl_pointer::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        let pressed = WEnum::Value(wl_pointer::ButtonState::Pressed);
        if matches!(event, wl_pointer::Event::Button { state, .. } if state == pressed) {
            pattern.pressed();
        }
    }
}

impl Dispatch<wl_touch::WlTouch, ()> for Pattern {
    fn event(
        pattern: &mut Self,
        _: &wl_touch::WlTouch,
        event: wl_touch::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if matches!(event, wl_touch::Event::Down { .. }) {
            pattern.pressed();
        }
    }
}

impl ShmHandler for Pattern {
    fn shm_state(&mut self) -> &mut Shm {
        &mut self.shm
    }
}

impl ProvidesRegistryState for Pattern {
    fn registry(&mut self) -> &mut RegistryState {
        &mut self.registry
    }
    registry_handlers![OutputState, SeatState];
}

delegate_compositor!(Pattern);
delegate_output!(Pattern);
delegate_seat!(Pattern);
delegate_shm!(Pattern);
delegate_xdg_shell!(Pattern);
delegate_xdg_window!(Pattern);
delegate_registry!(Pattern);
