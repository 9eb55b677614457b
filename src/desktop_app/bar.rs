//! The bar's and the background's look. Where a click belongs, but not what it does.
use crate::paint::canvas::{Area, Canvas, mix};
use crate::paint::text::{Face, Font};

/// Pixels on an output of up to 1080 rows; see [`scaled`].
const HEIGHT: u32 = 34;
const FONT: f32 = 16.0;
const PADDING: u32 = 14;
const MARGIN: u32 = 4;
const HINT: &str = "Alt+Tab  next window      Alt+F4  close";
const GROUND: u32 = 0x16_1B_22;
const EDGE: u32 = 0x2C_35_42;
const TEXT: u32 = 0xE6_EA_F0;
const FAINT: u32 = 0x7A_84_92;
const WARNING: u32 = 0xFF_B0_30;
const HOVER: u32 = 0x34_41_54;

/// What can be clicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Button {
    Applications,
    Terminal,
    Quit,
}

/// What the bar shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    pub hover: Option<Button>,
    /// Hours and minutes.
    pub time: (u8, u8),
    /// Something that went wrong.
    pub notice: String,
}

/// What takes `pixels` on an output of 1080 rows, on one of `rows`: all is as large to the eye, and
/// never smaller than it is legible.
pub fn scaled(pixels: u32, rows: u32) -> u32 {
    (pixels * rows.clamp(1_080, 4_320)).div_ceil(1_080)
}

/// The bar's height on an output of so many rows.
pub fn height(rows: u32) -> u32 {
    scaled(HEIGHT, rows)
}

/// The bar at one width, on an output of so many rows.
pub struct Bar {
    font: Font,
    width: i32,
    height: i32,
    padding: i32,
    margin: i32,
}

impl Bar {
    pub fn new(width: u32, rows: u32) -> Self {
        let pixels = |at: u32| scaled(at, rows) as i32;
        Self {
            font: Font::new(Face::Regular, FONT * rows.clamp(1_080, 4_320) as f32 / 1_080.0),
            width: width as i32,
            height: height(rows) as i32,
            padding: pixels(PADDING),
            margin: pixels(MARGIN),
        }
    }

    fn buttons(&mut self) -> [(Button, &'static str, Area); 3] {
        let (margin, padding) = (self.margin, self.padding);
        let height = self.height - 2 * margin;
        let mut wide = |text: &str| self.font.width(text) + 2 * padding;
        let (applications, terminal, quit) = (wide("Applications"), wide("Terminal"), wide("Quit"));
        let area = |x, width| Area::new(x, margin, width, height);
        let second = 2 * margin + applications;
        [
            (Button::Applications, "Applications", area(margin, applications)),
            (Button::Terminal, "Terminal", area(second, terminal)),
            (Button::Quit, "Quit", area(self.width - quit - margin, quit)),
        ]
    }

    pub fn button_at(&mut self, x: f64, y: f64) -> Option<Button> {
        let hit = self.buttons().into_iter().find(|(_, _, area)| area.contains(x, y));
        hit.map(|(button, _, _)| button)
    }

    pub fn draw(&mut self, canvas: &mut Canvas<'_>, content: &Content) {
        canvas.fill(canvas.whole(), GROUND);
        canvas.fill(Area::new(0, 0, self.width, 1), EDGE);
        let baseline = (self.height + self.font.capital_height()) / 2;
        let mut free = (0, self.width);
        for (button, text, area) in self.buttons() {
            if content.hover == Some(button) {
                canvas.fill_round(area, self.margin + 1, HOVER);
            }
            self.font.draw(canvas, (area.x + self.padding, baseline), TEXT, text);
            match button {
                Button::Quit => free.1 = area.x,
                _ => free.0 = area.x + area.width,
            }
        }
        let time = format!("{:02}:{:02}", content.time.0, content.time.1);
        let x = free.1 - self.padding - self.font.width(&time);
        self.font.draw(canvas, (x, baseline), TEXT, &time);
        let (text, colour) = match content.notice.as_str() {
            "" => (HINT, FAINT),
            notice => (notice, WARNING),
        };
        let room = x - self.padding - free.0;
        let left = match colour {
            FAINT => free.0 + (room - self.font.width(text)) / 2,
            _ => free.0 + self.padding,
        };
        if left > free.0 {
            self.font.draw(canvas, (left, baseline), colour, text);
        }
    }
}

/// The background: night blue that brightens towards the lower right, with two soft lights.
pub fn draw_background(canvas: &mut Canvas<'_>) {
    let whole = canvas.whole();
    let (width, height) = (f64::from(whole.width), f64::from(whole.height));
    for y in 0..whole.height {
        for x in 0..whole.width {
            let (u, v) = (f64::from(x) / width, f64::from(y) / height);
            let glow = |cx: f64, cy: f64, reach: f64| {
                let (dx, dy) = ((u - cx) * width / height, v - cy);
                (1.0 - dx.hypot(dy) / reach).max(0.0).powi(2)
            };
            let ground = mix(0x10_1A_2C, 0x23_3C_5C, u * 0.4 + v * 0.6);
            let lit = mix(ground, 0x3E_7C_A8, glow(0.82, 0.15, 0.95) * 0.8);
            let colour = mix(lit, 0x8A_5A_9E, glow(0.15, 0.95, 0.8) * 0.55);
            // Dither, since the steps of a dark gradient are seen.
            let noise = (x.wrapping_mul(73) ^ y.wrapping_mul(151)) & 1;
            let colour = if noise == 1 { colour } else { mix(colour, 0, 0.006) };
            canvas.fill(Area::new(x, y, 1, 1), colour);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_button_is_where_it_is_drawn_and_none_overlap() {
        for (width, rows) in [(1280, 720), (1920, 1080), (3840, 2160)] {
            let mut bar = Bar::new(width, rows);
            for (button, _, area) in bar.buttons() {
                let (x, y) = (f64::from(area.x), f64::from(area.y));
                assert_eq!(bar.button_at(x + f64::from(area.width) / 2.0, y + 5.0), Some(button));
                assert_eq!(bar.button_at(x + 0.5, y + 0.5), Some(button));
            }
            assert_eq!(bar.button_at(f64::from(width) / 2.0, 10.0), None);
        }
        assert_eq!((height(720), height(1080), height(2160)), (34, 34, 68));
    }
}
