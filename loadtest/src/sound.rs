//! Sound as it arrives: repaired, decoded, and how much of the pattern's tone is in it.
use moonshard::proto::audio::{AudioEvent, AudioParameters, AudioReceiver};
use moonshard::proto::pattern::TONE_HZ;
use moonshard::proto::surround::Layout;
use moonshard::time::Time;

use crate::opus::Decoder;

/// Samples of one look at the tone: 100 ms.
const WINDOW: usize = 4_800;

/// The receiving end of one audio stream.
pub struct Sound {
    receiver: AudioReceiver,
    decoder: Decoder,
    channels: usize,
    window: Vec<f64>,
    pub packets: u64,
    pub gaps: u64,
    pub decode_errors: u64,
    /// Windows in which the pattern's tone was what was heard, and all windows with any sound.
    pub tone_windows: u64,
    pub loud_windows: u64,
}

impl Sound {
    pub fn new(parameters: &AudioParameters, layout: &Layout) -> Result<Self, String> {
        Ok(Self {
            receiver: AudioReceiver::new(parameters),
            decoder: Decoder::new(layout)?,
            channels: usize::from(layout.channels),
            window: Vec::with_capacity(WINDOW),
            packets: 0,
            gaps: 0,
            decode_errors: 0,
            tone_windows: 0,
            loud_windows: 0,
        })
    }

    pub fn push(&mut self, datagram: &[u8], now: Time) {
        for event in self.receiver.push(datagram, now) {
            match event {
                AudioEvent::Packet { opus, .. } => match self.decoder.decode(&opus) {
                    Some(samples) => {
                        self.packets += 1;
                        self.listen(&samples);
                    }
                    None => self.decode_errors += 1,
                },
                AudioEvent::Lost { count, .. } => self.gaps += u64::from(count),
            }
        }
    }

    fn listen(&mut self, samples: &[i16]) {
        self.window.extend(samples.iter().step_by(self.channels).map(|s| f64::from(*s)));
        if self.window.len() < WINDOW {
            return;
        }
        let energy = self.window.iter().map(|s| s * s).sum::<f64>() / self.window.len() as f64;
        if energy.sqrt() > 100.0 {
            self.loud_windows += 1;
            // A pure tone has an amplitude of sqrt(2) times its RMS.
            let share =
                amplitude(&self.window, TONE_HZ) / (energy.sqrt() * std::f64::consts::SQRT_2);
            self.tone_windows += u64::from(share > 0.6);
        }
        self.window.clear();
    }
}

/// The amplitude of a frequency (Goertzel).
fn amplitude(samples: &[f64], hertz: f64) -> f64 {
    let w = hertz * std::f64::consts::TAU / 48_000.0;
    let (mut a, mut b) = (0.0, 0.0);
    for sample in samples {
        (a, b) = (sample + 2.0 * w.cos() * a - b, a);
    }
    (a * a + b * b - 2.0 * w.cos() * a * b).max(0.0).sqrt() * 2.0 / samples.len() as f64
}
