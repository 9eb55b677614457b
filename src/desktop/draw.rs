//! What is on the output, front to back, and the beat that the applications hear.
use std::cell::Cell;
use std::time::Duration;

use smithay::backend::renderer::Color32F;
use smithay::backend::renderer::element::memory::MemoryRenderBufferRenderElement;
use smithay::backend::renderer::element::solid::SolidColorRenderElement;
use smithay::backend::renderer::element::surface::{
    WaylandSurfaceRenderElement, render_elements_from_surface_tree,
};
use smithay::backend::renderer::element::{AsRenderElements, Element, Id, Kind, RenderElement};
use smithay::backend::renderer::pixman::{PixmanError, PixmanFrame, PixmanRenderer};
use smithay::backend::renderer::utils::{CommitCounter, DamageSet, OpaqueRegions};
use smithay::desktop::layer_map_for_output;
use smithay::desktop::utils::{
    OutputPresentationFeedback, send_frames_surface_tree, take_presentation_feedback_surface_tree,
};
use smithay::input::pointer::{CursorImageStatus, CursorImageSurfaceData};
use smithay::reexports::wayland_protocols::wp::presentation_time::server::wp_presentation_feedback;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::utils::{
    Buffer, IsAlive, Logical, Monotonic, Physical, Point, Rectangle, Scale, Transform,
};
use smithay::wayland::compositor::with_states;
use smithay::wayland::presentation::Refresh;
use smithay::wayland::shell::wlr_layer::Layer;

use super::border::Border;
use super::clock::{Due, RefreshClock};
use super::notice;
use super::state::State;
use super::windows::{Lie, is_active, lie};
use crate::time::Time;

/// How often a window behind a fullscreen one is told to go on.
const COVERED_BEAT: Duration = Duration::from_secs(1);

/// One thing to draw. A piece whose drawing fails is left out; the others are drawn all the same: no
/// client can take the picture from the rest.
pub struct Piece<'a> {
    content: Content,
    failures: &'a Cell<u32>,
}

enum Content {
    Memory(MemoryRenderBufferRenderElement<PixmanRenderer>),
    Solid(SolidColorRenderElement),
    Surface(WaylandSurfaceRenderElement<PixmanRenderer>),
}

impl From<WaylandSurfaceRenderElement<PixmanRenderer>> for Content {
    fn from(element: WaylandSurfaceRenderElement<PixmanRenderer>) -> Self {
        Self::Surface(element)
    }
}

macro_rules! of_content {
    ($piece:expr, $element:ident => $call:expr) => {
        match &$piece.content {
            Content::Memory($element) => $call,
            Content::Solid($element) => $call,
            Content::Surface($element) => $call,
        }
    };
}

impl Element for Piece<'_> {
    fn id(&self) -> &Id {
        of_content!(self, e => e.id())
    }
    fn current_commit(&self) -> CommitCounter {
        of_content!(self, e => e.current_commit())
    }
    fn location(&self, scale: Scale<f64>) -> Point<i32, Physical> {
        of_content!(self, e => e.location(scale))
    }
    fn src(&self) -> Rectangle<f64, Buffer> {
        of_content!(self, e => e.src())
    }
    fn transform(&self) -> Transform {
        of_content!(self, e => e.transform())
    }
    fn geometry(&self, scale: Scale<f64>) -> Rectangle<i32, Physical> {
        of_content!(self, e => e.geometry(scale))
    }
    fn damage_since(
        &self,
        scale: Scale<f64>,
        commit: Option<CommitCounter>,
    ) -> DamageSet<i32, Physical> {
        of_content!(self, e => e.damage_since(scale, commit))
    }
    fn opaque_regions(&self, scale: Scale<f64>) -> OpaqueRegions<i32, Physical> {
        of_content!(self, e => e.opaque_regions(scale))
    }
    fn alpha(&self) -> f32 {
        of_content!(self, e => e.alpha())
    }
    fn kind(&self) -> Kind {
        of_content!(self, e => e.kind())
    }
}

impl RenderElement<PixmanRenderer> for Piece<'_> {
    fn draw(
        &self,
        frame: &mut PixmanFrame<'_, '_>,
        src: Rectangle<f64, Buffer>,
        dst: Rectangle<i32, Physical>,
        damage: &[Rectangle<i32, Physical>],
        opaque: &[Rectangle<i32, Physical>],
    ) -> Result<(), PixmanError> {
        let drawn = of_content!(self, e => {
            RenderElement::<PixmanRenderer>::draw(e, frame, src, dst, damage, opaque)
        });
        if let Err(e) = drawn {
            self.failures.set(self.failures.get() + 1);
            tracing::debug!(error = %e, "a piece was left out");
        }
        Ok(())
    }
}

impl State {
    /// When the next tick is due.
    pub fn next_tick(&self, now: Time) -> Time {
        self.screen.clock().next_after(now)
    }

    /// The grid that ticks lie on.
    pub fn tick_rate(&self) -> RefreshClock {
        self.screen.clock()
    }

    /// The refresh clock has ticked: a frame goes out if one is due, and the applications go on.
    pub fn tick(&mut self, now: Time) {
        self.screen.take_back(&self.figures);
        let shown = self.screen.is_attached() && self.show(now);
        self.beat(now, shown || !self.screen.is_attached());
    }

    fn show(&mut self, now: Time) -> bool {
        let failures = Cell::new(0);
        let mut pieces = self.screen.stale.then(|| self.pieces(&failures));
        let due = self.screen.due(now, pieces.as_deref());
        let repeated = match due {
            Due::Nothing => return false,
            Due::Frame => false,
            Due::Repeat => true,
        };
        if repeated && self.screen.has_current_slot() {
            pieces = None;
        } else if pieces.is_none() {
            pieces = Some(self.pieces(&failures));
        }
        let shown = self.screen.show(pieces.as_deref(), repeated, &self.figures);
        if failures.get() > 0 {
            self.figures.pieces_left_out.add();
        }
        shown
    }

    /// Everything visible, front to back.
    fn pieces<'a>(&mut self, failures: &'a Cell<u32>) -> Vec<Piece<'a>> {
        let mut contents = self.cursor_contents();
        if self.notice.is_some() {
            self.notice_contents(&mut contents);
            if self.notice.as_ref().is_some_and(|drawn| drawn.notice.covers) {
                return contents.into_iter().map(|content| Piece { content, failures }).collect();
            }
        }
        let (upper, lower) = self.layer_order();
        self.layer_contents(&upper, &mut contents);
        let mut covered = false;
        for window in self.space.elements().rev() {
            let Some(location) = self.space.element_location(window) else { continue };
            let at = location - window.geometry().loc;
            contents.extend(AsRenderElements::render_elements::<Content>(
                window,
                &mut self.screen.renderer,
                at.to_physical(1),
                Scale::from(1.0),
                1.0,
            ));
            if lie(window) == Lie::Fullscreen {
                // Nothing of what is below may show through, even if the window is too small.
                let buffer = &mut self.backdrop;
                buffer.update(
                    self.space
                        .output_geometry(&self.output)
                        .map_or_else(Default::default, |g| g.size),
                    Color32F::BLACK,
                );
                contents.push(Content::Solid(SolidColorRenderElement::from_buffer(
                    buffer,
                    (0, 0),
                    1.0,
                    1.0,
                    Kind::Unspecified,
                )));
                covered = true;
                break;
            }
            if lie(window) == Lie::Floating
                && let Some(border) = window.user_data().get::<Border>()
                && let Some(geometry) = self.space.element_geometry(window)
            {
                let sides = border.around(geometry, is_active(window));
                contents.extend(sides.into_iter().map(Content::Solid));
            }
        }
        if !covered {
            self.layer_contents(&lower, &mut contents);
        }
        contents.into_iter().map(|content| Piece { content, failures }).collect()
    }

    /// What we have to say, drawn anew for a new mode.
    fn notice_contents(&mut self, contents: &mut Vec<Content>) {
        if let Some(old) = self.notice.take_if(|drawn| !drawn.fits(self.mode)) {
            self.notice = Some(notice::Drawn::new(old.notice, self.mode));
        }
        let Some(drawn) = &self.notice else { return };
        let element = MemoryRenderBufferRenderElement::from_buffer(
            &mut self.screen.renderer,
            drawn.at.to_f64().to_physical(1.0),
            &drawn.picture,
            None,
            None,
            None,
            Kind::Unspecified,
        );
        contents.extend(element.ok().map(Content::Memory));
    }

    fn layer_contents(&mut self, layers: &[Layer], contents: &mut Vec<Content>) {
        let map = layer_map_for_output(&self.output);
        for layer in layers.iter().flat_map(|&on| map.layers_on(on).rev()) {
            let Some(geometry) = map.layer_geometry(layer) else { continue };
            contents.extend(AsRenderElements::render_elements::<Content>(
                layer,
                &mut self.screen.renderer,
                geometry.loc.to_physical(1),
                Scale::from(1.0),
                1.0,
            ));
        }
    }

    /// The cursor, and what is dragged under it.
    fn cursor_contents(&mut self) -> Vec<Content> {
        let mut contents = Vec::new();
        if !self.cursor.shown {
            return contents;
        }
        let at: Point<i32, Logical> = self.pointer.current_location().to_i32_floor();
        if let CursorImageStatus::Surface(surface) = &self.cursor.image
            && !surface.alive()
        {
            self.cursor.image = CursorImageStatus::default_named();
        }
        let renderer = &mut self.screen.renderer;
        match self.cursor.image.clone() {
            CursorImageStatus::Hidden => {}
            CursorImageStatus::Surface(surface) => {
                let at = (at - hot_spot(&surface)).to_physical(1);
                contents.extend(render_elements_from_surface_tree::<_, Content>(
                    renderer,
                    &surface,
                    at,
                    1.0,
                    1.0,
                    Kind::Cursor,
                ));
            }
            CursorImageStatus::Named(icon) => {
                let (picture, (x, y)) = self.cursor.picture(icon);
                let at = (f64::from(at.x - x), f64::from(at.y - y));
                let element = MemoryRenderBufferRenderElement::from_buffer(
                    renderer,
                    at,
                    &picture,
                    None,
                    None,
                    None,
                    Kind::Cursor,
                );
                contents.extend(element.ok().map(Content::Memory));
            }
        }
        if let Some(icon) = self.drag_icon.as_ref().filter(|icon| icon.alive()) {
            contents.extend(render_elements_from_surface_tree::<_, Content>(
                renderer,
                icon,
                at.to_physical(1),
                1.0,
                1.0,
                Kind::Unspecified,
            ));
        }
        contents
    }

    /// Tells the applications that a frame has passed. `presented`: what they had committed was shown,
    /// or nobody looks.
    fn beat(&mut self, now: Time, presented: bool) {
        let time = Duration::from_nanos(now.0);
        let output = &self.output;
        let always = Some(Duration::ZERO);
        let mut covered = false;
        for window in self.space.elements().rev() {
            if covered {
                window.send_frame(output, time, Some(COVERED_BEAT), |_, _| None);
            } else {
                window.send_frame(output, time, always, |_, _| Some(output.clone()));
            }
            covered |= lie(window) == Lie::Fullscreen;
        }
        for window in &self.unmapped {
            window.send_frame(output, time, always, |_, _| Some(output.clone()));
        }
        let map = layer_map_for_output(output);
        for layer in map.layers() {
            layer.send_frame(output, time, always, |_, _| Some(output.clone()));
        }
        let cursor = match &self.cursor.image {
            CursorImageStatus::Surface(surface) => Some(surface),
            _ => None,
        };
        for surface in cursor.into_iter().chain(&self.drag_icon).filter(|s| s.alive()) {
            send_frames_surface_tree(surface, output, time, always, |_, _| Some(output.clone()));
        }
        if !presented {
            return;
        }
        let none = wp_presentation_feedback::Kind::empty();
        let mut feedback = OutputPresentationFeedback::new(output);
        for window in self.space.elements() {
            window.take_presentation_feedback(
                &mut feedback,
                |_, _| Some(output.clone()),
                |_, _| none,
            );
        }
        for layer in map.layers() {
            layer.take_presentation_feedback(
                &mut feedback,
                |_, _| Some(output.clone()),
                |_, _| none,
            );
        }
        if let Some(cursor) = cursor.filter(|s| s.alive()) {
            take_presentation_feedback_surface_tree(
                cursor,
                &mut feedback,
                |_, _| Some(output.clone()),
                |_, _| none,
            );
        }
        self.presentations += 1;
        let refresh = Refresh::fixed(self.screen.clock().interval());
        feedback.presented::<_, Monotonic>(time, refresh, self.presentations, none);
    }
}

fn hot_spot(surface: &WlSurface) -> Point<i32, Logical> {
    with_states(surface, |states| {
        let data = states.data_map.get::<CursorImageSurfaceData>();
        data.and_then(|d| d.lock().ok().map(|d| d.hotspot)).unwrap_or_default()
    })
}
