//! Layer-shell surfaces: backgrounds, panels, launchers.
use smithay::delegate_layer_shell;
use smithay::desktop::{LayerSurface, PopupKind, WindowSurfaceType, layer_map_for_output};
use smithay::reexports::wayland_server::protocol::wl_output::WlOutput;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::utils::{Logical, Point};
use smithay::wayland::compositor::with_states;
use smithay::wayland::shell::wlr_layer::{
    KeyboardInteractivity, Layer, LayerSurface as WlrLayerSurface, LayerSurfaceData,
    WlrLayerShellHandler, WlrLayerShellState,
};
use smithay::wayland::shell::xdg::PopupSurface;

use super::protocols::has_buffer;
use super::state::State;
use super::windows::{Lie, lie};

/// Front to back where windows are not in between.
const UPPER: [Layer; 2] = [Layer::Overlay, Layer::Top];
const LOWER: [Layer; 2] = [Layer::Bottom, Layer::Background];

impl State {
    /// The layer surface made of `surface`, while it is on the output.
    pub fn layer_of(&self, surface: &WlSurface) -> Option<LayerSurface> {
        let map = layer_map_for_output(&self.output);
        map.layer_for_surface(surface, WindowSurfaceType::TOPLEVEL).cloned()
    }

    /// Where a layer surface lies on the output.
    pub fn layer_location(&self, surface: &WlSurface) -> Option<Point<i32, Logical>> {
        let map = layer_map_for_output(&self.output);
        let layer = map.layer_for_surface(surface, WindowSurfaceType::TOPLEVEL)?;
        Some(map.layer_geometry(layer)?.loc)
    }

    /// The layers in front of all windows and those behind, front to back. A fullscreen window on
    /// top covers the panels.
    pub fn layer_order(&self) -> (Vec<Layer>, Vec<Layer>) {
        let top = self.space.elements().next_back();
        if top.is_some_and(|w| lie(w) == Lie::Fullscreen) {
            (vec![Layer::Overlay], vec![Layer::Top, Layer::Bottom, Layer::Background])
        } else {
            (UPPER.to_vec(), LOWER.to_vec())
        }
    }

    /// The front-most layer surface that demands the keyboard: a launcher, a lock.
    pub fn exclusive_layer(&self) -> Option<WlSurface> {
        let map = layer_map_for_output(&self.output);
        UPPER.iter().find_map(|&on| {
            let mut layers = map.layers_on(on).rev();
            layers.find(|l| demands_keyboard(l)).map(|l| l.wl_surface().clone())
        })
    }

    /// A surface has new content; if it is a layer surface, the output may have to be arranged anew.
    pub fn layer_committed(&mut self, surface: &WlSurface) {
        let Some(layer) = self.layer_of(surface) else { return };
        let zone = self.zone();
        layer_map_for_output(&self.output).arrange();
        let introduced = with_states(surface, |states| {
            let data = states.data_map.get::<LayerSurfaceData>();
            data.is_some_and(|d| d.lock().is_ok_and(|d| d.initial_configure_sent))
        });
        if !introduced {
            layer.layer_surface().send_configure();
        }
        if self.zone() != zone {
            self.arrange_windows();
        }
        self.settle_layer_focus();
    }

    /// The keyboard goes to a layer that demands it, and back when none does any more.
    fn settle_layer_focus(&mut self) {
        let focus = self.keyboard.current_focus();
        match self.exclusive_layer() {
            Some(demanding) => self.set_keyboard_focus(Some(demanding)),
            None if focus.is_none_or(|f| self.layer_of(&f).is_some_and(|l| !may_focus(&l))) => {
                self.focus_something();
            }
            None => {}
        }
    }
}

fn demands_keyboard(layer: &LayerSurface) -> bool {
    layer.cached_state().keyboard_interactivity == KeyboardInteractivity::Exclusive
        && has_buffer(layer.wl_surface())
}

/// A click on it may give it the keyboard.
pub fn may_focus(layer: &LayerSurface) -> bool {
    layer.can_receive_keyboard_focus() && has_buffer(layer.wl_surface())
}

impl WlrLayerShellHandler for State {
    fn shell_state(&mut self) -> &mut WlrLayerShellState {
        &mut self.protocols.layer_shell
    }

    fn new_layer_surface(
        &mut self,
        surface: WlrLayerSurface,
        _: Option<WlOutput>,
        _: Layer,
        namespace: String,
    ) {
        let layer = LayerSurface::new(surface, namespace);
        // Refused only for a surface that has a layer already, which the protocol excludes.
        let _ = layer_map_for_output(&self.output).map_layer(&layer);
    }

    fn new_popup(&mut self, _: WlrLayerSurface, popup: PopupSurface) {
        let _ = self.popups.track_popup(PopupKind::Xdg(popup));
    }

    fn layer_destroyed(&mut self, surface: WlrLayerSurface) {
        let zone = self.zone();
        {
            let mut map = layer_map_for_output(&self.output);
            let layer = map.layers().find(|l| *l.layer_surface() == surface).cloned();
            if let Some(layer) = layer {
                map.unmap_layer(&layer);
            }
        }
        if self.zone() != zone {
            self.arrange_windows();
        }
        self.focus_something();
    }
}

delegate_layer_shell!(State);
