//! Which frequency a sound has: Goertzel's filter over windows of a tenth of a second.
use std::collections::VecDeque;

const SAMPLE_RATE: f64 = 48_000.0;
const WINDOW: usize = 4_800;
/// Frequencies looked for, hertz. A window tells 10 Hz apart.
const CANDIDATES: std::ops::RangeInclusive<u32> = 10..=200;
const STEP: f64 = 10.0;
/// Quieter windows count as silence (root mean square).
const SILENCE: f32 = 0.003;
/// Windows that are remembered: the last minute.
const REMEMBERED: usize = 600;

/// Follows one channel.
#[derive(Default)]
pub struct Ear {
    window: Vec<f32>,
    heard: VecDeque<f64>,
    pub silent_windows: u64,
}

impl Ear {
    pub fn hear(&mut self, samples: impl Iterator<Item = f32>) {
        for sample in samples {
            self.window.push(sample);
            if self.window.len() == WINDOW {
                self.judge();
                self.window.clear();
            }
        }
    }

    fn judge(&mut self) {
        let power: f32 = self.window.iter().map(|s| s * s).sum::<f32>() / WINDOW as f32;
        if power.sqrt() < SILENCE {
            self.silent_windows += 1;
            return;
        }
        let powers: Vec<f64> =
            CANDIDATES.map(|n| goertzel(&self.window, f64::from(n) * STEP)).collect();
        let loudest = (0..powers.len()).max_by(|a, b| powers[*a].total_cmp(&powers[*b]));
        let loudest = f64::from(*CANDIDATES.start()) * STEP + loudest.unwrap_or(0) as f64 * STEP;
        let around = (-9..=9).map(|hz| loudest + f64::from(hz));
        let powers = around.map(|hz| (hz, goertzel(&self.window, hz)));
        let best = powers.max_by(|a, b| a.1.total_cmp(&b.1)).map_or(loudest, |(hz, _)| hz);
        if self.heard.len() == REMEMBERED {
            self.heard.pop_front();
        }
        self.heard.push_back(best);
    }

    /// The median of the windows that were not silent. None: all were.
    pub fn hertz(&self) -> Option<f64> {
        let mut sorted: Vec<f64> = self.heard.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }
}

fn goertzel(samples: &[f32], hertz: f64) -> f64 {
    let coefficient = 2.0 * (std::f64::consts::TAU * hertz / SAMPLE_RATE).cos();
    let (mut one, mut two) = (0.0, 0.0);
    for sample in samples {
        let next = f64::from(*sample) + coefficient * one - two;
        two = one;
        one = next;
    }
    one * one + two * two - coefficient * one * two
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sine(hertz: f64, windows: usize) -> impl Iterator<Item = f32> {
        let at =
            move |n: usize| (std::f64::consts::TAU * hertz * n as f64 / SAMPLE_RATE).sin() * 0.2;
        (0..WINDOW * windows).map(move |n| at(n) as f32)
    }

    #[test]
    fn a_tone_is_named_beeps_and_silence_are_not() {
        let mut ear = Ear::default();
        ear.hear(std::iter::repeat_n(0.0, WINDOW * 20));
        assert_eq!((ear.hertz(), ear.silent_windows), (None, 20));
        ear.hear(sine(880.0, 1));
        ear.hear(sine(440.0, 9));
        assert!((ear.hertz().unwrap() - 440.0).abs() <= 1.0, "{:?}", ear.hertz());
        let mut other = Ear::default();
        other.hear(sine(523.0, 5));
        assert!((other.hertz().unwrap() - 523.0).abs() <= 2.0, "{:?}", other.hertz());
    }
}
