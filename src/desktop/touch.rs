//! Fingers on the streamed picture.
use std::collections::BTreeMap;

use smithay::backend::input::TouchSlot;
use smithay::input::touch::{DownEvent, MotionEvent, UpEvent};
use smithay::utils::{Logical, Point, SERIAL_COUNTER};

use super::input::Effect;
use super::state::{State, millis};
use crate::proto::input::{Phase, Touch};
use crate::time::Time;

/// Fingers that are down at once.
const FINGERS_MAX: u32 = 32;

/// Which finger has which slot: clients name fingers by numbers of their own.
#[derive(Debug, Default)]
pub struct Fingers {
    down: BTreeMap<u32, Finger>,
}

#[derive(Clone, Copy, Debug)]
struct Finger {
    slot: u32,
    at: Point<f64, Logical>,
}

impl Fingers {
    /// The lowest free slot for a new finger; None: it is down already, or too many are.
    fn put(&mut self, pointer: u32, at: Point<f64, Logical>) -> Option<u32> {
        if self.down.contains_key(&pointer) {
            return None;
        }
        let slot = (0..FINGERS_MAX).find(|&s| self.down.values().all(|taken| taken.slot != s))?;
        self.down.insert(pointer, Finger { slot, at });
        Some(slot)
    }
}

impl State {
    pub fn finger(&mut self, touch: &Touch, now: Time) -> Effect {
        match touch.phase {
            Phase::Down => self.finger_down(touch, now),
            Phase::Move => self.finger_moved(touch, now),
            Phase::Up => self.finger_up(touch.pointer, now),
            // Wayland can only cancel all fingers of a client; one that is cancelled is lifted.
            Phase::Cancel => self.finger_up(touch.pointer, now),
            Phase::CancelAll => self.release_fingers(now),
            // Wayland has no hovering fingers.
            Phase::Hover | Phase::HoverLeave | Phase::ButtonOnly => Effect::Ignored,
        }
    }

    fn finger_down(&mut self, touch: &Touch, now: Time) -> Effect {
        let location = self.at_fraction(f64::from(touch.x), f64::from(touch.y));
        let Some(slot) = self.fingers.put(touch.pointer, location) else { return Effect::Ignored };
        self.cursor.shown = false;
        let under = self.surface_under(location);
        self.dismiss_menus(under.as_ref().map(|(surface, _)| surface), now);
        if !self.pointer.is_grabbed() {
            self.focus_at(location);
        }
        let handle = self.touch.clone();
        let event = DownEvent {
            slot: TouchSlot::from(Some(slot)),
            location,
            serial: SERIAL_COUNTER.next_serial(),
            time: millis(now),
        };
        handle.down(self, under, &event);
        handle.frame(self);
        Effect::Done
    }

    fn finger_moved(&mut self, touch: &Touch, now: Time) -> Effect {
        let location = self.at_fraction(f64::from(touch.x), f64::from(touch.y));
        let Some(finger) = self.fingers.down.get_mut(&touch.pointer) else {
            return Effect::Ignored;
        };
        finger.at = location;
        let finger = *finger;
        self.send_motion(finger, now);
        let handle = self.touch.clone();
        handle.frame(self);
        Effect::Done
    }

    fn send_motion(&mut self, finger: Finger, now: Time) {
        let under = self.surface_under(finger.at);
        let handle = self.touch.clone();
        let slot = TouchSlot::from(Some(finger.slot));
        handle.motion(self, under, &MotionEvent { slot, location: finger.at, time: millis(now) });
    }

    fn finger_up(&mut self, pointer: u32, now: Time) -> Effect {
        let Some(Finger { slot, .. }) = self.fingers.down.remove(&pointer) else {
            return Effect::Ignored;
        };
        let handle = self.touch.clone();
        let event = UpEvent {
            slot: TouchSlot::from(Some(slot)),
            serial: SERIAL_COUNTER.next_serial(),
            time: millis(now),
        };
        handle.up(self, &event);
        handle.frame(self);
        Effect::Done
    }

    /// All fingers are taken away as if they had never meant anything.
    pub fn release_fingers(&mut self, now: Time) -> Effect {
        if self.fingers.down.is_empty() {
            return Effect::Ignored;
        }
        // smithay 0.7 cancels only fingers that have moved since the last touch frame.
        for (_, finger) in std::mem::take(&mut self.fingers.down) {
            self.send_motion(finger, now);
        }
        let handle = self.touch.clone();
        handle.cancel(self);
        Effect::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingers_get_the_lowest_free_slot_and_are_bounded() {
        let mut fingers = Fingers::default();
        let put = |fingers: &mut Fingers, pointer| fingers.put(pointer, Point::default());
        assert_eq!(put(&mut fingers, 900), Some(0));
        assert_eq!(put(&mut fingers, 7), Some(1));
        assert_eq!(put(&mut fingers, 900), None);
        fingers.down.remove(&900);
        assert_eq!(put(&mut fingers, 8), Some(0));
        for pointer in 1000..1000 + FINGERS_MAX - 2 {
            assert!(put(&mut fingers, pointer).is_some());
        }
        assert_eq!(put(&mut fingers, 5000), None);
    }
}
