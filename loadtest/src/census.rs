//! Who runs below a process of this machine, and what it holds: read from /proc. It starts and ends
//! nothing.
use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    parent: u32,
    /// The command line, its words parted by blanks.
    pub command: String,
}

/// What a process and all below it hold together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Holdings {
    pub processes: u64,
    pub threads: u64,
    pub files: u64,
    pub resident_kib: u64,
}

/// The process and all its descendants, parents first. Empty: there is no such process.
pub fn tree(root: u32) -> Vec<Process> {
    let mut children: BTreeMap<u32, Vec<Process>> = BTreeMap::new();
    let mut found = Vec::new();
    for pid in pids() {
        let Some(process) = read(pid) else { continue };
        if pid == root {
            found.push(process);
        } else {
            children.entry(process.parent).or_default().push(process);
        }
    }
    let mut next = 0;
    while let Some(process) = found.get(next) {
        found.extend(children.remove(&process.pid).unwrap_or_default());
        next += 1;
    }
    found
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn place(pid: u32, name: &str) -> PathBuf {
    format!("/proc/{pid}/{name}").into()
}

fn read(pid: u32) -> Option<Process> {
    let parent = status(pid, "PPid:")?;
    let line = std::fs::read(place(pid, "cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&line).replace('\0', " ").trim_end().to_owned();
    Some(Process { pid, parent: u32::try_from(parent).ok()?, command })
}

/// A number of /proc/PID/status.
fn status(pid: u32, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(place(pid, "status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What these processes hold; who ended meanwhile counts nothing.
pub fn holdings(processes: &[Process]) -> Holdings {
    let mut sum = Holdings::default();
    for process in processes {
        let Some(threads) = status(process.pid, "Threads:") else { continue };
        let files = std::fs::read_dir(place(process.pid, "fd")).map_or(0, Iterator::count);
        sum.processes += 1;
        sum.threads += threads;
        sum.files += files as u64;
        sum.resident_kib += status(process.pid, "VmRSS:").unwrap_or(0);
    }
    sum
}

/// User and system time so far of a process and all below it. None: there is no such process.
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    let all = tree(pid);
    (!all.is_empty()).then(|| all.iter().filter_map(|process| own_cpu_seconds(process.pid)).sum())
}

fn own_cpu_seconds(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(place(pid, "stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    // USER_HZ is 100 on every Linux.
    Some((f64::from(user) + f64::from(system)) / 100.0)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_child_is_found_counted_and_gone() {
        let own = std::process::id();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let sleeps = || tree(own).into_iter().filter(|p| p.pid == child.id()).collect::<Vec<_>>();
        let found = sleeps();
        assert!(matches!(&found[..], [one] if one.parent == own), "{found:?}");
        let held = holdings(&found);
        assert_eq!((held.processes, held.threads), (1, 1));
        assert!(cpu_seconds(own).is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(tree(child.id()), []);
        assert_eq!(holdings(&found), Holdings::default());
    }
}
