//! The operator's questions about sessions: the list with their figures, their logs, an end.
//!
//! Figures and logs are the sessions' own, so an answer waits for them; shortly, because a session that
//! hangs is just what an operator looks for.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Session, Sessions, State};
use crate::config::Config;
use crate::host::Context;
use crate::host::event::Effect;
use crate::ipc::{AdminAnswer, SessionId, SessionSummary, ToSession};
use crate::time::Time;

/// How long a list waits for the sessions' figures; then it shows the last ones, with their age.
const FIGURES_WAIT: Duration = Duration::from_millis(300);
/// Lists that wait at once; the next one is answered with what is known.
const LISTINGS_MAX: usize = 16;
/// Sessions whose figures fit into one answer, which is one message; of more, none are told.
const FIGURES_TOLD_MAX: usize = 16;
/// Operators that wait for one session's log, and for how long; the next one is refused.
const LOG_ASKED_MAX: usize = 16;
const LOG_WAIT: Duration = Duration::from_secs(3);

/// One question for the list.
pub(super) struct Listing {
    admin: u64,
    until: Time,
    /// Sessions that were asked and have not answered.
    awaited: BTreeSet<SessionId>,
}

impl Sessions {
    /// The list; answered when every running session has told its figures, or in a moment.
    pub(in crate::host) fn list(&mut self, admin: u64, cx: &mut Context<'_>) {
        let running = self.all.iter().filter(|(_, s)| s.state == State::Running);
        let awaited: BTreeSet<SessionId> = running.map(|(id, _)| *id).collect();
        if awaited.is_empty() || self.listings.len() >= LISTINGS_MAX {
            return self.answer_listing(admin, cx);
        }
        for id in &awaited {
            // One question at a time: its answer is for all who wait.
            if !self.listings.iter().any(|listing| listing.awaited.contains(id)) {
                let message = ToSession::AskFigures;
                cx.effects.push(Effect::Send { session: *id, message });
            }
        }
        self.listings.push(Listing { admin, until: cx.now + FIGURES_WAIT, awaited });
    }

    pub(super) fn figures(
        &mut self,
        id: SessionId,
        figures: BTreeMap<String, f64>,
        cx: &mut Context<'_>,
    ) {
        if let Some(session) = self.all.get_mut(&id) {
            session.figures = Some((cx.now, figures));
        }
        self.heard_of(id, cx);
    }

    /// Nobody waits for this session any more; lists that only waited for it are answered.
    pub(super) fn heard_of(&mut self, id: SessionId, cx: &mut Context<'_>) {
        for listing in &mut self.listings {
            listing.awaited.remove(&id);
        }
        self.expire_listings(cx);
    }

    pub(super) fn expire_listings(&mut self, cx: &mut Context<'_>) {
        let over = |l: &mut Listing| l.awaited.is_empty() || l.until <= cx.now;
        let over: Vec<Listing> = self.listings.extract_if(.., over).collect();
        for listing in over {
            self.answer_listing(listing.admin, cx);
        }
    }

    pub(super) fn next_listing(&self) -> Option<Time> {
        self.listings.iter().map(|listing| listing.until).min()
    }

    fn answer_listing(&self, admin: u64, cx: &mut Context<'_>) {
        let fits = self.all.len() <= FIGURES_TOLD_MAX;
        let list = self.all.iter().map(|(id, s)| s.summary(*id, fits, cx.now)).collect();
        cx.effects.push(Effect::AnswerAdmin { id: admin, answer: AdminAnswer::Sessions(list) });
    }

    pub(in crate::host) fn stop_by_prefix(
        &mut self,
        prefix: &str,
        config: &Config,
        cx: &mut Context<'_>,
    ) -> AdminAnswer {
        match self.by_prefix(prefix) {
            Ok(id) => {
                self.stop_session(id, "stopped by the operator", config, cx);
                self.darken(id, cx);
                AdminAnswer::Done(format!("Session {id} is stopping."))
            }
            Err(text) => AdminAnswer::Error(text),
        }
    }

    pub(in crate::host) fn ask_log(
        &mut self,
        prefix: &str,
        admin: u64,
        cx: &mut Context<'_>,
    ) -> Result<(), String> {
        let id = self.by_prefix(prefix)?;
        if let Some(session) = self.all.get_mut(&id) {
            if session.log_asked.len() >= LOG_ASKED_MAX {
                return Err(format!("Session {id} is asked for its log too often; wait a moment."));
            }
            session.log_asked.push((admin, cx.now + LOG_WAIT));
        }
        cx.effects.push(Effect::Send { session: id, message: ToSession::AskLog });
        Ok(())
    }

    fn by_prefix(&self, prefix: &str) -> Result<SessionId, String> {
        let matching = |id: &&SessionId| !prefix.is_empty() && id.to_string().starts_with(prefix);
        let found: Vec<SessionId> = self.all.keys().filter(matching).copied().collect();
        match found[..] {
            [id] => Ok(id),
            [] => Err(format!("No session {prefix}. `moonshard sessions` lists them.")),
            _ => Err(format!("{} sessions begin with {prefix}: give more digits.", found.len())),
        }
    }
}

impl Session {
    fn summary(&self, id: SessionId, figures: bool, now: Time) -> SessionSummary {
        let told = self.figures.as_ref().filter(|_| figures);
        SessionSummary {
            id,
            client: self.spec.client,
            client_name: self.spec.client_name.clone(),
            app: self.spec.app.title.clone(),
            state: self.state_name().into(),
            mode: self.spec.mode,
            pid: self.pid,
            age_seconds: now.since(self.since).as_secs(),
            figures_age_ms: told.map(|(at, _)| now.since(*at).as_millis() as u64),
            figures: told.map(|(_, figures)| figures.clone()).unwrap_or_default(),
        }
    }

    pub(super) fn logged(&mut self, text: &str, cx: &mut Context<'_>) {
        for (admin, _) in std::mem::take(&mut self.log_asked) {
            let answer = AdminAnswer::Log(text.to_owned());
            cx.effects.push(Effect::AnswerAdmin { id: admin, answer });
        }
    }

    /// No log comes any more for those who have waited since before `asked_until`.
    pub(super) fn unlogged(&mut self, asked_until: Time, why: &str, cx: &mut Context<'_>) {
        for (id, _) in self.log_asked.extract_if(.., |(_, until)| *until <= asked_until) {
            cx.effects.push(Effect::AnswerAdmin { id, answer: AdminAnswer::Error(why.into()) });
        }
    }
}
