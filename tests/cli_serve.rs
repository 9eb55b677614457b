//! The supervisor, seen from outside: one host in a place, what it survives, what it leaves.
mod cli_support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cli_support::{Host, PATIENCE, Place, STOPPED_BY, eventually, pids, signal};

fn zombies_of(parent: u32) -> usize {
    let stat = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    let is_zombie = |stat: &String| {
        let mut columns = stat.rsplit_once(") ").map_or("", |s| s.1).split(' ');
        columns.next() == Some("Z") && columns.next() == Some(parent.to_string().as_str())
    };
    pids().iter().filter_map(stat).filter(is_zombie).count()
}

#[test]
fn a_host_serves_answers_and_goes_without_a_trace() {
    let place = Place::new();
    let mut host = place.serve();
    let apps = place.run(&["apps", "--json"]);
    assert_eq!(apps.code, Some(0), "{apps:?}");
    let titles: Vec<String> = apps
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|app| app["title"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(titles, ["Desktop", "Test pattern"]);
    let table = place.run(&["apps"]);
    assert!(table.out.starts_with("ID") && table.out.contains("Test pattern"), "{table:?}");
    assert!(place.run(&["pair"]).out.contains("No device wants to pair"));
    assert!(place.run(&["clients"]).out.contains("No device is paired"));
    assert!(place.run(&["sessions"]).out.contains("Nothing runs"));
    for arguments in
        [&["pair", "nobody", "1234"][..], &["clients", "remove", "00"], &["sessions", "stop", "00"]]
    {
        let ran = place.run(arguments);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.err.starts_with("moonshard: "), "{ran:?}");
    }
    let status = place.run(&["status", "--json"]).json();
    assert_eq!(status["pid"].as_u64(), Some(u64::from(host.pid())));
    for dir in [place.runtime(), place.state()] {
        assert_eq!(std::fs::metadata(&dir).unwrap().mode() & 0o777, 0o700, "{}", dir.display());
    }
    let socket = place.runtime().join("admin.sock");
    assert_eq!(std::fs::metadata(socket).unwrap().mode() & 0o777, 0o600);

    host.signal("TERM");
    let (code, took) = host.wait();
    assert_eq!(code, Some(0));
    assert!(took <= STOPPED_BY, "{took:?}");
    assert_eq!(place.processes(), []);
    assert!(!place.runtime().exists());
}

#[test]
fn a_second_host_is_refused_by_the_name_of_the_first() {
    let place = Place::new();
    let host = place.serve();
    let first = format!("moonshard serve (pid {})", host.pid());
    let same_place = place.run(&["serve"]);
    assert_eq!(same_place.code, Some(1), "{same_place:?}");
    assert!(same_place.err.contains(&first), "{same_place:?}");

    let status = place.run(&["status", "--json"]).json();
    let other = Place::new();
    let free = std::fs::read_to_string(other.config()).unwrap();
    for port in ["https", "http", "rtsp", "video", "control", "audio"] {
        let number = status["ports"][port].as_u64().unwrap();
        let taken = free.replace(&format!("{port} = 0"), &format!("{port} = {number}"));
        std::fs::write(other.config(), taken).unwrap();
        let ran = other.run(&["serve"]);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.err.contains(&format!("port {number}")), "{ran:?}");
        assert!(ran.err.contains(&first), "{ran:?}");
    }
    assert_eq!(place.run(&["apps"]).code, Some(0), "the first one is untouched");
}

#[test]
fn a_taken_port_is_refused_by_the_name_of_its_holder() {
    let place = Place::new();
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let text = std::fs::read_to_string(place.config()).unwrap();
    std::fs::write(place.config(), text.replace("rtsp = 0", &format!("rtsp = {port}"))).unwrap();
    let ran = place.run(&["serve"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains(&format!("TCP port {port} (RTSP) is taken by")), "{ran:?}");
    assert!(ran.err.contains(&format!("pid {}", std::process::id())), "{ran:?}");
    assert!(ran.err.contains("[ports]"), "{ran:?}");
}

#[test]
fn what_dead_sessions_left_is_swept_at_the_start() {
    let place = Place::new();
    let stale = place.runtime().join("sessions/0123456789abcdef");
    std::fs::create_dir_all(stale.join("deep")).unwrap();
    std::fs::write(stale.join("lock"), "").unwrap();
    std::fs::write(stale.join("session.sock"), "").unwrap();
    let _host = place.serve();
    assert!(!stale.exists());
}

#[test]
fn a_front_that_is_killed_is_replaced_and_nobody_is_refused() {
    let place = Place::new();
    let host = place.serve();
    let front = place.process("front");
    let http = place.run(&["status", "--json"]).json()["ports"]["http"].as_u64().unwrap();
    signal(front, "KILL");
    // The listener lives on: whoever comes now waits for the next front.
    std::net::TcpStream::connect(("127.0.0.1", u16::try_from(http).unwrap())).unwrap();
    eventually(|| (place.process("front") != front).then_some(()));
    eventually(|| (place.run(&["apps"]).code == Some(0)).then_some(()));
    assert_eq!(zombies_of(host.pid()), 0);
    // What can be known of an end that nobody here wanted is kept.
    let kept = format!("front {front}: ended");
    eventually(|| {
        let files = std::fs::read_dir(place.state().join("crash")).ok()?;
        let texts = files.flatten().filter_map(|f| std::fs::read_to_string(f.path()).ok());
        texts.into_iter().any(|text| text.contains(&kept)).then_some(())
    });
}

/// Killed with what it has started when the test ends.
struct Unheard(Child);

impl Drop for Unheard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_host_that_nobody_listens_to_serves_on() {
    let place = Place::new();
    let config = place.config();
    let mut command = place.command(&["serve", "--config", config.to_str().unwrap()]);
    // Pipes that are full after 64 KiB, with a log that says everything.
    command.env("RUST_LOG", "trace").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut host = Unheard(command.spawn().unwrap());
    let http = eventually(|| {
        let status = place.run(&["status", "--json"]);
        (status.code == Some(0)).then(|| status.json()["ports"]["http"].as_u64())?
    });
    for _ in 0..500 {
        let mut socket = TcpStream::connect(("127.0.0.1", u16::try_from(http).unwrap())).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
            .write_all(b"GET /serverinfo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("<hostname>under-test</hostname>"), "{answer}");
    }
    // Both are full by now: what is not read yet is more than a pipe holds.
    let waiting = rustix::io::ioctl_fionread(host.0.stderr.as_ref().unwrap()).unwrap();
    assert!(waiting >= 60_000, "{waiting} bytes wait");
    assert_eq!(place.run(&["apps"]).code, Some(0));
    signal(host.0.id(), "TERM");
    assert_eq!(host.0.wait().unwrap().code(), Some(0));
    assert_eq!(place.processes(), []);
}

#[test]
fn a_killed_supervisor_takes_its_front_along_and_leaves_room_for_the_next() {
    let place = Place::new();
    let host = place.serve();
    let front = place.process("front");
    drop(host);
    eventually(|| (!pids().contains(&front)).then_some(()));
    let mut next = place.serve();
    next.signal("INT");
    assert_eq!(next.wait().0, Some(0));
}

#[test]
fn a_front_that_hangs_is_reported_and_cannot_hold_up_the_end() {
    let place = Place::new();
    let mut host = place.serve();
    let front = place.process("front");
    signal(front, "STOP");
    let start = Instant::now();
    let ran = place.run(&["apps"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("the front does not answer"), "{ran:?}");
    assert!(start.elapsed() >= Duration::from_secs(4), "{:?}", start.elapsed());
    assert_eq!(place.run(&["status"]).code, Some(0), "what the supervisor knows it still tells");
    host.signal("TERM");
    let (code, took) = host.wait();
    assert_eq!(code, Some(0));
    assert!(took <= STOPPED_BY, "{took:?}");
    assert_eq!(place.processes(), []);
}

#[test]
fn a_front_that_hangs_as_a_whole_is_replaced_and_nobody_is_refused() {
    let place = Place::new();
    let mut host = place.serve();
    let front = place.process("front");
    let http = place.run(&["status", "--json"]).json()["ports"]["http"].as_u64().unwrap();
    let http = u16::try_from(http).unwrap();
    signal(front, "STOP");
    // A thread that still runs might take a visitor along into the end.
    eventually(|| {
        let threads = std::fs::read_dir(format!("/proc/{front}/task")).unwrap().flatten();
        let mut stats = threads.map(|t| std::fs::read_to_string(t.path().join("stat")).unwrap());
        stats.all(|stat| stat.rsplit_once(") ").unwrap().1.starts_with('T')).then_some(())
    });
    let visitors: Vec<_> = (0..8).map(|_| request(http)).collect();
    let killed = host.expect("the front stands still: killed");
    assert!(killed.contains(&front.to_string()), "{killed}");
    // Who came meanwhile is answered by the next one.
    for mut visitor in visitors {
        let mut answer = String::new();
        visitor.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let file = eventually(|| {
        let entries = std::fs::read_dir(place.state().join("crash")).ok()?;
        entries.flatten().map(|entry| entry.path()).next()
    });
    assert!(file.to_str().unwrap().contains(&format!("front-{front}")), "{file:?}");
    let evidence = || std::fs::read_to_string(&file).ok().filter(|text| text.contains("figures"));
    let evidence = eventually(evidence);
    assert!(evidence.contains("no sign of life") && evidence.contains("state=T"), "{evidence}");
    assert!(evidence.contains(" shard-0") && evidence.contains(" door "), "{evidence}");
    assert!(evidence.contains("lane ") && evidence.contains("clients loaded"), "{evidence}");
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    assert_eq!(zombies_of(host.pid()), 0);
}

/// A request of a stranger, on its way.
fn request(http: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", http)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /serverinfo HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    stream
}

#[test]
fn upgrades_fail_no_handshake_and_a_bad_program_changes_nothing() {
    let place = Place::new();
    let program = place.dir.path().join("moonshard");
    let install = |from: &std::path::Path| {
        let new = place.dir.path().join("new");
        std::fs::copy(from, &new).unwrap();
        std::fs::rename(new, &program).unwrap();
    };
    install(std::path::Path::new(env!("CARGO_BIN_EXE_moonshard")));
    let config = place.config();
    let arguments = ["serve", "--config", config.to_str().unwrap()];
    let mut host = Host::of(&mut place.command_of(&program, &arguments));
    host.expect("ready in");
    let https = place.run(&["status", "--json"]).json()["ports"]["https"].as_u64().unwrap();
    let https = u16::try_from(https).unwrap();

    let (over, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let handshakes = || {
        while !over.load(Ordering::Relaxed) {
            let answer = moonshard::tls::client::get(https, "/serverinfo?uniqueid=x", PATIENCE)
                .unwrap_or_else(|error| {
                    panic!("handshake {}: {error}", done.load(Ordering::Relaxed))
                });
            assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
            done.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let loops = [scope.spawn(handshakes), scope.spawn(handshakes)];
        for _ in 0..3 {
            let (front, before) = (place.process("front"), done.load(Ordering::Relaxed));
            eventually(|| (done.load(Ordering::Relaxed) > before + 10).then_some(()));
            install(std::path::Path::new(env!("CARGO_BIN_EXE_moonshard")));
            let ran = place.run(&["upgrade"]);
            assert_eq!(ran.code, Some(0), "{ran:?}");
            assert!(ran.out.contains("The front now is version"), "{ran:?}");
            eventually(|| (!pids().contains(&front)).then_some(()));
        }
        // What does not start, and what is no program at all.
        let front = place.process("front");
        for text in ["#!/bin/sh\nexit 3\n", "no program"] {
            let bad = place.dir.path().join("bad");
            std::fs::write(&bad, text).unwrap();
            std::fs::set_permissions(&bad, std::os::unix::fs::PermissionsExt::from_mode(0o755))
                .unwrap();
            install(&bad);
            let ran = place.run(&["upgrade"]);
            assert_eq!(ran.code, Some(1), "{ran:?}");
            assert!(ran.err.contains("not upgraded: the new"), "{ran:?}");
            assert_eq!(place.process("front"), front, "the one in charge stays");
        }
        over.store(true, Ordering::Relaxed);
        loops.into_iter().for_each(|one| one.join().unwrap());
    });
    // What runs goes on from the last program that worked, also after a crash.
    signal(place.process("front"), "KILL");
    eventually(|| (place.run(&["apps"]).code == Some(0)).then_some(()));
    assert_eq!(zombies_of(host.pid()), 0);
    host.signal("TERM");
    assert_eq!(host.wait().0, Some(0));
    assert_eq!(place.processes(), []);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let place = Place::new();
    let mut host = place.serve();
    signal(place.process("front"), "STOP");
    host.signal("TERM");
    host.expect("Stopping");
    host.signal("TERM");
    let (code, took) = host.wait();
    assert_eq!(code, Some(0));
    // Far from the grace that the first signal gives; the bar itself is half a second.
    assert!(took <= Duration::from_secs(3), "{took:?}");
    assert_eq!(place.processes(), []);
    assert!(!place.runtime().exists());
}

#[test]
fn a_bad_configuration_is_not_taken_over_and_a_good_one_is() {
    let place = Place::new();
    let mut host = place.serve();
    let front = place.process("front");
    let good = std::fs::read_to_string(place.config()).unwrap();
    std::fs::write(place.config(), "what = 1").unwrap();
    host.signal("HUP");
    host.expect("the configuration was not changed");
    assert!(pids().contains(&front));
    let more = "[[apps]]\ntitle = \"New\"\ncommand = [\"true\"]\n";
    std::fs::write(place.config(), good + more).unwrap();
    host.signal("HUP");
    host.expect("was read again");
    eventually(|| (!pids().contains(&front)).then_some(()));
    eventually(|| place.run(&["apps"]).out.contains("New").then_some(()));
}
