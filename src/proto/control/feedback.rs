//! Control messages from the host to the client, and their reading for test clients.
//!
//! All go on channel 0, reliably. `controller` is always the client's number of a controller, never the
//! host's slot. Numbers are little-endian except the termination code.
//!
//! | Type | Message | Payload bytes |
//! |---|---|---|
//! | 0x0109 | termination, u32 **big-endian** code | 4 |
//! | 0x010B | rumble: u32 ignored, u16 controller, u16 low, u16 high frequency motor | 10 |
//! | 0x010E | HDR mode and metadata | 27 |
//! | 0x5500 | trigger rumble: u16 controller, u16 left, u16 right | 6 |
//! | 0x5501 | motion events: u16 controller, u16 Hz, u8 sensor | 5 |
//! | 0x5502 | LED: u16 controller, u8 red, green, blue | 5 |
//! | 0x5503 | adaptive triggers: u16 controller, u8 flags, u8 left and right type, 10 + 10 bytes | 25 |
//!
//! Source: moonlight-common-c src/ControlStream.c; Sunshine src/stream.cpp.
use super::inner;

/// Termination code of an ordinary end: clients report no error if they have shown a frame.
pub const TERMINATED_BY_HOST: u32 = 0x8003_0023;

const TERMINATION: u16 = 0x0109;
const RUMBLE: u16 = 0x010B;
const HDR_MODE: u16 = 0x010E;
const TRIGGER_RUMBLE: u16 = 0x5500;
const MOTION: u16 = 0x5501;
const LED: u16 = 0x5502;
const ADAPTIVE_TRIGGERS: u16 = 0x5503;

/// What a host says on the control stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Feedback {
    /// DualSense output report values, passed through. Flags: 0x04 right valid, 0x08 left valid.
    AdaptiveTriggers {
        controller: u16,
        flags: u8,
        left_kind: u8,
        right_kind: u8,
        left: [u8; 10],
        right: [u8; 10],
    },
    /// `None`: SDR. Only while the encoded stream really is BT.2020 PQ may it be some.
    HdrMode(Option<HdrMetadata>),
    Led {
        controller: u16,
        red: u8,
        green: u8,
        blue: u8,
    },
    /// The client sends motion events at this rate from now on; 0 stops them. `sensor`: 1
    /// accelerometer, 2 gyroscope.
    Motion {
        controller: u16,
        hertz: u16,
        sensor: u8,
    },
    /// Lasts until the next one for that controller; (0, 0) stops. Repeat within 30 s.
    Rumble {
        controller: u16,
        low: u16,
        high: u16,
    },
    /// The client disconnects at once and reports the code.
    Termination {
        code: u32,
    },
    TriggerRumble {
        controller: u16,
        left: u16,
        right: u16,
    },
}

/// Mastering data as the client passes it to its display. Chromaticities in 1/50000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HdrMetadata {
    /// Red, green, blue as (x, y).
    pub primaries: [(u16, u16); 3],
    pub white_point: (u16, u16),
    /// nits
    pub luminance_max: u16,
    /// 1/10000 nit
    pub luminance_min: u16,
    /// nits; 0 unknown, also below
    pub content_light_max: u16,
    pub frame_average_light_max: u16,
    pub full_frame_luminance_max: u16,
}

impl Feedback {
    /// The inner message.
    pub fn write(&self) -> Vec<u8> {
        match self {
            Self::AdaptiveTriggers { controller, flags, left_kind, right_kind, left, right } => {
                let [low, high] = controller.to_le_bytes();
                let mut payload = vec![low, high, *flags, *left_kind, *right_kind];
                payload.extend_from_slice(left);
                payload.extend_from_slice(right);
                inner(ADAPTIVE_TRIGGERS, &payload)
            }
            Self::HdrMode(metadata) => {
                let enabled = u8::from(metadata.is_some());
                let mut payload = vec![enabled];
                payload.extend_from_slice(&metadata.unwrap_or_default().write());
                inner(HDR_MODE, &payload)
            }
            Self::Led { controller, red, green, blue } => {
                let [low, high] = controller.to_le_bytes();
                inner(LED, &[low, high, *red, *green, *blue])
            }
            Self::Motion { controller, hertz, sensor } => {
                let mut payload = words(&[*controller, *hertz]);
                payload.push(*sensor);
                inner(MOTION, &payload)
            }
            Self::Rumble { controller, low, high } => {
                inner(RUMBLE, &words(&[0, 0, *controller, *low, *high]))
            }
            Self::Termination { code } => inner(TERMINATION, &code.to_be_bytes()),
            Self::TriggerRumble { controller, left, right } => {
                inner(TRIGGER_RUMBLE, &words(&[*controller, *left, *right]))
            }
        }
    }

    /// A client's reading of a type and payload. `None`: unknown, or too short.
    pub fn parse(kind: u16, payload: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            payload.get(at..)?.first_chunk().map(|bytes: &[u8; 2]| u16::from_le_bytes(*bytes))
        };
        let byte = |at: usize| payload.get(at).copied();
        Some(match kind {
            ADAPTIVE_TRIGGERS => Self::AdaptiveTriggers {
                controller: word(0)?,
                flags: byte(2)?,
                left_kind: byte(3)?,
                right_kind: byte(4)?,
                left: *payload.get(5..)?.first_chunk()?,
                right: *payload.get(15..)?.first_chunk()?,
            },
            HDR_MODE => {
                let metadata = HdrMetadata::parse(payload.get(1..)?);
                Self::HdrMode((byte(0)? != 0).then_some(metadata))
            }
            LED => {
                Self::Led { controller: word(0)?, red: byte(2)?, green: byte(3)?, blue: byte(4)? }
            }
            MOTION => Self::Motion { controller: word(0)?, hertz: word(2)?, sensor: byte(4)? },
            RUMBLE => Self::Rumble { controller: word(4)?, low: word(6)?, high: word(8)? },
            TERMINATION => Self::Termination { code: u32::from_be_bytes(*payload.first_chunk()?) },
            TRIGGER_RUMBLE => {
                Self::TriggerRumble { controller: word(0)?, left: word(2)?, right: word(4)? }
            }
            _ => return None,
        })
    }
}

impl HdrMetadata {
    fn write(&self) -> Vec<u8> {
        let [red, green, blue] = self.primaries;
        let mut numbers = Vec::with_capacity(13);
        for (x, y) in [red, green, blue, self.white_point] {
            numbers.extend_from_slice(&[x, y]);
        }
        numbers.extend_from_slice(&[
            self.luminance_max,
            self.luminance_min,
            self.content_light_max,
            self.frame_average_light_max,
            self.full_frame_luminance_max,
        ]);
        words(&numbers)
    }

    /// Missing trailing fields are 0, further bytes are ignored: so the client does.
    fn parse(bytes: &[u8]) -> Self {
        let mut numbers = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        let mut next = || numbers.next().unwrap_or(0);
        let mut point = || (next(), next());
        let primaries = [point(), point(), point()];
        let white_point = point();
        Self {
            primaries,
            white_point,
            luminance_max: next(),
            luminance_min: next(),
            content_light_max: next(),
            frame_average_light_max: next(),
            full_frame_luminance_max: next(),
        }
    }
}

fn words(numbers: &[u16]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}
