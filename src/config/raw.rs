//! What the file says: every key optional, every value with its place. No meaning yet.
use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::error::{ConfigError, Fault};

type Number = Option<Spanned<i64>>;
type Text = Option<Spanned<String>>;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct File {
    pub host_name: Text,
    pub state_dir: Option<Spanned<PathBuf>>,
    pub runtime_dir: Option<Spanned<PathBuf>>,
    pub mdns: Option<bool>,
    pub external_ip: Text,
    pub pairing: Option<bool>,
    pub fec_percent: Number,
    pub ports: Ports,
    pub cores: Cores,
    pub limits: Limits,
    pub session: Session,
    pub metrics: Metrics,
    pub apps: Option<Vec<App>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Ports {
    pub https: Number,
    pub http: Number,
    pub rtsp: Number,
    pub video: Number,
    pub control: Number,
    pub audio: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Cores {
    pub control: Vec<Spanned<i64>>,
    pub media: Vec<Spanned<i64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Limits {
    pub handshake_ms: Number,
    pub head_ms: Number,
    pub write_ms: Number,
    pub pending_per_shard: Number,
    pub pin_ms: Number,
    pub launch_ms: Number,
    pub grant_ms: Number,
    pub sessions: Number,
    pub stall_ms: Number,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Session {
    pub keep_ms: Number,
    pub never_viewed_ms: Number,
    pub idle_fps: Number,
    pub slow_app_ms: Number,
    pub reason_ms: Number,
    pub keyboard_layout: Text,
    pub keyboard_variant: Text,
    pub encoder: Text,
    pub audio: Option<bool>,
    pub adapt: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Metrics {
    pub enabled: Option<bool>,
    pub address: Text,
    pub port: Number,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct App {
    pub title: Spanned<String>,
    pub command: Spanned<Vec<String>>,
    #[serde(default)]
    pub id: Number,
    #[serde(default)]
    pub environment: BTreeMap<Spanned<String>, String>,
    #[serde(default)]
    pub directory: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub image: Option<Spanned<PathBuf>>,
}

impl File {
    pub(super) fn parse(text: &str) -> Result<Self, ConfigError> {
        if let Some(at) = text.find('\0') {
            return Err(Fault::at(at..at + 1, "the file holds a NUL: it is damaged").locate(text));
        }
        toml::from_str(text).map_err(|error| {
            Fault { message: plain_words(error.message()), span: error.span() }.locate(text)
        })
    }
}

/// serde's and toml's messages, said for the person who wrote the file.
fn plain_words(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field") {
        let unknown = quoted.next().unwrap_or_default();
        let known: Vec<&str> = quoted.collect();
        let advice = nearest(unknown, &known).map_or_else(
            || format!("known here: {}", known.join(", ")),
            |near| format!("did you mean `{near}`?"),
        );
        return format!("unknown key `{unknown}`; {advice}");
    }
    if message.starts_with("missing field") {
        return format!("the key `{}` is missing here", quoted.next().unwrap_or_default());
    }
    if message.starts_with("duplicate key") {
        return "this key is here twice: remove one".to_owned();
    }
    if let Some(found) = message.strip_prefix("invalid type: ")
        && let Some((found, expected)) = found.split_once(", expected ")
    {
        let expected = match expected {
            "i64" => "a whole number",
            "a boolean" => "true or false",
            "a sequence" => "a list: [...]",
            "path string" => "a path in quotes",
            "a string" => "a text in quotes",
            other if other.starts_with("struct ") => "a table: [name] and its keys below",
            other => other,
        };
        return format!("this is the {found}, but it must be {expected}");
    }
    message.to_owned()
}

/// The known name that is closest, if it is close enough to be meant.
pub(super) fn nearest<'a>(unknown: &str, known: &[&'a str]) -> Option<&'a str> {
    let (distance, name) = known.iter().map(|name| (distance(unknown, name), *name)).min()?;
    (distance <= (unknown.len() / 3).max(2)).then_some(name)
}

/// Levenshtein's: how many letters to insert, remove or change.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let change = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
