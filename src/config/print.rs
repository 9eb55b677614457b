//! The configuration as TOML again: what `moonshard config print` shows. It parses back to the same.
use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::{Config, Cores, Limits, Metrics, Ports};

#[derive(Serialize)]
struct File<'a> {
    host_name: &'a str,
    state_dir: &'a Path,
    runtime_dir: &'a Path,
    mdns: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    external_ip: Option<String>,
    pairing: bool,
    fec_percent: u8,
    ports: Ports,
    cores: &'a Cores,
    limits: Limits,
    session: Session<'a>,
    metrics: Metrics,
    apps: Vec<App<'a>>,
}

#[derive(Serialize)]
struct Session<'a> {
    keep_ms: u64,
    never_viewed_ms: u64,
    idle_fps: u32,
    slow_app_ms: u64,
    reason_ms: u64,
    keyboard_layout: &'a str,
    keyboard_variant: &'a str,
    encoder: &'a str,
    audio: bool,
    adapt: bool,
}

#[derive(Serialize)]
struct App<'a> {
    id: i32,
    title: &'a str,
    command: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    directory: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a Path>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    environment: &'a BTreeMap<String, String>,
}

impl Config {
    /// The whole configuration as TOML.
    ///
    /// # Errors
    /// If a path is not UTF-8 and so cannot be written in TOML.
    pub fn to_toml(&self) -> Result<String, String> {
        let session = &self.session;
        let file = File {
            host_name: &self.host_name,
            state_dir: &self.state_dir,
            runtime_dir: &self.runtime_dir,
            mdns: self.mdns,
            external_ip: self.external_ip.map(|ip| ip.to_string()),
            pairing: self.pairing,
            fec_percent: self.fec_percent,
            ports: self.ports,
            cores: &self.cores,
            limits: self.limits,
            session: Session {
                keep_ms: session.keep_ms,
                never_viewed_ms: session.never_viewed_ms,
                idle_fps: session.idle_fps,
                slow_app_ms: session.slow_app_ms,
                reason_ms: session.reason_ms,
                keyboard_layout: &session.keyboard_layout,
                keyboard_variant: &session.keyboard_variant,
                encoder: &session.encoder,
                audio: session.audio,
                adapt: session.adapt,
            },
            metrics: self.metrics,
            apps: self
                .apps
                .iter()
                .map(|app| App {
                    id: app.spec.id,
                    title: &app.spec.title,
                    command: &app.spec.command,
                    directory: app.spec.directory.as_deref(),
                    image: app.image.as_deref(),
                    environment: &app.spec.environment,
                })
                .collect(),
        };
        toml::to_string(&file).map_err(|error| error.to_string())
    }
}
