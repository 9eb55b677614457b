//! A cgroup of version 2 for one app, so that nothing of it can hide from its end. Best effort: most
//! containers mount the tree read-only; the process group and the adopted orphans remain then.
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Where the tree is mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// A made cgroup; removed when dropped, if it is empty.
#[derive(Debug)]
pub struct Cgroup {
    directory: PathBuf,
}

impl Cgroup {
    /// A child of our own cgroup; None where that is not possible.
    pub fn create(name: &str) -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let parent = Path::new(ROOT).join(own);
        if !parent.join("cgroup.procs").exists() {
            return None;
        }
        let directory = parent.join(name);
        fs::create_dir(&directory).ok()?;
        Some(Self { directory })
    }

    /// `cgroup.procs`, opened to be written by a process that is to enter.
    pub fn entrance(&self) -> io::Result<OwnedFd> {
        let file = fs::OpenOptions::new().write(true).open(self.directory.join("cgroup.procs"))?;
        Ok(file.into())
    }

    /// SIGKILL to all in it. Kernels before 5.14 lack the file; the group's kill remains.
    pub fn kill(&self) {
        let _ = fs::write(self.directory.join("cgroup.kill"), "1");
    }

    pub fn is_empty(&self) -> bool {
        let events = fs::read_to_string(self.directory.join("cgroup.events"));
        events.map_or(true, |events| events.lines().any(|line| line == "populated 0"))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.directory);
    }
}
