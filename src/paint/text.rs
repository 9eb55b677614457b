//! Text at one size: DejaVu where it is installed, else coarse letters of dots. Loading reads files.
use std::collections::BTreeMap;

use ab_glyph::{Font as _, FontVec, PxScale, ScaleFont as _};

use super::canvas::Canvas;
use super::dots;

const DIRECTORY: &str = "/usr/share/fonts/truetype/dejavu";
/// Letters that are kept drawn; then they are drawn anew.
const GLYPHS_MAX: usize = 256;

/// Which letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    Regular,
    Bold,
}

/// A face at one size.
pub struct Font {
    /// None: not installed.
    outlines: Option<FontVec>,
    pixels: f32,
    glyphs: BTreeMap<char, Glyph>,
}

/// A drawn letter: coverage row by row, from `(left, top)` relative to the pen on the baseline.
struct Glyph {
    advance: f32,
    left: i32,
    top: i32,
    width: usize,
    coverage: Vec<u8>,
}

impl Font {
    /// `pixels` is the height from the lowest descender to the highest ascender.
    pub fn new(face: Face, pixels: f32) -> Self {
        let file = match face {
            Face::Regular => "DejaVuSans.ttf",
            Face::Bold => "DejaVuSans-Bold.ttf",
        };
        let path = format!("{DIRECTORY}/{file}");
        let read = std::fs::read(&path).map_err(|error| error.to_string());
        let read = read.and_then(|b| FontVec::try_from_vec(b).map_err(|e| e.to_string()));
        if let Err(error) = &read {
            tracing::warn!(path, error, package = "fonts-dejavu-core", "coarse letters only");
        }
        Self { outlines: read.ok(), pixels, glyphs: BTreeMap::new() }
    }

    /// Letters of dots, whatever is installed.
    #[cfg(test)]
    fn coarse(pixels: f32) -> Self {
        Self { outlines: None, pixels, glyphs: BTreeMap::new() }
    }

    /// From the baseline up to the tops of capitals.
    pub fn capital_height(&self) -> i32 {
        (self.pixels * 0.62).round() as i32
    }

    /// Pixels that the text takes.
    pub fn width(&mut self, text: &str) -> i32 {
        text.chars().map(|letter| self.glyph(letter).advance).sum::<f32>().ceil() as i32
    }

    /// Draws the text from the pen position on; gives where the pen is then.
    pub fn draw(
        &mut self,
        canvas: &mut Canvas<'_>,
        (x, baseline): (i32, i32),
        colour: u32,
        text: &str,
    ) -> i32 {
        let mut pen = x as f32;
        for letter in text.chars() {
            let glyph = self.glyph(letter);
            let (left, top) = (pen.round() as i32 + glyph.left, baseline + glyph.top);
            for (row, line) in (top..).zip(glyph.coverage.chunks(glyph.width.max(1))) {
                for (column, cover) in (left..).zip(line) {
                    canvas.blend(column, row, colour, *cover);
                }
            }
            pen += glyph.advance;
        }
        pen.ceil() as i32
    }

    fn glyph(&mut self, letter: char) -> &Glyph {
        if self.glyphs.len() >= GLYPHS_MAX && !self.glyphs.contains_key(&letter) {
            self.glyphs.clear();
        }
        let (outlines, pixels) = (&self.outlines, self.pixels);
        self.glyphs.entry(letter).or_insert_with(|| match outlines {
            Some(font) => outlined(font, pixels, letter),
            None => dotted(pixels, letter),
        })
    }
}

fn outlined(font: &FontVec, pixels: f32, letter: char) -> Glyph {
    let id = font.glyph_id(letter);
    let scale = PxScale::from(pixels);
    let advance = font.as_scaled(scale).h_advance(id);
    let Some(outline) = font.outline_glyph(id.with_scale(scale)) else {
        return Glyph { advance, left: 0, top: 0, width: 0, coverage: Vec::new() };
    };
    let bounds = outline.px_bounds();
    let (width, height) = (bounds.width() as usize, bounds.height() as usize);
    let mut coverage = vec![0; width * height];
    outline.draw(|x, y, cover| {
        if let Some(target) = coverage.get_mut(y as usize * width + x as usize) {
            *target = (cover.clamp(0.0, 1.0) * 255.0) as u8;
        }
    });
    Glyph { advance, left: bounds.min.x as i32, top: bounds.min.y as i32, width, coverage }
}

fn dotted(pixels: f32, letter: char) -> Glyph {
    let dot = (pixels / 12.0).round().max(1.0) as usize;
    let columns = dots::columns(letter);
    let (width, height) = (columns.len() * dot, dots::ROWS * dot);
    let lit = |x: usize, y: usize| columns[x / dot] >> (y / dot) & 1 == 1;
    let coverage = (0..width * height).map(|i| u8::from(lit(i % width, i / width)) * 255).collect();
    let advance = (dots::ADVANCE * dot) as f32;
    Glyph { advance, left: 0, top: -(height as i32), width, coverage }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_drawn_where_it_is_said_and_as_wide() {
        for mut font in [Font::new(Face::Regular, 20.0), Font::coarse(20.0)] {
            let mut bytes = vec![0; 200 * 40 * 4];
            let mut canvas = Canvas::new(&mut bytes, 200, 40);
            let end = font.draw(&mut canvas, (10, 30), 0xFF_FF_FF, "Hey 12é");
            assert_eq!(end, 10 + font.width("Hey 12é"));
            let lit = |x: usize, y: usize| bytes[(y * 200 + x) * 4] > 100;
            let columns: Vec<_> = (0..200).filter(|&x| (0..40).any(|y| lit(x, y))).collect();
            assert!(*columns.first().unwrap() >= 10 && *columns.last().unwrap() < end as usize);
            let rows: Vec<_> = (0..40).filter(|&y| (0..200).any(|x| lit(x, y))).collect();
            assert!(*rows.first().unwrap() > 9 && *rows.last().unwrap() < 37);
        }
    }

    #[test]
    fn letters_are_not_kept_without_bound() {
        let mut font = Font::coarse(10.0);
        for letter in ('\u{4e00}'..).take(1000) {
            font.width(&letter.to_string());
        }
        assert!(font.glyphs.len() <= GLYPHS_MAX);
    }
}
