//! What a run measured: a table for people, one JSON object for machines.
use std::time::Duration;

use hdrhistogram::Histogram;
use moonshard::proto::video::ReceivedFrame;
use serde_json::{Value, json};

/// A histogram of microseconds with three significant digits, up to an hour.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("bounds are sound")
}

/// All that one run saw.
pub struct Report {
    pub host: String,
    pub app: String,
    pub seconds: f64,
    pub frames: u64,
    pub decoded: u64,
    pub lost: u64,
    pub repaired: u64,
    pub key_frames: u64,
    pub malformed: u64,
    pub decode_errors: u64,
    pub bytes: u64,
    pub size: (u32, u32),
    pub pattern_reads: u64,
    pub pattern_misses: u64,
    pub audio_packets: u64,
    pub audio_gaps: u64,
    pub audio_errors: u64,
    /// Windows with the pattern's tone, windows with any sound.
    pub tone: (u64, u64),
    pub termination: Option<u32>,
    /// Why the run was not clean.
    pub faults: Vec<String>,
    first_picture_ms: Option<f64>,
    intervals: Histogram<u64>,
    latencies: Histogram<u64>,
    round_trips: Histogram<u64>,
}

impl Report {
    pub fn new(host: String, app: String) -> Self {
        Self {
            host,
            app,
            seconds: 0.0,
            frames: 0,
            decoded: 0,
            lost: 0,
            repaired: 0,
            key_frames: 0,
            malformed: 0,
            decode_errors: 0,
            bytes: 0,
            size: (0, 0),
            pattern_reads: 0,
            pattern_misses: 0,
            audio_packets: 0,
            audio_gaps: 0,
            audio_errors: 0,
            tone: (0, 0),
            termination: None,
            faults: Vec::new(),
            first_picture_ms: None,
            intervals: histogram(),
            latencies: histogram(),
            round_trips: histogram(),
        }
    }

    pub fn fault(&mut self, what: &str) {
        if !self.faults.iter().any(|known| known == what) {
            self.faults.push(what.to_owned());
        }
    }

    pub fn frame(&mut self, frame: &ReceivedFrame) {
        self.frames += 1;
        if frame.latency > 0 {
            self.latencies.saturating_record(u64::from(frame.latency) * 100);
        }
    }

    pub fn interval(&mut self, time: Duration) {
        self.intervals.saturating_record(micros(time));
    }

    pub fn round_trip(&mut self, time: Duration) {
        self.round_trips.saturating_record(micros(time));
    }

    pub fn first_picture(&mut self, after: Duration) {
        self.first_picture_ms.get_or_insert(after.as_secs_f64() * 1000.0);
    }

    /// Judges what was counted. `losses`: lost frames are no fault.
    pub fn judge(&mut self, losses: bool) {
        for (count, what) in [
            (self.decode_errors, "access units could not be decoded"),
            (self.malformed, "video datagrams were malformed"),
            (self.audio_errors, "Opus packets could not be decoded"),
            (self.pattern_misses, "pictures had no readable pattern"),
            (if losses { 0 } else { self.lost }, "frames were lost"),
        ] {
            if count > 0 {
                self.faults.push(format!("{count} {what}"));
            }
        }
        if self.frames == 0 {
            self.fault("no frame was received");
        }
    }

    fn fps(&self) -> f64 {
        if self.seconds > 0.0 { (self.frames.saturating_sub(1)) as f64 / self.seconds } else { 0.0 }
    }

    pub fn json(&self) -> Value {
        json!({
            "host": self.host,
            "app": self.app,
            "seconds": self.seconds,
            "fps": self.fps(),
            "width": self.size.0,
            "height": self.size.1,
            "frames_received": self.frames,
            "frames_decoded": self.decoded,
            "frames_lost": self.lost,
            "frames_repaired": self.repaired,
            "key_frames": self.key_frames,
            "decode_errors": self.decode_errors,
            "bytes": self.bytes,
            "time_to_first_frame_ms": self.first_picture_ms,
            "longest_freeze_ms": self.intervals.max() as f64 / 1000.0,
            "frame_interval_ms": percentiles(&self.intervals),
            "host_latency_ms": percentiles(&self.latencies),
            "input_round_trip_ms": percentiles(&self.round_trips),
            "audio_packets": self.audio_packets,
            "audio_gaps": self.audio_gaps,
            "tone_windows": self.tone.0,
            "loud_windows": self.tone.1,
            "pattern_pictures": self.pattern_reads,
            "termination": self.termination.map(|code| format!("{code:#010x}")),
            "clean": self.faults.is_empty(),
            "faults": self.faults,
        })
    }

    pub fn table(&self) -> String {
        let ms = |h: &Histogram<u64>| {
            if h.is_empty() {
                return "-".to_owned();
            }
            let at = |q| h.value_at_quantile(q) as f64 / 1000.0;
            format!(
                "p50 {:.1} ms   p99 {:.1} ms   max {:.1} ms",
                at(0.5),
                at(0.99),
                h.max() as f64 / 1000.0
            )
        };
        let rows = [
            ("Host", format!("{}, {}", self.host, self.app)),
            ("Picture", format!("{} x {}, {:.1} fps", self.size.0, self.size.1, self.fps())),
            (
                "First picture",
                self.first_picture_ms
                    .map_or("none".into(), |ms| format!("{ms:.0} ms after the launch")),
            ),
            (
                "Frames",
                format!(
                    "{} received, {} lost, {} repaired, {} key frames, {} not decoded",
                    self.frames, self.lost, self.repaired, self.key_frames, self.decode_errors
                ),
            ),
            ("Frame interval", ms(&self.intervals)),
            ("Host latency", ms(&self.latencies)),
            ("Input round trip", ms(&self.round_trips)),
            (
                "Sound",
                format!(
                    "{} packets, {} missing; tone in {} of {} windows",
                    self.audio_packets, self.audio_gaps, self.tone.0, self.tone.1
                ),
            ),
            (
                "Data",
                format!(
                    "{:.1} MB, {:.1} Mbit/s",
                    self.bytes as f64 / 1e6,
                    self.bytes as f64 * 8e-6 / self.seconds.max(0.001)
                ),
            ),
            (
                "Result",
                if self.faults.is_empty() { "clean".into() } else { self.faults.join("; ") },
            ),
        ];
        rows.map(|(name, value)| format!("  {name:<18}{value}")).join("\n")
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn percentiles(histogram: &Histogram<u64>) -> Value {
    if histogram.is_empty() {
        return Value::Null;
    }
    let at = |q| histogram.value_at_quantile(q) as f64 / 1000.0;
    json!({
        "p50": at(0.5), "p95": at(0.95), "p99": at(0.99),
        "max": histogram.max() as f64 / 1000.0, "count": histogram.len(),
    })
}
