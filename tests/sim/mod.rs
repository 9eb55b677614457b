//! A simulated world: one host machine, the machines of its sessions, links between them, clients and
//! an operator. Time is virtual and all chance comes from a seed; nothing here touches the machine.
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::time::Duration;

use moonshard::config::{App, Config, Cores, Limits, Ports};
use moonshard::host::event::{Answer, CallId, Caller, Effect, Event, HostFacts, Route};
use moonshard::host::pairings::OwnIdentity;
use moonshard::host::{Client, Host, HostSetup, client_id};
use moonshard::ipc::{
    AdminRequest, AppSpec, ClientId, FromSession, SessionId, SessionPolicy, ToSession, ViewerGrant,
    ViewerId,
};
use moonshard::proto::crypto::RsaSigner;
use moonshard::proto::hex;
use moonshard::proto::http::Head;
use moonshard::proto::rtsp::client::{ClientRequest, ClientResponse};
use moonshard::proto::rtsp::{self, Direction, Method};
use moonshard::proto::secret::SessionKey;
use moonshard::proto::stream::{CodecSupport, Flow};
use moonshard::proto::x509::{Certificate, pem_to_der};
use moonshard::session::life::{self, Life};
use moonshard::time::{Entropy, Time};
use serde_json::Value;

/// Steps that one history may take.
const STEPS_MAX: u64 = 200_000;
/// Clients; the last one is never paired.
const CLIENTS: usize = 6;

/// SplitMix64.
pub struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.next_u64() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

impl Entropy for Chance {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
        }
    }
}

#[derive(Clone, Debug)]
enum Happening {
    /// To the front of this generation.
    Host(u64, Box<Event>),
    Link(SessionId, Box<ToSession>),
    Life(SessionId, Box<life::Event>),
    /// Word of an encoder, by its number.
    Encoder(SessionId, u64, Box<life::Event>),
    Act(usize),
    /// A connected client shows that it lives.
    Talk(usize, ViewerId),
    Operator,
    FrontDies,
    SessionDies(SessionId),
    /// The removed client must have no stream now.
    MustBeDark(ClientId),
}

struct Process {
    life: Life,
    /// When the last message on each direction of its link arrives: a link keeps its order.
    last_up: Time,
    last_down: Time,
    encoder: u64,
}

/// What a client waits for.
#[derive(Clone, Debug, PartialEq)]
enum Wish {
    Poll,
    Launch,
    Rtsp(usize),
    Noise,
}

struct Call {
    client: usize,
    wish: Wish,
    until: Time,
    key: Option<SessionKey>,
}

struct Player {
    certificate: Vec<u8>,
    address: &'static str,
    key: SessionKey,
    encrypted: bool,
    sequence: u32,
    /// Next exchange of the handshake; None: none under way.
    exchange: Option<usize>,
    token: String,
    last_wire: Vec<u8>,
    grant: Option<ViewerGrant>,
    streaming: Option<(SessionId, ViewerId)>,
}

pub struct World {
    seed: u64,
    pub now: Time,
    schedule: Chance,
    faults: Chance,
    workload: Chance,
    entropy: Chance,
    /// Off at the end, while the dust settles.
    faulty: bool,
    own: Value,
    announce: String,
    host: Host,
    generation: u64,
    disk: BTreeMap<ClientId, Client>,
    processes: BTreeMap<SessionId, Process>,
    queue: BTreeMap<(Time, u64), Happening>,
    number: u64,
    calls: BTreeMap<CallId, Call>,
    answered: BTreeSet<CallId>,
    players: Vec<Player>,
    sealed: BTreeSet<([u8; 16], u32)>,
    grants: BTreeSet<(String, u32)>,
    trace: DefaultHasher,
    /// A rule that the world breaks on purpose.
    pub canary: bool,
    pub streams: u64,
    /// Print every event and effect.
    aloud: bool,
}

fn vector(name: &str) -> Value {
    let path = format!("{}/tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn config() -> Config {
    let app = |id: i32| App {
        spec: AppSpec {
            id,
            title: format!("App {id}"),
            command: vec!["true".into()],
            environment: BTreeMap::new(),
            directory: None,
        },
        image: None,
    };
    Config {
        host_name: "den".into(),
        state_dir: "/nowhere".into(),
        runtime_dir: "/nowhere".into(),
        ports: Ports::default(),
        mdns: false,
        external_ip: None,
        cores: Cores::default(),
        limits: Limits { sessions: 4, ..Limits::default() },
        session: SessionPolicy {
            keep_ms: 20_000,
            never_viewed_ms: 60_000,
            idle_fps: 10,
            slow_app_ms: 15_000,
            reason_ms: 0,
            keyboard_layout: "us".into(),
            keyboard_variant: String::new(),
            encoder: "auto".into(),
            audio: true,
            adapt: true,
            media_cores: Vec::new(),
        },
        fec_percent: 20,
        pairing: true,
        metrics: Default::default(),
        apps: vec![app(1), app(2)],
    }
}

fn host(own: &Value, disk: &BTreeMap<ClientId, Client>) -> Host {
    let pem = own["server"]["cert_pem"].as_str().unwrap().to_owned();
    let key = pem_to_der(own["server"]["key_pem"].as_str().unwrap(), "PRIVATE KEY").unwrap();
    let codecs = CodecSupport { h264: true, hevc: true, av1: true, extra_bits: 0 };
    Host::new(HostSetup {
        config: config(),
        uuid: "7C0F1B1E-5B0E-4E53-9A40-0D1B5B4B2E11".into(),
        own: OwnIdentity {
            certificate: Certificate::from_pem(&pem).unwrap(),
            pem,
            signer: Box::new(RsaSigner::from_der(&key).unwrap()),
        },
        clients: disk.values().cloned().collect(),
        facts: HostFacts { macs: Vec::new(), codecs },
        pictures: BTreeMap::new(),
    })
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

impl World {
    pub fn new(seed: u64) -> Self {
        let stream =
            |n: u64| Chance(seed.wrapping_mul(4).wrapping_add(n).wrapping_mul(0x5851_F42D));
        let own = vector("pairing-01-qt-sha256");
        let recorded = vector("rtsp-encrypted-local-stereo-hevc");
        let announce = recorded["exchanges"][5]["request"]["plaintext"].as_str().unwrap();
        let announce = announce.split_once("\r\n\r\n").unwrap().1.to_owned();
        let addresses = ["10.0.0.2", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"];
        let players: Vec<Player> = addresses
            .iter()
            .enumerate()
            .map(|(n, address)| Player {
                certificate: vec![n as u8; 3],
                address,
                key: SessionKey([0; 16]),
                encrypted: true,
                sequence: 0,
                exchange: None,
                token: String::new(),
                last_wire: Vec::new(),
                grant: None,
                streaming: None,
            })
            .collect();
        let disk: BTreeMap<ClientId, Client> = players[..CLIENTS - 1]
            .iter()
            .map(|p| {
                let client =
                    Client { certificate: p.certificate.clone(), name: "x".into(), paired_at: 1 };
                (client_id(&p.certificate), client)
            })
            .collect();
        let mut world = Self {
            seed,
            now: Time::from_millis(1_000),
            schedule: stream(0),
            faults: stream(1),
            workload: stream(2),
            entropy: stream(3),
            faulty: true,
            host: host(&own, &disk),
            own,
            announce,
            generation: 0,
            disk,
            processes: BTreeMap::new(),
            queue: BTreeMap::new(),
            number: 0,
            calls: BTreeMap::new(),
            answered: BTreeSet::new(),
            players,
            sealed: BTreeSet::new(),
            grants: BTreeSet::new(),
            trace: DefaultHasher::new(),
            canary: false,
            streams: 0,
            aloud: std::env::var_os("SEED").is_some(),
        };
        for player in 0..CLIENTS {
            world.soon(3_000, Happening::Act(player));
        }
        world.soon(5_000, Happening::Operator);
        world.soon(60_000, Happening::FrontDies);
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

    fn note(&mut self, what: &dyn std::fmt::Debug) {
        let text = format!("{:?} {what:?}", self.now);
        text.hash(&mut self.trace);
        if self.aloud {
            println!("{text}");
        }
    }

    fn broken(&self, rule: &str) -> ! {
        panic!("SEED={} at {:?}: {rule}", self.seed, self.now)
    }

    /// Lives for two minutes with faults, then settles. Returns the trace's hash.
    pub fn run(&mut self) -> u64 {
        let faults_end = Time::from_millis(121_000);
        let end = Time::from_millis(400_000);
        let mut steps = 0;
        loop {
            let timers = self.processes.values().filter_map(|p| p.life.next_timeout());
            let timer = timers.chain(self.host.next_timeout()).min();
            let next = self.queue.keys().next().map(|(at, _)| *at);
            let Some(at) = [timer, next].into_iter().flatten().min() else { break };
            if at > end {
                break;
            }
            steps += 1;
            if steps > STEPS_MAX {
                self.broken("the step budget is spent");
            }
            self.now = self.now.max(at);
            if self.faulty && self.now > faults_end {
                self.faulty = false;
            }
            if timer.is_some_and(|t| t <= self.now) {
                self.timeouts();
            } else if let Some((_, what)) = self.queue.pop_first() {
                self.happen(what);
            }
            self.check();
        }
        self.settled();
        self.trace.finish()
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
            Happening::Link(id, message) => self.tell_life(id, life::Event::Front(*message)),
            Happening::Life(id, event) => self.tell_life(id, *event),
            Happening::Encoder(id, number, event) => {
                if self.processes.get(&id).is_some_and(|p| p.encoder == number) {
                    self.tell_life(id, *event);
                }
            }
            Happening::Act(player) => self.act(player),
            Happening::Talk(player, viewer) => self.talk(player, viewer),
            Happening::Operator => self.operate(),
            Happening::FrontDies => self.front_dies(),
            Happening::SessionDies(id) => self.session_ends(id, "signal 9"),
            Happening::MustBeDark(client) => {
                let own = |p: &&Process| matches!(p.life.identity(1), FromSession::Identity { spec, .. } if spec.client == client);
                if !self.disk.contains_key(&client)
                    && self.processes.values().filter(own).any(|p| p.life.streaming())
                {
                    self.broken("a removed client still streams");
                }
            }
        }
    }

    // --- the host -------------------------------------------------------------------------------

    fn tell_host(&mut self, event: Event) {
        if let Event::CallGone { call } = &event {
            self.calls.remove(call);
        }
        self.note(&event);
        let mut effects = Vec::new();
        self.host.handle(event, self.now, &mut self.entropy, &mut effects);
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
            Effect::AnswerAdmin { .. } | Effect::PairingAsked(_) | Effect::PairingEnded { .. } => {}
            Effect::StoreClient { .. } => self.broken("nobody has proven a certificate"),
            Effect::EraseClient { client } => {
                let result = if self.fault(4) { Err("no space".into()) } else { Ok(()) };
                // The file may be there still; the client is locked out until the front restarts.
                if result.is_ok() {
                    self.disk.remove(&client);
                    self.at(self.now + ms(1_000), Happening::MustBeDark(client));
                }
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

    fn spawn(&mut self, spec: moonshard::ipc::SessionSpec) {
        let session = spec.id;
        if self.fault(12) {
            let result = Err("fork failed".into());
            return self.host_hears(30, Event::SessionSpawned { session, result });
        }
        let process = Process {
            life: Life::new(spec, self.now),
            last_up: self.now,
            last_down: self.now,
            encoder: 0,
        };
        self.processes.insert(session, process);
        self.host_hears(30, Event::SessionSpawned { session, result: Ok(()) });
        self.introduce(session);
        if self.fault(15) {
            let reason = "no display".into();
            self.soon(400, Happening::Life(session, Box::new(life::Event::StartFailed { reason })));
        } else if !self.fault(20) {
            self.soon(400, Happening::Life(session, Box::new(life::Event::Started)));
        }
        if self.fault(6) {
            self.soon(40_000, Happening::SessionDies(session));
        }
        if self.fault(8) {
            let event =
                life::Event::AppExited { status: "exit 1".into(), last_words: "bye".into() };
            self.soon(60_000, Happening::Life(session, Box::new(event)));
        }
    }

    fn send(&mut self, session: SessionId, message: ToSession) {
        if let ToSession::Grant(grant) = &message {
            if !self.grants.insert((grant.ping_payload.clone(), grant.connect_data)) {
                self.broken("two grants share their secrets");
            }
            let owner = self.processes.get(&session).map(|p| p.life.identity(1));
            if let Some(FromSession::Identity { spec, .. }) = owner {
                let own = |p: &&mut Player| client_id(&p.certificate) == spec.client;
                if let Some(player) = self.players.iter_mut().find(own) {
                    player.grant = Some(grant.clone());
                }
            }
        }
        if self.fault(60) {
            return self.host_hears(5, Event::SessionDeaf { session });
        }
        let delay = Duration::from_micros(1 + self.schedule.below(20_000));
        let Some(process) = self.processes.get_mut(&session) else { return };
        process.last_down = process.last_down.max(self.now + delay);
        let when = process.last_down;
        self.at(when, Happening::Link(session, Box::new(message)));
    }

    // --- sessions -------------------------------------------------------------------------------

    /// The first message on each link.
    fn introduce(&mut self, session: SessionId) {
        let message = self.processes[&session].life.identity(7);
        self.up(session, message);
    }

    fn up(&mut self, session: SessionId, message: FromSession) {
        let delay = Duration::from_micros(1 + self.schedule.below(20_000));
        let process = self.processes.get_mut(&session).unwrap();
        process.last_up = process.last_up.max(self.now + delay);
        let when = process.last_up;
        let event = Box::new(Event::Session { session, message });
        self.at(when, Happening::Host(self.generation, event));
    }

    fn tell_life(&mut self, id: SessionId, event: life::Event) {
        self.note(&(id, &event));
        let Some(process) = self.processes.get_mut(&id) else { return };
        let mut effects = Vec::new();
        process.life.handle(event, self.now, &mut effects);
        for effect in effects {
            self.life_did(id, effect);
        }
    }

    fn life_did(&mut self, id: SessionId, effect: life::Effect) {
        use life::Effect as Did;
        if !self.processes.contains_key(&id) {
            return;
        }
        match effect {
            Did::Tell(message) => self.up(id, message),
            Did::StartEncoder { .. } => {
                let process = self.processes.get_mut(&id).unwrap();
                process.encoder += 1;
                let number = process.encoder;
                let word = |world: &mut Self, within, event| {
                    world.soon(within, Happening::Encoder(id, number, Box::new(event)));
                };
                let exit = life::Event::EncoderExited { status: "signal 6".into() };
                if self.fault(10) {
                    word(self, 200, exit);
                } else if !self.fault(12) {
                    word(self, 300, life::Event::EncoderReady);
                    if self.fault(6) {
                        word(self, 20_000, exit);
                    }
                }
            }
            Did::KillEncoder | Did::StopEncoder => {
                self.processes.get_mut(&id).unwrap().encoder += 1;
            }
            Did::UseSocket { viewer, flow: Flow::Control } => {
                let of = |p: &Player| p.grant.as_ref().is_some_and(|g| g.viewer == viewer);
                if let Some(player) = self.players.iter().position(of) {
                    let peer = self.source(player);
                    let (local, last_will) = (local(47_999), vec![1]);
                    let event = life::Event::ControlConnected { viewer, local, peer, last_will };
                    self.soon(100, Happening::Life(id, Box::new(event)));
                    self.players[player].streaming = Some((id, viewer));
                    self.streams += 1;
                    self.soon(1_000, Happening::Talk(player, viewer));
                }
            }
            Did::EndApp if !self.fault(4) => {
                self.soon(500, Happening::Life(id, Box::new(life::Event::AppGone)));
            }
            Did::KillApp => self.soon(100, Happening::Life(id, Box::new(life::Event::AppGone))),
            Did::Exit => self.session_ends(id, "exit 0"),
            _ => {}
        }
    }

    fn session_ends(&mut self, session: SessionId, status: &str) {
        if self.processes.remove(&session).is_some() {
            let (status, last_words) = (status.to_owned(), "gone".to_owned());
            self.host_hears(20, Event::SessionExited { session, status, last_words });
        }
    }

    /// A new front knows what is on disk, and learns from the sessions what runs.
    fn front_dies(&mut self) {
        if !self.faulty {
            return;
        }
        self.generation += 1;
        self.calls.clear();
        self.host = host(&self.own, &self.disk);
        for id in self.processes.keys().copied().collect::<Vec<_>>() {
            self.introduce(id);
        }
        for player in &mut self.players {
            player.exchange = None;
        }
        self.soon(60_000, Happening::FrontDies);
    }
}

include!("clients.rs");
