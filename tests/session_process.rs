//! A session as a process, started as the supervisor starts it and spoken to as a front speaks.
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use moonshard::ipc::{
    AppSpec, ClientId, FromSession, SessionBoot, SessionId, SessionPolicy, SessionSpec, ToSession,
    VERSION,
};
use moonshard::proc::boot::{self, Spawn};
use moonshard::proc::child::{Child, Exit};
use moonshard::proc::link::{Link, LinkError};
use moonshard::proto::stream::Mode;

/// Nothing here takes longer, unless it does not work.
const PATIENCE: Duration = Duration::from_secs(15);

struct Session {
    process: Child,
    directory: tempfile::TempDir,
}

fn boot(directory: &Path, command: &[&str]) -> SessionBoot {
    let policy = SessionPolicy {
        keep_ms: 0,
        never_viewed_ms: 60_000,
        idle_fps: 10,
        slow_app_ms: 15_000,
        reason_ms: 0,
        keyboard_layout: "us".into(),
        keyboard_variant: String::new(),
        encoder: "auto".into(),
        audio: false,
        adapt: true,
        media_cores: vec![],
    };
    let app = AppSpec {
        id: 1,
        title: "Test".into(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        environment: BTreeMap::new(),
        directory: None,
    };
    let spec = SessionSpec {
        version: VERSION,
        id: SessionId(0x5e55_1017),
        client: ClientId([3; 32]),
        client_name: "client".into(),
        app,
        mode: Mode { width: 640, height: 360, millihertz: 60_000 },
        audio_channels: 2,
        policy,
    };
    SessionBoot { spec, directory: directory.to_owned() }
}

impl Session {
    fn start(command: &[&str]) -> Self {
        Self::start_with(command, |_| {})
    }

    fn start_with(command: &[&str], change: impl FnOnce(&mut SessionBoot)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut message = boot(directory.path(), command);
        change(&mut message);
        let listener = Link::listen(&directory.path().join("session.sock")).unwrap();
        let lock = std::fs::File::create(directory.path().join("lock")).unwrap();
        let how = Spawn {
            kind: "session",
            label: &message.spec.id.to_string(),
            fds: &[listener.as_fd(), lock.as_fd()],
            dies_with_parent: true,
            output: None,
            oom_score_adj: 200,
        };
        let program = Path::new(env!("CARGO_BIN_EXE_moonshard"));
        let process = boot::spawn_from(program, &how, &message).unwrap();
        Self { process, directory }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("session.sock")
    }

    /// A front's link, after the session said who it is.
    fn front(&self) -> (Link, bool) {
        let link = Link::connect(&self.socket()).unwrap();
        link.send(&ToSession::Hello { version: VERSION }, &[]).unwrap();
        let (first, _) = link.receive_within::<FromSession>(PATIENCE).unwrap();
        let FromSession::Identity { spec, pid, started, streaming, grants, .. } = first else {
            panic!("{first:?} instead of an identity");
        };
        assert_eq!(spec.id, SessionId(0x5e55_1017));
        assert_eq!(pid, self.process.pid());
        assert!(!streaming && grants.is_empty());
        (link, started)
    }

    fn ends(&mut self) -> (Duration, Exit) {
        let start = Instant::now();
        let exit = self.process.wait(PATIENCE).expect("it does not end");
        (start.elapsed(), exit)
    }

    /// Asks for the log until it satisfies.
    fn log_until(&self, link: &Link, done: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            link.send(&ToSession::AskLog, &[]).unwrap();
            let text = loop {
                match link.receive_within::<FromSession>(PATIENCE).unwrap().0 {
                    FromSession::Log { text } => break text,
                    _ => continue,
                }
            };
            if done(&text) {
                return text;
            }
            assert!(Instant::now() < end, "the log stays {text:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The next message that is wanted.
fn wanted<T>(link: &Link, want: impl Fn(FromSession) -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        match link.receive_within::<FromSession>(PATIENCE) {
            Ok((message, _)) => {
                if let Some(found) = want(message) {
                    return found;
                }
            }
            Err(LinkError::Empty) => {}
            Err(e) => panic!("{e}"),
        }
    }
    panic!("it was not told");
}

/// Of a session that has ended: no process that has its runtime directory in its environment, and
/// nothing in that directory but what the supervisor removes with it: what it made itself, and the last
/// figures.
fn assert_nothing_left(session: &Session) {
    let mark = session.directory.path().to_str().unwrap().as_bytes();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let of_session = processes.filter(|entry| {
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        environment.windows(mark.len()).any(|window| window == mark)
    });
    let left: Vec<_> = of_session.map(|entry| entry.file_name()).collect();
    assert!(left.is_empty(), "processes {left:?}");
    let files = std::fs::read_dir(session.directory.path()).unwrap().flatten();
    let mut files: Vec<_> = files.map(|f| f.file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files, ["figures", "lock", "session.sock"]);
}

fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z"))
}

#[test]
fn an_app_that_cannot_start_is_told_with_its_reason_and_the_session_ends() {
    let mut session = Session::start(&["/no/such/program"]);
    let (link, started) = session.front();
    assert!(!started);
    let reason = wanted(&link, |message| match message {
        FromSession::StartFailed { reason } => Some(reason),
        _ => None,
    });
    assert!(reason.starts_with("cannot run \"/no/such/program\": No such file"), "{reason}");
    assert_eq!(session.ends().1, Exit::Code(1));
}

#[test]
fn an_app_that_exits_at_once_is_told_with_status_and_last_words() {
    // The rest of its process group and a runaway are not to stay.
    let script = "sleep 1000 & (setsid sleep 1000 &) ; echo cannot open display >&2; exit 7";
    let mut session = Session::start(&["sh", "-c", script]);
    let (link, _) = session.front();
    // As the answer to the launch, or on a very slow machine right after it.
    let (status, last_words) = wanted(&link, |message| match message {
        FromSession::StartFailed { reason } => Some((reason.clone(), reason)),
        FromSession::AppExited { status, last_words } => Some((status, last_words)),
        _ => None,
    });
    assert!(status.contains("exit 7"), "{status}");
    assert!(last_words.contains("cannot open display"), "{last_words}");
    session.ends();
    assert_nothing_left(&session);
}

#[test]
fn a_failure_after_the_launch_is_answered_waits_until_a_viewer_could_have_read_why() {
    let mut session = Session::start_with(&["sh", "-c", "sleep 1; echo no GPU; exit 3"], |boot| {
        boot.spec.policy.reason_ms = 1_500;
    });
    let (link, _) = session.front();
    let start = Instant::now();
    let (status, last_words) = wanted(&link, |message| match message {
        FromSession::AppExited { status, last_words } => Some((status, last_words)),
        _ => None,
    });
    assert_eq!((status.as_str(), last_words.as_str()), ("exit 3", "no GPU"));
    assert!(start.elapsed() >= Duration::from_millis(1_500), "{:?}", start.elapsed());
    assert_eq!(session.ends().1, Exit::Code(0));
    assert_nothing_left(&session);
}

#[test]
fn an_app_that_forks_away_lives_as_long_as_its_window() {
    // The launcher ends at once; the window comes from a process of its own session.
    let program = env!("CARGO_BIN_EXE_moonshard");
    let script = format!("(setsid {program} pattern & echo $!) ; exit 0");
    let mut session = Session::start(&["sh", "-c", &script]);
    let (link, _) = session.front();
    let game = session.log_until(&link, |log| log.contains('\n'));
    let game = game.lines().next().unwrap().to_owned();
    let showing = |figures: BTreeMap<String, f64>| figures["desktop_showing"];
    let end = Instant::now() + PATIENCE;
    loop {
        link.send(&ToSession::AskFigures, &[]).unwrap();
        let figures = wanted(&link, |message| match message {
            FromSession::Figures { figures } => Some(figures),
            FromSession::AppExited { .. } | FromSession::StartFailed { .. } => {
                panic!("{message:?}")
            }
            _ => None,
        });
        if showing(figures) == 1.0 {
            break;
        }
        assert!(Instant::now() < end, "the window does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
    // Looked at a few times meanwhile: it does not end.
    std::thread::sleep(Duration::from_millis(1_200));
    assert!(lives(&game));
    let pid = rustix::process::Pid::from_raw(game.parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = wanted(&link, |message| match message {
        FromSession::AppExited { status, .. } => Some(status),
        _ => None,
    });
    assert_eq!(status, "exit 0");
    assert_eq!(session.ends().1, Exit::Code(0));
    assert_nothing_left(&session);
}

#[test]
fn stop_ends_an_app_that_ignores_sigterm_and_its_runaways_within_bounds() {
    // A child in a session of its own, doubly forked: no process group reaches it.
    let script = "trap '' TERM; (setsid sh -c 'trap \"\" TERM; echo $$; sleep 1000; sleep 1000' &) ; \
                  while :; do sleep 1; done";
    let mut session = Session::start(&["sh", "-c", script]);
    let (link, started) = session.front();
    assert!(started);
    let log = session.log_until(&link, |log| log.ends_with('\n'));
    let runaway = log.trim();
    assert!(lives(runaway));
    link.send(&ToSession::Stop { reason: "test".into() }, &[]).unwrap();
    let (took, code) = session.ends();
    assert_eq!(code, Exit::Code(0));
    assert!(took >= Duration::from_millis(1_000), "SIGTERM was given its time: {took:?}");
    assert!(!lives(runaway), "the runaway lives");
    assert_nothing_left(&session);
}

#[test]
fn an_app_that_listens_ends_the_session_at_once() {
    let mut session = Session::start(&["sleep", "1000"]);
    let (link, _) = session.front();
    link.send(&ToSession::Stop { reason: "test".into() }, &[]).unwrap();
    assert_eq!(session.ends().1, Exit::Code(0));
}

#[test]
fn sigterm_is_a_stop() {
    let mut session = Session::start(&["sleep", "1000"]);
    let _ = session.front();
    let pid = rustix::process::Pid::from_raw(session.process.pid() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(session.ends().1, Exit::Code(0));
}

#[test]
fn doubly_forked_children_are_reaped() {
    let script = "for i in 1 2 3 4 5 6 7 8; do (true & exec true) ; done; \
                  (sh -c 'sleep 0.05' &); echo done; exec sleep 1000";
    let session = Session::start(&["sh", "-c", script]);
    let (link, _) = session.front();
    session.log_until(&link, |log| log.contains("done"));
    let pid = session.process.pid();
    let end = Instant::now() + PATIENCE;
    loop {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let zombies = children.split_whitespace().filter(|child| {
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            stat.contains(") Z")
        });
        if zombies.count() == 0 && children.split_whitespace().count() == 1 {
            return;
        }
        assert!(Instant::now() < end, "children remain: {children}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn fronts_come_and_go_and_the_session_does_not_care() {
    let session = Session::start(&["sleep", "1000"]);
    for _ in 0..20 {
        let (link, started) = session.front();
        assert!(started);
        drop(link);
    }
    let (link, _) = session.front();
    // What a younger front may say is ignored.
    link.send_bytes(b"{\"Nonsense\":1}", &[]).unwrap();
    link.send_bytes(b"{", &[]).unwrap();
    link.send(&ToSession::AskFigures, &[]).unwrap();
    let figures = wanted(&link, |message| match message {
        FromSession::Figures { figures } => Some(figures),
        _ => None,
    });
    assert_eq!(figures.get("viewers"), Some(&0.0));
}

#[test]
fn an_announcement_without_a_grant_is_refused_over_the_link() {
    use moonshard::ipc::ViewerId;
    let session = Session::start(&["sleep", "1000"]);
    let (link, _) = session.front();
    let spec = serde_json::json!({
        "video": {
            "mode": {"width": 640, "height": 360, "millihertz": 60000}, "codec": "h264",
            "ten_bit": false, "yuv444": false, "colorspace": "rec709", "full_range": false,
            "bitrate_kbps": 1000, "slices": 1, "reference_frames_max": 0, "packet_size": 1024,
            "fec_percent": 20, "fec_packets_min": 2, "encrypted": true, "qos": false
        },
        "audio": {
            "channels": 2, "streams": 1, "coupled": 1, "mapping": [0, 1], "bitrate": 96000,
            "packet_ms": 5, "encrypted": true, "qos": false
        },
        "control_v2": true, "sends_fec_status": false, "sends_identity": true
    });
    let spec = serde_json::from_value(spec).unwrap();
    link.send(&ToSession::Announce { viewer: ViewerId(9), spec }, &[]).unwrap();
    let refused = wanted(&link, |message| match message {
        FromSession::ViewerRefused { viewer, status, .. } => Some((viewer, status)),
        _ => None,
    });
    assert_eq!(refused, (ViewerId(9), 503));
}

#[test]
fn a_session_that_nobody_views_ends_by_itself() {
    let mut session =
        Session::start_with(&["sleep", "1000"], |boot| boot.spec.policy.never_viewed_ms = 200);
    assert_eq!(session.ends().1, Exit::Code(0));
}
