//! Windows virtual keys, as clients name them, to Linux evdev key codes and back.
//!
//! A client converts its scancodes to virtual keys of a US layout, so a code names a key position. It
//! sends the virtual key in the low byte; the high byte (0x80 today) has no meaning.
//!
//! Source: moonlight-common-c src/Limelight.h (`LiSendKeyboardEvent`), linux/input-event-codes.h.

/// The evdev code of a client's key code; `None` for unmapped ones, which are ignored.
pub fn evdev_of(key_code: u16) -> Option<u16> {
    let code = EVDEV[usize::from(key_code & 0xFF)];
    (code != 0).then_some(code)
}

/// The same for a key event flagged "not normalised": the code is then of the client's own layout.
/// Clients set the flag for two keys only, yen of JIS and ro of JIS and ABNT keyboards.
pub fn evdev_of_not_normalised(key_code: u16) -> Option<u16> {
    match key_code & 0xFF {
        0xDC => Some(124),
        0xE2 => Some(89),
        _ => evdev_of(key_code),
    }
}

/// The virtual key by which a current client names an evdev code: modifiers left and right apart.
pub fn vk_of(evdev: u16) -> Option<u8> {
    // The generic modifiers come first in the table, their left and right forms later.
    TABLE.iter().rev().find(|(_, code)| *code == evdev).map(|(vk, _)| *vk)
}

static EVDEV: [u16; 256] = {
    let mut codes = [0; 256];
    let mut at = 0;
    while at < TABLE.len() {
        codes[TABLE[at].0 as usize] = TABLE[at].1;
        at += 1;
    }
    codes
};

/// (virtual key, evdev code), in rising order of virtual keys; the comment is the name without `KEY_`.
const TABLE: &[(u8, u16)] = &[
    (0x08, 14),  // BACKSPACE
    (0x09, 15),  // TAB
    (0x0C, 355), // CLEAR
    (0x0D, 28),  // ENTER
    (0x10, 42),  // LEFTSHIFT
    (0x11, 29),  // LEFTCTRL
    (0x12, 56),  // LEFTALT
    (0x13, 119), // PAUSE
    (0x14, 58),  // CAPSLOCK
    (0x15, 93),  // KATAKANAHIRAGANA
    (0x16, 122), // HANGEUL
    (0x17, 123), // HANJA
    (0x19, 90),  // KATAKANA
    (0x1B, 1),   // ESC
    (0x1C, 92),  // HENKAN
    (0x1D, 94),  // MUHENKAN
    (0x20, 57),  // SPACE
    (0x21, 104), // PAGEUP
    (0x22, 109), // PAGEDOWN
    (0x23, 107), // END
    (0x24, 102), // HOME
    (0x25, 105), // LEFT
    (0x26, 103), // UP
    (0x27, 106), // RIGHT
    (0x28, 108), // DOWN
    (0x29, 353), // SELECT
    (0x2A, 210), // PRINT
    (0x2C, 99),  // SYSRQ
    (0x2D, 110), // INSERT
    (0x2E, 111), // DELETE
    (0x2F, 138), // HELP
    (0x30, 11),  // 0
    (0x31, 2),   // 1
    (0x32, 3),   // 2
    (0x33, 4),   // 3
    (0x34, 5),   // 4
    (0x35, 6),   // 5
    (0x36, 7),   // 6
    (0x37, 8),   // 7
    (0x38, 9),   // 8
    (0x39, 10),  // 9
    (0x41, 30),  // A
    (0x42, 48),  // B
    (0x43, 46),  // C
    (0x44, 32),  // D
    (0x45, 18),  // E
    (0x46, 33),  // F
    (0x47, 34),  // G
    (0x48, 35),  // H
    (0x49, 23),  // I
    (0x4A, 36),  // J
    (0x4B, 37),  // K
    (0x4C, 38),  // L
    (0x4D, 50),  // M
    (0x4E, 49),  // N
    (0x4F, 24),  // O
    (0x50, 25),  // P
    (0x51, 16),  // Q
    (0x52, 19),  // R
    (0x53, 31),  // S
    (0x54, 20),  // T
    (0x55, 22),  // U
    (0x56, 47),  // V
    (0x57, 17),  // W
    (0x58, 45),  // X
    (0x59, 21),  // Y
    (0x5A, 44),  // Z
    (0x5B, 125), // LEFTMETA
    (0x5C, 126), // RIGHTMETA
    (0x5D, 127), // COMPOSE
    (0x5F, 142), // SLEEP
    (0x60, 82),  // KP0
    (0x61, 79),  // KP1
    (0x62, 80),  // KP2
    (0x63, 81),  // KP3
    (0x64, 75),  // KP4
    (0x65, 76),  // KP5
    (0x66, 77),  // KP6
    (0x67, 71),  // KP7
    (0x68, 72),  // KP8
    (0x69, 73),  // KP9
    (0x6A, 55),  // KPASTERISK
    (0x6B, 78),  // KPPLUS
    (0x6C, 121), // KPCOMMA
    (0x6D, 74),  // KPMINUS
    (0x6E, 83),  // KPDOT
    (0x6F, 98),  // KPSLASH
    (0x70, 59),  // F1
    (0x71, 60),  // F2
    (0x72, 61),  // F3
    (0x73, 62),  // F4
    (0x74, 63),  // F5
    (0x75, 64),  // F6
    (0x76, 65),  // F7
    (0x77, 66),  // F8
    (0x78, 67),  // F9
    (0x79, 68),  // F10
    (0x7A, 87),  // F11
    (0x7B, 88),  // F12
    (0x7C, 183), // F13
    (0x7D, 184), // F14
    (0x7E, 185), // F15
    (0x7F, 186), // F16
    (0x80, 187), // F17
    (0x81, 188), // F18
    (0x82, 189), // F19
    (0x83, 190), // F20
    (0x84, 191), // F21
    (0x85, 192), // F22
    (0x86, 193), // F23
    (0x87, 194), // F24
    (0x90, 69),  // NUMLOCK
    (0x91, 70),  // SCROLLLOCK
    (0xA0, 42),  // LEFTSHIFT
    (0xA1, 54),  // RIGHTSHIFT
    (0xA2, 29),  // LEFTCTRL
    (0xA3, 97),  // RIGHTCTRL
    (0xA4, 56),  // LEFTALT
    (0xA5, 100), // RIGHTALT
    (0xA6, 158), // BACK
    (0xA7, 159), // FORWARD
    (0xA8, 173), // REFRESH
    (0xA9, 128), // STOP
    (0xAA, 217), // SEARCH
    (0xAB, 156), // BOOKMARKS
    (0xAC, 172), // HOMEPAGE
    (0xAD, 113), // MUTE
    (0xAE, 114), // VOLUMEDOWN
    (0xAF, 115), // VOLUMEUP
    (0xB0, 163), // NEXTSONG
    (0xB1, 165), // PREVIOUSSONG
    (0xB2, 166), // STOPCD
    (0xB3, 164), // PLAYPAUSE
    (0xB4, 155), // MAIL
    (0xB5, 226), // MEDIA
    (0xB6, 148), // PROG1
    (0xB7, 149), // PROG2
    (0xBA, 39),  // SEMICOLON
    (0xBB, 13),  // EQUAL
    (0xBC, 51),  // COMMA
    (0xBD, 12),  // MINUS
    (0xBE, 52),  // DOT
    (0xBF, 53),  // SLASH
    (0xC0, 41),  // GRAVE
    (0xDB, 26),  // LEFTBRACE
    (0xDC, 43),  // BACKSLASH
    (0xDD, 27),  // RIGHTBRACE
    (0xDE, 40),  // APOSTROPHE
    (0xE2, 86),  // 102ND
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::vectors;

    #[test]
    fn golden_table() {
        let golden = vectors::load("keymap_vk_to_evdev");
        let map = golden["map"].as_array().unwrap();
        assert_eq!(map.len(), TABLE.len());
        for entry in map {
            let vk = u16::try_from(vectors::hex_number(&entry["vk"])).unwrap();
            let code = u16::try_from(entry["evdev_code"].as_u64().unwrap()).unwrap();
            assert_eq!(evdev_of(vk), Some(code), "{entry}");
            assert_eq!(evdev_of(vk | 0x8000), Some(code), "the high byte is masked");
            let back = vk_of(code).unwrap();
            assert_eq!(evdev_of(u16::from(back)), Some(code));
        }
        let mapped = (0..=0xFF).filter(|vk| evdev_of(*vk).is_some()).count();
        assert_eq!(mapped, map.len(), "nothing else is mapped");
    }

    #[test]
    fn modifiers_come_back_as_left_and_right() {
        assert_eq!(vk_of(42), Some(0xA0));
        assert_eq!(vk_of(29), Some(0xA2));
        assert_eq!(vk_of(56), Some(0xA4));
        assert_eq!(vk_of(28), Some(0x0D));
        assert_eq!(vk_of(9999), None);
    }

    #[test]
    fn yen_and_ro_keep_their_own_keys() {
        assert_eq!(evdev_of_not_normalised(0x80DC), Some(124));
        assert_eq!(evdev_of_not_normalised(0x80E2), Some(89));
        assert_eq!(evdev_of_not_normalised(0x80BA), evdev_of(0xBA));
    }

    #[test]
    fn zero_and_ff_are_no_keys() {
        assert_eq!(evdev_of(0), None);
        assert_eq!(evdev_of(0xFF), None);
        assert_eq!(evdev_of(0x8000), None);
    }
}
