//! A host that does what a test tells it, and remembers what it met.
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::core::{Core, Machine, SystemEntropy};
use super::counters::Counters;
use crate::host::event::{Effect, Event, HostFacts, Route};
use crate::ipc::{AppSpec, ClientId, SessionId, SessionPolicy, SessionSpec, VERSION, ViewerId};
use crate::proto::ping::Payload;
use crate::proto::stream::{Flow, Mode};
use crate::time::{Entropy, Time};

/// What the test sees and sets.
#[derive(Default)]
pub struct Script {
    pub events: Vec<Event>,
    pub timeout: Option<Time>,
    /// Done at the next event, whatever it is.
    pub effects: Vec<Effect>,
    /// Whose pings these are, by the first byte of their payload; of ENet datagrams, by the low byte
    /// of connect data or peer id.
    pub routes: Vec<(u8, Route)>,
}

pub type Shared = Arc<Mutex<Script>>;

struct Scripted(Shared);

impl Scripted {
    fn route(&self, key: u8) -> Route {
        let script = self.0.lock().unwrap();
        script.routes.iter().find(|(k, _)| *k == key).map_or(Route::Stranger, |(_, route)| *route)
    }
}

impl Machine for Scripted {
    fn handle(&mut self, event: Event, _: Time, _: &mut dyn Entropy, effects: &mut Vec<Effect>) {
        let mut script = self.0.lock().unwrap();
        if matches!(event, Event::Timeout) {
            script.timeout = None;
        }
        script.events.push(event);
        effects.append(&mut script.effects);
    }
    fn next_timeout(&self) -> Option<Time> {
        self.0.lock().unwrap().timeout
    }
    fn route_ping(&mut self, _: Flow, payload: Option<&Payload>, _: SocketAddr, _: Time) -> Route {
        self.route(payload.map_or(b'P', |p| p[0]))
    }
    fn route_connect(&mut self, data: u32, _: SocketAddr, _: Time) -> Route {
        self.route(data.to_le_bytes()[0])
    }
    fn route_peer(&mut self, peer_id: u16, _: SocketAddr, _: Time) -> Route {
        self.route(peer_id.to_le_bytes()[0])
    }
    fn last_will(&mut self, _: SessionId) -> Option<Vec<u8>> {
        Some(b"last will".to_vec())
    }
    fn learn(&mut self, _: HostFacts) {}
}

/// A core with a scripted host in it.
pub fn core() -> (Arc<Core>, Shared) {
    let script = Shared::default();
    let machine = Box::new(Scripted(Arc::clone(&script)));
    let core = Core::new(machine, Box::new(SystemEntropy), Arc::new(Counters::default())).unwrap();
    (core, script)
}

/// Waits until the host has met what `wanted` accepts, 5 s at most.
pub fn until<T>(script: &Shared, what: &str, wanted: impl Fn(&Event) -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        if let Some(found) = script.lock().unwrap().events.iter().find_map(&wanted) {
            return found;
        }
        assert!(Instant::now() < deadline, "not within 5 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub const SESSION: SessionId = SessionId(0x5e55);
pub const VIEWER: ViewerId = ViewerId(0x71e3);

pub fn spec(id: SessionId) -> Box<SessionSpec> {
    let app = AppSpec {
        id: 1,
        title: "Desktop".into(),
        command: vec!["true".into()],
        environment: Default::default(),
        directory: None,
    };
    let policy = SessionPolicy {
        keep_ms: 0,
        never_viewed_ms: 0,
        idle_fps: 10,
        slow_app_ms: 15_000,
        reason_ms: 0,
        keyboard_layout: "us".into(),
        keyboard_variant: String::new(),
        encoder: "auto".into(),
        audio: false,
        adapt: true,
        media_cores: Vec::new(),
    };
    Box::new(SessionSpec {
        version: VERSION,
        id,
        client: ClientId([1; 32]),
        client_name: "test".into(),
        app,
        mode: Mode { width: 1280, height: 720, millihertz: 60_000 },
        audio_channels: 2,
        policy,
    })
}
