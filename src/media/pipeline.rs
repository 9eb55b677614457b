//! One encoding chain: slots in, access units out.
//!
//! ```text
//! appsrc (queue of one, the oldest gives way) ! convert.. ! encoder ! appsink
//! ```
//!
//! Order of calls: [`Pipeline::start`] returns once the encoder has really encoded a picture; then
//! [`Pipeline::push`], [`Pipeline::pull`] and the requests from any thread; [`Pipeline::stop`] last.
//! What may hang is [`Pipeline::start`] and the chain itself, never push, pull or the requests.
use std::str::FromStr;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app::{AppLeakyType, AppSink, AppSrc};
use gstreamer_video::UpstreamForceKeyUnitEvent;

use super::MediaError;
use super::flights::Flights;
use super::slots::Slots;
use super::table::{Amounts, Row, Setting, Stage, Value, colorimetry};
use crate::ipc::FrameNote;
use crate::proto::stream::{Codec, VideoSpec};
use crate::proto::video::is_idr;

/// The first picture must be encoded within this time, driver start included.
const START_WAIT: Duration = Duration::from_secs(4);
/// How long a dropped chain may take to end.
const STOP_WAIT: Duration = Duration::from_millis(500);
/// Access units that wait for the sender; then the encoder waits, and the queue before it drops.
const ENCODED_MAX: u32 = 4;

/// Told once for each pushed frame when its slot is free again, on any thread: must not block.
pub type Freed = Arc<dyn Fn(FrameNote, Fate) + Send + Sync>;

/// What became of a frame whose slot is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The encoder has it.
    Taken,
    /// A newer one took its place before the encoder could.
    Dropped,
}

/// An encoded frame.
#[derive(Debug)]
pub struct AccessUnit {
    /// The frame that it was made from.
    pub note: FrameNote,
    pub is_key: bool,
    /// Frames before it that the encoder swallowed.
    pub swallowed: u64,
    bytes: gst::MappedBuffer<gst::buffer::Readable>,
}

impl AccessUnit {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// A chain that runs.
pub struct Pipeline {
    row: Row,
    spec: VideoSpec,
    cores: usize,
    slots: Slots,
    freed: Freed,
    pipeline: gst::Pipeline,
    source: AppSrc,
    encoder: gst::Element,
    sink: AppSink,
    flights: Arc<Mutex<Flights>>,
    fault: Arc<Mutex<Option<(String, String)>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pipeline {
    /// Builds the chain of `row`, starts it and encodes one picture as a trial, whose access unit is
    /// thrown away. `cores`: how many this process may use.
    ///
    /// # Errors
    /// Why this encoder cannot serve the stream; another may.
    pub fn start(
        row: &Row,
        spec: &VideoSpec,
        slots: &Slots,
        cores: usize,
        freed: Freed,
    ) -> Result<Self, MediaError> {
        let (pipeline, source, encoder, sink) = Self::build(row, spec, slots, cores)?;
        let chain = Self {
            row: *row,
            spec: spec.clone(),
            cores,
            slots: slots.clone(),
            freed,
            pipeline,
            source,
            encoder,
            sink,
            flights: Arc::default(),
            fault: Arc::default(),
        };
        chain.watch();
        chain.run_trial()?;
        Ok(chain)
    }

    fn build(
        row: &Row,
        spec: &VideoSpec,
        slots: &Slots,
        cores: usize,
    ) -> Result<(gst::Pipeline, AppSrc, gst::Element, AppSink), MediaError> {
        let unsuited = |reason: String| MediaError::Unsuited(format!("{}: {reason}", row.element));
        if let Some(reason) = row.unsuited(spec) {
            return Err(unsuited(reason.into()));
        }
        let (mode, ring) = (spec.mode, slots.ring());
        if (u32::from(mode.width), u32::from(mode.height)) != (ring.width, ring.height) {
            return Err(unsuited(format!("the ring is {ring:?}, the stream {mode:?}")));
        }
        let amounts = amounts(spec, cores);
        let raw = |format: &str, colour: &str| {
            caps(&format!(
                "video/x-raw,format={format},width={},height={},framerate={}/1000,\
                 pixel-aspect-ratio=1/1,interlace-mode=progressive,colorimetry={colour}",
                mode.width, mode.height, mode.millihertz
            ))
        };
        let source = AppSrc::builder()
            .name("source")
            .caps(&raw("BGRx", "sRGB")?)
            .format(gst::Format::Time)
            .is_live(true)
            .do_timestamp(false)
            .block(false)
            .max_buffers(1)
            .max_bytes(0)
            .leaky_type(AppLeakyType::Downstream)
            .build();
        let sink = AppSink::builder()
            .name("sink")
            .sync(false)
            .async_(false)
            .enable_last_sample(false)
            .max_buffers(ENCODED_MAX)
            .drop(false)
            .build();
        let encoder = make(row.element, row.packages)?;
        for setting in row.settings.iter().chain(row.rate) {
            apply(&encoder, *setting, &amounts)?;
        }
        let mut chain = vec![source.clone().upcast()];
        for Stage { element, settings } in row.convert {
            let stage = make(element, "gstreamer1.0-plugins-base")?;
            settings.iter().try_for_each(|setting| apply(&stage, *setting, &amounts))?;
            chain.push(stage);
        }
        chain.push(filter(&raw(row.format, colorimetry(spec.colorspace, spec.full_range))?)?);
        chain.push(encoder.clone());
        chain.push(filter(&caps(&row.encoded())?)?);
        chain.push(sink.clone().upcast());
        let pipeline = gst::Pipeline::new();
        let broken = |reason: String| MediaError::Broken { element: row.element.into(), reason };
        pipeline.add_many(&chain).map_err(|e| broken(e.to_string()))?;
        gst::Element::link_many(&chain).map_err(|e| broken(e.to_string()))?;
        Ok((pipeline, source, encoder, sink))
    }

    /// Follows frames through the chain, and notes the first error.
    fn watch(&self) {
        let follow = |pad: Option<gst::Pad>, step: fn(&mut Flights, u64)| {
            let flights = self.flights.clone();
            let pad = pad.expect("appsrc and encoders have these pads");
            pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
                if let Some(pts) = info.buffer().and_then(|buffer| buffer.pts()) {
                    step(&mut lock(&flights), pts.nseconds());
                }
                gst::PadProbeReturn::Ok
            });
        };
        follow(self.source.static_pad("src"), Flights::take);
        follow(self.encoder.static_pad("sink"), Flights::enter);
        let fault = self.fault.clone();
        let bus = self.pipeline.bus().expect("a pipeline has a bus");
        bus.set_sync_handler(move |_, message| {
            if let gst::MessageView::Error(error) = message.view() {
                let element = error.src().map_or_else(String::new, |src| src.name().to_string());
                let debug = error.debug().unwrap_or_default();
                lock(&fault).get_or_insert((element, format!("{} ({debug})", error.error())));
            }
            gst::BusSyncReply::Drop
        });
    }

    fn run_trial(&self) -> Result<(), MediaError> {
        let element = || self.row.element.to_string();
        if self.pipeline.set_state(gst::State::Playing).is_err() {
            self.check()?;
            return Err(MediaError::Broken { element: element(), reason: "does not start".into() });
        }
        let note = FrameNote { slot: 0, seq: 0, captured_ns: 0, repeated: true };
        self.push_with(note, |_| {});
        let start = Instant::now();
        while start.elapsed() < START_WAIT {
            if let Some(unit) = self.pull(Duration::from_millis(100))? {
                let reason = "its first access unit is no key frame".into();
                let broken = MediaError::Broken { element: element(), reason };
                return if unit.is_key { Ok(()) } else { Err(broken) };
            }
        }
        Err(MediaError::Silent { element: element(), ms: START_WAIT.as_millis() })
    }

    /// The encoder's element name.
    pub fn name(&self) -> &'static str {
        self.row.element
    }

    pub fn codec(&self) -> Codec {
        self.spec.codec
    }

    /// The stream itself tells of its colours.
    pub fn describes_colour(&self) -> bool {
        self.row.describes_colour
    }

    /// The chain, for those who want to look into it.
    pub fn inner(&self) -> &gst::Pipeline {
        &self.pipeline
    }

    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Queues a frame. The one that still waits in the queue gives way: its slot is free at once.
    /// A slot that the ring does not have is refused: false.
    pub fn push(&self, note: FrameNote) -> bool {
        let (flights, freed) = (self.flights.clone(), self.freed.clone());
        self.push_with(note, move |pts| {
            let fate = if lock(&flights).release(pts) { Fate::Dropped } else { Fate::Taken };
            freed(note, fate);
        })
    }

    fn push_with(&self, note: FrameNote, released: impl FnOnce(u64) + Send + 'static) -> bool {
        if self.slots.memory(note.slot).is_none() {
            return false;
        }
        let pts = lock(&self.flights).queue(note);
        match self.slots.frame(note.slot, pts, move || released(pts)) {
            // A chain that has ended refuses the buffer and drops it, which frees the slot.
            Some(buffer) => self.source.push_buffer(buffer).is_ok(),
            None => false,
        }
    }

    /// The next encoded frame, waiting at most `wait` for it.
    ///
    /// # Errors
    /// If the chain has failed. It does not recover.
    pub fn pull(&self, wait: Duration) -> Result<Option<AccessUnit>, MediaError> {
        let wait = gst::ClockTime::try_from(wait).unwrap_or(gst::ClockTime::ZERO);
        let Some(sample) = self.sink.try_pull_sample(wait) else {
            self.check()?;
            return Ok(None);
        };
        // Encoders shift time stamps and the segment alike; their difference stays.
        let pts = sample.buffer().and_then(|buffer| buffer.pts()).and_then(|pts| {
            sample.segment()?.downcast_ref::<gst::ClockTime>()?.to_running_time(pts)
        });
        let Some((buffer, pts)) = sample.buffer_owned().zip(pts) else { return Ok(None) };
        let Ok(bytes) = buffer.into_mapped_buffer_readable() else { return Ok(None) };
        let is_key = is_idr(self.spec.codec, &bytes);
        let landing = lock(&self.flights).land(pts.nseconds(), is_key);
        if landing.ask_again {
            self.send_key_request();
        }
        let (note, swallowed) = (landing.note, landing.swallowed);
        Ok(note.map(|note| AccessUnit { note, is_key, swallowed, bytes }))
    }

    /// Makes the next frame that reaches the encoder a key frame.
    pub fn want_key(&self) {
        if lock(&self.flights).want_key() {
            self.send_key_request();
        }
    }

    fn send_key_request(&self) {
        let event = UpstreamForceKeyUnitEvent::builder().all_headers(true).build();
        let pad = self.encoder.static_pad("src").expect("encoders have a source pad");
        pad.send_event(event);
    }

    /// Changes the bitrate of the running encoder, without a key frame.
    ///
    /// # Errors
    /// If this encoder cannot; the bitrate stays.
    pub fn set_bitrate(&self, kbps: u32) -> Result<(), MediaError> {
        if !self.row.live_rate {
            let reason = "a new bitrate would cost a key frame";
            return Err(MediaError::Unsuited(format!("{}: {reason}", self.row.element)));
        }
        let amounts = Amounts { kbps: kbps.max(1), ..amounts(&self.spec, self.cores) };
        self.row.rate.iter().try_for_each(|setting| apply(&self.encoder, *setting, &amounts))
    }

    /// Frames are inside that have not come out.
    pub fn is_waiting(&self) -> bool {
        lock(&self.flights).is_waiting()
    }

    fn check(&self) -> Result<(), MediaError> {
        lock(&self.fault)
            .clone()
            .map_or(Ok(()), |(element, reason)| Err(MediaError::Stream { element, reason }))
    }

    /// Ends the chain. False: it did not end within `wait`, and its threads are left behind; only
    /// the end of the process ends them.
    pub fn stop(&self, wait: Duration) -> bool {
        let (done, is_done) = mpsc::sync_channel::<()>(1);
        let pipeline = self.pipeline.clone();
        let stop = move || {
            let _ = pipeline.set_state(gst::State::Null);
            let _ = done.try_send(());
        };
        let thread = std::thread::Builder::new().name("stop".into()).spawn(stop);
        thread.is_ok() && is_done.recv_timeout(wait) != Err(RecvTimeoutError::Timeout)
    }
}

/// A chain that is dropped while it runs would leave its threads on freed elements. One that does not
/// end is kept by the thread that tries to end it.
impl Drop for Pipeline {
    fn drop(&mut self) {
        if self.pipeline.current_state() != gst::State::Null {
            self.stop(STOP_WAIT);
        }
    }
}

fn amounts(spec: &VideoSpec, cores: usize) -> Amounts {
    let (kbps, millihertz) = (spec.bitrate_kbps.max(1), spec.mode.millihertz);
    Amounts { kbps, millihertz, slices: spec.slices, cores }
}

fn caps(text: &str) -> Result<gst::Caps, MediaError> {
    gst::Caps::from_str(text)
        .map_err(|e| MediaError::Broken { element: "caps".into(), reason: format!("{text}: {e}") })
}

fn filter(caps: &gst::Caps) -> Result<gst::Element, MediaError> {
    let filter = make("capsfilter", "libgstreamer1.0-0")?;
    filter.set_property("caps", caps);
    Ok(filter)
}

fn make(element: &str, packages: &str) -> Result<gst::Element, MediaError> {
    gst::ElementFactory::make(element)
        .build()
        .map_err(|_| MediaError::Missing { element: element.into(), packages: packages.into() })
}

/// Sets one property, typed as the installed element has it.
fn apply(element: &gst::Element, setting: Setting, amounts: &Amounts) -> Result<(), MediaError> {
    let refused = |reason: &str| MediaError::Setting {
        element: element.factory().map_or_else(String::new, |f| f.name().to_string()),
        property: setting.name.into(),
        value: match setting.value.number(amounts) {
            Some(number) => number.to_string(),
            None => format!("{:?}", setting.value),
        },
        reason: reason.into(),
    };
    let property =
        element.find_property(setting.name).ok_or_else(|| refused("there is no such property"))?;
    let value = typed(&property, setting.value, amounts).map_err(refused)?;
    element.set_property_from_value(setting.name, &value);
    Ok(())
}

fn typed(
    property: &gst::glib::ParamSpec,
    value: Value,
    amounts: &Amounts,
) -> Result<gst::glib::Value, &'static str> {
    use gst::glib::{
        EnumClass, FlagsClass, ParamSpecBoolean, ParamSpecInt, ParamSpecInt64, ParamSpecString,
        ParamSpecUInt, ParamSpecUInt64,
    };
    const RANGE: &str = "the value is out of the property's range";
    const TYPE: &str = "the property has another type";
    match (value, value.number(amounts)) {
        (Value::Flag(flag), _) => {
            property.downcast_ref::<ParamSpecBoolean>().ok_or(TYPE)?;
            Ok(flag.to_value())
        }
        (Value::Name(nick), _) => {
            let unknown = "the property has no such value";
            if let Some(class) = EnumClass::with_type(property.value_type()) {
                return class.to_value_by_nick(nick).ok_or(unknown);
            }
            let class = FlagsClass::with_type(property.value_type()).ok_or(TYPE)?;
            class.to_value_by_nick(nick).ok_or(unknown)
        }
        (_, Some(number)) => {
            macro_rules! as_one_of {
                ($($spec:ty => $integer:ty),*) => {$(
                    if let Some(spec) = property.downcast_ref::<$spec>() {
                        let number = <$integer>::try_from(number).map_err(|_| RANGE)?;
                        let is_inside = (spec.minimum()..=spec.maximum()).contains(&number);
                        return if is_inside { Ok(number.to_value()) } else { Err(RANGE) };
                    }
                )*};
            }
            as_one_of!(ParamSpecInt => i32, ParamSpecUInt => u32,
                       ParamSpecInt64 => i64, ParamSpecUInt64 => u64);
            Err(TYPE)
        }
        (value, None) => {
            property.downcast_ref::<ParamSpecString>().ok_or(TYPE)?;
            Ok(value.options(amounts).ok_or(TYPE)?.to_value())
        }
    }
}
