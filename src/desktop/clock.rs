//! When frames are due: an exact refresh rate on an absolute schedule, and which of the due ones to
//! send. Pure: the time is an argument.
use std::time::Duration;

use crate::time::Time;

/// After the last change the full rate goes on for this long: a lost or blurred last frame is mended
/// without the client having to notice.
pub const SETTLE: Duration = Duration::from_millis(500);

/// Due times at a fixed rate since a start; no error adds up, missed ones are skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshClock {
    start: Time,
    millihertz: u32,
}

impl RefreshClock {
    /// `millihertz` > 0.
    pub fn new(start: Time, millihertz: u32) -> Self {
        assert!(millihertz > 0, "a clock without a rate");
        Self { start, millihertz }
    }

    /// The first due time after `now`.
    pub fn next_after(&self, now: Time) -> Time {
        let elapsed = u128::from(now.0.saturating_sub(self.start.0));
        let millihertz = u128::from(self.millihertz);
        // The smallest n with n * 10^12 / millihertz > elapsed, both sides in whole nanoseconds.
        let mut n = elapsed * millihertz / PICOS + 1;
        if n * PICOS / millihertz <= elapsed {
            n += 1;
        }
        Time(self.start.0.saturating_add(u64::try_from(n * PICOS / millihertz).unwrap_or(u64::MAX)))
    }

    /// Between two due times.
    pub fn interval(&self) -> Duration {
        Duration::from_nanos((PICOS / u128::from(self.millihertz)) as u64)
    }
}

/// Nanoseconds in a second times millihertz in a hertz.
const PICOS: u128 = 1_000_000_000_000;

/// What to do when a frame is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The desktop has changed since the last frame that was sent.
    Frame,
    /// Nothing has changed: the same picture once more.
    Repeat,
    Nothing,
}

/// Decides which due times get a frame.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    idle_interval: Duration,
    /// A change was seen that no sent frame shows.
    owed: bool,
    changed: Time,
    sent: Time,
}

impl Pace {
    /// `idle_fps` frames per second when nothing changes (0 counts as 1). The first frame is owed.
    pub fn new(idle_fps: u32, now: Time) -> Self {
        let idle_interval = Duration::from_secs(1) / idle_fps.max(1);
        Self { idle_interval, owed: true, changed: now, sent: now }
    }

    /// The desktop has changed.
    pub fn change(&mut self, now: Time) {
        self.owed = true;
        self.changed = now;
    }

    /// A frame with the present picture was sent.
    pub fn send(&mut self, now: Time) {
        self.owed = false;
        self.sent = now;
    }

    /// `tick` is the time between two due times: an idle frame is sent at the due time nearest to it.
    pub fn due(&self, now: Time, tick: Duration) -> Due {
        if self.owed {
            Due::Frame
        } else if now.since(self.changed) < SETTLE
            || now.since(self.sent) + tick / 2 >= self.idle_interval
        {
            Due::Repeat
        } else {
            Due::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_times_do_not_drift_at_broken_rates() {
        for millihertz in [10_000, 24_000, 59_940, 60_000, 119_880, 143_999, 240_000] {
            let clock = RefreshClock::new(Time(12_345), millihertz);
            let mut now = Time(12_345);
            for _ in 0..u64::from(millihertz) {
                let next = clock.next_after(now);
                assert!(next > now, "{millihertz} mHz stands still");
                now = next;
            }
            // `millihertz` frames take exactly 1000 seconds.
            assert_eq!(now, Time(12_345 + 1_000_000_000_000), "{millihertz} mHz");
        }
    }

    #[test]
    fn missed_due_times_are_skipped_and_the_grid_stays() {
        let clock = RefreshClock::new(Time(0), 60_000);
        assert_eq!(clock.next_after(Time(0)), Time(16_666_666));
        assert_eq!(clock.next_after(Time(16_666_665)), Time(16_666_666));
        assert_eq!(clock.next_after(Time(16_666_666)), Time(33_333_333));
        assert_eq!(clock.next_after(Time(999_999_999)), Time(1_000_000_000));
        assert_eq!(clock.next_after(Time(1_000_000_000)), Time(1_016_666_666));
    }

    #[test]
    fn the_full_rate_goes_on_after_a_change_then_the_idle_rate() {
        let clock = RefreshClock::new(Time(0), 60_000);
        let mut pace = Pace::new(10, Time(0));
        let (mut now, mut frames, mut repeats) = (Time(0), Vec::new(), Vec::new());
        for _ in 0..180 {
            now = clock.next_after(now);
            match pace.due(now, clock.interval()) {
                Due::Frame => frames.push(now),
                Due::Repeat => repeats.push(now),
                Due::Nothing => continue,
            }
            pace.send(now);
        }
        assert_eq!(frames, [Time(16_666_666)]);
        let settling = repeats.iter().filter(|t| t.0 < 500_000_000).count();
        assert_eq!(settling, 28);
        let idle = repeats.iter().filter(|t| t.0 >= 500_000_000).count();
        assert!((24..=26).contains(&idle), "{idle} idle frames in 2.5 s");
    }

    #[test]
    fn a_change_stays_owed_until_a_frame_is_sent() {
        let mut pace = Pace::new(10, Time(0));
        pace.send(Time(1));
        pace.change(Time::from_millis(2000));
        let tick = Duration::from_millis(16);
        assert_eq!(pace.due(Time::from_millis(2016), tick), Due::Frame);
        assert_eq!(pace.due(Time::from_millis(9000), tick), Due::Frame);
        pace.send(Time::from_millis(9000));
        assert_eq!(pace.due(Time::from_millis(9050), tick), Due::Nothing);
        assert_eq!(pace.due(Time::from_millis(9100), tick), Due::Repeat);
    }
}
