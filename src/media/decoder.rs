//! A decoder for trials and tests: access units in, pictures out. No stream is ever shown with it.
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app::{AppSink, AppSrc};
use gstreamer_video::{VideoColorimetry, VideoInfo};

use super::MediaError;
use crate::proto::stream::Codec;

/// How long one access unit may take.
const WAIT: Duration = Duration::from_secs(2);
/// Elements that decode in software, best first; the caps before them; how to get one.
const fn elements(codec: Codec) -> (&'static [&'static str], &'static str, &'static str) {
    match codec {
        Codec::H264 => (
            &["avdec_h264", "openh264dec"],
            "video/x-h264,stream-format=byte-stream,alignment=au",
            "gstreamer1.0-libav",
        ),
        Codec::Hevc => (
            &["avdec_h265", "libde265dec"],
            "video/x-h265,stream-format=byte-stream,alignment=au",
            "gstreamer1.0-libav",
        ),
        Codec::Av1 => (
            &["dav1ddec", "av1dec"],
            "video/x-av1,stream-format=obu-stream,alignment=tu",
            "gstreamer1.0-plugins-bad",
        ),
    }
}

/// A software decoder of one stream.
pub struct Decoder {
    pipeline: gst::Pipeline,
    source: AppSrc,
    sink: AppSink,
    /// Caps between the decoder and the converter.
    decoded: gst::Pad,
}

/// A decoded picture: BGRx, rows without padding.
#[derive(Clone, Debug)]
pub struct Picture {
    pub width: u32,
    pub height: u32,
    pub bgrx: Vec<u8>,
    /// How the stream describes its colours.
    pub colorimetry: VideoColorimetry,
}

impl Decoder {
    /// # Errors
    /// If no decoder is installed or it does not start.
    pub fn start(codec: Codec) -> Result<Self, MediaError> {
        super::start()?;
        let (elements, caps, packages) = elements(codec);
        let missing =
            || MediaError::Missing { element: elements.join(" or "), packages: packages.into() };
        let name = elements.iter().find(|name| gst::ElementFactory::find(name).is_some());
        let name = name.ok_or_else(missing)?;
        let broken = |reason: String| MediaError::Broken { element: (*name).into(), reason };
        let text = format!(
            "appsrc name=source format=time max-bytes=0 caps={caps} ! {name} name=decoder ! \
             videoconvert ! video/x-raw,format=BGRx,colorimetry=1:1:7:1 ! \
             appsink name=sink sync=false async=false enable-last-sample=false"
        );
        let pipeline = gst::parse::launch(&text)
            .map_err(|e| broken(e.to_string()))?
            .downcast::<gst::Pipeline>()
            .map_err(|_| broken("not a pipeline".into()))?;
        let part = |name: &str| pipeline.by_name(name).ok_or_else(|| broken(format!("no {name}")));
        let decoder = part("decoder")?;
        if decoder.has_property("max-threads") {
            // Threads of this decoder each hold back a frame.
            decoder.set_property("max-threads", 1i32);
        }
        if decoder.has_property("max-frame-delay") {
            decoder.set_property("max-frame-delay", 1i64);
        }
        let decoded = decoder.static_pad("src").ok_or_else(|| broken("no pad".into()))?;
        let source = part("source")?.downcast().map_err(|_| broken("no appsrc".into()))?;
        let sink = part("sink")?.downcast().map_err(|_| broken("no appsink".into()))?;
        pipeline.set_state(gst::State::Playing).map_err(|e| broken(e.to_string()))?;
        Ok(Self { pipeline, source, sink, decoded })
    }

    /// Decodes one access unit; `frame` counts them from 0. None: it gave no picture.
    ///
    /// # Errors
    /// If the decoder has failed.
    pub fn decode(&self, frame: u64, access_unit: &[u8]) -> Result<Option<Picture>, MediaError> {
        let mut buffer = gst::Buffer::from_slice(access_unit.to_vec());
        buffer.make_mut().set_pts(gst::ClockTime::from_mseconds(frame * 10));
        let failed = |reason: String| MediaError::Stream { element: "decoder".into(), reason };
        self.source.push_buffer(buffer).map_err(|e| failed(e.to_string()))?;
        let wait = gst::ClockTime::try_from(WAIT).unwrap_or(gst::ClockTime::ZERO);
        let Some(sample) = self.sink.try_pull_sample(wait) else {
            let bus = self.pipeline.bus().expect("a pipeline has a bus");
            return match bus.pop_filtered(&[gst::MessageType::Error]) {
                Some(message) => Err(failed(format!("{:?}", message.view()))),
                None => Ok(None),
            };
        };
        let info = |caps: Option<&gst::CapsRef>| {
            VideoInfo::from_caps(caps.ok_or_else(|| failed("no caps".into()))?)
                .map_err(|e| failed(e.to_string()))
        };
        let (picture, source) = (info(sample.caps())?, self.decoded.current_caps());
        let colorimetry = info(source.as_deref())?.colorimetry();
        let map = sample.buffer().and_then(|buffer| buffer.map_readable().ok());
        let map = map.ok_or_else(|| failed("no picture".into()))?;
        let (stride, row) = (picture.stride()[0].unsigned_abs() as usize, picture.width() * 4);
        let rows = map.chunks(stride).take(picture.height() as usize);
        let bgrx = rows.flat_map(|line| line.iter().take(row as usize)).copied().collect();
        Ok(Some(Picture { width: picture.width(), height: picture.height(), bgrx, colorimetry }))
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}
