//! From the body of an input event to the event.
use super::BatteryState;
use super::CONTROLLERS_MAX;
use super::Controller;
use super::ControllerKind;
use super::InputError;
use super::InputEvent;
use super::KEY_NOT_NORMALISED;
use super::MOTION_MAX;
use super::Modifiers;
use super::MouseButton;
use super::Pen;
use super::Phase;
use super::Sensor;
use super::Tool;
use super::Touch;
use super::magic;
use crate::limits;

/// Fields in order from a body that may be too short.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], InputError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(InputError::Body)?;
        self.0 = rest;
        Ok(*head)
    }

    fn byte(&mut self) -> Result<u8, InputError> {
        self.take().map(u8::from_le_bytes)
    }

    fn i16_be(&mut self) -> Result<i16, InputError> {
        self.take().map(i16::from_be_bytes)
    }

    fn i16_le(&mut self) -> Result<i16, InputError> {
        self.take().map(i16::from_le_bytes)
    }

    fn u16_le(&mut self) -> Result<u16, InputError> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32_le(&mut self) -> Result<u32, InputError> {
        self.take().map(u32::from_le_bytes)
    }

    /// A fraction: NaN becomes 0, everything else the nearest of 0..=1.
    fn fraction(&mut self) -> Result<f32, InputError> {
        let number = self.take().map(f32::from_le_bytes)?;
        Ok(if number.is_nan() { 0.0 } else { number.clamp(0.0, 1.0) })
    }

    /// A motion sample: NaN becomes 0, everything else the nearest within `MOTION_MAX`.
    fn motion(&mut self) -> Result<f32, InputError> {
        let number = self.take().map(f32::from_le_bytes)?;
        Ok(if number.is_nan() { 0.0 } else { number.clamp(-MOTION_MAX, MOTION_MAX) })
    }

    fn controller(&mut self) -> Result<u8, InputError> {
        self.byte().and_then(controller_number)
    }

    fn phase(&mut self) -> Result<Phase, InputError> {
        Ok(match self.byte()? {
            0 => Phase::Hover,
            1 => Phase::Down,
            2 => Phase::Up,
            3 => Phase::Move,
            4 => Phase::Cancel,
            5 => Phase::ButtonOnly,
            6 => Phase::HoverLeave,
            7 => Phase::CancelAll,
            _ => return Err(InputError::Value),
        })
    }

    fn rotation(&mut self) -> Result<Option<u16>, InputError> {
        self.u16_le().map(|degrees| (degrees < 360).then_some(degrees))
    }
}

fn controller_number(number: u8) -> Result<u8, InputError> {
    (number < CONTROLLERS_MAX).then_some(number).ok_or(InputError::Value)
}

pub(super) fn body(kind: u32, body: &[u8]) -> Result<InputEvent, InputError> {
    let mut fields = Fields(body);
    match kind {
        magic::KEY_DOWN => key(&mut fields, true),
        magic::KEY_UP => key(&mut fields, false),
        magic::MOUSE_ABSOLUTE => mouse_absolute(&mut fields),
        magic::MOUSE_RELATIVE => {
            Ok(InputEvent::MouseRelative { dx: fields.i16_be()?, dy: fields.i16_be()? })
        }
        magic::MOUSE_BUTTON_DOWN => mouse_button(&mut fields, true),
        magic::MOUSE_BUTTON_UP => mouse_button(&mut fields, false),
        magic::SCROLL_VERTICAL => {
            let amount = fields.i16_be()?;
            let _amount_repeated_and_padding = fields.take::<4>()?;
            Ok(InputEvent::ScrollVertical(amount))
        }
        magic::SCROLL_HORIZONTAL => fields.i16_be().map(InputEvent::ScrollHorizontal),
        magic::CONTROLLER => controller(&mut fields),
        magic::ENABLE_HAPTICS => {
            fields.u16_le().map(|enable| InputEvent::EnableHaptics(enable != 0))
        }
        magic::TEXT => text(body),
        magic::TOUCH => touch(&mut fields),
        magic::PEN => pen(&mut fields),
        magic::CONTROLLER_ARRIVAL => controller_arrival(&mut fields),
        magic::CONTROLLER_TOUCH => controller_touch(&mut fields),
        magic::CONTROLLER_MOTION => controller_motion(&mut fields),
        magic::CONTROLLER_BATTERY => controller_battery(&mut fields),
        magic => Ok(InputEvent::Unknown { magic }),
    }
}

fn key(fields: &mut Fields<'_>, down: bool) -> Result<InputEvent, InputError> {
    let flags = fields.byte()?;
    let [vk, _high] = fields.take()?;
    let bits = fields.byte()?;
    let _padding = fields.take::<2>()?;
    let modifiers = Modifiers {
        shift: bits & 0x01 != 0,
        ctrl: bits & 0x02 != 0,
        alt: bits & 0x04 != 0,
        meta: bits & 0x08 != 0,
    };
    let not_normalised = flags & KEY_NOT_NORMALISED != 0;
    Ok(InputEvent::Key { down, vk, modifiers, not_normalised })
}

fn mouse_absolute(fields: &mut Fields<'_>) -> Result<InputEvent, InputError> {
    let (x, y) = (fields.i16_be()?, fields.i16_be()?);
    let _unused = fields.take::<2>()?;
    let (width, height) = (fields.i16_be()?, fields.i16_be()?);
    if width <= 0 || height <= 0 {
        return Err(InputError::Value);
    }
    Ok(InputEvent::MouseAbsolute {
        x: x.clamp(0, width).unsigned_abs(),
        y: y.clamp(0, height).unsigned_abs(),
        width: width.unsigned_abs(),
        height: height.unsigned_abs(),
    })
}

fn mouse_button(fields: &mut Fields<'_>, down: bool) -> Result<InputEvent, InputError> {
    let button = match fields.byte()? {
        1 => MouseButton::Left,
        2 => MouseButton::Middle,
        3 => MouseButton::Right,
        4 => MouseButton::Side,
        5 => MouseButton::Extra,
        _ => return Err(InputError::Value),
    };
    Ok(InputEvent::MouseButton { down, button })
}

fn text(body: &[u8]) -> Result<InputEvent, InputError> {
    if body.is_empty() || body.len() > limits::TEXT_BYTES_MAX {
        return Err(InputError::Text);
    }
    let text = std::str::from_utf8(body).map_err(|_| InputError::Text)?;
    Ok(InputEvent::Text(text.to_owned()))
}

fn touch(fields: &mut Fields<'_>) -> Result<InputEvent, InputError> {
    let phase = fields.phase()?;
    let _reserved = fields.byte()?;
    Ok(InputEvent::Touch(Touch {
        phase,
        rotation: fields.rotation()?,
        pointer: fields.u32_le()?,
        x: fields.fraction()?,
        y: fields.fraction()?,
        pressure: fields.fraction()?,
        major: fields.fraction()?,
        minor: fields.fraction()?,
    }))
}

fn pen(fields: &mut Fields<'_>) -> Result<InputEvent, InputError> {
    let phase = fields.phase()?;
    let tool = match fields.byte()? {
        1 => Tool::Pen,
        2 => Tool::Eraser,
        _ => Tool::Unknown,
    };
    let buttons = fields.byte()? & 0x07;
    let _reserved = fields.byte()?;
    let (x, y, pressure) = (fields.fraction()?, fields.fraction()?, fields.fraction()?);
    let rotation = fields.rotation()?;
    let tilt = fields.byte().map(|degrees| (degrees <= 90).then_some(degrees))?;
    let _reserved = fields.byte()?;
    let (major, minor) = (fields.fraction()?, fields.fraction()?);
    Ok(InputEvent::Pen(Pen { phase, tool, buttons, x, y, pressure, rotation, tilt, major, minor }))
}

fn controller(fields: &mut Fields<'_>) -> Result<InputEvent, InputError> {
    let _constant = fields.take::<2>()?;
    let number = fields.i16_le()?;
    let controller = u8::try_from(number).map_err(|_| InputError::Value)?;
    let controller = controller_number(controller)?;
    let active_mask = fields.u16_le()?;
    let _constant = fields.take::<2>()?;
    let buttons_low = fields.u16_le()?;
    let (left_trigger, right_trigger) = (fields.byte()?, fields.byte()?);
    let left_stick = (fields.i16_le()?, fields.i16_le()?);
    let right_stick = (fields.i16_le()?, fields.i16_le()?);
    let _constant = fields.take::<2>()?;
    let buttons_high = fields.u16_le()?;
    let _constant = fields.take::<2>()?;
    Ok(InputEvent::Controller(Controller {
        controller,
        active_mask,
        buttons: u32::from(buttons_low) | u32::from(buttons_high) << 16,
        left_trigger,
        right_trigger,
        left_stick,
        right_stick,
    }))
}

fn controller_arrival(fields: &mut Fields<'_>) -> Result<InputEvent, InputError> {
    let controller = fields.controller()?;
    let kind = match fields.byte()? {
        1 => ControllerKind::Xbox,
        2 => ControllerKind::PlayStation,
        3 => ControllerKind::Nintendo,
        4 => ControllerKind::Steam,
        _ => ControllerKind::Unknown,
    };
    let capabilities = fields.u16_le()?;
    Ok(InputEvent::ControllerArrival { controller, kind, capabilities, buttons: fields.u32_le()? })
}

fn controller_touch(fields: &mut Fields<'_>) -> Result<InputEvent, InputError> {
    let controller = fields.controller()?;
    let phase = fields.phase()?;
    let _reserved = fields.byte()?;
    let touchpad = fields.byte()?;
    if touchpad > 1 {
        return Err(InputError::Value);
    }
    Ok(InputEvent::ControllerTouch {
        controller,
        phase,
        touchpad,
        pointer: fields.u32_le()?,
        x: fields.fraction()?,
        y: fields.fraction()?,
        pressure: fields.fraction()?,
    })
}

fn controller_motion(fields: &mut Fields<'_>) -> Result<InputEvent, InputError> {
    let controller = fields.controller()?;
    let sensor = match fields.byte()? {
        1 => Sensor::Accelerometer,
        2 => Sensor::Gyroscope,
        _ => return Err(InputError::Value),
    };
    let _reserved = fields.take::<2>()?;
    let (x, y, z) = (fields.motion()?, fields.motion()?, fields.motion()?);
    Ok(InputEvent::ControllerMotion { controller, sensor, x, y, z })
}

fn controller_battery(fields: &mut Fields<'_>) -> Result<InputEvent, InputError> {
    let controller = fields.controller()?;
    let state = match fields.byte()? {
        1 => BatteryState::NotPresent,
        2 => BatteryState::Discharging,
        3 => BatteryState::Charging,
        4 => BatteryState::NotCharging,
        5 => BatteryState::Full,
        _ => BatteryState::Unknown,
    };
    let percent = fields.byte().map(|percent| (percent <= 100).then_some(percent))?;
    let _reserved = fields.byte()?;
    Ok(InputEvent::ControllerBattery { controller, state, percent })
}
