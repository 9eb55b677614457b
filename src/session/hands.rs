//! A viewer's hands: which input events reach the desktop, how fast, and what happens when it is busy.
//!
//! Motion may be dropped. A release may not: when one is lost, everything is released as soon as the
//! desktop listens again, and until then nothing further goes in. It knows no sockets and no desktop.
use std::time::Duration;

use crate::proto::input::{InputEvent, Phase, Touch};
use crate::time::Time;

/// Events per second that pass, and how many may come at once.
pub const EVENTS_PER_SECOND: u32 = 10_000;
pub const BURST: u32 = 1_000;

const COST: Duration = Duration::from_nanos(1_000_000_000 / EVENTS_PER_SECOND as u64);
const BURST_TIME: Duration = Duration::from_nanos(COST.as_nanos() as u64 * BURST as u64);

/// What a desktop is given.
#[derive(Clone, Debug, PartialEq)]
pub enum Given {
    Event(InputEvent),
    ReleaseAll,
}

/// The desktop takes nothing now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub passed: u64,
    /// Over the rate, or the desktop was busy.
    pub dropped: u64,
    /// For devices that are not offered: controllers, pens, haptics; or unknown.
    pub ignored: u64,
    /// Times that everything was released because a release was lost.
    pub released: u64,
}

/// The gate between one viewer and the desktop.
#[derive(Debug, Default)]
pub struct Hands {
    /// The bucket: when it would be full again.
    full_at: Time,
    release_owed: bool,
    figures: Figures,
}

impl Hands {
    pub fn figures(&self) -> Figures {
        self.figures
    }

    /// Passes an event on, or does what is right instead.
    pub fn event(
        &mut self,
        event: InputEvent,
        now: Time,
        give: &mut dyn FnMut(Given) -> Result<(), Busy>,
    ) {
        if !is_for_desktop(&event) {
            self.figures.ignored += 1;
            return;
        }
        self.settle(give);
        let releases = is_release(&event);
        if self.release_owed || !self.has_room(now) || give(Given::Event(event)).is_err() {
            self.figures.dropped += 1;
            self.release_owed |= releases;
            self.settle(give);
            return;
        }
        self.figures.passed += 1;
    }

    /// Everything is to be let go: the viewer leaves.
    pub fn release(&mut self, give: &mut dyn FnMut(Given) -> Result<(), Busy>) {
        self.release_owed = true;
        self.settle(give);
    }

    /// Tries again what is owed; call when time has passed.
    pub fn settle(&mut self, give: &mut dyn FnMut(Given) -> Result<(), Busy>) {
        if self.release_owed && give(Given::ReleaseAll).is_ok() {
            self.release_owed = false;
            self.figures.released += 1;
        }
    }

    /// A release is owed.
    pub fn owes(&self) -> bool {
        self.release_owed
    }

    fn has_room(&mut self, now: Time) -> bool {
        let full_at = self.full_at.max(now) + COST;
        let fits = full_at.since(now) <= BURST_TIME;
        if fits {
            self.full_at = full_at;
        }
        fits
    }
}

fn is_for_desktop(event: &InputEvent) -> bool {
    match event {
        InputEvent::Key { .. }
        | InputEvent::MouseAbsolute { .. }
        | InputEvent::MouseButton { .. }
        | InputEvent::MouseRelative { .. }
        | InputEvent::ScrollHorizontal(_)
        | InputEvent::ScrollVertical(_)
        | InputEvent::Text(_)
        | InputEvent::Touch(_) => true,
        InputEvent::Controller(_)
        | InputEvent::ControllerArrival { .. }
        | InputEvent::ControllerBattery { .. }
        | InputEvent::ControllerMotion { .. }
        | InputEvent::ControllerTouch { .. }
        | InputEvent::EnableHaptics(_)
        | InputEvent::Pen(_)
        | InputEvent::Unknown { .. } => false,
    }
}

fn is_release(event: &InputEvent) -> bool {
    match event {
        InputEvent::Key { down, .. } | InputEvent::MouseButton { down, .. } => !down,
        InputEvent::Touch(Touch { phase, .. }) => {
            matches!(phase, Phase::Up | Phase::Cancel | Phase::CancelAll | Phase::HoverLeave)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::input::MouseButton;

    const MOVE: InputEvent = InputEvent::MouseRelative { dx: 1, dy: 1 };

    fn button(down: bool) -> InputEvent {
        InputEvent::MouseButton { down, button: MouseButton::Left }
    }

    /// A desktop with room for a number of commands.
    struct Queue {
        room: usize,
        taken: Vec<Given>,
    }

    impl Queue {
        fn new(room: usize) -> Self {
            Self { room, taken: vec![] }
        }

        fn give(&mut self) -> impl FnMut(Given) -> Result<(), Busy> {
            |given| {
                if self.taken.len() >= self.room {
                    return Err(Busy);
                }
                self.taken.push(given);
                Ok(())
            }
        }
    }

    #[test]
    fn a_full_desktop_loses_motion_and_nothing_else_follows() {
        let mut hands = Hands::default();
        let mut queue = Queue::new(1);
        for _ in 0..3 {
            hands.event(MOVE, Time::ZERO, &mut queue.give());
        }
        assert_eq!(hands.figures(), Figures { passed: 1, dropped: 2, ..Figures::default() });
        assert!(!hands.owes());
    }

    #[test]
    fn a_lost_release_releases_everything_before_anything_else_goes_in() {
        let mut hands = Hands::default();
        let mut queue = Queue::new(1);
        hands.event(button(true), Time::ZERO, &mut queue.give());
        hands.event(button(false), Time::ZERO, &mut queue.give());
        assert!(hands.owes());
        hands.event(button(true), Time::ZERO, &mut queue.give());
        assert_eq!(queue.taken, [Given::Event(button(true))]);
        queue.room = 10;
        hands.event(MOVE, Time::ZERO, &mut queue.give());
        assert_eq!(queue.taken[1..], [Given::ReleaseAll, Given::Event(MOVE)]);
        assert!(!hands.owes());
    }

    #[test]
    fn a_flood_is_bounded_and_its_releases_are_not_lost() {
        let mut hands = Hands::default();
        let mut queue = Queue::new(usize::MAX);
        // 100,000 events in one second, the last a release.
        for i in 0..100_000u64 {
            hands.event(MOVE, Time(i * 10_000), &mut queue.give());
        }
        for _ in 0..10 {
            hands.event(MOVE, Time(1_000_000_000), &mut queue.give());
        }
        hands.event(button(false), Time(1_000_000_000), &mut queue.give());
        let passed = hands.figures().passed;
        assert!((10_000..=11_000).contains(&passed), "{passed}");
        assert_eq!(queue.taken.last(), Some(&Given::ReleaseAll));
    }

    #[test]
    fn what_no_desktop_has_is_counted_and_ignored() {
        let mut hands = Hands::default();
        let mut queue = Queue::new(10);
        hands.event(InputEvent::EnableHaptics(true), Time::ZERO, &mut queue.give());
        hands.event(InputEvent::Unknown { magic: 9 }, Time::ZERO, &mut queue.give());
        assert_eq!(hands.figures().ignored, 2);
        assert!(queue.taken.is_empty());
    }

    #[test]
    fn a_viewer_that_leaves_releases_everything_also_when_the_desktop_is_busy() {
        let mut hands = Hands::default();
        let mut queue = Queue::new(0);
        hands.release(&mut queue.give());
        assert!(hands.owes());
        queue.room = 1;
        hands.settle(&mut queue.give());
        assert_eq!(queue.taken, [Given::ReleaseAll]);
    }
}
