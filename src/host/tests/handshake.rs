//! RTSP of a grant: its order, its deadlines, and what the wrong requests get.
use std::time::Duration;

use super::client::Device;
use super::*;
use crate::proto::rtsp::Method;

const URL: &str = "rtsp://10.0.0.1:48010";

fn closed(effects: &[Effect]) -> bool {
    matches!(effects, [Effect::Answer { answer: Answer::Close, .. }])
}

#[test]
fn requests_out_of_order_are_refused_and_change_nothing() {
    let mut bench = Bench::paired();
    let mut device = Device::launch(&mut bench, b'a', "10.0.0.9", 1);
    let control = rtsp::target_of(Flow::Control);
    assert_eq!(device.ask(&mut bench, Method::Play, "/"), 455);
    assert_eq!(device.ask(&mut bench, Method::Announce, control), 455);
    assert_eq!(device.ask(&mut bench, Method::Other, "/"), 404);
    assert_eq!(device.ask(&mut bench, Method::Setup, "streamid=smell/0/0"), 404);
    device.set_up(&mut bench);
    assert_eq!(device.ask(&mut bench, Method::Play, "/"), 455);
    device.announce(&mut bench);
    // The session has not answered yet.
    assert_eq!(device.ask(&mut bench, Method::Announce, control), 455);
    assert_eq!(device.ask(&mut bench, Method::Setup, control), 455);
    assert_eq!(device.ask(&mut bench, Method::Play, "/"), 455);
    let effects = device.ready(&mut bench);
    assert_eq!(device.status(&effects), 200);
    assert_eq!(device.ask(&mut bench, Method::Play, "/"), 200);
    assert_eq!(device.ask(&mut bench, Method::Play, "/"), 455);
    device.connected(&mut bench);
    assert!(closed(&device.say(&mut bench, Method::Options, URL)), "its handshake is over");
}

#[test]
fn another_launches_token_and_key_open_nothing() {
    let mut bench = Bench::paired();
    let mut victim = Device::launch(&mut bench, b'a', "10.0.0.9", 1);
    let mut other = Device::launch(&mut bench, b'b', "10.0.0.9", 2);
    victim.set_up(&mut bench);
    // A foreign token under the right key.
    let request = "PLAY / RTSP/1.0\r\nCSeq: 9\r\nSession: 00000000DEADBEEF\r\n\r\n";
    let sealed = rtsp::seal(&other.grant.key, 9, Direction::ClientToHost, request.as_bytes());
    let (_, effects) = bench.rtsp("10.0.0.9", sealed);
    assert_eq!(other.status(&effects), 454);
    // A key of nobody, and plain text for sealed launches.
    let nobody = crate::proto::secret::SessionKey([99; 16]);
    let sealed = rtsp::seal(&nobody, 9, Direction::ClientToHost, request.as_bytes());
    for wire in [sealed, request.as_bytes().to_vec()] {
        let (_, effects) = bench.rtsp("10.0.0.9", wire);
        assert!(closed(&effects), "{effects:?}");
    }
    let (_, effects) = bench.rtsp("10.0.0.77", request.as_bytes().to_vec());
    assert!(rtsp_bytes(&effects).starts_with(b"RTSP/1.0 454 "), "no launch is plain there");
    victim.announce(&mut bench);
    let effects = victim.ready(&mut bench);
    assert_eq!(victim.status(&effects), 200, "it was not disturbed");
}

#[test]
fn a_malformed_request_under_the_right_key_is_answered_with_400() {
    let mut bench = Bench::paired();
    let mut device = Device::launch(&mut bench, b'a', "10.0.0.9", 1);
    let sealed = rtsp::seal(&device.grant.key, 1, Direction::ClientToHost, b"what?\r\n\r\n");
    let (_, effects) = bench.rtsp("10.0.0.9", sealed);
    assert_eq!(device.status(&effects), 400);
}

#[test]
fn what_the_session_refuses_is_answered_with_its_status() {
    for (told, answered) in [(400, 400), (503, 503), (500, 500), (77, 500)] {
        let mut bench = Bench::paired();
        let mut device = Device::launch(&mut bench, b'a', "10.0.0.9", 1);
        device.set_up(&mut bench);
        device.announce(&mut bench);
        let (viewer, session) = (device.viewer(), device.session);
        let refusal = |reason: &str| {
            let reason = reason.to_owned();
            let message = FromSession::ViewerRefused { viewer, status: told, reason };
            Event::Session { session, message }
        };
        let effects = bench.event(refusal("no encoder"));
        assert_eq!(device.status(&effects), answered);
        assert!(bench.event(refusal("twice")).is_empty());
        // It may announce something else.
        assert_eq!(device.announce(&mut bench).len(), 1);
        let effects = device.ready(&mut bench);
        assert_eq!(device.status(&effects), 200);
        assert!(bench.event(refusal("too late")).is_empty());
        assert_eq!(device.ask(&mut bench, Method::Play, "/"), 200);
    }
}

#[test]
fn an_announce_that_waits_is_answered_when_its_viewer_goes() {
    let mut bench = Bench::paired();
    let mut device = Device::launch(&mut bench, b'a', "10.0.0.9", 1);
    device.set_up(&mut bench);
    device.announce(&mut bench);
    let message = FromSession::ViewerGone { viewer: device.viewer(), reason: "x".into() };
    let effects = bench.event(Event::Session { session: device.session, message });
    assert_eq!(device.status(&effects), 503);
    assert!(closed(&device.say(&mut bench, Method::Options, URL)));
}

#[test]
fn nobody_is_answered_whose_announce_was_given_up() {
    let mut bench = Bench::paired();
    let mut device = Device::launch(&mut bench, b'a', "10.0.0.9", 1);
    device.set_up(&mut bench);
    device.announce(&mut bench);
    let call = CallId(bench.calls);
    assert!(bench.event(Event::CallGone { call }).is_empty());
    assert!(device.ready(&mut bench).is_empty());
}

/// Says something every four seconds until the grant is gone; how long it lived.
fn talk_until_closed(bench: &mut Bench, device: &mut Device, announced: bool) -> Duration {
    let start = bench.now;
    loop {
        bench.now = bench.now + Duration::from_secs(4);
        let effects = bench.event(Event::Timeout);
        let effects = if effects.is_empty() {
            device.say(bench, Method::Options, URL)
        } else {
            assert_eq!(announced, effects.iter().any(|e| matches!(e, Effect::Answer { .. })));
            return bench.now.since(start);
        };
        assert!(!closed(&effects));
        assert!(bench.now.since(start).as_secs() < 100, "it lives for ever");
    }
}

#[test]
fn talk_does_not_keep_a_grant_alive() {
    let mut bench = Bench::paired();
    let mut device = Device::launch(&mut bench, b'a', "10.0.0.9", 1);
    // Ten seconds from the first message on, whatever is said.
    let lived = talk_until_closed(&mut bench, &mut device, false);
    assert_eq!(lived.as_secs(), 16);
    // The same while ANNOUNCE waits for a session that says nothing; then it is answered.
    let mut bench = Bench::paired();
    let mut device = Device::launch(&mut bench, b'a', "10.0.0.9", 1);
    device.set_up(&mut bench);
    device.announce(&mut bench);
    let lived = talk_until_closed(&mut bench, &mut device, true);
    assert_eq!(lived.as_secs(), 12);
    // Nor do refusals: what was reached once gives no further time.
    let mut bench = Bench::paired();
    let mut device = Device::launch(&mut bench, b'a', "10.0.0.9", 1);
    device.set_up(&mut bench);
    let start = bench.now;
    loop {
        device.announce(&mut bench);
        let (viewer, session) = (device.viewer(), device.session);
        let message = FromSession::ViewerRefused { viewer, status: 503, reason: "x".into() };
        bench.event(Event::Session { session, message });
        bench.now = bench.now + Duration::from_secs(4);
        if !bench.event(Event::Timeout).is_empty() {
            break;
        }
    }
    assert_eq!(bench.now.since(start).as_secs(), 12);
}

#[test]
fn each_step_of_a_slow_client_has_its_time() {
    let mut bench = Bench::paired();
    let mut device = Device::launch(&mut bench, b'a', "10.0.0.9", 1);
    let nine = Duration::from_secs(9);
    let quiet = |bench: &mut Bench| {
        bench.now = bench.now + nine;
        assert!(bench.event(Event::Timeout).is_empty());
    };
    quiet(&mut bench);
    device.set_up(&mut bench);
    quiet(&mut bench);
    device.announce(&mut bench);
    quiet(&mut bench);
    let effects = device.ready(&mut bench);
    assert_eq!(device.status(&effects), 200);
    quiet(&mut bench);
    assert_eq!(device.ask(&mut bench, Method::Play, "/"), 200);
    quiet(&mut bench);
    device.connected(&mut bench);
    assert_eq!(bench.host.next_timeout(), None, "a stream has no deadline here");
}
