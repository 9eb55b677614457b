//! The pointer's picture: the client's surface, or a shape made here.
//!
//! The shapes are polygons in a 24-unit square, drawn white with a dark rim, so that no cursor theme
//! has to be installed. A name without a shape of its own is shown as the arrow.
use std::collections::BTreeMap;

use smithay::backend::allocator::Fourcc;
use smithay::backend::renderer::element::memory::MemoryRenderBuffer;
use smithay::input::pointer::{CursorIcon, CursorImageStatus};
use smithay::utils::Transform;

use crate::proto::stream::Mode;

/// Units of the square that shapes are drawn in.
const UNITS: f32 = 24.0;
/// Width of the dark rim, in units.
const RIM: f32 = 1.3;
/// Pixels of the picture on outputs of up to this height; larger ones get it twice as large.
const SIZE: usize = 24;
const TALL: u16 = 1800;

/// What the pointer looks like.
pub struct Cursor {
    pub image: CursorImageStatus,
    /// The pointer has been used, and not a finger since.
    pub shown: bool,
    scale: usize,
    drawn: BTreeMap<Shape, MemoryRenderBuffer>,
}

/// A shape made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Shape {
    Arrow,
    Cross,
    DiagonalDown,
    DiagonalUp,
    Horizontal,
    Move,
    Text,
    Vertical,
}

impl Cursor {
    pub fn new(mode: Mode) -> Self {
        let mut cursor = Self {
            image: CursorImageStatus::default_named(),
            shown: false,
            scale: 1,
            drawn: BTreeMap::new(),
        };
        cursor.fit(mode);
        cursor
    }

    /// Chooses the size for an output.
    pub fn fit(&mut self, mode: Mode) {
        let scale = if mode.height > TALL { 2 } else { 1 };
        if scale != self.scale {
            self.scale = scale;
            self.drawn.clear();
        }
    }

    /// The picture for a named cursor, and its hot spot in pixels.
    pub fn picture(&mut self, icon: CursorIcon) -> (MemoryRenderBuffer, (i32, i32)) {
        let shape = Shape::of(icon);
        let size = SIZE * self.scale;
        let buffer = self.drawn.entry(shape).or_insert_with(|| {
            let pixels = shape.draw(size);
            let size = (size as i32, size as i32);
            MemoryRenderBuffer::from_slice(
                &pixels,
                Fourcc::Argb8888,
                size,
                1,
                Transform::Normal,
                None,
            )
        });
        let (x, y) = shape.hot_spot();
        let pixel = |unit: f32| (unit / UNITS * size as f32) as i32;
        (buffer.clone(), (pixel(x), pixel(y)))
    }
}

impl Shape {
    fn of(icon: CursorIcon) -> Self {
        use CursorIcon as I;
        match icon {
            I::Text => Self::Text,
            I::Crosshair | I::Cell => Self::Cross,
            I::EResize | I::WResize | I::EwResize | I::ColResize => Self::Horizontal,
            I::NResize | I::SResize | I::NsResize | I::RowResize => Self::Vertical,
            I::NwResize | I::SeResize | I::NwseResize => Self::DiagonalDown,
            I::NeResize | I::SwResize | I::NeswResize => Self::DiagonalUp,
            I::Move | I::AllScroll | I::AllResize | I::Grab | I::Grabbing => Self::Move,
            _ => Self::Arrow,
        }
    }

    /// In units.
    fn hot_spot(self) -> (f32, f32) {
        match self {
            Self::Arrow => (2.0, 2.0),
            _ => (12.0, 12.0),
        }
    }

    /// Outlines in units; a point inside any of them is inside the shape.
    fn outlines(self) -> Vec<Vec<(f32, f32)>> {
        let arrow = vec![
            (2.0, 2.0),
            (2.0, 18.2),
            (6.0, 14.6),
            (8.7, 20.8),
            (11.6, 19.5),
            (9.0, 13.5),
            (14.0, 13.2),
        ];
        let bar = vec![(11.2, 4.0), (12.8, 4.0), (12.8, 20.0), (11.2, 20.0)];
        let serif = |y: f32| vec![(8.5, y), (15.5, y), (15.5, y + 1.6), (8.5, y + 1.6)];
        let vertical = vec![
            (12.0, 2.5),
            (16.0, 7.0),
            (13.0, 7.0),
            (13.0, 17.0),
            (16.0, 17.0),
            (12.0, 21.5),
            (8.0, 17.0),
            (11.0, 17.0),
            (11.0, 7.0),
            (8.0, 7.0),
        ];
        let turned = |degrees: f32| {
            let (sin, cos) = degrees.to_radians().sin_cos();
            let turn = |&(x, y): &(f32, f32)| {
                let (x, y) = (x - 12.0, y - 12.0);
                (12.0 + x * cos - y * sin, 12.0 + x * sin + y * cos)
            };
            vertical.iter().map(turn).collect::<Vec<_>>()
        };
        match self {
            Self::Arrow => vec![arrow],
            Self::Cross => {
                let across = bar.iter().map(|&(x, y)| (y, x)).collect();
                vec![bar, across]
            }
            Self::DiagonalDown => vec![turned(-45.0)],
            Self::DiagonalUp => vec![turned(45.0)],
            Self::Horizontal => vec![turned(90.0)],
            Self::Move => vec![vertical.clone(), turned(90.0)],
            Self::Text => vec![bar, serif(3.0), serif(19.4)],
            Self::Vertical => vec![vertical],
        }
    }

    /// `size` times `size` pixels, ARGB with the colours multiplied by alpha, bytes B G R A.
    fn draw(self, size: usize) -> Vec<u8> {
        let outlines = self.outlines();
        let unit = UNITS / size as f32;
        let mut pixels = Vec::with_capacity(size * size * 4);
        for row in 0..size {
            for column in 0..size {
                let at = ((column as f32 + 0.5) * unit, (row as f32 + 0.5) * unit);
                let distance = outlines
                    .iter()
                    .map(|outline| distance(at, outline))
                    .fold(f32::INFINITY, f32::min);
                // Half a pixel to either side of an edge is blended.
                let alpha = (0.5 - (distance - RIM) / unit).clamp(0.0, 1.0);
                let white = (0.5 - distance / unit).clamp(0.0, 1.0);
                let level = (white * 255.0) as u8;
                pixels.extend([level, level, level, (alpha * 255.0) as u8]);
            }
        }
        pixels
    }
}

/// From a point to a polygon's edge; negative inside.
fn distance((px, py): (f32, f32), polygon: &[(f32, f32)]) -> f32 {
    let mut nearest = f32::INFINITY;
    let mut inside = false;
    let ends = polygon.iter().zip(polygon.iter().cycle().skip(1));
    for (&(ax, ay), &(bx, by)) in ends {
        let (ex, ey) = (bx - ax, by - ay);
        let (wx, wy) = (px - ax, py - ay);
        let along = ((wx * ex + wy * ey) / (ex * ex + ey * ey)).clamp(0.0, 1.0);
        nearest = nearest.min((wx - ex * along).hypot(wy - ey * along));
        if (ay > py) != (by > py) && px < ex * (py - ay) / ey + ax {
            inside = !inside;
        }
    }
    if inside { -nearest } else { nearest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arrow_is_white_with_a_dark_rim_and_clear_around() {
        let pixels = Shape::Arrow.draw(24);
        let at = |x: usize, y: usize| &pixels[(y * 24 + x) * 4..][..4];
        assert_eq!(at(4, 9), [255, 255, 255, 255]);
        assert_eq!(at(22, 2)[3], 0);
        let rim = at(1, 10);
        assert!(rim[3] > 200 && rim[0] < 60, "{rim:?}");
    }

    #[test]
    fn every_shape_covers_its_hot_spot_and_is_premultiplied() {
        use Shape::*;
        for shape in [Arrow, Cross, DiagonalDown, DiagonalUp, Horizontal, Move, Text, Vertical] {
            let pixels = shape.draw(48);
            let (x, y) = shape.hot_spot();
            let at = (y as usize * 2 * 48 + x as usize * 2) * 4;
            assert!(pixels[at + 3] > 0, "{shape:?}");
            assert!(pixels.chunks(4).all(|p| p[0] <= p[3]), "{shape:?}");
        }
    }
}
