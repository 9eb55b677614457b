//! Who holds a port, read from /proc: the kernel's socket tables and the fds of all processes.
use std::collections::BTreeMap;
use std::fmt;
use std::fs;

/// Kind of port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Tcp { "TCP" } else { "UDP" })
    }
}

/// A process that holds a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// None: another user's process, whose fds are hidden from us.
    pub pid: Option<u32>,
    /// As in the process list.
    pub name: String,
    /// Its user.
    pub uid: u32,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "{} (pid {pid})", self.name),
            None => write!(f, "a process of user {}", self.uid),
        }
    }
}

/// A socket that holds a port: its inode and the user that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Socket {
    inode: u64,
    uid: u32,
}

/// The processes that listen (TCP) or have an unconnected socket (UDP) on `port`, one entry for each
/// socket; of several processes that share it, a supervisor is named first, then the oldest.
pub fn holders(protocol: Protocol, port: u16) -> Vec<Holder> {
    let tables = match protocol {
        Protocol::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        Protocol::Udp => ["/proc/net/udp", "/proc/net/udp6"],
    };
    let sockets: BTreeMap<u64, u32> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| unconnected(&table, protocol, port))
        .map(|socket| (socket.inode, socket.uid))
        .collect();
    if sockets.is_empty() {
        return Vec::new();
    }
    let mut owners: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for pid in pids() {
        for inode in socket_inodes(pid) {
            if sockets.contains_key(&inode) {
                owners.entry(inode).or_default().push(pid);
            }
        }
    }
    let mut holders: Vec<Holder> = sockets
        .iter()
        .map(|(inode, uid)| {
            let pids = owners.get(inode).map(Vec::as_slice).unwrap_or_default();
            let pid = pids
                .iter()
                .find(|pid| name(**pid) == "moonshard serve")
                .or_else(|| pids.iter().min())
                .copied();
            Holder { pid, name: pid.map(name).unwrap_or_default(), uid: *uid }
        })
        .collect();
    holders.sort();
    holders.dedup();
    holders
}

/// The sockets on `port` in one of the kernel's tables (proc_pid_net(5)) that have no peer.
fn unconnected(table: &str, protocol: Protocol, port: u16) -> Vec<Socket> {
    // States: 0A is LISTEN; 07 is CLOSE, which for UDP means "not connected".
    let state = if protocol == Protocol::Tcp { "0A" } else { "07" };
    let on_port = |line: &str| {
        let mut columns = line.split_ascii_whitespace();
        let (_, local_port) = columns.nth(1)?.rsplit_once(':')?;
        let right = u16::from_str_radix(local_port, 16) == Ok(port) && columns.nth(1)? == state;
        let uid = columns.nth(3)?.parse().ok()?;
        let inode = columns.nth(1)?.parse().ok()?;
        right.then_some(Socket { inode, uid })
    };
    table.lines().skip(1).filter_map(on_port).collect()
}

/// All processes.
pub fn pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn socket_inodes(pid: u32) -> Vec<u64> {
    let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    fds.flatten()
        .filter_map(|fd| {
            let target = fs::read_link(fd.path()).ok()?;
            target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
        })
        .collect()
}

/// How people know a process: its program and, for ours, its kind.
pub fn name(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let program = words.next().unwrap_or_default();
    let program = program.rsplit('/').next().unwrap_or_default();
    match (program, words.next()) {
        ("moonshard", Some(kind)) if !kind.is_empty() => format!("moonshard {kind}"),
        ("", _) => fs::read_to_string(format!("/proc/{pid}/comm"))
            .map_or_else(|_| "a process".to_owned(), |comm| comm.trim().to_owned()),
        _ => program.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    #[test]
    fn the_holder_of_a_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = holders(Protocol::Tcp, port);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].pid, Some(std::process::id()));
        let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let client_port = connection.local_addr().unwrap().port();
        assert_eq!(holders(Protocol::Tcp, client_port), [], "a connection holds no port");
    }

    #[test]
    fn a_connected_datagram_socket_does_not_count() {
        let socket =
            UdpSocket::bind("[::1]:0").or_else(|_| UdpSocket::bind("127.0.0.1:0")).unwrap();
        let address = socket.local_addr().unwrap();
        assert_eq!(holders(Protocol::Udp, address.port()).len(), 1);
        socket.connect(address).unwrap();
        assert_eq!(holders(Protocol::Udp, address.port()), []);
    }

    #[test]
    fn a_damaged_table_names_nobody() {
        let line = "  0: 0100007F:BB70 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 77 1";
        let table = format!("head\n{line}\n");
        let found = unconnected(&table, Protocol::Tcp, 0xBB70);
        assert_eq!(found, [Socket { inode: 77, uid: 1000 }]);
        for end in 0..table.len() {
            let _ = unconnected(&table[..end], Protocol::Tcp, 0xBB70);
        }
    }
}
