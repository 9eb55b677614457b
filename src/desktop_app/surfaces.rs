//! The two layer surfaces of the desktop, the background and the bar, and the hands on the bar.
use smithay_client_toolkit::compositor::{CompositorHandler, CompositorState};
use smithay_client_toolkit::output::{OutputHandler, OutputState};
use smithay_client_toolkit::registry::{ProvidesRegistryState, RegistryState};
use smithay_client_toolkit::seat::{Capability, SeatHandler, SeatState};
use smithay_client_toolkit::shell::WaylandSurface;
use smithay_client_toolkit::shell::wlr_layer::{
    Anchor, Layer, LayerShell, LayerShellHandler, LayerSurface, LayerSurfaceConfigure,
};
use smithay_client_toolkit::shm::{Shm, ShmHandler};
use smithay_client_toolkit::{
    delegate_compositor, delegate_layer, delegate_output, delegate_registry, delegate_seat,
    delegate_shm, registry_handlers,
};
use wayland_client::globals::registry_queue_init;
use wayland_client::protocol::{wl_output, wl_pointer, wl_seat, wl_surface, wl_touch};
use wayland_client::{Connection, Dispatch, QueueHandle, WEnum};

use super::bar::{Bar, Button, Content, draw_background, height};
use super::programs::{Program, Programs};
use crate::proc::signals::Signals;
use crate::wayland::buffers::Buffers;
use crate::wayland::events::{self, Fault};
use crate::wayland::local_time;

/// BTN_LEFT of the kernel's input-event-codes.h.
const BUTTON_LEFT: u32 = 0x110;

/// Shows the desktop until it is quit.
///
/// # Errors
/// See [`Fault`].
pub fn run(signals: Signals) -> Result<(), Fault> {
    let connection = Connection::connect_to_env().map_err(Fault::no_display)?;
    let (globals, queue) =
        registry_queue_init::<DesktopApp>(&connection).map_err(Fault::protocol)?;
    let handle = queue.handle();
    let compositor = CompositorState::bind(&globals, &handle).map_err(Fault::protocol)?;
    let shell = LayerShell::bind(&globals, &handle).map_err(Fault::protocol)?;
    let shm = Shm::bind(&globals, &handle).map_err(Fault::protocol)?;
    let layer = |layer, name| {
        let surface = compositor.create_surface(&handle);
        shell.create_layer_surface(&handle, surface, layer, Some(name), None)
    };
    let background = layer(Layer::Background, "background");
    background.set_anchor(Anchor::all());
    background.set_exclusive_zone(-1);
    background.commit();
    let bar = layer(Layer::Top, "bar");
    bar.set_anchor(Anchor::BOTTOM | Anchor::LEFT | Anchor::RIGHT);
    bar.set_size(0, height(0));
    bar.set_exclusive_zone(height(0) as i32);
    bar.commit();

    let mut desktop = DesktopApp {
        registry: RegistryState::new(&globals),
        seats: SeatState::new(&globals, &handle),
        outputs: OutputState::new(&globals, &handle),
        shm,
        background,
        background_size: None,
        bar,
        drawn: None,
        content: Content::default(),
        pointer: (0.0, 0.0),
        programs: Programs::default(),
        end: None,
    };
    events::run(connection, queue, signals, &mut desktop, |desktop, caught| {
        if caught.child {
            desktop.programs.reap();
        }
        if caught.stop {
            desktop.end = Some(Ok(()));
        }
        desktop.refresh();
        desktop.end.take()
    })
}

struct DesktopApp {
    registry: RegistryState,
    seats: SeatState,
    outputs: OutputState,
    shm: Shm,
    background: LayerSurface,
    background_size: Option<(u32, u32)>,
    bar: LayerSurface,
    /// None before the first configure.
    drawn: Option<Drawn>,
    content: Content,
    /// Where it is on the bar.
    pointer: (f64, f64),
    programs: Programs,
    end: Option<Result<(), Fault>>,
}

/// The bar at one width.
struct Drawn {
    bar: Bar,
    buffers: Buffers<()>,
    /// What was submitted last.
    content: Option<Content>,
}

impl DesktopApp {
    fn start(&mut self, program: Program) {
        let output = self.background_size.unwrap_or((1280, 720));
        self.content.notice = self.programs.start(program, output).err().unwrap_or_default();
    }

    fn clicked(&mut self, (x, y): (f64, f64)) {
        let button = self.drawn.as_mut().and_then(|drawn| drawn.bar.button_at(x, y));
        match button {
            Some(Button::Applications) => self.start(Program::Launcher),
            Some(Button::Terminal) => self.start(Program::Terminal),
            Some(Button::Quit) => {
                tracing::info!("quit");
                self.end = Some(Ok(()));
            }
            None => {}
        }
    }

    fn hover(&mut self, place: Option<(f64, f64)>) {
        self.pointer = place.unwrap_or((-1.0, -1.0));
        let drawn = self.drawn.as_mut();
        self.content.hover =
            drawn.and_then(|drawn| drawn.bar.button_at(self.pointer.0, self.pointer.1));
    }

    /// Draws the bar if it should look otherwise. No free buffer: at the next round.
    fn refresh(&mut self) {
        let (hours, minutes, _) = local_time::now();
        self.content.time = (hours, minutes);
        let Some(Drawn { bar, buffers, content }) = &mut self.drawn else { return };
        if content.as_ref() == Some(&self.content) {
            return;
        }
        let surface = self.bar.wl_surface();
        match buffers.draw(surface, |canvas, ()| bar.draw(canvas, &self.content)) {
            Ok(true) => {
                let (width, height) = buffers.size();
                surface.damage_buffer(0, 0, width as i32, height as i32);
                self.bar.commit();
                *content = Some(self.content.clone());
            }
            Ok(false) => {}
            Err(error) => self.end = Some(Err(Fault::protocol(error))),
        }
    }

    fn draw_background(&mut self, (width, rows): (u32, u32)) {
        if self.background_size == Some((width, rows)) {
            return;
        }
        let before = self.background_size.replace((width, rows));
        let tall = height(rows);
        if tall != height(before.map_or(0, |(_, rows)| rows)) {
            self.bar.set_size(0, tall);
            self.bar.set_exclusive_zone(tall as i32);
            self.bar.commit();
        }
        // It comes up while the background is drawn, which takes a moment on a large output.
        if before.is_none() {
            self.start(Program::Terminal);
        }
        let surface = self.background.wl_surface();
        let drawn = Buffers::<()>::new(&self.shm, width, rows)
            .and_then(|mut buffers| buffers.draw(surface, |canvas, ()| draw_background(canvas)));
        if let Err(error) = drawn {
            self.end = Some(Err(Fault::protocol(error)));
            return;
        }
        surface.damage_buffer(0, 0, width as i32, rows as i32);
        self.background.commit();
    }

    fn resize_bar(&mut self, (width, height): (u32, u32)) {
        let size = self.drawn.as_ref().map(|drawn| drawn.buffers.size());
        if size == Some((width, height)) {
            return;
        }
        let rows = self.background_size.map_or(0, |(_, rows)| rows);
        match Buffers::new(&self.shm, width, height) {
            Ok(buffers) => {
                self.drawn = Some(Drawn { bar: Bar::new(width, rows), buffers, content: None });
            }
            Err(error) => self.end = Some(Err(Fault::protocol(error))),
        }
        self.refresh();
    }
}

impl LayerShellHandler for DesktopApp {
    fn closed(&mut self, _: &Connection, _: &QueueHandle<Self>, _: &LayerSurface) {
        self.end = Some(Ok(()));
    }

    fn configure(
        &mut self,
        _: &Connection,
        _: &QueueHandle<Self>,
        layer: &LayerSurface,
        configure: LayerSurfaceConfigure,
        _: u32,
    ) {
        let (width, height) = configure.new_size;
        let size = (width.clamp(1, 16_384), height.clamp(1, 16_384));
        if layer.wl_surface() == self.bar.wl_surface() {
            self.resize_bar(size);
        } else {
            self.draw_background(size);
        }
    }
}

impl Dispatch<wl_pointer::WlPointer, ()> for DesktopApp {
    fn event(
        desktop: &mut Self,
        _: &wl_pointer::WlPointer,
        event: wl_pointer::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        let pressed = WEnum::Value(wl_pointer::ButtonState::Pressed);
        match event {
            wl_pointer::Event::Enter { surface, surface_x, surface_y, .. } => {
                let on_bar = surface == *desktop.bar.wl_surface();
                desktop.hover(on_bar.then_some((surface_x, surface_y)));
            }
            // On the background, no place is a button's: pointer stays where none is.
            wl_pointer::Event::Motion { surface_x, surface_y, .. } if desktop.pointer.0 >= 0.0 => {
                desktop.hover(Some((surface_x, surface_y)));
            }
            wl_pointer::Event::Leave { .. } => desktop.hover(None),
            wl_pointer::Event::Button { button: BUTTON_LEFT, state, .. } if state == pressed => {
                desktop.clicked(desktop.pointer);
            }
            _ => {}
        }
    }
}

impl Dispatch<wl_touch::WlTouch, ()> for DesktopApp {
    fn event(
        desktop: &mut Self,
        _: &wl_touch::WlTouch,
        event: wl_touch::Event,
        _: &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        if let wl_touch::Event::Down { surface, x, y, .. } = event
            && surface == *desktop.bar.wl_surface()
        {
            desktop.clicked((x, y));
        }
    }
}

impl SeatHandler for DesktopApp {
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
        match capability {
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

impl CompositorHandler for DesktopApp {
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

    fn frame(&mut self, _: &Connection, _: &QueueHandle<Self>, _: &wl_surface::WlSurface, _: u32) {}

    fn surface_enter(
        &mut self,
        _: &Connection,
        _: &QueueHandle<Self>,
        _: &wl_surface::WlSurface,
        _: &wl_output::WlOutput,
    ) {
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

impl OutputHandler for DesktopApp {
    fn output_state(&mut self) -> &mut OutputState {
        &mut self.outputs
    }

    fn new_output(&mut self, _: &Connection, _: &QueueHandle<Self>, _: wl_output::WlOutput) {}

    fn update_output(&mut self, _: &Connection, _: &QueueHandle<Self>, _: wl_output::WlOutput) {}

    fn output_destroyed(&mut self, _: &Connection, _: &QueueHandle<Self>, _: wl_output::WlOutput) {}
}

impl ShmHandler for DesktopApp {
    fn shm_state(&mut self) -> &mut Shm {
        &mut self.shm
    }
}

impl ProvidesRegistryState for DesktopApp {
    fn registry(&mut self) -> &mut RegistryState {
        &mut self.registry
    }
    registry_handlers![OutputState, SeatState];
}

delegate_compositor!(DesktopApp);
delegate_output!(DesktopApp);
delegate_seat!(DesktopApp);
delegate_shm!(DesktopApp);
delegate_layer!(DesktopApp);
delegate_registry!(DesktopApp);
