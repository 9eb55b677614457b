//! The encoding chain in this process: frames reach it without a copy, key frames come when asked,
//! settings are checked, and the stream says of itself what decoders need.
mod encoder_picture;

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use encoder_picture::{Canvas, difference, read_number, ring, spec};
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_allocators::FdMemory;
use moonshard::ipc::FrameNote;
use moonshard::media::decoder::Decoder;
use moonshard::media::pipeline::{AccessUnit, Fate, Freed, Pipeline};
use moonshard::media::slots::Slots;
use moonshard::media::table::{AV1, OPENH264, Row, Setting, Stage, Value, X264, X265};
use moonshard::media::{MediaError, start};
use moonshard::proto::stream::{Codec, VideoSpec};

const WAIT: Duration = Duration::from_secs(5);

/// A chain, its slots, and what came back of them.
struct Bench {
    canvas: Canvas,
    chain: Pipeline,
    freed: Arc<Mutex<Vec<(FrameNote, Fate)>>>,
    seq: u64,
}

impl Bench {
    fn new(row: &Row, spec: &VideoSpec) -> Result<Self, MediaError> {
        start().unwrap();
        let canvas = Canvas::new(ring(spec.mode.width, spec.mode.height));
        let slots = Slots::new(canvas.ring, canvas.fds()).unwrap();
        let freed: Arc<Mutex<Vec<(FrameNote, Fate)>>> = Arc::default();
        let list = freed.clone();
        let told: Freed = Arc::new(move |note, fate| list.lock().unwrap().push((note, fate)));
        let spec = VideoSpec { codec: row.codec, ..spec.clone() };
        let chain = Pipeline::start(row, &spec, &slots, 2, told)?;
        Ok(Self { canvas, chain, freed, seq: 0 })
    }

    /// Pushes the next frame, without waiting for anything.
    fn push(&mut self) -> (FrameNote, Vec<u8>) {
        self.seq += 1;
        let slot = (self.seq % 4) as u32;
        let drawn = self.canvas.draw(slot, self.seq as u32);
        (self.push_undrawn(slot), drawn)
    }

    fn push_undrawn(&mut self, slot: u32) -> FrameNote {
        let captured_ns = 1_000_000_000 + self.seq * 16_666_667;
        let note = FrameNote { slot, seq: self.seq, captured_ns, repeated: false };
        assert!(self.chain.push(note));
        note
    }

    fn pull(&self) -> AccessUnit {
        let start = Instant::now();
        while start.elapsed() < WAIT {
            if let Some(unit) = self.chain.pull(Duration::from_millis(50)).unwrap() {
                return unit;
            }
        }
        panic!("nothing was encoded");
    }

    /// One frame through the chain.
    fn step(&mut self) -> (AccessUnit, Vec<u8>) {
        let (note, drawn) = self.push();
        let unit = self.pull();
        assert_eq!(unit.note, note);
        (unit, drawn)
    }

    fn freed_within(&self, count: usize) -> Vec<(FrameNote, Fate)> {
        let start = Instant::now();
        while self.freed.lock().unwrap().len() < count && start.elapsed() < WAIT {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.freed.lock().unwrap().clone()
    }
}

#[test]
fn pictures_come_out_as_they_were_drawn_and_every_slot_comes_back() {
    for row in [&X264, &OPENH264, &X265] {
        let mut bench = Bench::new(row, &spec(640, 360)).unwrap();
        let decoder = Decoder::start(row.codec).unwrap();
        bench.chain.want_key();
        for i in 0..30 {
            let (unit, drawn) = bench.step();
            let picture = decoder.decode(i, unit.bytes()).unwrap().unwrap();
            assert_eq!((picture.width, picture.height), (640, 360));
            assert_eq!(read_number(640, &picture.bgrx), Some(bench.seq as u32));
            let off = difference(&picture.bgrx, &drawn);
            assert!(off < 8.0, "{}: frame {i} is off by {off}", row.element);
        }
        let freed = bench.freed_within(30);
        assert_eq!(freed.len(), 30);
        assert!(freed.iter().enumerate().all(|(i, (note, _))| note.seq == i as u64 + 1));
        assert!(freed.iter().all(|(_, fate)| *fate == Fate::Taken));
        assert!(bench.chain.stop(WAIT));
    }
}

#[test]
fn a_key_frame_comes_on_request_with_the_very_next_frame_and_never_else() {
    for row in [&X264, &OPENH264, &X265] {
        let mut bench = Bench::new(row, &spec(640, 360)).unwrap();
        for i in 1..=30 {
            let is_wanted = i % 7 == 0;
            if is_wanted {
                bench.chain.want_key();
                bench.chain.want_key();
            }
            let (unit, _) = bench.step();
            assert_eq!(unit.is_key, is_wanted, "{}: frame {i}", row.element);
        }
    }
}

#[test]
fn a_frame_that_waits_gives_way_to_a_newer_one_and_its_slot_is_free_at_once() {
    let mut bench = Bench::new(&X264, &spec(1280, 720)).unwrap();
    let pushed = 200;
    let (mut encoded, mut last) = (0, 0);
    for _ in 0..pushed {
        bench.push();
        while let Some(unit) = bench.chain.pull(Duration::ZERO).unwrap() {
            assert!(unit.note.seq > last);
            last = unit.note.seq;
            encoded += 1;
        }
    }
    while last < pushed {
        last = bench.pull().note.seq;
        encoded += 1;
    }
    let freed = bench.freed_within(pushed as usize);
    let dropped = freed.iter().filter(|(_, fate)| *fate == Fate::Dropped).count() as u64;
    assert_eq!(freed.len() as u64, pushed);
    assert_eq!(encoded + dropped, pushed);
    assert!(!bench.chain.is_waiting());
}

/// Counts buffers at the sink pad of `element` that are, by inode and by pointer, a slot.
fn count_slots_at(bench: &Bench, factory: &str) -> Arc<Mutex<(u32, u32)>> {
    let counts: Arc<Mutex<(u32, u32)>> = Arc::default();
    let slots: BTreeMap<usize, (u64, u64)> = (0..4)
        .map(|slot| {
            let memory = bench.chain.slots().memory(slot).unwrap();
            (memory.as_ptr() as usize, bench.canvas.identity(slot))
        })
        .collect();
    let element = bench
        .chain
        .inner()
        .iterate_elements()
        .into_iter()
        .filter_map(Result::ok)
        .find(|element| element.factory().is_some_and(|f| f.name() == factory))
        .unwrap();
    let counted = counts.clone();
    element.static_pad("sink").unwrap().add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let buffer = info.buffer().unwrap();
        let memory = buffer.peek_memory(0);
        let inode = memory.downcast_memory_ref::<FdMemory>().map(|memory| {
            // SAFETY of the borrow: the memory owns the fd and outlives this closure's use of it.
            #[expect(unsafe_code, reason = "an fd's number from GStreamer")]
            let fd = unsafe { BorrowedFd::borrow_raw(memory.fd()) };
            let stat = rustix::fs::fstat(fd).unwrap();
            (stat.st_dev, stat.st_ino)
        });
        let is_slot = slots.get(&(memory.as_ptr() as usize)).copied();
        let mut counts = counted.lock().unwrap();
        counts.0 += 1;
        counts.1 += u32::from(is_slot.is_some() && is_slot == inode && buffer.n_memory() == 1);
        gst::PadProbeReturn::Ok
    });
    counts
}

#[test]
fn the_first_element_is_given_the_slots_themselves() {
    let mut bench = Bench::new(&X264, &spec(1280, 720)).unwrap();
    let counts = count_slots_at(&bench, "videoconvert");
    for _ in 0..300 {
        bench.seq += 1;
        bench.push_undrawn((bench.seq % 4) as u32);
        bench.pull();
    }
    assert_eq!(*counts.lock().unwrap(), (300, 300));
    assert_eq!(bench.freed_within(300).len(), 300);
}

#[test]
fn an_element_that_copies_is_noticed() {
    const SHIFTED: &[Stage] = &[
        Stage {
            element: "videobox",
            settings: &[
                Setting { name: "left", value: Value::Number(-2) },
                Setting { name: "right", value: Value::Number(2) },
            ],
        },
        Stage { element: "videoconvert", settings: &[] },
    ];
    let row = Row { convert: SHIFTED, ..X264 };
    let mut bench = Bench::new(&row, &spec(640, 360)).unwrap();
    let counts = count_slots_at(&bench, "videoconvert");
    (0..30).for_each(|_| drop(bench.step()));
    assert_eq!(*counts.lock().unwrap(), (30, 0));
}

#[test]
fn settings_that_the_installed_element_does_not_have_are_refused_by_name() {
    let with = |settings| Bench::new(&Row { settings, ..X264 }, &spec(640, 360)).err().unwrap();
    let refused = |settings, part: &str| {
        let text = with(settings).to_string();
        assert!(text.contains(part), "{text}");
    };
    const NO_PROPERTY: &[Setting] = &[Setting { name: "warp", value: Value::Number(1) }];
    const NO_VALUE: &[Setting] = &[Setting { name: "tune", value: Value::Name("warp") }];
    const RANGE: &[Setting] = &[Setting { name: "bframes", value: Value::Number(99) }];
    const TYPE: &[Setting] = &[Setting { name: "bframes", value: Value::Flag(true) }];
    refused(NO_PROPERTY, "warp=1: there is no such property");
    refused(NO_VALUE, "no such value");
    refused(RANGE, "bframes=99: the value is out of the property's range");
    refused(TYPE, "another type");
    let missing = Bench::new(&Row { element: "warpenc", ..X264 }, &spec(640, 360)).err().unwrap();
    assert!(missing.to_string().contains("apt-get install"), "{missing}");
    let ten_bit = VideoSpec { ten_bit: true, ..spec(640, 360) };
    assert!(matches!(Bench::new(&X264, &ten_bit).err(), Some(MediaError::Unsuited(_))));
}

#[test]
fn the_bitrate_changes_while_it_runs_without_a_key_frame() {
    let mut bench =
        Bench::new(&X264, &VideoSpec { bitrate_kbps: 8_000, ..spec(640, 360) }).unwrap();
    let measure = |bench: &mut Bench| {
        // Snow: the encoder uses all it is given.
        let bytes: usize = (0..60).map(|_| bench.step_with_snow()).sum();
        bytes * 8 / 1000
    };
    let high = measure(&mut bench);
    bench.chain.set_bitrate(1_000).unwrap();
    let _ = measure(&mut bench);
    let low = measure(&mut bench);
    assert!((6_000..10_000).contains(&high), "{high} kbit/s");
    assert!((600..1_500).contains(&low), "{low} kbit/s");

    // One that would pay with a key frame refuses.
    let bench = Bench::new(&X265, &spec(640, 360)).unwrap();
    assert!(matches!(bench.chain.set_bitrate(1_000), Err(MediaError::Unsuited(_))));
}

#[test]
fn the_bitrate_of_av1_changes_while_it_runs_too() {
    let mut bench = Bench::new(&AV1, &VideoSpec { bitrate_kbps: 8_000, ..spec(320, 180) }).unwrap();
    let high: usize = (0..30).map(|_| bench.step_with_snow()).sum();
    bench.chain.set_bitrate(500).unwrap();
    let _: usize = (0..10).map(|_| bench.step_with_snow()).sum();
    let low: usize = (0..30).map(|_| bench.step_with_snow()).sum();
    assert!(low < high / 3, "{high} and then {low} bytes");
}

impl Bench {
    fn codec(&self) -> Codec {
        self.chain.codec()
    }

    fn step_with_snow(&mut self) -> usize {
        self.seq += 1;
        let slot = (self.seq % 4) as u32;
        self.canvas.draw_snow(slot, self.seq);
        self.push_undrawn(slot);
        let unit = self.pull();
        assert!(!unit.is_key);
        unit.bytes().len()
    }
}

#[test]
fn the_parameter_sets_tell_colours_references_and_order() {
    use moonshard::media::h264::{slice_types, sps};
    use moonshard::proto::stream::Colorspace::{Rec601, Rec709, Rec2020};
    for (colorspace, number) in [(Rec601, 6), (Rec709, 1), (Rec2020, 1)] {
        for full_range in [false, true] {
            let spec = VideoSpec { colorspace, full_range, ..spec(640, 360) };
            let mut bench = Bench::new(&X264, &spec).unwrap();
            bench.chain.want_key();
            let (unit, drawn) = bench.step();
            let sps = sps(unit.bytes()).unwrap();
            let colour = sps.colour.unwrap();
            assert_eq!(colour.is_full_range, full_range);
            assert_eq!(colour.description, Some((number, number, number)));
            assert_eq!(sps.references_max, 1);
            assert_eq!(sps.restrictions, Some((0, 1)));
            // The converter must have used the matrix and range that the stream tells of.
            let picture =
                Decoder::start(bench.codec()).unwrap().decode(0, unit.bytes()).unwrap().unwrap();
            let off = difference(&picture.bgrx, &drawn);
            assert!(off < 8.0, "{colorspace:?} {full_range}: off by {off}");
            // As many slices as asked for, of I and P only.
            assert_eq!(slice_types(unit.bytes()), [2, 2]);
            let (unit, _) = bench.step();
            assert_eq!(slice_types(unit.bytes()), [0, 0]);
            assert_eq!(h264_units(&unit), [1, 1], "a P-frame is slices and nothing else");
        }
    }
    let full_range = VideoSpec { full_range: true, ..spec(640, 360) };
    assert!(matches!(Bench::new(&OPENH264, &full_range).err(), Some(MediaError::Unsuited(_))));
}

fn h264_units(unit: &AccessUnit) -> Vec<u8> {
    moonshard::media::h264::units(unit.bytes()).map(|unit| unit[0] & 0x1F).collect()
}

#[test]
fn odd_shapes_and_slice_counts_encode() {
    for (width, height, slices) in [(1366, 768, 4), (640, 362, 1), (64, 64, 2)] {
        let spec = VideoSpec { slices, ..spec(width, height) };
        let mut bench = Bench::new(&X264, &spec).unwrap();
        bench.chain.want_key();
        let (unit, drawn) = bench.step();
        let picture =
            Decoder::start(bench.codec()).unwrap().decode(0, unit.bytes()).unwrap().unwrap();
        assert_eq!((picture.width, picture.height), (u32::from(width), u32::from(height)));
        // Small pictures are mostly bar code, which one frame's bits cannot hold well.
        assert!(difference(&picture.bgrx, &drawn) < 30.0);
    }
}
