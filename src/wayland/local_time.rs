//! The time of day where TZ or /etc/localtime says that we are.
#![expect(unsafe_code, reason = "localtime_r")]
use std::mem::MaybeUninit;

/// Hours, minutes and seconds now.
pub fn now() -> (u8, u8, u8) {
    let seconds = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
    let mut broken = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: localtime_r reads the number and writes the structure, which is valid when zeroed too.
    let broken = unsafe {
        libc::localtime_r(&raw const seconds, broken.as_mut_ptr());
        broken.assume_init()
    };
    (broken.tm_hour as u8, broken.tm_min as u8, broken.tm_sec as u8)
}
