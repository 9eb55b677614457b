//! A place of its own for a host under test, the host in it, and clients that play from it.
#![allow(dead_code, reason = "each test program uses a part")]
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

/// No step of a test takes longer, unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);
/// Streams encode and decode in software: one test at a time, or they disturb each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

pub fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The host's program, beside the client's. Built if it is not there or older than its source: only a
/// test of the whole workspace has built it already.
fn moonshard() -> PathBuf {
    static BUILT: Once = Once::new();
    let client = Path::new(env!("CARGO_BIN_EXE_moonshard-loadtest"));
    let program = client.with_file_name("moonshard");
    BUILT.call_once(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let made = program.metadata().and_then(|data| data.modified());
        if made.is_ok_and(|made| made >= newest(&root.join("src"))) {
            return;
        }
        let directory = client.parent().unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(root).args(["build", "--workspace", "--bins", "--target-dir"]);
        cargo.arg(directory.parent().unwrap());
        if directory.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().unwrap().success(), "the host does not build");
    });
    program
}

fn newest(directory: &Path) -> SystemTime {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let age = |path: PathBuf| match path.is_dir() {
        true => newest(&path),
        false => path.metadata().unwrap().modified().unwrap(),
    };
    entries.map(age).max().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Directories of one test, and the network namespace of its host, if it has one.
pub struct Place {
    pub directory: tempfile::TempDir,
    namespace: Option<String>,
    /// What RUST_LOG is for the host.
    pub logs: Option<&'static str>,
}

impl Place {
    pub fn new() -> Self {
        Self::make(None, "")
    }

    /// With more tables in the configuration.
    pub fn with(more: &str) -> Self {
        Self::make(None, more)
    }

    pub fn within(namespace: Option<String>) -> Self {
        Self::make(namespace, "")
    }

    fn make(namespace: Option<String>, more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("run")).unwrap();
        let text = "host_name = \"under-test\"\nmdns = false\n[ports]\nhttps = 0\nhttp = 0\n\
                    rtsp = 0\nvideo = 0\ncontrol = 0\naudio = 0\n[metrics]\nport = 0\n";
        let text = format!("{text}{more}");
        std::fs::write(directory.path().join("moonshard.toml"), text).unwrap();
        Self { directory, namespace, logs: None }
    }

    /// Adds to the configuration, before the host serves.
    pub fn configure(&self, more: &str) {
        use std::io::Write;
        let file = self.path().join("moonshard.toml");
        let mut file = std::fs::OpenOptions::new().append(true).open(file).unwrap();
        file.write_all(more.as_bytes()).unwrap();
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn environment(&self, command: &mut Command) {
        command
            .env("XDG_RUNTIME_DIR", self.path().join("run"))
            .env("XDG_STATE_HOME", self.path().join("state"))
            .env("XDG_CONFIG_HOME", self.path().join("config"))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
    }

    pub fn admin(&self, arguments: &[&str]) -> Value {
        let mut command = Command::new(moonshard());
        command.arg("--config").arg(self.path().join("moonshard.toml")).args(arguments);
        self.environment(&mut command);
        let output = command.arg("--json").output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Starts the host and waits until it serves.
    pub fn serve(&self) -> Host<'_> {
        let mut command = inside(self.namespace.as_deref(), &moonshard());
        command.arg("serve").arg("--config").arg(self.path().join("moonshard.toml"));
        self.environment(&mut command);
        if let Some(logs) = self.logs {
            command.env("RUST_LOG", logs);
        }
        let log = std::fs::File::create(self.path().join("log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap();
        let mut host = Host { place: self, child, http: 0 };
        host.http = eventually("the host serves", || {
            let port = self.admin(&["status"])["ports"]["http"].as_u64()?;
            let apps = self.admin(&["apps"]);
            apps.as_array().filter(|apps| !apps.is_empty())?;
            u16::try_from(port).ok()
        });
        host
    }

    /// The port that the host has for `service`.
    pub fn port(&self, service: &str) -> u16 {
        let port = self.admin(&["status"])["ports"][service].as_u64();
        u16::try_from(port.unwrap()).unwrap()
    }

    /// What the host answers operators: the status number and the body.
    pub fn operators(&self, path: &str) -> (u16, String) {
        let status = self.admin(&["status"]);
        let at = status["metrics"].as_str().unwrap_or_else(|| panic!("{status}"));
        let mut socket = TcpStream::connect(at).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Sessions that the host tells of.
    pub fn sessions(&self) -> Vec<Value> {
        self.admin(&["sessions"]).as_array().cloned().unwrap_or_default()
    }

    /// Removes every pairing at the host.
    pub fn forget_clients(&self) {
        for client in self.admin(&["clients"]).as_array().unwrap() {
            self.admin(&["clients", "remove", client["id"].as_str().unwrap()]);
        }
    }

    /// What is in this place beyond the host itself: session directories and foreign processes.
    pub fn leftovers(&self) -> Vec<String> {
        let sessions = std::fs::read_dir(self.path().join("run/moonshard/sessions"));
        let mut found: Vec<String> =
            sessions.into_iter().flatten().map(|e| format!("{:?}", e.unwrap().path())).collect();
        let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
        let place = self.path().join("run/moonshard/sessions");
        let own = |line: &&str| line.contains(place.to_str().unwrap());
        found.extend(sockets.lines().filter(own).map(str::to_owned));
        let kinds = ["serve", "front"].map(|kind| format!("moonshard {kind}"));
        let is_host = |name: &str| kinds.iter().any(|kind| name.contains(kind.as_str()));
        found.extend(self.processes().into_iter().filter(|name| !is_host(name)));
        found
    }

    /// Command lines of the living processes that were started in this place.
    pub fn processes(&self) -> Vec<String> {
        let mark = self.path().to_str().unwrap().as_bytes();
        let own = std::process::id().to_string();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let name = entry.file_name();
            let is_process = name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            let is_here = environment.windows(mark.len()).any(|window| window == mark);
            if is_process && is_here && name.to_str() != Some(own.as_str()) {
                let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                found.push(String::from_utf8_lossy(&line).replace('\0', " "));
            }
        }
        found
    }

    /// What the host has said, on both outputs.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }
}

/// A command, in a network namespace if one is named.
fn inside(namespace: Option<&str>, program: &Path) -> Command {
    let Some(namespace) = namespace else { return Command::new(program) };
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program);
    command
}

/// A running host; ended when the test ends.
pub struct Host<'a> {
    place: &'a Place,
    child: Child,
    http: u16,
}

impl Host<'_> {
    /// A client called `name`, which pairs if it has not yet.
    pub fn client(&self, name: &str, app: &str) -> Client<'_> {
        self.stranger(name, app).and_pairs()
    }

    /// The same without any way to pair.
    pub fn stranger(&self, name: &str, app: &str) -> Client<'_> {
        self.client_from(None, "127.0.0.1", name, app)
    }

    /// A client in a namespace of its own that reaches the host by `address`.
    pub fn client_from(
        &self,
        namespace: Option<&str>,
        address: &str,
        name: &str,
        app: &str,
    ) -> Client<'_> {
        let program = Path::new(env!("CARGO_BIN_EXE_moonshard-loadtest"));
        let mut command = inside(namespace, program);
        self.place.environment(&mut command);
        command.args(["play", "--json", "--bitrate", "5000", "--seconds", "2", "--app", app]);
        command.arg("--host").arg(format!("{address}:{}", self.http));
        command.arg("--state").arg(self.place.path().join(format!("client-{name}")));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Client { command, host: self }
    }

    /// Of its supervisor.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks the host to end and waits; nothing of it is left then.
    pub fn end(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
        let status = eventually("the host ends", || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}: {}", self.place.log());
        assert_eq!(self.place.processes(), Vec::<String>::new());
        assert!(!self.place.path().join("run/moonshard").exists());
    }
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.place.log());
        }
        // It takes its sessions along if it is asked; what asks for too much time is killed.
        let _ =
            Command::new("kill").arg(self.child.id().to_string()).stderr(Stdio::null()).status();
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client about to play.
pub struct Client<'a> {
    command: Command,
    host: &'a Host<'a>,
}

impl Client<'_> {
    /// Enters a PIN at the host by itself, if it has to.
    pub fn and_pairs(mut self) -> Self {
        self.command.arg("--pin-via-admin").arg("--moonshard").arg(moonshard());
        self
    }

    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    pub fn start(mut self) -> Child {
        self.command.spawn().unwrap()
    }

    fn output(mut self) -> Output {
        self.command.output().unwrap()
    }

    /// Plays; the run must be clean. Its report.
    pub fn plays(self) -> Value {
        let place = self.host.place;
        report(&self.output(), place)
    }

    /// Plays; there must be no stream. What the client says of it.
    pub fn refused(self) -> String {
        let output = self.output();
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

/// The report of a run that must be clean.
pub fn report(output: &Output, place: &Place) -> Value {
    assert_eq!(output.status.code(), Some(0), "{output:?}\n{}", place.log());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Asks until there is an answer.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "it did not happen: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
