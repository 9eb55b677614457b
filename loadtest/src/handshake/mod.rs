//! `handshake`: load on any TLS server, and what it answered how fast.
pub mod connection;
pub mod load;
pub mod poll;
pub mod tls;

use std::io::{self, IsTerminal, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use self::connection::Failure;
use self::load::{IN_FLIGHT_MAX, Load, Pace};
use self::tls::Version;
use crate::figures::numbers::{Numbers, write_hdr_log};
use crate::figures::plot;
use crate::figures::save_json;
use crate::figures::slo::Slo;

/// How a connection looks; the same for every subcommand.
#[derive(Args, Clone, Debug)]
pub struct Client {
    /// What is asked for once the handshake is done
    #[arg(long, default_value = "/serverinfo")]
    pub path: String,
    #[arg(long, value_enum, default_value = "1.3")]
    pub tls: Version,
    /// Resume sessions where the server lets us
    #[arg(long)]
    pub resume: bool,
    /// Client certificate: none, fresh (RSA-2048, made now) or a PEM file with certificate and key
    #[arg(long, default_value = "fresh")]
    pub client_cert: String,
    /// Seconds from the scheduled time after which a connection has failed
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub timeout: f64,
}

impl Client {
    /// A load on `target`.
    pub fn load(&self, target: &str, pace: Pace, times: (f64, f64)) -> io::Result<Load> {
        let target = resolve(target)?;
        Ok(Load {
            target,
            config: tls::client_config(self.tls, self.resume, &self.client_cert)?,
            request: format!(
                "GET {} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n",
                self.path
            )
            .into_bytes(),
            pace,
            warmup: Duration::from_secs_f64(times.0),
            length: Duration::from_secs_f64(times.1),
            timeout: Duration::from_secs_f64(self.timeout),
            server_pid: None,
        })
    }
}

/// How much and how long.
#[derive(Args, Clone, Debug)]
pub struct Amount {
    /// Open loop: connections a second; several make a sweep
    #[arg(long, value_delimiter = ',', value_parser = positive, conflicts_with = "concurrency")]
    pub rate: Vec<f64>,
    /// Closed loop: connections at once; several make a sweep
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub concurrency: Vec<u16>,
    /// Seconds of each step
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub seconds: f64,
    /// Seconds before each step that are not counted
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    pub warmup: f64,
}

impl Amount {
    /// One pace a step; without any, 8 at once.
    pub fn paces(&self) -> Vec<Pace> {
        let rates = self.rate.iter().map(|rate| Pace::Rate(*rate));
        let counts = self.concurrency.iter().map(|count| Pace::Concurrency((*count).into()));
        let paces: Vec<_> = rates.chain(counts).collect();
        if paces.is_empty() { vec![Pace::Concurrency(8)] } else { paces }
    }
}

/// Load on a TLS server: latencies, errors by kind
#[derive(Args, Debug)]
pub struct Handshake {
    /// HOST:PORT
    #[arg(long)]
    pub target: String,
    #[command(flatten)]
    pub client: Client,
    #[command(flatten)]
    pub amount: Amount,
    /// The server's process on this machine: its processor time is counted
    #[arg(long)]
    pub server_pid: Option<u32>,
    /// Goals, such as p95=500ms,handshake.p99=1s,errors=0; missed: exit code 1
    #[arg(long)]
    pub slo: Option<Slo>,
    #[arg(long)]
    pub json: bool,
    /// Write the same object to a file, whatever is printed
    #[arg(long, value_name = "FILE")]
    pub save_json: Option<PathBuf>,
    #[arg(long)]
    pub hdr_log: Option<PathBuf>,
    /// Latency against load, an SVG
    #[arg(long)]
    pub plot: Option<PathBuf>,
}

impl Handshake {
    /// Runs all steps. Exit code 1: a goal was missed.
    pub fn run(&self) -> io::Result<ExitCode> {
        for file in self.hdr_log.iter().chain(&self.plot) {
            // Better now than after an hour of load.
            std::fs::File::create(file).map_err(|error| of_file(file, &error))?;
        }
        let paces = self.amount.paces();
        let times = (self.amount.warmup, self.amount.seconds);
        let (mut steps, mut reports, mut all) = (Vec::new(), Vec::new(), true);
        for pace in &paces {
            let mut load = self.client.load(&self.target, *pace, times)?;
            load.server_pid = self.server_pid;
            let numbers = load.run(&mut progress(name(*pace)))?;
            let (goals, met) = self.slo.clone().unwrap_or_default().judge(&numbers);
            all &= met && explain(&self.target, &numbers);
            if !self.json {
                print!("{}", numbers.table(&name(*pace)));
                for goal in goals.iter().filter(|goal| goal["met"] == false) {
                    println!("  missed: {goal}");
                }
            }
            let mut report = numbers.json();
            report["load"] = json!(name(*pace));
            report["slo"] = json!(goals);
            reports.push(report);
            steps.push(numbers);
        }
        let report = json!({ "target": self.target, "steps": reports, "met": all });
        if self.json {
            println!("{report:#}");
        }
        save_json(self.save_json.as_deref(), &report)?;
        if let Some(file) = &self.hdr_log {
            write_hdr_log(file, &steps).map_err(|error| of_file(file, &error))?;
        }
        if let Some(file) = &self.plot {
            let points: Vec<_> = paces.iter().map(|pace| size(*pace)).zip(&steps).collect();
            let svg = plot::svg(axis(&paces), &points);
            std::fs::write(file, svg).map_err(|error| of_file(file, &error))?;
        }
        Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn of_file(file: &Path, error: &io::Error) -> io::Error {
    io::Error::other(format!("{}: {error}", file.display()))
}

/// Whether anything was answered; if not, says what may be wrong.
pub fn explain(target: &str, numbers: &Numbers) -> bool {
    let Some(failure) = numbers.only_failure() else { return true };
    let (what, check) = match failure {
        Failure::Refused => ("refuses every connection", "does the server run, on this port?"),
        Failure::Reset | Failure::Closed => {
            ("ends every connection", "is this its HTTPS port (of a GameStream host: 47984)?")
        }
        Failure::Timeout => ("answers nothing in time", "is it on, and does a firewall let us in?"),
        Failure::Tls => {
            ("does not speak TLS with us", "is this its HTTPS port (of a GameStream host: 47984)?")
        }
        Failure::Http => ("does not answer over HTTP with success", "does it know the --path?"),
        Failure::Local => ("cannot be reached from here", "is there a route, and `ulimit -n`?"),
    };
    eprintln!("moonshard-loadtest: {target} {what}: {check}");
    false
}

/// One line that is written over, if a person looks.
pub fn progress(what: String) -> impl FnMut(&Numbers, Duration) {
    let shown = io::stderr().is_terminal();
    move |numbers, since| {
        if shown {
            let p95 = numbers.quantile("request", 0.95).unwrap_or(0);
            let line = format!(
                "\r{what}: {:.0} s, {} answers, {} errors, p95 {} ms \x1b[K",
                since.as_secs_f64(),
                numbers.successes(),
                numbers.errors(),
                p95 / 1000
            );
            let _ = io::stderr().write_all(line.as_bytes());
        }
    }
}

pub fn name(pace: Pace) -> String {
    match pace {
        Pace::Rate(rate) => format!("{rate}/s"),
        Pace::Concurrency(count) => format!("{count} at once"),
    }
}

fn size(pace: Pace) -> f64 {
    match pace {
        Pace::Rate(rate) => rate,
        #[expect(clippy::cast_precision_loss, reason = "small")]
        Pace::Concurrency(count) => count.min(IN_FLIGHT_MAX) as f64,
    }
}

fn axis(paces: &[Pace]) -> &'static str {
    match paces.first() {
        Some(Pace::Rate(_)) => "connections offered a second",
        _ => "connections at once",
    }
}

/// The first address of HOST:PORT.
pub fn resolve(target: &str) -> io::Result<SocketAddr> {
    let mut found =
        target.to_socket_addrs().map_err(|e| io::Error::other(format!("{target}: {e}")))?;
    found.next().ok_or_else(|| io::Error::other(format!("{target} has no address")))
}

/// A time in seconds: 0 to a day.
pub fn seconds(text: &str) -> Result<f64, String> {
    let valid = text.parse().ok().filter(|value| (0.0..=86_400.0).contains(value));
    valid.ok_or_else(|| "0 to 86400".to_owned())
}

/// A rate: 0.1 to 100000 a second.
pub fn positive(text: &str) -> Result<f64, String> {
    let valid = text.parse().ok().filter(|value| (0.1..=100_000.0).contains(value));
    valid.ok_or_else(|| "0.1 to 100000".to_owned())
}
