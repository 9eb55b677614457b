//! The trial of one encoder: it encodes a moving picture, which is decoded and compared, and must keep
//! every promise that the stream makes to clients.
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::decoder::Decoder;
use super::pipeline::{AccessUnit, Pipeline};
use super::slots::Slots;
use super::table::{Row, colorimetry};
use super::{MediaError, h264};
use crate::ipc::{FrameNote, RingSpec};
use crate::limits::RING_SLOTS;
use crate::proto::stream::{Codec, Colorspace, Mode, VideoSpec};
use crate::proto::video::{idr_fits, strip_leading_sei};

/// Frames that are decoded and compared; one in between is asked to be a key frame.
const FRAMES: u64 = 12;
const KEY_AT: u64 = 7;
/// Frames that are only measured.
const MEASURED: u64 = 12;
/// How long one frame may take.
const FRAME_WAIT: Duration = Duration::from_secs(1);
/// Mean difference per colour value between drawn and decoded, of 255.
const DIFFERENCE_MAX: f64 = 12.0;
/// Half a frame at 60 Hz: the other half is for what varies.
const QUICK_MS: f64 = 8.0;
/// Larger pictures are measured only where the small ones take less.
const LARGE_WORTH_MS: f64 = 20.0;
/// Packets of most clients.
const PACKET_SIZE: u16 = 1392;

/// Why the encoder is not used.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The element is not installed.
    #[error("{0}")]
    Missing(MediaError),
    #[error("{0}")]
    Media(#[from] MediaError),
    /// It encodes, but not what clients need.
    #[error("{0}")]
    Unsound(String),
}

/// What a trial has found of an encoder that keeps its promises.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    row: &'static str,
    live_rate: bool,
    /// The median time for a picture of 640x360, and of 1280x720 where the small one was quick.
    small_ms: f64,
    large_ms: Option<f64>,
    difference: f64,
}

impl Found {
    /// Encodes 1280x720 in less than half of a frame at 60 Hz.
    pub fn is_quick(&self) -> bool {
        self.large_ms.is_some_and(|ms| ms < QUICK_MS)
    }
}

/// For people.
impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "640x360: {:.1} ms a frame", self.small_ms)?;
        if let Some(ms) = self.large_ms {
            write!(f, ", 1280x720: {ms:.1} ms")?;
        }
        write!(f, "; decoded pictures differ by {:.1} of 255", self.difference)?;
        if !self.live_rate {
            write!(f, "; {} keeps its bitrate while it runs", self.row)?;
        }
        Ok(())
    }
}

/// Encodes, decodes, compares, measures.
///
/// # Errors
/// The first promise that it broke.
pub fn run(row: &'static Row) -> Result<Found, Failure> {
    super::start()?;
    let (mut small, mut large_ms) = (Trial::start(row, 640, 360)?, None);
    let difference = small.check()?;
    let small_ms = small.measure()?;
    drop(small);
    if small_ms < LARGE_WORTH_MS {
        large_ms = Some(Trial::start(row, 1280, 720)?.measure()?);
    }
    let live_rate = row.live_rate;
    Ok(Found { row: row.element, live_rate, small_ms, large_ms, difference })
}

struct Trial {
    chain: Pipeline,
    files: Vec<File>,
    ring: RingSpec,
    spec: VideoSpec,
    seq: u64,
}

impl Trial {
    fn start(row: &'static Row, width: u16, height: u16) -> Result<Self, Failure> {
        let spec = VideoSpec {
            mode: Mode { width, height, millihertz: 60_000 },
            codec: row.codec,
            ten_bit: false,
            yuv444: false,
            colorspace: Colorspace::Rec709,
            full_range: false,
            bitrate_kbps: 8_000,
            slices: 1,
            reference_frames_max: 1,
            packet_size: PACKET_SIZE,
            fec_percent: 0,
            fec_packets_min: 0,
            encrypted: false,
            qos: false,
        };
        let (width, height) = (u32::from(width), u32::from(height));
        let slots = RING_SLOTS as u32;
        let ring = RingSpec { width, height, stride: width * 4, slots, dmabuf: false };
        let system = |e: std::io::Error| Failure::Unsound(format!("no memory for slots: {e}"));
        let mut files = Vec::new();
        for _ in 0..ring.slots {
            let fd = rustix::fs::memfd_create("slot", rustix::fs::MemfdFlags::CLOEXEC);
            let file = File::from(fd.map_err(|e| system(e.into()))?);
            file.set_len(ring.slot_bytes() as u64).map_err(system)?;
            files.push(file);
        }
        let fds = files.iter().map(|f| Ok(f.try_clone()?.into())).collect::<Result<_, _>>();
        let slots = Slots::new(ring, fds.map_err(system)?)?;
        let chain = Pipeline::start(row, &spec, &slots, 1, Arc::new(|_, _| ()));
        let chain = chain.map_err(|error| match error {
            MediaError::Missing { ref element, .. } if element == row.element => {
                Failure::Missing(error)
            }
            error => Failure::Media(error),
        })?;
        Ok(Self { chain, files, ring, spec, seq: 0 })
    }

    /// Draws and encodes one picture; gives it, its access unit, and how long encoding took.
    fn step(&mut self) -> Result<(Vec<u8>, AccessUnit, Duration), Failure> {
        self.seq += 1;
        let picture = draw(self.ring.width as usize, self.ring.height as usize, self.seq);
        let slot = self.seq % self.files.len() as u64;
        self.files[slot as usize]
            .write_all_at(&picture, 0)
            .map_err(|e| Failure::Unsound(format!("no memory for slots: {e}")))?;
        let captured_ns = 1_000_000_000 + self.seq * 16_666_667;
        let start = Instant::now();
        self.chain.push(FrameNote {
            slot: slot as u32,
            seq: self.seq,
            captured_ns,
            repeated: false,
        });
        while start.elapsed() < FRAME_WAIT {
            if let Some(unit) = self.chain.pull(Duration::from_millis(50))? {
                if unit.note.seq != self.seq {
                    return Err(unsound("it gives frames late or in another order"));
                }
                return Ok((picture, unit, start.elapsed()));
            }
        }
        Err(unsound("it holds frames back"))
    }

    /// Every promise of the stream; the mean difference of the pictures.
    fn check(&mut self) -> Result<f64, Failure> {
        let decoder = Decoder::start(self.spec.codec)?;
        self.chain.want_key();
        let colours = colorimetry(self.spec.colorspace, self.spec.full_range);
        let mut difference = 0.0;
        for i in 1..=FRAMES {
            if i == KEY_AT {
                self.chain.want_key();
            }
            let (picture, unit, _) = self.step()?;
            let is_key_due = i == 1 || i == KEY_AT;
            match (is_key_due, unit.is_key) {
                (true, false) => return Err(unsound("no key frame came when asked for")),
                (false, true) => return Err(unsound("a key frame came that nobody asked for")),
                _ => {}
            }
            self.check_unit(unit.bytes(), unit.is_key)?;
            let decoded = decoder.decode(i, unit.bytes())?;
            let decoded = decoded.ok_or_else(|| unsound("its frames do not decode at once"))?;
            if (decoded.width, decoded.height) != (self.ring.width, self.ring.height) {
                return Err(unsound("the decoded picture has another size"));
            }
            let told = decoded.colorimetry.to_string();
            if self.chain.describes_colour() && told != colours && told != "bt709" {
                return Err(unsound(&format!("it describes its colours as {told}")));
            }
            difference += mean_difference(&picture, &decoded.bgrx) / FRAMES as f64;
        }
        if difference > DIFFERENCE_MAX {
            return Err(unsound(&format!("decoded pictures differ by {difference:.1} of 255")));
        }
        Ok(difference)
    }

    fn check_unit(&self, bytes: &[u8], is_key: bool) -> Result<(), Failure> {
        let mut head = Vec::new();
        let body = strip_leading_sei(self.spec.codec, bytes, &mut head);
        let whole = [&head, body].concat();
        if is_key && !idr_fits(self.spec.codec, &whole, PACKET_SIZE) {
            return Err(unsound("the first slice of its key frames is not in the first packet"));
        }
        if self.spec.codec == Codec::H264 {
            let types = h264::slice_types(&whole);
            if types.is_empty() || types.contains(&1) {
                return Err(unsound("it makes B-frames"));
            }
            if let Some((reordered @ 1.., _)) = h264::sps(&whole).and_then(|sps| sps.restrictions) {
                return Err(unsound(&format!("it announces {reordered} reordered frames")));
            }
        }
        Ok(())
    }

    /// Milliseconds per frame, the median.
    fn measure(&mut self) -> Result<f64, Failure> {
        let mut took: Vec<Duration> =
            (0..MEASURED).map(|_| self.step().map(|step| step.2)).collect::<Result<_, _>>()?;
        took.sort_unstable();
        Ok(took[took.len() / 2].as_secs_f64() * 1e3)
    }
}

fn unsound(reason: &str) -> Failure {
    Failure::Unsound(reason.into())
}

/// A soft gradient that moves. BGRx.
fn draw(width: usize, height: usize, number: u64) -> Vec<u8> {
    let wave = |v: usize| (if v % 512 < 256 { v % 512 } else { 511 - v % 512 }) as u8;
    let shift = number as usize * 4;
    let mut out = Vec::with_capacity(width * height * 4);
    for y in 0..height {
        for x in 0..width {
            out.extend([wave(x / 2 + shift), wave(y + shift), wave((x + y) / 2), 0]);
        }
    }
    out
}

/// Per colour value; pictures of another size are as different as can be.
fn mean_difference(a: &[u8], b: &[u8]) -> f64 {
    if a.len() != b.len() || a.is_empty() {
        return 255.0;
    }
    let colours = |bytes| <[u8]>::chunks_exact(bytes, 4).flat_map(|pixel| &pixel[..3]);
    let sum: u64 = colours(a).zip(colours(b)).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / (a.len() / 4 * 3) as f64
}
