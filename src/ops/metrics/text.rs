//! The answer to `/metrics`: OpenMetrics text of what is known at this moment.
use std::collections::BTreeMap;
use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text::encode};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::board::Known;
use crate::ipc::{FrontFigures, SessionSummary, Timed};

/// The states of a session.
const STATES: [&str; 4] = ["starting", "streaming", "paused", "stopping"];

/// Figures of a session that are always declared; what else it tells becomes a gauge.
/// (name, it only grows)
const SESSION_FIGURES: [(&str, bool); 21] = [
    ("encoder_frames_received", true),
    ("encoder_frames_encoded", true),
    ("encoder_frames_sent", true),
    ("encoder_frames_dropped", true),
    ("encoder_key_frames", true),
    ("encoder_packets_sent", true),
    ("encoder_bytes_sent", true),
    ("encoder_send_errors", true),
    ("encoder_latency_sum_us", true),
    ("encoder_latency_last_us", false),
    ("encoder_restarts", true),
    ("viewers", true),
    ("input_passed", true),
    ("input_dropped", true),
    ("packets_missed", true),
    ("fec_reports", true),
    ("failures", true),
    ("desktop_frames_drawn", true),
    ("desktop_frames_dropped_no_slot", true),
    ("desktop_render_us_p50", false),
    ("desktop_render_us_p99", false),
];

/// Front counters that are one family: (counter, family, its meaning, labels).
type Grouped = (&'static str, &'static str, &'static [(&'static str, &'static str)]);
const GROUPED: [Grouped; 18] = [
    ("handshakes", "handshakes", &[("result", "ok"), ("reason", "")]),
    ("handshakes_failed", "handshakes", &[("result", "failed"), ("reason", "tls")]),
    ("handshakes_late", "handshakes", &[("result", "failed"), ("reason", "deadline")]),
    ("heads_late", "deadlines", &[("of", "head")]),
    ("answers_late", "deadlines", &[("of", "answer")]),
    ("effects_dropped", "drops", &[("of", "effect")]),
    ("session_messages_dropped", "drops", &[("of", "session_message")]),
    ("reports_dropped", "drops", &[("of", "report")]),
    ("door_dropped", "drops", &[("of", "hand_over")]),
    ("https_accepted", "accepted", &[("service", "https")]),
    ("http_accepted", "accepted", &[("service", "http")]),
    ("rtsp_accepted", "accepted", &[("service", "rtsp")]),
    ("https_exhausted", "accept_errors", &[("service", "https"), ("reason", "exhausted")]),
    ("http_exhausted", "accept_errors", &[("service", "http"), ("reason", "exhausted")]),
    ("rtsp_exhausted", "accept_errors", &[("service", "rtsp"), ("reason", "exhausted")]),
    ("https_vanished", "accept_errors", &[("service", "https"), ("reason", "vanished")]),
    ("http_vanished", "accept_errors", &[("service", "http"), ("reason", "vanished")]),
    ("rtsp_vanished", "accept_errors", &[("service", "rtsp"), ("reason", "vanished")]),
];

const FAMILIES: [(&str, &str); 5] = [
    ("handshakes", "TLS handshakes by result and reason"),
    ("deadlines", "Connections closed because their time was over"),
    ("drops", "What was dropped because a queue or link was full or gone"),
    ("accepted", "Connections accepted"),
    ("accept_errors", "Connections that could not be accepted"),
];

/// All that is known, as text. `now_ns`: CLOCK_MONOTONIC.
pub fn metrics(known: Known, now_ns: u64) -> Result<String, Error> {
    let mut registry = Registry::with_prefix("moonshard");
    registry.register_collector(Box::new(Answer { figures: known.figures(), known, now_ns }));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Answer {
    known: Known,
    figures: Option<FrontFigures>,
    now_ns: u64,
}

type Labels<'a> = Vec<(&'a str, String)>;

/// One family of gauges or counters; values that are unknown are not in `values`.
fn family<'a>(
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

impl Collector for Answer {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let e = &mut encoder;
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        family(e, "build_info", "This program", false, [(version, 1.0)])?;
        self.encode_host(e)?;
        self.encode_front(e)?;
        self.encode_processes(e)?;
        self.encode_sessions(e)
    }
}

impl Answer {
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

    fn encode_front(&self, e: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let Some(figures) = &self.figures else { return Ok(()) };
        let seconds = |then: u64| self.now_ns.saturating_sub(then) as f64 / 1e9;
        let age = [(vec![], seconds(figures.written_ns))];
        family(e, "front_sheet_age_seconds", "Since the front wrote its figures", false, age)?;
        let waiting = [(vec![], figures.calls_waiting as f64)];
        family(e, "calls_waiting", "Requests that wait for their answer", false, waiting)?;
        let shards = || figures.shards.iter().enumerate();
        let shard = |n: usize| vec![("shard", n.to_string())];
        let beating = shards().filter(|(_, s)| s.beat_ns > 0);
        let ages = beating.map(|(n, s)| (shard(n), seconds(s.beat_ns)));
        family(e, "shard_heartbeat_age_seconds", "Since the shard last turned", false, ages)?;
        let tasks = shards().map(|(n, s)| (shard(n), s.tasks as f64));
        family(e, "shard_tasks", "Tasks that exist now", false, tasks)?;
        let panics = shards().map(|(n, s)| (shard(n), s.panics as f64));
        family(e, "shard_panics", "Tasks that ended by a panic", true, panics)?;
        let starved = shards().map(|(n, s)| (shard(n), s.starved_ns as f64 / 1e9));
        family(e, "shard_starved_seconds", "Time ready without a core", true, starved)?;
        for (name, meaning) in FAMILIES {
            let of_family = GROUPED.iter().filter(|(_, family, _)| *family == name);
            let values = of_family.filter_map(|(counter, _, labels)| {
                let found = figures.counters.iter().find(|c| c.name == *counter)?;
                let labels = labels.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
                Some((labels, found.value as f64))
            });
            family(e, name, meaning, true, values)?;
        }
        for counter in &figures.counters {
            let grouped = GROUPED.iter().any(|(name, ..)| *name == counter.name);
            if !grouped && is_name(&counter.name) {
                let value = [(vec![], counter.value as f64)];
                family(e, &counter.name, &counter.meaning, true, value)?;
            }
        }
        figures.times.iter().filter(|t| is_name(&t.name)).try_for_each(|t| histogram(e, t))
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

    fn encode_sessions(&self, e: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        let summaries = self.known.fresh_summaries();
        let states = STATES.iter().filter_map(|state| {
            let count = summaries?.iter().filter(|s| s.state == *state).count();
            Some((vec![("state", (*state).to_owned())], count as f64))
        });
        family(e, "sessions", "Sessions by state", false, states)?;
        let all = summaries.unwrap_or_default();
        let ages = all.iter().map(|s| (session(s), s.age_seconds as f64));
        family(e, "session_age_seconds", "Since the session was made", false, ages)?;
        let mut names: BTreeMap<&str, bool> = SESSION_FIGURES.into_iter().collect();
        for name in all.iter().flat_map(|s| s.figures.keys()).filter(|name| is_name(name)) {
            names.entry(name).or_insert(false);
        }
        for (name, grows) in names {
            let told = all.iter().filter_map(|s| Some((session(s), *s.figures.get(name)?)));
            let meaning = format!("As the session tells: {}", name.replace('_', " "));
            family(e, &format!("session_{name}"), &meaning, grows, told)?;
        }
        Ok(())
    }
}

fn session(summary: &SessionSummary) -> Labels<'static> {
    vec![("session", summary.id.to_string()), ("app", summary.app.clone())]
}

fn histogram(e: &mut DescriptorEncoder<'_>, timed: &Timed) -> Result<(), Error> {
    let name = format!("{}_seconds", timed.name);
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
    let mut metric = e.encode_descriptor(&name, &timed.meaning, None, MetricType::Histogram)?;
    metric.encode_histogram::<NoLabelSet>(timed.sum_us as f64 / 1e6, below, &buckets, None)
}

/// What other processes say becomes a name only if it is one.
fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// A line of /proc/<pid>/status, see proc_pid_status(5).
fn status_value(text: &str, key: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}
