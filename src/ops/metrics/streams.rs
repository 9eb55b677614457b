//! The sessions' part of `/metrics`: what each of them wrote on its sheet. A session's labels go with it.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Error;

use prometheus_client::encoding::DescriptorEncoder;

use super::text::{Labels, family, histograms, is_name, label};
use crate::ipc::{SessionFigures, SessionId, ViewerFigures};
use crate::ops::doctor::codec_name;

/// The states of a session; "unknown": it says nothing.
const STATES: [&str; 5] = ["starting", "streaming", "paused", "stopping", "unknown"];

/// What a session counts: (figure, family, one more label).
type Grouped = (&'static str, &'static str, Option<(&'static str, &'static str)>);
const GROUPED: [Grouped; 51] = [
    ("desktop_frames_drawn", "frames", Some(("step", "drawn"))),
    ("desktop_frames_repeated", "frames", Some(("step", "repeated"))),
    ("encoder_frames_received", "frames", Some(("step", "received"))),
    ("encoder_frames_encoded", "frames", Some(("step", "encoded"))),
    ("encoder_frames_sent", "frames", Some(("step", "sent"))),
    ("desktop_frames_dropped_no_slot", "frames_dropped", Some(("reason", "no_slot"))),
    ("desktop_frames_dropped_link_full", "frames_dropped", Some(("reason", "link_full"))),
    ("desktop_frames_dropped_ring_size", "frames_dropped", Some(("reason", "ring_size"))),
    ("desktop_frames_dropped_render", "frames_dropped", Some(("reason", "render"))),
    ("encoder_dropped_overtaken", "frames_dropped", Some(("reason", "overtaken"))),
    ("encoder_dropped_swallowed", "frames_dropped", Some(("reason", "swallowed"))),
    ("encoder_dropped_no_socket", "frames_dropped", Some(("reason", "no_socket"))),
    ("encoder_dropped_awaits_key", "frames_dropped", Some(("reason", "awaits_key"))),
    ("encoder_dropped_too_large", "frames_dropped", Some(("reason", "too_large"))),
    ("encoder_dropped_late", "frames_dropped", Some(("reason", "late"))),
    ("encoder_dropped_system", "frames_dropped", Some(("reason", "system"))),
    ("encoder_key_frames", "key_frames", None),
    ("key_frames_asked", "key_frames_asked", None),
    ("encoder_packets_sent", "video_packets", None),
    ("encoder_parity_sent", "video_parity_packets", None),
    ("encoder_bytes_sent", "video_bytes", None),
    ("encoder_send_errors", "send_errors", None),
    ("encoder_restarts", "encoder_restarts", None),
    ("encoders_passed_over", "encoders_passed_over", None),
    ("encoder_tunings", "encoder_tunings", None),
    ("failures", "encoder_failures", None),
    ("viewers", "viewers", None),
    ("input_passed", "input_events", Some(("result", "passed"))),
    ("input_dropped", "input_events", Some(("result", "dropped"))),
    ("input_ignored", "input_events", Some(("result", "ignored"))),
    ("input_released", "input_releases", None),
    ("packets_missed", "client_packets_missed", None),
    ("fec_reports", "client_reports", None),
    ("blocks_recovered", "client_blocks", Some(("result", "recovered"))),
    ("blocks_lost", "client_blocks", Some(("result", "lost"))),
    ("control_messages", "control_messages", Some(("result", "taken"))),
    ("control_forged", "control_messages", Some(("result", "forged"))),
    ("control_replayed", "control_messages", Some(("result", "replayed"))),
    ("control_malformed", "control_messages", Some(("result", "malformed"))),
    ("control_strange_datagrams", "control_messages", Some(("result", "strange"))),
    ("control_send_errors", "control_send_errors", None),
    ("control_moves", "control_moves", None),
    ("audio_packets", "audio_packets", None),
    ("audio_dropped_frames", "audio_frames_dropped", None),
    ("audio_server_restarts", "audio_server_restarts", None),
    ("audio_errors", "audio_errors", None),
    ("audio_stalls", "audio_stalls", None),
    ("audio_silences", "audio_silences", None),
    ("desktop_commits", "desktop_commits", None),
    ("desktop_clients_refused", "desktop_clients_refused", None),
    ("desktop_clients_cut_off", "desktop_clients_cut_off", None),
];

const FAMILIES: [(&str, &str); 30] = [
    ("frames", "Frames by the last step that they reached"),
    ("frames_dropped", "Frames that did not get to the client, by reason"),
    ("key_frames", "Key frames sent"),
    ("key_frames_asked", "Key frames that the client asked for"),
    ("video_packets", "Video packets sent, parity included"),
    ("video_parity_packets", "Parity packets among them, of frames that were sent whole"),
    ("video_bytes", "Bytes of video sent, parity included"),
    ("send_errors", "Frames whose sending failed"),
    ("encoder_restarts", "Encoders after a viewer's first"),
    ("encoders_passed_over", "Encoders that failed too often and gave way to the next"),
    ("encoder_tunings", "Changes of bitrate or parity because of what the path lost"),
    ("encoder_failures", "Encoders that could not be started"),
    ("viewers", "Viewers that have connected"),
    ("input_events", "Input events by what became of them"),
    ("input_releases", "Times that everything was released because a release was lost"),
    ("client_packets_missed", "Packets that the client missed, as it reports"),
    ("client_reports", "Reports of the client about blocks that lacked packets"),
    ("client_blocks", "Blocks that lacked packets at the client, by result"),
    ("control_messages", "Control messages of the client"),
    ("control_send_errors", "Control datagrams that could not be sent"),
    ("control_moves", "Times that the client has moved to another address"),
    ("audio_packets", "Audio packets sent"),
    ("audio_frames_dropped", "Audio frames that came too late"),
    ("audio_server_restarts", "Sound servers after the first"),
    ("audio_errors", "Audio packets that could not be sent"),
    ("audio_stalls", "Times that the sound server stood still"),
    ("audio_silences", "Audio packets of silence where there was no sound"),
    ("desktop_commits", "Pictures that apps have handed over"),
    ("desktop_clients_refused", "Connections of apps refused because too many were open"),
    ("desktop_clients_cut_off", "Apps cut off for asking too much"),
];

/// Told elsewhere, or in another form.
const LEFT_OUT: [&str; 7] = [
    "encoder_frames_dropped",
    "encoder_latency_sum_us",
    "encoder_latency_last_us",
    "encoder_epoch",
    "desktop_render_us_last",
    "desktop_render_us_p50",
    "desktop_render_us_p99",
];

/// `all`: the sessions that run, and what they wrote last.
pub fn encode(
    e: &mut DescriptorEncoder<'_>,
    all: &BTreeMap<SessionId, Option<SessionFigures>>,
    now_ns: u64,
) -> Result<(), Error> {
    let state = |figures: &Option<SessionFigures>| {
        let told = figures.as_ref().map_or("unknown", |figures| figures.state.as_str());
        STATES.into_iter().find(|state| *state == told).unwrap_or("unknown")
    };
    let states = STATES.map(|name| {
        let count = all.values().filter(|figures| state(figures) == name).count();
        (label("state", name), count as f64)
    });
    family(e, "sessions", "Sessions by state", false, states)?;
    let told: Vec<(SessionId, &SessionFigures)> =
        all.iter().filter_map(|(id, figures)| Some((*id, figures.as_ref()?))).collect();
    let ages = told
        .iter()
        .map(|(id, f)| (session(*id, f), now_ns.saturating_sub(f.began_ns) as f64 / 1e9));
    family(e, "session_age_seconds", "Since the session began", false, ages)?;
    encode_viewers(e, &told)?;
    encode_figures(e, &told)?;
    let stages = told.iter().flat_map(|(id, figures)| {
        let known = figures.times.iter().filter(|timed| is_name(&timed.name));
        known.map(|timed| (with(session(*id, figures), "stage", &timed.name), timed))
    });
    histograms(e, "session_stage_seconds", "How long frames took, by stage", stages)
}

fn encode_viewers(
    e: &mut DescriptorEncoder<'_>,
    told: &[(SessionId, &SessionFigures)],
) -> Result<(), Error> {
    let viewers = || told.iter().filter_map(|(id, f)| Some((*id, *f, f.viewer.as_ref()?)));
    let about = |(id, figures, viewer): (SessionId, &SessionFigures, &ViewerFigures)| {
        let (mode, hertz) = (viewer.mode, f64::from(viewer.mode.millihertz) / 1000.0);
        let mut labels = with(session(id, figures), "viewer", viewer.id);
        labels.push(("mode", format!("{}x{}@{hertz}", mode.width, mode.height)));
        labels.push(("codec", codec_name(viewer.codec).to_owned()));
        labels.push(("encoder", viewer.encoder.clone().unwrap_or_default()));
        (labels, 1.0)
    };
    family(e, "session_viewer_info", "Who views", false, viewers().map(about))?;
    let trips = viewers().filter_map(|(id, figures, viewer)| {
        Some((session(id, figures), viewer.round_trip_us? as f64 / 1e6))
    });
    let meaning = "To the client and back, by the control connection";
    family(e, "session_round_trip_seconds", meaning, false, trips)
}

fn encode_figures(
    e: &mut DescriptorEncoder<'_>,
    told: &[(SessionId, &SessionFigures)],
) -> Result<(), Error> {
    for (name, meaning) in FAMILIES {
        let of_family = GROUPED.iter().filter(|(_, family, _)| *family == name);
        let values = of_family.flat_map(|(figure, _, extra)| {
            told.iter().filter_map(move |(id, figures)| {
                let mut labels = session(*id, figures);
                labels.extend(extra.map(|(name, value)| (name, value.to_owned())));
                Some((labels, *figures.figures.get(*figure)?))
            })
        });
        family(e, &format!("session_{name}"), meaning, true, values)?;
    }
    let known =
        |name: &str| LEFT_OUT.contains(&name) || GROUPED.iter().any(|(figure, ..)| *figure == name);
    let others: BTreeSet<&str> = told
        .iter()
        .flat_map(|(_, figures)| figures.figures.keys().map(String::as_str))
        .filter(|name| is_name(name) && !known(name))
        .collect();
    for name in others {
        let values =
            told.iter().filter_map(|(id, f)| Some((session(*id, f), *f.figures.get(name)?)));
        let meaning = format!("As the session tells: {}", name.replace('_', " "));
        family(e, &format!("session_{name}"), &meaning, false, values)?;
    }
    Ok(())
}

fn session(id: SessionId, figures: &SessionFigures) -> Labels<'static> {
    vec![("session", id.to_string()), ("app", figures.app.clone())]
}

fn with<'a>(mut labels: Labels<'a>, name: &'a str, value: impl ToString) -> Labels<'a> {
    labels.push((name, value.to_string()));
    labels
}
