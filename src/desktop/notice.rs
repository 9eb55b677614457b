//! A plain text on the bare output: which app is starting, or why it has ended. No client draws it.
//!
//! It decides nothing of when it is shown: `draw` and `state` do.
use smithay::backend::allocator::Fourcc;
use smithay::backend::renderer::element::memory::MemoryRenderBuffer;
use smithay::utils::{Logical, Point, Transform};

use super::screen::BACKGROUND;
use crate::paint::canvas::{Canvas, PIXEL_BYTES};
use crate::paint::text::{Face, Font};
use crate::proto::stream::Mode;

const TITLE: u32 = 0xE6_EA_F0;
const TEXT: u32 = 0xA6_AE_BA;
/// Lines of text; what is beyond is left out.
const LINES_MAX: usize = 12;
/// Characters that are looked at.
const CHARACTERS_MAX: usize = 2_000;

/// What to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notice {
    pub title: String,
    /// Lines; long ones are broken.
    pub text: String,
    /// True: instead of everything else. False: while nothing else is shown, and forgotten then.
    pub covers: bool,
}

/// The text as a picture for one mode.
pub struct Drawn {
    pub notice: Notice,
    mode: Mode,
    pub picture: MemoryRenderBuffer,
    pub at: Point<i32, Logical>,
}

impl Drawn {
    pub fn new(notice: Notice, mode: Mode) -> Self {
        let (width, height) = (i32::from(mode.width), i32::from(mode.height));
        let pixels = (height as f32 / 40.0).clamp(13.0, 54.0);
        let mut large = Font::new(Face::Bold, pixels * 1.4);
        let mut small = Font::new(Face::Regular, pixels);
        let room = (width * 4 / 5).min((pixels * 44.0) as i32).max(1);
        let title = lines(&notice.title, room, &mut large);
        let text = lines(&notice.text, room, &mut small);
        let (tall, low) = ((pixels * 1.9) as i32, (pixels * 1.5) as i32);
        let gap = if text.is_empty() { 0 } else { low / 2 };
        let rows = tall * title.len() as i32 + gap + low * text.len() as i32;
        let rows = rows.clamp(1, height);

        let mut bytes = vec![0; room as usize * rows as usize * PIXEL_BYTES];
        let mut canvas = Canvas::new(&mut bytes, room as u32, rows as u32);
        canvas.fill(canvas.whole(), BACKGROUND);
        let mut y = 0;
        let mut put = |line: &str, font: &mut Font, height: i32, colour: u32, y: &mut i32| {
            let x = (room - font.width(line)) / 2;
            let baseline = *y + (height + font.capital_height()) / 2;
            font.draw(&mut canvas, (x, baseline), colour, line);
            *y += height;
        };
        title.iter().for_each(|line| put(line, &mut large, tall, TITLE, &mut y));
        y += gap;
        text.iter().for_each(|line| put(line, &mut small, low, TEXT, &mut y));

        let picture = MemoryRenderBuffer::from_slice(
            &bytes,
            Fourcc::Xrgb8888,
            (room, rows),
            1,
            Transform::Normal,
            None,
        );
        Self { notice, mode, picture, at: ((width - room) / 2, (height - rows) / 2).into() }
    }

    pub fn fits(&self, mode: Mode) -> bool {
        (self.mode.width, self.mode.height) == (mode.width, mode.height)
    }
}

/// Breaks text into lines of at most `room` pixels, between words where that is possible.
fn lines(text: &str, room: i32, font: &mut Font) -> Vec<String> {
    let end = text.char_indices().nth(CHARACTERS_MAX).map_or(text.len(), |(at, _)| at);
    let mut broken = Vec::new();
    for line in text[..end].lines() {
        let mut current = String::new();
        for word in line.split(' ') {
            let spaced =
                if current.is_empty() { word.to_owned() } else { format!("{current} {word}") };
            if font.width(&spaced) <= room {
                current = spaced;
                continue;
            }
            if !current.is_empty() {
                broken.push(std::mem::take(&mut current));
            }
            for letter in word.chars() {
                current.push(letter);
                if font.width(&current) > room && current.chars().count() > 1 {
                    current.pop();
                    broken.push(std::mem::replace(&mut current, letter.into()));
                }
            }
        }
        broken.push(current);
    }
    broken.truncate(LINES_MAX);
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_words_and_within_too_long_ones() {
        let mut font = Font::new(Face::Regular, 16.0);
        let room = font.width("hello world");
        assert_eq!(lines("hello world\n\nbye", room, &mut font), ["hello world", "", "bye"]);
        assert_eq!(lines("so hello world", room, &mut font)[1], "world");
        let long = "W".repeat(100);
        let broken = lines(&long, room, &mut font);
        assert!(broken.len() > 1 && broken.iter().all(|line| font.width(line) <= room));
        assert_eq!(lines(&"a ".repeat(10_000), 10, &mut font).len(), LINES_MAX);
        assert!(lines("", room, &mut font).is_empty());
    }

    #[test]
    fn any_mode_and_any_text_can_be_drawn() {
        for (width, height) in [(1, 1), (64, 48), (320, 200), (7680, 4320)] {
            let mode = Mode { width, height, millihertz: 60_000 };
            for text in ["", "one", &"many words ".repeat(500)] {
                let notice = Notice { title: text.into(), text: text.into(), covers: true };
                assert!(Drawn::new(notice, mode).fits(mode));
            }
        }
    }
}
