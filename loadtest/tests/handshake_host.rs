//! The harness against a real host: numbers add up, goals set the exit code, a silent attack is closed at
//! the host's deadline while honest clients are served.
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;

use serde_json::Value;

/// A host with free ports and a handshake deadline of one second.
struct Host {
    child: Child,
    target: String,
    _dir: tempfile::TempDir,
}

fn moonshard() -> PathBuf {
    static BUILT: Once = Once::new();
    let path = Path::new(env!("CARGO_BIN_EXE_moonshard-loadtest")).with_file_name("moonshard");
    BUILT.call_once(|| {
        if !path.exists() {
            let mut cargo = Command::new(std::env::var("CARGO").unwrap_or("cargo".into()));
            assert!(cargo.args(["build", "-p", "moonshard"]).status().unwrap().success());
        }
    });
    path
}

impl Host {
    fn start() -> Self {
        Self::with_files(None)
    }

    /// With a bound on the files that each of its processes may open.
    fn with_files(most: Option<u32>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("run")).unwrap();
        let config = dir.path().join("moonshard.toml");
        let text = "mdns = false\n[limits]\nhandshake_ms = 1000\n[ports]\nhttps = 0\nhttp = 0\n\
                    rtsp = 0\nvideo = 0\ncontrol = 0\naudio = 0\n";
        std::fs::write(&config, text).unwrap();
        let command = |argument: &[&str]| {
            let mut command = Command::new(moonshard());
            command.arg("--config").arg(&config).args(argument).stdin(Stdio::null());
            command.env("XDG_RUNTIME_DIR", dir.path().join("run"));
            command.env("XDG_STATE_HOME", dir.path().join("state"));
            command
        };
        let mut serve = command(&["serve"]);
        if let Some(most) = most {
            let mut limited = Command::new("prlimit");
            limited.arg(format!("--nofile={most}")).arg(serve.get_program());
            limited.args(serve.get_args()).stdin(Stdio::null());
            limited.envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
            serve = limited;
        }
        let mut child = serve.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.is_ok_and(|line| line.contains("ready in"))));
        std::thread::spawn(move || lines.for_each(drop));
        let status = command(&["status", "--json"]).output().unwrap();
        let status: Value = serde_json::from_slice(&status.stdout).unwrap();
        let target = format!("127.0.0.1:{}", status["ports"]["https"]);
        Self { child, target, _dir: dir }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn loadtest(arguments: &[&str]) -> (Option<i32>, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_moonshard-loadtest"));
    let output = command.args(arguments).arg("--json").output().unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    (output.status.code(), json)
}

/// An attack of a second or more, with what the server did to the bad connections.
fn attack(host: &Host, kind: &str, more: &[&str]) -> Value {
    let run = ["attack", "--kind", kind, "--target", &host.target, "--beside", "0.5"];
    let (code, all) = loadtest(&[&run[..], more].concat());
    assert_eq!(code, Some(0), "{all}");
    for part in ["before", "during", "after"] {
        adds_up(&all["honest"][part]);
    }
    all
}

fn adds_up(report: &Value) {
    let count = |key: &str| report[key].as_u64().unwrap();
    assert_eq!(count("requests"), count("successes") + count("errors"), "{report}");
    let kinds = report["errors_by_kind"].as_object().unwrap().values();
    assert_eq!(kinds.map(|kind| kind.as_u64().unwrap()).sum::<u64>(), count("errors"));
    let stages = ["connect", "handshake", "first_byte", "request"];
    for quantile in ["p50", "p95", "p99", "p99.9", "max"] {
        let times = stages.map(|stage| report["latency_us"][stage][quantile].as_u64());
        assert!(times.is_sorted(), "{quantile}: {report}");
    }
}

#[test]
fn numbers_add_up_and_goals_set_the_exit_code() {
    let host = Host::start();
    let run = ["handshake", "--target", &host.target, "--seconds", "1", "--warmup", "0", "--slo"];
    let (code, all) = loadtest(&[&run[..], &["errors=0", "--rate", "20,40"]].concat());
    assert_eq!((code, all["met"].as_bool()), (Some(0), Some(true)), "{all}");
    for (step, wanted) in all["steps"].as_array().unwrap().iter().zip([20, 40]) {
        adds_up(step);
        assert_eq!(step["requests"].as_u64(), Some(wanted), "an open loop keeps its schedule");
    }
    let (code, all) = loadtest(&[&run[..], &["p50=0us", "--concurrency", "2"]].concat());
    assert_eq!((code, all["met"].as_bool()), (Some(1), Some(false)), "{all}");
    adds_up(&all["steps"][0]);

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = ["handshake", "--target", &free.to_string(), "--seconds", "1", "--warmup", "0"];
    let (code, all) = loadtest(&[&nobody[..], &["--rate", "10", "--slo", "errors=0"]].concat());
    assert_eq!(code, Some(1));
    assert_eq!(all["steps"][0]["errors_by_kind"]["refused"].as_u64(), Some(10), "{all}");
}

#[test]
fn silent_connections_end_at_the_deadline_while_honest_ones_are_served() {
    let host = Host::start();
    let all =
        attack(&host, "silent", &["--connections", "50", "--seconds", "3", "--slo", "errors=0"]);
    for part in ["before", "during", "after"] {
        assert_eq!(all["honest"][part]["errors"].as_u64(), Some(0), "{all}");
    }
    let ages = all["attack"]["closed_by_server_at_age"].as_array().unwrap();
    assert!(!ages.is_empty(), "{all}");
    for age in ages {
        assert!((900..=2000).contains(&age["from_ms"].as_u64().unwrap()), "{all}");
    }
    assert!(all["attack"]["ends"]["reset"].as_u64().unwrap() >= 50, "{all}");
}

#[test]
fn what_breaks_the_rules_is_closed_while_honest_ones_are_served() {
    let host = Host::start();
    for kind in ["garbage", "huge-head", "renegotiate"] {
        let small = ["--connections", "4", "--seconds", "1", "--slo", "errors=0"];
        let all = attack(&host, kind, &small);
        let ends = &all["attack"]["ends"];
        let closed = ["fin", "reset"].map(|end| ends[end].as_u64().unwrap());
        assert!(closed.iter().sum::<u64>() > 0, "{all}");
        assert_eq!(ends["other"].as_u64(), Some(0), "{all}");
    }
}

#[test]
fn a_server_without_files_left_recovers_when_they_are_free_again() {
    let host = Host::with_files(Some(128));
    let all = attack(
        &host,
        "fd-exhaustion",
        &["--connections", "300", "--seconds", "2", "--timeout", "2"],
    );
    assert_eq!(all["honest"]["before"]["errors"].as_u64(), Some(0), "{all}");
    let honest = ["handshake", "--target", &host.target, "--rate", "20", "--seconds", "1"];
    let (code, after) = loadtest(&[&honest[..], &["--slo", "errors=0"]].concat());
    assert_eq!(code, Some(0), "{after}");
}

#[test]
fn a_server_that_cannot_be_measured_is_told_in_one_line() {
    let host = Host::start();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let not_tls = plain.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in plain.incoming().flatten() {
            use std::io::{Read, Write};
            let mut stream = stream;
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"SSH-2.0-none\r\n");
        }
    });
    let run = ["--seconds", "0.3", "--warmup", "0", "--rate", "20"];
    for (arguments, wanted) in [
        (&["--target", &free.to_string()][..], "refuses every connection: does the server run"),
        (&["--target", &not_tls], "does not speak TLS with us: is this its HTTPS port"),
        (&["--target", "nowhere.invalid:1"], "nowhere.invalid:1: "),
        (&["--target", &host.target, "--client-cert", "/none.pem"], "/none.pem: No such file"),
        (&["--target", &host.target, "--plot", "/none/plot.svg"], "/none/plot.svg: No such file"),
        (&["--target", &host.target, "--hdr-log", "/none/log"], "/none/log: No such file"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_moonshard-loadtest"));
        let output = command.arg("handshake").args(run).args(arguments).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains(wanted) && told.lines().count() == 1, "{arguments:?}: {told}");
        assert!(matches!(output.status.code(), Some(1 | 2)), "{arguments:?}: {}", output.status);
    }
}
