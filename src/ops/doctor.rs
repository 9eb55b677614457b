//! What this machine lacks, and the mend: the findings behind `moonshard doctor` and `serve`.
//!
//! Everything is tried or read, nothing is changed. How it looks is the command line's business.
use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};

use super::{io_uring, machine, ports, probe};
use crate::config::Ports;
use crate::ipc::EncoderReport;
use crate::proto::stream::Codec;

/// What is said of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ok,
    Missing,
    Broken,
}

/// One line of the doctor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub name: Cow<'static, str>,
    pub state: State,
    /// Without it no stream is possible.
    pub needed: bool,
    /// What was found, or what does not work without it.
    pub detail: String,
    /// What to do; empty where nothing is to be done.
    pub mend: String,
}

impl Finding {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            state: State::Ok,
            needed: true,
            detail: detail.into(),
            mend: String::new(),
        }
    }

    fn not_ok(
        state: State,
        name: &'static str,
        detail: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        let (detail, mend) = (detail.into(), mend.into());
        Self { name: name.into(), state, needed: true, detail, mend }
    }

    fn optional(self) -> Self {
        Self { needed: false, ..self }
    }

    /// Something needed that is not there or does not work.
    pub fn prevents_streaming(&self) -> bool {
        self.needed && self.state != State::Ok
    }
}

/// Locked memory that the front's rings need without CAP_IPC_LOCK, bytes. Source: glommio 0.9
/// refuses to start below 512 KiB.
const MEMLOCK_BYTES: u64 = 512 * 1024;
/// Open files below which a busy host runs out.
const OPEN_FILES: u64 = 4096;

/// Everything, the encoder probe included; takes seconds.
pub fn examine(ports: &Ports, own_host: Option<u32>) -> Vec<Finding> {
    let mut findings = essentials();
    findings.push(core_count());
    findings.extend(port_findings(ports, own_host));
    findings.extend(encoders(probe::run("auto", None, || false)));
    findings.extend([render_nodes(), nvidia()]);
    findings.extend(programs());
    findings.extend([device("uinput", "/dev/uinput"), device("uhid", "/dev/uhid")]);
    findings
}

/// What the front cannot start without; takes microseconds.
pub fn essentials() -> Vec<Finding> {
    // Memory first: where it is short, a ring cannot be made either, and this is the mend.
    vec![memlock(), ring(), open_files()]
}

fn ring() -> Finding {
    const NAME: &str = "io_uring";
    let mend = match io_uring::check() {
        Ok(()) => return Finding::ok(NAME, "a ring can be made"),
        Err(error) => {
            let mend = match &error {
                io_uring::NoRing::Unknown => {
                    "use Linux 6.1 or newer; in a container, allow io_uring"
                }
                io_uring::NoRing::Sysctl(_) => "sysctl -w kernel.io_uring_disabled=0",
                io_uring::NoRing::Seccomp => {
                    "allow io_uring in the container's seccomp profile (docker: \
                     --security-opt seccomp=unconfined, or a profile with io_uring_*)"
                }
                io_uring::NoRing::Other(_) => "see the error; often memory or limits",
            };
            (error.to_string(), mend)
        }
    };
    Finding::not_ok(State::Broken, NAME, mend.0, mend.1)
}

fn memlock() -> Finding {
    const NAME: &str = "memlock";
    let limit = getrlimit(Resource::Memlock).current;
    let words =
        limit.map_or_else(|| "no limit".to_owned(), |bytes| format!("{} KiB", bytes / 1024));
    if limit.is_none_or(|bytes| bytes >= MEMLOCK_BYTES) || machine::is_root() {
        return Finding::ok(NAME, words);
    }
    let mend = "raise it to 8192 KiB: `ulimit -l 8192`, LimitMEMLOCK=8M in the unit, \
                or /etc/security/limits.d";
    Finding::not_ok(State::Broken, NAME, format!("{words}, but the rings need 512 KiB"), mend)
}

fn open_files() -> Finding {
    const NAME: &str = "open files";
    match getrlimit(Resource::Nofile).maximum {
        Some(most) if most < OPEN_FILES => {
            let mend = "raise the hard limit: LimitNOFILE=65536 in the unit, or limits.d";
            let detail = format!("at most {most}: too few for many connections");
            Finding::not_ok(State::Broken, NAME, detail, mend).optional()
        }
        Some(most) => Finding::ok(NAME, format!("up to {most}")),
        None => Finding::ok(NAME, "no limit"),
    }
}

fn core_count() -> Finding {
    const NAME: &str = "cores";
    let count = machine::cores().len();
    if count >= 2 {
        return Finding::ok(NAME, format!("{count} may be used"));
    }
    let mend = "give this machine or container at least 2 cores";
    Finding::not_ok(State::Broken, NAME, "1: a software encoder starves the rest", mend).optional()
}

/// One line if all ports are free or ours, else one for each that is taken.
fn port_findings(all: &Ports, own_host: Option<u32>) -> Vec<Finding> {
    const NAME: &str = "ports";
    use ports::Protocol::{Tcp, Udp};
    let mut taken = Vec::new();
    let mut ours = false;
    for (protocol, port) in [
        (Tcp, all.https),
        (Tcp, all.http),
        (Tcp, all.rtsp),
        (Udp, all.video),
        (Udp, all.control),
        (Udp, all.audio),
    ] {
        // 0 means "any free one".
        if port == 0 {
            continue;
        }
        let Some(holder) = ports::holders(protocol, port).into_iter().next() else { continue };
        if own_host.is_some() && holder.pid == own_host {
            ours = true;
            continue;
        }
        let detail = format!("{protocol} {port} is held by {holder}");
        let mend = holder.pid.map_or_else(
            || "stop it, or choose other ports in [ports]".to_owned(),
            |pid| format!("stop it (kill {pid}), or choose other ports in [ports]"),
        );
        taken.push(Finding::not_ok(State::Broken, NAME, detail, mend));
    }
    if taken.is_empty() {
        let words = if ours { "held by the host that runs" } else { "all six are free" };
        taken.push(Finding::ok(NAME, words));
    }
    taken
}

fn encoders(outcome: Result<EncoderReport, probe::ProbeError>) -> Vec<Finding> {
    const NAME: &str = "encoder";
    const MEND: &str = "apt-get install gstreamer1.0-plugins-{base,good,bad,ugly}";
    let report = match outcome {
        Ok(report) => report,
        Err(error) => {
            let mend = "run `moonshard probe` to see what it says";
            return vec![Finding::not_ok(State::Broken, NAME, error.to_string(), mend)];
        }
    };
    if !report.encoders.iter().any(|encoder| encoder.works && encoder.codec == Codec::H264) {
        let detail = "none makes H.264, which every client needs";
        let mut findings = vec![Finding::not_ok(State::Missing, NAME, detail, MEND)];
        findings.extend(report.encoders.iter().filter(|e| !e.works).map(|encoder| {
            let detail = format!("{}: {}", encoder.name, encoder.detail);
            Finding::not_ok(State::Broken, NAME, detail, "").optional()
        }));
        return findings;
    }
    let line = |encoder: &crate::ipc::EncoderFinding| {
        let detail =
            format!("{} ({}): {}", encoder.name, codec_name(encoder.codec), encoder.detail);
        if encoder.works {
            Finding::ok(NAME, detail)
        } else {
            Finding::not_ok(State::Missing, NAME, detail, "").optional()
        }
    };
    report.encoders.iter().map(line).collect()
}

/// As people write it.
pub fn codec_name(codec: Codec) -> &'static str {
    match codec {
        Codec::H264 => "H.264",
        Codec::Hevc => "HEVC",
        Codec::Av1 => "AV1",
    }
}

/// A GPU that could encode is there, whether its driver works or not.
pub fn has_gpu() -> bool {
    !nodes().is_empty() || has_nvidia_card() || Path::new("/dev/nvidia0").exists()
}

/// The render nodes, in order.
fn nodes() -> Vec<PathBuf> {
    let entries = fs::read_dir("/dev/dri").into_iter().flatten().flatten();
    let mut nodes: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().contains("renderD"))
        .collect();
    nodes.sort();
    nodes
}

/// Each GPU's render node, and its PCI vendor as the system writes it ("0x10de").
pub fn gpus() -> Vec<(String, Option<String>)> {
    let vendor = |node: &Path| {
        let path = Path::new("/sys/class/drm").join(node.file_name()?).join("device/vendor");
        Some(fs::read_to_string(path).ok()?.trim().to_owned())
    };
    nodes().iter().map(|node| (node.display().to_string(), vendor(node))).collect()
}

fn render_nodes() -> Finding {
    const NAME: &str = "render node";
    let nodes = nodes();
    let Some(first) = nodes.first() else {
        let detail = "no GPU: pictures are drawn and encoded by the processor";
        let mend = "fit a GPU and its driver; in a container, pass /dev/dri in";
        return Finding::not_ok(State::Missing, NAME, detail, mend).optional();
    };
    match fs::OpenOptions::new().read(true).write(true).open(first) {
        Ok(_) => Finding::ok(NAME, format!("{}", first.display())).optional(),
        Err(error) => {
            let detail = format!("{}: {error}", first.display());
            let mend = "add this user to the group `render`, then log in again";
            Finding::not_ok(State::Broken, NAME, detail, mend).optional()
        }
    }
}

fn nvidia() -> Finding {
    const NAME: &str = "NVIDIA driver";
    if let Ok(text) = fs::read_to_string("/proc/driver/nvidia/version") {
        let version = text
            .split_ascii_whitespace()
            .find(|word| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit()));
        let version = version.unwrap_or("of unknown version").to_owned();
        if Path::new("/dev/nvidia0").exists() {
            return Finding::ok(NAME, version).optional();
        }
        let detail = format!("{version}, but /dev/nvidia0 does not exist");
        let mend = "run `nvidia-smi` once as root; in a container use the NVIDIA toolkit (--gpus)";
        return Finding::not_ok(State::Broken, NAME, detail, mend).optional();
    }
    if has_nvidia_card() {
        let detail = "there is an NVIDIA card, but no driver is loaded";
        let mend = "apt-get install nvidia-driver, then restart the machine";
        return Finding::not_ok(State::Broken, NAME, detail, mend).optional();
    }
    Finding::not_ok(State::Missing, NAME, "no NVIDIA card", "").optional()
}

/// A display or 3D controller (PCI class 03) of vendor 10de.
fn has_nvidia_card() -> bool {
    let devices = fs::read_dir("/sys/bus/pci/devices").into_iter().flatten().flatten();
    let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    devices.map(|device| device.path()).any(|device| {
        read(device.join("vendor")).starts_with("0x10de")
            && read(device.join("class")).starts_with("0x03")
    })
}

/// The programs that sessions start.
pub fn programs() -> Vec<Finding> {
    [
        ("pulseaudio", "sound server", "no sound", "pulseaudio"),
        ("foot", "terminal", "the app Desktop has no terminal", "foot"),
        ("fuzzel", "launcher", "the app Desktop has no launcher", "fuzzel"),
        ("swaybg", "wallpaper", "the app Desktop has no wallpaper", "swaybg"),
    ]
    .map(|(program, name, without, package)| match machine::program(program) {
        Some(path) => Finding::ok(name, path.display().to_string()).optional(),
        None => {
            let mend = format!("apt-get install {package}");
            Finding::not_ok(State::Missing, name, format!("{program}: {without}"), mend).optional()
        }
    })
    .into()
}

/// A device node through which input devices are made.
fn device(name: &'static str, path: &str) -> Finding {
    if !Path::new(path).exists() {
        let detail = format!("{path} does not exist: no gamepads");
        return Finding::not_ok(State::Missing, name, detail, format!("modprobe {name}"))
            .optional();
    }
    match fs::OpenOptions::new().write(true).open(path) {
        Ok(_) => Finding::ok(name, path).optional(),
        Err(error) => {
            let detail = format!("{path}: {error}: no gamepads");
            let mend = "a udev rule that gives this user the device (see the README)";
            Finding::not_ok(State::Broken, name, detail, mend).optional()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::EncoderFinding;

    fn report(works: bool) -> EncoderReport {
        EncoderReport {
            encoders: vec![EncoderFinding {
                name: "x264enc".into(),
                codec: Codec::H264,
                works,
                quick: works,
                detail: "2 frames".into(),
            }],
        }
    }

    #[test]
    fn a_machine_without_a_working_h264_encoder_cannot_stream() {
        assert!(!encoders(Ok(report(true))).iter().any(Finding::prevents_streaming));
        let broken = encoders(Ok(report(false)));
        assert!(broken[0].prevents_streaming());
        assert!(broken[0].mend.contains("apt-get"));
        assert!(encoders(Err(probe::ProbeError::Wedged))[0].prevents_streaming());
    }

    #[test]
    fn a_taken_port_is_reported_with_its_holder() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let video = socket.local_addr().unwrap().port();
        let ports = Ports { https: 0, http: 0, rtsp: 0, video, control: 0, audio: 0 };
        let findings = port_findings(&ports, None);
        assert_eq!(findings.len(), 1, "{findings:?}");
        let pid = std::process::id();
        assert!(findings[0].detail.contains(&format!("UDP {video}")), "{findings:?}");
        assert!(findings[0].mend.contains(&format!("kill {pid}")), "{findings:?}");
        let ours = port_findings(&ports, Some(pid));
        assert_eq!(ours[0].state, State::Ok);
    }

    #[test]
    fn whatever_is_not_ok_says_what_to_do_or_needs_nothing() {
        for finding in essentials().into_iter().chain(programs()) {
            assert_eq!(finding.state == State::Ok, finding.mend.is_empty(), "{finding:?}");
        }
    }
}
