//! Processes that the app left behind and that this process, a subreaper, adopted: reaped when they
//! end, signalled when the app is to end.
//!
//! Only a parent can reap a child, so the number of a child that was not reaped is no stranger's.
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

/// Makes orphans below this process its children. Call before anything is started.
pub fn adopt() {
    if let Err(e) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
        tracing::warn!(error = %e, "orphans of the app go to another process");
    }
}

/// The children of this process's main thread: those it started, and the adopted ones. A child that
/// another thread started is not among them.
pub fn children() -> Vec<u32> {
    let pid = std::process::id();
    let list = std::fs::read_to_string(format!("/proc/self/task/{pid}/children"));
    let list = list.unwrap_or_default();
    list.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// Reaps all children that have ended, except `known` ones; returns how many others still live.
pub fn reap(known: &[u32]) -> usize {
    strangers(known)
        .filter(|pid| {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            matches!(rustix::process::waitid(WaitId::Pid(*pid), options), Ok(None))
        })
        .count()
}

/// Signals all children except `known` ones.
pub fn signal(known: &[u32], signal: Signal) {
    for pid in strangers(known) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

fn strangers(known: &[u32]) -> impl Iterator<Item = Pid> {
    let children = children().into_iter().filter(|pid| !known.contains(pid));
    children.filter_map(|pid| i32::try_from(pid).ok().and_then(Pid::from_raw))
}
