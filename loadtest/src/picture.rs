//! Pictures as they arrive: a software H.264 decoder on its own thread, and what is read in them.
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app::{AppSink, AppSrc};
use gstreamer_video::VideoInfo;
use moonshard::proto::pattern;

/// How long one access unit may take to decode.
const WAIT: Duration = Duration::from_secs(2);
const DECODERS: [&str; 2] = ["avdec_h264", "openh264dec"];

/// What one access unit became.
pub struct Seen {
    pub decoded_at: Instant,
    /// False: the decoder gave no picture for it.
    pub decoded: bool,
    pub size: (u32, u32),
    /// The pattern's counter, if its code is there.
    pub counter: Option<u32>,
    /// The pattern's answer colour.
    pub answer: Option<usize>,
}

/// The decoding thread. Access units go in, what was seen comes out in the same order.
pub struct Pictures {
    units: Option<Sender<Vec<u8>>>,
    pub seen: Receiver<Seen>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Pictures {
    /// `save`: where the newest picture is written at the end.
    pub fn start(save: Option<PathBuf>) -> Result<Self, String> {
        gst::init().map_err(|e| e.to_string())?;
        let decoder = Decoder::start()?;
        let (units, inbox) = channel::<Vec<u8>>();
        let (outbox, seen) = channel();
        let thread = std::thread::spawn(move || {
            let mut last = None;
            for unit in inbox {
                let picture = decoder.decode(unit);
                let told = look(picture.as_ref());
                last = picture.or(last);
                if outbox.send(told).is_err() {
                    break;
                }
            }
            if let (Some(path), Some(picture)) = (save, last)
                && let Err(e) = picture.save(&path)
            {
                eprintln!("{}: {e}", path.display());
            }
        });
        Ok(Self { units: Some(units), seen, thread: Some(thread) })
    }

    pub fn push(&self, unit: Vec<u8>) {
        if let Some(units) = &self.units {
            let _ = units.send(unit);
        }
    }

    /// No more units; waits for the last picture.
    pub fn finish(&mut self) {
        self.units = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn look(picture: Option<&Picture>) -> Seen {
    let mut seen = Seen {
        decoded_at: Instant::now(),
        decoded: picture.is_some(),
        size: (0, 0),
        counter: None,
        answer: None,
    };
    if let Some(picture) = picture {
        let (w, h) = (picture.width, picture.height);
        seen.size = (w, h);
        seen.counter = pattern::read_counter(w, h, |x, y| {
            let (r, g, b) = picture.pixel(x, y);
            ((u32::from(r) * 77 + u32::from(g) * 150 + u32::from(b) * 29) >> 8) as u8
        });
        let field = pattern::answer_field(w, h);
        let (r, g, b) = picture.pixel(field.x + field.width / 2, field.y + field.height / 2);
        seen.answer = seen.counter.and_then(|_| pattern::answer_of(r, g, b));
    }
    seen
}

/// RGB, rows without padding.
struct Picture {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
}

impl Picture {
    fn pixel(&self, x: u32, y: u32) -> (u8, u8, u8) {
        let at = (y as usize * self.width as usize + x as usize) * 3;
        match self.rgb.get(at..at + 3) {
            Some([r, g, b]) => (*r, *g, *b),
            _ => (0, 0, 0),
        }
    }

    fn save(&self, path: &PathBuf) -> Result<(), String> {
        let file = std::fs::File::create(path).map_err(|e| e.to_string())?;
        let mut encoder = png::Encoder::new(std::io::BufWriter::new(file), self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        let mut writer = encoder.write_header().map_err(|e| e.to_string())?;
        writer.write_image_data(&self.rgb).map_err(|e| e.to_string())
    }
}

struct Decoder {
    pipeline: gst::Element,
    source: AppSrc,
    sink: AppSink,
    frames: std::cell::Cell<u64>,
}

impl Decoder {
    fn start() -> Result<Self, String> {
        let name = DECODERS.into_iter().find(|name| gst::ElementFactory::find(name).is_some());
        let name = name.ok_or("no H.264 decoder; mend: apt-get install gstreamer1.0-libav")?;
        // Threads of this decoder each hold back a frame.
        let threads = if name == "avdec_h264" { "max-threads=1" } else { "" };
        let text = format!(
            "appsrc name=source format=time caps=video/x-h264,stream-format=byte-stream,alignment=au \
             ! {name} {threads} ! videoconvert ! video/x-raw,format=RGB \
             ! appsink name=sink sync=false async=false enable-last-sample=false"
        );
        let pipeline = gst::parse::launch(&text).map_err(|e| e.to_string())?;
        let bin = pipeline.downcast_ref::<gst::Bin>().ok_or("not a pipeline")?;
        let source = bin.by_name("source").and_then(|e| e.downcast().ok()).ok_or("no appsrc")?;
        let sink = bin.by_name("sink").and_then(|e| e.downcast().ok()).ok_or("no appsink")?;
        pipeline.set_state(gst::State::Playing).map_err(|e| e.to_string())?;
        Ok(Self { pipeline, source, sink, frames: std::cell::Cell::new(0) })
    }

    fn decode(&self, unit: Vec<u8>) -> Option<Picture> {
        self.frames.set(self.frames.get() + 1);
        let mut buffer = gst::Buffer::from_slice(unit);
        buffer.get_mut()?.set_pts(gst::ClockTime::from_mseconds(self.frames.get() * 10));
        self.source.push_buffer(buffer).ok()?;
        let sample = self.sink.try_pull_sample(gst::ClockTime::try_from(WAIT).ok()?)?;
        let info = VideoInfo::from_caps(sample.caps()?).ok()?;
        let map = sample.buffer()?.map_readable().ok()?;
        let stride = usize::try_from(info.stride()[0]).ok()?;
        let (width, height) = (info.width(), info.height());
        let rows = map.chunks(stride).take(height as usize);
        let rgb = rows.flat_map(|row| row.iter().take(width as usize * 3)).copied().collect();
        Some(Picture { width, height, rgb })
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}
