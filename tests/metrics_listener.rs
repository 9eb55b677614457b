//! What operators read: the text parses, every name that dashboard and alerts use exists, health and
//! readiness tell the truth, and systemd is told.
mod cli_support;
mod promql;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cli_support::{Host, Place, eventually, signal};
use promql::Exposed;

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

/// The value of the first sample of a name that has the label, `name="value"`.
fn value(text: &str, name: &str, label: &str) -> Option<f64> {
    let line = text.lines().find(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && line.contains(label)
    })?;
    line.rsplit_once(' ')?.1.parse().ok()
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

#[test]
fn the_text_parses_and_holds_every_name_that_dashboard_and_alerts_use() {
    let place = Place::with_metrics(true);
    let host = place.serve();
    let at = address(&place);
    assert_eq!(json(at, "/readyz").0, 200, "{:?}", json(at, "/readyz"));
    // The handshake of the probe is on the sheet with its next writing, on whichever shard it was.
    let text = eventually(|| {
        let text = get(at, "/metrics").1;
        let done = text.lines().filter(|l| l.starts_with("moonshard_handshake_seconds_count"));
        done.into_iter().any(|line| !line.ends_with(" 0")).then_some(text.clone())
    });
    let exposed = Exposed::read(&text);
    let value = |name, label| value(&text, name, label);
    assert!(text.contains("moonshard_handshakes_total{shard=\"0\",result=\"ok\""));
    assert_eq!(value("moonshard_front_restarts_total", ""), Some(0.0));
    assert_eq!(value("moonshard_up", ""), Some(1.0));
    assert!(value("moonshard_process_resident_bytes", "kind=\"front\"").unwrap() > 1e6);
    assert!(value("moonshard_shard_heartbeat_age_seconds", "shard=\"0\"").unwrap() < 2.0);
    assert!(value("moonshard_shard_lag_seconds_count", "shard=\"0\"").unwrap() >= 1.0);
    assert!(value("moonshard_sockets", "service=\"https\",state=\"listen\"").unwrap() >= 1.0);
    assert_eq!(value("moonshard_sessions", "state=\"streaming\""), Some(0.0), "known");
    assert_eq!(value("moonshard_session_frames_total", ""), None, "unknown");
    let queries = promql::queries(&docs());
    let faults: Vec<_> =
        queries.iter().flat_map(|(_, query)| promql::faults(query, &exposed)).collect();
    assert!(faults.is_empty(), "{faults:#?}");
    // Without a front nothing is known of it, which is not 0; and still all names are there.
    signal(place.process("front"), "STOP");
    let stopped = eventually(|| {
        let text = get(at, "/metrics").1;
        text.contains("\nmoonshard_up 0").then_some(text)
    });
    Exposed::read(&stopped);
    signal(place.process("front"), "CONT");
    drop(host);
}

#[test]
fn wrong_queries_are_found() {
    let exposed = Exposed::read(
        "# HELP a A.\n# TYPE a counter\na_total{x=\"1\",y=\"a\\\"b\"} 1\n\
         # HELP g G.\n# TYPE g gauge\n# EOF\n",
    );
    for good in [
        "rate(a_total[5m]) > 0.5",
        "sum by (x) (increase(a_total{x=\"1\"}[1h])) / 2 or g{z=\"?\"}",
        "histogram_quantile(0.95, sum by (x) (rate(a_total[5m]))) and on (y) a_total",
        "(a_total - 1) * -2",
    ] {
        assert_eq!(promql::faults(good, &exposed), Vec::<String>::new(), "{good}");
    }
    for bad in [
        "rate(a_total)",
        "a_total[5m]",
        "a_total[5]",
        "rate(b_total[5m])",
        "sum by (z) (a_total)",
        "a_total{x=\"2\"}",
        "a_total{z!=\"1\"}",
        "a_total{x=1}",
        "a_total >",
        "(a_total",
        "a_total or 1",
        "sum(1)",
        "quantile_of(a_total)",
        "1 + 1",
        "a_total a_total",
        "histogram_quantile(a_total, 0.5)",
        "",
    ] {
        assert_ne!(promql::faults(bad, &exposed), Vec::<String>::new(), "{bad}");
    }
}

/// The same again by Prometheus's own tool, on machines that have it.
#[test]
fn promtool_agrees_where_it_is_installed() {
    let rules = docs().join("alerts.yml");
    match Command::new("promtool").arg("check").arg("rules").arg(rules).output() {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(error) => eprintln!("not asked: promtool: {error}"),
    }
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
    assert!(capacity["gpus"].is_array());
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
fn a_full_disk_is_told_where_pairings_are_kept() {
    let place = Place::with_metrics(true);
    std::fs::create_dir_all(place.state()).unwrap();
    let config = place.config();
    // A disk of its own, which nobody else sees.
    let script = format!(
        "mount -t tmpfs -o size=256k disk '{}' && exec '{}' serve --config '{}'",
        place.state().display(),
        env!("CARGO_BIN_EXE_moonshard"),
        config.display()
    );
    let mut command = place.command(&[]);
    let environment: Vec<_> =
        command.get_envs().map(|(k, v)| (k.to_owned(), v.map(ToOwned::to_owned))).collect();
    command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]);
    for (key, value) in environment {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    let mut host = Host::of(&mut command);
    host.expect("ready in");
    let at = address(&place);
    assert_eq!(json(at, "/readyz").0, 200, "{:?}", json(at, "/readyz"));
    let disk = PathBuf::from(format!("/proc/{}/root{}", host.pid(), place.state().display()));
    let filled = std::fs::write(disk.join("fill"), vec![0; 1 << 20]);
    assert!(filled.is_err(), "the disk is not full");
    // An outcome holds for a few seconds.
    let body = eventually(|| {
        let (status, body) = json(at, "/readyz");
        (status == 503).then_some(body)
    });
    let reasons = body["reasons"].to_string();
    assert!(reasons.contains("state directory") && reasons.contains("No space left"), "{body}");
    std::fs::remove_file(disk.join("fill")).unwrap();
    eventually(|| (json(at, "/readyz").0 == 200).then_some(()));
    host.signal("TERM");
    assert_eq!(host.wait().0, Some(0));
}

#[test]
fn systemd_is_told_when_it_serves_lives_and_stops() {
    let place = Place::with_metrics(true);
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
