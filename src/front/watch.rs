//! Which shards stand still, judged by their beats. Pure.
//!
//! A shard that stands still names itself in the log within a second and costs the front its life after
//! five: a new front takes over the listeners, and streams never notice.
use std::time::Duration;

use crate::shard::BEAT_EVERY;
use crate::time::Time;

/// Silence after which a shard counts as stalled.
const STALLED: Duration = Duration::from_millis(800);
/// Silence after which it is given up.
const LOST: Duration = Duration::from_secs(5);

const _: () = assert!(BEAT_EVERY.as_millis() * 3 < STALLED.as_millis());

/// What changed about a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Stalled,
    Recovered,
    Lost,
}

/// What was known at the last look.
pub struct Watch {
    stalled: Vec<bool>,
    last_look: Option<Time>,
}

impl Watch {
    pub fn new(shards: usize) -> Self {
        Self { stalled: vec![false; shards], last_look: None }
    }

    /// Compares the last beats (zero: none yet) with the time. If the looks themselves come late, the
    /// whole process or machine stood still, and no shard is blamed.
    pub fn look(&mut self, beats: &[Time], now: Time) -> Vec<(usize, Verdict)> {
        let paused = self.last_look.is_some_and(|last| now.since(last) >= STALLED);
        self.last_look = Some(now);
        if paused {
            return Vec::new();
        }
        let mut changes = Vec::new();
        for (shard, (stalled, beat)) in self.stalled.iter_mut().zip(beats).enumerate() {
            let silence = if *beat == Time::ZERO { Duration::ZERO } else { now.since(*beat) };
            let verdict = match (*stalled, silence) {
                (_, silence) if silence >= LOST => Some(Verdict::Lost),
                (false, silence) if silence >= STALLED => Some(Verdict::Stalled),
                (true, silence) if silence < STALLED => Some(Verdict::Recovered),
                _ => None,
            };
            *stalled = silence >= STALLED;
            changes.extend(verdict.map(|verdict| (shard, verdict)));
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_millis(10_000 + ms)
    }

    #[test]
    fn a_silent_shard_is_named_then_given_up() {
        let mut watch = Watch::new(2);
        let mut said = Vec::new();
        for ms in (0..=5_250).step_by(250) {
            said.extend(watch.look(&[at(0), at(ms)], at(ms)).into_iter().map(|v| (ms, v)));
        }
        assert_eq!(said[0], (1_000, (0, Verdict::Stalled)));
        assert_eq!(said[1], (5_000, (0, Verdict::Lost)));
        assert!(said.iter().all(|(_, (shard, _))| *shard == 0));
    }

    #[test]
    fn a_shard_that_turns_again_has_recovered() {
        let mut watch = Watch::new(1);
        let mut said = Vec::new();
        for ms in (0..=3_000).step_by(250) {
            let beat = if ms < 2_000 { 0 } else { ms };
            said.extend(watch.look(&[at(beat)], at(ms)));
        }
        assert_eq!(said, [(0, Verdict::Stalled), (0, Verdict::Recovered)]);
    }

    #[test]
    fn a_pause_of_the_machine_is_no_shards_fault() {
        let mut watch = Watch::new(1);
        assert!(watch.look(&[at(0)], at(0)).is_empty());
        assert!(watch.look(&[at(0)], at(60_000)).is_empty());
        assert!(watch.look(&[at(60_100)], at(60_250)).is_empty());
        assert!(Watch::new(1).look(&[Time::ZERO], at(60_000)).is_empty());
    }
}
