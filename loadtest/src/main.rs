//! moonshard-loadtest: a Moonlight client that measures a GameStream host.
//!
//! It shares the protocol with the host, and nothing else. Exit codes: 0 a clean run, 1 an unclean one,
//! 2 wrong usage, 3 the host cannot be reached or refuses.
#![deny(unsafe_code)]

mod arguments;
mod control;
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
const EXIT_NO_STREAM: u8 = 3;

fn main() -> ExitCode {
    let Arguments { command: Command::Play(wanted) } = Arguments::parse();
    let report = match play::play(&wanted) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("moonshard-loadtest: {error}");
            return ExitCode::from(EXIT_NO_STREAM);
        }
    };
    if wanted.json {
        println!("{}", serde_json::json!(report));
    } else {
        print!("{}", report.table());
    }
    if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_UNCLEAN) }
}
