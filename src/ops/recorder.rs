//! What the log's lines and spans leave in the flight recorder; not the log itself, which says less.
use std::fmt::Write as _;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::proc::flight;

/// The recorder's layer beside the log: a quiet log has a full recorder.
pub(super) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>() -> impl Layer<S> {
    Recorder.with_filter(filter_fn(|at| {
        let ours = at.target().starts_with("moonshard");
        *at.level() <= if ours { Level::DEBUG } else { Level::WARN }
    }))
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
