//! The TCP sockets of the host's ports by state, from the kernel's own tables: those that wait in
//! CLOSE_WAIT are connections that the peer has ended and this host has not.
use std::collections::BTreeMap;
use std::fmt::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};

use prometheus_client::encoding::DescriptorEncoder;

use super::text::family;
use crate::config::Ports;

/// In the order of the kernel's numbers, from 1. Source: Linux include/net/tcp_states.h.
const STATES: [&str; 12] = [
    "established",
    "syn_sent",
    "syn_recv",
    "fin_wait1",
    "fin_wait2",
    "time_wait",
    "close",
    "close_wait",
    "last_ack",
    "listen",
    "closing",
    "new_syn_recv",
];
/// Of one table no more is read, bytes: some 400,000 sockets.
const TABLE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// (index of the service, index of the state) and how many there are.
type Counts = BTreeMap<(usize, usize), u64>;

pub fn encode(e: &mut DescriptorEncoder<'_>, ports: &Ports) -> Result<(), Error> {
    let services = [("https", ports.https), ("http", ports.http), ("rtsp", ports.rtsp)];
    let counts = read(&services.map(|(_, port)| port));
    let values = counts.iter().flat_map(|counts| {
        let all = services.iter().enumerate().flat_map(|(s, (service, _))| {
            STATES.iter().enumerate().map(move |(n, state)| (s, n, *service, *state))
        });
        all.map(|(s, n, service, state)| {
            let labels = vec![("service", service.to_owned()), ("state", state.to_owned())];
            (labels, counts.get(&(s, n)).copied().unwrap_or(0) as f64)
        })
    });
    family(e, "sockets", "TCP sockets of the host's ports by state", false, values)?;
    let overflows = overflows().map(|n| (vec![], n));
    let meaning = "Connections that the kernel refused because a listener's queue was full";
    family(e, "listen_overflows", meaning, true, overflows)
}

/// None: there is no table to read.
fn read(ports: &[u16]) -> Option<Counts> {
    let mut counts = Counts::new();
    let v4 = count("/proc/net/tcp", ports, &mut counts);
    let v6 = count("/proc/net/tcp6", ports, &mut counts);
    (v4 || v6).then_some(counts)
}

fn count(path: &str, ports: &[u16], counts: &mut Counts) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let mut lines = BufReader::new(file.take(TABLE_BYTES_MAX));
    let mut line = String::new();
    while matches!(lines.read_line(&mut line), Ok(1..)) {
        if let Some(place) = place(&line, ports) {
            *counts.entry(place).or_default() += 1;
        }
        line.clear();
    }
    true
}

/// Which service and state a line of the table is, see proc_pid_net(5).
fn place(line: &str, ports: &[u16]) -> Option<(usize, usize)> {
    let mut columns = line.split_ascii_whitespace();
    let (_, port) = columns.nth(1)?.rsplit_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let service = ports.iter().position(|own| *own == port)?;
    let state = usize::from_str_radix(columns.nth(1)?, 16).ok()?;
    (1..=STATES.len()).contains(&state).then(|| (service, state - 1))
}

/// Of the whole network namespace, since the machine started.
fn overflows() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/net/netstat").ok()?;
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names.split(' ').position(|name| name == "ListenOverflows")?;
    values.split(' ').nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_that_only_its_peer_has_ended_is_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ports = [listener.local_addr().unwrap().port()];
        let state = |name: &str| STATES.iter().position(|state| *state == name).unwrap();
        let count = |name: &str| read(&ports).unwrap().get(&(0, state(name))).copied();
        assert_eq!((count("listen"), count("established")), (Some(1), None));
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (own, _) = listener.accept().unwrap();
        assert_eq!(count("established"), Some(1));
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        // The peer's FIN travels by itself.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while count("close_wait") != Some(1) {
            assert!(std::time::Instant::now() < deadline);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        drop(own);
    }

    #[test]
    fn a_damaged_line_counts_nothing() {
        let line = "   0: 0100007F:BB70 00000000:0000 08 00000000:00000000 00:00000000 00000000";
        assert_eq!(place(line, &[1, 0xBB70]), Some((1, 7)));
        assert!((0..line.len()).all(|end| place(&line[..end], &[1]).is_none()));
        assert_eq!(place(&line.replace(" 08 ", " 00 "), &[0xBB70]), None);
        assert_eq!(place(&line.replace(" 08 ", " FF "), &[0xBB70]), None);
    }
}
