//! Keys: the viewer's virtual keys as key positions of the session's own layout.
//!
//! Clients repeat keys themselves (`wl_keyboard.repeat_info`); here a key is down or up.
use std::collections::BTreeSet;

use smithay::backend::input::{KeyState, Keycode};
use smithay::input::keyboard::{FilterResult, Keysym};
use smithay::utils::SERIAL_COUNTER;

use super::input::Effect;
use super::state::{State, millis};
use crate::proto::input::Modifiers;
use crate::proto::keymap;
use crate::time::Time;

/// Keys that are down at once; a hand has fewer.
const DOWN_MAX: usize = 64;
/// X11 key codes, which xkb uses, are evdev codes plus this.
const XKB_OFFSET: u32 = 8;

const LEFT_SHIFT: u16 = 42;
const RIGHT_SHIFT: u16 = 54;
const LEFT_CTRL: u16 = 29;
const RIGHT_CTRL: u16 = 97;
const LEFT_ALT: u16 = 56;
const RIGHT_ALT: u16 = 100;
const LEFT_META: u16 = 125;
const RIGHT_META: u16 = 126;
const MODIFIERS: [u16; 8] =
    [LEFT_SHIFT, RIGHT_SHIFT, LEFT_CTRL, RIGHT_CTRL, LEFT_ALT, RIGHT_ALT, LEFT_META, RIGHT_META];

/// The keys that are down, by evdev code.
#[derive(Debug, Default)]
pub struct Keys {
    down: BTreeSet<u16>,
    /// Those whose press was a shortcut of ours: no client hears of their release either.
    kept: BTreeSet<u16>,
}

impl Keys {
    /// The modifiers that the client believes to be down and that are not.
    fn missing(&self, modifiers: Modifiers) -> Vec<u16> {
        [
            (modifiers.shift, LEFT_SHIFT, RIGHT_SHIFT),
            (modifiers.ctrl, LEFT_CTRL, RIGHT_CTRL),
            (modifiers.alt, LEFT_ALT, RIGHT_ALT),
        ]
        .into_iter()
        .filter(|(wanted, left, right)| {
            *wanted && !self.down.contains(left) && !self.down.contains(right)
        })
        .map(|(_, left, _)| left)
        .collect()
    }
}

/// What a key press does instead of reaching a client.
enum Shortcut {
    CycleWindows,
    CloseWindow,
}

impl State {
    pub fn key(
        &mut self,
        down: bool,
        vk: u8,
        modifiers: Modifiers,
        not_normalised: bool,
        now: Time,
    ) -> Effect {
        let evdev = if not_normalised {
            keymap::evdev_of_not_normalised(u16::from(vk))
        } else {
            keymap::evdev_of(u16::from(vk))
        };
        let Some(code) = evdev else { return Effect::Ignored };
        if down == self.keys.down.contains(&code) || (down && self.keys.down.len() >= DOWN_MAX) {
            return Effect::Ignored;
        }
        let missing = match down && !MODIFIERS.contains(&code) {
            true => self.keys.missing(modifiers),
            false => Vec::new(),
        };
        for &modifier in &missing {
            self.press(modifier, true, now);
        }
        self.press(code, down, now);
        for &modifier in missing.iter().rev() {
            self.press(modifier, false, now);
        }
        Effect::Done
    }

    pub fn release_keys(&mut self, now: Time) {
        for code in std::mem::take(&mut self.keys.down) {
            self.press(code, false, now);
        }
    }

    /// One key goes down or up, for the focused client or for us.
    fn press(&mut self, code: u16, down: bool, now: Time) {
        if down {
            self.keys.down.insert(code);
        } else {
            self.keys.down.remove(&code);
            if matches!(code, LEFT_ALT | RIGHT_ALT) {
                self.cycle = None;
            }
        }
        let kept = !down && self.keys.kept.remove(&code);
        let state = if down { KeyState::Pressed } else { KeyState::Released };
        let shortcut = self.send_key(u32::from(code) + XKB_OFFSET, state, kept, now);
        if let Some(shortcut) = shortcut {
            self.keys.kept.insert(code);
            match shortcut {
                Shortcut::CycleWindows => self.cycle_windows(),
                Shortcut::CloseWindow => self.close_focused(),
            }
        }
    }

    /// Through xkb to the client, unless it is kept or a shortcut.
    fn send_key(
        &mut self,
        keycode: u32,
        state: KeyState,
        kept: bool,
        now: Time,
    ) -> Option<Shortcut> {
        let keyboard = self.keyboard.clone();
        let serial = SERIAL_COUNTER.next_serial();
        let intercepted = keyboard.input(
            self,
            Keycode::from(keycode),
            state,
            serial,
            millis(now),
            |_, modifiers, key| {
                if kept {
                    return FilterResult::Intercept(None);
                }
                if state == KeyState::Released || !modifiers.alt || modifiers.ctrl {
                    return FilterResult::Forward;
                }
                match key.modified_sym() {
                    Keysym::Tab | Keysym::ISO_Left_Tab => {
                        FilterResult::Intercept(Some(Shortcut::CycleWindows))
                    }
                    Keysym::F4 => FilterResult::Intercept(Some(Shortcut::CloseWindow)),
                    _ => FilterResult::Forward,
                }
            },
        );
        intercepted.flatten()
    }

    /// Presses and releases a key by xkb code, past shortcuts and the set of keys that are down.
    pub fn tap(&mut self, keycode: u32, now: Time) {
        let keyboard = self.keyboard.clone();
        for state in [KeyState::Pressed, KeyState::Released] {
            let serial = SERIAL_COUNTER.next_serial();
            keyboard.input::<(), _>(
                self,
                Keycode::from(keycode),
                state,
                serial,
                millis(now),
                |_, _, _| FilterResult::Forward,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_modifiers_that_are_really_up_are_missing() {
        let mut keys = Keys::default();
        let all = Modifiers { shift: true, ctrl: true, alt: true, meta: true };
        assert_eq!(keys.missing(all), [LEFT_SHIFT, LEFT_CTRL, LEFT_ALT]);
        keys.down.insert(RIGHT_SHIFT);
        keys.down.insert(LEFT_ALT);
        assert_eq!(keys.missing(all), [LEFT_CTRL]);
        assert!(keys.missing(Modifiers::default()).is_empty());
    }
}
