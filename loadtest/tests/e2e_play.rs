//! A whole host, whole clients: from pairing to goodbye, and that nothing is left behind.
mod place;
#[path = "../../tests/promql/mod.rs"]
mod promql;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use moonshard::proto::ping::Ping;
use moonshard::proto::rtsp::{Direction, seal};
use moonshard::proto::secret::SessionKey;
use place::{Place, alone, eventually, report};
use promql::Exposed;
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

/// The value of the first sample that has the label, `name="value"`.
fn sample(text: &str, name: &str, label: &str) -> Option<f64> {
    let line = text.lines().find(|line| {
        let rest = line.strip_prefix(&format!("moonshard_{name}"));
        rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(label)
    })?;
    line.rsplit_once(' ')?.1.parse().ok()
}

#[test]
fn operators_see_every_stage_of_a_stream_and_nothing_of_one_that_ended() {
    let _alone = alone();
    let place = Place::with("[limits]\nsessions = 1\n");
    let host = place.serve();
    assert_eq!(place.operators("/readyz").0, 200, "{:?}", place.operators("/readyz"));
    let arguments = ["--seconds", "6", "--mode", "640x360x30", "--input-every", "200"];
    let client = host.client("a", PATTERN).with(&arguments).start();
    let text = eventually("a second of the stream is told", || {
        let (_, text) = place.operators("/metrics");
        let sent = sample(&text, "session_frames_total", "step=\"sent\"")?;
        let pressed = sample(&text, "session_input_events_total", "result=\"passed\"")?;
        (sent >= 30.0 && pressed >= 2.0).then_some(text)
    });
    let value = |name: &str, label: &str| {
        sample(&text, name, label).unwrap_or_else(|| panic!("{name} {label} in {text}"))
    };
    assert_eq!(value("sessions", "state=\"streaming\""), 1.0);
    assert_eq!(value("sessions", "state=\"unknown\""), 0.0);
    assert_eq!(value("session_viewer_info", "mode=\"640x360@30\",codec=\"H.264\""), 1.0);
    assert!(value("session_round_trip_seconds", "session=") < 0.5, "measured, not ENet's guess");
    for stage in ["capture", "encode", "packetize", "send", "total"] {
        let count = value("session_stage_seconds_count", &format!("stage=\"{stage}\""));
        assert!(count >= 30.0, "{stage}: {count}");
    }
    for step in ["drawn", "received", "encoded"] {
        assert!(value("session_frames_total", &format!("step=\"{step}\"")) >= 30.0, "{step}");
    }
    assert!(value("session_key_frames_total", "") >= 1.0);
    let (all, parity) =
        (value("session_video_packets_total", ""), value("session_video_parity_packets_total", ""));
    assert!(parity > 0.1 * all && parity < all, "{parity} of {all}");
    assert!(value("session_video_bytes_total", "") > 10_000.0);
    assert_eq!(value("session_frames_dropped_total", "reason=\"late\""), 0.0);
    assert_eq!(value("session_encoder_restarts_total", ""), 0.0);
    assert!(value("session_audio_packets_total", "") > 0.0);
    assert_eq!(value("launches_total", "result=\"granted\""), 1.0);
    assert_eq!(value("launch_failures_total", "reason=\"client\""), 0.0);
    for stage in ["process", "desktop", "rtsp", "encoder", "control", "total"] {
        let stage = format!("stage=\"{stage}\"");
        assert_eq!(value("launch_stage_seconds_count", &stage), 1.0, "{stage}");
    }
    // Everything has a sample now: also the labels of all queries can be looked at.
    let exposed = Exposed::read(&text);
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let queries = promql::queries(&docs);
    let faults: Vec<_> =
        queries.iter().flat_map(|(_, query)| promql::faults(query, &exposed)).collect();
    assert!(faults.is_empty(), "{faults:#?}");
    // So does the command line, at its first question.
    let session = &place.sessions()[0];
    assert!(session["figures"]["encoder_frames_sent"].as_f64() >= Some(30.0), "{session}");
    // The one seat is taken, and that is told.
    let (status, body) = place.operators("/readyz");
    assert!(status == 503 && body.contains("all 1 seats are taken"), "{status} {body}");
    report(&client.wait_with_output().unwrap(), &place);
    nothing_is_left(&place);
    let text = eventually("the session is gone here, too", || {
        let (_, text) = place.operators("/metrics");
        text.contains("moonshard_seats{state=\"used\"} 0").then_some(text)
    });
    let labels = Exposed::read(&text).samples.into_iter().flat_map(|(_, labels)| labels);
    assert_eq!(labels.filter(|(name, of)| name == "session" && !of.is_empty()).count(), 0);
    host.end();
}

/// All ways in which key bytes may be printed: as digits, and as Rust prints a list.
fn forms(key: &str) -> Vec<String> {
    let bytes: Vec<u8> = (0..key.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&key[at..at + 2], 16).unwrap())
        .collect();
    let list: Vec<String> = bytes.iter().map(u8::to_string).collect();
    vec![key.to_lowercase(), key.to_uppercase(), list.join(", "), list.join(",")]
}

/// A PIN that begins with 0 is no other number.
const PIN: &str = "0815";

fn holds_pin(line: &str) -> bool {
    line.match_indices(PIN).any(|(at, _)| {
        let beside = |c: char| c.is_ascii_alphanumeric() || c == '.';
        !line[..at].ends_with(beside) && !line[at + PIN.len()..].starts_with(beside)
    })
}

#[test]
fn no_process_ever_logs_a_secret() {
    let _alone = alone();
    let mut place = Place::new();
    place.logs = Some("trace");
    let host = place.serve();
    let keys = place.directory.path().join("keys");
    let arguments =
        ["--seconds", "3", "--mode", "640x360x30", "--input-every", "200", "--pin", PIN];
    let client = host.stranger("a", PATTERN).with(&arguments).with(&["--allow-loss", "--keys"]);
    let mut client = client.with(&[keys.to_str().unwrap()]).start();
    let id = eventually("it wants to pair", || {
        place.admin(&["pair"]).as_array()?.first()?["id"].as_str().map(str::to_owned)
    });
    place.admin(&["pair", &id, PIN]);
    // A session's log goes with it.
    let sessions = place.directory.path().join("run/moonshard/sessions");
    let mut lines = std::collections::BTreeSet::new();
    eventually("it has played", || {
        for session in std::fs::read_dir(&sessions).into_iter().flatten().flatten() {
            let log = std::fs::read(session.path().join("session.log")).unwrap_or_default();
            lines.extend(String::from_utf8_lossy(&log).lines().map(str::to_owned));
        }
        client.try_wait().unwrap()
    });
    let output = client.wait_with_output().unwrap();
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert!(number(&report, "frames_decoded") > 0.0, "{report}");
    nothing_is_left(&place);
    lines.extend(place.log().lines().map(str::to_owned));
    // All have told what they do, down to single steps.
    for said in ["DEBUG serve", "DEBUG front", "DEBUG session ", "INFO encoder ", "conn{id="] {
        assert!(lines.iter().any(|line| line.contains(said)), "nothing of {said} was logged");
    }
    let key = std::fs::read_to_string(&keys).unwrap();
    let mut secrets: Vec<String> = key.lines().flat_map(forms).collect();
    let state = place.directory.path().join("state/moonshard");
    for file in std::fs::read_dir(state).unwrap().flatten() {
        let text = std::fs::read_to_string(file.path()).unwrap_or_default();
        if text.contains("PRIVATE KEY") {
            secrets.extend(text.lines().filter(|l| l.len() >= 40).map(str::to_owned));
        }
    }
    assert!(secrets.len() > 4, "neither the stream's key nor the host's was found");
    for line in &lines {
        assert!(!secrets.iter().any(|secret| line.contains(secret.as_str())), "{line}");
        assert!(!holds_pin(line), "{line}");
    }
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
fn a_codec_is_streamed_when_its_encoder_is_named() {
    let _alone = alone();
    let place = Place::new();
    place.configure("[session]\nencoder = \"x265enc,x264enc\"\n");
    let host = place.serve();
    let arguments = ["--codec", "hevc", "--mode", "640x360x30", "--pattern-check"];
    let report = host.client("a", PATTERN).with(&arguments).with(&["--seconds", "2"]).plays();
    assert_eq!(number(&report, "decode_errors"), 0.0, "{report}");
    nothing_is_left(&place);
    host.end();
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
fn a_crowd_takes_its_streams_over_and_leaves_nothing() {
    let _alone = alone();
    let place = Place::new();
    let host = place.serve();
    let crowd = ["--clients", "2", "--scenario", "takeover", "--seed", "7", "--pattern-check"];
    let small = ["--mode", "320x180x15", "--bitrate", "1000"];
    let report = host.client("crowd", PATTERN).with(&crowd).with(&small).plays();
    assert_eq!(report["seed"], 7, "{report}");
    let clients = report["clients"].as_array().unwrap();
    assert_eq!(clients.len(), 2, "{report}");
    for client in clients {
        assert_eq!((number(client, "streamed"), number(client, "taken_over")), (1.0, 2.0));
        assert_eq!(number(client, "foreign_colours"), 0.0, "{report}");
    }
    assert_eq!(report["host_after"]["processes"], report["host_before"]["processes"], "{report}");
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

    let nowhere = host.stranger("a", PATTERN).with(&["--host", "nowhere.invalid"]).refused();
    assert!(nowhere.contains("nowhere.invalid is no address"), "{nowhere}");
    let nobody = host.stranger("a", PATTERN).with(&["--host", "127.0.0.1:1"]).refused();
    assert!(nobody.contains("does the host run, and is this its port?"), "{nobody}");
    let picture = ["--save-frame", "/none/picture.png"];
    let unsaved = host.stranger("a", PATTERN).with(&picture).refused();
    assert!(unsaved.contains("/none/picture.png: No such file"), "{unsaved}");

    let soak = ["--clients", "2", "--scenario", "soak"];
    let unarmed = host.stranger("a", PATTERN).with(&soak).refused();
    assert!(unarmed.contains("add --pin-via-admin"), "{unarmed}");

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

/// What comes to UDP ports that nobody has asked for.
fn foreign_datagrams() -> Vec<Vec<u8>> {
    let wake_on_lan = [&[0xff; 6][..], &[2, 0xfc, 1, 2, 3, 4].repeat(16)].concat();
    let dns = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07example\x03org\0\0\xff\0\x01".to_vec();
    let ping = Ping::Identified { payload: *b"0123456789ABCDEF", sequence: 1 }.write();
    // CONNECT with data that nobody was given, then ENet commands to peers that there may be.
    let connect = [&[0x8f, 0xff, 0, 0, 0x82, 0xff, 0, 1][..], &[0x5a; 44]].concat();
    let mut all =
        vec![vec![], vec![0], vec![0xff; 65_507], b"PING".to_vec(), wake_on_lan, dns, ping];
    all.push(connect);
    all.extend((0..64).map(|peer| vec![0x80, peer, 0, 0, 0x84, 0xff, 0, 1, 0, 0, 0, 0]));
    let mut seed = 1u32;
    let mut random = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    };
    all.extend((0..200).map(|length| (0..length).map(|_| random()).collect()));
    all
}

/// Sends `message` to the RTSP port; what comes back until the host closes.
fn rtsp(port: u16, message: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(message).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

#[test]
fn strangers_and_forgers_are_not_answered_and_disturb_no_stream() {
    let _alone = alone();
    let place = Place::new();
    let host = place.serve();
    let stream = host.client("a", PATTERN).with(&["--seconds", "6", "--pattern-check"]).start();
    let streams = || place.sessions().first().is_some_and(|one| one["state"] == "streaming");
    eventually("it streams", || streams().then_some(()));
    let lines = place.log().lines().count();

    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for service in ["video", "control", "audio"] {
        let to = (Ipv4Addr::LOCALHOST, place.port(service));
        for datagram in foreign_datagrams() {
            socket.send_to(&datagram, to).unwrap();
        }
    }
    let port = place.port("rtsp");
    let options = b"OPTIONS rtsp://x RTSP/1.0\r\nCSeq: 1\r\n\r\n";
    for sequence in 1..20 {
        let key = SessionKey([7; 16]);
        let sealed = seal(&key, sequence, Direction::ClientToHost, options);
        assert_eq!(rtsp(port, &sealed), b"", "not even an error");
    }
    let plain = rtsp(port, b"ANNOUNCE streamid=control/13/0 RTSP/1.0\r\nCSeq: 5\r\n\r\n");
    assert!(plain.starts_with(b"RTSP/1.0 454 "), "{}", String::from_utf8_lossy(&plain));

    socket.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    let answer = socket.recv_from(&mut [0; 2048]);
    assert!(answer.is_err(), "strangers get nothing: {answer:?}");
    assert!(streams(), "{:?}", place.sessions());
    let log = place.log();
    let said: Vec<&str> = log.lines().skip(lines).collect();
    assert!(said.len() < 20, "the log is flooded: {said:#?}");

    let report = report(&stream.wait_with_output().unwrap(), &place);
    assert!(number(&report, "frames_lost") <= 2.0, "{report}");
    nothing_is_left(&place);
    host.end();
}

#[test]
fn an_announce_beyond_all_bounds_is_refused_and_starts_nothing() {
    let _alone = alone();
    let place = Place::new();
    let host = place.serve();
    for (option, value) in [("--mode", "8x8x60"), ("--mode", "1280x720x1000")] {
        let refused = host.client("a", PATTERN).with(&[option, value]).refused();
        assert!(refused.contains("ANNOUNCE: the host answers with status 400"), "{refused}");
    }
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
