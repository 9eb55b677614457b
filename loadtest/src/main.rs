//! moonshard-loadtest: measures a GameStream host, or any TLS server, from outside.
mod attack;
mod compare;
mod handshake;
mod report;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Handshake(handshake::Handshake),
    Attack(attack::Attack),
    Compare(compare::Compare),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Handshake(handshake) => handshake.run(),
        Command::Attack(attack) => attack.run(),
        Command::Compare(compare) => compare.run(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("moonshard-loadtest: {error}");
        ExitCode::from(2)
    })
}
