//! Box art: one PNG per app, ready in memory before the first client asks.
//!
//! An app with a picture of its own gets it from its file, read once at start by a plain thread; all
//! others, and those whose file is of no use, get one drawn from the title. 600 by 800 pixels is what
//! clients lay out for (moonlight-qt app/gui/AppView.qml keeps that ratio).
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use crate::config::App;
use crate::paint::dots;
use crate::proc::plain;

const WIDTH: usize = 600;
const HEIGHT: usize = 800;
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// The size of one dot of the title's letters at most, pixels.
const DOT_MAX: usize = 9;
const MARGIN: usize = 48;
const LINES_MAX: usize = 5;

/// The picture of every app. Reads files and draws: not for a shard.
pub fn load(apps: &[App]) -> BTreeMap<i32, Arc<[u8]>> {
    let picture = |app: &App| {
        let own = app.image.as_deref().and_then(|path| {
            read(path)
                .inspect_err(|reason| {
                    tracing::warn!(path = %path.display(), reason, "picture not used; drawing one");
                })
                .ok()
        });
        own.unwrap_or_else(|| draw(&app.spec.title))
    };
    apps.iter().map(|app| (app.spec.id, picture(app).into())).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let file = plain::open_linked(path).map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("is longer than {FILE_BYTES_MAX} bytes"));
    }
    if !bytes.starts_with(PNG_SIGNATURE) {
        return Err("is not a PNG".into());
    }
    Ok(bytes)
}

/// A picture with the title on it; its colour follows from the title.
pub fn draw(title: &str) -> Vec<u8> {
    let mut canvas = Canvas { rgb: vec![0; WIDTH * HEIGHT * 3] };
    let hash = title.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    canvas.background((hash % 360) as u32);
    let initial = title.chars().find(|c| c.is_alphanumeric()).unwrap_or('M');
    canvas.letter(initial.to_ascii_uppercase(), 160, 70, 56, 40);
    canvas.title(title);
    encode(&canvas.rgb)
}

fn encode(rgb: &[u8]) -> Vec<u8> {
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, WIDTH as u32, HEIGHT as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(rgb));
    // Writing into memory, of the size that was announced.
    written.expect("a picture of fixed size in memory");
    png
}

struct Canvas {
    rgb: Vec<u8>,
}

impl Canvas {
    /// A vertical gradient of one hue, with a lighter band where the title stands.
    fn background(&mut self, hue: u32) {
        for (y, row) in self.rgb.chunks_exact_mut(WIDTH * 3).enumerate() {
            let value = 120 - (y * 84 / HEIGHT) as u32;
            let color = colour(hue + (y * 40 / HEIGHT) as u32, value);
            let edge = !(6..HEIGHT - 6).contains(&y);
            let color = if edge { color.map(|c| c.saturating_add(50)) } else { color };
            row.chunks_exact_mut(3).for_each(|pixel| pixel.copy_from_slice(&color));
        }
    }

    /// Lightens the dots of a letter by `strength`; dots are squares of `dot` pixels.
    fn letter(&mut self, letter: char, x: usize, y: usize, dot: usize, strength: u8) {
        for (column, bits) in dots::columns(letter).into_iter().enumerate() {
            for row in (0..dots::ROWS).filter(|row| bits >> row & 1 == 1) {
                self.square(x + column * dot, y + row * dot, dot, strength);
            }
        }
    }

    fn square(&mut self, x: usize, y: usize, side: usize, strength: u8) {
        for row in self.rgb.chunks_exact_mut(WIDTH * 3).skip(y).take(side) {
            let pixels = row.iter_mut().skip(x * 3).take(side * 3);
            pixels.for_each(|value| *value = value.saturating_add(strength));
        }
    }

    /// The title in the lower part, as large as its longest word allows.
    fn title(&mut self, title: &str) {
        let room = WIDTH - 2 * MARGIN;
        let longest = title.split_whitespace().map(|word| word.chars().count()).max().unwrap_or(1);
        let dot = (room / (longest.max(1) * dots::ADVANCE)).clamp(4, DOT_MAX);
        let lines = wrap(title, room / (dot * dots::ADVANCE));
        let line_height = dot * (dots::ROWS + 3);
        let top = HEIGHT - MARGIN - lines.len() * line_height;
        for (number, line) in lines.iter().enumerate() {
            let width = line.chars().count() * dots::ADVANCE * dot - dot;
            let left = (WIDTH.saturating_sub(width)) / 2;
            for (at, letter) in line.chars().enumerate() {
                let x = left + at * dots::ADVANCE * dot;
                self.letter(letter, x, top + number * line_height, dot, 200);
            }
        }
    }
}

/// Lines of at most `room` letters, broken between words where that is possible.
fn wrap(title: &str, room: usize) -> Vec<String> {
    let room = room.max(1);
    let mut lines: Vec<String> = Vec::new();
    for word in title.split_whitespace() {
        let letters: Vec<char> = word.chars().collect();
        for part in letters.chunks(room) {
            match lines.last_mut() {
                Some(line) if line.chars().count() + 1 + part.len() <= room => {
                    line.push(' ');
                    line.extend(part);
                }
                _ => lines.push(part.iter().collect()),
            }
        }
    }
    lines.truncate(LINES_MAX);
    lines
}

/// A saturated colour; `hue` in degrees, `value` its brightest part.
fn colour(hue: u32, value: u32) -> [u8; 3] {
    let hue = hue % 360;
    let low = value / 4;
    let ramp = low + (value - low) * (hue % 60) / 60;
    let fall = value + low - ramp;
    let rgb = match hue / 60 {
        0 => [value, ramp, low],
        1 => [fall, value, low],
        2 => [low, value, ramp],
        3 => [low, fall, value],
        4 => [ramp, low, value],
        _ => [value, low, fall],
    };
    rgb.map(|part| part.min(255) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::AppSpec;

    fn app(id: i32, title: &str, image: Option<&Path>) -> App {
        let spec = AppSpec {
            id,
            title: title.into(),
            command: vec!["x".into()],
            environment: BTreeMap::new(),
            directory: None,
        };
        App { spec, image: image.map(Path::to_path_buf) }
    }

    fn decode(png: &[u8]) -> (u32, u32, Vec<u8>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut rgb).unwrap();
        (info.width, info.height, rgb)
    }

    #[test]
    fn any_title_gives_a_small_picture_of_the_right_size() {
        let long = "Supercalifragilisticexpialidocious ".repeat(20);
        for title in ["Desktop", "", "日本語", "a b c", &long] {
            let png = draw(title);
            let (width, height, _) = decode(&png);
            assert_eq!((width, height), (600, 800));
            assert!(png.len() < 100_000, "{title}: {} bytes", png.len());
        }
        assert_ne!(draw("Steam"), draw("Desktop"));
    }

    #[test]
    fn titles_are_broken_between_words() {
        assert_eq!(wrap("Big Picture Mode", 11), ["Big Picture", "Mode"]);
        assert_eq!(wrap("abcdefgh", 3), ["abc", "def", "gh"]);
        assert_eq!(wrap("", 3), Vec::<String>::new());
    }

    #[test]
    fn an_own_picture_is_used_and_a_bad_file_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("own.png");
        std::fs::write(&own, draw("own")).unwrap();
        let text = directory.path().join("text.png");
        std::fs::write(&text, "no picture").unwrap();
        let missing = directory.path().join("missing.png");
        let apps = [
            app(1, "A", Some(&own)),
            app(2, "B", Some(&text)),
            app(3, "C", Some(&missing)),
            app(4, "D", Some(directory.path())),
            app(5, "E", None),
        ];
        let pictures = load(&apps);
        assert_eq!(*pictures[&1], *draw("own"));
        for (id, title) in [(2, "B"), (3, "C"), (4, "D"), (5, "E")] {
            assert_eq!(*pictures[&id], *draw(title));
        }
    }
}
