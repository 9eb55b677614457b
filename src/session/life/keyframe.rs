//! How often a client may have a key frame: at once when it asks rarely, twice a second when it asks
//! always. Bursts become one request and one repetition. No IO, no clock.
use std::time::Duration;

use crate::time::Time;

/// Key frames that may follow each other quickly.
const BURST: u32 = 2;
/// One more is earned in this time.
const REFILL: Duration = Duration::from_millis(500);
/// Between two of a burst: the first must have left before a repetition says anything new.
const GAP: Duration = Duration::from_millis(50);

/// A bucket of permissions and at most one request that waits.
#[derive(Debug)]
pub struct KeyFrames {
    left: u32,
    /// When the bucket was last full, or last got one.
    refilled: Time,
    last: Option<Time>,
    waits: bool,
}

impl KeyFrames {
    pub fn new() -> Self {
        Self { left: BURST, refilled: Time::ZERO, last: None, waits: false }
    }

    /// A request: true if it is to be passed on now. Otherwise it waits for [`KeyFrames::due`].
    pub fn asked(&mut self, now: Time) -> bool {
        self.waits = true;
        self.due(now)
    }

    /// Whether a request that waited is to be passed on now.
    pub fn due(&mut self, now: Time) -> bool {
        if !self.waits || self.next().is_some_and(|at| now < at) {
            return false;
        }
        self.refill(now);
        self.left = self.left.saturating_sub(1);
        self.last = Some(now);
        self.waits = false;
        true
    }

    /// When the request that waits is due.
    pub fn next(&self) -> Option<Time> {
        if !self.waits {
            return None;
        }
        let gap = self.last.map_or(Time::ZERO, |at| at + GAP);
        let earned = if self.left == 0 { self.refilled + REFILL } else { Time::ZERO };
        Some(gap.max(earned))
    }

    fn refill(&mut self, now: Time) {
        while self.left < BURST && now >= self.refilled + REFILL {
            self.left += 1;
            self.refilled = self.refilled + REFILL;
        }
        if self.left == BURST {
            self.refilled = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Time = Time::from_millis;

    #[test]
    fn a_burst_becomes_one_key_frame_now_and_one_repetition() {
        let mut key_frames = KeyFrames::new();
        let now: Vec<bool> = (0..10).map(|i| key_frames.asked(MS(1_000 + i))).collect();
        assert_eq!(now.iter().filter(|sent| **sent).count(), 1);
        assert!(now[0]);
        assert_eq!(key_frames.next(), Some(MS(1_050)));
        assert!(!key_frames.due(MS(1_049)));
        assert!(key_frames.due(MS(1_050)));
        assert_eq!(key_frames.next(), None);
        assert!(!key_frames.due(MS(9_000)));
    }

    #[test]
    fn a_client_that_always_asks_gets_two_a_second() {
        let mut key_frames = KeyFrames::new();
        let sent = (0..60_000).filter(|ms| key_frames.asked(MS(*ms))).count();
        assert!((118..=124).contains(&sent), "{sent}");
    }

    #[test]
    fn one_that_asks_rarely_is_served_at_once() {
        let mut key_frames = KeyFrames::new();
        assert!((1..100).all(|i| key_frames.asked(MS(i * 600))));
    }
}
