//! One launch on its way to a stream: its secrets, its RTSP handshake, its deadline.
//!
//! A grant is found by the key that opens a message, or, with plain RTSP, by the address that launched;
//! never by an address alone when two are under way. Source: moonlight-common-c src/RtspConnection.c.
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::Context;
use super::event::{Answer, CallId, Effect, HostFacts};
use super::same_address;
use crate::config::Config;
use crate::ipc::{SessionId, ToSession, ViewerGrant, ViewerId};
use crate::proto::rtsp::{self, Direction, Method, Request, Response, Status};
use crate::proto::sdp;
use crate::proto::secret::SessionKey;
use crate::proto::stream::{Flow, StreamSpec};
use crate::proto::surround::Layout;
use crate::time::{Entropy, Time};

/// A client that can show no identity is found by its address until so long after PLAY.
const ADDRESS_ALONE: Duration = Duration::from_secs(10);

/// What a grant is made from.
pub struct Launch {
    pub peer: IpAddr,
    /// RTSP comes sealed with the key.
    pub encrypted: bool,
    pub key: SessionKey,
    pub rikeyid: i32,
    /// The client's own surround layout.
    pub surround: Option<Layout>,
}

/// How far the client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Launched, not yet heard of.
    Armed,
    Handshake,
    /// ANNOUNCE was passed to the session, which has not answered yet.
    Announced,
    /// The session is ready for the control connection.
    Ready,
    Playing,
    Connected,
}

/// A launch that may become a stream, or has.
pub struct Grant {
    pub wire: ViewerGrant,
    pub encrypted: bool,
    pub peer: IpAddr,
    pub stage: Stage,
    /// The furthest that it has come. Each step gives it `grant_ms` more, once: what the client says in
    /// between gives it nothing, so a grant lives five times that long at most.
    furthest: Stage,
    until: Time,
    /// When PLAY was answered.
    played: Option<Time>,
    surround: Option<Layout>,
    /// Of our next sealed message; starts at 1.
    sequence: u32,
    /// Of the client's last one. It may start anywhere, since clients count on over launches.
    heard: Option<u32>,
    token: String,
    control_set_up: bool,
    pub spec: Option<StreamSpec>,
    /// The ANNOUNCE that waits for the session.
    announce: Option<(CallId, u32)>,
    /// Whom each flow was last handed over for, and when.
    pub handed: [Option<(SocketAddr, Time)>; 3],
}

impl Grant {
    pub fn new(launch: Launch, peer_id: u16, until: Time, entropy: &mut dyn Entropy) -> Self {
        let wire = ViewerGrant {
            viewer: ViewerId(entropy.next_u64()),
            key: launch.key,
            rikeyid: launch.rikeyid,
            ping_payload: format!("{:016x}", entropy.next_u64()),
            connect_data: (entropy.next_u64() >> 32) as u32 | 1,
            peer_id,
        };
        Self {
            wire,
            encrypted: launch.encrypted,
            peer: launch.peer,
            stage: Stage::Armed,
            furthest: Stage::Armed,
            until,
            played: None,
            surround: launch.surround,
            sequence: 1,
            heard: None,
            token: format!("{:016X}", entropy.next_u64()),
            control_set_up: false,
            spec: None,
            announce: None,
            handed: [None; 3],
        }
    }

    /// A stream that an earlier front saw through its handshake: no RTSP is answered for it.
    pub fn adopted(wire: ViewerGrant, stage: Stage, until: Time) -> Self {
        Self {
            wire,
            encrypted: true,
            peer: IpAddr::from([0, 0, 0, 0]),
            stage,
            furthest: stage,
            until,
            played: None,
            surround: None,
            sequence: u32::MAX,
            heard: Some(u32::MAX),
            token: String::new(),
            control_set_up: true,
            spec: None,
            announce: None,
            handed: [None; 3],
        }
    }

    /// Not yet connected.
    pub fn pending(&self) -> bool {
        self.stage != Stage::Connected
    }

    pub fn deadline(&self) -> Option<Time> {
        self.pending().then_some(self.until)
    }

    pub fn expired(&self, now: Time) -> bool {
        self.deadline().is_some_and(|until| until <= now)
    }

    /// The client or the session has come this far.
    fn reach(&mut self, stage: Stage, config: &Config, now: Time) {
        self.stage = stage;
        if stage > self.furthest {
            self.furthest = stage;
            self.until = now + Duration::from_millis(config.limits.grant_ms);
        }
    }

    /// Its client shows no identity, and may still be looked for by its address alone.
    pub fn found_by_address(&self, now: Time) -> bool {
        self.spec.as_ref().is_some_and(|spec| !spec.sends_identity)
            && self.played.is_none_or(|at| now.since(at) < ADDRESS_ALONE)
    }

    /// Its RTSP or one of its flows could be taken for another's from the same address.
    pub fn claims_address(&self, now: Time) -> bool {
        let rtsp = !self.encrypted && self.stage < Stage::Playing;
        let open = |flow: Flow| self.handed[flow as usize].is_none();
        let flows = open(Flow::Video) || open(Flow::Audio) || open(Flow::Control) && self.pending();
        rtsp || self.found_by_address(now) && flows
    }

    /// The session can take the control connection: ANNOUNCE is answered.
    pub fn ready(&mut self, config: &Config, cx: &mut Context<'_>) {
        if self.stage == Stage::Announced {
            self.reach(Stage::Ready, config, cx.now);
        }
        self.answer_announce(Status::Ok, cx);
    }

    /// The session cannot stream what was announced. The client may announce something else.
    pub fn refused(&mut self, status: u16, cx: &mut Context<'_>) {
        if self.stage != Stage::Announced {
            return;
        }
        self.stage = Stage::Handshake;
        self.spec = None;
        let status = match status {
            400 => Status::BadRequest,
            503 => Status::Unavailable,
            _ => Status::Internal,
        };
        self.answer_announce(status, cx);
    }

    /// Answers what still waits; the grant goes.
    pub fn close_calls(mut self, cx: &mut Context<'_>) {
        self.close_waiting(cx);
    }

    /// Answers what still waits.
    pub fn close_waiting(&mut self, cx: &mut Context<'_>) {
        self.answer_announce(Status::Unavailable, cx);
    }

    fn answer_announce(&mut self, status: Status, cx: &mut Context<'_>) {
        if let Some((call, cseq)) = self.announce.take() {
            self.answer(call, &Response::new(status, cseq), cx);
        }
    }

    pub fn call_gone(&mut self, call: CallId) {
        self.announce.take_if(|(waiting, _)| *waiting == call);
    }

    fn answer(&mut self, call: CallId, response: &Response, cx: &mut Context<'_>) {
        let plain = response.write();
        let bytes = if self.encrypted {
            let sealed = rtsp::seal(&self.wire.key, self.sequence, Direction::HostToClient, &plain);
            self.sequence = self.sequence.wrapping_add(1);
            sealed
        } else {
            plain
        };
        cx.effects.push(Effect::Answer { call, answer: Answer::Rtsp(bytes) });
    }

    /// A message that is this grant's. `crowded`: from its address another client without an identity
    /// is on its way, so that a second one could not be told apart from it.
    #[expect(clippy::too_many_arguments, reason = "the parts of one event")]
    fn request(
        &mut self,
        session: SessionId,
        call: CallId,
        message: &[u8],
        crowded: bool,
        config: &Config,
        facts: &HostFacts,
        cx: &mut Context<'_>,
    ) {
        let request = match Request::parse(message) {
            Ok(request) => request,
            Err(error) => {
                let response = Response::new(Status::BadRequest, error.cseq);
                return self.answer(call, &response, cx);
            }
        };
        if self.stage == Stage::Armed {
            self.reach(Stage::Handshake, config, cx.now);
        }
        let refuse = |status| Response::new(status, request.cseq);
        let foreign = request.session().is_some_and(|token| token != self.token);
        let response = match request.method {
            Method::Setup | Method::Announce | Method::Play if foreign => {
                refuse(Status::SessionNotFound)
            }
            Method::Options => Response::ok(request.cseq),
            Method::Describe => self.describe(request.cseq, facts),
            Method::Setup => self.set_up(&request, config),
            Method::Announce => match self.announce(&request, config, facts) {
                Ok(spec) if crowded && !spec.sends_identity => {
                    let viewer = self.wire.viewer;
                    tracing::info!(%viewer, "ANNOUNCE refused: another client without an identity connects from this address");
                    refuse(Status::Unavailable)
                }
                Ok(spec) => {
                    self.reach(Stage::Announced, config, cx.now);
                    self.spec = Some(spec.clone());
                    self.announce = Some((call, request.cseq));
                    let viewer = self.wire.viewer;
                    let message = ToSession::Announce { viewer, spec: Box::new(spec) };
                    cx.effects.push(Effect::Send { session, message });
                    return;
                }
                Err(status) => refuse(status),
            },
            Method::Play if self.stage == Stage::Ready => {
                self.reach(Stage::Playing, config, cx.now);
                self.played = Some(cx.now);
                Response::ok(request.cseq)
            }
            Method::Play => refuse(Status::WrongState),
            Method::Other => refuse(Status::NotFound),
        };
        self.answer(call, &response, cx);
    }

    fn describe(&self, cseq: u32, facts: &HostFacts) -> Response {
        let offer = sdp::DescribeOffer {
            codecs: &facts.codecs,
            features: sdp::host_feature::PEN_TOUCH,
            encryption_supported: sdp::encryption::ALL,
            encryption_requested: sdp::encryption::CONTROL_V2,
            reference_invalidation: false,
            surround: self.surround.as_ref(),
        };
        Response::ok(cseq).body(sdp::describe(&offer))
    }

    fn set_up(&mut self, request: &Request, config: &Config) -> Response {
        let Some(flow) = request.stream() else {
            return Response::new(Status::NotFound, request.cseq);
        };
        if self.stage > Stage::Handshake {
            return Response::new(Status::WrongState, request.cseq);
        }
        let ok = Response::ok(request.cseq).session(&self.token);
        let payload: &[u8; 16] =
            self.wire.ping_payload.as_bytes().try_into().expect("16 hexadecimal digits");
        match flow {
            Flow::Audio => ok.server_port(config.ports.audio).ping_payload(payload),
            Flow::Video => ok.server_port(config.ports.video).ping_payload(payload),
            Flow::Control => {
                self.control_set_up = true;
                ok.server_port(config.ports.control).connect_data(self.wire.connect_data)
            }
        }
    }

    fn announce(
        &self,
        request: &Request,
        config: &Config,
        facts: &HostFacts,
    ) -> Result<StreamSpec, Status> {
        if self.stage != Stage::Handshake || !self.control_set_up {
            return Err(Status::WrongState);
        }
        if request.stream().is_none() {
            return Err(Status::NotFound);
        }
        let context = sdp::AnnounceContext {
            codecs: &facts.codecs,
            encryption_supported: sdp::encryption::ALL,
            encryption_required: 0,
            fec_percent: config.fec_percent,
            surround: self.surround.as_ref(),
        };
        sdp::parse_announce(&request.body, request.host(), &context).map_err(|error| {
            tracing::info!(viewer = %self.wire.viewer, %error, "ANNOUNCE refused");
            error.status()
        })
    }
}

/// Finds the grant of a message and lets it answer. A stranger's sealed message is closed without a
/// word; plaintext is never answered for a launch that is to be sealed.
pub fn rtsp<'a>(
    grants: impl Iterator<Item = (SessionId, &'a mut Grant)>,
    call: CallId,
    peer: IpAddr,
    wire: &[u8],
    config: &Config,
    facts: &HostFacts,
    cx: &mut Context<'_>,
) {
    let sealed = wire.first().is_some_and(|byte| byte & 0x80 != 0);
    let mut grants: Vec<(SessionId, &mut Grant)> = grants.collect();
    let found = match sealed {
        true => opened_by(&mut grants, peer, wire),
        false => addressed(&grants, peer).map(|at| (at, wire.to_vec())),
    };
    match found {
        Ok((at, message)) => {
            let its = grants[at].1.peer;
            let crowded = grants.iter().enumerate().any(|(other, (_, g))| {
                other != at
                    && same_address(g.peer, its)
                    && g.spec.is_some()
                    && g.claims_address(cx.now)
            });
            let (session, grant) = &mut grants[at];
            grant.request(*session, call, &message, crowded, config, facts, cx);
        }
        Err(Lost::Close) => cx.effects.push(Effect::Answer { call, answer: Answer::Close }),
        Err(Lost::Ambiguous) => {
            let response = Response::new(Status::SessionNotFound, rtsp::cseq_of(wire)).write();
            cx.effects.push(Effect::Answer { call, answer: Answer::Rtsp(response) });
        }
    }
}

/// A message that is no grant's.
enum Lost {
    Close,
    /// Plain, and no launch or several from there are plain: answered with 454.
    Ambiguous,
}

/// The grant whose key opens the message, those of its address first; and what it says.
fn opened_by(
    grants: &mut [(SessionId, &mut Grant)],
    peer: IpAddr,
    wire: &[u8],
) -> Result<(usize, Vec<u8>), Lost> {
    for near in [true, false] {
        for (at, (_, grant)) in grants.iter_mut().enumerate() {
            let candidate = grant.pending() && grant.encrypted;
            if !candidate || same_address(grant.peer, peer) != near {
                continue;
            }
            let opened = rtsp::open(&grant.wire.key, wire, Direction::ClientToHost);
            let Ok((sequence, message)) = opened else { continue };
            if grant.heard.is_some_and(|heard| sequence <= heard) {
                return Err(Lost::Close);
            }
            grant.heard = Some(sequence);
            return Ok((at, message));
        }
    }
    Err(Lost::Close)
}

/// The one grant with plain RTSP from this address: who is still in its handshake, else who was.
fn addressed(grants: &[(SessionId, &mut Grant)], peer: IpAddr) -> Result<usize, Lost> {
    let near = |g: &Grant| g.pending() && same_address(g.peer, peer);
    let one = |fits: &dyn Fn(&Grant) -> bool| {
        let mut of_peer = grants.iter().enumerate().filter(|(_, (_, g))| near(g) && fits(g));
        match (of_peer.next(), of_peer.next()) {
            (Some((at, _)), None) => Some(at),
            _ => None,
        }
    };
    let any = |encrypted| grants.iter().any(|(_, g)| near(g) && g.encrypted == encrypted);
    if any(true) && !any(false) {
        return Err(Lost::Close);
    }
    one(&|g| !g.encrypted && g.stage < Stage::Playing)
        .or_else(|| one(&|g| !g.encrypted))
        .ok_or(Lost::Ambiguous)
}
