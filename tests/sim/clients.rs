// The people of the world: clients, the operator, and the rules that hold at every step.

impl World {
    fn source(&self, player: usize) -> SocketAddr {
        let port = 7_000 + u16::try_from(player).unwrap();
        SocketAddr::new(self.players[player].address.parse().unwrap(), port)
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

    fn http(&mut self, player: usize, wish: Wish, target: &str) {
        let limit = if wish == Wish::Launch { 27_000 } else { 2_000 };
        let call = self.call(player, wish, limit);
        let head = format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        let (request, _) = Head::parse(head.as_bytes()).unwrap().unwrap();
        let caller = Caller {
            peer: self.source(player),
            local: local(47_984),
            certificate: Some(self.players[player].certificate.clone()),
            tls: true,
        };
        self.host_hears(30, Event::Http { call, caller, request });
    }

    /// A client does what comes to its mind, and thinks of something again later.
    fn act(&mut self, player: usize) {
        if self.faulty {
            self.soon(8_000, Happening::Act(player));
        } else {
            self.players[player].exchange = None;
            return;
        }
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
        match self.workload.below(10) {
            0 => self.http(player, Wish::Poll, "/serverinfo"),
            1 => self.http(player, Wish::Poll, "/cancel"),
            2 => self.http(player, Wish::Poll, "/nonsense?%ff=%"),
            3 => self.rtsp_noise(player),
            n => {
                let verb = if n < 7 { "launch" } else { "resume" };
                let app = 1 + u64::from(self.workload.one_in(6));
                let encrypted = !self.workload.one_in(4);
                let mut key = [0; 16];
                self.workload.fill(&mut key);
                let width = [1280, 1920, 3840][self.workload.below(3) as usize];
                let it = &mut self.players[player];
                it.key = SessionKey(key);
                it.encrypted = encrypted;
                let target = format!(
                    "/{verb}?appid={app}&mode={width}x720x60&rikey={}&rikeyid=7&localAudioPlayMode=0&corever={}",
                    hex::encode(&key),
                    u8::from(encrypted)
                );
                self.http(player, Wish::Launch, &target);
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
        let announce = self.announce.clone();
        let it = &mut self.players[player];
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

    fn answered(&mut self, id: CallId, answer: Answer) {
        if !self.answered.insert(id) {
            self.broken("a call was answered twice");
        }
        let Some(call) = self.calls.remove(&id) else { return };
        match answer {
            Answer::Http(response) => {
                let body = String::from_utf8(response.body).unwrap();
                let certificate = &self.players[call.client].certificate;
                let known = self.disk.contains_key(&client_id(certificate));
                if call.client == CLIENTS - 1 && !body.contains("status_code=\"401\"") {
                    self.broken("an unpaired client was served");
                }
                if known && call.wish == Wish::Launch && body.contains("sessionUrl0") {
                    self.players[call.client].exchange = Some(0);
                    self.players[call.client].token.clear();
                    self.exchange(call.client, 0);
                }
            }
            Answer::Rtsp(bytes) => self.rtsp_answered(call, bytes),
            Answer::Close => {}
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
        if self.players[call.client].exchange != Some(exchange) {
            return;
        }
        let Ok(response) = ClientResponse::parse(&bytes) else { return };
        if !bytes.starts_with(b"RTSP/1.0 200") {
            return;
        }
        if let Some(token) = response.session() {
            self.players[call.client].token = token.to_owned();
        }
        self.players[call.client].exchange = Some(exchange + 1);
        if exchange < 6 {
            return self.exchange(call.client, exchange + 1);
        }
        self.players[call.client].exchange = None;
        self.connect(call.client);
    }

    /// The first datagrams of the three flows come to the door.
    fn connect(&mut self, player: usize) {
        let Some(grant) = self.players[player].grant.clone() else { return };
        let source = self.source(player);
        let payload = grant.ping_payload.as_bytes().try_into().unwrap();
        for flow in [Flow::Video, Flow::Audio, Flow::Control] {
            let route = match flow {
                Flow::Control => self.host.route_connect(grant.connect_data, source, self.now),
                _ => self.host.route_ping(flow, Some(payload), source, self.now),
            };
            if let Route::HandOver { session, viewer } = route {
                let (local, first) = (local(47_998), Vec::new());
                let message = ToSession::Socket { viewer, flow, local, peer: source, first };
                self.send(session, message);
            }
        }
    }

    fn talk(&mut self, player: usize, viewer: ViewerId) {
        let Some((session, its)) = self.players[player].streaming else { return };
        if its != viewer || !self.faulty || self.workload.one_in(40) {
            return;
        }
        let event = match self.workload.below(40) {
            0 => life::Event::ControlClosed { viewer },
            1..5 => life::Event::KeyFrameAsked { viewer },
            _ => life::Event::Heard { viewer },
        };
        self.tell_life(session, event);
        self.soon(2_000, Happening::Talk(player, viewer));
    }

    fn operate(&mut self) {
        if !self.faulty {
            return;
        }
        self.soon(10_000, Happening::Operator);
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

    // --- the rules ------------------------------------------------------------------------------

    fn check(&self) {
        if let Some((id, call)) = self.calls.iter().find(|(_, c)| c.until < self.now) {
            let late = format!("call {id:?} ({:?}) outlives its deadline", call.wish);
            self.broken(&late);
        }
        let mut clients = BTreeSet::new();
        let mut payloads = BTreeSet::new();
        let mut peers = BTreeSet::new();
        for (id, client, stopping, grant) in self.host.sessions().table() {
            if !stopping && !clients.insert(client) {
                self.broken(&format!("{id}: a second live session of one client"));
            }
            let Some(grant) = grant else { continue };
            if !payloads.insert(&grant.wire.ping_payload) || !peers.insert(grant.wire.peer_id) {
                self.broken("two live grants cannot be told apart");
            }
        }
        if self.canary && self.streams > 0 {
            self.broken("the canary: a stream exists");
        }
    }

    fn settled(&self) {
        if !self.processes.is_empty() {
            self.broken("a session lives on");
        }
        if !self.host.is_idle() || !self.calls.is_empty() {
            self.broken("the host is not idle");
        }
        if let Some(at) = self.host.next_timeout() {
            self.broken(&format!("an idle host waits until {at:?}"));
        }
    }
}
