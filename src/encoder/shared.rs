//! What the threads of this process share.
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::end::{self, end};
use super::key_budget::KeyBudget;
use crate::ipc::{FrameNote, FromEncoder};
use crate::limits::RING_SLOTS;
use crate::media::pipeline::{Fate, Pipeline};
use crate::net;
use crate::proc::link::{Link, LinkError};
use crate::proc::page::{Figure, ViewerPage};

/// Hand-backs kept while the frame link is full; each slot is out only once.
const HELD_MAX: usize = 4 * RING_SLOTS;

/// The way back of slots, and the accounts of the frames that were in them.
pub struct Returns {
    link: Link,
    page: Arc<ViewerPage>,
    held: Mutex<Vec<FrameNote>>,
    /// Slots of the ring, and how many of them the chain has.
    slots: u32,
    out: AtomicU32,
}

impl Returns {
    pub fn new(link: Link, page: Arc<ViewerPage>, slots: u32) -> Self {
        Self { link, page, held: Mutex::default(), slots, out: AtomicU32::new(0) }
    }

    /// A slot goes into the chain, or would: it comes back by [`Returns::give_back`].
    pub fn take_out(&self) {
        self.out.fetch_add(1, Ordering::Relaxed);
    }

    /// The chain has every slot of the ring.
    pub fn are_all_out(&self) -> bool {
        self.out.load(Ordering::Relaxed) >= self.slots
    }

    /// A slot is free: tells the session, without blocking, from any thread.
    pub fn give_back(&self, note: FrameNote, fate: Fate) {
        self.out.fetch_sub(1, Ordering::Relaxed);
        if fate == Fate::Dropped {
            self.page.add(Figure::FramesDropped, 1);
            self.page.add(Figure::DroppedOvertaken, 1);
        }
        if let Err(LinkError::Full) = self.link.send_bytes(&note.to_bytes(), &[]) {
            let mut held = lock(&self.held);
            if held.len() < HELD_MAX {
                held.push(note);
            }
        }
    }

    /// Tries again what the full link did not take.
    pub fn retry(&self) {
        lock(&self.held).retain(|note| {
            matches!(self.link.send_bytes(&note.to_bytes(), &[]), Err(LinkError::Full))
        });
    }
}

/// The chain and everything around it.
pub struct Shared {
    pub chain: Pipeline,
    pub page: Arc<ViewerPage>,
    /// Under which counters are reserved.
    pub epoch: u16,
    pub returns: Arc<Returns>,
    pub control: Link,
    pub keys: Mutex<KeyBudget>,
    /// A video socket that the sender has not yet taken.
    pub socket: Mutex<Option<OwnedFd>>,
    /// Parity of the next frame.
    pub fec_percent: AtomicU8,
    /// Encoded frames that the sender is done with.
    pub done: AtomicU64,
}

impl Shared {
    /// A key frame is wanted, as far as the budget goes.
    pub fn want_key(&self) {
        if lock(&self.keys).ask(net::now()) {
            self.chain.want_key();
        }
    }

    /// Tells the session why, and ends this process.
    pub fn fail(&self, reason: String) -> ! {
        fail(&self.control, reason)
    }
}

/// Tells the session why, and ends this process.
pub fn fail(control: &Link, reason: String) -> ! {
    tracing::error!(reason, "the encoder ends");
    // A full or closed link: the end itself tells.
    let _ = control.send(&FromEncoder::Failed { reason }, &[]);
    end(end::FAILED)
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
