//! The whole way from an encoded frame to the kernel: packetize, parity, encryption, segmented send
//! over loopback. Gigabits of video per second of the sending thread's own CPU time.
//!
//! With GRO the receiver takes bursts whole, as a network card that segments by itself would;
//! without it the kernel cuts every burst in software, on the sender's account.
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use moonshard::net::{MediaSocket, Traffic, now};
use moonshard::proto::secret::SessionKey;
use moonshard::proto::video::{Frame, FrameKind, Packetizer, Parameters};
use rustix::time::{ClockId, clock_gettime};

const MEASURED: Duration = Duration::from_secs(2);

fn main() {
    // 20 Mbit/s and 100 Mbit/s at 60 frames per second; in between a block of 50 + 10 packets.
    for bytes in [41_667, 67_000, 208_333] {
        for gro in [false, true] {
            measure(bytes, gro);
        }
    }
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn measure(frame_bytes: usize, gro: bool) {
    let receiver = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    receiver.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
    if gro {
        let on: libc::c_int = 1;
        // SAFETY: the option's value is an int that outlives the call.
        let result = unsafe {
            let (value, len) = (std::ptr::from_ref(&on).cast(), size_of::<libc::c_int>() as _);
            libc::setsockopt(receiver.as_raw_fd(), libc::SOL_UDP, libc::UDP_GRO, value, len)
        };
        assert_eq!(result, 0, "UDP_GRO");
    }
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.connect(receiver.local_addr().expect("bound")).expect("connected");
    let mut socket = MediaSocket::new(socket.into(), Traffic::Video, false);
    let is_over = AtomicBool::new(false);
    let (sent, received, cpu) = thread::scope(|scope| {
        let receiving = scope.spawn(|| {
            let (mut bytes, mut received) = (vec![0; 65_536], 0);
            while !is_over.load(Ordering::Relaxed) {
                received += receiver.recv(&mut bytes).unwrap_or(0);
            }
            received
        });
        let (frames, cpu) = send_frames(&mut socket, frame_bytes);
        is_over.store(true, Ordering::Relaxed);
        (frames * frame_bytes, receiving.join().expect("no panic"), cpu)
    });
    let statistics = socket.statistics();
    let rate = sent as f64 * 8.0 / cpu.as_secs_f64() / 1e9;
    let taken = 100.0 * received as f64 / statistics.bytes as f64;
    println!(
        "{frame_bytes} B frames, FEC 20 %, sealed, GRO {gro}: {rate:.1} Gbit/s per core, \
         {:.0} ns/datagram; receiver took {taken:.0} %",
        cpu.as_nanos() as f64 / statistics.datagrams as f64
    );
}

/// Sends frames back to back; how many, and the CPU time that they took.
fn send_frames(socket: &mut MediaSocket, frame_bytes: usize) -> (usize, Duration) {
    let mut packetizer = Packetizer::new(&Parameters {
        packet_size: 1360,
        fec_percent: 20,
        fec_packets_min: 2,
        key: Some(SessionKey([0x5A; 16])),
    });
    let body: Vec<u8> = (0..frame_bytes).map(|i| (i * 31) as u8).collect();
    let (mut out, mut counter, mut index) = (Vec::new(), 0, 0);
    let (start, cpu) = (Instant::now(), cpu_time());
    while start.elapsed() < MEASURED {
        index += 1;
        let frame = Frame {
            index,
            kind: FrameKind::Predicted,
            timestamp: index * 1500,
            latency: 10,
            long_term_reference: false,
            head: &[],
            body: &body,
        };
        let packets = packetizer.packetize(&frame, counter, &mut out).expect("it fits");
        counter += packets as u64;
        let deadline = now() + Duration::from_millis(100);
        let sent = socket.send_burst(&out, packetizer.datagram_bytes(), deadline);
        assert_eq!(sent.expect("no error"), packets);
    }
    (index as usize, cpu_time() - cpu)
}
