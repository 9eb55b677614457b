//! What a desktop counts and measures. Written by its thread, read by anyone.
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::proc::histogram::Histogram;

/// How many drawings the percentiles look back on.
const WINDOW: usize = 256;

/// One count or gauge.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub fn subtract(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The figures of one desktop.
#[derive(Debug, Default)]
pub struct Figures {
    /// Frames handed to an encoder, without repetitions.
    pub frames_drawn: Count,
    /// Unchanged pictures handed over again.
    pub frames_repeated: Count,
    /// Frames lost because the encoder held all slots.
    pub frames_dropped_no_slot: Count,
    /// Frames lost because the encoder did not read its link.
    pub frames_dropped_link_full: Count,
    /// Frames lost because the ring does not have the size of the mode.
    pub frames_dropped_ring_size: Count,
    /// Frames lost because drawing failed as a whole.
    pub frames_dropped_render: Count,
    /// Frames that lack a surface because its buffer could not be read.
    pub pieces_left_out: Count,
    /// Hand-backs that named no frame in flight.
    pub hand_backs_refused: Count,
    /// Surface commits.
    pub commits: Count,
    /// Wayland clients connected now.
    pub clients: Count,
    /// Windows and layers that show something now.
    pub showing: Count,
    /// Rounds of events after which something was shown that was not before.
    pub shown: Count,
    /// Connections refused because too many were open.
    pub clients_refused: Count,
    /// Clients cut off for asking too much.
    pub clients_cut_off: Count,
    pub input_events: Count,
    /// Input events without an effect: duplicates, unmapped keys, too many fingers.
    pub input_ignored: Count,
    /// How long drawings took.
    pub drawing: Histogram,
    render_us: Mutex<RenderTimes>,
}

#[derive(Debug, Default)]
struct RenderTimes {
    last: u32,
    window: Vec<u32>,
    next: usize,
}

impl Figures {
    /// One drawing took this long.
    pub fn rendered(&self, took: Duration) {
        self.drawing.record(took);
        let us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let mut times = self.render_us.lock().unwrap_or_else(|e| e.into_inner());
        times.last = us;
        let next = times.next;
        match times.window.get_mut(next) {
            Some(slot) => *slot = us,
            None => times.window.push(us),
        }
        times.next = (next + 1) % WINDOW;
    }

    /// All figures by name; the names end in their unit where they have one.
    pub fn snapshot(&self) -> BTreeMap<String, f64> {
        let (last, mut window) = {
            let times = self.render_us.lock().unwrap_or_else(|e| e.into_inner());
            (times.last, times.window.clone())
        };
        window.sort_unstable();
        let percentile = |p: usize| match window.len() {
            0 => 0,
            n => window[(n - 1) * p / 100],
        };
        [
            ("frames_drawn", self.frames_drawn.value()),
            ("frames_repeated", self.frames_repeated.value()),
            ("frames_dropped_no_slot", self.frames_dropped_no_slot.value()),
            ("frames_dropped_link_full", self.frames_dropped_link_full.value()),
            ("frames_dropped_ring_size", self.frames_dropped_ring_size.value()),
            ("frames_dropped_render", self.frames_dropped_render.value()),
            ("pieces_left_out", self.pieces_left_out.value()),
            ("hand_backs_refused", self.hand_backs_refused.value()),
            ("commits", self.commits.value()),
            ("clients", self.clients.value()),
            ("showing", self.showing.value()),
            ("shown", self.shown.value()),
            ("clients_refused", self.clients_refused.value()),
            ("clients_cut_off", self.clients_cut_off.value()),
            ("input_events", self.input_events.value()),
            ("input_ignored", self.input_ignored.value()),
            ("render_us_last", u64::from(last)),
            ("render_us_p50", u64::from(percentile(50))),
            ("render_us_p99", u64::from(percentile(99))),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value as f64))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_look_back_on_the_last_drawings_only() {
        let figures = Figures::default();
        assert_eq!(figures.snapshot()["render_us_p50"], 0.0);
        for _ in 0..WINDOW {
            figures.rendered(Duration::from_secs(9));
        }
        for us in 1..=WINDOW as u64 {
            figures.rendered(Duration::from_micros(us));
        }
        let all = figures.snapshot();
        assert_eq!(all["render_us_last"], WINDOW as f64);
        assert_eq!(all["render_us_p50"], 128.0);
        assert!(all["render_us_p99"] <= WINDOW as f64);
    }
}
