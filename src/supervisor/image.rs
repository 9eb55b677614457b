//! The program that fronts and sessions are started from: one file, whatever happens to its path.
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::proc::boot;

/// A program file. It can be started as long as this value lives, also when it was replaced or removed.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    _file: Option<File>,
}

impl Image {
    /// This process's own.
    pub fn own() -> Self {
        Self { path: boot::own_binary(), _file: None }
    }

    /// The one that is at `path` now.
    ///
    /// # Errors
    /// The system's.
    pub fn at(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // As this process has it: in a child that number may be another file's already.
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        Ok(Self { path: path.into(), _file: Some(file) })
    }

    /// Where it can be started from.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
