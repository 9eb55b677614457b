//! Everything that the compositor knows, and how commands change it.
//!
//! The protocols are answered in `protocols`, `windows`, `layers`; drawing is `draw`; hands are `input`.
use std::sync::Arc;

use smithay::backend::renderer::element::solid::SolidColorBuffer;
use smithay::desktop::{PopupManager, Space, Window, layer_map_for_output};
use smithay::input::Seat;
use smithay::input::keyboard::{KeyboardHandle, XkbConfig};
use smithay::input::pointer::PointerHandle;
use smithay::input::touch::TouchHandle;
use smithay::output::{self, Output, PhysicalProperties, Subpixel};
use smithay::reexports::wayland_server::DisplayHandle;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::utils::{Logical, Point, Rectangle, Transform};
use tracing::{info, warn};

use super::apps::{APPS_MAX, App};
use super::cursor::Cursor;
use super::figures::Figures;
use super::keyboard::Keys;
use super::notice;
use super::protocols::{Protocols, has_buffer};
use super::screen::Screen;
use super::text::TextKeys;
use super::touch::Fingers;
use super::windows::Cycle;
use super::{DesktopCommand, DesktopConfig, DesktopError};
use crate::proto::stream::Mode;
use crate::time::Time;

/// Key repeat that clients are told: repetitions per second, and milliseconds before the first.
const REPEAT_RATE: i32 = 25;
const REPEAT_DELAY_MS: i32 = 600;

/// The compositor.
pub struct State {
    pub display: DisplayHandle,
    pub figures: Arc<Figures>,
    pub protocols: Protocols,
    pub output: Output,
    pub mode: Mode,
    /// Windows that show something, bottom to top.
    pub space: Space<Window>,
    /// Windows without a picture yet.
    pub unmapped: Vec<Window>,
    pub popups: PopupManager,
    pub cycle: Option<Cycle>,
    pub seat: Seat<Self>,
    pub keyboard: KeyboardHandle<Self>,
    pub keys: Keys,
    pub text: TextKeys,
    pub pointer: PointerHandle<Self>,
    /// Pointer buttons that are down, by evdev code.
    pub buttons: std::collections::BTreeSet<u32>,
    /// Where the last absolute motion pointed.
    pub pointed: Option<Point<f64, Logical>>,
    pub touch: TouchHandle<Self>,
    pub fingers: Fingers,
    pub cursor: Cursor,
    pub drag_icon: Option<WlSurface>,
    /// What is behind a fullscreen window.
    pub backdrop: SolidColorBuffer,
    pub screen: Screen,
    pub notice: Option<notice::Drawn>,
    /// Events have come since `tidy`.
    untidy: bool,
    /// Frames that the applications were told of.
    pub presentations: u64,
}

impl State {
    /// # Errors
    /// `Keymap`: the configured layout does not exist.
    pub fn new(
        display: &DisplayHandle,
        config: &DesktopConfig,
        figures: Arc<Figures>,
        now: Time,
    ) -> Result<Self, DesktopError> {
        let mut protocols = Protocols::new(display);
        let mut seat = protocols.seats.new_wl_seat(display, "seat0");
        let xkb = XkbConfig {
            layout: &config.keyboard_layout,
            variant: &config.keyboard_variant,
            ..XkbConfig::default()
        };
        let (layout, variant) = (&config.keyboard_layout, &config.keyboard_variant);
        let no_keymap =
            || DesktopError::Keymap { layout: layout.clone(), variant: variant.clone() };
        let keyboard =
            seat.add_keyboard(xkb, REPEAT_DELAY_MS, REPEAT_RATE).map_err(|_| no_keymap())?;
        let text = TextKeys::new(layout, variant).ok_or_else(no_keymap)?;
        let pointer = seat.add_pointer();
        let touch = seat.add_touch();

        let output = Output::new(
            "MOONSHARD-1".into(),
            PhysicalProperties {
                size: (0, 0).into(),
                subpixel: Subpixel::None,
                make: "moonshard".into(),
                model: "virtual display".into(),
            },
        );
        output.create_global::<Self>(display);
        let mut space = Space::default();
        space.map_output(&output, (0, 0));

        let mut state = Self {
            display: display.clone(),
            figures,
            protocols,
            screen: Screen::new(&output, config.mode, config.idle_fps, now),
            cursor: Cursor::new(config.mode),
            output,
            mode: config.mode,
            space,
            unmapped: Vec::new(),
            popups: PopupManager::default(),
            cycle: None,
            seat,
            keyboard,
            keys: Keys::default(),
            text,
            pointer,
            buttons: std::collections::BTreeSet::new(),
            pointed: None,
            touch,
            fingers: Fingers::default(),
            drag_icon: None,
            backdrop: SolidColorBuffer::default(),
            notice: None,
            untidy: true,
            presentations: 0,
        };
        state.apply_mode(config.mode);
        let middle = (f64::from(config.mode.width) / 2.0, f64::from(config.mode.height) / 2.0);
        state.pointer.set_location(middle.into());
        Ok(state)
    }

    /// Room for one more application; None: there are too many.
    pub fn admit(&mut self) -> Option<Arc<App>> {
        if self.figures.clients.value() >= APPS_MAX {
            self.figures.clients_refused.add();
            return None;
        }
        Some(Arc::new(App::new(self.figures.clone())))
    }

    /// Does what a command says.
    pub fn obey(&mut self, command: DesktopCommand, now: Time) {
        self.touch_picture();
        match command {
            DesktopCommand::Input(event) => self.input(event, now),
            DesktopCommand::ReleaseAll => self.release_all(now),
            DesktopCommand::Mode(mode) => self.change_mode(mode, now),
            DesktopCommand::Attach { frames, ring } => {
                info!(spec = ?ring.spec(), "encoder attached");
                self.screen.attach(frames, ring, now);
            }
            DesktopCommand::Detach => {
                info!("encoder detached");
                self.screen.detach();
            }
            DesktopCommand::Say(notice) => {
                self.notice = notice.map(|notice| notice::Drawn::new(notice, self.mode));
            }
            // The event loop ends before this is asked.
            DesktopCommand::Stop => {}
        }
    }

    fn change_mode(&mut self, mode: Mode, now: Time) {
        if mode.width == 0 || mode.height == 0 || mode.millihertz == 0 {
            warn!(?mode, "a mode that cannot be shown was refused");
            return;
        }
        if mode == self.mode {
            return;
        }
        info!(?mode, "mode changed");
        self.apply_mode(mode);
        self.screen.change_mode(&self.output, mode, now);
        self.arrange();
        let inside = self.clamp(self.pointer.current_location());
        self.move_pointer(inside, now);
    }

    fn apply_mode(&mut self, mode: Mode) {
        self.mode = mode;
        let size = (i32::from(mode.width), i32::from(mode.height)).into();
        let refresh = i32::try_from(mode.millihertz).unwrap_or(i32::MAX);
        let old = self.output.current_mode();
        let new = output::Mode { size, refresh };
        let scale = Some(output::Scale::Integer(1));
        self.output.change_current_state(Some(new), Some(Transform::Normal), scale, None);
        self.output.set_preferred(new);
        if let Some(old) = old.filter(|&old| old != new) {
            self.output.delete_mode(old);
        }
        self.cursor.fit(mode);
    }

    /// The whole output.
    pub fn area(&self) -> Rectangle<i32, Logical> {
        Rectangle::from_size((i32::from(self.mode.width), i32::from(self.mode.height)).into())
    }

    /// The nearest point inside the output; its last column and row are reached.
    pub fn clamp(&self, point: Point<f64, Logical>) -> Point<f64, Logical> {
        let last = |size: u16| f64::from(size) - 1.0;
        (point.x.clamp(0.0, last(self.mode.width)), point.y.clamp(0.0, last(self.mode.height)))
            .into()
    }

    /// Something may look different now.
    pub fn touch_picture(&mut self) {
        self.screen.stale = true;
        self.untidy = true;
    }

    /// After a round of events: what has died is forgotten.
    pub fn tidy(&mut self, now: Time) {
        if !std::mem::take(&mut self.untidy) {
            return;
        }
        self.space.refresh();
        self.popups.cleanup();
        self.forget_dead();
        self.take_stock();
        self.refresh_pointer(now);
        // The clock may have ticked between the events and this.
        self.screen.stale = true;
    }
}

impl State {
    /// Counts what shows something; what was said of an app that did not is forgotten then.
    fn take_stock(&mut self) {
        let layers = layer_map_for_output(&self.output);
        let layers = layers.layers().filter(|l| has_buffer(l.wl_surface())).count();
        let showing = (self.space.elements().len() + layers) as u64;
        if showing > self.figures.showing.value() {
            self.figures.shown.add();
        }
        self.figures.showing.set(showing);
        if showing > 0 {
            self.notice.take_if(|drawn| !drawn.notice.covers);
        }
    }
}

/// Milliseconds for event timestamps.
pub fn millis(now: Time) -> u32 {
    (now.0 / 1_000_000) as u32
}
