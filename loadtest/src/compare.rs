//! `compare`: the same load on two targets in turn, and the ratio of their medians.
use std::io;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use crate::handshake::{Amount, Client, explain, name, progress};

/// The same load on two servers in turn (A B A B): medians and their ratio
#[derive(Args, Debug)]
pub struct Compare {
    /// HOST:PORT
    #[arg(long)]
    pub a: String,
    /// HOST:PORT
    #[arg(long)]
    pub b: String,
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=99))]
    pub rounds: u8,
    #[command(flatten)]
    pub client: Client,
    #[command(flatten)]
    pub amount: Amount,
    /// Process of A on this machine: its processor time is counted
    #[arg(long)]
    pub pid_a: Option<u32>,
    #[arg(long)]
    pub pid_b: Option<u32>,
    #[arg(long)]
    pub json: bool,
}

/// What is compared: its name and where a run's report has it.
const ROWS: [(&str, &str); 6] = [
    ("answers per second", "/rate"),
    ("answers per server CPU second", "/per_server_cpu_second"),
    ("handshake p50 us", "/latency_us/handshake/p50"),
    ("request p50 us", "/latency_us/request/p50"),
    ("request p95 us", "/latency_us/request/p95"),
    ("request p99 us", "/latency_us/request/p99"),
];

impl Compare {
    pub fn run(&self) -> io::Result<ExitCode> {
        let mut reports = [Vec::new(), Vec::new()];
        let times = (self.amount.warmup, self.amount.seconds);
        let pace = self.amount.paces()[0];
        let mut answered = true;
        for round in 1..=self.rounds {
            let sides = [("A", &self.a, self.pid_a), ("B", &self.b, self.pid_b)];
            for ((side, target, pid), reports) in sides.into_iter().zip(&mut reports) {
                let mut load = self.client.load(target, pace, times)?;
                load.server_pid = pid;
                let title = format!("{side}, round {round}, {}", name(pace));
                let numbers = load.run(&mut progress(title.clone()))?;
                if !self.json {
                    print!("{}", numbers.table(&title));
                }
                answered &= explain(target, &numbers);
                reports.push(numbers.json());
            }
        }
        let rows = ROWS.map(|(name, path)| {
            let [a, b] = [median(&reports[0], path), median(&reports[1], path)];
            let ratio = a.zip(b).filter(|(_, b)| *b > 0.0).map(|(a, b)| a / b);
            json!({ "what": name, "a": a, "b": b, "ratio": ratio })
        });
        if self.json {
            let [a, b] = &reports;
            let all = json!({ "a": self.a, "b": self.b, "load": name(pace), "medians": rows,
                "rounds": { "a": a, "b": b } });
            println!("{all:#}");
        } else {
            println!("{:<32}{:>12}{:>12}{:>8}", "medians", "A", "B", "A/B");
            for row in &rows {
                let text = |key: &str| row[key].as_f64().map_or("-".into(), |v| format!("{v:.2}"));
                let what = row["what"].as_str().unwrap_or_default();
                println!("{what:<32}{:>12}{:>12}{:>8}", text("a"), text("b"), text("ratio"));
            }
        }
        Ok(if answered { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The median of a number in the reports that have it.
fn median(reports: &[Value], path: &str) -> Option<f64> {
    let mut values: Vec<_> = reports.iter().filter_map(|r| r.pointer(path)?.as_f64()).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}
