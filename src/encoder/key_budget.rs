//! How often key frames may be asked for: at most two in any second, so that a lossy path is not
//! flooded by its own repair. A request over that is kept, and one frame answers all that are kept.
//! Pure: time is an argument.
use std::time::Duration;

use crate::time::Time;

/// The time in which at most two are granted.
const WINDOW: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub struct KeyBudget {
    /// The last two grants, the older first.
    granted: [Option<Time>; 2],
    is_kept: bool,
}

impl KeyBudget {
    /// A key frame is wanted. True: ask the encoder now.
    pub fn ask(&mut self, now: Time) -> bool {
        let is_granted = self.granted[0].is_none_or(|oldest| now.since(oldest) >= WINDOW);
        if is_granted {
            self.granted = [self.granted[1], Some(now)];
        }
        self.is_kept = !is_granted;
        is_granted
    }

    /// A kept request may be granted now. True: ask the encoder now.
    pub fn is_due(&mut self, now: Time) -> bool {
        self.is_kept && self.ask(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_in_a_second_are_granted_and_the_next_is_kept() {
        let mut budget = KeyBudget::default();
        let at = Time::from_millis;
        assert!(budget.ask(at(1_000)));
        assert!(budget.ask(at(1_100)));
        assert!(!budget.ask(at(1_200)));
        assert!(!budget.ask(at(1_300)));
        assert!(!budget.is_due(at(1_999)));
        assert!(budget.is_due(at(2_000)));
        assert!(!budget.is_due(at(3_500)));
        assert!(budget.ask(at(3_500)));
    }

    #[test]
    fn no_second_ever_sees_more_than_two() {
        let mut budget = KeyBudget::default();
        let granted: Vec<u64> =
            (0..10_000).step_by(7).filter(|ms| budget.ask(Time::from_millis(*ms))).collect();
        assert!(granted.windows(3).all(|three| three[2] - three[0] >= 1_000));
        assert!(granted.len() >= 18);
    }
}
