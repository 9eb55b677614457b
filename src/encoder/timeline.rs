//! The times that a frame carries on the wire. Pure.
use std::time::Duration;

use crate::time::Time;

/// RTP time stamps of one stream: 90 kHz, rising with each frame, never 0 (clients take 0 for none).
///
/// They follow CLOCK_MONOTONIC, so that an encoder goes on where the one before it ended.
#[derive(Debug, Default)]
pub struct Timeline {
    last: u64,
}

impl Timeline {
    /// The stamp of a frame captured at `captured`.
    pub fn stamp(&mut self, captured: Time) -> u32 {
        let ticks = captured.0 / 100_000 * 9 + captured.0 % 100_000 * 9 / 100_000;
        self.last = ticks.max(self.last + 1);
        if self.last as u32 == 0 {
            self.last += 1;
        }
        self.last as u32
    }
}

/// The latency field, 1/10 ms: capture to packets, rounded; 0 for a repeated frame only.
pub fn latency(age: Duration, repeated: bool) -> u16 {
    if repeated {
        return 0;
    }
    let tenths = (age.as_micros() + 50) / 100;
    u16::try_from(tenths).unwrap_or(u16::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ninety_thousand_a_second_rising_and_never_zero() {
        let mut timeline = Timeline::default();
        assert_eq!(timeline.stamp(Time::from_millis(1_000)), 90_000);
        assert_eq!(timeline.stamp(Time::from_millis(1_000)), 90_001);
        assert_eq!(timeline.stamp(Time::from_millis(900)), 90_002);
        assert_eq!(timeline.stamp(Time::from_millis(2_000)), 180_000);
        let wrap = Time((1u64 << 32) * 100_000 / 9 + 1);
        assert_eq!(Timeline::default().stamp(Time(0)), 1);
        assert_eq!(timeline.stamp(wrap), 1);
        assert_eq!(timeline.stamp(wrap), 2);
        // A month of uptime keeps its precision.
        let month = Time::from_millis(30 * 24 * 3_600_000);
        assert_eq!(timeline.stamp(month), (30u64 * 24 * 3_600 * 90_000) as u32);
    }

    #[test]
    fn latency_is_rounded_bounded_and_zero_for_repetitions() {
        assert_eq!(latency(Duration::from_micros(4_449), false), 44);
        assert_eq!(latency(Duration::from_micros(4_450), false), 45);
        assert_eq!(latency(Duration::ZERO, false), 1);
        assert_eq!(latency(Duration::from_mins(1), false), u16::MAX);
        assert_eq!(latency(Duration::from_millis(5), true), 0);
    }
}
