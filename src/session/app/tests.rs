//! Starting, hearing and ending real programs.
use std::time::{Duration, Instant};

use super::*;

/// Nothing here takes longer, unless it does not work.
const PATIENCE: Duration = Duration::from_secs(10);

fn spec(command: &[&str]) -> AppSpec {
    AppSpec {
        id: 1,
        title: "Test".into(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        environment: [("GREETING".to_owned(), "hello".to_owned())].into(),
        directory: None,
    }
}

fn start_in(spec: &AppSpec, directory: &Path) -> Result<App, AppError> {
    let pulse_server = "unix:/nowhere/pulse";
    start(spec, &Surroundings { directory, wayland_display: "wayland-0", pulse_server })
}

fn start_shell(script: &str) -> App {
    start_in(&spec(&["sh", "-c", script]), Path::new("/tmp")).unwrap()
}

fn until<T>(mut done: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn exit(app: &mut App) -> Exit {
    until(|| {
        app.read_output();
        app.try_reap()
    })
}

#[test]
fn an_app_that_cannot_start_says_why() {
    let missing = start_in(&spec(&["/no/such/program"]), Path::new("/tmp")).unwrap_err();
    assert!(missing.to_string().starts_with("cannot run \"/no/such/program\": No such file"));
    let denied = start_in(&spec(&["/etc/passwd"]), Path::new("/tmp")).unwrap_err();
    assert!(denied.to_string().contains("Permission denied"), "{denied}");
    assert!(matches!(start_in(&spec(&[]), Path::new("/tmp")), Err(AppError::Command(_))));
    assert!(matches!(start_in(&spec(&[""]), Path::new("/tmp")), Err(AppError::Command(_))));
    let mut elsewhere = spec(&["true"]);
    elsewhere.directory = Some("/no/such/directory".into());
    assert!(matches!(start_in(&elsewhere, Path::new("/tmp")), Err(AppError::Directory(_))));
}

#[test]
fn an_app_that_ends_at_once_is_reported_with_status_and_last_words() {
    let mut app = start_shell("echo out; echo err >&2; exit 3");
    assert_eq!(exit(&mut app), Exit::Code(3));
    app.read_output();
    assert_eq!(app.last_words(), "out\nerr");
    assert!(app.is_gone());
    assert_eq!(app.try_reap(), None, "told once");
}

#[test]
fn the_environment_holds_what_is_allowed_and_ours() {
    let mut app = start_shell("env");
    exit(&mut app);
    app.read_output();
    let log = app.log();
    for expected in [
        "GREETING=hello",
        "XDG_RUNTIME_DIR=/tmp",
        "XDG_SESSION_TYPE=wayland",
        "WAYLAND_DISPLAY=wayland-0",
        "PULSE_SERVER=unix:/nowhere/pulse",
    ] {
        assert!(log.lines().any(|line| line == expected), "{expected} in {log}");
    }
    let ours = ["GREETING", "XDG_RUNTIME_DIR", "XDG_SESSION_TYPE", "WAYLAND_DISPLAY"];
    let shells = ["PULSE_SERVER", "PWD", "OLDPWD", "SHLVL", "_"];
    for name in log.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name) {
        let known = INHERITED.iter().chain(&ours).chain(&shells).any(|known| *known == name);
        assert!(known, "{name} crossed");
    }
}

#[test]
fn a_configured_environment_cannot_lead_out_of_the_session() {
    let mut spec = spec(&["sh", "-c", "echo $WAYLAND_DISPLAY $XDG_RUNTIME_DIR $PULSE_SERVER"]);
    spec.environment.insert("WAYLAND_DISPLAY".into(), "/run/user/0/wayland-0".into());
    spec.environment.insert("XDG_RUNTIME_DIR".into(), "/run/user/0".into());
    spec.environment.insert("PULSE_SERVER".into(), "unix:/run/user/0/pulse/native".into());
    let mut app = start_in(&spec, Path::new("/tmp")).unwrap();
    exit(&mut app);
    app.read_output();
    assert_eq!(app.log(), "wayland-0 /tmp unix:/nowhere/pulse\n");
}

#[test]
fn an_app_that_listens_ends_by_sigterm() {
    let mut app =
        start_shell("trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done");
    until(|| {
        app.read_output();
        app.log().contains("ready").then_some(())
    });
    app.term();
    assert_eq!(exit(&mut app), Exit::Code(0));
    app.read_output();
    assert!(app.log().ends_with("bye\n"));
}

#[test]
fn an_app_that_ignores_sigterm_is_killed_with_its_process_group() {
    let mut app =
        start_shell("trap '' TERM; sleep 1000 & echo $!; wait; while :; do sleep 1; done");
    let child: i32 = until(|| {
        app.read_output();
        app.log().trim().parse().ok()
    });
    app.term();
    assert_eq!(app.try_reap(), None);
    app.kill();
    assert_eq!(exit(&mut app), Exit::Signal(9));
    let child = rustix::process::Pid::from_raw(child).unwrap();
    until(|| {
        // Gone, or a zombie that its new parent has yet to reap.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.as_raw_nonzero()));
        stat.map_or(true, |stat| stat.contains(") Z")).then_some(())
    });
}

#[test]
fn what_the_first_process_leaves_behind_goes_on() {
    let mut app = start_shell("sleep 1000 & echo $!; exit 0");
    assert_eq!(exit(&mut app), Exit::Code(0));
    assert_eq!(app.exit(), Some(Exit::Code(0)));
    app.read_output();
    let child: i32 = app.log().trim().parse().unwrap();
    let child = rustix::process::Pid::from_raw(child).unwrap();
    rustix::process::kill_process(child, Signal::KILL).expect("it goes on");
}

#[test]
fn output_without_end_is_read_in_bounded_parts() {
    let mut app = start_shell("exec yes");
    until(|| app.read_output().then_some(()));
    assert!(app.log().len() <= log::LOG_BYTES_MAX);
    app.kill();
    assert_eq!(exit(&mut app), Exit::Signal(9));
}

#[test]
fn an_app_goes_before_its_session_when_memory_is_short() {
    let mut app = start_shell("cat /proc/self/oom_score_adj; exec sleep 1000");
    let path = format!("/proc/{}/oom_score_adj", app.pid());
    let score: i32 = std::fs::read_to_string(path).unwrap().trim().parse().unwrap();
    assert_eq!(score, (oom::own() + OOM_ABOVE_SESSION).min(1000));
    app.kill();
    exit(&mut app);
}
