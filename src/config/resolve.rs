//! From what the file says to what it means: defaults, ranges, app ids.
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::Spanned;

use super::error::Fault;
use super::surroundings::Surroundings;
use super::{App, Config, Cores, Limits, Metrics, Ports, raw};
use crate::ipc::{AppSpec, SessionPolicy};
use crate::limits::SESSIONS_MAX;

type Result<T> = std::result::Result<T, Fault>;

/// Milliseconds of a day.
const DAY_MS: i64 = 24 * 3600 * 1000;
/// Apps in the list at most.
const APPS_MAX: usize = 256;
/// `$RUNTIME/sessions/<16 digits>/<socket>` must fit the 108 bytes of a Unix socket's address.
const RUNTIME_DIR_BYTES_MAX: usize = 64;

pub(super) fn resolve(file: raw::File, around: &Surroundings) -> Result<Config> {
    let cores = Cores {
        control: core_list(&file.cores.control, around)?,
        media: core_list(&file.cores.media, around)?,
    };
    Ok(Config {
        host_name: host_name(file.host_name.as_ref(), around)?,
        state_dir: state_dir(file.state_dir.as_ref(), around)?,
        runtime_dir: runtime_dir(file.runtime_dir.as_ref(), around)?,
        ports: ports(&file.ports)?,
        mdns: file.mdns.unwrap_or(true),
        external_ip: file.external_ip.as_ref().map(external_ip).transpose()?,
        limits: limits(&file.limits)?,
        session: session(&file.session, &cores)?,
        metrics: metrics(&file.metrics)?,
        cores,
        fec_percent: number(file.fec_percent.as_ref(), 20, 0..=255)?,
        pairing: file.pairing.unwrap_or(true),
        apps: file.apps.map_or_else(|| Ok(default_apps()), apps)?,
    })
}

/// A whole number within `range`, or the default.
fn number<T>(
    given: Option<&Spanned<i64>>,
    default: T,
    range: std::ops::RangeInclusive<i64>,
) -> Result<T>
where
    T: TryFrom<i64>,
{
    let Some(given) = given else { return Ok(default) };
    let value = *given.get_ref();
    let fault = || {
        let (least, most) = (range.start(), range.end());
        Fault::at(given.span(), format!("{value} is out of range: {least} to {most}"))
    };
    if !range.contains(&value) {
        return Err(fault());
    }
    T::try_from(value).map_err(|_| fault())
}

/// A text of 1..=`most` bytes without control characters, or the default.
fn text(given: Option<&Spanned<String>>, default: &str, most: usize) -> Result<String> {
    let Some(given) = given else { return Ok(default.to_owned()) };
    let value = given.get_ref();
    if value.is_empty() || value.len() > most {
        return Err(Fault::at(given.span(), format!("must be 1 to {most} bytes long")));
    }
    if value.chars().any(char::is_control) {
        return Err(Fault::at(given.span(), "must not hold control characters"));
    }
    Ok(value.clone())
}

/// A short name of letters, digits and a few signs.
fn name(given: Option<&Spanned<String>>, default: &str, empty_allowed: bool) -> Result<String> {
    let Some(given) = given else { return Ok(default.to_owned()) };
    let value = given.get_ref();
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-,+()".contains(c);
    if (value.is_empty() && !empty_allowed) || value.len() > 64 || !value.chars().all(allowed) {
        return Err(Fault::at(
            given.span(),
            "must be a short name of letters, digits, _ - , + ( )",
        ));
    }
    Ok(value.clone())
}

fn host_name(given: Option<&Spanned<String>>, around: &Surroundings) -> Result<String> {
    let machine = around.host_name.trim();
    let printable = |name: &str| !name.is_empty() && !name.chars().any(char::is_control);
    let default = if machine.len() <= 63 && printable(machine) { machine } else { "moonshard" };
    text(given, default, 63)
}

fn absolute(given: &Spanned<PathBuf>) -> Result<PathBuf> {
    if !given.get_ref().is_absolute() {
        return Err(Fault::at(given.span(), "must be an absolute path: one that starts with /"));
    }
    Ok(given.get_ref().clone())
}

fn state_dir(given: Option<&Spanned<PathBuf>>, around: &Surroundings) -> Result<PathBuf> {
    given.map_or_else(|| around.state_dir().map_err(Fault::nowhere), absolute)
}

fn runtime_dir(given: Option<&Spanned<PathBuf>>, around: &Surroundings) -> Result<PathBuf> {
    let dir = given.map_or_else(|| around.runtime_dir().map_err(Fault::nowhere), absolute)?;
    if length(&dir) > RUNTIME_DIR_BYTES_MAX {
        let message = format!(
            "the runtime directory {} is {} bytes long, but the sockets in it allow {}: \
             set `runtime_dir` to a shorter path",
            dir.display(),
            length(&dir),
            RUNTIME_DIR_BYTES_MAX
        );
        return Err(Fault { message, span: given.map(Spanned::span) });
    }
    Ok(dir)
}

fn length(path: &Path) -> usize {
    path.as_os_str().len()
}

fn external_ip(given: &Spanned<String>) -> Result<std::net::Ipv4Addr> {
    let message = "must be an IPv4 address such as \"203.0.113.7\"";
    given.get_ref().parse().map_err(|_| Fault::at(given.span(), message))
}

fn ports(raw: &raw::Ports) -> Result<Ports> {
    let default = Ports::default();
    let port = |given: &Option<Spanned<i64>>, default| number(given.as_ref(), default, 0..=65535);
    let ports = Ports {
        https: port(&raw.https, default.https)?,
        http: port(&raw.http, default.http)?,
        rtsp: port(&raw.rtsp, default.rtsp)?,
        video: port(&raw.video, default.video)?,
        control: port(&raw.control, default.control)?,
        audio: port(&raw.audio, default.audio)?,
    };
    let groups = [
        [
            ("https", ports.https, &raw.https),
            ("http", ports.http, &raw.http),
            ("rtsp", ports.rtsp, &raw.rtsp),
        ],
        [
            ("video", ports.video, &raw.video),
            ("control", ports.control, &raw.control),
            ("audio", ports.audio, &raw.audio),
        ],
    ];
    for group in &groups {
        for (i, (name, port, given)) in group.iter().enumerate() {
            for (other, taken, other_given) in &group[..i] {
                if port == taken && *port != 0 {
                    let message = format!("{name} and {other} cannot both have port {port}");
                    let span = given.as_ref().or(other_given.as_ref()).map(Spanned::span);
                    return Err(Fault { message, span });
                }
            }
        }
    }
    Ok(ports)
}

fn core_list(given: &[Spanned<i64>], around: &Surroundings) -> Result<Vec<usize>> {
    let mut cores = Vec::new();
    for core in given {
        let index = usize::try_from(*core.get_ref()).ok();
        let Some(index) = index.filter(|index| around.cores.contains(index)) else {
            let have: Vec<String> = around.cores.iter().map(usize::to_string).collect();
            let message = format!(
                "core {} does not exist here or is not allowed: choose from {}",
                core.get_ref(),
                have.join(", ")
            );
            return Err(Fault::at(core.span(), message));
        };
        if cores.contains(&index) {
            return Err(Fault::at(core.span(), format!("core {index} is in the list twice")));
        }
        cores.push(index);
    }
    Ok(cores)
}

fn limits(raw: &raw::Limits) -> Result<Limits> {
    let default = Limits::default();
    let limits = Limits {
        handshake_ms: number(raw.handshake_ms.as_ref(), default.handshake_ms, 100..=600_000)?,
        head_ms: number(raw.head_ms.as_ref(), default.head_ms, 100..=600_000)?,
        write_ms: number(raw.write_ms.as_ref(), default.write_ms, 100..=600_000)?,
        pending_per_shard: number(
            raw.pending_per_shard.as_ref(),
            default.pending_per_shard,
            1..=65_536,
        )?,
        pin_ms: number(raw.pin_ms.as_ref(), default.pin_ms, 1_000..=3_600_000)?,
        launch_ms: number(raw.launch_ms.as_ref(), default.launch_ms, 1_000..=600_000)?,
        grant_ms: number(raw.grant_ms.as_ref(), default.grant_ms, 1_000..=600_000)?,
        sessions: number(raw.sessions.as_ref(), default.sessions, 1..=SESSIONS_MAX as i64)?,
        stall_ms: number(raw.stall_ms.as_ref(), default.stall_ms, 2_000..=600_000)?,
    };
    if limits.head_ms < limits.handshake_ms {
        let message = format!(
            "head_ms ({}) counts from the same moment as handshake_ms ({}): it cannot be smaller",
            limits.head_ms, limits.handshake_ms
        );
        let given = raw.head_ms.as_ref().or(raw.handshake_ms.as_ref());
        return Err(Fault { message, span: given.map(Spanned::span) });
    }
    Ok(limits)
}

fn session(raw: &raw::Session, cores: &Cores) -> Result<SessionPolicy> {
    Ok(SessionPolicy {
        keep_ms: number(raw.keep_ms.as_ref(), 0, 0..=365 * DAY_MS)?,
        never_viewed_ms: number(raw.never_viewed_ms.as_ref(), 60_000, 1_000..=DAY_MS)?,
        idle_fps: number(raw.idle_fps.as_ref(), 10, 1..=240)?,
        slow_app_ms: number(raw.slow_app_ms.as_ref(), 15_000, 1_000..=600_000)?,
        reason_ms: number(raw.reason_ms.as_ref(), 10_000, 0..=60_000)?,
        keyboard_layout: name(raw.keyboard_layout.as_ref(), "us", false)?,
        keyboard_variant: name(raw.keyboard_variant.as_ref(), "", true)?,
        encoder: name(raw.encoder.as_ref(), "auto", false)?,
        audio: raw.audio.unwrap_or(true),
        adapt: raw.adapt.unwrap_or(true),
        media_cores: cores.media.clone(),
    })
}

fn metrics(raw: &raw::Metrics) -> Result<Metrics> {
    let default = Metrics::default();
    let address = match &raw.address {
        Some(given) => given.get_ref().parse().map_err(|_| {
            Fault::at(given.span(), "must be an IP address such as \"127.0.0.1\" or \"::1\"")
        })?,
        None => default.address,
    };
    let port = number(raw.port.as_ref(), default.port, 0..=65535)?;
    Ok(Metrics { enabled: raw.enabled.unwrap_or(default.enabled), address, port })
}

/// What is in the list when the file names no app.
fn default_apps() -> Vec<App> {
    [("Desktop", "desktop"), ("Test pattern", "pattern")]
        .map(|(title, kind)| App {
            spec: AppSpec {
                id: id_of(title),
                title: title.to_owned(),
                command: vec!["moonshard".to_owned(), kind.to_owned()],
                environment: std::collections::BTreeMap::new(),
                directory: None,
            },
            image: None,
        })
        .into()
}

fn apps(raw: Vec<raw::App>) -> Result<Vec<App>> {
    if raw.len() > APPS_MAX {
        return Err(Fault::nowhere(format!("more than {APPS_MAX} apps")));
    }
    let mut titles = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for app in &raw {
        if !titles.insert(app.title.get_ref().clone()) {
            let message = format!("there are two apps with the title `{}`", app.title.get_ref());
            return Err(Fault::at(app.title.span(), message));
        }
        if let Some(id) = &app.id
            && !ids.insert(number(Some(id), 0, 1..=i64::from(i32::MAX))?)
        {
            return Err(Fault::at(
                id.span(),
                format!("there are two apps with the id {}", id.get_ref()),
            ));
        }
    }
    raw.into_iter().map(|app| resolve_app(app, &mut ids)).collect()
}

fn resolve_app(app: raw::App, ids: &mut BTreeSet<i32>) -> Result<App> {
    let title = text(Some(&app.title), "", 128)?;
    let span = app.command.span();
    let command = app.command.into_inner();
    if command.first().is_none_or(String::is_empty) {
        return Err(Fault::at(span, "must name a program: [\"program\", \"argument\", ...]"));
    }
    if command.iter().any(|word| word.contains('\0')) {
        return Err(Fault::at(span, "must not hold NUL"));
    }
    for (key, value) in &app.environment {
        let key_ok = !key.get_ref().is_empty() && !key.get_ref().contains(['=', '\0']);
        if !key_ok || value.contains('\0') {
            return Err(Fault::at(key.span(), "is not a name and value for an environment"));
        }
    }
    let id = match &app.id {
        Some(id) => number(Some(id), 0, 1..=i64::from(i32::MAX))?,
        None => free_id(&title, ids),
    };
    Ok(App {
        spec: AppSpec {
            id,
            title,
            command,
            environment: app.environment.into_iter().map(|(k, v)| (k.into_inner(), v)).collect(),
            directory: app.directory.as_ref().map(absolute).transpose()?,
        },
        image: app.image.as_ref().map(absolute).transpose()?,
    })
}

/// The title's id, or the next one that is free.
fn free_id(title: &str, taken: &mut BTreeSet<i32>) -> i32 {
    let mut id = id_of(title);
    while !taken.insert(id) {
        id = id.checked_add(1).unwrap_or(1);
    }
    id
}

/// An id that stays the same as long as the title does: its CRC-32 as a positive number.
fn id_of(title: &str) -> i32 {
    let crc = !title.bytes().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    });
    i32::try_from(crc & 0x7FFF_FFFF).unwrap_or(i32::MAX).max(1)
}
