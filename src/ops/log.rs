//! Logs: to stderr, readable for people or one JSON object a line, filtered as RUST_LOG says.
//!
//! Every kind of process calls [`init`] once, first thing. What `serve` says to people is not a log.
#![expect(unsafe_code, reason = "the choice of format travels to child processes by environment")]
use std::fmt::Write as _;
use std::io::IsTerminal;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::proc::flight;

/// "json" here makes this process and its children log JSON.
const FORMAT_VARIABLE: &str = "MOONSHARD_LOG_FORMAT";

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
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let log = if std::env::var_os(FORMAT_VARIABLE).is_some_and(|format| format == "json") {
        log.json().flatten_event(true).with_current_span(false).with_filter(filter).boxed()
    } else {
        let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        log.with_ansi(colours).with_filter(filter).boxed()
    };
    // What is said and what is recorded are two things: a quiet log has a full recorder.
    let recorded = matches!(process, "front" | "session").then(|| {
        let ours = |at: &tracing::Metadata<'_>| {
            let level =
                if at.target().starts_with("moonshard") { Level::DEBUG } else { Level::WARN };
            *at.level() <= level
        };
        Recorder.with_filter(filter_fn(ours))
    });
    // Another subscriber is in place only in tests, which call this more than once.
    let _ = tracing_subscriber::registry().with(recorded).with(log).try_init();
    tracing::debug!(process, pid = std::process::id(), "started");
}

/// Passes what is logged, and what threads are in, on to the flight recorder.
struct Recorder;

/// A span as it is shown.
struct Shown(String);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorder {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut line = Line(attributes.metadata().name().to_owned());
        attributes.record(&mut line);
        span.extensions_mut().insert(Shown(line.0));
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if !flight::is_on() {
            return;
        }
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        if let Some(span) = context.event_span(event)
            && let Some(shown) = span.extensions().get::<Shown>()
        {
            let _ = write!(line.0, " in {}", shown.0);
        }
        flight::note(&line.0);
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(shown) = span.extensions().get::<Shown>()
        {
            flight::enter(&shown.0);
        }
    }

    fn on_exit(&self, _: &Id, _: Context<'_, S>) {
        flight::enter("");
    }
}

/// Fields in one line.
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}
