//! What the viewer's hands did, turned over to keyboard, pointer and fingers.
use super::state::State;
use crate::proto::input::InputEvent;
use crate::time::Time;

/// An event had an effect, or it was a duplicate, unmapped or out of bounds and had none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Done,
    Ignored,
}

impl State {
    /// Applies one event.
    pub fn input(&mut self, event: InputEvent, now: Time) {
        self.figures.input_events.add();
        let effect = match event {
            InputEvent::Key { down, vk, modifiers, not_normalised } => {
                self.key(down, vk, modifiers, not_normalised, now)
            }
            InputEvent::MouseAbsolute { x, y, width, height } => {
                self.point_at((x, y), (width, height), now)
            }
            InputEvent::MouseButton { down, button } => self.button(down, button, now),
            InputEvent::MouseRelative { dx, dy } => self.move_by(dx, dy, now),
            InputEvent::Pen(pen) => self.pen(&pen, now),
            InputEvent::ScrollHorizontal(amount) => self.scroll(amount, 0, now),
            InputEvent::ScrollVertical(amount) => self.scroll(0, amount, now),
            InputEvent::Text(text) => self.type_text(&text, now),
            InputEvent::Touch(touch) => self.finger(&touch, now),
            // Virtual controllers are devices of their own, not the compositor's.
            InputEvent::Controller(_)
            | InputEvent::ControllerArrival { .. }
            | InputEvent::ControllerBattery { .. }
            | InputEvent::ControllerMotion { .. }
            | InputEvent::ControllerTouch { .. }
            | InputEvent::EnableHaptics(_)
            | InputEvent::Unknown { .. } => Effect::Ignored,
        };
        if effect == Effect::Ignored {
            self.figures.input_ignored.add();
        }
    }

    /// Lets go of everything.
    pub fn release_all(&mut self, now: Time) {
        self.release_keys(now);
        self.release_buttons(now);
        self.release_fingers(now);
    }
}
