//! The test pattern's code: what a machine reads back from a decoded picture or from the sound.
//!
//! `pattern` draws it, a measuring client reads it. It is no part of the GameStream protocol, only the
//! agreement of those two. All places are fractions of the picture, so any mode works from 320x180 on.

/// Cells of the code band along the top edge, each `width / CELLS` wide.
///
/// Two sync cells (white, black), 32 bits of the frame counter with the highest first (white is 1),
/// a parity cell that makes the number of white ones among the 33 even, and a white end cell.
pub const CELLS: usize = 36;
/// The band is `height / BAND_DIVISOR` high.
pub const BAND_DIVISOR: u32 = 18;
/// Frequency of the steady tone, hertz.
pub const TONE_HZ: f64 = 440.0;
/// Frequency of the beep that sounds for [`BEEP_MS`] when the flash field lights up, once a second.
pub const BEEP_HZ: f64 = 880.0;
pub const BEEP_MS: u32 = 100;

/// Colours of the answer field as (red, green, blue); each key press goes on to the next, then around.
pub const ANSWERS: [(u8, u8, u8); 6] =
    [(200, 40, 40), (40, 180, 40), (40, 60, 210), (210, 190, 40), (180, 50, 190), (50, 190, 200)];

/// A field of the picture in pixels: left, top, width, height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    pub x: u32,
    pub y: u32,
    pub width: u32,
    pub height: u32,
}

/// The answer field: the lower right eighth of width and quarter of height.
pub fn answer_field(width: u32, height: u32) -> Field {
    Field { x: width - width / 8, y: height - height / 4, width: width / 8, height: height / 4 }
}

/// The flash field, beside it on the left: white for [`BEEP_MS`] once a second, else dark.
pub fn flash_field(width: u32, height: u32) -> Field {
    let answer = answer_field(width, height);
    Field { x: answer.x - answer.width, ..answer }
}

/// The code of a frame counter, left to right; true is white.
pub fn cells(counter: u32) -> [bool; CELLS] {
    let mut cells = [false; CELLS];
    cells[0] = true;
    for (bit, cell) in cells[2..34].iter_mut().enumerate() {
        *cell = counter >> (31 - bit) & 1 == 1;
    }
    cells[34] = counter.count_ones() % 2 == 1;
    cells[35] = true;
    cells
}

/// Reads the counter back. `luma(x, y)` gives the brightness of a pixel, 0 to 255.
///
/// None: no code is there, or it is damaged.
pub fn read_counter(width: u32, height: u32, luma: impl Fn(u32, u32) -> u8) -> Option<u32> {
    if width < 320 || height < 180 {
        return None;
    }
    let y = height / BAND_DIVISOR / 2;
    let cell = |i: usize| {
        let x = (u64::from(width) * (2 * i as u64 + 1) / (2 * CELLS as u64)) as u32;
        let around = (0..5).flat_map(|dy| (0..5).map(move |dx| (x + dx - 2, y + dy - 2)));
        around.map(|(x, y)| u32::from(luma(x, y))).sum::<u32>() / 25
    };
    let values: Vec<u32> = (0..CELLS).map(cell).collect();
    if values.iter().any(|value| (100..=155).contains(value)) {
        return None;
    }
    let counter = values[2..34].iter().fold(0, |n, value| n << 1 | u32::from(*value > 127));
    let seen: Vec<bool> = values.iter().map(|value| *value > 127).collect();
    (seen == cells(counter)).then_some(counter)
}

/// Which answer colour this is, if it is near enough to one.
pub fn answer_of(red: u8, green: u8, blue: u8) -> Option<usize> {
    let distance = |c: &(u8, u8, u8)| {
        let part = |a: u8, b: u8| (i32::from(a) - i32::from(b)).pow(2);
        part(c.0, red) + part(c.1, green) + part(c.2, blue)
    };
    let (index, colour) = ANSWERS.iter().enumerate().min_by_key(|(_, c)| distance(c))?;
    (distance(colour) < 60 * 60).then_some(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawn_counter_reads_back_and_a_damaged_one_does_not() {
        for counter in [0, 1, 2, 0xffff_ffff, 0x8000_0001, 123_456] {
            let drawn = cells(counter);
            let luma = |x: u32, _| if drawn[(x * 36 / 1280) as usize] { 235 } else { 16 };
            assert_eq!(read_counter(1280, 720, luma), Some(counter));
            let flipped =
                |x: u32, y| if x * 36 / 1280 == 9 { 251 - luma(x, y) } else { luma(x, y) };
            assert_eq!(read_counter(1280, 720, flipped), None);
        }
        assert_eq!(read_counter(1280, 720, |_, _| 128), None);
    }

    #[test]
    fn answers_are_told_apart() {
        for (index, (r, g, b)) in ANSWERS.into_iter().enumerate() {
            assert_eq!(answer_of(r.saturating_add(12), g.saturating_sub(12), b), Some(index));
        }
        assert_eq!(answer_of(255, 255, 255), None);
    }
}
