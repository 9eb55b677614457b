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
    assert!(report.codecs().h264 && !report.codecs().hevc && !report.codecs().av1);
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
