//! What the pattern sounds like: a steady tone, and a beep for as long as the flash field is lit.
use std::f64::consts::TAU;

use crate::audio::player::{Frame, RATE};
use crate::proto::pattern::{BEEP_HZ, TONE_HZ};

/// -18 dBFS.
const AMPLITUDE: f64 = 0.126;
const SECOND_NS: u64 = 1_000_000_000;

/// The tone, going on from block to block.
#[derive(Debug, Default)]
pub struct Sound {
    /// Of the tone, 0 to 1.
    phase: f64,
}

impl Sound {
    /// Fills in frames of which the first is heard at this nanosecond of CLOCK_MONOTONIC.
    pub fn fill(&mut self, start_ns: u64, frames: &mut [Frame]) {
        for (index, frame) in (0..).zip(frames) {
            let time = start_ns + index * SECOND_NS / u64::from(RATE);
            self.phase = (self.phase + TONE_HZ / f64::from(RATE)).fract();
            let mut value = (self.phase * TAU).sin() * AMPLITUDE;
            if super::is_lit(time) {
                let into = (time % SECOND_NS) as f64 / SECOND_NS as f64;
                value += (into * BEEP_HZ * TAU).sin() * AMPLITUDE * 2.0;
            }
            *frame = [(value * f64::from(i16::MAX)) as i16; 2];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Strength of a frequency in the frames, as an amplitude of 0 to 1.
    fn strength(frames: &[Frame], hertz: f64) -> f64 {
        let sum = frames.iter().enumerate().fold((0.0, 0.0), |(re, im), (i, frame)| {
            let angle = TAU * hertz * i as f64 / f64::from(RATE);
            let value = f64::from(frame[0]) / f64::from(i16::MAX);
            (re + value * angle.cos(), im + value * angle.sin())
        });
        2.0 * sum.0.hypot(sum.1) / frames.len() as f64
    }

    #[test]
    fn it_beeps_at_the_second_and_hums_always() {
        let mut sound = Sound::default();
        // 10 ms blocks through 1.5 seconds from a second's beginning.
        for block in 0..150 {
            let mut frames = [[0; 2]; 480];
            sound.fill(7 * SECOND_NS + block * 10_000_000, &mut frames);
            assert_eq!(frames[17][0], frames[17][1]);
            let lit = block < 10 || (100..110).contains(&block);
            let (tone, beep) = (strength(&frames, 440.0), strength(&frames, 880.0));
            assert_eq!(beep > 0.2, lit, "beep of {beep} in block {block}");
            assert!(tone > 0.06, "tone of {tone} in block {block}");
            if !lit {
                assert!((tone - AMPLITUDE).abs() < 0.03, "tone of {tone} in block {block}");
            }
        }
    }
}
