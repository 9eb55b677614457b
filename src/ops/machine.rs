//! Facts about this machine: its name, addresses, cores, who we are, which programs exist.
#![expect(unsafe_code, reason = "getifaddrs has no safe wrapper here")]
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use crate::config::Surroundings;

/// What the configuration's defaults depend on.
pub fn surroundings() -> Surroundings {
    let path = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    Surroundings {
        root: is_root(),
        home: path("HOME"),
        state_home: path("XDG_STATE_HOME"),
        runtime_home: path("XDG_RUNTIME_DIR"),
        host_name: host_name(),
        cores: cores(),
    }
}

/// The effective user is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The machine's own name.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The cores that this process may use, ascending.
pub fn cores() -> Vec<usize> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else { return vec![0] };
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
}

/// Where `program` is in PATH, if it is there and may be run.
pub fn program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| {
        file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
    })
}

/// The addresses under which others can reach this machine: of interfaces that are up, without
/// loopback and link-local ones, IPv4 first.
pub fn addresses() -> Vec<IpAddr> {
    let mut first = std::ptr::null_mut();
    // SAFETY: `first` is a valid place for the list's head; the list is freed below.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut entry = first;
    // SAFETY: the list and what it points to live until freeifaddrs; each address is read as the
    // structure that its family says it is.
    while let Some(interface) = unsafe { entry.as_ref() } {
        entry = interface.ifa_next;
        let up = interface.ifa_flags & (libc::IFF_UP as u32) != 0;
        let loopback = interface.ifa_flags & (libc::IFF_LOOPBACK as u32) != 0;
        if !up || loopback || interface.ifa_addr.is_null() {
            continue;
        }
        // SAFETY: as above.
        let address = unsafe {
            match i32::from((*interface.ifa_addr).sa_family) {
                libc::AF_INET => {
                    let v4 = interface.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned();
                    IpAddr::V4(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)))
                }
                libc::AF_INET6 => {
                    let v6 = interface.ifa_addr.cast::<libc::sockaddr_in6>().read_unaligned();
                    IpAddr::V6(Ipv6Addr::from(v6.sin6_addr.s6_addr))
                }
                _ => continue,
            }
        };
        if reachable(address) {
            found.push(address);
        }
    }
    // SAFETY: `first` came from getifaddrs and is not used after.
    unsafe { libc::freeifaddrs(first) };
    found.sort();
    found.dedup();
    found
}

fn reachable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_others_can_reach_are_shown() {
        for (text, expected) in [
            ("192.168.1.2", true),
            ("127.0.0.1", false),
            ("169.254.3.4", false),
            ("::1", false),
            ("fe80::1", false),
            ("fd00::1", true),
        ] {
            assert_eq!(reachable(text.parse().unwrap()), expected, "{text}");
        }
        assert!(addresses().into_iter().all(reachable));
    }

    #[test]
    fn programs_are_found_in_the_path_only() {
        assert!(program("sh").is_some());
        assert!(program("no-such-program-here").is_none());
        assert!(!cores().is_empty());
    }
}
