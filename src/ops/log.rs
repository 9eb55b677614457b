//! Logs: to stderr, readable for people or one JSON object a line, filtered as RUST_LOG says.
//!
//! Every kind of process calls [`init`] once, first thing. Each line names the process and, in those of
//! a session, the session; what a connection causes carries the connection. A place in the code that
//! says too much (somebody may make it do so) is silenced for the rest of the second, and [`settle`] tells
//! how often. What `serve` says to people is not a log.
#![expect(unsafe_code, reason = "the choice of format travels to child processes by environment")]
use std::collections::BTreeMap;
use std::fmt;
use std::io::IsTerminal;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::{Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use super::{out, recorder};
use crate::ipc::SessionId;

/// "json" here makes this process and its children log JSON.
const FORMAT_VARIABLE: &str = "MOONSHARD_LOG_FORMAT";
/// Lines a second from one place in the code, of levels that are always on, and of the others.
const LINES_MAX: u32 = 20;
const DEBUG_LINES_MAX: u32 = 1_000;
const WINDOW: Duration = Duration::from_secs(1);

/// Makes this process and every one that it starts log JSON. Call before any thread is started.
pub fn choose_json() {
    // SAFETY: called from the command line's first steps, while this process has one thread.
    unsafe { std::env::set_var(FORMAT_VARIABLE, "json") };
}

/// Starts the log of this process; `process` is its kind ("serve", "front", "session", ...).
///
/// Without RUST_LOG the processes that share the operator's terminal say warnings only, the others,
/// whose logs are files, what they do. A second call changes nothing.
pub fn init(process: &'static str) {
    let quiet = matches!(process, "serve" | "front" | "probe" | "cli");
    let default = if quiet { "warn" } else { "warn,moonshard=info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt::layer().with_writer(out::Stderr);
    // Processes of a session have its id as their second argument.
    let session = std::env::args().nth(2).and_then(|id| SessionId::try_from(id).ok());
    let log = if std::env::var_os(FORMAT_VARIABLE).is_some_and(|format| format == "json") {
        let inner = Format::default().json().flatten_event(true).with_span_list(false);
        let lines = JsonLines { process, session, inner };
        log.fmt_fields(JsonFields::new()).event_format(lines).with_filter(filter).boxed()
    } else {
        let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let lines = TextLines { process, session };
        log.with_ansi(colours).event_format(lines).with_filter(filter).boxed()
    };
    let recorded = matches!(process, "front" | "session").then(recorder::layer);
    // Another subscriber is in place only in tests, which call this more than once.
    let _ = tracing_subscriber::registry().with(recorded).with(log).try_init();
    tracing::debug!(pid = std::process::id(), "started");
}

/// Tells what was silenced since the last call. To be called now and then.
pub fn settle() {
    let silenced = places().settle(Instant::now());
    for (place, lines) in silenced {
        tracing::warn!(place, lines, "lines of one place were left out");
    }
}

fn places() -> std::sync::MutexGuard<'static, Places> {
    static PLACES: LazyLock<Mutex<Places>> = LazyLock::new(Mutex::default);
    PLACES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How much each place in the code says. As many as there are places that log.
#[derive(Debug, Default)]
struct Places(BTreeMap<&'static str, Said>);

#[derive(Debug)]
struct Said {
    since: Instant,
    lines: u32,
    silenced: u64,
}

impl Places {
    /// True: the line may be written.
    fn admit(&mut self, place: &'static str, level: Level, now: Instant) -> bool {
        let most = if level <= Level::INFO { LINES_MAX } else { DEBUG_LINES_MAX };
        let fresh = Said { since: now, lines: 0, silenced: 0 };
        let said = self.0.entry(place).or_insert(fresh);
        if now.saturating_duration_since(said.since) >= WINDOW {
            (said.since, said.lines) = (now, 0);
        }
        let admitted = said.lines < most;
        match admitted {
            true => said.lines += 1,
            false => said.silenced += 1,
        }
        admitted
    }

    /// The places whose second is over and that were silenced in it, and for how many lines.
    fn settle(&mut self, now: Instant) -> Vec<(&'static str, u64)> {
        let over = self.0.iter_mut().filter(|(_, said)| {
            said.silenced > 0 && now.saturating_duration_since(said.since) >= WINDOW
        });
        over.map(|(place, said)| (*place, std::mem::take(&mut said.silenced))).collect()
    }
}

/// True: the line may be written.
fn admitted(about: &'static Metadata<'static>) -> bool {
    // "event src/front/serve.rs:160"
    places().admit(about.name(), *about.level(), Instant::now())
}

/// "session 0123456789abcdef", or the kind of process alone.
fn tag(process: &str, session: Option<SessionId>) -> String {
    session.map_or_else(|| process.to_owned(), |id| format!("{process} {id}"))
}

struct TextLines {
    process: &'static str,
    session: Option<SessionId>,
}

impl<S, N> FormatEvent<S, N> for TextLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let about = event.metadata();
        if !admitted(about) {
            return Ok(());
        }
        SystemTime.format_time(&mut line)?;
        let level = *about.level();
        match (line.has_ansi_escapes(), level) {
            (true, Level::ERROR) => write!(line, " \x1b[31m{level:>5}\x1b[0m")?,
            (true, Level::WARN) => write!(line, " \x1b[33m{level:>5}\x1b[0m")?,
            (true, Level::INFO) => write!(line, " \x1b[32m{level:>5}\x1b[0m")?,
            _ => write!(line, " {level:>5}")?,
        }
        write!(line, " {}", tag(self.process, self.session))?;
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            write!(line, " {}", span.name())?;
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>() {
                write!(line, "{{{fields}}}")?;
            }
        }
        write!(line, " {}: ", about.target())?;
        context.format_fields(line.by_ref(), event)?;
        writeln!(line)
    }
}

struct JsonLines {
    process: &'static str,
    session: Option<SessionId>,
    inner: Format<Json>,
}

impl<S> FormatEvent<S, JsonFields> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if !admitted(event.metadata()) {
            return Ok(());
        }
        let mut object = String::new();
        self.inner.format_event(context, Writer::new(&mut object), event)?;
        let rest = object.strip_prefix('{').ok_or(fmt::Error)?;
        write!(line, "{{\"process\":\"{}\",", self.process)?;
        if let Some(session) = self.session {
            write!(line, "\"session_id\":\"{session}\",")?;
        }
        line.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::Arc;

    #[test]
    fn a_place_that_says_too_much_is_silenced_for_its_second_and_that_is_told() {
        let (mut places, start) = (Places::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let says = |places: &mut Places, n: u32, ms| {
            (0..n).filter(|_| places.admit("a", Level::WARN, at(ms))).count()
        };
        assert_eq!(says(&mut places, 50, 0), 20);
        assert!(places.admit("b", Level::WARN, at(0)), "another place is not silenced");
        assert_eq!(says(&mut places, 50, 999), 0);
        assert_eq!(places.settle(at(999)), []);
        assert_eq!(places.settle(at(1_000)), [("a", 80)]);
        assert_eq!(places.settle(at(5_000)), []);
        assert_eq!(says(&mut places, 50, 1_000), 20);
        let debug = |_: &u32| places.admit("c", Level::DEBUG, at(0));
        assert_eq!((0..2_000).filter(debug).count(), 1_000);
    }

    /// What is written while `says` runs.
    fn written<N>(
        lines: impl FormatEvent<tracing_subscriber::Registry, N> + Send + Sync + 'static,
        fields: N,
        says: impl FnOnce(),
    ) -> String
    where
        N: for<'a> FormatFields<'a> + Send + Sync + 'static,
    {
        use tracing_subscriber::layer::SubscriberExt;
        #[derive(Clone, Default)]
        struct Sink(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Sink {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let sink = Sink::default();
        let own = sink.clone();
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).fmt_fields(fields);
        let layer = layer.event_format(lines).with_writer(move || own.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), says);
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    fn say() {
        let span = tracing::warn_span!("conn", id = 7, peer = "192.0.2.1:5");
        span.in_scope(|| tracing::warn!(error = "no \"way\"", "it failed"));
    }

    #[test]
    fn every_line_names_its_process_its_session_and_its_connection() {
        let session = Some(SessionId(0xab));
        let text = TextLines { process: "session", session };
        let line = written(text, tracing_subscriber::fmt::format::DefaultFields::new(), say);
        let (_, rest) = line.split_once(' ').unwrap();
        assert_eq!(
            rest,
            " WARN session 00000000000000ab conn{id=7 peer=\"192.0.2.1:5\"} \
             moonshard::ops::log::tests: it failed error=\"no \\\"way\\\"\"\n"
        );
        let inner = Format::default().json().flatten_event(true).with_span_list(false);
        let json = JsonLines { process: "session", session, inner };
        let line = written(json, JsonFields::new(), say);
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["process"], "session");
        assert_eq!(object["session_id"], "00000000000000ab");
        assert_eq!(object["span"]["id"], 7);
        assert_eq!(object["message"], "it failed");
        assert_eq!(object["error"], "no \"way\"");
    }
}
