//! Durations in buckets that double. All atomics, of fixed layout, all zero when empty: it may lie in
//! memory that processes share.
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::ipc::Timed;

const BUCKETS: usize = 28;

/// Bucket n counts the durations below 2^n microseconds, the last one all others.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

impl Histogram {
    pub fn record(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - us.leading_zeros()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// How many were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|b| b.load(Ordering::Relaxed)).fold(0, u64::saturating_add)
    }

    /// (upper bound in microseconds, how many were below it), ascending; the last bound is open.
    pub fn cumulative(&self) -> Vec<(u64, u64)> {
        let mut below = 0_u64;
        let counted = self.buckets.iter().enumerate().map(|(n, bucket)| {
            below = below.saturating_add(bucket.load(Ordering::Relaxed));
            (if n == BUCKETS - 1 { u64::MAX } else { 1 << n }, below)
        });
        counted.collect()
    }

    /// All of it under a name.
    pub fn timed(&self, name: &str, meaning: &str) -> Timed {
        Timed {
            name: name.to_owned(),
            meaning: meaning.to_owned(),
            cumulative: self.cumulative(),
            sum_us: self.sum_us.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_doubling_buckets() {
        let histogram = Histogram::default();
        for us in [0, 1, 2, 3, 4, 1000, u64::MAX] {
            histogram.record(Duration::from_micros(us));
        }
        let timed = histogram.timed("x", "X");
        assert_eq!(timed.cumulative[..4], [(1, 1), (2, 2), (4, 4), (8, 5)]);
        assert_eq!(timed.cumulative[10], (1024, 6));
        assert_eq!(*timed.cumulative.last().unwrap(), (u64::MAX, 7));
        assert_eq!(histogram.count(), 7);
    }
}
