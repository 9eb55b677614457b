//! The control plane's part of `/metrics`: what the front wrote on its sheet.
use std::fmt::Error;

use prometheus_client::encoding::DescriptorEncoder;

use super::text::{Labels, family, histograms, is_name, label};
use crate::ipc::{Counted, FrontFigures, Timed};

/// Counters that are one family: (counter, family, labels).
type Grouped = (&'static str, &'static str, &'static [(&'static str, &'static str)]);
const GROUPED: [Grouped; 34] = [
    ("handshakes", "handshakes", &[("result", "ok"), ("reason", "")]),
    ("handshakes_failed", "handshakes", &[("result", "failed"), ("reason", "protocol")]),
    ("handshakes_unproven", "handshakes", &[("result", "failed"), ("reason", "unproven")]),
    ("handshakes_alerted", "handshakes", &[("result", "failed"), ("reason", "alert")]),
    ("handshakes_late", "handshakes", &[("result", "failed"), ("reason", "deadline")]),
    ("heads_late", "deadlines", &[("of", "head")]),
    ("answers_late", "deadlines", &[("of", "answer")]),
    ("calls_unanswered", "deadlines", &[("of", "call")]),
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
    ("launches_granted", "launches", &[("result", "granted"), ("status", "200")]),
    ("launches_refused_400", "launches", &[("result", "refused"), ("status", "400")]),
    ("launches_refused_401", "launches", &[("result", "refused"), ("status", "401")]),
    ("launches_refused_404", "launches", &[("result", "refused"), ("status", "404")]),
    ("launches_refused_500", "launches", &[("result", "refused"), ("status", "500")]),
    ("launches_refused_503", "launches", &[("result", "refused"), ("status", "503")]),
    ("launch_failed_process", "launch_failures", &[("reason", "process")]),
    ("launch_failed_desktop", "launch_failures", &[("reason", "desktop")]),
    ("launch_failed_app", "launch_failures", &[("reason", "app")]),
    ("launch_failed_died", "launch_failures", &[("reason", "died")]),
    ("launch_failed_late", "launch_failures", &[("reason", "late")]),
    ("launch_failed_encoder", "launch_failures", &[("reason", "encoder")]),
    ("launch_failed_client", "launch_failures", &[("reason", "client")]),
];

const FAMILIES: [(&str, &str); 7] = [
    ("handshakes", "TLS handshakes by result and reason"),
    ("deadlines", "Connections closed because their time was over"),
    ("drops", "What was dropped because a queue or link was full or gone"),
    ("accepted", "Connections accepted"),
    ("accept_errors", "Connections that could not be accepted"),
    ("launches", "Launches and resumes by answer"),
    ("launch_failures", "Launches that failed after they were granted a session, by reason"),
];

/// Durations of shards: (name, family, meaning).
const SHARD_TIMES: [(&str, &str, &str); 3] = [
    ("handshake", "handshake_seconds", "From accept to the end of the handshake"),
    ("answer", "answer_seconds", "From accept to the whole answer, of requests that need not wait"),
    ("shard_lag", "shard_lag_seconds", "How late the shard's timer was served"),
];

/// `figures`: the newest; those of a front of which nothing is known are empty.
pub fn encode(
    e: &mut DescriptorEncoder<'_>,
    figures: &FrontFigures,
    now_ns: u64,
) -> Result<(), Error> {
    let is_known = figures.written_ns > 0;
    let waiting = is_known.then_some((vec![], figures.calls_waiting as f64));
    family(e, "calls_waiting", "Requests that wait for their answer", false, waiting)?;
    encode_shards(e, figures, now_ns)?;
    encode_counters(e, figures)?;
    for (name, family, meaning) in SHARD_TIMES {
        let of_shard = figures.shards.iter().enumerate().filter_map(|(n, shard)| {
            Some((label("shard", n), shard.times.iter().find(|timed| timed.name == name)?))
        });
        histograms(e, family, meaning, of_shard)?;
    }
    let stages = figures.times.iter().filter_map(|timed: &Timed| {
        Some((label("stage", timed.name.strip_prefix("launch_")?), timed))
    });
    histograms(e, "launch_stage_seconds", "Launches by stage; total is all of them", stages)
}

fn encode_shards(
    e: &mut DescriptorEncoder<'_>,
    figures: &FrontFigures,
    now_ns: u64,
) -> Result<(), Error> {
    let shards = || figures.shards.iter().enumerate();
    let shard = |n: usize| label("shard", n);
    let beating = shards().filter(|(_, s)| s.beat_ns > 0);
    let ages = beating.map(|(n, s)| (shard(n), now_ns.saturating_sub(s.beat_ns) as f64 / 1e9));
    family(e, "shard_heartbeat_age_seconds", "Since the shard last turned", false, ages)?;
    let tasks = shards().map(|(n, s)| (shard(n), s.tasks as f64));
    family(e, "shard_tasks", "Tasks that exist now", false, tasks)?;
    let panics = shards().map(|(n, s)| (shard(n), s.panics as f64));
    family(e, "shard_panics", "Tasks that ended by a panic", true, panics)?;
    let starved = shards().map(|(n, s)| (shard(n), s.starved_ns as f64 / 1e9));
    family(e, "shard_starved_seconds", "Time ready without a core", true, starved)
}

/// Counters of the front, and of its shards with a label that says which.
fn encode_counters(e: &mut DescriptorEncoder<'_>, figures: &FrontFigures) -> Result<(), Error> {
    let own = figures.counters.iter().map(|counter| (None, counter));
    let of_shards = figures.shards.iter().enumerate();
    let of_shards = of_shards.flat_map(|(n, s)| s.counters.iter().map(move |c| (Some(n), c)));
    let all: Vec<(Option<usize>, &Counted)> = own.chain(of_shards).collect();
    let value = |shard: Option<usize>, labels: &[(&'static str, &str)], counter: &Counted| {
        let mut all: Labels<'static> = shard.map(|n| label("shard", n)).unwrap_or_default();
        all.extend(labels.iter().map(|(k, v)| (*k, (*v).to_owned())));
        (all, counter.value as f64)
    };
    for (name, meaning) in FAMILIES {
        let of_family = GROUPED.iter().filter(|(_, family, _)| *family == name);
        let values = of_family.flat_map(|(counter, _, labels)| {
            let named = all.iter().filter(move |(_, c)| c.name == *counter);
            named.map(move |(shard, c)| value(*shard, labels, c))
        });
        family(e, name, meaning, true, values)?;
    }
    let mut told: Vec<&str> = Vec::new();
    for (_, counter) in &all {
        let grouped = GROUPED.iter().any(|(name, ..)| *name == counter.name);
        if grouped || told.contains(&counter.name.as_str()) || !is_name(&counter.name) {
            continue;
        }
        told.push(&counter.name);
        let named = all.iter().filter(|(_, c)| c.name == counter.name);
        let values = named.map(|(shard, c)| value(*shard, &[], c));
        family(e, &counter.name, &counter.meaning, true, values)?;
    }
    Ok(())
}
