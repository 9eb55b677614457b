//! Facts about the machine that requests only read: the addresses of its interfaces and their MACs.
#![expect(unsafe_code, reason = "getifaddrs hands out a linked list in C")]
use std::collections::BTreeMap;
use std::net::IpAddr;

/// (address of ours, MAC of its interface), in the system's order. Empty if the system does not tell.
pub fn macs() -> Vec<(IpAddr, [u8; 6])> {
    let mut first: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: `first` is valid for writing; on success it owns a list that is freed below.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        let error = std::io::Error::last_os_error();
        tracing::warn!(%error, "the interfaces' addresses cannot be found");
        return Vec::new();
    }
    let (mut addresses, mut macs) = (Vec::new(), BTreeMap::new());
    let mut entry = first;
    // SAFETY: entries are valid until freeifaddrs; null ends the list.
    while let Some(interface) = unsafe { entry.as_ref() } {
        entry = interface.ifa_next;
        if interface.ifa_name.is_null() || interface.ifa_addr.is_null() {
            continue;
        }
        // SAFETY: a C string that lives as long as the list.
        let name = unsafe { std::ffi::CStr::from_ptr(interface.ifa_name) }.to_owned();
        // SAFETY: not null; every socket address begins with its family.
        match i32::from(unsafe { (*interface.ifa_addr).sa_family }) {
            libc::AF_INET => {
                // SAFETY: the family says what it is.
                let address = unsafe { &*interface.ifa_addr.cast::<libc::sockaddr_in>() };
                let octets = address.sin_addr.s_addr.to_ne_bytes();
                addresses.push((name, IpAddr::from(octets)));
            }
            libc::AF_INET6 => {
                // SAFETY: the family says what it is.
                let address = unsafe { &*interface.ifa_addr.cast::<libc::sockaddr_in6>() };
                addresses.push((name, IpAddr::from(address.sin6_addr.s6_addr)));
            }
            libc::AF_PACKET => {
                // SAFETY: the family says what it is.
                let address = unsafe { &*interface.ifa_addr.cast::<libc::sockaddr_ll>() };
                if address.sll_halen == 6 {
                    let [a, b, c, d, e, f, ..] = address.sll_addr;
                    macs.insert(name, [a, b, c, d, e, f]);
                }
            }
            _ => {}
        }
    }
    // SAFETY: the list that getifaddrs gave, freed once.
    unsafe { libc::freeifaddrs(first) };
    let with_mac = addresses.into_iter().filter_map(|(name, ip)| Some((ip, *macs.get(&name)?)));
    with_mac.filter(|(_, mac)| *mac != [0; 6]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_interface_without_a_mac_is_listed() {
        let found = macs();
        assert!(found.iter().all(|(ip, mac)| !ip.is_loopback() && *mac != [0; 6]));
        // The kernel tells the same ones by another way.
        let interfaces = std::fs::read_dir("/sys/class/net").unwrap().flatten();
        let told: Vec<String> = interfaces
            .filter_map(|interface| std::fs::read_to_string(interface.path().join("address")).ok())
            .map(|text| text.trim().to_owned())
            .collect();
        for (ip, mac) in found {
            let text: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(told.contains(&text.join(":")), "{ip} has {mac:?}; the kernel knows {told:?}");
        }
    }
}
