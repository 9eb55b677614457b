//! Drawing into a picture of XRGB pixels in memory. It knows nothing of Wayland.

use std::ops::Range;

/// Bytes of a pixel: blue, green, red, and one without a meaning.
pub const PIXEL_BYTES: usize = 4;

/// A part of a picture in pixels; it may reach over the picture's edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    pub x: i32,
    pub y: i32,
    pub width: i32,
    pub height: i32,
}

impl Area {
    pub fn new(x: i32, y: i32, width: i32, height: i32) -> Self {
        Self { x, y, width, height }
    }

    pub fn contains(&self, x: f64, y: f64) -> bool {
        let (left, top) = (f64::from(self.x), f64::from(self.y));
        x >= left
            && y >= top
            && x < left + f64::from(self.width)
            && y < top + f64::from(self.height)
    }
}

/// A picture to draw into. Colours are 0xRRGGBB; what lies outside the picture is not drawn.
pub struct Canvas<'a> {
    bytes: &'a mut [u8],
    width: usize,
    height: usize,
    /// Nothing outside is drawn: columns and rows.
    limits: (Range<usize>, Range<usize>),
}

impl<'a> Canvas<'a> {
    /// Over `width * height * 4` bytes, row by row.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn new(bytes: &'a mut [u8], width: u32, height: u32) -> Self {
        let (width, height) = (width as usize, height as usize);
        assert!(bytes.len() >= width * height * PIXEL_BYTES, "a canvas over too few bytes");
        Self { bytes, width, height, limits: (0..width, 0..height) }
    }

    /// The same picture, of which only this area can be drawn into.
    pub fn within(&mut self, area: Area) -> Canvas<'_> {
        let limits = self.limited(area);
        Canvas { bytes: self.bytes, width: self.width, height: self.height, limits }
    }

    pub fn whole(&self) -> Area {
        Area::new(0, 0, self.width as i32, self.height as i32)
    }

    /// The columns and rows of the area that can be drawn into.
    fn limited(&self, area: Area) -> (Range<usize>, Range<usize>) {
        let cut = |start: i32, length: i32, limits: &Range<usize>| {
            let inside = |place: i64| (place.max(0) as usize).clamp(limits.start, limits.end);
            let start = i64::from(start);
            inside(start)..inside(start + i64::from(length))
        };
        let (columns, rows) = &self.limits;
        (cut(area.x, area.width, columns), cut(area.y, area.height, rows))
    }

    /// First and last byte of the area's first row, and its rows; None: nothing of it is inside.
    fn rows(&self, area: Area) -> Option<(usize, usize, Range<usize>)> {
        let (columns, rows) = self.limited(area);
        let bytes = (columns.start * PIXEL_BYTES, columns.end * PIXEL_BYTES);
        (!columns.is_empty() && !rows.is_empty()).then_some((bytes.0, bytes.1, rows))
    }

    pub fn fill(&mut self, area: Area, colour: u32) {
        let Some((left, right, rows)) = self.rows(area) else { return };
        let stride = self.width * PIXEL_BYTES;
        let first = rows.start * stride;
        let pixel = colour.to_le_bytes();
        for target in self.bytes[first + left..first + right].chunks_exact_mut(PIXEL_BYTES) {
            target.copy_from_slice(&pixel);
        }
        for row in rows.skip(1) {
            self.bytes.copy_within(first + left..first + right, row * stride + left);
        }
    }

    /// Takes this part over from a picture of the same size.
    ///
    /// # Panics
    /// If `picture` is smaller than this one.
    pub fn copy(&mut self, picture: &[u8], area: Area) {
        let Some((left, right, rows)) = self.rows(area) else { return };
        let stride = self.width * PIXEL_BYTES;
        for row in rows {
            let part = row * stride + left..row * stride + right;
            self.bytes[part.clone()].copy_from_slice(&picture[part]);
        }
    }

    /// Writes the same row of pixels into all rows of the area; what it lacks stays as it is.
    pub fn rows_of(&mut self, area: Area, pixels: &[u8]) {
        let Some((left, right, rows)) = self.rows(area) else { return };
        let stride = self.width * PIXEL_BYTES;
        let length = (right - left).min(pixels.len());
        for row in rows {
            let start = row * stride + left;
            self.bytes[start..start + length].copy_from_slice(&pixels[..length]);
        }
    }

    /// Lays a colour over a pixel; a coverage of 255 hides what was there.
    pub fn blend(&mut self, x: i32, y: i32, colour: u32, coverage: u8) {
        let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else { return };
        let (columns, rows) = &self.limits;
        if !columns.contains(&x) || !rows.contains(&y) || coverage == 0 {
            return;
        }
        let start = (y * self.width + x) * PIXEL_BYTES;
        let over = u32::from(coverage);
        let pixel = &mut self.bytes[start..start + 3];
        for (target, new) in pixel.iter_mut().zip(colour.to_le_bytes()) {
            let mixed = u32::from(*target) * (255 - over) + u32::from(new) * over + 127;
            *target = (mixed / 255) as u8;
        }
    }

    /// A filled area with round corners.
    pub fn fill_round(&mut self, area: Area, radius: i32, colour: u32) {
        let middle = Area::new(area.x, area.y + radius, area.width, area.height - 2 * radius);
        self.fill(middle, colour);
        let inner = area.width - 2 * radius;
        self.fill(Area::new(area.x + radius, area.y, inner, radius), colour);
        let low = area.y + area.height - radius;
        self.fill(Area::new(area.x + radius, low, inner, radius), colour);
        for y in 0..radius {
            for x in 0..radius {
                let (dx, dy) = (f64::from(radius - x) - 0.5, f64::from(radius - y) - 0.5);
                let cover = coverage(f64::from(radius) - dx.hypot(dy));
                let (right, bottom) = (area.x + area.width - 1 - x, area.y + area.height - 1 - y);
                for (x, y) in [
                    (area.x + x, area.y + y),
                    (right, area.y + y),
                    (area.x + x, bottom),
                    (right, bottom),
                ] {
                    self.blend(x, y, colour, cover);
                }
            }
        }
    }
}

/// How much of a pixel is covered whose centre lies this far inside an edge.
pub fn coverage(inside: f64) -> u8 {
    ((inside + 0.5).clamp(0.0, 1.0) * 255.0) as u8
}

/// Between two colours; 0 is the first, 1 the second.
pub fn mix(from: u32, to: u32, part: f64) -> u32 {
    let channel = |shift: u32| {
        let value = |colour: u32| f64::from(colour >> shift & 0xFF);
        let mixed = value(from) + (value(to) - value(from)) * part.clamp(0.0, 1.0);
        (mixed.round() as u32) << shift
    };
    channel(16) | channel(8) | channel(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(bytes: &[u8], width: usize, x: usize, y: usize) -> u32 {
        let start = (y * width + x) * PIXEL_BYTES;
        u32::from_le_bytes(bytes[start..start + 4].try_into().unwrap()) & 0xFF_FF_FF
    }

    #[test]
    fn areas_are_cut_at_the_edges() {
        let mut bytes = vec![0; 4 * 3 * PIXEL_BYTES];
        let mut canvas = Canvas::new(&mut bytes, 4, 3);
        canvas.fill(Area::new(-5, -5, 7, 6), 0x11_22_33);
        canvas.fill(Area::new(3, 2, i32::MAX, i32::MAX), 0x44_55_66);
        canvas.fill(Area::new(9, 9, 1, 1), 0xFF_FF_FF);
        canvas.fill(Area::new(0, 0, -1, 5), 0xFF_FF_FF);
        canvas.blend(-1, 0, 0xFF_FF_FF, 255);
        canvas.blend(4, 0, 0xFF_FF_FF, 255);
        canvas.within(Area::new(1, 0, 9, 1)).fill(Area::new(0, 0, 2, 9), 0x11_22_34);
        let lit: Vec<_> = (0..12).filter(|i| at(&bytes, 4, i % 4, i / 4) != 0).collect();
        assert_eq!(lit, [0, 1, 11]);
        assert_eq!((at(&bytes, 4, 1, 0), at(&bytes, 4, 3, 2)), (0x11_22_34, 0x44_55_66));
    }

    #[test]
    fn colours_mix() {
        assert_eq!(mix(0x00_00_00, 0xFF_80_00, 0.5), 0x80_40_00);
        let mut bytes = vec![0; PIXEL_BYTES];
        Canvas::new(&mut bytes, 1, 1).blend(0, 0, 0xFF_80_00, 128);
        assert_eq!(at(&bytes, 1, 0, 0), 0x80_40_00);
    }
}
