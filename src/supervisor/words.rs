//! What `serve` says to the person in front of it: a few lines at the start, then who wants to pair.
use std::io::Write;
use std::net::IpAddr;
use std::time::Instant;

use serde::Serialize;

use crate::config::{Config, Ports};
use crate::ipc::{EncoderReport, PendingPairing};
use crate::ops::doctor::{Finding, State, codec_name};
use crate::ops::style::{COLUMNS, Style, harmless, wrap};
use crate::proto::stream::Codec;

/// Columns before a value.
const INDENT: usize = 14;
/// Encoders that do not work and are named at the start.
const REFUSED_ENCODERS_SHOWN: usize = 2;

/// The speaker, with what it knows about this start.
pub struct Words {
    style: Style,
    began: Instant,
    status: Status,
}

/// What was said at the start, for `moonshard status`.
#[derive(Clone, Debug, Serialize)]
struct Status {
    version: &'static str,
    pid: u32,
    host_name: String,
    addresses: Vec<IpAddr>,
    ports: Ports,
    encoder: Option<String>,
    encoder_reason: String,
    codecs: Vec<&'static str>,
    apps: Vec<String>,
    missing: Vec<Finding>,
    state_dir: std::path::PathBuf,
    /// From the start to the first accepted connection, milliseconds; None: not there yet.
    start_ms: Option<u64>,
}

impl Words {
    /// `probe`: the encoders, or why there is no report. `missing`: findings that are not ok.
    pub fn new(
        began: Instant,
        config: &Config,
        addresses: Vec<IpAddr>,
        probe: &Result<EncoderReport, String>,
        missing: Vec<Finding>,
    ) -> Self {
        let (encoder, encoder_reason) = choice(probe, &config.session.encoder);
        let working = |codec: &Codec| {
            probe.as_ref().is_ok_and(|r| r.encoders.iter().any(|e| e.works && e.codec == *codec))
        };
        let codecs = [Codec::H264, Codec::Hevc, Codec::Av1];
        let status = Status {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            host_name: config.host_name.clone(),
            addresses,
            ports: config.ports,
            encoder,
            encoder_reason,
            codecs: codecs.iter().filter(|codec| working(codec)).map(|c| codec_name(*c)).collect(),
            apps: config.apps.iter().map(|app| app.spec.title.clone()).collect(),
            missing,
            state_dir: config.state_dir.clone(),
            start_ms: None,
        };
        Self { style: Style::stdout(), began, status }
    }

    /// The status as JSON.
    pub fn status(&self) -> serde_json::Value {
        serde_json::to_value(&self.status).unwrap_or_default()
    }

    pub fn has_served(&self) -> bool {
        self.status.start_ms.is_some()
    }

    /// All shards accept connections. Only the first time is worth a word.
    pub fn serving(&mut self, config: &Config) {
        if self.has_served() {
            return;
        }
        let took = self.began.elapsed();
        self.status.start_ms = Some(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        let title = format!("moonshard {} on {}", self.status.version, self.status.host_name);
        let ready = format!("ready in {:.1} s", took.as_secs_f64());
        let gap = COLUMNS.saturating_sub(title.chars().count() + ready.len()).max(2);
        let mut text = format!(
            "\n{}{}{}\n\n",
            self.style.bold(&title),
            " ".repeat(gap),
            self.style.good(&ready)
        );
        for (name, value) in self.lines(config) {
            text += &self.entry(name, &value);
        }
        say(&(text + "\n"));
    }

    fn lines(&self, config: &Config) -> Vec<(&'static str, String)> {
        let status = &self.status;
        let addresses: Vec<String> = status.addresses.iter().map(ToString::to_string).collect();
        let mut lines = vec![(
            "Address",
            match addresses.is_empty() {
                true => "only this machine: no network interface is up".to_owned(),
                false => addresses.join(", "),
            },
        )];
        if status.ports != Ports::default() {
            let p = status.ports;
            lines.push(("Ports", format!(
                "TCP {} (HTTPS), {} (HTTP), {} (RTSP); UDP {} (video), {} (control), {} (audio)",
                p.https, p.http, p.rtsp, p.video, p.control, p.audio
            )));
        }
        let encoder = status.encoder.as_deref().unwrap_or("none");
        lines.push(("Encoder", format!("{encoder}: {}", status.encoder_reason)));
        lines.push(("Apps", status.apps.join(", ")));
        let add = match status.addresses.first() {
            Some(address) => with_port(*address, status.ports.http),
            None => "this machine".to_owned(),
        };
        lines.push((
            "To pair",
            match config.pairing {
                true => format!("in Moonlight, add {add} and choose it; its PIN is asked for here"),
                false => "pairing is off: set `pairing = true` in the configuration".to_owned(),
            },
        ));
        for finding in &status.missing {
            let mend = match finding.mend.is_empty() {
                true => String::new(),
                false => format!(". Mend: {}", finding.mend),
            };
            let name = if finding.state == State::Broken { "Broken" } else { "Missing" };
            lines.push((name, format!("{}: {}{mend}", finding.name, finding.detail)));
        }
        lines
    }

    fn entry(&self, name: &str, value: &str) -> String {
        let mut text = String::new();
        for (i, line) in wrap(value, COLUMNS - INDENT).into_iter().enumerate() {
            let label = format!("  {:<width$}", if i == 0 { name } else { "" }, width = INDENT - 2);
            let label = match name {
                "Missing" => self.style.warn(&label),
                "Broken" => self.style.bad(&label),
                _ => self.style.dim(&label),
            };
            text += &format!("{label}{line}\n");
        }
        text
    }

    pub fn pairing_asked(&self, pending: &PendingPairing) {
        let who =
            format!("{} at {}", harmless(&pending.device, 40), harmless(&pending.address, 48));
        let id = harmless(&pending.id, 64);
        let command = self.style.bold(&format!("moonshard pair {id} <PIN shown on the device>"));
        say(&format!("{} wants to pair:\n  {command}\n", self.style.bold(&who)));
    }

    pub fn pairing_ended(&self, id: &str, outcome: &str) {
        say(&format!("Pairing {}: {}\n", harmless(id, 64), harmless(outcome, 200)));
    }

    pub fn stopping(&self, sessions: usize) {
        let sessions = match sessions {
            0 => String::new(),
            1 => ", and a session with it".to_owned(),
            n => format!(", and {n} sessions with it"),
        };
        say(&format!("Stopping{sessions}. A second signal kills at once.\n"));
    }

    pub fn gone(&self) {
        say("Stopped.\n");
    }

    pub fn reloaded(&self) {
        say("The configuration was read again; it holds for new connections and sessions.\n");
    }

    pub fn not_reloaded(&self, why: &str) {
        eprintln!("moonshard: the configuration was not changed: {why}");
    }

    pub fn start_failed(&self) {
        eprintln!(
            "moonshard: cannot start: the front ends before it serves; its messages are above.\n\
             `moonshard doctor` tells what this machine lacks."
        );
    }
}

/// As Moonlight wants it: the port only where it is not the usual one.
fn with_port(address: IpAddr, port: u16) -> String {
    match (address, port == Ports::default().http) {
        (_, true) => address.to_string(),
        (IpAddr::V4(_), false) => format!("{address}:{port}"),
        (IpAddr::V6(_), false) => format!("[{address}]:{port}"),
    }
}

/// The encoder that streams will use, and why it is this one or none.
fn choice(probe: &Result<EncoderReport, String>, wanted: &str) -> (Option<String>, String) {
    let report = match probe {
        Ok(report) => report,
        Err(error) => return (None, format!("{error}. `moonshard doctor` tells more")),
    };
    let mut candidates = report.encoders.iter().filter(|e| e.codec == Codec::H264);
    let chosen = match wanted {
        "auto" => candidates.clone().find(|encoder| encoder.works),
        name => candidates.clone().find(|encoder| encoder.works && encoder.name == name),
    };
    if let Some(chosen) = chosen {
        let codec = codec_name(chosen.codec);
        let mut reason = match wanted {
            "auto" => format!("{codec}, the best that works here"),
            _ => format!("{codec}, as configured"),
        };
        let before = candidates.take_while(|encoder| encoder.name != chosen.name);
        for encoder in before.filter(|e| !e.works).take(REFUSED_ENCODERS_SHOWN) {
            reason += &format!("; {} does not: {}", encoder.name, encoder.detail);
        }
        return (Some(chosen.name.clone()), reason);
    }
    let reason = match candidates.find(|encoder| wanted == "auto" || encoder.name == wanted) {
        Some(tried) => {
            format!("no stream is possible: {} does not work: {}", tried.name, tried.detail)
        }
        None if wanted == "auto" => "no stream is possible: there is no H.264 encoder. \
             Mend: apt-get install gstreamer1.0-plugins-ugly"
            .to_owned(),
        None => format!("no stream is possible: `{wanted}`, as configured, does not exist here"),
    };
    (None, reason)
}

/// To standard output, at once; a closed one is nobody's loss.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::EncoderFinding;

    fn report() -> Result<EncoderReport, String> {
        let finding = |name: &str, works| EncoderFinding {
            name: name.into(),
            codec: Codec::H264,
            works,
            detail: "no such device".into(),
        };
        let encoders = vec![finding("nvh264enc", false), finding("x264enc", true)];
        Ok(EncoderReport { encoders })
    }

    #[test]
    fn the_chosen_encoder_comes_with_its_reason() {
        let (name, why) = choice(&report(), "auto");
        assert_eq!(name.as_deref(), Some("x264enc"));
        assert!(why.contains("best that works") && why.contains("nvh264enc does not"), "{why}");
        let (name, why) = choice(&report(), "nvh264enc");
        assert!(name.is_none() && why.contains("no such device"), "{why}");
        let (name, why) = choice(&report(), "none");
        assert!(name.is_none() && why.contains("`none`, as configured"), "{why}");
        let (name, why) = choice(&Err("it crashed".into()), "auto");
        assert!(name.is_none() && why.contains("it crashed"), "{why}");
    }

    #[test]
    fn the_port_is_shown_only_where_it_is_not_the_usual_one() {
        let (v4, v6) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        assert_eq!(with_port(v4, 47989), "192.0.2.1");
        assert_eq!(with_port(v4, 1), "192.0.2.1:1");
        assert_eq!(with_port(v6, 1), "[2001:db8::1]:1");
    }
}
