//! Golden input events, lying sizes, hostile numbers, and the two legacy encryptions of the golden file.
use aes_gcm::aes::Aes128;
use aes_gcm::aes::cipher::BlockDecrypt;
use aes_gcm::aes::cipher::KeyInit;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::proto::crypto::LongIvGcmKey;
use crate::proto::secret::SessionKey;
use crate::proto::vectors;

fn byte(value: &Value) -> u8 {
    u8::try_from(value.as_u64().unwrap()).unwrap()
}

fn short(value: &Value) -> i16 {
    i16::try_from(value.as_i64().unwrap()).unwrap()
}

fn word(value: &Value) -> u16 {
    u16::try_from(value.as_u64().unwrap()).unwrap()
}

fn long(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap()).unwrap()
}

#[expect(clippy::cast_possible_truncation, reason = "the golden numbers are f32 written as f64")]
fn float(value: &Value) -> f32 {
    value.as_f64().unwrap() as f32
}

fn phase(value: &Value) -> Phase {
    [
        Phase::Hover,
        Phase::Down,
        Phase::Up,
        Phase::Move,
        Phase::Cancel,
        Phase::ButtonOnly,
        Phase::HoverLeave,
        Phase::CancelAll,
    ][usize::from(byte(value))]
}

fn rotation(value: &Value) -> Option<u16> {
    Some(word(value)).filter(|degrees| *degrees != 0xFFFF)
}

fn expected_controller(kind: u32, f: &Value) -> InputEvent {
    let controller = byte(&f["controller"]);
    match kind {
        magic::CONTROLLER => InputEvent::Controller(Controller {
            controller,
            active_mask: word(&f["active_mask"]),
            buttons: long(&f["buttons"]),
            left_trigger: byte(&f["left_trigger"]),
            right_trigger: byte(&f["right_trigger"]),
            left_stick: (short(&f["left_stick"][0]), short(&f["left_stick"][1])),
            right_stick: (short(&f["right_stick"][0]), short(&f["right_stick"][1])),
        }),
        magic::CONTROLLER_ARRIVAL => InputEvent::ControllerArrival {
            controller,
            kind: [ControllerKind::Unknown, ControllerKind::Xbox, ControllerKind::PlayStation]
                [usize::from(byte(&f["type"]))],
            capabilities: word(&f["capabilities"]),
            buttons: long(&f["supported_buttons"]),
        },
        magic::CONTROLLER_TOUCH => InputEvent::ControllerTouch {
            controller,
            phase: phase(&f["event"]),
            touchpad: byte(&f["touchpad_index"]),
            pointer: long(&f["pointer_id"]),
            x: float(&f["x"]),
            y: float(&f["y"]),
            pressure: float(&f["pressure"]),
        },
        magic::CONTROLLER_MOTION => InputEvent::ControllerMotion {
            controller,
            sensor: match byte(&f["motion_type"]) {
                1 => Sensor::Accelerometer,
                _ => Sensor::Gyroscope,
            },
            x: float(&f["x"]),
            y: float(&f["y"]),
            z: float(&f["z"]),
        },
        magic::CONTROLLER_BATTERY => InputEvent::ControllerBattery {
            controller,
            state: match byte(&f["state"]) {
                3 => BatteryState::Charging,
                _ => BatteryState::Unknown,
            },
            percent: Some(byte(&f["percentage"])).filter(|percent| *percent != 255),
        },
        other => panic!("{other:#x}"),
    }
}

fn expected(kind: u32, f: &Value) -> InputEvent {
    match kind {
        magic::KEY_DOWN | magic::KEY_UP => {
            let bits = byte(&f["modifiers"]);
            InputEvent::Key {
                down: kind == magic::KEY_DOWN,
                vk: byte(&f["vk"]),
                modifiers: Modifiers {
                    shift: bits & 1 != 0,
                    ctrl: bits & 2 != 0,
                    alt: bits & 4 != 0,
                    meta: bits & 8 != 0,
                },
                not_normalised: byte(&f["flags"]) == 1,
            }
        }
        magic::MOUSE_ABSOLUTE => InputEvent::MouseAbsolute {
            x: word(&f["x"]),
            y: word(&f["y"]),
            width: word(&f["reference_width"]),
            height: word(&f["reference_height"]),
        },
        magic::MOUSE_RELATIVE => {
            InputEvent::MouseRelative { dx: short(&f["delta_x"]), dy: short(&f["delta_y"]) }
        }
        magic::MOUSE_BUTTON_DOWN | magic::MOUSE_BUTTON_UP => InputEvent::MouseButton {
            down: kind == magic::MOUSE_BUTTON_DOWN,
            button: [
                MouseButton::Left,
                MouseButton::Middle,
                MouseButton::Right,
                MouseButton::Side,
                MouseButton::Extra,
            ][usize::from(byte(&f["button"])) - 1],
        },
        magic::SCROLL_VERTICAL => InputEvent::ScrollVertical(short(&f["amount"])),
        magic::SCROLL_HORIZONTAL => InputEvent::ScrollHorizontal(short(&f["amount"])),
        magic::ENABLE_HAPTICS => InputEvent::EnableHaptics(word(&f["enable"]) == 1),
        magic::TEXT => InputEvent::Text(f["text"].as_str().unwrap().to_owned()),
        magic::TOUCH => InputEvent::Touch(Touch {
            phase: phase(&f["event"]),
            rotation: rotation(&f["rotation"]),
            pointer: long(&f["pointer_id"]),
            x: float(&f["x"]),
            y: float(&f["y"]),
            pressure: float(&f["pressure_or_distance"]),
            major: float(&f["contact_major"]),
            minor: float(&f["contact_minor"]),
        }),
        magic::PEN => InputEvent::Pen(Pen {
            phase: phase(&f["event"]),
            tool: [Tool::Unknown, Tool::Pen, Tool::Eraser][usize::from(byte(&f["tool"]))],
            buttons: byte(&f["buttons"]),
            x: float(&f["x"]),
            y: float(&f["y"]),
            pressure: float(&f["pressure_or_distance"]),
            rotation: rotation(&f["rotation"]),
            tilt: Some(byte(&f["tilt"])),
            major: float(&f["contact_major"]),
            minor: float(&f["contact_minor"]),
        }),
        other => expected_controller(other, f),
    }
}

#[test]
fn golden_events() {
    let golden = vectors::load("input_packets");
    let packets = golden["packets"].as_array().unwrap();
    assert_eq!(packets.len(), 46);
    for entry in packets {
        let packet = vectors::bytes(&entry["packet"]);
        let kind = vectors::hex_number(&entry["magic"]);
        let event = InputEvent::parse(&packet).unwrap();
        assert_eq!(event, expected(kind, &entry["fields"]), "{entry}");
        assert_eq!(event.write(), packet, "{entry}");
        assert_eq!(u64::from(event.channel()), entry["channel"].as_u64().unwrap(), "{entry}");
        assert_eq!(event.is_reliable(), entry["delivery"] == "reliable", "{entry}");
        for end in 0..packet.len() {
            let refused = InputEvent::parse(&packet[..end]);
            assert_eq!(refused, Err(InputError::Size), "prefix of {end} bytes of {entry}");
        }
        for size in [0_u32, 3, 0x7FFF_FFFF, u32::MAX, u32::try_from(packet.len()).unwrap() - 3] {
            let mut lying = packet.clone();
            lying[..4].copy_from_slice(&size.to_be_bytes());
            assert_eq!(InputEvent::parse(&lying), Err(InputError::Size), "size {size} of {entry}");
        }
        let mut longer = packet.clone();
        longer.push(0);
        assert_eq!(InputEvent::parse(&longer).as_ref(), Ok(&event), "bytes behind are ignored");
        if kind != magic::TEXT {
            let size = u32::try_from(longer.len() - 4).unwrap();
            longer[..4].copy_from_slice(&size.to_be_bytes());
            assert_eq!(InputEvent::parse(&longer), Ok(event), "appended fields are ignored");
            let mut shorter = packet.clone();
            shorter[..4].copy_from_slice(&(size - 2).to_be_bytes());
            assert_eq!(InputEvent::parse(&shorter), Err(InputError::Body), "{entry}");
        }
    }
}

fn raw(kind: u32, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(4 + body.len()).unwrap();
    [&size.to_be_bytes()[..], &kind.to_le_bytes()[..], body].concat()
}

#[test]
fn hostile_floats_become_fractions() {
    for (hostile, tame) in [
        (f32::NAN, 0.0),
        (-f32::NAN, 0.0),
        (f32::INFINITY, 1.0),
        (f32::NEG_INFINITY, 0.0),
        (-0.5, 0.0),
        (1.5, 1.0),
        (f32::MIN_POSITIVE / 2.0, f32::MIN_POSITIVE / 2.0),
    ] {
        let mut body = vec![1, 0, 0, 0, 9, 0, 0, 0];
        for _ in 0..5 {
            body.extend_from_slice(&hostile.to_le_bytes());
        }
        let Ok(InputEvent::Touch(touch)) = InputEvent::parse(&raw(magic::TOUCH, &body)) else {
            panic!("a touch")
        };
        for number in [touch.x, touch.y, touch.pressure, touch.major, touch.minor] {
            assert_eq!(number.to_bits() << 1, tame.to_bits() << 1, "{hostile}");
        }
    }
    let mut body = vec![0, 2, 0, 0];
    for hostile in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        body.extend_from_slice(&hostile.to_le_bytes());
    }
    let motion = InputEvent::parse(&raw(magic::CONTROLLER_MOTION, &body)).unwrap();
    assert_eq!(
        motion,
        InputEvent::ControllerMotion {
            controller: 0,
            sensor: Sensor::Gyroscope,
            x: 0.0,
            y: MOTION_MAX,
            z: -MOTION_MAX,
        }
    );
}

#[test]
fn numbers_that_name_nothing_are_refused() {
    let plane = |width: i16, height: i16| {
        let numbers = [10, 10, 0, width, height];
        let body: Vec<u8> = numbers.iter().flat_map(|n: &i16| n.to_be_bytes()).collect();
        InputEvent::parse(&raw(magic::MOUSE_ABSOLUTE, &body))
    };
    assert_eq!(plane(0, 100), Err(InputError::Value));
    assert_eq!(plane(100, -1), Err(InputError::Value));
    assert_eq!(plane(5, 100), Ok(InputEvent::MouseAbsolute { x: 5, y: 10, width: 5, height: 100 }));
    for button in [0, 6, 255] {
        let event = raw(magic::MOUSE_BUTTON_DOWN, &[button]);
        assert_eq!(InputEvent::parse(&event), Err(InputError::Value));
    }
    for controller in [16, 255] {
        let event = raw(magic::CONTROLLER_BATTERY, &[controller, 3, 50, 0]);
        assert_eq!(InputEvent::parse(&event), Err(InputError::Value));
    }
    for controller in [-1_i16, 16, 254, i16::MIN] {
        let mut body = [0; 26];
        body[2..4].copy_from_slice(&controller.to_le_bytes());
        assert_eq!(InputEvent::parse(&raw(magic::CONTROLLER, &body)), Err(InputError::Value));
    }
    let mut touch = [0; 28];
    touch[0] = 8;
    assert_eq!(InputEvent::parse(&raw(magic::TOUCH, &touch)), Err(InputError::Value));
}

#[test]
fn text_is_short_and_valid() {
    let text = |body: &[u8]| InputEvent::parse(&raw(magic::TEXT, body));
    assert_eq!(text(&[b'a'; 32]), Ok(InputEvent::Text("a".repeat(32))));
    for refused in [&[][..], &[b'a'; 33], &[0xC3], &[0xFF], &[0xED, 0xA0, 0x80], &[0xC0, 0x80]] {
        assert_eq!(text(refused), Err(InputError::Text));
    }
}

#[test]
fn unknown_magics_are_unknown() {
    for magic in [0, 0x06, 0x5500_0008, u32::MAX] {
        assert_eq!(InputEvent::parse(&raw(magic, &[1, 2])), Ok(InputEvent::Unknown { magic }));
    }
}

#[test]
fn presence_is_the_own_bit() {
    let state = Controller { controller: 3, active_mask: 0x0008, ..Controller::default() };
    assert!(state.is_present());
    assert!(!Controller { active_mask: 0xFFF7, ..state }.is_present());
    assert!(Controller { controller: 15, active_mask: 0x8000, ..state }.is_present());
}

/// The host refuses clients with plaintext control streams, so it never decrypts these; the golden file
/// still shows that the events inside are the same.
#[test]
fn legacy_gcm_events() {
    let golden = &vectors::load("legacy_input_encryption")["gen7_gcm"];
    let key = SessionKey(vectors::key(&golden["key"]));
    let mut iv = vectors::key(&golden["initial_iv"]);
    assert_eq!(u32::from_be_bytes(*iv.first_chunk().unwrap()), long(&golden["rikeyid"]));
    let events = golden["events"].as_array().unwrap();
    assert_eq!(events.len(), 5);
    for entry in events {
        let payload = vectors::bytes(&entry["control_payload"]);
        let packet = vectors::bytes(&entry["control_packet"]);
        assert_eq!(packet, [&[0x06, 0x02], payload.as_slice()].concat());
        assert_eq!(iv.to_vec(), vectors::bytes(&entry["iv"]));
        let (size, blob) = payload.split_first_chunk().unwrap();
        assert_eq!(u32::from_be_bytes(*size) as usize, blob.len());
        let (tag, ciphertext) = blob.split_first_chunk().unwrap();
        let mut plaintext = ciphertext.to_vec();
        LongIvGcmKey::new(&key).open_in_place(iv, tag, &mut plaintext).unwrap();
        assert_eq!(plaintext, vectors::bytes(&entry["plaintext"]));
        assert!(!matches!(InputEvent::parse(&plaintext), Err(_) | Ok(InputEvent::Unknown { .. })));
        if blob.len() >= 32 {
            iv = *blob.last_chunk().unwrap();
        }
    }
}

#[test]
fn legacy_cbc_events() {
    let golden = &vectors::load("legacy_input_encryption")["pre_gen7_cbc"];
    let cipher = Aes128::new(&vectors::key(&golden["key"]).into());
    let mut previous = vectors::key(&golden["initial_iv"]);
    let events = golden["events"].as_array().unwrap();
    assert_eq!(events.len(), 3);
    for entry in events {
        let wire = vectors::bytes(&entry["wire"]);
        let (size, blob) = wire.split_first_chunk().unwrap();
        assert_eq!(u32::from_be_bytes(*size) as usize, blob.len());
        let mut plaintext = Vec::new();
        for block in blob.chunks_exact(16) {
            let mut clear = *aes_gcm::aes::Block::from_slice(block);
            cipher.decrypt_block(&mut clear);
            plaintext.extend(clear.iter().zip(previous).map(|(clear, before)| clear ^ before));
            previous.copy_from_slice(block);
        }
        let padding = usize::from(*plaintext.last().unwrap());
        plaintext.truncate(plaintext.len() - padding);
        assert_eq!(plaintext, vectors::bytes(&entry["plaintext"]));
        assert!(InputEvent::parse(&plaintext).is_ok());
    }
}

proptest! {
    #[test]
    fn any_payload(payload in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = InputEvent::parse(&payload);
    }

    #[test]
    fn any_body(
        index in 0_usize..17,
        body in prop::collection::vec(any::<u8>(), 0..48),
    ) {
        let kinds = [
            3, 4, 5, 7, 8, 9, 10, 12, 13, 0x17, 0x5500_0001, 0x5500_0002, 0x5500_0003, 0x5500_0004,
            0x5500_0005, 0x5500_0006, 0x5500_0007,
        ];
        if let Ok(event) = InputEvent::parse(&raw(kinds[index], &body)) {
            prop_assert_eq!(InputEvent::parse(&event.write()), Ok(event));
        }
    }
}
