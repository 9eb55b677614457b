//! What the supervisor knows, for the operators' threads to read; and what follows from it.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Ports;
use crate::ipc::{FrontFigures, SESSION_SHEET, SessionFigures, SessionId};
use crate::proc::sheet::Sheet;

/// A shard whose last beat is older, or a front whose sheet is, does not live.
pub const BEAT_AGE_MAX: Duration = Duration::from_secs(2);
/// What a session wrote of itself longer ago says nothing of now.
const SESSION_AGE_MAX: Duration = Duration::from_secs(10);

/// The front as the supervisor sees it.
#[derive(Clone, Debug)]
pub struct FrontSeen {
    pub pid: u32,
    pub serving: bool,
    pub draining: bool,
    pub sheet: Arc<Sheet>,
}

/// Which encoder streams will use.
#[derive(Clone, Debug, Default)]
pub struct EncoderSeen {
    /// None: none works.
    pub name: Option<String>,
    pub reason: String,
    pub probed: Option<Instant>,
}

/// All of it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// None: none runs.
    pub front: Option<FrontSeen>,
    pub front_starts: u64,
    /// Process of each session.
    pub sessions: BTreeMap<SessionId, u32>,
    /// The directory that holds one for each of them.
    pub sessions_dir: PathBuf,
    /// Sessions that ended: (well, otherwise).
    pub sessions_ended: (u64, u64),
    pub sessions_started: u64,
    pub sessions_not_started: u64,
    pub seats: usize,
    /// The host's own TCP ports.
    pub listening: Ports,
    pub encoder: EncoderSeen,
    pub stopping: bool,
}

/// Shared by the supervisor's loop, its only writer, and the operators' threads.
#[derive(Debug, Default)]
pub struct Board(Mutex<Known>);

impl Board {
    /// Changes what is known; no call in `change` may wait.
    pub fn note(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub fn known(&self) -> Known {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Known {
    /// What the front wrote last; None: nothing that can be read.
    pub fn figures(&self) -> Option<FrontFigures> {
        self.front.as_ref()?.sheet.read()
    }

    /// What each session wrote of itself last; None: nothing, nothing whole, or too long ago.
    /// Reads a small file for each. `now_ns`: CLOCK_MONOTONIC.
    pub fn session_figures(&self, now_ns: u64) -> BTreeMap<SessionId, Option<SessionFigures>> {
        let read = |id: &SessionId| {
            let path = self.sessions_dir.join(id.to_string()).join(SESSION_SHEET);
            let figures: SessionFigures = Sheet::open_at(&path).ok()?.read()?;
            let age = Duration::from_nanos(now_ns.saturating_sub(figures.written_ns));
            (age <= SESSION_AGE_MAX).then_some(figures)
        };
        self.sessions.keys().map(|id| (*id, read(id))).collect()
    }

    /// Seats that a new session could take; 0 while the host stops.
    pub fn free_seats(&self) -> usize {
        if self.stopping { 0 } else { self.seats.saturating_sub(self.sessions.len()) }
    }

    /// Why the host does not live; empty: it does. `now_ns`: CLOCK_MONOTONIC.
    pub fn ailments(&self, now_ns: u64) -> Vec<String> {
        let Some(front) = &self.front else { return vec!["no front runs".into()] };
        if front.draining {
            return vec!["the front is being replaced".into()];
        }
        if !front.serving {
            return vec!["the front does not serve yet".into()];
        }
        let Some(figures) = self.figures() else {
            return vec!["the front's figures are unknown".into()];
        };
        judge(&figures, now_ns)
    }
}

/// What the front's own figures say against it.
fn judge(figures: &FrontFigures, now_ns: u64) -> Vec<String> {
    let late = |then: u64| {
        let age = Duration::from_nanos(now_ns.saturating_sub(then));
        (age >= BEAT_AGE_MAX).then_some(age.as_millis())
    };
    let mut ailments = Vec::new();
    if let Some(ms) = late(figures.written_ns) {
        ailments.push(format!("the front has shown no sign of life for {ms} ms"));
    }
    for (shard, figures) in figures.shards.iter().enumerate() {
        match late(figures.beat_ns) {
            _ if figures.beat_ns == 0 => ailments.push(format!("shard {shard} has never beaten")),
            Some(ms) => ailments.push(format!("shard {shard} has not beaten for {ms} ms")),
            None => {}
        }
    }
    if figures.shards.is_empty() {
        ailments.push("the front has no shards".into());
    }
    ailments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::ShardFigures;

    #[test]
    fn a_front_lives_as_long_as_it_writes_and_all_shards_beat() {
        let second = 1_000_000_000;
        let beat = |beat_ns| ShardFigures { beat_ns, ..Default::default() };
        let mut figures = FrontFigures {
            written_ns: 10 * second,
            shards: vec![beat(9 * second), beat(10 * second)],
            ..Default::default()
        };
        assert!(judge(&figures, 10 * second).is_empty());
        assert_eq!(judge(&figures, 11 * second).len(), 1);
        assert_eq!(judge(&figures, 12 * second).len(), 3);
        figures.shards[1] = beat(0);
        assert!(judge(&figures, 10 * second)[0].contains("never"));
        figures.shards.clear();
        assert_eq!(judge(&figures, 10 * second).len(), 1);
        assert_eq!(Known::default().ailments(0), ["no front runs"]);
    }

    #[test]
    fn a_session_that_writes_nothing_or_not_any_more_is_unknown() {
        let directory = tempfile::tempdir().unwrap();
        let id = SessionId(1);
        let own = directory.path().join(id.to_string());
        std::fs::create_dir(&own).unwrap();
        let mut known = Known { sessions_dir: directory.path().into(), ..Default::default() };
        assert!(known.session_figures(0).is_empty());
        known.sessions.insert(id, 7);
        assert_eq!(known.session_figures(0)[&id], None, "unknown, and so not nothing");
        let sheet = Sheet::create_at(&own.join(SESSION_SHEET)).unwrap();
        let figures =
            SessionFigures { written_ns: 5, state: "paused".into(), ..Default::default() };
        sheet.write(&figures).unwrap();
        assert_eq!(known.session_figures(5)[&id], Some(figures));
        assert_eq!(known.session_figures(5 + 11_000_000_000)[&id], None);
    }

    #[test]
    fn nobody_has_a_seat_in_a_host_that_stops() {
        let mut known = Known { seats: 2, ..Default::default() };
        known.sessions.insert(SessionId(1), 7);
        assert_eq!(known.free_seats(), 1);
        known.stopping = true;
        assert_eq!(known.free_seats(), 0);
    }
}
