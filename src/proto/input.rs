//! Input events, the payload of control message 0x0206.
//!
//! An event that parses needs no further check: numbers are in range, floats finite and clamped, text
//! valid. What the events do to a desktop, and which of them repeat what is already so, is not known here.
//!
//! | Offset | Size | Field |
//! |---|---|---|
//! | 0 | 4 | u32 **big-endian** size: 4 + body |
//! | 4 | 4 | u32 little-endian magic |
//! | 8 | size - 4 | body, at least as long as the event needs; mouse and scroll big-endian, the rest little |
//!
//! Source: moonlight-common-c src/Input.h, src/InputStream.c.
use thiserror::Error;

use crate::limits;

mod read;
#[cfg(test)]
mod tests;
mod write;

/// Scroll units of one wheel click.
pub const WHEEL_CLICK: i16 = 120;
/// Controllers that a client can have.
pub const CONTROLLERS_MAX: u8 = 16;
/// Largest motion sample passed on, in m/s² or degrees/s; real sensors end far below.
pub const MOTION_MAX: f32 = 100_000.0;

/// One event. Fractions are 0..=1 and never NaN.
#[derive(Clone, Debug, PartialEq)]
pub enum InputEvent {
    Controller(Controller),
    /// A controller is there; sent before its first state. To be ignored for one that exists.
    ControllerArrival {
        controller: u8,
        kind: ControllerKind,
        /// 0x01 analog triggers, 0x02 rumble, 0x04 trigger rumble, 0x08 touchpad, 0x10 accelerometer,
        /// 0x20 gyroscope, 0x40 battery, 0x80 LED, 0x100 second touchpad.
        capabilities: u16,
        buttons: u32,
    },
    ControllerBattery {
        controller: u8,
        state: BatteryState,
        /// 0..=100 if known.
        percent: Option<u8>,
    },
    /// m/s² including gravity, or degrees/s; SDL axes. A gyroscope at (0, 0, 0) was halted.
    ControllerMotion {
        controller: u8,
        sensor: Sensor,
        x: f32,
        y: f32,
        z: f32,
    },
    ControllerTouch {
        controller: u8,
        phase: Phase,
        /// 0 or 1.
        touchpad: u8,
        pointer: u32,
        x: f32,
        y: f32,
        pressure: f32,
    },
    /// Feedback may be sent from now on.
    EnableHaptics(bool),
    Key {
        down: bool,
        /// Windows virtual key, for `keymap`.
        vk: u8,
        modifiers: Modifiers,
        /// The code is of the client's layout, not of the US layout.
        not_normalised: bool,
    },
    /// `x <= width`, `y <= height`, both at least 1: the plane's size less one.
    MouseAbsolute {
        x: u16,
        y: u16,
        width: u16,
        height: u16,
    },
    MouseButton {
        down: bool,
        button: MouseButton,
    },
    /// Right and down are positive.
    MouseRelative {
        dx: i16,
        dy: i16,
    },
    Pen(Pen),
    /// Right is positive; 120 is one click.
    ScrollHorizontal(i16),
    /// Up (away from the user) is positive; 120 is one click.
    ScrollVertical(i16),
    /// To be inserted at the focus; at most 32 bytes, never empty.
    Text(String),
    Touch(Touch),
    /// To be ignored.
    Unknown {
        magic: u32,
    },
}

/// Full state of one controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Controller {
    /// 0..=15.
    pub controller: u8,
    /// Bit n: controller n is present. Only this controller's own bit is to have an effect.
    pub active_mask: u16,
    pub buttons: u32,
    pub left_trigger: u8,
    pub right_trigger: u8,
    /// (x, y); right and **up** are positive.
    pub left_stick: (i16, i16),
    pub right_stick: (i16, i16),
}

impl Controller {
    /// False: this controller is to be removed, and nothing else of the event counts.
    pub fn is_present(&self) -> bool {
        self.active_mask & 1 << self.controller != 0
    }
}

/// A finger on the streamed area, (0, 0) top left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Touch {
    pub phase: Phase,
    /// Degrees 0..=359 if known.
    pub rotation: Option<u16>,
    /// Opaque, unique among the fingers that are down.
    pub pointer: u32,
    pub x: f32,
    pub y: f32,
    /// Pressure in contact, distance in hover; 0 unknown.
    pub pressure: f32,
    /// Contact area axes; 0 unknown.
    pub major: f32,
    pub minor: f32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pen {
    pub phase: Phase,
    pub tool: Tool,
    /// 0x01 primary, 0x02 secondary, 0x04 tertiary.
    pub buttons: u8,
    pub x: f32,
    pub y: f32,
    /// Pressure in contact, distance in hover; 0 unknown.
    pub pressure: f32,
    /// Degrees 0..=359 if known.
    pub rotation: Option<u16>,
    /// Degrees from vertical, 0..=90, if known.
    pub tilt: Option<u8>,
    pub major: f32,
    pub minor: f32,
}

/// What happens to a finger or pen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    Hover = 0,
    Down = 1,
    Up = 2,
    Move = 3,
    /// Only the pointer is valid.
    Cancel = 4,
    /// Pen: only tool and buttons are valid.
    ButtonOnly = 5,
    HoverLeave = 6,
    /// Every pointer is released.
    CancelAll = 7,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Tool {
    Unknown = 0,
    Pen = 1,
    Eraser = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MouseButton {
    Left = 1,
    Middle = 2,
    Right = 3,
    Side = 4,
    Extra = 5,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ControllerKind {
    Unknown = 0,
    Xbox = 1,
    PlayStation = 2,
    Nintendo = 3,
    Steam = 4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BatteryState {
    Unknown = 0,
    NotPresent = 1,
    Discharging = 2,
    Charging = 3,
    NotCharging = 4,
    Full = 5,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Sensor {
    Accelerometer = 1,
    Gyroscope = 2,
}

/// The modifiers that the client believes to be down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modifiers {
    pub shift: bool,
    pub ctrl: bool,
    pub alt: bool,
    pub meta: bool,
}

/// Why an event is dropped; the stream goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InputError {
    /// The body is shorter than this event needs.
    #[error("input event too short")]
    Body,
    /// Shorter than size and magic, or than its own size says, or a size below 4.
    #[error("input event has a wrong size")]
    Size,
    /// Text that is empty, too long or no UTF-8.
    #[error("input text refused")]
    Text,
    /// A number that names nothing: a sixth mouse button, controller 16, a plane without area.
    #[error("input value out of range")]
    Value,
}

impl InputEvent {
    /// Reads one event. Bytes behind its size are ignored, as are fields behind those known.
    pub fn parse(payload: &[u8]) -> Result<Self, InputError> {
        let (size, rest) = payload.split_first_chunk().ok_or(InputError::Size)?;
        let size = usize::try_from(u32::from_be_bytes(*size)).map_err(|_| InputError::Size)?;
        let event = rest.get(..size).ok_or(InputError::Size)?;
        let (magic, body) = event.split_first_chunk().ok_or(InputError::Size)?;
        read::body(u32::from_le_bytes(*magic), body)
    }

    /// The payload as a current client sends it.
    pub fn write(&self) -> Vec<u8> {
        let (magic, body) = write::body(self);
        let size = u32::try_from(4 + body.len()).expect("bodies are some tens of bytes");
        let mut payload = size.to_be_bytes().to_vec();
        payload.extend_from_slice(&magic.to_le_bytes());
        payload.extend_from_slice(&body);
        payload
    }

    /// The ENet channel on which a client sends it.
    pub fn channel(&self) -> u8 {
        match self {
            Self::EnableHaptics(_) | Self::Unknown { .. } => 0x00,
            Self::Key { .. } => 0x02,
            Self::MouseAbsolute { .. }
            | Self::MouseButton { .. }
            | Self::MouseRelative { .. }
            | Self::ScrollHorizontal(_)
            | Self::ScrollVertical(_) => 0x03,
            Self::Pen(_) => 0x04,
            Self::Touch(_) => 0x05,
            Self::Text(_) => 0x06,
            Self::Controller(Controller { controller, .. })
            | Self::ControllerArrival { controller, .. }
            | Self::ControllerBattery { controller, .. }
            | Self::ControllerTouch { controller, .. } => 0x10 + controller,
            Self::ControllerMotion { controller, .. } => 0x20 + controller,
        }
    }

    /// Whether a client sends it reliably; otherwise unreliably, but in sequence.
    ///
    /// A pen move during which a button changed is sent reliably too; that the event does not show.
    pub fn is_reliable(&self) -> bool {
        match self {
            Self::ControllerTouch { phase, .. }
            | Self::Pen(Pen { phase, .. })
            | Self::Touch(Touch { phase, .. }) => !matches!(phase, Phase::Hover | Phase::Move),
            Self::ControllerMotion { sensor, x, y, z, .. } => {
                *sensor == Sensor::Gyroscope && (*x, *y, *z) == (0.0, 0.0, 0.0)
            }
            _ => true,
        }
    }
}

/// Values of the magic field.
mod magic {
    pub const KEY_DOWN: u32 = 0x03;
    pub const KEY_UP: u32 = 0x04;
    pub const MOUSE_ABSOLUTE: u32 = 0x05;
    pub const MOUSE_RELATIVE: u32 = 0x07;
    pub const MOUSE_BUTTON_DOWN: u32 = 0x08;
    pub const MOUSE_BUTTON_UP: u32 = 0x09;
    pub const SCROLL_VERTICAL: u32 = 0x0A;
    pub const CONTROLLER: u32 = 0x0C;
    pub const ENABLE_HAPTICS: u32 = 0x0D;
    pub const TEXT: u32 = 0x17;
    pub const SCROLL_HORIZONTAL: u32 = 0x5500_0001;
    pub const TOUCH: u32 = 0x5500_0002;
    pub const PEN: u32 = 0x5500_0003;
    pub const CONTROLLER_ARRIVAL: u32 = 0x5500_0004;
    pub const CONTROLLER_TOUCH: u32 = 0x5500_0005;
    pub const CONTROLLER_MOTION: u32 = 0x5500_0006;
    pub const CONTROLLER_BATTERY: u32 = 0x5500_0007;
}

const KEY_NOT_NORMALISED: u8 = 0x01;
const ROTATION_UNKNOWN: u16 = 0xFFFF;
const TILT_UNKNOWN: u8 = 0xFF;
const PERCENT_UNKNOWN: u8 = 0xFF;
const _: () = assert!(limits::TEXT_BYTES_MAX >= 4, "one code point must fit");
