//! Which shards stand still, judged by their beats. Pure.
//!
//! A shard that stands still is named in the log within a second, and costs the front its life when the
//! configured time (`stall_ms`) is over: a new front takes over the listeners, and streams never notice.
use std::time::Duration;

use crate::shard::BEAT_EVERY;
use crate::time::Time;

/// Silence after which a shard counts as stalled.
const STALLED: Duration = Duration::from_millis(700);
const _: () = assert!(BEAT_EVERY.as_millis() * 3 < STALLED.as_millis());

/// What changed about a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Stalled,
    Recovered,
    Lost,
}

/// What a shard shows of itself.
#[derive(Clone, Copy, Debug)]
pub struct Pulse {
    /// Its last beat; zero: none yet.
    pub beat: Time,
    /// How long its thread has waited for a core, since its start.
    pub starved: Duration,
}

/// What was known at the last look.
pub struct Watch {
    shards: Vec<Known>,
    /// Silence after which a shard is given up.
    lost: Duration,
    last_look: Option<Time>,
}

#[derive(Clone, Copy)]
struct Known {
    beat: Time,
    /// When that beat was first seen here.
    starved: Duration,
    stalled: bool,
}

impl Watch {
    /// `lost`: the silence after which a shard is given up.
    pub fn new(shards: usize, lost: Duration) -> Self {
        let unknown = Known { beat: Time::ZERO, starved: Duration::ZERO, stalled: false };
        Self { shards: vec![unknown; shards], lost, last_look: None }
    }

    /// Compares the last beats with the time. If the looks themselves come late, the whole process or
    /// machine stood still, and no shard is blamed; nor for the time in which it got no core.
    pub fn look(&mut self, pulses: &[Pulse], now: Time) -> Vec<(usize, Verdict)> {
        let paused = self.last_look.is_some_and(|last| now.since(last) >= STALLED);
        self.last_look = Some(now);
        let mut changes = Vec::new();
        for (shard, (known, pulse)) in self.shards.iter_mut().zip(pulses).enumerate() {
            if known.beat != pulse.beat || paused {
                *known = Known { beat: pulse.beat, starved: pulse.starved, ..*known };
            }
            let silence = match pulse.beat {
                Time::ZERO => Duration::ZERO,
                beat => now.since(beat).saturating_sub(pulse.starved.saturating_sub(known.starved)),
            };
            let verdict = match known.stalled {
                _ if paused => None,
                _ if silence >= self.lost => Some(Verdict::Lost),
                false if silence >= STALLED => Some(Verdict::Stalled),
                true if silence < STALLED => Some(Verdict::Recovered),
                _ => None,
            };
            if !paused {
                known.stalled = silence >= STALLED;
            }
            changes.extend(verdict.map(|verdict| (shard, verdict)));
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST: Duration = Duration::from_secs(5);

    fn at(ms: u64) -> Time {
        Time::from_millis(10_000 + ms)
    }

    fn pulse(ms: u64) -> Pulse {
        Pulse { beat: at(ms), starved: Duration::ZERO }
    }

    #[test]
    fn a_silent_shard_is_named_then_given_up() {
        let mut watch = Watch::new(2, LOST);
        let mut said = Vec::new();
        for ms in (0..=5_250).step_by(250) {
            said.extend(watch.look(&[pulse(0), pulse(ms)], at(ms)).into_iter().map(|v| (ms, v)));
        }
        assert_eq!(said[0], (750, (0, Verdict::Stalled)));
        assert_eq!(said[1], (5_000, (0, Verdict::Lost)));
        assert!(said.iter().all(|(_, (shard, _))| *shard == 0));
    }

    #[test]
    fn a_shard_that_turns_again_has_recovered() {
        let mut watch = Watch::new(1, LOST);
        let mut said = Vec::new();
        for ms in (0..=3_000).step_by(250) {
            said.extend(watch.look(&[pulse(if ms < 2_000 { 0 } else { ms })], at(ms)));
        }
        assert_eq!(said, [(0, Verdict::Stalled), (0, Verdict::Recovered)]);
    }

    #[test]
    fn a_pause_of_the_machine_is_no_shards_fault() {
        let mut watch = Watch::new(1, LOST);
        assert!(watch.look(&[pulse(0)], at(0)).is_empty());
        assert!(watch.look(&[pulse(0)], at(60_000)).is_empty());
        assert!(watch.look(&[pulse(60_100)], at(60_250)).is_empty());
        let never = Pulse { beat: Time::ZERO, starved: Duration::ZERO };
        assert!(Watch::new(1, LOST).look(&[never], at(60_000)).is_empty());
    }

    #[test]
    fn a_shard_without_a_core_is_not_blamed() {
        let mut watch = Watch::new(1, LOST);
        for ms in (0..=6_000_u64).step_by(250) {
            let starved = Duration::from_millis(1_000 + ms.saturating_sub(200));
            assert!(watch.look(&[Pulse { starved, ..pulse(0) }], at(ms)).is_empty());
        }
    }
}
