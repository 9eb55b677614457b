//! A ring of memfd slots with pictures whose number a machine can read, before and after encoding.
#![allow(dead_code, reason = "each test file uses its part")]
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use moonshard::ipc::RingSpec;
use moonshard::proto::stream::{Codec, Colorspace, Mode, VideoSpec};

/// Side of one cell of the bar code, pixels.
const CELL: usize = 16;
/// Bits of the number, the most significant first, along the upper edge.
const BITS: usize = 24;

pub fn ring(width: u16, height: u16) -> RingSpec {
    let (width, height) = (u32::from(width), u32::from(height));
    RingSpec { width, height, stride: width * 4, slots: 4, dmabuf: false }
}

pub fn spec(width: u16, height: u16) -> VideoSpec {
    VideoSpec {
        mode: Mode { width, height, millihertz: 60_000 },
        codec: Codec::H264,
        ten_bit: false,
        yuv444: false,
        colorspace: Colorspace::Rec709,
        full_range: false,
        bitrate_kbps: 5_000,
        slices: 2,
        reference_frames_max: 1,
        packet_size: 1392,
        fec_percent: 20,
        fec_packets_min: 2,
        encrypted: false,
        qos: false,
    }
}

/// Slots as a compositor would have them.
pub struct Canvas {
    pub ring: RingSpec,
    slots: Vec<File>,
}

impl Canvas {
    pub fn new(ring: RingSpec) -> Self {
        let slot = |_| {
            let flags = rustix::fs::MemfdFlags::CLOEXEC;
            let fd = rustix::fs::memfd_create("slot", flags).expect("memfd");
            rustix::fs::ftruncate(&fd, ring.slot_bytes() as u64).expect("size");
            File::from(fd)
        };
        Self { ring, slots: (0..ring.slots).map(slot).collect() }
    }

    pub fn fds(&self) -> Vec<OwnedFd> {
        self.slots.iter().map(|slot| slot.as_fd().try_clone_to_owned().expect("fd")).collect()
    }

    /// Device and inode of a slot.
    pub fn identity(&self, slot: u32) -> (u64, u64) {
        let stat = rustix::fs::fstat(&self.slots[slot as usize]).expect("stat");
        (stat.st_dev, stat.st_ino)
    }

    pub fn draw(&self, slot: u32, number: u32) -> Vec<u8> {
        let picture = picture(self.ring.width as usize, self.ring.height as usize, number);
        self.slots[slot as usize].write_all_at(&picture, 0).expect("draw");
        picture
    }

    /// Noise, other in each frame.
    pub fn draw_snow(&self, slot: u32, number: u64) {
        let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        let snow: Vec<u8> = (0..self.ring.slot_bytes() / 8).flat_map(|_| next()).collect();
        self.slots[slot as usize].write_all_at(&snow, 0).expect("draw");
    }
}

/// A soft moving gradient with `number` as a bar code on top. BGRx.
pub fn picture(width: usize, height: usize, number: u32) -> Vec<u8> {
    let mut out = vec![0; width * height * 4];
    let shift = number as usize * 3;
    for (y, row) in out.chunks_exact_mut(width * 4).enumerate() {
        for (x, pixel) in row.chunks_exact_mut(4).enumerate() {
            let wave = |v: usize| {
                let v = v % 512;
                (if v < 256 { v } else { 511 - v }) as u8
            };
            pixel.copy_from_slice(&[
                wave(x / 2 + shift),
                wave(y / 2 + 128),
                wave(x / 4 + y / 4),
                0,
            ]);
            if y < CELL && x < CELL * BITS {
                let is_white = number >> (BITS - 1 - x / CELL) & 1 == 1;
                pixel[..3].fill(if is_white { 255 } else { 0 });
            }
        }
    }
    out
}

/// The number in a picture; None: a cell is neither black nor white.
pub fn read_number(width: usize, bgrx: &[u8]) -> Option<u32> {
    (0..BITS).try_fold(0, |number, bit| {
        let at = (CELL / 2 * width + bit * CELL + CELL / 2) * 4;
        let sum: u32 = bgrx.get(at..at + 3)?.iter().map(|v| u32::from(*v)).sum();
        match sum {
            0..=240 => Some(number << 1),
            525..=765 => Some(number << 1 | 1),
            _ => None,
        }
    })
}

/// Mean difference of two pictures, per colour value.
pub fn difference(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    let pairs = a.chunks_exact(4).zip(b.chunks_exact(4)).flat_map(|(a, b)| {
        a[..3].iter().zip(&b[..3]).map(|(a, b)| u64::from(a.abs_diff(*b))).collect::<Vec<_>>()
    });
    pairs.sum::<u64>() as f64 / (a.len() as f64 * 0.75)
}
