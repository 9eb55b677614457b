//! Fingers on the streamed picture.
use std::collections::BTreeMap;

use smithay::backend::input::TouchSlot;
use smithay::input::touch::{DownEvent, MotionEvent, UpEvent};
use smithay::utils::SERIAL_COUNTER;

use super::input::Effect;
use super::state::{State, millis};
use crate::proto::input::{Phase, Touch};
use crate::time::Time;

/// Fingers that are down at once.
const FINGERS_MAX: u32 = 32;

/// Which finger has which slot: clients name fingers by numbers of their own.
#[derive(Debug, Default)]
pub struct Fingers {
    slots: BTreeMap<u32, u32>,
}

impl Fingers {
    /// The lowest free slot for a new finger; None: it is down already, or too many are.
    fn put(&mut self, pointer: u32) -> Option<u32> {
        if self.slots.contains_key(&pointer) {
            return None;
        }
        let slot = (0..FINGERS_MAX).find(|s| self.slots.values().all(|taken| taken != s))?;
        self.slots.insert(pointer, slot);
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
        let Some(slot) = self.fingers.put(touch.pointer) else { return Effect::Ignored };
        self.cursor.shown = false;
        let location = self.at_fraction(f64::from(touch.x), f64::from(touch.y));
        self.focus_at(location);
        let under = self.surface_under(location);
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
        let Some(&slot) = self.fingers.slots.get(&touch.pointer) else { return Effect::Ignored };
        let location = self.at_fraction(f64::from(touch.x), f64::from(touch.y));
        let under = self.surface_under(location);
        let handle = self.touch.clone();
        let event =
            MotionEvent { slot: TouchSlot::from(Some(slot)), location, time: millis(now) };
        handle.motion(self, under, &event);
        handle.frame(self);
        Effect::Done
    }

    fn finger_up(&mut self, pointer: u32, now: Time) -> Effect {
        let Some(slot) = self.fingers.slots.remove(&pointer) else { return Effect::Ignored };
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
    pub fn release_fingers(&mut self, _: Time) -> Effect {
        if self.fingers.slots.is_empty() {
            return Effect::Ignored;
        }
        self.fingers.slots.clear();
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
        assert_eq!(fingers.put(900), Some(0));
        assert_eq!(fingers.put(7), Some(1));
        assert_eq!(fingers.put(900), None);
        fingers.slots.remove(&900);
        assert_eq!(fingers.put(8), Some(0));
        for pointer in 1000..1000 + FINGERS_MAX - 2 {
            assert!(fingers.put(pointer).is_some());
        }
        assert_eq!(fingers.put(5000), None);
    }
}
