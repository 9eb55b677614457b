//! Asking the host that runs, over its admin socket, and showing the answer.
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use super::table::Table;
use crate::config::Config;
use crate::ipc::{
    AdminAnswer, AdminRequest, ClientSummary, SESSION_SHEET, SessionFigures, SessionSummary,
};
use crate::ops::style::{Style, harmless};
use crate::proc::link::{Link, LinkError};
use crate::proc::sheet::Sheet;
use crate::supervisor::Status;

/// No host runs.
const EXIT_NO_HOST: u8 = 3;
/// Longer than the host's own deadline, so that its words are heard.
const DEADLINE: Duration = Duration::from_secs(6);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error("no host runs here: start one with `moonshard serve`\n  (looked for {0})")]
    NoHost(String),
    #[error("the host may not be asked by this user: use sudo, or the user that started it ({0})")]
    NotAllowed(String),
    #[error("the host does not answer: {0}")]
    Silent(LinkError),
}

/// Asks, and prints the answer as a table or as JSON.
pub fn ask_and_print(config: &Config, request: &AdminRequest, json: bool) -> ExitCode {
    let (answer, code) = match ask(config, request) {
        Ok(AdminAnswer::Error(reason)) => (AdminAnswer::Error(reason), ExitCode::FAILURE),
        Ok(AdminAnswer::Sessions(mut list)) => {
            list.iter_mut().for_each(|session| look_up(&config.runtime_dir, session));
            (AdminAnswer::Sessions(list), ExitCode::SUCCESS)
        }
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(error) => {
            let code = match error {
                NoAnswer::NoHost(_) => ExitCode::from(EXIT_NO_HOST),
                NoAnswer::NotAllowed(_) | NoAnswer::Silent(_) => ExitCode::FAILURE,
            };
            (AdminAnswer::Error(error.to_string()), code)
        }
    };
    if json {
        println!("{}", as_json(&answer));
        return code;
    }
    match answer {
        AdminAnswer::Error(reason) => eprintln!("moonshard: {reason}"),
        answer => print!("{}", as_text(&answer, Style::stdout())),
    }
    code
}

/// Fills in what the session wrote of itself last, which is newer than what the front knows.
fn look_up(runtime: &Path, session: &mut SessionSummary) {
    let path = runtime.join("sessions").join(session.id.to_string()).join(SESSION_SHEET);
    let told = Sheet::open_at(&path).ok().and_then(|sheet| sheet.read::<SessionFigures>());
    let Some(told) = told else { return };
    session.figures = told.figures;
    if let Some(time) = told.viewer.and_then(|viewer| viewer.round_trip_us) {
        session.figures.insert("round_trip_us".into(), time as f64);
    }
}

/// The pid of the host that runs, if one does.
pub fn host_pid(config: &Config) -> Option<u32> {
    match ask(config, &AdminRequest::Status) {
        Ok(AdminAnswer::Status(status)) => u32::try_from(status.get("pid")?.as_u64()?).ok(),
        _ => None,
    }
}

fn ask(config: &Config, request: &AdminRequest) -> Result<AdminAnswer, NoAnswer> {
    use std::io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
    let path = config.runtime_dir.join("admin.sock");
    let link = Link::connect(&path).map_err(|error| match error.kind() {
        NotFound | ConnectionRefused => NoAnswer::NoHost(path.display().to_string()),
        PermissionDenied => NoAnswer::NotAllowed(path.display().to_string()),
        _ => NoAnswer::Silent(error.into()),
    })?;
    // A host that is full answers without having read the question; then its words count.
    let sent = link.send(request, &[]);
    match link.receive_within::<AdminAnswer>(DEADLINE) {
        Ok((answer, _)) => Ok(answer),
        Err(error) => Err(NoAnswer::Silent(sent.err().unwrap_or(error))),
    }
}

/// The answer itself, without the name of its kind.
fn as_json(answer: &AdminAnswer) -> String {
    let value = match answer {
        AdminAnswer::Pairings(list) => serde_json::to_value(list),
        AdminAnswer::Clients(list) => serde_json::to_value(list),
        AdminAnswer::Apps(list) => serde_json::to_value(list),
        AdminAnswer::Sessions(list) => serde_json::to_value(list),
        AdminAnswer::Log(text) => Ok(serde_json::json!({ "log": text })),
        AdminAnswer::Status(status) => Ok(status.clone()),
        AdminAnswer::Done(what) => Ok(serde_json::json!({ "done": what })),
        AdminAnswer::Error(reason) => Ok(serde_json::json!({ "error": reason })),
    };
    value.unwrap_or_default().to_string()
}

fn as_text(answer: &AdminAnswer, style: Style) -> String {
    match answer {
        AdminAnswer::Pairings(list) => {
            let mut table = Table::new(["ID", "DEVICE", "ADDRESS", "TIME LEFT"]);
            for p in list {
                let left = format!("{} s", p.seconds_left);
                table.row([p.id.as_str(), &p.device, &p.address, &left]);
            }
            let advice = "Accept with: moonshard pair <ID> <PIN shown on the device>\n";
            match list.is_empty() {
                true => {
                    "No device wants to pair. In Moonlight, add this host and choose it.\n".into()
                }
                false => table.text(style) + advice,
            }
        }
        AdminAnswer::Clients(list) if list.is_empty() => {
            "No device is paired. In Moonlight, add this host and choose it.\n".into()
        }
        AdminAnswer::Clients(list) => clients(list).text(style),
        AdminAnswer::Apps(list) => {
            let mut table = Table::new(["ID", "TITLE", "COMMAND"]);
            for app in list {
                table.row([&app.id.to_string(), app.title.as_str(), &app.command.join(" ")]);
            }
            table.text(style)
        }
        AdminAnswer::Sessions(list) if list.is_empty() => "Nothing runs.\n".into(),
        AdminAnswer::Sessions(list) => sessions(list).text(style),
        AdminAnswer::Log(text) => text.lines().map(|line| harmless(line, 4096) + "\n").collect(),
        // A host of another version may say other things: shown as they came.
        AdminAnswer::Status(status) => match Status::deserialize(status) {
            Ok(status) => status.text(style),
            Err(_) => serde_json::to_string_pretty(status).unwrap_or_default() + "\n",
        },
        AdminAnswer::Done(what) => format!("{what}\n"),
        AdminAnswer::Error(reason) => format!("{reason}\n"),
    }
}

fn clients(list: &[ClientSummary]) -> Table<4> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let mut table = Table::new(["ID", "NAME", "PAIRED", "SESSION"]);
    for client in list {
        let id = client.id.to_string();
        let session = client.session.map_or_else(|| "-".to_owned(), |session| session.to_string());
        let paired = format!("{} ago", span(now.saturating_sub(client.paired_at)));
        table.row([&id[..12], &client.name, &paired, &session]);
    }
    table
}

fn sessions(list: &[SessionSummary]) -> Table<6> {
    let mut table = Table::new(["ID", "APP", "CLIENT", "STATE", "MODE", "AGE"]);
    for s in list {
        let hertz = f64::from(s.mode.millihertz) / 1000.0;
        let hertz = format!("{hertz:.2}");
        let hertz = hertz.trim_end_matches('0').trim_end_matches('.');
        let mode = format!("{}x{}@{hertz}", s.mode.width, s.mode.height);
        let (id, age) = (s.id.to_string(), span(s.age_seconds));
        table.row([id.as_str(), &s.app, &s.client_name, &s.state, &mode, &age]);
    }
    table
}

/// A span of time in its largest unit.
fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::{AppSummary, ClientId, PendingPairing, SessionId};
    use crate::ops::style::COLUMNS;
    use crate::proto::stream::Mode;

    #[test]
    fn tables_fit_a_terminal_whatever_the_names() {
        let long = "a device with a very long name ".repeat(5);
        let answers = [
            AdminAnswer::Pairings(vec![PendingPairing {
                id: "0123456789abcdef".into(),
                device: long.clone(),
                address: "2001:db8:1111:2222:3333:4444:5555:6666".into(),
                seconds_left: 120,
            }]),
            AdminAnswer::Clients(vec![ClientSummary {
                id: ClientId([0xAB; 32]),
                name: long.clone(),
                paired_at: 0,
                session: Some(SessionId(1)),
            }]),
            AdminAnswer::Apps(vec![AppSummary {
                id: i32::MAX,
                title: "x\x1b[2J".into(),
                command: vec![long.clone()],
            }]),
            AdminAnswer::Sessions(vec![SessionSummary {
                id: SessionId(2),
                client: ClientId([1; 32]),
                client_name: long.clone(),
                app: long,
                state: "streaming".into(),
                mode: Mode { width: 1920, height: 1080, millihertz: 59_940 },
                pid: Some(1),
                age_seconds: 90_000,
                figures_age_ms: None,
                figures: Default::default(),
            }]),
        ];
        for answer in answers {
            let text = as_text(&answer, Style::plain());
            assert!(text.lines().count() >= 2, "{text}");
            for line in text.lines() {
                assert!(line.chars().count() <= COLUMNS, "{line}");
                assert!(!line.contains('\x1b'));
            }
            serde_json::from_str::<serde_json::Value>(&as_json(&answer)).unwrap();
        }
    }

    #[test]
    fn spans_are_told_in_their_largest_unit() {
        let spans = [5, 119, 120, 7_200, 200_000].map(span);
        assert_eq!(spans, ["5 s", "119 s", "2 min", "2 h", "2 days"]);
    }
}
