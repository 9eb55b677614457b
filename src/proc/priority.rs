//! A thread that paces a stream goes a little ahead of the rest, where that is allowed.
//!
//! What the thread starts (the audio server) does not inherit it.
#![expect(unsafe_code, reason = "rustix does not have sched_setscheduler")]

/// Low among real-time threads: it must only precede what encodes.
const PRIORITY: libc::c_int = 5;
const NICE: i32 = -10;

/// Real-time if that is allowed, else nicer, else as it is.
pub fn prefer_this_thread(thread: &str) {
    let set = |policy, sched_priority| {
        let param = libc::sched_param { sched_priority };
        let policy = policy | libc::SCHED_RESET_ON_FORK;
        // SAFETY: the parameter outlives the call, which concerns this thread only.
        let code = unsafe { libc::sched_setscheduler(0, policy, &raw const param) };
        code == 0
    };
    let way = if set(libc::SCHED_FIFO, PRIORITY) {
        "real-time"
    } else if set(libc::SCHED_OTHER, 0) && rustix::process::nice(NICE).is_ok() {
        "nice"
    } else {
        "none"
    };
    tracing::info!(thread, way, "priority");
}
