//! From an input event to its magic and body, as a current client sends them.
use super::Controller;
use super::InputEvent;
use super::KEY_NOT_NORMALISED;
use super::Modifiers;
use super::PERCENT_UNKNOWN;
use super::Pen;
use super::ROTATION_UNKNOWN;
use super::TILT_UNKNOWN;
use super::Touch;
use super::magic;

/// The high byte of key codes that current clients send.
const KEY_CODE_HIGH: u8 = 0x80;

pub(super) fn body(event: &InputEvent) -> (u32, Vec<u8>) {
    match event {
        InputEvent::Controller(state) => (magic::CONTROLLER, controller(state)),
        InputEvent::ControllerArrival { controller, kind, capabilities, buttons } => {
            let mut body = vec![*controller, *kind as u8];
            body.extend_from_slice(&capabilities.to_le_bytes());
            body.extend_from_slice(&buttons.to_le_bytes());
            (magic::CONTROLLER_ARRIVAL, body)
        }
        InputEvent::ControllerBattery { controller, state, percent } => {
            let percent = percent.unwrap_or(PERCENT_UNKNOWN);
            (magic::CONTROLLER_BATTERY, vec![*controller, *state as u8, percent, 0])
        }
        InputEvent::ControllerMotion { controller, sensor, x, y, z } => {
            let body = vec![*controller, *sensor as u8, 0, 0];
            (magic::CONTROLLER_MOTION, with_floats(body, &[*x, *y, *z]))
        }
        InputEvent::ControllerTouch { controller, phase, touchpad, pointer, x, y, pressure } => {
            let mut body = vec![*controller, *phase as u8, 0, *touchpad];
            body.extend_from_slice(&pointer.to_le_bytes());
            (magic::CONTROLLER_TOUCH, with_floats(body, &[*x, *y, *pressure]))
        }
        InputEvent::EnableHaptics(enable) => (magic::ENABLE_HAPTICS, vec![u8::from(*enable), 0]),
        InputEvent::Key { down, vk, modifiers, not_normalised } => {
            let flags = if *not_normalised { KEY_NOT_NORMALISED } else { 0 };
            let kind = if *down { magic::KEY_DOWN } else { magic::KEY_UP };
            (kind, vec![flags, *vk, KEY_CODE_HIGH, bits(*modifiers), 0, 0])
        }
        InputEvent::MouseAbsolute { x, y, width, height } => {
            let numbers = [*x, *y, 0, *width, *height];
            let body = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
            (magic::MOUSE_ABSOLUTE, body)
        }
        InputEvent::MouseButton { down, button } => {
            let kind = if *down { magic::MOUSE_BUTTON_DOWN } else { magic::MOUSE_BUTTON_UP };
            (kind, vec![*button as u8])
        }
        InputEvent::MouseRelative { dx, dy } => {
            (magic::MOUSE_RELATIVE, [dx.to_be_bytes(), dy.to_be_bytes()].concat())
        }
        InputEvent::Pen(state) => (magic::PEN, pen(state)),
        InputEvent::ScrollHorizontal(amount) => {
            (magic::SCROLL_HORIZONTAL, amount.to_be_bytes().to_vec())
        }
        InputEvent::ScrollVertical(amount) => {
            let amount = amount.to_be_bytes();
            (magic::SCROLL_VERTICAL, [amount, amount, [0, 0]].concat())
        }
        InputEvent::Text(text) => (magic::TEXT, text.clone().into_bytes()),
        InputEvent::Touch(state) => (magic::TOUCH, touch(state)),
        InputEvent::Unknown { magic } => (*magic, Vec::new()),
    }
}

fn bits(modifiers: Modifiers) -> u8 {
    let Modifiers { shift, ctrl, alt, meta } = modifiers;
    u8::from(shift) | u8::from(ctrl) << 1 | u8::from(alt) << 2 | u8::from(meta) << 3
}

fn controller(state: &Controller) -> Vec<u8> {
    let [low0, low1, high0, high1] = state.buttons.to_le_bytes();
    let mut body = vec![0x1A, 0x00, state.controller, 0x00];
    body.extend_from_slice(&state.active_mask.to_le_bytes());
    body.extend_from_slice(&[0x14, 0x00, low0, low1, state.left_trigger, state.right_trigger]);
    let ((left_x, left_y), (right_x, right_y)) = (state.left_stick, state.right_stick);
    for axis in [left_x, left_y, right_x, right_y] {
        body.extend_from_slice(&axis.to_le_bytes());
    }
    body.extend_from_slice(&[0x9C, 0x00, high0, high1, 0x55, 0x00]);
    body
}

fn touch(state: &Touch) -> Vec<u8> {
    let mut body = vec![state.phase as u8, 0];
    body.extend_from_slice(&state.rotation.unwrap_or(ROTATION_UNKNOWN).to_le_bytes());
    body.extend_from_slice(&state.pointer.to_le_bytes());
    with_floats(body, &[state.x, state.y, state.pressure, state.major, state.minor])
}

fn pen(state: &Pen) -> Vec<u8> {
    let body = vec![state.phase as u8, state.tool as u8, state.buttons, 0];
    let mut body = with_floats(body, &[state.x, state.y, state.pressure]);
    body.extend_from_slice(&state.rotation.unwrap_or(ROTATION_UNKNOWN).to_le_bytes());
    body.extend_from_slice(&[state.tilt.unwrap_or(TILT_UNKNOWN), 0]);
    with_floats(body, &[state.major, state.minor])
}

fn with_floats(mut body: Vec<u8>, numbers: &[f32]) -> Vec<u8> {
    for number in numbers {
        body.extend_from_slice(&number.to_le_bytes());
    }
    body
}
