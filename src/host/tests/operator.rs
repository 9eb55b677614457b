//! The operator's questions: the list and its figures, logs, PINs, clients.
use std::time::Duration;

use super::client::Device;
use super::*;
use crate::ipc::SessionSummary;

fn ask(bench: &mut Bench, id: u64, request: AdminRequest) -> Vec<Effect> {
    bench.event(Event::Admin { id, request })
}

fn list(effects: &[Effect], wanted: u64) -> Option<Vec<SessionSummary>> {
    find(effects, |effect| match effect {
        Effect::AnswerAdmin { id, answer: AdminAnswer::Sessions(list) } if *id == wanted => {
            Some(list.clone())
        }
        _ => None,
    })
}

fn told(answer: &[Effect]) -> String {
    let [Effect::AnswerAdmin { answer, .. }] = answer else { panic!("{answer:?}") };
    match answer {
        AdminAnswer::Done(text) => format!("done: {text}"),
        AdminAnswer::Error(text) => format!("error: {text}"),
        AdminAnswer::Log(text) => format!("log: {text}"),
        other => panic!("{other:?}"),
    }
}

fn figures(session: SessionId, frames: f64) -> Event {
    let figures = BTreeMap::from([("frames".to_owned(), frames)]);
    Event::Session { session, message: FromSession::Figures { figures } }
}

fn asked(effects: &[Effect]) -> usize {
    let ask = |e: &&Effect| matches!(e, Effect::Send { message: ToSession::AskFigures, .. });
    effects.iter().filter(ask).count()
}

#[test]
fn the_list_shows_the_figures_of_this_call() {
    let mut bench = Bench::paired();
    let effects = ask(&mut bench, 1, AdminRequest::Sessions);
    assert_eq!(list(&effects, 1), Some(Vec::new()), "nothing runs: nothing to wait for");
    let (one, _) = bench.running(b'a', "10.0.0.9", 1, 1);
    let (two, _) = bench.running(b'b', "10.0.0.8", 2, 1);
    let effects = ask(&mut bench, 2, AdminRequest::Sessions);
    assert_eq!((asked(&effects), list(&effects, 2)), (2, None));
    // A second question rides along.
    assert!(ask(&mut bench, 3, AdminRequest::Sessions).is_empty());
    assert!(bench.event(figures(one, 7.0)).is_empty());
    let effects = bench.event(figures(two, 8.0));
    for id in [2, 3] {
        let list = list(&effects, id).unwrap();
        let frames: Vec<f64> = list.iter().map(|s| s.figures["frames"]).collect();
        assert_eq!(frames.len(), 2);
        assert!(frames.contains(&7.0) && frames.contains(&8.0));
        assert!(list.iter().all(|s| s.figures_age_ms == Some(0)));
    }
    assert_eq!(bench.event(figures(one, 9.0)).len(), 0, "unasked");
}

#[test]
fn a_session_that_hangs_is_listed_with_what_it_told_last_and_its_age() {
    let mut bench = Bench::paired();
    let (one, _) = bench.running(b'a', "10.0.0.9", 1, 1);
    let (two, _) = bench.running(b'b', "10.0.0.8", 2, 1);
    bench.event(figures(one, 7.0));
    bench.now = bench.now + Duration::from_secs(2);
    ask(&mut bench, 2, AdminRequest::Sessions);
    bench.event(figures(two, 8.0));
    let start = bench.now;
    bench.now = bench.host.next_timeout().unwrap();
    assert_eq!(bench.now.since(start).as_millis(), 300);
    let effects = bench.event(Event::Timeout);
    let list = list(&effects, 2).unwrap();
    let of = |id| list.iter().find(|s| s.id == id).unwrap();
    assert_eq!((of(one).figures["frames"], of(one).figures_age_ms), (7.0, Some(2_300)));
    assert_eq!((of(two).figures["frames"], of(two).figures_age_ms), (8.0, Some(300)));
}

#[test]
fn a_session_that_ends_holds_no_list_up_and_lists_are_bounded() {
    let mut bench = Bench::paired();
    let (one, _) = bench.running(b'a', "10.0.0.9", 1, 1);
    for id in 0..16 {
        assert_eq!(list(&ask(&mut bench, id, AdminRequest::Sessions), id), None);
    }
    assert!(list(&ask(&mut bench, 16, AdminRequest::Sessions), 16).is_some(), "one too many");
    let (status, last_words) = ("exit 0".into(), String::new());
    let effects = bench.event(Event::SessionExited { session: one, status, last_words });
    for id in 0..16 {
        assert_eq!(list(&effects, id), Some(Vec::new()));
    }
    assert!(bench.host.is_idle());
}

#[test]
fn the_list_shows_the_mode_that_is_streamed() {
    let mut bench = Bench::paired();
    let mut device = Device::launch(&mut bench, b'a', "10.0.0.9", 1);
    let mode = |bench: &mut Bench, session| {
        ask(bench, 2, AdminRequest::Sessions);
        let effects = bench.event(figures(session, 1.0));
        let list = list(&effects, 2).unwrap();
        (list[0].mode.width, list[0].state.clone())
    };
    assert_eq!(mode(&mut bench, device.session), (1280, "paused".into()), "as it was launched");
    // ANNOUNCE is for 1920x1080, whatever the launch was for.
    device.stream(&mut bench);
    assert_eq!(mode(&mut bench, device.session), (1920, "streaming".into()));
    bench.http("10.0.0.9", Some(b"a"), "/cancel");
    let effects = ask(&mut bench, 3, AdminRequest::Sessions);
    let list = list(&effects, 3).expect("who is stopping is not waited for");
    assert_eq!((list[0].mode.width, list[0].state.as_str()), (1920, "stopping"));
}

#[test]
fn logs_are_asked_for_and_end_with_their_session_or_in_time() {
    let mut bench = Bench::paired();
    let session = || AdminRequest::SessionLog { session: "".into() };
    assert!(told(&ask(&mut bench, 1, session())).starts_with("error: No session"));
    let (one, _) = bench.running(b'a', "10.0.0.9", 1, 1);
    let of_one = || AdminRequest::SessionLog { session: one.to_string() };
    for id in 0..16 {
        assert_eq!(ask(&mut bench, id, of_one()).len(), 1);
    }
    assert!(told(&ask(&mut bench, 16, of_one())).contains("too often"));
    let message = FromSession::Log { text: "hello".into() };
    let effects = bench.event(Event::Session { session: one, message });
    assert_eq!(effects.len(), 16);
    assert_eq!(told(&effects[..1]), "log: hello");
    ask(&mut bench, 20, of_one());
    bench.now = bench.host.next_timeout().unwrap();
    assert_eq!(told(&bench.event(Event::Timeout)), "error: The session does not answer.");
    ask(&mut bench, 21, of_one());
    let (status, last_words) = ("exit 0".into(), String::new());
    let effects = bench.event(Event::SessionExited { session: one, status, last_words });
    assert_eq!(told(&effects), "error: The session has ended.");
}

#[test]
fn ids_may_be_shortened_as_long_as_they_are_one() {
    let mut bench = Bench::paired();
    // Ids that begin alike.
    for (client, key, id) in [(b'a', 1, 0x1100), (b'b', 2, 0x11FF)] {
        bench.entropy.next.push(u64::to_le_bytes(id << 48 | u64::from(key)).to_vec());
        bench.running(client, "10.0.0.9", key, 1);
    }
    let stop = |text: &str| AdminRequest::StopSession { session: text.into() };
    assert!(told(&ask(&mut bench, 1, stop("11"))).contains("2 sessions begin with 11"));
    assert!(told(&ask(&mut bench, 1, stop("99"))).contains("No session 99"));
    assert!(told(&ask(&mut bench, 1, stop(""))).contains("No session"));
    let effects = ask(&mut bench, 1, stop("11ff"));
    assert!(told(&effects[effects.len() - 1..]).contains("is stopping"));
    let remove = |text: &str| AdminRequest::RemoveClient { client: text.into() };
    assert!(told(&ask(&mut bench, 1, remove(""))).contains("No client"));
    assert!(told(&ask(&mut bench, 1, remove("zz"))).contains("No client zz"));
}

#[test]
fn apps_clients_and_the_status_are_told() {
    let mut bench = Bench::paired();
    let (one, _) = bench.running(b'a', "10.0.0.9", 1, 1);
    let effects = ask(&mut bench, 1, AdminRequest::Clients);
    let [Effect::AnswerAdmin { answer: AdminAnswer::Clients(clients), .. }] = &effects[..] else {
        panic!("{effects:?}")
    };
    let of = |c: &[u8]| clients.iter().find(|s| s.id == client_id(c)).unwrap().session;
    assert_eq!((of(b"a"), of(b"b")), (Some(one), None));
    let effects = ask(&mut bench, 1, AdminRequest::Apps);
    let [Effect::AnswerAdmin { answer: AdminAnswer::Apps(apps), .. }] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(apps.iter().map(|app| app.id).collect::<Vec<_>>(), [1, 2]);
    let effects = ask(&mut bench, 1, AdminRequest::Status);
    let [Effect::AnswerAdmin { answer: AdminAnswer::Status(status), .. }] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!((status["clients"].as_u64(), status["sessions"].as_u64()), (Some(2), Some(1)));
}
