//! What the configuration takes from the machine and the user, passed in as values.
use std::path::{Path, PathBuf};

/// The facts that defaults depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    pub root: bool,
    pub home: Option<PathBuf>,
    /// $XDG_STATE_HOME
    pub state_home: Option<PathBuf>,
    /// $XDG_RUNTIME_DIR
    pub runtime_home: Option<PathBuf>,
    /// The machine's own name.
    pub host_name: String,
    /// Cores that this process may use.
    pub cores: Vec<usize>,
}

impl Surroundings {
    /// Where pairings and the host's identity live by default.
    pub(super) fn state_dir(&self) -> Result<PathBuf, String> {
        if let Some(dir) = absolute(self.state_home.as_deref()) {
            return Ok(dir.join("moonshard"));
        }
        if self.root {
            return Ok("/var/lib/moonshard".into());
        }
        absolute(self.home.as_deref())
            .map(|home| home.join(".local/state/moonshard"))
            .ok_or_else(|| "neither HOME nor XDG_STATE_HOME is set: set `state_dir`".into())
    }

    /// Where sockets and session directories live by default.
    pub(super) fn runtime_dir(&self) -> Result<PathBuf, String> {
        if let Some(dir) = absolute(self.runtime_home.as_deref()) {
            return Ok(dir.join("moonshard"));
        }
        if self.root {
            return Ok("/run/moonshard".into());
        }
        Err("XDG_RUNTIME_DIR is not set: log in as this user with a session of its own \
             (`loginctl enable-linger`), or set `runtime_dir`"
            .into())
    }
}

/// The XDG rules: a path that is not absolute counts as not set.
fn absolute(path: Option<&Path>) -> Option<&Path> {
    path.filter(|path| path.is_absolute())
}
