//! A whole host, whole clients: from pairing to goodbye, and that nothing is left behind.
mod place;

use std::process::Command;

use place::{Place, alone, eventually, report};
use serde_json::Value;

const PATTERN: &str = "Test pattern";

fn nothing_is_left(place: &Place) {
    eventually("the sessions are gone", || {
        let leftovers = place.leftovers();
        (leftovers.is_empty() && place.sessions().is_empty()).then_some(())
    });
}

fn number(report: &Value, key: &str) -> f64 {
    report[key].as_f64().unwrap_or_else(|| panic!("{key} in {report}"))
}

#[test]
fn the_pattern_is_seen_heard_and_answers_and_leaves_no_trace() {
    let _alone = alone();
    let place = Place::new();
    let host = place.serve();
    let pattern = ["--seconds", "5", "--pattern-check", "--input-every", "300"];
    let report = host.client("a", PATTERN).with(&pattern).plays();
    for key in ["fps", "frames_received", "time_to_first_frame_ms", "longest_freeze_ms"] {
        assert!(number(&report, key) > 0.0, "{key} in {report}");
    }
    for key in ["frames_lost", "frames_repaired", "decode_errors", "audio_gaps"] {
        assert_eq!(number(&report, key), 0.0, "{key} in {report}");
    }
    assert!(number(&report["input_round_trip_ms"], "p50") > 0.0, "{report}");
    assert!(number(&report, "frames_decoded") >= 60.0, "{report}");
    // An audio server that plays ahead keeps the first two seconds back.
    assert!(number(&report, "audio_silent_ms") < 1000.0, "{report}");
    nothing_is_left(&place);
    host.end();
}

#[test]
fn a_stream_does_not_notice_that_the_front_is_replaced() {
    let _alone = alone();
    let place = Place::new();
    let host = place.serve();
    let arguments = ["--seconds", "12", "--pattern-check", "--mode", "640x360x30"];
    let client = host.client("a", PATTERN).with(&arguments).start();
    let state = |state: &str| {
        let sessions = place.sessions();
        (sessions.len() == 1 && sessions[0]["state"] == state).then_some(())
    };
    eventually("it streams", || state("streaming"));
    let done = place.admin(&["upgrade"]);
    assert!(done["done"].as_str().is_some_and(|d| d.contains("The front now is")), "{done}");
    eventually("the next front knows of the stream", || state("streaming"));
    let report = report(&client.wait_with_output().unwrap(), &place);
    for key in ["frames_lost", "decode_errors"] {
        assert_eq!(number(&report, key), 0.0, "{key} in {report}");
    }
    nothing_is_left(&place);
    host.end();
}

#[test]
fn the_desktop_obeys_what_is_typed() {
    let _alone = alone();
    let place = Place::new();
    let host = place.serve();
    let typed = place.directory.path().join("typed");
    // A path has characters that are text and not keys.
    let command = format!("echo moonshard 42 > {}\\n", typed.display());
    let picture = place.directory.path().join("picture.png");
    let arguments = ["--seconds", "6", "--type", &command, "--save-frame"];
    host.client("a", "Desktop").with(&arguments).with(&[picture.to_str().unwrap()]).plays();
    assert_eq!(std::fs::read_to_string(&typed).unwrap(), "moonshard 42\n");
    assert!(bright_pixels(&picture) > 500, "the terminal shows it");
    nothing_is_left(&place);
    host.end();
}

/// Pixels of a saved picture's upper half that are bright, as letters on a dark terminal are.
fn bright_pixels(picture: &std::path::Path) -> usize {
    let file = std::io::BufReader::new(std::fs::File::open(picture).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((info.width, info.height), (1280, 720));
    let (upper, _) = pixels.split_at(pixels.len() / 2);
    upper.chunks_exact(3).filter(|rgb| rgb.iter().all(|part| *part > 150)).count()
}

#[test]
fn two_clients_of_one_address_each_have_a_session() {
    let _alone = alone();
    let place = Place::new();
    let host = place.serve();
    let arguments = ["--seconds", "4", "--pattern-check", "--input-every", "300"];
    // Small, so that two streams are no question of speed.
    let start = |name: &str| {
        let small = ["--mode", "640x360x30"];
        host.client(name, PATTERN).with(&arguments).with(&small).start()
    };
    let first = start("a");
    eventually("the first one streams", || (place.sessions().len() == 1).then_some(()));
    let second = start("b");
    eventually("both stream", || (place.sessions().len() == 2).then_some(()));
    for client in [first, second] {
        report(&client.wait_with_output().unwrap(), &place);
    }
    nothing_is_left(&place);
    host.end();
}

#[test]
fn a_session_is_resumed_in_another_mode() {
    let _alone = alone();
    let place = Place::new();
    let host = place.serve();
    let arguments = ["--pattern-check", "--resume-mode", "960x540x30"];
    let report = host.client("a", PATTERN).with(&arguments).plays();
    let resumed = &report["resumed"];
    assert_eq!(resumed["mode"], "960x540x30");
    // The pattern never stopped: it counts on.
    let (before, after) = (&report["pattern"]["last"], &resumed["pattern"]["first"]);
    assert!(after.as_u64() > before.as_u64() && before.is_u64(), "{report}");

    // Nor does it stop when its viewer vanishes, or leaves it running.
    host.client("a", PATTERN).with(&["--keep"]).plays();
    host.client("a", PATTERN).with(&["--drop"]).plays();
    let last = host.client("a", PATTERN).with(&["--pattern-check"]).plays();
    assert!(last["pattern"]["first"].as_u64() > Some(100), "{last}");
    nothing_is_left(&place);
    host.end();
}

#[test]
fn every_way_of_encryption_and_of_sound() {
    let _alone = alone();
    let place = Place::new();
    let host = place.serve();
    let clear = ["--no-video-encryption", "--audio-encryption", "off"];
    for (rtsp, media, channels) in
        [(true, true, "2"), (true, false, "6"), (false, true, "8"), (false, false, "2")]
    {
        let mut client =
            host.client("a", PATTERN).with(&["--pattern-check", "--channels", channels]);
        if !rtsp {
            client = client.with(&["--plain-rtsp"]);
        }
        if !media {
            client = client.with(&clear);
        }
        let report = client.plays();
        assert_eq!(report["encrypted_rtsp"], rtsp, "{report}");
        assert_eq!(report["encrypted_video"], media, "{report}");
        assert_eq!(report["encrypted_audio"], media, "{report}");
    }
    nothing_is_left(&place);
    host.end();
}

#[test]
fn ipv6_streams_too() {
    let _alone = alone();
    let place = Place::new();
    let host = place.serve();
    host.client("a", PATTERN).plays();
    host.client_from(None, "[::1]", "a", PATTERN).with(&["--pattern-check", "--ipv6"]).plays();
    host.end();
}

#[test]
fn refusals_say_why_and_start_nothing() {
    let _alone = alone();
    let place = Place::new();
    let host = place.serve();
    let unknown = host.stranger("a", PATTERN).refused();
    assert!(unknown.contains("does not know this client"), "{unknown}");

    let no_app = host.client("a", "Solitaire").refused();
    assert!(
        no_app.contains("no app called \"Solitaire\"; it has: Desktop, Test pattern"),
        "{no_app}"
    );
    let hevc = host.client("a", PATTERN).with(&["--codec", "hevc"]).refused();
    assert!(hevc.contains("ANNOUNCE: the host answers with status 400"), "{hevc}");
    nothing_is_left(&place);

    // The certificate that the client remembers is not this host's: it does not talk to it.
    let state = place.directory.path().join("client-a");
    let hosts = state.join("hosts");
    let remembered = std::fs::read_dir(&hosts).unwrap().next().unwrap().unwrap().path();
    let right = std::fs::read(&remembered).unwrap();
    std::fs::copy(state.join("client.pem"), &remembered).unwrap();
    let foreign = host.stranger("a", PATTERN).refused();
    assert!(foreign.contains("does not know this client"), "{foreign}");
    std::fs::write(&remembered, right).unwrap();
    host.stranger("a", PATTERN).with(&["--pattern-check"]).plays();

    place.forget_clients();
    let removed = host.stranger("a", PATTERN).refused();
    assert!(removed.contains("does not know this client"), "{removed}");
    nothing_is_left(&place);
    host.end();
}

/// Two network namespaces with a cable between them; gone when the test ends.
struct Cable {
    host: String,
    client: String,
}

impl Cable {
    fn lay() -> Self {
        let pid = std::process::id();
        let cable = Self { host: format!("ms-host-{pid}"), client: format!("ms-client-{pid}") };
        let (host, client) = (&cable.host, &cable.client);
        for line in [
            format!("netns add {host}"),
            format!("netns add {client}"),
            format!("-n {host} link add wire type veth peer name wire netns {client}"),
            format!("-n {host} address add 10.213.1.1/24 dev wire"),
            format!("-n {host} address add 10.213.2.1/24 dev wire"),
            format!("-n {client} address add 10.213.1.2/24 dev wire"),
            format!("-n {client} address add 10.213.2.2/24 dev wire"),
            format!("-n {host} link set lo up"),
            format!("-n {host} link set wire up"),
            format!("-n {client} link set wire up"),
        ] {
            let output = Command::new("ip").args(line.split(' ')).output().unwrap();
            let why = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "this test needs root (ip {line}: {why})");
        }
        cable
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for namespace in [&self.host, &self.client] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).output();
        }
    }
}

#[test]
fn a_host_with_two_addresses_answers_from_the_one_that_was_asked() {
    let _alone = alone();
    let cable = Cable::lay();
    let place = Place::within(Some(cable.host.clone()));
    let host = place.serve();
    for address in ["10.213.1.1", "10.213.2.1"] {
        let client = host.client_from(Some(&cable.client), address, "a", PATTERN);
        client.and_pairs().with(&["--pattern-check"]).plays();
    }
    nothing_is_left(&place);
    host.end();
}
