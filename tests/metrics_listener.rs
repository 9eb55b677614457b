//! What operators read: the text parses, every name that dashboard and alerts use exists, health and
//! readiness tell the truth, and systemd is told.
mod cli_support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use cli_support::{Host, Place, eventually, signal};

fn address(place: &Place) -> SocketAddr {
    let status = place.run(&["status", "--json"]).json();
    status["metrics"].as_str().unwrap().parse().unwrap()
}

/// Sends `head` and reads to the end: status number and body.
fn ask(at: SocketAddr, head: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(at).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.write_all(head.as_bytes()).unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn get(at: SocketAddr, path: &str) -> (u16, String) {
    ask(at, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
}

fn json(at: SocketAddr, path: &str) -> (u16, serde_json::Value) {
    let (status, body) = get(at, path);
    (status, serde_json::from_str(&body).unwrap())
}

/// Sample names and how they are declared, of a strict reading of OpenMetrics 1.0.
#[derive(Default)]
struct Read1 {
    types: BTreeMap<String, String>,
    samples: Vec<(String, String, f64)>,
}

impl Read1 {
    fn parse(text: &str) -> Self {
        let mut read = Self::default();
        let body = text.strip_suffix("# EOF\n").expect("ends with EOF");
        let mut seen = BTreeSet::new();
        let mut family = String::new();
        for line in body.lines() {
            if let Some(rest) = line.strip_prefix("# ") {
                let (word, rest) = rest.split_once(' ').unwrap();
                let (name, what) = rest.split_once(' ').unwrap();
                assert!(["HELP", "TYPE", "UNIT"].contains(&word), "{line}");
                if word == "TYPE" {
                    assert!(
                        read.types.insert(name.to_owned(), what.to_owned()).is_none(),
                        "{line}"
                    );
                    family = name.to_owned();
                }
                continue;
            }
            let (key, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) =
                key.split_once('{').map_or((key, ""), |(n, l)| (n, l.strip_suffix('}').unwrap()));
            assert!(
                !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            );
            let suffixes: &[&str] = match read.types[&family].as_str() {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            assert!(suffixes.iter().any(|s| name == format!("{family}{s}")), "{line} in {family}");
            assert!(seen.insert(key.to_owned()), "twice: {line}");
            read.samples.push((name.to_owned(), labels.to_owned(), value.parse().unwrap()));
        }
        read
    }

    /// Every name that a query may use.
    fn names(&self) -> BTreeSet<String> {
        let suffixes = |kind: &str| match kind {
            "counter" => vec!["_total"],
            "histogram" => vec!["_bucket", "_sum", "_count"],
            _ => vec![""],
        };
        let all = self.types.iter();
        all.flat_map(|(n, k)| suffixes(k).into_iter().map(move |s| format!("{n}{s}"))).collect()
    }

    fn value(&self, name: &str, label: &str) -> Option<f64> {
        self.samples.iter().find(|(n, l, _)| n == name && l.contains(label)).map(|s| s.2)
    }
}

/// Every word in `text` that is a metric of ours.
fn used(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("moonshard_")).map(str::to_owned).collect()
}

#[test]
fn the_text_parses_and_holds_every_name_that_dashboard_and_alerts_use() {
    let place = Place::with_metrics(true);
    let host = place.serve();
    let at = address(&place);
    assert_eq!(json(at, "/readyz").0, 200, "{:?}", json(at, "/readyz"));
    // The handshake of the probe is on the sheet with its next writing.
    let read = eventually(|| {
        let read = Read1::parse(&get(at, "/metrics").1);
        (read.value("moonshard_handshake_seconds_count", "")? >= 1.0).then_some(read)
    });
    assert!(read.value("moonshard_handshakes_total", "result=\"ok\"").unwrap() >= 1.0);
    assert_eq!(read.value("moonshard_front_restarts_total", ""), Some(0.0));
    assert_eq!(read.value("moonshard_up", ""), Some(1.0));
    assert!(read.value("moonshard_process_resident_bytes", "kind=\"front\"").unwrap() > 1e6);
    assert!(read.value("moonshard_shard_heartbeat_age_seconds", "shard=\"0\"").unwrap() < 2.0);
    assert_eq!(read.value("moonshard_session_encoder_frames_sent_total", ""), None, "unknown");
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    for file in ["grafana.json", "alerts.yml"] {
        let text = std::fs::read_to_string(docs.join(file)).unwrap();
        let used = used(&text);
        assert!(used.len() >= 5, "{file}: {used:?}");
        let unknown: Vec<_> = used.difference(&read.names()).cloned().collect();
        assert!(unknown.is_empty(), "{file} uses {unknown:?}");
    }
    let text = std::fs::read_to_string(docs.join("grafana.json")).unwrap();
    let board: serde_json::Value = serde_json::from_str(&text).unwrap();
    for panel in board["panels"].as_array().unwrap() {
        assert!(panel["targets"][0]["expr"].is_string(), "{panel}");
    }
    drop(host);
}

#[test]
fn only_get_of_what_is_there_is_answered_and_idlers_are_sent_away() {
    let place = Place::with_metrics(true);
    let _host = place.serve();
    let at = address(&place);
    assert_eq!(get(at, "/").0, 404);
    assert_eq!(ask(at, "POST /healthz HTTP/1.1\r\nHost: x\r\n\r\n").0, 405);
    assert_eq!(ask(at, "nonsense\r\n\r\n").0, 400);
    let (status, capacity) = json(at, "/capacity");
    assert_eq!((status, capacity["seats"]["used"].as_u64()), (200, Some(0)));
    assert_eq!(capacity["draining"], false);
    // As many idlers as there are seats: they are gone after their time, and others come in.
    let mut idle: Vec<TcpStream> = (0..16).map(|_| TcpStream::connect(at).unwrap()).collect();
    for socket in &mut idle {
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert!(matches!(socket.read(&mut [0; 1]), Ok(0) | Err(_)));
    }
    assert_eq!(get(at, "/healthz").0, 200);
}

#[test]
fn a_front_that_stands_still_is_told_within_three_seconds_and_a_good_one_again() {
    let place = Place::with_metrics(true);
    // Told of, and not replaced.
    place.configure("[limits]\nstall_ms = 600000");
    let _host = place.serve();
    let at = address(&place);
    eventually(|| (get(at, "/healthz").0 == 200).then_some(()));
    let front = place.process("front");
    signal(front, "STOP");
    // Whichever limit passes first, all that is wrong is told, the front first.
    eventually(|| {
        let (status, body) = json(at, "/healthz");
        let reasons: Vec<&str> =
            body["reasons"].as_array()?.iter().filter_map(|r| r.as_str()).collect();
        let all = reasons.len() >= 2
            && reasons[0].starts_with("the front has shown no sign of life")
            && reasons[1].starts_with("shard 0 has not beaten");
        (status == 503 && all).then_some(())
    });
    assert_eq!(json(at, "/readyz").0, 503);
    signal(front, "CONT");
    eventually(|| (get(at, "/healthz").0 == 200).then_some(()));
    eventually(|| (get(at, "/readyz").0 == 200).then_some(()));
}

#[test]
fn without_an_encoder_the_host_is_not_ready_and_says_why() {
    let place = Place::with_metrics(true);
    let path = place.config();
    let text = std::fs::read_to_string(&path).unwrap() + "[session]\nencoder = \"nosuchenc\"\n";
    std::fs::write(path, text).unwrap();
    let _host = place.serve();
    let at = address(&place);
    let (status, body) = json(at, "/readyz");
    assert_eq!(status, 503);
    let reasons = body["reasons"].to_string();
    assert!(reasons.contains("no encoder works") && reasons.contains("nosuchenc"), "{body}");
    assert_eq!(get(at, "/healthz").0, 200, "it lives all the same");
}

#[test]
fn systemd_is_told_when_it_serves_lives_and_stops() {
    let place = Place::with_metrics(true);
    place.configure("[limits]\nstall_ms = 600000");
    let path = place.dir.path().join("notify.sock");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let hear = |words: &str| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            let mut bytes = [0; 512];
            let count = systemd.recv(&mut bytes).unwrap();
            if String::from_utf8_lossy(&bytes[..count]).contains(words) {
                return;
            }
        }
        panic!("{words} was not said");
    };
    let config = place.config();
    let mut command = place.command(&["serve", "--config", config.to_str().unwrap()]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000").env_remove("WATCHDOG_PID");
    let mut host = Host::of(&mut command);
    hear("READY=1");
    hear("WATCHDOG=1");
    // A front that stands still: what is on its way may still arrive, then silence.
    signal(place.process("front"), "STOP");
    std::thread::sleep(Duration::from_millis(3000));
    systemd.set_nonblocking(true).unwrap();
    while systemd.recv(&mut [0; 512]).is_ok() {}
    std::thread::sleep(Duration::from_millis(1000));
    assert!(systemd.recv(&mut [0; 512]).is_err(), "a sign of life of a front that stands still");
    systemd.set_nonblocking(false).unwrap();
    signal(place.process("front"), "CONT");
    hear("WATCHDOG=1");
    host.signal("TERM");
    hear("STOPPING=1");
    assert_eq!(host.wait().0, Some(0));
}

#[test]
fn the_unit_is_of_this_host_and_hardened() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/moonshard.service");
    let text = std::fs::read_to_string(path).unwrap();
    let mut section = "";
    let mut keys = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        match line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            Some(name) => section = name,
            None => {
                let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{line}"));
                assert!(["Unit", "Service", "Install"].contains(&section), "{line}");
                keys.insert((section, key), value);
            }
        }
    }
    for (key, value) in [
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("KillMode", "process"),
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("RuntimeDirectory", "moonshard"),
        ("StateDirectory", "moonshard"),
        ("RestrictSUIDSGID", "yes"),
        ("LockPersonality", "yes"),
    ] {
        assert_eq!(keys.get(&("Service", key)), Some(&value), "{key}");
    }
    let watchdog: u64 = keys[&("Service", "WatchdogSec")].parse().unwrap();
    assert!(watchdog >= 10, "a front that is replaced may take 6 s");
}
