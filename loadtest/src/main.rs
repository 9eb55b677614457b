//! moonshard-loadtest: a Moonlight client that measures a GameStream host, ours or any other.
//!
//! It shares only the wire (`moonshard::proto`) with the host. Exit codes: 0 a clean run; 1 a run that
//! was not clean, with the reasons; 2 wrong usage; 3 the host was not reached or refused.
mod control;
mod gamestream;
mod identity;
mod opus;
mod picture;
mod play;
mod report;
mod rtsp;
mod sound;
mod stream;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures a GameStream host by playing from it
#[derive(Debug, Parser)]
#[command(name = "moonshard-loadtest", version, max_term_width = 80)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Pair if needed, launch an app, play it, report what arrived
    Play(Box<play::Play>),
}

fn main() -> ExitCode {
    let Command::Play(play) = Cli::parse().command;
    match play::run(&play) {
        Ok(report) => {
            match play.json {
                true => println!("{}", report.json()),
                false => println!("{}", report.table()),
            }
            if report.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
        }
        Err(error) => {
            eprintln!("moonshard-loadtest: {error}");
            ExitCode::from(3)
        }
    }
}
