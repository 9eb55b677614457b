//! The supervisor with children that are played by this very program: a front that a test drives
//! message by message, and sessions that obey, crash, hang, or leave things behind.
//!
//! The supervisor starts its own binary with the kind as the first argument; here that is this one.
mod cli_support;

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use cli_support::{Host, PATIENCE, Place, STOPPED_BY, eventually, pids, signal};
use moonshard::config::{Config, Surroundings};
use moonshard::ipc::{
    AdminRequest, AppSpec, ClientId, FromSession, FrontBoot, FrontOrder, FrontReport, SessionBoot,
    SessionId, SessionPolicy, SessionSpec, ToSession, VERSION,
};
use moonshard::proc::boot;
use moonshard::proc::link::{Link, LinkError};
use moonshard::proto::stream::Mode;

/// Where the children of a test find it.
const STAGE: &str = "MOONSHARD_TEST_STAGE";
/// `limits.stall_ms` of the host on the stage.
const STALL_MS: &str = "MOONSHARD_TEST_STALL_MS";

type Test = (&'static str, fn());

const TESTS: &[Test] = &[
    ("a_session_has_a_directory_of_its_own_and_goes_with_it", directory),
    ("a_crash_is_reported_with_its_last_words", last_words),
    ("a_session_is_killed_when_the_front_asks_for_it", killed),
    ("what_a_session_leaves_behind_is_killed_and_reaped", left_behind),
    ("sessions_outlive_the_front", front_dies),
    ("sessions_outlive_the_supervisor_and_are_adopted", supervisor_dies),
    ("a_stop_is_heard_by_obedient_sessions_and_ends_deaf_ones", stop),
    ("a_talkative_session_fills_no_disk", talkative),
    ("a_front_that_talks_nonsense_is_replaced", nonsense),
    ("a_front_that_never_serves_ends_the_start", never_serves),
    ("a_front_that_hangs_before_it_serves_is_replaced", hangs_early),
    ("no_session_is_started_twice", twice),
    ("the_front_gets_its_sockets_and_ports", sockets),
    ("a_real_session_ends_with_the_host", real_session_stopped),
    ("a_real_session_that_is_killed_leaves_nothing", real_session_killed),
];

fn main() -> ExitCode {
    let kind = std::env::args().nth(1).unwrap_or_default();
    if let Some(stage) = std::env::var_os(STAGE).map(PathBuf::from) {
        return match kind.as_str() {
            "serve" => serve(&stage),
            "front" => front(&stage),
            "session" if stage.join("real").exists() => moonshard::session::main(),
            "session" => session(),
            "probe" => {
                println!("{{\"encoders\":[]}}");
                ExitCode::SUCCESS
            }
            _ => ExitCode::from(2),
        };
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has_value =
        |i: usize| i > 0 && ["--test-threads", "--format"].contains(&arguments[i - 1].as_str());
    let filter = (0..arguments.len())
        .find(|i| !arguments[*i].starts_with('-') && !has_value(*i))
        .map_or("", |i| arguments[i].as_str());
    let mut failed: Vec<&str> = Vec::new();
    for (name, test) in TESTS.iter().filter(|test| test.0.contains(filter)) {
        // As test runners ask for it; no test is ignored.
        if arguments.iter().any(|argument| argument == "--list") {
            if !arguments.iter().any(|argument| argument == "--ignored") {
                println!("{name}: test");
            }
            continue;
        }
        let passed = catch_unwind(AssertUnwindSafe(test)).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed.extend((!passed).then_some(*name));
    }
    if !failed.is_empty() {
        println!("\n{} failed: {failed:?}", failed.len());
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

// The children ------------------------------------------------------------------------------------

fn serve(stage: &std::path::Path) -> ExitCode {
    moonshard::ops::log::init("serve");
    let surroundings = Surroundings {
        state_home: Some(stage.join("state")),
        runtime_home: Some(stage.join("run")),
        host_name: "stage".into(),
        ..Surroundings::default()
    };
    let ports = "[ports]\nhttps = 0\nhttp = 0\nrtsp = 0\nvideo = 0\ncontrol = 0\naudio = 0\n";
    let stall_ms = std::env::var(STALL_MS).unwrap_or("4500".into());
    let text = format!("[limits]\nstall_ms = {stall_ms}\n{ports}");
    let config = Config::parse(&text, &surroundings).unwrap();
    let reload = Box::new(|| Err("not here".to_owned()));
    let program = "moonshard".to_owned();
    moonshard::supervisor::main(moonshard::supervisor::Options { config, program, reload })
}

/// Passes everything on between the supervisor and the test.
fn front(stage: &std::path::Path) -> ExitCode {
    let (boot, mut fds) = boot::receive::<FrontBoot>(boot::inherited()).unwrap();
    let Ok(test) = Link::connect(&stage.join("front.sock")) else { return ExitCode::from(7) };
    let supervisor = Link::from_fd(fds.remove(0));
    test.send(&(std::process::id(), boot.config.ports, fds.len()), &[]).unwrap();
    let mut buffer = vec![0; moonshard::limits::IPC_MESSAGE_BYTES_MAX];
    loop {
        use rustix::event::{PollFd, PollFlags, poll};
        let mut ready =
            [PollFd::new(&supervisor, PollFlags::IN), PollFd::new(&test, PollFlags::IN)];
        poll(&mut ready, None).unwrap();
        for (from, to) in [(&supervisor, &test), (&test, &supervisor)] {
            match from.receive_bytes(&mut buffer) {
                Ok((length, _)) => to.send_bytes(&buffer[..length], &[]).unwrap(),
                Err(LinkError::Empty) => {}
                Err(_) => return ExitCode::SUCCESS,
            }
        }
    }
}

#[expect(clippy::zombie_processes, reason = "left behind is what these are for")]
fn session() -> ExitCode {
    let (boot, fds) = boot::receive::<SessionBoot>(2).unwrap();
    let part = boot.spec.app.command[0].clone();
    println!("I play {part}");
    match part.as_str() {
        "crash" => {
            eprintln!("these are my last words");
            ExitCode::from(3)
        }
        "deaf" => {
            while boot.directory.exists() {
                std::thread::sleep(Duration::from_millis(100));
            }
            ExitCode::FAILURE
        }
        "parent" => {
            // One in a process group of its own, one that has left its parent and its name as well.
            rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
            let leave = |script: &str| {
                Command::new("sh")
                    .args(["-c", script])
                    .env("XDG_RUNTIME_DIR", &boot.directory)
                    .stdin(Stdio::null())
                    .spawn()
                    .unwrap()
            };
            let _ = leave("setsid sleep 600");
            let _ = leave("(setsid env -u XDG_RUNTIME_DIR sleep 601 &) ; exec setsid sleep 602")
                .try_wait();
            std::thread::sleep(Duration::from_millis(300));
            ExitCode::SUCCESS
        }
        "talkative" => {
            let line = "x".repeat(99);
            (0..30_000).for_each(|_| println!("{line}"));
            obey(&fds[0], &boot.directory)
        }
        _ => obey(&fds[0], &boot.directory),
    }
}

/// Waits on its link for the order to stop; without its directory the test itself is over.
fn obey(listener: &std::os::fd::OwnedFd, directory: &std::path::Path) -> ExitCode {
    let mut links = Vec::new();
    while directory.exists() {
        links.extend(Link::accept(listener.as_fd()).unwrap());
        for link in &links {
            if let Ok((ToSession::Stop { reason }, _)) = link.receive::<ToSession>() {
                println!("stopped: {reason}");
                return ExitCode::SUCCESS;
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    ExitCode::FAILURE
}

// The test's side ---------------------------------------------------------------------------------

/// A supervisor with a front whose strings the test holds.
struct Stage {
    place: Place,
    listener: std::os::fd::OwnedFd,
    host: Host,
    front: Link,
    front_pid: u32,
    ports: moonshard::config::Ports,
    fds: usize,
}

impl Stage {
    fn set() -> Self {
        let place = Place::new();
        let listener = Link::listen(&place.dir.path().join("front.sock")).unwrap();
        let host = Self::host(&place);
        let (front, front_pid, ports, fds) = enter(&listener);
        let mut stage = Self { place, listener, host, front, front_pid, ports, fds };
        stage.say(&FrontReport::Serving);
        stage.host.expect("ready in");
        stage
    }

    fn host(place: &Place) -> Host {
        Self::host_with(place, "4500")
    }

    fn host_with(place: &Place, stall_ms: &str) -> Host {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let command = command.arg("serve").stdin(Stdio::null());
        command.env(STAGE, place.dir.path()).env(STALL_MS, stall_ms);
        Host::of(command)
    }

    fn next_front(&mut self) {
        (self.front, self.front_pid, self.ports, self.fds) = enter(&self.listener);
    }

    fn say(&self, report: &FrontReport) {
        self.front.send(report, &[]).unwrap();
    }

    fn order(&self) -> FrontOrder {
        loop {
            match self.front.receive_within::<FrontOrder>(PATIENCE).unwrap().0 {
                FrontOrder::Hello { version } => assert_eq!(version, VERSION),
                // The supervisor's own question, which it asks in its own rhythm.
                FrontOrder::Admin { id: 0, request: AdminRequest::Sessions } => {}
                order => return order,
            }
        }
    }

    /// Has a session started that plays `part`; its directory.
    fn spawn(&self, id: u64, part: &str) -> PathBuf {
        self.say(&FrontReport::Spawn { spec: Box::new(spec(id, part)) });
        match self.order() {
            FrontOrder::SessionSpawned { session, socket } => {
                assert_eq!(session, SessionId(id));
                socket.parent().unwrap().to_owned()
            }
            order => panic!("{order:?}"),
        }
    }

    /// Waits for the end of a session; its status and last words.
    fn ended(&self, id: u64) -> (String, String) {
        match self.order() {
            FrontOrder::SessionExited { session, status, last_words } => {
                assert_eq!(session, SessionId(id));
                (status, last_words)
            }
            order => panic!("{order:?}"),
        }
    }

    /// Ends everything in the usual way; nothing may be left.
    fn strike(mut self) {
        self.host.signal("TERM");
        // This front does not go by itself: a second signal is for that.
        self.host.expect("Stopping");
        self.host.signal("TERM");
        assert_eq!(self.host.wait().0, Some(0));
        assert_eq!(self.place.processes(), []);
        assert!(!self.place.runtime().exists());
    }
}

fn enter(listener: &std::os::fd::OwnedFd) -> (Link, u32, moonshard::config::Ports, usize) {
    let front = eventually(|| Link::accept(listener.as_fd()).unwrap());
    let (pid, ports, fds) = front.receive_within(PATIENCE).unwrap().0;
    (front, pid, ports, fds)
}

fn spec(id: u64, part: &str) -> SessionSpec {
    SessionSpec {
        version: VERSION,
        id: SessionId(id),
        client: ClientId([7; 32]),
        client_name: "player".into(),
        app: AppSpec {
            id: 1,
            title: part.into(),
            command: vec![part.into()],
            environment: Default::default(),
            directory: None,
        },
        mode: Mode { width: 1280, height: 720, millihertz: 60_000 },
        audio_channels: 2,
        policy: SessionPolicy {
            keep_ms: 0,
            never_viewed_ms: 1000,
            idle_fps: 10,
            slow_app_ms: 15_000,
            reason_ms: 0,
            keyboard_layout: "us".into(),
            keyboard_variant: String::new(),
            encoder: "auto".into(),
            audio: false,
            adapt: true,
            media_cores: vec![],
        },
    }
}

/// An id that no other test, also of another run, uses at the same time.
fn id(n: u64) -> u64 {
    u64::from(std::process::id()) << 32 | 0x5E55_0000 | n
}

fn directory() {
    let stage = Stage::set();
    let dir = stage.spawn(id(1), "obedient");
    assert_eq!(dir, stage.place.runtime().join("sessions").join(SessionId(id(1)).to_string()));
    assert_eq!(std::fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
    let link = Link::connect(&dir.join("session.sock")).unwrap();
    link.send(&ToSession::Stop { reason: "enough".into() }, &[]).unwrap();
    let (status, words) = stage.ended(id(1));
    assert_eq!(status, "exit 0");
    assert_eq!(words, "I play obedient\nstopped: enough");
    eventually(|| (!dir.exists()).then_some(()));
    stage.strike();
}

fn last_words() {
    let stage = Stage::set();
    stage.spawn(id(2), "crash");
    let (status, words) = stage.ended(id(2));
    assert_eq!(status, "exit 3");
    assert!(words.ends_with("these are my last words"), "{words}");
    stage.strike();
}

fn killed() {
    let stage = Stage::set();
    stage.spawn(id(3), "deaf");
    stage.say(&FrontReport::Kill { session: SessionId(id(3)) });
    assert_eq!(stage.ended(id(3)).0, "signal 9");
    stage.say(&FrontReport::Kill { session: SessionId(id(3)) });
    stage.strike();
}

fn left_behind() {
    let stage = Stage::set();
    let dir = stage.spawn(id(4), "parent");
    assert_eq!(stage.ended(id(4)).0, "exit 0");
    let sleeps = || stage.place.processes().iter().filter(|p| p.1.starts_with("sleep")).count();
    eventually(|| (sleeps() == 0).then_some(()));
    // They were orphans of the supervisor, which has reaped them.
    let children = format!("/proc/{0}/task/{0}/children", stage.host.pid());
    let only_front = stage.front_pid.to_string();
    eventually(|| (std::fs::read_to_string(&children).unwrap().trim() == only_front).then_some(()));
    eventually(|| (!dir.exists()).then_some(()));
    stage.strike();
}

fn front_dies() {
    let mut stage = Stage::set();
    let dir = stage.spawn(id(5), "obedient");
    let before = stage.ports;
    signal(stage.front_pid, "KILL");
    stage.next_front();
    assert_eq!(stage.ports, before);
    stage.say(&FrontReport::Serving);
    let link = Link::connect(&dir.join("session.sock")).unwrap();
    link.send(&ToSession::Stop { reason: "by the next".into() }, &[]).unwrap();
    assert_eq!(stage.ended(id(5)).0, "exit 0");
    stage.strike();
}

fn supervisor_dies() {
    let mut stage = Stage::set();
    let dir = stage.spawn(id(6), "deaf");
    let other = stage.spawn(id(7), "obedient");
    let session: u32 = std::fs::read_to_string(dir.join("pid")).unwrap().parse().unwrap();
    let front = stage.front_pid;
    stage.host.signal("KILL");
    stage.host.wait();
    eventually(|| (!pids().contains(&front)).then_some(()));
    assert!(pids().contains(&session));

    stage.host = Stage::host(&stage.place);
    stage.next_front();
    assert!(dir.exists() && other.exists());
    stage.say(&FrontReport::Serving);
    stage.say(&FrontReport::Kill { session: SessionId(id(6)) });
    stage.ended(id(6));
    eventually(|| (!dir.exists()).then_some(()));
    let link = Link::connect(&other.join("session.sock")).unwrap();
    link.send(&ToSession::Stop { reason: "enough".into() }, &[]).unwrap();
    stage.ended(id(7));
    stage.strike();
}

fn stop() {
    let mut stage = Stage::set();
    stage.spawn(id(8), "obedient");
    stage.spawn(id(9), "deaf");
    stage.host.signal("TERM");
    assert!(matches!(stage.order(), FrontOrder::Drain));
    assert_eq!(stage.ended(id(8)).0, "exit 0", "asked over its own link, long before the end");
    stage.say(&FrontReport::Spawn { spec: Box::new(spec(id(10), "obedient")) });
    assert!(matches!(stage.order(), FrontOrder::SessionNotSpawned { .. }), "too late");
    let (code, took) = stage.host.wait();
    assert_eq!(code, Some(0));
    assert!(took <= STOPPED_BY, "{took:?}");
    assert_eq!(stage.place.processes(), []);
    assert!(!stage.place.runtime().exists());
}

fn talkative() {
    let stage = Stage::set();
    let dir = stage.spawn(id(11), "talkative");
    let size = || std::fs::metadata(dir.join("session.log")).map_or(0, |data| data.len());
    eventually(|| (size() > 0).then_some(()));
    let is_cut = || {
        let text = std::fs::read_to_string(dir.join("session.log")).unwrap_or_default();
        text.starts_with("(older lines were removed)").then_some(())
    };
    eventually(is_cut);
    eventually(|| (size() <= 1 << 20).then_some(()));
    stage.strike();
}

fn nonsense() {
    let mut stage = Stage::set();
    let first = stage.front_pid;
    stage.front.send_bytes(b"{\"Nonsense\":", &[]).unwrap();
    stage.next_front();
    assert_ne!(stage.front_pid, first);
    stage.strike();
}

fn never_serves() {
    let place = Place::new();
    // Nobody listens: the front ends at once.
    let mut host = Stage::host(&place);
    host.expect("cannot start: the front ends before it serves");
    assert_eq!(host.wait().0, Some(1));
    assert_eq!(place.processes(), []);
    assert!(!place.runtime().exists());
}

fn hangs_early() {
    let place = Place::new();
    let listener = Link::listen(&place.dir.path().join("front.sock")).unwrap();
    let mut host = Stage::host_with(&place, "2000");
    // It says nothing, and does not end.
    let (_front, pid, ..) = enter(&listener);
    let told = host.expect("the front stands still: killed");
    assert!(told.contains(&format!("pid={pid}")), "{told}");
    let (next, next_pid, ..) = enter(&listener);
    assert_ne!(next_pid, pid);
    next.send(&FrontReport::Serving, &[]).unwrap();
    host.expect("ready in");
    let kept = std::fs::read_dir(place.dir.path().join("state/moonshard/crash")).unwrap();
    let texts = kept.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
    assert!(texts.into_iter().any(|text| text.contains(&format!("front {pid}: does not serve"))));
    host.signal("TERM");
    host.expect("Stopping");
    host.signal("TERM");
    assert_eq!(host.wait().0, Some(0));
}

fn twice() {
    let stage = Stage::set();
    stage.spawn(id(12), "obedient");
    stage.say(&FrontReport::Spawn { spec: Box::new(spec(id(12), "obedient")) });
    match stage.order() {
        FrontOrder::SessionNotSpawned { reason, .. } => assert!(reason.contains("runs already")),
        order => panic!("{order:?}"),
    }
    stage.strike();
}

fn sockets() {
    let stage = Stage::set();
    let ports = stage.ports;
    let all = [ports.https, ports.http, ports.rtsp, ports.video, ports.control, ports.audio];
    assert!(all.iter().all(|port| *port != 0), "{ports:?}");
    let shards = std::thread::available_parallelism().unwrap().get().min(2);
    assert!([3 * shards + 5, 3 * shards + 8].contains(&stage.fds), "{}", stage.fds);
    stage.strike();
}

/// A session as it is, with an app that draws nothing; returns the stage and the session's link.
fn real_session(n: u64) -> (Stage, Link) {
    let stage = Stage::set();
    std::fs::write(stage.place.dir.path().join("real"), "").unwrap();
    let mut spec = spec(id(n), "sleep");
    spec.app.command.push("600".into());
    stage.say(&FrontReport::Spawn { spec: Box::new(spec) });
    let FrontOrder::SessionSpawned { socket, .. } = stage.order() else { panic!("not spawned") };
    let link = Link::connect(&socket).unwrap();
    link.send(&ToSession::Hello { version: VERSION }, &[]).unwrap();
    let started = || match link.receive_within::<FromSession>(PATIENCE).unwrap().0 {
        FromSession::Started => Some(()),
        FromSession::Identity { started, .. } => started.then_some(()),
        _ => None,
    };
    eventually(started);
    assert!(stage.place.processes().iter().any(|p| p.1.starts_with("sleep 600")));
    (stage, link)
}

fn real_session_stopped() {
    let (mut stage, _link) = real_session(13);
    stage.host.signal("TERM");
    assert!(matches!(stage.order(), FrontOrder::Drain));
    assert_eq!(stage.ended(id(13)).0, "exit 0");
    signal(stage.front_pid, "KILL");
    let (code, took) = stage.host.wait();
    assert_eq!(code, Some(0));
    assert!(took <= STOPPED_BY, "{took:?}");
    assert_eq!(stage.place.processes(), []);
    assert!(!stage.place.runtime().exists());
}

fn real_session_killed() {
    let (stage, _link) = real_session(14);
    stage.say(&FrontReport::Kill { session: SessionId(id(14)) });
    assert_eq!(stage.ended(id(14)).0, "signal 9");
    let sleeps = || stage.place.processes().iter().any(|p| p.1.starts_with("sleep 600"));
    eventually(|| (!sleeps()).then_some(()));
    stage.strike();
}
