//! What a plain thread shows of itself, so that one that hangs is told from one that waits.
//!
//! A thread that waits in poll() needs no beat to be known as well; at work it must come to an end.
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use super::watch::Pulse;
use crate::shard::{now, starved};
use crate::time::Time;

/// The turns of one thread: from one wait to the next.
#[derive(Debug, Default)]
pub struct Turn {
    thread: AtomicI32,
    /// When the running turn began; zero: it waits.
    begun: AtomicU64,
}

impl Turn {
    /// By the thread itself, when it has waited.
    pub fn begin(&self) {
        self.thread.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
        self.begun.store(now().0, Ordering::Relaxed);
    }

    /// By the thread itself, before it waits and before it ends.
    pub fn end(&self) {
        self.begun.store(0, Ordering::Relaxed);
    }

    /// Its number in the system; zero: not running yet.
    pub fn thread(&self) -> i32 {
        self.thread.load(Ordering::Relaxed)
    }

    /// Alive at this moment if it waits, else at the beginning of its turn.
    pub fn pulse(&self) -> Pulse {
        let beat = match self.begun.load(Ordering::Relaxed) {
            0 => now(),
            begun => Time(begun),
        };
        Pulse { beat, starved: starved(self.thread()) }
    }
}
