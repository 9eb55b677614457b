//! What the pure ring costs per message and per packet, with the recorded vectors as its input, and the
//! parity code beside the crate that others use.
//!
//! Wall time on whatever else the machine does: compare lines of one run only.
use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use moonshard::proto::control::{Direction, Message, OpenWindow, Version, open, seal};
use moonshard::proto::crypto::GcmKey;
use moonshard::proto::fec::{Geometry, Kernel, Matrix};
use moonshard::proto::http::Head;
use moonshard::proto::input::InputEvent;
use moonshard::proto::pairing::PairRequest;
use moonshard::proto::rtsp::{self, Frame, Framer, Request};
use moonshard::proto::sdp::{AnnounceContext, encryption, parse_announce};
use moonshard::proto::secret::SessionKey;
use moonshard::proto::stream::CodecSupport;
use moonshard::proto::{enet, hex};
use reed_solomon_erasure::galois_8::ReedSolomon;
use serde_json::Value;

/// Bytes of a sealed video packet of the usual size.
const SHARD_BYTES: usize = 1376;
/// Data and parity packets: frames of 7 to 208 kB at 20 %, and the largest block.
const SHAPES: [(usize, usize); 5] = [(5, 2), (10, 2), (50, 10), (156, 32), (212, 43)];

fn load(name: &str) -> Value {
    let path = format!("{}/../../tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).expect("a vector")).expect("JSON")
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().expect("text")).expect("hexadecimal")
}

fn http(c: &mut Criterion) {
    let mut group = c.benchmark_group("http");
    let target = load("pairing-01-qt-sha256")["phases"][0]["request_target"].clone();
    let pair = format!("GET {} HTTP/1.1\r\nHost: h\r\n\r\n", target.as_str().expect("text"));
    let poll = "GET /serverinfo?uniqueid=0123456789ABCDEF&uuid=5ac9f1fb2014d3fe8c11abf531c37d62 \
                HTTP/1.1\r\nHost: 192.168.1.10:47984\r\nUser-Agent: Mozilla/5.0\r\n\r\n";
    for (name, text) in [("serverinfo", poll), ("getservercert", &pair)] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(BenchmarkId::new("head", name), |b| {
            b.iter(|| Head::parse(black_box(text.as_bytes())));
        });
    }
    let (request, _) = Head::parse(pair.as_bytes()).expect("a head").expect("all of it");
    group.bench_function("pair with a certificate", |b| {
        b.iter(|| PairRequest::parse(black_box(&request.query)));
    });
}

fn handshake(c: &mut Criterion) {
    let golden = load("rtsp-encrypted-local-stereo-hevc");
    let key = SessionKey(bytes(&golden["rikey"]).try_into().expect("16 bytes"));
    let exchanges = golden["exchanges"].as_array().expect("a list").iter();
    let mut announces = exchanges.map(|exchange| &exchange["request"]);
    let announce = announces
        .find(|r| r["plaintext"].as_str().is_some_and(|text| text.starts_with("ANNOUNCE")))
        .expect("one of them announces");
    let (wire, plain) = (bytes(&announce["wire"]), announce["plaintext"].as_str().expect("text"));
    let mut group = c.benchmark_group("rtsp");
    group.throughput(Throughput::Bytes(wire.len() as u64));
    group.bench_function("frame and open an ANNOUNCE", |b| {
        b.iter(|| {
            let Ok(Some(Frame::Sealed(frame))) = Framer::new().push(black_box(&wire)) else {
                panic!("a whole sealed message")
            };
            rtsp::open(&key, &frame, rtsp::Direction::ClientToHost)
        });
    });
    group.bench_function("parse an ANNOUNCE", |b| {
        b.iter(|| Request::parse(black_box(plain.as_bytes())));
    });
    let request = Request::parse(plain.as_bytes()).expect("a request");
    let codecs = CodecSupport { h264: true, hevc: true, av1: true, extra_bits: 0 };
    let context = AnnounceContext {
        codecs: &codecs,
        encryption_supported: encryption::ALL,
        encryption_required: 0,
        fec_percent: 20,
        surround: None,
    };
    group.bench_function("settle its SDP", |b| {
        b.iter(|| parse_announce(black_box(&request.body), "192.168.1.10", &context));
    });
}

fn control(c: &mut Criterion) {
    let mut group = c.benchmark_group("control");
    let key = SessionKey([7; 16]);
    let click = InputEvent::MouseRelative { dx: 3, dy: -4 }.write();
    let inner = Message::Input(&click).write();
    for version in [Version::V1, Version::V2] {
        let packet = seal(&key, version, Direction::ClientToHost, 1, &inner);
        group.bench_function(BenchmarkId::new("seal", format!("{version:?}")), |b| {
            b.iter(|| seal(&key, version, Direction::ClientToHost, 1, black_box(&inner)));
        });
        group.bench_function(BenchmarkId::new("open", format!("{version:?}")), |b| {
            b.iter(|| open(&key, version, Direction::ClientToHost, black_box(&packet)));
        });
    }
    let packet = seal(&key, Version::V2, Direction::ClientToHost, 1, &inner);
    group.bench_function("open once, refuse the repetition", |b| {
        let window = || OpenWindow::new(key.clone(), Version::V2, Direction::ClientToHost);
        b.iter_with_setup(window, |mut window| (window.open(&packet), window.open(&packet)));
    });
    let datagram = enet::unsequenced(0x5A5, 1, 1, &packet);
    group.bench_function("look at an ENet datagram and rewrite it", |b| {
        let mut datagram = datagram.clone();
        b.iter(|| {
            let datagram = black_box(&mut datagram);
            let peek = enet::peek(datagram);
            let is_whole = enet::is_whole(datagram);
            let there = enet::rewrite_incoming(datagram, 0x5A5, 0);
            (peek, is_whole, there, enet::rewrite_incoming(datagram, 0, 0x5A5))
        });
    });
}

fn input(c: &mut Criterion) {
    let golden = load("input_packets");
    let packets = golden["packets"].as_array().expect("a list").iter();
    let packets: Vec<Vec<u8>> = packets.map(|packet| bytes(&packet["packet"])).collect();
    let mut group = c.benchmark_group("input");
    group.throughput(Throughput::Elements(packets.len() as u64));
    group.bench_function("parse every kind of event", |b| {
        b.iter(|| {
            for packet in &packets {
                _ = black_box(InputEvent::parse(black_box(packet)));
            }
        });
    });
}

fn seal_packets(c: &mut Criterion) {
    let mut group = c.benchmark_group("seal");
    let key = GcmKey::new(&SessionKey([0x5A; 16]));
    for length in [320, SHARD_BYTES] {
        let mut packet = vec![0xA5; length];
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(BenchmarkId::from_parameter(length), |b| {
            b.iter(|| key.seal_in_place([9; 12], black_box(&mut packet)));
        });
    }
}

fn fec(c: &mut Criterion) {
    let mut group = c.benchmark_group("parity");
    for (data, parity) in SHAPES {
        let shape = format!("{data}+{parity}");
        group.throughput(Throughput::Bytes((data * SHARD_BYTES) as u64));
        let mut block: Vec<u8> =
            (0..(data + parity) * SHARD_BYTES).map(|i| (i * 7) as u8).collect();
        let (matrix, kernel) = (Matrix::cauchy(parity), Kernel::best());
        let geometry = Geometry { data, stride: SHARD_BYTES, offset: 0, len: SHARD_BYTES };
        group.bench_function(BenchmarkId::new("moonshard", &shape), |b| {
            b.iter(|| matrix.encode(kernel, black_box(&mut block), geometry));
        });
        let code = ReedSolomon::new(data, parity).expect("a code");
        group.bench_function(BenchmarkId::new("reed-solomon-erasure", &shape), |b| {
            let mut shards: Vec<&mut [u8]> = block.chunks_exact_mut(SHARD_BYTES).collect();
            b.iter(|| code.encode(black_box(&mut shards)));
        });
    }
}

fn short() -> Criterion {
    let (warm_up, measured) = (Duration::from_millis(200), Duration::from_millis(800));
    Criterion::default().warm_up_time(warm_up).measurement_time(measured).sample_size(30)
}

criterion_group! {
    name = wire;
    config = short();
    targets = http, handshake, control, input, seal_packets, fec
}
criterion_main!(wire);
