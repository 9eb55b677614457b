//! The front: the control plane's process. Composition only.
//!
//! Shards speak TLS, HTTP and RTSP ([`reception`], `serve`); the host decides, behind one mutex ([`core`]); the bus
//! talks to the other processes (`bus`), the door reads UDP (`door`), and files are written by a
//! thread of their own (`store`). Nothing here waits for a session, an encoder or a disk with a client
//! on the line: what takes time is a message, and its answer an event.
//!
//! The front may be killed at any moment: sessions stream on, and the next front asks them who they are.
mod admission;
mod announce;
mod bus;
pub mod core;
pub mod counters;
mod door;
mod facts;
mod gate;
mod launches;
mod links;
mod machine;
mod pictures;
pub mod reception;
#[cfg(test)]
mod script;
mod serve;
mod store;
mod watch;

use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use self::announce::Announcement;
use self::bus::{Bus, Summons};
use self::core::{Core, SystemEntropy};
use self::counters::Counters;
use self::door::Door;
use self::links::SessionLinks;
use self::reception::{Place, Reception};
use self::store::Store;
use self::watch::{Pulse, Verdict, Watch};
use crate::host::event::HostFacts;
use crate::host::{Host, HostSetup};
use crate::ipc::{FrontBoot, FrontFigures, ShardFigures};
use crate::ops::log;
use crate::proc::boot;
use crate::proc::link::Link;
use crate::proc::sheet::Sheet;
use crate::proto::stream::CodecSupport;
use crate::shard::{self, TlsAcceptor, now};
use crate::tls;
use crate::tls::identity::Identity;

/// How often the main thread looks at shards and summons.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long the threads may take to end; a hanging disk or a stuck lock is not waited for.
const JOIN_MAX: Duration = Duration::from_secs(2);
/// How often the machine's addresses are read again.
const FACTS_EVERY: Duration = Duration::from_secs(30);

/// Why the front did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum FrontError {
    /// Not started by `moonshard serve`, or by one of another version.
    #[error("boot message: {0}")]
    Boot(String),
    /// The host's key or certificate is damaged; its message says which file and what to do.
    #[error(transparent)]
    Identity(#[from] tls::identity::IdentityError),
    /// Who is paired cannot be known.
    #[error("{path}: {error}", path = path.display())]
    State { path: std::path::PathBuf, error: io::Error },
    /// The system gave no thread, ring or descriptor.
    #[error("{what}: {error}")]
    System { what: &'static str, error: io::Error },
    /// A shard ended by a bug, or stands still for good; the supervisor starts another front.
    #[error("shard {0} is lost")]
    Shard(usize),
    /// A shard stood still and turns again, but without its listeners: another front gets them back.
    #[error("shard {0} stood still")]
    Stalled(usize),
    /// A thread ended by a bug.
    #[error("the {0} thread is lost")]
    Thread(&'static str),
    /// A shard accepts no more on one of its listeners; another front listens anew.
    #[error("shard {0} accepts no more connections")]
    Closed(usize),
    /// The supervisor is gone, and with it the right to the listeners.
    #[error("the supervisor is gone")]
    Orphaned,
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> FrontError {
    move |error| FrontError::System { what, error }
}

/// The process's entry, called by the binary for `moonshard front`.
pub fn main() -> ExitCode {
    log::init("front");
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the front ends");
            ExitCode::FAILURE
        }
    }
}

/// What came with the boot message, sorted.
struct Inherited {
    boot: FrontBoot,
    supervisor: Link,
    /// HTTPS, HTTP, RTSP of each shard.
    listeners: Vec<[OwnedFd; 3]>,
    door: Vec<OwnedFd>,
    sheet: Sheet,
}

fn inherit() -> Result<Inherited, FrontError> {
    let count = boot::inherited();
    let (boot, fds): (FrontBoot, Vec<OwnedFd>) =
        boot::receive(count).map_err(|e| FrontError::Boot(e.to_string()))?;
    let doors = if boot.door_ipv6 { 6 } else { 3 };
    let expected = 1 + 3 * boot.shards.len() + doors + 1;
    if fds.len() != expected || boot.shards.is_empty() {
        let text = format!("{} descriptors came, {expected} were expected", fds.len());
        return Err(FrontError::Boot(text));
    }
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or_else(|| FrontError::Boot("too few descriptors".into()));
    let supervisor = Link::from_fd(next()?);
    let mut listeners = Vec::new();
    for _ in &boot.shards {
        let mut three = [next()?, next()?, next()?];
        for listener in &mut three {
            shard::revive(listener).map_err(system("listener"))?;
        }
        listeners.push(three);
    }
    let mut door: Vec<OwnedFd> = fds.collect();
    let sheet = door.pop().ok_or_else(|| FrontError::Boot("too few descriptors".into()))?;
    Ok(Inherited { boot, supervisor, listeners, door, sheet: Sheet::from_fd(sheet) })
}

fn run() -> Result<(), FrontError> {
    let inherited = inherit()?;
    raise_descriptor_limit();
    let FrontBoot { mut config, shards: cores, encoders, .. } = inherited.boot;
    let identity = Arc::new(Identity::load_or_make(&config.state_dir)?);
    let tls = tls::config::server_config(&identity)
        .map_err(|e| system("TLS settings")(io::Error::other(e)))?;
    let store = Store::open(&config.state_dir)
        .map_err(|error| FrontError::State { path: config.state_dir.clone(), error })?;
    let (clients, broken) = store
        .load()
        .map_err(|error| FrontError::State { path: config.state_dir.clone(), error })?;
    for file in broken {
        tracing::error!(%file, "a paired client was not loaded; it has to pair again");
    }
    tracing::info!(clients = clients.len(), shards = cores.len(), "front starting");
    let choice = config.session.encoder.clone();
    let codecs = encoders.codecs(&choice);
    // Sessions are told by name what works. Without any, they find out and say why.
    let usable: Vec<&str> = encoders.usable(&choice).map(|e| e.name.as_str()).collect();
    if !usable.is_empty() {
        config.session.encoder = usable.join(",");
    }
    let host = Host::new(HostSetup {
        uuid: identity.uuid().to_owned(),
        own: machine::own_identity(&identity),
        clients,
        facts: HostFacts { macs: facts::macs(), codecs: codecs.clone() },
        pictures: pictures::load(&config.apps),
        config: config.clone(),
    });
    let counters = Arc::new(Counters::default());
    let entropy = Box::new(SystemEntropy);
    let core = Core::new(Box::new(host), entropy, Arc::clone(&counters)).map_err(system("core"))?;

    let (jobs, store_thread) =
        store::spawn(store, Arc::clone(&core)).map_err(system("store thread"))?;
    let links = Arc::new(SessionLinks::default());
    let (summons, summoned) = channel();
    let mut bus =
        Bus::new(Arc::clone(&core), inherited.supervisor, Arc::clone(&links), jobs, summons);
    bus.introduce(&config.runtime_dir);
    let door = Door::new(Arc::clone(&core), links, inherited.door).map_err(system("door"))?;
    let door_stop = door.stopper();
    let places = cores.into_iter().zip(inherited.listeners);
    let places = places.map(|(core, listeners)| Place { core, listeners }).collect();
    let mut reception = Reception::open(&core, config.limits, TlsAcceptor::new(tls), places)
        .map_err(system("shards"))?;
    let door_thread = door::spawn(door).map_err(system("door thread"))?;
    publish(&inherited.sheet, &core, reception.shards().vitals());
    bus.serving();
    let bus_stop = bus.stopper();
    let bus_thread = bus::spawn(bus).map_err(system("bus thread"))?;
    let announcement = announce(&config.host_name, config.ports.http, config.mdns);

    let threads = [("bus", bus_thread), ("store", store_thread), ("door", door_thread)];
    let ended = supervise(&core, &mut reception, &inherited.sheet, &threads, &summoned, &codecs);
    drop(announcement);
    door_stop.stop();
    if !matches!(ended, Err(FrontError::Shard(_) | FrontError::Thread(_) | FrontError::Orphaned)) {
        reception.drain();
    }
    // The bus holds the store's queue: what was given to the store is still written.
    bus_stop.stop();
    let patience = now() + JOIN_MAX;
    while now() < patience && !threads.iter().all(|(_, thread)| thread.is_finished()) {
        std::thread::sleep(Duration::from_millis(5));
    }
    ended
}

/// Runs until the supervisor wants an end (Ok), or there is a reason to end without it.
fn supervise(
    core: &Core,
    reception: &mut Reception,
    sheet: &Sheet,
    threads: &[(&'static str, JoinHandle<()>)],
    summoned: &Receiver<Summons>,
    codecs: &CodecSupport,
) -> Result<(), FrontError> {
    let mut watch = Watch::new(reception.shards().vitals().len());
    let mut facts_due = now() + FACTS_EVERY;
    loop {
        match summoned.recv_timeout(LOOK_EVERY) {
            Ok(Summons::Drain) => return Ok(()),
            Ok(Summons::Orphaned) | Err(RecvTimeoutError::Disconnected) => {
                return Err(FrontError::Orphaned);
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some(end) = reception.shards().next_end(Duration::ZERO) {
            return Err(FrontError::Shard(end.shard));
        }
        if let Some((name, _)) = threads.iter().find(|(_, thread)| thread.is_finished()) {
            return Err(FrontError::Thread(name));
        }
        if let Some(shard) = reception.find_closed() {
            return Err(FrontError::Closed(shard));
        }
        publish(sheet, core, reception.shards().vitals());
        log::settle();
        let vitals = reception.shards().vitals().iter();
        let pulses: Vec<_> =
            vitals.map(|v| Pulse { beat: v.last_beat(), starved: v.starved() }).collect();
        for (shard, verdict) in watch.look(&pulses, now()) {
            match verdict {
                Verdict::Stalled => {
                    core.counters().shard_stalls.add();
                    tracing::error!(shard, "the shard stands still");
                    reception.retire(shard);
                }
                Verdict::Lost => return Err(FrontError::Shard(shard)),
                Verdict::Recovered if reception.is_retired(shard) => {
                    return Err(FrontError::Stalled(shard));
                }
                Verdict::Recovered => tracing::warn!(shard, "the shard turns again"),
            }
        }
        if facts_due <= now() {
            facts_due = now() + FACTS_EVERY;
            core.learn(HostFacts { macs: facts::macs(), codecs: codecs.clone() });
        }
    }
}

/// Writes down for the supervisor what the front has done and how it is.
fn publish(sheet: &Sheet, core: &Core, vitals: &[Arc<shard::Vitals>]) {
    let shards = vitals.iter().zip(0..).map(|(vitals, index)| ShardFigures {
        beat_ns: vitals.last_beat().0,
        tasks: vitals.tasks(),
        panics: vitals.panics(),
        starved_ns: u64::try_from(vitals.starved().as_nanos()).unwrap_or(u64::MAX),
        counters: core.counters().shard(index).counted(),
        times: {
            let mut times = core.counters().shard(index).timed();
            times.push(vitals.lag().timed("shard_lag", "How late the shard's timer was served"));
            times
        },
    });
    let figures = FrontFigures {
        written_ns: now().0,
        calls_waiting: core.calls_waiting() as u64,
        shards: shards.collect(),
        counters: core.counters().counted(),
        times: core.counters().timed(),
    };
    if let Err(error) = sheet.write(&figures) {
        tracing::debug!(%error, "the front's figures were not written");
    }
}

fn announce(host_name: &str, http_port: u16, wanted: bool) -> Option<Announcement> {
    if !wanted {
        return None;
    }
    Announcement::start(host_name, http_port)
        .inspect_err(|reason| {
            tracing::warn!(reason, "not announced by mDNS; clients need the address");
        })
        .ok()
}

/// As many descriptors as the system allows: the default of 1024 is less than a small flood.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}
