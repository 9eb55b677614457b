//! Decoding with GStreamer's software decoders: access units in, I420 pictures out.
use std::collections::BTreeSet;
use std::io::BufWriter;
use std::path::Path;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app::{AppSink, AppSrc};
use gstreamer_video::VideoInfo;
use gstreamer_video::prelude::*;
use moonshard::proto::stream::Codec;

/// Decoders, best first, and the caps before them.
const fn elements(codec: Codec) -> (&'static [&'static str], &'static str) {
    const ANNEX_B: &str = "stream-format=byte-stream,alignment=au";
    match codec {
        Codec::H264 => (&["avdec_h264", "openh264dec"], ANNEX_B),
        Codec::Hevc => (&["avdec_h265", "libde265dec"], ANNEX_B),
        Codec::Av1 => (&["dav1ddec", "av1dec"], "stream-format=obu-stream,alignment=tu"),
    }
}
/// How long a picture may take on a busy machine.
const WAIT: gst::ClockTime = gst::ClockTime::from_mseconds(500);
/// And the last ones, after a busy stream.
const REST: gst::ClockTime = gst::ClockTime::from_seconds(3);

/// No decoder, or one that failed.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("no decoder for {0:?}: install gstreamer1.0-libav and gstreamer1.0-plugins-bad")]
    Missing(Codec),
    #[error("the decoder fails: {0}")]
    Broken(String),
}

/// A decoded picture, 4:2:0.
pub struct Picture {
    /// Index of the frame it came from.
    pub frame: u32,
    pub width: u32,
    pub height: u32,
    planes: [Vec<u8>; 3],
    strides: [usize; 3],
    pub corrupted: bool,
}

impl Picture {
    /// Brightness from 0 to 255, whatever the range of the stream.
    pub fn luma(&self, x: u32, y: u32) -> u8 {
        let at = y as usize * self.strides[0] + x as usize;
        self.planes[0].get(at).copied().unwrap_or(0)
    }

    /// Red, green and blue of a pixel: BT.709, limited range, as announced.
    pub fn rgb(&self, x: u32, y: u32) -> (u8, u8, u8) {
        let chroma = |plane: usize| {
            let at = (y / 2) as usize * self.strides[plane] + (x / 2) as usize;
            f32::from(self.planes[plane].get(at).copied().unwrap_or(128)) - 128.0
        };
        let luma = 1.164 * (f32::from(self.luma(x, y)) - 16.0);
        let (blue, red) = (chroma(1), chroma(2));
        let byte = |value: f32| value.round().clamp(0.0, 255.0) as u8;
        (
            byte(luma + 1.793 * red),
            byte(luma - 0.213 * blue - 0.533 * red),
            byte(luma + 2.112 * blue),
        )
    }

    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        let file = BufWriter::new(std::fs::File::create(path)?);
        let mut encoder = png::Encoder::new(file, self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        let pixels = (0..self.height).flat_map(|y| (0..self.width).map(move |x| (x, y)));
        let bytes: Vec<u8> = pixels.flat_map(|(x, y)| <[u8; 3]>::from(self.rgb(x, y))).collect();
        let mut writer = encoder.write_header().map_err(std::io::Error::other)?;
        writer.write_image_data(&bytes).map_err(std::io::Error::other)
    }
}

/// A decoder of one stream.
pub struct Decoder {
    pipeline: gst::Pipeline,
    source: AppSrc,
    sink: AppSink,
    /// Frames that have given no picture yet.
    waiting: BTreeSet<u32>,
}

impl Decoder {
    pub fn start(codec: Codec) -> Result<Self, DecodeError> {
        let broken = |error: gst::glib::Error| DecodeError::Broken(error.to_string());
        gst::init().map_err(broken)?;
        let (elements, format) = elements(codec);
        let name = elements.iter().find(|name| gst::ElementFactory::find(name).is_some());
        let name = name.ok_or(DecodeError::Missing(codec))?;
        let media = match codec {
            Codec::H264 => "video/x-h264",
            Codec::Hevc => "video/x-h265",
            Codec::Av1 => "video/x-av1",
        };
        // Threads of avdec each hold back a frame.
        let options = if name.starts_with("avdec_") { "max-threads=1" } else { "" };
        let text = format!(
            "appsrc name=source format=time is-live=true max-bytes=0 \
             caps={media},{format} ! {name} {options} ! \
             videoconvert ! video/x-raw,format=I420 ! \
             appsink name=sink sync=false async=false enable-last-sample=false"
        );
        let failed = || DecodeError::Broken("it does not start".into());
        let pipeline = gst::parse::launch(&text).map_err(broken)?;
        let pipeline = pipeline.downcast::<gst::Pipeline>().map_err(|_| failed())?;
        let part = |name: &str| pipeline.by_name(name).ok_or_else(failed);
        let source = part("source")?.downcast().map_err(|_| failed())?;
        let sink = part("sink")?.downcast().map_err(|_| failed())?;
        pipeline.set_state(gst::State::Playing).map_err(|_| failed())?;
        Ok(Self { pipeline, source, sink, waiting: BTreeSet::new() })
    }

    /// Decodes one access unit; the pictures that came out meanwhile.
    pub fn decode(
        &mut self,
        frame: u32,
        access_unit: Vec<u8>,
    ) -> Result<Vec<Picture>, DecodeError> {
        let mut buffer = gst::Buffer::from_slice(access_unit);
        let pts = gst::ClockTime::from_mseconds(u64::from(frame) * 10);
        buffer.get_mut().expect("nobody else has it yet").set_pts(pts);
        self.source.push_buffer(buffer).map_err(|e| DecodeError::Broken(e.to_string()))?;
        self.waiting.insert(frame);
        let mut pictures = Vec::new();
        while let Some(sample) =
            self.sink.try_pull_sample(if pictures.is_empty() { WAIT } else { gst::ClockTime::ZERO })
        {
            let picture =
                picture(&sample).ok_or_else(|| DecodeError::Broken("no picture".into()))?;
            let current = picture.frame >= frame;
            self.waiting.remove(&picture.frame);
            pictures.push(picture);
            if current {
                break;
            }
        }
        let bus = self.pipeline.bus().expect("a pipeline has a bus");
        match bus.pop_filtered(&[gst::MessageType::Error]) {
            Some(message) => Err(DecodeError::Broken(format!("{:?}", message.view()))),
            None => Ok(pictures),
        }
    }

    /// Waits for the pictures that are still to come, when no more frames are.
    pub fn rest(&mut self) -> Vec<Picture> {
        let mut pictures = Vec::new();
        while !self.waiting.is_empty()
            && let Some(sample) = self.sink.try_pull_sample(REST)
            && let Some(picture) = picture(&sample)
        {
            self.waiting.remove(&picture.frame);
            pictures.push(picture);
        }
        pictures
    }

    /// Frames that gave no picture.
    pub fn undecoded(&self) -> usize {
        self.waiting.len()
    }
}

fn picture(sample: &gst::Sample) -> Option<Picture> {
    let info = VideoInfo::from_caps(sample.caps()?).ok()?;
    let buffer = sample.buffer()?;
    let frame = u32::try_from(buffer.pts()?.mseconds() / 10).ok()?;
    let view = gstreamer_video::VideoFrameRef::from_buffer_ref_readable(buffer, &info).ok()?;
    let plane = |n: u32| view.plane_data(n).map(<[u8]>::to_vec).ok();
    let stride = |n: usize| usize::try_from(view.plane_stride()[n]).ok();
    Some(Picture {
        frame,
        width: info.width(),
        height: info.height(),
        planes: [plane(0)?, plane(1)?, plane(2)?],
        strides: [stride(0)?, stride(1)?, stride(2)?],
        corrupted: buffer.flags().contains(gst::BufferFlags::CORRUPTED),
    })
}

impl Drop for Decoder {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}
