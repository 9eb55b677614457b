//! `kill -9` of every kind of process of a whole host, at seeded moments of launches, while somebody
//! else's stream runs: what was not killed goes on, the next launch is clean, and nothing leaks. And
//! the host as the first process of a PID namespace, to which everybody's orphans come.
//!
//! `SEED=n` begins with another seed, which a failure tells; `MOONSHARD_SOAK=1` makes it 200 kills.
mod place;

use std::collections::BTreeSet;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use place::{Host, Place, alone, eventually};
use serde_json::Value;

/// The pattern, and beside it a process that leaves its group and its parent.
const APP: &str = "Pattern and stray";
/// So small that streams are no question of speed.
const SMALL: [&str; 5] = ["--mode", "320x180x15", "--bitrate", "1000", "--allow-loss"];
/// A client that is ended by something else.
const ENDLESS: [&str; 2] = ["--seconds", "3600"];
/// Hosts at once.
const HOSTS: usize = 2;
/// Kills, with and without MOONSHARD_SOAK.
const SOAK: usize = 200;
const ORDINARY: usize = 6;

/// What is killed; all of them before one comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Front,
    Session,
    Encoder,
    Supervisor,
    /// The session dies while nobody watches it.
    SupervisorThenSession,
}

const VICTIMS: [Victim; 5] = [
    Victim::Front,
    Victim::Session,
    Victim::Encoder,
    Victim::Supervisor,
    Victim::SupervisorThenSession,
];

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// Says what was done when the test fails over it.
struct Told(String);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed at {}", self.0);
        }
    }
}

/// Says what sessions have said when the test fails.
struct Logs<'a>(&'a Place);

impl Drop for Logs<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let sessions = self.0.directory.path().join("run/moonshard/sessions");
        for session in std::fs::read_dir(sessions).into_iter().flatten().flatten() {
            let log = std::fs::read_to_string(session.path().join("session.log"));
            eprintln!("{:?}: {}", session.file_name(), log.unwrap_or_default());
        }
    }
}

/// A client's process, which does not outlive its test.
struct Player(Option<Child>);

impl Player {
    fn has_ended(&mut self) -> bool {
        self.0.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    /// Waits for its end; what it has said.
    fn output(mut self) -> Output {
        eventually("the client ends", || self.has_ended().then_some(()));
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A process of a place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Process {
    line: String,
    pid: u32,
}

/// From proc_pid_stat(5): what follows the name's last ')'.
fn parent_and_state(pid: u32) -> Option<(u32, char)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut columns = stat.rsplit_once(") ")?.1.split(' ');
    let state = columns.next()?.chars().next()?;
    Some((columns.next()?.parse().ok()?, state))
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn processes(place: &Place) -> BTreeSet<Process> {
    let mark = place.directory.path().to_str().unwrap().as_bytes();
    let read = |pid: u32, file| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    pids()
        .filter(|pid| *pid != std::process::id())
        .filter(|pid| read(*pid, "environ").windows(mark.len()).any(|window| window == mark))
        .map(|pid| {
            let line = String::from_utf8_lossy(&read(pid, "cmdline")).replace('\0', " ");
            Process { line, pid }
        })
        .collect()
}

/// Children of the place's own processes that nobody has awaited.
fn zombies(place: &Place) -> Vec<u32> {
    let parents: BTreeSet<u32> = processes(place).into_iter().map(|process| process.pid).collect();
    let is_ours = |pid: &u32| {
        parent_and_state(*pid)
            .is_some_and(|(parent, state)| state == 'Z' && parents.contains(&parent))
    };
    pids().filter(is_ours).collect()
}

fn kill(pid: u32) {
    let done = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
    done.unwrap();
}

/// Files of shared memory that no living process uses.
fn lost_memory() -> BTreeSet<String> {
    let entries = std::fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    let mut names: BTreeSet<String> =
        entries.filter_map(|entry| entry.path().to_str().map(str::to_owned)).collect();
    for pid in pids().filter(|_| !names.is_empty()).collect::<Vec<_>>() {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let open: BTreeSet<_> = fds.filter_map(|fd| std::fs::read_link(fd.path()).ok()).collect();
        names.retain(|name| !maps.contains(name.as_str()) && !open.contains(Path::new(name)));
    }
    names
}

/// A host starts again at its ports, so these are none that the system gives to others meanwhile.
fn choose_ports(place: &Place) {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let spread = u16::try_from(std::process::id() % 1000).unwrap() * 20;
    let mut free = std::iter::repeat_with(|| {
        10_000 + (spread + NEXT.fetch_add(1, Ordering::Relaxed)) % 22_000
    })
    .filter(|port| {
        TcpListener::bind(("0.0.0.0", *port)).is_ok() && UdpSocket::bind(("0.0.0.0", *port)).is_ok()
    });
    let file = place.directory.path().join("moonshard.toml");
    let mut text = std::fs::read_to_string(&file).unwrap();
    for name in ["https", "http", "rtsp", "video", "control", "audio"] {
        let port = free.next().unwrap();
        text = text.replace(&format!("\n{name} = 0\n"), &format!("\n{name} = {port}\n"));
    }
    std::fs::write(file, text).unwrap();
}

/// An app whose processes a dead session's successor has to find by themselves.
fn add_app(place: &Place) {
    let program = moonshard();
    let script = format!("(setsid sleep 7000 &) ; exec {} pattern", program.display());
    place.configure(&format!(
        "[[apps]]\ntitle = \"{APP}\"\ncommand = [\"sh\", \"-c\", \"{script}\"]\n"
    ));
}

fn moonshard() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_moonshard-loadtest")).with_file_name("moonshard")
}

/// A stream, as the host tells of it: its session and the frames that it has sent. None: no frame yet.
fn stream(place: &Place, ids: &dyn Fn(&str) -> bool) -> Option<(String, f64)> {
    let sessions = place.sessions();
    let session = sessions.iter().find(|s| s["id"].as_str().is_some_and(ids))?;
    let sent = session["figures"]["encoder_frames_sent"].as_f64().filter(|sent| *sent > 0.0)?;
    (session["state"] == "streaming").then(|| (session["id"].as_str().unwrap().to_owned(), sent))
}

/// Frames are sent from now on, too: their number changes that many times (a new encoder counts anew;
/// the first change may be of frames before).
fn goes_on(place: &Place, id: &str, changes: usize) {
    let mut last = None;
    for _ in 0..=changes {
        last = eventually(&format!("the stream of {id} goes on"), || {
            let (_, sent) = stream(place, &|this| this == id)?;
            (last != Some(sent)).then_some(Some(sent))
        });
    }
}

/// What must not change, whoever is killed.
struct Still {
    /// The bystander's session.
    id: String,
    /// The bystander's processes: session, app, sound server, client. A machine that is slow enough
    /// makes its encoder look hung, so that may be another one.
    bystander: BTreeSet<Process>,
    /// All of the place, as it is when only the bystander plays.
    lines: Vec<String>,
    /// Descriptors of the supervisor then.
    fds: usize,
}

fn lines(place: &Place) -> Vec<String> {
    processes(place).into_iter().map(|process| process.line).collect()
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

impl Still {
    fn of(place: &Place, host: &Host<'_>) -> Self {
        let (id, _) = eventually("the bystander streams", || stream(place, &|_| true));
        let all = processes(place);
        let lines = all.iter().map(|process| process.line.clone()).collect();
        let may_change = ["moonshard front", "moonshard serve", "moonshard encoder"];
        let stays = |process: &Process| !may_change.iter().any(|k| process.line.contains(k));
        let bystander = all.into_iter().filter(stays).collect();
        Self { id, bystander, lines, fds: descriptors(host.pid()) }
    }

    fn is_other(&self, id: &str) -> bool {
        self.id != id
    }

    /// The process of a kind that the bystander has nothing to do with, if there is one.
    fn process(&self, place: &Place, kind: &str) -> Option<u32> {
        let kind = format!("moonshard {kind} ");
        let is_it = |line: &str| line.starts_with(&kind) && !line.contains(&self.id);
        processes(place).into_iter().find(|process| is_it(&process.line)).map(|p| p.pid)
    }

    /// Only the bystander plays again, and all is as it was.
    fn check(&self, place: &Place, host: &Host<'_>) {
        goes_on(place, &self.id, 1);
        let all = processes(place);
        assert!(self.bystander.is_subset(&all), "{:#?} of {all:#?}", self.bystander);
        let mut seen = Vec::new();
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("only the bystander's processes are left", || {
                seen = lines(place);
                (seen == self.lines && zombies(place).is_empty()).then_some(())
            });
            eventually("only the bystander's directory is left", || {
                let sessions = place.directory.path().join("run/moonshard/sessions");
                let names = std::fs::read_dir(sessions).unwrap().flatten().map(|e| e.file_name());
                (names.collect::<Vec<_>>() == [self.id.as_str()]).then_some(())
            });
            // One that was started again knows less of the sessions that it has adopted.
            eventually("the supervisor holds no more than before", || {
                (descriptors(host.pid()) <= self.fds).then_some(())
            });
        }));
        if let Err(reason) = done {
            eprintln!("{seen:#?} instead of {:#?}, zombies {:?}", self.lines, zombies(place));
            std::panic::resume_unwind(reason);
        }
    }
}

/// One launch, one kill, and what has to become of it.
fn sequence<'a>(
    place: &'a Place,
    mut host: Host<'a>,
    still: &Still,
    victim: Victim,
    chance: &mut Chance,
) -> Host<'a> {
    let _logs = Logs(place);
    let mut told = Told(format!("the kill of {victim:?}"));
    let client = host.client("a", APP).with(&SMALL).with(&ENDLESS).start();
    let mut client = Player(Some(client));
    // Counted from where it can be: so the moment is in the launch's midst on a slow machine, too.
    let after_ms = match victim {
        Victim::Session | Victim::Encoder => chance.below(1200),
        _ => chance.below(2000),
    };
    let kind = match victim {
        Victim::Encoder => "encoder",
        Victim::Front => "front",
        _ => "session",
    };
    let asks = matches!(victim, Victim::Session | Victim::Encoder);
    if asks {
        eventually("there is somebody to kill", || still.process(place, kind));
    }
    if chance.below(2) == 0 {
        eventually("it streams", || stream(place, &|id| still.is_other(id)));
    }
    std::thread::sleep(Duration::from_millis(after_ms));
    let before = stream(place, &|id| still.is_other(id)).map(|(id, _)| id);
    let supervisor = matches!(victim, Victim::Supervisor | Victim::SupervisorThenSession);
    let target = if supervisor { Some(host.pid()) } else { still.process(place, kind) };
    told.0 += &format!(" (pid {target:?}) {after_ms} ms on, streaming: {before:?}");
    target.into_iter().for_each(kill);

    if supervisor {
        eventually("the front goes with it", || {
            still.process(place, "front").is_none().then_some(())
        });
        if victim == Victim::SupervisorThenSession {
            still.process(place, "session").into_iter().for_each(kill);
            let strays = lines(place).iter().filter(|line| line.starts_with("sleep")).count();
            told.0 += &format!(", with {strays} strays");
        }
        drop(host);
        host = place.serve();
    }
    if victim == Victim::Front {
        eventually("there is another front", || {
            still.process(place, "front").filter(|front| Some(*front) != target)
        });
    }
    if victim == Victim::Encoder && before.is_some() {
        eventually("there is another encoder", || {
            still.process(place, "encoder").filter(|encoder| Some(*encoder) != target)
        });
    }
    match (victim, before) {
        (Victim::Session, before) => is_told(client.output(), before.is_some()),
        (Victim::SupervisorThenSession, _) | (_, None) => drop(client),
        (_, Some(id)) => {
            goes_on(place, &id, 2);
            assert!(!client.has_ended(), "the client of a stream that goes on has ended");
            if chance.below(2) == 0 {
                told.0 += ", then stopped";
                place.admin(&["sessions", "stop", &id]);
                is_told(client.output(), true);
            } else {
                told.0 += ", then the client vanished";
                drop(client);
            }
        }
    }
    told.0 += ", then the next launch";
    let report = host.client("a", APP).with(&SMALL).with(&["--seconds", "0.5"]).plays();
    assert!(report["frames_decoded"].as_f64() > Some(0.0), "{report}");
    told.0 += ", then at rest";
    still.check(place, &host);
    println!("{}", told.0);
    host
}

/// The client has heard that its session is over; one that did not stream yet may have failed as well.
fn is_told(output: Output, streamed: bool) {
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{output:?}");
    match serde_json::from_slice::<Value>(&output.stdout) {
        Ok(report) => {
            let end = report["termination"].as_str().unwrap();
            assert!(end.starts_with("ended by the host"), "{report}");
        }
        Err(_) => assert!(!streamed && output.status.code() == Some(3), "{output:?}: {words}"),
    }
}

/// One host meets these kills.
fn host_of(seed: u64, mut chance: Chance, plan: &[Victim]) {
    let mut told = Told(format!("SEED={seed}"));
    let start = told.0.clone();
    let place = Place::new();
    choose_ports(&place);
    add_app(&place);
    let memory = lost_memory();
    let mut host = place.serve();
    let bystander = host.client("b", APP).with(&SMALL).with(&ENDLESS).start();
    let bystander = Player(Some(bystander));
    let still = Still::of(&place, &host);
    for (kill, victim) in plan.iter().enumerate() {
        told.0 = format!("{start}, kill {kill} of {plan:?}");
        host = sequence(&place, host, &still, *victim, &mut chance);
    }
    told.0 = format!("{start}, after {plan:?}");
    place.admin(&["sessions", "stop", &still.id]);
    is_told(bystander.output(), true);
    eventually("nothing is left", || {
        let is_clean = place.leftovers().is_empty() && place.sessions().is_empty();
        (is_clean && lost_memory().is_subset(&memory)).then_some(())
    });
    host.end();
}

#[test]
fn whoever_is_killed_the_others_go_on_and_nothing_is_left() {
    let _alone = alone();
    let number = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let soak = std::env::var_os("MOONSHARD_SOAK").is_some();
    // Another one each time where there is time to look at what it finds.
    let drawn = if soak { u64::from(std::process::id()) << 8 } else { 1 };
    let seed: u64 = number.unwrap_or(drawn);
    let mut chance = Chance(seed);
    let mut plan = Vec::new();
    while plan.len() < if soak { SOAK } else { ORDINARY } {
        let mut left = VICTIMS.to_vec();
        while !left.is_empty() {
            plan.push(left.swap_remove(usize::try_from(chance.below(left.len() as u64)).unwrap()));
        }
    }
    plan.truncate(if soak { SOAK } else { ORDINARY });
    std::thread::scope(|scope| {
        for part in plan.chunks(plan.len() / HOSTS) {
            let chance = Chance(chance.below(u64::MAX));
            scope.spawn(move || host_of(seed, chance, part));
        }
    });
}

/// A host that is the first process of its PID namespace; it goes with its namespace.
struct First(Child);

impl First {
    /// None: this user may not make namespaces.
    fn start(place: &Place) -> Option<Self> {
        let new = ["--pid", "--fork", "--mount-proc", "--kill-child"];
        if !Command::new("unshare").args(new).arg("true").status().is_ok_and(|s| s.success()) {
            return None;
        }
        let path = place.directory.path();
        let child = Command::new("unshare")
            .args(new)
            .arg(moonshard())
            .arg("serve")
            .arg("--config")
            .arg(path.join("moonshard.toml"))
            .env("XDG_RUNTIME_DIR", path.join("run"))
            .env("XDG_STATE_HOME", path.join("state"))
            .env("XDG_CONFIG_HOME", path.join("config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        Some(Self(child.unwrap()))
    }

    /// Of the supervisor, as it is seen from here.
    fn pid(&self) -> u32 {
        let own = self.0.id();
        let is_child = |pid: &u32| parent_and_state(*pid).is_some_and(|(parent, _)| parent == own);
        eventually("unshare has forked", || pids().find(is_child))
    }
}

impl Drop for First {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn as_the_first_process_it_reaps_strangers_too() {
    let place = Place::new();
    // Builds the program if need be.
    place.admin(&["status"]);
    let Some(mut first) = First::start(&place) else {
        // Past the test harness, which keeps what passing tests print.
        let words = "NOT TESTED: the host as PID 1, which needs `unshare --pid`: run as root\n";
        return std::io::Write::write_all(&mut std::io::stderr(), words.as_bytes()).unwrap();
    };
    let host = first.pid();
    eventually("it serves", || {
        place.admin(&["apps"]).as_array().filter(|a| !a.is_empty()).cloned()
    });
    assert_eq!(place.admin(&["status"])["pid"], 1);
    for stranger in ["6001", "6002", "6003"] {
        let script = format!("(setsid sleep {stranger} &) ; exit");
        let target = host.to_string();
        let inside = ["--target", target.as_str(), "--pid", "sh", "-c", script.as_str()];
        assert!(Command::new("nsenter").args(inside).status().unwrap().success());
        let is_it = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line == format!("sleep\0{stranger}\0").as_bytes()
                && parent_and_state(*pid).is_some_and(|(parent, _)| parent == host)
        };
        let orphan = eventually("the orphan has come to the host", || pids().find(is_it));
        kill(orphan);
        eventually("it is reaped", || {
            parent_and_state(orphan).is_none_or(|(parent, _)| parent != host).then_some(())
        });
    }
    // An end of its own, with the status that it has as any other process.
    assert!(Command::new("kill").arg(host.to_string()).status().unwrap().success());
    let status = eventually("it ends", || first.0.try_wait().unwrap());
    assert!(status.success(), "{status}");
    assert_eq!(place.processes(), Vec::<String>::new());
}
