//! A simulated world: one host machine, the machines of its sessions, links between them, clients and
//! an operator. Time is virtual and all chance comes from a seed; nothing here touches the machine.
//!
//! While faults flow nothing wrong may happen; when they have stopped, everybody who may must come to
//! a stream within a minute, and then everything must end.
mod chance;
mod kit;
mod pairing;
mod players;
mod processes;
mod rules;
mod setup;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::time::Duration;

use moonshard::host::event::{CallId, Effect, Event};
use moonshard::host::{Client, Host, client_id};
use moonshard::ipc::{
    AdminAnswer, AdminRequest, ClientId, FromSession, SessionId, ToSession, ViewerId,
};
use moonshard::session::life;
use moonshard::time::Time;

use chance::Chance;
use players::{Call, Player};
use processes::Process;

/// Steps that one history may take.
const STEPS_MAX: u64 = 200_000;
/// Clients: four that are paired, one that wants to be, one that never may.
pub const CLIENTS: usize = 6;
pub const NEWCOMER: usize = 4;
pub const ATTACKER: usize = 5;
/// Faults flow until then; from `STRIVE` on everybody tries to stream, and must have by `MUST`.
const FAULTS_END: Time = Time::from_millis(61_000);
const STRIVE: Time = Time::from_millis(70_000);
const MUST: Time = Time::from_millis(150_000);
const END: Time = Time::from_millis(400_000);

/// Which operations of the world fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Chance decides.
    Chance,
    /// This one and no other; 0: none. The clients are but one, who pairs, plays and quits.
    Fails(u64),
    /// The front dies at this one.
    FrontDies(u64),
}

/// A rule that the world breaks on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canary {
    /// No stream may exist.
    Safety,
    /// No encoder gets ready once the faults have stopped.
    Liveness,
}

#[derive(Clone, Debug)]
enum Happening {
    /// To the front of this generation.
    Host(u64, Box<Event>),
    /// Over the link of this epoch.
    Up(SessionId, u64, Box<FromSession>),
    Down(SessionId, u64, Box<ToSession>),
    Relink(SessionId),
    Life(SessionId, Box<life::Event>),
    /// Word of an encoder, by its number.
    Encoder(SessionId, u64, Box<life::Event>),
    Act(usize),
    /// A client that tries to stream, until it does.
    Strive(usize),
    /// First datagrams, again and again until there is a stream.
    Ping(usize, ViewerId, u32),
    /// A connected client shows that it lives.
    Talk(usize, ViewerId),
    Operator,
    FrontDies,
    SessionDies(SessionId),
    /// The client that was removed at this front must have no stream now.
    MustBeDark(ClientId, u64),
}

pub struct World {
    seed: u64,
    plan: Plan,
    pub now: Time,
    schedule: Chance,
    faults: Chance,
    workload: Chance,
    entropy: Chance,
    /// Off at the end, while everybody strives and the dust settles.
    faulty: bool,
    host: Host,
    generation: u64,
    front_since: Time,
    disk: BTreeMap<ClientId, Client>,
    /// Whom this front lets in.
    authorised: BTreeSet<ClientId>,
    processes: BTreeMap<SessionId, Process>,
    queue: BTreeMap<(Time, u64), Happening>,
    number: u64,
    calls: BTreeMap<CallId, Call>,
    answered: BTreeSet<CallId>,
    players: Vec<Player>,
    sealed: BTreeSet<([u8; 16], u32)>,
    grants: BTreeSet<(String, u32)>,
    /// Operations so far, in a world whose plan counts them.
    pub operations: Vec<&'static str>,
    /// Errors that clients were told.
    pub errors: u64,
    trace: Option<DefaultHasher>,
    pub canary: Option<Canary>,
    pub streams: u64,
    /// Print every event and effect.
    aloud: bool,
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

impl World {
    /// `traced`: what happens is hashed, to be compared with another run.
    pub fn new(seed: u64, plan: Plan, traced: bool) -> Self {
        let players: Vec<Player> = (0..CLIENTS).map(Player::new).collect();
        let paired = if plan == Plan::Chance { NEWCOMER } else { 0 };
        let client = |p: &Player| Client {
            certificate: p.certificate.clone(),
            name: "x".into(),
            paired_at: 1,
        };
        let disk: BTreeMap<ClientId, Client> =
            players[..paired].iter().map(|p| (client_id(&p.certificate), client(p))).collect();
        let mut world = Self {
            seed,
            plan,
            now: Time::from_millis(1_000),
            schedule: Chance::stream(seed, 0),
            faults: Chance::stream(seed, 1),
            workload: Chance::stream(seed, 2),
            entropy: Chance::stream(seed, 3),
            faulty: plan == Plan::Chance,
            host: setup::host(&disk),
            generation: 0,
            front_since: Time::ZERO,
            authorised: disk.keys().copied().collect(),
            disk,
            processes: BTreeMap::new(),
            queue: BTreeMap::new(),
            number: 0,
            calls: BTreeMap::new(),
            answered: BTreeSet::new(),
            players,
            sealed: BTreeSet::new(),
            grants: BTreeSet::new(),
            operations: Vec::new(),
            errors: 0,
            trace: traced.then(DefaultHasher::new),
            canary: None,
            streams: 0,
            aloud: std::env::var_os("SEED").is_some() || std::env::var_os("NTH").is_some(),
        };
        if plan != Plan::Chance {
            world.soon(100, Happening::Strive(NEWCOMER));
            return world;
        }
        for player in 0..CLIENTS {
            world.soon(3_000, Happening::Act(player));
            if player != ATTACKER {
                world.at(STRIVE, Happening::Strive(player));
            }
        }
        world.soon(5_000, Happening::Operator);
        world.soon(40_000, Happening::FrontDies);
        world
    }

    fn at(&mut self, when: Time, what: Happening) {
        self.number += 1;
        self.queue.insert((when, self.number), what);
    }

    /// At a random moment within so many milliseconds.
    fn soon(&mut self, within_ms: u64, what: Happening) {
        let delay = Duration::from_micros(1 + self.schedule.below(within_ms * 1_000));
        self.at(self.now + delay, what);
    }

    fn fault(&mut self, one_in: u64) -> bool {
        self.faults.one_in(one_in) && self.faulty
    }

    /// Whether this operation fails: by chance, or because its turn has come.
    fn fails(&mut self, operation: &'static str, one_in: u64) -> bool {
        let (nth, dies) = match self.plan {
            Plan::Chance => return self.fault(one_in),
            Plan::Fails(nth) => (nth, false),
            Plan::FrontDies(nth) => (nth, true),
        };
        self.operations.push(operation);
        let its_turn = self.operations.len() as u64 == nth;
        if its_turn && dies {
            self.at(self.now, Happening::FrontDies);
        }
        its_turn && !dies
    }

    fn note(&mut self, what: &dyn std::fmt::Debug) {
        if self.trace.is_none() && !self.aloud {
            return;
        }
        let text = format!("{:?} {what:?}", self.now);
        if let Some(trace) = &mut self.trace {
            text.hash(trace);
        }
        if self.aloud {
            println!("{text}");
        }
    }

    fn broken(&self, rule: &str) -> ! {
        let (name, number) = match self.plan {
            Plan::Chance => ("SEED", self.seed),
            Plan::Fails(nth) => ("NTH", nth),
            Plan::FrontDies(nth) => ("DIES=1 NTH", nth),
        };
        let replay = "cargo test --no-default-features --test sim_host";
        panic!("{name}={number} at {:?}: {rule}; replay: {name}={number} {replay}", self.now)
    }

    /// Lives through faults, strives, and settles. Returns the trace's hash.
    pub fn run(&mut self) -> u64 {
        let mut steps = 0;
        loop {
            let timers = self.processes.values().filter_map(|p| p.life.next_timeout());
            let timer = timers.chain(self.host.next_timeout()).min();
            let next = self.queue.keys().next().map(|(at, _)| *at);
            let Some(at) = [timer, next].into_iter().flatten().min() else { break };
            if at > END {
                break;
            }
            steps += 1;
            if steps > STEPS_MAX {
                self.broken("the step budget is spent");
            }
            self.now = self.now.max(at);
            self.faulty &= self.now <= FAULTS_END;
            if timer.is_some_and(|t| t <= self.now) {
                self.timeouts();
            } else if let Some((_, what)) = self.queue.pop_first() {
                self.happen(what);
            }
            self.check();
        }
        self.settled();
        self.trace.as_ref().map_or(0, Hasher::finish)
    }

    fn timeouts(&mut self) {
        if self.host.next_timeout().is_some_and(|t| t <= self.now) {
            self.tell_host(Event::Timeout);
        }
        let due = |p: &Process| p.life.next_timeout().is_some_and(|t| t <= self.now);
        let due: Vec<_> =
            self.processes.iter().filter(|(_, p)| due(p)).map(|(id, _)| *id).collect();
        for id in due {
            self.tell_life(id, life::Event::Timeout);
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Host(generation, event) => {
                if generation == self.generation {
                    self.tell_host(*event);
                }
            }
            Happening::Up(session, epoch, message) => {
                if self.linked(session, epoch) {
                    self.tell_host(Event::Session { session, message: *message });
                }
            }
            Happening::Down(session, epoch, message) => {
                if self.hears(session, epoch) {
                    self.tell_life(session, life::Event::Front(*message));
                }
            }
            Happening::Relink(session) => self.introduce(session),
            Happening::Life(id, event) => self.tell_life(id, *event),
            Happening::Encoder(id, number, event) => {
                if self.processes.get(&id).is_some_and(|p| p.encoder == number) {
                    self.tell_life(id, *event);
                }
            }
            Happening::Act(player) => self.act(player),
            Happening::Strive(player) => self.strive(player),
            Happening::Ping(player, viewer, tries) => self.ping(player, viewer, tries),
            Happening::Talk(player, viewer) => self.talk(player, viewer),
            Happening::Operator => self.operate(),
            Happening::FrontDies => self.front_dies(),
            Happening::SessionDies(id) => self.session_ends(id, "signal 9"),
            Happening::MustBeDark(client, generation) => self.must_be_dark(client, generation),
        }
    }

    // --- the host -------------------------------------------------------------------------------

    fn tell_host(&mut self, event: Event) {
        match &event {
            Event::CallGone { call } => _ = self.calls.remove(call),
            Event::ClientStored { client, result: Ok(_) } => _ = self.authorised.insert(*client),
            _ => {}
        }
        self.note(&event);
        let asked = self.question(&event);
        let mut effects = Vec::new();
        self.host.handle(event, self.now, &mut self.entropy, &mut effects);
        self.must_know_who_asks(asked, &effects);
        for effect in effects {
            self.note(&effect);
            self.host_did(effect);
        }
    }

    fn host_hears(&mut self, within_ms: u64, event: Event) {
        self.soon(within_ms, Happening::Host(self.generation, Box::new(event)));
    }

    fn host_did(&mut self, effect: Effect) {
        match effect {
            Effect::Answer { call, answer } => self.answered(call, answer),
            Effect::AnswerAdmin { answer, .. } => {
                if let AdminAnswer::Sessions(list) = answer
                    && list.len() > setup::SESSIONS_MAX
                {
                    self.broken("more sessions than seats");
                }
            }
            Effect::PairingAsked(asked) => self.asked_for_pin(&asked),
            Effect::PairingEnded { .. } => {}
            Effect::StoreClient { client, certificate, .. } => self.store(client, certificate),
            Effect::EraseClient { client } => {
                self.authorised.remove(&client);
                let failed = self.fails("erase", 4);
                // The file may be there still; the client is locked out until the front restarts.
                if !failed {
                    self.disk.remove(&client);
                }
                if self.now.since(self.front_since) > ms(2_000) {
                    let check = Happening::MustBeDark(client, self.generation);
                    self.at(self.now + ms(1_000), check);
                }
                let result = if failed { Err("no space".into()) } else { Ok(()) };
                self.host_hears(50, Event::ClientErased { client, result });
            }
            Effect::Spawn { spec } => self.spawn(*spec),
            Effect::Kill { session } => {
                if self.processes.contains_key(&session) {
                    self.soon(20, Happening::SessionDies(session));
                }
            }
            Effect::Send { session, message } => self.send(session, message),
        }
    }

    /// A new front knows what is on disk, and learns from the sessions what runs.
    fn front_dies(&mut self) {
        if !self.faulty && self.plan == Plan::Chance {
            return;
        }
        self.generation += 1;
        self.front_since = self.now;
        self.errors += self.calls.len() as u64;
        self.calls.clear();
        self.host = setup::host(&self.disk);
        self.authorised = self.disk.keys().copied().collect();
        for id in self.processes.keys().copied().collect::<Vec<_>>() {
            self.cut_link(id, 50);
        }
        for player in &mut self.players {
            player.exchange = None;
            player.pairing = None;
        }
        if self.plan == Plan::Chance {
            self.soon(40_000, Happening::FrontDies);
        }
    }

    fn operate(&mut self) {
        if !self.faulty {
            return;
        }
        self.soon(8_000, Happening::Operator);
        let session = self.processes.keys().next().map_or("0".into(), ToString::to_string);
        let player = self.workload.below(CLIENTS as u64) as usize;
        let client = client_id(&self.players[player].certificate).to_string();
        let request = match self.workload.below(12) {
            0 => AdminRequest::RemoveClient { client },
            1 => AdminRequest::StopSession { session },
            2 => AdminRequest::SessionLog { session },
            3 => AdminRequest::Pin { id: "0".into(), pin: "1234".into() },
            4 => AdminRequest::Clients,
            _ => AdminRequest::Sessions,
        };
        self.number += 1;
        self.host_hears(10, Event::Admin { id: self.number, request });
    }
}
