//! How launches get on, seen from outside the host: how long each stage took, and where they failed.
//!
//! It reads the events that the host takes and the effects that it has, under the same lock; it decides
//! nothing and changes nothing. Pure but for the counters that it writes.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::counters::Counters;
use crate::host::event::{Answer, CallId, Effect, Event};
use crate::ipc::{FromSession, SessionId, ToSession, ViewerId};
use crate::limits::SESSIONS_MAX;
use crate::proc::histogram::Histogram;
use crate::proto::http::Response;
use crate::time::Time;

/// Launches of one kind that are followed at once; one more is not followed.
const FOLLOWED_MAX: usize = 4 * SESSIONS_MAX;

/// The launches that are under way.
pub struct Launches {
    counters: Arc<Counters>,
    /// Calls that are launches or resumes, and wait for their answer.
    calls: BTreeSet<CallId>,
    sessions: BTreeMap<SessionId, Start>,
    viewers: BTreeMap<ViewerId, Way>,
}

/// A session that has not yet been seen by a viewer.
struct Start {
    since: Time,
    process: Option<Time>,
    runs: bool,
    failed: bool,
}

/// A viewer on its way from the grant to its control connection.
struct Way {
    session: SessionId,
    granted: Time,
    announced: Option<Time>,
    ready: Option<Time>,
}

impl Launches {
    pub fn new(counters: Arc<Counters>) -> Self {
        let (calls, sessions) = (BTreeSet::new(), BTreeMap::new());
        Self { counters, calls, sessions, viewers: BTreeMap::new() }
    }

    /// Before the host takes it.
    pub fn on_event(&mut self, event: &Event, now: Time) {
        match event {
            Event::Http { call, request, .. }
                if matches!(request.path.as_str(), "/launch" | "/resume")
                    && self.calls.len() < FOLLOWED_MAX =>
            {
                self.calls.insert(*call);
            }
            Event::CallGone { call } => _ = self.calls.remove(call),
            Event::SessionSpawned { session, result: Ok(()) } => {
                if let Some(start) = self.sessions.get_mut(session) {
                    start.process = Some(now);
                    self.counters.launch_process.record(now.since(start.since));
                }
            }
            Event::SessionSpawned { session, result: Err(_) } => {
                self.fail(*session, |counters| &counters.launch_failed_process);
                self.sessions.remove(session);
            }
            Event::Session { session, message } => self.on_message(*session, message, now),
            Event::SessionExited { session, .. } => {
                self.fail(*session, |counters| &counters.launch_failed_died);
                self.sessions.remove(session);
                self.viewers.retain(|_, way| way.session != *session);
            }
            _ => {}
        }
    }

    fn on_message(&mut self, id: SessionId, message: &FromSession, now: Time) {
        match message {
            FromSession::Started | FromSession::Identity { started: true, .. } => {
                if let Some(start) = self.sessions.get_mut(&id)
                    && !std::mem::replace(&mut start.runs, true)
                {
                    let since = start.process.unwrap_or(start.since);
                    self.counters.launch_desktop.record(now.since(since));
                }
            }
            FromSession::StartFailed { .. } => {
                self.fail(id, |counters| &counters.launch_failed_desktop);
            }
            FromSession::AppExited { .. } => {
                self.fail(id, |counters| &counters.launch_failed_app);
            }
            FromSession::ViewerReady { viewer } => {
                if let Some(way) = self.viewers.get_mut(viewer) {
                    way.ready = Some(now);
                    record(&self.counters.launch_encoder, way.announced, now);
                }
            }
            FromSession::ViewerRefused { viewer, .. } => {
                if let Some(way) = self.viewers.get_mut(viewer) {
                    way.announced = None;
                    self.counters.launch_failed_encoder.add();
                }
            }
            FromSession::ViewerConnected { viewer, .. } => {
                if let Some(way) = self.viewers.remove(viewer) {
                    record(&self.counters.launch_control, way.ready, now);
                    // A session's first viewer waited for all of it.
                    let since = self.sessions.remove(&id).map_or(way.granted, |start| start.since);
                    self.counters.launch_total.record(now.since(since));
                }
            }
            FromSession::ViewerGone { viewer, .. } => {
                if self.viewers.remove(viewer).is_some() {
                    self.counters.launch_failed_client.add();
                }
            }
            FromSession::Identity { .. }
            | FromSession::Figures { .. }
            | FromSession::Log { .. } => {}
        }
    }

    /// After the host has decided.
    pub fn on_effect(&mut self, effect: &Effect, now: Time) {
        match effect {
            Effect::Answer { call, answer } if self.calls.remove(call) => {
                self.on_answer(answer);
            }
            Effect::Spawn { spec } if self.sessions.len() < FOLLOWED_MAX => {
                let start = Start { since: now, process: None, runs: false, failed: false };
                self.sessions.insert(spec.id, start);
            }
            Effect::Send { session, message: ToSession::Grant(grant) }
                if self.viewers.len() < FOLLOWED_MAX =>
            {
                let way = Way { session: *session, granted: now, announced: None, ready: None };
                self.viewers.insert(grant.viewer, way);
            }
            Effect::Send { message: ToSession::Announce { viewer, .. }, .. } => {
                if let Some(way) = self.viewers.get_mut(viewer) {
                    way.announced = Some(now);
                    self.counters.launch_rtsp.record(now.since(way.granted));
                }
            }
            // Whoever ends a session on purpose asks it to stop and does not kill it.
            Effect::Send { session, message: ToSession::Stop { .. } } => {
                self.sessions.remove(session);
            }
            Effect::Kill { session }
                if self.sessions.get(session).is_some_and(|start| !start.runs) =>
            {
                self.fail(*session, |counters| &counters.launch_failed_late);
            }
            _ => {}
        }
    }

    fn on_answer(&self, answer: &Answer) {
        let Answer::Http(response) = answer else { return };
        let counters = &self.counters;
        match status(response) {
            Some(200) => counters.launches_granted.add(),
            Some(400) => counters.launches_refused_400.add(),
            Some(401) => counters.launches_refused_401.add(),
            Some(404) => counters.launches_refused_404.add(),
            Some(503) => counters.launches_refused_503.add(),
            _ => counters.launches_refused_500.add(),
        }
    }

    /// A session that fails has one reason: the first.
    fn fail(&mut self, id: SessionId, counter: impl Fn(&Counters) -> &super::counters::Counter) {
        if let Some(start) = self.sessions.get_mut(&id)
            && !std::mem::replace(&mut start.failed, true)
        {
            counter(&self.counters).add();
        }
    }
}

fn record(histogram: &Histogram, since: Option<Time>, now: Time) {
    if let Some(since) = since {
        histogram.record(now.since(since));
    }
}

/// The `status_code` of an answer's document.
fn status(response: &Response) -> Option<u32> {
    const KEY: &[u8] = b"<root status_code=\"";
    let at = response.body.windows(KEY.len()).position(|part| part == KEY)?;
    let rest = response.body.get(at + KEY.len()..)?;
    std::str::from_utf8(rest.split(|byte| *byte == b'"').next()?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::{SessionSpec, ViewerGrant};
    use crate::proto::launch::Verb;
    use crate::proto::secret::SessionKey;

    const SESSION: SessionId = SessionId(1);
    const VIEWER: ViewerId = ViewerId(2);

    fn at(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    fn spawn() -> Effect {
        let spec = serde_json::json!({
            "version": 1, "id": SESSION, "client": "00".repeat(32), "client_name": "",
            "app": { "id": 1, "title": "a", "command": ["a"] },
            "mode": { "width": 640, "height": 360, "millihertz": 60_000 }, "audio_channels": 2,
            "policy": { "keep_ms": 0, "never_viewed_ms": 0, "idle_fps": 10, "keyboard_layout": "",
                "keyboard_variant": "", "encoder": "auto", "audio": false, "media_cores": [] },
        });
        let spec: SessionSpec = serde_json::from_value(spec).unwrap();
        Effect::Spawn { spec: Box::new(spec) }
    }

    fn grant() -> Effect {
        let grant = ViewerGrant {
            viewer: VIEWER,
            key: SessionKey([0; 16]),
            rikeyid: 0,
            ping_payload: String::new(),
            connect_data: 0,
            peer_id: 0,
        };
        Effect::Send { session: SESSION, message: ToSession::Grant(grant) }
    }

    fn says(message: FromSession) -> Event {
        Event::Session { session: SESSION, message }
    }

    fn new() -> (Launches, Arc<Counters>) {
        let counters = Arc::new(Counters::default());
        (Launches::new(Arc::clone(&counters)), counters)
    }

    #[test]
    fn each_stage_of_a_launch_is_timed() {
        let (mut launches, counters) = new();
        launches.on_effect(&spawn(), at(0));
        launches.on_event(&Event::SessionSpawned { session: SESSION, result: Ok(()) }, at(4));
        launches.on_event(&says(FromSession::Started), at(104));
        launches.on_effect(&grant(), at(104));
        launches.on_event(&says(FromSession::ViewerReady { viewer: VIEWER }), at(300));
        let peer = "127.0.0.1:1".parse().unwrap();
        let connected = FromSession::ViewerConnected {
            viewer: VIEWER,
            local: peer,
            peer,
            last_will: Vec::new(),
        };
        launches.on_event(&says(connected), at(400));
        let sum = |histogram: &Histogram| histogram.timed("", "").sum_us;
        assert_eq!(sum(&counters.launch_process), 4_000);
        assert_eq!(sum(&counters.launch_desktop), 100_000);
        assert_eq!(sum(&counters.launch_control), 100_000);
        assert_eq!(sum(&counters.launch_total), 400_000);
        let gone = || FromSession::ViewerGone { viewer: VIEWER, reason: "over".into() };
        launches.on_event(&says(gone()), at(500));
        let status = || "exit 0".into();
        let exited =
            Event::SessionExited { session: SESSION, status: status(), last_words: String::new() };
        launches.on_event(&exited, at(600));
        // What was seen has not failed.
        let failed: u64 = counters
            .counted()
            .iter()
            .filter(|c| c.name.starts_with("launch_failed"))
            .map(|c| c.value)
            .sum();
        assert_eq!(failed, 0);
        assert!(launches.sessions.is_empty() && launches.viewers.is_empty());
        launches.on_effect(&grant(), at(700));
        launches.on_event(&says(gone()), at(800));
        assert_eq!(counters.launch_failed_client.get(), 1);
    }

    #[test]
    fn a_launch_fails_for_one_reason() {
        let exited = || Event::SessionExited {
            session: SESSION,
            status: "signal 9".into(),
            last_words: String::new(),
        };
        type Case = (Vec<Event>, fn(&Counters) -> u64);
        let cases: [Case; 4] = [
            (vec![], |c| c.launch_failed_died.get()),
            (vec![says(FromSession::StartFailed { reason: String::new() })], |c| {
                c.launch_failed_desktop.get()
            }),
            (
                vec![says(FromSession::AppExited {
                    status: String::new(),
                    last_words: String::new(),
                })],
                |c| c.launch_failed_app.get(),
            ),
            (vec![Event::SessionSpawned { session: SESSION, result: Err(String::new()) }], |c| {
                c.launch_failed_process.get()
            }),
        ];
        for (events, count) in cases {
            let (mut launches, counters) = new();
            launches.on_effect(&spawn(), at(0));
            events.iter().for_each(|event| launches.on_event(event, at(1)));
            launches.on_event(&exited(), at(2));
            let all = counters.counted();
            let failed = all.iter().filter(|c| c.name.starts_with("launch_failed"));
            assert_eq!((count(&counters), failed.map(|c| c.value).sum::<u64>()), (1, 1));
        }
        let (mut launches, counters) = new();
        launches.on_effect(&spawn(), at(0));
        launches.on_effect(&Effect::Kill { session: SESSION }, at(1));
        assert_eq!(counters.launch_failed_late.get(), 1);
    }

    #[test]
    fn answers_are_counted_by_their_status() {
        let (launches, counters) = new();
        for code in [400, 404, 500, 503, 503] {
            launches.on_answer(&Answer::Http(Verb::Launch.refusal(code, "no")));
        }
        launches.on_answer(&Answer::Http(crate::proto::launch::started(Verb::Launch, "x")));
        let value =
            |name: &str| counters.counted().into_iter().find(|c| c.name == name).unwrap().value;
        assert_eq!(value("launches_granted"), 1);
        assert_eq!(value("launches_refused_400"), 1);
        assert_eq!(value("launches_refused_503"), 2);
        assert_eq!(status(&Response::png(vec![1, 2])), None);
    }
}
