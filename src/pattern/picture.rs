//! The pattern's picture: what stands still is drawn once, what moves is drawn for each frame.
use std::f64::consts::TAU;

use super::{SECOND_NS, is_lit};
use crate::paint::canvas::{Area, Canvas, PIXEL_BYTES, coverage, mix};
use crate::paint::text::{Face, Font};
use crate::proto::pattern::{
    ANSWERS, BAND_DIVISOR, CELLS, Field, answer_field, cells, flash_field,
};

const BARS: [u32; 7] =
    [0xBF_BF_BF, 0xBF_BF_00, 0x00_BF_BF, 0x00_BF_00, 0xBF_00_BF, 0xBF_00_00, 0x00_00_BF];
const PANEL: u32 = 0x12_16_1C;
const BRIGHT: u32 = 0xF2_F4_F8;
const FAINT: u32 = 0x9A_A4_B2;
const ACCENT: u32 = 0xFF_B0_30;
const FLASH_DARK: u32 = 0x10_10_10;
const GRAYS: i32 = 16;

/// What a frame shows.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub counter: u32,
    pub monotonic_ns: u64,
    /// Index of the answer colour.
    pub answer: usize,
    /// Hours, minutes, seconds.
    pub time: (u8, u8, u8),
}

/// What is in a buffer, so that the next frame in it need not begin anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    flash: bool,
    answer: usize,
    ball: Area,
}

/// The pattern at one size.
pub struct Picture {
    width: i32,
    height: i32,
    /// All that stands still, as large as the picture.
    still: Vec<u8>,
    /// Two turns of the colour circle, one pixel high.
    hues: Vec<u8>,
    places: Places,
    digits: Font,
    small: Font,
}

/// Where things are.
#[derive(Clone, Copy)]
struct Places {
    band: Area,
    bars: Area,
    hues: Area,
    grays: Area,
    panel: Area,
    dial: Area,
    counter: Area,
    time: Area,
}

impl Places {
    fn new(width: i32, height: i32) -> Self {
        let band = height / BAND_DIVISOR as i32;
        let low = height - height / 4;
        let strip = height / 14;
        let panel = area(flash_field(width as u32, height as u32)).x;
        let inset = height / 36;
        let dial = height / 4 - 2 * inset;
        let text = panel - dial - 3 * inset;
        Self {
            band: Area::new(0, 0, width, band),
            bars: Area::new(0, band, width, low - 2 * strip - band),
            hues: Area::new(0, low - 2 * strip, width, strip),
            grays: Area::new(0, low - strip, width, strip),
            panel: Area::new(0, low, panel, height - low),
            dial: Area::new(panel - dial - inset, low + inset, dial, dial),
            counter: Area::new(inset, low + height / 13, text, height / 11),
            time: Area::new(inset, low + height / 6, text, height / 20),
        }
    }
}

fn area(field: Field) -> Area {
    Area::new(field.x as i32, field.y as i32, field.width as i32, field.height as i32)
}

impl Picture {
    /// `rate` is the output's in millihertz, if it is known.
    pub fn new(width: u32, height: u32, rate: Option<u32>) -> Self {
        let size = height as f32;
        let (w, h) = (width as i32, height as i32);
        let hues = (0..2 * width).flat_map(|x| hue(f64::from(x) / f64::from(width)).to_le_bytes());
        let mut picture = Self {
            width: w,
            height: h,
            still: Vec::new(),
            hues: hues.collect(),
            places: Places::new(w, h),
            digits: Font::new(Face::Bold, size / 14.0),
            small: Font::new(Face::Regular, (size / 38.0).max(9.0)),
        };
        let mut still = vec![0; (width * height) as usize * PIXEL_BYTES];
        picture.draw_still(&mut Canvas::new(&mut still, width, height), rate);
        picture.still = still;
        picture
    }

    fn draw_still(&mut self, canvas: &mut Canvas<'_>, rate: Option<u32>) {
        let Places { bars, grays, panel, dial, .. } = self.places;
        canvas.fill(canvas.whole(), PANEL);
        let count = BARS.len() as i32;
        for (index, colour) in (0..).zip(BARS) {
            let (left, right) = (index * bars.width / count, (index + 1) * bars.width / count);
            canvas.fill(Area::new(left, bars.y, right - left, bars.height), colour);
        }
        for index in 0..GRAYS {
            let (left, right) = (index * grays.width / GRAYS, (index + 1) * grays.width / GRAYS);
            let gray = mix(0, 0xFF_FF_FF, f64::from(index) / f64::from(GRAYS - 1));
            canvas.fill(Area::new(left, grays.y, right - left, grays.height), gray);
        }
        draw_face(canvas, dial);
        let mut title = Font::new(Face::Bold, self.height as f32 / 30.0);
        let rate = rate.map_or_else(String::new, |rate| format!(" · {} Hz", hertz(rate)));
        let left = self.places.counter.x;
        let baseline = panel.y + self.height / 20;
        let pen = title.draw(canvas, (left, baseline), BRIGHT, "moonshard test pattern");
        let mode = format!("{} × {}{rate}", self.width, self.height);
        let gap = self.height / 36;
        let fits = pen + gap + self.small.width(&mode) < dial.x;
        let place = if fits { (pen + gap, baseline) } else { (left, self.height - gap / 2) };
        self.small.draw(canvas, place, FAINT, &mode);
    }

    /// Draws a frame over what the buffer shows; gives what it shows then.
    pub fn draw(
        &mut self,
        canvas: &mut Canvas<'_>,
        shown: Option<Shown>,
        moment: &Moment,
    ) -> Shown {
        let places = self.places;
        let now = self.shown(moment);
        match shown {
            None => canvas.copy(&self.still, canvas.whole()),
            Some(shown) => {
                for old in [shown.ball, places.dial, places.counter, places.time] {
                    canvas.copy(&self.still, old);
                }
            }
        }
        let phase = self.width as u64 * (moment.monotonic_ns % (8 * SECOND_NS)) / (8 * SECOND_NS);
        canvas.rows_of(places.hues, &self.hues[phase as usize * PIXEL_BYTES..]);
        draw_ball(canvas, now.ball);
        draw_hand(canvas, places.dial, moment.monotonic_ns);
        self.draw_text(canvas, moment);

        let (width, height) = (self.width as u32, self.height as u32);
        if shown.is_none_or(|shown| shown.flash != now.flash) {
            let colour = if now.flash { 0xFF_FF_FF } else { FLASH_DARK };
            canvas.fill(area(flash_field(width, height)), colour);
        }
        if shown.is_none_or(|shown| shown.answer != now.answer) {
            let (red, green, blue) = ANSWERS[now.answer];
            let colour = u32::from_be_bytes([0, red, green, blue]);
            canvas.fill(area(answer_field(width, height)), colour);
        }
        draw_band(canvas, places.band, moment.counter);
        now
    }

    fn draw_text(&mut self, canvas: &mut Canvas<'_>, moment: &Moment) {
        let Places { counter, time, .. } = self.places;
        let baseline = counter.y + (counter.height + self.digits.capital_height()) / 2;
        let number = &mut canvas.within(counter);
        self.digits.draw(number, (counter.x, baseline), ACCENT, &moment.counter.to_string());
        let baseline = time.y + (time.height + self.small.capital_height()) / 2;
        let (hours, minutes, seconds) = moment.time;
        let text =
            format!("{hours:02}:{minutes:02}:{seconds:02}   press a key: the colour goes on");
        self.small.draw(&mut canvas.within(time), (time.x, baseline), FAINT, &text);
    }

    fn shown(&self, moment: &Moment) -> Shown {
        Shown {
            flash: is_lit(moment.monotonic_ns),
            answer: moment.answer % ANSWERS.len(),
            ball: self.ball(moment.monotonic_ns),
        }
    }

    /// Where the ball is: to and fro in 5 s, bouncing in 1.25 s.
    fn ball(&self, monotonic_ns: u64) -> Area {
        let bars = self.places.bars;
        let size = self.height / 8;
        let part = |period: f64| (monotonic_ns as f64 / SECOND_NS as f64 / period).fract();
        let across = 1.0 - (part(5.0) * 2.0 - 1.0).abs();
        let rise = 1.0 - (part(1.25) * 2.0 - 1.0).powi(2);
        let x = across * f64::from(bars.width - size);
        let y = (1.0 - rise) * f64::from(bars.height - size);
        Area::new(x as i32, bars.y + y as i32, size, size)
    }

    /// What differs between two frames that follow each other.
    pub fn damage(&self, before: Option<Shown>, now: Shown) -> Vec<Area> {
        let Some(before) = before else {
            return vec![Area::new(0, 0, self.width, self.height)];
        };
        let (width, height) = (self.width as u32, self.height as u32);
        let Places { band, hues, dial, counter, time, .. } = self.places;
        let mut areas = vec![band, hues, dial, counter, time, before.ball, now.ball];
        if before.flash != now.flash {
            areas.push(area(flash_field(width, height)));
        }
        if before.answer != now.answer {
            areas.push(area(answer_field(width, height)));
        }
        areas
    }
}

/// 60000 is "60", 59940 is "59.94".
fn hertz(millihertz: u32) -> String {
    let text = format!("{}.{:03}", millihertz / 1000, millihertz % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The colour circle at full strength; whole numbers are red.
fn hue(turn: f64) -> u32 {
    let channel = |offset: f64| {
        let distance = ((turn + offset).rem_euclid(1.0) - 0.5).abs() * 6.0;
        (((distance - 1.0).clamp(0.0, 1.0)) * 255.0) as u32
    };
    channel(0.0) << 16 | channel(2.0 / 3.0) << 8 | channel(1.0 / 3.0)
}

fn draw_band(canvas: &mut Canvas<'_>, band: Area, counter: u32) {
    let count = CELLS as i32;
    for (index, white) in (0..).zip(cells(counter)) {
        let (left, right) = (index * band.width / count, (index + 1) * band.width / count);
        let colour = if white { 0xFF_FF_FF } else { 0 };
        canvas.fill(Area::new(left, 0, right - left, band.height), colour);
    }
}

/// A white ball with a shaded rim.
fn draw_ball(canvas: &mut Canvas<'_>, ball: Area) {
    let radius = f64::from(ball.width) / 2.0;
    for y in 0..ball.height {
        let dy = f64::from(y) + 0.5 - radius;
        let reach = (radius * radius - dy * dy).max(0.0).sqrt();
        let (first, last) = ((radius - reach - 1.0) as i32, (radius + reach + 1.0) as i32);
        // The inside row by row, the rim pixel by pixel.
        let inner = (radius - reach + 2.0).ceil() as i32;
        let colour = mix(0xFF_FF_FF, 0xC4_CC_D8, f64::from(y) / f64::from(ball.height));
        let width = ball.width - 2 * inner;
        canvas.fill(Area::new(ball.x + inner, ball.y + y, width, 1), colour);
        let rim = (first.max(0)..inner).chain(ball.width - inner..last.min(ball.width));
        for x in rim.filter(|x| width > 0 || *x < ball.width) {
            let dx = f64::from(x) + 0.5 - radius;
            canvas.blend(ball.x + x, ball.y + y, colour, coverage(radius - dx.hypot(dy) - 0.5));
        }
    }
}

/// The dial: a disc with a rim and twelve marks.
fn draw_face(canvas: &mut Canvas<'_>, dial: Area) {
    let radius = f64::from(dial.width) / 2.0;
    for y in 0..dial.height {
        for x in 0..dial.width {
            let (dx, dy) = (f64::from(x) + 0.5 - radius, f64::from(y) + 0.5 - radius);
            let distance = dx.hypot(dy);
            canvas.blend(dial.x + x, dial.y + y, 0x3A_44_52, coverage(radius - 0.5 - distance));
            let face = coverage(radius * 0.94 - distance);
            canvas.blend(dial.x + x, dial.y + y, 0x1B_21_2A, face);
        }
    }
    for hour in 0..12 {
        let angle = f64::from(hour) / 12.0 * TAU;
        draw_line(canvas, dial, angle, (0.80, 0.90), radius * 0.035, FAINT);
    }
}

/// One turn a second.
fn draw_hand(canvas: &mut Canvas<'_>, dial: Area, monotonic_ns: u64) {
    let angle = (monotonic_ns % SECOND_NS) as f64 / SECOND_NS as f64 * TAU;
    let radius = f64::from(dial.width) / 2.0;
    draw_line(canvas, dial, angle, (0.0, 0.76), radius * 0.05, ACCENT);
}

/// A line outwards from a dial's centre, clockwise from the top; from and to are parts of the radius.
fn draw_line(
    canvas: &mut Canvas<'_>,
    dial: Area,
    angle: f64,
    (from, to): (f64, f64),
    thickness: f64,
    colour: u32,
) {
    let radius = f64::from(dial.width) / 2.0;
    let (sine, cosine) = (angle.sin(), -angle.cos());
    let end = |part: f64| (radius + sine * radius * part, radius + cosine * radius * part);
    let ((x0, y0), (x1, y1)) = (end(from), end(to));
    let half = thickness.max(1.0);
    let low = |a: f64, b: f64| (a.min(b) - half - 1.0).max(0.0) as i32;
    let high = |a: f64, b: f64| (a.max(b) + half + 2.0) as i32;
    for y in low(y0, y1)..high(y0, y1).min(dial.height) {
        for x in low(x0, x1)..high(x0, x1).min(dial.width) {
            let (dx, dy) = (f64::from(x) + 0.5 - radius, f64::from(y) + 0.5 - radius);
            let along = (dx * sine + dy * cosine).clamp(from * radius, to * radius);
            let distance = (dx - along * sine).hypot(dy - along * cosine);
            canvas.blend(dial.x + x, dial.y + y, colour, coverage(half - distance));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::pattern::{answer_of, read_counter};

    const SIZES: [(u32, u32); 4] = [(320, 180), (1280, 720), (1366, 768), (720, 1280)];

    fn moment(counter: u32) -> Moment {
        let monotonic_ns = u64::from(counter) * 16_666_667;
        Moment { counter, monotonic_ns, answer: counter as usize / 3 % 6, time: (12, 34, 56) }
    }

    #[test]
    fn a_frame_says_its_number_and_drawing_over_an_old_one_is_drawing_anew() {
        for (width, height) in SIZES {
            let mut picture = Picture::new(width, height, Some(59_940));
            let mut bytes = vec![0; (width * height) as usize * 4];
            let mut shown = None;
            for counter in 1..40 {
                let moment = moment(counter * 3);
                let mut canvas = Canvas::new(&mut bytes, width, height);
                shown = Some(picture.draw(&mut canvas, shown, &moment));
                let mut anew = vec![0; bytes.len()];
                picture.draw(&mut Canvas::new(&mut anew, width, height), None, &moment);
                assert!(anew == bytes, "{width}x{height}, frame {counter}");

                let at = |x: u32, y: u32| ((y * width + x) * 4) as usize;
                let luma = |x, y| bytes[at(x, y) + 1];
                assert_eq!(read_counter(width, height, luma), Some(counter * 3));
                let centre =
                    |field: Field| at(field.x + field.width / 2, field.y + field.height / 2);
                let answer = &bytes[centre(answer_field(width, height))..];
                assert_eq!(answer_of(answer[2], answer[1], answer[0]), Some(moment.answer));
                let flash = bytes[centre(flash_field(width, height))] == 255;
                assert_eq!(flash, moment.monotonic_ns % SECOND_NS < 100_000_000);
            }
        }
    }

    #[test]
    fn damage_covers_every_difference() {
        let (width, height) = (640, 360);
        let mut picture = Picture::new(width, height, None);
        let mut frame = |counter| {
            let mut bytes = vec![0; (width * height) as usize * 4];
            let mut canvas = Canvas::new(&mut bytes, width, height);
            let shown = picture.draw(&mut canvas, None, &moment(counter));
            (bytes, shown)
        };
        let frames: Vec<_> = (50..70).map(&mut frame).collect();
        for pair in frames.windows(2) {
            let ((old, before), (new, now)) = (&pair[0], &pair[1]);
            let damage = picture.damage(Some(*before), *now);
            for i in (0..old.len()).step_by(4).filter(|&i| old[i..i + 4] != new[i..i + 4]) {
                let (x, y) = (i / 4 % width as usize, i / 4 / width as usize);
                assert!(damage.iter().any(|a| a.contains(x as f64, y as f64)), "{x}, {y}");
            }
        }
    }

    #[test]
    fn no_size_is_too_odd() {
        for (width, height) in [(1, 1), (7, 3), (3, 700), (2000, 9), (64, 64)] {
            let mut picture = Picture::new(width, height, Some(60_000));
            let mut bytes = vec![0; (width * height) as usize * 4];
            let mut shown = None;
            for counter in 0..100 {
                let mut canvas = Canvas::new(&mut bytes, width, height);
                shown = Some(picture.draw(&mut canvas, shown, &moment(counter)));
            }
        }
    }

    #[test]
    fn rates_are_written_short() {
        assert_eq!(hertz(60_000), "60");
        assert_eq!(hertz(59_940), "59.94");
        assert_eq!(hertz(100_000), "100");
    }
}
