//! `moonshard probe` as a program: a report of encoders that were really tried.
use std::process::Command;

use moonshard::ipc::{EncoderFinding, EncoderReport};

fn probe(arguments: &[&str]) -> (Option<i32>, String) {
    let binary = env!("CARGO_BIN_EXE_moonshard");
    let output = Command::new(binary).arg("probe").args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn software_encoders_are_tried_and_what_was_measured_is_told() {
    let (code, text) = probe(&[]);
    assert_eq!(code, Some(0));
    let report: EncoderReport = serde_json::from_str(&text).unwrap();
    let x264 = report.encoders.iter().find(|e| e.name == "x264enc").unwrap();
    assert!(x264.works, "{}", x264.detail);
    assert!(x264.detail.contains("ms a frame"), "{}", x264.detail);
    assert!(report.codecs("auto").h264);
    // What costs too much is offered to nobody who has not named it.
    for encoder in report.encoders.iter().filter(|e| !e.quick) {
        let name = encoder.name.as_str();
        assert!(report.usable("auto").all(|usable| usable.name != name), "{name}");
        assert_eq!(report.usable(name).count(), usize::from(encoder.works), "{name}");
    }
}

#[test]
fn an_encoder_that_is_named_is_tried_and_its_codec_offered() {
    let found: EncoderFinding = serde_json::from_str(&probe(&["x265enc"]).1).unwrap();
    assert!(found.works, "{}", found.detail);
    let report = EncoderReport { encoders: vec![EncoderFinding { quick: false, ..found }] };
    assert!(report.codecs("x264enc,x265enc").hevc);
    assert!(!report.codecs("auto").hevc && !report.codecs("x264enc").hevc);
}

#[test]
fn an_encoder_that_is_not_installed_says_how_to_get_it() {
    // No plugins at all: nothing is installed.
    let empty = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_moonshard"))
        .args(["probe", "x264enc"])
        .env("GST_PLUGIN_SYSTEM_PATH_1_0", empty.path())
        .env("GST_REGISTRY", empty.path().join("registry.bin"))
        .output()
        .unwrap();
    assert!(output.status.success());
    let found: EncoderFinding = serde_json::from_slice(&output.stdout).unwrap();
    assert!(!found.works);
    assert!(found.detail.contains("apt-get install"), "{}", found.detail);
    assert_eq!(probe(&["warpenc"]).0, Some(2));
}

/// The pid of the process that tries `element` under the process `parent`.
fn trial_of(parent: u32, element: &str) -> Option<i32> {
    std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent_of: u32 = stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()?;
        let is_trial = parent_of == parent && command.ends_with(format!("{element}\0").as_bytes());
        is_trial.then_some(pid)
    })
}

#[test]
fn an_encoder_that_hangs_or_kills_its_process_is_reported_and_the_others_are_tried() {
    use rustix::process::{Pid, Signal, kill_process};
    let start = std::time::Instant::now();
    let child = Command::new(env!("CARGO_BIN_EXE_moonshard"))
        .arg("probe")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    for (element, signal) in [("x264enc", Signal::STOP), ("openh264enc", Signal::ABORT)] {
        let pid = loop {
            assert!(start.elapsed().as_secs() < 12, "{element} was not tried");
            if let Some(pid) = trial_of(child.id(), element) {
                break pid;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        };
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let report: EncoderReport = serde_json::from_slice(&output.stdout).unwrap();
    let detail = |name: &str| {
        let found = report.encoders.iter().find(|e| e.name == name).unwrap();
        assert!(!found.works);
        found.detail.clone()
    };
    assert!(detail("x264enc").contains("did not end within 5"), "{}", detail("x264enc"));
    assert!(detail("openh264enc").contains("signal 6"), "{}", detail("openh264enc"));
}
