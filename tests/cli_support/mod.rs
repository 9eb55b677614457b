//! A place of its own for a host under test, and the host in it.
#![allow(dead_code, reason = "each test program uses a part")]
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// No step of a test takes longer, unless something is wrong.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// A host is gone within five seconds of SIGTERM; what is above that is for slow machines.
pub const STOPPED_BY: Duration = Duration::from_secs(10);

/// Directories and a configuration that nothing else uses. Ports are free ones.
pub struct Place {
    pub dir: tempfile::TempDir,
    /// Operators are answered, at a free port.
    pub metrics: bool,
}

impl Place {
    pub fn new() -> Self {
        Self::with_metrics(false)
    }

    pub fn with_metrics(metrics: bool) -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap(), metrics };
        std::fs::create_dir(place.dir.path().join("run")).unwrap();
        place.configure("");
        place
    }

    /// Writes the configuration: free ports, no announcement, and what is given on top.
    pub fn configure(&self, more: &str) {
        let text = format!(
            "host_name = \"under-test\"\nmdns = false\n{more}\n[ports]\nhttps = 0\nhttp = 0\n\
             rtsp = 0\nvideo = 0\ncontrol = 0\naudio = 0\n[metrics]\nenabled = {}\nport = 0\n",
            self.metrics
        );
        std::fs::write(self.config(), text).unwrap();
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("moonshard.toml")
    }

    pub fn runtime(&self) -> PathBuf {
        self.dir.path().join("run/moonshard")
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state/moonshard")
    }

    /// The program, in this place.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_moonshard")), arguments)
    }

    /// The same with a program of the test's own.
    pub fn command_of(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("XDG_RUNTIME_DIR", self.dir.path().join("run"))
            .env("XDG_STATE_HOME", self.dir.path().join("state"))
            .env("XDG_CONFIG_HOME", self.dir.path().join("config"))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command with this place's configuration to its end.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        let config = self.config();
        let mut all = vec!["--config", config.to_str().unwrap()];
        all.extend(arguments);
        Ran::of(self.command(&all).output().unwrap())
    }

    /// Starts a host and waits until it serves.
    pub fn serve(&self) -> Host {
        let mut host = self.start();
        host.expect("ready in");
        host
    }

    /// Starts a host.
    pub fn start(&self) -> Host {
        let config = self.config();
        Host::of(&mut self.command(&["serve", "--config", config.to_str().unwrap()]))
    }

    /// Living processes that were started in this place, with their arguments.
    pub fn processes(&self) -> Vec<(u32, String)> {
        let mark = self.dir.path().to_str().unwrap().as_bytes();
        let holds = |text: &[u8]| text.windows(mark.len()).any(|window| window == mark);
        let own = std::process::id();
        pids()
            .into_iter()
            .filter(|pid| *pid != own && holds(&read(*pid, "environ")))
            .map(|pid| (pid, String::from_utf8_lossy(&read(pid, "cmdline")).replace('\0', " ")))
            .collect()
    }

    /// The one process of a kind ("front"), once there is one.
    pub fn process(&self, kind: &str) -> u32 {
        eventually(|| {
            self.processes().into_iter().find(|p| p.1.starts_with(&format!("moonshard {kind}")))
        })
        .0
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A running host; killed with all it started when the test ends.
pub struct Host {
    pub child: Child,
    lines: Receiver<String>,
    heard: Vec<String>,
}

impl Host {
    /// Starts a command that is a host.
    pub fn of(command: &mut Command) -> Self {
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (sender, lines) = channel();
        pass_on(child.stdout.take().unwrap(), sender.clone());
        pass_on(child.stderr.take().unwrap(), sender);
        Self { child, lines, heard: Vec::new() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line, of either output, that holds `words`; returns it.
    pub fn expect(&mut self, words: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.heard.push(line.clone());
                    if line.contains(words) {
                        return line;
                    }
                }
                Err(error) => panic!("no {words:?} ({error}) in {:#?}", self.heard),
            }
        }
    }

    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Waits for the end; the exit code and how long it took.
    pub fn wait(&mut self) -> (Option<i32>, Duration) {
        let start = Instant::now();
        let status = eventually(|| self.child.try_wait().unwrap());
        (status.code(), start.elapsed())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The front dies with its supervisor.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends each line of an output on, from a thread that ends with it.
fn pass_on(output: impl Read + Send + 'static, sender: Sender<String>) {
    std::thread::spawn(move || {
        let lines = BufReader::new(output).lines().map_while(Result::ok);
        lines.for_each(|line| drop(sender.send(line)));
    });
}

pub fn signal(pid: u32, name: &str) {
    let done = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status();
    assert!(done.unwrap().success());
}

pub fn pids() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn read(pid: u32, file: &str) -> Vec<u8> {
    std::fs::read(Path::new("/proc").join(pid.to_string()).join(file)).unwrap_or_default()
}

/// Asks until there is an answer.
pub fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "it did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}
