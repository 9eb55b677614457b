//! Launches: who gets a session and a grant, who is refused and what that leaves behind.
use super::*;

#[test]
fn a_refused_launch_leaves_its_key_unused() {
    let mut bench = Bench::paired();
    // Refused before it had a session, and after.
    let (call, effects) = bench.launch(b'a', "10.0.0.9", "launch?appid=77", 1, 1);
    assert!(body(&effects, call).contains("status_code=\"404\""));
    let (call, effects) = bench.launch(b'a', "10.0.0.9", "launch?appid=1", 1, 1);
    let session = spawned(&effects);
    let result = Err("fork failed".into());
    let effects = bench.event(Event::SessionSpawned { session, result });
    assert!(body(&effects, call).contains("status_code=\"500\""));
    let (call, effects) = bench.launch(b'a', "10.0.0.9", "launch?appid=1", 1, 1);
    let session = spawned(&effects);
    let reason = "no display".to_owned();
    let effects =
        bench.event(Event::Session { session, message: FromSession::StartFailed { reason } });
    assert!(body(&effects, call).contains("no display"));
    // Replaced by one with another key, then tried again.
    let (older, _) = bench.launch(b'a', "10.0.0.9", "launch?appid=1", 1, 1);
    let (_, effects) = bench.launch(b'a', "10.0.0.9", "launch?appid=1", 2, 1);
    assert!(body(&effects, older).contains("status_code=\"503\""));
    let (call, effects) = bench.launch(b'a', "10.0.0.9", "launch?appid=1", 1, 1);
    assert!(effects.iter().all(|e| !matches!(e, Effect::Answer { call: c, .. } if *c == call)));
    let session = bench.host.sessions().of_client(client_id(b"a")).unwrap();
    let effects = bench.event(Event::Session { session, message: FromSession::Started });
    assert!(body(&effects, call).contains("sessionUrl0"));
    // Now it is used, also for a resume.
    for what in ["launch?appid=1", "resume?appid=1"] {
        let (call, effects) = bench.launch(b'a', "10.0.0.9", what, 1, 1);
        assert!(body(&effects, call).contains("status_code=\"400\""), "{what}");
    }
    let (call, effects) = bench.launch(b'a', "10.0.0.9", "resume?appid=1", 3, 1);
    assert!(body(&effects, call).contains("sessionUrl0"));
}

fn refused(effects: &[Effect], call: CallId, status: u16) -> String {
    let text = body(effects, call);
    assert!(text.contains(&format!("status_code=\"{status}\"")), "{text}");
    text
}

fn starve(bench: &mut Bench, seats: usize) {
    bench.host.config.limits.sessions = seats;
}

#[test]
fn the_newest_launch_wins_and_the_one_before_is_answered() {
    let mut bench = Bench::paired();
    let (first, effects) = bench.launch(b'a', "10.0.0.9", "launch?appid=1", 1, 1);
    let session = spawned(&effects);
    let (second, effects) = bench.launch(b'a', "10.0.0.9", "resume?appid=1", 2, 1);
    refused(&effects, first, 503);
    let effects = bench.event(Event::Session { session, message: FromSession::Started });
    assert!(body(&effects, second).contains("<resume>1<"));
    assert_eq!(grant(&effects).key.0, [2; 16]);
    // Said twice, it starts nothing twice.
    let again = bench.event(Event::Session { session, message: FromSession::Started });
    assert!(again.is_empty());
}

#[test]
fn a_launch_whose_client_went_away_is_nobodys() {
    let mut bench = Bench::paired();
    let (call, effects) = bench.launch(b'a', "10.0.0.9", "launch?appid=1", 1, 1);
    let session = spawned(&effects);
    assert!(bench.event(Event::CallGone { call }).is_empty());
    let effects = bench.event(Event::Session { session, message: FromSession::Started });
    assert!(effects.is_empty(), "no grant without somebody to tell: {effects:?}");
}

#[test]
fn without_a_working_encoder_nothing_is_started() {
    let mut bench = Bench::paired();
    bench.host.learn(HostFacts::default());
    let (call, effects) = bench.launch(b'a', "10.0.0.9", "launch?appid=1", 1, 1);
    assert!(refused(&effects, call, 503).contains("moonshard doctor"));
    assert_eq!(effects.len(), 1);
}

#[test]
fn when_the_seats_are_taken_only_newcomers_are_refused() {
    let mut bench = Bench::paired();
    let mut device = super::client::Device::launch(&mut bench, b'a', "10.0.0.9", 1);
    device.stream(&mut bench);
    starve(&mut bench, 1);
    let (call, effects) = bench.launch(b'b', "10.0.0.8", "launch?appid=1", 2, 1);
    refused(&effects, call, 503);
    assert_eq!(effects.len(), 1, "nobody loses a stream for it");
    // Who has a seat keeps it, also over a resume; who only asks or pairs needs none.
    let (call, effects) = bench.launch(b'a', "10.0.0.9", "resume?appid=1", 3, 1);
    assert!(body(&effects, call).contains("sessionUrl0"));
    let (call, effects) = bench.http("10.0.0.8", Some(b"b"), "/serverinfo");
    assert!(body(&effects, call).contains("_SERVER_FREE<"));
    let pair = vector("pairing-01-qt-sha256");
    let (_, effects) = bench.http("10.0.0.7", None, text(&pair["phases"][0]["request_target"]));
    assert!(matches!(effects.first(), Some(Effect::PairingAsked(_))));
}

#[test]
fn when_the_pairing_table_is_full_launches_and_streams_go_on() {
    let mut bench = Bench::paired();
    let mut device = super::client::Device::launch(&mut bench, b'a', "10.0.0.9", 1);
    device.stream(&mut bench);
    let pair = vector("pairing-01-qt-sha256");
    let target = text(&pair["phases"][0]["request_target"]);
    for n in 0..64 {
        let (_, effects) = bench.http(&format!("10.9.0.{n}"), None, target);
        assert!(matches!(&effects[..], [Effect::PairingAsked(_)]));
    }
    let (call, effects) = bench.http("10.9.1.1", None, target);
    refused(&effects, call, 429);
    assert_eq!(effects.len(), 1, "nobody is pushed out, and no stream ends");
    super::client::Device::launch(&mut bench, b'b', "10.0.0.8", 2).stream(&mut bench);
}

#[test]
fn a_client_that_quits_and_starts_again_and_again_leaves_seats_for_others() {
    let mut bench = Bench::paired();
    for key in 1..=4 {
        bench.running(b'a', "10.0.0.9", key, 1);
        bench.http("10.0.0.9", Some(b"a"), "/cancel");
    }
    let (call, effects) = bench.launch(b'a', "10.0.0.9", "launch?appid=1", 5, 1);
    assert!(refused(&effects, call, 503).contains("still ending"));
    bench.running(b'b', "10.0.0.8", 9, 1);
    let first = *bench.host.sessions.all.keys().next().unwrap();
    let (status, last_words) = ("exit 0".into(), String::new());
    bench.event(Event::SessionExited { session: first, status, last_words });
    bench.running(b'a', "10.0.0.9", 5, 1);
}

#[test]
fn peer_ids_are_given_to_one_viewer_each() {
    let mut bench = Bench::paired();
    let (one, first) = bench.running(b'a', "10.0.0.9", 1, 1);
    // The same number is drawn again: session id, then the peer id's place.
    let drawn = u64::from(first.peer_id).to_le_bytes().to_vec();
    bench.entropy.next = vec![vec![0x77; 8], drawn];
    let (_, second) = bench.running(b'b', "10.0.0.8", 2, 1);
    assert_eq!(second.peer_id, (first.peer_id + 1) % crate::limits::ENET_PEER_IDS);
    // The id of a client that is still to be told of its session's death is not given out either.
    let (local, peer) = ("10.0.0.1:47999".parse().unwrap(), "10.0.0.9:7".parse().unwrap());
    let message =
        FromSession::ViewerConnected { viewer: first.viewer, local, peer, last_will: vec![1] };
    bench.event(Event::Session { session: one, message });
    let (status, last_words) = ("signal 9".into(), String::new());
    bench.event(Event::SessionExited { session: one, status, last_words });
    let drawn = u64::from(first.peer_id).to_le_bytes().to_vec();
    bench.entropy.next = vec![vec![0x78; 8], drawn];
    let (_, third) = bench.running(b'a', "10.0.0.9", 3, 1);
    assert_eq!(third.peer_id, (first.peer_id + 2) % crate::limits::ENET_PEER_IDS);
}

#[test]
fn what_the_launch_asks_for_is_what_the_session_is_made_from() {
    let spec = |what: &str| {
        let mut bench = Bench::paired();
        let target = format!(
            "/launch?appid=2&rikey={}&rikeyid=-1&localAudioPlayMode=0{what}",
            hex::encode(&[1; 16])
        );
        let (_, effects) = bench.http("10.0.0.9", Some(b"a"), &target);
        find(&effects, |e| match e {
            Effect::Spawn { spec } => Some((**spec).clone()),
            _ => None,
        })
        .expect("a session is spawned")
    };
    let plain = spec("&mode=2560x1440x120");
    assert_eq!((plain.mode.width, plain.mode.height, plain.mode.millihertz), (2560, 1440, 120_000));
    assert_eq!((plain.app.id, plain.audio_channels), (2, 2));
    // Rates that no display has stand for the usual one; ANNOUNCE says the real one.
    assert_eq!(spec("&mode=1280x720x0").mode.millihertz, 60_000);
    assert_eq!(spec("").mode.width, 1280, "no mode at all");
}
