//! The host of a world: its configuration and what it starts from.
use std::collections::BTreeMap;

use moonshard::config::{App, Config, Limits, Surroundings};
use moonshard::host::event::HostFacts;
use moonshard::host::{Client, Host, HostSetup};
use moonshard::ipc::{AppSpec, ClientId, SessionPolicy};
use moonshard::proto::stream::CodecSupport;

use super::kit::kit;

pub const SEATS: usize = 4;
/// Listed at most: those that an earlier front knew come on top of a full table of the new one.
pub const SESSIONS_MAX: usize = 3 * SEATS;
/// From `getservercert` to the PIN.
pub const PIN_MS: u64 = 15_000;

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
    let usual = Config::parse("", &Surroundings { root: true, ..Surroundings::default() });
    let usual = usual.expect("the defaults hold");
    Config {
        host_name: "den".into(),
        limits: Limits { sessions: SEATS, pin_ms: PIN_MS, ..usual.limits },
        session: SessionPolicy { keep_ms: 20_000, reason_ms: 0, ..usual.session },
        apps: vec![app(1), app(2)],
        ..usual
    }
}

pub fn host(disk: &BTreeMap<ClientId, Client>) -> Host {
    let codecs = CodecSupport { h264: true, hevc: true, av1: true, extra_bits: 0 };
    Host::new(HostSetup {
        config: config(),
        uuid: "7C0F1B1E-5B0E-4E53-9A40-0D1B5B4B2E11".into(),
        own: kit().own(),
        clients: disk.values().cloned().collect(),
        facts: HostFacts { macs: Vec::new(), codecs },
        pictures: BTreeMap::new(),
    })
}
