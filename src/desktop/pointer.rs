//! The pointer: motion without acceleration, buttons, wheel; constraints of games are honoured.
use smithay::backend::input::{Axis, AxisSource, ButtonState};
use smithay::desktop::{WindowSurfaceType, layer_map_for_output};
use smithay::input::pointer::{AxisFrame, ButtonEvent, MotionEvent, RelativeMotionEvent};
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::utils::{Logical, Point, SERIAL_COUNTER};
use smithay::wayland::compositor::RegionAttributes;
use smithay::wayland::pointer_constraints::{PointerConstraint, with_pointer_constraint};
use smithay::wayland::shell::wlr_layer::Layer;

use super::input::Effect;
use super::layers::may_focus;
use super::state::{State, millis};
use crate::proto::input::{MouseButton, Pen, Phase, WHEEL_CLICK};
use crate::time::Time;

/// Logical pixels that one wheel click scrolls, as desktop compositors have it.
const CLICK_PIXELS: f64 = 15.0;

type Under = Option<(WlSurface, Point<f64, Logical>)>;

/// What a client has made of the pointer while it is over its surface.
enum Hold {
    Free,
    Locked,
    Confined(Option<RegionAttributes>),
}

fn evdev(button: MouseButton) -> u32 {
    match button {
        MouseButton::Left => 0x110,
        MouseButton::Right => 0x111,
        MouseButton::Middle => 0x112,
        MouseButton::Side => 0x113,
        MouseButton::Extra => 0x114,
    }
}

impl State {
    /// The surface at a point of the output that takes input, and where that surface's origin is.
    pub fn surface_under(&self, point: Point<f64, Logical>) -> Under {
        let (upper, lower) = self.layer_order();
        self.layer_surface_under(&upper, point)
            .or_else(|| self.window_surface_under(point))
            .or_else(|| self.layer_surface_under(&lower, point))
    }

    fn window_surface_under(&self, point: Point<f64, Logical>) -> Under {
        self.space.elements().rev().find_map(|window| {
            let at = self.space.element_location(window)? - window.geometry().loc;
            let (surface, offset) =
                window.surface_under(point - at.to_f64(), WindowSurfaceType::ALL)?;
            Some((surface, (at + offset).to_f64()))
        })
    }

    fn layer_surface_under(&self, layers: &[Layer], point: Point<f64, Logical>) -> Under {
        let map = layer_map_for_output(&self.output);
        layers.iter().flat_map(|&on| map.layers_on(on).rev()).find_map(|layer| {
            let at = map.layer_geometry(layer)?.loc;
            let (surface, offset) =
                layer.surface_under(point - at.to_f64(), WindowSurfaceType::ALL)?;
            Some((surface, (at + offset).to_f64()))
        })
    }

    pub fn move_by(&mut self, dx: i16, dy: i16, now: Time) -> Effect {
        self.pointed = None;
        let delta = Point::from((f64::from(dx), f64::from(dy)));
        let to = self.pointer.current_location() + delta;
        self.motion(to, delta, now);
        Effect::Done
    }

    /// `plane` is the size of the client's plane less one: its last column is the output's last.
    pub fn point_at(&mut self, (x, y): (u16, u16), plane: (u16, u16), now: Time) -> Effect {
        if plane.0 == 0 || plane.1 == 0 {
            return Effect::Ignored;
        }
        let fraction = |at: u16, of: u16| f64::from(at.min(of)) / f64::from(of);
        self.point_at_fraction(fraction(x, plane.0), fraction(y, plane.1), now);
        Effect::Done
    }

    fn point_at_fraction(&mut self, x: f64, y: f64, now: Time) {
        let to = self.at_fraction(x, y);
        // A locked pointer stays; what a game wants to know then is how far the hand moved.
        let from = self.pointed.unwrap_or_else(|| self.pointer.current_location());
        self.pointed = Some(to);
        self.motion(to, to - from, now);
    }

    /// A point of the output, from fractions of its width and height.
    pub fn at_fraction(&self, x: f64, y: f64) -> Point<f64, Logical> {
        let last = |size: u16| f64::from(size) - 1.0;
        // Wayland's unit is 1/256, and what is sent is cut to it.
        let round = |at: f64| (at * 256.0).round() / 256.0;
        self.clamp((round(x * last(self.mode.width)), round(y * last(self.mode.height))).into())
    }

    /// A pen is a pointer whose tip is the left button.
    pub fn pen(&mut self, pen: &Pen, now: Time) -> Effect {
        match pen.phase {
            Phase::Hover | Phase::Move | Phase::Down | Phase::Up => {
                self.point_at_fraction(f64::from(pen.x), f64::from(pen.y), now);
                match pen.phase {
                    Phase::Down => self.button(true, MouseButton::Left, now),
                    Phase::Up => self.button(false, MouseButton::Left, now),
                    _ => Effect::Done,
                }
            }
            Phase::Cancel | Phase::HoverLeave | Phase::CancelAll => {
                self.button(false, MouseButton::Left, now)
            }
            Phase::ButtonOnly => Effect::Ignored,
        }
    }

    fn motion(&mut self, to: Point<f64, Logical>, delta: Point<f64, Logical>, now: Time) {
        self.cursor.shown = true;
        let from = self.pointer.current_location();
        let under = self.surface_under(from);
        let hold = under.as_ref().map_or(Hold::Free, |under| self.hold(under, from));
        let pointer = self.pointer.clone();
        let event = RelativeMotionEvent { delta, delta_unaccel: delta, utime: now.0 / 1_000 };
        pointer.relative_motion(self, under.clone(), &event);
        let to = match hold {
            Hold::Locked => {
                pointer.frame(self);
                return;
            }
            Hold::Free => self.clamp(to),
            Hold::Confined(region) => self.confined(from, self.clamp(to), &under, region.as_ref()),
        };
        self.move_pointer(to, now);
    }

    /// Windows come and go under a pointer that rests: whoever is there now should know.
    pub fn refresh_pointer(&mut self, now: Time) {
        if !self.cursor.shown || self.pointer.is_grabbed() {
            return;
        }
        let at = self.pointer.current_location();
        let under = self.surface_under(at).map(|(surface, _)| surface);
        if under != self.pointer.current_focus() {
            self.move_pointer(at, now);
        }
    }

    /// Puts the pointer somewhere and lets the client there hold it if it wants to.
    pub fn move_pointer(&mut self, to: Point<f64, Logical>, now: Time) {
        let pointer = self.pointer.clone();
        let under = self.surface_under(to);
        let serial = SERIAL_COUNTER.next_serial();
        let event = MotionEvent { location: to, serial, time: millis(now) };
        pointer.motion(self, under.clone(), &event);
        pointer.frame(self);
        let Some((surface, origin)) = under else { return };
        if pointer.current_focus().as_ref() != Some(&surface) {
            return;
        }
        with_pointer_constraint(&surface, &pointer, |constraint| {
            if let Some(constraint) = constraint.filter(|c| !c.is_active()) {
                let inside = (to - origin).to_i32_floor();
                if constraint.region().is_none_or(|r| r.contains(inside)) {
                    constraint.activate();
                }
            }
        });
    }

    /// The constraint that is in force at a point.
    fn hold(&self, under: &(WlSurface, Point<f64, Logical>), at: Point<f64, Logical>) -> Hold {
        let (surface, origin) = under;
        with_pointer_constraint(surface, &self.pointer, |constraint| {
            let Some(constraint) = constraint.filter(|c| c.is_active()) else { return Hold::Free };
            let inside = (at - *origin).to_i32_floor();
            if constraint.region().is_some_and(|r| !r.contains(inside)) {
                return Hold::Free;
            }
            match &*constraint {
                PointerConstraint::Locked(_) => Hold::Locked,
                PointerConstraint::Confined(confined) => Hold::Confined(confined.region().cloned()),
            }
        })
    }

    /// As far as the confinement allows: along its edge rather than not at all.
    fn confined(
        &self,
        from: Point<f64, Logical>,
        to: Point<f64, Logical>,
        under: &Under,
        region: Option<&RegionAttributes>,
    ) -> Point<f64, Logical> {
        let Some((surface, origin)) = under else { return to };
        let allowed = |point: &Point<f64, Logical>| {
            let on = self.surface_under(*point);
            on.is_some_and(|(s, _)| s == *surface)
                && region.is_none_or(|r| r.contains((*point - *origin).to_i32_floor()))
        };
        let along = [to, (to.x, from.y).into(), (from.x, to.y).into()];
        along.into_iter().find(allowed).unwrap_or(from)
    }

    pub fn button(&mut self, down: bool, button: MouseButton, now: Time) -> Effect {
        let code = evdev(button);
        if down == self.buttons.contains(&code) {
            return Effect::Ignored;
        }
        self.meet_pointer(now);
        self.send_button(code, down, now);
        Effect::Done
    }

    /// A button or the wheel may be the first that is heard of the pointer, or the first after a finger:
    /// it is shown where it rests, and the window there hears of it before it hears what it does.
    fn meet_pointer(&mut self, now: Time) {
        if !std::mem::replace(&mut self.cursor.shown, true) {
            self.refresh_pointer(now);
        }
    }

    pub fn release_buttons(&mut self, now: Time) {
        for code in self.buttons.clone() {
            self.send_button(code, false, now);
        }
    }

    fn send_button(&mut self, code: u32, down: bool, now: Time) {
        let pointer = self.pointer.clone();
        let state = if down {
            self.buttons.insert(code);
            ButtonState::Pressed
        } else {
            self.buttons.remove(&code);
            ButtonState::Released
        };
        if down && !pointer.is_grabbed() {
            self.focus_at(pointer.current_location());
        }
        let serial = SERIAL_COUNTER.next_serial();
        let event = ButtonEvent { serial, time: millis(now), button: code, state };
        pointer.button(self, &event);
        pointer.frame(self);
    }

    /// A click or touch: the window under it comes up and gets the keyboard.
    pub fn focus_at(&mut self, point: Point<f64, Logical>) {
        let (upper, lower) = self.layer_order();
        if self.focus_layer_at(&upper, point) {
            return;
        }
        let window = self.space.elements().rev().find(|window| {
            let at = self.space.element_location(window).unwrap_or_default();
            let at = at - window.geometry().loc;
            window.surface_under(point - at.to_f64(), WindowSurfaceType::ALL).is_some()
        });
        match window.cloned() {
            Some(window) => self.focus_window(&window),
            None => {
                self.focus_layer_at(&lower, point);
            }
        }
    }

    /// True: a layer surface is there, whether it takes the keyboard or not.
    fn focus_layer_at(&mut self, layers: &[Layer], point: Point<f64, Logical>) -> bool {
        let Some((surface, _)) = self.layer_surface_under(layers, point) else { return false };
        let layer = {
            let map = layer_map_for_output(&self.output);
            map.layer_for_surface(&surface, WindowSurfaceType::ALL).cloned()
        };
        if let Some(layer) = layer
            && may_focus(&layer)
            && self.exclusive_layer().is_none()
        {
            self.set_keyboard_focus(Some(layer.wl_surface().clone()));
        }
        true
    }

    /// Wheel units, 120 to a click: right and up are positive. Wayland's axes point right and down.
    pub fn scroll(&mut self, right: i16, up: i16, now: Time) -> Effect {
        let mut frame = AxisFrame::new(millis(now)).source(AxisSource::Wheel);
        for (axis, units) in
            [(Axis::Horizontal, i32::from(right)), (Axis::Vertical, -i32::from(up))]
        {
            if units != 0 {
                let pixels = f64::from(units) / f64::from(WHEEL_CLICK) * CLICK_PIXELS;
                frame = frame.value(axis, pixels).v120(axis, units);
            }
        }
        if (right, up) == (0, 0) {
            return Effect::Ignored;
        }
        self.meet_pointer(now);
        let pointer = self.pointer.clone();
        pointer.axis(self, frame);
        pointer.frame(self);
        Effect::Done
    }
}
