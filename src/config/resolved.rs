//! What the configuration means, with every default filled in. No field needs a further check.
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ipc::{AppSpec, SessionPolicy};

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// As clients show it.
    pub host_name: String,
    pub state_dir: PathBuf,
    pub runtime_dir: PathBuf,
    pub ports: Ports,
    /// mDNS announcement.
    pub mdns: bool,
    /// WAN address as clients should store it.
    pub external_ip: Option<std::net::Ipv4Addr>,
    pub cores: Cores,
    pub limits: Limits,
    pub session: SessionPolicy,
    /// The operators' listener.
    pub metrics: Metrics,
    /// Parity percentage of video, 0..=255.
    pub fec_percent: u8,
    pub pairing: bool,
    pub apps: Vec<App>,
}

/// All ports. 0 is allowed in tests and means "any free one" for TCP only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    pub https: u16,
    pub http: u16,
    pub rtsp: u16,
    pub video: u16,
    pub control: u16,
    pub audio: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self { https: 47984, http: 47989, rtsp: 48010, video: 47998, control: 47999, audio: 48000 }
    }
}

/// Where `/metrics`, `/healthz`, `/readyz` and `/capacity` are answered: plain HTTP, read only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metrics {
    pub enabled: bool,
    /// Who may reach it decides who may read: it asks nobody who they are.
    pub address: std::net::IpAddr,
    /// 0: any free one, told in the log.
    pub port: u16,
}

impl Default for Metrics {
    fn default() -> Self {
        let address = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
        Self { enabled: true, address, port: 47991 }
    }
}

/// Which cores do what; empty lists mean that the host decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cores {
    /// One shard on each.
    pub control: Vec<usize>,
    pub media: Vec<usize>,
}

/// Deadlines and bounds of the control plane. Milliseconds where named so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// From accept to the end of the TLS handshake.
    pub handshake_ms: u64,
    /// From accept to the end of the request head.
    pub head_ms: u64,
    /// To write an answer.
    pub write_ms: u64,
    /// Connections whose request is not there yet, per shard.
    pub pending_per_shard: usize,
    /// From `getservercert` to the PIN.
    pub pin_ms: u64,
    /// From `/launch` to a started compositor and app.
    pub launch_ms: u64,
    /// From the launch answer to the first RTSP message, and for each further step of the client: ANNOUNCE,
    /// its answer, PLAY, the control connection.
    pub grant_ms: u64,
    /// Sessions at once.
    pub sessions: usize,
    /// A front that gives no sign of life for so long, as a whole or by one of its threads, is replaced.
    #[serde(default = "stall_ms")]
    pub stall_ms: u64,
}

fn stall_ms() -> u64 {
    4_500
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake_ms: 5_000,
            head_ms: 10_000,
            write_ms: 10_000,
            pending_per_shard: 512,
            pin_ms: 180_000,
            launch_ms: 20_000,
            grant_ms: 10_000,
            sessions: 64,
            stall_ms: stall_ms(),
        }
    }
}

/// An app as the list shows it and the session runs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    pub spec: AppSpec,
    /// A picture of its own; None: the default picture.
    pub image: Option<PathBuf>,
}
