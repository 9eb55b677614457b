//! The few facts about encoded access units that the stream depends on: which one is a key frame,
//! and whether a client will recognise it as one.
//!
//! It decodes nothing. H.264 and HEVC are Annex B byte streams, AV1 is OBUs with size fields.
//! Source: moonlight-common-c src/VideoDepacketizer.c.
use super::packet::{FRAME_HEADER_BYTES, HEADER_BYTES, RTP_BYTES};
use crate::proto::stream::Codec;

/// Whether the access unit is one from which a decoder can start.
pub fn is_idr(codec: Codec, access_unit: &[u8]) -> bool {
    match codec {
        Codec::Av1 => is_av1_key(access_unit),
        _ => first_slice(codec, access_unit).is_some_and(|unit| unit.role == Role::IdrSlice),
    }
}

/// Whether a client with packet size `packet_size` will take this key frame for one: it must begin
/// with parameter sets, and the first slice must start in the first packet. True for AV1, where the
/// frame header decides.
pub fn idr_fits(codec: Codec, access_unit: &[u8], packet_size: u16) -> bool {
    if codec == Codec::Av1 {
        return true;
    }
    let first = Units::new(codec, access_unit).find(|unit| unit.role != Role::Strippable);
    let room =
        (usize::from(packet_size) + RTP_BYTES).saturating_sub(HEADER_BYTES + FRAME_HEADER_BYTES);
    first.is_some_and(|unit| unit.role == Role::FirstParameterSet)
        && first_slice(codec, access_unit)
            .is_some_and(|unit| unit.role == Role::IdrSlice && unit.payload < room)
}

/// Takes access unit delimiters and SEI before the first slice out of a key frame. What precedes
/// the slice otherwise (parameter sets) goes to `head`, the slices are returned: the access unit is
/// then the two in this order. Any other access unit is returned whole with an empty `head`.
///
/// Encoders put hundreds of bytes of SEI there, and the first slice must fit into the first packet.
pub fn strip_leading_sei<'a>(codec: Codec, access_unit: &'a [u8], head: &mut Vec<u8>) -> &'a [u8] {
    head.clear();
    if codec == Codec::Av1 || !is_idr(codec, access_unit) {
        return access_unit;
    }
    let mut units = Units::new(codec, access_unit).peekable();
    while let Some(unit) = units.next() {
        if matches!(unit.role, Role::IdrSlice | Role::Slice) {
            return &access_unit[unit.start..];
        }
        let end = units.peek().map_or(access_unit.len(), |next| next.start);
        if unit.role != Role::Strippable {
            head.extend_from_slice(&access_unit[unit.start..end]);
        }
    }
    &[]
}

fn first_slice(codec: Codec, access_unit: &[u8]) -> Option<Unit> {
    Units::new(codec, access_unit).find(|unit| matches!(unit.role, Role::IdrSlice | Role::Slice))
}

/// What a NAL unit is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    IdrSlice,
    Slice,
    /// SPS of H.264, VPS of HEVC.
    FirstParameterSet,
    /// Access unit delimiter or SEI.
    Strippable,
    Other,
}

impl Role {
    fn new(codec: Codec, first_byte: u8) -> Self {
        let kind = if codec == Codec::H264 { first_byte & 0x1F } else { first_byte >> 1 & 0x3F };
        match (codec, kind) {
            (Codec::H264, 5) | (Codec::Hevc, 16..=21) => Self::IdrSlice,
            (Codec::H264, 1..=4) | (Codec::Hevc, 0..=31) => Self::Slice,
            (Codec::H264, 7) | (Codec::Hevc, 32) => Self::FirstParameterSet,
            (Codec::H264, 6 | 9) | (Codec::Hevc, 35 | 39 | 40) => Self::Strippable,
            _ => Self::Other,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Unit {
    /// Offset of the start code.
    start: usize,
    /// Offset of the first byte after it.
    payload: usize,
    role: Role,
}

/// The NAL units of an access unit in order; looks no further than it is asked to.
struct Units<'a> {
    codec: Codec,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Units<'a> {
    fn new(codec: Codec, bytes: &'a [u8]) -> Self {
        Self { codec, bytes, at: 0 }
    }
}

impl Iterator for Units<'_> {
    type Item = Unit;

    fn next(&mut self) -> Option<Unit> {
        let rest = self.bytes.get(self.at..)?;
        let code = self.at + rest.windows(3).position(|three| three == [0, 0, 1])?;
        let payload = code + 3;
        let first_byte = *self.bytes.get(payload)?;
        // A start code of four bytes owns its leading zero.
        let has_fourth = code > self.at && self.bytes[code - 1] == 0;
        self.at = payload;
        let start = if has_fourth { code - 1 } else { code };
        Some(Unit { start, payload, role: Role::new(self.codec, first_byte) })
    }
}

/// Whether a temporal unit has a sequence header and its first frame is a shown key frame.
fn is_av1_key(mut unit: &[u8]) -> bool {
    const SEQUENCE_HEADER: u8 = 1;
    const FRAME_HEADER: u8 = 3;
    const FRAME: u8 = 6;
    let mut has_sequence_header = false;
    while let Some((kind, payload, rest)) = split_obu(unit) {
        match kind {
            SEQUENCE_HEADER => has_sequence_header = true,
            FRAME_HEADER | FRAME => {
                // show_existing_frame (1 bit) and frame_type (2 bits, 0 is a key frame).
                return has_sequence_header && payload.first().is_some_and(|byte| byte >> 5 == 0);
            }
            _ => {}
        }
        unit = rest;
    }
    false
}

/// The first OBU: its type, payload, and what follows it. `None` without a sound size field.
fn split_obu(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&header, mut rest) = bytes.split_first()?;
    let (has_extension, has_size) = (header & 4 != 0, header & 2 != 0);
    if header & 0x80 != 0 || !has_size {
        return None;
    }
    if has_extension {
        (_, rest) = rest.split_first()?;
    }
    let mut size: u64 = 0;
    for i in 0..8 {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        size |= u64::from(byte & 0x7F) << (7 * i);
        if byte & 0x80 == 0 {
            let (payload, after) = rest.split_at_checked(usize::try_from(size).ok()?)?;
            return Some((header >> 3 & 15, payload, after));
        }
    }
    None
}
