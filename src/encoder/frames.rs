//! The thread that takes notes of drawn slots from the frame link and queues them for the chain.
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::end::{self, end};
use super::shared::Shared;
use crate::ipc::FrameNote;
use crate::media::pipeline::Fate;
use crate::proc::link::{Link, LinkError};
use crate::proc::page::Figure;

/// How long one wait for a note may be.
const WAIT: Duration = Duration::from_secs(1);
/// Longer than any note: what is longer is none.
const NOTE_BYTES_MAX: usize = 2 * FrameNote::BYTES;

/// Runs until the session closes the link, which ends the process.
pub fn run(shared: &Shared, link: &Link) {
    let wait = Timespec::try_from(WAIT).expect("a second is in range");
    loop {
        let mut fds = [PollFd::new(link, PollFlags::IN)];
        let _ = poll(&mut fds, Some(&wait));
        while take_one(shared, link) {}
    }
}

/// Queues one frame; false if no more are there.
fn take_one(shared: &Shared, link: &Link) -> bool {
    let mut buffer = [0; NOTE_BYTES_MAX];
    // Fds that may come with a note are none of ours yet: dropping closes them.
    let note = match link.receive_bytes(&mut buffer) {
        Ok((length, _fds)) => FrameNote::from_bytes(&buffer[..length]),
        Err(LinkError::Empty) => return false,
        Err(LinkError::Malformed(_)) => None,
        Err(_) => end(end::DONE),
    };
    let Some(note) = note else {
        tracing::warn!("not a frame note");
        return true;
    };
    shared.page.add(Figure::FramesReceived, 1);
    shared.returns.take_out();
    if shared.chain.slots().memory(note.slot).is_none() {
        tracing::warn!(slot = note.slot, "the ring has no such slot");
        shared.returns.give_back(note, Fate::Dropped);
    } else {
        shared.chain.push(note);
    }
    true
}
