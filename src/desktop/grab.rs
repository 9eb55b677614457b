//! Moving and resizing a floating window with the pointer, as its client asks.
use std::cell::Cell;

use smithay::desktop::Window;
use smithay::input::SeatHandler;
use smithay::input::pointer::{
    AxisFrame, ButtonEvent, Focus, GestureHoldBeginEvent, GestureHoldEndEvent,
    GesturePinchBeginEvent, GesturePinchEndEvent, GesturePinchUpdateEvent, GestureSwipeBeginEvent,
    GestureSwipeEndEvent, GestureSwipeUpdateEvent, GrabStartData, MotionEvent, PointerGrab,
    PointerInnerHandle, RelativeMotionEvent,
};
use smithay::reexports::wayland_protocols::xdg::shell::server::xdg_toplevel::{self, ResizeEdge};
use smithay::reexports::wayland_server::Resource;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::utils::{IsAlive, Logical, Point, Rectangle, Serial, Size};

use super::state::State;
use super::windows::size_limits;

/// Smallest size that a window is dragged to, if it names none.
const SIZE_MIN: i32 = 48;

/// The edges that move while a window is resized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edges {
    left: bool,
    right: bool,
    top: bool,
    bottom: bool,
}

impl Edges {
    pub fn of(edge: ResizeEdge) -> Self {
        use ResizeEdge as E;
        let is = |edges: &[E]| edges.contains(&edge);
        Self {
            left: is(&[E::Left, E::TopLeft, E::BottomLeft]),
            right: is(&[E::Right, E::TopRight, E::BottomRight]),
            top: is(&[E::Top, E::TopLeft, E::TopRight]),
            bottom: is(&[E::Bottom, E::BottomLeft, E::BottomRight]),
        }
    }

    /// The size after the pointer has moved by `delta`.
    fn size(self, from: Size<i32, Logical>, delta: Point<f64, Logical>) -> Size<i32, Logical> {
        let (dx, dy) = (delta.x as i32, delta.y as i32);
        let sign = |less: bool, more: bool| i32::from(more) - i32::from(less);
        let w = from.w.saturating_add(dx * sign(self.left, self.right));
        let h = from.h.saturating_add(dy * sign(self.top, self.bottom));
        // Negative sizes do not exist.
        (w.max(1), h.max(1)).into()
    }
}

/// On a window: a resize whose left or top edge has to follow the size.
#[derive(Default)]
struct Resizing(Cell<Option<Resize>>);

#[derive(Clone, Copy)]
struct Resize {
    from: Rectangle<i32, Logical>,
    edges: Edges,
    /// The button is up; the client's last answer is still to come.
    over: bool,
}

fn resizing(window: &Window) -> &Cell<Option<Resize>> {
    let data = window.user_data();
    data.insert_if_missing(Resizing::default);
    &data.get::<Resizing>().expect("inserted above").0
}

/// Starts to move a window, if the pointer button with this serial is still down on its client.
pub fn start_move(state: &mut State, window: &Window, serial: Serial) {
    let Some(start) = start_data(state, window, serial) else { return };
    let Some(at) = state.space.element_location(window) else { return };
    resizing(window).set(None);
    let grab = Drag { start, window: window.clone(), action: Action::Move { at } };
    let pointer = state.pointer.clone();
    pointer.set_grab(state, grab, serial, Focus::Clear);
}

/// The same for resizing.
pub fn start_resize(state: &mut State, window: &Window, serial: Serial, edges: Edges) {
    let Some(start) = start_data(state, window, serial) else { return };
    let Some(from) = state.space.element_geometry(window) else { return };
    resizing(window).set(Some(Resize { from, edges, over: false }));
    let action = Action::Resize { from, edges };
    let grab = Drag { start, window: window.clone(), action };
    let pointer = state.pointer.clone();
    pointer.set_grab(state, grab, serial, Focus::Clear);
}

fn start_data(state: &State, window: &Window, serial: Serial) -> Option<GrabStartData<State>> {
    let start = state.pointer.grab_start_data().filter(|_| state.pointer.has_grab(serial))?;
    let surface = window.toplevel()?.wl_surface();
    let (focus, _) = start.focus.as_ref()?;
    focus.id().same_client_as(&surface.id()).then_some(start)
}

/// A window that is being resized by its left or top edge has a new size: its other edges stay.
pub fn resized(state: &mut State, surface: &WlSurface) {
    let Some(window) = state.window_of(surface) else { return };
    let Some(Resize { from, edges, over }) = resizing(&window).get() else { return };
    let Some(now) = state.space.element_geometry(&window) else { return };
    let mut at = now.loc;
    if edges.left {
        at.x = from.loc.x + from.size.w - now.size.w;
    }
    if edges.top {
        at.y = from.loc.y + from.size.h - now.size.h;
    }
    let resizing_state = xdg_toplevel::State::Resizing;
    if over && window.toplevel().is_none_or(|t| !t.current_state().states.contains(resizing_state))
    {
        resizing(&window).set(None);
    }
    if at != now.loc {
        state.space.map_element(window, at, false);
    }
}

enum Action {
    Move { at: Point<i32, Logical> },
    Resize { from: Rectangle<i32, Logical>, edges: Edges },
}

/// The pointer grab of a move or resize; it ends with the last button.
struct Drag {
    start: GrabStartData<State>,
    window: Window,
    action: Action,
}

impl Drag {
    fn dragged(&self, state: &mut State, delta: Point<f64, Logical>) {
        if !self.window.alive() {
            return;
        }
        match self.action {
            Action::Move { at } => {
                let to = (at.to_f64() + delta).to_i32_round();
                state.space.map_element(self.window.clone(), to, true);
            }
            Action::Resize { from, edges } => {
                let (min, max) = size_limits(&self.window);
                let wanted = edges.size(from.size, delta);
                let limit = |wanted: i32, min: i32, max: i32| {
                    let low = if min > 0 { min } else { SIZE_MIN };
                    let high = if max > 0 { max.max(low) } else { i32::MAX };
                    wanted.clamp(low, high)
                };
                let size =
                    Size::from((limit(wanted.w, min.w, max.w), limit(wanted.h, min.h, max.h)));
                self.tell_size(Some(size), true);
            }
        }
    }

    fn tell_size(&self, size: Option<Size<i32, Logical>>, resizing: bool) {
        let Some(toplevel) = self.window.toplevel() else { return };
        toplevel.with_pending_state(|pending| {
            if resizing {
                pending.states.set(xdg_toplevel::State::Resizing);
            } else {
                pending.states.unset(xdg_toplevel::State::Resizing);
            }
            pending.size = size.or(pending.size);
        });
        toplevel.send_pending_configure();
    }
}

impl PointerGrab<State> for Drag {
    fn motion(
        &mut self,
        data: &mut State,
        handle: &mut PointerInnerHandle<'_, State>,
        _: Option<(<State as SeatHandler>::PointerFocus, Point<f64, Logical>)>,
        event: &MotionEvent,
    ) {
        // No client hears of the pointer meanwhile.
        handle.motion(data, None, event);
        self.dragged(data, event.location - self.start.location);
    }

    fn relative_motion(
        &mut self,
        data: &mut State,
        handle: &mut PointerInnerHandle<'_, State>,
        focus: Option<(WlSurface, Point<f64, Logical>)>,
        event: &RelativeMotionEvent,
    ) {
        handle.relative_motion(data, focus, event);
    }

    fn button(
        &mut self,
        data: &mut State,
        handle: &mut PointerInnerHandle<'_, State>,
        event: &ButtonEvent,
    ) {
        handle.button(data, event);
        if handle.current_pressed().is_empty() {
            handle.unset_grab(self, data, event.serial, event.time, true);
        }
    }

    fn axis(
        &mut self,
        data: &mut State,
        handle: &mut PointerInnerHandle<'_, State>,
        details: AxisFrame,
    ) {
        handle.axis(data, details);
    }

    fn frame(&mut self, data: &mut State, handle: &mut PointerInnerHandle<'_, State>) {
        handle.frame(data);
    }

    fn start_data(&self) -> &GrabStartData<State> {
        &self.start
    }

    fn unset(&mut self, _: &mut State) {
        if let Action::Resize { .. } = self.action {
            self.tell_size(None, false);
            let resizing = resizing(&self.window);
            resizing.set(resizing.get().map(|resize| Resize { over: true, ..resize }));
        }
    }

    // A viewer has no gestures: nothing to pass on.
    fn gesture_swipe_begin(
        &mut self,
        _: &mut State,
        _: &mut PointerInnerHandle<'_, State>,
        _: &GestureSwipeBeginEvent,
    ) {
    }
    fn gesture_swipe_update(
        &mut self,
        _: &mut State,
        _: &mut PointerInnerHandle<'_, State>,
        _: &GestureSwipeUpdateEvent,
    ) {
    }
    fn gesture_swipe_end(
        &mut self,
        _: &mut State,
        _: &mut PointerInnerHandle<'_, State>,
        _: &GestureSwipeEndEvent,
    ) {
    }
    fn gesture_pinch_begin(
        &mut self,
        _: &mut State,
        _: &mut PointerInnerHandle<'_, State>,
        _: &GesturePinchBeginEvent,
    ) {
    }
    fn gesture_pinch_update(
        &mut self,
        _: &mut State,
        _: &mut PointerInnerHandle<'_, State>,
        _: &GesturePinchUpdateEvent,
    ) {
    }
    fn gesture_pinch_end(
        &mut self,
        _: &mut State,
        _: &mut PointerInnerHandle<'_, State>,
        _: &GesturePinchEndEvent,
    ) {
    }
    fn gesture_hold_begin(
        &mut self,
        _: &mut State,
        _: &mut PointerInnerHandle<'_, State>,
        _: &GestureHoldBeginEvent,
    ) {
    }
    fn gesture_hold_end(
        &mut self,
        _: &mut State,
        _: &mut PointerInnerHandle<'_, State>,
        _: &GestureHoldEndEvent,
    ) {
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_move_with_the_pointer() {
        let from = Size::from((100, 80));
        let delta = Point::from((10.0, -5.0));
        let size = |edge| {
            let size = Edges::of(edge).size(from, delta);
            (size.w, size.h)
        };
        assert_eq!(size(ResizeEdge::BottomRight), (110, 75));
        assert_eq!(size(ResizeEdge::TopLeft), (90, 85));
        assert_eq!(size(ResizeEdge::Left), (90, 80));
        assert_eq!(size(ResizeEdge::None), (100, 80));
        assert_eq!(Edges::of(ResizeEdge::Left).size(from, (1e9, 0.0).into()).w, 1);
    }
}
