//! A cgroup for each session where cgroups can be written: then nothing of it escapes its end.
//!
//! Best effort: without one, `orphans` finds what a session left behind.
use std::fs;
use std::path::{Path, PathBuf};

use crate::ipc::SessionId;

/// A session's cgroup; removed with this value.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// The one for a session, made if need be, with `pid` in it. None: not possible here.
    pub fn hold(id: SessionId, pid: u32) -> Option<Self> {
        let path = own()?.join(format!("moonshard-{id}"));
        if !path.is_dir() {
            fs::create_dir(&path).ok()?;
        }
        let cgroup = Self { path };
        fs::write(cgroup.path.join("cgroup.procs"), pid.to_string()).ok()?;
        Some(cgroup)
    }

    /// Kills everything in it (Linux 5.14).
    pub fn kill(&self) {
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
    }

    /// Nothing is in it any more, also no process that waits to be reaped.
    fn is_empty(&self) -> bool {
        fs::read_to_string(self.path.join("cgroup.events"))
            .is_ok_and(|events| events.contains("populated 0"))
    }

    /// Removes it once it is empty; false: not yet.
    pub fn remove(&self) -> bool {
        self.is_empty() && fs::remove_dir(&self.path).is_ok() || !self.path.exists()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// Removes the empty cgroups of sessions that ended while no supervisor ran.
pub fn sweep() {
    let entries = own().and_then(|own| fs::read_dir(own).ok()).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix("moonshard-"));
        if id.is_some_and(|id| SessionId::try_from(id.to_owned()).is_ok()) {
            // Refused by the kernel as long as anything is in it.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// This process's own cgroup in the v2 hierarchy.
fn own() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
    place(&mounts, &membership)
}

/// Reads proc_pid_mountinfo(5) and cgroups(7): where "0::<path>" is mounted.
fn place(mounts: &str, membership: &str) -> Option<PathBuf> {
    let ours = Path::new(membership.lines().find_map(|line| line.strip_prefix("0::"))?);
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        if right.split(' ').next()? != "cgroup2" {
            return None;
        }
        let mut columns = left.split(' ').skip(3);
        let (root, point) = (columns.next()?, columns.next()?);
        Some(Path::new(point).join(ours.strip_prefix(root).ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_cgroup_is_found_in_pure_and_hybrid_hierarchies() {
        let pure = "30 1 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
        let hybrid = "29 1 0:25 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                      30 1 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let membership = "8:pids:/\n0::/system.slice/moonshard.service\n";
        let expected = "/sys/fs/cgroup/system.slice/moonshard.service";
        assert_eq!(place(pure, membership), Some(expected.into()));
        let expected = "/sys/fs/cgroup/unified/system.slice/moonshard.service";
        assert_eq!(place(hybrid, membership), Some(expected.into()));
        assert_eq!(place("", membership), None);
        assert_eq!(place(pure, "8:pids:/\n"), None);
    }
}
