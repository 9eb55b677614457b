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
mod turn;
mod watch;

use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use self::announce::Announcement;
use self::bus::{Bus, BusStop, Summons};
use self::core::{Core, SystemEntropy};
use self::counters::Counters;
use self::door::{Door, DoorStop};
use self::links::SessionLinks;
use self::reception::{Place, Reception};
use self::store::Store;
use self::turn::Turn;
use self::watch::{Pulse, Verdict, Watch};
use crate::config::Config;
use crate::host::event::HostFacts;
use crate::host::{Host, HostSetup};
use crate::ipc::{FrontBoot, FrontFigures, FrontOrder, FrontReport, ShardFigures};
use crate::ops::log;
use crate::proc::link::{Link, LinkError};
use crate::proc::sheet::Sheet;
use crate::proc::stack;
use crate::proc::{boot, flight};
use crate::proto::stream::CodecSupport;
use crate::shard::{self, TlsAcceptor, now};
use crate::tls;
use crate::tls::identity::Identity;

/// How often the main thread looks at shards and summons.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A front that is to let go waits so long for a moment in which nothing is on its way, and looks for
/// one so often.
const CALM_MAX: Duration = Duration::from_secs(10);
const CALM_EVERY: Duration = Duration::from_millis(20);
/// How long the threads may take to end; a hanging disk or a stuck lock is not waited for.
const JOIN_MAX: Duration = Duration::from_secs(2);
/// The same when something is wrong already: the next front should not have to wait.
const JOIN_MAX_LOST: Duration = Duration::from_millis(200);
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
    /// A thread stands still, by a bug or in a call of the system that does not come back.
    #[error("the {0} thread stands still")]
    Hung(&'static str),
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
    let expected = 1 + 3 * boot.shards.len() + doors + 2;
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
    let flight = door.pop().ok_or_else(|| FrontError::Boot("too few descriptors".into()))?;
    flight::begin(&flight).map_err(system("flight recorder"))?;
    let sheet = door.pop().ok_or_else(|| FrontError::Boot("too few descriptors".into()))?;
    Ok(Inherited { boot, supervisor, listeners, door, sheet: Sheet::from_fd(sheet) })
}

fn run() -> Result<(), FrontError> {
    let inherited = inherit()?;
    let voice = inherited.supervisor.try_clone().map_err(system("link"))?;
    let ended = serve(inherited, &voice);
    if let Err(error) = &ended {
        // Best effort: it is in the log as well.
        let _ = voice.send(&FrontReport::Failed { reason: error.to_string() }, &[]);
    }
    ended
}

/// What a host is made of.
struct Makings {
    config: Config,
    identity: Arc<Identity>,
    codecs: CodecSupport,
}

impl Makings {
    /// A host that knows the clients that are stored now.
    fn host(&self, store: &Store) -> Result<Box<Host>, FrontError> {
        let path = || self.config.state_dir.clone();
        let (clients, broken) =
            store.load().map_err(|error| FrontError::State { path: path(), error })?;
        for file in broken {
            tracing::error!(%file, "a paired client was not loaded; it has to pair again");
        }
        tracing::info!(clients = clients.len(), "clients loaded");
        Ok(Box::new(Host::new(HostSetup {
            uuid: self.identity.uuid().to_owned(),
            own: machine::own_identity(&self.identity),
            clients,
            facts: HostFacts { macs: facts::macs(), codecs: self.codecs.clone() },
            pictures: pictures::load(&self.config.apps),
            config: self.config.clone(),
        })))
    }
}

fn serve(inherited: Inherited, voice: &Link) -> Result<(), FrontError> {
    raise_descriptor_limit();
    stack::install().map_err(system("signal"))?;
    let FrontBoot { mut config, shards: cores, encoders, succeeds, .. } = inherited.boot;
    let identity = Arc::new(Identity::load_or_make(&config.state_dir)?);
    let tls = tls::config::server_config(&identity)
        .map_err(|e| system("TLS settings")(io::Error::other(e)))?;
    let store = Store::open(&config.state_dir)
        .map_err(|error| FrontError::State { path: config.state_dir.clone(), error })?;
    let choice = config.session.encoder.clone();
    let codecs = encoders.codecs(&choice);
    // Sessions are told by name what works. Without any, they find out and say why.
    let usable: Vec<&str> = encoders.usable(&choice).map(|e| e.name.as_str()).collect();
    if !usable.is_empty() {
        config.session.encoder = usable.join(",");
    }
    let makings = Makings { config, identity, codecs };
    let counters = Arc::new(Counters::default());
    let core = Core::new(makings.host(&store)?, Box::new(SystemEntropy), counters);
    let core = core.map_err(system("core"))?;
    let places = cores.into_iter().zip(inherited.listeners);
    let places = places.map(|(core, listeners)| Place { core, listeners }).collect();
    let limits = makings.config.limits;
    let mut reception = Reception::prepare(&core, limits, TlsAcceptor::new(tls), places)
        .map_err(system("shards"))?;
    if succeeds {
        if !await_turn(&inherited.supervisor)? {
            return Ok(());
        }
        // The front before has paired and removed clients meanwhile.
        core.install(makings.host(&store)?);
    }

    let (jobs, store_thread) =
        store::spawn(store, Arc::clone(&core)).map_err(system("store thread"))?;
    let links = Arc::new(SessionLinks::default());
    let (summons, summoned) = channel();
    let mut bus =
        Bus::new(Arc::clone(&core), inherited.supervisor, Arc::clone(&links), jobs, summons);
    bus.introduce(&makings.config.runtime_dir);
    let door = Door::new(Arc::clone(&core), links, inherited.door).map_err(system("door"))?;
    let stops = (door.stopper(), bus.stopper());
    reception.begin().map_err(system("shards"))?;
    let turns = [("bus", bus.turn()), ("door", door.turn())];
    let door_thread = door::spawn(door).map_err(system("door thread"))?;
    publish(&inherited.sheet, &core, reception.shards().vitals());
    bus.serving();
    let bus_thread = bus::spawn(bus).map_err(system("bus thread"))?;
    let Config { host_name, ports, mdns, .. } = &makings.config;
    let announcement = announce(host_name, ports.http, *mdns);

    let threads = [("bus", bus_thread), ("store", store_thread), ("door", door_thread)];
    let lost = Duration::from_millis(limits.stall_ms);
    let codecs = makings.codecs;
    let mut life = Life { core, reception, sheet: inherited.sheet, threads, turns, codecs };
    let ended = life.supervise(lost, &summoned);
    life.end(ended, announcement, stops, voice)
}

/// Says that this front could serve, and waits until it is to. False: it is not wanted any more.
fn await_turn(supervisor: &Link) -> Result<bool, FrontError> {
    let said = supervisor.send(&bus::hello(), &[]);
    said.and_then(|()| supervisor.send(&FrontReport::Prepared, &[]))
        .map_err(|_| FrontError::Orphaned)?;
    loop {
        // Whoever asked has a deadline and ends this process.
        match supervisor.receive_within::<FrontOrder>(Duration::from_secs(60)) {
            Ok((FrontOrder::Serve, _)) => return Ok(true),
            Ok((FrontOrder::Drain, _)) => return Ok(false),
            Ok(_) | Err(LinkError::Empty | LinkError::Malformed(_)) => {}
            Err(_) => return Err(FrontError::Orphaned),
        }
    }
}

/// How a front ends that nothing is wrong with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// For good, or before another starts.
    Drain,
    /// Another one takes over as soon as this one has let go.
    Yield,
}

/// What the main thread watches over.
struct Life {
    core: Arc<Core>,
    reception: Reception,
    sheet: Sheet,
    threads: [(&'static str, JoinHandle<()>); 3],
    /// Of the threads that must not stand still.
    turns: [(&'static str, Arc<Turn>); 2],
    codecs: CodecSupport,
}

impl Life {
    /// Runs until the supervisor wants an end (Ok), or there is a reason to end without it.
    /// What stands still for `lost` is such a reason.
    fn supervise(
        &mut self,
        lost: Duration,
        summoned: &Receiver<Summons>,
    ) -> Result<Ending, FrontError> {
        let mut watch = Watch::new(self.pulses().len(), lost);
        let mut facts_due = now() + FACTS_EVERY;
        let mut yields_by = None;
        loop {
            if yields_by.is_some_and(|by| by <= now() || self.core.is_calm()) {
                return Ok(Ending::Yield);
            }
            let wait = if yields_by.is_some() { CALM_EVERY } else { LOOK_EVERY };
            match summoned.recv_timeout(wait) {
                Ok(Summons::Drain) => return Ok(Ending::Drain),
                Ok(Summons::Yield) => yields_by = yields_by.or(Some(now() + CALM_MAX)),
                Ok(Summons::Orphaned) | Err(RecvTimeoutError::Disconnected) => {
                    return Err(FrontError::Orphaned);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Some(end) = self.reception.shards().next_end(Duration::ZERO) {
                return Err(FrontError::Shard(end.shard));
            }
            if let Some((name, _)) = self.threads.iter().find(|(_, t)| t.is_finished()) {
                return Err(FrontError::Thread(name));
            }
            if let Some(shard) = self.reception.find_closed() {
                return Err(FrontError::Closed(shard));
            }
            publish(&self.sheet, &self.core, self.reception.shards().vitals());
            log::settle();
            for (index, verdict) in watch.look(&self.pulses(), now()) {
                self.judge(index, verdict)?;
            }
            if facts_due <= now() {
                facts_due = now() + FACTS_EVERY;
                let codecs = self.codecs.clone();
                self.core.learn(HostFacts { macs: facts::macs(), codecs });
            }
        }
    }

    /// Lets everything end in an order that loses as little as possible.
    fn end(
        self,
        ended: Result<Ending, FrontError>,
        announcement: Option<Announcement>,
        (door, bus): (DoorStop, BusStop),
        voice: &Link,
    ) -> Result<(), FrontError> {
        let Self { mut reception, threads, .. } = self;
        let [(_, bus_thread), (_, store_thread), (_, door_thread)] = threads;
        let wait = |threads: &[&JoinHandle<()>], longest| {
            let deadline = now() + longest;
            while now() < deadline && !threads.iter().all(|thread| thread.is_finished()) {
                std::thread::sleep(Duration::from_millis(2));
            }
        };
        let lost = matches!(
            ended,
            Err(FrontError::Shard(_)
                | FrontError::Thread(_)
                | FrontError::Hung(_)
                | FrontError::Orphaned)
        );
        if !lost {
            // Before the successor announces the same name.
            drop(announcement);
        }
        door.stop();
        if matches!(ended, Ok(Ending::Yield)) {
            reception.close();
            wait(&[&door_thread], JOIN_MAX_LOST);
            let _ = voice.send(&FrontReport::Yielded, &[]);
        }
        if !lost {
            reception.drain();
        }
        // The bus holds the store's queue: what was given to the store is still written.
        bus.stop();
        let longest = if lost { JOIN_MAX_LOST } else { JOIN_MAX };
        wait(&[&bus_thread, &store_thread, &door_thread], longest);
        ended.map(|_| ())
    }

    /// Of each shard, then of the plain threads.
    fn pulses(&self) -> Vec<Pulse> {
        let shards = self.reception.shards().vitals().iter();
        let shards = shards.map(|v| Pulse { beat: v.last_beat(), starved: v.starved() });
        shards.chain(self.turns.iter().map(|(_, turn)| turn.pulse())).collect()
    }

    /// Acts on what the watch says of a shard or a thread, in the order of the pulses.
    fn judge(&mut self, index: usize, verdict: Verdict) -> Result<(), FrontError> {
        let vitals = self.reception.shards().vitals();
        let Some(vitals) = vitals.get(index) else {
            let (name, turn) = &self.turns[index - vitals.len()];
            match verdict {
                Verdict::Stalled => tell_of(name, turn.thread()),
                Verdict::Recovered => tracing::warn!(thread = name, "the thread goes on"),
                Verdict::Lost => return Err(FrontError::Hung(name)),
            }
            return Ok(());
        };
        match verdict {
            Verdict::Stalled => {
                self.core.counters().shard_stalls.add();
                tell_of(&format!("shard {index}"), vitals.thread());
                self.reception.retire(index);
            }
            Verdict::Lost => return Err(FrontError::Shard(index)),
            Verdict::Recovered if self.reception.is_retired(index) => {
                return Err(FrontError::Stalled(index));
            }
            Verdict::Recovered => tracing::warn!(shard = index, "the shard turns again"),
        }
        Ok(())
    }
}

/// Names a thread that stands still, at once, and then where it stands, which takes longer to find out.
fn tell_of(name: &str, thread: i32) {
    let within = flight::within(thread).unwrap_or_default();
    tracing::error!(thread = name, within, "stands still");
    let stack = stack::of(thread);
    let name = name.to_owned();
    let tell = move || {
        let calls =
            stack.map_or_else(|| vec!["it does not answer".into()], |s| stack::describe(&s));
        tracing::error!(thread = name, calls = calls.join(" < "), "where it stands");
    };
    if let Err(error) = std::thread::Builder::new().name("witness".into()).spawn(tell) {
        tracing::error!(%error, "no thread to describe it");
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
        calls_waiting: core.calls_waiting().unwrap_or(0) as u64,
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
