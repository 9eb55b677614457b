//! Which frames are inside the chain, and which of them is to be a key frame.
//!
//! A frame is queued, taken (it left the queue), entered (it reached the encoder), and comes out
//! encoded; a newer one may push it out of the queue. Pure bookkeeping: no GStreamer, no clock. A
//! frame is known by its time stamp, the one thing that every element keeps.
use std::collections::VecDeque;

use crate::ipc::FrameNote;

/// Frames kept at most; the oldest is forgotten. More than any chain holds.
const FLIGHTS_MAX: usize = 32;

/// The frames in the chain, oldest first.
#[derive(Debug, Default)]
pub struct Flights {
    frames: VecDeque<Flight>,
    last_pts: u64,
    /// Frames that reached the encoder so far.
    entered: u64,
    /// The first frame, counted as `entered`, that may satisfy the request for a key frame.
    key_due: Option<u64>,
}

#[derive(Debug)]
struct Flight {
    pts: u64,
    note: FrameNote,
    taken: bool,
    /// Its number among those that reached the encoder, from 1; 0: not yet.
    ordinal: u64,
}

/// What an encoded frame means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Landing {
    /// The frame that it was made from.
    pub note: Option<FrameNote>,
    /// Earlier frames that the encoder swallowed.
    pub swallowed: u64,
    /// A key frame was due and this is none: ask the encoder again.
    pub ask_again: bool,
}

impl Flights {
    /// Queues a frame; returns its time stamp, ns: the capture time, but always rising.
    pub fn queue(&mut self, note: FrameNote) -> u64 {
        self.last_pts = note.captured_ns.max(self.last_pts + 1);
        if self.frames.len() == FLIGHTS_MAX {
            self.frames.pop_front();
        }
        self.frames.push_back(Flight { pts: self.last_pts, note, taken: false, ordinal: 0 });
        self.last_pts
    }

    /// The frame has left the queue.
    pub fn take(&mut self, pts: u64) {
        if let Some(flight) = self.frames.iter_mut().find(|f| f.pts == pts) {
            flight.taken = true;
        }
    }

    /// The frame has reached the encoder.
    pub fn enter(&mut self, pts: u64) {
        self.entered += 1;
        if let Some(flight) = self.frames.iter_mut().find(|f| f.pts == pts) {
            flight.taken = true;
            flight.ordinal = self.entered;
        }
    }

    /// The slot of the frame is free. True: a newer frame has pushed it out of the queue.
    pub fn release(&mut self, pts: u64) -> bool {
        let Some(at) = self.frames.iter().position(|f| f.pts == pts && !f.taken) else {
            return false;
        };
        self.frames.remove(at);
        true
    }

    /// The encoder gave the frame with this time stamp.
    pub fn land(&mut self, pts: u64, is_key: bool) -> Landing {
        let mut landing = Landing::default();
        let Some(at) = self.frames.iter().position(|f| f.pts == pts) else {
            return landing;
        };
        landing.swallowed = at as u64;
        let flight = self.frames.drain(..=at).next_back();
        if let Some(flight) = flight {
            landing.note = Some(flight.note);
            if self.key_due.is_some_and(|due| flight.ordinal >= due) {
                landing.ask_again = !is_key;
                self.key_due = (!is_key).then_some(self.entered + 1);
            }
        }
        landing
    }

    /// A key frame is wanted. True: tell the encoder now; false: it was told, and the frame that
    /// will be the key frame has not yet reached it.
    pub fn want_key(&mut self) -> bool {
        if self.key_due.is_some_and(|due| due > self.entered) {
            return false;
        }
        self.key_due = Some(self.entered + 1);
        true
    }

    /// Frames are in the chain that have not come out.
    pub fn is_waiting(&self) -> bool {
        !self.frames.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(seq: u64, captured_ns: u64) -> FrameNote {
        FrameNote { slot: 0, seq, captured_ns, repeated: false }
    }

    #[test]
    fn time_stamps_rise_also_when_capture_times_do_not() {
        let mut flights = Flights::default();
        assert_eq!(flights.queue(note(1, 100)), 100);
        assert_eq!(flights.queue(note(2, 100)), 101);
        assert_eq!(flights.queue(note(3, 50)), 102);
        assert_eq!(flights.queue(note(4, 500)), 500);
    }

    #[test]
    fn only_a_frame_that_never_left_the_queue_was_pushed_out() {
        let mut flights = Flights::default();
        let (a, b) = (flights.queue(note(1, 10)), flights.queue(note(2, 20)));
        flights.take(a);
        assert!(flights.release(b));
        assert!(!flights.release(a));
        assert!(flights.is_waiting());
        assert_eq!(flights.land(a, true).note, Some(note(1, 10)));
        assert!(!flights.is_waiting());
    }

    #[test]
    fn a_frame_that_comes_out_ends_the_wait_for_those_before_it() {
        let mut flights = Flights::default();
        let pts: Vec<u64> = (1..=3).map(|i| flights.queue(note(i, i * 10))).collect();
        pts.iter().for_each(|pts| flights.enter(*pts));
        let landing = flights.land(pts[2], false);
        assert_eq!((landing.note, landing.swallowed), (Some(note(3, 30)), 2));
        assert!(!flights.is_waiting());
        assert_eq!(flights.land(12345, false), Landing::default());
    }

    #[test]
    fn requests_meet_in_one_key_frame_and_are_repeated_until_it_comes() {
        let mut flights = Flights::default();
        let a = flights.queue(note(1, 10));
        flights.enter(a);
        assert!(flights.want_key());
        assert!(!flights.want_key());
        // The frame that was inside at the request does not count.
        assert!(!flights.land(a, false).ask_again);
        let b = flights.queue(note(2, 20));
        flights.enter(b);
        // The next one has entered: a further request is a new one.
        assert!(flights.want_key());
        assert!(!flights.land(b, true).ask_again);
        let c = flights.queue(note(3, 30));
        flights.enter(c);
        assert!(flights.land(c, false).ask_again);
        let d = flights.queue(note(4, 40));
        flights.enter(d);
        assert!(!flights.land(d, true).ask_again);
        let e = flights.queue(note(5, 50));
        flights.enter(e);
        assert!(!flights.land(e, false).ask_again);
    }

    #[test]
    fn what_never_comes_out_is_bounded() {
        let mut flights = Flights::default();
        for i in 0..1000 {
            flights.queue(note(i, i));
        }
        assert_eq!(flights.frames.len(), FLIGHTS_MAX);
    }
}
