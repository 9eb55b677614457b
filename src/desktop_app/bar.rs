//! The bar's and the background's look. Where a click belongs, but not what it does.
use crate::paint::canvas::{Area, Canvas, mix};
use crate::paint::text::{Face, Font};

/// Pixels.
pub const HEIGHT: u32 = 34;
const FONT: f32 = 16.0;
const PADDING: i32 = 14;
const MARGIN: i32 = 4;
const GROUND: u32 = 0x16_1B_22;
const EDGE: u32 = 0x2C_35_42;
const TEXT: u32 = 0xE6_EA_F0;
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

/// The bar at one width.
pub struct Bar {
    font: Font,
    width: i32,
}

impl Bar {
    pub fn new(width: u32) -> Self {
        Self { font: Font::new(Face::Regular, FONT), width: width as i32 }
    }

    fn buttons(&mut self) -> [(Button, &'static str, Area); 3] {
        let height = HEIGHT as i32 - 2 * MARGIN;
        let mut wide = |text: &str| self.font.width(text) + 2 * PADDING;
        let (applications, terminal, quit) = (wide("Applications"), wide("Terminal"), wide("Quit"));
        let area = |x, width| Area::new(x, MARGIN, width, height);
        let second = 2 * MARGIN + applications;
        [
            (Button::Applications, "Applications", area(MARGIN, applications)),
            (Button::Terminal, "Terminal", area(second, terminal)),
            (Button::Quit, "Quit", area(self.width - quit - MARGIN, quit)),
        ]
    }

    pub fn button_at(&mut self, x: f64, y: f64) -> Option<Button> {
        let hit = self.buttons().into_iter().find(|(_, _, area)| area.contains(x, y));
        hit.map(|(button, _, _)| button)
    }

    pub fn draw(&mut self, canvas: &mut Canvas<'_>, content: &Content) {
        canvas.fill(canvas.whole(), GROUND);
        canvas.fill(Area::new(0, 0, self.width, 1), EDGE);
        let baseline = (HEIGHT as i32 + self.font.capital_height()) / 2;
        let mut free = (0, self.width);
        for (button, text, area) in self.buttons() {
            if content.hover == Some(button) {
                canvas.fill_round(area, 5, HOVER);
            }
            self.font.draw(canvas, (area.x + PADDING, baseline), TEXT, text);
            match button {
                Button::Quit => free.1 = area.x,
                _ => free.0 = area.x + area.width,
            }
        }
        let time = format!("{:02}:{:02}", content.time.0, content.time.1);
        let x = free.1 - PADDING - self.font.width(&time);
        self.font.draw(canvas, (x, baseline), TEXT, &time);
        self.font.draw(canvas, (free.0 + PADDING, baseline), WARNING, &content.notice);
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
        let mut bar = Bar::new(1280);
        for (button, _, area) in bar.buttons() {
            let (x, y) = (f64::from(area.x), f64::from(area.y));
            assert_eq!(bar.button_at(x + f64::from(area.width) / 2.0, y + 5.0), Some(button));
            assert_eq!(bar.button_at(x + 0.5, y + 0.5), Some(button));
        }
        assert_eq!(bar.button_at(640.0, 10.0), None);
    }
}
