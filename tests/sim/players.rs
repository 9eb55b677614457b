//! The clients of the world: what they ask, over RTSP and UDP too, and what they make of the answers.
use std::net::SocketAddr;

use moonshard::host::client_id;
use moonshard::host::event::{Answer, CallId, Caller, Event, Route};
use moonshard::ipc::{AdminRequest, SessionId, ToSession, ViewerGrant, ViewerId};
use moonshard::proto::hex;
use moonshard::proto::http::Head;
use moonshard::proto::rtsp::client::{ClientRequest, ClientResponse};
use moonshard::proto::rtsp::{self, Direction, Method};
use moonshard::proto::secret::SessionKey;
use moonshard::proto::stream::Flow;
use moonshard::session::life;
use moonshard::time::{Entropy, Time};

use super::kit::kit;
use super::pairing::Pairing;
use super::{ATTACKER, Happening, NEWCOMER, Plan, World, local, ms};

/// What a client waits for.
#[derive(Clone, Debug, PartialEq)]
pub enum Wish {
    Poll,
    Launch,
    Pair(u8),
    Rtsp(usize),
    Noise,
}

pub struct Call {
    pub client: usize,
    pub wish: Wish,
    pub until: Time,
    key: Option<SessionKey>,
}

pub struct Player {
    pub certificate: Vec<u8>,
    pub address: &'static str,
    /// Where its datagrams come from; another one when it has moved.
    port: u16,
    key: SessionKey,
    encrypted: bool,
    /// Shows ping payload and connect data.
    pub identity: bool,
    sequence: u32,
    /// Next exchange of the handshake; None: none under way.
    pub exchange: Option<usize>,
    token: String,
    last_wire: Vec<u8>,
    /// As SETUP told them.
    payload: Option<[u8; 16]>,
    connect_data: u32,
    pub grant: Option<ViewerGrant>,
    pub streaming: Option<(SessionId, ViewerId)>,
    pub pairing: Option<Pairing>,
    /// The host has put its pairings off, for earlier failures.
    pub delayed: bool,
    /// It strives to stream, and it has.
    pub strives: bool,
    pub played: bool,
}

impl Player {
    pub fn new(number: usize) -> Self {
        let addresses = ["10.0.0.2", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"];
        let certificate = match number {
            NEWCOMER => kit().newcomer.certificate.der().to_vec(),
            ATTACKER => kit().attacker.certificate.der().to_vec(),
            n => vec![n as u8; 3],
        };
        Self {
            certificate,
            address: addresses[number],
            port: 7_000 + u16::try_from(number).unwrap(),
            key: SessionKey([0; 16]),
            encrypted: true,
            identity: true,
            sequence: 0,
            exchange: None,
            token: String::new(),
            last_wire: Vec::new(),
            payload: None,
            connect_data: 0,
            grant: None,
            streaming: None,
            pairing: None,
            delayed: false,
            strives: false,
            played: false,
        }
    }
}

impl World {
    pub fn source(&self, player: usize) -> SocketAddr {
        let player = &self.players[player];
        SocketAddr::new(player.address.parse().unwrap(), player.port)
    }

    fn call(&mut self, client: usize, wish: Wish, limit_ms: u64) -> CallId {
        self.number += 1;
        let call = CallId(self.number);
        let key = match wish {
            Wish::Rtsp(_) => Some(self.players[client].key.clone()),
            _ => None,
        };
        self.calls.insert(call, Call { client, wish, until: self.now + ms(limit_ms), key });
        if self.fault(40) {
            self.host_hears(8_000, Event::CallGone { call });
        }
        call
    }

    pub fn request(&mut self, player: usize, wish: Wish, target: &str, limit: u64, tls: bool) {
        let call = self.call(player, wish, limit);
        let head = format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        let (request, _) = Head::parse(head.as_bytes()).unwrap().unwrap();
        let caller = Caller {
            peer: self.source(player),
            local: local(47_984),
            certificate: tls.then(|| self.players[player].certificate.clone()),
            tls,
        };
        self.host_hears(30, Event::Http { call, caller, request });
    }

    fn http(&mut self, player: usize, wish: Wish, target: &str) {
        let limit = if wish == Wish::Launch { 27_000 } else { 2_000 };
        self.request(player, wish, target, limit, true);
    }

    /// A client does what comes to its mind, and thinks of something again later.
    pub fn act(&mut self, player: usize) {
        if !self.faulty {
            self.players[player].exchange = None;
            return;
        }
        self.soon(6_000, Happening::Act(player));
        if let Some(exchange) = self.players[player].exchange {
            return match self.workload.below(6) {
                0 => self.rtsp_noise(player),
                1 => self.players[player].exchange = None,
                2 => {
                    // The same bytes again: sealed ones must be closed without a word.
                    let wire = self.players[player].last_wire.clone();
                    self.rtsp_wire(player, Wish::Noise, wire);
                }
                _ => self.exchange(player, exchange),
            };
        }
        let unpaired = !self.lets_in(player);
        if unpaired && (player == NEWCOMER || player == ATTACKER) && !self.workload.one_in(3) {
            return match self.workload.below(8) {
                0 => self.pairing_noise(player),
                _ if self.pairs(player) => {}
                _ => self.begin_pairing(player),
            };
        }
        match self.workload.below(11) {
            0 => self.http(player, Wish::Poll, "/serverinfo"),
            1 => self.http(player, Wish::Poll, "/cancel"),
            2 => self.http(player, Wish::Poll, "/nonsense?%ff=%"),
            3 => self.rtsp_noise(player),
            4 => self.move_flows(player),
            n => {
                let verb = if n < 8 { "launch" } else { "resume" };
                let app = 1 + self.workload.below(6) / 5;
                let encrypted = !self.workload.one_in(4);
                let identity = !self.workload.one_in(4);
                self.launch(player, verb, app, encrypted, identity);
            }
        }
    }

    pub fn lets_in(&self, player: usize) -> bool {
        self.authorised.contains(&client_id(&self.players[player].certificate))
    }

    fn launch(&mut self, player: usize, verb: &str, app: u64, encrypted: bool, identity: bool) {
        let mut key = [0; 16];
        self.workload.fill(&mut key);
        let width = [1280, 1920, 3840][self.workload.below(3) as usize];
        let it = &mut self.players[player];
        it.key = SessionKey(key);
        it.encrypted = encrypted;
        it.identity = identity;
        (it.payload, it.grant) = (None, None);
        let target = format!(
            "/{verb}?appid={app}&mode={width}x720x60&rikey={}&rikeyid=7&localAudioPlayMode=0&corever={}",
            hex::encode(&key),
            u8::from(encrypted)
        );
        self.http(player, Wish::Launch, &target);
    }

    /// It tries to stream until it does; then it quits. In a counted world it is removed at the end.
    pub fn strive(&mut self, player: usize) {
        let waits = self.calls.values().any(|c| c.client == player && c.wish != Wish::Noise);
        let it = &mut self.players[player];
        if !it.strives {
            (it.strives, it.played, it.exchange) = (true, false, None);
            if it.streaming.is_some() {
                it.played = true;
            }
        }
        let done = it.played && it.streaming.is_some();
        let again = Happening::Strive(player);
        if done {
            self.http(player, Wish::Poll, "/cancel");
            if self.plan != Plan::Chance {
                let client = client_id(&self.players[player].certificate).to_string();
                self.number += 1;
                let request = AdminRequest::RemoveClient { client };
                self.host_hears(5_000, Event::Admin { id: self.number, request });
            }
            return;
        }
        self.soon(2_000, again);
        if waits || self.players[player].exchange.is_some() || self.players[player].played {
            return;
        }
        match (self.lets_in(player), player) {
            (false, NEWCOMER) => self.begin_pairing(player),
            (false, _) => {}
            (true, _) => {
                let (encrypted, identity) = (!self.workload.one_in(3), !self.workload.one_in(3));
                self.launch(player, "launch", 1, encrypted, identity);
            }
        }
    }

    fn rtsp_noise(&mut self, player: usize) {
        let mut wire = vec![0; 40];
        self.workload.fill(&mut wire);
        self.rtsp_wire(player, Wish::Noise, wire);
    }

    fn rtsp_wire(&mut self, player: usize, wish: Wish, wire: Vec<u8>) {
        let call = self.call(player, wish, 21_000);
        let event = Event::Rtsp { call, peer: self.source(player), local: local(48_010), wire };
        self.host_hears(30, event);
    }

    fn exchange(&mut self, player: usize, exchange: usize) {
        let it = &mut self.players[player];
        let announce = if it.identity { &kit().announce } else { &kit().announce_without_identity };
        let (method, target) = match exchange {
            0 => (Method::Options, "rtsp://10.0.0.1:48010"),
            1 => (Method::Describe, "rtsp://10.0.0.1:48010"),
            2 => (Method::Setup, rtsp::target_of(Flow::Audio)),
            3 => (Method::Setup, rtsp::target_of(Flow::Video)),
            4 => (Method::Setup, rtsp::target_of(Flow::Control)),
            5 => (Method::Announce, rtsp::target_of(Flow::Control)),
            _ => (Method::Play, "/"),
        };
        let session = (exchange > 2).then_some(it.token.as_str());
        let body = if exchange == 5 { announce.as_str() } else { "" };
        let cseq = u32::try_from(exchange).unwrap() + 1;
        let request = ClientRequest { method, target, cseq, host: "10.0.0.1", session, body };
        let mut wire = request.write();
        if it.encrypted {
            it.sequence += 1;
            wire = rtsp::seal(&it.key, it.sequence, Direction::ClientToHost, &wire);
        }
        it.last_wire.clone_from(&wire);
        self.rtsp_wire(player, Wish::Rtsp(exchange), wire);
    }

    pub fn answered(&mut self, id: CallId, answer: Answer) {
        if !self.answered.insert(id) {
            self.broken("a call was answered twice");
        }
        let Some(call) = self.calls.remove(&id) else { return };
        match answer {
            Answer::Http(response) => {
                let body = String::from_utf8(response.body).unwrap();
                match call.wish {
                    Wish::Launch if body.contains("sessionUrl0") => {
                        self.players[call.client].exchange = Some(0);
                        self.players[call.client].token.clear();
                        self.exchange(call.client, 0);
                    }
                    Wish::Launch => self.errors += 1,
                    Wish::Pair(phase) => self.paired_on(call.client, phase, &body),
                    _ => {}
                }
            }
            Answer::Rtsp(bytes) => self.rtsp_answered(call, bytes),
            Answer::Close => {
                if matches!(call.wish, Wish::Rtsp(_)) {
                    self.errors += 1;
                    self.players[call.client].exchange = None;
                }
            }
        }
    }

    fn rtsp_answered(&mut self, call: Call, mut bytes: Vec<u8>) {
        let Wish::Rtsp(exchange) = call.wish else { return };
        let key = call.key.expect("noted with the call");
        if bytes.first().is_some_and(|b| b & 0x80 != 0) {
            let Ok((sequence, plain)) = rtsp::open(&key, &bytes, Direction::HostToClient) else {
                self.broken("an answer does not open under the call's key")
            };
            if !self.sealed.insert((key.0, sequence)) {
                self.broken("a key and IV were used twice");
            }
            bytes = plain;
        }
        let it = &mut self.players[call.client];
        if it.exchange != Some(exchange) {
            return;
        }
        let response = ClientResponse::parse(&bytes).ok().filter(|r| r.status == 200);
        let Some(response) = response else {
            it.exchange = None;
            self.errors += 1;
            return;
        };
        if let Some(token) = response.session() {
            it.token = token.to_owned();
        }
        match exchange {
            3 => it.payload = response.ping_payload(),
            4 => it.connect_data = response.connect_data(),
            _ => {}
        }
        it.exchange = Some(exchange + 1);
        if exchange < 6 {
            return self.exchange(call.client, exchange + 1);
        }
        it.exchange = None;
        if let Some(grant) = &it.grant {
            let viewer = grant.viewer;
            self.ping(call.client, viewer, 20);
        }
    }

    /// The first datagrams of the three flows come to the door, twice a second, until it streams.
    pub fn ping(&mut self, player: usize, viewer: ViewerId, tries: u32) {
        let it = &self.players[player];
        let own = it.grant.as_ref().is_some_and(|grant| grant.viewer == viewer);
        if tries == 0 || it.streaming.is_some() || !own {
            return;
        }
        self.at(self.now + ms(500), Happening::Ping(player, viewer, tries - 1));
        for flow in [Flow::Video, Flow::Audio, Flow::Control] {
            self.datagram(player, flow, false);
        }
    }

    /// A client that streams comes from another port.
    fn move_flows(&mut self, player: usize) {
        if self.players[player].streaming.is_none() || !self.players[player].identity {
            return;
        }
        self.players[player].port += 100;
        self.datagram(player, Flow::Video, false);
        self.datagram(player, Flow::Control, true);
    }

    fn datagram(&mut self, player: usize, flow: Flow, connected: bool) {
        let (source, now) = (self.source(player), self.now);
        let it = &self.players[player];
        let (payload, data) = match it.identity {
            true => (it.payload, it.connect_data),
            false => (None, 0),
        };
        let Some(grant) = it.grant.clone() else { return };
        let route = match flow {
            Flow::Control if connected => self.host.route_peer(grant.peer_id, source, now),
            Flow::Control => self.host.route_connect(data, source, now),
            _ => self.host.route_ping(flow, payload.as_ref(), source, now),
        };
        self.note(&(source, flow, payload.is_some(), route));
        let Route::HandOver { session, viewer } = route else { return };
        self.must_be_its_own(player, viewer);
        if self.fails("socket to a session", 10) {
            return;
        }
        let (local, first) = (local(47_998), Vec::new());
        self.send(session, ToSession::Socket { viewer, flow, local, peer: source, first });
    }

    pub fn talk(&mut self, player: usize, viewer: ViewerId) {
        let Some((session, its)) = self.players[player].streaming else { return };
        if its != viewer {
            return;
        }
        if self.faulty && self.workload.one_in(40) {
            self.players[player].streaming = None;
            return;
        }
        let event = match self.workload.below(40) {
            0 if self.faulty => life::Event::ControlClosed { viewer },
            1..5 => life::Event::KeyFrameAsked { viewer },
            _ => life::Event::Heard { viewer },
        };
        self.tell_life(session, event);
        let goes_on = |p: &super::Process| p.life.stream(viewer).is_some();
        if !self.processes.get(&session).is_some_and(goes_on) {
            self.players[player].streaming = None;
            return;
        }
        self.soon(2_000, Happening::Talk(player, viewer));
    }
}
