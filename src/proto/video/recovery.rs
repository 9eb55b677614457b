//! What a client does about lost frames: which frames it shows, and what it asks the host for.
//!
//! It follows the client's depacketizer: after a loss nothing is shown until a frame of the right
//! kind arrives. Source: moonlight-common-c src/VideoDepacketizer.c.
use super::packet::FrameKind;

/// Frames that a waiting client throws away before it asks for a key frame (again).
const DISCARDED_FRAMES_MAX: u32 = 120;

/// What the client asks for on the control stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// 0x0302: the next frame must be a key frame.
    Idr,
    /// 0x0301: no frame may refer to frames `first..=last`.
    Invalidate { first: u32, last: u32 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    Nothing,
    Idr,
    /// For a frame that starts anew or avoids the lost ones.
    Invalidation,
}

/// The state of one stream, from its first frame on.
#[derive(Debug)]
pub struct Recovery {
    /// The decoder can do without lost references, so invalidation is asked for.
    invalidation: bool,
    waiting: Waiting,
    /// Ask for a key frame when the next frame is complete.
    ask_at_next: bool,
    discarded: u32,
    /// The frame after the last one that was shown.
    after_good: u32,
}

impl Recovery {
    pub fn new(invalidation: bool) -> Self {
        let waiting = Waiting::Idr;
        Self { invalidation, waiting, ask_at_next: false, discarded: 0, after_good: 1 }
    }

    /// Nothing is shown until a frame of the right kind arrives.
    pub fn is_waiting(&self) -> bool {
        self.waiting != Waiting::Nothing
    }

    /// A loss now would be answered with a request for invalidation.
    pub fn can_invalidate(&self) -> bool {
        self.invalidation && self.waiting != Waiting::Idr
    }

    /// Frames up to `last` will not arrive.
    pub fn lost(&mut self, last: u32) -> Option<Request> {
        if self.can_invalidate() {
            self.waiting = Waiting::Invalidation;
            return Some(Request::Invalidate { first: self.after_good, last });
        }
        self.waiting = Waiting::Idr;
        self.ask_at_next = true;
        None
    }

    /// Frame `index` is complete. Whether it is shown, and what is asked for if it is not.
    pub fn complete(&mut self, index: u32, kind: FrameKind) -> (bool, Option<Request>) {
        let is_shown = match self.waiting {
            Waiting::Nothing => true,
            Waiting::Idr => kind == FrameKind::Idr,
            Waiting::Invalidation => kind != FrameKind::Predicted,
        };
        if is_shown {
            self.waiting = Waiting::Nothing;
            self.ask_at_next = false;
            self.discarded = 0;
            self.after_good = index.wrapping_add(1);
            return (true, None);
        }
        self.discarded += 1;
        let asks = self.ask_at_next || self.discarded >= DISCARDED_FRAMES_MAX;
        if asks {
            self.ask_at_next = false;
            self.discarded = 0;
            self.waiting = Waiting::Idr;
        }
        (false, asks.then_some(Request::Idr))
    }
}
