//! Text from the viewer, typed at the focus.
//!
//! Every toolkit understands keys; few understand the text-input protocol. So a character is typed: keys
//! that the layout leaves empty are given the wanted keysyms, the clients get the extended keymap, and
//! the key is pressed and released. The layout itself stays as it is, also while keys are held.
use std::collections::VecDeque;
use std::fmt::Write as _;

use smithay::input::keyboard::{KeyboardTarget, Layout as Group, xkb};
use smithay::utils::SERIAL_COUNTER;
use tracing::warn;

use super::input::Effect;
use super::state::State;
use crate::time::Time;

/// X11 key codes end here; higher ones would be lost on X11 programs.
const KEYCODE_MAX: u32 = 255;
/// Key codes that may be lent to characters.
const KEYS_MAX: usize = 64;

/// The keys that characters are lent.
pub struct TextKeys {
    layout: Layout,
    /// Which character each lent key has, the one used longest ago first.
    lent: VecDeque<(u32, xkb::Keysym)>,
    free: Vec<u32>,
}

/// The keymap as configured, in xkb's text form, cut where further symbols can be put in.
struct Layout {
    before: String,
    after: String,
    names: Vec<(u32, String)>,
}

impl TextKeys {
    /// For a layout of xkb's; None: there is no such layout.
    pub fn new(layout: &str, variant: &str) -> Option<Self> {
        let context = xkb::Context::new(xkb::CONTEXT_NO_FLAGS);
        let flags = xkb::KEYMAP_COMPILE_NO_FLAGS;
        let keymap = xkb::Keymap::new_from_names(&context, "", "", layout, variant, None, flags)?;
        let (layout, free) = Layout::of(&keymap)?;
        Some(Self { layout, lent: VecDeque::new(), free })
    }

    /// How many characters a keymap can hold at once.
    fn capacity(&self) -> usize {
        self.free.len() + self.lent.len()
    }

    /// The key that types this keysym now, moved to the end of the queue.
    fn find(&mut self, keysym: xkb::Keysym) -> Option<u32> {
        let at = self.lent.iter().position(|&(_, lent)| lent == keysym)?;
        let entry = self.lent.remove(at)?;
        self.lent.push_back(entry);
        Some(entry.0)
    }

    /// Lends a key: a free one, or the one used longest ago.
    fn lend(&mut self, keysym: xkb::Keysym) -> Option<u32> {
        let key = match self.free.pop() {
            Some(key) => key,
            None => self.lent.pop_front()?.0,
        };
        self.lent.push_back((key, keysym));
        Some(key)
    }

    /// The keymap with all lent keys.
    fn keymap(&self) -> String {
        let mut text = self.layout.before.clone();
        for (key, keysym) in &self.lent {
            if let Some((_, name)) = self.layout.names.iter().find(|(code, _)| code == key) {
                // Of this type Shift and Caps Lock are consumed: they change nothing.
                let keysym = keysym.raw();
                let _ = writeln!(
                    text,
                    "key <{name}> {{ type=\"ALPHABETIC\", [ {keysym:#x}, {keysym:#x} ] }};"
                );
            }
        }
        text.push_str(&self.layout.after);
        text
    }
}

impl Layout {
    /// Takes a keymap apart, and finds the keys that it gives no symbols.
    fn of(keymap: &xkb::Keymap) -> Option<(Self, Vec<u32>)> {
        let text = keymap.get_as_string(xkb::KEYMAP_FORMAT_TEXT_V1);
        let symbols = text.find("xkb_symbols")?;
        let cut = symbols + text[symbols..].find('{')? + 1;
        let (before, after) = text.split_at(cut);
        let mut names = Vec::new();
        for code in (9..=KEYCODE_MAX).rev() {
            let key = xkb::Keycode::new(code);
            if keymap.num_layouts_for_key(key) > 0 {
                continue;
            }
            if let Some(name) = keymap.key_get_name(key).filter(|n| !n.is_empty()) {
                names.push((code, name.to_owned()));
            }
        }
        names.truncate(KEYS_MAX);
        let free = names.iter().map(|(code, _)| *code).collect();
        Some((Self { before: format!("{before}\n"), after: after.to_owned(), names }, free))
    }
}

/// The keysym of a character; None: there is nothing to type.
fn keysym_of(character: char) -> Option<xkb::Keysym> {
    let keysym = match character {
        '\n' | '\r' => xkb::Keysym::Return,
        '\t' => xkb::Keysym::Tab,
        '\u{8}' => xkb::Keysym::BackSpace,
        '\u{1b}' => xkb::Keysym::Escape,
        '\u{7f}' => xkb::Keysym::Delete,
        control if control.is_control() => return None,
        other => xkb::utf32_to_keysym(u32::from(other)),
    };
    (keysym != xkb::Keysym::NoSymbol).then_some(keysym)
}

impl State {
    /// Types text at the focus. Characters without a keysym are left out.
    pub fn type_text(&mut self, text: &str, now: Time) -> Effect {
        let keysyms: Vec<_> = text.chars().filter_map(keysym_of).collect();
        if keysyms.is_empty() || self.text.capacity() == 0 {
            return Effect::Ignored;
        }
        for part in keysyms.chunks(self.text.capacity()) {
            let Some(keys) = self.keys_for(part) else { return Effect::Ignored };
            for key in keys {
                self.tap(key, now);
            }
        }
        Effect::Done
    }

    /// Keys for these keysyms, at most as many as there are keys; the clients know the keymap then.
    fn keys_for(&mut self, keysyms: &[xkb::Keysym]) -> Option<Vec<u32>> {
        // First all that are lent already, so that none of them is taken away for another.
        for &keysym in keysyms {
            self.text.find(keysym);
        }
        let mut changed = false;
        let mut keys = Vec::new();
        for &keysym in keysyms {
            let key = match self.text.find(keysym) {
                Some(key) => key,
                None => {
                    changed = true;
                    self.text.lend(keysym)?
                }
            };
            keys.push(key);
        }
        if changed && !self.set_keymap(self.text.keymap()) {
            return None;
        }
        Some(keys)
    }

    /// Gives the clients another keymap. Held and locked modifiers and the layout's group stay.
    fn set_keymap(&mut self, keymap: String) -> bool {
        let keyboard = self.keyboard.clone();
        let before = keyboard.modifier_state();
        if let Err(e) = keyboard.set_keymap_from_string(self, keymap) {
            warn!(error = %e, "no keymap for text");
            return false;
        }
        if before.serialized.locked != 0 {
            keyboard.set_modifier_state(before);
        }
        let group = before.serialized.layout_effective;
        if group != 0 {
            keyboard.with_xkb_state(self, |mut context| context.set_layout(Group(group)));
        }
        if before.serialized.locked != 0
            && let Some(focus) = keyboard.current_focus()
        {
            let (seat, serial) = (self.seat.clone(), SERIAL_COUNTER.next_serial());
            focus.modifiers(&seat, self, keyboard.modifier_state(), serial);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keymap_with_lent_keys_compiles_and_types_them_in_every_layout() {
        for (layout, variant) in [("us", ""), ("de", "nodeadkeys"), ("us,ru", ",")] {
            let mut keys = TextKeys::new(layout, variant).expect("xkb-data is installed");
            assert!(keys.capacity() >= 16, "{layout}: {} spare keys", keys.capacity());
            let smile = keysym_of('😀').unwrap();
            let umlaut = keysym_of('ä').unwrap();
            let (a, b) = (keys.lend(smile).unwrap(), keys.lend(umlaut).unwrap());
            let context = xkb::Context::new(xkb::CONTEXT_NO_FLAGS);
            let keymap = xkb::Keymap::new_from_string(
                &context,
                keys.keymap(),
                xkb::KEYMAP_FORMAT_TEXT_V1,
                xkb::KEYMAP_COMPILE_NO_FLAGS,
            )
            .expect("a keymap");
            let mut state = xkb::State::new(&keymap);
            assert_eq!(state.key_get_utf8(xkb::Keycode::new(a)), "😀");
            assert_eq!(state.key_get_utf8(xkb::Keycode::new(b)), "ä");
            // Shift, caps and the second group make no difference.
            state.update_mask(0b11, 0, 0, 0, 0, 1);
            assert_eq!(state.key_get_one_sym(xkb::Keycode::new(a)), smile);
            assert_eq!(state.key_get_one_sym(xkb::Keycode::new(b)), umlaut);
        }
    }

    #[test]
    fn the_key_used_longest_ago_is_lent_anew() {
        let mut keys = TextKeys::new("us", "").unwrap();
        let capacity = keys.capacity();
        let keysym = |i: usize| keysym_of(char::from_u32(0x4e00 + i as u32).unwrap()).unwrap();
        for i in 0..capacity {
            keys.lend(keysym(i)).unwrap();
        }
        let first = keys.find(keysym(0)).unwrap();
        let new = keys.lend(keysym(9999)).unwrap();
        assert_ne!(new, first);
        assert_eq!(keys.find(keysym(1)), None);
        assert_eq!(keys.find(keysym(0)), Some(first));
        assert_eq!(keys.capacity(), capacity);
    }

    #[test]
    fn control_characters_are_keys_or_nothing() {
        assert_eq!(keysym_of('\n'), Some(xkb::Keysym::Return));
        assert_eq!(keysym_of('\u{1}'), None);
        assert_eq!(keysym_of('\u{ffff}'), None);
    }
}
