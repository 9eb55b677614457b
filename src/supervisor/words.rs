//! What `serve` says to the person in front of it: a few lines at the start, then who wants to pair.
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::config::{Config, Ports};
use crate::ipc::{EncoderReport, PendingPairing};
use crate::ops::doctor::{Finding, State, codec_name};
use crate::ops::metrics::board::Known;
use crate::ops::out::{complain, say};
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
    program: String,
    status: Status,
}

/// What the start found out about this machine.
pub struct Facts {
    pub addresses: Vec<IpAddr>,
    /// Findings that are not ok.
    pub missing: Vec<Finding>,
    /// There is something that could encode besides the processor.
    pub gpu: bool,
    /// How people call this program.
    pub program: String,
}

/// What is said at the start; `moonshard status` says it again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    version: String,
    pid: u32,
    host_name: String,
    addresses: Vec<IpAddr>,
    ports: Ports,
    encoder: Option<String>,
    encoder_reason: String,
    codecs: Vec<String>,
    apps: Vec<String>,
    pairing: bool,
    missing: Vec<Finding>,
    state_dir: std::path::PathBuf,
    /// From the start to the first accepted connection, milliseconds; None: not there yet.
    start_ms: Option<u64>,
    /// Where operators are answered; None: nowhere.
    #[serde(default)]
    metrics: Option<SocketAddr>,
    /// How the host is at the moment; None: that was not asked.
    #[serde(default)]
    now: Option<Now>,
}

/// What `moonshard status` tells beyond what was said at the start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Now {
    pub up_seconds: u64,
    /// Why no session can be made now, as far as it is known without trying; empty: all is well.
    pub reasons: Vec<String>,
    pub seats_used: usize,
    pub seats: usize,
    /// Fronts after the first.
    pub front_restarts: u64,
}

impl Status {
    fn new(config: &Config, probe: &Result<EncoderReport, String>, facts: Facts) -> Self {
        let (encoder, encoder_reason) = choice(probe, &config.session.encoder, facts.gpu);
        let wanted = &config.session.encoder;
        let working = |codec: &Codec| {
            probe.as_ref().is_ok_and(|r| r.usable(wanted).any(|e| e.codec == *codec))
        };
        let codecs = [Codec::H264, Codec::Hevc, Codec::Av1].into_iter().filter(working);
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            host_name: config.host_name.clone(),
            addresses: facts.addresses,
            ports: config.ports,
            encoder,
            encoder_reason,
            codecs: codecs.map(|codec| codec_name(codec).to_owned()).collect(),
            apps: config.apps.iter().map(|app| app.spec.title.clone()).collect(),
            pairing: config.pairing,
            missing: facts.missing,
            state_dir: config.state_dir.clone(),
            start_ms: None,
            metrics: None,
            now: None,
        }
    }

    /// For people: a title and a few lines.
    pub fn text(&self, style: Style) -> String {
        let title = format!("moonshard {} on {}", self.version, self.host_name);
        let ready = match self.start_ms {
            Some(ms) => format!("ready in {}.{} s", ms / 1000, ms % 1000 / 100),
            None => "starting".to_owned(),
        };
        let gap = COLUMNS.saturating_sub(title.chars().count() + ready.len()).max(2);
        let well = self.now.as_ref().is_none_or(|now| now.reasons.is_empty());
        let ready = if well { style.good(&ready) } else { style.dim(&ready) };
        let title = style.bold(&title);
        let mut text = format!("{title}{:gap$}{ready}\n\n", "");
        for (name, value) in self.lines() {
            text += &entry(style, name, &value);
        }
        text
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        let address = match addresses.is_empty() {
            true => "only this machine: no network interface is up".to_owned(),
            false => addresses.join(", "),
        };
        let mut lines = self.now.as_ref().map(Now::lines).unwrap_or_default();
        lines.push(("Address", address));
        if self.ports != Ports::default() {
            let p = self.ports;
            let tcp = format!("TCP {} (HTTPS), {} (HTTP), {} (RTSP)", p.https, p.http, p.rtsp);
            let udp =
                format!("UDP {} (video), {} (control), {} (audio)", p.video, p.control, p.audio);
            lines.push(("Ports", format!("{tcp}; {udp}")));
        }
        match &self.encoder {
            Some(encoder) => lines.push(("Encoder", format!("{encoder}: {}", self.encoder_reason))),
            None => lines.push(("No encoder", self.encoder_reason.clone())),
        }
        lines.push(("Apps", self.apps.join(", ")));
        let add = match self.addresses.first() {
            Some(address) => with_port(*address, self.ports.http),
            None => "this machine".to_owned(),
        };
        let pairing = match self.pairing {
            true => format!("in Moonlight, add {add} and choose it; then look here"),
            false => "is off: set `pairing = true` in the configuration".to_owned(),
        };
        lines.push(("Pairing", pairing));
        if let (Some(_), Some(at)) = (&self.now, &self.metrics) {
            lines.push(("Metrics", format!("http://{at}/metrics, /healthz, /readyz, /capacity")));
        }
        for finding in &self.missing {
            let mend = match finding.mend.is_empty() {
                true => String::new(),
                false => format!(". Mend: {}", finding.mend),
            };
            let name = if finding.state == State::Broken { "Broken" } else { "Missing" };
            lines.push((name, format!("{}: {}{mend}", finding.name, finding.detail)));
        }
        lines
    }
}

impl Now {
    fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines: Vec<_> =
            self.reasons.iter().map(|reason| ("Not well", reason.clone())).collect();
        let (minutes, hours) = (self.up_seconds / 60, self.up_seconds / 3600);
        let up = match (minutes, hours) {
            (0..2, _) => format!("{} s", self.up_seconds),
            (_, 0..2) => format!("{minutes} min"),
            (_, 2..48) => format!("{hours} h"),
            _ => format!("{} days", hours / 24),
        };
        let mut running = format!("for {up}; {} of {} seats taken", self.seats_used, self.seats);
        if self.front_restarts > 0 {
            running += &format!("; control plane replaced {} times", self.front_restarts);
        }
        lines.push(("Running", running));
        lines
    }
}

/// A name, and beside it a value of as many lines as it needs.
fn entry(style: Style, name: &str, value: &str) -> String {
    let mut text = String::new();
    for (i, line) in wrap(value, COLUMNS - INDENT).into_iter().enumerate() {
        let label = format!("  {:<width$}", if i == 0 { name } else { "" }, width = INDENT - 2);
        let label = match name {
            "Missing" => style.warn(&label),
            "Broken" | "No encoder" | "Not well" => style.bad(&label),
            _ => style.dim(&label),
        };
        text += &format!("{label}{line}\n");
    }
    text
}

impl Words {
    /// `probe`: the encoders, or why there is no report.
    pub fn new(
        began: Instant,
        config: &Config,
        probe: &Result<EncoderReport, String>,
        facts: Facts,
    ) -> Self {
        let program = facts.program.clone();
        let status = Status::new(config, probe, facts);
        Self { style: Style::stdout(), began, program, status }
    }

    /// The status as JSON, with how the host is now.
    pub fn status(&self, known: &Known) -> serde_json::Value {
        let now = Now {
            up_seconds: self.began.elapsed().as_secs(),
            reasons: known.obstacles(crate::shard::now().0),
            seats_used: known.sessions.len(),
            seats: known.seats,
            front_restarts: known.front_starts.saturating_sub(1),
        };
        let status = Status { now: Some(now), ..self.status.clone() };
        serde_json::to_value(status).unwrap_or_default()
    }

    /// Where operators are answered.
    pub fn operators(&mut self, at: SocketAddr) {
        self.status.metrics = Some(at);
    }

    /// Operators are answered nowhere. Shown at the start and by `status`: who looks at figures only
    /// would not be told otherwise.
    pub fn no_operators(&mut self, at: SocketAddr, error: &std::io::Error) {
        self.status.missing.push(Finding {
            name: "metrics".into(),
            state: State::Broken,
            needed: false,
            detail: format!("nobody is answered at {at}: {error}"),
            mend: "choose another port in [metrics], or stop who has it".into(),
        });
    }

    /// The encoder that streams will use, and why it is this one or none.
    pub fn encoder(&self) -> (Option<String>, String) {
        (self.status.encoder.clone(), self.status.encoder_reason.clone())
    }

    pub fn has_served(&self) -> bool {
        self.status.start_ms.is_some()
    }

    /// All shards accept connections. Only the first time is worth a word.
    pub fn serving(&mut self) {
        if !self.has_served() {
            let took = self.began.elapsed().as_millis();
            self.status.start_ms = Some(u64::try_from(took).unwrap_or(u64::MAX));
            say(&format!("\n{}\n", self.status.text(self.style)));
        }
    }

    pub fn pairing_asked(&self, pending: &PendingPairing) {
        say(&self.pairing(pending));
    }

    fn pairing(&self, pending: &PendingPairing) -> String {
        let who =
            format!("{} at {}", harmless(&pending.device, 40), harmless(&pending.address, 48));
        let (who, id) = (self.style.bold(&who), harmless(&pending.id, 64));
        let command = format!("{} pair {id} <PIN shown on the device>", self.program);
        format!("{who} wants to pair:\n  {}\n", self.style.bold(&command))
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
        complain(&format!("moonshard: the configuration was not changed: {why}\n"));
    }

    pub fn upgraded(&self, text: &str) {
        say(&format!("{text}\n"));
    }

    pub fn not_upgraded(&self, why: &str) {
        complain(&format!("moonshard: not upgraded: {why}\n"));
    }

    pub fn start_failed(&self) {
        complain(
            "moonshard: cannot start: the front ends before it serves; its messages are above.\n\
             `moonshard doctor` tells what this machine lacks.\n",
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
fn choice(
    probe: &Result<EncoderReport, String>,
    wanted: &str,
    gpu: bool,
) -> (Option<String>, String) {
    let report = match probe {
        Ok(report) => report,
        Err(error) => return (None, format!("{error}. `moonshard doctor` tells more")),
    };
    let mut candidates = report.encoders.iter().filter(|e| e.codec == Codec::H264);
    let chosen = report.usable(wanted).find(|encoder| encoder.codec == Codec::H264);
    if let Some(chosen) = chosen {
        let codec = codec_name(chosen.codec);
        let mut reason = match wanted {
            "auto" if gpu => format!("{codec}, the best that works here"),
            "auto" => format!("{codec}, on the processor: there is no GPU here"),
            _ => format!("{codec}, as configured"),
        };
        let before = candidates.take_while(|encoder| encoder.name != chosen.name);
        for encoder in before.filter(|e| !e.works).take(REFUSED_ENCODERS_SHOWN) {
            reason += &format!("; {} does not: {}", encoder.name, encoder.detail);
        }
        return (Some(chosen.name.clone()), reason);
    }
    let is_wanted = |name: &str| wanted == "auto" || wanted.split(',').any(|w| w.trim() == name);
    let reason = match candidates.find(|encoder| is_wanted(&encoder.name)) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::EncoderFinding;

    fn report() -> Result<EncoderReport, String> {
        let finding = |name: &str, works| EncoderFinding {
            name: name.into(),
            codec: Codec::H264,
            works,
            quick: works,
            detail: "no such device".into(),
        };
        let encoders = vec![finding("nvh264enc", false), finding("x264enc", true)];
        Ok(EncoderReport { encoders })
    }

    #[test]
    fn the_chosen_encoder_comes_with_its_reason() {
        let (name, why) = choice(&report(), "auto", true);
        let (_, no_gpu) = choice(&report(), "auto", false);
        assert!(no_gpu.contains("no GPU"), "{no_gpu}");
        assert_eq!(name.as_deref(), Some("x264enc"));
        assert!(why.contains("best that works") && why.contains("nvh264enc does not"), "{why}");
        let (name, why) = choice(&report(), "nvh264enc", true);
        assert!(name.is_none() && why.contains("no such device"), "{why}");
        let (name, why) = choice(&report(), "none", true);
        assert!(name.is_none() && why.contains("`none`, as configured"), "{why}");
        let (name, why) = choice(&Err("it crashed".into()), "auto", true);
        assert!(name.is_none() && why.contains("it crashed"), "{why}");
    }

    fn words(config: &str) -> Words {
        let around = crate::config::Surroundings { root: true, ..Default::default() };
        let config = Config::parse(config, &around).unwrap();
        let missing = Finding {
            name: "sound server".into(),
            state: State::Missing,
            needed: false,
            detail: "pulseaudio: no sound".into(),
            mend: "apt-get install pulseaudio".into(),
        };
        let facts = Facts {
            addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            missing: vec![missing],
            gpu: true,
            program: "target/release/moonshard".into(),
        };
        Words { style: Style::plain(), ..Words::new(Instant::now(), &config, &report(), facts) }
    }

    #[test]
    fn the_start_is_told_in_lines_that_fit_and_status_tells_it_again() {
        let mut deaf = words("");
        let words = words("[ports]\nhttp = 1");
        let text = words.status.text(Style::plain());
        for part in [
            "Address     192.0.2.1, 2001:db8::1",
            "1 (HTTP)",
            "Encoder     x264enc: H.264, the best",
            "add 192.0.2.1:1 and choose it",
            "Missing     sound server: pulseaudio: no sound. Mend: apt-get install",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
        // A port that is taken is no secret of the log.
        deaf.no_operators("127.0.0.1:47991".parse().unwrap(), &std::io::Error::other("in use"));
        let told = deaf.status.text(Style::plain());
        assert!(
            told.contains("Broken      metrics: nobody is answered at 127.0.0.1:47991"),
            "{told}"
        );
        // How the host is now comes on top; here, no front runs.
        let known = Known { seats: 4, front_starts: 3, ..Default::default() };
        let again: Status = serde_json::from_value(words.status(&known)).unwrap();
        let again = again.text(Style::plain());
        for line in text.lines() {
            assert!(again.contains(line), "{line}: {again}");
        }
        assert!(again.contains("  Not well    no front runs\n"), "{again}");
        let running = "  Running     for 0 s; 0 of 4 seats taken; control plane replaced 2 times\n";
        assert!(again.contains(running), "{again}");
        // A host of an earlier version does not tell.
        let mut older = words.status(&known);
        older.as_object_mut().unwrap().remove("now");
        let older: Status = serde_json::from_value(older).unwrap();
        assert_eq!(older.text(Style::plain()), text);
    }

    #[test]
    fn whoever_wants_to_pair_is_shown_with_the_command_that_accepts() {
        let pending = PendingPairing {
            id: "5f2c09d1a7e3b846".into(),
            device: "Pixel\x1b[2J 7".into(),
            address: "192.0.2.7".into(),
            seconds_left: 60,
        };
        assert_eq!(
            words("").pairing(&pending),
            "Pixel?[2J 7 at 192.0.2.7 wants to pair:\n  \
             target/release/moonshard pair 5f2c09d1a7e3b846 <PIN shown on the device>\n"
        );
    }

    #[test]
    fn the_port_is_shown_only_where_it_is_not_the_usual_one() {
        let (v4, v6) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        assert_eq!(with_port(v4, 47989), "192.0.2.1");
        assert_eq!(with_port(v4, 1), "192.0.2.1:1");
        assert_eq!(with_port(v6, 1), "[2001:db8::1]:1");
    }
}
