//! `attack`: bad connections, and what they do to honest ones that are measured beside them.
pub mod pack;
mod renegotiation;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use serde_json::json;

use self::pack::{Configs, Kind};
use crate::figures::save_json;
use crate::figures::slo::Slo;
use crate::handshake::load::Pace;
use crate::handshake::{Client, explain, positive, progress, resolve, seconds, tls};

/// Files that the honest connections may need.
const HONEST_FILES: u64 = 512;

/// Bad connections to a server of yours, while honest ones are measured
#[derive(Args, Debug)]
pub struct Attack {
    #[arg(long, value_enum)]
    pub kind: Kind,
    /// HOST:PORT; only a server that you may attack
    #[arg(long)]
    pub target: String,
    /// Bad connections at once
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=20_000))]
    pub connections: u16,
    /// Seconds of the attack
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub seconds: f64,
    /// Seconds that are measured before and after it
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    pub beside: f64,
    /// Honest connections a second
    #[arg(long, default_value_t = 20.0, value_parser = positive)]
    pub honest_rate: f64,
    #[command(flatten)]
    pub client: Client,
    /// Goals for the honest ones during the attack; missed: exit code 1
    #[arg(long)]
    pub slo: Option<Slo>,
    #[arg(long)]
    pub json: bool,
    /// Write the same object to a file, whatever is printed
    #[arg(long, value_name = "FILE")]
    pub save_json: Option<PathBuf>,
}

impl Attack {
    pub fn run(&self) -> io::Result<ExitCode> {
        let target = resolve(&self.target)?;
        let honest = |what: &str, length: f64| {
            let load =
                self.client.load(&self.target, Pace::Rate(self.honest_rate), (0.0, length))?;
            load.run(&mut progress(format!("honest, {what}")))
        };
        let cert = &self.client.client_cert;
        let configs = Configs {
            usual: tls::client_config(self.client.tls, false, cert)?,
            renegotiating: tls::open_hearted(cert)?,
        };
        let stop = AtomicBool::new(false);
        enough_files(self.connections)?;
        let before = honest("before", self.beside)?;
        if !explain(&self.target, &before) {
            return Ok(ExitCode::FAILURE);
        }
        let (during, ends) = std::thread::scope(|scope| {
            let attack = || pack::run(target, &configs, self.kind, self.connections.into(), &stop);
            let attack = scope.spawn(attack);
            let during = honest("during", self.seconds);
            stop.store(true, Ordering::Relaxed);
            let ends = attack.join().map_err(|_| io::Error::other("the attack panicked"))?;
            Ok::<_, io::Error>((during?, ends?))
        })?;
        let after = honest("after", self.beside)?;
        let (goals, met) = self.slo.clone().unwrap_or_default().judge(&during);
        let ends = ends.json();
        let honest =
            json!({ "before": before.json(), "during": during.json(), "after": after.json() });
        let all = json!({ "target": self.target, "kind": format!("{:?}", self.kind),
            "connections": self.connections, "attack": ends, "honest": honest,
            "slo": goals, "met": met });
        save_json(self.save_json.as_deref(), &all)?;
        if self.json {
            println!("{all:#}");
        } else {
            for (what, numbers) in [("before", &before), ("during", &during), ("after", &after)] {
                print!("{}", numbers.table(&format!("honest, {what}")));
            }
            println!("attack: {ends:#}");
            for goal in goals.iter().filter(|goal| goal["met"] == false) {
                println!("missed: {goal}");
            }
        }
        Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// This process holds every connection; honest ones need some too.
fn enough_files(connections: u16) -> io::Result<()> {
    let have = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let need = u64::from(connections) + HONEST_FILES;
    if have.is_some_and(|have| have < need) {
        let have = have.unwrap_or(0);
        let text = format!("{need} files are needed and {have} may be open here: ulimit -n {need}");
        return Err(io::Error::other(text));
    }
    Ok(())
}
