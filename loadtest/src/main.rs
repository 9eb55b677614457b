//! moonshard-loadtest: measures a GameStream host, or any TLS server, from outside: a Moonlight client,
//! and loads of handshakes.
//!
//! It shares the protocol with the host, and nothing else. Exit codes of `play`: 0 a clean run, 1 an
//! unclean one, 2 wrong usage, 3 the host cannot be reached or refuses; of the others: 0, 1 for a missed
//! objective, 2 for wrong usage or an error.
#![deny(unsafe_code)]

mod admin;
mod arguments;
mod attack;
mod census;
mod compare;
mod control;
mod crowd;
mod figures;
mod handshake;
mod host;
mod http;
mod identity;
mod opus;
mod picture;
mod play;
mod report;
mod rtsp;
mod sound;
mod tone;
mod video;

use std::process::ExitCode;

use arguments::{Arguments, Command};
use clap::Parser;

const EXIT_UNCLEAN: u8 = 1;
const EXIT_ERROR: u8 = 2;
const EXIT_NO_STREAM: u8 = 3;

fn main() -> ExitCode {
    open_all_files();
    let result = match Arguments::parse().command {
        Command::Play(wanted) if wanted.clients.is_some() => return play_crowd(&wanted),
        Command::Play(wanted) => return play_once(&wanted),
        Command::Handshake(handshake) => handshake.run(),
        Command::Attack(attack) => attack.run(),
        Command::Compare(compare) => compare.run(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("moonshard-loadtest: {error}");
        ExitCode::from(EXIT_ERROR)
    })
}

fn play_once(wanted: &arguments::Play) -> ExitCode {
    let report = match play::play(wanted) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("moonshard-loadtest: {error}");
            return ExitCode::from(EXIT_NO_STREAM);
        }
    };
    tell(wanted, &serde_json::json!(report), &report.table(), report.is_clean())
}

fn play_crowd(wanted: &arguments::Play) -> ExitCode {
    let report = match crowd::play(wanted, &|line| eprintln!("{line}")) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("moonshard-loadtest: {error}");
            return ExitCode::from(EXIT_NO_STREAM);
        }
    };
    tell(wanted, &serde_json::json!(report), &report.table(), report.clean)
}

/// Prints and saves what came of it; the exit code.
fn tell(
    wanted: &arguments::Play,
    report: &serde_json::Value,
    table: &str,
    clean: bool,
) -> ExitCode {
    if wanted.json {
        println!("{report}");
    } else {
        print!("{table}");
    }
    if let Err(error) = figures::save_json(wanted.save_json.as_deref(), report) {
        eprintln!("moonshard-loadtest: {error}");
        return ExitCode::from(EXIT_ERROR);
    }
    if clean { ExitCode::SUCCESS } else { ExitCode::from(EXIT_UNCLEAN) }
}

/// Many shells let a process open 1024 files and allow it to ask for more.
fn open_all_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
