//! `Host`: pairings, pending launches, which sessions exist. One pure machine behind one mutex.
//!
//! Events in, effects out; time and randomness are arguments. It holds no socket, file or thread.
//! One file per noun: `pairings` (who may come), `sessions` (what runs), `grant` (one launch on its
//! way to a stream, with its RTSP), `routes` (whose a first datagram is).
pub mod event;
pub mod grant;
pub mod pairings;
pub mod routes;
pub mod sessions;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use event::{Answer, CallId, Caller, Effect, Event, HostFacts};
use pairings::{OwnIdentity, Pairings, Step};
use sessions::Sessions;

use crate::config::Config;
use crate::ipc::{AdminAnswer, AdminRequest, AppSummary, ClientId, ClientSummary, FromSession};
use crate::proto::http::{Request, Response};
use crate::proto::launch::Verb;
use crate::proto::pairing::{self, PairRequest, Phase};
use crate::proto::serverinfo::{self, ServerInfo};
use crate::proto::x509::Certificate;
use crate::time::{Entropy, Time};

/// Everything a host starts from.
pub struct HostSetup {
    pub config: Config,
    /// The host's identity in every client's database.
    pub uuid: String,
    pub own: OwnIdentity,
    pub clients: Vec<Client>,
    pub facts: HostFacts,
    /// PNG of each app, by app id.
    pub pictures: BTreeMap<i32, Arc<[u8]>>,
}

/// A paired client.
#[derive(Clone, Debug)]
pub struct Client {
    /// DER of the certificate that it proved at pairing.
    pub certificate: Vec<u8>,
    pub name: String,
    /// Seconds since the Unix epoch.
    pub paired_at: u64,
}

/// The machine. `handle` is the only way in.
pub struct Host {
    config: Config,
    uuid: String,
    own: OwnIdentity,
    facts: HostFacts,
    pictures: BTreeMap<i32, Arc<[u8]>>,
    clients: BTreeMap<ClientId, Client>,
    pairings: Pairings,
    /// Phase 4 calls whose certificate is being written.
    storing: BTreeMap<ClientId, (CallId, Client)>,
    /// Admin questions whose client is being erased.
    erasing: BTreeMap<ClientId, u64>,
    sessions: Sessions,
}

/// What every step needs: the time, randomness, and where effects go.
pub struct Context<'a> {
    pub now: Time,
    pub entropy: &'a mut dyn Entropy,
    pub effects: &'a mut Vec<Effect>,
}

impl Context<'_> {
    fn answer(&mut self, call: CallId, response: Response) {
        self.effects.push(Effect::Answer { call, answer: Answer::Http(response) });
    }
}

impl Host {
    pub fn new(setup: HostSetup) -> Self {
        let clients =
            setup.clients.into_iter().map(|client| (client_id(&client.certificate), client));
        Self {
            config: setup.config,
            uuid: setup.uuid,
            own: setup.own,
            facts: setup.facts,
            pictures: setup.pictures,
            clients: clients.collect(),
            pairings: Pairings::default(),
            storing: BTreeMap::new(),
            erasing: BTreeMap::new(),
            sessions: Sessions::default(),
        }
    }

    /// Takes one event; appends what is to be done.
    pub fn handle(
        &mut self,
        event: Event,
        now: Time,
        entropy: &mut dyn Entropy,
        effects: &mut Vec<Effect>,
    ) {
        let mut cx = Context { now, entropy, effects };
        match event {
            Event::Http { call, caller, request } => self.http(call, &caller, &request, &mut cx),
            Event::Rtsp { call, peer, local: _, wire } => {
                self.sessions.rtsp(call, peer.ip(), &wire, &self.config, &self.facts, &mut cx);
            }
            Event::CallGone { call } => self.call_gone(call, &mut cx),
            Event::Admin { id, request } => self.admin(id, request, &mut cx),
            Event::ClientStored { client, result } => self.client_stored(client, result, &mut cx),
            Event::ClientErased { client, result } => {
                let Some(id) = self.erasing.remove(&client) else { return };
                let answer = match result {
                    Ok(()) => AdminAnswer::Done(format!("Removed client {client}.")),
                    Err(e) => AdminAnswer::Error(format!(
                        "Client {client} is locked out, but its file is still there: {e}"
                    )),
                };
                cx.effects.push(Effect::AnswerAdmin { id, answer });
            }
            Event::SessionSpawned { session, result } => {
                self.sessions.spawned(session, result, &self.config, &mut cx);
            }
            Event::Session { session, message } => {
                let client = match &message {
                    FromSession::Identity { spec, .. } => Some(spec.client),
                    _ => None,
                };
                self.sessions.message(session, message, &self.config, &mut cx);
                // Removed while this front did not know of the session yet.
                if let Some(client) = client.filter(|client| !self.clients.contains_key(client)) {
                    self.sessions.lock_out(client, &self.config, &mut cx);
                }
            }
            Event::SessionExited { session, status, last_words } => {
                self.sessions.exited(session, &status, &last_words, &self.config, &mut cx);
            }
            Event::SessionDeaf { session } => self.sessions.deaf(session, &mut cx),
            Event::Timeout => {}
        }
        self.pairings.expire(now, cx.effects);
        self.sessions.expire(&self.config, &mut cx);
    }

    /// When `Event::Timeout` is due at the latest.
    pub fn next_timeout(&self) -> Option<Time> {
        self.pairings.next_timeout().into_iter().chain(self.sessions.next_timeout()).min()
    }

    /// New facts about the machine, found off the shards.
    pub fn learn(&mut self, facts: HostFacts) {
        self.facts = facts;
    }

    /// Whether nothing runs, waits or is on its way.
    pub fn is_idle(&self) -> bool {
        self.pairings.is_empty()
            && self.storing.is_empty()
            && self.erasing.is_empty()
            && self.sessions.is_empty()
    }

    /// Whether nothing is on its way that another front could not go on with: no pairing, and no launch
    /// that is not a stream yet.
    pub fn is_calm(&self) -> bool {
        self.pairings.is_empty()
            && self.storing.is_empty()
            && self.erasing.is_empty()
            && self.sessions.table().all(|(.., grant)| grant.is_none_or(|grant| !grant.pending()))
    }

    /// How much is held of what. Each is bounded, whatever clients do.
    pub fn sizes(&self) -> BTreeMap<&'static str, usize> {
        let own = [
            ("clients", self.clients.len()),
            ("storing", self.storing.len()),
            ("erasing", self.erasing.len()),
        ];
        own.into_iter().chain(self.pairings.sizes()).chain(self.sessions.sizes()).collect()
    }

    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    fn authorised(&self, caller: &Caller) -> Option<ClientId> {
        let der = caller.certificate.as_deref()?;
        let id = client_id(der);
        self.clients.get(&id).filter(|client| client.certificate == der).map(|_| id)
    }

    fn http(&mut self, call: CallId, caller: &Caller, request: &Request, cx: &mut Context<'_>) {
        let response = match (caller.tls, request.path.as_str()) {
            (false, "/serverinfo") => self.serverinfo(caller, None),
            (false, "/pair") => return self.pair(call, caller, request, cx),
            (_, "/unpair") => {
                if let Ok(uniqueid) = pairing::unpair_request(&request.query) {
                    self.pairings.abort(uniqueid, caller.peer.ip(), cx.now, cx.effects);
                }
                pairing::Answer::Unpaired.response()
            }
            (false, _) => serverinfo::not_found(),
            (true, path) => match self.authorised(caller) {
                Some(client) => return self.paired(call, client, caller, request, cx),
                None => serverinfo::unauthorized(path),
            },
        };
        cx.answer(call, response);
    }

    /// Requests of a paired client over TLS.
    fn paired(
        &mut self,
        call: CallId,
        client: ClientId,
        caller: &Caller,
        request: &Request,
        cx: &mut Context<'_>,
    ) {
        let response = match request.path.as_str() {
            "/serverinfo" => self.serverinfo(caller, Some(client)),
            "/pair" => match PairRequest::parse(&request.query).and_then(|pair| pair.phase) {
                Ok(Phase::PairChallenge) => pairing::Answer::Paired.response(),
                Ok(_) => pairing::PairingError::Order.response(),
                Err(error) => error.response(),
            },
            "/applist" => serverinfo::app_list(self.config.apps.iter().map(|app| {
                serverinfo::App { id: app.spec.id, title: &app.spec.title, hdr: false }
            })),
            "/appasset" => self.picture(request),
            "/launch" => return self.start(Verb::Launch, call, client, caller, request, cx),
            "/resume" => return self.start(Verb::Resume, call, client, caller, request, cx),
            "/cancel" => {
                self.sessions.cancel(client, "the client quit the app", &self.config, cx);
                crate::proto::launch::cancelled()
            }
            _ => serverinfo::not_found(),
        };
        cx.answer(call, response);
    }

    fn start(
        &mut self,
        verb: Verb,
        call: CallId,
        client: ClientId,
        caller: &Caller,
        request: &Request,
        cx: &mut Context<'_>,
    ) {
        let name = self.clients.get(&client).map_or("", |c| c.name.as_str()).to_owned();
        let from =
            sessions::From { client, name, peer: caller.peer.ip(), local: caller.local.ip() };
        self.sessions.start(verb, call, from, &request.query, &self.config, &self.facts, cx);
    }

    fn picture(&self, request: &Request) -> Response {
        let id = request.query.get("appid").and_then(|id| id.parse::<i32>().ok());
        match id.and_then(|id| self.pictures.get(&id)) {
            Some(picture) => Response::png(picture.to_vec()),
            None => Response::no_asset(),
        }
    }

    fn serverinfo(&self, caller: &Caller, client: Option<ClientId>) -> Response {
        let local_ip = caller.local.ip().to_canonical();
        let mac = self.facts.macs.iter().find(|(ip, _)| ip.to_canonical() == local_ip);
        let info = ServerInfo {
            hostname: &self.config.host_name,
            uniqueid: &self.uuid,
            https_port: self.config.ports.https,
            external_port: self.config.ports.http,
            external_ip: self.config.external_ip,
            local_ip,
            mac: mac.map(|(_, mac)| *mac),
            codecs: &self.facts.codecs,
            paired: client.is_some(),
            current_app: client.and_then(|c| self.sessions.current_app(c)).unwrap_or(0),
        };
        if client.is_some() { info.response() } else { info.public().response() }
    }

    fn pair(&mut self, call: CallId, caller: &Caller, request: &Request, cx: &mut Context<'_>) {
        if !self.config.pairing {
            let text = "Pairing is switched off on this host. Its operator can allow it.";
            return cx.answer(call, pairing::refused(403, text));
        }
        let request = match PairRequest::parse(&request.query) {
            Ok(request) => request,
            Err(error) => return cx.answer(call, error.response()),
        };
        let step = self.pairings.request(
            call,
            caller.peer.ip(),
            request,
            &self.own,
            Duration::from_millis(self.config.limits.pin_ms),
            cx.now,
            cx.entropy,
            cx.effects,
        );
        if let Step::Proven { certificate, device } = step {
            self.store(call, &certificate, device, cx);
        }
    }

    /// The answer to phase 4 waits until the certificate is on disk.
    fn store(&mut self, call: CallId, proven: &Certificate, name: String, cx: &mut Context<'_>) {
        let certificate = proven.der().to_vec();
        let id = client_id(&certificate);
        let client = Client { certificate: certificate.clone(), name: name.clone(), paired_at: 0 };
        if let Some((older, _)) = self.storing.insert(id, (call, client)) {
            cx.answer(older, pairing::refused(400, "Replaced by a newer pairing."));
        }
        cx.effects.push(Effect::StoreClient { client: id, name, certificate });
    }

    fn client_stored(&mut self, id: ClientId, result: Result<u64, String>, cx: &mut Context<'_>) {
        let Some((call, client)) = self.storing.remove(&id) else { return };
        match result {
            Ok(paired_at) => {
                self.clients.insert(id, Client { paired_at, ..client });
                cx.answer(call, pairing::Answer::Paired.response());
            }
            Err(reason) => {
                let text = format!("The host could not store the pairing: {reason}");
                cx.answer(call, pairing::refused(500, &text));
            }
        }
    }

    fn call_gone(&mut self, call: CallId, cx: &mut Context<'_>) {
        if !self.pairings.call_gone(call, cx.now, cx.effects) {
            self.sessions.call_gone(call);
        }
    }

    fn admin(&mut self, id: u64, request: AdminRequest, cx: &mut Context<'_>) {
        let answer = match request {
            AdminRequest::Pairings => AdminAnswer::Pairings(self.pairings.list(cx.now)),
            AdminRequest::Pin { id, pin } => {
                match self.pairings.pin(&id, &pin, &self.own, cx.effects) {
                    Ok(text) => AdminAnswer::Done(text),
                    Err(text) => AdminAnswer::Error(text),
                }
            }
            AdminRequest::Clients => AdminAnswer::Clients(self.client_list()),
            AdminRequest::RemoveClient { client } => match self.remove_client(&client, id, cx) {
                Ok(()) => return,
                Err(text) => AdminAnswer::Error(text),
            },
            AdminRequest::Apps => AdminAnswer::Apps(
                self.config
                    .apps
                    .iter()
                    .map(|app| AppSummary {
                        id: app.spec.id,
                        title: app.spec.title.clone(),
                        command: app.spec.command.clone(),
                    })
                    .collect(),
            ),
            AdminRequest::Sessions => return self.sessions.list(id, cx),
            AdminRequest::StopSession { session } => {
                self.sessions.stop_by_prefix(&session, &self.config, cx)
            }
            AdminRequest::SessionLog { session } => match self.sessions.ask_log(&session, id, cx) {
                Ok(()) => return,
                Err(text) => AdminAnswer::Error(text),
            },
            // The supervisor's own.
            AdminRequest::Upgrade => AdminAnswer::Error("The front cannot replace itself.".into()),
            AdminRequest::Status => AdminAnswer::Status(serde_json::json!({
                "name": self.config.host_name,
                "clients": self.clients.len(),
                "sessions": self.sessions.len(),
                "pairings": self.pairings.list(cx.now).len(),
            })),
        };
        cx.effects.push(Effect::AnswerAdmin { id, answer });
    }

    fn client_list(&self) -> Vec<ClientSummary> {
        let summary = |(id, client): (&ClientId, &Client)| ClientSummary {
            id: *id,
            name: client.name.clone(),
            paired_at: client.paired_at,
            session: self.sessions.of_client(*id),
        };
        self.clients.iter().map(summary).collect()
    }

    /// From this moment its requests are answered with 401 and its stream ends.
    fn remove_client(
        &mut self,
        prefix: &str,
        admin: u64,
        cx: &mut Context<'_>,
    ) -> Result<(), String> {
        let matching: Vec<ClientId> = self
            .clients
            .keys()
            .filter(|id| !prefix.is_empty() && id.to_string().starts_with(prefix))
            .copied()
            .collect();
        let [id] = matching[..] else {
            return Err(match matching.len() {
                0 => format!("No client {prefix}. `moonshard clients` lists them."),
                n => format!("{n} clients begin with {prefix}: give more digits."),
            });
        };
        self.clients.remove(&id);
        self.sessions.lock_out(id, &self.config, cx);
        self.erasing.insert(id, admin);
        cx.effects.push(Effect::EraseClient { client: id });
        Ok(())
    }
}

/// The id of the client that owns the certificate.
pub fn client_id(der: &[u8]) -> ClientId {
    ClientId(crate::proto::crypto::sha256(der))
}

/// Two addresses of the same machine, whatever the notation.
fn same_address(a: IpAddr, b: IpAddr) -> bool {
    a.to_canonical() == b.to_canonical()
}
