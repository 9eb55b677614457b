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
