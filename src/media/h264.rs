//! What an H.264 stream says of itself: profile, reference frames, colour, reordering, slice types.
//! Read to check encoders, never to decode. Pure. Source: ITU-T H.264, 7.3.2.1, 7.3.3, E.1.1.

/// The facts of a sequence parameter set that clients depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sps {
    pub profile: u8,
    /// The constraint_set flags, as the byte has them.
    pub constraints: u8,
    pub level: u8,
    pub references_max: u32,
    /// The set's description of colour; None: it has none.
    pub colour: Option<Colour>,
    /// (max_num_reorder_frames, max_dec_frame_buffering); None: no bitstream restrictions.
    pub restrictions: Option<(u32, u32)>,
}

/// Range and the H.273 numbers of the colour description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colour {
    pub is_full_range: bool,
    /// Primaries, transfer, matrix; None: unspecified.
    pub description: Option<(u8, u8, u8)>,
}

/// The NAL units of an access unit, without start codes.
pub fn units(access_unit: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut starts = access_unit
        .windows(3)
        .enumerate()
        .filter_map(|(at, three)| (three == [0, 0, 1]).then_some(at + 3))
        .collect::<Vec<_>>()
        .into_iter()
        .peekable();
    std::iter::from_fn(move || {
        let start = starts.next()?;
        let end = starts.peek().map_or(access_unit.len(), |next| next - 3);
        let mut unit = access_unit.get(start..end)?;
        // The first zero of a start code of four bytes, or padding.
        while let Some((0, rest)) = unit.split_last() {
            unit = rest;
        }
        Some(unit)
    })
}

/// The first sequence parameter set of an access unit; None: none, or not one that is understood
/// (4:4:4, scaling lists).
pub fn sps(access_unit: &[u8]) -> Option<Sps> {
    let unit = units(access_unit).find(|unit| unit.first().is_some_and(|b| b & 0x1F == 7))?;
    let bytes = unescaped(unit.get(1..)?);
    let [profile, constraints, level] = *bytes.first_chunk()?;
    let mut bits = Bits { bytes: bytes.get(3..)?, at: 0 };
    bits.golomb()?; // seq_parameter_set_id
    if [100, 110, 122].contains(&profile) {
        let (chroma, luma_depth, chroma_depth) = (bits.golomb()?, bits.golomb()?, bits.golomb()?);
        let (bypass, scaling) = (bits.flag()?, bits.flag()?);
        if chroma != 1 || luma_depth + chroma_depth > 4 || bypass || scaling {
            return None;
        }
    }
    bits.golomb()?; // log2_max_frame_num
    match bits.golomb()? {
        0 => drop(bits.golomb()?),
        2 => {}
        _ => return None,
    }
    let references_max = bits.golomb()?;
    bits.flag()?; // gaps allowed
    bits.skip_golombs(2)?; // size in macroblocks
    if !bits.flag()? {
        bits.flag()?; // interlaced: adaptive
    }
    bits.flag()?; // direct_8x8_inference
    if bits.flag()? {
        bits.skip_golombs(4)?; // cropping
    }
    let mut sps =
        Sps { profile, constraints, level, references_max, colour: None, restrictions: None };
    if bits.flag()? {
        vui(&mut bits, &mut sps)?;
    }
    Some(sps)
}

fn vui(bits: &mut Bits<'_>, sps: &mut Sps) -> Option<()> {
    if bits.flag()? && bits.number(8)? == 255 {
        bits.number(32)?; // sample aspect ratio
    }
    if bits.flag()? {
        bits.flag()?; // overscan
    }
    if bits.flag()? {
        bits.number(3)?; // video format
        let is_full_range = bits.flag()?;
        let mut description = None;
        if bits.flag()? {
            let mut byte = || bits.number(8).map(|b| b as u8);
            description = Some((byte()?, byte()?, byte()?));
        }
        sps.colour = Some(Colour { is_full_range, description });
    }
    if bits.flag()? {
        bits.skip_golombs(2)?; // chroma location
    }
    if bits.flag()? {
        bits.skip(65)?; // timing
    }
    let (nal, vcl) = (hrd(bits)?, hrd(bits)?);
    if nal || vcl {
        bits.flag()?; // low delay
    }
    bits.flag()?; // pic_struct
    if bits.flag()? {
        bits.flag()?; // motion vectors over boundaries
        bits.skip_golombs(4)?; // bytes, bits, vector lengths
        sps.restrictions = Some((bits.golomb()?, bits.golomb()?));
    }
    Some(())
}

/// Skips the parameters of a hypothetical decoder; whether there were any.
fn hrd(bits: &mut Bits<'_>) -> Option<bool> {
    if !bits.flag()? {
        return Some(false);
    }
    let schedules = bits.golomb()?;
    bits.number(8)?;
    for _ in 0..=schedules.min(31) {
        bits.skip_golombs(2)?;
        bits.flag()?;
    }
    bits.number(20)?;
    Some(true)
}

/// The type of each slice of an access unit: 0 P, 1 B, 2 I.
pub fn slice_types(access_unit: &[u8]) -> Vec<u32> {
    let slice = |unit: &[u8]| {
        let kind = unit.first()? & 0x1F;
        let bytes = unescaped(unit.get(1..unit.len().min(16))?);
        let mut bits = Bits { bytes: &bytes, at: 0 };
        bits.golomb()?; // first macroblock
        (kind == 1 || kind == 5).then_some(())?;
        Some(bits.golomb()? % 5)
    };
    units(access_unit).filter_map(slice).collect()
}

/// Without emulation prevention bytes.
fn unescaped(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut zeros = 0;
    for &byte in bytes {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn flag(&mut self) -> Option<bool> {
        let byte = self.bytes.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit == 1)
    }

    /// `count` <= 32 bits.
    fn number(&mut self, count: u32) -> Option<u32> {
        (0..count).try_fold(0u32, |n, _| Some(n << 1 | u32::from(self.flag()?)))
    }

    fn skip(&mut self, count: u32) -> Option<()> {
        (0..count).try_for_each(|_| self.flag().map(drop))
    }

    fn skip_golombs(&mut self, count: u32) -> Option<()> {
        (0..count).try_for_each(|_| self.golomb().map(drop))
    }

    /// Exp-Golomb, unsigned.
    fn golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
        }
        (zeros < 32).then_some(())?;
        Some((1u32 << zeros) - 1 + self.number(zeros)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From OpenH264 by way of GStreamer: 640x360, constrained baseline.
    const OPENH264: [u8; 34] = [
        0, 0, 0, 1, 0x67, 0x42, 0xc0, 0x1f, 0x8c, 0x8d, 0x40, 0x50, 0x17, 0xfc, 0xb0, 0x0f, 0x08,
        0x84, 0x6a, 0, 0, 0, 1, 0x68, 0xce, 0x3c, 0x80, 0, 0, 0, 1, 0x65, 0xb8, 0,
    ];

    #[test]
    fn a_real_parameter_set_is_read_and_every_prefix_refused() {
        let found = sps(&OPENH264).unwrap();
        assert_eq!((found.profile, found.level, found.references_max), (66, 31, 1));
        for end in 0..18 {
            assert_eq!(sps(&OPENH264[..end]), None, "{end}");
        }
    }

    #[test]
    fn units_and_slices_are_found() {
        let kinds: Vec<u8> = units(&OPENH264).map(|unit| unit[0] & 0x1F).collect();
        assert_eq!(kinds, [7, 8, 5]);
        assert_eq!(slice_types(&OPENH264), [2]);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut state = 1u32;
        for length in 0..200 {
            let mut bytes = vec![0, 0, 1, 0x67, 100];
            bytes.extend((0..length).map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            }));
            let _ = (sps(&bytes), slice_types(&bytes));
        }
    }
}
