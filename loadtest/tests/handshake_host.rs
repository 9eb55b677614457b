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
    let (code, all) = loadtest(&[
        "attack",
        "--kind",
        "silent",
        "--connections",
        "50",
        "--seconds",
        "3",
        "--beside",
        "1",
        "--target",
        &host.target,
        "--slo",
        "errors=0",
    ]);
    assert_eq!(code, Some(0), "{all}");
    for part in ["before", "during", "after"] {
        adds_up(&all["honest"][part]);
        assert_eq!(all["honest"][part]["errors"].as_u64(), Some(0), "{all}");
    }
    let ages = all["attack"]["closed_by_server_at_age"].as_array().unwrap();
    assert!(!ages.is_empty(), "{all}");
    for age in ages {
        assert!((900..=2000).contains(&age["from_ms"].as_u64().unwrap()), "{all}");
    }
    assert!(all["attack"]["ends"]["reset"].as_u64().unwrap() >= 50, "{all}");
}
