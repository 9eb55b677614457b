//! What a session left behind: processes that carry its mark (its directory in their environment or
//! its id in their arguments), strays that came to their subreaper, and all that descends from them.
//!
//! A session's process is a subreaper itself, so only those of dead sessions come to the supervisor.
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use crate::ipc::SessionId;
use crate::ops::ports::pids;

/// Rounds of looking; a process that forks faster than this is left to the cgroup.
const ROUNDS: usize = 3;

/// Kills every process of a session whose own process has ended, and every child of `subreaper`.
/// `except` are never touched.
pub fn kill(id: SessionId, subreaper: Option<u32>, except: &BTreeSet<u32>) {
    for _ in 0..ROUNDS {
        let found = of_session(id, subreaper, except);
        if found.is_empty() {
            return;
        }
        for pid in found {
            tracing::debug!(session = %id, pid, "left behind: killed");
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// The processes of a session that live.
fn of_session(id: SessionId, subreaper: Option<u32>, except: &BTreeSet<u32>) -> BTreeSet<u32> {
    let mark = id.to_string();
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let mut found = Vec::new();
    for pid in pids() {
        // A zombie has no memory to read a mark from and nothing left to kill.
        let Some((state, parent)) = state_and_parent(pid) else { continue };
        if state == 'Z' || pid == std::process::id() || except.contains(&pid) {
            continue;
        }
        children.entry(parent).or_default().push(pid);
        let strayed = subreaper == Some(parent) && !is_probe(pid);
        if strayed || carries(pid, mark.as_bytes()) {
            found.push(pid);
        }
    }
    let mut all = BTreeSet::new();
    while let Some(pid) = found.pop() {
        if all.insert(pid) {
            found.extend(children.get(&pid).into_iter().flatten());
        }
    }
    all
}

/// Our own processes carry the id as an argument, all others the directory as XDG_RUNTIME_DIR or the
/// like. An editor that has such a path among its arguments is not the session's.
fn carries(pid: u32, mark: &[u8]) -> bool {
    let read = |name| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let holds = |text: &[u8]| text.windows(mark.len()).any(|window| window == mark);
    let arguments = read("cmdline");
    let ours = arguments.split(|byte| *byte == 0).next() == Some(b"moonshard");
    let directory = [b"/sessions/".as_slice(), mark].concat();
    (ours && holds(&arguments)) || read("environ").windows(directory.len()).any(|w| w == directory)
}

/// A short-lived child of the supervisor itself, by which readiness is judged.
fn is_probe(pid: u32) -> bool {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    arguments.starts_with(b"moonshard\0probe")
}

/// From proc_pid_stat(5); the command's name may hold anything, so what follows its last ')' counts.
fn state_and_parent(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut columns = stat.rsplit_once(") ")?.1.split(' ');
    Some((columns.next()?.chars().next()?, columns.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn all_that_carries_the_mark_is_killed_with_its_descendants_and_nothing_else() {
        let id = SessionId(0x5e55_1011_0000_0001 ^ u64::from(std::process::id()));
        let start = |session: SessionId| {
            Command::new("sh")
                .args(["-c", "env -i sleep 60 & wait"])
                .env("XDG_RUNTIME_DIR", format!("/run/moonshard/sessions/{session}"))
                .stdin(Stdio::null())
                .spawn()
                .unwrap()
        };
        let (mut ours, mut other) = (start(id), start(SessionId(id.0 + 1)));
        let grown = |pid: u32| {
            (0..500).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(10));
                pids().into_iter().any(|p| {
                    state_and_parent(p).is_some_and(|(_, parent)| parent == pid)
                        && fs::read(format!("/proc/{p}/cmdline"))
                            .unwrap_or_default()
                            .starts_with(b"sleep")
                })
            })
        };
        assert!(grown(ours.id()) && grown(other.id()));
        let found = of_session(id, None, &BTreeSet::new());
        assert_eq!(found.len(), 2, "the shell and its child, whose environment is empty");
        assert!(!of_session(id, None, &BTreeSet::from([ours.id()])).contains(&ours.id()));
        let strays = of_session(SessionId(id.0 + 2), Some(ours.id()), &BTreeSet::new());
        assert_eq!(strays.len(), 1, "a child of the subreaper");
        kill(id, None, &BTreeSet::new());
        assert!(!ours.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        kill(SessionId(id.0 + 1), None, &BTreeSet::new());
        let _ = other.wait();
    }
}
