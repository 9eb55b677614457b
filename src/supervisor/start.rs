//! From the command to a running supervisor: limits, signals, directories, sockets, encoders.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use rustix::process::{Resource, getrlimit, setrlimit};

use super::admin::Admin;
use super::directory::{DirectoryError, RuntimeDirectory, make_private};
use super::evidence::Evidence;
use super::front::Backoff;
use super::image::Image;
use super::notify::Notify;
use super::run::Supervisor;
use super::session::Session;
use super::signals::{Signal, Signals};
use super::sockets::Sockets;
use super::words::{Facts, Words};
use crate::config::{Config, Metrics};
use crate::ipc::{FrontBoot, VERSION};
use crate::ops::metrics::board::{Board, EncoderSeen};
use crate::ops::metrics::listener;
use crate::ops::out::complain;
use crate::ops::probe::ProbeError;
use crate::ops::{doctor, machine, probe};

/// Shards where nothing is configured and the machine has cores to spare.
const SHARDS: usize = 2;
/// From this many cores on shards are pinned, and not every core gets one.
const CORES_TO_SPARE: usize = 4;

/// What the command line says.
pub struct Options {
    pub config: Config,
    /// How this program is to be called to reach this host, as shown to people: "moonshard".
    pub program: String,
    /// Reads the configuration again.
    pub reload: Box<dyn Fn() -> Result<Config, String>>,
}

/// `moonshard serve`.
pub fn main(options: Options) -> ExitCode {
    match start(options) {
        Ok(Some(supervisor)) => supervisor.run(),
        Ok(None) => ExitCode::SUCCESS,
        Err(reason) => {
            complain(&format!("moonshard: cannot start: {reason}\n"));
            ExitCode::FAILURE
        }
    }
}

/// None: told to stop before it served.
fn start(options: Options) -> Result<Option<Supervisor>, String> {
    let began = Instant::now();
    let mut config = options.config;
    raise_open_files();
    let signals = Signals::block().map_err(|error| format!("signals: {error}"))?;
    let own = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(own)).map_err(|e| format!("subreaper: {e}"))?;
    if let Some(finding) = doctor::essentials().into_iter().find(|f| f.prevents_streaming()) {
        return Err(format!("{}: {}\n  mend: {}", finding.name, finding.detail, finding.mend));
    }
    let runtime = RuntimeDirectory::occupy(&config.runtime_dir).map_err(|error| {
        let advice = "stop it first, or give this one another `runtime_dir` and other ports";
        match error {
            DirectoryError::Occupied { .. } => format!("{error}\n  {advice}"),
            DirectoryError::System { .. } => {
                unusable("runtime", "`runtime_dir` or $XDG_RUNTIME_DIR", &error)
            }
        }
    })?;
    make_private(&config.state_dir)
        .map_err(|error| unusable("state", "`state_dir` or $XDG_STATE_HOME", &error))?;
    let sessions = adopt(&runtime);
    super::cgroup::sweep();
    let shards = shards(&config.cores.control, &machine::cores());
    let sockets = Sockets::open(config.ports, shards.len()).map_err(|error| {
        format!(
            "{error}\n  stop that program, or choose other ports in the configuration ([ports])"
        )
    })?;
    config.ports = sockets.ports;
    let admin = Admin::listen(&runtime.admin_socket())
        .map_err(|error| format!("{}: {error}", runtime.admin_socket().display()))?;
    let stop = || std::iter::from_fn(|| signals.next()).any(|signal| signal == Signal::Stop);
    let probe = match probe::run(&config.session.encoder, Some(signals.as_fd()), stop) {
        Err(ProbeError::Interrupted) => {
            drop(admin);
            // Sessions of a host before go on, and the next host must find them.
            if sessions.is_empty() {
                runtime.clear();
            }
            return Ok(None);
        }
        outcome => outcome.map_err(|error| error.to_string()),
    };
    let missing = doctor::programs().into_iter().filter(|f| f.state != doctor::State::Ok);
    let facts = Facts {
        addresses: machine::addresses(),
        missing: missing.collect(),
        gpu: doctor::has_gpu(),
        program: options.program,
    };
    let mut words = Words::new(began, &config, &probe, facts);
    let board = board(&config, &words, &sessions);
    answer_operators(config.metrics, &board, &mut words);
    let evidence = Evidence::new(&config.state_dir);
    let boot = FrontBoot {
        version: VERSION,
        config,
        shards,
        door_ipv6: sockets.door_ipv6,
        encoders: probe.unwrap_or_default(),
        succeeds: false,
    };
    // As it is called now: what is there later is what an upgrade goes over to.
    let program = std::env::current_exe().map_err(|error| format!("/proc: {error}"))?;
    Ok(Some(Supervisor {
        signals,
        runtime,
        sockets,
        boot,
        evidence,
        admin,
        words,
        reload: options.reload,
        sessions,
        program,
        image: Image::own(),
        fallback: None,
        front: None,
        succession: None,
        leaving: None,
        reload_again: false,
        backoff: Backoff::new(),
        front_due: None,
        failed_starts: 0,
        remains: Vec::new(),
        next_tick: began,
        stop: None,
        board,
        notify: Notify::from_environment(),
    }))
}

/// Starts the operators' listener, if it is wanted.
fn answer_operators(metrics: Metrics, board: &Arc<Board>, words: &mut Words) {
    if !metrics.enabled {
        return;
    }
    match listener::start(metrics, Arc::clone(board)) {
        Ok(at) => {
            tracing::info!(%at, "operators are answered");
            words.operators(at);
        }
        // Players come first: the host serves them also without.
        Err(error) => {
            let at = SocketAddr::new(metrics.address, metrics.port);
            tracing::error!(%at, %error, "operators are not answered: see [metrics]");
            words.no_operators(at, &error);
        }
    }
}

fn unusable(name: &str, setting: &str, error: &DirectoryError) -> String {
    format!(
        "the {name} directory cannot be used: {error}\n  \
         let this user make and write it, or choose another by {setting}"
    )
}

/// What operators may know from the start on.
fn board(
    config: &Config,
    words: &Words,
    sessions: &BTreeMap<crate::ipc::SessionId, Session>,
) -> Arc<Board> {
    let (name, reason) = words.encoder();
    let board = Arc::new(Board::default());
    board.note(|known| {
        known.seats = config.limits.sessions;
        known.state_dir = config.state_dir.clone();
        known.runtime_dir = config.runtime_dir.clone();
        known.listening = config.ports;
        known.encoder = EncoderSeen { name, reason, probed: Some(Instant::now()) };
        known.sessions = sessions.iter().map(|(id, session)| (*id, session.pid())).collect();
    });
    board
}

/// As many open files as the system allows: each connection is one.
fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Removes what dead sessions left and takes over those that outlived an earlier supervisor.
fn adopt(runtime: &RuntimeDirectory) -> BTreeMap<crate::ipc::SessionId, Session> {
    let mut sessions = BTreeMap::new();
    for id in runtime.sweep() {
        match Session::adopt(runtime, id) {
            Some(session) => {
                tracing::info!(session = %id, pid = session.pid(), "adopted");
                sessions.insert(id, session);
            }
            None => tracing::warn!(session = %id, "lives, but its process cannot be identified"),
        }
    }
    sessions
}

/// The core of each shard.
fn shards(configured: &[usize], available: &[usize]) -> Vec<Option<usize>> {
    if !configured.is_empty() {
        return configured.iter().copied().map(Some).collect();
    }
    if available.len() >= CORES_TO_SPARE {
        return available.iter().take(SHARDS).copied().map(Some).collect();
    }
    // With few cores an encoder may have to take this one for a while: the system chooses better.
    vec![None; available.len().max(1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_follow_the_configuration_and_the_machine() {
        assert_eq!(shards(&[3, 1], &[0, 1, 2, 3]), [Some(3), Some(1)]);
        assert_eq!(shards(&[], &[4, 5, 6, 7, 8]), [Some(4), Some(5)]);
        assert_eq!(shards(&[], &[0, 1]), [None, None]);
        assert_eq!(shards(&[], &[]), [None]);
    }
}
