//! A thin line around a floating window that negotiates its decoration: two dark terminals would
//! otherwise run into one. Toolkits that do not negotiate draw shadows of their own.
use std::cell::RefCell;

use smithay::backend::renderer::Color32F;
use smithay::backend::renderer::element::Kind;
use smithay::backend::renderer::element::solid::{SolidColorBuffer, SolidColorRenderElement};
use smithay::utils::{Logical, Point, Rectangle, Scale};

/// Pixels.
const WIDTH: i32 = 1;
const ACTIVE: Color32F = Color32F::new(0.45, 0.55, 0.70, 1.0);
const INACTIVE: Color32F = Color32F::new(0.27, 0.29, 0.33, 1.0);

/// The four sides, kept on the window so that unchanged ones cause no drawing.
#[derive(Default)]
pub struct Border(RefCell<[SolidColorBuffer; 4]>);

impl Border {
    /// The line around a rectangle of the output.
    pub fn around(
        &self,
        inner: Rectangle<i32, Logical>,
        active: bool,
    ) -> Vec<SolidColorRenderElement> {
        let colour = if active { ACTIVE } else { INACTIVE };
        let (x, y) = (inner.loc.x, inner.loc.y);
        let (w, h) = (inner.size.w.max(0), inner.size.h.max(0));
        let across = w.saturating_add(2 * WIDTH);
        let sides = [
            ((x - WIDTH, y - WIDTH), (across, WIDTH)),
            ((x - WIDTH, y.saturating_add(h)), (across, WIDTH)),
            ((x - WIDTH, y), (WIDTH, h)),
            ((x.saturating_add(w), y), (WIDTH, h)),
        ];
        let mut buffers = self.0.borrow_mut();
        buffers
            .iter_mut()
            .zip(sides)
            .map(|(buffer, (at, size))| {
                buffer.update(size, colour);
                let at = Point::<i32, Logical>::from(at).to_physical(1);
                let scale = Scale::from(1.0);
                SolidColorRenderElement::from_buffer(buffer, at, scale, 1.0, Kind::Unspecified)
            })
            .collect()
    }
}
