//! A client of the host under test, step by step: launch, RTSP, connection.
use super::*;
use crate::ipc::ViewerId;
use crate::proto::rtsp::Method;
use crate::proto::rtsp::client::{ClientRequest, ClientResponse};
use crate::proto::secret::SessionKey;

/// One launch of one device and its handshake.
pub struct Device {
    pub address: &'static str,
    pub key: u8,
    pub encrypted: bool,
    /// Shows ping payload and connect data.
    pub identity: bool,
    pub session: SessionId,
    pub grant: ViewerGrant,
    sequence: u32,
    token: String,
}

/// SDP of a client, 1920x1080.
pub fn announce_body(identity: bool) -> String {
    let recorded = vector("rtsp-encrypted-local-stereo-hevc");
    let announce = text(&recorded["exchanges"][5]["request"]["plaintext"]);
    let body = announce.split_once("\r\n\r\n").unwrap().1;
    match identity {
        true => body.to_owned(),
        false => body.replace("x-ml-general.featureFlags:3", "x-ml-general.featureFlags:1"),
    }
}

impl Device {
    /// Launches app 1 on a host that answers at once.
    pub fn launch(bench: &mut Bench, certificate: u8, address: &'static str, key: u8) -> Self {
        let (session, grant) = bench.running(certificate, address, key, 1);
        Self::granted(address, key, session, grant)
    }

    pub fn launch_plain(
        bench: &mut Bench,
        certificate: u8,
        address: &'static str,
        key: u8,
    ) -> Self {
        let (session, grant) = bench.running(certificate, address, key, 0);
        let device = Self::granted(address, key, session, grant);
        Self { encrypted: false, ..device }
    }

    pub fn granted(address: &'static str, key: u8, session: SessionId, grant: ViewerGrant) -> Self {
        let (encrypted, identity) = (true, true);
        let (sequence, token) = (0, String::new());
        Self { address, key, encrypted, identity, session, grant, sequence, token }
    }

    pub fn without_identity(self) -> Self {
        Self { identity: false, ..self }
    }

    pub fn viewer(&self) -> ViewerId {
        self.grant.viewer
    }

    pub fn source(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address.parse().unwrap(), port)
    }

    /// One request; what the host did about it.
    pub fn say(&mut self, bench: &mut Bench, method: Method, target: &str) -> Vec<Effect> {
        let body =
            if method == Method::Announce { announce_body(self.identity) } else { "".into() };
        let session = (!self.token.is_empty()).then_some(self.token.as_str());
        self.sequence += 1;
        let cseq = self.sequence;
        let host = "10.0.0.1";
        let request = ClientRequest { method, target, cseq, host, session, body: &body }.write();
        let wire = match self.encrypted {
            true => rtsp::seal(&self.key(), cseq, Direction::ClientToHost, &request),
            false => request,
        };
        bench.rtsp(self.address, wire).1
    }

    /// One request that is answered at once; its status.
    pub fn ask(&mut self, bench: &mut Bench, method: Method, target: &str) -> i32 {
        let effects = self.say(bench, method, target);
        self.status(&effects)
    }

    fn key(&self) -> SessionKey {
        SessionKey([self.key; 16])
    }

    /// The answer among the effects.
    pub fn status(&mut self, effects: &[Effect]) -> i32 {
        let mut answer = rtsp_bytes(effects);
        if self.encrypted {
            answer = rtsp::open(&self.key(), &answer, Direction::HostToClient).unwrap().1;
        }
        let response = ClientResponse::parse(&answer).unwrap();
        if let Some(token) = response.session() {
            self.token = token.to_owned();
        }
        response.status
    }

    pub fn set_up(&mut self, bench: &mut Bench) {
        assert_eq!(self.ask(bench, Method::Options, "rtsp://10.0.0.1:48010"), 200);
        assert_eq!(self.ask(bench, Method::Describe, "rtsp://10.0.0.1:48010"), 200);
        for flow in [Flow::Audio, Flow::Video, Flow::Control] {
            assert_eq!(self.ask(bench, Method::Setup, rtsp::target_of(flow)), 200);
        }
    }

    /// What ANNOUNCE does before the session has answered.
    pub fn announce(&mut self, bench: &mut Bench) -> Vec<Effect> {
        self.say(bench, Method::Announce, rtsp::target_of(Flow::Control))
    }

    pub fn ready(&mut self, bench: &mut Bench) -> Vec<Effect> {
        let message = FromSession::ViewerReady { viewer: self.viewer() };
        bench.event(Event::Session { session: self.session, message })
    }

    /// The whole handshake.
    pub fn play(&mut self, bench: &mut Bench) {
        self.set_up(bench);
        self.announce(bench);
        let effects = self.ready(bench);
        assert_eq!(self.status(&effects), 200);
        assert_eq!(self.ask(bench, Method::Play, "/"), 200);
    }

    pub fn connected(&self, bench: &mut Bench) {
        let (local, peer) = ("10.0.0.1:47999".parse().unwrap(), self.source(7000));
        let (viewer, last_will) = (self.viewer(), vec![1, 2, 3]);
        let message = FromSession::ViewerConnected { viewer, local, peer, last_will };
        bench.event(Event::Session { session: self.session, message });
    }

    /// A handshake, then the connection.
    pub fn stream(&mut self, bench: &mut Bench) {
        self.play(bench);
        self.connected(bench);
    }
}
