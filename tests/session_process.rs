//! A session as a process, started as the supervisor starts it and spoken to as a front speaks.
use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use moonshard::ipc::{
    AppSpec, ClientId, FromSession, SessionBoot, SessionId, SessionPolicy, SessionSpec, ToSession,
    VERSION,
};
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
        keyboard_layout: "us".into(),
        keyboard_variant: String::new(),
        encoder: "auto".into(),
        audio: false,
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
        let process = spawn(&message, &[listener, lock.into()]);
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
        assert_eq!(pid, self.process.id());
        assert!(!streaming && grants.is_empty());
        (link, started)
    }

    fn ends(&mut self) -> (Duration, Option<i32>) {
        let start = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return (start.elapsed(), status.code());
            }
            assert!(start.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
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

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// As `proc::boot::spawn` does, but with the program under test: boot message at fd 3, the fds behind it.
fn spawn(message: &SessionBoot, fds: &[OwnedFd]) -> Child {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&serde_json::to_vec(message).unwrap()).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let floor = 4 + fds.len() as i32;
    let mut sources = vec![rustix::io::fcntl_dupfd_cloexec(&file, floor).unwrap()];
    sources.extend(fds.iter().map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, floor).unwrap()));
    let raw: Vec<i32> = sources.iter().map(AsRawFd::as_raw_fd).collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_moonshard"));
    command.arg0("moonshard").arg("session").arg(message.spec.id.to_string());
    command.process_group(0).stdin(Stdio::null());
    // SAFETY: dup2 is async-signal-safe; `raw` was allocated before.
    unsafe {
        command.pre_exec(move || {
            for (target, source) in (3..).zip(&raw) {
                if libc::dup2(*source, target) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    command.spawn().unwrap()
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
    assert_eq!(session.ends().1, Some(1));
}

#[test]
fn an_app_that_exits_at_once_is_told_with_status_and_last_words() {
    let mut session = Session::start(&["sh", "-c", "echo cannot open display >&2; exit 7"]);
    let (link, _) = session.front();
    let (status, last_words) = wanted(&link, |message| match message {
        FromSession::AppExited { status, last_words } => Some((status, last_words)),
        _ => None,
    });
    assert_eq!((status.as_str(), last_words.as_str()), ("exit 7", "cannot open display"));
    assert_eq!(session.ends().1, Some(0));
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
    assert_eq!(code, Some(0));
    assert!(took >= Duration::from_millis(1_000), "SIGTERM was given its time: {took:?}");
    assert!(!lives(runaway), "the runaway lives");
}

#[test]
fn an_app_that_listens_ends_the_session_at_once() {
    let mut session = Session::start(&["sleep", "1000"]);
    let (link, _) = session.front();
    link.send(&ToSession::Stop { reason: "test".into() }, &[]).unwrap();
    assert_eq!(session.ends().1, Some(0));
}

#[test]
fn sigterm_is_a_stop() {
    let mut session = Session::start(&["sleep", "1000"]);
    let _ = session.front();
    let pid = rustix::process::Pid::from_raw(session.process.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(session.ends().1, Some(0));
}

#[test]
fn doubly_forked_children_are_reaped() {
    let script = "for i in 1 2 3 4 5 6 7 8; do (true & exec true) ; done; \
                  (sh -c 'sleep 0.05' &); echo done; exec sleep 1000";
    let session = Session::start(&["sh", "-c", script]);
    let (link, _) = session.front();
    session.log_until(&link, |log| log.contains("done"));
    let pid = session.process.id();
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
    assert_eq!(session.ends().1, Some(0));
}
