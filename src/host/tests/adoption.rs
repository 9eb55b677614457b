//! A new front and the sessions of an earlier one; links that broke.
use super::client::Device;
use super::*;
use crate::ipc::{ActiveViewer, ConnectedViewer, SessionSpec, ViewerId};
use crate::proto::secret::SessionKey;
use crate::proto::stream::Mode;

fn spec(id: u64, client: u8) -> SessionSpec {
    let bench = Bench::paired();
    SessionSpec {
        version: 1,
        id: SessionId(id),
        client: client_id(&[client]),
        client_name: "x".into(),
        app: bench.host.config.apps[0].spec.clone(),
        mode: Mode { width: 640, height: 480, millihertz: 30_000 },
        audio_channels: 2,
        policy: bench.host.config.session.clone(),
    }
}

fn wire(viewer: u64, key: u8) -> ViewerGrant {
    ViewerGrant {
        viewer: ViewerId(viewer),
        key: SessionKey([key; 16]),
        rikeyid: 7,
        ping_payload: format!("{viewer:016}"),
        connect_data: viewer as u32,
        peer_id: viewer as u16,
    }
}

fn connected() -> ConnectedViewer {
    ConnectedViewer {
        local: "10.0.0.1:47999".parse().unwrap(),
        peer: "10.0.0.9:7000".parse().unwrap(),
        last_will: vec![7, 7],
    }
}

/// The word of session 5 of client a, with these grants.
fn identity(grants: &[ViewerGrant], active: Option<ActiveViewer>) -> Event {
    let streaming = active.as_ref().is_some_and(|a| a.connected.is_some());
    let message = FromSession::Identity {
        version: 1,
        spec: Box::new(spec(5, b'a')),
        pid: 77,
        started: true,
        streaming,
        grants: grants.to_vec(),
        active,
    };
    Event::Session { session: SessionId(5), message }
}

fn exited(session: SessionId) -> Event {
    Event::SessionExited { session, status: "signal 9".into(), last_words: String::new() }
}

fn streaming(viewer: u64) -> Option<ActiveViewer> {
    Some(ActiveViewer { viewer: ViewerId(viewer), ready: true, connected: Some(connected()) })
}

#[test]
fn an_adopted_stream_keeps_its_last_will() {
    let mut bench = Bench::paired();
    bench.event(identity(&[wire(3, 1)], streaming(3)));
    let (peer, now) = (connected().peer, bench.now);
    // It streams on: its flows are found, and its RTSP is over.
    assert_eq!(bench.host.route_peer(9, peer, now), Route::Stranger);
    let here = Route::HandOver { session: SessionId(5), viewer: ViewerId(3) };
    assert_eq!(bench.host.route_ping(Flow::Video, Some(b"0000000000000003"), peer, now), here);
    let sealed = rtsp::seal(&wire(3, 1).key, 90, Direction::ClientToHost, b"OPTIONS / RTSP/1.0");
    let (_, effects) = bench.rtsp("10.0.0.9", sealed);
    assert!(matches!(&effects[..], [Effect::Answer { answer: Answer::Close, .. }]));
    bench.event(exited(SessionId(5)));
    let session = SessionId(5);
    assert_eq!(bench.host.route_peer(3, peer, now), Route::LastWill { session });
    assert_eq!(bench.host.last_will(session), Some(vec![7, 7]));
    let other = "10.0.0.9:7001".parse().unwrap();
    assert_eq!(bench.host.route_peer(3, other, now), Route::Stranger);
    // In the end the client has given up by itself.
    bench.now = bench.host.next_timeout().unwrap();
    bench.event(Event::Timeout);
    assert_eq!(bench.host.route_peer(3, peer, bench.now), Route::Stranger);
    assert_eq!(bench.host.next_timeout(), None);
}

#[test]
fn a_session_of_an_older_version_is_adopted_without_its_will() {
    let mut bench = Bench::paired();
    let Event::Session { session, message } = identity(&[wire(3, 1)], None) else { panic!() };
    let FromSession::Identity { version, spec, pid, started, grants, active, .. } = message else {
        panic!()
    };
    let message =
        FromSession::Identity { version, spec, pid, started, streaming: true, grants, active };
    // As it comes from the wire, without the field.
    let mut json = serde_json::to_value(&message).unwrap();
    assert!(json["Identity"].as_object_mut().unwrap().remove("active").is_some());
    let message = serde_json::from_value(json).unwrap();
    bench.event(Event::Session { session, message });
    let (peer, now) = (connected().peer, bench.now);
    let here = Route::HandOver { session, viewer: ViewerId(3) };
    assert_eq!(bench.host.route_peer(3, peer, now), here);
}

#[test]
fn an_adopted_session_goes_on_and_its_keys_stay_used() {
    let mut bench = Bench::paired();
    let effects = bench.event(identity(&[wire(4, 2), wire(3, 1)], streaming(3)));
    // The handshake that was under way is void; who streams is not touched.
    let ended: Vec<u64> = effects.iter().filter_map(ended_viewer).map(|v| v.0).collect();
    assert_eq!(ended, [4]);
    let (call, effects) = bench.http("10.0.0.9", Some(b"a"), "/serverinfo");
    assert!(body(&effects, call).contains("<currentgame>1</currentgame>"));
    for key in [1, 2] {
        let (call, effects) = bench.launch(b'a', "10.0.0.9", "resume?appid=1", key, 1);
        assert!(body(&effects, call).contains("status_code=\"400\""), "key {key} again");
    }
    let (call, effects) = bench.launch(b'a', "10.0.0.9", "resume?appid=1", 3, 1);
    assert!(body(&effects, call).contains("sessionUrl0"));
    assert_eq!(effects.iter().filter_map(ended_viewer).map(|v| v.0).collect::<Vec<_>>(), [3]);
    assert_eq!(bench.host.sessions().len(), 1);
}

fn ended_viewer(effect: &Effect) -> Option<ViewerId> {
    match effect {
        Effect::Send { message: ToSession::EndViewer { viewer, .. }, .. } => Some(*viewer),
        _ => None,
    }
}

#[test]
fn who_only_had_to_connect_still_can_after_a_new_front() {
    let mut bench = Bench::paired();
    let active = ActiveViewer { viewer: ViewerId(3), ready: true, connected: None };
    let effects = bench.event(identity(&[wire(3, 1)], Some(active)));
    assert!(effects.is_empty(), "{effects:?}");
    let (source, now) = ("10.0.0.9:7000".parse().unwrap(), bench.now);
    let here = Route::HandOver { session: SessionId(5), viewer: ViewerId(3) };
    assert_eq!(bench.host.route_connect(4, source, now), Route::Stranger);
    assert_eq!(bench.host.route_connect(3, source, now), here);
    // Nobody came: it ends like every launch that nobody follows.
    bench.now = bench.host.next_timeout().unwrap();
    let effects = bench.event(Event::Timeout);
    assert_eq!(effects.iter().filter_map(ended_viewer).next(), Some(ViewerId(3)));
    // An encoder that was still starting is nobody's: the client's ANNOUNCE died with the old front.
    let mut bench = Bench::paired();
    let active = ActiveViewer { viewer: ViewerId(3), ready: false, connected: None };
    let effects = bench.event(identity(&[wire(3, 1)], Some(active)));
    assert_eq!(effects.iter().filter_map(ended_viewer).next(), Some(ViewerId(3)));
    assert_eq!(bench.host.route_connect(3, source, now), Route::Stranger);
}

#[test]
fn a_launch_with_the_peer_id_of_an_adopted_stream_starts_again() {
    let mut bench = Bench::paired();
    let newcomer = Device::launch(&mut bench, b'b', "10.0.0.8", 9);
    let mut adopted = wire(3, 1);
    adopted.peer_id = newcomer.grant.peer_id;
    let effects = bench.event(identity(&[adopted], streaming(3)));
    let ended: Vec<ViewerId> = effects.iter().filter_map(ended_viewer).collect();
    assert_eq!(ended, [newcomer.viewer()]);
}

#[test]
fn a_launch_that_came_before_the_old_sessions_word_gets_the_old_session() {
    let mut bench = Bench::paired();
    let (call, effects) = bench.launch(b'a', "10.0.0.9", "launch?appid=1", 1, 1);
    let new = spawned(&effects);
    let effects = bench.event(identity(&[], None));
    assert!(body(&effects, call).contains("sessionUrl0"), "the game that runs is kept");
    let stopped = |e: &Effect| matches!(e, Effect::Send { session, message: ToSession::Stop { .. } } if *session == new);
    assert!(effects.iter().any(stopped));
    assert_eq!(bench.host.sessions().of_client(client_id(b"a")), Some(SessionId(5)));
    // Another app is wanted: the newer wish wins.
    let mut bench = Bench::paired();
    let (_, effects) = bench.launch(b'a', "10.0.0.9", "launch?appid=2", 1, 1);
    let new = spawned(&effects);
    let effects = bench.event(identity(&[], None));
    let stopped = |e: &Effect| {
        matches!(e, Effect::Send { session: SessionId(5), message: ToSession::Stop { .. } })
    };
    assert!(effects.iter().any(stopped));
    assert_eq!(bench.host.sessions().of_client(client_id(b"a")), Some(new));
}

#[test]
fn the_belated_word_of_an_ended_session_is_no_news() {
    let mut bench = Bench::paired();
    bench.event(identity(&[], None));
    bench.event(exited(SessionId(5)));
    assert!(bench.event(identity(&[wire(3, 1)], streaming(3))).is_empty());
    assert!(bench.host.sessions().is_empty());
}

#[test]
fn the_session_of_a_client_that_was_removed_meanwhile_is_stopped() {
    let mut bench = Bench::paired();
    let client = client_id(b"a").to_string();
    bench.event(Event::Admin { id: 4, request: AdminRequest::RemoveClient { client } });
    let effects = bench.event(identity(&[wire(3, 1)], streaming(3)));
    let stopped = |e: &Effect| {
        matches!(e, Effect::Send { session: SessionId(5), message: ToSession::Stop { .. } })
    };
    assert!(effects.iter().any(stopped));
}

#[test]
fn what_a_broken_link_has_lost_is_caught_up_with() {
    let says = |device: &Device, grants: &[ViewerGrant], active| {
        let Event::Session { message, .. } = identity(grants, active) else { panic!() };
        Event::Session { session: device.session, message }
    };
    let active = |device: &Device, connected| {
        Some(ActiveViewer { viewer: device.viewer(), ready: true, connected })
    };
    // `ViewerReady` was lost: ANNOUNCE is answered.
    let mut bench = Bench::paired();
    let mut device = Device::launch(&mut bench, b'a', "10.0.0.9", 1);
    device.set_up(&mut bench);
    device.announce(&mut bench);
    let grants = [device.grant.clone()];
    let effects = bench.event(says(&device, &grants, active(&device, None)));
    assert_eq!(device.status(&effects), 200);
    // `ViewerConnected` was lost: it streams, and has a last will.
    bench.event(says(&device, &grants, active(&device, Some(connected()))));
    let session = bench.host.sessions.all.get(&device.session).unwrap();
    assert!(!session.grant.as_ref().unwrap().pending());
    // `ViewerGone` was lost: nothing of it is left.
    bench.event(says(&device, &[], None));
    assert!(bench.host.sessions.all[&device.session].grant.is_none());
    bench.event(exited(device.session));
    let peer = connected().peer;
    assert_eq!(bench.host.route_peer(device.grant.peer_id, peer, bench.now), Route::Stranger);
}
