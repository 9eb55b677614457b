//! When the datagrams of a frame may leave, so that a burst does not overrun the slowest queue on
//! the way.
//!
//! It only computes; whoever sends does the waiting. Source: Sunshine src/stream.cpp
//! (videoBroadcastThread): at most a batch at once, and on average no more than the budget of the
//! link per millisecond. What a frame overdraws is waited for before the next one.
use std::time::Duration;

use crate::time::Time;

/// Segments that the kernel takes in one call.
pub const SEGMENTS_MAX: usize = 64;
/// Bytes of one batch.
const BATCH_BYTES_MAX: usize = 65_536;
/// Share of the link that media may use, in percent.
const LINK_PERCENT: u64 = 80;

/// The state of one stream's sender.
#[derive(Clone, Debug)]
pub struct Pacer {
    /// Datagrams of one batch.
    batch: usize,
    /// Datagrams per millisecond; `None`: no limit.
    per_ms: Option<u64>,
    frame_start: Time,
    in_frame: u64,
    since_wait: u64,
}

/// What may be sent next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacedBatch {
    /// Not before this; `None`: at once.
    pub at: Option<Time>,
    /// Datagrams, at least 1.
    pub datagrams: usize,
}

impl Pacer {
    /// For datagrams of `datagram_bytes` bytes over a link of `link_bits` bit/s.
    pub fn new(datagram_bytes: usize, link_bits: u64) -> Self {
        let per_ms = link_bits * LINK_PERCENT / 100 / 1000 / 8 / datagram_bytes as u64;
        Self { per_ms: Some(per_ms.max(1)), ..Self::unlimited(datagram_bytes) }
    }

    /// Batches without waits.
    pub fn unlimited(datagram_bytes: usize) -> Self {
        assert!((1..=BATCH_BYTES_MAX).contains(&datagram_bytes));
        Self {
            batch: (BATCH_BYTES_MAX / datagram_bytes).min(SEGMENTS_MAX),
            per_ms: None,
            frame_start: Time::ZERO,
            in_frame: 0,
            since_wait: 0,
        }
    }

    /// A new frame begins at `now`.
    pub fn begin_frame(&mut self, now: Time) {
        self.frame_start = self.paid_off().max(now);
        self.in_frame = 0;
        self.since_wait = 0;
    }

    /// The next batch of `remaining` (>= 1) datagrams. Call once per batch that is sent.
    pub fn next_batch(&mut self, remaining: usize, now: Time) -> PacedBatch {
        assert!(remaining > 0);
        let is_due = self.in_frame == 0 || self.per_ms.is_some_and(|n| self.since_wait >= n);
        let mut at = None;
        if is_due {
            at = Some(self.paid_off()).filter(|at| *at > now);
            self.since_wait = 0;
        }
        let datagrams = remaining.min(self.batch);
        self.in_frame += datagrams as u64;
        self.since_wait += datagrams as u64;
        PacedBatch { at, datagrams }
    }

    /// When what was sent so far is within the budget.
    fn paid_off(&self) -> Time {
        let Some(per_ms) = self.per_ms else { return self.frame_start };
        self.frame_start + Duration::from_nanos(self.in_frame * 1_000_000 / per_ms)
    }
}
