//! The answer to `/metrics`: OpenMetrics text of what is known at this moment.
use std::collections::BTreeMap;
use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text::encode};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::board::Known;
use super::{control, sockets, streams};
use crate::ipc::{FrontFigures, SessionFigures, SessionId, Timed};

/// All that is known, as text. `now_ns`: CLOCK_MONOTONIC.
pub fn metrics(known: Known, now_ns: u64) -> Result<String, Error> {
    let mut registry = Registry::with_prefix("moonshard");
    let (figures, sessions) = (known.figures(), known.session_figures(now_ns));
    registry.register_collector(Box::new(Answer { figures, sessions, known, now_ns }));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Answer {
    known: Known,
    figures: Option<FrontFigures>,
    sessions: BTreeMap<SessionId, Option<SessionFigures>>,
    now_ns: u64,
}

pub type Labels<'a> = Vec<(&'a str, String)>;

/// One label.
pub fn label(name: &str, value: impl ToString) -> Labels<'_> {
    vec![(name, value.to_string())]
}

/// One family of gauges or counters; values that are unknown are not in `values`.
pub fn family<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    meaning: &str,
    grows: bool,
    values: impl IntoIterator<Item = (Labels<'a>, f64)>,
) -> Result<(), Error> {
    let kind = if grows { MetricType::Counter } else { MetricType::Gauge };
    let mut family = encoder.encode_descriptor(name, meaning, None, kind)?;
    for (labels, value) in values {
        if labels.is_empty() {
            put(&mut family, grows, value)?;
        } else {
            put(&mut family.encode_family(&labels)?, grows, value)?;
        }
    }
    Ok(())
}

fn put(metric: &mut MetricEncoder<'_>, grows: bool, value: f64) -> Result<(), Error> {
    match grows {
        true => metric.encode_counter::<NoLabelSet, _, f64>(&value, None),
        false => metric.encode_gauge(&value),
    }
}

/// One family of histograms, in seconds.
pub fn histograms<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    meaning: &str,
    values: impl IntoIterator<Item = (Labels<'a>, &'a Timed)>,
) -> Result<(), Error> {
    let mut family = encoder.encode_descriptor(name, meaning, None, MetricType::Histogram)?;
    for (labels, timed) in values {
        let mut below = 0;
        let buckets: Vec<(f64, u64)> = timed
            .cumulative
            .iter()
            .map(|(us, count)| {
                let here = count.saturating_sub(below);
                below = below.max(*count);
                (if *us == u64::MAX { f64::INFINITY } else { *us as f64 / 1e6 }, here)
            })
            .collect();
        let sum = timed.sum_us as f64 / 1e6;
        let mut metric = family.encode_family(&labels)?;
        metric.encode_histogram::<NoLabelSet>(sum, below, &buckets, None)?;
    }
    Ok(())
}

/// What other processes say becomes a name only if it is one.
pub fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

impl Collector for Answer {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let e = &mut encoder;
        let version = label("version", env!("CARGO_PKG_VERSION"));
        family(e, "build_info", "This program", false, [(version, 1.0)])?;
        self.encode_host(e)?;
        // Without a readable sheet the families are declared all the same, and hold nothing.
        let unknown = FrontFigures::default();
        let age = self.figures.as_ref().map(|figures| (vec![], self.age(figures.written_ns)));
        let meaning = "Since the front wrote its figures";
        family(e, "front_sheet_age_seconds", meaning, false, age)?;
        control::encode(e, self.figures.as_ref().unwrap_or(&unknown), self.now_ns)?;
        sockets::encode(e, &self.known.listening)?;
        self.encode_processes(e)?;
        streams::encode(e, &self.sessions, self.now_ns)
    }
}

impl Answer {
    fn age(&self, then: u64) -> f64 {
        self.now_ns.saturating_sub(then) as f64 / 1e9
    }

    fn encode_host(&self, e: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let known = &self.known;
        let up = f64::from(u8::from(known.ailments(self.now_ns).is_empty()));
        family(e, "up", "1: front and shards live, as /healthz says", false, [(vec![], up)])?;
        let restarts = known.front_starts.saturating_sub(1) as f64;
        family(e, "front_restarts", "Fronts after the first", true, [(vec![], restarts)])?;
        let seats = [
            (vec![("state", "used".to_owned())], known.sessions.len() as f64),
            (vec![("state", "free".to_owned())], known.free_seats() as f64),
        ];
        family(e, "seats", "Seats for sessions", false, seats)?;
        let started = [(vec![], known.sessions_started as f64)];
        family(e, "sessions_started", "Sessions whose process was started", true, started)?;
        let not = [(vec![], known.sessions_not_started as f64)];
        family(e, "sessions_not_started", "Sessions that could not be started", true, not)?;
        let (well, otherwise) = known.sessions_ended;
        let ended = [
            (vec![("result", "ok".to_owned())], well as f64),
            (vec![("result", "failed".to_owned())], otherwise as f64),
        ];
        family(e, "sessions_ended", "Sessions that have ended", true, ended)?;
        let works = f64::from(u8::from(known.encoder.name.is_some()));
        let name = known.encoder.name.clone().unwrap_or_default();
        let encoder = [(vec![("encoder", name)], works)];
        family(e, "encoder_works", "1: there is an encoder that works", false, encoder)?;
        let age = known.encoder.probed.map(|at| (vec![], at.elapsed().as_secs_f64()));
        family(e, "encoder_probe_age_seconds", "Since encoders were tried", false, age)
    }

    fn encode_processes(&self, e: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let process = |kind: &'static str, session: String| {
            vec![("kind", kind), ("session", "")]
                .into_iter()
                .map(|(k, v)| (k, if k == "session" { session.clone() } else { v.to_owned() }))
                .collect::<Labels<'static>>()
        };
        let mut all = vec![(process("supervisor", String::new()), std::process::id())];
        all.extend(self.known.front.iter().map(|f| (process("front", String::new()), f.pid)));
        let sessions = self.known.sessions.iter();
        all.extend(sessions.map(|(id, pid)| (process("session", id.to_string()), *pid)));
        let status = |key: &'static str| {
            all.iter().filter_map(move |(labels, pid)| {
                let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
                Some((labels.clone(), status_value(&text, key)?))
            })
        };
        let rss = status("VmRSS").map(|(labels, kib)| (labels, kib * 1024.0));
        family(e, "process_resident_bytes", "Memory in use", false, rss)?;
        family(e, "process_threads", "Threads", false, status("Threads"))?;
        let fds = all.iter().filter_map(|(labels, pid)| {
            let open = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
            Some((labels.clone(), open as f64))
        });
        family(e, "process_open_fds", "Open file descriptors", false, fds)
    }
}

/// A line of /proc/<pid>/status, see proc_pid_status(5).
fn status_value(text: &str, key: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}
