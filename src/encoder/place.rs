//! Where this process runs and how much it is preferred. All of it is wished for, none is needed.
use rustix::process::setpriority_process;
use rustix::thread::{CpuSet, sched_setaffinity};

/// A little before what can wait; where the system does not allow it, as everybody.
const NICE: i32 = -5;

/// Takes its place, before any further thread is there (threads inherit it). Returns how many cores
/// this process may use.
pub fn take(cores: &[usize]) -> usize {
    let mut set = CpuSet::new();
    cores.iter().filter(|core| **core < CpuSet::MAX_CPU).for_each(|core| set.set(*core));
    if set.count() > 0
        && let Err(error) = sched_setaffinity(None, &set)
    {
        tracing::warn!(?cores, %error, "not placed on its cores");
    }
    if let Err(error) = setpriority_process(None, NICE) {
        tracing::debug!(%error, "not preferred");
    }
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
