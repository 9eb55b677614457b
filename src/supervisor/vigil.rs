//! Whether the front as a whole stands still, judged by what it writes on its sheet. Pure.
//!
//! The front's own watch names a shard or a thread of it. This is for what that cannot see: a process
//! that was stopped, or whose main thread hangs. A front that has never written is not judged.
use std::time::{Duration, Instant};

/// How often the front is looked at.
pub const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What a look finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sign {
    /// CLOCK_MONOTONIC ns of the last writing; None: nothing that can be read.
    pub written_ns: Option<u64>,
    /// The front's main thread is ready to run and gets no core.
    pub starved: bool,
}

/// The looks at one front.
#[derive(Debug, Default)]
pub struct Vigil {
    written_ns: Option<u64>,
    silence: Duration,
    last_look: Option<Instant>,
}

impl Vigil {
    /// Takes a look; how long the front has been silent.
    ///
    /// A look that comes late counts no more than one in time: then this process stood still, too, and
    /// with it the whole machine, or a debugger held them all. Time without a core does not count.
    pub fn look(&mut self, sign: Sign, now: Instant) -> Duration {
        let passed = self.last_look.map_or(Duration::ZERO, |last| now.duration_since(last));
        self.last_look = Some(now);
        if sign.written_ns != self.written_ns || sign.written_ns.is_none() {
            self.written_ns = sign.written_ns;
            self.silence = Duration::ZERO;
        } else if !sign.starved {
            self.silence += passed.min(LOOK_EVERY);
        }
        self.silence
    }

    /// When the next look is due.
    pub fn due(&self) -> Option<Instant> {
        self.last_look.map(|last| last + LOOK_EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign(written_ns: u64) -> Sign {
        Sign { written_ns: Some(written_ns), starved: false }
    }

    #[test]
    fn silence_adds_up_and_ends_with_a_sign() {
        let (mut vigil, start) = (Vigil::default(), Instant::now());
        assert_eq!(vigil.look(sign(1), start), Duration::ZERO);
        for n in 1..=9 {
            assert_eq!(vigil.look(sign(1), start + LOOK_EVERY * n), LOOK_EVERY * n);
        }
        assert_eq!(vigil.due(), Some(start + LOOK_EVERY * 10));
        assert_eq!(vigil.look(sign(2), start + LOOK_EVERY * 10), Duration::ZERO);
        assert_eq!(vigil.look(sign(2), start + LOOK_EVERY * 11), LOOK_EVERY);
    }

    #[test]
    fn a_pause_of_everything_counts_as_one_look() {
        let (mut vigil, start) = (Vigil::default(), Instant::now());
        vigil.look(sign(1), start);
        assert_eq!(vigil.look(sign(1), start + Duration::from_secs(3600)), LOOK_EVERY);
    }

    #[test]
    fn who_has_never_written_and_who_gets_no_core_are_not_blamed() {
        let (mut vigil, start) = (Vigil::default(), Instant::now());
        let never = Sign { written_ns: None, starved: false };
        let starved = Sign { starved: true, ..sign(1) };
        assert!((0..100).all(|n| vigil.look(never, start + LOOK_EVERY * n).is_zero()));
        assert!((100..200).all(|n| vigil.look(starved, start + LOOK_EVERY * n).is_zero()));
    }
}
