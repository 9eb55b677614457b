//! Window policy: which window is where, how large, and has the keyboard.
//!
//! A desktop that shows one program should look like that program: the first window fills the output,
//! unless a background is there. Further ones float in the middle. Focus follows a new window and a click.
use std::cell::RefCell;

use smithay::desktop::{PopupKind, Window, layer_map_for_output};
use smithay::reexports::wayland_protocols::xdg::decoration::zv1::server::zxdg_toplevel_decoration_v1::Mode as Decoration;
use smithay::reexports::wayland_protocols::xdg::shell::server::xdg_toplevel;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::utils::{IsAlive, Logical, Point, Rectangle, SERIAL_COUNTER, Size};
use smithay::wayland::compositor::with_states;
use smithay::wayland::shell::wlr_layer::Layer;
use smithay::wayland::shell::xdg::{SurfaceCachedState, ToplevelSurface};

use super::grab;
use super::protocols::has_buffer;
use super::state::State;

/// A zone smaller than this is not worth respecting: panels have eaten the output.
const ZONE_MIN: i32 = 64;
/// Of a floating window at least this much stays on the output.
const VISIBLE_MIN: i32 = 32;

/// Alt+Tab in progress: the windows as they were stacked, and the one shown.
pub struct Cycle {
    windows: Vec<Window>,
    at: usize,
}

/// Where a window was before it was maximised or made fullscreen.
#[derive(Default)]
struct Floating(RefCell<Option<Rectangle<i32, Logical>>>);

/// How a window lies on the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    Floating,
    Maximised,
    Fullscreen,
}

/// How the window is to lie, by what it was last told.
pub fn lie(window: &Window) -> Lie {
    let Some(toplevel) = window.toplevel() else { return Lie::Floating };
    toplevel.with_pending_state(|pending| {
        if pending.states.contains(xdg_toplevel::State::Fullscreen) {
            Lie::Fullscreen
        } else if pending.states.contains(xdg_toplevel::State::Maximized) {
            Lie::Maximised
        } else {
            Lie::Floating
        }
    })
}

/// The window was told that it has the keyboard.
pub fn is_active(window: &Window) -> bool {
    let active = xdg_toplevel::State::Activated;
    window.toplevel().is_some_and(|t| t.with_pending_state(|p| p.states.contains(active)))
}

fn surface_of(window: &Window) -> Option<&WlSurface> {
    Some(window.toplevel()?.wl_surface())
}

impl State {
    /// The window that is or was made of this surface.
    pub fn window_of(&self, surface: &WlSurface) -> Option<Window> {
        let mut all = self.space.elements().chain(&self.unmapped);
        all.find(|w| surface_of(w) == Some(surface)).cloned()
    }

    pub fn is_mapped(&self, window: &Window) -> bool {
        self.space.elements().any(|w| w == window)
    }

    /// The part of the output that panels leave free.
    pub fn zone(&self) -> Rectangle<i32, Logical> {
        let area = self.area();
        let zone = layer_map_for_output(&self.output).non_exclusive_zone();
        match zone.intersection(area) {
            Some(zone) if zone.size.w >= ZONE_MIN && zone.size.h >= ZONE_MIN => zone,
            _ => area,
        }
    }

    /// A surface of a window, or below one, has new content.
    pub fn window_committed(&mut self, surface: &WlSurface, root: &WlSurface) {
        if let Some(window) = self.window_of(root) {
            window.on_commit();
            if surface == root {
                self.toplevel_committed(&window);
            }
        }
        if let Some(PopupKind::Xdg(popup)) = self.popups.find_popup(surface)
            && !popup.is_initial_configure_sent()
        {
            let _ = popup.send_configure();
        }
        grab::resized(self, surface);
    }

    fn toplevel_committed(&mut self, window: &Window) {
        let Some(toplevel) = window.toplevel() else { return };
        let shows = has_buffer(toplevel.wl_surface());
        match (self.is_mapped(window), shows) {
            (false, false) if !toplevel.is_initial_configure_sent() => self.introduce(window),
            (false, true) => self.map(window),
            (true, false) => self.unmap(window),
            (true, true) => {
                let location = self.seat_of(window);
                if let Some(location) = location
                    && self.space.element_location(window) != Some(location)
                {
                    self.space.relocate(window, location);
                }
            }
            (false, false) => {}
        }
    }

    /// The window's first word: it hears how it is to lie.
    fn introduce(&mut self, window: &Window) {
        let Some(toplevel) = window.toplevel() else { return };
        if lie(window) == Lie::Floating && self.should_fill(window) {
            toplevel.with_pending_state(|pending| {
                pending.states.set(xdg_toplevel::State::Maximized);
            });
        }
        self.configure(window);
        toplevel.send_configure();
    }

    /// The only window, no dialog, not of a fixed size, and no background is there to be seen.
    fn should_fill(&self, window: &Window) -> bool {
        let Some(toplevel) = window.toplevel() else { return false };
        let map = layer_map_for_output(&self.output);
        let bare = map.layers_on(Layer::Background).next().is_none();
        let alone = bare && self.space.elements().len() == 0;
        alone && toplevel.parent().is_none() && !is_fixed(window)
    }

    /// Puts size, bounds and decoration for the way that the window lies into its pending state.
    pub fn configure(&self, window: &Window) {
        let Some(toplevel) = window.toplevel() else { return };
        let zone = self.zone();
        let size = match lie(window) {
            Lie::Fullscreen => Some(self.area().size),
            Lie::Maximised => Some(zone.size),
            Lie::Floating => None,
        };
        toplevel.with_pending_state(|pending| {
            match size {
                Some(size) => {
                    pending.size = Some(size);
                    // No title bar: we decorate, with nothing.
                    pending.decoration_mode = Some(Decoration::ServerSide);
                }
                None => pending.decoration_mode = Some(Decoration::ClientSide),
            }
            pending.bounds = Some(zone.size);
        });
    }

    fn map(&mut self, window: &Window) {
        self.unmapped.retain(|w| w != window);
        let location = self.seat_of(window).unwrap_or_else(|| self.middle(window));
        self.space.map_element(window.clone(), location, true);
        self.focus_window(window);
        let (zone, size) = (self.zone().size, window.geometry().size);
        if let Some(toplevel) = window.toplevel()
            && lie(window) == Lie::Floating
            && (size.w > zone.w || size.h > zone.h)
            && !is_fixed(window)
        {
            // It would not fit: let it fill what there is.
            self.lay(toplevel, Lie::Maximised);
        }
    }

    /// Where a window that does not float lies: in the middle of what it is to fill, if it stays
    /// smaller than told.
    fn seat_of(&self, window: &Window) -> Option<Point<i32, Logical>> {
        let fill = match lie(window) {
            Lie::Fullscreen => self.area(),
            Lie::Maximised => self.zone(),
            Lie::Floating => return None,
        };
        let size = window.geometry().size;
        let spare = |length: i32, own: i32| length.saturating_sub(own).max(0) / 2;
        let spare = (spare(fill.size.w, size.w), spare(fill.size.h, size.h));
        Some(fill.loc + Point::from(spare))
    }

    /// The middle of its parent, or of the free zone; the top left corner stays visible.
    fn middle(&self, window: &Window) -> Point<i32, Logical> {
        let zone = self.zone();
        let parent = window.toplevel().and_then(ToplevelSurface::parent);
        let over = parent
            .and_then(|p| self.window_of(&p))
            .and_then(|w| self.space.element_geometry(&w))
            .unwrap_or(zone);
        let size = window.geometry().size;
        let middle = |at: i32, length: i32, own: i32| at + (length - own) / 2;
        let x = middle(over.loc.x, over.size.w, size.w).max(zone.loc.x);
        let y = middle(over.loc.y, over.size.h, size.h).max(zone.loc.y);
        (x, y).into()
    }

    /// The window has taken its picture away; it may come back.
    fn unmap(&mut self, window: &Window) {
        self.space.unmap_elem(window);
        if let Some(toplevel) = window.toplevel() {
            toplevel.reset_initial_configure_sent();
        }
        self.unmapped.push(window.clone());
        self.focus_something();
    }

    /// Drops what has died, and gives the keyboard to what is left.
    pub fn forget_dead(&mut self) {
        self.unmapped.retain(IsAlive::alive);
        if self.drag_icon.as_ref().is_some_and(|icon| !icon.alive()) {
            self.drag_icon = None;
        }
        layer_map_for_output(&self.output).cleanup();
        let focus = self.keyboard.current_focus();
        if focus.is_none_or(|f| !f.alive()) && self.best_focus().is_some() {
            self.focus_something();
        }
    }

    /// Raises a window, its dialogs above it, and gives it the keyboard.
    pub fn focus_window(&mut self, window: &Window) {
        self.space.raise_element(window, true);
        let windows: Vec<Window> = self.space.elements().cloned().collect();
        for dialog in windows.iter().filter(|w| {
            w.toplevel().is_some_and(|t| {
                let parent = t.parent();
                parent.is_some() && parent.as_ref() == surface_of(window)
            })
        }) {
            self.space.raise_element(dialog, false);
        }
        for other in windows {
            other.set_activated(other == *window);
            if let Some(toplevel) = other.toplevel()
                && toplevel.is_initial_configure_sent()
            {
                toplevel.send_pending_configure();
            }
        }
        let focus = surface_of(window).cloned();
        if self.exclusive_layer().is_none() {
            self.set_keyboard_focus(focus);
        }
    }

    pub fn set_keyboard_focus(&mut self, focus: Option<WlSurface>) {
        let keyboard = self.keyboard.clone();
        if keyboard.current_focus() != focus {
            keyboard.set_focus(self, focus, SERIAL_COUNTER.next_serial());
        }
    }

    fn best_focus(&self) -> Option<WlSurface> {
        self.exclusive_layer()
            .or_else(|| self.space.elements().next_back().and_then(surface_of).cloned())
    }

    /// The keyboard goes where it belongs: to a layer that insists, or to the topmost window.
    pub fn focus_something(&mut self) {
        let top = self.space.elements().next_back().cloned();
        match (self.exclusive_layer(), top) {
            (None, Some(top)) => self.focus_window(&top),
            (layer, _) => self.set_keyboard_focus(layer),
        }
    }

    /// Alt+Tab: the next window comes up. The order is kept until Alt is let go.
    pub fn cycle_windows(&mut self) {
        let mut cycle = self.cycle.take().unwrap_or_else(|| Cycle {
            windows: self.space.elements().rev().cloned().collect(),
            at: 0,
        });
        cycle.windows.retain(|w| self.is_mapped(w));
        if !cycle.windows.is_empty() {
            cycle.at = (cycle.at + 1) % cycle.windows.len();
            self.focus_window(&cycle.windows[cycle.at]);
        }
        self.cycle = Some(cycle);
    }

    /// Alt+F4: the window with the keyboard is asked to close.
    pub fn close_focused(&mut self) {
        let focus = self.keyboard.current_focus();
        if let Some(window) = focus.and_then(|f| self.window_of(&f))
            && let Some(toplevel) = window.toplevel()
        {
            toplevel.send_close();
        }
    }

    /// Output or panels have changed: every window gets the place that its way of lying gives it.
    pub fn arrange(&mut self) {
        layer_map_for_output(&self.output).arrange();
        self.arrange_windows();
    }

    pub fn arrange_windows(&mut self) {
        let windows: Vec<Window> = self.space.elements().cloned().collect();
        for window in windows {
            let location = self.seat_of(&window).unwrap_or_else(|| self.pulled_in(&window));
            self.reconfigure(&window);
            if self.space.element_location(&window) != Some(location) {
                self.space.relocate(&window, location);
            }
        }
    }

    /// Where a floating window lies, or the nearest place where some of it is visible.
    fn pulled_in(&self, window: &Window) -> Point<i32, Logical> {
        let zone = self.zone();
        let at = self.space.element_geometry(window).unwrap_or(zone);
        let clamp = |at: i32, own: i32, start: i32, length: i32| {
            let low = start.saturating_sub(own.saturating_sub(VISIBLE_MIN).max(0));
            let high = start.saturating_add(length - VISIBLE_MIN);
            at.clamp(low.min(high), high)
        };
        let x = clamp(at.loc.x, at.size.w, zone.loc.x, zone.size.w);
        let y = clamp(at.loc.y, 0, zone.loc.y, zone.size.h);
        (x, y).into()
    }

    /// Sends the window its new size, if it has been introduced.
    pub fn reconfigure(&self, window: &Window) {
        self.configure(window);
        if let Some(toplevel) = window.toplevel()
            && toplevel.is_initial_configure_sent()
        {
            toplevel.send_pending_configure();
        }
    }

    /// Changes how a window lies, and remembers or restores where it floated.
    pub fn lay(&mut self, toplevel: &ToplevelSurface, to: Lie) {
        let Some(window) = self.window_of(toplevel.wl_surface()) else { return };
        let from = lie(&window);
        let data = window.user_data();
        data.insert_if_missing(Floating::default);
        let floating = data.get::<Floating>().expect("inserted above");
        if from == Lie::Floating && to != Lie::Floating {
            *floating.0.borrow_mut() = self.space.element_geometry(&window);
        }
        let back = floating.0.borrow().filter(|_| to == Lie::Floating);
        toplevel.with_pending_state(|pending| {
            pending.states.unset(xdg_toplevel::State::Fullscreen);
            pending.states.unset(xdg_toplevel::State::Maximized);
            match to {
                Lie::Fullscreen => pending.states.set(xdg_toplevel::State::Fullscreen),
                Lie::Maximised => pending.states.set(xdg_toplevel::State::Maximized),
                Lie::Floating => {
                    pending.size = back.map(|b| b.size);
                    true
                }
            };
        });
        self.configure(&window);
        if !toplevel.is_initial_configure_sent() {
            return;
        }
        // An answer is owed even where nothing changes.
        toplevel.send_configure();
        if self.is_mapped(&window) {
            let floating = || back.map_or_else(|| self.middle(&window), |b| b.loc);
            let location = self.seat_of(&window).unwrap_or_else(floating);
            self.space.relocate(&window, location);
        }
    }
}

/// Moves a mapped window without raising it.
trait Relocate {
    fn relocate(&mut self, window: &Window, location: Point<i32, Logical>);
}

impl Relocate for smithay::desktop::Space<Window> {
    fn relocate(&mut self, window: &Window, location: Point<i32, Logical>) {
        // `map_element` moves the element to the top of its kind: put back what was above.
        let above: Vec<Window> =
            self.elements().skip_while(|w| *w != window).skip(1).cloned().collect();
        self.map_element(window.clone(), location, false);
        for other in above {
            self.raise_element(&other, false);
        }
    }
}

/// The window has one size that it wants.
fn is_fixed(window: &Window) -> bool {
    let (min, max) = size_limits(window);
    max.w > 0 && max.h > 0 && max == min
}

/// The smallest and largest size that a window asked for; zero in `max`: no limit.
pub fn size_limits(window: &Window) -> (Size<i32, Logical>, Size<i32, Logical>) {
    let Some(surface) = surface_of(window) else { return Default::default() };
    with_states(surface, |states| {
        let mut cached = states.cached_state.get::<SurfaceCachedState>();
        (cached.current().min_size, cached.current().max_size)
    })
}
