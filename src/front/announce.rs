//! The mDNS announcement `_nvstream._tcp`, by which clients find the host without being told.
//!
//! It runs on threads of its own and knows nothing of the rest. It announces a host name of its own,
//! so that it does not quarrel with the machine's mDNS responder over the machine's name.
//! Source: moonlight-qt app/backend/computermanager.cpp (service type; the TXT record is not read).
use std::time::Duration;

use mdns_sd::{ServiceDaemon, ServiceInfo};

const SERVICE: &str = "_nvstream._tcp.local.";
/// How long taking the announcement back may take.
const GOODBYE: Duration = Duration::from_millis(500);
/// A DNS label, bytes.
const LABEL_MAX: usize = 63;

/// The running announcement. Dropping it takes it back.
pub struct Announcement {
    daemon: ServiceDaemon,
    name: String,
}

impl Announcement {
    /// Announces `host_name` with its HTTP port on every interface.
    ///
    /// # Errors
    /// A reason for the log: the host works without, clients then have to be given its address.
    pub fn start(host_name: &str, http_port: u16) -> Result<Self, String> {
        let daemon = ServiceDaemon::new().map_err(|e| e.to_string())?;
        let target = format!("{}.local.", label(host_name));
        let none: &[(&str, &str)] = &[];
        let info = ServiceInfo::new(SERVICE, &instance(host_name), &target, "", http_port, none)
            .map_err(|e| e.to_string())?
            .enable_addr_auto();
        let name = info.get_fullname().to_owned();
        daemon.register(info).map_err(|e| e.to_string())?;
        Ok(Self { daemon, name })
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        if let Ok(done) = self.daemon.unregister(&self.name) {
            let _ = done.recv_timeout(GOODBYE);
        }
        if let Ok(done) = self.daemon.shutdown() {
            let _ = done.recv_timeout(GOODBYE);
        }
    }
}

/// The name as users see it: any text, cut to what a label holds.
fn instance(host_name: &str) -> String {
    let mut end = host_name.len().min(LABEL_MAX);
    while !host_name.is_char_boundary(end) {
        end -= 1;
    }
    host_name[..end].to_owned()
}

/// A host name made of it: letters, digits and hyphens.
fn label(host_name: &str) -> String {
    const SUFFIX: &str = "-moonshard";
    let safe = host_name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
    let safe: String = safe.take(LABEL_MAX - SUFFIX.len()).collect();
    let safe = safe.trim_matches('-').to_ascii_lowercase();
    if safe.is_empty() { format!("host{SUFFIX}") } else { safe + SUFFIX }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_labels() {
        assert_eq!(label("Game Box"), "game-box-moonshard");
        assert_eq!(label("日本"), "host-moonshard");
        assert_eq!(label(&"x".repeat(200)).len(), LABEL_MAX);
        assert_eq!(instance(&"日".repeat(40)).len(), LABEL_MAX);
        assert_eq!(instance("Box"), "Box");
    }
}
