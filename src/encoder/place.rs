//! Where the threads of this process run and how much they are preferred. All of it is wished for,
//! none is needed.
//!
//! Threads inherit the cores of the thread that starts them, so the first one takes its place before
//! there is any other: GStreamer's and the encoders' own then stand where it stands. The sender has a
//! core of its own where there are enough.
use rustix::process::setpriority_process;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::ops::machine;
use crate::proc::priority;

/// A little before what can wait; where the system does not allow it, as everybody.
const NICE: i32 = -5;
/// With fewer cores, and none named, the kernel places threads better than any plan.
const AUTO_CORES_MIN: usize = 4;
/// With fewer cores the sender shares those of the encoder.
const OWN_CORE_MIN: usize = 3;

/// Which cores the threads run on; empty: any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    encode: Vec<usize>,
    send: Vec<usize>,
}

impl Plan {
    /// `named`: the configuration's, empty for none. `allowed`: this process's. `seed` spreads the
    /// senders of many sessions.
    pub fn new(named: &[usize], allowed: &[usize], seed: u64) -> Self {
        let mut encode: Vec<usize> = match named.is_empty() {
            true if allowed.len() < AUTO_CORES_MIN => return Self::default(),
            // The first core is where the control plane begins.
            true => allowed[1..].to_vec(),
            false => named.to_vec(),
        };
        if encode.len() < OWN_CORE_MIN {
            return Self { send: encode.clone(), encode };
        }
        let at = usize::try_from(seed % encode.len() as u64).unwrap_or(0);
        let send = vec![encode.remove(at)];
        Self { encode, send }
    }

    /// For the first thread, before any further one is there. Returns how many cores encode.
    pub fn take(&self) -> usize {
        place(&self.encode);
        if let Err(error) = setpriority_process(None, NICE) {
            tracing::debug!(%error, "not preferred");
        }
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
    }

    /// For the sender's thread.
    pub fn take_for_sending(&self) {
        place(&self.send);
        // It sleeps most of the time, and what it sends late is late for the whole way.
        priority::prefer_this_thread("sender");
    }
}

/// The plan of a process of this machine.
pub fn plan(named: &[usize], seed: u64) -> Plan {
    Plan::new(named, &machine::cores(), seed)
}

fn place(cores: &[usize]) {
    let mut set = CpuSet::new();
    cores.iter().filter(|core| **core < CpuSet::MAX_CPU).for_each(|core| set.set(*core));
    if set.count() > 0
        && let Err(error) = sched_setaffinity(None, &set)
    {
        tracing::warn!(?cores, %error, "not placed on its cores");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(named: &[usize], allowed: &[usize], seed: u64) -> (Vec<usize>, Vec<usize>) {
        let Plan { encode, send } = Plan::new(named, allowed, seed);
        (encode, send)
    }

    #[test]
    fn small_machines_are_left_to_the_kernel_unless_cores_are_named() {
        assert_eq!(plan(&[], &[0, 1, 2], 7), (vec![], vec![]));
        assert_eq!(plan(&[1], &[0, 1], 7), (vec![1], vec![1]));
        assert_eq!(plan(&[0, 1], &[0, 1], 7), (vec![0, 1], vec![0, 1]));
    }

    #[test]
    fn where_there_are_enough_the_sender_has_a_core_of_its_own() {
        assert_eq!(plan(&[], &[0, 1, 2, 3], 0), (vec![2, 3], vec![1]));
        assert_eq!(plan(&[], &[0, 1, 2, 3], 5), (vec![1, 2], vec![3]));
        assert_eq!(plan(&[4, 5, 6], &[0, 1, 2, 3, 4, 5, 6], 1), (vec![4, 6], vec![5]));
    }
}
