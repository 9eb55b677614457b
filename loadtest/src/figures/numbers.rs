//! The numbers of one run: four latencies counted from the scheduled time, failures by kind; as JSON, as
//! lines and as an HdrHistogram log.
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use serde_json::{Value, json};

use crate::handshake::connection::{Failure, Stages};

/// The stages in their order; each is counted from the scheduled time, so each holds those before it.
pub const STAGES: [&str; 4] = ["connect", "handshake", "first_byte", "request"];
/// The percentiles that are told.
pub const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

/// The longest latency that is told apart: two days. Bounds must be given, since a histogram that would
/// grow by itself does not when it saturates: it counts what is too large as its first, tiny, limit.
const MICROS_MAX: u64 = 2 * 86_400 * 1_000_000;

pub struct Numbers {
    /// Microseconds, in the order of [`STAGES`].
    stages: [Histogram<u64>; 4],
    /// How late connections were started, microseconds: the generator's own fault.
    late: Histogram<u64>,
    failures: BTreeMap<Failure, u64>,
    resumed: u64,
    length: Duration,
    /// What was answered when the load ended; the rest came in the time of grace.
    pub answered_by_end: u64,
    pub server_cpu_seconds: Option<f64>,
}

impl Numbers {
    pub fn new(length: Duration) -> Self {
        let empty =
            || Histogram::new_with_bounds(1, MICROS_MAX, 3).expect("these bounds are allowed");
        Self {
            stages: std::array::from_fn(|_| empty()),
            late: empty(),
            failures: BTreeMap::new(),
            resumed: 0,
            length,
            answered_by_end: 0,
            server_cpu_seconds: None,
        }
    }

    pub fn answered(&mut self, scheduled: Instant, stages: Stages) {
        let reached = [stages.connected, stages.secured, stages.first_byte, stages.answered];
        for (histogram, at) in self.stages.iter_mut().zip(reached) {
            record(histogram, at.saturating_duration_since(scheduled));
        }
        self.resumed += u64::from(stages.resumed);
    }

    pub fn failed(&mut self, failure: Failure) {
        *self.failures.entry(failure).or_default() += 1;
    }

    pub fn late(&mut self, by: Duration) {
        record(&mut self.late, by);
    }

    pub fn successes(&self) -> u64 {
        self.stages[3].len()
    }

    pub fn errors(&self) -> u64 {
        self.failures.values().sum()
    }

    /// The most frequent failure, if nothing but failures came.
    pub fn only_failure(&self) -> Option<Failure> {
        let most = self.failures.iter().max_by_key(|(_, count)| **count);
        most.filter(|_| self.successes() == 0).map(|(failure, _)| *failure)
    }

    /// Answers a second while the load lasted.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    pub fn rate(&self) -> f64 {
        self.answered_by_end as f64 / self.length.as_secs_f64()
    }

    /// Answers a second of the server's processor time.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    pub fn per_cpu_second(&self) -> Option<f64> {
        let used = self.server_cpu_seconds.filter(|used| *used > 0.0)?;
        Some(self.answered_by_end as f64 / used)
    }

    /// A quantile of a stage, microseconds; None: nothing was answered, or no such stage.
    pub fn quantile(&self, stage: &str, quantile: f64) -> Option<u64> {
        let at = STAGES.iter().position(|name| *name == stage)?;
        let histogram = &self.stages[at];
        (!histogram.is_empty()).then(|| histogram.value_at_quantile(quantile))
    }

    pub fn json(&self) -> Value {
        let latency: serde_json::Map<_, _> = STAGES
            .iter()
            .zip(&self.stages)
            .map(|(name, histogram)| ((*name).to_owned(), quantiles(histogram)))
            .collect();
        let errors: BTreeMap<_, _> = Failure::ALL
            .iter()
            .map(|kind| (kind.name(), self.failures.get(kind).copied().unwrap_or(0)))
            .collect();
        json!({
            "requests": self.successes() + self.errors(), "successes": self.successes(),
            "errors": self.errors(), "errors_by_kind": errors, "resumed": self.resumed,
            "seconds": self.length.as_secs_f64(), "rate": self.rate(),
            "latency_us": latency, "generator_late_us": quantiles(&self.late),
            "server_cpu_seconds": self.server_cpu_seconds,
            "per_server_cpu_second": self.per_cpu_second(),
        })
    }

    /// The table for people, under a title.
    pub fn table(&self, title: &str) -> String {
        let mut text = format!(
            "{title}: {} requests, {} errors, {:.1} answers/s, {} resumed\n",
            self.successes() + self.errors(),
            self.errors(),
            self.rate(),
            self.resumed
        );
        if let Some(rate) = self.per_cpu_second() {
            text += &format!("  {rate:.1} answers per second of the server's processor time\n");
        }
        for (kind, count) in &self.failures {
            text += &format!("  {}: {count}\n", kind.name());
        }
        text += "  ms          ";
        text += &QUANTILES.map(|(name, _)| format!("{name:>10}")).concat();
        let late = ("started late", &self.late);
        for (name, histogram) in STAGES.into_iter().zip(&self.stages).chain([late]) {
            text += &format!("\n  {name:<12}");
            for (_, quantile) in QUANTILES {
                let value = millis(histogram.value_at_quantile(quantile));
                text += &format!("{value:>10.3}");
            }
        }
        text + "\n"
    }
}

/// Microseconds as milliseconds.
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub fn millis(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

/// The percentiles of a histogram by name; null where nothing was counted.
pub fn quantiles(histogram: &Histogram<u64>) -> Value {
    let one = |quantile| {
        if histogram.is_empty() {
            Value::Null
        } else {
            histogram.value_at_quantile(quantile).into()
        }
    };
    QUANTILES.iter().map(|(name, q)| ((*name).to_owned(), one(*q))).collect()
}

fn record(histogram: &mut Histogram<u64>, time: Duration) {
    histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
}

/// Writes the latencies of all steps, one interval a step and stage, tagged by the stage.
pub fn write_hdr_log(file: &Path, steps: &[Numbers]) -> io::Result<()> {
    let mut text = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .with_start_time(SystemTime::now())
        .with_max_value_divisor(1000.0)
        .add_comment("microseconds; Interval_Max in milliseconds")
        .begin_log_with(&mut text, &mut serializer)?;
    let mut start = Duration::ZERO;
    for step in steps {
        for (name, histogram) in STAGES.iter().zip(&step.stages) {
            log.write_histogram(histogram, start, step.length, Tag::new(name))
                .map_err(|error| io::Error::other(format!("{error:?}")))?;
        }
        start += step.length;
    }
    std::fs::write(file, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_answers_are_told_as_slow_and_stages_stay_in_order() {
        let mut numbers = Numbers::new(Duration::from_secs(1));
        let start = Instant::now();
        for (at, ms) in [3, 50, 900, 20_000].into_iter().enumerate() {
            let after = |part: u64| start + Duration::from_millis(ms * part);
            let (connected, secured) = (after(1), after(2));
            let (first_byte, answered) = (after(3), after(4));
            let resumed = at == 0;
            let stages = Stages { connected, secured, first_byte, answered, resumed };
            numbers.answered(start, stages);
        }
        for (part, stage) in (1..).zip(STAGES) {
            for (quantile, ms) in [(0.25, 3), (0.5, 50), (0.75, 900), (1.0, 20_000)] {
                let (told, true_) = (numbers.quantile(stage, quantile).unwrap(), ms * part * 1000);
                assert!(told.abs_diff(true_) <= true_ / 500, "{stage} {quantile}: {told} us");
            }
        }
        assert_eq!((numbers.successes(), numbers.json()["resumed"].as_u64()), (4, Some(1)));
    }
}
