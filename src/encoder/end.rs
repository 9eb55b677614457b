//! The end of this process: at once, past destructors and exit hooks that could wait for a hung
//! encoder.
#![expect(unsafe_code, reason = "_exit")]

/// The session asked for it, or is gone, or has replaced this encoder.
pub const DONE: i32 = 0;
/// It failed; the reason was told.
pub const FAILED: i32 = 1;
/// It was not started by a session.
pub const MISUSED: i32 = 2;
/// A thread panicked: a bug of ours.
pub const PANICKED: i32 = 101;

/// Ends this process.
pub fn end(code: i32) -> ! {
    // SAFETY: ends the process; nothing runs after it.
    unsafe { libc::_exit(code) }
}
