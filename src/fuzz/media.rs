//! The media flows: pings to the host, and both ends of the video and audio streams.
//!
//! The receivers belong to the test client, so what they take from a hostile host matters less; but they
//! judge the packetizers, and must not be fooled.
use super::{RTSP_KEY, records};
use crate::proto::audio::{
    AudioEvent, AudioPacketizer, AudioParameters, AudioReceiver, BLOCK_PACKETS, DATAGRAM_BYTES_MAX,
    Encryption,
};
use crate::proto::crypto::GcmKey;
use crate::proto::fec::{BLOCK_SHARDS_MAX, Geometry, Kernel, Matrix};
use crate::proto::ping::Ping;
use crate::proto::reader::Reader;
use crate::proto::stream::Codec;
use crate::proto::video::{
    self, Event, Frame, FrameKind, Layout, Packetizer, Parameters, Receiver, ReceiverParameters,
};
use crate::time::Time;

/// A datagram of the video or audio port.
pub fn ping(datagram: &[u8]) {
    let Some(ping) = Ping::parse(datagram) else { return };
    assert!(datagram.starts_with(&ping.write()));
    assert_eq!(Ping::parse(&ping.write()), Some(ping));
}

const CODECS: [Codec; 3] = [Codec::H264, Codec::Hevc, Codec::Av1];

/// A byte of settings (bits 0 and 1 packet size, 2 and 3 codec, 4 encryption, 5 invalidation), then
/// datagrams. Encrypted, every second one is sealed here first.
pub fn video_receive(bytes: &[u8]) {
    let Some((settings, rest)) = bytes.split_first() else { return };
    let packet_size = [64, 128, 1024, 1392][usize::from(settings & 3)];
    let is_encrypted = settings & 0x10 != 0;
    let mut receiver = Receiver::new(&ReceiverParameters {
        packet_size,
        codec: CODECS[usize::from(settings >> 2 & 3).min(2)],
        key: is_encrypted.then_some(RTSP_KEY),
        invalidation: settings & 0x20 != 0,
    });
    let key = GcmKey::new(&RTSP_KEY);
    let frame_bytes_max = video::DATA_PACKETS_MAX * usize::from(packet_size);
    for (n, record) in records(rest).enumerate() {
        let sealed = is_encrypted && n % 2 == 1;
        let datagram = if sealed { seal(&key, n as u64, record) } else { record.to_vec() };
        let before = receiver.statistics();
        let events = receiver.push(&datagram, Time::from_millis(n as u64));
        assert!(events.len() <= 8, "{events:?}");
        for event in events {
            match event {
                Event::Frame(frame) => assert!(frame.bytes.len() <= frame_bytes_max),
                Event::Lost { first, last } => {
                    assert!(last.wrapping_sub(first).cast_signed() >= 0, "{first} to {last}");
                }
                Event::FirstPacket | Event::Discarded { .. } | Event::Request(_) => {}
            }
        }
        let after = receiver.statistics();
        assert_eq!(after.datagrams, before.datagrams + 1);
        assert_eq!(after.bytes, before.bytes + datagram.len() as u64);
    }
}

/// As the host seals a packet, with the frame index that the packet says.
fn seal(key: &GcmKey, counter: u64, packet: &[u8]) -> Vec<u8> {
    let mut iv = [0; 12];
    iv[..8].copy_from_slice(&counter.to_le_bytes());
    let frame = packet.get(20..24).unwrap_or_default();
    let mut frame_in_clear = [0; 4];
    frame_in_clear[..frame.len()].copy_from_slice(frame);
    [&iv[..], &frame_in_clear, &key.seal(iv, packet)].concat()
}

/// Settings (packet size, parity percentage, least parity, encryption), a seed of losses, an access unit.
pub fn video_send(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    let (Ok([size, percent, least, settings]), Ok(seed)) = (reader.array(), reader.u32be()) else {
        return;
    };
    let access_unit = reader.rest();
    bitstream(access_unit);
    layouts(seed as usize % (video::DATA_PACKETS_MAX + 2), percent, least);

    let packet_size = [48, 64, 208, 1392][usize::from(size & 3)];
    let key = (settings & 1 != 0).then_some(RTSP_KEY);
    let parameters =
        Parameters { packet_size, fec_percent: percent, fec_packets_min: least, key: key.clone() };
    let mut packetizer = Packetizer::new(&parameters);
    let head = &access_unit[..access_unit.len().min(usize::from(settings >> 1))];
    let frame = Frame {
        index: 1,
        kind: FrameKind::Idr,
        timestamp: seed,
        latency: 5,
        long_term_reference: settings & 2 != 0,
        head,
        body: &access_unit[head.len()..],
    };
    let mut out = Vec::new();
    let Ok(packets) = packetizer.packetize(&frame, 32_000, &mut out) else {
        assert!(access_unit.len() > video::DATA_PACKETS_MAX * usize::from(packet_size - 16) - 9);
        return;
    };
    let layout = packetizer.layout(access_unit.len()).expect("it was cut just now");
    assert_eq!(layout.packets(), packets);
    assert_eq!(out.len(), packets * packetizer.datagram_bytes());

    let mut receiver = Receiver::new(&ReceiverParameters {
        packet_size,
        codec: Codec::Av1,
        key,
        invalidation: false,
    });
    let mut datagrams = out.chunks_exact(packetizer.datagram_bytes());
    let mut shown = Vec::new();
    for block in layout.blocks() {
        let mut lost = (seed as usize) % (block.parity + 1);
        for (i, datagram) in datagrams.by_ref().take(block.packets()).enumerate() {
            if lost > 0 && (seed >> (i % 32) & 1 == 1 || block.packets() - i == lost) {
                lost -= 1;
                continue;
            }
            shown.extend(receiver.push(datagram, Time::ZERO));
        }
    }
    let frames: Vec<_> = shown.iter().filter(|e| matches!(e, Event::Frame(_))).collect();
    let [Event::Frame(frame)] = frames[..] else { panic!("not one frame: {shown:?}") };
    assert!(frame.bytes == access_unit, "the frame is another");
    assert_eq!((frame.timestamp, frame.index), (seed, 1));
}

/// Any layout keeps to the bounds of its header fields and of the code.
fn layouts(data_packets: usize, percent: u8, least: u8) {
    if data_packets == 0 {
        return;
    }
    let Ok(layout) = Layout::new(data_packets, percent, least) else {
        assert!(data_packets > video::DATA_PACKETS_MAX);
        return;
    };
    assert_eq!(layout.data_packets(), data_packets);
    assert!(layout.packets() <= video::PACKETS_MAX && layout.blocks().len() <= 4);
    for block in layout.blocks() {
        assert!((1..=1023).contains(&block.data));
        assert_eq!(block.parity, (block.data * usize::from(block.percent)).div_ceil(100));
        assert!(block.parity == 0 || block.packets() <= BLOCK_SHARDS_MAX);
    }
}

/// What an encoder made, whatever it is: nothing but access unit delimiters and SEI is taken out.
fn bitstream(access_unit: &[u8]) {
    for codec in CODECS {
        let mut head = Vec::new();
        let rest = video::strip_leading_sei(codec, access_unit, &mut head);
        assert!(access_unit.ends_with(rest) && head.len() + rest.len() <= access_unit.len());
        let is_idr = video::is_idr(codec, access_unit);
        let stripped = [&head, rest].concat();
        assert_eq!(video::is_idr(codec, &stripped), is_idr, "{codec:?}");
        assert!(codec == Codec::Av1 || is_idr || !video::idr_fits(codec, access_unit, 1392));
    }
}

/// Data shards, parity shards, shard length, a seed of losses, then the data.
pub fn fec(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    let (Ok([data, parity, len, _]), Ok(seed)) = (reader.array(), reader.u32be()) else { return };
    let parity = usize::from(parity).clamp(1, 254);
    let data = usize::from(data).clamp(1, BLOCK_SHARDS_MAX - parity);
    let (len, stride) = (usize::from(len), usize::from(len) + 3);
    let geometry = Geometry { data, stride, offset: 1, len };
    let matrix = Matrix::cauchy(parity);
    let mut block = vec![0; (data + parity) * stride];
    let source = reader.rest();
    let filled = source.len().min(data * stride);
    block[..filled].copy_from_slice(&source[..filled]);
    let mut encoded: Option<Vec<u8>> = None;
    for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.is_available()) {
        let mut mine = block.clone();
        matrix.encode(kernel, &mut mine, geometry);
        assert!(encoded.as_ref().is_none_or(|other| *other == mine), "{kernel:?} differs");
        encoded = Some(mine);
    }
    let encoded = encoded.expect("the portable kernel is everywhere");
    let lost = seed as usize % (data + parity + 1);
    let first = (seed >> 8) as usize;
    let mut present = vec![true; data + parity];
    (0..lost).for_each(|i| present[(first + i) % (data + parity)] = false);
    let mut damaged = encoded.clone();
    for (shard, _) in present.iter().enumerate().filter(|(_, is_present)| !**is_present) {
        damaged[shard * stride + 1..][..len].fill(0xEE);
    }
    let result = matrix.reconstruct(Kernel::best(), &mut damaged, geometry, &present);
    assert!(result.is_ok() || lost > parity, "{lost} of {data} and {parity}");
    if result.is_ok() {
        assert!(damaged[..data * stride] == encoded[..data * stride], "restored to something else");
    }
}

fn audio_parameters(settings: u8) -> AudioParameters {
    let encryption = Encryption { key: RTSP_KEY, rikeyid: -7 };
    let packet_ms = if settings & 2 == 0 { 5 } else { 10 };
    AudioParameters { packet_ms, encryption: (settings & 1 != 0).then_some(encryption) }
}

/// A byte of settings (bit 0 encryption, bit 1 packets of 10 ms), then datagrams.
pub fn audio_receive(bytes: &[u8]) {
    let Some((settings, rest)) = bytes.split_first() else { return };
    let mut receiver = AudioReceiver::new(&audio_parameters(*settings));
    for (n, datagram) in records(rest).enumerate() {
        for event in receiver.push(datagram, Time::from_millis(n as u64)) {
            if let AudioEvent::Packet { opus, .. } = event {
                assert!(opus.len() < DATAGRAM_BYTES_MAX);
            }
        }
    }
    assert!(receiver.statistics().datagrams >= receiver.statistics().data);
}

/// Settings, which two packets of each block are lost, the packets' length, then Opus packets.
pub fn audio_send(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    let (Ok([settings, lost]), Ok(length)) = (reader.array(), reader.u16be()) else { return };
    let parameters = audio_parameters(settings);
    let mut packetizer = AudioPacketizer::new(&parameters, 65_532, u32::MAX - 20);
    let mut receiver = AudioReceiver::new(&parameters);
    let packets: Vec<&[u8]> = reader.rest().chunks_exact(usize::from(length).max(1)).collect();
    let whole = packets.len() - packets.len() % BLOCK_PACKETS;
    let (mut played, mut datagrams) = (Vec::new(), 0);
    for opus in &packets[..whole.min(64)] {
        let Ok(sent) = packetizer.push(opus) else {
            assert!(opus.len() > 1360, "every packet is as long as the others");
            return;
        };
        for datagram in sent {
            let at = datagrams % (BLOCK_PACKETS + 2);
            datagrams += 1;
            // The first packet of all is where a receiver begins.
            let is_lost = [lost & 7, lost >> 3 & 7].contains(&(at as u8)) && datagrams > 1;
            if !is_lost {
                played.extend(receiver.push(datagram, Time::ZERO));
            }
        }
    }
    let heard = played.iter().filter_map(|event| match event {
        AudioEvent::Packet { opus, .. } => Some(opus.as_slice()),
        AudioEvent::Lost { .. } => None,
    });
    assert!(heard.eq(packets[..whole.min(64)].iter().copied()), "{:?}", receiver.statistics());
}
