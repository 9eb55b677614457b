//! Whose a first datagram is, above all if two clients share an address.
use std::time::Duration;

use super::client::Device;
use super::*;
use crate::proto::rtsp::Method;

const HOME: &str = "10.0.0.9";

fn to(device: &Device) -> Route {
    Route::HandOver { session: device.session, viewer: device.viewer() }
}

fn two_sealed(bench: &mut Bench) -> (Device, Device) {
    let one = Device::launch(bench, b'a', HOME, 1);
    (one, Device::launch(bench, b'b', HOME, 2))
}

#[test]
fn connect_data_goes_before_an_address() {
    let mut bench = Bench::paired();
    let (one, mut two) = two_sealed(&mut bench);
    let mut one = one.without_identity();
    one.play(&mut bench);
    two.play(&mut bench);
    let now = bench.now;
    // Both are awaited. The second shows its data; the first has nothing to show.
    assert_eq!(bench.host.route_connect(two.grant.connect_data, two.source(7), now), to(&two));
    assert_eq!(bench.host.route_connect(0, one.source(8), now), to(&one));
    let elsewhere = "10.0.0.10:7".parse().unwrap();
    assert_eq!(bench.host.route_connect(0, elsewhere, now), Route::Stranger);
}

#[test]
fn flows_without_identity_go_to_the_first_source_and_no_other() {
    let mut bench = Bench::paired();
    let mut device = Device::launch(&mut bench, b'a', HOME, 1).without_identity();
    device.set_up(&mut bench);
    let (first, second) = (device.source(7), device.source(8));
    let ping = |bench: &mut Bench, source| {
        let now = bench.now;
        bench.host.route_ping(Flow::Video, None, source, now)
    };
    assert_eq!(ping(&mut bench, first), Route::Stranger, "what it can is not known yet");
    device.announce(&mut bench);
    assert_eq!(ping(&mut bench, first), to(&device));
    assert_eq!(ping(&mut bench, first), Route::Stranger, "at most once a second");
    bench.now = bench.now + Duration::from_secs(1);
    assert_eq!(ping(&mut bench, second), Route::Stranger);
    // The session did not take the socket: the same source comes to the door again.
    assert_eq!(ping(&mut bench, first), to(&device));
    let effects = device.ready(&mut bench);
    assert_eq!(device.status(&effects), 200);
    assert_eq!(device.ask(&mut bench, Method::Play, "/"), 200);
    device.connected(&mut bench);
    // Ten seconds after PLAY an address alone is worth nothing any more.
    let audio = |bench: &mut Bench, ms| {
        let now = bench.now + Duration::from_millis(ms);
        bench.host.route_ping(Flow::Audio, None, first, now)
    };
    assert_eq!(audio(&mut bench, 10_000), Route::Stranger);
    assert_eq!(audio(&mut bench, 9_999), to(&device));
}

#[test]
fn an_identity_is_required_of_who_has_one() {
    let mut bench = Bench::paired();
    let mut device = Device::launch(&mut bench, b'a', HOME, 1);
    device.play(&mut bench);
    let now = bench.now;
    assert_eq!(bench.host.route_ping(Flow::Video, None, device.source(7), now), Route::Stranger);
    assert_eq!(bench.host.route_connect(0, device.source(7), now), Route::Stranger);
    // With it, also from where nobody launched, and again from a new port.
    let payload = device.grant.ping_payload.as_bytes().try_into().unwrap();
    let mut video = |source: &str, now| {
        bench.host.route_ping(Flow::Video, Some(payload), source.parse().unwrap(), now)
    };
    assert_eq!(video("10.0.0.200:1", now), to(&device));
    assert_eq!(video("10.0.0.200:2", now + Duration::from_millis(999)), Route::Stranger);
    assert_eq!(video("10.0.0.200:2", now + Duration::from_millis(1_000)), to(&device));
}

#[test]
fn a_moved_control_flow_is_found_by_its_peer_id_once_connected() {
    let mut bench = Bench::paired();
    let mut device = Device::launch(&mut bench, b'a', HOME, 1);
    device.play(&mut bench);
    let (id, source, now) = (device.grant.peer_id, device.source(9), bench.now);
    assert_eq!(bench.host.route_peer(id, source, now), Route::Stranger);
    device.connected(&mut bench);
    assert_eq!(bench.host.route_peer(id, source, now), to(&device));
    assert_eq!(bench.host.route_connect(device.grant.connect_data, source, now), Route::Stranger);
}

#[test]
fn a_stopping_session_takes_no_flow_and_stands_in_nobodys_way() {
    let mut bench = Bench::paired();
    let mut old = Device::launch(&mut bench, b'a', HOME, 1).without_identity();
    old.play(&mut bench);
    bench.http(HOME, Some(b"a"), "/cancel");
    let payload = old.grant.ping_payload.as_bytes().try_into().unwrap();
    let (source, now) = (old.source(7), bench.now);
    assert_eq!(bench.host.route_ping(Flow::Video, Some(payload), source, now), Route::Stranger);
    // The same client again, at once: the flows are the new session's.
    let mut new = Device::launch(&mut bench, b'a', HOME, 2).without_identity();
    new.play(&mut bench);
    assert_eq!(bench.host.route_ping(Flow::Video, None, source, now), to(&new));
    assert_eq!(bench.host.route_connect(0, source, now), to(&new));
}

#[test]
fn of_two_clients_without_identity_the_second_is_told_so() {
    let mut bench = Bench::paired();
    let (one, two) = two_sealed(&mut bench);
    let (mut one, mut two) = (one.without_identity(), two.without_identity());
    one.set_up(&mut bench);
    two.set_up(&mut bench);
    one.announce(&mut bench);
    let effects = two.announce(&mut bench);
    assert_eq!(two.status(&effects), 503);
    let effects = one.ready(&mut bench);
    assert_eq!(one.status(&effects), 200);
    assert_eq!(one.ask(&mut bench, Method::Play, "/"), 200);
    // The first has all its flows: the second can come.
    let now = bench.now;
    for flow in [Flow::Video, Flow::Audio] {
        assert_eq!(bench.host.route_ping(flow, None, one.source(7), now), to(&one));
    }
    assert_eq!(bench.host.route_connect(0, one.source(7), now), to(&one));
    two.announce(&mut bench);
    let effects = two.ready(&mut bench);
    assert_eq!(two.status(&effects), 200);
    for flow in [Flow::Video, Flow::Audio] {
        assert_eq!(bench.host.route_ping(flow, None, two.source(8), now), to(&two));
    }
}

#[test]
fn a_plain_launch_waits_until_the_one_before_it_is_through() {
    let mut bench = Bench::paired();
    let mut one = Device::launch_plain(&mut bench, b'a', HOME, 1).without_identity();
    let (call, effects) = bench.launch(b'b', HOME, "launch?appid=1", 2, 0);
    let session = spawned(&effects);
    let effects = bench.event(Event::Session { session, message: FromSession::Started });
    assert!(effects.is_empty());
    one.play(&mut bench);
    one.connected(&mut bench);
    let look = |bench: &mut Bench| {
        bench.now = bench.host.next_timeout().unwrap();
        bench.event(Event::Timeout)
    };
    assert!(look(&mut bench).is_empty(), "its pings would be taken for the other's");
    for flow in [Flow::Video, Flow::Audio] {
        assert_eq!(bench.host.route_ping(flow, None, one.source(7), bench.now), to(&one));
    }
    let effects = look(&mut bench);
    assert!(body(&effects, call).contains("sessionUrl0"));
}

#[test]
fn a_plain_launch_whose_client_shows_an_identity_is_through_with_its_handshake() {
    let mut bench = Bench::paired();
    let mut one = Device::launch_plain(&mut bench, b'a', HOME, 1);
    let (call, effects) = bench.launch(b'b', HOME, "launch?appid=1", 2, 0);
    let session = spawned(&effects);
    bench.event(Event::Session { session, message: FromSession::Started });
    one.play(&mut bench);
    bench.now = bench.host.next_timeout().unwrap();
    let effects = bench.event(Event::Timeout);
    assert!(body(&effects, call).contains("sessionUrl0"));
    // Both are under way now: what is said is the second's, whose handshake is not over.
    let mut two = Device::granted(HOME, 2, session, grant(&effects));
    two.encrypted = false;
    two.play(&mut bench);
}
