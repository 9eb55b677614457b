//! What a run gave: the table for people, the object for machines, and whether the run was clean.
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::sound::Heard;
use crate::video::{Before, Seen};

/// Percentiles of a set of measurements, milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
    pub count: u64,
}

impl Percentiles {
    /// `unit` is what one of the histogram is in milliseconds. None: nothing was measured.
    pub fn of(histogram: &Histogram<u64>, unit: f64) -> Option<Self> {
        let at = |quantile| round(histogram.value_at_quantile(quantile) as f64 * unit);
        let max = round(histogram.max() as f64 * unit);
        (!histogram.is_empty()).then(|| Self {
            p50: at(0.5),
            p99: at(0.99),
            max,
            count: histogram.len(),
        })
    }
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// The pattern's frame counter as it was read back from the pictures.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Pattern {
    pub first: Option<u32>,
    pub last: Option<u32>,
    pub readable: u64,
    pub unreadable: u64,
    pub backwards: u64,
    /// Changes of its colour that no key press of this client explains.
    pub foreign_colours: u64,
}

/// One stream from launch to end.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub host: String,
    pub app: String,
    pub mode: String,
    pub encrypted_rtsp: bool,
    pub encrypted_video: bool,
    pub encrypted_audio: bool,
    pub seconds: f64,
    pub fps: f64,
    pub frames_received: u64,
    pub frames_decoded: u64,
    pub frames_lost: u64,
    pub frames_lost_after_first_second: u64,
    pub frames_repaired: u64,
    pub idr_frames: u64,
    pub bytes: u64,
    pub malformed_datagrams: u64,
    pub unopened_datagrams: u64,
    pub time_to_first_frame_ms: Option<f64>,
    pub longest_freeze_ms: f64,
    pub frame_interval_ms: Option<Percentiles>,
    pub host_latency_ms: Option<Percentiles>,
    pub decode_errors: u64,
    pub audio_packets: u64,
    pub audio_gaps: u64,
    pub audio_repaired: u64,
    pub audio_decode_errors: u64,
    pub audio_longest_silence_ms: f64,
    /// In steps of 100 ms.
    pub audio_silent_ms: u64,
    pub audio_hz: Option<f64>,
    pub input_round_trip_ms: Option<Percentiles>,
    pub input_unanswered: u64,
    pub pattern: Pattern,
    pub termination: String,
    pub clean: bool,
    pub unclean_because: Vec<String>,
    /// It said so, or let the connection go.
    #[serde(skip)]
    pub ended_by_host: bool,
    /// What the next stream of this session has to go on from.
    #[serde(skip)]
    pub before: Before,
    /// The second stream, after a resume.
    pub resumed: Option<Box<Report>>,
}

/// What is known when a stream has ended.
pub struct Findings<'a> {
    pub seen: &'a Seen,
    pub heard: &'a Heard,
    pub launched: Instant,
    /// When the stream was given up by one side.
    pub over: Instant,
    pub round_trips: &'a Histogram<u64>,
    pub unanswered: u64,
    pub termination: String,
}

/// What the stream was.
pub struct Header {
    pub host: String,
    pub app: String,
    pub mode: String,
    pub encrypted_rtsp: bool,
    pub encrypted_video: bool,
    pub encrypted_audio: bool,
}

impl Report {
    pub fn new(header: Header, findings: &Findings<'_>) -> Self {
        let Findings { seen, heard, .. } = findings;
        let shown = seen.first_decoded.zip(seen.last_decoded).map(|(first, last)| last - first);
        let seconds = shown.unwrap_or_default().as_secs_f64();
        // A picture that stands until the end is a freeze like any other.
        let last_wait = seen.last_decoded.map(|last| findings.over.saturating_duration_since(last));
        let last_wait = last_wait.unwrap_or_default();
        let intervals = seen.decoded.saturating_sub(1) as f64;
        let first =
            seen.first_decoded.map(|first| first.saturating_duration_since(findings.launched));
        Self {
            host: header.host,
            app: header.app,
            mode: header.mode,
            encrypted_rtsp: header.encrypted_rtsp,
            encrypted_video: header.encrypted_video,
            encrypted_audio: header.encrypted_audio,
            seconds: round(seconds),
            fps: if seconds > 0.0 { round(intervals / seconds) } else { 0.0 },
            frames_received: seen.statistics.frames_shown,
            frames_decoded: seen.decoded,
            frames_lost: seen.statistics.frames_lost,
            frames_lost_after_first_second: seen.lost_after_settling,
            frames_repaired: seen.statistics.frames_repaired,
            idr_frames: seen.idrs,
            bytes: seen.statistics.bytes,
            malformed_datagrams: seen.statistics.malformed,
            unopened_datagrams: seen.statistics.unopened,
            time_to_first_frame_ms: first.map(ms),
            longest_freeze_ms: ms(seen.longest_freeze.max(last_wait)),
            frame_interval_ms: Percentiles::of(&seen.intervals, 0.001),
            host_latency_ms: Percentiles::of(&seen.latencies, 0.1),
            decode_errors: seen.corrupted
                + seen.undecoded
                + u64::from(seen.decoder_error.is_some()),
            audio_packets: heard.packets,
            audio_gaps: heard.gaps,
            audio_repaired: heard.statistics.repaired,
            audio_decode_errors: heard.decode_errors + heard.statistics.unopened,
            audio_longest_silence_ms: ms(heard.longest_silence),
            audio_silent_ms: heard.ear.silent_windows * 100,
            audio_hz: heard.ear.hertz().map(round),
            input_round_trip_ms: Percentiles::of(findings.round_trips, 0.001),
            input_unanswered: findings.unanswered,
            pattern: Pattern {
                first: seen.counter.first,
                last: seen.counter.last,
                readable: seen.counter.readable,
                unreadable: seen.counter.unreadable,
                backwards: seen.counter.backwards,
                foreign_colours: seen.colours.foreign,
            },
            termination: findings.termination.clone(),
            clean: true,
            unclean_because: Vec::new(),
            ended_by_host: false,
            before: Before { colours: seen.colours, counter: seen.counter.last },
            resumed: None,
        }
    }

    pub fn blame(&mut self, reason: impl Into<String>) {
        self.clean = false;
        self.unclean_because.push(reason.into());
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let percentiles = |p: &Option<Percentiles>| match p {
            Some(p) => {
                format!("p50 {:.1}  p99 {:.1}  max {:.1} ms  ({})", p.p50, p.p99, p.max, p.count)
            }
            None => "-".into(),
        };
        let or_none = |value: Option<f64>, unit: &str| {
            value.map_or_else(|| "-".into(), |value| format!("{value:.1} {unit}"))
        };
        let rows: Vec<(&str, String)> = vec![
            ("stream", format!("{} on {}, {}", self.app, self.host, self.mode)),
            ("time to first frame", or_none(self.time_to_first_frame_ms, "ms")),
            (
                "frames",
                format!(
                    "{} received, {} lost, {} repaired, {} key frames",
                    self.frames_received, self.frames_lost, self.frames_repaired, self.idr_frames
                ),
            ),
            ("rate", format!("{:.2} fps over {:.1} s", self.fps, self.seconds)),
            ("frame interval", percentiles(&self.frame_interval_ms)),
            ("longest freeze", format!("{:.1} ms", self.longest_freeze_ms)),
            ("host latency", percentiles(&self.host_latency_ms)),
            ("decode errors", self.decode_errors.to_string()),
            (
                "sound",
                format!(
                    "{} packets, {} gaps, {}",
                    self.audio_packets,
                    self.audio_gaps,
                    or_none(self.audio_hz, "Hz")
                ),
            ),
            ("input round trip", percentiles(&self.input_round_trip_ms)),
            ("end", self.termination.clone()),
        ];
        let mut text: String =
            rows.iter().map(|(name, value)| format!("  {name:<20} {value}\n")).collect();
        for reason in &self.unclean_because {
            text.push_str(&format!("  not clean: {reason}\n"));
        }
        if let Some(resumed) = &self.resumed {
            text.push_str("resumed\n");
            text.push_str(&resumed.table());
        }
        text
    }

    pub fn is_clean(&self) -> bool {
        self.clean && self.resumed.as_ref().is_none_or(|resumed| resumed.is_clean())
    }
}

pub fn ms(duration: Duration) -> f64 {
    round(duration.as_secs_f64() * 1000.0)
}
