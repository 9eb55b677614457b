//! The bus against a played supervisor and played sessions, over real links.
use std::sync::mpsc::{Receiver, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::fd::OwnedFd;

use super::*;
use crate::front::script::{self, SESSION, Shared, VIEWER, until};
use crate::ipc::AdminRequest;

const SHORT: Duration = Duration::from_secs(5);

struct Town {
    core: Arc<Core>,
    script: Shared,
    supervisor: Link,
    summoned: Receiver<Summons>,
    jobs: Receiver<Job>,
    stop: BusStop,
    thread: Option<JoinHandle<()>>,
    links: Arc<SessionLinks>,
    runtime: tempfile::TempDir,
}

/// A bus; `prepare` sees the runtime directory before it looks for sessions.
fn open_with(prepare: impl FnOnce(&Path)) -> Town {
    let (core, script) = script::core();
    let (supervisor, theirs) = Link::pair().unwrap();
    let (summons, summoned) = channel();
    let (store, jobs) = sync_channel(1);
    let links = Arc::new(SessionLinks::default());
    let runtime = tempfile::tempdir().unwrap();
    prepare(runtime.path());
    let mut bus = Bus::new(Arc::clone(&core), theirs, Arc::clone(&links), store, summons);
    let stop = bus.stopper();
    bus.introduce(runtime.path());
    bus.serving();
    let thread = Some(spawn(bus).unwrap());
    let town = Town { core, script, supervisor, summoned, jobs, stop, thread, links, runtime };
    assert!(matches!(town.report(), FrontReport::Hello { .. }));
    assert!(matches!(town.report(), FrontReport::Serving));
    town
}

fn open() -> Town {
    open_with(|_| {})
}

impl Town {
    fn report(&self) -> FrontReport {
        self.supervisor.receive_within(SHORT).unwrap().0
    }

    fn order(&self, order: &FrontOrder) {
        self.supervisor.send(order, &[]).unwrap();
    }

    /// Has the host do something now.
    fn act(&self, effect: Effect) {
        self.script.lock().unwrap().effects.push(effect);
        self.core.dispatch(Event::Timeout);
    }

    /// A session as the supervisor starts it, connected.
    fn session(&self, id: SessionId) -> (OwnedFd, Link) {
        let socket = self.runtime.path().join(format!("{id}.sock"));
        let listener = Link::listen(&socket).unwrap();
        self.order(&FrontOrder::SessionSpawned { session: id, socket });
        let link = accept(&listener);
        until(&self.script, "spawned", |event| match event {
            Event::SessionSpawned { session, result: Ok(()) } if *session == id => Some(()),
            _ => None,
        });
        (listener, link)
    }

    fn deaf(&self, id: SessionId) {
        until(&self.script, "deaf", |event| {
            matches!(event, Event::SessionDeaf { session } if *session == id).then_some(())
        });
    }
}

impl Drop for Town {
    fn drop(&mut self) {
        self.stop.stop();
        let _ = self.thread.take().unwrap().join();
    }
}

/// The next connection of the front, and its hello.
fn accept(listener: &OwnedFd) -> Link {
    let deadline = Instant::now() + SHORT;
    loop {
        if let Some(link) = Link::accept(listener.as_fd()).unwrap() {
            let (hello, _) = link.receive_within::<ToSession>(SHORT).unwrap();
            assert!(matches!(hello, ToSession::Hello { .. }));
            return link;
        }
        assert!(Instant::now() < deadline, "nobody connected");
        std::thread::sleep(Duration::from_millis(5));
    }
}

use std::os::fd::AsFd;

fn identity(id: SessionId) -> FromSession {
    FromSession::Identity {
        version: VERSION,
        spec: script::spec(id),
        pid: 1,
        started: true,
        streaming: false,
        grants: Vec::new(),
        active: None,
    }
}

#[test]
fn a_session_is_asked_for_connected_and_talked_to() {
    let town = open();
    town.act(Effect::Spawn { spec: script::spec(SESSION) });
    assert!(matches!(town.report(), FrontReport::Spawn { spec } if spec.id == SESSION));
    let (_listener, link) = town.session(SESSION);
    link.send(&FromSession::Started, &[]).unwrap();
    until(&town.script, "started", |event| match event {
        Event::Session { session: SESSION, message: FromSession::Started } => Some(()),
        _ => None,
    });
    town.act(Effect::Send { session: SESSION, message: ToSession::AskFigures });
    let (message, _) = link.receive_within::<ToSession>(SHORT).unwrap();
    assert!(matches!(message, ToSession::AskFigures));
    town.act(Effect::Kill { session: SESSION });
    assert!(matches!(town.report(), FrontReport::Kill { session: SESSION }));
}

#[test]
fn what_a_session_said_last_is_heard_before_its_end() {
    let town = open();
    let (_listener, link) = town.session(SESSION);
    for _ in 0..100 {
        link.send(&FromSession::Started, &[]).unwrap();
    }
    let end = FrontOrder::SessionExited {
        session: SESSION,
        status: "exit 0".into(),
        last_words: String::new(),
    };
    town.order(&end);
    drop(link);
    until(&town.script, "exited", |event| {
        matches!(event, Event::SessionExited { session: SESSION, .. }).then_some(())
    });
    let script = town.script.lock().unwrap();
    let said = |event: &&Event| matches!(event, Event::Session { .. });
    assert_eq!(script.events.iter().filter(said).count(), 100);
    assert!(matches!(script.events.last(), Some(Event::SessionExited { .. })));
}

#[test]
fn a_session_that_cannot_be_reached_was_not_started() {
    let town = open();
    let socket = town.runtime.path().join("nobody.sock");
    town.order(&FrontOrder::SessionSpawned { session: SESSION, socket });
    until(&town.script, "failed", |event| match event {
        Event::SessionSpawned { session: SESSION, result: Err(_) } => Some(()),
        _ => None,
    });
    let reason = "no such app".to_owned();
    town.order(&FrontOrder::SessionNotSpawned { session: SessionId(2), reason });
    until(&town.script, "not spawned", |event| match event {
        Event::SessionSpawned { session: SessionId(2), result: Err(reason) } => {
            assert_eq!(reason, "no such app");
            Some(())
        }
        _ => None,
    });
}

#[test]
fn a_broken_link_is_made_again_and_else_the_session_is_deaf() {
    let town = open();
    let (listener, link) = town.session(SESSION);
    drop(link);
    let link = accept(&listener);
    link.send(&FromSession::Started, &[]).unwrap();
    until(&town.script, "started", |event| matches!(event, Event::Session { .. }).then_some(()));
    drop((link, listener));
    town.deaf(SESSION);
}

#[test]
fn a_session_that_does_not_read_is_deaf_and_disturbs_no_other() {
    let town = open();
    let (_listener, _unread) = town.session(SESSION);
    let other = SessionId(2);
    let (_listener2, read) = town.session(other);
    let large = || ToSession::Stop { reason: "x".repeat(100_000) };
    for _ in 0..20 {
        town.act(Effect::Send { session: SESSION, message: large() });
    }
    town.act(Effect::Send { session: other, message: ToSession::AskLog });
    assert!(matches!(read.receive_within(SHORT).unwrap().0, ToSession::AskLog));
    town.deaf(SESSION);
    let socket = std::fs::File::open("/dev/null").unwrap();
    let message = ToSession::AskLog;
    assert!(town.links.hand_over(SESSION, &message, socket.as_fd()).is_err());
    town.links.hand_over(other, &message, socket.as_fd()).unwrap();
    assert_eq!(read.receive_within::<ToSession>(SHORT).unwrap().1.len(), 1);
}

#[test]
fn a_session_under_a_false_name_is_not_believed() {
    let town = open();
    let (_listener, link) = town.session(SESSION);
    link.send_bytes(b"{\"Nonsense\":", &[]).unwrap();
    link.send(&identity(SessionId(99)), &[]).unwrap();
    town.deaf(SESSION);
    assert_eq!(town.core.counters().messages_malformed.get(), 2);
    let script = town.script.lock().unwrap();
    assert!(!script.events.iter().any(|event| matches!(event, Event::Session { .. })));
}

#[test]
fn a_new_front_finds_the_sessions_that_run() {
    let alive = SessionId(0xa11e);
    let mut played = None;
    let town = open_with(|runtime| {
        let directory = |id: SessionId| {
            let directory = runtime.join("sessions").join(id.to_string());
            std::fs::create_dir_all(&directory).unwrap();
            directory.join("session.sock")
        };
        std::fs::create_dir_all(runtime.join("sessions/not-an-id")).unwrap();
        // Ended without cleaning up.
        drop(Link::listen(&directory(SessionId(0xdead))).unwrap());
        // Hangs.
        std::mem::forget(Link::listen(&directory(SessionId(0x5107))).unwrap());
        let listener = Link::listen(&directory(alive)).unwrap();
        played = Some(std::thread::spawn(move || {
            let link = accept(&listener);
            link.send(&identity(alive), &[]).unwrap();
            (link, listener)
        }));
    });
    let (link, _listener) = played.unwrap().join().unwrap();
    until(&town.script, "identity", |event| match event {
        Event::Session { session, message: FromSession::Identity { spec, .. } } => {
            assert_eq!((*session, spec.id), (alive, alive));
            Some(())
        }
        _ => None,
    });
    let end = ToSession::EndViewer { viewer: VIEWER, reason: "test".into() };
    town.act(Effect::Send { session: alive, message: end });
    assert!(matches!(link.receive_within(SHORT).unwrap().0, ToSession::EndViewer { .. }));
}

#[test]
fn the_operators_questions_are_answered_however_long_the_answer() {
    let town = open();
    town.order(&FrontOrder::Admin { id: 7, request: AdminRequest::Apps });
    until(&town.script, "asked", |event| {
        matches!(event, Event::Admin { id: 7, request: AdminRequest::Apps }).then_some(())
    });
    let answer = AdminAnswer::Log("x".repeat(IPC_MESSAGE_BYTES_MAX));
    town.act(Effect::AnswerAdmin { id: 7, answer });
    let report = town.report();
    let FrontReport::AdminAnswer { id: 7, answer: AdminAnswer::Error(text) } = report else {
        panic!("{report:?}");
    };
    assert!(text.contains("too long"));
}

#[test]
fn a_disk_that_does_not_keep_up_fails_the_pairing() {
    let town = open();
    let client = crate::ipc::ClientId([3; 32]);
    let store = || Effect::StoreClient { client, name: "x".into(), certificate: vec![1, 2, 3] };
    town.act(store());
    town.act(store());
    until(&town.script, "refused", |event| match event {
        Event::ClientStored { result: Err(_), .. } => Some(()),
        _ => None,
    });
    assert!(matches!(town.jobs.recv_timeout(SHORT).unwrap(), Job::Store { .. }));
}

#[test]
fn the_host_is_woken_at_its_time_and_a_lost_supervisor_noticed() {
    let town = open();
    let due = now() + Duration::from_millis(150);
    town.script.lock().unwrap().timeout = Some(due);
    town.core.dispatch(Event::SessionDeaf { session: SESSION });
    until(&town.script, "timeout", |event| matches!(event, Event::Timeout).then_some(()));
    assert!(now() >= due);
    town.order(&FrontOrder::Drain);
    assert_eq!(town.summoned.recv_timeout(SHORT), Ok(Summons::Drain));
    let socket = town.supervisor.as_fd();
    rustix::net::shutdown(socket, rustix::net::Shutdown::Both).unwrap();
    assert_eq!(town.summoned.recv_timeout(SHORT), Ok(Summons::Orphaned));
    let spec = script::spec(SESSION);
    town.act(Effect::Spawn { spec });
    until(&town.script, "cannot be started", |event| {
        matches!(event, Event::SessionSpawned { result: Err(_), .. }).then_some(())
    });
}
