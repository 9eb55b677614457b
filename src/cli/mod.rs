//! The command line: what it takes and where each command goes.
//!
//! Exit codes: 0 done; 1 it did not work, and stderr says why; 2 wrong usage or configuration;
//! 3 no host runs.
mod admin;
mod configuration;
mod doctor;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::ipc::AdminRequest;
use crate::ops::{log, machine};

/// Wrong usage or configuration.
const EXIT_USAGE: u8 = 2;

/// A Moonlight host: every player on a virtual desktop of their own
#[derive(Debug, Parser)]
#[command(name = "moonshard", version, max_term_width = 80)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

#[derive(Debug, Args)]
struct Global {
    /// The configuration; else $XDG_CONFIG_HOME/moonshard/moonshard.toml or
    /// /etc/moonshard/moonshard.toml, if there is one
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Answer in JSON, for programs
    #[arg(long, global = true)]
    json: bool,
    /// How logs on stderr look; RUST_LOG says what is logged
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the host
    Serve,
    /// List the devices that want to pair, or accept one: `pair <ID> <PIN>`
    Pair {
        /// As listed
        #[arg(requires = "pin")]
        id: Option<String>,
        /// As shown on the device
        pin: Option<String>,
    },
    /// List the paired devices
    Clients {
        #[command(subcommand)]
        action: Option<ClientsAction>,
    },
    /// List the apps that can be launched
    Apps,
    /// List what runs
    Sessions {
        #[command(subcommand)]
        action: Option<SessionsAction>,
    },
    /// Show how the host is, and what it said at its start
    Status,
    /// Check what this machine lacks, and how to mend it
    Doctor,
    /// Check or show the configuration
    Config {
        #[command(subcommand)]
        action: ConfigAction,
    },
}

#[derive(Debug, Subcommand)]
enum ClientsAction {
    /// Unpair a device; what it runs ends
    Remove {
        /// The first digits of its id
        id: String,
    },
}

#[derive(Debug, Subcommand)]
enum SessionsAction {
    /// End a session and its app
    Stop {
        /// Its id, or the first digits
        id: String,
    },
    /// Show what its app has printed
    Log {
        /// Its id, or the first digits
        id: String,
    },
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum ConfigAction {
    /// Say whether the configuration can be used
    Check,
    /// Print the whole configuration in effect as TOML
    Print,
}

/// The program.
pub fn main() -> ExitCode {
    // The other kinds of process are started by `serve` and by sessions, not by people.
    match std::env::args().nth(1).as_deref() {
        Some("front") => return crate::front::main(),
        Some("session") => return crate::session::main(),
        Some("encoder") => return crate::encoder::main(),
        Some("desktop") => return crate::desktop_app::main(),
        Some("pattern") => return crate::pattern::main(),
        Some("probe-tls") => return crate::ops::metrics::readiness::main(),
        Some("probe") => return crate::media::probe(),
        _ => {}
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    if matches!(cli.global.log_format, LogFormat::Json) {
        log::choose_json();
    }
    log::init(if matches!(cli.command, Command::Serve) { "serve" } else { "cli" });
    run(cli.command, &cli.global)
}

fn run(command: Command, global: &Global) -> ExitCode {
    let given = global.config.as_deref();
    if let Command::Config { action } = command {
        return configuration::run(action, given, global.json);
    }
    let config = match configuration::load(given) {
        Ok(loaded) => loaded.config,
        Err(error) => return configuration::refuse(&error, global.json),
    };
    let ask = |request| admin::ask_and_print(&config, &request, global.json);
    match command {
        Command::Serve => {
            let path = global.config.clone();
            let reload = move || configuration::load(path.as_deref()).map(|loaded| loaded.config);
            let (program, reload) = (program(given), Box::new(reload));
            crate::supervisor::main(crate::supervisor::Options { config, program, reload })
        }
        Command::Pair { id: Some(id), pin: Some(pin) } => ask(AdminRequest::Pin { id, pin }),
        Command::Pair { .. } => ask(AdminRequest::Pairings),
        Command::Clients { action: None } => ask(AdminRequest::Clients),
        Command::Clients { action: Some(ClientsAction::Remove { id }) } => {
            ask(AdminRequest::RemoveClient { client: id })
        }
        Command::Apps => ask(AdminRequest::Apps),
        Command::Sessions { action: None } => ask(AdminRequest::Sessions),
        Command::Sessions { action: Some(SessionsAction::Stop { id }) } => {
            ask(AdminRequest::StopSession { session: id })
        }
        Command::Sessions { action: Some(SessionsAction::Log { id }) } => {
            ask(AdminRequest::SessionLog { session: id })
        }
        Command::Status => ask(AdminRequest::Status),
        Command::Doctor => doctor::run(&config, global.json),
        Command::Config { action } => configuration::run(action, given, global.json),
    }
}

/// How people call this program here, so that it finds the same host.
fn program(config: Option<&Path>) -> String {
    let own = std::env::current_exe().and_then(std::fs::canonicalize).ok();
    let found = machine::program("moonshard").and_then(|path| path.canonicalize().ok());
    let given = std::env::args().next().filter(|_| own.is_none() || own != found);
    let name = given.unwrap_or_else(|| "moonshard".to_owned());
    match config {
        Some(config) => format!("{name} --config {}", config.display()),
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        assert!(Cli::try_parse_from(["moonshard", "pair", "id"]).is_err(), "a PIN is missing");
        assert!(Cli::try_parse_from(["moonshard", "pair", "id", "1234", "--json"]).is_ok());
        assert!(Cli::try_parse_from(["moonshard"]).is_err());
    }
}
