//! xdg-shell and its neighbours: what windows and menus ask for. Policy is in `windows`.
use smithay::delegate_xdg_activation;
use smithay::delegate_xdg_decoration;
use smithay::delegate_xdg_shell;
use smithay::desktop::{
    PopupKeyboardGrab, PopupKind, PopupManager, PopupPointerGrab, PopupUngrabStrategy, Window,
    find_popup_root_surface, get_popup_toplevel_coords,
};
use smithay::input::Seat;
use smithay::input::pointer::Focus;
use smithay::reexports::wayland_protocols::xdg::decoration::zv1::server::zxdg_toplevel_decoration_v1::Mode as Decoration;
use smithay::reexports::wayland_protocols::xdg::shell::server::xdg_toplevel;
use smithay::reexports::wayland_server::Resource;
use smithay::reexports::wayland_server::protocol::wl_output::WlOutput;
use smithay::reexports::wayland_server::protocol::wl_seat::WlSeat;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::utils::{SERIAL_COUNTER, Serial};
use smithay::wayland::shell::xdg::decoration::XdgDecorationHandler;
use smithay::wayland::shell::xdg::{
    PopupSurface, PositionerState, ToplevelSurface, XdgShellHandler, XdgShellState,
};
use smithay::wayland::xdg_activation::{
    XdgActivationHandler, XdgActivationState, XdgActivationToken, XdgActivationTokenData,
};

use super::border::Border;
use super::grab::{self, Edges};
use super::state::{State, millis};
use super::windows::{Lie, lie};
use crate::time::Time;

/// Activation tokens that are remembered.
const TOKENS_MAX: usize = 256;

impl State {
    /// Keeps a menu on the output.
    fn unconstrain(&self, popup: &PopupSurface) {
        let kind = PopupKind::Xdg(popup.clone());
        let Ok(root) = find_popup_root_surface(&kind) else { return };
        let origin = match self.window_of(&root) {
            Some(window) => self.space.element_location(&window).unwrap_or_default(),
            None => self.layer_location(&root).unwrap_or_default(),
        };
        let mut target = self.area();
        target.loc -= origin + get_popup_toplevel_coords(&kind);
        popup.with_pending_state(|pending| {
            pending.geometry = pending.positioner.get_unconstrained_geometry(target);
        });
    }

    /// A finger elsewhere ends menus, as a click does by way of the pointer's grab. `on` is what the
    /// finger is on: menus do not end by their own client.
    pub fn dismiss_menus(&mut self, on: Option<&WlSurface>, now: Time) {
        let Some(focus) = self.keyboard.current_focus().filter(|_| self.keyboard.is_grabbed())
        else {
            return;
        };
        if on.is_some_and(|on| on.id().same_client_as(&focus.id())) {
            return;
        }
        let Some(popup) = self.popups.find_popup(&focus) else { return };
        let Ok(root) = find_popup_root_surface(&popup) else { return };
        let menus: Vec<PopupKind> =
            PopupManager::popups_for_surface(&root).map(|(popup, _)| popup).collect();
        for menu in menus {
            let _ = PopupManager::dismiss_popup(&root, &menu);
        }
        let pointer = self.pointer.clone();
        pointer.unset_grab(self, SERIAL_COUNTER.next_serial(), millis(now));
    }
}

impl XdgShellHandler for State {
    fn xdg_shell_state(&mut self) -> &mut XdgShellState {
        &mut self.protocols.xdg_shell
    }

    fn new_toplevel(&mut self, surface: ToplevelSurface) {
        self.unmapped.push(Window::new_wayland_window(surface));
    }

    fn toplevel_destroyed(&mut self, surface: ToplevelSurface) {
        if let Some(window) = self.window_of(surface.wl_surface()) {
            self.space.unmap_elem(&window);
            self.unmapped.retain(|w| *w != window);
            self.focus_something();
        }
    }

    fn new_popup(&mut self, surface: PopupSurface, _: PositionerState) {
        self.unconstrain(&surface);
        let _ = self.popups.track_popup(PopupKind::Xdg(surface));
    }

    fn reposition_request(&mut self, surface: PopupSurface, to: PositionerState, token: u32) {
        surface.with_pending_state(|pending| {
            pending.geometry = to.get_geometry();
            pending.positioner = to;
        });
        self.unconstrain(&surface);
        surface.send_repositioned(token);
    }

    fn grab(&mut self, surface: PopupSurface, seat: WlSeat, serial: Serial) {
        let Some(seat) = Seat::<Self>::from_resource(&seat) else { return };
        let kind = PopupKind::Xdg(surface);
        let Ok(root) = find_popup_root_surface(&kind) else { return };
        let Ok(mut grab) = self.popups.grab_popup(root, kind, &seat, serial) else { return };
        let before = grab.previous_serial().unwrap_or(serial);
        let (keyboard, pointer) = (self.keyboard.clone(), self.pointer.clone());
        let busy = |grabbed: bool, ours: bool| grabbed && !ours;
        let keyboard_busy =
            busy(keyboard.is_grabbed(), keyboard.has_grab(serial) || keyboard.has_grab(before));
        let pointer_busy =
            busy(pointer.is_grabbed(), pointer.has_grab(serial) || pointer.has_grab(before));
        if keyboard_busy || pointer_busy {
            grab.ungrab(PopupUngrabStrategy::All);
            return;
        }
        keyboard.set_focus(self, grab.current_grab(), serial);
        keyboard.set_grab(self, PopupKeyboardGrab::new(&grab), serial);
        pointer.set_grab(self, PopupPointerGrab::new(&grab), serial, Focus::Keep);
    }

    fn move_request(&mut self, surface: ToplevelSurface, _: WlSeat, serial: Serial) {
        if let Some(window) = self.window_of(surface.wl_surface())
            && lie(&window) == Lie::Floating
        {
            grab::start_move(self, &window, serial);
        }
    }

    fn resize_request(
        &mut self,
        surface: ToplevelSurface,
        _: WlSeat,
        serial: Serial,
        edges: xdg_toplevel::ResizeEdge,
    ) {
        if let Some(window) = self.window_of(surface.wl_surface())
            && lie(&window) == Lie::Floating
        {
            grab::start_resize(self, &window, serial, Edges::of(edges));
        }
    }

    fn maximize_request(&mut self, surface: ToplevelSurface) {
        self.lay(&surface, Lie::Maximised);
    }

    fn unmaximize_request(&mut self, surface: ToplevelSurface) {
        self.lay(&surface, Lie::Floating);
    }

    fn fullscreen_request(&mut self, surface: ToplevelSurface, _: Option<WlOutput>) {
        self.lay(&surface, Lie::Fullscreen);
    }

    fn unfullscreen_request(&mut self, surface: ToplevelSurface) {
        let alone = self.space.elements().len() <= 1;
        self.lay(&surface, if alone { Lie::Maximised } else { Lie::Floating });
    }

    /// There is nowhere to minimise to: the window goes to the bottom.
    fn minimize_request(&mut self, surface: ToplevelSurface) {
        let Some(window) = self.window_of(surface.wl_surface()) else { return };
        let others: Vec<Window> =
            self.space.elements().filter(|w| **w != window).cloned().collect();
        for other in &others {
            self.space.raise_element(other, false);
        }
        self.focus_something();
    }
}

impl XdgDecorationHandler for State {
    fn new_decoration(&mut self, toplevel: ToplevelSurface) {
        if let Some(window) = self.window_of(toplevel.wl_surface()) {
            window.user_data().insert_if_missing(Border::default);
            self.reconfigure(&window);
        }
    }

    fn request_mode(&mut self, toplevel: ToplevelSurface, _: Decoration) {
        if let Some(window) = self.window_of(toplevel.wl_surface()) {
            self.configure(&window);
        }
        if toplevel.is_initial_configure_sent() {
            toplevel.send_configure();
        }
    }

    fn unset_mode(&mut self, toplevel: ToplevelSurface) {
        self.request_mode(toplevel, Decoration::ClientSide);
    }
}

impl XdgActivationHandler for State {
    fn activation_state(&mut self) -> &mut XdgActivationState {
        &mut self.protocols.activation
    }

    /// Old tokens are forgotten, so that no client can pile them up.
    fn token_created(&mut self, _: XdgActivationToken, _: XdgActivationTokenData) -> bool {
        let activation = &mut self.protocols.activation;
        if activation.tokens().count() >= TOKENS_MAX {
            activation.retain_tokens(|_, _| false);
        }
        true
    }

    fn request_activation(
        &mut self,
        token: XdgActivationToken,
        _: XdgActivationTokenData,
        surface: WlSurface,
    ) {
        self.protocols.activation.remove_token(&token);
        if let Some(window) = self.window_of(&surface)
            && self.is_mapped(&window)
        {
            self.focus_window(&window);
        }
    }
}

delegate_xdg_shell!(State);
delegate_xdg_decoration!(State);
delegate_xdg_activation!(State);
