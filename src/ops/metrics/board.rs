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
    /// Where the host keeps what must survive it, and what must not.
    pub state_dir: PathBuf,
    pub runtime_dir: PathBuf,
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
            let path = self.runtime_dir.join("sessions").join(id.to_string()).join(SESSION_SHEET);
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

    /// Why no session can be made now, as far as it can be seen without trying; empty: nothing is
    /// against it. `now_ns`: CLOCK_MONOTONIC.
    pub fn obstacles(&self, now_ns: u64) -> Vec<String> {
        let mut obstacles = self.ailments(now_ns);
        if self.stopping {
            obstacles.push("the host is being stopped".into());
        } else if self.free_seats() == 0 {
            obstacles.push(format!("all {} seats are taken", self.seats));
        }
        if self.encoder.name.is_none() {
            obstacles.push(format!("no encoder works: {}", self.encoder.reason));
        }
        obstacles
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

    const NOW: u64 = 100_000_000_000;

    /// A host with one free seat and a front that has just written.
    fn sound() -> Known {
        let figures = FrontFigures {
            written_ns: NOW,
            shards: vec![ShardFigures { beat_ns: NOW, ..Default::default() }],
            ..Default::default()
        };
        let sheet = Sheet::create().unwrap();
        sheet.write(&figures).unwrap();
        let sheet = Arc::new(sheet);
        Known {
            front: Some(FrontSeen { pid: 1, serving: true, draining: false, sheet }),
            seats: 1,
            encoder: EncoderSeen { name: Some("x".into()), ..Default::default() },
            ..Default::default()
        }
    }

    /// Makes what the front wrote other than it is.
    fn rewrite(known: &mut Known, change: impl FnOnce(&mut FrontFigures)) {
        let mut figures = known.figures().unwrap();
        change(&mut figures);
        known.front.as_ref().unwrap().sheet.write(&figures).unwrap();
    }

    #[test]
    fn every_outage_has_its_reason() {
        assert_eq!(sound().obstacles(NOW), Vec::<String>::new());
        // What happens, what is said, and whether /healthz says it, too, and not only /readyz.
        type Case = (fn(&mut Known), &'static str, bool);
        let cases: [Case; 11] = [
            (|k| k.front = None, "no front runs", true),
            (|k| k.front.as_mut().unwrap().draining = true, "the front is being replaced", true),
            (|k| k.front.as_mut().unwrap().serving = false, "does not serve yet", true),
            (
                |k| k.front.as_mut().unwrap().sheet = Arc::new(Sheet::create().unwrap()),
                "the front's figures are unknown",
                true,
            ),
            (
                |k| rewrite(k, |f| f.written_ns -= NOW / 20),
                "the front has shown no sign of life for 5000 ms",
                true,
            ),
            (
                |k| rewrite(k, |f| f.shards[0].beat_ns -= NOW / 20),
                "shard 0 has not beaten for 5000 ms",
                true,
            ),
            (|k| rewrite(k, |f| f.shards[0].beat_ns = 0), "shard 0 has never beaten", true),
            (|k| rewrite(k, |f| f.shards.clear()), "the front has no shards", true),
            (|k| k.stopping = true, "the host is being stopped", false),
            (|k| k.seats = 0, "all 0 seats are taken", false),
            (
                |k| k.encoder = EncoderSeen { reason: "no H.264".into(), ..Default::default() },
                "no encoder works: no H.264",
                false,
            ),
        ];
        for (happens, said, in_health) in cases {
            let mut known = sound();
            happens(&mut known);
            let (ailments, obstacles) = (known.ailments(NOW), known.obstacles(NOW));
            assert!(obstacles.iter().any(|o| o.contains(said)), "{said}: {obstacles:?}");
            assert_eq!(ailments.iter().any(|a| a.contains(said)), in_health, "{said}");
        }
    }

    #[test]
    fn a_session_that_writes_nothing_or_not_any_more_is_unknown() {
        let directory = tempfile::tempdir().unwrap();
        let id = SessionId(1);
        let own = directory.path().join("sessions").join(id.to_string());
        std::fs::create_dir_all(&own).unwrap();
        let mut known = Known { runtime_dir: directory.path().into(), ..Default::default() };
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
