//! UDP: the viewers' connected sockets that media leaves by, and the door's sockets that a
//! stranger's first datagram comes to.
//!
//! It moves bytes and addresses. Whose a datagram is, is decided elsewhere; so is what it says.
//! System calls that need raw pointers are in `sys`, nothing else is unsafe.

mod door;
mod gso;
mod pacer;
mod sys;
#[cfg(test)]
mod tests;

pub use door::{Connected, DoorDatagram, DoorSocket, Family};
pub use gso::{MediaSocket, SendStatistics, Traffic};
pub use pacer::Pacer;
pub use sys::Batch;

use rustix::thread::{ClockId, Timespec, clock_nanosleep_absolute};
use rustix::time::clock_gettime;

use crate::time::Time;

/// CLOCK_MONOTONIC.
pub fn now() -> Time {
    let now = clock_gettime(rustix::time::ClockId::Monotonic);
    Time(now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned())
}

/// Sleeps until `time` on CLOCK_MONOTONIC; returns at once if that has passed.
fn sleep_until(time: Time) {
    let request = Timespec {
        tv_sec: (time.0 / 1_000_000_000).cast_signed(),
        tv_nsec: (time.0 % 1_000_000_000).cast_signed(),
    };
    while clock_nanosleep_absolute(ClockId::Monotonic, &request) == Err(rustix::io::Errno::INTR) {}
}
