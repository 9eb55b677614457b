//! How sessions end: by themselves, by order, by force; and who is told what.
use std::time::Duration;

use super::client::Device;
use super::*;
use crate::proto::rtsp::Method;

fn killed(effects: &[Effect]) -> bool {
    effects.iter().any(|e| matches!(e, Effect::Kill { .. }))
}

fn stopped(effects: &[Effect]) -> bool {
    effects.iter().any(|e| matches!(e, Effect::Send { message: ToSession::Stop { .. }, .. }))
}

fn after(bench: &mut Bench, ms: u64) -> Vec<Effect> {
    bench.now = bench.now + Duration::from_millis(ms);
    bench.event(Event::Timeout)
}

fn remove(bench: &mut Bench, certificate: u8) -> Vec<Effect> {
    let client = client_id(&[certificate]).to_string();
    bench.event(Event::Admin { id: 4, request: AdminRequest::RemoveClient { client } })
}

fn exit(bench: &mut Bench, session: SessionId, words: &str) -> Vec<Effect> {
    let (status, last_words) = ("signal 9".to_owned(), words.to_owned());
    bench.event(Event::SessionExited { session, status, last_words })
}

fn gone(bench: &mut Bench, device: &Device) {
    let message = FromSession::ViewerGone { viewer: device.viewer(), reason: "x".into() };
    bench.event(Event::Session { session: device.session, message });
}

#[test]
fn a_removed_clients_stream_is_dark_within_a_second_whatever_its_session_does() {
    let mut bench = Bench::paired();
    let mut device = Device::launch(&mut bench, b'a', "10.0.0.9", 1);
    device.stream(&mut bench);
    let start = bench.now;
    assert!(stopped(&remove(&mut bench, b'a')));
    // Its session hangs: killed, in time for the second.
    bench.now = bench.host.next_timeout().unwrap();
    assert!(bench.now.since(start) < Duration::from_secs(1));
    assert!(killed(&bench.event(Event::Timeout)));
    assert!(!killed(&after(&mut bench, 10)), "once");
    // A session that has let its viewer go has the time that it needs.
    let mut bench = Bench::paired();
    let mut device = Device::launch(&mut bench, b'a', "10.0.0.9", 1);
    device.stream(&mut bench);
    remove(&mut bench, b'a');
    gone(&mut bench, &device);
    assert!(!killed(&after(&mut bench, 4_900)));
    assert!(killed(&after(&mut bench, 100)));
}

#[test]
fn a_session_that_was_stopping_already_goes_dark_too() {
    let mut bench = Bench::paired();
    let mut device = Device::launch(&mut bench, b'a', "10.0.0.9", 1);
    device.stream(&mut bench);
    bench.http("10.0.0.9", Some(b"a"), "/cancel");
    assert!(!killed(&after(&mut bench, 1_000)), "an ordinary end has its time");
    remove(&mut bench, b'a');
    assert!(killed(&after(&mut bench, 900)));
}

#[test]
fn a_session_that_the_operator_stops_goes_dark_too() {
    let mut bench = Bench::paired();
    let mut device = Device::launch(&mut bench, b'a', "10.0.0.9", 1);
    device.stream(&mut bench);
    let session = device.session.to_string();
    let effects =
        bench.event(Event::Admin { id: 4, request: AdminRequest::StopSession { session } });
    assert!(stopped(&effects));
    assert!(matches!(
        effects.last(),
        Some(Effect::AnswerAdmin { id: 4, answer: AdminAnswer::Done(_) })
    ));
    assert!(killed(&after(&mut bench, 900)));
}

#[test]
fn a_removed_client_loses_its_launch_its_handshake_and_its_file() {
    let mut bench = Bench::paired();
    let (call, _) = bench.launch(b'a', "10.0.0.9", "launch?appid=1", 1, 1);
    let effects = remove(&mut bench, b'a');
    assert!(body(&effects, call).contains("this device was removed"));
    let result = Err("read-only file system".to_owned());
    let client = client_id(b"a");
    let effects = bench.event(Event::ClientErased { client, result });
    let [Effect::AnswerAdmin { answer: AdminAnswer::Error(text), .. }] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert!(text.contains("locked out") && text.contains("read-only"), "{text}");
    assert!(bench.event(Event::ClientErased { client, result: Ok(()) }).is_empty());
    let mut device = Device::launch(&mut bench, b'b', "10.0.0.9", 2);
    device.set_up(&mut bench);
    device.announce(&mut bench);
    let effects = remove(&mut bench, b'b');
    assert_eq!(device.status(&effects), 503, "a waiting ANNOUNCE is answered");
    let effects = device.say(&mut bench, Method::Options, "/");
    assert!(matches!(&effects[..], [Effect::Answer { answer: Answer::Close, .. }]));
}

#[test]
fn serverinfo_is_free_while_the_old_session_ends() {
    let free = |bench: &mut Bench| {
        let (call, effects) = bench.http("10.0.0.9", Some(b"a"), "/serverinfo");
        let info = body(&effects, call);
        let free = info.contains("<currentgame>0</currentgame>");
        assert_eq!(free, info.contains("_SERVER_FREE<"));
        free
    };
    type End = fn(&mut Bench, SessionId) -> Vec<Effect>;
    let ends: [End; 4] = [
        |bench, session| {
            let (status, last_words) = ("exit 0".into(), String::new());
            let message = FromSession::AppExited { status, last_words };
            bench.event(Event::Session { session, message })
        },
        |bench, session| bench.event(Event::SessionDeaf { session }),
        |bench, _| bench.http("10.0.0.9", Some(b"a"), "/cancel").1,
        |bench, session| exit(bench, session, ""),
    ];
    for end in ends {
        let mut bench = Bench::paired();
        assert!(free(&mut bench));
        let (session, _) = bench.running(b'a', "10.0.0.9", 1, 1);
        assert!(!free(&mut bench));
        end(&mut bench, session);
        assert!(free(&mut bench));
        let (call, effects) = bench.launch(b'a', "10.0.0.9", "resume?appid=1", 2, 1);
        assert!(body(&effects, call).contains("status_code=\"503\""));
        // A launch gets a session of its own; what the old one says does it no harm.
        let (new, _) = bench.running(b'a', "10.0.0.9", 2, 1);
        assert!(!free(&mut bench));
        exit(&mut bench, session, "");
        assert!(!free(&mut bench));
        assert_eq!(bench.host.sessions().of_client(client_id(b"a")), Some(new));
    }
}

#[test]
fn a_session_that_ends_while_starting_is_answered_with_its_last_words() {
    let mut bench = Bench::paired();
    let (call, effects) = bench.launch(b'a', "10.0.0.9", "launch?appid=1", 1, 1);
    let session = spawned(&effects);
    let effects = exit(&mut bench, session, "one\ncannot open display\n\n");
    let text = body(&effects, call);
    assert!(text.contains("signal 9") && text.contains("cannot open display"), "{text}");
    let (call, effects) = bench.launch(b'a', "10.0.0.9", "launch?appid=1", 1, 1);
    let session = spawned(&effects);
    let (status, last_words) = ("exit 1".into(), "no such game".into());
    let message = FromSession::AppExited { status, last_words };
    let effects = bench.event(Event::Session { session, message });
    assert!(body(&effects, call).contains("no such game"));
}

#[test]
fn a_deaf_session_is_killed_until_it_is_gone() {
    let mut bench = Bench::paired();
    let (call, effects) = bench.launch(b'a', "10.0.0.9", "launch?appid=1", 1, 1);
    let session = spawned(&effects);
    let effects = bench.event(Event::SessionDeaf { session });
    assert!(body(&effects, call).contains("does not answer") && killed(&effects));
    for _ in 0..3 {
        assert!(killed(&after(&mut bench, 5_000)));
    }
    exit(&mut bench, session, "");
    assert!(bench.event(Event::SessionDeaf { session }).is_empty());
    assert!(bench.host.is_idle());
}

#[test]
fn the_will_of_a_taken_over_viewer_names_its_own_peer_id() {
    let mut bench = Bench::paired();
    let mut device = Device::launch(&mut bench, b'a', "10.0.0.9", 1);
    device.stream(&mut bench);
    let old = device.grant.peer_id;
    let (_, effects) = bench.launch(b'a', "10.0.0.9", "resume?appid=1", 2, 1);
    let new = grant(&effects).peer_id;
    assert_ne!(old, new);
    exit(&mut bench, device.session, "");
    let (peer, session) = (device.source(7000), device.session);
    assert_eq!(bench.host.route_peer(old, peer, bench.now), Route::LastWill { session });
    assert_eq!(bench.host.route_peer(new, peer, bench.now), Route::Stranger);
}

#[test]
fn no_more_wills_are_kept_than_may_be() {
    let mut bench = Bench::paired();
    let mut last = None;
    for key in 0..=64 {
        let mut device = Device::launch(&mut bench, b'a', "10.0.0.9", key);
        device.stream(&mut bench);
        exit(&mut bench, device.session, "");
        let will = |bench: &Bench, session| bench.host.last_will(session).is_some();
        assert!(will(&bench, device.session));
        if let Some((first, 63)) = last {
            assert!(!will(&bench, first), "the oldest goes");
        }
        last = Some(match last {
            None => (device.session, 0),
            Some((first, n)) => (first, n + 1),
        });
    }
}
