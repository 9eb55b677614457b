//! What it costs to turn encoded frames into datagrams: bytes of access unit per second and
//! nanoseconds per datagram, with and without encryption, and the FEC kernels alone.
//!
//! Wall time on whatever else the machine does: compare lines of one run only.
use std::hint::black_box;
use std::time::{Duration, Instant};

use moonshard::proto::audio::{AudioPacketizer, AudioParameters, Encryption};
use moonshard::proto::fec::{Geometry, Kernel, Matrix};
use moonshard::proto::secret::SessionKey;
use moonshard::proto::video::{Frame, FrameKind, Packetizer, Parameters};

/// How long each line is measured, after a tenth of it as warm-up.
const MEASURED: Duration = Duration::from_millis(500);

fn main() {
    for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.is_available()) {
        fec(kernel);
    }
    let key = SessionKey([0x5A; 16]);
    for (name, access_unit_bytes) in [("42 kB (20 Mbit/s)", 41_667), ("208 kB", 208_333)] {
        for fec_percent in [0, 20] {
            for key in [None, Some(key.clone())] {
                video(name, access_unit_bytes, fec_percent, key);
            }
        }
    }
    for key in [None, Some(key)] {
        audio(key);
    }
}

/// Mean time of one call.
fn time(mut call: impl FnMut()) -> Duration {
    let mut calls_in = |duration: Duration| {
        let start = Instant::now();
        let mut calls = 0;
        while start.elapsed() < duration {
            call();
            calls += 1;
        }
        start.elapsed() / calls
    };
    calls_in(MEASURED / 10);
    calls_in(MEASURED)
}

fn gigabits(bytes: usize, time: Duration) -> f64 {
    bytes as f64 * 8.0 / time.as_secs_f64() / 1e9
}

fn fec(kernel: Kernel) {
    let geometry = Geometry { data: 50, stride: 1408, offset: 0, len: 1408 };
    let matrix = Matrix::cauchy(10);
    let mut block: Vec<u8> = (0..60 * 1408).map(|i| (i * 7) as u8).collect();
    let each = time(|| matrix.encode(kernel, black_box(&mut block), geometry));
    let rate = gigabits(50 * 1408, each);
    println!(
        "fec 50+10 x 1408 {kernel:?}: {:.2} us/block, {rate:.1} Gbit/s",
        each.as_secs_f64() * 1e6
    );
}

fn video(name: &str, bytes: usize, fec_percent: u8, key: Option<SessionKey>) {
    let sealed = if key.is_some() { "sealed" } else { "plain" };
    let packet_size = if key.is_some() { 1360 } else { 1392 };
    let mut packetizer =
        Packetizer::new(&Parameters { packet_size, fec_percent, fec_packets_min: 2, key });
    let body: Vec<u8> = (0..bytes).map(|i| (i * 31) as u8).collect();
    let (mut out, mut counter, mut index) = (Vec::new(), 0, 0);
    let mut datagrams = 0;
    let each = time(|| {
        index += 1;
        let frame = Frame {
            index,
            kind: FrameKind::Predicted,
            timestamp: index * 1500,
            latency: 10,
            long_term_reference: false,
            head: &[],
            body: black_box(&body),
        };
        datagrams = packetizer.packetize(&frame, counter, &mut out).expect("it fits");
        counter += datagrams as u64;
        black_box(&out);
    });
    let nanos = each.as_nanos() as f64 / datagrams as f64;
    let rate = gigabits(bytes, each);
    println!(
        "video {name}, FEC {fec_percent} %, {sealed}: {nanos:.0} ns/datagram, {rate:.1} Gbit/s"
    );
}

fn audio(key: Option<SessionKey>) {
    let sealed = if key.is_some() { "sealed" } else { "plain" };
    let encryption = key.map(|key| Encryption { key, rikeyid: 1 });
    let mut packetizer = AudioPacketizer::new(&AudioParameters { packet_ms: 5, encryption }, 0, 0);
    let opus = [0xFC; 320];
    let each = time(|| {
        let sent = packetizer.push(black_box(&opus)).expect("it fits");
        black_box(sent.count());
    });
    println!("audio 320 B, {sealed}: {} ns/packet", each.as_nanos());
}
